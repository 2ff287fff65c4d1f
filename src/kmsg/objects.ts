// Records in JSON: dmesg -J, journalctl -o json, container runtimes, Cloud Logging.
import { FACILITIES, LEVELS, readPrefix } from "./prefix.ts";
import { DECODER, MAX_LINE, MAX_TEXT, toRecord } from "./record.ts";
import type { KmsgRecord } from "./types.ts";

const MAX_DEPTH = 6;
const MAX_OPEN = 16;
// Words that only a record of the OOM killer has.
const OOM = /oom-kill|Kill(?:ed)? process \d|killed as a result of limit|memory\.oom\.group|no killable processes/;

/** The records of one JSON text, or null where it is none. Understands dmesg -J, journalctl -o json, and objects that carry log lines. */
export function fromJson(text: string, line: number): KmsgRecord[] | null {
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

/** Gathers the records below a value; true where an object held one, or userland's. */
function collect(value: unknown, line: number, found: KmsgRecord[], depth: number): boolean {
  if (typeof value !== "object" || value === null || depth > MAX_DEPTH) return false;
  if (Array.isArray(value)) return value.map((item) => collect(item, line, found, depth + 1)).includes(true);
  const record = recordOfObject(value as Record<string, unknown>, line);
  if (record !== undefined) {
    if (record !== null) found.push(record);
    return true;
  }
  // Another name for the message, or lines in one string.
  let taken = false;
  for (const item of Object.values(value)) {
    if (typeof item === "string" && OOM.test(item)) {
      for (const part of item.slice(0, MAX_LINE).split(/\r?\n/)) {
        const inner = toRecord(readPrefix(part.slice(0, MAX_TEXT)), line);
        if (inner !== null && part !== "") found.push(inner);
      }
      taken = true;
    } else if (collect(item, line, found, depth + 1)) taken = true;
  }
  return taken;
}

/** The record that a JSON object or a journal entry holds; undefined where it holds none, null where it is not the kernel's. */
export function recordOfObject(value: Record<string, unknown>, line: number): KmsgRecord | null | undefined {
  // journalctl writes null for a message that is too long, and an array of messages where there are several.
  const isEntry = value["MESSAGE"] !== undefined;
  const text = asText(isEntry ? value["MESSAGE"] : (value["msg"] ?? value["message"] ?? value["log"]));
  if (text === null) return isEntry ? null : undefined;
  if (isEntry) {
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
      ...dateOf(value["__REALTIME_TIMESTAMP"]),
    };
  }
  if (value["msg"] !== undefined && (value["pri"] !== undefined || value["time"] !== undefined)) {
    const priority = integer(value["pri"]);
    const time = Number(value["time"]);
    const [fac, pri] = [value["fac"], value["pri"]];
    const facility = typeof fac === "string" ? (FACILITIES[fac] ?? null) : priority === null ? null : priority >> 3;
    const level = priority !== null ? priority & 7 : typeof pri === "string" ? (LEVELS[pri] ?? null) : null;
    const caller =
      typeof value["caller"] === "string" && /^[TC]\d{1,10}$/.test(value["caller"]) ? value["caller"] : null;
    return {
      seq: null,
      timeUs:
        Number.isFinite(time) && value["time"] !== null && value["time"] !== undefined ? Math.round(time * 1e6) : null,
      facility,
      level,
      caller,
      text: text.slice(0, MAX_TEXT),
      line,
    };
  }
  return toRecord(readPrefix(text.slice(0, MAX_TEXT).replace(/\n$/, "")), line);
}

/** A message: journald writes an array of bytes where it is not printable UTF-8. */
function asText(value: unknown): string | null {
  if (typeof value === "string") return value;
  if (!Array.isArray(value) || value.length === 0) return null;
  const bytes: unknown[] = value.length > MAX_TEXT ? value.slice(0, MAX_TEXT) : value;
  if (!bytes.every((item) => typeof item === "number" && item >= 0 && item < 256)) return null;
  return DECODER.decode(Uint8Array.from(bytes as number[]));
}

/** journald's microseconds since 1970. */
function dateOf(value: unknown): { date?: string } {
  return typeof value === "string" && /^\d{16}$/.test(value)
    ? { date: new Date(Number(value) / 1000).toISOString() }
    : {};
}

function integer(value: unknown): number | null {
  const number =
    typeof value === "number" ? value : typeof value === "string" && /^\d{1,15}$/.test(value) ? Number(value) : null;
  return number !== null && Number.isSafeInteger(number) ? number : null;
}

/** Takes objects that hold records out of JSON text of any layout: one a line, pretty-printed, one endless array. */
export function createObjectReader(
  emit: (record: KmsgRecord) => void,
  onText: (line: string, number: number) => void,
): { push(chunk: string): void; end(): void } {
  // The text from the outermost open brace on, as far as it is kept, and where objects begin in it.
  let text = "";
  let open: { at: number; line: number }[] = [];
  let quoted = false;
  let escaped = false;
  let number = 1;
  // A line outside any object that is no JSON: a log may only begin with it.
  let plain: string | null = null;
  let isStart = true;

  function close(): void {
    const object = open.pop();
    if (object === undefined || object.at < 0) return;
    const found: KmsgRecord[] = [];
    const value = text.slice(object.at);
    let parsed: unknown;
    try {
      parsed = JSON.parse(value);
    } catch {
      parsed = null;
    }
    // What has been taken is not to be found again in the object around it.
    if (collect(parsed, object.line, found, 0) || open.length === 0) text = `${text.slice(0, object.at)}null`;
    for (const record of found) emit(record);
    if (open.length === 0) text = "";
  }

  /** Keeps the newest text alone: objects that began before it are too large to hold a record themselves. */
  function bound(): void {
    if (text.length <= MAX_LINE * 2) return;
    const from = text.length - MAX_LINE;
    open = open.filter(({ at }) => at >= from).map(({ at, line }) => ({ at: at - from, line }));
    text = open.length === 0 ? "" : text.slice(from);
  }

  function endPlain(): void {
    onText(plain ?? "", number);
    plain = null;
  }

  function push(chunk: string): void {
    let from = 0;
    for (let i = 0; i < chunk.length; i++) {
      const code = chunk.charCodeAt(i);
      if (code === 10) {
        if (plain !== null) {
          plain = (plain + chunk.slice(from, i)).slice(0, MAX_LINE);
          endPlain();
          from = i + 1;
        }
        number++;
        // No JSON string holds a bare newline: the text was cut.
        [quoted, escaped, isStart] = [false, false, true];
      } else if (plain !== null) continue;
      else if (quoted) {
        if (escaped) escaped = false;
        else if (code === 92) escaped = true;
        else if (code === 34) quoted = false;
      } else if (code === 34) quoted = open.length > 0;
      else if (code === 123) {
        if (open.length === 0) from = i;
        // Objects in objects in objects would be parsed over and over.
        open.push({ at: open.length < MAX_OPEN ? text.length + i - from : -1, line: number });
        isStart = false;
      } else if (code === 125) {
        if (open.length > 0) {
          text += chunk.slice(from, i + 1);
          from = i + 1;
          close();
        }
        isStart = false;
      } else if (open.length === 0 && isStart && code > 32 && code !== 44 && code !== 93) {
        if (code !== 91 || /[\d ]/.test(chunk[i + 1] ?? "")) [plain, from] = ["", i];
      }
    }
    if (plain !== null) plain = (plain + chunk.slice(from)).slice(0, MAX_LINE);
    else if (open.length > 0) text += chunk.slice(from);
    bound();
  }

  return {
    push,
    end() {
      if (plain !== null) endPlain();
    },
  };
}
