/** What is not to be sent to a terminal: control characters, characters that reorder or hide text, lone surrogates. */
const unsafe = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu;

/** Escapes what others wrote (a kernel log, a file's name) for a terminal: `\x1b`, `\u202e`, `\u{e0041}`. */
export function printable(text: string): string {
  // The first use of a class such as \p{Cf} costs a short command half a millisecond.
  if (/^[ -~]*$/.test(text)) return text;
  return text.replace(unsafe, (char) => {
    const hex = (char.codePointAt(0) ?? 0).toString(16);
    if (hex.length <= 2) return `\\x${hex.padStart(2, "0")}`;
    return hex.length <= 4 ? `\\u${hex.padStart(4, "0")}` : `\\u{${hex}}`;
  });
}
