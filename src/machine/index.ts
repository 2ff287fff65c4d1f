/** A machine: one running kernel, and the means to run a plan on it. */
import type { Capabilities, MachineName, Plan } from "../plan.ts";
import type { RunEventBody } from "../record.ts";

export interface Machine {
  readonly name: MachineName;
  /** What it can do now; memory that is free changes from scenario to scenario. */
  probe(): Promise<Capabilities>;
  /** Runs a plan, made from what `probe` found; each event is emitted as it happens. Resolves when nothing of it is left. */
  run(plan: Plan, caps: Capabilities, emit: (event: RunEventBody) => void, signal: AbortSignal): Promise<void>;
}

export { cleanContainers, containerFindings, containerMachine, scenarioFolders } from "./container.ts";
export { cleanPods, kubernetesFindings, kubernetesMachine, type KubernetesOptions } from "./kubernetes.ts";
export type { RemoteMachine } from "./remote.ts";
export { hostMachine } from "./host.ts";
export { kernelLogFindings, openKernelLog } from "../engine/kernel-log.ts";
export { openTrace, type Trace, type TraceEvent, traceProblem } from "../engine/trace.ts";
export { knownAccelerator, kvmProblem } from "./accel.ts";
export { missingPrograms } from "./packages.ts";
export { forwardSignals } from "../engine/foreground.ts";
export { startGuard } from "../engine/guard.ts";
export { cleanMachine } from "../engine/clean.ts";
export { cacheFolder, cacheProblem, emptyCache, removeAbandoned } from "./cache.ts";
export { type VmMachine, vmMachine } from "./vm.ts";
