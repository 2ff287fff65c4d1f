// The grammar of the single records the OOM killer prints, 2.6.18 to 7.x. Every matcher is anchored at both ends,
// looks only through windows of bounded size, and therefore costs time linear in the text.

/** A record of the OOM killer. `prefix` is the message it starts with: whose memory ran out. */
export type OomLine =
  | HeaderLine
  | TaskInLine
  | SelectedLine
  | ChosenLine
  | KilledLine
  | { type: "group"; path: string }
  | { type: "exiting"; prefix: OomPrefix | null; pid: number }
  | { type: "suppressed"; count: number }
  | { type: "none" }
  | { type: "panic"; follows: boolean }
  | { type: "sysrq" };

export type OomPrefix = "memcg" | "global";

/** mm/oom_kill.c dump_header() */
export interface HeaderLine {
  type: "header";
  comm: string;
  gfpMask: number | null;
  gfpFlags: string | null;
  nodemask: string | null;
  order: number | null;
  oomScoreAdj: number | null;
}

/** mm/memcontrol.c mem_cgroup_print_oom_info(), up to 4.20. */
export interface TaskInLine {
  type: "taskin";
  task: string;
  limit: string;
  /** False where the line seems to end early: then `limit` is no ancestor of `task`. */
  whole: boolean;
}

/** mm/oom_kill.c dump_oom_summary() / dump_oom_victim(), 5.0+. */
export interface SelectedLine {
  type: "selected";
  constraint: string;
  nodemask: string | null;
  cpuset: string | null;
  memsAllowed: string | null;
  oomMemcg: string | null;
  taskMemcg: string | null;
  comm: string | null;
  pid: number | null;
  uid: number | null;
  /** False where the line ends before `uid=`. */
  whole: boolean;
}

/** mm/oom_kill.c oom_kill_process(), up to 5.0: the task chosen, not always the one killed. */
export interface ChosenLine {
  type: "chosen";
  prefix: OomPrefix;
  allocating: boolean;
  /** Up to 2.6.35 the message told the constraint. */
  told: OldConstraint | null;
  pid: number;
  comm: string;
  score: number | null;
  whole: boolean;
}

export type OldConstraint = "global" | "cpuset" | "mempolicy";

/** mm/oom_kill.c __oom_kill_process(). Sizes in bytes. */
export interface KilledLine {
  type: "killed";
  prefix: OomPrefix | null;
  allocating: boolean;
  /** Up to 2.6.35 the message told the constraint. */
  told: OldConstraint | null;
  pid: number;
  /** Null where the record does not name the process as the kernel does. */
  comm: string | null;
  uid: number | null;
  totalVm: number | null;
  anonRss: number | null;
  fileRss: number | null;
  shmemRss: number | null;
  pgtables: number | null;
  oomScoreAdj: number | null;
  /** "whole": both ends fit; "bare": pid and comm only, as 2.6.32 printed it; "cut": ends inside a field; "garbled": nothing a kernel prints. */
  shape: "whole" | "bare" | "cut" | "garbled";
}

const INVOKED = " invoked oom-killer: ";
const MEMCG_OOM = "Memory cgroup out of memory";
const NODE_OOM = "Out of memory";
const ALLOCATING = " (oom_kill_allocating_task)";

// A comm has 15 bytes; escaped as #012 or \x0a it is up to four times as long.
const COMM_WINDOW = 64;
// The longest record worth reading: a printk record has 1024 bytes, two paths of 4096 are the worst that can be pieced together.
const MAX_RECORD = 12_288;

