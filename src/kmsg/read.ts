import { createJournalReader } from "./journal.ts";
import { createLineReader } from "./lines.ts";
import { createObjectReader } from "./objects.ts";
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

/**
 * A streaming reader for any text format (detects per line): push chunks in any cut, get records. The journal's export
 * format is binary: give it as bytes, or records are left out where text cannot tell whose they are.
 */
export function createLogReader(): { push(chunk: string | Uint8Array): KmsgRecord[]; end(): KmsgRecord[] } {
  return createReader(() => undefined);
}

/** The same; `decoded` says that bytes were made of text, `lose` is told from which line on nothing can be read, and why. */
export function createReader(lose: (line: number, reason: string) => void): {
  push(chunk: string | Uint8Array, decoded?: boolean): KmsgRecord[];
  end(): KmsgRecord[];
} {
  let out: KmsgRecord[] = [];
  const reader = createLineReader((record) => out.push(record));
  const objects = createObjectReader(
    (record) => out.push(record),
    (text, number) => reader.line(text, number),
  );
  const entries = createJournalReader((record) => out.push(record), lose);
  const encoder = new TextEncoder();
  let decoder: InstanceType<typeof TextDecoder> | null = null;
  let head: Uint8Array | null = new Uint8Array(0);
  let mode: Mode | null = null;
  let start = "";
  // The same as bytes, for a format that is not text.
  let startBytes: Uint8Array[] = [];
  let wide = false;
  let wasText = false;
  let surrogate = "";
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
      const encoding =
        all[0] === 0xff && all[1] === 0xfe ? "utf-16le" : all[0] === 0xfe && all[1] === 0xff ? "utf-16be" : "utf-8";
      wide = encoding !== "utf-8";
      decoder = new TextDecoder(encoding);
      return decoder.decode(all, { stream: !last });
    }
    return decoder.decode(bytes, { stream: !last });
  }

  /** Text, and the bytes that it came from: null where it came as text, or in UTF-16. */
  function text(chunk: string, bytes: Uint8Array | null): void {
    if (mode === null || mode === "export") {
      if (bytes === null && chunk !== "") wasText = true;
      const raw = bytes ?? encode(chunk);
      if (mode === "export") {
        entries.push(raw, wasText);
        return;
      }
      startBytes.push(raw.slice());
      start += chunk;
      choose(false);
      return;
    }
    feed(chunk);
  }

  /** Which way to read is told by the first lines. */
  function choose(complete: boolean): void {
    // A byte order mark is a blank to a pattern.
    mode = modeOf(start.startsWith("\uFEFF") ? start.slice(1) : start, complete);
    if (mode === null) return;
    if (mode === "export") for (const raw of startBytes) entries.push(raw, wasText);
    else feed(start);
    start = "";
    startBytes = [];
  }

  function encode(chunk: string): Uint8Array {
    let whole = surrogate + chunk;
    surrogate = "";
    const code = whole.charCodeAt(whole.length - 1);
    if (code >= 0xd800 && code < 0xdc00) {
      surrogate = whole.slice(-1);
      whole = whole.slice(0, -1);
    }
    return encoder.encode(whole);
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
    reader.line(line, number);
    number++;
  }

  function take(): KmsgRecord[] {
    const records = out;
    out = [];
    return records;
  }

  return {
    push(chunk, decoded = false) {
      if (typeof chunk === "string") text(chunk, null);
      else {
        wasText ||= decoded && chunk.length > 0;
        if (mode === "export" && decoder !== null && !wide) entries.push(chunk, wasText);
        else {
          const held = head ?? new Uint8Array(0);
          const read = decode(chunk, false);
          // Held back until there is enough to tell the encoding.
          if (head === null) text(read, wide ? null : held.length === 0 ? chunk : concat(held, chunk));
        }
      }
      return take();
    },
    end() {
      if (decoder !== null || (head !== null && head.length > 0)) {
        const held = head ?? new Uint8Array(0);
        text(decode(new Uint8Array(0), true), wide ? null : held);
      }
      if (mode === null) choose(true);
      if (mode === "export" && surrogate !== "") entries.push(encoder.encode(surrogate), true);
      if (size > 0) finish();
      objects.end();
      entries.end();
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
