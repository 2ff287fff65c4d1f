import { type ReportText, addContext, newReportText, readDetails, readReaper } from "./details.ts";
import {
  type ChosenLine,
  type HeaderLine,
  type KilledLine,
  type OomLine,
  type OomPrefix,
  type SelectedLine,
  type TaskInLine,
} from "./grammar.ts";
import { type Report, isMemcg, kindOf, near, toKill } from "./kill.ts";
import { matchOomLine } from "./match.ts";
import type { KmsgRecord, OomIncomplete, OomKill, OomScan, OomScanOptions } from "./types.ts";

const NONE: Report[] = [];
const NO_KILLS: OomKill[] = [];

/** A group kill under way (mm/oom_kill.c oom_kill_memcg_member()). */
interface Sweep {
  path: string;
  first: OomKill | null;
  prefix: OomPrefix | null;
  caller: string | null;
  timeUs: number | null;
  line: number;
  pids: Set<number>;
}

// Old kernels let a memcg and a node-level kill run at once; since 4.2 oom_lock makes them take turns.
const MAX_OPEN = 4;
// Dumping a report to a slow serial console takes seconds; more than this is another event.
const MAX_REPORT_US = 120_000_000;
const MAX_REPORT_LINES = 20_000;
const MAX_HEADER_ONLY_LINES = 3_000;
const MAX_LISTED = 10_000;
// The callers of oom_kill_process() in a stack.
const FRAME_WINDOW = 8;
const PIECE_LINES = 8;
const PANIC_LINES = 3;
// A group's members are printed between the two records of its first victim.
const MAX_RECENT = 1024;
// With details: a report whose head was cut off stands at the start of a log ...
export const HEAD_LINES = 500;
// ... and the reaper's record comes soon after the kill.
export const TAIL_LINES = 64;

/**
 * Incremental: records in, kills out as soon as they are complete. State is bounded, whatever the log.
 * `push` gives the kills that this record completed; `end` gives the rest of the scan, with the kills that no push gave.
 */
export function createOomScanner(options: OomScanOptions = {}): {
  push(record: KmsgRecord): OomKill[];
  end(): OomScan;
} {
  const scanner = createMatchedScanner(options);
  let count = 0;
  return { push: (record) => scanner.push(record, undefined, ++count).slice(), end: () => scanner.end() };
}

/**
 * The scanner for callers that pass over records of no interest, or have matched a record already. A record that no matcher takes never changes what is told later, but for the stack and the details.
 */
