/** The OOM kills of a record: whose limit, who died, and which witnesses agree. Pure. */
import { findOomKills, type KmsgRecord } from "../kmsg/index.ts";
import { type EventOf, eventsOf } from "../record.ts";
import type { Check, Kill } from "../verdict.ts";
import { countedKills } from "./counted.ts";
import { type KillCounts, killCounts, limitsHit } from "./counters.ts";
import { type Facts, isLogClosed } from "./facts.ts";
import { victimsOf } from "./victims.ts";

export interface OomKills {
  /** This run's, in the log's order. */
  kills: Kill[];
  /** Others that happened meanwhile; null: nobody could see them. */
  foreign: Kill[] | null;
  /** Where witnesses are missing or contradict each other. */
  doubts: Check[];
  /** All kills that our counters tell; null where no counter could be read. */
  counted: number | null;
  /** The kernel's own records, without the reports of foreign kills. */
  log: EventOf<"kmsg">[];
  /** OOM reports whose head the kernel's rate limit took. */
  suppressed: number;
  /** Without a kernel log: why the limit or the kind of some kill stays open. */
  open: string[];
}

/** The kills by the kernel's log, or, where that could not be read, by the counters and the ends of processes. */
export function oomKillsOf(facts: Facts): OomKills {
  if (!isLogClosed(facts)) return loggedKills(facts);
  const { kills, doubts, counts, open } = countedKills(facts);
  return { kills, foreign: null, doubts, counted: sumOf(counts), log: [], suppressed: 0, open };
}

/** Reads the kernel's log and holds each kill against the counters and the ends of processes. */
function loggedKills(facts: Facts): OomKills {
  const records = facts.kmsg.map((event): KmsgRecord => ({
    seq: event.seq,
    timeUs: event.timeUs,
    facility: event.facility,
    level: event.level,
    caller: event.caller,
    text: event.text,
    line: event.line,
  }));
  const scan = findOomKills(records);
  const counts = killCounts(facts);
  const victims = victimsOf(facts, scan.kills, counts);
  const kills: Kill[] = [];
  const foreign: Kill[] = [];
  const doubts: Check[] = [];
  for (const kill of scan.kills) {
    const ours = victims.isOurs(kill);
    const process = ours ? victims.processOf(kill) : null;
    const cgroup = cgroupOf(facts, { taskMemcg: kill.taskMemcg, process });
    const told: Kill = {
      kind: kill.kind,
      constraint: kill.constraint,
      trigger: kill.trigger,
      oomMemcg: kill.oomMemcg,
      taskMemcg: kill.taskMemcg,
      group: kill.group,
      limit: limitName(facts, kill.oomMemcg),
      process,
      witnesses: ["kmsg"],
      victim: kill.victim,
      atMs: millisecondsIn(facts, kill.line),
      missing: kill.missing,
      evidence: [...kill.lines, ...(ours ? victims.witnessesOf(kill) : [])],
    };
    if (!ours) {
      foreign.push(told);
      continue;
    }
    const grown = cgroup === null ? undefined : counts.get(facts.cgroups.accountOf(cgroup, counts));
    if (grown !== undefined && grown.count > 0) {
      told.witnesses.push("counters");
      told.evidence = [...told.evidence, grown.line];
    }
    const exit = process === null ? undefined : victims.exitOf(kill, process);
    if (exit?.signal === "SIGKILL") {
      told.witnesses.push("exit");
      told.atMs = earlier(told.atMs, millisecondsIn(facts, exit.line));
      told.evidence = [...told.evidence, exit.line];
    }
    const traced = eventsOf(facts.events, "trace-victim").find(({ pid }) => pid === kill.victim.pid);
    if (traced) {
      told.witnesses.push("trace");
      told.evidence = [...told.evidence, traced.line];
    }
    completeFromCounters(facts, told, cgroup);
    kills.push(told);
    // A cgroup that a process made for itself has counters that nobody read.
    const counted = cgroup !== null && counts.has(cgroup) ? grown?.count : undefined;
    const doubt = contradiction(told, counted, exit);
    if (doubt !== null) {
      doubts.push({
        name: "evidence",
        expected: "two witnesses agree on each kill and none contradicts",
        actual: doubt,
        status: "inconclusive",
        evidence: told.evidence,
      });
    }
  }
  doubts.push(...uncounted(facts, kills, counts));
  return {
    kills,
    foreign,
    doubts,
    counted: sumOf(counts),
    log: kernelLog(facts, kills, foreign),
    suppressed: scan.suppressed,
    open: [],
  };
}

