/** What the scenario expects, checked against what the record shows. Pure. */
import { eventsOf } from "../record.ts";
import type { Check, Kill, Kind } from "../verdict.ts";
import { counterCheck } from "./counters.ts";
import { endedByUs, type OtherEnd, type OtherEnds, otherEndWords, unexplainedWords } from "./ends.ts";
import { evictedCheck, firstCheck, type KillSeen } from "./evictions.ts";
import { closedLogWords, describeExit, type Facts, isLogClosed, lastWordsOf, ourSignal, outputOf } from "./facts.ts";
import { cgroupOf, type OomKills } from "./kills.ts";

/** Checks that rest on which kills there were. */
const aboutKills = /^(oom|limit|trigger|victims|within|first|other OOM kills|survivors\..*)$/;

/** A check for each thing that the scenario states; and for what it does not state and had to: a panic, a kill, a failed step. `unreached`: a workload did not touch what it states. */
export function expectationChecks(facts: Facts, found: OomKills, others: OtherEnds, unreached: boolean): Check[] {
  const { expect } = facts.plan;
  const { kills } = found;
  const checks: Check[] = [];
  const absence = absenceOf(facts, found);
  if (expect.oom !== null) checks.push(kindCheck(expect.oom, kills, absence));
  if (expect.limit !== null) checks.push(eachCheck("limit", expect.limit, kills, limitOf, absence));
  if (expect.trigger !== null) checks.push(eachCheck("trigger", expect.trigger, kills, triggerOf, absence));
  if (expect.victims !== null) checks.push(victimsCheck(facts, expect.victims, kills, absence));
  for (const name of expect.survivors ?? []) checks.push(survivorCheck(facts, name, kills, others.get(name)));
  for (const stated of expect.exit) checks.push(exitCheck(facts, stated, others.get(stated.process)));
  if (expect.evicted) checks.push(evictedCheck(expect.evicted, facts.events));
  if (expect.first) checks.push(firstCheck(expect.first, facts.events, datedKills(facts, kills), datedEnds(others)));
  for (const stated of expect.counters) checks.push(counterCheck(facts, stated));
  checks.push(...logChecks(facts, found));
  checks.push(...panicChecks(facts));
  if (expect.withinMs !== null) checks.push(withinCheck(expect.withinMs, kills, absence));
  checks.push(...failedSteps(facts));
  checks.push(...otherKills(facts, kills));
  checks.push(...stepNotReached(facts));
  // A failure may rest on a kill only where the witnesses leave no doubt about the kills, and on none only where the
  // pressure was there: a worker that gave up before proves nothing.
  const doubted = found.doubts.length > 0 || (unreached && kills.length === 0);
  return checks
    .map((check): Check =>
      doubted && check.status === "failed" && aboutKills.test(check.name) && !isDead(facts, others, check.name)
        ? { ...check, status: "inconclusive" }
        : check,
    )
    .map((check) => withClosedLog(facts, found, check));
}

/** Checks that the kernel's log would decide. */
const aboutLog = /^(oom|limit|trigger|victims|within|log)$/;

/** What stays open for want of the kernel's log says so, and what opens it. */
function withClosedLog(facts: Facts, { open, kills, doubts }: OomKills, check: Check): Check {
  if (!isLogClosed(facts) || check.status !== "inconclusive" || !aboutLog.test(check.name)) return check;
  const reasons =
    check.name !== "oom" && check.name !== "limit"
      ? []
      : kills.length > 0
        ? open
        : doubts.map(({ actual }) => `${String(actual)}: one witness alone`);
  return {
    ...check,
    evidence: check.evidence.length > 0 ? check.evidence : facts.kernelLog ? [facts.kernelLog.line] : [],
    note: [...reasons, closedLogWords(facts)].join("; "),
  };
}

/** Whether a signal ended the process that was to survive: who sent it does not matter. */
function isDead({ exits }: Facts, others: OtherEnds, check: string): boolean {
  if (!check.startsWith("survivors.")) return false;
  const name = check.slice("survivors.".length);
  return others.get(name)?.ended === true || (exits.get(name)?.signal ?? null) !== null;
}

/** Whether "no OOM kill happened" is proven, and the lines that prove it or leave it open. */
interface Absence {
  status: "passed" | "inconclusive";
  evidence: number[];
}