export function createMatchedScanner(options: OomScanOptions): {
  /** `position`: how many records, or lines that may be records, have been passed. */
  push(record: KmsgRecord, found?: OomLine | null, position?: number): OomKill[];
  /** How many lines after this one, just read, are of interest whatever they hold. */
  wants(line: number): number;
  /** Whether a report is under way that this line may belong to. */
  isOpen(line: number): boolean;
  end(): OomScan;
} {
  const withDetails = options.details === true;
  let open: Report[] = [];
  let sweep: Sweep | null = null;
  let sysrqLine: KmsgRecord | null = null;
  let lastSeq: number | null = null;
  let lastSeqAt = 0;
  let at = 0;
  let lastLine = 0;
  // A record of a report had a prefix: the log is whole, and a bare line in it is another program's.
  let prefixed = false;
  // The last kill without the records before it: `journalctl -r` has them behind it.
  let tail: { kill: OomKill; record: KmsgRecord; killed: KilledLine; report: Report } | null = null;
  let newestFirst = false;
  let lastNone = Number.NEGATIVE_INFINITY;
  let lastKill: { kill: OomKill; prefix: OomPrefix | null; caller: string | null } | null = null;
  const scan: OomScan = { kills: [], incomplete: [], suppressed: 0, noVictim: [], panics: [] };
  // The last kills: the reaper's line comes later.
  const reapable = new Map<number, OomKill>();
  // The same for a group's first victim, which is printed twice, and for two sources in one log.
  const recent = new Map<number, OomKill>();
  // Lines of a report whose head was cut off, for details.
  let orphan: ReportText | null = null;

  function giveUp(report: Report, reason: string): void {
    open = open.filter((other) => other !== report);
    if (scan.incomplete.length < MAX_LISTED) scan.incomplete.push(incompleteOf(report, reason));
  }

  function close(report: Report): void {
    open = open.filter((other) => other !== report);
  }

  function start(record: KmsgRecord): Report {
    if (open.length >= MAX_OPEN) giveUp(open[0]!, whyOpen(open[0]!));
    const report = newReport(record, withDetails ? (orphan ?? newReportText()) : null);
    orphan = null;
    open.push(report);
    return report;
  }

  /** Open reports that this record may belong to, the latest first. */
  function candidates(record: KmsgRecord): Report[] {
    if (open.length === 0) return NONE;
    const found: Report[] = [];
    for (let i = open.length - 1; i >= 0; i--) {
      const report = open[i]!;
      if (sameCaller(report.caller, record.caller)) found.push(report);
    }
    return found;
  }

  function extend(report: Report, record: KmsgRecord): void {
    report.lines.push(record.line);
    if (report.lines.length > 64) report.lines.splice(1, 1);
    report.caller ??= record.caller;
  }

  /** Drops reports that this record shows to be over. */
  function expire(record: KmsgRecord): void {
    const gap = gapBefore(record);
    for (const report of open) {
      const age = record.timeUs !== null && report.timeUs !== null ? record.timeUs - report.timeUs : null;
      if (gap > 0 && report.selected?.whole !== true && report.chosen === null)
        giveUp(report, `${gap} records of the log were lost before this report's kill`);
      else if (gap < 0 || (age !== null && age < -1_000_000)) giveUp(report, `${whyOpen(report)}; the log starts over`);
      else if (
        age !== null
          ? age > MAX_REPORT_US
          : record.line - report.line >
            (report.selected === null && report.chosen === null ? MAX_HEADER_ONLY_LINES : MAX_REPORT_LINES)
      )
        giveUp(report, whyOpen(report));
    }
    if (
      sweep !== null &&
      (gap < 0 ||
        (record.timeUs !== null &&
          sweep.timeUs !== null &&
          (record.timeUs - sweep.timeUs > 5_000_000 || record.timeUs < sweep.timeUs - 1_000_000)))
    )
      sweep = null;
  }

  /** Adds a record that stands behind its kill, in a log that has the newest first; false where it is none. */
  function addBehind(record: KmsgRecord, add: Partial<Report>): boolean {
    if (tail === null || !sameCaller(tail.report.caller, record.caller)) return false;
    const { kill, report, killed } = tail;
    if (record.timeUs !== null && kill.timeUs !== null && !(kill.timeUs - record.timeUs < MAX_REPORT_US)) return false;
    if (record.timeUs !== null && kill.timeUs !== null && record.timeUs > kill.timeUs) return false;
    if (record.line - kill.lines.at(-1)! > MAX_REPORT_LINES) return false;
    newestFirst = true;
    sweep = null;
    Object.assign(report, add);
    report.lines.push(record.line);
    if (report.text !== null) addContext(report.text, record.text);
    const { group, details } = kill;
    Object.assign(kill, toKill(tail.record, killed, report, null), { group });
    if (details !== undefined) {
      const text = report.text === null ? null : { ...report.text, lines: report.text.lines.toReversed() };
      kill.details = { ...readDetails(text, report, killed), reaper: details.reaper };
    }
    if (add.header !== undefined) tail = null;
    return true;
  }

  /** Whether a record that names this pid belongs to the kill before it. */
  function isBehind(record: KmsgRecord, pid: number | null): boolean {
    if (tail === null || tail.killed.pid !== pid || tail.report.selected !== null) return false;
    const earlier = record.timeUs !== null && tail.kill.timeUs !== null && record.timeUs < tail.kill.timeUs;
    return newestFirst || open.length === 0 || earlier;
  }

  function onHeader(record: KmsgRecord, header: HeaderLine): void {
    if (newestFirst && tail !== null && (tail.report.selected !== null || tail.report.chosen !== null)) {
      if (addBehind(record, { header })) return;
    }
    sweep = null;
    orphan = null;
    for (const report of candidates(record)) {
      // The same task, or a kernel that prints one report at a time (5.0+: it has an oom-kill: line), is done with the earlier one.
      if (report.selected !== null || (report.caller !== null && record.caller !== null))
        giveUp(report, whyOpen(report));
    }
    const report = start(record);
    report.header = header;
    if (header.order === -1) {
      report.sysrq = true;
      if (sysrqLine !== null) report.lines.unshift(sysrqLine.line);
    }
    sysrqLine = null;
    if (report.text !== null) addContext(report.text, record.text);
  }

  function onTaskIn(record: KmsgRecord, taskIn: TaskInLine): void {
    if (newestFirst && tail !== null && tail.report.chosen !== null && addBehind(record, { taskIn })) return;
    const twin = candidates(record).find(
      (report) =>
        report.taskIn !== null &&
        report.taskIn.task === taskIn.task &&
        report.taskIn.limit === taskIn.limit &&
        report.chosen === null,
    );
    if (twin !== undefined) return;
    const report = candidates(record).find(
      (other) => other.header !== null && other.taskIn === null && other.chosen === null && other.selected === null,
    );
    const target = report ?? start(record);
    if (report !== undefined) extend(report, record);
    target.taskIn = taskIn;
    if (target.text !== null) addContext(target.text, record.text);
  }

  function onSelected(record: KmsgRecord, selected: SelectedLine): void {
    if (isBehind(record, selected.pid) && addBehind(record, { selected, selectedText: record.text })) return;
    sweep = null;
    for (const other of candidates(record))
      if (other.selected !== null && other.selected !== selected) giveUp(other, whyOpen(other));
    const report = candidates(record).find(
      (other) => other.header !== null && other.selected === null && other.chosen === null && other.taskIn === null,
    );
    const target = report ?? start(record);
    if (report !== undefined) extend(report, record);
    target.selected = selected;
    target.selectedText = record.text;
    if (!selected.whole && record.seq !== null) target.piecesUntil = record.line + PIECE_LINES;
  }

  function onChosen(record: KmsgRecord, chosen: ChosenLine): void {
    if (tail?.killed.prefix === null && tail.report.chosen === null && isBehind(record, chosen.pid))
      if (addBehind(record, { chosen })) return;
    const report = candidates(record).find(
      (other) =>
        other.chosen === null &&
        agrees(other, chosen.prefix) &&
        (other.header !== null || other.taskIn !== null || other.selected !== null),
    );
    for (const other of candidates(record))
      if (other !== report && other.chosen !== null) giveUp(other, whyOpen(other));
    const target = report ?? start(record);
    if (report !== undefined) extend(report, record);
    target.chosen = chosen;
  }

  /** The open report that a kill line ends. */
  function reportOf(record: KmsgRecord, killed: KilledLine): Report | null {
    const near = candidates(record);
    const chosenFor = near.find((report) => report.selected?.pid === killed.pid);
    if (newestFirst || killed.policy === true) return chosenFor ?? null;
    if (killed.prefix === null) {
      if (chosenFor !== undefined && chosenFor.chosen === null && isMemcg(chosenFor.selected!) === null)
        return chosenFor;
      const chosen = near.filter((report) => report.chosen !== null);
      return (
        chosen.find((report) => report.chosen?.pid === killed.pid) ??
        chosen[0] ??
        near.find((report) => report.taskIn !== null || report.header !== null) ??
        null
      );
    }
    const agreeing = near.filter((report) => agrees(report, killed.prefix!));
    const named = agreeing.find((report) => report.selected?.pid === killed.pid);
    if (named !== undefined) return named;
    // A thread stands in for its process since 5.1: the same event, where nothing speaks against it.
    const other = agreeing.find((report) => report.selected !== null);
    if (other?.selected?.whole === true) return sameProcess(other.selected, killed) ? other : null;
    if (other !== undefined) return other;
    // Since 5.1 a header comes with its oom-kill: line; without one, only a header close by is this kill's.
    return (
      agreeing.find(
        (report) =>
          report.header !== null &&
          (record.timeUs !== null && report.timeUs !== null
            ? record.timeUs >= report.timeUs && record.timeUs - report.timeUs < 10_000_000
            : record.line - report.line < 300),
      ) ?? null
    );
  }

  function onKilled(record: KmsgRecord, killed: KilledLine): OomKill[] {
    const report = reportOf(record, killed);
    const strict = record.seq !== null;
    const named = report !== null && (report.selected?.pid === killed.pid || report.chosen !== null);
    if (killed.shape === "garbled" || killed.comm === null || (killed.shape === "cut" && strict)) {
      const reason = `a "Killed process ${killed.pid}" record that is ${killed.shape === "garbled" ? "not in the kernel's words" : "cut off"}: no kill is told from it`;
      if (report !== null && (named || killed.shape === "cut")) giveUp(report, reason);
      else if (scan.incomplete.length < MAX_LISTED) scan.incomplete.push({ line: record.line, reason });
      return [];
    }
    if (killed.policy === true && !named) {
      const reason = `"Killed process ${killed.pid}" in words that no kernel is known to print, and no report names it: no kill is told from it`;
      if (scan.incomplete.length < MAX_LISTED) scan.incomplete.push({ line: record.line, reason });
      return [];
    }
    // Without facility and prefix any program can have written it: then something of the kernel's must speak for it.
    if (
      record.bare === true &&
      ((prefixed && !(named && report !== null)) || (killed.shape === "bare" && killed.prefix === null && !named))
    ) {
      if (scan.incomplete.length < MAX_LISTED)
        scan.incomplete.push({
          line: record.line,
          reason: `"Killed process ${killed.pid}" stands on a line without the prefix that this log's kernel records have: no kill is told from it`,
        });
      return [];
    }
    // A group's first victim is printed twice, and two sources in one file may both have a record.
    const before = recent.get(killed.pid);
    if (report === null && before !== undefined && isRepeat(before, record, killed)) {
      if (before.lines.length < 64 && before.lines.at(-1) !== record.line) before.lines.push(record.line);
      return [];
    }
    if (
      sweep !== null &&
      (report === null || !named) &&
      (killed.prefix === null || sweep.prefix === null || killed.prefix === sweep.prefix) &&
      sameCaller(sweep.caller, record.caller)
    ) {
      return onMember(record, killed, sweep);
    }
    sweep = null;
    orphan = null;
    const kill = toKill(record, killed, report, sysrqLine);
    sysrqLine = null;
    tail =
      report?.selected == null && report?.chosen == null && report?.taskIn == null
        ? { kill, record, killed, report: { ...newReport(record, withDetails ? newReportText() : null), lines: [] } }
        : null;
    if (report !== null) {
      close(report);
      if (withDetails) kill.details = readDetails(report.text, report, killed);
    } else if (withDetails) kill.details = readDetails(null, null, killed);
    lastKill = {
      kill,
      prefix: killed.prefix ?? report?.chosen?.prefix ?? null,
      caller: record.caller ?? report?.caller ?? null,
    };
    return [remember(kill)];
  }

  function onMember(record: KmsgRecord, killed: KilledLine, current: Sweep): OomKill[] {
    current.timeUs = record.timeUs ?? current.timeUs;
    if (current.pids.has(killed.pid)) {
      // The sweep names the victim that started it once more.
      const first = current.first;
      if (first !== null && first.victim.pid === killed.pid) first.lines.push(record.line);
      return [];
    }
    if (current.pids.size < 100_000) current.pids.add(killed.pid);
    const first = current.first;
    const kill = toKill(record, killed, null, null);
    kill.kind = first?.kind ?? kill.kind;
    kill.oomMemcg = first?.oomMemcg ?? null;
    kill.trigger = first?.trigger ?? "unknown";
    kill.group = true;
    kill.lines = [current.line, record.line];
    kill.missing = first === null ? ["header", "oom-kill"] : kill.missing.filter((part) => part === "sizes");
    if (withDetails) {
      kill.details = readDetails(null, null, killed);
      kill.details.groupPath = current.path;
      if (first?.details !== undefined && first.details.groupMembers.length < 10_000)
        first.details.groupMembers.push(killed.pid);
    }
    return [remember(kill)];
  }

  function remember(kill: OomKill): OomKill {
    lastLine = kill.lines.at(-1)!;
    recent.delete(kill.victim.pid);
    recent.set(kill.victim.pid, kill);
    if (recent.size > MAX_RECENT) recent.delete(recent.keys().next().value!);
    if (withDetails) {
      reapable.delete(kill.victim.pid);
      reapable.set(kill.victim.pid, kill);
      if (reapable.size > TAIL_LINES) reapable.delete(reapable.keys().next().value!);
    }
    return kill;
  }

  function onOther(record: KmsgRecord): void {
    const text = record.text;
    if (withDetails && record.line - lastLine <= TAIL_LINES && text.startsWith("oom_reaper: ")) {
      const reaped = readReaper(text);
      const kill = reaped === null ? undefined : reapable.get(reaped.pid);
      if (reaped !== null && kill?.details !== undefined && kill.details.reaper === null) {
        kill.details.reaper = {
          anonRss: reaped.anonRss,
          fileRss: reaped.fileRss,
          shmemRss: reaped.shmemRss,
          line: record.line,
        };
        reapable.delete(reaped.pid);
      }
      return;
    }
    if (newestFirst && tail?.report.text != null) addContext(tail.report.text, text);
    if (open.length === 0) {
      if (withDetails && record.line <= HEAD_LINES && (isReportLine(text) || (orphan !== null && record.bare === true)))
        addContext((orphan ??= newReportText()), text);
      return;
    }
    const report = candidates(record)[0];
    if (report === undefined) return;
    // A long oom-kill: line is printed in pieces, and another CPU may cut it in two: the rest is a record of its own.
    if (report.selected !== null && !report.selected.whole && record.line <= report.piecesUntil && record.level === 6) {
      const joined = report.selectedText + text;
      const again = joined.length > 16_384 ? null : matchOomLine(joined);
      if (again?.type === "selected") {
        report.selected = again;
        report.selectedText = joined;
        extend(report, record);
      }
      return;
    }
    if (text.length < 400) {
      if (text.includes("oom_kill_process+") || text.includes("oom_kill_process.")) report.frameLine ??= record.line;
      else if (report.frameLine !== null && record.line - report.frameLine <= FRAME_WINDOW && isLimitWrite(text))
        report.limitWrite = true;
    }
    if (report.text !== null && record.line - report.line <= MAX_REPORT_LINES) addContext(report.text, text);
  }

  function push(record: KmsgRecord, found?: OomLine | null, position: number = record.line): OomKill[] {
    at = position;
    if (record.facility !== null && record.facility !== 0) return NO_KILLS;
    const line = found === undefined ? matchOomLine(record.text) : found;
    let kills: OomKill[] = NO_KILLS;
    if (line === null) onOther(record);
    else {
      expire(record);
      switch (line.type) {
        case "header":
          onHeader(record, line);
          break;
        case "taskin":
          if (line.limit !== "") onTaskIn(record, line);
          break;
        case "selected":
          onSelected(record, line);
          break;
        case "chosen":
          onChosen(record, line);
          break;
        case "killed":
          kills = onKilled(record, line);
          break;
        case "group":
          startSweep(record, line.path);
          break;
        case "exiting": {
          const report =
            candidates(record).find((other) => other.selected?.pid === line.pid) ??
            (sweep === null ? candidates(record)[0] : undefined);
          if (report !== undefined) close(report);
          break;
        }
        case "suppressed":
          scan.suppressed += line.count;
          break;
        case "none": {
          lastNone = record.line;
          const report = candidates(record).find((other) => other.selected === null && other.chosen === null);
          if (report !== undefined) close(report);
          if (scan.noVictim.length < MAX_LISTED)
            scan.noVictim.push({ line: report?.line ?? record.line, lines: [...(report?.lines ?? []), record.line] });
          break;
        }
        case "panic": {
          if (line.follows && record.line - lastNone > PANIC_LINES) break;
          const report = candidates(record)[0];
          if (report !== undefined) close(report);
          if (scan.panics.length < MAX_LISTED)
            scan.panics.push({ line: record.line, text: ` ${record.text}`.slice(1) });
          break;
        }
        case "sysrq":
          sysrqLine = record;
          break;
      }
      if (record.bare !== true && /^(?:header|selected|chosen)$/.test(line.type)) prefixed = true;
      if (record.seq !== null) {
        lastSeq = record.seq;
        lastSeqAt = at;
      }
    }
    return kills;
  }

  /** How many lines after this one, just read, are of interest whatever they hold. */
  function wants(line: number): number {
    // "System is deadlocked on memory" comes right after the report that found no victim.
    let wanted = Math.max(0, lastNone + PANIC_LINES - line);
    for (const report of open) {
      // The kill follows; a terminal may have wrapped it anywhere.
      if (report.selected !== null || report.chosen !== null || report.taskIn !== null)
        wanted = Math.max(wanted, Math.min(1, report.lines.at(-1)! + PIECE_LINES - line));
      if (report.selected?.whole === false) wanted = Math.max(wanted, report.piecesUntil - line);
      if (report.frameLine === line) wanted = Math.max(wanted, FRAME_WINDOW);
    }
    return wanted;
  }

  /** Records lost before this one; below 0 where the log starts over. Lines that were passed over unread count as records. */
  function gapBefore(record: KmsgRecord): number {
    if (record.seq === null || lastSeq === null) return 0;
    if (record.seq <= lastSeq) return -1;
    return Math.max(0, record.seq - lastSeq - Math.max(1, at - lastSeqAt));
  }

  function startSweep(record: KmsgRecord, path: string): void {
    const first =
      lastKill !== null &&
      sameCaller(lastKill.caller, record.caller) &&
      record.line - lastKill.kill.line < MAX_REPORT_LINES &&
      near(lastKill.kill.timeUs, record.timeUs)
        ? lastKill
        : null;
    const pids = new Set<number>();
    if (first !== null) {
      first.kill.group = true;
      first.kill.lines.push(record.line);
      if (first.kill.details !== undefined) first.kill.details.groupPath = path;
      pids.add(first.kill.victim.pid);
    }
    sweep = {
      path,
      first: first?.kill ?? null,
      prefix: first?.prefix ?? null,
      caller: record.caller ?? first?.caller ?? null,
      timeUs: record.timeUs,
      line: record.line,
      pids,
    };
  }

  function end(): OomScan {
    for (const report of open) giveUp(report, whyOpen(report));
    scan.incomplete.sort((a, b) => a.line - b.line);
    return scan;
  }

  const isOpen = (line: number): boolean =>
    open.some((report) => line - report.line <= MAX_REPORT_LINES) ||
    (newestFirst && tail !== null && line - tail.kill.lines.at(-1)! <= MAX_REPORT_LINES);

  return { push, wants, isOpen, end };
}