/** Tells which record of the OOM killer a text is; null for any other text. `text` must have no prefixes. */
export function matchOomLine(raw: string): OomLine | null {
  let text = raw.length > MAX_RECORD ? raw.slice(0, MAX_RECORD) : raw;
  const first = text.charCodeAt(0);
  const last = text.charCodeAt(text.length - 1);
  if (first <= 32 || last <= 32) text = text.trim();
  if (text.length < 8) return null;

  const invoked = text.slice(0, COMM_WINDOW + INVOKED.length).indexOf(INVOKED);
  if (invoked > 0) {
    const header = matchHeader(text, invoked);
    if (header !== null) return header;
  }
  switch (text[0]) {
    case "o":
      if (text.startsWith("oom-kill:constraint=")) return matchSelected(text);
      if (text.startsWith("oom_kill_process: ")) return matchSuppressed(text);
      return null;
    case "M":
    case "O":
    case "N":
      return matchMessage(text);
    case "K":
      if (text.startsWith("Killed process ")) return matchKilled(text, 15, { prefix: null, allocating: false, told: null });
      if (text.startsWith("Kernel panic - not syncing: ")) return matchPanic(text.slice(28));
      return null;
    case "T":
      if (text.startsWith("Task in ")) return matchTaskIn(text);
      if (text.startsWith("Tasks in ")) return matchGroup(text);
      return null;
    case "s":
    case "S":
      return /^sysrq ?: manual oom execution$/i.test(text.slice(0, 40)) ? { type: "sysrq" } : null;
    default:
      return null;
  }
}

function matchHeader(text: string, at: number): HeaderLine | null {
  const rest = text.slice(at + INVOKED.length, at + INVOKED.length + 1024);
  const gfp = /^gfp_mask=(0x[0-9a-f]{1,16})(?:\(([^()]{0,400})\))?/i.exec(rest);
  if (gfp === null) return null;
  const nodemask = /, nodemask=([^ ]{1,200}),? /.exec(rest);
  const order = /, order=(-?\d{1,3})(?!\d)/.exec(rest);
  const adj = /, (?:oomkilladj|oom_adj|oom_score_adj)=(-?\d{1,5})/g;
  let oomScoreAdj: number | null = null;
  // oom_score_adj comes last where a line has both scales (2.6.36 to 3.7).
  for (const match of rest.matchAll(adj)) oomScoreAdj = match[0].includes("oom_score_adj") ? Number(match[1]) : oomScoreAdj;
  return {
    type: "header",
    comm: own(text.slice(0, at)),
    gfpMask: Number(gfp[1]),
    gfpFlags: gfp[2] === undefined ? null : own(gfp[2]),
    nodemask: nodemask === null ? null : noMask(nodemask[1] ?? ""),
    order: order === null ? null : Number(order[1]),
    oomScoreAdj,
  };
}

function matchTaskIn(text: string): TaskInLine | null {
  const middle = " killed as a result of limit of ";
  let found: TaskInLine | null = null;
  // Either path may hold the words in between: right is the split where the limit's cgroup is the task's or an ancestor of it.
  for (let at = text.indexOf(middle), tries = 0; at !== -1 && tries < 8; at = text.indexOf(middle, at + 1), tries++) {
    const task = text.slice(8, at);
    const limit = text.slice(at + middle.length);
    if (!task.startsWith("/") || !limit.startsWith("/")) continue;
    const whole = contains(limit, task);
    if (found === null || (whole && !found.whole)) found = { type: "taskin", task: own(task), limit: own(limit), whole };
  }
  if (found !== null) return found;
  // Cut before the limit: a wrapped line may still complete it.
  return text.startsWith("/", 8) ? { type: "taskin", task: "", limit: "", whole: false } : null;
}

/** Whether the cgroup `path` is `ancestor` or lies below it. */
function contains(ancestor: string, path: string): boolean {
  return ancestor === "/" || (path.startsWith(ancestor) && (path.length === ancestor.length || path[ancestor.length] === "/"));
}

/**
 * `oom-kill:constraint=C,nodemask=N[,cpuset=NAME,mems_allowed=L][,oom_memcg=P|,global_oom][,task_memcg=P],task=C,pid=N,uid=N`
 * NAME, P and C hold any text, commas and our own field names too. The order of fields, and that NAME (one path component)
 * has no "/" unless it is "/", make the line readable all the same.
 */
