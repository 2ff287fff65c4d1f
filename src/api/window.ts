/** The terminal's last lines, drawn again and again below what is written for good. */

export interface Window {
  /** Writes text that stays (whole lines), through `write`, above the region. */
  above(write: () => void): void;
  /** Draws the region anew; `[]` takes it away. */
  draw(lines: readonly string[]): void;
}

/** `write` puts text on a terminal that knows ANSI's sequences. Lines are not wrapped, so each takes one row. */
export function createWindow(write: (text: string) => void): Window {
  let drawn: readonly string[] = [];
  const up = (): string => (drawn.length === 0 ? "" : `\u001b[${drawn.length}A\r\u001b[J`);
  const text = (lines: readonly string[]): string =>
    lines.length === 0 ? "" : `\u001b[?7l${lines.map((line) => `${line}\n`).join("")}\u001b[?7h`;
  return {
    above(writeText) {
      if (drawn.length === 0) return writeText();
      write(up());
      writeText();
      write(text(drawn));
    },
    draw(lines) {
      if (lines.length === 0 && drawn.length === 0) return;
      // 2026: terminals that know it show the change at once.
      write(`\u001b[?2026h${up()}${text(lines)}\u001b[?2026l`);
      drawn = lines;
    },
  };
}
