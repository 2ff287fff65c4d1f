// What stands around the kernel's words on each line of a report, learnt from two of its records where no known prefix fits.
import type { PrefixedLine } from "./prefix.ts";
import { toRecord } from "./record.ts";
import type { KmsgRecord } from "./types.ts";

/** A record whose beginning and end are known wherever it stands in a line. */
interface Anchor {
  type: "selected" | "chosen" | "killed";
  pid: number;
  before: string;
  behind: string;
}

const MESSAGE = "(?:(?:Memory cgroup o|O)ut of memory(?: \\(oom_kill_allocating_task\\))?: )?";
const ANCHORS: readonly (readonly [Anchor["type"], RegExp])[] = [
  ["selected", /oom-kill:(?:constraint=[A-Z_]{1,64})?,.{1,8192},pid=(\d{1,10}),uid=\d{1,10}/],
  [
    "killed",
    new RegExp(
      `${MESSAGE}Killed process (\\d{1,10}) \\(.{0,64}\\)(?:, UID \\d+,)? total-vm:\\d+kB(?:,? [A-Za-z_-]{3,20}:-?\\d+(?:kB)?)*`,
    ),
  ],
  ["chosen", new RegExp(`${MESSAGE}Kill process (\\d{1,10}) \\(.{0,64}\\) score \\d+ or (?:sacrifice child|a child)`)],
];
const HEADER = / invoked oom-killer: gfp_mask=0x/;

function anchorOf(line: string): Anchor | null {
  for (const [type, pattern] of ANCHORS) {
    const found = pattern.exec(line);
    if (found !== null) {
      const end = found.index + found[0].length;
      return { type, pid: Number(found[1]), before: line.slice(0, found.index), behind: line.slice(end) };
    }
  }
  return null;
}

// Behind a prefix of the kernel's own that is known, its message stands: only such marks may come before a record.
const MARKED = /(?:\bkernel: ?|\[ *\d+\.\d{6}\] ?|^(?:\s*(?:\[[^\]]*\]|\([^)]*\)))*\s*)$/;
const MAX_AFFIX = 512;
const VARIES = /\d+|\s+|\b(?:emerg|alert|crit|err|error|warn|warning|notice|info|debug)\b|[^\w\s]|[A-Za-z_]+/gi;

/** A pattern of the same shape: numbers, blanks and levels vary, the rest is the same. */
function shapeOf(affix: string): string {
  return (affix.match(VARIES) ?? [])
    .map((part) => {
      if (/^\d/.test(part)) return "\\d+";
      if (/^\s/.test(part)) return "\\s+";
      if (/^(?:emerg|alert|crit|err|error|warn|warning|notice|info|debug)$/i.test(part)) return "[A-Za-z]+";
      return part.replace(/[$()*+.?[\\\]^{|}/-]/g, "\\$&");
    })
    .join("");
}

interface Dress {
  before: RegExp;
  behind: RegExp;
}

interface Held {
  text: string;
  number: number;
  anchor: Anchor | null;
  /** What it is as it stands. */
  record: KmsgRecord | null;
  isBare: boolean;
}

// What closes a quotation of some kind; words behind a record say that a message only mentions it.
const QUOTES = /^(?:[^A-Za-z0-9<]|<[^>]{0,64}>)*$/;
const MAX_HELD = 5000;
const MAX_DRESSES = 4;

/**
 * Holds lines that may belong to a report in an unknown dress until two of its records show the same one around them, and
 * gives their records then. A kill that stays alone is lost, and `lose` is called.
 */
