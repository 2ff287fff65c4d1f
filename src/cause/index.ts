/**
 * Why a process ended: from evidence of any origin to one cause in one vocabulary. Pure, and knows neither records nor
 * machines: `run`, `exec`, `watch` and others bring what they have seen.
 */
import { formatBytes } from "../units.ts";
import { type LastWords, memoryWords } from "./last-words.ts";

export type CauseWord =
  | "memcg-oom"
  | "global-oom"
  | "cpuset-oom"
  | "mempolicy-oom"
  | "unknown-oom"
  | "userspace-oom"
  | "eviction"
  | "stopped"
  | "signal"
  | "heap-limit"
  | "enomem"
  | "exit"
  | "unknown";

export interface Evidence {
  source:
    | "kernel-log"
    | "trace"
    | "counters"
    | "journal"
    | "runtime"
    | "kubernetes"
    | "systemd"
    | "program-log"
    | "exit";
  /** ISO time; null: not known. */
  at: string | null;
  text: string;
}

/** Who ended it. */
export interface By {
  kind: string;
  pid: number | null;
  comm: string | null;
  /** Its own words. */
  words: string | null;
}

/** An OOM kill, as far as a cause needs it. */
export interface OomKillFacts {
  kind: string;
  group: boolean;
  limit: string | null;
  oomMemcg: string | null;
  witnesses: readonly string[];
  victim: {
    pid: number | null;
    comm: string | null;
    anonRss: number | null;
    shmemRss: number | null;
  };
}

export interface Cause<Kill extends OomKillFacts = OomKillFacts> {
  cause: CauseWord;
  by: By | null;
  kill: Kill | null;
  sentence: string;
  advice: string[];
  /** `proven`: two sources agree and none contradicts; `likely`: one. */
  confidence: "proven" | "likely" | "unknown";
  evidence: Evidence[];
  /** What would say more. */
  missing: string[];
}

/** A signal to the process, as the trace tells it. */
export interface TracedSignal {
  signal: string;
  /** siginfo's si_code: 128 the kernel, others a process. */
  code: number;
  /** False: to one task, as cgroup.kill does. */
  toProcess: boolean | null;
  sender: { pid: number; comm: string | null; unit: string | null };
  /** The OOM killer's choice right behind it. */
  victim: boolean;
  at: string | null;
}

/** What is known of the end of one process. */
export interface Death<Kill extends OomKillFacts = OomKillFacts> {
  /** As sentences name it. */
  name: string;
  pid: number | null;
  exit: { code: number | null; signal: string | null; at: string | null };
  /** OOM kills of the process itself and of its children, with the lines that tell them. */
  kills: readonly { kill: Kill; evidence: readonly Evidence[] }[];
  /** Signals to it and its children that were delivered, in order; null: nobody traced them, and why. */
  signals: readonly (TracedSignal & { pid: number })[] | null;
  /** Why the trace is not there, or not whole. */
  untraced: string | null;
  /** What whoever reports this did to it. */
  own: { signal: string; why: "step" | "timeout" | "interrupted" | "cleanup" | "eviction"; at: string | null } | null;
  /** The kubelet evicted it, in its words. */
  eviction: { words: string; at: string | null } | null;
  /** A userspace OOM killer ended it or a child of it. */
  oomKiller: {
    by: string;
    words: string | null;
    confidence: "proven" | "likely";
    evidence: readonly Evidence[];
  } | null;
  /** What it wrote last. */
  output: string;
  /** The kernel said no to it: the call and what is known of why. */
  refused: string | null;
  /** Limits of the process itself (setrlimit) that an allocation can meet. */
  rlimits: readonly string[];
  /** The memory limits of cgroups that `limit` of a kill may name, in bytes. */
  limits: Readonly<Record<string, number>>;
  /** Evidence that no OOM kill happened to it. */
  noKill: Evidence | null;
  /** Evidence of an OOM kill in its cgroup, the victim of which nothing names. */
  namelessKill: Evidence | null;
}

/** Senders whose job is to end what uses too much memory. */
const oomKillers: ReadonlySet<string> = new Set(["systemd-oomd", "earlyoom", "oomd", "nohang"]);
/** Senders that end what they started, by the name of their process: their kind. */
const supervisors: Readonly<Record<string, string>> = {
  systemd: "systemd",
  kubelet: "kubelet",
  runc: "runtime",
  crun: "runtime",
  conmon: "runtime",
  dockerd: "runtime",
  containerd: "runtime",
  "containerd-shim": "runtime",
  podman: "runtime",
};

/** Signals by which a runtime ends itself, and the status that a shell makes of them. */
const aborts: Readonly<Record<string, number>> = { SIGABRT: 134, SIGTRAP: 133, SIGILL: 132 };

