// Records in JSON: dmesg -J, journalctl -o json, container runtimes, Cloud Logging.
import { readPrefix } from "./prefix.ts";
import { DECODER, MAX_LINE, MAX_TEXT, toRecord } from "./record.ts";
import type { KmsgRecord } from "./types.ts";

/** One JSON object in a line, or null. Understands dmesg -J, journalctl -o json, and objects that carry a log line. */
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
  if (!Array.isArray(value) || value.length === 0) return null;
  const bytes: unknown[] = value.length > MAX_TEXT ? value.slice(0, MAX_TEXT) : value;
  if (!bytes.every((item) => typeof item === "number" && item >= 0 && item < 256)) return null;
  return DECODER.decode(Uint8Array.from(bytes as number[]));
}

function integer(value: unknown): number | null {
  const number =
    typeof value === "number" ? value : typeof value === "string" && /^\d{1,15}$/.test(value) ? Number(value) : null;
  return number !== null && Number.isSafeInteger(number) ? number : null;
}

/** Takes the innermost objects out of JSON text of any layout: one a line, pretty-printed, one endless array. */
export function createObjectReader(
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
