import { createLineReader } from "./lines.ts";
import { createEntryReader, createObjectReader } from "./objects.ts";
import { MAX_LINE } from "./record.ts";
import type { KmsgRecord } from "./types.ts";

export type Mode = "text" | "json" | "export";

/** What the first characters of a log say about its format; null while more are needed. */
export function modeOf(start: string, complete: boolean): Mode | null {
  const match = /\S/.exec(start);
  if (match === null) return complete || start.length > 4096 ? "text" : null;
  const rest = start.slice(match.index);
  if (rest[0] === "{") return "json";
  if (rest[0] === "[") {
    const next = /\S/.exec(rest.slice(1));
    if (next === null) return complete || rest.length > 256 ? "text" : null;
    return next[0] === "{" ? "json" : "text";
  }
  const end = rest.indexOf("\n");
  if (end === -1 && rest.length < 1024 && !complete) return null;
  const first = end === -1 ? rest.slice(0, 1024) : rest.slice(0, Math.min(end, 1024));
  // A record's dictionary line (" SUBSYSTEM=pci") has a blank in front.
  return ((match.index === 0 || start[match.index - 1] === "\n") && /^_{0,2}[A-Z][A-Z0-9_]{1,63}=/.test(first)) ||
    / \[s=[0-9a-f]{1,32};i=/.test(first.slice(0, 200))
    ? "export"
    : "text";
}

/** A streaming reader for any text format (detects per line): push chunks in any cut, get records. */
export function createLogReader(): { push(chunk: string | Uint8Array): KmsgRecord[]; end(): KmsgRecord[] } {
  let out: KmsgRecord[] = [];
  const reader = createLineReader((record) => out.push(record));
  const objects = createObjectReader(
    (record) => out.push(record),
    (text, number) => reader.line(text, number),
  );
  const entries = createEntryReader((record) => out.push(record));
  let decoder: InstanceType<typeof TextDecoder> | null = null;
  let head: Uint8Array | null = new Uint8Array(0);
  let mode: Mode | null = null;
  let start = "";
  let parts: string[] = [];
  let size = 0;
  let number = 1;

  function decode(bytes: Uint8Array, last: boolean): string {
    if (decoder === null) {
      const all = head === null || head.length === 0 ? bytes : concat(head, bytes);
      // Two bytes tell a byte order mark: Windows shells write UTF-16.
      if (all.length < 2 && !last) {
        head = all.slice();
        return "";
      }
      head = null;
      decoder = new TextDecoder(
        all[0] === 0xff && all[1] === 0xfe ? "utf-16le" : all[0] === 0xfe && all[1] === 0xff ? "utf-16be" : "utf-8",
      );
      return decoder.decode(all, { stream: !last });
    }
    return decoder.decode(bytes, { stream: !last });
  }

  function text(chunk: string): void {
    if (mode === null) {
      start += chunk;
      mode = modeOf(start, false);
      if (mode === null) return;
      chunk = start;
      start = "";
    }
    feed(chunk);
  }

  function feed(chunk: string): void {
    if (mode === "json") {
      objects.push(chunk);
      return;
    }
    let from = 0;
    for (let end = chunk.indexOf("\n"); end !== -1; end = chunk.indexOf("\n", from)) {
      keep(chunk.slice(from, end));
      finish();
      from = end + 1;
    }
    if (from < chunk.length) keep(chunk.slice(from));
  }

  function keep(part: string): void {
    const room = MAX_LINE - size;
    if (room <= 0) return;
    parts.push(part.length > room ? part.slice(0, room) : part);
    size += Math.min(part.length, room);
    if (parts.length > 1024) parts = [parts.join("")];
  }

  function finish(): void {
    const line = parts.length === 1 ? parts[0]! : parts.join("");
    parts = [];
    size = 0;
    if (mode === "export") entries.line(line, number);
    else reader.line(line, number);
    number++;
  }

  function take(): KmsgRecord[] {
    const records = out;
    out = [];
    return records;
  }

  return {
    push(chunk) {
      text(typeof chunk === "string" ? chunk : decode(chunk, false));
      return take();
    },
    end() {
      if (decoder !== null || (head !== null && head.length > 0)) text(decode(new Uint8Array(0), true));
      if (mode === null) {
        mode = modeOf(start, true);
        feed(start);
        start = "";
      }
      if (size > 0) finish();
      objects.end();
      entries.flush();
      reader.flush();
      return take();
    },
  };
}

function concat(a: Uint8Array, b: Uint8Array): Uint8Array {
  const both = new Uint8Array(a.length + b.length);
  both.set(a);
  both.set(b, a.length);
  return both;
}
