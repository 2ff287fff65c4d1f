/** Wires the stages: scenarios -> plans -> machine -> record -> verdict -> reports. */
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  unlinkSync,
  writeSync,
} from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { MachineError, UsageError } from "./errors.ts";
import { printable } from "./kmsg/index.ts";
import { hostMachine, type Machine, vmMachine, type VmMachine } from "./machine/index.ts";
import { type Capabilities, type CgroupVersion, type MachineName, type Plan, planScenario } from "./plan.ts";
import { parseRecords, recordSchemaVersion, type RunEvent, type RunEventBody } from "./record.ts";
import { announce, type Output, type Reporter, reporters, summarize, type Summary } from "./report/index.ts";
import { loadScenarios, type Scenario } from "./scenario/index.ts";
import { judge, skippedVerdict, type Verdict } from "./verdict.ts";

export interface RunOptions {
  paths: string[];
  machine: MachineName | "auto";
  /** One entry each; empty: the version that the machine's memory controller is on. `hybrid`: both versions mounted. */
  cgroup: (CgroupVersion | "hybrid")[];
  /** Kernels of the VM: versions, `latest` or paths; one entry each. Empty: the newest of the machine's distribution. */
  kernels: string[];
  /** `name` or `name=file`. */
  reporters: string[];
  grep?: RegExp;
  tags: string[];
  jobs: number;
  timeoutMs?: number;
  retries: number;
  repeatEach: number;
  /** Stop after the first scenario that does not pass. */
  bail: boolean;
  list: boolean;
  dryRun: boolean;
  /** Folder for the records. */
  output?: string;
  failOnSkipped: boolean;
  shard?: { index: number; of: number };
  allowHostOom: boolean;
  verbose: boolean;
}

export interface Streams {
  stdout: Output;
  /** Diagnostics. */
  stderr: { write(text: string): void };
  stdin?: () => Promise<string>;
  signal: AbortSignal;
}

/** oomlab's version, from package.json. */
export function version(): string {
  return (
    process.env.OOMLAB_VERSION ?? (createRequire(import.meta.url)("../package.json") as { version: string }).version
  );
}

/** Eight letters and digits: unique among the runs of one machine. (node:crypto costs 10 ms of a start.) */
const newRunId = (): string => Math.random().toString(36).slice(2).padEnd(8, "0").slice(0, 8);

