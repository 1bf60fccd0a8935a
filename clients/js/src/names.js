/**
 * What a person calls their devices: a collection of each space that is reserved for it, sealed like everything.
 *
 * Key: the device id in 32 hex digits.  Value: `{ name, since }`, 1 to 64 characters and Unix seconds.
 */

export const DEVICES = "_devices";
export const NAME_CHARS_MAX = 64;

/**
 * The name without blanks around it.  Throws RangeError unless it has 1 to 64 characters.
 *
 * @param {string} text
 */
export function deviceName(text) {
  const name = text.trim();
  const { length } = [...name];
  if (length < 1 || length > NAME_CHARS_MAX) throw new RangeError(`a name has 1 to ${NAME_CHARS_MAX} characters`);
  return name;
}
