/** A scenario's steps, one after another: what each did, or what went otherwise than stated. */
import { constants, promises } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import type { Addon } from "../native.ts";
import { compares, type Plan, type PlannedStep } from "../plan.ts";
import type { Emit } from "../record.ts";
import { formatBytes, formatDuration } from "../units.ts";
import type { RunCgroups } from "./cgroups.ts";
import type { Collector } from "./evidence.ts";
import { machineStep } from "./machine-step.ts";
import { signalNumber } from "./process.ts";
import type { RunProcesses } from "./processes.ts";

/** What a run lends its steps. */
export interface StepsHost {
  addon: Addon;
  cgroups: RunCgroups;
  processes: RunProcesses;
  collector: Collector;
  emit: Emit;
  /** Aborted when the run is decided: no step begins, waits or tells anything from then on. */
  over: AbortSignal;
  /** Waits until something is true, looked at after each event of the run; false when the time is over. */
  until(holds: () => boolean, timeoutMs: number): Promise<boolean>;
}

type StepOf<Do extends PlannedStep["do"]> = Extract<PlannedStep, { do: Do }>;
type Awaited = StepOf<"wait">["until"];

/** Does all steps, or those before the first that fails. */
export async function runSteps({ machine, steps }: Plan, host: StepsHost): Promise<void> {
  for (const [index, step] of steps.entries()) {
    const began = performance.now();
    const detail = await doStep(step, machine, host);
    if (host.over.aborted) return;
    host.collector.snapshot("step");
    const ms = Math.round(performance.now() - began);
    host.emit({ type: "step", index, do: step.do, status: detail === null ? "done" : "failed", detail, ms });
    if (detail !== null) return;
  }
}

/** Does one step; what went otherwise than stated, or null. */
async function doStep(step: PlannedStep, machine: Plan["machine"], host: StepsHost): Promise<string | null> {
  switch (step.do) {
    case "start":
      for (const name of step.processes) host.processes.start(name);
      return null;
    case "sleep":
      await sleep(step.ms, undefined, { signal: host.over }).catch(() => undefined);
      return null;
    case "wait":
      return (await host.until(() => holds(step.until, host), step.timeoutMs))
        ? null
        : `what it waits for did not come within ${formatDuration(step.timeoutMs)}: ${describe(step.until, host)}`;
    case "write":
      for (const { file, value } of step.writes) {
        const problem = await control(step.cgroup, file, value, step.errno, host);
        if (problem !== null) return problem;
      }
      return null;
    case "kill":
      return kill(step, host);
    case "move":
      return host.processes.move(step.process, step.cgroup);
    case "reclaim":
      return control(step.cgroup, "memory.reclaim", String(step.size), null, host);
    default:
      // A plan for a host holds none of these: they are asked for once more where they are done.
      if (machine !== "vm") return `the step "${step.do}" acts on the whole machine, which is not done on a host`;
      return machineStep(host.addon, step);
  }
}

function holds(until: Awaited, { processes, collector }: StepsHost): boolean {
  if (until.of === "process")
    return until.state === "exited"
      ? processes.hasEnded(until.process)
      : processes.hasTouched(until.process, until.touched);
  const counters = collector.counters(until.cgroup);
  return until.counters.every(({ key, compare }) => {
    const value = counters[key];
    return value !== undefined && compares(value === "max" ? Number.POSITIVE_INFINITY : value, compare);
  });
}

function describe(until: Awaited, { collector }: StepsHost): string {
  if (until.of === "process")
    return until.state === "exited"
      ? `the end of ${until.process}`
      : `${until.process} having touched ${until.touched === null ? "all its bytes" : formatBytes(until.touched)}`;
  const counters = collector.counters(until.cgroup);
  return until.counters
    .map(({ key, compare }) => {
      const value = counters[key] ?? "not told by this kernel";
      const sized = typeof value === "number" && /\d[KMGTP]i?\b/.test(compare.text);
      return `${key} ${compare.text} in ${until.cgroup} (it is ${sized ? formatBytes(value) : value})`;
    })
    .join(", ");
}

/** A write that may block (a limit lowered below the usage reclaims and kills first), so in the thread pool. */
async function control(
  cgroup: string,
  file: string,
  value: string,
  errno: string | null,
  { cgroups, emit }: StepsHost,
): Promise<string | null> {
  const began = performance.now();
  let code: string | null = null;
  try {
    // Not of node:fs/promises: under emulation loading that takes a guest 0.07 s, and most runs have no such step.
    const handle = await promises.open(cgroups.pathOf(cgroup, file), constants.O_WRONLY);
    try {
      await handle.write(value);
    } finally {
      await handle.close();
    }
  } catch (error) {
    code = (error as NodeJS.ErrnoException).code ?? "UNKNOWN";
  }
  const ms = Math.round(performance.now() - began);
  emit({ type: "write", cgroup, file, value, read: null, errno: code, note: null, ms });
  if (code === errno) return null;
  const shown = file.startsWith("memory.") && /^\d+$/.test(value) ? formatBytes(Number(value)) : value;
  const what = `writing ${shown} to ${file} of ${cgroup}`;
  return errno === null
    ? `${what} failed with ${code}`
    : `${what} was to fail with ${errno}, and ${code === null ? "succeeded" : `failed with ${code}`}`;
}

function kill(step: StepOf<"kill">, { cgroups: { driver }, processes, emit }: StepsHost): string | null {
  const { signal, process } = step;
  const number = signalNumber(signal);
  if (number === undefined) return `there is no signal ${signal}`;
  if (process !== null) {
    const running = processes.running(process);
    if (running === null) return `process ${process} is not running`;
    emit({ type: "kill", process, cgroup: null, pid: running.pid, signal, why: "step" });
    running.signal(number);
    return null;
  }
  const cgroup = step.cgroup ?? "";
  const pids = driver.procs(cgroup);
  for (const pid of pids) emit({ type: "kill", process: processes.nameOf(pid), cgroup, pid, signal, why: "step" });
  if (signal === "SIGKILL" && driver.kill(cgroup)) return null;
  for (const pid of pids) processes.signal(pid, number);
  return null;
}