/** The cause of one death. */
export function causeOf<Kill extends OomKillFacts>(death: Death<Kill>): Cause<Kill> {
  return (
    kernelKill(death) ??
    ownSignal(death) ??
    evicted(death) ??
    tracedSignal(death) ??
    byOomKiller(death) ??
    childKill(death) ??
    gaveUp(death) ??
    childSignal(death) ??
    namelessChildKill(death) ??
    unexplainedSignal(death) ??
    ownExit(death)
  );
}

const endWords = ({ code, signal }: { code: number | null; signal: string | null }): string =>
  signal === null ? `status ${code}` : signal;

const exitEvidence = ({ exit }: Death): Evidence => ({
  source: "exit",
  at: exit.at,
  text: exit.signal === null ? `it ended with status ${exit.code}` : `${exit.signal} ended it`,
});

/** Fills in what most causes have not; two sources make it proven. */
function cause<Kill extends OomKillFacts>(
  word: CauseWord,
  sentence: string,
  evidence: readonly Evidence[],
  more: Partial<Cause<Kill>> = {},
): Cause<Kill> {
  return {
    cause: word,
    by: null,
    kill: null,
    sentence,
    advice: [],
    confidence: new Set(evidence.map(({ source }) => source)).size > 1 ? "proven" : "likely",
    evidence: [...evidence],
    missing: [],
    ...more,
  };
}

const byKernel = { kind: "kernel", pid: null, comm: null, words: null };

function kernelKill<Kill extends OomKillFacts>(death: Death<Kill>): Cause<Kill> | null {
  // Without a log only its end says that it was the process itself.
  const isOwn = (kill: Kill): boolean =>
    kill.victim.pid === null ? kill.witnesses.includes("exit") : kill.victim.pid === death.pid;
  const found = death.exit.signal === "SIGKILL" ? death.kills.find(({ kill }) => isOwn(kill)) : undefined;
  if (found) return oomCause(death, found, `${death.name} was killed`);
  // The kind is the log's to say.
  const traced = death.signals?.find((one) => one.pid === death.pid && one.victim && one.signal === death.exit.signal);
  if (!traced) return null;
  return cause(
    "unknown-oom",
    `${death.name} was killed by the kernel's OOM killer, of which kind is not known`,
    [{ source: "trace", at: traced.at, text: "oom:mark_victim names it" }, exitEvidence(death)],
    { by: byKernel, missing: ["kernel-log: the OOM report"] },
  );
}

const childWords = ({ victim: { pid, comm } }: OomKillFacts): string =>
  `${comm === null ? "a child of it" : `its child ${comm}`}${pid === null ? "" : ` (pid ${pid})`}`;

/** A child that the kernel killed and that its parent did not survive. */
function childKill<Kill extends OomKillFacts>(death: Death<Kill>): Cause<Kill> | null {
  const [found] = death.kills;
  if (!found || death.exit.code === 0) return null;
  const made = oomCause(
    death,
    found,
    `${death.name} ended with ${endWords(death.exit)}, for ${childWords(found.kill)} was killed`,
  );
  return { ...made, confidence: death.exit.code === 137 ? made.confidence : "likely" };
}

/** A kill that only the counters show: without a kernel log nothing names a child that oomlab did not start. */
function namelessChildKill<Kill extends OomKillFacts>(death: Death<Kill>): Cause<Kill> | null {
  if (death.namelessKill === null || death.exit.signal !== null || death.exit.code === 0) return null;
  return cause(
    "unknown-oom",
    `${death.name} ended with ${endWords(death.exit)}; the kernel's OOM killer killed a process in its cgroup, and nothing names which`,
    [death.namelessKill, exitEvidence(death)],
    { by: byKernel, confidence: "likely", missing: ["kernel-log: the victim, the kind of the kill and the limit"] },
  );
}

function oomCause<Kill extends OomKillFacts>(
  death: Death<Kill>,
  { kill, evidence }: { kill: Kill; evidence: readonly Evidence[] },
  what: string,
): Cause<Kill> {
  const { victim, limit, oomMemcg, group } = kill;
  const word = ["memcg", "global", "cpuset", "mempolicy"].includes(kill.kind) ? kill.kind : "unknown";
  // Pages of files are shared, and may be charged to others.
  const held = victim.anonRss === null ? null : victim.anonRss + (victim.shmemRss ?? 0);
  const bytes = limit === null ? undefined : death.limits[limit];
  const whose = limit === null ? oomMemcg : `${limit}${bytes === undefined ? "" : ` (${formatBytes(bytes)})`}`;
  const why: Record<string, string> = {
    memcg: whose === null ? "a memory limit was hit" : `the memory limit of ${whose} was hit`,
    global: "the machine ran out of memory",
    cpuset: "the NUMA nodes of its cpuset ran out of memory",
    mempolicy: "the NUMA nodes of its memory policy ran out of memory",
    unknown: "of which kind is not known",
  };
  return cause(
    `${word}-oom` as CauseWord,
    `${what} by the kernel's OOM killer: ${why[word]}${held === null ? "" : `, it held ${formatBytes(held)}`}${group ? " (the whole cgroup was killed, memory.oom.group)" : ""}`,
    [...evidence, exitEvidence(death)],
    { by: byKernel, kill, confidence: kill.witnesses.length > 1 ? "proven" : "likely" },
  );
}

