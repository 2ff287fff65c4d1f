/* oxlint-disable no-control-regex -- terminals leave theirs in logs */
import { type OomLine, matchOomLine } from "./match.ts";
import { type PrefixedLine, readPrefix } from "./prefix.ts";
import type { KmsgRecord } from "./types.ts";

// A line longer than this is no record: what follows is dropped up to the line's end.
export const MAX_LINE = 65_536;
// Of a longer line this much is read as a record.
const MAX_TEXT = 16_384;

const DECODER = new TextDecoder();

/** Undoes the \xNN of /dev/kmsg (kernel/printk/printk.c msg_add_ext_text()): bytes, so that UTF-8 comes back whole. */
function unescapeText(text: string): string {
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
  const match = /^(\d{1,5}),(\d{1,20}),(\d{1,20}),([^;]{0,200});/.exec(head.slice(0, 256));
  if (match === null) return null;
  const priority = Number(match[1]);
  return {
    seq: Number(match[2]),
    timeUs: Number(match[3]),
    facility: priority >> 3,
    level: priority & 7,
    caller: /(?:^|,)caller=([TC]\d{1,10})/.exec(match[4] ?? "")?.[1] ?? null,
    text: unescapeText(head.slice(match[0].length)),
    line,
  };
}

/** A record that later lines may complete. */
interface Pending {
  record: KmsgRecord;
  rank: number;
  /** The last line taken into account. */
  last: number;
  joins: number;
}

/**
 * Turns lines of text formats into records. Lines need not follow one another: a gap in the numbers ends
 * what a wrapped line could have continued.
 */
export function createLineReader(emit: (record: KmsgRecord, found?: OomLine | null) => void): {
  line(raw: string, number: number): void;
  flush(): void;
  waiting(): boolean;
} {
  let pending: Pending | null = null;
  let rawMode = false;

  function flush(): void {
    if (pending === null) return;
    const { record } = pending;
    pending = null;
    emit(record);
  }

  function line(raw: string, number: number): void {
    if (pending !== null && number > pending.last + 2) flush();
    const text = raw.length > MAX_TEXT ? raw.slice(0, MAX_TEXT) : raw;
    if (text.includes("\r") || text.includes("\u001b")) {
      for (const part of clean(text).split("\r")) if (part !== "") one(part, number);
      return;
    }
    one(text, number);
  }

  function one(text: string, number: number): void {
    const first = text.charCodeAt(0);
    if (Number.isNaN(first)) return;
    // A dictionary line of the raw format.
    if (first === 32 && rawMode && /^ [A-Z_]+=/.test(text.slice(0, 64))) return;
    if (first === 123) {
      const records = fromJson(text, number);
      if (records !== null) {
        flush();
        for (const record of records) emit(record);
        return;
      }
    }
    const head = readPrefix(text);
    rawMode = head.seq !== null;
    if (head.origin === "bare" && pending !== null && join(pending, head.text, number)) return;
    if (head.origin === "bare" && head.text.trim() === "") return;
    flush();
    const record = toRecord(head, number);
    if (record === null) return;
    if (record.seq !== null) {
      emit(record);
      return;
    }
    const found = matchOomLine(record.text);
    if (mayContinue(record, found)) pending = { record, rank: rankOf(found), last: number, joins: 0 };
    else emit(record, found);
  }

  /** Continues the pending record with a line that has no prefix; false where that makes no better record. */
  function join(wait: Pending, text: string, number: number): boolean {
    wait.last = number;
    if (text.trim() === "") return true;
    if (wait.joins >= 8 || wait.record.text.length + text.length > MAX_TEXT) return false;
    const next = text.trim();
    const before = wait.record.text;
    const held = before.trimEnd();
    if (held !== "" && matchOomLine(next) !== null) return false;
    let best: { text: string; rank: number; found: OomLine | null } | null = null;
    // Mail wraps at blanks, a terminal in the middle of a word.
    for (const glue of held === "" || held !== before ? [" "] : ["", " "]) {
      const joined = held === "" ? next : held + glue + next;
      const found = matchOomLine(joined);
      const rank = rankOf(found);
      if (best === null || rank > best.rank) best = { text: joined, rank, found };
    }
    if (best === null) return false;
    // Still unfinished, but no worse: the next line may end it. Paths hold no blanks as a rule.
    const onward =
      best.found === null
        ? isStub(best.text)
        : best.found.type === "selected" && !best.found.whole && best.rank === wait.rank && !next.includes(" ");
    if (best.rank <= wait.rank && !onward) return false;
    wait.record = { ...wait.record, text: best.text };
    wait.rank = best.rank;
    wait.joins++;
    if (!mayContinue(wait.record, best.found)) flush();
    return true;
  }

  return { line, flush, waiting: () => pending !== null };
}

