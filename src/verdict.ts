/**
 * judge(record) -> verdict. Pure. The kernel log, the counters and the exit statuses are three witnesses: two must
 * agree on a kill and none may contradict; every check cites lines of the record.
 */
import { findOomKills, type KmsgRecord, type OomKill } from "./kmsg/index.ts";
import { compares, directoryOf, type Plan, type PlannedProcess } from "./plan.ts";
import { type Counters, type EventOf, eventsOf, type RunEvent, type WorkerReport } from "./record.ts";
import { formatBytes } from "./units.ts";
import { type EvictionSeen, evictedCheck, evictionsOf, firstCheck, orderNotes } from "./verdict/evictions.ts";
import { type ContainerStatus, containerStatuses } from "./verdict/statuses.ts";
import { turnNote } from "./verdict/turn.ts";

export type Status = "passed" | "failed" | "inconclusive" | "skipped" | "errored";
export type Kind = "memcg" | "global" | "cpuset" | "mempolicy" | "none" | "unknown";
export type Witness = "kmsg" | "counters" | "exit";

/** One thing that was expected, what came, and the lines of the record that show it. */
export interface Check {
  name: string;
  expected: unknown;
  actual: unknown;
  status: "passed" | "failed" | "inconclusive";
  evidence: number[];
  /** Why, where expected and actual do not say it. */
  note?: string;
}

/** Sizes in bytes; null: nobody observed it. */
export interface Kill {
  kind: Kind;
  constraint: string | null;
  trigger: string;
  oomMemcg: string | null;
  taskMemcg: string | null;
  group: boolean;
  /** The scenario's name of the cgroup whose limit was hit. */
  limit: string | null;
  process: string | null;
  witnesses: Witness[];
  victim: OomKill["victim"];
  /** Milliseconds from the start of the first process, as read: up to one sample (50 ms) late. */
  atMs: number | null;
  /** Records of the report that are missing. */
  missing: string[];
  evidence: number[];
}

export interface Observed {
  oom: Kind;
  kills: Kill[];
  foreignKills: Kill[];
  processes: Record<
    string,
    { exit: { code: number | null; signal: string | null } | null; maxRss: number | null; touched: number | null }
  >;
  cgroups: Record<string, Record<string, unknown>>;
  /** With a kubelet only. */
  evictions?: EvictionSeen[];
  /** With Pods: what kubectl would show of each container, next to what became of it. */
  containerStatuses?: ContainerStatus[];
  /** With Pods: the node's memory as stated, and the MemTotal that the kubelet's files were computed from. */
  node?: { memory: number | null; memTotal: number };
}

export interface Verdict {
  name: string;
  file: string;
  machine: string;
  cgroupVersion: 1 | 2;
  kernel: string | null;
  status: Status;
  reason: string | null;
  durationMs: number | null;
  checks: Check[];
  observed: Observed | null;
  /** The kernel's own records of the run, as dmesg prints them. */
  kernelLog: string[];
  /** Things worth knowing that decide nothing. */
  notes: string[];
}

/** Counters that only grow: judged by how much they grew, all others by the largest value seen. */
const cumulative =
  /^(memory\.events|memory\.swap\.events|memory\.failcnt|memory\.memsw\.failcnt|memory\.oom_control\.oom_kill$|memory\.stat\.(pg|total_pg|workingset|thp_|zswp))/;

/** Settings, judged by what they were at the end: a limit may be lowered on the way. */
const setting =
  /^memory\.(max|high|low|min|swap\.max|swap\.high|zswap\.max|limit_in_bytes|memsw\.limit_in_bytes|soft_limit_in_bytes|swappiness|use_hierarchy|oom_control\.oom_kill_disable)$/;

/** Checks that rest on which kills there were. */
const aboutKills = /^(oom|limit|trigger|victims|within|first|other OOM kills|survivors\..*)$/;

/** Judges a record. Never throws on a record that parseRecords accepted. */
export function judge(events: readonly RunEvent[]): Verdict {
  const run = eventsOf(events, "run")[0];
  if (!run) throw new TypeError("a record begins with an event of type run");
  if (run.plan.skip !== null)
    return skippedVerdict(run.plan, run.plan.machine === "host" ? (run.capabilities?.kernel ?? null) : null);
  return new Judge(run, events).verdict();
}

/** A verdict for a plan that was not run. */
function skippedVerdict(plan: Plan, kernel: string | null): Verdict {
  return {
    ...identity(plan, kernel),
    status: "skipped",
    reason: plan.skip,
    durationMs: 0,
    checks: [],
    observed: null,
    kernelLog: [],
    notes: [],
  };
}

const identity = (
  plan: Plan,
  kernel: string | null,
): Pick<Verdict, "name" | "file" | "machine" | "cgroupVersion" | "kernel"> => ({
  name: plan.name,
  file: plan.file,
  machine: plan.machine,
  cgroupVersion: plan.cgroupVersion,
  kernel,
});

interface Evidence {
  /** Kernel log complete over the run. */
  logComplete: boolean;
  gaps: number[];
  suppressed: number;
}

class Judge {
  readonly #run: EventOf<"run">;
  readonly #plan: Plan;
  readonly #events: readonly RunEvent[];
  /** Where cgroups stand below the run's own, by name, and back: Pods are not named as they stand. */
  readonly #directories = new Map<string, string>();
  readonly #names = new Map<string, string>();
  readonly #kmsg: EventOf<"kmsg">[];
  readonly #exits = new Map<string, EventOf<"process-exit">>();
  /** pid -> process, workers and children included. */
  readonly #pids = new Map<number, string>();
  /** In a private pid namespace the kernel's log numbers processes otherwise than we do: its pids -> ours, where known. */
  readonly #numbers = new Map<number, number>();
  readonly #privatePids: boolean;
  /** The signals that we sent ourselves. */
  readonly #sent: EventOf<"kill">[] = [];
  readonly #final = new Map<string, EventOf<"counters">>();
  readonly #first = new Map<string, EventOf<"counters">>();
  readonly #evidence: Evidence;
  readonly #notes: string[] = [];
  /** Processes that OOM kills ended. */
  readonly #killed = new Set<string>();
  /** Lines of the record that hold reports of kills that are not ours. */
  readonly #foreignLines = new Set<number>();
  /** The record reaches to the run's end: what is not in it did not happen. */
  readonly #whole: boolean;

