// The records that the OOM killer prints, taken apart; and what their matchers share.

import type { OomVictim } from "./types.ts";

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

/** mm/oom_kill.c __oom_kill_process(). Sizes in bytes; null where the line does not say. */
export interface KilledLine extends Omit<OomVictim, "comm"> {
  type: "killed";
  prefix: OomPrefix | null;
  allocating: boolean;
  /** Up to 2.6.35 the message told the constraint. */
  told: OldConstraint | null;
  /** Null where the record does not name the process as the kernel does. */
  comm: string | null;
  /** "whole": both ends fit; "bare": pid and comm only, as 2.6.32 printed it; "cut": ends inside a field; "garbled": nothing a kernel prints. */
  shape: "whole" | "bare" | "cut" | "garbled";
  /** In words that are none of mm/oom_kill.c's: a policy's. */
  policy?: boolean;
  /** Virtuozzo: the container whose beancounter ran out; null for the machine. */
  beancounter?: string | null;
}

/** What stands before a choice or a kill: whose memory ran out, and how the victim was found. */
export interface Message {
  prefix: OomPrefix | null;
  allocating: boolean;
  /** Up to 2.6.35 the message told the constraint. */
  told: OldConstraint | null;
}

// A comm has 15 bytes; escaped as #012 or \x0a it is up to four times as long.
export const COMM_WINDOW = 64;

export function isDigit(code: number): boolean {
  return code >= 48 && code <= 57;
}

/** Whether the cgroup `path` is `ancestor` or lies below it. */
export function contains(ancestor: string, path: string): boolean {
  return (
    ancestor === "/" ||
    (path.startsWith(ancestor) && (path.length === ancestor.length || path[ancestor.length] === "/"))
  );
}

/** "(null)": no mask. */
export function noMask(text: string): string | null {
  return text === "(null)" || text === "" || text === "(null)," ? null : own(text);
}

/** A copy that does not keep the whole chunk alive that it was cut from. */
export function own(text: string): string {
  return text.length < 13 ? text : ` ${text}`.slice(1);
}
