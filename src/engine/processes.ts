/** The processes of one run: started in the plan's order, followed by what they report, ended. */
import { dirname, resolve } from "node:path";
import { MachineError, OomlabError } from "../errors.ts";
import type { Addon, SystemCallError } from "../native.ts";
import type { Capabilities, Plan, PlannedProcess } from "../plan.ts";
import type { Emit, WorkerReport } from "../record.ts";
import type { RunCgroups } from "./cgroups.ts";
import { errorEvent } from "./evidence.ts";
import { type RunningProcess, signalName, startProcess } from "./process.ts";

/** What a run does about what its processes do. */
export interface ProcessesHost {
  addon: Addon;
  cgroups: RunCgroups;
  emit: Emit;
  /** Aborted when the run is decided: nothing is started from then on. */
  over: AbortSignal;
  /** Whether a Pod was told to go: nothing of it is started any more. */
  hasEvicted: (process: string) => boolean;
  /** A worker has touched all its memory, which it holds until this returns. */
  touched: (cgroup: string) => void;
  changed: () => void;
  /** A process that the run needs cannot be started. */
  failed: () => void;
}

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

export class RunProcesses {
  readonly #plan: Plan;
  readonly #caps: Capabilities;
  readonly #host: ProcessesHost;
  readonly #directory: string;
  readonly #states = new Map<string, ProcessState>();

  constructor(plan: Plan, caps: Capabilities, host: ProcessesHost) {
    this.#plan = plan;
    this.#caps = caps;
    this.#host = host;
    this.#directory = plan.file === "-" ? process.cwd() : dirname(resolve(plan.file));
    for (const spec of plan.processes)
      this.#states.set(spec.name, {
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

  /** Starts those that wait for no step and no other. */
  startFirst(): void {
    for (const { plan } of this.#states.values())
      if (plan.start === "auto" && plan.after === undefined) this.start(plan.name);
  }

  /** Throws MachineError where it cannot be started. */
  start(name: string): void {
    const { addon, cgroups, emit, hasEvicted, changed } = this.#host;
    if (hasEvicted(name)) return;
    const state = this.#state(name);
    const { plan } = state;
    const cwd = plan.cwd === null ? this.#directory : resolve(this.#directory, plan.cwd);
    state.started = true;
    try {
      state.running = startProcess(
        addon,
        plan,
        cgroups.driver.placement(cgroups.homeOf(plan.cgroup)),
        { cwd, run: this.#plan.top.name },
        this.#caps.oomScoreAdj,
        {
          report: (report) => this.#report(state, report),
          output: (text) => emit({ type: "output", process: name, text }),
          exit: ({ pid, code, signal, coreDumped, userUs, systemUs }) => {
            state.ended = true;
            emit({
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
            changed();
          },
        },
      );
    } catch (error) {
      state.ended = true;
      throw spawnError(error, name);
    }
    emit({ type: "process-start", process: name, pid: state.running.pid, cgroup: plan.cgroup });
  }

  /** The process while it runs; null before and after. */
  running(name: string): RunningProcess | null {
    const { running, ended } = this.#state(name);
    return ended ? null : running;
  }

  hasEnded(name: string): boolean {
    return this.#state(name).ended;
  }

  /** Whether it has touched so many bytes, or all (null) that it states. What has ended touches no more: true. */
  hasTouched(name: string, bytes: number | null): boolean {
    const { ended, settled, plan, bytes: told } = this.#state(name);
    if (ended) return true;
    if (bytes === null) return settled.size >= plan.workers;
    return [...told.values()].reduce((sum, touched) => sum + touched, 0) >= bytes;
  }

  /** Whether none presses any more: each has ended, was not started, or holds what it was asked to hold. */
  get areIdle(): boolean {
    return [...this.#states.values()].every(
      ({ plan, ended, started, settled }) => ended || !started || (plan.waits && settled.size >= plan.workers),
    );
  }

  nameOf(pid: number): string | null {
    for (const { plan, running } of this.#states.values()) if (running?.pid === pid) return plan.name;
    return null;
  }

  /** Cgroups in which processes fork: whom the log may name there is not known beforehand. */
  *forking(): Generator<string> {
    for (const { plan, cgroups } of this.#states.values()) if (plan.forks) yield* cgroups;
  }

  /** Moves a process and its workers; what went otherwise, or null. */
  move(name: string, cgroup: string): string | null {
    const { running, ended, family, cgroups } = this.#state(name);
    if (!running) return `process ${name} has not been started`;
    if (ended) return `process ${name} has ended`;
    for (const pid of new Set([running.pid, ...family])) this.#attach(cgroup, pid);
    cgroups.add(cgroup);
    return null;
  }

  /** Signals a pid that stands in one of our cgroups: ours through its pidfd, a descendant's by number. */
  signal(pid: number, number: number): void {
    const own = [...this.#states.values()].find(({ running }) => running?.pid === pid);
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

  /** Lets those end that hold their memory and wait. */
  release(): void {
    for (const { running, plan } of this.#left()) if (plan.waits) running?.release();
  }

  /** Ends what still runs by SIGKILL. */
  kill(why: "timeout" | "interrupted" | "cleanup"): void {
    for (const { running, plan } of this.#left()) {
      if (!running) continue;
      const { name, cgroup } = plan;
      this.#host.emit({ type: "kill", process: name, cgroup, pid: running.pid, signal: "SIGKILL", why });
      running.signal(9);
    }
  }

  /** Whether all have ended that were started; of those that hold their memory alone, with `waiting`. */
  haveEnded(which: "all" | "waiting"): boolean {
    return this.#left().every(({ plan }) => which === "waiting" && !plan.waits);
  }

  #left(): ProcessState[] {
    return [...this.#states.values()].filter(({ running, ended }) => running !== null && !ended);
  }

  #state(name: string): ProcessState {
    const state = this.#states.get(name);
    if (!state) throw new MachineError("NO_PROCESS", `the plan has no process ${name}`);
    return state;
  }

  /** Starts what waited for others to end well: a Pod's containers after its init containers. */
  #startWaiting(): void {
    if (this.#host.over.aborted) return;
    for (const { plan, started } of this.#states.values())
      if (!started && plan.start === "auto" && plan.after?.every((name) => this.#state(name).succeeded) === true)
        try {
          this.start(plan.name);
        } catch (error) {
          this.#host.emit(errorEvent(error));
          this.#host.failed();
        }
  }

  #report(state: ProcessState, report: WorkerReport): void {
    const { emit, touched, changed } = this.#host;
    emit({ type: "worker", process: state.plan.name, report });
    if (report.type === "progress" || report.type === "touched") state.bytes.set(report.pid, report.touched);
    state.family.add(report.pid);
    if (report.type === "child-end") state.family.delete(report.child);
    if (report.type !== "touched" && report.type !== "child-end") return;
    const first = state.settled.size < state.plan.workers;
    state.settled.add(report.type === "touched" ? report.pid : report.child);
    // Its memory is still there: it goes on only when this has been read.
    if (report.type === "touched") touched(state.plan.cgroup ?? "");
    if (state.settled.size >= state.plan.workers) {
      // Workers share the descriptor: they all go on together, in later rounds each by itself.
      for (let bytes = first ? state.plan.workers : 1; bytes > 0; bytes--) state.running?.goOn();
    }
    changed();
  }

  /** Moves a process; one that ends in that moment needs no moving. */
  #attach(cgroup: string, pid: number): void {
    try {
      this.#host.cgroups.driver.attach(cgroup, pid);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
    }
  }
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
