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
  /** -1: SysRq. Null where the line ends before it. */
  order: number | null;
  /** From `gfp_mask=` on, see readHeader(). */
  rest: string;
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

  let found: OomLine | null = null;
  switch (text.charCodeAt(0)) {
    case 111: // o
      if (text.startsWith("oom-kill:constraint=")) found = matchSelected(text);
      else if (text.startsWith("oom_kill_process: ")) found = matchSuppressed(text);
      break;
    case 77: // M
    case 79: // O
    case 78: // N
      found = matchMessage(text);
      break;
    case 75: // K
      if (text.startsWith("Killed process ")) found = matchKilled(text, 15, BARE_MESSAGE);
      else if (text.startsWith("Kernel panic - not syncing: ")) found = matchPanic(text.slice(28));
      break;
    case 84: // T
      // A process may be named "Task in /x": then it is a header.
      found = headerOf(text);
      if (found === null && text.startsWith("Task in ")) found = matchTaskIn(text);
      else if (found === null && text.startsWith("Tasks in ")) found = matchGroup(text);
      return found;
    case 115: // s
    case 83: // S
      if (/^sysrq ?: manual oom execution$/i.test(text.slice(0, 40))) return { type: "sysrq" };
      break;
    default:
      break;
  }
  return found ?? headerOf(text);
}

const BARE_MESSAGE: { prefix: OomPrefix | null; allocating: boolean; told: OldConstraint | null } = {
  prefix: null,
  allocating: false,
  told: null,
};

function headerOf(text: string): HeaderLine | null {
  // The name before it is short: a search through a long text would find nothing that counts.
  const invoked =
    text.length < 256 ? text.indexOf(INVOKED) : text.slice(0, COMM_WINDOW + INVOKED.length).indexOf(INVOKED);
  return invoked > 0 && invoked <= COMM_WINDOW && isComm(text.slice(0, invoked)) ? matchHeader(text, invoked) : null;
}

