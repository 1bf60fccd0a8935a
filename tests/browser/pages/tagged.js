/**
 * Values in the notation of vectors/values.json, so that a page and a program in another language can tell each other
 * what they hold.
 */

const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
const unhex = (text) => Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16));
const ARRAYS = { Int16: Int16Array, Float64: Float64Array };

/** The value that a tagged one stands for. */
export function untagged(value) {
  if (Array.isArray(value)) return value.map(untagged);
  if (typeof value !== "object" || value === null) return value;
  const { $: tag, of } = value;
  if (tag === "float") return Number(of.replace("inf", "Infinity"));
  if (tag === "int") return BigInt(of);
  if (tag === "bytes") return unhex(of);
  if (tag === "time") return new Date(of);
  if (tag === "set") return new Set(of.map(untagged));
  if (tag === "map") return new Map(of.map((pair) => pair.map(untagged)));
  if (tag === "blob" && value.name) return new File([unhex(of)], value.name, { type: value.type });
  if (tag === "blob") return new Blob([unhex(of)], { type: value.type });
  if (tag === "array") return new ARRAYS[value.kind](unhex(of).buffer);
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, untagged(item)]));
}

/** A set has no order; the one of its items' text stands for any. */
const sorted = (items) => items.map((item) => JSON.stringify(item)).sort().map((text) => JSON.parse(text));

/** What stands for a value; of a Blob its bytes are read. */
export async function tagged(value) {
  const all = (items) => Promise.all(Array.from(items, tagged));
  if (typeof value === "bigint") return { $: "int", of: String(value) };
  if (typeof value === "number" && !Number.isFinite(value)) {
    return { $: "float", of: String(value).replace("Infinity", "inf").toLowerCase() };
  }
  if (typeof value !== "object" || value === null) return value;
  if (Array.isArray(value)) return all(value);
  if (value instanceof Date) return { $: "time", of: value.toISOString() };
  if (value instanceof Set) return { $: "set", of: sorted(await all(value)) };
  if (value instanceof Map) return { $: "map", of: await all(value) };
  if (value instanceof Blob) {
    const name = value instanceof File ? value.name : "";
    return { $: "blob", type: value.type, of: hex(new Uint8Array(await value.arrayBuffer())), name };
  }
  if (value instanceof Uint8Array) return { $: "bytes", of: hex(value) };
  if (ArrayBuffer.isView(value)) {
    const bytes = new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
    return { $: "array", kind: value.constructor.name.replace("Array", ""), of: hex(bytes) };
  }
  const entries = await Promise.all(Object.entries(value).map(async ([key, item]) => [key, await tagged(item)]));
  return Object.fromEntries(entries);
}
