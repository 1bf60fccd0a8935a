/**
 * The keys of the published spaces, for the tests.
 */

import { unhex } from "../src/bytes.js";
import { SpaceKeys } from "../src/keys.js";
import { vectors } from "./vectors.js";

/** @type {Uint8Array[]} */
export const [FIRST, SECOND] = vectors("crypto").space.map((/** @type {any} */ vector) => unhex(vector.app_key));
export const DERIVED = [await SpaceKeys.derive(FIRST), await SpaceKeys.derive(SECOND, 1, FIRST)];
