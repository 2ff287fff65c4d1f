/** What the cgroups' counters tell: OOM kills, whose limit was hit, and what the scenario states of them. Pure. */
import { compares, type Plan } from "../plan.ts";
import { type EventOf, eventsOf } from "../record.ts";
import type { Check } from "../verdict.ts";
import type { Facts } from "./facts.ts";

/** Counters that only grow: judged by how much they grew, all others by the largest value seen. */
const cumulative =
  /^(memory\.events|memory\.swap\.events|memory\.failcnt|memory\.memsw\.failcnt|memory\.oom_control\.oom_kill$|memory\.stat\.(pg|total_pg|workingset|thp_|zswp))/;

/** Settings, judged by what they were at the end: a limit may be lowered on the way. */
const setting =
  /^memory\.(max|high|low|min|swap\.max|swap\.high|zswap\.max|limit_in_bytes|memsw\.limit_in_bytes|soft_limit_in_bytes|swappiness|use_hierarchy|oom_control\.oom_kill_disable)$/;

/** OOM kills by the cgroup that counts them, and the line that tells them. */
export type KillCounts = ReadonlyMap<string, { count: number; line: number }>;

/** OOM kills that each cgroup's own counter tells. */
export function killCounts(facts: Facts): KillCounts {
  const counts = new Map<string, { count: number; line: number }>();
  for (const [cgroup, { line }] of facts.final) {
    const count = growth(facts, cgroup, "memory.events.local.oom_kill") ?? leafGrowth(facts, cgroup, "oom_kill");
    if (count !== null) counts.set(cgroup, { count, line });
  }
  return counts;
}

/** OOM kills below each cgroup that no other one accounts for: its own, and those of cgroups in it that nobody read. */
export function killsCounted(facts: Facts): KillCounts {
  const counts = new Map(killCounts(facts));
  for (const [cgroup, { count, line }] of counts)
    counts.set(cgroup, { count: count + ofUnread(facts, cgroup, "oom_kill"), line });
  return counts;
}

/** Events of cgroups that a process made below one, which were not read themselves. */
export function ofUnread(facts: Facts, cgroup: string, event: "oom" | "oom_kill"): number {
  const own = growth(facts, cgroup, `memory.events.local.${event}`);
  const all = leafGrowth(facts, cgroup, event);
  // The mount option memory_localevents leaves descendants out, so that children may count more than their parent.
  return own === null || all === null ? 0 : Math.max(0, all - own);
}

/** A limit that was hit, how often, and the line of the record that shows it. */
export interface LimitHit {
  cgroup: string;
  count: number;
  line: number;
}

/** Limited cgroups at and above one whose own limit was hit, by counters and notifications. */
export function limitsHit(facts: Facts, cgroup: string): LimitHit[] {
  const chain: string[] = [];
  for (let name = cgroup; name !== ""; name = facts.cgroups.above(name)) chain.push(name);
  if (facts.plan.cgroupVersion === 2)
    return chain.flatMap((name) => {
      const times = growth(facts, name, "memory.events.local.oom") ?? 0;
      return times > 0 ? [{ cgroup: name, count: times, line: facts.final.get(name)?.line ?? 0 }] : [];
    });
  // v1 notifies the cgroup that hit its limit and all below it (mm/memcontrol-v1.c mem_cgroup_oom_notify): what the
  // parent was not told of was the child's own.
  const told = (name: string): EventOf<"oom-event">[] =>
    eventsOf(facts.events, "oom-event").filter((event) => event.cgroup === name);
  const count = (name: string): number => told(name).reduce((sum, event) => sum + event.count, 0);
  return chain.flatMap((name, index) => {
    const parent = chain[index + 1] ?? "";
    const limited = facts.final.get(name)?.counters["memory.max"] !== "max";
    const times = count(name) - count(parent);
    return limited && times > 0
      ? told(name)
          .slice(0, 1)
          .map(({ line }) => ({ cgroup: name, count: times, line }))
      : [];
  });
}

/** A counter as the scenario states it. */
export function counterCheck(facts: Facts, { cgroup, key, compare }: Plan["expect"]["counters"][number]): Check {
  const name = `counters.${cgroup}.${key}`;
  const read = eventsOf(facts.events, "counters").filter((event) => event.cgroup === cgroup);
  const all = read.filter((event) => event.counters[key] !== undefined);
  const number = (event: EventOf<"counters">): number => {
    const value = event.counters[key];
    return value === "max" ? Number.POSITIVE_INFINITY : (value ?? Number.NaN);
  };
  const last = facts.final.get(cgroup);
  if (all.length === 0)
    return {
      name,
      expected: compare.text,
      actual: null,
      status: "inconclusive",
      evidence: last ? [last.line] : [],
      note:
        read.length === 0 ? "it was never read: the run did not get that far" : `this kernel does not report ${key}`,
    };
  let value: number;
  let line: number;
  if (cumulative.test(key)) {
    const grown = growth(facts, cgroup, key);
    if (grown === null || !last)
      return {
        name,
        expected: compare.text,
        actual: null,
        status: "inconclusive",
        evidence: all.map((event) => event.line),
        note: "it was not read at the end",
      };
    [value, line] = [grown, last.line];
  } else {
    const told = setting.test(key)
      ? (all.at(-1) ?? all[0])
      : all.reduce((best, event) => (number(event) > number(best) ? event : best));
    if (!told) return { name, expected: compare.text, actual: null, status: "inconclusive", evidence: [] };
    [value, line] = [number(told), told.line];
  }
  return {
    name,
    expected: compare.text,
    actual: Number.isFinite(value) ? value : "max",
    status: compares(value, compare) ? "passed" : facts.whole ? "failed" : "inconclusive",
    evidence: [line],
  };
}

/** How much a counter grew over the run; null: it was not read at the end. */
export function growth({ first, final }: Facts, cgroup: string, key: string): number | null {
  const after = final.get(cgroup)?.counters[key];
  const before = first.get(cgroup)?.counters[key];
  return typeof after === "number" ? after - (typeof before === "number" ? before : 0) : null;
}

/** Kernels before 5.2 have no memory.events.local: what a cgroup's children do not account for is its own. */
function leafGrowth(facts: Facts, cgroup: string, event: "oom" | "oom_kill"): number | null {
  const key = `memory.events.${event}`;
  const all = growth(facts, cgroup, key);
  if (all === null) return null;
  const children = [...facts.final.keys()].filter((name) => name !== "" && facts.cgroups.above(name) === cgroup);
  return children.reduce((rest, child) => rest - (growth(facts, child, key) ?? 0), all);
}
