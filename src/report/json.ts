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

function planJson({ name, file, machine, cgroupVersion, skip, timeoutMs, cgroups, processes, steps }: Plan): unknown {
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
  };
}