/** All kills that the counters show; null: none could be read. */
const sumOf = (counts: KillCounts): number | null =>
  counts.size === 0 ? null : [...counts.values()].reduce((sum, { count }) => sum + count, 0);

/** The victim's cgroup in the scenario's words: the log's, else the one its process was started in. */
export function cgroupOf(
  { cgroups, plan }: Facts,
  kill: { taskMemcg: string | null; process: string | null },
): string | null {
  return cgroups.at(kill.taskMemcg) ?? plan.processes.find(({ name }) => name === kill.process)?.cgroup ?? null;
}

/** A foreign report reaches from its first to its last record; what of ours stands between stays ours. */
function kernelLog({ kmsg }: Facts, kills: readonly Kill[], foreign: readonly Kill[]): EventOf<"kmsg">[] {
  const ours = new Set(kills.flatMap(({ evidence }) => evidence));
  const others = new Set<number>();
  for (const { evidence } of foreign) {
    const [first, last] = [Math.min(...evidence), Math.max(...evidence)];
    for (const { line } of kmsg) if (line >= first && line <= last && !ours.has(line)) others.add(line);
  }
  return kmsg.filter(({ facility, line }) => facility === 0 && !others.has(line));
}

/** Which cgroup's limit was hit, in the scenario's words; null: none of the scenario's. */
function limitName({ cgroups }: Facts, oomMemcg: string | null): string | null {
  const name = cgroups.at(oomMemcg);
  return name === null || name === "" ? null : name;
}

/**
 * Where the rate limit took the head of a report, its last line still says memcg or not; with counters that single
 * out one limit above the victim, kind and limit are known all the same.
 */
function completeFromCounters(facts: Facts, kill: Kill, cgroup: string | null): void {
  if (kill.constraint !== null || kill.kind !== "memcg" || cgroup === null || kill.oomMemcg !== null) return;
  const hit = limitsHit(facts, cgroup);
  if (hit.length !== 1 || hit[0] === undefined) return;
  kill.limit = hit[0].cgroup;
  kill.oomMemcg = facts.cgroups.pathOf(hit[0].cgroup);
  kill.taskMemcg ??= facts.cgroups.pathOf(cgroup);
  kill.evidence = [...kill.evidence, hit[0].line];
}

/** What speaks against a kill, or that nothing but the log speaks for it; null: its witnesses agree. */
function contradiction(
  kill: Kill,
  counted: number | undefined,
  exit: { signal: string | null; code: number | null } | undefined,
): string | null {
  const who = `pid ${kill.victim.pid}`;
  if (counted === 0) return `the kernel log says that ${who} was killed, its cgroup's oom_kill counter did not grow`;
  if (exit && exit.signal !== "SIGKILL")
    return `the kernel log says that ${who} was killed, and it ended with ${exit.signal ?? `status ${exit.code}`}`;
  if (kill.witnesses.length < 2) return `only the kernel log says that ${who} was killed`;
  return null;
}

/** Kills that the counters tell and the log does not. A group kill counts its chosen victim twice. */
function uncounted(facts: Facts, kills: readonly Kill[], counts: KillCounts): Check[] {
  const checks: Check[] = [];
  for (const [cgroup, { count, line }] of counts) {
    const here = kills.filter((kill) => facts.cgroups.accountOf(cgroupOf(facts, kill) ?? "", counts) === cgroup);
    const groups = here.filter(({ group }) => group).length;
    if (count <= here.length + groups) continue;
    checks.push({
      name: "evidence",
      expected: "the kernel log tells each kill that the counters tell",
      actual: `oom_kill of ${cgroup || "the run's cgroup"} grew by ${count}, the log tells ${here.length}`,
      status: "inconclusive",
      evidence: [line, ...facts.gaps],
      note: facts.gaps.length === 0 ? "the log has no gap" : "kernel log records were lost",
    });
  }
  return checks;
}

/**
 * When an event was read, in ms from the first process's start: printk's clock is not the run's. Null for a record of the
 * journal, which trails behind.
 */
function millisecondsIn({ events, kernelLog }: Facts, line: number): number | null {
  const start = eventsOf(events, "process-start")[0];
  const event = events.find((one) => one.line === line);
  if (!start || !event || (event.type === "kmsg" && kernelLog?.source === "journal")) return null;
  return Math.max(0, Math.round((event.t - start.t) / 1000));
}

const earlier = (one: number | null, other: number | null): number | null =>
  one === null || other === null ? (one ?? other) : Math.min(one, other);