const ANSI =
  /\u001b(?:\[[0-?]{0,32}[ -/]{0,4}[@-~]|\][^\u0007\u001b]{0,256}(?:\u0007|\u001b\\)?|[()][A-Z0-9]|[@-Z\\^_=>])/g;

/** Terminal colours and the like. */
function clean(text: string): string {
  return text.includes("\u001b") ? text.replace(ANSI, "") : text;
}

function toRecord(head: PrefixedLine, line: number): KmsgRecord | null {
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
  if (head.origin === "bare") record.bare = true;
  return record;
}

/** How much of a record is there; more is better. */
function rankOf(found: OomLine | null): number {
  switch (found?.type) {
    case undefined:
      return 0;
    case "killed": {
      const fields = [
        found.uid,
        found.totalVm,
        found.anonRss,
        found.fileRss,
        found.shmemRss,
        found.pgtables,
        found.oomScoreAdj,
      ].filter((value) => value !== null).length;
      return found.shape === "garbled"
        ? 1
        : (found.shape === "cut" ? 2 : 3) + fields * 2 + (found.comm === null ? 0 : 1);
    }
    case "selected":
      return found.whole ? 3 : found.constraint === "" ? 1 : 2;
    case "chosen":
    case "taskin":
      return found.whole ? 3 : 2;
    case "header":
      return found.order === null ? 2 : 3;
    default:
      return 3;
  }
}

/** Whether the next line may hold more of this record. */
function mayContinue(record: KmsgRecord, found: OomLine | null): boolean {
  if (found === null) return isStub(record.text) || (record.text.trim() === "" && record.bare !== true);
  if (found.type === "killed") return found.shape !== "whole" || found.oomScoreAdj === null;
  if (found.type === "selected" || found.type === "chosen" || found.type === "taskin") return !found.whole;
  return found.type === "header" && (found.order === null || !/adj=-?\d/.test(found.rest));
}

const STUBS = [
  "Memory cgroup out of memory: Killed process ",
  "Out of memory: Killed process ",
  "Memory cgroup out of memory: Kill process ",
  "Out of memory: Kill process ",
  "Memory cgroup out of memory (oom_kill_allocating_task): ",
];

/** The beginning of an OOM record, cut before it can be told which. */
function isStub(raw: string): boolean {
  const text = raw.trim();
  if (text.length < 12 || text.length > 12_288) return false;
  if (text.startsWith("Tasks in /")) return !text.endsWith("memory.oom.group set");
  if (text.endsWith(" invoked oom-killer:") && text.length < 64) return true;
  return STUBS.some((stub) => stub.startsWith(text));
}

/** One JSON object in a line, or null. Understands dmesg -J, journalctl -o json, and objects that carry a log line. */
function fromJson(text: string, line: number): KmsgRecord[] | null {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return null;
  }
  const found: KmsgRecord[] = [];
  collect(value, line, found, 0);
  return found;
}

function collect(value: unknown, line: number, found: KmsgRecord[], depth: number): void {
  if (typeof value !== "object" || value === null || depth > 6) return;
  if (Array.isArray(value)) {
    for (const item of value) collect(item, line, found, depth + 1);
    return;
  }
  const record = recordOfObject(value as Record<string, unknown>, line);
  if (record !== undefined) {
    if (record !== null) found.push(record);
    return;
  }
  for (const item of Object.values(value)) collect(item, line, found, depth + 1);
}

