// What is told of a kill, from the records of its report.
import {
  type ChosenLine,
  type HeaderLine,
  type KilledLine,
  type OomPrefix,
  type SelectedLine,
  type TaskInLine,
} from "./grammar.ts";
import type { ReportText } from "./details.ts";
import { commFits } from "./match-selected.ts";
import type { KmsgRecord, OomKill, OomKind, OomTrigger } from "./types.ts";

/** A report that is being put together, from header to `Killed process`. */
export interface Report {
  line: number;
  timeUs: number | null;
  caller: string | null;
  lines: number[];
  bare: boolean;
  header: HeaderLine | null;
  taskIn: TaskInLine | null;
  selected: SelectedLine | null;
  /** Text of the `oom-kill:` record, while it may be read again. */
  selectedText: string;
  /** Where the rest of a record printed in pieces is looked for. */
  piecesUntil: number;
  chosen: ChosenLine | null;
  sysrq: boolean;
  /** Line of the stack frame oom_kill_process(), the caller of which tells a limit write. */
  frameLine: number | null;
  limitWrite: boolean;
  text: ReportText | null;
}

const KINDS: Record<string, OomKind> = {
  CONSTRAINT_MEMCG: "memcg",
  CONSTRAINT_NONE: "global",
  CONSTRAINT_CPUSET: "cpuset",
  CONSTRAINT_MEMORY_POLICY: "mempolicy",
};

/** Whether a memory cgroup's limit was hit; null where the record leaves it open. */
export function isMemcg({ constraint, oomMemcg }: SelectedLine): boolean | null {
  switch (constraint) {
    case "CONSTRAINT_MEMCG":
      return true;
    case "CONSTRAINT_NONE":
      // 5.0 and 5.1 print it for every kind (fixed by 432b1de0de02): a path says more.
      return oomMemcg !== null;
    case "CONSTRAINT_CPUSET":
    case "CONSTRAINT_MEMORY_POLICY":
      return false;
    default:
      return constraint === "" && oomMemcg !== null ? true : null;
  }
}

export function near(a: number | null, b: number | null): boolean {
  return a === null || b === null || Math.abs(a - b) < 5_000_000;
}

export function toKill(
  record: KmsgRecord,
  killed: KilledLine,
  report: Report | null,
  sysrq: KmsgRecord | null,
): OomKill {
  const prefix = killed.prefix ?? report?.chosen?.prefix ?? null;
  const selected = report?.selected == null ? null : commFits(report.selected, report.selectedText, killed.comm ?? "");
  const constraint = selected !== null && selected.constraint !== "" ? selected.constraint : null;
  const manual =
    report?.sysrq === true ||
    (report === null && sysrq !== null && prefix === "global" && near(sysrq.timeUs, record.timeUs));
  const lines = [...(report?.lines ?? []), record.line].toSorted((a, b) => a - b);
  return {
    kind: kindOf(selected, prefix, killed, report, manual),
    constraint,
    trigger: triggerOf(report, prefix, constraint, manual),
    oomMemcg: selected?.oomMemcg ?? (report?.taskIn?.whole === true ? report.taskIn.limit : null),
    taskMemcg: selected?.taskMemcg ?? (report?.taskIn?.whole === true ? report.taskIn.task : null),
    group: false,
    victim: {
      pid: killed.pid,
      comm: killed.comm ?? "",
      uid: killed.uid ?? (selected?.pid === killed.pid ? selected.uid : null),
      totalVm: killed.totalVm,
      anonRss: killed.anonRss,
      fileRss: killed.fileRss,
      shmemRss: killed.shmemRss,
      pgtables: killed.pgtables,
      oomScoreAdj: killed.oomScoreAdj,
    },
    prefix,
    line: lines[0]!,
    seq: record.seq,
    timeUs: record.timeUs,
    date: record.date ?? null,
    // Up to 5.0 a child may die in place of the task selected: another process, not another thread.
    tgid: selected?.pid != null && selected.pid !== killed.pid && report?.chosen == null ? selected.pid : null,
    lines,
    missing: missingOf(killed, report, selected),
  };
}

/** The kind, from what the format can say. docs/kernel-log.md has the table. */
export function kindOf(
  selected: SelectedLine | null,
  prefix: OomPrefix | null,
  killed: KilledLine | null,
  report: Report | null,
  manual: boolean,
): OomKind {
  if (selected !== null && isMemcg(selected) === true) return "memcg";
  if (selected !== null && selected.constraint !== "") return KINDS[selected.constraint] ?? "unknown";
  if (prefix === "memcg" || report?.taskIn != null) return "memcg";
  if (prefix === null) return "unknown";
  const told = killed?.told ?? report?.chosen?.told ?? null;
  if (told !== null) return told;
  if (manual) return "global";
  // Up to 5.0 no record names a constraint: "Out of memory" is the format's own word for node-level.
  // Since 5.1 the constraint has a record of its own; where that is missing, cpuset and mempolicy are as possible.
  return report?.chosen != null ? "global" : "unknown";
}

function triggerOf(
  report: Report | null,
  prefix: OomPrefix | null,
  constraint: string | null,
  manual: boolean,
): OomTrigger {
  if (manual) return "sysrq";
  // sysrq asks for the whole machine, a limit write for a memcg: these two come from an allocation only.
  if (constraint === "CONSTRAINT_CPUSET" || constraint === "CONSTRAINT_MEMORY_POLICY") return "allocation";
  if (report === null) return "unknown";
  if (report.limitWrite) return "limit-write";
  if (report.header === null) return "unknown";
  // Only a memcg's limit can be lowered: without a stack that one case stays open.
  const memcg = constraint !== null ? constraint === "CONSTRAINT_MEMCG" : prefix !== "global";
  return memcg && report.frameLine === null ? "unknown" : "allocation";
}

function missingOf(killed: KilledLine, report: Report | null, selected: SelectedLine | null): string[] {
  const missing: string[] = [];
  if (report?.header == null) missing.push("header");
  else if (report.frameLine === null) missing.push("stack");
  if (selected === null && report?.taskIn == null && !(report?.chosen != null && report.header !== null))
    missing.push("oom-kill");
  else if (selected !== null && !selected.whole) missing.push("oom-kill");
  if (killed.shape === "cut") missing.push("sizes");
  return missing;
}
