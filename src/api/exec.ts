/** `oomlab exec`: one command under a limit, with its caller's streams; how it ended is passed on, and said in a line. */
import { accessSync, constants, readFileSync, statSync } from "node:fs";
import { constants as osConstants } from "node:os";
import { delimiter, join } from "node:path";
import { MachineError } from "../errors.ts";
import { forwardSignals, hostMachine, startGuard } from "../machine/index.ts";
import { hierarchyOf, type Plan, planScenario } from "../plan.ts";
import { recordSchemaVersion, type RunEvent, type RunEventBody } from "../record.ts";
import type { Cause } from "../cause/index.ts";
import type { Scenario } from "../scenario/types.ts";
import { formatBytes } from "../units.ts";
import { type Streams, version } from "./streams.ts";

export interface ExecOptions {
  command: string[];
  /** Sizes in bytes; absent: no limit. */
  memory?: number;
  swap?: number;
  high?: number;
  pids?: number;
  /** The limits are on the command's own cgroup, or on the one above it, as a Pod's or a slice's. */
  limitOn: "self" | "parent";
  timeoutMs?: number;
  /** `name` or `name=file`; none: no report. */
  reporters: string[];
  /** Folder for the record. */
  output?: string;
  quiet: boolean;
}

/** Statuses of oomlab's own, as docker and env have them. */
const failed = 125;
const notExecutable = 126;
const notFound = 127;

/** setTimeout takes no more: 24 days. */
const forever = 2 ** 31 - 1;

/** Runs the command; resolves to its exit status: 128 + N where signal N ended it. */
export async function exec(options: ExecOptions, streams: Streams): Promise<number> {
  const { command, quiet } = options;
  const problem = programProblem(command[0] ?? "");
  if (problem !== null) {
    streams.stderr.write(`oomlab: ${problem.message}\n`);
    return problem.status;
  }
  const host = hostMachine();
  const caps = await host.probe();
  const runId = Math.random().toString(36).slice(2).padEnd(8, "0").slice(0, 8);
  const planned = planScenario(scenarioOf(options), caps, {
    runId,
    machine: "host",
    allowHostOom: true,
    timeoutMs: options.timeoutMs ?? forever,
  });
  if (planned.skip !== null)
    throw new MachineError("EXEC", `cannot run ${command[0]} under its limits: ${planned.skip}`);
  // On v1 the pids controller has a hierarchy of its own.
  if (options.pids !== undefined && planned.cgroupVersion === 1)
    throw new MachineError("EXEC", "--pids needs cgroup v2, and this machine's memory controller is on v1");
  const rlimits = ownRlimits();
  const plan: Plan = {
    ...planned,
    processes: planned.processes.map((process) => ({ ...process, argv: command, rlimits, inherits: true })),
  };
  const outputs =
    options.reporters.length + (options.output === undefined ? 0 : 1) === 0
      ? null
      : await openAll(options, plan, streams);
  const events: RunEvent[] = [];
  const began = process.hrtime.bigint();
  let status: number | null = null;
  const signals = forwardSignals();
  const emit = (body: RunEventBody): void => {
    if (body.type === "phase" && body.phase === "collect") startGuard(directoryOf(plan, caps), plan.top.name);
    if (body.type === "process-start") signals.to(body.pid);
    if (body.type === "process-exit") {
      status = body.code ?? 128 + (osConstants.signals[body.signal as NodeJS.Signals] ?? 0);
      signals.to(null);
    }
    // A command may run for days: what only a record or a report needs is not kept without one.
    if (outputs === null && isBulk(body)) return;
    const t = Number((process.hrtime.bigint() - began) / 1000n);
    const event: RunEvent = { line: events.length + 1, t, ...body };
    events.push(event);
    outputs?.write(event);
  };
  emit({
    type: "run",
    schemaVersion: recordSchemaVersion,
    oomlab: version(),
    record: plan.top.name,
    startedAt: new Date().toISOString(),
    plan,
    capabilities: caps,
  });
  try {
    await host.run(plan, caps, emit, new AbortController().signal);
  } finally {
    signals.close();
  }
  const error = events.find((event) => event.type === "error");
  if (error) streams.stderr.write(`oomlab: ${error.message}\n${error.hint === null ? "" : `  ${error.hint}\n`}`);
  if (status === null) {
    outputs?.close(null);
    return error?.code === "SPAWN" ? spawnStatus(error.message) : failed;
  }
  if (status === 0 && outputs === null && !mayHaveKilled(events)) return status;
  const { judge } = await import("../verdict.ts");
  const verdict = judge(events);
  outputs?.close({ verdict, events });
  const cause = verdict.observed?.processes[processName]?.cause;
  if (!quiet && cause && isWorthSaying(cause, status)) streams.stderr.write(`oomlab: ${sentenceOf(cause, command)}\n`);
  return status;
}

