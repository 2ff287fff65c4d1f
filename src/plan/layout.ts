/** A scenario laid out on one machine: its cgroups, processes and steps as they are run there, or why they cannot be. Pure. */
import type { Capabilities, Plan, PlannedCgroup, PlannedStep } from "../plan.ts";
import type { Scenario, Step } from "../scenario/index.ts";
import { unmetNeed } from "./needs.ts";
import { inPaths, type LaidPods, plannedKubelet, plannedPods, type PodMachine } from "./pods.ts";
import { planProcess } from "./processes.ts";
import { cgroupNames, cgroupSpecs } from "./tree.ts";
import { hierarchyOf, passControllers, translate, untellable } from "./versions.ts";

const defaultTimeoutMs = 60_000;

/** The unit of systemd's in which a run lies; no run's own name. */
const scopeOf = (runName: string): string => `${runName.replace("oomlab-", "oomlab-run-")}.scope`;

/**
 * The scenario on one machine: what `host` and `vm` have in common. `laid`: its Pods, already in it; `timeoutMs`: in
 * place of the scenario's own.
 */
export function layOut(
  scenario: Scenario,
  caps: Capabilities,
  machine: PodMachine,
  laid: LaidPods | undefined,
  timeoutMs: number | undefined,
): Omit<Plan, "machine" | "demand" | "vm"> {
  const { version, runName: topName } = machine;
  const hierarchy = hierarchyOf(caps, version);
  // In a VM of its own the kubelet's tree stands where it stands on a node.
  const atRoot = machine.atRoot && laid !== undefined;
  const scope = atRoot || !hierarchy || caps.systemd === null ? null : (caps.systemd.scope ?? scopeOf(topName));
  const topPath = atRoot ? "" : [hierarchy?.path ?? "", ...(scope === null ? [] : [scope]), topName].join("/");
  const names = cgroupNames(scenario);
  const processes = scenario.processes.map((spec) => planProcess(spec, scenario, caps));

  let untranslatable: string | null = null;
  const cgroups = names.map((name): PlannedCgroup => {
    const shown = laid?.nameOf(name) ?? name;
    const place = { name: shown, ...(shown === name ? {} : { directory: name }), path: `${topPath}/${name}` };
    const ofPods = laid?.writesOf(name);
    if (ofPods !== undefined) return { ...place, writes: [...ofPods] };
    const files = cgroupSpecs(scenario).get(name)?.files ?? [];
    const { writes, skip } = translate(files, version, caps, undefined);
    untranslatable ??= skip === null ? null : `cgroup ${name}: ${skip}`;
    return { ...place, writes };
  });
  const passed = passControllers(scenario, cgroups, version, hierarchy?.controllers ?? []);
  const steps = scenario.steps.map((step): PlannedStep => {
    if (step.do === "reclaim" && version === 1)
      untranslatable ??= "step reclaim: memory.reclaim is cgroup v2's; v1 can only give back everything";
    const named = laid === undefined ? step : inPaths(step, (path) => laid.nameOf(path));
    if (step.do !== "write" || named.do !== "write") return named as Exclude<Step, { do: "write" }>;
    const limit = scenario.cgroups
      .find((spec) => spec.name === step.cgroup)
      ?.files.find(({ file }) => file === "memory.max")?.value;
    const { writes, skip } = translate([step], version, caps, limit);
    untranslatable ??= skip === null ? null : `step ${step.file}: ${skip}`;
    return { ...named, writes };
  });

  const mounts = laid?.volumes.some(({ path }) => path !== null) === true;
  const skip =
    unmetNeed(scenario, processes, version, caps) ??
    (mounts && !caps.capabilities.includes("SYS_ADMIN")
      ? "mounting a memory-backed volume needs CAP_SYS_ADMIN"
      : null) ??
    untranslatable ??
    untellable(scenario, version) ??
    passed.skip;
  return {
    name: scenario.name,
    file: scenario.file,
    line: scenario.line,
    cgroupVersion: version,
    skip,
    top: {
      name: topName,
      ...(scope === null ? {} : { scope }),
      path: topPath,
      writes: passed.writes,
      ...(topPath === "" ? { directory: "" } : {}),
    },
    cgroups,
    processes: processes.map((process) =>
      process.cgroup === null || laid === undefined ? process : { ...process, cgroup: laid.nameOf(process.cgroup) },
    ),
    steps,
    expect: scenario.expect,
    timeoutMs: timeoutMs ?? scenario.timeoutMs ?? defaultTimeoutMs,
    ...(laid === undefined
      ? {}
      : { kubelet: plannedKubelet(scenario, laid), pods: plannedPods(scenario, laid, machine) }),
  };
}
