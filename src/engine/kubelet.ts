/**
 * The kubelet beside a run's Pods: reads what a kubelet reads when it reads it, lets the core decide
 * (kubernetes/eviction.ts), kills as it says, and tells all of it the moment it happens. Between its reads it sleeps.
 */
import { closeSync, constants, openSync, readFileSync, readSync, statfsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { readProcs } from "../cgroup/index.ts";
import { meminfoBytes, type MemoryUse, memoryUse, nextHousekeeping, seeded } from "../kubernetes/cadvisor.ts";
import {
  advance,
  describeRanking,
  type Eviction,
  initialState,
  type ManagerState,
  memoryPressureCondition,
  type Next,
  notifierRefreshMs,
  notifierThreshold,
  type Observation,
  type Pass,
  type PodStats,
  rankMemoryPressure,
  synchronize,
} from "../kubernetes/eviction.ts";
import { type MemorySignal, type Threshold, thresholdBytes, thresholdText } from "../kubernetes/eviction-thresholds.ts";
import type { KubeletEvent, SignalReading } from "../kubernetes/kubelet-event.ts";
import type { PlannedContainer, PlannedKubelet, PlannedPod } from "../kubernetes/kubelet-plan.ts";
import type { Addon, PollHandle } from "../native.ts";
import type { RunEventBody } from "../record.ts";

/** What the run lends it. */
export interface KubeletHost {
  addon: Addon;
  version: 1 | 2;
  /** The mount of the hierarchy: the root cgroup. */
  root: string;
  /** The directory of a cgroup of the plan. */
  directory(cgroup: string): string;
  emit(event: RunEventBody): void;
  /** Emits what the kernel has logged so far. */
  drainLog(): void;
  /** Where a memory-backed volume of the plan is mounted; null: nowhere. */
  pathOf(volume: string): string | null;
  /** `null`: not started, or ended. */
  pidOf(process: string): number | null;
  nameOf(pid: number): string | null;
  hasEnded(process: string): boolean;
  signal(pid: number, number: number): void;
  /** Waits until something is true, looked at after each event of the run; false when the time is over. */
  until(holds: () => boolean, timeoutMs: number): Promise<boolean>;
  /** The machine is the run's own: what a kubelet sets of the kernel is set; what the scenario states stays. */
  sysctl: Readonly<Record<string, string>> | null;
  /** What chance goes by: the same plan has the same clocks. */
  seed: string;
}

export interface RunningKubelet {
  /** Nothing that stands as it stands now will make it evict anybody. */
  isQuiet(): boolean;
  /** Whether a Pod was told to go: nothing of it is started any more. */
  hasEvicted(process: string): boolean;
  stop(): void;
}

/** The kernel's own, linux/signal.h. */
const sigterm = 15;
const sigkill = 9;
/** What a kubelet sets at its start (pkg/kubelet/cm setupKernelTunables). */
const kernelTunables: Readonly<Record<string, string>> = {
  "vm.overcommit_memory": "1",
  "vm.panic_on_oom": "0",
  "kernel.panic": "10",
  "kernel.panic_on_oops": "1",
};
/** How long a look at the node that decides nothing holds good. */
const peekMs = 250;
/** volumeStatsAggPeriod. */
const volumePeriodMs = 60_000;

/** Starts the kubelet; its first pass is done when this returns. */
export function startKubelet(plan: PlannedKubelet, host: KubeletHost): RunningKubelet {
  const kubelet = new Kubelet(plan, host);
  kubelet.start();
  return kubelet;
}

type WithoutType<E> = E extends unknown ? Omit<E, "type"> : never;

class Kubelet implements RunningKubelet {
  readonly #plan: PlannedKubelet;
  readonly #host: KubeletHost;
  readonly #files: Files;
  readonly #chance: () => number;
  readonly #capacity: number;
  readonly #timers = new Set<NodeJS.Timeout>();
  readonly #used = new Map<string, MemoryUse>();
  readonly #volumes = new Map<string, Record<string, number>>();
  readonly #evicted = new Set<string>();
  readonly #notifiers = new Map<Threshold, { fd: number; watch: PollHandle }>();
  readonly #over = new AbortController();
  #state: ManagerState = initialState;
  #pressure = false;
  /** Passes that kill or wait for what they killed. */
  #busy = 0;
  #lastPass: Pass | null = null;
  #armedAt = Number.NEGATIVE_INFINITY;
  #notified = false;
  #handling = false;
  #peeked: { at: number; quiet: boolean } = { at: Number.NEGATIVE_INFINITY, quiet: false };

  constructor(plan: PlannedKubelet, host: KubeletHost) {
    this.#plan = plan;
    this.#host = host;
    this.#files = new Files();
    this.#chance = seeded(host.seed);
    this.#capacity = meminfoBytes(readFileSync("/proc/meminfo", "latin1"), "MemTotal");
  }

  start(): void {
    const { config } = this.#plan;
    const limit = this.#kubepodsLimit();
    this.#tell({
      did: "start",
      minor: config.minor,
      sysctl: this.#setTunables(),
      capacity: this.#capacity,
      kubepodsLimit: limit,
      thresholds: config.thresholds.map(({ signal, value, gracePeriodMs }) => {
        const whole = signal === "memory.available" ? this.#capacity : (limit ?? this.#capacity);
        return { signal, bytes: thresholdBytes(value, whole), text: thresholdText(value, whole), gracePeriodMs };
      }),
    });
    for (const pod of this.#plan.pods) {
      for (const cgroup of [pod.cgroup, ...pod.containers.map((container) => container.cgroup)])
        this.#housekeep(cgroup, null);
      if (pod.volumes.length > 0) this.#weigh(pod);
    }
    const pass = this.#pass("poll");
    void this.#loop(advance({ type: "passed", nowMs: performance.now(), pass }));
  }

  #setTunables(): Record<string, string> {
    const stated = this.#host.sysctl;
    const set: Record<string, string> = {};
    for (const [name, value] of Object.entries(stated === null ? {} : kernelTunables)) {
      if (stated !== null && Object.hasOwn(stated, name)) continue;
      writeFileSync(join("/proc/sys", name.replaceAll(".", "/")), value);
      set[name] = value;
    }
    return set;
  }

  stop(): void {
    this.#over.abort();
    for (const timer of this.#timers) clearTimeout(timer);
    for (const { fd, watch } of this.#notifiers.values()) {
      watch.close();
      closeSync(fd);
    }
    this.#notifiers.clear();
    this.#files.close();
  }

  hasEvicted(process: string): boolean {
    return this.#plan.pods.some(
      ({ name, containers }) =>
        this.#evicted.has(name) && containers.some((container) => container.process === process),
    );
  }

  isQuiet(): boolean {
    if (this.#over.signal.aborted) return true;
    if (this.#busy > 0) return false;
    const now = performance.now();
    if (now - this.#peeked.at >= peekMs) this.#peeked = { at: now, quiet: this.#peek(now) };
    return this.#peeked.quiet;
  }

  /** What a pass would find now. Where it cannot evict it has said so, and will say so again. */
  #peek(now: number): boolean {
    const active = this.#active();
    if (active.length === 0) return true;
    const { observations } = this.#observe(now);
    const stats = (name: string): PodStats | null => {
      const known = this.#stats(name);
      const pod = active.find((candidate) => candidate.name === name);
      return known && pod ? { ...known, volumes: this.#volumesOf(pod) } : known;
    };
    const { met, evictions } = synchronize(this.#plan.config, this.#state, now, observations, active, stats);
    if (met.length === 0 && evictions.length === 0) return true;
    return this.#lastPass !== null && this.#lastPass.log !== null && this.#lastPass.due.length >= met.length;
  }

  #tell(event: WithoutType<KubeletEvent>): void {
    this.#host.emit({ type: "kubelet", ...event });
  }

  // the loop -------------------------------------------------------------------------------------------------------

  async #loop(first: Next): Promise<void> {
    let next = first;
    let killedAt = 0;
    while (!this.#over.signal.aborted) {
      if (next.do === "kill") {
        const pods = next.evictions.map(({ pod }) => pod);
        await this.#killAll(next.evictions);
        this.#busy++;
        killedAt = performance.now();
        next = advance({ type: "killed", nowMs: killedAt, pods });
        continue;
      }
      await this.#sleepUntil(next.atMs);
      if (this.#over.signal.aborted) return;
      if (next.do === "pass") {
        const pass = this.#pass("poll");
        next = advance({ type: "passed", nowMs: performance.now(), pass });
        continue;
      }
      const look: Extract<Next, { do: "look" }> = next;
      const cleanedUp = look.pods.every((name) => this.#isGone(name));
      next = advance({ type: "looked", nowMs: performance.now(), look, cleanedUp });
      if (next.do === "look") continue;
      this.#busy--;
      const ms = Math.round(performance.now() - killedAt);
      this.#tell({ did: "cleaned-up", pods: [...look.pods], ms, timedOut: !cleanedUp });
    }
  }

  #sleepUntil(atMs: number): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        // A timer left running would hold the whole program for the rest of the period.
        clearTimeout(timer);
        this.#timers.delete(timer);
        this.#over.signal.removeEventListener("abort", done);
        resolve();
      };
      const timer = setTimeout(done, Math.max(0, atMs - performance.now()));
      this.#timers.add(timer);
      this.#over.signal.addEventListener("abort", done);
    });
  }

  #later(ms: number, work: () => void): void {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      work();
    }, ms);
    this.#timers.add(timer);
  }

  // a pass ---------------------------------------------------------------------------------------------------------

  #pass(by: "poll" | "notifier"): Pass {
    const began = performance.now();
    // What the kernel logged before this pass stands before it in the record.
    this.#host.drainLog();
    const { observations, readings } = this.#observe(began);
    this.#arm(began, readings);
    const { config } = this.#plan;
    const active = this.#active();
    const pass = synchronize(config, this.#state, performance.now(), observations, active, this.#stats);
    this.#state = pass.state;
    this.#lastPass = pass;
    this.#peeked = { at: Number.NEGATIVE_INFINITY, quiet: false };
    this.#tell({
      did: "pass",
      by,
      signals: readings,
      met: pass.met.map(({ signal }) => signal),
      due: pass.due.map(({ signal }) => signal),
      ranking: describeRanking(rankMemoryPressure(active, this.#stats), this.#stats),
      oomScores: this.#oomScores(active),
      log: pass.log,
      ms: Math.round(performance.now() - began),
    });
    if (pass.memoryPressure !== this.#pressure) {
      this.#pressure = pass.memoryPressure;
      this.#tell({ did: "condition", ...memoryPressureCondition(pass.memoryPressure) });
    }
    if (pass.event) this.#tell({ did: "threshold-met", event: pass.event });
    for (const eviction of pass.evictions) this.#evicted.add(eviction.pod);
    return pass;
  }

  /** The kernel's own opinion of who should go. */
  #oomScores(pods: readonly PlannedPod[]): Record<string, number> {
    const scores: Record<string, number> = {};
    for (const { process } of pods.flatMap(({ containers }) => containers)) {
      const pid = this.#host.pidOf(process);
      const text = pid === null ? "" : readProc(`/proc/${pid}/oom_score`);
      if (text !== "") scores[process] = Number(text);
    }
    return scores;
  }

  /** The node's and the Pods' memory, read now. */
  #observe(timeMs: number): { observations: Partial<Record<MemorySignal, Observation>>; readings: SignalReading[] } {
    const readings: SignalReading[] = [];
    const add = (signal: MemorySignal, capacity: number, use: MemoryUse): void => {
      readings.push({ signal, available: Math.max(0, capacity - use.workingSet), capacity, ...use });
    };
    add("memory.available", this.#capacity, this.#use(null));
    const limit = this.#kubepodsLimit();
    if (limit !== null) add("allocatableMemory.available", limit, this.#use(this.#plan.kubepods));
    const observations: Partial<Record<MemorySignal, Observation>> = {};
    for (const { signal, available, capacity } of readings) observations[signal] = { available, capacity, timeMs };
    return { observations, readings };
  }

  /** Pods whose processes are not all over: oomlab restarts no container. */
  #active(): PlannedPod[] {
    return this.#plan.pods.filter(
      ({ name, containers }) =>
        !this.#evicted.has(name) && containers.some((container) => !this.#host.hasEnded(container.process)),
    );
  }

  readonly #stats = (name: string): PodStats | null => {
    const pod = this.#plan.pods.find((candidate) => candidate.name === name);
    const own = pod && this.#used.get(pod.cgroup);
    if (!pod || !own) return null;
    const containers: Record<string, number> = {};
    for (const container of pod.containers) {
      const use = this.#used.get(container.cgroup);
      if (use) containers[container.name] = use.workingSet;
    }
    return { workingSet: own.workingSet, containers, volumes: this.#volumes.get(name) ?? {} };
  };

  // what it reads --------------------------------------------------------------------------------------------------

  /** `null`: the root cgroup. */
  #use(cgroup: string | null): MemoryUse {
    const { version } = this.#host;
    const directory = cgroup === null ? this.#host.root : this.#host.directory(cgroup);
    const stat = this.#files.read(join(directory, "memory.stat"));
    const isRootOfV2 = version === 2 && cgroup === null;
    const usage = isRootOfV2
      ? null
      : this.#files.read(join(directory, version === 1 ? "memory.usage_in_bytes" : "memory.current"));
    const { minor } = this.#plan.config;
    const meminfo = isRootOfV2 && minor < 29 ? this.#files.read("/proc/meminfo") : null;
    return memoryUse({ version, usage, stat, meminfo }, minor);
  }

  #kubepodsLimit(): number | null {
    const { version } = this.#host;
    const file = version === 1 ? "memory.limit_in_bytes" : "memory.max";
    const text = this.#files.read(join(this.#host.directory(this.#plan.kubepods), file)).trim();
    // What v1 writes for no limit is beyond 2^62 too (server/stats isMemoryUnlimited).
    return /^\d+$/.test(text) && Number(text) < 2 ** 62 ? Number(text) : null;
  }

  /** cAdvisor's own clock for each cgroup: what passes know of Pods is as old as its last tick. */
  #housekeep(cgroup: string, intervalMs: number | null): void {
    const before = this.#used.get(cgroup);
    const now = this.#use(cgroup);
    this.#used.set(cgroup, now);
    const unchanged = before?.usage === now.usage && before.workingSet === now.workingSet;
    const next = nextHousekeeping(intervalMs, unchanged, this.#chance());
    this.#later(next.waitMs, () => this.#housekeep(cgroup, next.intervalMs));
  }

  /** What its memory-backed volumes hold is read by a clock of its own, each minute. */
  #weigh(pod: PlannedPod): void {
    this.#volumes.set(pod.name, this.#volumesOf(pod));
    this.#later(volumePeriodMs * (1 + 0.1 * this.#chance()), () => this.#weigh(pod));
  }

  /** Bytes in each memory-backed volume of a Pod that is mounted. */
  #volumesOf(pod: PlannedPod): Record<string, number> {
    const used: Record<string, number> = {};
    for (const { name, volume } of pod.volumes) {
      const path = this.#host.pathOf(volume);
      if (path === null) continue;
      const { blocks, bfree, bsize } = statfsSync(path);
      used[name] = (blocks - bfree) * bsize;
    }
    return used;
  }

  // the kernel's notification, cgroup v1 ---------------------------------------------------------------------------

  #arm(now: number, readings: readonly SignalReading[]): void {
    const { config, kubepods } = this.#plan;
    // On a machine that others use nothing is written at its root.
    if (!config.memcgNotification || this.#host.version === 2 || this.#host.sysctl === null) return;
    if (now - this.#armedAt <= notifierRefreshMs) return;
    this.#armedAt = now;
    for (const threshold of config.thresholds) {
      const reading = readings.find(({ signal }) => signal === threshold.signal);
      if (!reading) continue;
      const old = this.#notifiers.get(threshold);
      if (old) {
        old.watch.close();
        closeSync(old.fd);
        this.#notifiers.delete(threshold);
      }
      const usage = notifierThreshold(threshold, reading);
      const directory = threshold.signal === "memory.available" ? this.#host.root : this.#host.directory(kubepods);
      try {
        this.#notifiers.set(threshold, this.#notifier(directory, usage));
        this.#tell({ did: "armed", signal: threshold.signal, usage, problem: null });
      } catch (error) {
        this.#tell({ did: "armed", signal: threshold.signal, usage, problem: (error as Error).message });
      }
    }
  }

  /** An eventfd that the kernel writes to when the usage crosses, either way (cgroup-v1/memory.rst, 9). */
  #notifier(directory: string, usage: number): { fd: number; watch: PollHandle } {
    const { addon } = this.#host;
    const fd = addon.eventfd();
    const file = openSync(join(directory, "memory.usage_in_bytes"), constants.O_RDONLY);
    try {
      writeFileSync(join(directory, "cgroup.event_control"), `${fd} ${file} ${usage}`);
    } catch (error) {
      closeSync(fd);
      throw error;
    } finally {
      closeSync(file);
    }
    const count = Buffer.alloc(8);
    const watch = addon.poll(fd, "readable", () => {
      readSync(fd, count, 0, 8, null);
      this.#notified = true;
      void this.#handleNotification();
    });
    return { fd, watch };
  }

  /** A notification makes a pass beside the loop's own: it kills, but waits for no clean-up. */
  async #handleNotification(): Promise<void> {
    if (this.#handling) return;
    this.#handling = true;
    while (this.#notified && !this.#over.signal.aborted) {
      this.#notified = false;
      const { evictions } = this.#pass("notifier");
      if (evictions.length > 0) await this.#killAll(evictions);
    }
    this.#handling = false;
  }

  // killing --------------------------------------------------------------------------------------------------------

  async #killAll(evictions: readonly Eviction[]): Promise<void> {
    this.#busy++;
    for (const eviction of evictions) {
      const pod = this.#plan.pods.find(({ name }) => name === eviction.pod);
      if (pod && !this.#over.signal.aborted) await this.#evict(pod, eviction);
    }
    this.#busy--;
  }

  async #evict(pod: PlannedPod, eviction: Eviction): Promise<void> {
    const began = performance.now();
    this.#tell({
      did: "evict",
      eviction,
      event: { type: "Warning", reason: "Evicted", message: eviction.message },
    });
    const deadline = began + eviction.killTimeoutMs;
    const killed = new Set<number>();
    const graceEnds = began + eviction.graceSeconds * 1000;
    // Sidecars end after the containers that they serve.
    for (const group of [pod.containers.filter(({ sidecar }) => !sidecar), pod.containers.filter((c) => c.sidecar)]) {
      if (eviction.graceSeconds > 0) {
        for (const container of group) this.#terminate(container);
        await this.#host.until(
          () => this.#over.signal.aborted || group.every((container) => this.#hasEnded(container)),
          graceEnds - performance.now(),
        );
      }
      // A container's other processes go with its first one, as the members of its pid namespace do.
      for (let left = group; left.length > 0 && !this.#over.signal.aborted && performance.now() < deadline;) {
        for (const container of left) this.#killContainer(container, killed);
        await this.#host.until(() => left.every((container) => this.#isEmpty(container)), 100);
        left = left.filter((container) => !this.#isEmpty(container));
      }
    }
    const timedOut = !this.#isGone(pod.name);
    this.#tell({ did: "killed", pod: pod.name, ms: Math.round(performance.now() - began), timedOut });
  }

  /** SIGTERM goes to a container's first process. It is pid 1 of its namespace there: without a handler nothing happens. */
  #terminate({ process, cgroup }: PlannedContainer): void {
    const pid = this.#host.pidOf(process);
    if (pid === null || !catches(pid, sigterm)) return;
    this.#host.emit({ type: "kill", process, cgroup, pid, signal: "SIGTERM", why: "eviction" });
    this.#host.signal(pid, sigterm);
  }

  #killContainer({ cgroup }: PlannedContainer, killed: Set<number>): void {
    for (const pid of this.#procs(cgroup)) {
      // A signal that was sent needs no other, however long the process takes.
      if (killed.has(pid)) continue;
      killed.add(pid);
      const process = this.#host.nameOf(pid);
      this.#host.emit({ type: "kill", process, cgroup, pid, signal: "SIGKILL", why: "eviction" });
      this.#host.signal(pid, sigkill);
    }
  }

  #hasEnded({ process, cgroup }: PlannedContainer): boolean {
    return this.#host.pidOf(process) === null || this.#procs(cgroup).length === 0;
  }

  #isEmpty({ process, cgroup }: PlannedContainer): boolean {
    return this.#host.pidOf(process) === null && this.#procs(cgroup).length === 0;
  }

  #isGone(name: string): boolean {
    const pod = this.#plan.pods.find((candidate) => candidate.name === name);
    return pod === undefined || pod.containers.every((container) => this.#isEmpty(container));
  }

  #procs(cgroup: string): number[] {
    return readProcs(join(this.#host.directory(cgroup), "cgroup.procs"));
  }
}

