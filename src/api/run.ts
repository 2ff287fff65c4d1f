/** `oomlab run`: scenarios -> plans -> machine -> record -> verdict -> reports. */
import { closeSync, existsSync, openSync, unlinkSync, writeSync } from "node:fs";
import { join } from "node:path";
import { makeFolder, openReporters } from "./outputs.ts";
import { exitStatus, noteAttempts } from "./report.ts";
import { type Streams, version } from "./streams.ts";
import { MachineError, UsageError } from "../errors.ts";
import { printable } from "../printable.ts";
import {
  containerMachine,
  hostMachine,
  kubernetesMachine,
  type KubernetesOptions,
  type Machine,
  type RemoteMachine,
  scenarioFolders,
  vmMachine,
  type VmMachine,
} from "../machine/index.ts";
import { type Capabilities, type CgroupVersion, type MachineName, type Plan, planScenario, turnsOf } from "../plan.ts";
import { recordSchemaVersion, type RunEvent, type RunEventBody, type Selection, type SweepPoint } from "../record.ts";
import { announce, type Reporter, type RunInfo, summarize } from "../report/index.ts";
import { loadScenarios, type Scenario } from "../scenario/index.ts";
import { judge, type Verdict } from "../verdict.ts";

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
  allowNodeOom: boolean;
  /** Of machine `kubernetes`: the node's name. */
  node?: string;
  verbose: boolean;
}

/** Eight letters and digits: unique among the runs of one machine. (node:crypto costs 10 ms of a start.) */
const newRunId = (): string => Math.random().toString(36).slice(2).padEnd(8, "0").slice(0, 8);

/** Runs scenarios; resolves to the exit status (0 passed, 1 failed, 3 errored, inconclusive or all skipped, 130 interrupted). Throws OomlabError for wrong input. */
export async function run(options: RunOptions, streams: Streams): Promise<number> {
  const { grep } = options;
  if (options.kernels.length > 0 && options.machine !== "vm" && options.machine !== "auto")
    throw new UsageError(`--kernel is the VM's, and --machine ${options.machine} has its own: leave one out`);
  if (options.node !== undefined && options.machine !== "kubernetes")
    throw new UsageError("--node is a cluster's: give --machine kubernetes with it");
  const found = await loadScenarios(options.paths, {
    ...(options.tags.length > 0 ? { tags: options.tags } : {}),
    ...(streams.stdin && options.paths.includes("-") ? { stdin: await streams.stdin() } : {}),
  });
  // A name may be a scenario's, or that of one of its turns.
  const named = ({ name }: Scenario): boolean => grep === undefined || name.search(grep) >= 0;
  const selected = found.flatMap((scenario) => (named(scenario) ? [scenario] : turnsOf(scenario).filter(named)));
  if (options.list) {
    for (const { file, line, name } of selected.filter(inShard(options.shard)))
      streams.stdout.write(`${printable(`${file}:${line}  ${name}`)}\n`);
    return 0;
  }
  const info = { version: version(), scenarios: 0, notes: [], missing: [] };
  // Where nothing is run, the reports of the last time stay.
  const outputs = await openReporters(options.reporters, streams, info, { dryRun: options.dryRun });
  try {
    return await runScenarios(selected, options, streams, { info, reporters: outputs.reporters });
  } finally {
    outputs.close();
  }
}

/** How scenarios are told of and kept while they run. */
export interface Telling {
  info: RunInfo;
  reporters: readonly Reporter[];
  /** The file name of a record, and what its first event says of it; `index` counts from 0. Default: `oomlab run`'s. */
  record?: (index: number) => { name: string; point: SweepPoint };
}

