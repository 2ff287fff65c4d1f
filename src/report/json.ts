/** The JSON report and the JSON plan (design: sizes in bytes, times in milliseconds, unknown is null). */
import type { Plan } from "../plan.ts";
import type { Verdict } from "../verdict.ts";
import type { Output, Reporter, RunInfo } from "./index.ts";

const reportSchemaVersion = 1;

export function jsonReporter(output: Output, info: RunInfo): Reporter {
  const print = (value: unknown): void => output.write(`${JSON.stringify(value, null, 2)}\n`);
  return {
    onRunEnd: (verdicts, summary) =>
      print({
        schemaVersion: reportSchemaVersion,
        oomlab: info.version,
        summary,
        notes: info.notes,
        scenarios: verdicts.map(scenarioJson),
      }),
    onPlans: (plans) => print({ scenarios: plans.map(planJson) }),
  };
}

function scenarioJson({
  name,
  file,
  machine,
  cgroupVersion,
  kernel,
  durationMs,
  status,
  reason,
  checks,
  observed,
  kernelLog,
  notes,
}: Verdict): unknown {
  return { name, file, machine, cgroupVersion, kernel, durationMs, status, reason, checks, observed, notes, kernelLog };
}

function planJson(plan: Plan): unknown {
  const { name, file, machine, cgroupVersion, skip, timeoutMs, cgroups, processes, steps } = plan;
  return {
    name,
    file,
    machine,
    cgroupVersion,
    skip,
    timeoutMs,
    cgroups,
    processes,
    steps,
    ...(plan.pods ? podsJson(plan.pods) : {}),
  };
}

/** What the manifests came to; what they are laid out from again is the plan's own. */
function podsJson({ node, pods, containers, volumes, turns, ignored, notes }: NonNullable<Plan["pods"]>): object {
  return { node, pods, containers, volumes, turns, ignored, notes };
}
