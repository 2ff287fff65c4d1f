/** Who it was that the kernel's log says was killed: which process of the scenario, and how it ended. Pure. */
import type { OomKill } from "../kmsg/index.ts";
import type { PlannedProcess } from "../plan.ts";
import { eventsOf } from "../record.ts";
import type { KillCounts } from "./counters.ts";
import type { Facts } from "./facts.ts";

/** Victims of the kernel's log as this run knows them. */
export interface Victims {
  /** Whether a kill is this run's. */
  isOurs(kill: OomKill): boolean;
  /** The process of the scenario that was hit, itself or a worker or child of it; null: not known. */
  processOf(kill: OomKill): string | null;
  /** How a victim of this process ended: the process itself, or a worker that its leader reaped. */
  exitOf(kill: OomKill, process: string): Exit | undefined;
  /** Lines of the record that say whose it is where its own do not. */
  witnessesOf(kill: OomKill): number[];
}

interface Exit {
  signal: string | null;
  code: number | null;
  line: number;
}

/** `kills`: all that the log tells; `counts`: what the cgroups tell. */
export function victimsOf(facts: Facts, kills: readonly OomKill[], counts: KillCounts): Victims {
  const { plan, pids, cgroups } = facts;
  const numbers = facts.privatePids ? renumbered(facts, kills) : null;
  /** A pid of the kernel's log as we know it; null: not known. */
  const ourPid = (pid: number): number | null => (numbers === null ? pid : (numbers.get(pid) ?? null));
  const byPid = ({ victim, tgid }: OomKill): string | undefined =>
    pids.get(ourPid(victim.pid) ?? -1) ?? (tgid === null ? undefined : pids.get(ourPid(tgid) ?? -1));
  const exitOf = (kill: OomKill, process: string): Exit | undefined =>
    exitOfPid(facts, ourPid(kill.victim.pid), process);
  const left = parentOfUnseen(facts, counts);
  const unseen = (kill: OomKill): typeof left => (kill.taskMemcg === null && byPid(kill) === undefined ? left : null);
  return {
    exitOf,
    witnessesOf: (kill) => unseen(kill)?.lines ?? [],
    isOurs(kill) {
      if (cgroups.at(kill.taskMemcg) !== null) return true;
      // On v1 a process without limit is in the root itself, where the tree of Pods stands.
      if (kill.taskMemcg !== null && !(kill.taskMemcg === "/" && plan.top.directory === "")) return false;
      // Without its `oom-kill:` line a kill is ours by pid, if that process was alive and was not seen to end otherwise.
      const process = byPid(kill);
      if (process === undefined) return unseen(kill) !== null;
      const exit = exitOf(kill, process);
      return exit === undefined || exit.signal === "SIGKILL";
    },
    processOf(kill) {
      const process = byPid(kill) ?? unseen(kill)?.process;
      if (process !== undefined) return process;
      const cgroup = cgroups.accountOf(cgroups.at(kill.taskMemcg) ?? "", planned(facts));
      const inside = plan.processes.filter((candidate) => cgroupsOf(facts, candidate).includes(cgroup));
      return inside.length === 1 ? (inside[0]?.name ?? null) : null;
    },
  };
}

/**
 * What was forked and killed between two looks has a pid that nobody saw, and where the rate limit took its report's head
 * no cgroup. It is a child of the only process in the only cgroup that counts kills, if the whole machine (/proc/vmstat)
 * counts no other.
 */
function parentOfUnseen(facts: Facts, counts: KillCounts): { process: string; lines: number[] } | null {
  const { events, plan } = facts;
  const told = eventsOf(events, "vmstat").filter(({ oomKill }) => oomKill !== null);
  const [before, after] = [told.find(({ moment }) => moment === "before"), told.at(-1)];
  const [grown, ...others] = [...counts].filter(([, { count }]) => count > 0);
  if (before?.oomKill == null || after?.oomKill == null || grown === undefined || others.length > 0) return null;
  const [cgroup, { count }] = grown;
  const [parent, ...siblings] = plan.processes.filter((process) => cgroupsOf(facts, process).includes(cgroup));
  if (parent?.forks !== true || siblings.length > 0 || after.oomKill - before.oomKill !== count) return null;
  return { process: parent.name, lines: [before.line, after.line] };
}

/** The cgroups of the plan, as those that count. */
const planned = ({ plan }: Facts): Map<string, string> => new Map(plan.cgroups.map(({ name }) => [name, name]));

/**
 * The log's pids of a private pid namespace -> ours, where known: in a cgroup, the processes that a SIGKILL of somebody
 * else ended, in their order. Where several processes are in it, only if as many ended so as the log tells: else it
 * stays open who the victim is.
 */
function renumbered(facts: Facts, kills: readonly OomKill[]): Map<number, number> {
  const numbers = new Map<number, number>();
  const named = planned(facts);
  const victims = new Map<string, number[]>();
  for (const { taskMemcg, victim } of kills) {
    const inside = facts.cgroups.at(taskMemcg);
    if (inside === null) continue;
    const cgroup = facts.cgroups.accountOf(inside, named);
    victims.set(cgroup, [...(victims.get(cgroup) ?? []), victim.pid]);
  }
  const deaths = unexplainedDeaths(facts);
  for (const [cgroup, pids] of victims) {
    const inside = facts.plan.processes.filter((process) => cgroupsOf(facts, process).includes(cgroup));
    const died = deaths.filter(({ process }) => inside.some(({ name }) => name === process));
    if (inside.length > 1 && died.length !== pids.length) continue;
    for (const [at, pid] of pids.entries()) {
      const death = died[at];
      if (death) numbers.set(pid, death.pid);
    }
  }
  return numbers;
}

/** Where a process was started, and where steps moved it. */
export function cgroupsOf({ plan }: Facts, { name, cgroup }: PlannedProcess): string[] {
  const moves = plan.steps.flatMap((step) => (step.do === "move" && step.process === name ? [step.cgroup] : []));
  return [cgroup ?? "", ...moves];
}

/** The end of a process or of a worker of it; `t` as in the record. */
export interface Death {
  pid: number;
  process: string;
  line: number;
  t: number;
}

/** Processes and workers that a SIGKILL ended which we did not send, in order. */
export function unexplainedDeaths({ events, sent }: Facts): Death[] {
  const byUs = (pid: number): boolean => sent.some((kill) => kill.pid === pid && kill.signal === "SIGKILL");
  return events
    .flatMap((event) => {
      const end =
        event.type === "process-exit"
          ? { pid: event.pid, signal: event.signal }
          : event.type === "worker" && event.report.type === "child-end"
            ? { pid: event.report.child, signal: event.report.signal }
            : null;
      return end === null || !("process" in event) || event.process === null
        ? []
        : [{ ...end, process: event.process, line: event.line, t: event.t }];
    })
    .filter(({ pid, signal }) => signal === "SIGKILL" && !byUs(pid));
}

function exitOfPid({ exits, events }: Facts, pid: number | null, process: string): Exit | undefined {
  const exit = exits.get(process);
  if (exit?.pid === pid) return exit;
  for (const event of eventsOf(events, "worker")) {
    if (event.report.type === "child-end" && event.report.child === pid)
      return { signal: event.report.signal, code: event.report.code, line: event.line };
  }
  return undefined;
}