const processName = "command";

const noNeeds: Scenario["machine"] = {
  memory: null,
  swap: null,
  cpus: null,
  numa: null,
  kernel: null,
  cgroup: null,
  sysctl: {},
  thp: null,
  zswap: null,
  mountOptions: [],
  available: null,
};

const nothingExpected: Scenario["expect"] = {
  oom: null,
  limit: null,
  victims: null,
  survivors: null,
  exit: [],
  counters: [],
  log: [],
  trigger: null,
  panic: null,
  withinMs: null,
  where: {},
};

/** The scenario that a command and its limits are. */
function scenarioOf({ command, memory, swap, high, pids, limitOn }: ExecOptions): Scenario {
  const place = { line: 1, column: 1 };
  const size = (file: string, bytes: number | undefined): Scenario["cgroups"][number]["files"] =>
    bytes === undefined ? [] : [{ ...place, file, value: String(bytes), raw: formatBytes(bytes) }];
  const files = [
    ...size("memory.max", memory),
    ...size("memory.swap.max", swap),
    ...size("memory.high", high),
    ...(pids === undefined ? [] : [{ ...place, file: "pids.max", value: String(pids), raw: String(pids) }]),
  ];
  const cgroup = limitOn === "parent" ? "limit/command" : "command";
  return {
    name: command.join(" ").slice(0, 200),
    file: "-",
    line: 1,
    tags: [],
    machine: noNeeds,
    cgroups: [
      { ...place, name: cgroup.split("/")[0] ?? cgroup, files },
      ...(limitOn === "parent" ? [{ ...place, name: cgroup, files: [] }] : []),
    ],
    processes: [
      {
        ...place,
        name: processName,
        cgroup,
        workload: { kind: "command", command, shell: false, env: {}, cwd: null },
        oomScoreAdj: null,
        user: null,
        cpus: null,
        mempolicy: null,
        rlimits: [],
        start: "auto",
      },
    ],
    steps: [],
    expect: nothingExpected,
    timeoutMs: null,
  };
}

/** The memory limits of this process that the command inherits, as setrlimit(2) set them. */
function ownRlimits(): Plan["processes"][number]["rlimits"] {
  const limits = readFileSync("/proc/self/limits", "latin1");
  const soft = (name: string): number => Number(new RegExp(`^Max ${name} +(\\d+) `, "m").exec(limits)?.[1] ?? -1);
  return [
    { resource: "AS", value: soft("address space") },
    { resource: "DATA", value: soft("data size") },
  ].filter(({ value }) => value >= 0);
}

