/** OOM kills without a kernel log: what the counters and the ends of processes prove on their own. Pure. */
import { eventsOf } from "../record.ts";
import type { Check, Kill, Victim } from "../verdict.ts";
import { growth, type KillCounts, killsCounted, type LimitHit, limitsHit, ofUnread } from "./counters.ts";
import { closedLogWords, type Facts } from "./facts.ts";
import { cgroupsOf, type Death, unexplainedDeaths } from "./victims.ts";

/** What is known of kills where the kernel's log was not readable. */
export interface CountedKills {
  kills: Kill[];
  /** Kills that only the counters show, or not which process each of them ended. */
  doubts: Check[];
  counts: KillCounts;
  /** Why the limit or the kind of some kill stays open, in words. */
  open: string[];
}

/**
 * A kill has two witnesses: `oom_kill` of the victim's cgroup grew, and a SIGKILL that we did not send ended a process in
 * it. It is a memcg kill where the own `oom` of a cgroup at or above the victim's grew at least as often: `oom_kill` alone
 * grows for any kind, `oom` only for a limit (mm/memcontrol.c mem_cgroup_oom). On v1 OOM notifications stand in for `oom`.
 */
export function countedKills(facts: Facts): CountedKills {
  const counts = killsCounted(facts);
  const grown = [...counts].filter(([, { count }]) => count > 0);
  const hits = new Map(grown.map(([cgroup]) => [cgroup, hitsOf(facts, cgroup)]));
  const deaths = unexplainedDeaths(facts);
  const scenes = grown.map(([cgroup, { count, line }]): Scene => {
    const own = hits.get(cgroup) ?? NO_HITS;
    const group = groupKills(facts, cgroup);
    const isMemcg = group > 0 ? own.times > 0 : own.times >= claimed(own, hits, counts);
    const limit = isMemcg && own.limits.length === 1 && !own.unread ? (own.limits[0] ?? null) : null;
    const inside = deaths.filter((death) => isIn(facts, death, cgroup, hits));
    return { cgroup, count, line, deaths: inside, hits: own, group, isMemcg, limit };
  });
  return {
    kills: scenes.flatMap((scene) => killsOf(facts, scene)),
    doubts: scenes.filter(isDoubtful).map((scene) => doubtOf(facts, scene)),
    counts,
    open: [...new Set(scenes.filter(({ limit }) => limit === null).map((scene) => whyOpen(facts, scene)))],
  };
}

/** A cgroup whose oom_kill grew. */
interface Scene {
  cgroup: string;
  count: number;
  /** The line of the record with its counters. */
  line: number;
  deaths: Death[];
  hits: Hits;
  /** How many of the kills emptied a cgroup because of memory.oom.group. */
  group: number;
  isMemcg: boolean;
  /** The only limit that was hit at or above it. */
  limit: LimitHit | null;
}

/** One for each SIGKILL, as far as oom_kill counts them. */
function killsOf(facts: Facts, { cgroup, count, line, deaths, hits, group, isMemcg, limit }: Scene): Kill[] {
  const start = eventsOf(facts.events, "process-start")[0]?.t ?? null;
  // Of more SIGKILLs than kills it is open which were the kernel's, but not whose where all were of one process.
  const surplus = deaths.length > count;
  const single = new Set(deaths.map(({ process }) => process)).size === 1;
  return deaths.slice(0, count).map((death) => ({
    kind: isMemcg ? "memcg" : "unknown",
    constraint: null,
    trigger: "unknown",
    oomMemcg: limit === null ? null : facts.cgroups.pathOf(limit.cgroup),
    // A process may have made a cgroup below, whose counters were not read.
    taskMemcg: ofUnread(facts, cgroup, "oom_kill") > 0 ? null : facts.cgroups.pathOf(cgroup),
    group: group > 0,
    limit: limit?.cgroup ?? null,
    process: !surplus || single ? death.process : null,
    witnesses: ["counters", "exit"],
    // In a private pid namespace the kernel's log would show another pid.
    victim: { ...UNSEEN, pid: surplus || facts.privatePids ? null : death.pid },
    atMs: surplus || start === null ? null : Math.max(0, Math.round((death.t - start) / 1000)),
    missing: ["header", "oom-kill", "stack", "sizes"],
    evidence: [
      ...new Set([line, ...hits.limits.map((hit) => hit.line), ...(surplus ? deaths : [death]).map((one) => one.line)]),
    ],
  }));
}