/** Runs scenarios; resolves to the exit status (0 passed, 1 failed, 3 errored, inconclusive or all skipped, 130 interrupted). Throws OomlabError for wrong input. */
export async function run(options: RunOptions, streams: Streams): Promise<number> {
  const info = { version: version(), scenarios: 0 };
  const outputs = openReporters(options.reporters, streams, info);
  const scenarios = shard(
    await loadScenarios(options.paths, {
      ...(options.grep ? { grep: options.grep } : {}),
      ...(options.tags.length > 0 ? { tags: options.tags } : {}),
      ...(streams.stdin && options.paths.includes("-") ? { stdin: await streams.stdin() } : {}),
    }),
    options.shard,
  );
  if (options.list) {
    for (const { file, line, name } of scenarios) streams.stdout.write(`${file}:${line}  ${name}\n`);
    return 0;
  }
  const host = hostMachine();
  const caps = await host.probe();
  const orNone = <T>(choices: T[]): (T | undefined)[] => (choices.length > 0 ? choices : [undefined]);
  const jobs = scenarios.flatMap((scenario) =>
    orNone(options.kernels).flatMap((kernel) =>
      orNone(options.cgroup).flatMap((cgroup) =>
        Array.from({ length: options.repeatEach }, () => ({ scenario, cgroup, kernel })),
      ),
    ),
  );
  const plan = ({ scenario, cgroup, kernel }: Job, now: Capabilities): Plan =>
    planScenario(scenario, now, {
      runId: newRunId(),
      machine: options.machine,
      allowHostOom: options.allowHostOom,
      ...(cgroup === undefined ? {} : cgroup === "hybrid" ? { hybrid: true } : { cgroupVersion: cgroup }),
      ...(kernel === undefined ? {} : { kernel }),
      ...(options.timeoutMs === undefined ? {} : { timeoutMs: options.timeoutMs }),
    });
  let reportsLost = false;
  const warn = (message: string): void => streams.stderr.write(`oomlab: ${message}\n`);
  const lose = (message: string): void => {
    reportsLost = true;
    warn(message);
  };
  const all = [...outputs.map(({ reporter }) => reporter), ...(options.verbose ? [narrator(streams.stderr)] : [])];
  try {
    if (options.dryRun) {
      const plans = jobs.map((job) => plan(job, caps));
      announce(all, lose, (reporter) => reporter.onPlans?.(plans));
      return reportsLost ? 3 : 0;
    }
    const records = options.output === undefined ? null : openFolder(options.output);
    info.scenarios = jobs.length;
    announce(all, lose, (reporter) => reporter.onRunStart?.(info));
    const vm = vmMachine(warn);
    const machines = { host, vm };
    const verdicts: (Verdict | undefined)[] = jobs.map(() => undefined);
    // Before anything runs: package managers are children that a host's run might take for orphans of its own.
    const lacks = new Map<Job, string>();
    for (const job of jobs) {
      const planned = plan(job, caps);
      if (planned.skip !== null || planned.machine !== "vm" || streams.signal.aborted) continue;
      const reason = await lacking(vm, planned);
      if (reason === null) continue;
      const host =
        options.machine === "auto" ? planScenario(job.scenario, caps, { runId: "", machine: "host" }).skip : null;
      lacks.set(job, host === null ? reason : `${host}; ${reason}`);
    }
    let reserved = 0;
    const state = { stopped: false };
    let recordsLost = false;
    const runOne = async (index: number): Promise<void> => {
      const job = jobs[index];
      if (!job) return;
      for (let attempt = 0; ; attempt++) {
        const now = index === 0 && attempt === 0 ? caps : await host.probe();
        const planned = plan(job, { ...now, memAvailable: now.memAvailable - reserved });
        if (planned.machine === "vm" && planned.skip === null) planned.skip = lacks.get(job) ?? null;
        reserved += planned.demand ?? 0;
        try {
          const { verdict, lost } = await runPlanned(planned, now, machines, {
            records,
            number: index + 1,
            attempt,
            all,
            warn: lose,
            signal: streams.signal,
          });
          recordsLost ||= lost;
          const again =
            (verdict.status === "failed" || verdict.status === "inconclusive") &&
            attempt < options.retries &&
            !streams.signal.aborted;
          if (again) {
            warn(
              `${verdict.name}: ${verdict.status} (${verdict.reason ?? ""}), tried again (${attempt + 1} of ${options.retries})`,
            );
            continue;
          }
          if (attempt > 0 && verdict.status === "passed") verdict.notes.push(`passed at attempt ${attempt + 1}`);
          verdicts[index] = verdict;
          announce(all, lose, (reporter) => reporter.onScenarioEnd?.(verdict));
          if (options.bail && verdict.status !== "passed" && verdict.status !== "skipped") state.stopped = true;
          return;
        } finally {
          reserved -= planned.demand ?? 0;
        }
      }
    };
    let next = 0;
    const lane = async (): Promise<void> => {
      while (next < jobs.length && !state.stopped && !streams.signal.aborted) await runOne(next++);
    };
    await Promise.all(Array.from({ length: Math.min(options.jobs, jobs.length) }, lane));
    const ended = verdicts.filter((verdict) => verdict !== undefined);
    const summary = summarize(ended);
    announce(all, lose, (reporter) => reporter.onRunEnd?.(ended, summary));
    if (streams.signal.aborted) return 130;
    const status = exitStatus(summary, options.failOnSkipped);
    return (recordsLost || reportsLost) && status === 0 ? 3 : status;
  } finally {
    for (const output of outputs) output.close();
  }
}