function matchSelected(text: string): SelectedLine | null {
  const constraint = /^oom-kill:constraint=(CONSTRAINT_[A-Z_]{1,32}|\d{1,2})(?=,|$)/.exec(text.slice(0, 64));
  if (constraint === null) {
    // A line cut within the constraint's own name says nothing yet.
    return /^oom-kill:constraint=[A-Z_]*$/.test(text.slice(0, 64)) ? { ...NOTHING_SELECTED, constraint: "" } : null;
  }
  const name = constraint[1] ?? "";
  const line: SelectedLine = { ...NOTHING_SELECTED, constraint: own(name) };
  const tail = /,pid=(\d{1,10}),uid=(\d{1,10})$/.exec(text.slice(-32));
  if (tail === null) return line;
  const end = text.length - tail[0].length;

  const nodemask = /^,nodemask=(\(null\)|[\d,-]{0,4000}?)(?=,(?:cpuset|oom_memcg|global_oom|task_memcg|task)\b)/.exec(text.slice(constraint[0].length, constraint[0].length + 4096));
  let at = constraint[0].length + (nodemask?.[0].length ?? 0);
  line.nodemask = nodemask === null ? null : noMask(nodemask[1] ?? "");

  if (text.startsWith(",cpuset=", at)) {
    const cpuset = matchCpuset(text, at + 8, end);
    if (cpuset === null) return line;
    line.cpuset = own(cpuset.name);
    line.memsAllowed = own(cpuset.mems);
    at = cpuset.end;
  }
  // From the right: comm has 15 bytes, so few places can hold ",task=".
  const tasks: number[] = [];
  for (let task = text.lastIndexOf(",task=", end - 6); task >= at && task >= end - 6 - COMM_WINDOW; task = text.lastIndexOf(",task=", task - 1)) {
    tasks.push(task);
    if (task === 0) break;
  }
  if (tasks.length === 0) return line;
  // The leftmost place a 15-byte comm allows would let a comm forge a path; a path component ending in ",task=x" is as
  // unlikely as that. Both are settled by the kill line's own comm where there is one, see commFits().
  const task = tasks.find((place) => end - place - 6 <= 15) ?? tasks[0]!;
  line.comm = own(text.slice(task + 6, end));
  line.pid = Number(tail[1]);
  line.uid = Number(tail[2]);
  line.whole = true;
  const paths = matchPaths(text, at, task);
  line.oomMemcg = paths.oomMemcg;
  line.taskMemcg = paths.taskMemcg;
  return line;
}

const NOTHING_SELECTED: Omit<SelectedLine, "constraint"> = { type: "selected", nodemask: null, cpuset: null, memsAllowed: null, oomMemcg: null, taskMemcg: null, comm: null, pid: null, uid: null, whole: false };

/**
 * Reads the paths again for a comm known from the kill line: `,task=` may occur in the comm and in a path.
 * Returns the line unchanged where it already fits.
 */
export function commFits(line: SelectedLine, text: string, comm: string): SelectedLine {
  const trimmed = text.trim();
  if (line.comm === comm || line.pid === null || line.uid === null) return line;
  const tail = `,task=${comm},pid=${line.pid},uid=${line.uid}`;
  if (!trimmed.endsWith(tail)) return line;
  const start = /^oom-kill:constraint=[A-Z_]*/.exec(trimmed.slice(0, 64))?.[0].length ?? 0;
  const paths = matchPaths(trimmed, start, trimmed.length - tail.length);
  return { ...line, comm, ...paths };
}