/** What we ended ourselves has no other cause. */
function ownSignal<Kill extends OomKillFacts>(death: Death<Kill>): Cause<Kill> | null {
  const { own, name, eviction } = death;
  if (own === null) return null;
  const sent: Evidence = { source: "runtime", at: own.at, text: `oomlab sent ${own.signal} (${own.why})` };
  const by = { kind: "oomlab", pid: null, comm: "oomlab", words: null };
  if (own.why === "eviction")
    return cause(
      "eviction",
      `${name} was evicted by the kubelet${eviction === null ? "" : `: ${eviction.words.trim()}`}`,
      [
        { source: "kubernetes", at: eviction?.at ?? own.at, text: eviction?.words ?? "the kubelet evicted its Pod" },
        exitEvidence(death),
      ],
      { by: { kind: "kubelet", pid: null, comm: null, words: eviction?.words ?? null } },
    );
  if (own.why === "step")
    return cause(
      "signal",
      `${name} was ended by ${own.signal}, which a step of the scenario sent`,
      [sent, exitEvidence(death)],
      { by },
    );
  const why = { timeout: "its timeout was over", interrupted: "the run was interrupted", cleanup: "the run was over" };
  return cause("stopped", `${name} was ended by oomlab: ${why[own.why]}`, [sent, exitEvidence(death)], { by });
}

function evicted<Kill extends OomKillFacts>(death: Death<Kill>): Cause<Kill> | null {
  const { eviction, name } = death;
  if (eviction === null) return null;
  return cause(
    "eviction",
    `${name} was evicted by the kubelet: ${eviction.words.trim()}`,
    [{ source: "kubernetes", at: eviction.at, text: eviction.words }, exitEvidence(death)],
    { by: { kind: "kubelet", pid: null, comm: null, words: eviction.words } },
  );
}

/** The trace's word on the signal that ended it. */
function tracedSignal<Kill extends OomKillFacts>(death: Death<Kill>): Cause<Kill> | null {
  const { exit, name } = death;
  const found = death.signals?.find(({ pid, signal }) => pid === death.pid && signal === exit.signal);
  if (!found) return null;
  return sentBy(death, found, `${name} was ended`);
}

/** A shell tells by 128 + N which signal ended its child, which the trace may know. */
function childSignal<Kill extends OomKillFacts>(death: Death<Kill>): Cause<Kill> | null {
  const { exit, name } = death;
  const signal = exit.code === 137 ? "SIGKILL" : exit.code === 143 ? "SIGTERM" : null;
  const found =
    signal === null ? undefined : death.signals?.find((one) => one.signal === signal && one.pid !== death.pid);
  if (!found) return null;
  return sentBy(death, found, `${name} ended with status ${exit.code}, for its child (pid ${found.pid}) was ended`);
}

function sentBy<Kill extends OomKillFacts>(
  death: Death<Kill>,
  found: TracedSignal & { pid: number },
  what: string,
): Cause<Kill> {
  const { signal, code, sender, toProcess, at } = found;
  const { pid, comm, unit } = sender;
  const who = `${comm ?? "a process whose name is not known"} (pid ${pid}${unit === null ? "" : `, ${unit}`})`;
  const traced = (text: string): Evidence[] => [{ source: "trace", at, text }, exitEvidence(death)];
  if (code === 128)
    return cause(
      "signal",
      `${what} by a ${signal} of the kernel's that is no OOM kill`,
      traced(`the kernel sent ${signal}`),
      {
        by: byKernel,
      },
    );
  const self = pid === found.pid;
  const way = toProcess === false && code === 0 && signal === "SIGKILL" && !self ? ", by cgroup.kill" : "";
  const evidence = traced(`${who} sent ${signal}${way}`);
  const { oomKiller } = death;
  const words = oomKiller?.words ?? null;
  const killer = comm !== null && oomKillers.has(comm) ? comm : null;
  if (killer !== null)
    return cause(
      "userspace-oom",
      `${what} by ${killer}${words === null ? "" : ` ("${words}")`}: memory was low`,
      [...(oomKiller?.confidence === "proven" ? oomKiller.evidence : []), ...evidence],
      { by: { kind: killer, pid, comm, words } },
    );
  const kind = comm === null ? undefined : supervisors[comm.startsWith("containerd-shim") ? "containerd-shim" : comm];
  if (kind !== undefined && !self)
    return cause("stopped", `${what} by ${who}, which sent ${signal}${way}`, evidence, {
      by: { kind, pid, comm, words: null },
    });
  return cause(
    "signal",
    self ? `${what} by the ${signal} that it sent to itself` : `${what} by a ${signal} from ${who}${way}`,
    evidence,
    { by: { kind: "process", pid, comm, words: null } },
  );
}