export function createDresser(
  emit: (record: KmsgRecord) => void,
  lose: (line: number, reason: string) => void,
): {
  /** The record of a line in a dress learnt before; undefined where it has none of them. */
  read(text: string, number: number): KmsgRecord | undefined;
  /** Takes a line that is no record as it stands, or a `record` that goes on behind its end; true where it will come back or has. */
  hold(text: string, number: number, head: PrefixedLine, record: KmsgRecord | null): boolean;
  end(): void;
} {
  const dresses: Dress[] = [];
  let held: Held[] = [];

  function read(text: string, number: number): KmsgRecord | undefined {
    for (const { before, behind } of dresses) {
      const start = before.exec(text.slice(0, MAX_AFFIX * 2));
      if (start === null) continue;
      const rest = text.slice(start[0].length);
      const end = behind.exec(rest);
      if (end === null) continue;
      return recordOf(start[0], rest.slice(0, end.index), number) ?? undefined;
    }
    return undefined;
  }

  function giveUp(lines: Held[]): void {
    for (const { anchor, number, record, isBare } of lines)
      if (record !== null) emit(record);
      else if (anchor?.type === "killed" && isBare && QUOTES.test(anchor.behind))
        lose(
          number,
          `"Killed process ${anchor.pid}" amid other words that no other record of its report has: not read`,
        );
  }

  function hold(text: string, number: number, head: PrefixedLine, record: KmsgRecord | null): boolean {
    if (head.origin === "other" || (held.length === 0 && !/[Kk]ill/.test(text))) return false;
    const found = anchorOf(text);
    if (record !== null && (found === null || found.behind === "")) return false;
    const known = text.length - head.text.length;
    const anchor =
      found !== null &&
      found.before.length <= MAX_AFFIX &&
      found.behind.length <= MAX_AFFIX &&
      (head.origin === "bare" ||
        (head.timeUs === null && head.facility === null) ||
        MARKED.test(found.before.slice(known)))
        ? found
        : null;
    if (anchor === null && !HEADER.test(text) && held.length === 0) return false;
    if (held.length >= MAX_HELD) giveUp(held.splice(0, MAX_HELD / 2));
    held.push({ text, number, anchor, record, isBare: head.origin === "bare" });
    if (anchor === null) return record !== null;
    const mate = held.slice(0, -1).findLast((other) => other.anchor !== null && areOne(other.anchor, anchor));
    if (mate === undefined) return record !== null;
    const [prefix, suffix] = [shapeOf(anchor.before), shapeOf(anchor.behind)];
    const dress = { before: new RegExp(`^${prefix}`), behind: new RegExp(`${suffix}$`) };
    const fits =
      new RegExp(`^${prefix}$`).test(mate.anchor!.before) && new RegExp(`^${suffix}$`).test(mate.anchor!.behind);
    if (!fits) return record !== null;
    dresses.unshift(dress);
    dresses.length = Math.min(dresses.length, MAX_DRESSES);
    const lines = held;
    held = [];
    for (const line of lines) {
      const dressed = read(line.text, line.number);
      if (dressed !== undefined) emit(dressed);
      else giveUp([line]);
    }
    return true;
  }

  return {
    read,
    hold,
    end() {
      giveUp(held);
      held = [];
    },
  };
}

/** Whether two records can be of one report. */
function areOne(a: Anchor, b: Anchor): boolean {
  return a.type !== b.type && (a.pid === b.pid || a.type === "chosen" || b.type === "chosen");
}

/** The record in a line's middle, with what its prefix says of time, level and caller; null where userland wrote it. */
function recordOf(prefix: string, text: string, line: number): KmsgRecord | null {
  const priority = /(?:<|&lt;)(\d{1,4})(?:>|&gt;)/.exec(prefix) ?? /\b(\d{1,5}),\d{1,20},\d{1,20},[^;]*;$/.exec(prefix);
  const uptime = /\[ *(\d{1,10})\.(\d{6})\]/.exec(prefix);
  const facility = priority === null ? null : Number(priority[1]) >> 3;
  return toRecord(
    {
      origin: facility === null || facility === 0 ? "kernel" : "other",
      seq: null,
      timeUs: uptime === null ? null : Number(uptime[1]) * 1_000_000 + Number(uptime[2]),
      facility,
      level: priority === null ? null : Number(priority[1]) & 7,
      caller: /\[ *([TC]\d{1,10})\]/.exec(prefix)?.[1] ?? null,
      part: null,
      text,
    },
    line,
  );
}