/** Whether a task can be named so: 15 bytes, of which a log may have escaped some. */
function isComm(text: string): boolean {
  return text.length <= 15 || text.replace(/\\x[0-9a-f]{2}|#0[0-3][0-7]/gi, "?").length <= 15;
}

function matchHeader(text: string, at: number): HeaderLine | null {
  const start = at + INVOKED.length;
  if (!text.startsWith("gfp_mask=0x", start)) return null;
  const rest = text.slice(start, start + 1024);
  const order = rest.indexOf(", order=");
  return {
    type: "header",
    comm: own(text.slice(0, at)),
    order: order === -1 ? null : readOrder(rest, order + 8),
    rest,
  };
}

function readOrder(text: string, at: number): number | null {
  if (text.startsWith("0", at) && !isDigit(text.charCodeAt(at + 1))) return 0;
  const order = /^-?\d{1,3}(?!\d)/.exec(text.slice(at, at + 5));
  return order === null ? null : Number(order[0]);
}

/** The fields of a header that only details need. */
export function readHeader(header: HeaderLine): {
  gfpMask: number | null;
  gfpFlags: string | null;
  nodemask: string | null;
  oomScoreAdj: number | null;
} {
  const gfp = /^gfp_mask=(0x[0-9a-f]{1,16})(?:\(([^()]{0,400})\))?/i.exec(header.rest);
  const nodemask = /, nodemask=([^ ]{1,200}),? /.exec(header.rest);
  let oomScoreAdj: number | null = null;
  // oom_score_adj comes last where a line has both scales (2.6.36 to 3.7).
  const adj = /, oom_score_adj=(-?\d{1,5})/.exec(header.rest);
  if (adj !== null) oomScoreAdj = Number(adj[1]);
  return {
    gfpMask: gfp === null ? null : Number(gfp[1]),
    gfpFlags: gfp?.[2] === undefined ? null : own(gfp[2]),
    nodemask: nodemask === null ? null : noMask(nodemask[1] ?? ""),
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
    if (found === null || (whole && !found.whole))
      found = { type: "taskin", task: own(task), limit: own(limit), whole };
  }
  if (found !== null) return found;
  // Cut before the limit: a wrapped line may still complete it.
  return text.startsWith("/", 8) ? { type: "taskin", task: "", limit: "", whole: false } : null;
}

/** Whether the cgroup `path` is `ancestor` or lies below it. */
function contains(ancestor: string, path: string): boolean {
  return (
    ancestor === "/" ||
    (path.startsWith(ancestor) && (path.length === ancestor.length || path[ancestor.length] === "/"))
  );
}

/**
 * `oom-kill:constraint=C,nodemask=N[,cpuset=NAME,mems_allowed=L][,oom_memcg=P|,global_oom][,task_memcg=P],task=C,pid=N,uid=N`
 * NAME, P and C hold any text, commas and our own field names too. The order of fields, and that NAME (one path component)
 * has no "/" unless it is "/", make the line readable all the same.
 */
function matchSelected(text: string): SelectedLine | null {
  const from = 20;
  let to = from;
  while (to < from + 32 && isWord(text.charCodeAt(to))) to++;
  // A line cut within the constraint's own name says nothing yet.
  if (to === text.length) return newSelected(KNOWN.has(text.slice(from)) ? own(text.slice(from)) : "");
  if (text.charCodeAt(to) !== 44 || !text.startsWith("CONSTRAINT_", from)) return null;
  const line: SelectedLine = newSelected(own(text.slice(from, to)));

  // From the right: `,pid=N,uid=N`
  const uidAt = digitsBefore(text, text.length);
  if (uidAt === text.length || !text.startsWith(",uid=", uidAt - 5)) return line;
  const pidAt = digitsBefore(text, uidAt - 5);
  if (pidAt === uidAt - 5 || !text.startsWith(",pid=", pidAt - 5)) return line;
  const end = pidAt - 5;

  let at = to;
  if (text.startsWith(",nodemask=", at)) {
    const start = at + 10;
    at = start;
    if (text.startsWith("(null)", start)) at += 6;
    else {
      while (at < end && isListChar(text.charCodeAt(at))) at++;
      while (at > start && text.charCodeAt(at - 1) === 44) at--;
      line.nodemask = at === start ? null : own(text.slice(start, at));
    }
  }
  if (text.startsWith(",cpuset=", at)) {
    const cpuset = matchCpuset(text, at + 8, end);
    if (cpuset === null) return line;
    line.cpuset = own(cpuset.name);
    line.memsAllowed = own(cpuset.mems);
    at = cpuset.end;
  }
  // From the right: comm has 15 bytes, so few places can hold ",task=".
  const task = text.lastIndexOf(",task=", end - 6);
  if (task < at || task < end - 6 - COMM_WINDOW) return line;
  // A comm may hold ",task=" itself: the kill line's own comm settles that, see commFits().
  line.comm = own(text.slice(task + 6, end));
  line.pid = Number(text.slice(pidAt, uidAt - 5));
  line.uid = Number(text.slice(uidAt));
  line.whole = true;
  const paths = matchPaths(text, at, task);
  line.oomMemcg = paths.oomMemcg;
  line.taskMemcg = paths.taskMemcg;
  return line;
}

const KNOWN = new Set(["CONSTRAINT_NONE", "CONSTRAINT_CPUSET", "CONSTRAINT_MEMORY_POLICY", "CONSTRAINT_MEMCG"]);

function isDigit(code: number): boolean {
  return code >= 48 && code <= 57;
}

function isWord(code: number): boolean {
  return (code >= 65 && code <= 90) || code === 95;
}

/** Digits, commas and dashes: a kernel's list of numbers. */
function isListChar(code: number): boolean {
  return isDigit(code) || code === 44 || code === 45;
}

/** Where the digits that end at `to` begin; at most ten of them. */
function digitsBefore(text: string, to: number): number {
  let at = to;
  while (at > 0 && to - at < 10 && isDigit(text.charCodeAt(at - 1))) at--;
  return at;
}

// Spelled out: spreading an object costs more than all the matching.
function newSelected(constraint: string): SelectedLine {
  return {
    type: "selected",
    constraint,
    nodemask: null,
    cpuset: null,
    memsAllowed: null,
    oomMemcg: null,
    taskMemcg: null,
    comm: null,
    pid: null,
    uid: null,
    whole: false,
  };
}

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
  const listAt = at + mark + 14;
  let listEnd = listAt;
  while (listEnd < stop && isListChar(text.charCodeAt(listEnd))) listEnd++;
  while (listEnd > listAt && text.charCodeAt(listEnd - 1) === 44) listEnd--;
  const mems = text.slice(listAt, listEnd);
  return { name: text.slice(at, at + mark), mems, end: listAt + mems.length };
}

