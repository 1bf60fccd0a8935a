/**
 * A page with nothing but the client in it; the test does the rest through `core`.
 */

import * as hub from "/client/hub-client.js";

const APP = "org.example.core";

globalThis.core = {
  hub,
  /** @type {any} */
  client: null,
  /** @type {any} */
  leader: null,
  /** What passed the line, by direction and message type. */
  seen: /** @type {Record<string, number>} */ ({}),
  closings: 0,
  phases: /** @type {string[]} */ ([]),
  /** What the page went through. */
  events: /** @type {string[]} */ ([]),

  /** Open this device's client and keep it. */
  async open(name = "core") {
    const storage = await hub.IndexedDbStorage.open(name);
    const tap = (what, message) => {
      if (what === "closed") core.closings += 1;
      else core.seen[`${what} ${message.type}`] = (core.seen[`${what} ${message.type}`] ?? 0) + 1;
    };
    core.client = await hub.HubClient.open({ storage, appId: APP, hubUrl: location.origin, tap });
    core.client.onStatus?.(({ phase }) => phase !== core.phases.at(-1) && core.phases.push(phase));
    return { signedIn: core.client.signedIn, hasKey: core.client.hasKey };
  },

  async request(address) {
    return (await core.client.requestCode(address)).phrase;
  },

  async enter(code, key) {
    await core.client.enrol(code);
    if (key) await core.client.importKey(key);
    else await core.client.createKey();
    core.client.start();
    return core.client.keyCode();
  },

  notes() {
    return core.client.collection("notes");
  },

  /** Stand for election; `led` counts how often this tab came to lead. */
  stand(name) {
    core.led = 0;
    core.lost = 0;
    core.leader = new hub.Leader(name, (signal) => {
      core.led += 1;
      signal.addEventListener("abort", () => (core.lost += 1));
    });
    core.leader.start();
  },
};

for (const name of ["freeze", "resume", "visibilitychange"]) {
  document.addEventListener(name, () => core.events.push(name === "visibilitychange" ? document.visibilityState : name));
}
for (const name of ["pagehide", "pageshow"]) {
  addEventListener(name, (event) => core.events.push(event.persisted ? `${name} persisted` : name));
}
document.documentElement.dataset.ready = "yes";