/** Whether some kill has one witness only, or it is open whom it hit. A group kill counts its chosen victim twice. */
const isDoubtful = ({ count, deaths, group }: Scene): boolean =>
  count > deaths.length + group || (deaths.length > count && new Set(deaths.map(({ process }) => process)).size > 1);

const doubtOf = (facts: Facts, { cgroup, count, line, deaths }: Scene): Check => ({
  name: "evidence",
  expected: "two witnesses agree on each kill",
  actual: `oom_kill of ${nameOf(cgroup)} grew by ${count}, and ${deaths.length} of its processes ended with a SIGKILL that oomlab did not send`,
  status: "inconclusive",
  evidence: [line, ...deaths.map((death) => death.line)],
  note: closedLogWords(facts),
});

/** Why the limit, and perhaps the kind, of the kills in a cgroup is not known. */
function whyOpen({ plan }: Facts, { cgroup, hits, isMemcg }: Scene): string {
  if (isMemcg) {
    const names = [...hits.limits.map((hit) => hit.cgroup), ...(hits.unread ? ["a cgroup that a process made"] : [])];
    return `the limits of ${names.join(" and ")} were hit, and only the kernel log shows which of them each kill was for`;
  }
  if (hits.times > 0)
    return `more processes were killed in ${nameOf(cgroup)} than its limits were hit: another kind of OOM kill is among them`;
  const how = plan.cgroupVersion === 1 ? " (no OOM notification came)" : "";
  return `no limit at or above ${nameOf(cgroup)} is known to have been hit${how}: the machine, a cpuset, or a cgroup above oomlab's may have been out of memory`;
}

const nameOf = (cgroup: string): string => cgroup || "the run's cgroup";

/** What only the kernel's log says of a victim. */
const UNSEEN: Victim = {
  pid: null,
  comm: null,
  uid: null,
  totalVm: null,
  anonRss: null,
  fileRss: null,
  shmemRss: null,
  pgtables: null,
  oomScoreAdj: null,
};

/** The limits that were hit at or above a cgroup. */
interface Hits {
  limits: LimitHit[];
  /** Limits of cgroups below were hit that nobody read: one of them may be the one. */
  unread: boolean;
  /** How often, all of them together. */
  times: number;
}

const NO_HITS: Hits = { limits: [], unread: false, times: 0 };

function hitsOf(facts: Facts, cgroup: string): Hits {
  const limits = limitsHit(facts, cgroup);
  const unread = ofUnread(facts, cgroup, "oom");
  return { limits, unread: unread > 0, times: limits.reduce((sum, { count }) => sum + count, unread) };
}

/** Kills that only the limits of `of` can have caused. More of them than these were hit: another kind is among them. */
function claimed(of: Hits, hits: ReadonlyMap<string, Hits>, counts: KillCounts): number {
  const names = new Set(of.limits.map(({ cgroup }) => cgroup));
  let sum = 0;
  for (const [cgroup, { limits }] of hits)
    if (limits.length > 0 && limits.every((hit) => names.has(hit.cgroup))) sum += counts.get(cgroup)?.count ?? 0;
  return Math.max(1, sum);
}

/** Whether a death was in a cgroup; one that may have been in several that count kills is in none for sure. */
function isIn(facts: Facts, { process }: Death, cgroup: string, counting: ReadonlyMap<string, unknown>): boolean {
  const planned = facts.plan.processes.find(({ name }) => name === process);
  if (!planned) return false;
  const accounts = new Set(cgroupsOf(facts, planned).map((name) => facts.cgroups.accountOf(name, facts.final)));
  const able = [...accounts].filter((name) => counting.has(name));
  return able.length === 1 && able[0] === cgroup;
}

/** Group kills that memory.oom.group made of processes in a cgroup; kernels before 5.17 count none, there the setting says it. */
function groupKills(facts: Facts, cgroup: string): number {
  let sum = 0;
  for (let name = cgroup; name !== ""; name = facts.cgroups.above(name)) {
    const counted = growth(facts, name, "memory.events.local.oom_group_kill");
    const written = facts.plan.cgroups
      .find((one) => one.name === name)
      ?.writes.some(({ file, value }) => file === "memory.oom.group" && value === "1");
    if (counted !== null) sum += counted;
    else if (written === true) sum++;
  }
  return sum;
}