function byOomKiller<Kill extends OomKillFacts>(death: Death<Kill>): Cause<Kill> | null {
  const { oomKiller, name, exit } = death;
  if (oomKiller === null || exit.code === 0) return null;
  const { by, words, confidence } = oomKiller;
  // That one runs and may have sent it says nothing of who did.
  if (confidence === "likely" && words === null) return null;
  return cause(
    "userspace-oom",
    `${name} was ended by ${by}${words === null ? "" : ` ("${words}")`}: memory was low`,
    [...oomKiller.evidence, exitEvidence(death)],
    { by: { kind: by, pid: null, comm: by, words } },
  );
}

/** Its runtime, or the program itself, said that memory ran out. */
function gaveUp<Kill extends OomKillFacts>(death: Death<Kill>): Cause<Kill> | null {
  const { exit, name, rlimits } = death;
  if (exit.code === 0) return null;
  // By a signal a program gives up itself only where it is one of these.
  if (exit.signal !== null && !(exit.signal in aborts)) return null;
  const said = memoryWords(death.output);
  if (said === null && death.refused === null) return null;
  const limits = rlimits.length === 0 ? "" : ` (it runs under ${rlimits.join(" and ")})`;
  const end = `ended with ${endWords(exit)}`;
  if (said === null || death.refused !== null || said.cause === "enomem" || isRefusal(said, rlimits)) {
    const words = said?.text ?? death.refused ?? "";
    return cause(
      "enomem",
      `${name} ${end}: the kernel refused it memory${limits}: ${words}`,
      [{ source: "program-log", at: null, text: words }, exitEvidence(death)],
      { advice: rlimits.length > 0 ? [`raise ${rlimits.join(" and ")}`] : [] },
    );
  }
  return cause(
    "heap-limit",
    `${name} ${end}: ${said.runtime} gave up, the kernel did not kill it: ${said.text}`,
    [{ source: "program-log", at: null, text: said.text }, exitEvidence(death)],
    { advice: said.advice === null ? [] : [said.advice] },
  );
}

/** Runtimes without a limit of their own say the same whoever said no: with a limit of the process it was that. */
const isRefusal = ({ runtime }: LastWords, rlimits: readonly string[]): boolean =>
  rlimits.length > 0 && (runtime === "Python" || runtime === "Go's runtime" || runtime === "Ruby");

/** Signals that others send, and that a process does not get for what it did itself. */
const fromOutside: ReadonlySet<string> = new Set(["SIGKILL", "SIGTERM"]);

function unexplainedSignal<Kill extends OomKillFacts>(death: Death<Kill>): Cause<Kill> | null {
  const { exit, name, oomKiller } = death;
  if (exit.signal === null) return null;
  const missing = [`trace: ${death.untraced ?? "the sender was not seen"}`];
  if (!fromOutside.has(exit.signal))
    return cause("signal", `${name} was ended by ${exit.signal}`, [exitEvidence(death)]);
  const suspect = oomKiller === null ? "" : `; ${oomKiller.by} runs on this machine and may have sent it`;
  return cause(
    "unknown",
    `${name} was ended by a ${exit.signal} that no evidence explains${suspect}`,
    [exitEvidence(death), ...(death.noKill === null ? [] : [death.noKill])],
    { confidence: "unknown", missing },
  );
}

function ownExit<Kill extends OomKillFacts>(death: Death<Kill>): Cause<Kill> {
  const { exit, name, noKill } = death;
  const evidence = [exitEvidence(death), ...(noKill === null ? [] : [noKill])];
  const [child] = death.kills;
  const lost = child === undefined ? "" : `; ${childWords(child.kill)} had been killed by the kernel's OOM killer`;
  // 128 + N is what a shell says of its child, or a number like any other.
  if ((exit.code === 137 || exit.code === 143) && death.signals === null)
    return cause(
      "unknown",
      `${name} ended with status ${exit.code}, which is what a shell returns for a child that ${exit.code === 137 ? "SIGKILL" : "SIGTERM"} ended: whether one did was not seen`,
      evidence,
      { confidence: "unknown", missing: [`trace: ${death.untraced ?? "signals were not traced"}`] },
    );
  return cause("exit", `${name} ended by itself with status ${exit.code}${lost}`, evidence, {
    kill: child?.kill ?? null,
  });
}
