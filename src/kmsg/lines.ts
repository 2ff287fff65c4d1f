/* oxlint-disable no-control-regex -- terminals leave theirs in logs */
import { createDresser } from "./dress.ts";
import type { OomLine } from "./grammar.ts";
import { matchOomLine } from "./match.ts";
import { fromJson } from "./objects.ts";
import { type PrefixedLine, readPrefix } from "./prefix.ts";
import { MAX_TEXT, toRecord, unescapeText } from "./record.ts";
import type { KmsgRecord } from "./types.ts";

/** A record that later lines may complete. */
interface Pending {
  record: KmsgRecord;
  rank: number;
  /** The last line taken into account. */
  last: number;
  joins: number;
  /** Length of a record that comes in pieces, else 0. */
  of: number;
}

/**
 * Turns lines of text formats into records. Lines that hold nothing of the OOM killer may be left out: `before` gives
 * the line that many lines before the one being read, where it was left out and may be of use.
 */
export function createLineReader(
  emit: (record: KmsgRecord, found?: OomLine | null) => void,
  before: (distance: number) => string | null = () => null,
  lose: (line: number, reason: string) => void = () => undefined,
  note: (line: number, by: string, text: string) => void = () => undefined,
): {
  line(raw: string, number: number): void;
  flush(): void;
  end(): void;
  waiting(): boolean;
} {
  const dresser = createDresser((record) => emit(record), lose);
  let pending: Pending | null = null;
  let seen = 0;

  function flush(): void {
    if (pending === null) return;
    const { record } = pending;
    pending = null;
    emit(record);
  }

  function line(raw: string, number: number): void {
    if (pending !== null && number > pending.last + MAX_DISTANCE) flush();
    const text = raw.length > MAX_TEXT ? raw.slice(0, MAX_TEXT) : raw;
    const skipped = number - seen - 1;
    seen = number;
    if (text.includes("\r") || text.includes("\u001b")) {
      const parts = clean(text)
        .split("\r")
        .filter((part) => part !== "");
      for (const [i, part] of parts.entries()) one(part, number, i === 0 ? skipped : 0);
      return;
    }
    one(text, number, skipped);
  }

  function one(raw: string, number: number, skipped: number): void {
    let first = raw.charCodeAt(0);
    let text = raw;
    if (first === 0 || first === 30 || (first === 100 && raw.startsWith("data: {"))) {
      // A crash's NULs; journalctl -o json-seq and json-sse.
      text = raw.replace(/^(?:\0+|\u001e|data: )/, "");
      first = text.charCodeAt(0);
    }
    if (Number.isNaN(first)) return;
    // A dictionary line of the raw format.
    if (first === 32 && /^ [A-Z_]+=/.test(text.slice(0, 64))) {
      flush();
      return;
    }
    if (first === 123 && object(text, number)) return;
    const dressed = dresser.read(text, number);
    if (dressed !== undefined) {
      flush();
      emit(dressed);
      return;
    }
    const head = readPrefix(text);
    if (head.origin === "bare") {
      if (skipped > 0) lookBack(number, skipped);
      if (pending !== null && pending.of === 0 && join(pending, head.text, number)) return;
      if (head.text.trim() === "") return;
    }
    if (head.part !== null && head.part.from > 0 && skipped > 0) lookBack(number, skipped);
    if (head.part !== null && pieceOf(head)) return;
    flush();
    // A collector's prefix, then the entry.
    if (head.origin !== "bare" && head.text.startsWith('{"') && object(head.text, number)) return;
    const record = toRecord(head, number);
    if (record === null) {
      const other = OTHER_KILLER.exec(text.slice(0, 1024));
      if (other !== null) note(number, other[1]!, other[2]!);
      return;
    }
    if (head.part !== null && head.part.from === 0 && record.text.length < head.part.of) {
      pending = { record, rank: 0, last: number, joins: 0, of: head.part.of };
      return;
    }
    if (record.seq !== null) {
      emit(record);
      return;
    }
    const found = matchOomLine(record.text);
    if (!isWhole(found) && dresser.hold(text, number, head, found === null ? null : record)) return;
    if (mayContinue(record, found))
      pending = { record, rank: rankOf(found, record.text), last: number, joins: 0, of: 0 };
    else emit(record, found);
  }

  function object(text: string, number: number): boolean {
    const records = fromJson(text, number);
    if (records === null) return false;
    flush();
    for (const record of records) emit(record);
    return true;
  }

  /** Adds the next piece of a record that extended netconsole sent in several. */
  function pieceOf(head: PrefixedLine): boolean {
    if (pending === null || pending.of === 0 || pending.record.seq !== head.seq || pending.joins >= 64) return false;
    pending.record = { ...pending.record, text: pending.record.text + unescapeText(head.text) };
    pending.joins++;
    pending.last++;
    if (pending.record.text.length >= pending.of) flush();
    return true;
  }

  /** A prefix may stand alone before the line that it belongs to. All other beginnings of records are found by themselves. */
  function lookBack(number: number, skipped: number): void {
    for (let distance = 1; distance <= Math.min(MAX_DISTANCE, skipped); distance++) {
      const text = before(distance);
      if (text === null) return;
      if (text.trim() === "") continue;
      line(text, number - distance);
      seen = number;
      return;
    }
  }

  /** Continues the pending record with a line that has no prefix; false where that makes no better record. */
  function join(wait: Pending, text: string, number: number): boolean {
    if (text.trim() === "") return true;
    if (wait.joins >= MAX_JOINS || wait.record.text.length + text.length > MAX_TEXT) return false;
    const next = text.trim();
    const before = wait.record.text;
    const held = before.trimEnd();
    if (held !== "" && matchOomLine(next) !== null && !(isStub(held) && next.startsWith("Kill"))) return false;
    let best: { text: string; rank: number; found: OomLine | null } | null = null;
    // Mail wraps at blanks, a terminal in the middle of a word.
    for (const glue of held === "" || held !== before ? [" "] : ["", " "]) {
      const joined = held === "" ? next : held + glue + next;
      const found = matchOomLine(joined);
      const rank = rankOf(found, joined) + (glue === "" && endsNumber(found, next) ? 1 : 0);
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
    wait.last = number;
    if (!mayContinue(wait.record, best.found)) flush();
    return true;
  }

  function end(): void {
    flush();
    dresser.end();
  }

  return { line, flush, end, waiting: () => pending !== null };
}

// What other killers log of a kill (systemd src/oom/oomd-util.c, earlyoom kill.c).
const OTHER_KILLER =
  / (systemd-oomd|earlyoom)(?:\[\d{1,10}\])?: (Killed \/.{1,512} due to .{1,300}|sending SIG(?:TERM|KILL) to process \d.{1,300})$/;

// A record is wrapped into so many lines more at most.
const MAX_JOINS = 8;
// Between the parts of a wrapped record one line may be blank.
const MAX_DISTANCE = 2;

const ANSI =
  /\u001b(?:\[[0-?]{0,32}[ -/]{0,4}[@-~]|\][^\u0007\u001b]{0,256}(?:\u0007|\u001b\\)?|[()][A-Z0-9]|[@-Z\\^_=>])/g;

/** Terminal colours and the like. */
function clean(text: string): string {
  return text.includes("\u001b") ? text.replace(ANSI, "") : text;
}

/** Whether a record ends where its line does. */
function isWhole(found: OomLine | null): boolean {
  if (found?.type === "killed") return found.shape !== "garbled";
  return found !== null && (found.type !== "selected" || found.whole) && (found.type !== "chosen" || found.whole);
}

/** How much of a record is there; more is better. */
function rankOf(found: OomLine | null, text: string): number {
  switch (found?.type) {
    case undefined:
      return isStub(text) ? 0.5 : 0;
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
      return found.whole ? 3 : 2;
    case "taskin":
      // A path cut at a slash looks whole: the longest that fits is right.
      if (found.whole) return 3 + found.limit.length;
      return found.limit !== "" ? 2 : 1 + (/ k[a-z ]{0,32}$/.exec(text.slice(-40))?.[0].length ?? 0) / 50;
    case "header":
      return found.order === null ? 2 : 3;
    default:
      return 3;
  }
}

/** Whether a line of a few digits alone goes on with the number that a kill line ends with. */
function endsNumber(found: OomLine | null, next: string): boolean {
  return found?.type === "killed" && /^\d{1,3}$/.test(next);
}

/** Whether the next line may hold more of this record. */
function mayContinue(record: KmsgRecord, found: OomLine | null): boolean {
  if (found === null)
    return isStub(record.text) || (record.text.length < 64 && record.text.trim() === "" && record.bare !== true);
  // The last number may go on, as long as a score adjustment can: up to 1000.
  if (found.type === "killed")
    return (
      found.shape !== "whole" ||
      found.oomScoreAdj === null ||
      (found.oomScoreAdj !== 0 && Math.abs(found.oomScoreAdj) < 101)
    );
  if (found.type === "taskin") return found.limit !== found.task || found.limit === "";
  if (found.type === "selected" || found.type === "chosen") return !found.whole;
  return found.type === "header" && (found.order === null || !/adj=-?\d/.test(found.rest));
}

const STUBS = ["Memory cgroup out of memory", "Out of memory"]
  .flatMap((message) =>
    [": ", " (oom_kill_allocating_task): "].flatMap((middle) =>
      ["Killed process ", "Kill process "].map((verb) => `${message}${middle}${verb}`),
    ),
  )
  .concat("Killed process ");
// Cut where what tells the record apart is on the line already.
const INVOKED = /^ invoked oom-kill(?:e(?:r(?::(?: g(?:f(?:p(?:_m?a?s?k?=?0?x?)?)?)?)?)?)?)?$/;

/** The beginning of an OOM record, cut before it can be told which. */
function isStub(raw: string): boolean {
  if (raw.length > 12_288) return false;
  const invoked = raw.length < 100 ? raw.indexOf(" invoked oom-kill", raw.length - 40) : -1;
  if (invoked > 0 && INVOKED.test(raw.slice(invoked).trimEnd())) return true;
  // M, O, K, T, or a blank to be left out
  const first = raw.charCodeAt(0);
  if (first !== 77 && first !== 79 && first !== 75 && first !== 84 && first > 32) return false;
  const text = raw.trim();
  if (!/^[MOKT]/.test(text)) return false;
  if (text.startsWith("Task"))
    return text.startsWith("Tasks in /")
      ? !text.endsWith("memory.oom.group set")
      : text === "Task in" || text === "Tasks in";
  if (text.length < 12) return false;
  const start = text.length < 100 ? text.replace(/(?<= )\d{1,10},?$/, "") : "";
  return start !== "" && STUBS.some((stub) => stub.startsWith(start));
}