/** `-v`: each thing that oomlab does, as it does it. */
function narrator(stderr: Streams["stderr"]): Reporter {
  const told = new Set([
    "machine",
    "unmet",
    "panic",
    "phase",
    "cgroup",
    "write",
    "process-start",
    "process-exit",
    "step",
    "kill",
    "timeout",
    "error",
  ]);
  return {
    onScenarioStart: ({ name, top }) => stderr.write(`oomlab: ${printable(name)}: in ${top.path}\n`),
    onEvent: (_plan, { line, t, type, ...rest }) => {
      if (told.has(type))
        stderr.write(
          `oomlab: ${String(line).padStart(4)} ${(t / 1000).toFixed(1).padStart(9)} ms  ${type} ${JSON.stringify(rest)}\n`,
        );
    },
  };
}

interface RunContext {
  records: string | null;
  number: number;
  attempt: number;
  all: readonly Reporter[];
  warn: (message: string) => void;
  signal: AbortSignal;
}

interface Job {
  scenario: Scenario;
  cgroup: RunOptions["cgroup"][number] | undefined;
  kernel: string | undefined;
}

/** Why the VM of a plan cannot be made here, in words, or null. */
async function lacking(vm: VmMachine, plan: Plan): Promise<string | null> {
  try {
    await vm.prepare(plan);
    return null;
  } catch (error) {
    if (!(error instanceof MachineError)) throw error;
    return error.hint === undefined ? error.message : `${error.message}: ${error.hint}`;
  }
}

/** Runs one plan and judges its record, written as it happens. */
async function runPlanned(
  plan: Plan,
  caps: Capabilities,
  { host, vm }: { host: Machine; vm: VmMachine },
  context: RunContext,
): Promise<{ verdict: Verdict; lost: boolean }> {
  announce(context.all, context.warn, (reporter) => reporter.onScenarioStart?.(plan));
  if (plan.skip !== null)
    return { verdict: skippedVerdict(plan, plan.machine === "vm" ? null : caps.kernel), lost: false };
  const events: RunEvent[] = [];
  const began = process.hrtime.bigint();
  const file = context.records === null ? null : recordFile(context.records, plan, context);
  let lost = false;
  const emit = (body: RunEventBody): void => {
    const event: RunEvent = { line: events.length + 1, t: Number((process.hrtime.bigint() - began) / 1000n), ...body };
    events.push(event);
    if (file && !lost) {
      try {
        writeSync(file.fd, `${JSON.stringify(event)}\n`);
      } catch (error) {
        lost = true;
        context.warn(`the record ${file.path} is incomplete: ${(error as Error).message}`);
      }
    }
    announce(context.all, context.warn, (reporter) => reporter.onEvent?.(plan, event));
  };
  emit({
    type: "run",
    schemaVersion: recordSchemaVersion,
    oomlab: version(),
    record: plan.top.name,
    startedAt: new Date().toISOString(),
    plan,
    // A guest tells its own once it is up.
    capabilities: plan.machine === "vm" ? null : caps,
  });
  try {
    if (plan.machine === "vm") await vm.run(plan, emit, context.signal);
    else await host.run(plan, caps, emit, context.signal);
  } finally {
    if (file) closeSync(file.fd);
  }
  return { verdict: judge(events), lost };
}

function recordFile(folder: string, plan: Plan, { number, attempt }: RunContext): { path: string; fd: number } {
  const slug = plan.name
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/^-|-$/g, "")
    .slice(0, 60);
  const path = join(
    folder,
    `${String(number).padStart(3, "0")}-${slug || "scenario"}-v${plan.cgroupVersion}${attempt === 0 ? "" : `-retry${attempt}`}.ndjson`,
  );
  return { path, fd: openSync(path, "w") };
}

/** A folder and those above it. (mkdirSync's `recursive` never ends where a parent refuses with ENOENT, as /proc does.) */
function makeFolder(folder: string): void {
  const missing: string[] = [];
  for (let path = resolve(folder); !existsSync(path); path = dirname(path)) missing.push(path);
  for (const path of missing.toReversed()) mkdirSync(path);
}