/** All at once. */
export function findOomKills(records: Iterable<KmsgRecord>, options: OomScanOptions = {}): OomScan {
  const scanner = createOomScanner(options);
  const kills: OomKill[] = [];
  for (const record of records) for (const kill of scanner.push(record)) kills.push(kill);
  const scan = scanner.end();
  scan.kills.unshift(...kills);
  return scan;
}

/** Whether a record names the victim of `kill` once more. */
function isRepeat({ victim, timeUs, lines }: OomKill, record: KmsgRecord, killed: KilledLine): boolean {
  const same = victim.comm === killed.comm && victim.totalVm === killed.totalVm && victim.anonRss === killed.anonRss;
  const close =
    timeUs !== null && record.timeUs !== null
      ? Math.abs(timeUs - record.timeUs) < 5_000_000
      : record.line - lines.at(-1)! < MAX_RECENT;
  return same && close && victim.totalVm !== null;
}

function newReport(record: KmsgRecord, text: ReportText | null): Report {
  return {
    line: record.line,
    timeUs: record.timeUs,
    caller: record.caller,
    lines: [record.line],
    bare: record.bare === true,
    header: null,
    taskIn: null,
    selected: null,
    selectedText: "",
    piecesUntil: 0,
    chosen: null,
    sysrq: false,
    frameLine: null,
    limitWrite: false,
    text,
  };
}

