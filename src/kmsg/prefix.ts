// What stands before the message in a line of a log: quoting, dates, hosts, tags, priorities, timestamps, caller ids.
// Everything here looks at a bounded start of the line only.

/** A line without its prefixes. `origin`: who wrote it, as far as the prefix tells. */
export interface PrefixedLine {
  origin: "kernel" | "other" | "bare";
  seq: number | null;
  timeUs: number | null;
  facility: number | null;
  level: number | null;
  caller: string | null;
  /** Where this part of a record begins, and how long the record is: extended netconsole sends long ones in pieces. */
  part: { from: number; of: number } | null;
  /** The date or time of day, as the log wrote it. */
  date?: string;
  text: string;
}

export const LEVELS: Record<string, number> = {
  emerg: 0,
  panic: 0,
  alert: 1,
  crit: 2,
  err: 3,
  error: 3,
  warn: 4,
  warning: 4,
  notice: 5,
  info: 6,
  debug: 7,
};
export const FACILITIES: Record<string, number> = {
  kern: 0,
  user: 1,
  mail: 2,
  daemon: 3,
  auth: 4,
  syslog: 5,
  lpr: 6,
  news: 7,
  uucp: 8,
  cron: 9,
  authpriv: 10,
  ftp: 11,
  local0: 16,
  local1: 17,
  local2: 18,
  local3: 19,
  local4: 20,
  local5: 21,
  local6: 22,
  local7: 23,
};

// No prefix is longer than this: hosts, tags, ISO dates and quoting together.
const MAX_PREFIX = 512;

