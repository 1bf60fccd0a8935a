/**
 * What the client's tests use of Node's other modules, for a page: reading the published files, and looking at values.
 */

/** The text of a file of the repository; a test must not notice that it came over the network. */
export function readFileSync(url) {
  const request = new XMLHttpRequest();
  request.open("GET", `/repository/${url.pathname.split("/").slice(-2).join("/")}`, false);
  request.send();
  if (request.status !== 200) throw new Error(`${url}: ${request.status}`);
  return request.responseText;
}

/** All that can be read of a value, hidden properties included. */
export function inspect(value) {
  const seen = new Set();
  const show = (inner) => {
    if (ArrayBuffer.isView(inner)) return `[${inner}]`;
    if (typeof inner !== "object" || inner === null || seen.has(inner)) return String(inner);
    seen.add(inner);
    return `{${Reflect.ownKeys(inner).map((key) => `${String(key)}: ${show(inner[key])}`)}}`;
  };
  return show(value);
}

/** Values that another window made. */
export function runInNewContext(text) {
  const asked = "[new Date(5), new Set([1]), new Map([[1, 2]]), { a: 1 }, [1], new Uint8Array([1]), /x/]";
  if (text !== asked) throw new Error(`the policy of this page lets nobody run: ${text}`);
  const there = document.body.appendChild(document.createElement("iframe")).contentWindow;
  const { Date, Set, Map, Object, Array, Uint8Array, RegExp } = there;
  const plain = Object.assign(new Object(), { a: 1 });
  return [new Date(5), new Set([1]), new Map([[1, 2]]), plain, Array.of(1), new Uint8Array([1]), new RegExp("x")];
}

const HEX = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");

globalThis.Buffer ??= class Buffer extends Uint8Array {
  static from(given) {
    return new this(typeof given === "string" ? new TextEncoder().encode(given) : given);
  }

  static compare(one, other) {
    const [left, right] = [HEX(one), HEX(other)];
    return left < right ? -1 : Number(left > right);
  }

  toString(form) {
    return form === "hex" ? HEX(this) : new TextDecoder().decode(this);
  }

  equals(other) {
    return this.length === other.length && this.every((byte, at) => byte === other[at]);
  }
};
globalThis.process ??= { env: {} };
