// Names of keys as browsers write them, and what an X server calls them: [keysym, code].

/** @type {Record<string, [number, string]>} */
export const KEYS = {
  Backspace: [0xff08, "Backspace"], Tab: [0xff09, "Tab"], Enter: [0xff0d, "Enter"], Escape: [0xff1b, "Escape"], Delete: [0xffff, "Delete"], Insert: [0xff63, "Insert"],
  Home: [0xff50, "Home"], ArrowLeft: [0xff51, "ArrowLeft"], ArrowUp: [0xff52, "ArrowUp"], ArrowRight: [0xff53, "ArrowRight"], ArrowDown: [0xff54, "ArrowDown"],
  PageUp: [0xff55, "PageUp"], PageDown: [0xff56, "PageDown"], End: [0xff57, "End"],
  Control: [0xffe3, "ControlLeft"], Alt: [0xffe9, "AltLeft"], Meta: [0xffeb, "MetaLeft"],
};
for (let at = 1; at <= 12; at++) KEYS[`F${at}`] = [0xffbe + at - 1, `F${at}`];

/** Press and let go. @param {{sendKey: (keysym: number, code: string, down: boolean) => void}} stream @param {string} name */
export function press(stream, name) {
  stream.sendKey(...KEYS[name], true);
  stream.sendKey(...KEYS[name], false);
}

/** Latin 1 is its own keysym; the rest of Unicode has a range. Line ends are keys. @param {string} character @returns {[number, string]} */
export function keyOf(character) {
  if (character === "\n" || character === "\r") return KEYS.Enter;
  if (character === "\t") return KEYS.Tab;
  const point = character.codePointAt(0);
  const isLatin = (point >= 0x20 && point <= 0x7e) || (point >= 0xa0 && point <= 0xff);
  return [isLatin ? point : 0x01000000 + point, ""];
}