  constructor(run: EventOf<"run">, events: readonly RunEvent[]) {
    this.#run = run;
    const relaid = eventsOf(events, "node")[0]?.plan;
    // The file is the host's, whatever it is called in a guest.
    this.#plan = relaid ? { ...relaid, file: run.plan.file } : run.plan;
    for (const cgroup of this.#plan.cgroups) {
      this.#directories.set(cgroup.name, directoryOf(cgroup));
      this.#names.set(directoryOf(cgroup), cgroup.name);
    }
    this.#events = events;
    this.#kmsg = eventsOf(events, "kmsg");
    for (const event of events) this.#index(event);
    const capabilities = eventsOf(events, "machine")[0]?.capabilities ?? run.capabilities;
    this.#privatePids = capabilities?.initPidNamespace === false;
    const gaps = eventsOf(events, "kmsg-lost").map(({ line }) => line);
    this.#whole = eventsOf(events, "end").length > 0;
    this.#evidence = { logComplete: gaps.length === 0 && this.#whole, gaps, suppressed: 0 };
  }

  #index(event: RunEvent): void {
    switch (event.type) {
      case "process-start":
        this.#pids.set(event.pid, event.process);
        break;
      case "worker":
        this.#pids.set(event.report.pid, event.process);
        if (event.report.type === "child-end") this.#pids.set(event.report.child, event.process);
        break;
      case "procs":
        for (const { pid, parent } of event.processes) this.#adopt(pid, parent, event.cgroup);
        break;
      case "process-exit":
        this.#exits.set(event.process, event);
        break;
      case "kill":
        this.#sent.push(event);
        break;
      case "counters":
        if (event.moment === "before") this.#first.set(event.cgroup, event);
        // The watchdog's own kills come after "settled"; a counter that "end" adds was the kernel's all the same.
        if (event.moment === "settled" || event.moment === "end") this.#final.set(event.cgroup, event);
        break;
      default:
        break;
    }
  }

  /** The signal of ours that ended a process: sent before its end, and the one it died of. */
  #ourSignal(exit: EventOf<"process-exit"> | undefined): EventOf<"kill"> | undefined {
    return (
      exit && this.#sent.find(({ pid, signal, line }) => pid === exit.pid && signal === exit.signal && line < exit.line)
    );
  }

  /** What a process forked is that process's, by its parents; else that of the only process in its cgroup. */
  #adopt(pid: number, parent: number | null, cgroup: string): void {
    if (this.#pids.has(pid)) return;
    const inside = this.#plan.processes.filter((process) => process.cgroup === cgroup);
    const owner =
      (parent === null ? undefined : this.#pids.get(parent)) ?? (inside.length === 1 ? inside[0]?.name : undefined);
    if (owner !== undefined) this.#pids.set(pid, owner);
  }

  verdict(): Verdict {
    const { kills, foreign, checks: killChecks } = this.#kills();
    const durationMs = eventsOf(this.#events, "end")[0]?.durationMs ?? null;
    const base = {
      ...identity(this.#plan, this.#kernel()),
      durationMs,
      kernelLog: this.#kernelLog(),
    };
    const evictions = evictionsOf(this.#events);
    const observed: Observed = {
      oom: kills[0]?.kind ?? this.#withoutKill(),
      kills,
      foreignKills: foreign,
      processes: this.#processes(kills),
      cgroups: this.#cgroups(),
      ...(this.#plan.kubelet ? { evictions } : {}),
      ...(this.#plan.pods
        ? {
            containerStatuses: containerStatuses(
              this.#plan,
              this.#events,
              kills,
              evictions.map(({ pod }) => pod),
            ),
            node: { memory: this.#plan.pods.node.memory, memTotal: this.#plan.pods.node.memTotal },
          }
        : {}),
    };
    const errors = eventsOf(this.#events, "error");
    const interrupted = eventsOf(this.#events, "interrupted")[0];
    // A failure may rest on a kill only where the witnesses leave no doubt about the kills.
    const doubted = killChecks.length > 0;
    const stated = this.#expectations(kills).map((check): Check =>
      doubted && check.status === "failed" && aboutKills.test(check.name)
        ? { ...check, status: "inconclusive" }
        : check,
    );
    const checks = [...stated, ...killChecks, ...this.#workloads(kills)];
    const timeout = eventsOf(this.#events, "timeout")[0];
    if (this.#plan.vm?.hybrid === true) this.#notes.push("both cgroup versions are mounted (hybrid)");
    if (timeout) this.#notes.push(`it was ended by its timeout of ${timeout.ms} ms`);
    for (const event of eventsOf(this.#events, "write"))
      if (event.note)
        this.#notes.push(
          `${event.file} of ${event.cgroup || "the run's cgroup"}: ${event.value} written, ${event.note}`,
        );
    if (this.#evidence.suppressed > 0)
      this.#notes.push(
        `the kernel's rate limit took the head of ${this.#evidence.suppressed} OOM report(s) (callbacks suppressed)`,
      );

    this.#noteOutside();
    if (this.#plan.kubelet)
      this.#notes.push(
        ...orderNotes(
          this.#events,
          kills.map(({ process, evidence }) => ({ process, line: Math.min(...evidence) })),
        ),
      );
    const started = new Set(eventsOf(this.#events, "process-start").map(({ process }) => process));
    const turn = turnNote(this.#plan, kills, started, eventsOf(this.#events, "panic").length > 0);
    if (turn !== null) this.#notes.unshift(turn);
    this.#notes.push(...(this.#plan.pods?.notes ?? []));
    const node = eventsOf(this.#events, "node")[0];
    if (node)
      this.#notes.push(
        `the VM's MemTotal is ${node.memTotal}, ${node.stated === null ? "planned with" : "stated"} ${node.planned}: the kubelet's files were computed from the VM's`,
      );
    let status: Status;
    let reason: string | null = null;
    const failed = checks.find((check) => check.status === "failed");
    const open = checks.find((check) => check.status === "inconclusive");
    const unmet = eventsOf(this.#events, "unmet")[0];
    if (unmet) {
      return { ...base, status: "skipped", reason: unmet.reason, checks: [], observed: null, notes: this.#notes };
    } else if (errors[0]) {
      status = "errored";
      reason = errors[0].hint === null ? errors[0].message : `${errors[0].message}: ${errors[0].hint}`;
    } else if (interrupted) {
      status = "errored";
      reason = `interrupted (${interrupted.reason}) before it ended`;
    } else if (!eventsOf(this.#events, "end")[0]) {
      status = "errored";
      reason = "the record breaks off before the run's end";
    } else if (failed) {
      status = "failed";
      reason = sentence(failed);
    } else if (open) {
      status = "inconclusive";
      reason = sentence(open);
    } else {
      status = "passed";
    }
    return { ...base, status, reason, checks, observed, notes: this.#notes };
  }

  /** A machine of its own says which kernel it runs; until it does, nobody has seen it. */
  #kernel(): string | null {
    const machine = eventsOf(this.#events, "machine")[0];
    if (machine) return machine.capabilities.kernel;
    return this.#plan.machine === "host" ? (this.#run.capabilities?.kernel ?? null) : null;
  }

  // kills ----------------------------------------------------------------------------------------------------------

  /** Our run's cgroup is told by its unique name, whatever stands before it (a container's or a scope's path). */
  #scenarioCgroup(path: string | null): string | null {
    if (path === null) return null;
    if (this.#plan.top.directory === "") {
      // The tree stands at the hierarchy's root: ours is what was made there.
      const inside = path.slice(1);
      const [first] = inside.split("/", 1);
      const made = [...this.#names.keys(), "unlimited"].some((directory) => directory.split("/", 1)[0] === first);
      return made ? this.#nameOf(inside) : null;
    }
    const marker = `/${this.#plan.top.name}`;
    const at = path.indexOf(marker);
    if (at < 0) return null;
    const rest = path.slice(at + marker.length);
    if (rest === "") return "";
    return rest.startsWith("/") ? this.#nameOf(rest.slice(1)) : null;
  }

  #nameOf(directory: string): string {
    return this.#names.get(directory) ?? directory;
  }

  /** The cgroup above one; "" is the run's own. */
  #above(cgroup: string): string {
    const directory = this.#directories.get(cgroup) ?? cgroup;
    return directory.includes("/") ? this.#nameOf(directory.slice(0, directory.lastIndexOf("/"))) : "";
  }

  /** The cgroup that counts what happens in another: itself, or the nearest above it that has the memory controller. */
  #accountOf(cgroup: string, counted: ReadonlyMap<string, unknown>): string {
    let name = cgroup;
    while (name !== "" && !counted.has(name)) name = this.#above(name);
    return name;
  }

  #kills(): { kills: Kill[]; foreign: Kill[]; checks: Check[] } {
    const records = this.#kmsg.map((event): KmsgRecord => ({
      seq: event.seq,
      timeUs: event.timeUs,
      facility: event.facility,
      level: event.level,
      caller: event.caller,
      text: event.text,
      line: event.line,
    }));
    const scan = findOomKills(records);
    this.#evidence.suppressed = scan.suppressed;
    if (this.#privatePids) this.#renumber(scan.kills);
    const kills: Kill[] = [];
    const foreign: Kill[] = [];
    const checks: Check[] = [];
    const deltas = this.#killDeltas();
    for (const kill of scan.kills) {
      const ours = this.#isOurs(kill);
      const process = ours ? this.#processOf(kill) : null;
      const cgroup = this.#cgroupOf({ taskMemcg: kill.taskMemcg, process });
      const told: Kill = {
        kind: kill.kind,
        constraint: kill.constraint,
        trigger: kill.trigger,
        oomMemcg: kill.oomMemcg,
        taskMemcg: kill.taskMemcg,
        group: kill.group,
        limit: this.#limitName(kill.oomMemcg),
        process,
        witnesses: ["kmsg"],
        victim: kill.victim,
        atMs: this.#millisecondsIn(kill),
        missing: kill.missing,
        evidence: kill.lines,
      };
      if (!ours) {
        foreign.push(told);
        continue;
      }
      const delta = cgroup === null ? undefined : deltas.get(this.#accountOf(cgroup, deltas));
      if (delta !== undefined && delta.count > 0) {
        told.witnesses.push("counters");
        told.evidence = [...told.evidence, delta.line];
      }
      const exit = process === null ? undefined : this.#exitOf(this.#ourPid(kill.victim.pid), process);
      if (exit?.signal === "SIGKILL") {
        told.witnesses.push("exit");
        told.evidence = [...told.evidence, exit.line];
      }
      this.#completeFromCounters(told, cgroup);
      kills.push(told);
      if (process !== null) this.#killed.add(process);
      // A cgroup that a process made for itself has counters that nobody read.
      const counted = cgroup !== null && deltas.has(cgroup) ? delta?.count : undefined;
      const contradiction = this.#contradiction(told, counted, exit);
      if (contradiction !== null) {
        checks.push({
          name: "evidence",
          expected: "two witnesses agree on each kill and none contradicts",
          actual: contradiction,
          status: "inconclusive",
          evidence: told.evidence,
        });
      }
    }
    this.#setApart(foreign, kills);
    checks.push(...this.#uncounted(kills, deltas));
    return { kills, foreign, checks };
  }

  /** A foreign report reaches from its first to its last record; what of ours stands between stays ours. */
  #setApart(foreign: Kill[], kills: Kill[]): void {
    const ours = new Set(kills.flatMap(({ evidence }) => evidence));
    for (const { evidence } of foreign) {
      const [first, last] = [Math.min(...evidence), Math.max(...evidence)];
      for (const { line } of this.#kmsg)
        if (line >= first && line <= last && !ours.has(line)) this.#foreignLines.add(line);
    }
  }

  #isOurs(kill: OomKill): boolean {
    if (this.#scenarioCgroup(kill.taskMemcg) !== null) return true;
    // On v1 a process without limit is in the root itself, where the tree of Pods stands.
    if (kill.taskMemcg !== null && !(kill.taskMemcg === "/" && this.#plan.top.directory === "")) return false;
    // Without its `oom-kill:` line a kill is ours by pid, if that process was alive and was not seen to end otherwise.
    const process = this.#byPid(kill);
    if (process === undefined) return false;
    const exit = this.#exitOf(this.#ourPid(kill.victim.pid), process);
    return exit === undefined || exit.signal === "SIGKILL";
  }

  /** The victim's cgroup in the scenario's words: the log's, else the one its process was started in. */
  #cgroupOf(kill: { taskMemcg: string | null; process: string | null }): string | null {
    return (
      this.#scenarioCgroup(kill.taskMemcg) ??
      this.#plan.processes.find(({ name }) => name === kill.process)?.cgroup ??
      null
    );
  }

  #processOf(kill: OomKill): string | null {
    const byPid = this.#byPid(kill);
    if (byPid !== undefined) return byPid;
    const cgroup = this.#accountOf(
      this.#scenarioCgroup(kill.taskMemcg) ?? "",
      new Map(this.#plan.cgroups.map(({ name }) => [name, name])),
    );
    const inside = this.#plan.processes.filter((process) => (process.cgroup ?? "") === cgroup);
    return inside.length === 1 ? (inside[0]?.name ?? null) : null;
  }

  #byPid({ victim, tgid }: OomKill): string | undefined {
    const process = this.#pids.get(this.#ourPid(victim.pid) ?? -1);
    return process ?? (tgid === null ? undefined : this.#pids.get(this.#ourPid(tgid) ?? -1));
  }

  /** A pid of the kernel's log as we know it; null: not known. */
  #ourPid(pid: number): number | null {
    return this.#privatePids ? (this.#numbers.get(pid) ?? null) : pid;
  }

  /**
   * Gives victims our numbers: in a cgroup, the processes that a SIGKILL of somebody else ended, in their order. Where
   * several processes are in it, only if as many ended so as the log tells: else it stays open who the victim is.
   */
  #renumber(kills: readonly OomKill[]): void {
    const named = new Map(this.#plan.cgroups.map(({ name }) => [name, name]));
    const victims = new Map<string, number[]>();
    for (const { taskMemcg, victim } of kills) {
      const inside = this.#scenarioCgroup(taskMemcg);
      if (inside === null) continue;
      const cgroup = this.#accountOf(inside, named);
      victims.set(cgroup, [...(victims.get(cgroup) ?? []), victim.pid]);
    }
    const deaths = this.#unexplainedDeaths();
    for (const [cgroup, pids] of victims) {
      const inside = this.#plan.processes.filter((process) => this.#cgroupsOf(process).includes(cgroup));
      const died = deaths.filter(({ process }) => inside.some(({ name }) => name === process));
      if (inside.length > 1 && died.length !== pids.length) continue;
      for (const [at, pid] of pids.entries()) {
        const death = died[at];
        if (death) this.#numbers.set(pid, death.pid);
      }
    }
  }

  /** Where a process was started, and where steps moved it. */
  #cgroupsOf({ name, cgroup }: PlannedProcess): string[] {
    const moves = this.#plan.steps.flatMap((step) =>
      step.do === "move" && step.process === name ? [step.cgroup] : [],
    );
    return [cgroup ?? "", ...moves];
  }

  /** Processes and workers that a SIGKILL ended which we did not send, in order. */
  #unexplainedDeaths(): { pid: number; process: string }[] {
    const byUs = (pid: number): boolean => this.#sent.some((sent) => sent.pid === pid && sent.signal === "SIGKILL");
    return this.#events
      .flatMap((event) => {
        if (event.type === "process-exit") return [{ pid: event.pid, process: event.process, signal: event.signal }];
        if (event.type === "worker" && event.report.type === "child-end")
          return [{ pid: event.report.child, process: event.process, signal: event.report.signal }];
        return [];
      })
      .filter(({ pid, signal }) => signal === "SIGKILL" && !byUs(pid));
  }

  /** How a victim ended: the process itself, or a worker that its leader reaped. */
  #exitOf(
    pid: number | null,
    process: string,
  ): { signal: string | null; code: number | null; line: number } | undefined {
    const exit = this.#exits.get(process);
    if (exit?.pid === pid) return exit;
    for (const event of eventsOf(this.#events, "worker")) {
      if (event.report.type === "child-end" && event.report.child === pid)
        return { signal: event.report.signal, code: event.report.code, line: event.line };
    }
    return undefined;
  }

  /** Which cgroup's limit was hit, in the scenario's words; null: none of the scenario's. */
  #limitName(oomMemcg: string | null): string | null {
    const name = this.#scenarioCgroup(oomMemcg);
    return name === null || name === "" ? null : name;
  }

  /**
   * Where the rate limit took the head of a report, its last line still says memcg or not; with counters that single
   * out one limit above the victim, kind and limit are known all the same.
   */
  #completeFromCounters(kill: Kill, cgroup: string | null): void {
    if (kill.constraint !== null || kill.kind !== "memcg" || cgroup === null || kill.oomMemcg !== null) return;
    const hit = this.#limitsHit(cgroup);
    if (hit.length !== 1 || hit[0] === undefined) return;
    kill.limit = hit[0].cgroup;
    kill.oomMemcg = this.#path(hit[0].cgroup);
    kill.taskMemcg ??= this.#path(cgroup);
    kill.evidence = [...kill.evidence, hit[0].line];
  }

  /** Limited cgroups at and above one whose own limit was hit, by counters and notifications. */
  #limitsHit(cgroup: string): { cgroup: string; line: number }[] {
    const chain: string[] = [];
    for (let name = cgroup; name !== ""; name = this.#above(name)) chain.push(name);
    if (this.#plan.cgroupVersion === 2)
      return chain.flatMap((name) =>
        (this.#growth(name, "memory.events.local.oom") ?? 0) > 0
          ? [{ cgroup: name, line: this.#final.get(name)?.line ?? 0 }]
          : [],
      );
    // v1 notifies the cgroup that hit its limit and all below it (mm/memcontrol-v1.c mem_cgroup_oom_notify): what the
    // parent was not told of was the child's own.
    const told = (name: string): EventOf<"oom-event">[] =>
      eventsOf(this.#events, "oom-event").filter((event) => event.cgroup === name);
    const count = (name: string): number => told(name).reduce((sum, event) => sum + event.count, 0);
    return chain.flatMap((name, index) => {
      const parent = chain[index + 1] ?? "";
      const limited = this.#final.get(name)?.counters["memory.max"] !== "max";
      return limited && count(name) > count(parent)
        ? told(name)
            .slice(0, 1)
            .map(({ line }) => ({ cgroup: name, line }))
        : [];
    });
  }

  #path(cgroup: string): string {
    return `${this.#plan.top.path}/${this.#directories.get(cgroup) ?? cgroup}`;
  }

  #growth(cgroup: string, key: string): number | null {
    const last = this.#final.get(cgroup)?.counters[key];
    const first = this.#first.get(cgroup)?.counters[key];
    return typeof last === "number" ? last - (typeof first === "number" ? first : 0) : null;
  }

  /** OOM kills that each cgroup's own counter tells. */
  #killDeltas(): Map<string, { count: number; line: number }> {
    const deltas = new Map<string, { count: number; line: number }>();
    for (const [cgroup, { line }] of this.#final) {
      const count = this.#growth(cgroup, "memory.events.local.oom_kill") ?? this.#leafGrowth(cgroup);
      if (count !== null) deltas.set(cgroup, { count, line });
    }
    return deltas;
  }

  /** Kernels before 5.2 have no memory.events.local: what a cgroup's children do not account for is its own. */
  #leafGrowth(cgroup: string): number | null {
    const all = this.#growth(cgroup, "memory.events.oom_kill");
    if (all === null) return null;
    const children = [...this.#final.keys()].filter((name) => name !== "" && this.#above(name) === cgroup);
    return children.reduce((rest, child) => rest - (this.#growth(child, "memory.events.oom_kill") ?? 0), all);
  }

  /** All kills that our counters tell; null where no counter could be read. */
  #counted(): number | null {
    const deltas = [...this.#killDeltas().values()];
    return deltas.length === 0 ? null : deltas.reduce((sum, { count }) => sum + count, 0);
  }

  #contradiction(
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
  #uncounted(kills: Kill[], deltas: Map<string, { count: number; line: number }>): Check[] {
    const checks: Check[] = [];
    for (const [cgroup, { count, line }] of deltas) {
      const here = kills.filter((kill) => this.#accountOf(this.#cgroupOf(kill) ?? "", deltas) === cgroup);
      const groups = here.filter(({ group }) => group).length;
      if (count <= here.length + groups) continue;
      checks.push({
        name: "evidence",
        expected: "the kernel log tells each kill that the counters tell",
        actual: `oom_kill of ${cgroup || "the run's cgroup"} grew by ${count}, the log tells ${here.length}`,
        status: "inconclusive",
        evidence: [line, ...this.#evidence.gaps],
        note: this.#evidence.gaps.length === 0 ? "the log has no gap" : "kernel log records were lost",
      });
    }
    return checks;
  }

  /** When a kill's first record was read, in ms from the first process's start: printk's clock is not the run's. */
  #millisecondsIn(kill: OomKill): number | null {
    const start = eventsOf(this.#events, "process-start")[0];
    const record = this.#kmsg.find(({ line }) => line === kill.line);
    return start && record ? Math.max(0, Math.round((record.t - start.t) / 1000)) : null;
  }

  /** Kills with the moment at which the first sign of them was read: of their report, or the end of the process. */
  #datedKills(kills: Kill[]): { t: number | null; evidence: number[] }[] {
    return kills.map(({ evidence }) => {
      const signs = this.#events.filter(
        ({ type, line }) => (type === "kmsg" || type === "process-exit") && evidence.includes(line),
      );
      return { t: signs.length > 0 ? Math.min(...signs.map(({ t }) => t)) : null, evidence };
    });
  }

  // expectations ---------------------------------------------------------------------------------------------------

  #expectations(kills: Kill[]): Check[] {
    const { expect } = this.#plan;
    const checks: Check[] = [];
    const lines = kills.flatMap(({ evidence }) => evidence);
    const absence = this.#absence();
    if (expect.oom !== null) checks.push(this.#kindCheck(expect.oom, kills, absence));
    if (expect.limit !== null)
      checks.push(
        this.#each(
          "limit",
          expect.limit,
          kills,
          (kill) => kill.limit,
          (kill) => kill.limit ?? (kill.oomMemcg === null ? null : kill.oomMemcg),
          absence,
        ),
      );
    if (expect.trigger !== null)
      checks.push(
        this.#each(
          "trigger",
          expect.trigger,
          kills,
          (kill) => (kill.trigger === "unknown" ? null : kill.trigger),
          (kill) => kill.trigger,
          absence,
        ),
      );
    if (expect.victims !== null) checks.push(this.#victimsCheck(expect.victims, kills, absence));
    for (const name of expect.survivors ?? []) checks.push(this.#survivorCheck(name, kills));
    for (const { process, exit: wanted } of expect.exit) {
      const exit = this.#exits.get(process);
      const ours = this.#ourSignal(exit);
      const actual = exit === undefined ? null : (exit.signal ?? exit.code);
      const byUs = ours !== undefined && ours.why !== "step" && ours.why !== "eviction";
      const output = actual === wanted ? [] : this.#outputOf(process);
      checks.push({
        name: `exit.${process}`,
        expected: wanted,
        actual: byUs ? "still running when the run ended" : actual,
        status: exit === undefined ? "inconclusive" : !byUs && actual === wanted ? "passed" : "failed",
        evidence: exit === undefined ? [] : [exit.line, ...output.map(({ line }) => line)],
        ...(output.length === 0 ? {} : { note: `it wrote: ${this.#lastWordsOf(process)}` }),
      });
    }
    if (expect.evicted) checks.push(evictedCheck(expect.evicted, this.#events));
    if (expect.first) checks.push(firstCheck(expect.first, this.#events, this.#datedKills(kills)));
    for (const { cgroup, key, compare } of expect.counters) checks.push(this.#counterCheck(cgroup, key, compare));
    for (const { pattern } of expect.log) {
      const found = this.#logLines().filter(({ text }) => new RegExp(pattern).test(text));
      checks.push({
        name: "log",
        expected: `/${pattern}/`,
        actual: found[0]?.text ?? null,
        status: found.length > 0 ? "passed" : this.#evidence.logComplete ? "failed" : "inconclusive",
        evidence: found.length > 0 ? found.map(({ line }) => line) : this.#evidence.gaps,
      });
    }
    const panic = eventsOf(this.#events, "panic")[0];
    // A panic that nobody stated is a failure, whatever else was expected.
    if (expect.panic !== null || panic)
      checks.push({
        name: "panic",
        expected: expect.panic ?? false,
        actual: panic === undefined ? false : panic.message,
        status: (expect.panic ?? false) === (panic !== undefined) ? "passed" : "failed",
        evidence: panic === undefined ? [] : [panic.line],
      });
    if (expect.withinMs !== null) {
      const at = kills.map(({ atMs }) => atMs).filter((ms) => ms !== null);
      const first = at.length > 0 ? Math.min(...at) : null;
      checks.push({
        name: "within",
        expected: `${expect.withinMs} ms`,
        actual: first === null ? null : `${first} ms`,
        status:
          first !== null
            ? first <= expect.withinMs
              ? "passed"
              : "failed"
            : kills.length > 0
              ? "inconclusive"
              : absence.status === "passed"
                ? "failed"
                : "inconclusive",
        evidence: lines,
      });
    }
    for (const event of eventsOf(this.#events, "step")) {
      if (event.status === "done") continue;
      checks.push({
        name: `step ${event.index + 1} (${event.do})`,
        expected: "done",
        actual: event.detail,
        status: "failed",
        evidence: [event.line],
      });
    }
    const others = kills.filter((kill) => !this.#isExpected(kill));
    if (others.length > 0) {
      checks.push({
        name: "other OOM kills",
        expected: "none",
        actual: others.map(describeKill),
        status: "failed",
        evidence: others.flatMap(({ evidence }) => evidence),
      });
    }
    const done = eventsOf(this.#events, "step").length;
    const next = this.#plan.steps[done];
    if (next && eventsOf(this.#events, "step").every(({ status }) => status === "done")) {
      const line = (eventsOf(this.#events, "timeout")[0] ?? this.#run).line;
      checks.push({
        name: `step ${done + 1} (${next.do})`,
        expected: "done",
        actual: "not reached before the run ended",
        status: "inconclusive",
        evidence: [line],
      });
    }
    return checks;
  }

  /** The kernel's log; after a panic also the console, which alone has its last lines. */
  #logLines(): { line: number; text: string }[] {
    const kernel = this.#kmsg.filter(({ facility, line }) => facility === 0 && !this.#foreignLines.has(line));
    return eventsOf(this.#events, "panic").length === 0 ? kernel : [...kernel, ...eventsOf(this.#events, "console")];
  }

  /** Exactly the processes that OOM kills ended. */
  #victimsCheck(
    victims: string[],
    kills: Kill[],
    absence: { status: "passed" | "inconclusive"; evidence: number[] },
  ): Check {
    const expected = [...new Set(victims)].toSorted();
    const named = [...new Set(kills.flatMap(({ process }) => (process === null ? [] : [process])))].toSorted();
    const strangers = kills.filter(({ process }) => process === null);
    const actual = [
      ...named,
      ...strangers.map(({ victim }) => `${victim.comm} (pid ${victim.pid}, of no known process of the scenario)`),
    ];
    const evidence = kills.length > 0 ? kills.flatMap((kill) => kill.evidence) : absence.evidence;
    const missing = expected.filter((name) => !named.includes(name));
    const surplus = named.filter((name) => !expected.includes(name));
    let status: Check["status"] =
      missing.length > 0 || surplus.length > 0 || strangers.length > 0 ? "failed" : "passed";
    if (kills.length === 0 && absence.status === "inconclusive") status = "inconclusive";
    // A victim whose parents nobody saw may be what an expected process forked.
    const maybe = this.#plan.processes.filter(
      ({ name, forks }) => forks && (missing.includes(name) || expected.includes(name)),
    );
    const forked = maybe.length > 0 && missing.every((name) => maybe.some((process) => process.name === name));
    // So may be one that has another number here than in the log.
    if (surplus.length === 0 && strangers.length > 0 && (forked || this.#privatePids)) status = "inconclusive";
    return { name: "victims", expected, actual, status, evidence };
  }

  /** A process that no OOM kill ended. */
  #survivorCheck(name: string, kills: Kill[]): Check {
    const check = { name: `survivors.${name}`, expected: "no OOM kill" };
    const started = eventsOf(this.#events, "process-start").find(({ process }) => process === name);
    const killed = kills.find(({ process }) => process === name);
    const exit = this.#exits.get(name);
    if (killed) return { ...check, actual: "killed by the OOM killer", status: "failed", evidence: killed.evidence };
    if (!started) return { ...check, actual: "never started", status: "inconclusive", evidence: [this.#run.line] };
    const evidence = exit ? [started.line, exit.line] : [started.line];
    if (exit?.signal === "SIGKILL" && !this.#ourSignal(exit))
      return { ...check, actual: "a SIGKILL that nobody explains", status: "inconclusive", evidence };
    if (!exit && !this.#whole)
      return { ...check, actual: "alive where the record breaks off", status: "inconclusive", evidence };
    const ours = this.#ourSignal(exit);
    const end =
      exit && ours?.why === "eviction"
        ? "evicted by the kubelet"
        : exit && ours?.why === "step"
          ? `ended by the scenario's ${exit.signal ?? "signal"}`
          : exit && !ours
            ? `ended with ${describeExit(exit)}`
            : "alive at the end";
    return { ...check, actual: `no OOM kill, ${end}`, status: "passed", evidence };
  }

  /** Whether the scenario's expectations account for a kill; where they are wrong about it, another check says so. */
  #isExpected(kill: Kill): boolean {
    const { expect, pods } = this.#plan;
    // A container that is pressed to see what happens: nothing of it was stated.
    if (pods && pods.turn !== null && !pods.stated) return true;
    if (expect.oom === "none" || expect.victims !== null) return true;
    if (expect.oom !== null) return kill.kind === expect.oom || kill.kind === "unknown";
    if (expect.first === "oom") return true;
    if (expect.limit !== null || expect.trigger !== null || expect.withinMs !== null) return true;
    const cgroup = this.#cgroupOf(kill);
    return (
      expect.exit.some(({ process, exit }) => process === kill.process && exit === "SIGKILL") ||
      expect.counters.some((counter) => counter.cgroup === cgroup && counter.key.endsWith("oom_kill"))
    );
  }

  /** What is known where no kill was told: only counters that stand still prove that none happened. */
  #withoutKill(): Kind {
    return this.#whole && this.#counted() === 0 ? "none" : "unknown";
  }

  /** Whether "no OOM kill happened" is proven: the log is whole, or the counters stand still. */
  #absence(): { status: "passed" | "inconclusive"; evidence: number[] } {
    const counted = this.#counted();
    const lines = [...this.#final.values()].map(({ line }) => line);
    if (!this.#whole) return { status: "inconclusive", evidence: lines };
    if (counted === 0) return { status: "passed", evidence: lines };
    if (counted === null) return { status: "inconclusive", evidence: this.#evidence.gaps };
    return { status: "inconclusive", evidence: [...lines, ...this.#evidence.gaps] };
  }

  #kindCheck(expected: Kind, kills: Kill[], absence: { status: "passed" | "inconclusive"; evidence: number[] }): Check {
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

  /** A property that each of our kills must have. */
  #each(
    name: string,
    expected: string,
    kills: Kill[],
    get: (kill: Kill) => string | null,
    show: (kill: Kill) => string | null,
    absence: { status: "passed" | "inconclusive"; evidence: number[] },
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
    const wrong = kills.find((kill) => get(kill) !== expected && show(kill) !== null && show(kill) !== "unknown");
    const open = kills.find((kill) => get(kill) === null);
    const shown = [...new Set(kills.map(show))];
    const actual = shown.length === 1 ? (shown[0] ?? null) : shown;
    return { name, expected, actual, status: wrong ? "failed" : open ? "inconclusive" : "passed", evidence };
  }

  #counterCheck(cgroup: string, key: string, compare: Plan["expect"]["counters"][number]["compare"]): Check {
    const name = `counters.${cgroup}.${key}`;
    const all = eventsOf(this.#events, "counters").filter(
      (event) => event.cgroup === cgroup && event.counters[key] !== undefined,
    );
    const number = (event: EventOf<"counters">): number => {
      const value = event.counters[key];
      return value === "max" ? Number.POSITIVE_INFINITY : (value ?? Number.NaN);
    };
    const last = this.#final.get(cgroup);
    if (all.length === 0)
      return {
        name,
        expected: compare.text,
        actual: null,
        status: "inconclusive",
        evidence: last ? [last.line] : [],
        note: `this kernel does not tell ${key}`,
      };
    let value: number;
    let line: number;
    if (cumulative.test(key)) {
      const growth = this.#growth(cgroup, key);
      if (growth === null || !last)
        return {
          name,
          expected: compare.text,
          actual: null,
          status: "inconclusive",
          evidence: all.map((event) => event.line),
          note: "it was not read at the end",
        };
      [value, line] = [growth, last.line];
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
      status: compares(value, compare) ? "passed" : this.#whole ? "failed" : "inconclusive",
      evidence: [line],
    };
  }

  // workloads ------------------------------------------------------------------------------------------------------

  #reportsOf(process: string): { line: number; report: WorkerReport }[] {
    return eventsOf(this.#events, "worker").filter((event) => event.process === process);
  }

  /** What happened beside the scenario's own doing, and decides nothing. */
  #noteOutside(): void {
    for (const [cgroup, { counters }] of this.#final) {
      const written = eventsOf(this.#events, "write").findLast(
        (event) => event.cgroup === cgroup && event.errno === null && /^memory\.(max|limit_in_bytes)$/.test(event.file),
      );
      const now = counters["memory.max"];
      if (written?.read && now !== undefined && /^\d+$/.test(written.read) && String(now) !== written.read)
        this.#notes.push(
          `the limit of ${cgroup} was ${written.read} as written and ${now} at the end: somebody else changed it`,
        );
    }
    for (const { name, program } of this.#plan.processes) {
      const exit = this.#exits.get(name);
      if (exit?.signal === "SIGKILL" && !this.#ourSignal(exit) && !this.#killed.has(name))
        this.#notes.push(`${name} was ended by a SIGKILL that no kernel record or counter explains`);
      if (program !== "command" || !exit?.code || this.#plan.expect.exit.some(({ process }) => process === name))
        continue;
      const words = this.#lastWordsOf(name);
      this.#notes.push(`${name} ended with status ${exit.code}${words === "" ? "" : `: ${words}`}`);
    }
  }

  #outputOf(name: string): EventOf<"output">[] {
    return eventsOf(this.#events, "output").filter(({ process }) => process === name);
  }

  /** What a process wrote last, in one line. */
  #lastWordsOf(name: string): string {
    const words = this.#outputOf(name)
      .map(({ text }) => text)
      .join("")
      .replace(/\s+/g, " ")
      .trim();
    return words.length <= 200 ? words : `...${words.slice(-200)}`;
  }

  /** A worker that did not do what it stated proves nothing: its ENOMEM is no OOM kill, and no kill of it no survival. */
  #workloads(kills: Kill[]): Check[] {
    const checks: Check[] = [];
    for (const process of this.#plan.processes) {
      if (process.bytes === null) continue;
      const reports = this.#reportsOf(process.name);
      const exit = this.#exits.get(process.name);
      const error = reports.find(({ report }) => report.type === "error");
      const touched = reports.filter(({ report }) => report.type === "touched");
      const slow = touched.find(({ report }) => report.type === "touched" && report.slow);
      if (slow) this.#notes.push(`${process.name} was slower than its stated rate`);
      if (touched.length >= process.workers) continue;
      if (kills.some((kill) => kill.process === process.name)) continue;
      const detail = this.#earlyEnd(process, exit, error);
      if (detail === null) continue;
      const stated = this.#plan.expect.exit.some(
        (wanted) =>
          wanted.process === process.name &&
          exit !== undefined &&
          (wanted.exit === exit.signal || wanted.exit === exit.code),
      );
      checks.push({
        name: `workload.${process.name}`,
        expected: `${formatBytes(process.bytes)} touched`,
        actual: detail.text,
        status: stated ? "passed" : "inconclusive",
        evidence: detail.lines,
      });
    }
    return checks;
  }

  #earlyEnd(
    process: PlannedProcess,
    exit: EventOf<"process-exit"> | undefined,
    error: { line: number; report: WorkerReport } | undefined,
  ): { text: string; lines: number[] } | null {
    const reached = Math.max(
      0,
      ...this.#reportsOf(process.name).map(({ report }) =>
        "touched" in report && typeof report.touched === "number" ? report.touched : 0,
      ),
    );
    const after = `after ${formatBytes(reached)}`;
    if (error?.report.type === "error") {
      const { op, errno, message } = error.report;
      return {
        text: `${op} failed ${after}: ${errno ?? message ?? "unknown error"}${errno === "ENOMEM" ? " (no OOM kill)" : ""}`,
        lines: exit ? [error.line, exit.line] : [error.line],
      };
    }
    if (!exit) return null;
    // Ended by the timeout or a step: it was kept from its bytes, it did not give up.
    if (this.#ourSignal(exit)) return null;
    const output = this.#outputOf(process.name);
    const heap = output.find(({ text }) => /JavaScript heap out of memory/.test(text));
    if (heap)
      return {
        text: `V8's own heap limit ended it ${after} (${describeExit(exit)}): no OOM kill`,
        lines: [heap.line, exit.line],
      };
    if (exit.signal === "SIGKILL") {
      const killers = this.#run.capabilities?.oomKillers ?? [];
      const who = killers.length > 0 ? `; ${killers.join(" and ")} runs on this machine and may have sent it` : "";
      return {
        text: `killed ${after} by a SIGKILL that no kernel record or counter explains${who}`,
        lines: [exit.line, this.#run.line],
      };
    }
    const words = this.#lastWordsOf(process.name);
    return {
      text: `ended ${after} with ${describeExit(exit)}${words === "" ? "" : `: ${words}`}`,
      lines: [exit.line, ...output.map(({ line }) => line)],
    };
  }

  // observed -------------------------------------------------------------------------------------------------------

  #processes(kills: Kill[]): Observed["processes"] {
    const all: Observed["processes"] = {};
    for (const { name } of this.#plan.processes) {
      const exit = this.#exits.get(name);
      const sizes: number[] = [];
      let touched: number | null = null;
      for (const { report } of this.#reportsOf(name)) {
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
      };
    }
    return all;
  }

  /** Final counters by the scenario's names; events as objects, as the kernel's files group them. */
  #cgroups(): Observed["cgroups"] {
    const all: Observed["cgroups"] = {};
    for (const { name } of this.#plan.cgroups) {
      const last = this.#final.get(name);
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
      const peak = this.#peak(name);
      if (shown["memory.peak"] === undefined) shown["memory.peak"] = peak;
      all[name] = shown;
    }
    return all;
  }

  #peak(cgroup: string): number | null {
    const seen = eventsOf(this.#events, "counters")
      .filter((event) => event.cgroup === cgroup)
      .map(({ counters }: { counters: Counters }) => counters["memory.current"])
      .filter((value) => typeof value === "number");
    return seen.length > 0 ? Math.max(...seen) : null;
  }

  #kernelLog(): string[] {
    return this.#kmsg
      .filter(({ facility, line }) => facility === 0 && !this.#foreignLines.has(line))
      .map(({ timeUs, text }) => `${timeUs === null ? "" : `[${(timeUs / 1e6).toFixed(6).padStart(12)}] `}${text}`);
  }
}

const describeExit = (exit: { code: number | null; signal: string | null } | undefined): string =>
  exit === undefined ? "nothing" : (exit.signal ?? `status ${exit.code}`);

const describeKill = ({ kind, victim, process }: Kill): string =>
  `${kind}: ${process ?? victim.comm} (pid ${victim.pid})`;

/** A check as one sentence. */
function sentence({ name, expected, actual, note }: Check): string {
  const show = (value: unknown): string =>
    value === null
      ? "nothing"
      : typeof value === "string"
        ? value
        : Array.isArray(value) && value.length === 0
          ? "none"
          : JSON.stringify(value);
  return `${name}: expected ${show(expected)}, got ${show(actual)}${note === undefined ? "" : ` (${note})`}`;
}
