// What `import { ok } from "QUnit"` means in Dexie's tests: QUnit's own names, and those it puts on the page.
module.exports = new Proxy(window.QUnit, {
  get: (QUnit, name) => (name in QUnit ? QUnit[name] : window[name]),
});