function matchPaths(text: string, from: number, to: number): { oomMemcg: string | null; taskMemcg: string | null } {
  const mark = ",task_memcg=/";
  const global = text.indexOf(",global_oom,task_memcg=/", from);
  const oom = text.indexOf(",oom_memcg=/", from);
  if (global !== -1 && global < to && (oom === -1 || global < oom))
    return { oomMemcg: null, taskMemcg: own(text.slice(global + 23, to)) };
  if (oom === -1 || oom >= to) {
    const only = text.indexOf(mark, from);
    return { oomMemcg: null, taskMemcg: only === -1 || only >= to ? null : own(text.slice(only + 12, to)) };
  }
  const first = text.indexOf(mark, oom);
  if (first !== -1 && first < to) {
    const second = text.indexOf(mark, first + 1);
    if (second === -1 || second >= to)
      return { oomMemcg: own(text.slice(oom + 11, first)), taskMemcg: own(text.slice(first + 12, to)) };
  }
  const splits: { oomMemcg: string; taskMemcg: string }[] = [];
  for (let at = text.indexOf(mark, oom); at !== -1 && at < to && splits.length < 16; at = text.indexOf(mark, at + 1)) {
    splits.push({ oomMemcg: text.slice(oom + 11, at), taskMemcg: text.slice(at + 12, to) });
  }
  // The victim lies in the cgroup that ran out or below it: with several splits only such a one can be right.
  const fitting = splits.filter((split) => contains(split.oomMemcg, split.taskMemcg));
  const split = fitting.length === 1 ? fitting[0] : undefined;
  return split === undefined
    ? { oomMemcg: null, taskMemcg: null }
    : { oomMemcg: own(split.oomMemcg), taskMemcg: own(split.taskMemcg) };
}

/** "(null)": no mask. */
function noMask(text: string): string | null {
  return text === "(null)" || text === "" || text === "(null)," ? null : own(text);
}

