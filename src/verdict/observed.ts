/** What was seen of a run, whatever was expected of it. Pure. */
import { type Counters, eventsOf } from "../record.ts";
import type { Kill, Kind, Observed } from "../verdict.ts";
import type { Causes } from "./causes.ts";
import { evictionsOf } from "./evictions.ts";
import { type Facts, reportsOf } from "./facts.ts";
import type { OomKills } from "./kills.ts";
import { containerStatuses } from "./statuses.ts";

/** Processes and cgroups by the scenario's names; sizes in bytes. */
export function observedOf(facts: Facts, found: OomKills, causes: Causes): Observed {
  const { plan, events } = facts;
  const { kills, foreign } = found;
  const evictions = evictionsOf(events);
  return {
    oom: kills[0]?.kind ?? withoutKill(facts, found),
    kills,
    foreignKills: foreign,
    processes: processesOf(facts, kills, causes),
    cgroups: cgroupsOf(facts),
    ...(plan.kubelet ? { evictions } : {}),
    ...(plan.pods
      ? {
          containerStatuses: containerStatuses(
            plan,
            events,
            kills,
            evictions.map(({ pod }) => pod),
          ),
          node: { memory: plan.pods.node.memory, memTotal: plan.pods.node.memTotal },
        }
      : {}),
  };
}

/** What is known where no kill was told: only counters that stand still prove that none happened. */
const withoutKill = ({ whole }: Facts, { counted }: OomKills): Kind => (whole && counted === 0 ? "none" : "unknown");

function processesOf(facts: Facts, kills: readonly Kill[], causes: Causes): Observed["processes"] {
  const all: Observed["processes"] = {};
  for (const [name, cause] of causes) {
    const exit = facts.exits.get(name);
    const sizes: number[] = [];
    let touched: number | null = null;
    for (const { report } of reportsOf(facts, name)) {
      if ("rss" in report) sizes.push(report.rss);
      if ("hwm" in report) sizes.push(report.hwm);
      if ("touched" in report && typeof report.touched === "number") touched = Math.max(touched ?? 0, report.touched);
    }
    for (const { process, victim } of kills) {
      if (process !== name || victim.anonRss === null) continue;
      sizes.push(victim.anonRss + (victim.fileRss ?? 0) + (victim.shmemRss ?? 0));
    }
    all[name] = {
      exit: exit ? { code: exit.code, signal: exit.signal } : null,
      maxRss: sizes.length > 0 ? Math.max(...sizes) : null,
      touched,
      cause,
    };
  }
  return all;
}

/** Final counters by the scenario's names; events as objects, as the kernel's files group them. */
function cgroupsOf(facts: Facts): Observed["cgroups"] {
  const all: Observed["cgroups"] = {};
  for (const { name } of facts.plan.cgroups) {
    const last = facts.final.get(name);
    if (!last) continue;
    const shown: Record<string, unknown> = {};
    for (const [key, value] of Object.entries(last.counters)) {
      const grouped =
        /^(memory\.events\.local|memory\.events|memory\.swap\.events|memory\.stat|memory\.oom_control|memory\.pressure\.(?:some|full)|cgroup\.events)\.(.+)$/.exec(
          key,
        );
      if (!grouped?.[1] || !grouped[2]) shown[key] = value;
      else shown[grouped[1]] = { ...(shown[grouped[1]] as object), [grouped[2]]: value };
    }
    const peak = peakOf(facts, name);
    if (shown["memory.peak"] === undefined) shown["memory.peak"] = peak;
    all[name] = shown;
  }
  return all;
}

/** The largest memory.current that was read of a cgroup. */
function peakOf({ events }: Facts, cgroup: string): number | null {
  const seen = eventsOf(events, "counters")
    .filter((event) => event.cgroup === cgroup)
    .map(({ counters }: { counters: Counters }) => counters["memory.current"])
    .filter((value) => typeof value === "number");
  return seen.length > 0 ? Math.max(...seen) : null;
}
