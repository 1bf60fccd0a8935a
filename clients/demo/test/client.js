/**
 * Lets modules that import from "/client/..." run in Node: the strategies are the client's own, Dexie is not needed.
 */

import { register } from "node:module";

const target = new URL("../../js/src/strategies.js", import.meta.url).href;
const hook = `export async function resolve(name, context, next) {
  return name === "/client/hub-dexie.js" ? { url: ${JSON.stringify(target)}, shortCircuit: true } : next(name, context);
}`;
register(`data:text/javascript,${encodeURIComponent(hook)}`);
