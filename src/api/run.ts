/** `oomlab run`: scenarios -> plans -> machine -> record -> verdict -> reports. */
import { openReporters } from "./reporters.ts";
import { openRecords, type RecordFolder } from "./records.ts";
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
import { closingLine } from "../report/closing.ts";
import { announce, type Reporter, type RunInfo, summarize, type Summary } from "../report/index.ts";
import { narrator } from "../report/narrator.ts";
import { loadScenarios, type Scenario } from "../scenario/index.ts";
import { judge, type Verdict } from "../verdict.ts";

/** What `oomlab run` takes, by the names of its flags; each has the command's default. */
export interface RunOptions {
  /** Scenario files, folders, or `-` for standard input. Default: the folder `scenarios`. */
  paths?: string[];
  /** Default: `auto`, this machine where that is safe and possible, else a VM. */
  machine?: MachineName | "auto";
  /** One entry each; empty: the version that the machine's memory controller is on. `hybrid`: both versions mounted. */
  cgroup?: (CgroupVersion | "hybrid")[];
  /** Kernels of the VM: versions, `latest` or paths; one entry each. Empty: the newest of the machine's distribution. */
  kernels?: string[];
  /** `name`, `name=file` or an object with hooks. Default: `["terminal"]`; empty: nothing is reported. */
  reporters?: (string | Reporter)[];
  /** Only scenarios with a name that matches. */
  grep?: RegExp;
  /** Only scenarios with one of these tags. */
  tags?: string[];
  /** Maximum number of scenarios run in parallel. Default: 1. */
  jobs?: number;
  /** For each scenario. Default: what it states, or 60 s. */
  timeoutMs?: number;
  /** How often a scenario that does not pass is run again. Default: 0. */
  retries?: number;
  /** Default: 1. */
  repeatEach?: number;
  /** Stop after the first scenario that does not pass. */
  bail?: boolean;
  /** List the scenarios on standard output, run nothing. */
  list?: boolean;
  /** Plan and report the plans, touch nothing. */
  dryRun?: boolean;
  /** Folder for the records. */
  output?: string;
  /** A skipped scenario makes the exit status 1. */
  failOnSkipped?: boolean;
  /** The `index`-th of `of` parts, from 1. */
  shard?: { index: number; of: number };
  /** Also run on this machine what could exhaust its memory. */
  allowHostOom?: boolean;
  /** The same for the node of machine `kubernetes`. */
  allowNodeOom?: boolean;
  /** Of machine `kubernetes`: the node's name. Default: the cluster's only one. */
  node?: string;
  /** Say more on standard error. */
  verbose?: boolean;
}

/** What a run came to. */
export interface RunResult {
  /** The command's: 0 all passed, 1 one failed, 3 errored, inconclusive or nothing that could be run, 130 interrupted. */
  exitCode: number;
  /** One for each scenario that has ended, in the order of the scenarios. */
  verdicts: Verdict[];
  summary: Summary;
  /** With `dryRun`: what would be run. */
  plans: Plan[];
}

type Defaults = Required<Omit<RunOptions, "grep" | "timeoutMs" | "output" | "shard" | "node">>;

/** The command line's too. */
export const runDefaults: Defaults = {
  paths: [],
  machine: "auto",
  cgroup: [],
  kernels: [],
  reporters: ["terminal"],
  tags: [],
  jobs: 1,
  retries: 0,
  repeatEach: 1,
  bail: false,
  list: false,
  dryRun: false,
  failOnSkipped: false,
  allowHostOom: false,
  allowNodeOom: false,
  verbose: false,
};

type FullOptions = RunOptions & Defaults;

/** Eight letters and digits: unique among the runs of one machine. (node:crypto costs 10 ms of a start.) */
const newRunId = (): string => Math.random().toString(36).slice(2).padEnd(8, "0").slice(0, 8);

