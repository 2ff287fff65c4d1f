/** The processes of a plan: what of each is run, and the memory that it states it will touch. Pure. */
import type { Capabilities, PlannedProcess } from "../plan.ts";
import { type ProcessSpec, reservedKinds, type Scenario, type StressWorkload } from "../scenario/index.ts";
import { sizeIn, wholeOf } from "./memory.ts";

/** `caps`: the machine's, of whose memory a percentage without a limit above it is. */
export function planProcess(spec: ProcessSpec, scenario: Scenario, caps: Capabilities): PlannedProcess {
  const whole = wholeOf(scenario, spec.cgroup, caps);
  const common = {
    name: spec.name,
    cgroup: spec.cgroup,
    oomScoreAdj: spec.oomScoreAdj,
    user: spec.user,
    cpus: spec.cpus,
    mempolicy: spec.mempolicy,
    rlimits: spec.rlimits,
    start: spec.start,
    ...(spec.after === undefined ? {} : { after: spec.after }),
  };
  const { workload } = spec;
  if (workload.kind === "stress") {
    const { stress } = workload;
    return {
      ...common,
      program: "stress",
      argv: stressArgv(stress, whole),
      env: {},
      cwd: null,
      bytes: stress.memory.reduce((sum, { size }) => sum + sizeIn(size, whole), 0),
      workers: stress.workers,
      forks: stress.shareVm > 0 || stress.exitMainThread,
      waits: stress.hold === "forever",
    };
  }
  if (workload.kind === "node") {
    const { node } = workload;
    const sizes = node.memory.map(({ kind, size }) => ({ kind, bytes: sizeIn(size, whole) }));
    return {
      ...common,
      program: "node",
      argv: [JSON.stringify({ memory: sizes, rate: node.rate, delayMs: node.delayMs, hold: node.hold })],
      env:
        node.maxOldSpaceSize === null
          ? {}
          : { NODE_OPTIONS: `--max-old-space-size=${Math.max(1, Math.round(node.maxOldSpaceSize / 1048576))}` },
      cwd: null,
      bytes: sizes.reduce((sum, { bytes }) => sum + bytes, 0),
      workers: 1,
      forks: false,
      waits: node.hold === "forever",
    };
  }
  return {
    ...common,
    program: "command",
    argv: workload.shell ? ["/bin/sh", "-c", ...workload.command] : workload.command,
    env: workload.env,
    cwd: workload.cwd,
    bytes: null,
    workers: 1,
    forks: true,
    waits: false,
  };
}

const kebab = (name: string): string => name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);

/** The worker's arguments (docs/stress.md). */
function stressArgv(stress: StressWorkload, whole: number): string[] {
  const argv: string[] = [];
  for (const { kind, size } of stress.memory) argv.push(`--${kebab(kind)}`, String(sizeIn(size, whole)));
  const flag = (name: string, value: string | number | null, unless?: string | number): void => {
    if (value !== null && value !== unless) argv.push(`--${name}`, String(value));
  };
  flag("touch", stress.touch, "page");
  flag("stride", stress.stride);
  flag("content", stress.content, "zero");
  if (stress.populate) argv.push("--populate");
  if (stress.hugePages !== null) argv.push("--huge-pages", stress.hugePages ? "on" : "off");
  if (!stress.reserve && stress.memory.some(({ kind }) => reservedKinds.includes(kind))) argv.push("--no-reserve");
  if (stress.rate !== null) argv.push("--rate", `${stress.rate}/s`);
  if (stress.steps) argv.push("--steps", `${stress.steps.size}/${stress.steps.everyMs}ms`);
  if (stress.delayMs > 0) argv.push("--delay", `${stress.delayMs}ms`);
  if (stress.hold === "forever") argv.push("--hold", "forever");
  else if (stress.hold > 0) argv.push("--hold", `${stress.hold}ms`);
  if (stress.retouchMs !== null) argv.push("--retouch", `${stress.retouchMs}ms`);
  flag("repeat", stress.repeat, 1);
  flag("workers", stress.workers, 1);
  flag("threads", stress.threads, 1);
  flag("share-vm", stress.shareVm, 0);
  if (stress.exitMainThread) argv.push("--exit-main-thread");
  flag("dir", stress.dir);
  return argv;
}