/** Proven where the record is whole and the counters stand still. */
function absenceOf({ final, whole, gaps }: Facts, { counted }: OomKills): Absence {
  const lines = [...final.values()].map(({ line }) => line);
  if (!whole) return { status: "inconclusive", evidence: lines };
  if (counted === 0) return { status: "passed", evidence: lines };
  if (counted === null) return { status: "inconclusive", evidence: gaps };
  return { status: "inconclusive", evidence: [...lines, ...gaps] };
}

function kindCheck(expected: Kind, kills: readonly Kill[], absence: Absence): Check {
  const evidence = kills.flatMap((kill) => kill.evidence);
  if (kills.length === 0) {
    const status = absence.status === "inconclusive" ? "inconclusive" : expected === "none" ? "passed" : "failed";
    return {
      name: "oom",
      expected,
      actual: absence.status === "passed" ? "none" : "unknown",
      status,
      evidence: absence.evidence,
    };
  }
  const kinds = [...new Set(kills.map(({ kind }) => kind))];
  const actual = kinds.length === 1 ? kinds[0] : kinds;
  if (expected === "none") return { name: "oom", expected, actual, status: "failed", evidence };
  const wrong = kinds.some((kind) => kind !== expected && kind !== "unknown");
  const unknown = kinds.includes("unknown");
  return { name: "oom", expected, actual, status: wrong ? "failed" : unknown ? "inconclusive" : "passed", evidence };
}

/** A property of a kill: what it is in the scenario's words, null where that is not known, and what is shown of it. */
type Property = (kill: Kill) => { value: string | null; shown: string | null };

const limitOf: Property = ({ limit, oomMemcg }) => ({ value: limit, shown: limit ?? oomMemcg });

const triggerOf: Property = ({ trigger }) => ({ value: trigger === "unknown" ? null : trigger, shown: trigger });

/** A property that each of our kills must have. */
function eachCheck(
  name: string,
  expected: string,
  kills: readonly Kill[],
  property: Property,
  absence: Absence,
): Check {
  if (kills.length === 0)
    return {
      name,
      expected,
      actual: null,
      status: absence.status === "passed" ? "failed" : "inconclusive",
      evidence: absence.evidence,
      note:
        absence.status === "passed"
          ? "no OOM kill happened"
          : "the log tells no OOM kill, and nothing proves that none happened",
    };
  const evidence = kills.flatMap((kill) => kill.evidence);
  const all = kills.map(property);
  const wrong = all.some(({ value, shown }) => value !== expected && shown !== null && shown !== "unknown");
  const open = all.some(({ value }) => value === null);
  const distinct = [...new Set(all.map(({ shown }) => shown))];
  const actual = distinct.length === 1 ? (distinct[0] ?? null) : distinct;
  return { name, expected, actual, status: wrong ? "failed" : open ? "inconclusive" : "passed", evidence };
}

/** Exactly the processes that OOM kills ended. */
function victimsCheck(facts: Facts, victims: readonly string[], kills: readonly Kill[], absence: Absence): Check {
  const { plan, privatePids } = facts;
  const expected = [...new Set(victims)].toSorted();
  const named = [...new Set(kills.flatMap(({ process }) => (process === null ? [] : [process])))].toSorted();
  const strangers = kills.filter(({ process }) => process === null);
  const actual = [
    ...named,
    ...strangers.map(({ victim: { comm, pid } }) =>
      comm === null ? "a process that is not known" : `${comm} (pid ${pid}, of no known process of the scenario)`,
    ),
  ];
  const evidence = kills.length > 0 ? kills.flatMap((kill) => kill.evidence) : absence.evidence;
  const missing = expected.filter((name) => !named.includes(name));
  const surplus = named.filter((name) => !expected.includes(name));
  let status: Check["status"] = missing.length > 0 || surplus.length > 0 || strangers.length > 0 ? "failed" : "passed";
  if (kills.length === 0 && absence.status === "inconclusive") status = "inconclusive";
  // A victim whose parents nobody saw may be what an expected process forked.
  const maybe = plan.processes.filter(
    ({ name, forks }) => forks && (missing.includes(name) || expected.includes(name)),
  );
  const forked = maybe.length > 0 && missing.every((name) => maybe.some((process) => process.name === name));
  // So may be one that has another number here than in the log.
  if (surplus.length === 0 && strangers.length > 0 && (forked || privatePids || isLogClosed(facts)))
    status = "inconclusive";
  return { name: "victims", expected, actual, status, evidence };
}