/** What a report without its kill still says. */
function incompleteOf(report: Report, reason: string): OomIncomplete {
  const { line, selected, chosen, taskIn } = report;
  if (selected === null && chosen === null) return { line, reason };
  return {
    line,
    reason,
    kind: kindOf(selected, chosen?.prefix ?? null, null, report, report.sysrq),
    pid: selected?.pid ?? chosen?.pid ?? null,
    comm: selected?.comm ?? chosen?.comm ?? null,
    oomMemcg: selected?.oomMemcg ?? taskIn?.limit ?? null,
    taskMemcg: selected?.taskMemcg ?? taskIn?.task ?? null,
  };
}

function sameCaller(a: string | null, b: string | null): boolean {
  return a === null || b === null || a === b;
}

/** Whether a kill or choice with this prefix can end the report. */
function agrees(report: Report, prefix: OomPrefix): boolean {
  const memcg = report.selected !== null ? isMemcg(report.selected) : report.taskIn !== null ? true : null;
  // A header alone says neither; with sysrq there is no cgroup.
  if (memcg === null) return report.chosen === null && (prefix === "global" || !report.sysrq);
  return memcg === (prefix === "memcg");
}

/** Whether a kill line may name a thread of the process that `oom-kill:` names: all threads have one uid. */
function sameProcess(selected: SelectedLine, killed: KilledLine): boolean {
  return selected.pid !== null && (killed.uid === null || selected.uid === null || killed.uid === selected.uid);
}