/** Runs what was selected; resolves and throws as `run`. */
export async function runScenarios(
  selected: readonly Scenario[],
  options: Omit<RunOptions, "paths" | "reporters" | "grep" | "tags" | "list">,
  streams: Streams,
  { info, reporters, record: recordAs }: Telling,
): Promise<number> {
  const warn = (message: string): void => streams.stderr.write(`oomlab: ${message}\n`);
  const detail = options.verbose ? warn : (): void => undefined;
  const remote = options.dryRun ? null : remoteOf(options, selected, { warn, detail, signal: streams.signal });
  const host: Machine = remote ?? hostMachine();
  let unreachable: string | null = null;
  const caps = await host.probe().catch((error: unknown) => {
    if (remote === null || !(error instanceof MachineError)) throw error;
    unreachable = inWords(error);
    return hostMachine().probe();
  });
  const orNone = <T>(choices: T[]): (T | undefined)[] => (choices.length > 0 ? choices : [undefined]);
  const session = newRunId();
  // A plan shows all that is pressed in turn; a run is one of them.
  const turned = options.dryRun ? selected : selected.flatMap(turnsOf);
  const every = turned.flatMap((scenario, place) =>
    orNone(options.kernels).flatMap((kernel) =>
      orNone(options.cgroup).flatMap((cgroup) =>
        Array.from({ length: options.repeatEach }, (_, at) => ({ scenario, place, cgroup, kernel, repeat: at + 1 })),
      ),
    ),
  );
  const mine = inShard(options.shard);
  const jobs = every
    .map((job, at): Job => ({ ...job, index: at + 1 }))
    .filter(({ scenario, place }) => mine(scenario, place));
  const plan = ({ scenario, cgroup, kernel }: Job, now: Capabilities): Plan => {
    const planned = planScenario(scenario, now, {
      runId: newRunId(),
      machine: options.machine,
      allowHostOom: options.machine === "kubernetes" ? options.allowNodeOom : options.allowHostOom,
      ...(cgroup === undefined ? {} : cgroup === "hybrid" ? { hybrid: true } : { cgroupVersion: cgroup }),
      ...(kernel === undefined ? {} : { kernel }),
      ...(options.timeoutMs === undefined ? {} : { timeoutMs: options.timeoutMs }),
    });
    return unreachable === null ? planned : { ...planned, skip: unreachable };
  };
  let reportsLost = false;
  const lose = (message: string): void => {
    reportsLost = true;
    warn(message);
  };
  const all = [...reporters, ...(options.verbose ? [narrator(streams.stderr)] : [])];
  try {
    if (options.dryRun) {
      const plans = jobs.map((job) => plan(job, caps));
      if (all.every((reporter) => !("onPlans" in reporter)))
        all.push(...(await openReporters(["terminal"], streams, info)).reporters);
      announce(all, lose, (reporter) => reporter.onPlans?.(plans));
      return reportsLost ? 3 : 0;
    }
    const records = options.output === undefined ? null : openFolder(options.output);
    info.scenarios = jobs.length;
    announce(all, lose, (reporter) => reporter.onRunStart?.(info));
    const vm = vmMachine({
      say: warn,
      detail,
      snapshots: process.env["OOMLAB_SNAPSHOTS"] !== "off",
    });
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
      const earlier: Verdict[] = [];
      for (let attempt = 0; ; attempt++) {
        const first = index === 0 && attempt === 0;
        const now = first || unreachable !== null ? caps : await host.probe();
        const planned = plan(job, { ...now, memAvailable: now.memAvailable - reserved });
        if (planned.machine === "vm" && planned.skip === null) planned.skip = lacks.get(job) ?? null;
        reserved += planned.demand ?? 0;
        try {
          const { verdict, record, lost } = await runPlanned(planned, now, machines, {
            records,
            selection: {
              session,
              index: job.index,
              of: every.length,
              shard: options.shard ?? null,
              repeat: job.repeat,
              attempt: attempt + 1,
            },
            ...recordAs?.(index),
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
            earlier.push(verdict);
            continue;
          }
          noteAttempts(verdict, earlier.length);
          verdicts[index] = verdict;
          announce(all, lose, (reporter) => reporter.onScenarioEnd?.({ verdict, plan: planned, record, earlier }));
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
    if (ended.length < jobs.length) {
      const why = streams.signal.aborted ? "the run was interrupted" : "an earlier one did not pass (-x)";
      const message = `${jobs.length - ended.length} of ${jobs.length} scenarios were not run: ${why}`;
      info.notes.push(message);
      info.missing.push(message);
    }
    announce(all, lose, (reporter) => reporter.onRunEnd?.(ended, summary));
    if (streams.signal.aborted) return 130;
    // With more shards than scenarios some have nothing to do.
    const spare = jobs.length === 0 && every.length > 0;
    const status = spare ? 0 : exitStatus(summary, options.failOnSkipped);
    return (recordsLost || reportsLost) && status === 0 ? 3 : status;
  } finally {
    await remote?.close();
  }
}

/** The machine that is reached through a client, or null: this one. */
function remoteOf(
  { machine, node }: Pick<RunOptions, "machine" | "node">,
  selected: readonly Scenario[],
  { warn, detail, signal }: Pick<KubernetesOptions, "warn" | "detail" | "signal">,
): RemoteMachine | null {
  if (machine === "container") return containerMachine(scenarioFolders(selected.map(({ file }) => file)), detail);
  return machine === "kubernetes" ? kubernetesMachine({ node: node ?? null, warn, detail, signal }) : null;
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
  selection: Selection;
  /** The file name of its record; absent: made of the selection and the scenario's name. */
  name?: string;
  point?: SweepPoint;
  all: readonly Reporter[];
  warn: (message: string) => void;
  signal: AbortSignal;
}

interface Job {
  scenario: Scenario;
  /** The scenario's place among all selected, from 0. */
  place: number;
  /** From 1, over all shards. */
  index: number;
  repeat: number;
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
    return inWords(error);
  }
}

const inWords = ({ message, hint }: MachineError): string => (hint === undefined ? message : `${message}: ${hint}`);

/** Runs one plan and judges its record, written as it happens. */
async function runPlanned(
  plan: Plan,
  caps: Capabilities,
  { host, vm }: { host: Machine; vm: VmMachine },
  context: RunContext,
): Promise<{ verdict: Verdict; record: RunEvent[]; lost: boolean }> {
  announce(context.all, context.warn, (reporter) => reporter.onScenarioStart?.(plan));
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
    selection: context.selection,
    ...(context.point === undefined ? {} : { point: context.point }),
  });
  try {
    // A record of what was skipped is its first event.
    if (plan.skip !== null) return { verdict: judge(events), record: events, lost };
    if (plan.machine === "vm") await vm.run(plan, emit, context.signal);
    else await host.run(plan, caps, emit, context.signal);
  } finally {
    if (file) closeSync(file.fd);
    announce(context.all, context.warn, (reporter) => reporter.onAttemptEnd?.(plan));
  }
  return { verdict: judge(events), record: events, lost };
}

function recordFile(
  folder: string,
  plan: Plan,
  { name, selection: { index, attempt } }: RunContext,
): { path: string; fd: number } {
  const slug = plan.name
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/^-|-$/g, "")
    .slice(0, 60);
  const stem = `${String(index).padStart(3, "0")}-${slug || "scenario"}-v${plan.cgroupVersion}`;
  const retry = (of: number): string => join(folder, `${stem}-retry${of}.ndjson`);
  const path =
    name === undefined ? (attempt === 1 ? join(folder, `${stem}.ndjson`) : retry(attempt - 1)) : join(folder, name);
  const fd = openSync(path, "w");
  // A record that is written again leaves none of the attempts that followed the one of before.
  if (name === undefined) for (let of = attempt; existsSync(retry(of)); of++) unlinkSync(retry(of));
  return { path, fd };
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

/** Whether a scenario is in a part: the i-th of n takes each n-th. */
const inShard =
  (part: { index: number; of: number } | undefined) =>
  (_: unknown, place: number): boolean =>
    !part || place % part.of === part.index - 1;
