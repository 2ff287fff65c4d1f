/**
 * Runs a plan on this kernel: create, collect, start, settle, remove. Everything that happens is emitted as an event
 * the moment it happens; nothing is judged here.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { loadAddon } from "../native.ts";
import { type Capabilities, hierarchyOf, type Plan, relayPlan } from "../plan.ts";
import type { Emit } from "../record.ts";
import { RunCgroups } from "./cgroups.ts";
import { Collector, errorEvent } from "./evidence.ts";
import type { RunningKubelet } from "./kubelet.ts";
import { OomKillerWitness } from "./oom-killers.ts";
import { RunProcesses } from "./processes.ts";
import { runSteps } from "./steps.ts";
import { mountVolumes, removeVolumes } from "./volumes.ts";

const releaseMs = 1_000;
const briefMs = 1_000;
const removeMs = 5_000;

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
    emit(errorEvent(error));
  } finally {
    await run.remove();
    emit({ type: "end", durationMs: Math.round(performance.now() - began) });
    ended = true;
  }
}

class Run {
  readonly #plan: Plan;
  readonly #caps: Capabilities;
  readonly #emit: Emit;
  readonly #signal: AbortSignal;
  readonly #began = performance.now();
  readonly #addon = loadAddon();
  readonly #cgroups: RunCgroups;
  readonly #processes: RunProcesses;
  readonly #collector: Collector;
  readonly #killers: OomKillerWitness;
  #kubelet: RunningKubelet | null = null;
  /** Aborted when the run is decided: at its end, at the timeout, when interrupted. */
  readonly #over = new AbortController();
  /** Waits that look again whenever something has happened. */
  readonly #waiting = new Set<() => void>();

  constructor(plan: Plan, caps: Capabilities, emit: Emit, signal: AbortSignal) {
    this.#plan = plan;
    this.#caps = caps;
    this.#emit = (event) => {
      this.#killers.note(event);
      emit(event);
    };
    this.#signal = signal;
    this.#cgroups = new RunCgroups(plan, caps, this.#addon, this.#emit);
    this.#collector = new Collector(this.#cgroups, this.#addon, this.#emit);
    this.#killers = new OomKillerWitness(this.#cgroups, {
      addon: this.#addon,
      caps,
      emit,
      isAlone: plan.machine === "vm",
    });
    this.#processes = new RunProcesses(plan, caps, {
      addon: this.#addon,
      cgroups: this.#cgroups,
      emit: this.#emit,
      over: this.#over.signal,
      hasEvicted: (name) => this.#kubelet?.hasEvicted(name) ?? false,
      touched: (cgroup) => this.#collector.snapshot("touched", cgroup),
      changed: () => this.#changed(),
      failed: () => this.#end(),
    });
    if (signal.aborted) this.#end();
    else signal.addEventListener("abort", this.#end);
  }

  async execute(): Promise<void> {
    this.#emit({ type: "phase", phase: "create" });
    this.#collector.prepareTrace(this.#plan.machine === "vm" ? null : this.#plan.top.name);
    await this.#cgroups.create();
    if (this.#plan.pods) mountVolumes(this.#plan.pods.volumes);
    this.#emit({ type: "phase", phase: "collect" });
    await this.#collector.open(this.#caps);
    this.#killers.open();
    const unmet = this.#unmet();
    if (unmet !== null) {
      this.#emit({ type: "unmet", reason: unmet });
      return;
    }
    await this.#startKubelet();
    this.#emit({ type: "phase", phase: "start" });
    this.#processes.startFirst();
    this.#collector.sample(
      () => this.#processes.forking(),
      () => this.#changed(),
    );
    const deadline = sleep(this.#plan.timeoutMs, "timeout" as const, { signal: this.#over.signal }).catch(
      () => "interrupted" as const,
    );
    const first = await Promise.race([deadline, this.#press()]);
    const ended = this.#signal.aborted ? "interrupted" : first;
    // Steps and waits that are still under way end here: nothing is started, written or killed from now on.
    this.#end();
    this.#kubelet?.stop();
    if (ended === "timeout") this.#emit({ type: "timeout", ms: this.#plan.timeoutMs });
    if (ended === "interrupted")
      this.#emit({ type: "interrupted", reason: String(this.#signal.reason ?? "interrupted") });
    this.#emit({ type: "phase", phase: "settle" });
    await this.#settle();
    // Beside the ends: what holds its memory takes a moment to let go of it.
    await Promise.all([
      ended === "interrupted" ? null : this.#killers.collect(),
      this.#endProcesses(ended === "done" ? "cleanup" : ended),
    ]);
    this.#collector.snapshot("end");
    this.#collector.drain();
  }

  /** Removes all that the run made, whatever state it is in. Never throws: what is left is told as an error event. */
  async remove(): Promise<void> {
    this.#emit({ type: "phase", phase: "remove" });
    this.#signal.removeEventListener("abort", this.#end);
    try {
      this.#kubelet?.stop();
      await this.#endProcesses("cleanup");
      this.#collector.closeWatches();
      const [removed] = await Promise.all([
        this.#removeCgroups(),
        this.#collector.endTrace(this.#isBrief() ? "guard" : "later"),
      ]);
      if (!removed)
        this.#emit({
          type: "error",
          code: "CGROUP_LEFT",
          message: `the cgroup ${this.#plan.top.path} could not be removed: it is still busy`,
          hint: "`oomlab clean` removes it once its last process has ended",
        });
      removeVolumes(this.#plan.top.name);
    } catch (error) {
      this.#emit(errorEvent(error));
    }
    await this.#collector.endTrace();
    this.#collector.close();
    await this.#cgroups.close().catch((error: unknown) => this.#emit(errorEvent(error)));
  }

  /**
   * A command in the foreground that took no time: its guard removes the trace, for which the kernel makes us wait longer
   * than the command took. Process 1 of a container takes its guard with it.
   */
  #isBrief(): boolean {
    const isGuarded = this.#plan.processes.some(({ inherits }) => inherits) && process.pid !== 1;
    return isGuarded && performance.now() - this.#began < briefMs;
  }

  /** What the plan asks of a cgroup that this kernel's have not, or null. On v1 the plan itself knows. */
  #unmet(): string | null {
    if (this.#plan.cgroupVersion === 1) return null;
    const { steps, expect } = this.#plan;
    const made = (name: string): boolean => this.#cgroups.made.includes(name);
    const reclaimed = steps.flatMap((step) => (step.do === "reclaim" && made(step.cgroup) ? [step.cgroup] : []));
    if (!reclaimed.every((name) => this.#cgroups.has(name, "memory.reclaim")))
      return "this kernel has no memory.reclaim";
    const awaited = steps.flatMap((step) => {
      if (step.do !== "wait" || step.until.of !== "counters") return [];
      const { cgroup, counters } = step.until;
      return counters.map(({ key }) => ({ cgroup, key }));
    });
    const untold = [...expect.counters, ...awaited].find(
      ({ cgroup, key }) => made(cgroup) && this.#cgroups.driver.counters(cgroup)[key] === undefined,
    );
    return untold === undefined ? null : `this kernel does not tell ${untold.key}`;
  }

  /** The kubelet of a plan with Pods, its first pass behind it. */
  async #startKubelet(): Promise<void> {
    const { kubelet } = this.#plan;
    if (!kubelet) return;
    const { startKubelet } = await import("./kubelet.ts");
    this.#kubelet = startKubelet(kubelet, {
      addon: this.#addon,
      version: this.#cgroups.driver.version,
      root: hierarchyOf(this.#caps, this.#plan.cgroupVersion)?.mount ?? "",
      directory: (cgroup) => this.#cgroups.pathOf(cgroup),
      emit: this.#emit,
      drainLog: () => this.#collector.drain(),
      pathOf: (volume) => this.#plan.pods?.volumes.find(({ name }) => name === volume)?.path ?? null,
      pidOf: (name) => this.#processes.running(name)?.pid ?? null,
      nameOf: (pid) => this.#processes.nameOf(pid),
      hasEnded: (name) => this.#processes.hasEnded(name),
      signal: (pid, number) => this.#processes.signal(pid, number),
      until: (holds, timeoutMs) => this.#until(holds, timeoutMs),
      sysctl: this.#plan.machine === "vm" ? (this.#plan.vm?.sysctl ?? {}) : null,
      seed: this.#plan.name,
    });
  }

  /** Does the steps and waits until nothing presses any more and no kubelet is about to evict. */
  async #press(): Promise<"done"> {
    await runSteps(this.#plan, {
      addon: this.#addon,
      cgroups: this.#cgroups,
      processes: this.#processes,
      collector: this.#collector,
      emit: this.#emit,
      over: this.#over.signal,
      until: (holds, timeoutMs) => this.#until(holds, timeoutMs),
    });
    await this.#until(() => this.#processes.areIdle && (this.#kubelet?.isQuiet() ?? true));
    return "done";
  }

  /** Takes the counters before anything is ended by us, and waits until the kernel log says as many kills as they do. */
  async #settle(): Promise<void> {
    const { least, most } = this.#collector.trail;
    const began = performance.now();
    for (let pause = 1; ; pause = Math.min(50, pause * 2)) {
      this.#collector.drain();
      const waited = performance.now() - began;
      if (waited >= (this.#collector.isComplete ? least : most)) break;
      await sleep(pause);
    }
    this.#collector.snapshot("settled");
    this.#collector.drain();
  }

  /** Ends what still runs: first what holds its memory and waits, then by SIGKILL. */
  async #endProcesses(why: "timeout" | "interrupted" | "cleanup"): Promise<void> {
    this.#collector.stopSampling();
    if (why === "cleanup") {
      this.#processes.release();
      await this.#until(() => this.#processes.haveEnded("waiting"), releaseMs, true);
    }
    this.#processes.kill(why);
    await this.#until(() => this.#processes.haveEnded("all"), removeMs, true);
  }

  /** Removes them as soon as the kernel lets go of what was in them; false where it does not. */
  async #removeCgroups(): Promise<boolean> {
    const end = (pid: number): void => {
      const process = this.#processes.nameOf(pid);
      this.#emit({ type: "kill", process, cgroup: null, pid, signal: "SIGKILL", why: "cleanup" });
      this.#processes.signal(pid, 9);
    };
    const deadline = performance.now() + removeMs;
    for (let pause = 1; !this.#cgroups.remove(end); pause = Math.min(100, pause * 2)) {
      if (performance.now() >= deadline) return false;
      await sleep(pause);
    }
    return true;
  }

  readonly #end = (): void => {
    this.#over.abort();
    this.#changed();
  };

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
}
