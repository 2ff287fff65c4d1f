// The grammar of the single records the OOM killer prints, 2.6.18 to 7.x. Every matcher is anchored at both ends,
// looks only through windows of bounded size, and therefore costs time linear in the text.

import {
  COMM_WINDOW,
  type HeaderLine,
  type Message,
  type OldConstraint,
  type OomLine,
  type OomPrefix,
  type TaskInLine,
  contains,
  isDigit,
  noMask,
  own,
} from "./grammar.ts";
import { matchChosen, matchKilled } from "./match-killed.ts";
import { matchSelected } from "./match-selected.ts";

const INVOKED = " invoked oom-killer: ";
const MEMCG_OOM = "Memory cgroup out of memory";
const NODE_OOM = "Out of memory";
const ALLOCATING = " (oom_kill_allocating_task)";

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
      if (text.startsWith("oom-kill:constraint=") || text.startsWith("oom-kill:,")) found = matchSelected(text);
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
  return found ?? headerOf(text) ?? matchOtherKill(text);
}

const OTHER = /^[A-Z][A-Za-z0-9 _-]{2,80}: Killed process (?=\d)/;

/** `WORDS: Killed process`: a policy's own words (BPF). Only a whole record counts. */
function matchOtherKill(text: string): OomLine | null {
  const start = OTHER.exec(text.slice(0, 128));
  const found = start === null ? null : matchKilled(text, start[0].length, BARE_MESSAGE);
  return found?.type === "killed" && found.shape === "whole" ? { ...found, policy: true } : null;
}

const BARE_MESSAGE: Message = {
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
  const virtuozzo = matchVirtuozzo(text);
  if (virtuozzo !== null) return virtuozzo;
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

/** OpenVZ and Virtuozzo on 2.6.32 (kernel/ub/ub_oom.c): a beancounter, a container's id, in place of a cgroup. */
function matchVirtuozzo(text: string): OomLine | null {
  const found =
    /^Out of memory(?: in UB (\d{1,10}))?: OOM killed process (\d{1,10}) \((.{0,64})\) score \d{1,20} vm:(\d{1,15})kB, rss:\d{1,15}kB, swap:\d{1,15}kB$/s.exec(
      text.slice(0, 256),
    );
  if (found === null) return null;
  const sizes = { totalVm: Number(found[4]) * 1024, anonRss: null, fileRss: null, shmemRss: null, pgtables: null };
  const message: Message =
    found[1] === undefined
      ? { ...BARE_MESSAGE, prefix: "global", told: "global" }
      : { ...BARE_MESSAGE, prefix: "memcg" };
  const name = { pid: Number(found[2]), comm: own(found[3]!), uid: null, oomScoreAdj: null };
  return { type: "killed", ...message, ...name, ...sizes, shape: "whole", beancounter: found[1] ?? null };
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

function matchGroup(text: string): OomLine | null {
  const end = " are going to be killed due to memory.oom.group set";
  return text.endsWith(end) && text.startsWith("/", 9)
    ? { type: "group", path: own(text.slice(9, text.length - end.length)) }
    : null;
}
