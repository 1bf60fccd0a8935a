// The types of "sync-hub-client/dexie", and what the add-on adds to a Dexie database.

import type { Hub } from "./types/dexie/shell.js";

export * from "./types/dexie/index.js";

declare module "dexie" {
  interface Dexie {
    /** Sync; there when the database was made with `addons: [hub(...)]`. */
    hub: Hub;
  }
}