/** `NAME,mems_allowed=LIST` from `at`: the name ends before the first "/" that starts a path. */
function matchCpuset(text: string, at: number, end: number): { name: string; mems: string; end: number } | null {
  const slash = text.startsWith("/,mems_allowed=", at) ? text.indexOf("/", at + 1) : text.indexOf("/", at);
  const stop = slash === -1 || slash > end ? end : slash;
  const mark = text.slice(at, stop).lastIndexOf(",mems_allowed=");
  if (mark === -1) return null;
  const listAt = at + mark + ",mems_allowed=".length;
  const list = /^[\d,-]*/.exec(text.slice(listAt, Math.min(stop, listAt + 4096)))?.[0] ?? "";
  const mems = list.replace(/,+$/, "");
  return { name: text.slice(at, at + mark), mems, end: listAt + mems.length };
}

function matchPaths(text: string, from: number, to: number): { oomMemcg: string | null; taskMemcg: string | null } {
  const mark = ",task_memcg=/";
  const global = text.indexOf(",global_oom,task_memcg=/", from);
  const oom = text.indexOf(",oom_memcg=/", from);
  if (global !== -1 && global < to && (oom === -1 || global < oom)) return { oomMemcg: null, taskMemcg: own(text.slice(global + 23, to)) };
  if (oom === -1 || oom >= to) {
    const only = text.indexOf(mark, from);
    return { oomMemcg: null, taskMemcg: only === -1 || only >= to ? null : own(text.slice(only + 12, to)) };
  }
  const splits: { oomMemcg: string; taskMemcg: string }[] = [];
  for (let at = text.indexOf(mark, oom); at !== -1 && at < to && splits.length < 16; at = text.indexOf(mark, at + 1)) {
    splits.push({ oomMemcg: text.slice(oom + 11, at), taskMemcg: text.slice(at + 12, to) });
  }
  // The victim lies in the cgroup that ran out or below it: with several splits only such a one can be right.
  const fitting = splits.filter((split) => contains(split.oomMemcg, split.taskMemcg));
  const split = splits.length === 1 ? splits[0] : fitting.length === 1 ? fitting[0] : undefined;
  return split === undefined ? { oomMemcg: null, taskMemcg: null } : { oomMemcg: own(split.oomMemcg), taskMemcg: own(split.taskMemcg) };
}

/** "(null)": no mask. */
function noMask(text: string): string | null {
  return text === "(null)" || text === "" || text === "(null)," ? null : own(text);
}

function matchSuppressed(text: string): OomLine | null {
  const match = /^oom_kill_process: (\d{1,10}) (?:output lines suppressed|callbacks suppressed)/.exec(text.slice(0, 80));
  return match === null ? null : { type: "suppressed", count: Number(match[1]) };
}