/** Runs scenarios. Throws OomlabError for wrong input. */
export async function run(given: RunOptions, streams: Streams): Promise<RunResult> {
  const options: FullOptions = { ...runDefaults, ...given };
  const { grep, tags } = options;
  // Another kernel than this one is a VM's.
  if (options.kernels.length > 0 && options.machine === "auto") options.machine = "vm";
  if (options.kernels.length > 0 && options.machine !== "vm")
    throw new UsageError(`--kernel is the VM's, and --machine ${options.machine} has its own: leave one out`);
  if (options.node !== undefined && options.machine !== "kubernetes")
    throw new UsageError("--node is a cluster's: give --machine kubernetes with it");
  const found = await loadScenarios(options.paths, {
    ...(tags.length > 0 ? { tags } : {}),
    ...(streams.stdin && options.paths.includes("-") ? { stdin: await streams.stdin() } : {}),
  });
  // A name may be a scenario's, or that of one of its turns.
  const matches = ({ name }: Scenario): boolean => grep === undefined || name.search(grep) >= 0;
  const selected = found.flatMap((scenario) => (matches(scenario) ? [scenario] : turnsOf(scenario).filter(matches)));
  if (options.list) {
    for (const { file, line, name } of selected.filter(inShard(options.shard)))
      streams.stdout.write(`${printable(`${file}:${line}  ${name}`)}\n`);
    return nothingRun(0);
  }
  const info = { version: version(), scenarios: 0, notes: [], missing: [] };
  // Where nothing is run, the reports of the last time stay.
  const outputs = await openReporters(options.reporters, streams, info, {
    inputs: found.map(({ file }) => file),
    ...(options.output === undefined ? {} : { records: options.output }),
    dryRun: options.dryRun,
  });
  const all = [...outputs.reporters];
  if (outputs.filesOnly) all.push(closingLine(streams.stderr));
  const named = options.reporters.some((reporter) => typeof reporter === "string");
  if (options.dryRun && named && all.every((reporter) => reporter.onPlans === undefined))
    all.push(...(await openReporters(["terminal"], streams, info)).reporters);
  try {
    return await runScenarios(selected, options, streams, { info, reporters: all });
  } finally {
    outputs.close();
  }
}

const nothingRun = (exitCode: number): RunResult => ({ exitCode, verdicts: [], summary: summarize([]), plans: [] });

/** How scenarios are told of and kept while they run. */
export interface Telling {
  info: RunInfo;
  reporters: readonly Reporter[];
  /** The file name of a record, and what its first event says of it; `index` counts from 0. Default: `oomlab run`'s. */
  record?: (index: number) => { name: string; point: SweepPoint };
}

type SessionOptions = Omit<FullOptions, "paths" | "reporters" | "grep" | "tags" | "list">;

/** One run of one scenario, or its attempts at it. */
interface Job {
  scenario: Scenario;
  /** The scenario's place among all selected, from 0. */
  place: number;
  /** From 1, over all shards. */
  index: number;
  repeat: number;
  cgroup: FullOptions["cgroup"][number] | undefined;
  kernel: string | undefined;
}

/** Runs what was selected; throws as `run`. */
export async function runScenarios(
  selected: readonly Scenario[],
  options: SessionOptions,
  streams: Streams,
  telling: Telling,
): Promise<RunResult> {
  const { info } = telling;
  const warn = (message: string): void => streams.stderr.write(`oomlab: ${message}\n`);
  const detail = options.verbose ? warn : (): void => undefined;
  const remote = options.dryRun ? null : remoteOf(options, selected, { warn, detail, signal: streams.signal });
  try {
    const session = new Session(options, streams, telling, {
      host: remote ?? hostMachine(),
      vm: vmMachine({ say: warn, detail, snapshots: process.env["OOMLAB_SNAPSHOTS"] !== "off" }),
    });
    await session.probe();
    const every = jobsOf(selected, options);
    const mine = inShard(options.shard);
    const jobs = every.filter(({ scenario, place }) => mine(scenario, place));
    if (options.dryRun) {
      const plans = session.showPlans(jobs);
      return { ...nothingRun(session.isIncomplete ? 3 : 0), plans };
    }
    const records = options.output === undefined ? null : openRecords(options.output);
    info.scenarios = jobs.length;
    session.tell((reporter) => reporter.onRunStart?.(info));
    const verdicts = await session.run(jobs, { records, of: every.length });
    const summary = summarize(verdicts);
    if (verdicts.length < jobs.length) {
      const why = streams.signal.aborted ? "the run was interrupted" : "an earlier one did not pass (-x)";
      const message = `${jobs.length - verdicts.length} of ${jobs.length} scenarios were not run: ${why}`;
      info.notes.push(message);
      info.missing.push(message);
    }
    session.tell((reporter) => reporter.onRunEnd?.(verdicts, summary));
    const done = (exitCode: number): RunResult => ({ exitCode, verdicts, summary, plans: [] });
    if (streams.signal.aborted) return done(130);
    // With more shards than scenarios some have nothing to do.
    const spare = jobs.length === 0 && every.length > 0;
    const status = spare ? 0 : exitStatus(summary, options.failOnSkipped);
    return done(session.isIncomplete && status === 0 ? 3 : status);
  } finally {
    await remote?.close();
  }
}