/** The record that a JSON object or a journal entry holds; undefined where it holds none, null where it is not the kernel's. */
function recordOfObject(value: Record<string, unknown>, line: number): KmsgRecord | null | undefined {
  const message = value["MESSAGE"] ?? value["msg"] ?? value["message"] ?? value["log"];
  const text = asText(message);
  if (text === null) return undefined;
  if (value["MESSAGE"] !== undefined) {
    const transport = value["_TRANSPORT"];
    const kernel =
      transport === undefined
        ? value["SYSLOG_IDENTIFIER"] === undefined || value["SYSLOG_IDENTIFIER"] === "kernel"
        : transport === "kernel";
    if (!kernel) return null;
    return {
      seq: null,
      timeUs: integer(value["_SOURCE_MONOTONIC_TIMESTAMP"]),
      facility: integer(value["SYSLOG_FACILITY"]),
      level: integer(value["PRIORITY"]),
      caller: null,
      text: text.length > MAX_TEXT ? text.slice(0, MAX_TEXT) : text,
      line,
    };
  }
  if (value["msg"] !== undefined && (value["pri"] !== undefined || value["time"] !== undefined)) {
    const priority = integer(value["pri"]);
    const time = Number(value["time"]);
    const facility =
      typeof value["fac"] === "string"
        ? FACILITY_NAMES.indexOf(value["fac"])
        : priority === null
          ? null
          : priority >> 3;
    const level =
      typeof value["pri"] === "string" && priority === null
        ? LEVEL_NAMES.indexOf(value["pri"])
        : priority === null
          ? null
          : priority & 7;
    const caller =
      typeof value["caller"] === "string" && /^[TC]\d{1,10}$/.test(value["caller"]) ? value["caller"] : null;
    return {
      seq: null,
      timeUs:
        Number.isFinite(time) && value["time"] !== null && value["time"] !== undefined ? Math.round(time * 1e6) : null,
      facility: facility === -1 ? null : facility,
      level: level === -1 ? null : level,
      caller,
      text: text.slice(0, MAX_TEXT),
      line,
    };
  }
  return toRecord(readPrefix(text.slice(0, MAX_TEXT).replace(/\n$/, "")), line);
}

const FACILITY_NAMES = [
  "kern",
  "user",
  "mail",
  "daemon",
  "auth",
  "syslog",
  "lpr",
  "news",
  "uucp",
  "cron",
  "authpriv",
  "ftp",
];
const LEVEL_NAMES = ["emerg", "alert", "crit", "err", "warn", "notice", "info", "debug"];

/** A message: journald writes an array of bytes where it is not printable UTF-8. */
function asText(value: unknown): string | null {
  if (typeof value === "string") return value;
  if (
    !Array.isArray(value) ||
    value.length === 0 ||
    value.length > MAX_TEXT ||
    !value.every((item) => typeof item === "number" && item >= 0 && item < 256)
  )
    return null;
  return DECODER.decode(Uint8Array.from(value as number[]));
}

function integer(value: unknown): number | null {
  const number =
    typeof value === "number" ? value : typeof value === "string" && /^\d{1,15}$/.test(value) ? Number(value) : null;
  return number !== null && Number.isSafeInteger(number) ? number : null;
}

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