/** Why a program cannot be started, as execvp(3) would find it; null: it can. */
function programProblem(name: string): { status: number; message: string } | null {
  const candidates = name.includes("/")
    ? [name]
    : (process.env["PATH"] ?? "/usr/local/bin:/usr/bin:/bin").split(delimiter).map((folder) => join(folder, name));
  const found = candidates.filter((path) => statSync(path, { throwIfNoEntry: false })?.isFile() === true);
  if (found.some(isExecutable)) return null;
  const folder = candidates.find((path) => statSync(path, { throwIfNoEntry: false })?.isDirectory() === true);
  if (found.length > 0) return { status: notExecutable, message: `${name}: permission denied` };
  if (folder !== undefined && name.includes("/")) return { status: notExecutable, message: `${name}: is a directory` };
  return { status: notFound, message: `${name}: command not found` };
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

const spawnStatus = (message: string): number =>
  /: (?:EACCES|ENOEXEC|EPERM|ELIBBAD)$/.test(message)
    ? notExecutable
    : message.endsWith(": ENOENT")
      ? notFound
      : failed;

/** The run's own cgroup. */
function directoryOf({ top, cgroupVersion }: Plan, caps: Parameters<typeof hierarchyOf>[0]): string {
  return join(hierarchyOf(caps, cgroupVersion)?.directory ?? "", top.scope ?? "", top.name);
}

const isBulk = (event: RunEventBody): boolean =>
  (event.type === "counters" && event.moment === "sample") ||
  (event.type === "kmsg" && event.facility !== 0) ||
  (event.type === "trace-signal" && event.signal === "SIGTERM" && event.result !== 0);

/** A command that ended well may have lost a child. */
const mayHaveKilled = (events: readonly RunEvent[]): boolean =>
  events.some((event) => event.type === "oom-event" || (event.type === "kmsg" && /Killed process/.test(event.text)));

/** Whether the line says more than the status does: somebody killed it, or it gave up for memory. */
function isWorthSaying({ cause, by, kill }: Cause, status: number): boolean {
  switch (cause) {
    case "exit":
      return kill !== null;
    case "signal":
      // Ctrl-C, an abort of its own, and what we passed on need no words.
      return by !== null && by.pid !== process.pid && (status === 137 || status === 143);
    case "unknown":
      return status === 137;
    default:
      return true;
  }
}

/** In the words of who typed the command. */
const sentenceOf = ({ sentence }: Cause, command: readonly string[]): string =>
  sentence.replace(/^command /, `${command[0]} `);

/** The record's file and the reports. */
async function openAll(
  options: ExecOptions,
  plan: Plan,
  streams: Streams,
): Promise<{
  write(event: RunEvent): void;
  close(judged: { verdict: import("../verdict.ts").Verdict; events: RunEvent[] } | null): void;
}> {
  const [{ openReporters }, { openRecords }, { announce, summarize }] = await Promise.all([
    import("./reporters.ts"),
    import("./records.ts"),
    import("../report/index.ts"),
  ]);
  const info = { version: version(), scenarios: 1, notes: [], missing: [] };
  const records = options.output === undefined ? {} : { records: options.output };
  const opened = options.reporters.length === 0 ? null : await openReporters(options.reporters, streams, info, records);
  const reporters = opened?.reporters ?? [];
  const lose = (message: string): void => streams.stderr.write(`oomlab: ${message}\n`);
  const selection = { session: plan.top.name, index: 1, of: 1, shard: null, repeat: 1, attempt: 1 };
  const file = options.output === undefined ? null : openRecords(options.output).open(plan, selection);
  announce(reporters, lose, (reporter) => reporter.onRunStart?.(info));
  announce(reporters, lose, (reporter) => reporter.onScenarioStart?.(plan));
  return {
    write(event) {
      try {
        file?.write(event);
      } catch (error) {
        lose(`the record ${file?.path} is incomplete: ${(error as Error).message}`);
      }
      announce(reporters, lose, (reporter) => reporter.onEvent?.(plan, event));
    },
    close(judged) {
      file?.close();
      announce(reporters, lose, (reporter) => reporter.onAttemptEnd?.(plan));
      if (judged) {
        const { verdict, events } = judged;
        announce(reporters, lose, (reporter) =>
          reporter.onScenarioEnd?.({ verdict, plan, record: events, earlier: [] }),
        );
        announce(reporters, lose, (reporter) => reporter.onRunEnd?.([verdict], summarize([verdict])));
      }
      opened?.close();
    },
  };
}