/** Records that start with whose memory ran out. */
function matchMessage(text: string): OomLine | null {
  let prefix: OomPrefix;
  let at: number;
  let told: OldConstraint | null = null;
  if (text.startsWith(MEMCG_OOM)) {
    prefix = "memcg";
    at = MEMCG_OOM.length;
  } else if (text.startsWith(NODE_OOM)) {
    prefix = "global";
    at = NODE_OOM.length;
    if (text.startsWith(" and no killable processes...", at) && text.length === at + 29) return { type: "none" };
  } else {
    // 2.6.18: the constraint was in the message.
    const old = /^No available memory (?:\(MPOL_BIND\)|in cpuset)/.exec(text.slice(0, 40));
    if (old === null) return null;
    prefix = "global";
    told = old[0].endsWith("cpuset") ? "cpuset" : "mempolicy";
    at = old[0].length;
  }
  const allocating = text.startsWith(ALLOCATING, at);
  if (allocating) at += ALLOCATING.length;
  if (!text.startsWith(": ", at)) return null;
  at += 2;
  if (text.startsWith("Killed process ", at)) return matchKilled(text, at + 15, { prefix, allocating, told });
  if (text.startsWith("Kill process ", at) || text.startsWith("kill process ", at)) return matchChosen(text, at + 13, { prefix, allocating, told });
  if (text.startsWith("OOM victim ", at)) {
    const pid = /^(\d{1,10}) \(/.exec(text.slice(at + 11, at + 24));
    return pid !== null && text.endsWith(") is already exiting. Skip killing the task") ? { type: "exiting", prefix, pid: Number(pid[1]) } : null;
  }
  return matchPanic(text);
}

function matchPanic(text: string): OomLine | null {
  if (/^(?:Out of memory: (?:compulsory|system-wide) panic_on_oom is enabled|Out of memory and no killable processes)/.test(text.slice(0, 80))) return { type: "panic", follows: false };
  // Only after a report without a victim; the words alone could be anybody's.
  return text.startsWith("System is deadlocked on memory") ? { type: "panic", follows: true } : null;
}

/** `N (comm) score S or sacrifice child` from `at`. */
function matchChosen(text: string, at: number, message: { prefix: OomPrefix; allocating: boolean; told: OldConstraint | null }): ChosenLine | null {
  const pid = /^(\d{1,10}),? \(/.exec(text.slice(at, at + 16));
  if (pid === null) return null;
  const open = at + pid[0].length;
  const close = text.slice(open, open + COMM_WINDOW).lastIndexOf(") score ");
  if (close === -1) {
    // Cut somewhere in the comm or right after it.
    const comm = /^([^()]{1,64})\)/.exec(text.slice(open, open + COMM_WINDOW));
    return { type: "chosen", ...message, pid: Number(pid[1]), comm: own(comm?.[1] ?? ""), score: null, whole: false };
  }
  const rest = text.slice(open + close + 8);
  const score = /^(\d{1,20}) (or sacrifice child|or a child)$/.exec(rest.slice(0, 48));
  if (score === null && !/^\d{0,20}(?: (?:o(?:r.{0,16})?)?)?$/.test(rest.slice(0, 48))) return null;
  // "or a child": up to 2.6.35, where "Out of memory" meant CONSTRAINT_NONE, since the other two had their own words.
  const told = message.told ?? (score?.[2] === "or a child" && message.prefix === "global" ? "global" : null);
  return { type: "chosen", ...message, told, pid: Number(pid[1]), comm: own(text.slice(open, open + close)), score: score === null ? null : Number(score[1]), whole: score !== null };
}

/** What follows `Killed process ` at `at`, in all spellings; see docs/kernel-log.md. */
function matchKilled(text: string, at: number, message: { prefix: OomPrefix | null; allocating: boolean; told: OldConstraint | null }): KilledLine | null {
  const number = /^\d{1,10}/.exec(text.slice(at, at + 11));
  if (number === null) return null;
  const line: KilledLine = { type: "killed", ...message, pid: Number(number[0]), comm: null, uid: null, totalVm: null, anonRss: null, fileRss: null, shmemRss: null, pgtables: null, oomScoreAdj: null, shape: "garbled" };
  let open = at + number[0].length;
  // RHEL 6: `Killed process N, UID n, (c) total-vm:`
  const uid = /^, UID (\d{1,10}),/.exec(text.slice(open, open + 20));
  if (uid !== null) {
    line.uid = Number(uid[1]);
    open += uid[0].length;
  }
  if (!text.startsWith(" (", open)) {
    // The end may have been cut off by a terminal: not even the comm is known then.
    if (/^(?: ?|, (?:U(?:I(?:D(?: \d*,?)?)?)?)?)$/.test(text.slice(open, open + 20))) line.shape = "cut";
    return line;
  }
  open += 2;
  const window = text.slice(open, open + COMM_WINDOW + 24);
  // A comm may hold `) total-vm:1kB`: the last place from which the rest of the record fits is the right one.
  let cut: KilledLine | null = null;
  for (let close = window.lastIndexOf(")"); close !== -1; close = close === 0 ? -1 : window.lastIndexOf(")", close - 1)) {
    if (close > COMM_WINDOW) continue;
    const candidate: KilledLine = { ...line, comm: window.slice(0, close) };
    candidate.shape = matchSizes(text, open + close + 1, candidate);
    if (candidate.shape === "bare" && text.endsWith(".") && candidate.prefix === "global") candidate.told ??= "global";
    if (candidate.shape === "whole" || candidate.shape === "bare") return { ...candidate, comm: own(candidate.comm ?? "") };
    if (candidate.shape === "cut" && cut === null) cut = { ...candidate, comm: own(candidate.comm ?? "") };
  }
  if (cut !== null) return cut;
  if (text.length - open <= COMM_WINDOW && !window.includes(")")) line.shape = "cut";
  return line;
}

const FIELD = /(?:, | )([A-Za-z_-]{2,24}):(-?\d{1,16})(kB)?/y;
const CUT_FIELD = /^(?:,|, ?(?:[A-Za-z_-]{1,24}(?::(?:-?\d{0,16}k?)?)?)?| (?:[A-Za-z_-]{1,24}(?::(?:-?\d{0,16})?)?)?)?(?:>|\u2026|\.{1,3})?$/;
const CUT_START = /^(?:, ?(?:U(?:I(?:D(?: \d*)?)?)?)?| ?(?:t(?:o(?:t(?:a(?:l(?:-(?:v(?:m(?::(?:\d{0,16}k?)?)?)?)?)?)?)?)?)?)?)(?:>|\u2026|\.{1,3})?$/;

/** Reads `[, UID n,] total-vm:NkB, ...` into `line`; tells how well the rest of the record fits. */
function matchSizes(text: string, from: number, line: KilledLine): KilledLine["shape"] {
  let at = from;
  if (text.length === at || (text.length === at + 1 && text[at] === ".")) return "bare";
  // Late RHEL 7: `Killed process N (c), UID n, total-vm:`
  const uid = /^, UID (\d{1,10}),(?= |$)/.exec(text.slice(at, at + 20));
  if (uid !== null) {
    line.uid = Number(uid[1]);
    at += uid[0].length;
  }
  if (!text.startsWith(" total-vm:", at) && !text.startsWith(" vsz:", at)) {
    return text.length - at < 24 && CUT_START.test(text.slice(at)) ? "cut" : "garbled";
  }
  let fields = 0;
  FIELD.lastIndex = at;
  for (let match = FIELD.exec(text); match !== null && fields < 16; match = FIELD.exec(text)) {
    const value = Number(match[2]);
    const end = match.index + match[0].length;
    // A number without its unit at the very end may have lost digits.
    const sized = match[3] !== undefined;
    const key = match[1];
    if (!sized && key !== "UID" && key !== "oom_score_adj") break;
    if (key === "UID") line.uid = value;
    else if (key === "oom_score_adj") line.oomScoreAdj = value;
    else if (key === "total-vm" || key === "vsz") line.totalVm = value * 1024;
    else if (key === "anon-rss") line.anonRss = value * 1024;
    else if (key === "file-rss") line.fileRss = value * 1024;
    else if (key === "shmem-rss") line.shmemRss = value * 1024;
    else if (key === "pgtables") line.pgtables = value * 1024;
    fields++;
    at = end;
    FIELD.lastIndex = end;
  }
  // First 5.4 releases labelled bytes of page tables kB (fixed by 941f762bcb27): more tables than address space cannot be.
  if (line.pgtables !== null && line.totalVm !== null && line.pgtables > line.totalVm && (line.pgtables / 1024) % 4096 === 0) line.pgtables /= 1024;
  if (fields > 0 && at === text.length) return "whole";
  if (fields === 0) return text.length - at < 32 && CUT_START.test(text.slice(at)) ? "cut" : "garbled";
  return text.length - at < 48 && CUT_FIELD.test(text.slice(at)) ? "cut" : "garbled";
}

function matchGroup(text: string): OomLine | null {
  const end = " are going to be killed due to memory.oom.group set";
  return text.endsWith(end) && text.startsWith("/", 9) ? { type: "group", path: own(text.slice(9, text.length - end.length)) } : null;
}

/** A copy that does not keep the whole chunk alive that it was cut from. */
function own(text: string): string {
  return text.length < 13 ? text : ` ${text}`.slice(1);
}