/** Takes the innermost objects out of JSON text of any layout: one a line, pretty-printed, one endless array. */
function createObjectReader(
  emit: (record: KmsgRecord) => void,
  onText: (line: string, number: number) => void,
): { push(chunk: string): void; end(): void } {
  let object: string[] | null = null;
  let size = 0;
  let objectLine = 1;
  let quoted = false;
  let escaped = false;
  let number = 1;
  // Lines outside any object that are no JSON: a log may only begin with it.
  let plain: string[] = [];
  let plainSize = 0;
  let isPlain: boolean | null = null;

  function push(chunk: string): void {
    let from = 0;
    for (let i = 0; i < chunk.length; i++) {
      const code = chunk.charCodeAt(i);
      if (isPlain === true) {
        if (code === 10) {
          keepPlain(chunk.slice(from, i));
          endPlain();
          from = i + 1;
          number++;
        }
        continue;
      }
      if (code === 10) {
        number++;
        // No JSON string holds a bare newline: the text was cut.
        quoted = false;
        escaped = false;
        isPlain = null;
        continue;
      }
      if (quoted) {
        if (escaped) escaped = false;
        else if (code === 92) escaped = true;
        else if (code === 34) quoted = false;
        continue;
      }
      if (code === 34) {
        quoted = object !== null;
      } else if (code === 123) {
        object = [];
        size = 0;
        objectLine = number;
        from = i;
        isPlain = false;
      } else if (code === 125) {
        if (object !== null) {
          keepObject(chunk.slice(from, i + 1));
          finish();
        }
        isPlain = false;
      } else if (object === null && isPlain === null && code > 32 && code !== 44 && code !== 91 && code !== 93) {
        isPlain = true;
        from = i;
      } else if (
        object === null &&
        isPlain === null &&
        code === 91 &&
        chunk[i + 1] !== undefined &&
        /[\d ]/.test(chunk[i + 1]!)
      ) {
        isPlain = true;
        from = i;
      }
    }
    if (isPlain === true) keepPlain(chunk.slice(from));
    else if (object !== null) keepObject(chunk.slice(from));
  }

  function keepObject(part: string): void {
    size += part.length;
    if (size > MAX_LINE) object = null;
    else object?.push(part);
  }

  function keepPlain(part: string): void {
    const room = MAX_LINE - plainSize;
    if (room <= 0) return;
    plain.push(part.slice(0, room));
    plainSize += Math.min(part.length, room);
  }

  function endPlain(): void {
    onText(plain.join(""), number);
    plain = [];
    plainSize = 0;
    isPlain = null;
  }

  function finish(): void {
    const text = (object ?? []).join("");
    object = null;
    for (const record of fromJson(text, objectLine) ?? []) emit(record);
  }

  return {
    push,
    end() {
      if (isPlain === true) endPlain();
    },
  };
}

/** journalctl -o export (also -o verbose): fields a line, entries between blank lines. */
function createEntryReader(emit: (record: KmsgRecord) => void): {
  line(text: string, number: number): void;
  flush(): void;
} {
  let fields: Record<string, unknown> = {};
  let first = 0;
  let binary: { name: string; parts: string[]; size: number } | null = null;

  function flush(): void {
    if (binary !== null) endBinary();
    if (first !== 0) {
      const record = recordOfObject(fields, first);
      if (record !== null && record !== undefined) emit(record);
    }
    fields = {};
    first = 0;
  }

  function endBinary(): void {
    if (binary === null) return;
    // Eight bytes of length, then the value.
    if (WANTED.has(binary.name)) fields[binary.name] = binary.parts.join("\n").slice(8, MAX_TEXT);
    binary = null;
  }

  function line(raw: string, number: number): void {
    const text = raw.endsWith("\r") ? raw.slice(0, -1) : raw;
    if (binary !== null) {
      const field = /^_{0,2}[A-Z][A-Z0-9_]{0,63}(?:=|$)/.test(text.slice(0, 66));
      if ((field || text === "") && binary.size >= 8) {
        endBinary();
      } else {
        if (binary.size < MAX_TEXT) binary.parts.push(text);
        binary.size += text.length + 1;
        return;
      }
    }
    const inner = text.trimStart();
    if (inner === "" || (inner === text && / \[s=[0-9a-f]{1,32};i=/.test(text.slice(0, 200)))) {
      flush();
      return;
    }
    const field = /^(_{0,2}[A-Z][A-Z0-9_]{0,63})(=|$)/.exec(inner.slice(0, 68));
    if (field === null) return;
    if (first === 0) first = number;
    const name = field[1]!;
    if (field[2] === "=") {
      if (WANTED.has(name)) fields[name] = inner.slice(field[0].length);
    } else binary = { name, parts: [], size: 0 };
  }

  return { line, flush };
}

const WANTED = new Set([
  "MESSAGE",
  "PRIORITY",
  "SYSLOG_FACILITY",
  "SYSLOG_IDENTIFIER",
  "_TRANSPORT",
  "_SOURCE_MONOTONIC_TIMESTAMP",
]);