/** Makes the folder for the records and proves that it can be written. */
function openFolder(folder: string): string {
  try {
    makeFolder(folder);
    const probe = join(folder, `.oomlab-${process.pid}`);
    closeSync(openSync(probe, "w"));
    unlinkSync(probe);
    return folder;
  } catch (error) {
    throw new MachineError("OUTPUT", `records cannot be written to ${folder}: ${(error as Error).message}`, {
      cause: error,
      hint: "name a folder that you may write with --output DIR",
    });
  }
}

/** Judges recorded runs again and reports them, without a run. */
export function report(paths: string[], names: string[], streams: Streams): number {
  if (paths.length === 0)
    throw new UsageError("name the records to report: oomlab report RECORD...", {
      hint: "`oomlab run --output DIR` writes them",
    });
  const files = paths.flatMap((path) =>
    statSync(path, { throwIfNoEntry: false })?.isDirectory()
      ? readdirSync(path)
          .filter((name) => name.endsWith(".ndjson"))
          .toSorted()
          .map((name) => join(path, name))
      : [path],
  );
  const records = files.flatMap((path) => {
    let text: string;
    try {
      text = readFileSync(path, "utf8");
    } catch (error) {
      throw new UsageError(`the record ${path} cannot be read: ${(error as Error).message}`);
    }
    return parseRecords(text, path);
  });
  const outputs = openReporters(names, streams, { version: version(), scenarios: records.length });
  const all = outputs.map(({ reporter }) => reporter);
  let reportsLost = false;
  const warn = (message: string): void => streams.stderr.write(`oomlab: ${message}\n`);
  const lose = (message: string): void => {
    reportsLost = true;
    warn(message);
  };
  try {
    const verdicts = records.map((events) => {
      const verdict = judge(events);
      const first = events[0];
      if (first?.type === "run")
        for (const event of events) announce(all, lose, (reporter) => reporter.onEvent?.(first.plan, event));
      announce(all, lose, (reporter) => reporter.onScenarioEnd?.(verdict));
      return verdict;
    });
    const summary = summarize(verdicts);
    announce(all, lose, (reporter) => reporter.onRunEnd?.(verdicts, summary));
    const status = exitStatus(summary, false);
    return reportsLost && status === 0 ? 3 : status;
  } finally {
    for (const output of outputs) output.close();
  }
}

/** 0 all passed (skips are listed), 1 failed, 3 errored, inconclusive, or nothing that could be run. */
function exitStatus(summary: Summary, failOnSkipped: boolean): number {
  if (summary.failed > 0 || (failOnSkipped && summary.skipped > 0)) return 1;
  if (summary.errored > 0 || summary.inconclusive > 0 || summary.passed === 0) return 3;
  return 0;
}

function shard(scenarios: Scenario[], part: { index: number; of: number } | undefined): Scenario[] {
  return part ? scenarios.filter((_, index) => index % part.of === part.index - 1) : scenarios;
}

interface OpenReporter {
  reporter: Reporter;
  close(): void;
}

function openReporters(
  specs: string[],
  streams: Streams,
  info: { version: string; scenarios: number },
): OpenReporter[] {
  return (specs.length > 0 ? specs : ["terminal"]).map((spec) => {
    const [name = "", ...rest] = spec.split("=");
    const make = Object.hasOwn(reporters, name) ? reporters[name] : undefined;
    if (!make)
      throw new UsageError(
        `there is no reporter ${JSON.stringify(name)}: expected one of ${Object.keys(reporters).join(", ")}`,
      );
    if (rest.length === 0) return { reporter: make(streams.stdout, info), close: () => undefined };
    const path = rest.join("=");
    let fd: number;
    try {
      makeFolder(dirname(path));
      fd = openSync(path, "w");
    } catch (error) {
      throw new MachineError("REPORTER_FILE", `the report ${path} cannot be written: ${(error as Error).message}`, {
        cause: error,
        hint: "name a file that you may write with --reporter NAME=FILE",
      });
    }
    return {
      reporter: make({ write: (text) => void writeSync(fd, text), colors: false }, info),
      close: () => closeSync(fd),
    };
  });
}
