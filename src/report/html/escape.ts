/** Text of others in HTML: whatever it holds stays text. */
import { printable } from "../../printable.ts";

const entities: Record<string, string> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };

/** For text and for quoted attributes; control and bidirectional characters are made visible. */
export const escape = (text: string): string => printable(text).replace(/[&<>"']/g, (char) => entities[char] ?? char);

/** At most so many characters, and how many are left out. */
export const clip = (text: string, most: number): string =>
  text.length <= most ? text : `${text.slice(0, most)} ... (${text.length - most} more characters)`;