function isFrame(text: string, name: string): boolean {
  const at = text.indexOf(name);
  const next = at === -1 ? "" : text[at + name.length];
  return at !== -1 && (next === "+" || next === ".") && !text.slice(0, at).includes("? ");
}

/** Lines that only a report has. */
function isReportLine(text: string): boolean {
  return /^(?:\[ {0,12}(?:\d{1,10}| pid|pid) {0,4}\]|(?:memory|memory\+swap|swap|kmem): usage|Memory cgroup stats|Mem-Info:|Node \d|\d{1,16} (?:total pagecache|pages )|(?:Free|Total) swap)/.test(
    text.slice(0, 64).trim(),
  );
}

// mm/memcontrol.c memory_max_write() (v2), mem_cgroup_resize_max()/_limit() (v1).
function isLimitWrite(text: string): boolean {
  return (
    isFrame(text, "memory_max_write") ||
    isFrame(text, "mem_cgroup_resize_max") ||
    isFrame(text, "mem_cgroup_resize_limit")
  );
}

function whyOpen(report: Report): string {
  const subject =
    report.selected?.pid != null
      ? ` (it selects process ${report.selected.pid})`
      : report.chosen !== null
        ? ` (it chooses process ${report.chosen.pid})`
        : "";
  const from = report.header !== null ? "a report" : "part of a report";
  return `${from} without a "Killed process" record${subject}`;
}