/** All runs of all shards: each scenario on each kernel and cgroup version, as often as was asked for. */
function jobsOf(selected: readonly Scenario[], { dryRun, kernels, cgroup, repeatEach }: SessionOptions): Job[] {
  const orNone = <T>(choices: T[]): (T | undefined)[] => (choices.length > 0 ? choices : [undefined]);
  // A plan shows all that is pressed in turn; a run is one of them.
  const turned = dryRun ? selected : selected.flatMap(turnsOf);
  return turned
    .flatMap((scenario, place) =>
      orNone(kernels).flatMap((kernel) =>
        orNone(cgroup).flatMap((version) =>
          Array.from({ length: repeatEach }, (_, at) => ({ scenario, place, cgroup: version, kernel, repeat: at + 1 })),
        ),
      ),
    )
    .map((job, at) => ({ ...job, index: at + 1 }));
}

/** The machine that is reached through a client, or null: this one. */
function remoteOf(
  { machine, node }: Pick<FullOptions, "machine" | "node">,
  selected: readonly Scenario[],
  { warn, detail, signal }: Pick<KubernetesOptions, "warn" | "detail" | "signal">,
): RemoteMachine | null {
  if (machine === "container") return containerMachine(scenarioFolders(selected.map(({ file }) => file)), detail);
  return machine === "kubernetes" ? kubernetesMachine({ node: node ?? null, warn, detail, signal }) : null;
}

/** One `oomlab run`: what its runs share. */
class Session {
  readonly #id = newRunId();
  readonly #options: SessionOptions;
  readonly #streams: Streams;
  readonly #reporters: Reporter[];
  readonly #recordOf: NonNullable<Telling["record"]> | null;
  readonly #host: Machine;
  readonly #vm: VmMachine;
  /** As found at the start. */
  #caps: Capabilities | null = null;
  /** Why the machine behind a client does not answer: all that would run there is skipped. */
  #unreachable: string | null = null;
  /** Memory that the runs of this moment will take, in bytes. */
  #reserved = 0;
  #stopped = false;
  /** A report or a record could not be written whole. */
  #lost = false;

  constructor(
    options: SessionOptions,
    streams: Streams,
    { reporters, record }: Telling,
    { host, vm }: { host: Machine; vm: VmMachine },
  ) {
    this.#options = options;
    this.#streams = streams;
    this.#reporters = [...reporters, ...(options.verbose ? [narrator(streams.stderr)] : [])];
    this.#recordOf = record ?? null;
    this.#host = host;
    this.#vm = vm;
  }

  get isIncomplete(): boolean {
    return this.#lost;
  }

