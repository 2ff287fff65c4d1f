/** The stages for programs: options checked and with the commands' defaults, this process's streams where none are given. */
import * as api from "./api.ts";
import type { MachineName } from "./plan.ts";
import { type Reporter, reporters } from "./report/index.ts";
import { type LoadOptions, loadScenarios as load, type Scenario } from "./scenario/index.ts";
import { sweepReporters } from "./sweep/report.ts";
import {
  amount,
  type Check,
  checked,
  type Checks,
  flag,
  listOf,
  oneOf,
  pattern,
  properties,
  text,
  whole,
} from "./library/checks.ts";
import { type LibraryStreams, withStreams } from "./library/streams.ts";

export type { LibraryStreams } from "./library/streams.ts";

const many = 999_999;
/** Timers take no more. */
const timeout = whole(1, 2 ** 31 - 1);
const machines: (MachineName | "auto")[] = ["auto", "host", "vm", "container", "kubernetes"];

const hook: Check = (value, name) => (typeof value === "function" ? null : `${name} is no function`);
const hooks: Checks<Reporter> = {
  onRunStart: hook,
  onScenarioStart: hook,
  onEvent: hook,
  onAttemptEnd: hook,
  onScenarioEnd: hook,
  onRunEnd: hook,
  onPlans: hook,
};

/** `name` or `name=file`. */
const reporterName =
  (names: readonly string[]): Check =>
  (value, name) =>
    text(value, name) ?? oneOf(...names)(String(value).split("=")[0], name);

/** A name, `name=file`, or an object, which may be of a class, with a hook. */
const reporter: Check = (value, name) => {
  if (typeof value === "string") return reporterName(Object.keys(reporters))(value, name);
  const has = (key: string): boolean => typeof value === "object" && value !== null && key in value;
  if (!Object.keys(hooks).some(has))
    return `${name} is no reporter: expected a name, name=file, or an object with one of ${Object.keys(hooks).join(", ")}`;
  const plain = Object.getPrototypeOf(value) === Object.prototype;
  return plain ? properties(hooks)(value, name) : null;
};

const runChecks: Checks<api.RunOptions> = {
  paths: listOf(text),
  machine: oneOf(...machines),
  cgroup: listOf(oneOf(1, 2, "hybrid")),
  kernels: listOf(text),
  reporters: listOf(reporter),
  grep: pattern,
  tags: listOf(text),
  jobs: whole(1, many),
  timeoutMs: timeout,
  retries: whole(0, many),
  repeatEach: whole(1, many),
  bail: flag,
  list: flag,
  dryRun: flag,
  output: text,
  failOnSkipped: flag,
  shard: (value, name) => {
    const problem = properties<{ index: number; of: number }>({ index: whole(1, 9999), of: whole(1, 9999) })(
      value,
      name,
    );
    if (problem !== null) return problem;
    const { index, of } = value as { index?: number; of?: number };
    return index !== undefined && of !== undefined && index <= of
      ? null
      : `${name} is { index: ${index}, of: ${of} }: expected index from 1 to of`;
  },
  allowHostOom: flag,
  allowNodeOom: flag,
  node: text,
  verbose: flag,
};

const reportChecks: Checks<api.ReportOptions> = {
  paths: listOf(text),
  reporters: listOf(reporter),
  merge: flag,
  failOnSkipped: flag,
};

const gridChecks: Checks<api.GridOptions> = {
  path: text,
  grep: pattern,
  vary: listOf(text),
  steps: listOf(whole(2, 9_999_999)),
  scale: oneOf("linear", "log"),
  reporters: listOf(reporterName(Object.keys(sweepReporters))),
  timeoutMs: timeout,
  cgroup: oneOf(1, 2),
};

const sweepChecks: Checks<api.SweepOptions> = {
  ...gridChecks,
  machine: oneOf(...machines.filter((name) => name !== "kubernetes")),
  kernel: text,
  jobs: whole(1, many),
  output: text,
  allowHostOom: flag,
  list: flag,
  verbose: flag,
};

const predictChecks: Checks<api.PredictOptions> = {
  ...gridChecks,
  node: properties<NonNullable<api.PredictOptions["node"]>>({
    workingSet: amount,
    reserve: amount,
    reserveShare: amount,
    stallMs: amount,
    touchRate: amount,
  }),
};

/**
 * Runs scenarios, as `oomlab run` does. A verdict that is not `passed` is a result, not an error. Throws UsageError for a
 * wrong option, ScenarioErrors for scenario files with all that is wrong in them, MachineError where nothing can be run.
 */
export async function run(options?: api.RunOptions, streams?: LibraryStreams): Promise<api.RunResult> {
  const stated = checked("run", options, runChecks);
  return withStreams("run", streams, (all) => api.run(stated, all));
}

/** Judges recorded runs again and reports them, as `oomlab report` does. */
export async function report(options: api.ReportOptions, streams?: LibraryStreams): Promise<api.ReportResult> {
  const stated = checked("report", options, reportChecks, ["paths"]);
  return withStreams("report", streams, (all) => api.report(stated, all));
}

/** Runs a scenario over a range of its numbers, as `oomlab sweep` does. */
export async function sweep(options: api.SweepOptions, streams?: LibraryStreams): Promise<api.GridResult> {
  const stated = checked("sweep", options, sweepChecks, ["path", "vary"]);
  return withStreams("sweep", streams, (all) => api.sweep(stated, all));
}

/** Predicts the same from a model, without a run, as `oomlab predict` does. */
export async function predict(options: api.PredictOptions, streams?: LibraryStreams): Promise<api.GridResult> {
  const stated = checked("predict", options, predictChecks, ["path"]);
  return withStreams("predict", streams, (all) => api.predict(stated, all));
}

/**
 * Reads scenario files and folders; no path: the folder `scenarios`. Throws ScenarioErrors with all problems of all files,
 * UsageError where there is nothing to read.
 */
export async function loadScenarios(paths: string[] = [], options?: LoadOptions): Promise<Scenario[]> {
  const stated = checked("loadScenarios", { paths }, { paths: listOf(text) });
  const checks: Checks<LoadOptions> = { cwd: text, grep: pattern, tags: listOf(text), stdin: anyText };
  return load(stated.paths, checked("loadScenarios", options, checks));
}

const anyText: Check = (value, name) => (typeof value === "string" ? null : `${name} is no text`);