/** A process that is alive at the end or has ended by its own will; whom anybody's signal ended is no survivor. */
function survivorCheck(facts: Facts, name: string, kills: readonly Kill[], other: OtherEnd | undefined): Check {
  const check = { name: `survivors.${name}`, expected: "alive, or ended by its own will" };
  const started = eventsOf(facts.events, "process-start").find(({ process }) => process === name);
  const killed = kills.find(({ process }) => process === name);
  const exit = facts.exits.get(name);
  if (killed) return { ...check, actual: "killed by the OOM killer", status: "failed", evidence: killed.evidence };
  if (!started) return { ...check, actual: "never started", status: "inconclusive", evidence: [facts.run.line] };
  if (!exit) {
    const { whole } = facts;
    const actual = whole ? "alive at the end" : "alive where the record breaks off";
    return { ...check, actual, status: whole ? "passed" : "inconclusive", evidence: [started.line] };
  }
  const evidence = [started.line, exit.line];
  if (other?.ended) {
    const { sender } = other;
    return {
      ...check,
      actual: otherEndWords(facts, other),
      status: "failed",
      evidence: [...evidence, ...sender.evidence],
    };
  }
  const ours = endedByUs(facts, exit);
  if (ours?.why === "eviction")
    return { ...check, actual: "evicted by the kubelet", status: "failed", evidence: [ours.line, ...evidence] };
  if (ours?.why === "step")
    return { ...check, actual: `ended by the scenario's ${ours.signal}`, status: "passed", evidence };
  if (ours) return { ...check, actual: "alive at the end", status: "passed", evidence };
  if (exit.signal === "SIGKILL" || exit.signal === "SIGTERM")
    return { ...check, actual: `ended by ${unexplainedWords(facts, kills, exit.signal)}`, status: "failed", evidence };
  const stated = facts.plan.expect.exit.some(({ process, exit: wanted }) => process === name && wanted === exit.code);
  return {
    ...check,
    actual: `ended with ${describeExit(exit)}`,
    status: exit.code === 0 || (exit.code !== null && stated) ? "passed" : "failed",
    evidence,
  };
}

/** The status or the signal that a process ended with. */
function exitCheck(
  facts: Facts,
  { process, exit: wanted }: Facts["plan"]["expect"]["exit"][number],
  other: OtherEnd | undefined,
): Check {
  const exit = facts.exits.get(process);
  const ours = ourSignal(facts, exit);
  const actual = exit === undefined ? null : (exit.signal ?? exit.code);
  const byUs = ours !== undefined && ours.why !== "step" && ours.why !== "eviction";
  const output = actual === wanted ? [] : outputOf(facts, process);
  // Another OOM killer's work is no end that the scenario came to, though it may look like the one that is stated.
  if (other?.ended && exit)
    return {
      name: `exit.${process}`,
      expected: wanted,
      actual,
      status: actual === wanted ? "inconclusive" : "failed",
      evidence: [exit.line, ...other.sender.evidence],
      note: otherEndWords(facts, other),
    };
  return {
    name: `exit.${process}`,
    expected: wanted,
    actual: byUs ? "still running when the run ended" : actual,
    status: exit === undefined ? "inconclusive" : !byUs && actual === wanted ? "passed" : "failed",
    evidence: exit === undefined ? [] : [exit.line, ...output.map(({ line }) => line)],
    ...(output.length === 0 ? {} : { note: `it wrote: ${lastWordsOf(facts, process)}` }),
  };
}

/** Kills with the moment at which the first sign of them was read: of their report, or the end of the process. */
function datedKills({ events, kernelLog }: Facts, kills: readonly Kill[]): KillSeen[] {
  return kills.map(({ evidence }) => {
    const signs = events.filter(
      ({ type, line }) =>
        // Records of the journal trail behind.
        ((type === "kmsg" && kernelLog?.source !== "journal") || type === "process-exit") && evidence.includes(line),
    );
    return { t: signs.length > 0 ? Math.min(...signs.map(({ t }) => t)) : null, evidence };
  });
}

/** Ends that another OOM killer made. */
const datedEnds = (others: OtherEnds): (KillSeen & { by: string })[] =>
  [...others.values()].flatMap(({ exit, ended, sender }) =>
    ended && exit ? [{ t: exit.t, by: sender.by, evidence: [exit.line, ...sender.evidence] }] : [],
  );

