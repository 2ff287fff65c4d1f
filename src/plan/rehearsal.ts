/** The run that a guest is warmed up with before its snapshot is taken: no OOM kill, nothing in the kernel's log. */
import { parseScenarios } from "../scenario/read.ts";
import { planScenario, type CgroupVersion, type Plan, type VmSpec } from "../plan.ts";
import { vmCapabilities } from "./vm.ts";

const text = `
name: rehearsal
cgroups: { rehearsal: { memory.max: 64Mi } }
processes: { rehearsal: { cgroup: rehearsal, stress: { anon: 1Mi, hold: 30ms } } }
`;

/** What a run loads and compiles is then there in each guest that the snapshot is restored to. */
export function rehearsalPlan(vm: VmSpec, cgroupVersion: CgroupVersion): Plan {
  const [scenario] = parseScenarios(text, "rehearsal.yaml");
  if (!scenario) throw new Error("the rehearsal is a scenario");
  return planScenario(scenario, vmCapabilities(vm, cgroupVersion), {
    runId: "rehearse",
    machine: "host",
    allowHostOom: true,
    cgroupVersion,
  });
}
