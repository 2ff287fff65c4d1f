import { type PrefixedLine, readFields } from "./prefix.ts";
import type { KmsgRecord } from "./types.ts";

// A line longer than this is no record: what follows is dropped up to the line's end.
export const MAX_LINE = 65_536;
// Of a longer line this much is read as a record.
export const MAX_TEXT = 16_384;

export const DECODER: { decode(bytes: Uint8Array): string } = new TextDecoder();

/** Undoes the \xNN of /dev/kmsg (kernel/printk/printk.c msg_add_ext_text()): bytes, so that UTF-8 comes back whole. */
export function unescapeText(text: string): string {
  if (!text.includes("\\x")) return text;
  return text.replace(/(?:\\x[0-9a-f]{2})+/gi, (run) => {
    const bytes = new Uint8Array(run.length / 4);
    for (let i = 0; i < bytes.length; i++) bytes[i] = Number.parseInt(run.slice(i * 4 + 2, i * 4 + 4), 16);
    return DECODER.decode(bytes);
  });
}

/** Parses one record as read(2) from /dev/kmsg returns it (Documentation/ABI/testing/dev-kmsg). Null when it is none. */
export function parseKmsgRecord(raw: string, line = 1): KmsgRecord | null {
  const end = raw.indexOf("\n");
  // Lines after the first are the record's dictionary: " SUBSYSTEM=memory".
  const head = end === -1 ? raw : raw.slice(0, end);
  const fields = readFields(head.slice(0, 256));
  if (fields === null) return null;
  const { length, part: _, ...rest } = fields;
  return { ...rest, text: unescapeText(head.slice(length)), line };
}

/** A line without its prefixes as a record; null where another program wrote it. */
export function toRecord(head: PrefixedLine, line: number): KmsgRecord | null {
  if (head.origin === "other" && (head.facility === null || head.facility === 0)) return null;
  let text = head.text;
  if (head.seq !== null) text = unescapeText(text);
  // rsyslog writes control characters as #012.
  else if (head.origin === "kernel" && text.includes("#0"))
    text = text.replace(/#(0[0-3][0-7])/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
  const record: KmsgRecord = {
    seq: head.seq,
    timeUs: head.timeUs,
    facility: head.facility,
    level: head.level,
    caller: head.caller,
    text,
    line,
  };
  if (head.date !== undefined) record.date = head.date;
  if (head.origin === "bare") record.bare = true;
  return record;
}

/** Text of a range of the buffer; Node's Buffer is three times as fast on short lines. */
export function decoderOf(bytes: Uint8Array): (from: number, to: number) => string {
  const node = (
    globalThis as {
      Buffer?: {
        from(
          buffer: ArrayBufferLike,
          offset: number,
          length: number,
        ): { toString(encoding: string, from: number, to: number): string };
      };
    }
  ).Buffer;
  if (node !== undefined) {
    const view = node.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    return (from, to) => view.toString("utf8", from, to);
  }
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  return (from, to) => decoder.decode(bytes.subarray(from, to));
}
