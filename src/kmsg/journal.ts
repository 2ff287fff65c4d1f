// The journal's export format (https://systemd.io/JOURNAL_EXPORT_FORMATS) and journalctl -o verbose.
import { recordOfObject } from "./objects.ts";
import { DECODER, MAX_LINE, MAX_TEXT } from "./record.ts";
import type { KmsgRecord } from "./types.ts";

const NEWLINE = 10;
const RETURN = 13;
const EQUALS = 61;

type State =
  /** At a field, or at the blank line that ends an entry. */
  | "field"
  /** In the eight bytes of a binary field's length. */
  | "size"
  /** In a binary field whose length is known. */
  | "data"
  /** Behind its last byte, where a newline must stand. */
  | "after"
  /** In a field of the kernel's whose length is not known for sure: a line that looks like a field ends it. */
  | "looks"
  /** Perhaps in a field of userland's, perhaps behind it. */
  | "doubt"
  /** Where fields and entries end is not known any more. */
  | "lost";

/**
 * Reads entries from bytes, or from text put into UTF-8 (`decoded`). What a program logs may look like fields, blank
 * lines and entries: a binary field ends where its length says and nowhere else. Text has no such length where it, or
 * the data, was not ASCII before it was decoded. Then an entry that said `_TRANSPORT=kernel` before goes on by looks;
 * any other gives no record, nor does what follows, up to the first entry that begins behind the last place where the
 * field can end: if the length is not known or another binary field may begin before that place, there is none, and
 * `lose` is called with the line and the reason.
 */