/** Patterns in the kernel's log; after a panic also in the console, which alone has its last lines. */
function logChecks({ plan, events, logComplete, gaps }: Facts, { log }: OomKills): Check[] {
  const panicked = eventsOf(events, "panic").length > 0;
  const lines: { line: number; text: string }[] = panicked ? [...log, ...eventsOf(events, "console")] : log;
  return plan.expect.log.map(({ pattern }) => {
    const found = lines.filter(({ text }) => new RegExp(pattern).test(text));
    return {
      name: "log",
      expected: `/${pattern}/`,
      actual: found[0]?.text ?? null,
      status: found.length > 0 ? "passed" : logComplete ? "failed" : "inconclusive",
      evidence: found.length > 0 ? found.map(({ line }) => line) : gaps,
    };
  });
}

/** A panic that nobody stated is a failure, whatever else was expected. */
function panicChecks({ plan, events }: Facts): Check[] {
  const panic = eventsOf(events, "panic")[0];
  if (plan.expect.panic === null && !panic) return [];
  const expected = plan.expect.panic ?? false;
  return [
    {
      name: "panic",
      expected,
      actual: panic === undefined ? false : panic.message,
      status: expected === (panic !== undefined) ? "passed" : "failed",
      evidence: panic === undefined ? [] : [panic.line],
    },
  ];
}

/** The first kill came in time. */
function withinCheck(withinMs: number, kills: readonly Kill[], absence: Absence): Check {
  const at = kills.map(({ atMs }) => atMs).filter((ms) => ms !== null);
  const first = at.length > 0 ? Math.min(...at) : null;
  return {
    name: "within",
    expected: `${withinMs} ms`,
    actual: first === null ? null : `${first} ms`,
    status:
      first !== null
        ? first <= withinMs
          ? "passed"
          : "failed"
        : kills.length > 0
          ? "inconclusive"
          : absence.status === "passed"
            ? "failed"
            : "inconclusive",
    evidence: kills.flatMap(({ evidence }) => evidence),
  };
}

const failedSteps = ({ events }: Facts): Check[] =>
  eventsOf(events, "step")
    .filter(({ status }) => status !== "done")
    .map((event) => ({
      name: `step ${event.index + 1} (${event.do})`,
      expected: "done",
      actual: event.detail,
      status: "failed",
      evidence: [event.line],
    }));

/** The step that was next when the run ended, where none before it failed. */
function stepNotReached({ run, plan, events }: Facts): Check[] {
  const steps = eventsOf(events, "step");
  const next = plan.steps[steps.length];
  if (!next || steps.some(({ status }) => status !== "done")) return [];
  return [
    {
      name: `step ${steps.length + 1} (${next.do})`,
      expected: "done",
      actual: "not reached before the run ended",
      status: "inconclusive",
      evidence: [(eventsOf(events, "timeout")[0] ?? run).line],
    },
  ];
}

function otherKills(facts: Facts, kills: readonly Kill[]): Check[] {
  const others = kills.filter((kill) => !isExpected(facts, kill));
  if (others.length === 0) return [];
  return [
    {
      name: "other OOM kills",
      expected: "none",
      actual: others.map(({ kind, victim, process }) => {
        const who = process ?? victim.comm ?? "a process that is not known";
        return `${kind}: ${who}${victim.pid === null ? "" : ` (pid ${victim.pid})`}`;
      }),
      status: "failed",
      evidence: others.flatMap(({ evidence }) => evidence),
    },
  ];
}

/** Whether the scenario's expectations account for a kill; where they are wrong about it, another check says so. */
function isExpected(facts: Facts, kill: Kill): boolean {
  const { expect, pods } = facts.plan;
  // A container that is pressed to see what happens: nothing of it was stated.
  if (pods && pods.turn !== null && !pods.stated) return true;
  if (expect.oom === "none" || expect.victims !== null) return true;
  if (expect.oom !== null) return kill.kind === expect.oom || kill.kind === "unknown";
  if (expect.first === "oom") return true;
  if (expect.limit !== null || expect.trigger !== null || expect.withinMs !== null) return true;
  const cgroup = cgroupOf(facts, kill);
  return (
    expect.exit.some(({ process, exit }) => process === kill.process && exit === "SIGKILL") ||
    expect.counters.some((counter) => counter.cgroup === cgroup && counter.key.endsWith("oom_kill"))
  );
}