/** Whether a process has a handler of its own for a signal (proc_pid_status(5), SigCgt). */
function catches(pid: number, signal: number): boolean {
  const mask = /^SigCgt:\s+([0-9a-f]+)/m.exec(readProc(`/proc/${pid}/status`))?.[1] ?? "0";
  return (BigInt(`0x${mask}`) & (1n << BigInt(signal - 1))) !== 0n;
}

/** A file of a process; "" where it has ended. */
function readProc(path: string): string {
  try {
    return readFileSync(path, "latin1");
  } catch {
    return "";
  }
}

/** Small kernel files, kept open: a pass must not need memory when there is none. */
class Files {
  readonly #open = new Map<string, number>();
  readonly #buffer = Buffer.allocUnsafe(16_384);

  /** The file as it is now; "" where it is gone. */
  read(path: string): string {
    try {
      let fd = this.#open.get(path);
      if (fd === undefined) {
        fd = openSync(path, constants.O_RDONLY);
        this.#open.set(path, fd);
      }
      return this.#buffer.toString("latin1", 0, readSync(fd, this.#buffer, 0, this.#buffer.length, 0));
    } catch {
      return "";
    }
  }

  close(): void {
    for (const fd of this.#open.values()) closeSync(fd);
    this.#open.clear();
  }
}