/** Takes the prefixes of a line off. `line` has no line end. */
export function readPrefix(line: string): PrefixedLine {
  const head: PrefixedLine = {
    origin: "bare",
    seq: null,
    timeUs: null,
    facility: null,
    level: null,
    caller: null,
    part: null,
    text: line,
  };
  const first = line.charCodeAt(0);
  if (first === 91) {
    const end = readUptime(line, head);
    if (end !== -1) return head;
  }
  const at = skipQuotes(line);
  const direct = readHead(line, at, head);
  if (direct !== -1) {
    head.text = line.slice(direct);
    return head;
  }
  // `grep -H`, `grep -n`, `kubectl logs --prefix`: a name or a number, then the line itself.
  const start = line.slice(at, at + MAX_PREFIX);
  const file =
    /^(?=[^\s:]{0,255}[./\d]|messages|syslog|dmesg)[^\s:[\]<>]{1,255}:(?:\d{1,10}:)? ?|^\d{1,10}[:-]|^\d{1,10}[ \t]{1,4}(?=[[<]|[A-Z])/.exec(
      start,
    );
  if (file !== null && file[0].length < start.length) {
    const inner = readHead(line, at + file[0].length, head);
    if (inner !== -1) {
      head.text = line.slice(inner);
      return head;
    }
  }
  // A serial console: the kernel goes on where a prompt waits for input.
  const prompt = PROMPT.exec(start);
  if (prompt !== null) {
    const inner = readBrackets(line, at + prompt[0].length, head, false);
    if (inner !== -1) {
      head.text = line.slice(inner);
      return head;
    }
  }
  // Plain text: keep the blanks in front unless they were quoting.
  head.text = at > 0 && /[>|]/.test(line.slice(0, at)) ? line.slice(at) : line;
  return head;
}

// `<12>` is a priority, no prompt.
const PROMPT = /^[^[\]]{0,120}(?:[#$%:]|(?<!<\d{1,4})>) ?(?=\[ {0,11}\d{1,10}\.\d{6}\])/;

/** `[  123.456789] text` without more ado: by far the commonest prefix. -1 where the general way must have a look. */
function readUptime(line: string, head: PrefixedLine): number {
  let at = 1;
  while (line.charCodeAt(at) === 32 && at < 12) at++;
  let seconds = 0;
  const start = at;
  for (let code = line.charCodeAt(at); code >= 48 && code <= 57 && at - start < 10; code = line.charCodeAt(++at))
    seconds = seconds * 10 + code - 48;
  if (at === start || line.charCodeAt(at) !== 46) return -1;
  let micros = 0;
  const point = at + 1;
  for (let code = line.charCodeAt(++at); code >= 48 && code <= 57 && at - point < 6; code = line.charCodeAt(++at))
    micros = micros * 10 + code - 48;
  if (at - point !== 6 || line.charCodeAt(at) !== 93 || line.charCodeAt(at + 1) !== 32) return -1;
  at += 2;
  // A caller id, or the host and tag of journalctl -o short-monotonic, may follow.
  if (line.charCodeAt(at) === 91) return -1;
  if (line.includes(" kernel", at) && TAG_AHEAD.test(line.slice(at, at + 300))) return -1;
  head.origin = "kernel";
  head.timeUs = seconds * 1_000_000 + micros;
  head.text = line.slice(at);
  return at;
}

const TAG_AHEAD = /^[^\s:[\]]{1,255} kernel(?:\[\d{1,10}\])?: /;

/** Mail quoting, pasted indentation. */
function skipQuotes(line: string): number {
  let at = 0;
  while (at < 64) {
    const code = line.charCodeAt(at);
    if (code === 32 || code === 9 || code === 62 || code === 124 || code === 0 || code === 13) at++;
    else break;
  }
  return at;
}

/** Reads the prefixes from `at` into `head`; gives where the message starts, -1 where there is no prefix that we know. */
function readHead(line: string, at: number, head: PrefixedLine): number {
  const start = line.slice(at, at + MAX_PREFIX);
  switch (start.charCodeAt(0)) {
    case 91: // [
      return readBrackets(line, at, head, true);
    case 60: // <
      return readPriority(line, at, start, head);
    default:
      return readWords(line, at, start, head);
  }
}

/** `<N>` of syslog(2), `dmesg -r`, RFC 3164 and RFC 5424. */
function readPriority(line: string, at: number, start: string, head: PrefixedLine): number {
  const priority = /^<(\d{1,4})>(?:\d{1,2} (?=\d{4}-))?/.exec(start);
  if (priority === null) return -1;
  head.facility = Number(priority[1]) >> 3;
  head.level = Number(priority[1]) & 7;
  const rest = at + priority[0].length;
  const saved = head.facility;
  const inner =
    line[rest] === "["
      ? readBrackets(line, rest, head, true)
      : readWords(line, rest, line.slice(rest, rest + MAX_PREFIX), head);
  head.facility = saved;
  if (inner !== -1) {
    if (saved !== 0) head.origin = "other";
    return inner;
  }
  head.origin = saved === 0 ? "kernel" : "other";
  return rest;
}

const UPTIME = /^\[ {0,11}(\d{1,10})\.(\d{1,9})(?:,\d{1,3}|@\d{1,3}| <[ \d.]{1,24}>)?\] ?/;
const CALLER = /^\[ {0,16}([TC]\d{1,10})\] ?/;
const DELTA = /^\[ {0,3}<? {0,12}[+-]?\d{1,10}\.\d{1,9}>?\] ?|^\[<[ \d.]{1,24}>\] ?/;
// `[Sat Apr 27 22:56:09 2019]`, in any language; `[Aug12 03:54]` of dmesg -H.
const WALL = /^\[[^\][]{0,48}?\d{1,2}[:.]\d{2}(?:[:.]\d{2})?[^\][]{0,24}\](?:: | ?)/;
// `kubectl logs --prefix`
const POD = /^\[pod\/[^\][ ]{1,300}\] (?=\[)/;

/** Timestamps in brackets and what may follow them. */
function readBrackets(line: string, at: number, head: PrefixedLine, outer: boolean): number {
  const start = line.slice(at, at + 128);
  const uptime = UPTIME.exec(start);
  let end: number;
  if (uptime !== null) {
    head.timeUs = Number(uptime[1]) * 1_000_000 + Number((uptime[2] ?? "").slice(0, 6).padEnd(6, "0"));
    end = at + uptime[0].length;
  } else {
    const caller = CALLER.exec(start);
    if (caller !== null) {
      head.caller = caller[1] ?? null;
      head.origin = "kernel";
      return at + caller[0].length;
    }
    const wall = DELTA.exec(start) ?? WALL.exec(start) ?? POD.exec(start);
    if (wall !== null && WALL.test(wall[0])) head.date ??= wall[0].replace(/^\[|\][: ]*$/g, "");
    if (wall === null || (!/\d/.test(wall[0]) && wall[0][1] !== "p")) return -1;
    end = at + wall[0].length;
    // A console logger's time, then the kernel's.
    if (outer && (line[end] === "[" || line[end] === "<")) {
      const inner =
        line[end] === "["
          ? readBrackets(line, end, head, false)
          : readPriority(line, end, line.slice(end, end + MAX_PREFIX), head);
      if (inner !== -1) return inner;
    }
    if (wall[0][1] === "p" && !WALL.test(wall[0])) return -1;
  }
  head.origin = "kernel";
  const caller = CALLER.exec(line.slice(end, end + 32));
  if (caller !== null) {
    head.caller = caller[1] ?? null;
    return end + caller[0].length;
  }
  // journalctl -o short-monotonic: a host and a tag follow.
  if (outer) {
    const tag = readTag(line.slice(end, end + MAX_PREFIX));
    // Anything but "host kernel: " is the kernel's own text ("Call Trace:", "usb 1-1: ..."), or keeps its tag and so matches nothing.
    if (tag !== null && tag.host && tag.kernel) return afterTag(line, end + tag.length, head);
  }
  return end;
}

// `host tag: `, `host tag[pid]: `, `tag: `, OpenWrt's `kern.warn kernel: `.
const TAG =
  /^(?:([^\s:[\]]{1,255}) )?(?:([a-z0-9]{2,8})\.([a-z]{2,8}) )?([^\s:[\]]{1,128})(?:\[\d{1,10}\])?:(?: |$|(?<=kernel:))/;
const KERNEL_TAG = /^kernel(?:\.\w{1,8})?$/;

function readTag(
  text: string,
): { length: number; kernel: boolean; host: boolean; facility: number | null; level: number | null } | null {
  const match = TAG.exec(text);
  if (match === null) return null;
  let facility = match[2] === undefined ? undefined : FACILITIES[match[2]];
  let level = match[3] === undefined ? undefined : LEVELS[match[3]];
  const first = match[1];
  const dotted = first === undefined ? null : /^([a-z0-9]{2,8})\.([a-z]{2,8})$/.exec(first);
  if (
    facility === undefined &&
    dotted !== null &&
    FACILITIES[dotted[1] ?? ""] !== undefined &&
    LEVELS[dotted[2] ?? ""] !== undefined
  ) {
    facility = FACILITIES[dotted[1] ?? ""];
    level = LEVELS[dotted[2] ?? ""];
  }
  return {
    length: match[0].length,
    kernel: KERNEL_TAG.test(match[4] ?? ""),
    host: first !== undefined,
    facility: facility ?? null,
    level: level ?? null,
  };
}

const ISO = /^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}:\d{2}(?:[.,]\d{1,9})?(?: ?[+-]\d{2}:?\d{2}| ?Z| UTC)?[ :] ?/;
// `Jan  5 15:19:01 `, `Mon 2025-01-01 10:00:00 CET `, in any language; `2017 ` and zones may follow.
const DATE =
  /^(?:[^\s:[\]<>=,;]{1,16} {1,2}){1,4}?\d{1,2}:\d{2}:\d{2}(?:[.,]\d{1,9})?(?: [A-Z]{3,5}(?= ))?(?: (?:19|20)\d{2}(?= ))? /;
const EPOCH = /^\d{9,10}\.\d{1,9} /;
const DECODED = /^(\w{2,8}) {0,6}: {0,8}(\w{2,7}) {0,6}: /;
// Android: month, day, time, [uid,] pid, tid, level, tag. The kernel's own lines come from pid 0 and have no tag.
const LOGCAT =
  /^\d{2}-\d{2} \d{2}:\d{2}:\d{2}\.\d{3} {1,6}(?:\w{1,12} {1,6})?(\d{1,7}) {1,6}\d{1,7} [VDIWEF] ([^:]{0,64}): /;
// A time alone, as console loggers put it in front.
const TIME = /^\d{1,2}:\d{2}:\d{2}(?:[.,]\d{1,9})? {1,3}(?=[<[])/;
const NETCONSOLE = /^(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9a-f:.]{2,45})(?::\d{1,5})? /;

/** The fields before the text of a record of /dev/kmsg, and their length; null where there are none. */
export function readFields(start: string): {
  length: number;
  seq: number;
  timeUs: number;
  facility: number;
  level: number;
  caller: string | null;
  part: PrefixedLine["part"];
} | null {
  const raw = /^(\d{1,5}),(\d{1,20}),(\d{1,20}),([^;]{0,200});/.exec(start);
  if (raw === null) return null;
  const more = raw[4] ?? "";
  const part = /(?:^|,)ncfrag=(\d{1,6})\/(\d{1,6})/.exec(more);
  return {
    length: raw[0].length,
    seq: Number(raw[2]),
    timeUs: Number(raw[3]),
    facility: Number(raw[1]) >> 3,
    level: Number(raw[1]) & 7,
    caller: /(?:^|,)caller=([TC]\d{1,10})/.exec(more)?.[1] ?? null,
    part: part === null ? null : { from: Number(part[1]), of: Number(part[2]) },
  };
}

/** Prefixes that start with a word or a number. */
function readWords(line: string, at: number, start: string, head: PrefixedLine): number {
  const first = start.charCodeAt(0);
  const digit = first >= 48 && first <= 57;
  if (digit) {
    // Extended netconsole may have the kernel's release in front.
    const raw = /^(?:\d{1,2}\.\d{1,3}[^,;]{0,64},)?/.exec(start)![0].length;
    const fields = readFields(start.slice(raw));
    if (fields !== null) {
      const { length, part, ...rest } = fields;
      Object.assign(head, rest, { part, origin: rest.facility === 0 ? "kernel" : "other" });
      return at + raw + length;
    }
  }
  if (digit) {
    const logcat = LOGCAT.exec(start);
    if (logcat !== null) {
      head.origin = logcat[1] === "0" && (logcat[2] ?? "").trim() === "" ? "kernel" : "other";
      return afterTag(line, at + logcat[0].length, head);
    }
    const time = TIME.exec(start);
    if (time !== null) {
      const inner = readHead(line, at + time[0].length, head);
      if (inner !== -1) return inner;
    }
  }
  // dmesg -x: `kern  :err   : [    1.0] `
  const decoded = DECODED.exec(start);
  if (decoded !== null) {
    const facility = FACILITIES[decoded[1] ?? ""];
    const level = LEVELS[decoded[2] ?? ""];
    if (facility !== undefined && level !== undefined) {
      head.facility = facility;
      head.level = level;
      const end = at + decoded[0].length;
      const inner = readHead(line, end, head);
      head.facility = facility;
      head.level = level;
      head.origin = facility === 0 ? "kernel" : "other";
      return inner === -1 ? end : inner;
    }
  }
  const date = (digit ? (ISO.exec(start) ?? EPOCH.exec(start)) : null) ?? DATE.exec(start);
  if (date === null) {
    // journalctl -o cat with a tag, or a stripped date: `kernel: text`, `host kernel: text`.
    const tag = /^(?:[^\s:[\]]{1,64} )?kernel(?:\[\d{1,10}\])?: ?/.exec(start);
    if (tag === null) return -1;
    head.origin = "kernel";
    return afterTag(line, at + tag[0].length, head);
  }
  let end = at + date[0].length;
  head.date ??= date[0].replace(/[: ]+$/, "");
  // Container runtimes: `2025-01-01T00:00:00Z stdout F `
  const stream = /^std(?:out|err) [FP] /.exec(line.slice(end, end + 16));
  if (stream !== null) end += stream[0].length;
  // A test runner's level and module, then the journal's own line.
  const copied = /^(?:DEBUG|INFO|WARNING|ERROR):[^\s:]{1,64}:(?=\D{1,16} {1,2}\d)/.exec(line.slice(end, end + 100));
  if (copied !== null) {
    const inner = readHead(line, end + copied[0].length, head);
    if (inner !== -1) return inner;
  }
  const rest = line.slice(end, end + MAX_PREFIX);
  const peer = NETCONSOLE.exec(rest);
  if (peer !== null) {
    const inner = readHead(line, end + peer[0].length, head);
    if (inner !== -1) return inner;
  }
  if (rest.charCodeAt(0) === 91) {
    const inner = readBrackets(line, end, head, false);
    if (inner !== -1) return inner;
  }
  const tag = readTag(rest);
  if (tag !== null) {
    head.facility = tag.facility;
    head.level = tag.level;
    if (!tag.kernel) {
      // syslog has a host before the tag. `dmesg --time-format iso` has neither: its words before a colon are the message.
      if (digit && !tag.host) {
        head.origin = "kernel";
        return end;
      }
      head.origin = "other";
      return end + tag.length;
    }
    head.origin = tag.facility === null || tag.facility === 0 ? "kernel" : "other";
    return afterTag(line, end + tag.length, head);
  }
  // RFC 5424: `host kernel - - - text`
  const modern = /^\S{1,255} (\S{1,48}) \S{1,128} \S{1,32} (?:-|\[[^\]]{0,200}\]) /.exec(rest);
  if (modern !== null && modern[1] === "kernel") {
    head.origin = "kernel";
    return afterTag(line, end + modern[0].length, head);
  }
  // A date, then neither tag nor timestamp: `dmesg --time-format iso`, or a line whose dress the report shows.
  if (!digit && peer === null) return -1;
  head.origin = "kernel";
  return end;
}

/** After `kernel: ` there may be a timestamp in brackets. */
function afterTag(line: string, at: number, head: PrefixedLine): number {
  let from = at;
  while (line[from] === " " && from < at + 4) from++;
  if (line[from] !== "[") return at;
  const inner = readBrackets(line, from, head, false);
  return inner === -1 ? at : inner;
}
