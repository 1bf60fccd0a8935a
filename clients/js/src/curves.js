/**
 * The elliptic curves, for what WebCrypto does not do: a room of its own, so that a page loads them only when they are
 * wanted, and of their library only these.
 */

export { ed25519, x25519 } from "@noble/curves/ed25519.js";
export { sha512 } from "@noble/hashes/sha2.js";
