// The `oom-kill:` record (5.0+), which is read from both ends.
import { COMM_WINDOW, type SelectedLine, contains, isDigit, own } from "./grammar.ts";

/**
 * `oom-kill:constraint=C,nodemask=N[,cpuset=NAME,mems_allowed=L][,oom_memcg=P|,global_oom][,task_memcg=P],task=C,pid=N,uid=N`
 * NAME, P and C hold any text, commas and our own field names too. The order of fields, and that NAME (one path component)
 * has no "/" unless it is "/", make the line readable all the same.
 */
export function matchSelected(text: string): SelectedLine | null {
  // A vendor's 3.10 prints no constraint: `oom-kill:,cpuset=...`.
  if (text.startsWith("oom-kill:,")) return readFields(text, 9, newSelected(""));
  const from = 20;
  let to = from;
  while (to < from + 32 && isWord(text.charCodeAt(to))) to++;
  // A line cut within the constraint's own name says nothing yet.
  if (to === text.length) return newSelected(KNOWN.has(text.slice(from)) ? own(text.slice(from)) : "");
  if (text.charCodeAt(to) !== 44 || !text.startsWith("CONSTRAINT_", from)) return null;
  return readFields(text, to, newSelected(own(text.slice(from, to))));
}

/** The fields behind the constraint, from `to` on. */
function readFields(text: string, to: number, line: SelectedLine): SelectedLine {
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
  const start = /^oom-kill:(?:constraint=[A-Z_]*)?/.exec(trimmed.slice(0, 64))?.[0].length ?? 0;
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