  tell(call: (reporter: Reporter) => void): void {
    announce(this.#reporters, this.#lose, call);
  }

  /** Looks at the machine. Throws where this one cannot be looked at. */
  async probe(): Promise<void> {
    this.#caps = await this.#host.probe().catch((error: unknown) => {
      const remote = this.#options.machine === "container" || this.#options.machine === "kubernetes";
      if (!remote || !(error instanceof MachineError)) throw error;
      this.#unreachable = inWords(error);
      return hostMachine().probe();
    });
  }

  showPlans(jobs: readonly Job[]): Plan[] {
    const plans = jobs.map((job) => this.#plan(job, this.#found));
    this.tell((reporter) => reporter.onPlans?.(plans));
    return plans;
  }

  /** Runs `--jobs` at a time; the verdicts of those that were run, in the order of the jobs. */
  async run(jobs: readonly Job[], to: { records: RecordFolder | null; of: number }): Promise<Verdict[]> {
    const verdicts: (Verdict | undefined)[] = jobs.map(() => undefined);
    // Before anything runs: package managers are children that a host's run might take for orphans of its own.
    const lacks = await this.#lacks(jobs);
    let next = 0;
    const lane = async (): Promise<void> => {
      while (!this.#stopped && !this.#streams.signal.aborted) {
        const at = next++;
        const job = jobs[at];
        if (job === undefined) return;
        verdicts[at] = await this.#runJob(job, at, lacks.get(job) ?? null, to);
      }
    };
    await Promise.all(Array.from({ length: Math.min(this.#options.jobs, jobs.length) }, lane));
    return verdicts.filter((verdict) => verdict !== undefined);
  }

  readonly #warn = (message: string): void => this.#streams.stderr.write(`oomlab: ${message}\n`);

  readonly #lose = (message: string): void => {
    this.#lost = true;
    this.#warn(message);
  };

  get #found(): Capabilities {
    if (this.#caps === null) throw new TypeError("a session probes before it plans");
    return this.#caps;
  }

  #plan({ scenario, cgroup, kernel }: Job, now: Capabilities): Plan {
    const { machine, allowHostOom, allowNodeOom, timeoutMs } = this.#options;
    const planned = planScenario(scenario, now, {
      runId: newRunId(),
      machine,
      allowHostOom: machine === "kubernetes" ? allowNodeOom : allowHostOom,
      ...(cgroup === undefined ? {} : cgroup === "hybrid" ? { hybrid: true } : { cgroupVersion: cgroup }),
      ...(kernel === undefined ? {} : { kernel }),
      ...(timeoutMs === undefined ? {} : { timeoutMs }),
    });
    return this.#unreachable === null ? planned : { ...planned, skip: this.#unreachable };
  }

  /** Makes ready what VMs are made of; why those of some jobs cannot be made here, in words. */
  async #lacks(jobs: readonly Job[]): Promise<Map<Job, string>> {
    const lacks = new Map<Job, string>();
    for (const job of jobs) {
      const planned = this.#plan(job, this.#found);
      if (planned.skip !== null || planned.machine !== "vm" || this.#streams.signal.aborted) continue;
      const reason = await lacking(this.#vm, planned);
      if (reason === null) continue;
      const host =
        this.#options.machine === "auto"
          ? planScenario(job.scenario, this.#found, { runId: "", machine: "host" }).skip
          : null;
      lacks.set(job, host === null ? reason : `${host}; ${reason}`);
    }
    return lacks;
  }

  /** One scenario, tried again where that was asked for. `at`: its place among the jobs. */
  async #runJob(
    job: Job,
    at: number,
    lack: string | null,
    { records, of }: { records: RecordFolder | null; of: number },
  ): Promise<Verdict> {
    const { retries, bail, shard } = this.#options;
    const { signal } = this.#streams;
    const earlier: Verdict[] = [];
    for (let attempt = 1; ; attempt++) {
      const first = at === 0 && attempt === 1;
      const now = first || this.#unreachable !== null ? this.#found : await this.#host.probe();
      const plan = this.#plan(job, { ...now, memAvailable: now.memAvailable - this.#reserved });
      if (plan.machine === "vm" && plan.skip === null) plan.skip = lack;
      const selection = { session: this.#id, index: job.index, of, shard: shard ?? null, repeat: job.repeat, attempt };
      this.#reserved += plan.demand ?? 0;
      let record: RunEvent[];
      try {
        record = await this.#attempt(plan, now, selection, records, this.#recordOf?.(at));
      } finally {
        this.#reserved -= plan.demand ?? 0;
      }
      const verdict = judge(record);
      const { name, status, reason } = verdict;
      if (status !== "passed" && status !== "skipped" && attempt <= retries && !signal.aborted) {
        this.#warn(`${name}: ${status} (${reason ?? ""}), tried again (${attempt} of ${retries})`);
        earlier.push(verdict);
        continue;
      }
      noteAttempts(verdict, earlier.length);
      this.tell((reporter) => reporter.onScenarioEnd?.({ verdict, plan, record, earlier }));
      if (bail && status !== "passed" && status !== "skipped") this.#stopped = true;
      return verdict;
    }
  }

  /** Runs one plan; its record, which is written as it happens. */
  async #attempt(
    plan: Plan,
    caps: Capabilities,
    selection: Selection,
    records: RecordFolder | null,
    as: { name: string; point: SweepPoint } | undefined,
  ): Promise<RunEvent[]> {
    this.tell((reporter) => reporter.onScenarioStart?.(plan));
    const events: RunEvent[] = [];
    const began = process.hrtime.bigint();
    const file = records?.open(plan, selection, as?.name) ?? null;
    let lost = false;
    const emit = (body: RunEventBody): void => {
      const event: RunEvent = {
        line: events.length + 1,
        t: Number((process.hrtime.bigint() - began) / 1000n),
        ...body,
      };
      events.push(event);
      if (file && !lost) {
        try {
          file.write(event);
        } catch (error) {
          lost = true;
          this.#lose(`the record ${file.path} is incomplete: ${(error as Error).message}`);
        }
      }
      this.tell((reporter) => reporter.onEvent?.(plan, event));
    };
    try {
      emit({
        type: "run",
        schemaVersion: recordSchemaVersion,
        oomlab: version(),
        record: plan.top.name,
        startedAt: new Date().toISOString(),
        plan,
        // A guest tells its own once it is up.
        capabilities: plan.machine === "vm" ? null : caps,
        selection,
        ...(as === undefined ? {} : { point: as.point }),
      });
      // A record of what is skipped is its first event.
      if (plan.skip === null) {
        if (plan.machine === "vm") await this.#vm.run(plan, emit, this.#streams.signal);
        else await this.#host.run(plan, caps, emit, this.#streams.signal);
      }
    } finally {
      file?.close();
      this.tell((reporter) => reporter.onAttemptEnd?.(plan));
    }
    return events;
  }
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

/** Whether a scenario is in a part: the i-th of n takes each n-th. */
const inShard =
  (part: { index: number; of: number } | undefined) =>
  (_: unknown, place: number): boolean =>
    !part || place % part.of === part.index - 1;