function matchSuppressed(text: string): OomLine | null {
  const match = /^oom_kill_process: (\d{1,10}) (?:output lines suppressed|callbacks suppressed)/.exec(
    text.slice(0, 80),
  );
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
  if (text.startsWith("Kill process ", at) || text.startsWith("kill process ", at))
    return matchChosen(text, at + 13, { prefix, allocating, told });
  if (text.startsWith("OOM victim ", at)) {
    const pid = /^(\d{1,10}) \(/.exec(text.slice(at + 11, at + 24));
    return pid !== null && text.endsWith(") is already exiting. Skip killing the task")
      ? { type: "exiting", prefix, pid: Number(pid[1]) }
      : null;
  }
  return matchPanic(text);
}

function matchPanic(text: string): OomLine | null {
  if (
    /^(?:Out of memory: (?:compulsory|system-wide) panic_on_oom is enabled|Out of memory and no killable processes)/.test(
      text.slice(0, 80),
    )
  )
    return { type: "panic", follows: false };
  // Only after a report without a victim; the words alone could be anybody's.
  return text.startsWith("System is deadlocked on memory") ? { type: "panic", follows: true } : null;
}

/** `N (comm) score S or sacrifice child` from `at`. */
function matchChosen(
  text: string,
  at: number,
  message: { prefix: OomPrefix; allocating: boolean; told: OldConstraint | null },
): ChosenLine | null {
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
  return {
    type: "chosen",
    ...message,
    told,
    pid: Number(pid[1]),
    comm: own(text.slice(open, open + close)),
    score: score === null ? null : Number(score[1]),
    whole: score !== null,
  };
}

/** What follows `Killed process ` at `at`, in all spellings; see docs/kernel-log.md. */
function matchKilled(
  text: string,
  at: number,
  message: { prefix: OomPrefix | null; allocating: boolean; told: OldConstraint | null },
): KilledLine | null {
  const known = readKilled(text, at, message);
  if (known !== null) return known;
  const number = /^\d{1,10}(?= ?$|,| [([])/.exec(text.slice(at, at + 13));
  // "Killed process 5 by request": somebody else's words.
  if (number === null) return null;
  const line: KilledLine = {
    type: "killed",
    ...message,
    pid: Number(number[0]),
    comm: null,
    uid: null,
    totalVm: null,
    anonRss: null,
    fileRss: null,
    shmemRss: null,
    pgtables: null,
    oomScoreAdj: null,
    shape: "garbled",
  };
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
  for (
    let close = window.lastIndexOf(")");
    close !== -1;
    close = close === 0 ? -1 : window.lastIndexOf(")", close - 1)
  ) {
    if (close > COMM_WINDOW) continue;
    const candidate: KilledLine = { ...line, comm: window.slice(0, close) };
    candidate.shape = matchSizes(text, open + close + 1, candidate);
    if (candidate.shape === "bare" && text.endsWith(".") && candidate.prefix === "global") candidate.told ??= "global";
    if (candidate.shape === "whole" || candidate.shape === "bare")
      return { ...candidate, comm: own(candidate.comm ?? "") };
    if (candidate.shape === "cut" && cut === null) cut = { ...candidate, comm: own(candidate.comm ?? "") };
  }
  if (cut !== null) return cut;
  if (text.length - open <= COMM_WINDOW && !window.includes(")")) line.shape = "cut";
  return line;
}

/** The commonest spelling, 4.5 and later, read without ado; null for any other, which the general matcher reads. */
function readKilled(
  text: string,
  at: number,
  message: { prefix: OomPrefix | null; allocating: boolean; told: OldConstraint | null },
): KilledLine | null {
  let open = at;
  while (open < at + 10 && isDigit(text.charCodeAt(open))) open++;
  if (open === at || !text.startsWith(" (", open)) return null;
  const close = text.indexOf(")", open + 2);
  // More than one ")" may be part of a name: not for here.
  if (
    close === -1 ||
    close - open > 18 ||
    text.indexOf(")", close + 1) !== -1 ||
    !text.startsWith(" total-vm:", close + 1)
  )
    return null;
  let from = close + 11;
  const numbers = NUMBERS;
  let count = 0;
  for (let i = 0; i < LABELS.length; i++) {
    const label = LABELS[i]!;
    let value = 0;
    let digits = 0;
    for (let code = text.charCodeAt(from); isDigit(code) && digits < 15; code = text.charCodeAt(from)) {
      value = value * 10 + code - 48;
      digits++;
      from++;
    }
    if (digits === 0) return null;
    numbers[count++] = value;
    if (i === 6) break;
    if (!text.startsWith(label, from)) {
      if (count === 4 && from + 2 === text.length && text.startsWith("kB", from)) break;
      return null;
    }
    from += label.length;
    if (i === 5 && text.charCodeAt(from) === 45) {
      if (!/^-\d{1,5}$/.test(text.slice(from))) return null;
      numbers[count++] = Number(text.slice(from));
      from = text.length;
      break;
    }
  }
  if (count === 7 ? from !== text.length : count !== 4) return null;
  const full = count === 7;
  // More page tables than address space: let matchSizes() see to it.
  if (full && numbers[5]! > numbers[0]!) return null;
  return {
    type: "killed",
    prefix: message.prefix,
    allocating: message.allocating,
    told: message.told,
    pid: Number(text.slice(at, open)),
    comm: own(text.slice(open + 2, close)),
    uid: full ? numbers[4]! : null,
    totalVm: numbers[0]! * 1024,
    anonRss: numbers[1]! * 1024,
    fileRss: numbers[2]! * 1024,
    shmemRss: numbers[3]! * 1024,
    pgtables: full ? numbers[5]! * 1024 : null,
    oomScoreAdj: full ? numbers[6]! : null,
    shape: "whole",
  };
}

const LABELS = ["kB, anon-rss:", "kB, file-rss:", "kB, shmem-rss:", "kB, UID:", " pgtables:", "kB oom_score_adj:", ""];
const NUMBERS = [0, 0, 0, 0, 0, 0, 0];

const FIELD = /(?:, | )([A-Za-z_-]{2,24}):(-?\d{1,16})(kB)?/y;
const CUT_FIELD =
  /^(?:,|, ?(?:[A-Za-z_-]{1,24}(?::(?:-?\d{0,16}k?)?)?)?| (?:[A-Za-z_-]{1,24}(?::(?:-?\d{0,16}k?)?)?)?)?(?:>|\u2026|\.{1,3})?$/;
const CUT_START =
  /^(?:, ?(?:U(?:I(?:D(?: \d*)?)?)?)?| ?(?:t(?:o(?:t(?:a(?:l(?:-(?:v(?:m(?::(?:\d{0,16}k?)?)?)?)?)?)?)?)?)?)?)(?:>|\u2026|\.{1,3})?$/;

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
    if (!sized && key !== "oom_score_adj" && (key !== "UID" || end === text.length)) break;
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
  if (
    line.pgtables !== null &&
    line.totalVm !== null &&
    line.pgtables > line.totalVm &&
    (line.pgtables / 1024) % 4096 === 0
  )
    line.pgtables /= 1024;
  if (fields > 0 && at === text.length) return "whole";
  if (fields === 0) return text.length - at < 32 && CUT_START.test(text.slice(at)) ? "cut" : "garbled";
  return text.length - at < 48 && CUT_FIELD.test(text.slice(at)) ? "cut" : "garbled";
}

function matchGroup(text: string): OomLine | null {
  const end = " are going to be killed due to memory.oom.group set";
  return text.endsWith(end) && text.startsWith("/", 9)
    ? { type: "group", path: own(text.slice(9, text.length - end.length)) }
    : null;
}

/** A copy that does not keep the whole chunk alive that it was cut from. */
function own(text: string): string {
  return text.length < 13 ? text : ` ${text}`.slice(1);
}
