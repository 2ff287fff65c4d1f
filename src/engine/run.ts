/**
 * Runs a plan on this kernel: create, collect, start, settle, remove. Everything that happens is emitted as an event
 * the moment it happens; nothing is judged here.
 */
import { closeSync, constants, existsSync, openSync, promises, readFileSync, readSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import {
  type CgroupDriver,
  type Counters,
  leaveDirectory,
  makeDirectory,
  namedDriver,
  openCgroups,
  readProcs,
  removeDirectory,
  subtree,
} from "../cgroup/index.ts";
import { MachineError, OomlabError } from "../errors.ts";
import { loadAddon, type PollHandle, type SystemCallError } from "../native.ts";
import {
  type Capabilities,
  compares,
  directoryOf,
  hierarchyOf,
  type Plan,
  type PlannedProcess,
  type PlannedStep,
  type PlannedWrite,
  relayPlan,
} from "../plan.ts";
import type { RunEventBody, SnapshotMoment, WorkerReport } from "../record.ts";
import type { DelegatedScope } from "./delegate.ts";
import { type KernelLog, oomKillsOfMachine, openKernelLog } from "./evidence.ts";
import type { RunningKubelet } from "./kubelet.ts";
import { machineStep } from "./machine-step.ts";
import { type RunningProcess, signalName, signalNumber, startProcess } from "./process.ts";
import { mountVolumes, removeVolumes } from "./volumes.ts";
import { formatBytes, formatDuration } from "../units.ts";

export type Emit = (event: RunEventBody) => void;

/** linux/magic.h CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC. */
const cgroupMagic = new Set([0x27e0eb, 0x63677270]);

/** How long evidence may trail behind a death: the kernel sends SIGKILL before it prints `Killed process` (mm/oom_kill.c). */
const evidenceMs = 300;
const releaseMs = 1_000;
const removeMs = 5_000;

interface ProcessState {
  plan: PlannedProcess;
  running: RunningProcess | null;
  started: boolean;
  ended: boolean;
  /** It ended with status 0. */
  succeeded: boolean;
  /** Its workers, as they told of themselves. */
  family: Set<number>;
  /** Where it was started or moved to. */
  cgroups: Set<string>;
  /** Workers that have touched all they state, or that ended before. */
  settled: Set<number>;
  /** Largest sum of bytes told by its workers. */
  bytes: Map<number, number>;
}

/** Runs one plan to its end. Resolves when all that it made is gone; failures of the machine are `error` events. */
export async function runPlan(given: Plan, caps: Capabilities, emit: Emit, signal: AbortSignal): Promise<void> {
  const began = performance.now();
  // A VM's MemTotal is known only now.
  const plan = given.machine === "vm" ? relayPlan(given, caps.memTotal) : given;
  if (given.pods && plan !== given) {
    const { memory: stated, memTotal: planned } = given.pods.node;
    emit({ type: "node", stated, planned, memTotal: caps.memTotal, plan });
  }
  let ended = false;
  // A write that still blocks in the kernel when the run ends has nothing more to say.
  const run = new Run(plan, caps, (event) => ended || emit(event), signal);
  try {
    await run.execute();
  } catch (error) {
    emit(asErrorEvent(error));
  } finally {
    await run.remove();
    emit({ type: "end", durationMs: Math.round(performance.now() - began) });
    ended = true;
  }
}

function asErrorEvent(error: unknown): RunEventBody {
  if (error instanceof OomlabError)
    return { type: "error", code: error.code, message: error.message, hint: error.hint ?? null };
  const { code, message } = error as NodeJS.ErrnoException;
  return { type: "error", code: code ?? "UNEXPECTED", message, hint: null };
}

class Run {
  readonly #plan: Plan;
  readonly #caps: Capabilities;
  readonly #emit: Emit;
  readonly #signal: AbortSignal;
  readonly #addon = loadAddon();
  readonly #directory: string;
  readonly #processes = new Map<string, ProcessState>();
  /** Cgroups by their name in the scenario, as made; "" is the run's own. */
  readonly #made: string[] = [];
  /** Where those stand that are not named as they stand: Pods and containers. */
  readonly #directories = new Map<string, string>();
  /** The run's own cgroup, below the hierarchy's directory. */
  readonly #top: string;
  readonly #watches: PollHandle[] = [];
  readonly #descriptors: number[] = [];
  readonly #lastLevels = new Map<string, string>();
  readonly #lost = new Set<string>();
  readonly #seen = new Set<number>();
  #cgroups: CgroupDriver | null = null;
  #parent: string | null = null;
  #cpusetParent: string | null = null;
  #scope: DelegatedScope | null = null;
  #log: KernelLog | null = null;
  #kubelet: RunningKubelet | null = null;
  /** Aborted when the run is decided: at its end, at the timeout, when interrupted. */
  readonly #over = new AbortController();
  /** Waits that look again whenever something has happened. */
  readonly #waiting = new Set<() => void>();
  #sampler: NodeJS.Timeout | null = null;
  #killsBefore = 0;
  #killedLines = new Set<string>();

  constructor(plan: Plan, caps: Capabilities, emit: Emit, signal: AbortSignal) {
    this.#plan = plan;
    this.#top = plan.top.directory ?? plan.top.name;
    for (const cgroup of plan.cgroups) this.#directories.set(cgroup.name, directoryOf(cgroup));
    this.#caps = caps;
    this.#emit = emit;
    this.#signal = signal;
    if (signal.aborted) this.#end();
    else signal.addEventListener("abort", this.#onAbort);
    this.#directory = plan.file === "-" ? process.cwd() : dirname(resolve(plan.file));
    for (const spec of plan.processes)
      this.#processes.set(spec.name, {
        plan: spec,
        running: null,
        started: false,
        ended: false,
        succeeded: false,
        family: new Set(),
        cgroups: new Set(spec.cgroup === null ? [] : [spec.cgroup]),
        settled: new Set(),
        bytes: new Map(),
      });
  }

  readonly #onAbort = (): void => this.#end();

  #end(): void {
    this.#over.abort();
    this.#changed();
  }

  async execute(): Promise<void> {
    this.#emit({ type: "phase", phase: "create" });
    await this.#create();
    this.#emit({ type: "phase", phase: "collect" });
    this.#collect();
    const unmet = this.#unmet();
    if (unmet !== null) {
      this.#emit({ type: "unmet", reason: unmet });
      return;
    }
    await this.#startKubelet();
    this.#emit({ type: "phase", phase: "start" });
    for (const { plan } of this.#processes.values())
      if (plan.start === "auto" && plan.after === undefined) this.#start(plan.name);
    this.#sample(10);
    const deadline = sleep(this.#plan.timeoutMs, "timeout" as const, { signal: this.#over.signal }).catch(
      () => "interrupted" as const,
    );
    const first = await Promise.race([deadline, this.#runSteps().then(() => this.#whenDone())]);
    const ended = this.#signal.aborted ? "interrupted" : first;
    // Steps and waits that are still under way end here: nothing is started, written or killed from now on.
    this.#end();
    this.#kubelet?.stop();
    if (ended === "timeout") this.#emit({ type: "timeout", ms: this.#plan.timeoutMs });
    if (ended === "interrupted")
      this.#emit({ type: "interrupted", reason: String(this.#signal.reason ?? "interrupted") });
    this.#emit({ type: "phase", phase: "settle" });
    await this.#settle();
    await this.#endProcesses(ended === undefined ? "cleanup" : ended);
    this.#snapshot("end");
    this.#drain();
  }

  // create ---------------------------------------------------------------------------------------------------------

  async #create(): Promise<void> {
    const hierarchy = hierarchyOf(this.#caps, this.#plan.cgroupVersion);
    if (!hierarchy)
      throw new MachineError(
        "NO_CGROUP",
        this.#caps.cgroupProblems[this.#plan.cgroupVersion] ?? "no usable cgroup hierarchy",
      );
    let { directory, cpusetDirectory } = hierarchy;
    const top = this.#top;
    if (!cgroupMagic.has(this.#addon.fsMagic(directory)))
      throw new MachineError("NO_CGROUP", `${directory} is on no cgroup filesystem`);
    if (hierarchy.occupied) leaveDirectory(directory);
    if (this.#caps.systemd) {
      const { delegatedScope } = await import("./delegate.ts");
      this.#scope = await delegatedScope(this.#addon, this.#plan.top.name, this.#plan.cgroupVersion, hierarchy.mount);
      ({ directory } = this.#scope);
    }
    const usesCpuset = this.#plan.cgroups.some(({ writes }) => writes.some(({ file }) => file.startsWith("cpuset.")));
    cpusetDirectory = usesCpuset ? cpusetDirectory : null;
    this.#parent = directory;
    this.#cpusetParent = cpusetDirectory;
    makeDirectory(join(directory, top));
    if (cpusetDirectory !== null) makeDirectory(join(cpusetDirectory, top));
    // Held for as long as this process lives: `clean` removes only cgroups whose lock is free.
    for (const parent of [directory, cpusetDirectory]) {
      if (parent === null) continue;
      const fd = openSync(join(parent, top), constants.O_RDONLY | constants.O_DIRECTORY);
      this.#descriptors.push(fd);
      this.#addon.lock(fd);
    }
    const driver = namedDriver(openCgroups({ ...hierarchy, directory, cpusetDirectory }, top), (name) =>
      this.#directoryOf(name),
    );
    this.#cgroups = driver;
    // On v2 a parent passes a controller on only when it is told to.
    const passed = this.#plan.top.writes.find(({ file }) => file === "cgroup.subtree_control");
    if (passed && driver.version === 2 && top !== "") driver.write("..", passed.file, passed.value);
    this.#make("", this.#plan.top.path);
    for (const cgroup of this.#plan.cgroups) this.#make(cgroup.name, cgroup.path);
    if (this.#plan.processes.some(({ cgroup }) => cgroup === null) && driver.version === 2)
      this.#make(unlimited, `${this.#plan.top.path}/${unlimited}`);
    // Controllers are passed on from above before limits are written below.
    for (const [name, writes] of [
      ["", this.#plan.top.writes] as const,
      ...this.#plan.cgroups.map((cgroup) => [cgroup.name, cgroup.writes] as const),
    ]) {
      for (const write of writes) await this.#write(name, write);
    }
    if (this.#plan.pods) mountVolumes(this.#plan.pods.volumes);
  }

  /** Where a cgroup stands below the run's own. */
  #directoryOf(name: string): string {
    return this.#directories.get(name) ?? name;
  }

  /** The path of a cgroup's directory, or of a file in it. */
  #pathOf(name: string, file = ""): string {
    return join(this.#parent ?? "", this.#top, this.#directoryOf(name), file);
  }

  #make(name: string, path: string): void {
    this.#driver.create(name);
    this.#made.push(name);
    this.#emit({ type: "cgroup", cgroup: name, path });
  }

  get #driver(): CgroupDriver {
    if (!this.#cgroups) throw new MachineError("NO_CGROUP", "the run has no cgroup yet");
    return this.#cgroups;
  }

  /** One write of the plan, read back; the kernel rounds sizes to pages. */
  async #write(name: string, { file, value, why }: PlannedWrite): Promise<void> {
    const began = performance.now();
    try {
      const read = this.#driver.write(name, file, value);
      const ms = Math.round(performance.now() - began);
      const rounded = read !== null && /^\d+$/.test(value) && /^\d+$/.test(read) && read !== value;
      this.#emit({
        type: "write",
        cgroup: name,
        file,
        value,
        read,
        errno: null,
        note: rounded ? `rounded to whole pages: ${read}` : null,
        ms,
      });
      if (rounded && Math.abs(Number(read) - Number(value)) >= 65_536 * 4)
        throw new MachineError(
          "WRITE_NOT_TAKEN",
          `${file} of cgroup ${name || this.#plan.top.name} reads ${read} after ${value} was written (${why})`,
        );
    } catch (error) {
      if (error instanceof OomlabError) throw error;
      throw writeError(error as NodeJS.ErrnoException, name || this.#plan.top.name, file, value, why);
    }
  }

  // collect --------------------------------------------------------------------------------------------------------

  #collect(): void {
    this.#log = openKernelLog(this.#addon);
    this.#emit({ type: "vmstat", moment: "before", oomKill: oomKillsOfMachine() });
    this.#snapshot("before");
    this.#killsBefore = this.#killCount();
    for (const name of this.#made) this.#watchOom(name);
  }

  /** What the plan asks of a cgroup that this kernel's have not, or null. On v1 the plan itself knows. */
  #unmet(): string | null {
    if (this.#plan.cgroupVersion === 1) return null;
    const { steps, expect } = this.#plan;
    const made = (name: string): boolean => this.#made.includes(name);
    if (steps.some((step) => step.do === "reclaim" && made(step.cgroup) && !this.#has(step.cgroup, "memory.reclaim")))
      return "this kernel has no memory.reclaim";
    const awaited = steps.flatMap((step) => {
      if (step.do !== "wait" || step.until.of !== "counters") return [];
      const { cgroup, counters } = step.until;
      return counters.map(({ key }) => ({ cgroup, key }));
    });
    const untold = [...expect.counters, ...awaited].find(
      ({ cgroup, key }) => made(cgroup) && this.#driver.counters(cgroup)[key] === undefined,
    );
    return untold === undefined ? null : `this kernel does not tell ${untold.key}`;
  }

  #has(cgroup: string, file: string): boolean {
    return existsSync(join(this.#pathOf(cgroup), file));
  }

  /** Tells when the kernel's OOM killer comes for a cgroup: POLLPRI on memory.events, on v1 an eventfd. */
  #watchOom(name: string): void {
    const { version, oomEventFile } = this.#driver;
    if (this.#parent === null || (name === "" && version === 2)) return;
    const directory = this.#pathOf(name);
    try {
      const file = openSync(join(directory, oomEventFile), constants.O_RDONLY);
      this.#descriptors.push(file);
      const told = (count: number): void => this.#emit({ type: "oom-event", cgroup: name, file: oomEventFile, count });
      if (version === 2) {
        // A change is told until the file has been read again (fs/kernfs/file.c kernfs_fop_poll).
        let seen = readOomCount(file);
        this.#watches.push(
          this.#addon.poll(file, "priority", () => {
            const count = readOomCount(file);
            if (count > seen) told(count - seen);
            seen = count;
          }),
        );
        return;
      }
      const event = this.#addon.eventfd();
      this.#descriptors.push(event);
      this.#driver.write(name, "cgroup.event_control", `${event} ${file}`);
      this.#watches.push(this.#addon.poll(event, "readable", () => told(readEventfd(event))));
    } catch (error) {
      // Notifications are extra evidence: a kernel without them still has counters and its log.
      if ((error as NodeJS.ErrnoException).code === undefined) throw error;
    }
  }

  /** OOM kills that our cgroups' own counters tell, summed. */
  #killCount(): number {
    return this.#made.reduce((sum, name) => {
      const { "memory.events.local.oom_kill": own, "memory.events.oom_kill": all } =
        this.#read(name, () => this.#driver.counters(name)) ?? {};
      return sum + (typeof own === "number" ? own : typeof all === "number" ? all : 0);
    }, 0);
  }

  #isAbove(name: string, other: string): boolean {
    return this.#directoryOf(other).startsWith(`${this.#directoryOf(name)}/`);
  }

  #snapshot(moment: SnapshotMoment, only?: string): void {
    for (const name of this.#made) {
      // The ancestors belong to it: a limit above may be the one that is hit.
      if (only !== undefined && name !== only && name !== "" && !this.#isAbove(name, only)) continue;
      const counters = this.#read(name, () => this.#driver.counters(name));
      if (counters === null) continue;
      this.#emit({ type: "counters", cgroup: name, moment, counters });
    }
    if (moment === "settled" || moment === "end") this.#emit({ type: "vmstat", moment, oomKill: oomKillsOfMachine() });
  }

  /** Reads counters; a cgroup that somebody removed under the run is told once, as an error. */
  #read(name: string, read: () => Counters): Counters | null {
    if (this.#lost.has(name)) return null;
    try {
      return read();
    } catch (error) {
      this.#lost.add(name);
      this.#emit(asErrorEvent(error));
      return null;
    }
  }

  /** Samples levels and drains the kernel log; less often as a run goes on. */
  #sample(everyMs: number): void {
    this.#sampler = setTimeout(() => {
      this.#drain();
      for (const name of this.#made) {
        if (name === "") continue;
        const counters = this.#read(name, () => this.#driver.levels(name));
        if (counters === null) continue;
        const told = JSON.stringify(counters);
        if (this.#lastLevels.get(name) === told) continue;
        this.#lastLevels.set(name, told);
        this.#emit({ type: "counters", cgroup: name, moment: "sample", counters });
      }
      for (const { plan, cgroups } of this.#processes.values())
        if (plan.forks) for (const cgroup of cgroups) this.#tellThreads(cgroup);
      this.#changed();
      this.#sample(Math.min(50, everyMs * 1.05));
    }, everyMs);
  }

  /** Whom the log may name beside the process itself: what it forked, wherever below its cgroup that went. */
  #tellThreads(cgroup: string): void {
    if (this.#parent === null) return;
    const file = this.#driver.version === 1 ? "tasks" : "cgroup.threads";
    const found = subtree(this.#pathOf(cgroup)).flatMap((path) => readProcs(join(path, file)));
    const processes = found.filter((pid) => !this.#seen.has(pid)).map((pid) => ({ pid, parent: parentOf(pid) }));
    if (processes.length === 0) return;
    for (const { pid } of processes) this.#seen.add(pid);
    this.#emit({ type: "procs", cgroup, processes });
  }

  #drain(): void {
    for (const event of this.#log?.drain() ?? []) {
      this.#emit(event);
      if (event.type !== "kmsg" || event.facility !== 0) continue;
      const killed = /(?:^|: )Killed process (\d+) \(/.exec(event.text);
      if (killed?.[1]) this.#killedLines.add(`${event.seq} ${killed[1]}`);
    }
  }

  // start ----------------------------------------------------------------------------------------------------------

  /** The kubelet of a plan with Pods, its first pass behind it. */
  async #startKubelet(): Promise<void> {
    const { kubelet } = this.#plan;
    if (!kubelet) return;
    const { startKubelet } = await import("./kubelet.ts");
    const running = (name: string): RunningProcess | null => {
      const state = this.#state(name);
      return state.ended ? null : state.running;
    };
    this.#kubelet = startKubelet(kubelet, {
      addon: this.#addon,
      version: this.#driver.version,
      root: hierarchyOf(this.#caps, this.#plan.cgroupVersion)?.mount ?? "",
      directory: (cgroup) => this.#pathOf(cgroup),
      emit: (event) => this.#emit(event),
      drainLog: () => this.#drain(),
      pathOf: (volume) => this.#plan.pods?.volumes.find(({ name }) => name === volume)?.path ?? null,
      pidOf: (name) => running(name)?.pid ?? null,
      nameOf: (pid) => this.#nameOf(pid),
      hasEnded: (name) => this.#state(name).ended,
      signal: (pid, number) => this.#signalPid(pid, number),
      until: (holds, timeoutMs) => this.#until(holds, timeoutMs),
      sysctl: this.#plan.machine === "vm" ? (this.#plan.vm?.sysctl ?? {}) : null,
      seed: this.#plan.name,
    });
  }

  #start(name: string): void {
    if (this.#kubelet?.hasEvicted(name)) return;
    const state = this.#state(name);
    const { plan } = state;
    const cgroup = plan.cgroup ?? (this.#driver.version === 2 ? unlimited : "");
    const cwd = plan.cwd === null ? this.#directory : resolve(this.#directory, plan.cwd);
    state.started = true;
    try {
      state.running = startProcess(
        this.#addon,
        plan,
        this.#driver.placement(cgroup),
        { cwd, run: this.#plan.top.name },
        this.#caps.oomScoreAdj,
        {
          report: (report) => this.#report(state, report),
          output: (text) => this.#emit({ type: "output", process: name, text }),
          exit: ({ pid, code, signal, coreDumped, userUs, systemUs }) => {
            state.ended = true;
            this.#emit({
              type: "process-exit",
              process: name,
              pid,
              code,
              signal: signal === null ? null : signalName(signal),
              coreDumped,
              userUs,
              systemUs,
            });
            state.succeeded = code === 0;
            this.#startWaiting();
            this.#changed();
          },
        },
      );
    } catch (error) {
      state.ended = true;
      throw spawnError(error, name);
    }
    this.#emit({ type: "process-start", process: name, pid: state.running.pid, cgroup: plan.cgroup });
  }

  /** Starts what waited for others to end well: a Pod's containers after its init containers. */
  #startWaiting(): void {
    if (this.#over.signal.aborted) return;
    for (const { plan, started } of this.#processes.values())
      if (!started && plan.start === "auto" && plan.after?.every((name) => this.#state(name).succeeded) === true)
        try {
          this.#start(plan.name);
        } catch (error) {
          this.#emit(asErrorEvent(error));
          this.#end();
        }
  }

  #state(name: string): ProcessState {
    const state = this.#processes.get(name);
    if (!state) throw new MachineError("NO_PROCESS", `the plan has no process ${name}`);
    return state;
  }

  #report(state: ProcessState, report: WorkerReport): void {
    this.#emit({ type: "worker", process: state.plan.name, report });
    if (report.type === "progress" || report.type === "touched") state.bytes.set(report.pid, report.touched);
    state.family.add(report.pid);
    if (report.type === "child-end") state.family.delete(report.child);
    if (report.type !== "touched" && report.type !== "child-end") return;
    const first = state.settled.size < state.plan.workers;
    state.settled.add(report.type === "touched" ? report.pid : report.child);
    // Its memory is still there: it goes on only when this has been read.
    if (report.type === "touched") this.#snapshot("touched", state.plan.cgroup ?? "");
    if (state.settled.size >= state.plan.workers) {
      // Workers share the descriptor: they all go on together, in later rounds each by itself.
      for (let bytes = first ? state.plan.workers : 1; bytes > 0; bytes--) state.running?.goOn();
    }
    this.#changed();
  }

  /** Whether a process presses no more: it has ended, or holds what it was asked to hold. */
  #idle({ plan, ended, started, settled }: ProcessState): boolean {
    return ended || !started || (plan.waits && settled.size >= plan.workers);
  }

  async #whenDone(): Promise<undefined> {
    await this.#until(
      () => [...this.#processes.values()].every((state) => this.#idle(state)) && (this.#kubelet?.isQuiet() ?? true),
    );
    return undefined;
  }

  #changed(): void {
    for (const wake of this.#waiting) wake();
  }

  /** Waits until something is true, looked at after each event; false at the deadline or, unless told to go on, when the run is over. */
  async #until(holds: () => boolean, timeoutMs = Number.POSITIVE_INFINITY, goOnAfterwards = false): Promise<boolean> {
    const deadline = performance.now() + timeoutMs;
    while (!holds()) {
      if ((this.#over.signal.aborted && !goOnAfterwards) || performance.now() >= deadline) return false;
      await new Promise<void>((resolve) => {
        const wake = (): void => {
          clearTimeout(timer);
          this.#waiting.delete(wake);
          resolve();
        };
        // Looks again now and then whatever happens: a process may have been ended from outside.
        const timer = setTimeout(wake, Math.min(100, Math.max(1, deadline - performance.now())));
        this.#waiting.add(wake);
      });
    }
    return true;
  }

  // steps ----------------------------------------------------------------------------------------------------------

  async #runSteps(): Promise<void> {
    for (const [index, step] of this.#plan.steps.entries()) {
      const began = performance.now();
      const detail = await this.#step(step);
      if (this.#over.signal.aborted) return;
      this.#snapshot("step");
      const ms = Math.round(performance.now() - began);
      this.#emit({ type: "step", index, do: step.do, status: detail === null ? "done" : "failed", detail, ms });
      if (detail !== null) return;
    }
  }

  /** Does one step; what went otherwise than stated, or null. */
  async #step(step: PlannedStep): Promise<string | null> {
    switch (step.do) {
      case "start":
        for (const name of step.processes) this.#start(name);
        return null;
      case "sleep":
        await sleep(step.ms, undefined, { signal: this.#over.signal }).catch(() => undefined);
        return null;
      case "wait":
        return (await this.#until(() => this.#holds(step.until), step.timeoutMs))
          ? null
          : `what it waits for did not come within ${formatDuration(step.timeoutMs)}: ${this.#describe(step.until)}`;
      case "write":
        return this.#writeStep(step);
      case "kill":
        return this.#killStep(step);
      case "move": {
        const { running, ended, family, cgroups } = this.#state(step.process);
        if (!running) return `process ${step.process} has not been started`;
        if (ended) return `process ${step.process} has ended`;
        for (const pid of new Set([running.pid, ...family])) this.#attach(step.cgroup, pid);
        cgroups.add(step.cgroup);
        return null;
      }
      case "reclaim":
        return this.#control(step.cgroup, "memory.reclaim", String(step.size), null);
      default:
        // A plan for a host holds none of these: they are asked for once more where they are done.
        if (this.#plan.machine !== "vm")
          return `the step "${step.do}" acts on the whole machine, which is not done on a host`;
        return machineStep(this.#addon, step);
    }
  }

  #holds(until: Extract<PlannedStep, { do: "wait" }>["until"]): boolean {
    if (until.of === "process") {
      const state = this.#state(until.process);
      if (until.state === "exited") return state.ended;
      // What has ended touches no more: what follows, and the verdict, tell how it ended.
      if (state.ended) return true;
      const touched = [...state.bytes.values()].reduce((sum, bytes) => sum + bytes, 0);
      return until.touched === null ? state.settled.size >= state.plan.workers : touched >= until.touched;
    }
    const counters = this.#read(until.cgroup, () => this.#driver.counters(until.cgroup)) ?? {};
    return until.counters.every(({ key, compare }) => {
      const value = counters[key];
      return value !== undefined && compares(value === "max" ? Number.POSITIVE_INFINITY : value, compare);
    });
  }

  #describe(until: Extract<PlannedStep, { do: "wait" }>["until"]): string {
    if (until.of === "process")
      return until.state === "exited"
        ? `the end of ${until.process}`
        : `${until.process} having touched ${until.touched === null ? "all its bytes" : formatBytes(until.touched)}`;
    const counters = this.#read(until.cgroup, () => this.#driver.counters(until.cgroup)) ?? {};
    return until.counters
      .map(({ key, compare }) => {
        const value = counters[key] ?? "not told by this kernel";
        const sized = typeof value === "number" && /\d[KMGTP]i?\b/.test(compare.text);
        return `${key} ${compare.text} in ${until.cgroup} (it is ${sized ? formatBytes(value) : value})`;
      })
      .join(", ");
  }

  async #writeStep(step: Extract<PlannedStep, { do: "write" }>): Promise<string | null> {
    for (const { file, value } of step.writes) {
      const problem = await this.#control(step.cgroup, file, value, step.errno);
      if (problem !== null) return problem;
    }
    return null;
  }

  /** A write that may block (a limit lowered below the usage reclaims and kills first), so in the thread pool. */
  async #control(cgroup: string, file: string, value: string, errno: string | null): Promise<string | null> {
    if (this.#parent === null) return "the run has no cgroup";
    const path = this.#pathOf(cgroup, file);
    const began = performance.now();
    let code: string | null = null;
    try {
      // Not of node:fs/promises: under emulation loading that takes a guest 0.07 s, and most runs have no such step.
      const handle = await promises.open(path, constants.O_WRONLY);
      try {
        await handle.write(value);
      } finally {
        await handle.close();
      }
    } catch (error) {
      code = (error as NodeJS.ErrnoException).code ?? "UNKNOWN";
    }
    this.#emit({
      type: "write",
      cgroup,
      file,
      value,
      read: null,
      errno: code,
      note: null,
      ms: Math.round(performance.now() - began),
    });
    if (code === errno) return null;
    const shown = file.startsWith("memory.") && /^\d+$/.test(value) ? formatBytes(Number(value)) : value;
    const what = `writing ${shown} to ${file} of ${cgroup}`;
    return errno === null
      ? `${what} failed with ${code}`
      : `${what} was to fail with ${errno}, and ${code === null ? "succeeded" : `failed with ${code}`}`;
  }

  #killStep(step: Extract<PlannedStep, { do: "kill" }>): string | null {
    const number = signalNumber(step.signal);
    if (number === undefined) return `there is no signal ${step.signal}`;
    if (step.process !== null) {
      const state = this.#state(step.process);
      if (!state.running || state.ended) return `process ${step.process} is not running`;
      this.#emit({
        type: "kill",
        process: step.process,
        cgroup: null,
        pid: state.running.pid,
        signal: step.signal,
        why: "step",
      });
      state.running.signal(number);
      return null;
    }
    const cgroup = step.cgroup ?? "";
    const pids = this.#driver.procs(cgroup);
    for (const pid of pids)
      this.#emit({ type: "kill", process: this.#nameOf(pid), cgroup, pid, signal: step.signal, why: "step" });
    if (step.signal === "SIGKILL" && this.#driver.kill(cgroup)) return null;
    for (const pid of pids) this.#signalPid(pid, number);
    return null;
  }

  /** Moves a process; one that ends in that moment needs no moving. */
  #attach(cgroup: string, pid: number): void {
    try {
      this.#driver.attach(cgroup, pid);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
    }
  }

  #nameOf(pid: number): string | null {
    for (const { plan, running } of this.#processes.values()) if (running?.pid === pid) return plan.name;
    return null;
  }

  /** Signals a pid that stands in one of our cgroups: ours through its pidfd, a descendant's by number. */
  #signalPid(pid: number, number: number): void {
    const own = [...this.#processes.values()].find(({ running }) => running?.pid === pid);
    if (own?.running) {
      own.running.signal(number);
      return;
    }
    try {
      process.kill(pid, number);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
    }
  }

  // settle ---------------------------------------------------------------------------------------------------------

  /** Takes the counters before anything is ended by us, and waits until the kernel log says as many kills as they do. */
  async #settle(): Promise<void> {
    const deadline = performance.now() + evidenceMs;
    for (let pause = 1; ; pause = Math.min(50, pause * 2)) {
      this.#drain();
      if (this.#killedLines.size >= this.#killCount() - this.#killsBefore || performance.now() >= deadline) break;
      await sleep(pause);
    }
    this.#snapshot("settled");
    this.#drain();
  }

  /** Ends what still runs: first what holds its memory and waits, then by SIGKILL. */
  async #endProcesses(why: "timeout" | "interrupted" | "cleanup"): Promise<void> {
    if (this.#sampler) clearTimeout(this.#sampler);
    this.#sampler = null;
    const left = (): ProcessState[] =>
      [...this.#processes.values()].filter(({ running, ended }) => running !== null && !ended);
    if (why === "cleanup") {
      for (const { running, plan } of left()) if (plan.waits) running?.release();
      await this.#until(() => left().every(({ plan }) => !plan.waits), releaseMs, true);
    }
    for (const { running, plan } of left()) {
      if (!running) continue;
      this.#emit({ type: "kill", process: plan.name, cgroup: plan.cgroup, pid: running.pid, signal: "SIGKILL", why });
      running.signal(9);
    }
    await this.#until(() => left().length === 0, removeMs, true);
  }

  // remove ---------------------------------------------------------------------------------------------------------

  /** Removes all that the run made, whatever state it is in. Never throws: what is left is told as an error event. */
  async remove(): Promise<void> {
    this.#emit({ type: "phase", phase: "remove" });
    this.#signal.removeEventListener("abort", this.#onAbort);
    try {
      if (this.#sampler) clearTimeout(this.#sampler);
      this.#kubelet?.stop();
      await this.#endProcesses("cleanup");
      for (const watch of this.#watches) watch.close();
      const deadline = performance.now() + removeMs;
      let gone = this.#removeCgroups();
      for (let pause = 1; !gone && performance.now() < deadline; pause = Math.min(100, pause * 2)) {
        await sleep(pause);
        gone = this.#removeCgroups();
      }
      if (!gone) {
        this.#emit({
          type: "error",
          code: "CGROUP_LEFT",
          message: `the cgroup ${this.#plan.top.path} could not be removed: it is still busy`,
          hint: "`oomlab clean` removes it once its last process has ended",
        });
      }
      removeVolumes(this.#plan.top.name);
      await this.#scope?.close();
    } catch (error) {
      this.#emit(asErrorEvent(error));
    } finally {
      for (const fd of this.#descriptors.splice(0)) closeSync(fd);
      this.#cgroups?.close();
      this.#log?.close();
      this.#log = null;
    }
  }

  /** One try: kills what a command left in them, removes children before parents. True when nothing is left. */
  #removeCgroups(): boolean {
    const roots = [this.#parent, this.#cpusetParent].filter((parent) => parent !== null);
    // At the hierarchy's root others live too: only what was made goes.
    const tops =
      this.#top === ""
        ? [...new Set(this.#made.map((name) => this.#directoryOf(name).split("/")[0] ?? ""))].filter(Boolean)
        : [this.#top];
    const trees = roots.flatMap((parent) => tops.map((name) => subtree(join(parent, name))));
    const pids = new Set(trees.flat().flatMap((path) => readProcs(join(path, "cgroup.procs"))));
    for (const pid of pids) {
      this.#emit({ type: "kill", process: this.#nameOf(pid), cgroup: null, pid, signal: "SIGKILL", why: "cleanup" });
      this.#signalPid(pid, 9);
    }
    this.#addon.reapOrphans();
    if (pids.size > 0 || !trees.every((tree) => tree.toReversed().every(removeDirectory))) return false;
    return true;
  }
}

/** The process of a thread, the parent of a process; null where it has ended. */
function parentOf(pid: number): number | null {
  try {
    const status = readFileSync(`/proc/${pid}/status`, "latin1");
    const field = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+)`, "m").exec(status)?.[1] ?? 0);
    return field("Tgid") === pid ? field("PPid") : field("Tgid");
  } catch {
    return null;
  }
}

/** How often the OOM killer came, from an open memory.events; 0 where its cgroup is gone. */
function readOomCount(fd: number): number {
  const text = Buffer.alloc(1024);
  try {
    const size = readSync(fd, text, 0, text.length, 0);
    const key = (name: string): number =>
      Number(new RegExp(`^${name} (\\d+)$`, "m").exec(text.toString("latin1", 0, size))?.[1] ?? 0);
    return Math.max(key("oom"), key("oom_kill"));
  } catch {
    return 0;
  }
}

/** eventfd(2): the count since the last read. */
function readEventfd(fd: number): number {
  const count = Buffer.alloc(8);
  readSync(fd, count, 0, 8, null);
  return Number(count.readBigUInt64LE());
}

/** Where processes without a limit live on v2: the run's own cgroup passes controllers on, so it holds none itself. */
const unlimited = "unlimited";

function writeError(
  error: NodeJS.ErrnoException,
  cgroup: string,
  file: string,
  value: string,
  why: string,
): MachineError {
  const hints: Record<string, string> = {
    ENOENT: `this kernel has no ${file}`,
    EINVAL: "the kernel refuses this value",
    EBUSY: "the cgroup is in use: its usage is above the limit, or it holds processes",
    EACCES: "run oomlab as root",
    EROFS: "the cgroup filesystem is mounted read-only (a container: run it with --privileged)",
  };
  return new MachineError(
    "CGROUP_WRITE",
    `cannot write ${value} to ${file} of cgroup ${cgroup} (${why}): ${error.code ?? error.message}`,
    { cause: error, ...(hints[error.code ?? ""] ? { hint: hints[error.code ?? ""] as string } : {}) },
  );
}

function spawnError(error: unknown, name: string): unknown {
  if (error instanceof OomlabError) return error;
  const { code, syscall, path, message } = error as SystemCallError;
  return new MachineError(
    "SPAWN",
    `cannot start process ${name}: ${syscall === undefined ? message : `${syscall}${path === undefined ? "" : ` ${path}`}: ${code}`}`,
    {
      cause: error,
      ...(code === "ENOMEM" ? { hint: "the limit of its cgroup leaves no room for a process to start" } : {}),
    },
  );
}