export function createJournalReader(
  emit: (record: KmsgRecord) => void,
  lose: (line: number, reason: string) => void,
): { push(bytes: Uint8Array, decoded: boolean): void; end(): void } {
  let state: State = "field";
  let verbose: boolean | null = null;
  let inexact = false;
  let number = 1;
  // The entry: its fields that matter, its first line, whether no record may come of it.
  let fields: Record<string, string> = {};
  let first = 0;
  let condemned = false;
  // The last field in -o verbose, which lines below it may continue.
  let last: string | null = null;
  // The beginning of a line, from earlier chunks, and how long it is so far.
  const line = createRoom(MAX_LINE);
  // The binary field: its name and line, its length so far read, what is kept of its data.
  let name = "";
  let nameLine = 0;
  let length = 0;
  let digits = 0;
  let certain = true;
  let left = 0;
  let seen = 0;
  let onlyName = false;
  let nameSize = 0;
  const value = createRoom(MAX_TEXT);

  const isKernel = (): boolean =>
    fields["_TRANSPORT"] === "kernel" && (fields["SYSLOG_FACILITY"] ?? "0") === "0" && !condemned;

  function flush(): void {
    if (first !== 0 && !condemned) {
      const record = recordOfObject(fields, first);
      if (record !== null && record !== undefined) emit(record);
    }
    fields = {};
    first = 0;
    condemned = false;
    last = null;
  }

  /** The journal gives none of these fields twice: what comes later is not journald's. */
  function set(key: string, text: string): void {
    if (WANTED.has(key)) fields[key] ??= text;
  }

  function giveUp(reason: string): void {
    state = "lost";
    fields = {};
    first = 0;
    lose(nameLine, reason);
  }

  function giveUpText(): void {
    giveUp(
      `the length of the journal's binary field ${name} is lost where bytes became text: nothing from here on is read; read the log as bytes`,
    );
  }

  function onLine(raw: Uint8Array): void {
    const rewritten = raw[raw.length - 1] === RETURN;
    let bytes = rewritten ? raw.subarray(0, -1) : raw;
    if (number === 1 && bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf) bytes = bytes.subarray(3);
    if (bytes.length === 0) {
      if (verbose !== true) flush();
      return;
    }
    const end = nameEnd(bytes);
    verbose ??= end === 0 || bytes[end] !== EQUALS;
    if (verbose) onVerbose(DECODER.decode(bytes));
    else onField(bytes, end, rewritten);
  }

  function onField(bytes: Uint8Array, end: number, rewritten: boolean): void {
    if (first === 0) first = number;
    if (end === 0 || (end < bytes.length && bytes[end] !== EQUALS)) {
      condemned = true;
      return;
    }
    const key = DECODER.decode(bytes.subarray(0, Math.min(end, 65)));
    if (end < bytes.length) {
      if (WANTED.has(key)) set(key, DECODER.decode(bytes.subarray(end + 1, end + 1 + MAX_TEXT)));
      return;
    }
    name = key;
    nameLine = number;
    length = 0;
    digits = 0;
    value.clear();
    // Where line ends were rewritten, lengths hold no longer.
    certain = !rewritten;
    state = "size";
    if (rewritten && !isKernel()) giveUpText();
  }

  /** Fields stand behind four blanks, further lines of a value behind more; an entry begins at the margin. */
  function onVerbose(text: string): void {
    if (text[0] !== " ") {
      if (/ \[s=[0-9a-f]{1,32};i=/.test(text.slice(0, 200))) {
        flush();
        first = number;
      }
      return;
    }
    const field = /^ {4}([A-Z0-9_]{1,64})=/.exec(text.slice(0, 72));
    if (field !== null) {
      const key = field[1]!;
      last = WANTED.has(key) && !(key in fields) ? key : null;
      set(key, text.slice(field[0].length, field[0].length + MAX_TEXT));
      return;
    }
    const margin = 4 + (last ?? "").length + 1;
    if (last === null || text.slice(0, margin).trim() !== "") return;
    fields[last] = `${fields[last] ?? ""}\n${text.slice(margin)}`.slice(0, MAX_TEXT);
  }

  function onSize(code: number): void {
    if (code === NEWLINE) number++;
    const inside = inexact && (code & 0xc0) === 0x80;
    if (inexact && code >= 0x80) {
      certain = false;
      if (!isKernel()) {
        giveUpText();
        return;
      }
    }
    // Of a byte that became another character it is known that it was no ASCII.
    if (!inside) length += (inexact ? Math.min(code, 0x80) : code) * 256 ** digits++;
    if (digits < 8) return;
    left = length;
    seen = 0;
    if ((inexact || !certain) && isKernel()) {
      // Decoded data is never shorter than it was.
      if (!inexact) length = 0;
      state = "looks";
    } else state = left === 0 ? "after" : "data";
  }

  /** Data up to its known length; where that stops to be known, at the first character that is not ASCII. */
  function onData(bytes: Uint8Array, from: number): number {
    let to = Math.min(bytes.length, from + left);
    if (inexact) {
      let i = from;
      while (i < to && bytes[i]! < 0x80) i++;
      if (i < to) {
        to = i;
        state = "doubt";
        condemned = true;
        onlyName = false;
        nameSize = 1;
      }
    }
    if (WANTED.has(name)) value.add(bytes, from, to);
    for (let i = bytes.indexOf(NEWLINE, from); i !== -1 && i < to; i = bytes.indexOf(NEWLINE, i + 1)) number++;
    left -= to - from;
    if (left === 0) state = "after";
    return to;
  }

  /** Each character was a byte at least: `left` is how many more the field can hold at most. */
  function onDoubt(code: number): void {
    if (code !== NEWLINE) {
      if ((code & 0xc0) !== 0x80) left--;
      onlyName &&= isNameByte(code) || code === RETURN;
      nameSize++;
      return;
    }
    number++;
    left--;
    if (onlyName && nameSize > 0) giveUpText();
    else if (left < 0) state = "field";
    onlyName = true;
    nameSize = 0;
  }

  function endBinary(): void {
    if (WANTED.has(name)) {
      const bytes = value.bytes();
      let from = 0;
      // The rest of a length that became characters of several bytes.
      while (state === "looks" && bytes[from] !== undefined && (bytes[from]! & 0xc0) === 0x80) from++;
      set(name, DECODER.decode(bytes.subarray(from)));
    }
    value.clear();
    state = "field";
  }

  function onLooks(bytes: Uint8Array, size: number): void {
    const end = nameEnd(bytes);
    const bare = bytes.length === 0 || (bytes.length === 1 && bytes[0] === RETURN);
    if (seen > length && (bare || (end > 0 && (end === bytes.length || bytes[end] === EQUALS)))) {
      endBinary();
      onLine(bytes);
      return;
    }
    if (seen > 0) value.add(BREAK, 0, 1);
    value.add(bytes, 0, bytes.length);
    seen += size + 1;
  }

  function onWhole(bytes: Uint8Array, size: number): void {
    if (state === "looks") onLooks(bytes, size);
    else onLine(bytes);
  }

  return {
    push(bytes, decoded) {
      if (decoded && bytes.length > 0) inexact = true;
      for (let at = 0; at < bytes.length && state !== "lost";) {
        if (state === "size") onSize(bytes[at++]!);
        else if (state === "data") at = onData(bytes, at);
        else if (state === "doubt") onDoubt(bytes[at++]!);
        else if (state === "after") {
          if (bytes[at++] === NEWLINE) {
            number++;
            endBinary();
          } else
            giveUp(
              `the journal's binary field ${name} does not end where its length says: nothing from here on is read`,
            );
        } else {
          const end = bytes.indexOf(NEWLINE, at);
          if (end === -1) {
            line.add(bytes, at, bytes.length);
            return;
          }
          if (line.size() === 0) onWhole(bytes.subarray(at, Math.min(end, at + MAX_LINE)), end - at);
          else {
            line.add(bytes, at, end);
            const whole = line.bytes();
            const size = line.size();
            line.clear();
            onWhole(whole, size);
          }
          number++;
          at = end + 1;
        }
      }
    },
    end() {
      if (state === "lost" || state === "doubt") return;
      if (line.size() > 0) onWhole(line.bytes(), line.size());
      // Cut off: fields that would tell whose the entry is may be missing.
      if (state !== "field") {
        if (!isKernel()) condemned = true;
        else if (state !== "size") endBinary();
      }
      flush();
    },
  };
}

const BREAK = Uint8Array.of(NEWLINE);

/** The first `limit` bytes of what is added, and the size of all. */
function createRoom(limit: number): {
  add(bytes: Uint8Array, from: number, to: number): void;
  bytes(): Uint8Array;
  size(): number;
  clear(): void;
} {
  let room: Uint8Array | null = null;
  let size = 0;
  return {
    add(bytes, from, to) {
      room ??= new Uint8Array(limit);
      if (size < limit && from < to) room.set(bytes.subarray(from, Math.min(to, from + limit - size)), size);
      size += to - from;
    },
    bytes: () => (room ?? BREAK).subarray(0, Math.min(size, limit)),
    size: () => size,
    clear() {
      size = 0;
    },
  };
}

function isNameByte(code: number): boolean {
  return (code >= 65 && code <= 90) || code === 95 || (code >= 48 && code <= 57);
}

/** Where a field's name at the start of a line ends. */
function nameEnd(bytes: Uint8Array): number {
  let end = 0;
  while (end < bytes.length && isNameByte(bytes[end]!)) end++;
  return end;
}

const WANTED = new Set([
  "MESSAGE",
  "PRIORITY",
  "SYSLOG_FACILITY",
  "SYSLOG_IDENTIFIER",
  "_TRANSPORT",
  "_SOURCE_MONOTONIC_TIMESTAMP",
  "__REALTIME_TIMESTAMP",
]);
