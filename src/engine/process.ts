/** The processes of a run: started straight inside their cgroup, watched until they are reaped. */
import { accessSync, closeSync, constants, existsSync, readSync, statSync, writeSync } from "node:fs";
import { constants as osConstants } from "node:os";
import { delimiter, isAbsolute, join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Placement } from "../cgroup/index.ts";
import { MachineError } from "../errors.ts";
import { type Addon, type ExitInfo, type PollHandle, stressPath } from "../native.ts";
import type { PlannedProcess } from "../plan.ts";
import type { WorkerReport } from "../record.ts";
import { inheritedStreams } from "./inherit.ts";

const signals = osConstants.signals as Record<string, number>;
// Aliases (SIGIOT, SIGPOLL) come last in the table; the first name is the usual one.
const signalNames = new Map(
  Object.entries(signals)
    .toReversed()
    .map(([name, number]) => [number, name]),
);

export const signalName = (number: number): string => signalNames.get(number) ?? `SIG${number}`;

/** A signal's number by its name; undefined for none. */
export const signalNumber = (name: string): number | undefined => signals[name];

/** How much of a process's output is kept, in characters: what it began with, told as it comes, and its last words. */
const outputLimit = 16_384;
const lastWords = 4096;

export interface ProcessHandlers {
  report(report: WorkerReport): void;
  output(text: string): void;
  exit(exit: ExitInfo): void;
}

export interface RunningProcess {
  readonly pid: number;
  /** Sends a signal; false when it has already been reaped. */
  signal(number: number): boolean;
  /** Lets a worker that has touched all its memory go on. */
  goOn(): void;
  /** Lets a worker that holds its memory `forever` end. */
  release(): void;
}

/** Finds a program as execvp(3) would. */
export function findProgram(name: string, cwd: string): string {
  if (isAbsolute(name)) return name;
  if (name.includes("/")) return join(cwd, name);
  for (const directory of (process.env["PATH"] ?? "/usr/local/bin:/usr/bin:/bin").split(delimiter)) {
    const path = join(directory, name);
    try {
      accessSync(path, constants.X_OK);
      if (statSync(path).isFile()) return path;
    } catch {
      continue;
    }
  }
  throw new MachineError("PROGRAM_MISSING", `the program ${JSON.stringify(name)} is not in PATH`, {
    hint: "install it, or name it by its path (relative to the scenario file)",
  });
}

/** Path of the program of the `node` workload. */
function workloadPath(): string {
  const path = [
    new URL("../workload.cjs", import.meta.url),
    new URL("./workload.cjs", import.meta.url),
    new URL("../../dist/workload.cjs", import.meta.url),
  ]
    .map((url) => fileURLToPath(url))
    .find((file) => existsSync(file));
  if (path === undefined)
    throw new MachineError("NOT_BUILT", "the program of the node workload is not built", {
      hint: "run `npm run setup` in the oomlab folder",
    });
  return path;
}

/** Commands get the run's unique name in OOMLAB_RUN, for files of their own. */
function commandLine(
  plan: PlannedProcess,
  cwd: string,
  run: string,
): { file: string; args: string[]; env: Record<string, string | undefined> } {
  if (plan.program === "stress")
    return { file: stressPath(), args: ["stress", ...plan.argv, "--report-fd", "3", "--sync-fd", "4"], env: {} };
  if (plan.program === "node")
    return {
      file: process.execPath,
      args: ["node", workloadPath(), ...plan.argv],
      env: { ...process.env, ...plan.env },
    };
  const [name, ...args] = plan.argv;
  if (plan.inherits) return { file: findProgram(name ?? "", cwd), args: [name ?? "", ...args], env: process.env };
  return {
    file: findProgram(name ?? "", cwd),
    args: [name ?? "", ...args],
    env: { ...process.env, OOMLAB_RUN: run, ...plan.env },
  };
}

const pairs = (env: Record<string, string | undefined>): string[] =>
  Object.entries(env).flatMap(([key, value]) => (value === undefined ? [] : [`${key}=${value}`]));

/** A child of a protected harness would be spared by the OOM killer too. */
const scoreOf = ({ oomScoreAdj }: PlannedProcess, own: number): { oomScoreAdj?: number } =>
  oomScoreAdj !== null ? { oomScoreAdj } : own < 0 ? { oomScoreAdj: 0 } : {};

/** A process that has this process's streams; of what it writes to standard error the last words are kept. */
function startInherited(
  addon: Addon,
  {
    plan,
    placement,
    where,
    ownOomScoreAdj,
  }: {
    plan: PlannedProcess;
    placement: Placement;
    where: { cwd: string; run: string };
    ownOomScoreAdj: number;
  },
  handlers: ProcessHandlers,
): RunningProcess {
  const { file, args, env } = commandLine(plan, where.cwd, where.run);
  const streams = inheritedStreams(addon);
  let child;
  try {
    child = addon.spawn({
      file,
      args,
      env: pairs(env),
      cwd: where.cwd,
      ...placement,
      ...scoreOf(plan, ownOomScoreAdj),
      stdio: streams.stdio,
      pdeathsig: signals["SIGKILL"] ?? 9,
    });
  } catch (error) {
    void streams.end();
    throw error;
  }
  const started = child;
  streams.started();
  addon.onExit(started, (exit) => {
    void streams.end().then((words) => {
      if (words !== "") handlers.output(words);
      handlers.exit(exit);
    });
  });
  return {
    pid: started.pid,
    signal: (number) => addon.signal(started, number),
    goOn: () => undefined,
    release: () => undefined,
  };
}

/** Starts a planned process in its cgroup. Throws SystemCallError where the kernel refuses, MachineError where a program is missing. */
export function startProcess(
  addon: Addon,
  plan: PlannedProcess,
  placement: Placement,
  where: { cwd: string; run: string },
  ownOomScoreAdj: number,
  handlers: ProcessHandlers,
): RunningProcess {
  const open: number[] = [];
  const polls: PollHandle[] = [];
  const shut = (fd: number): void => {
    const at = open.indexOf(fd);
    if (at < 0) return;
    open.splice(at, 1);
    closeSync(fd);
  };
  if (plan.inherits) return startInherited(addon, { plan, placement, where, ownOomScoreAdj }, handlers);
  try {
    const reports = plan.program !== "command";
    const [outputRead, outputWrite] = addon.pipe();
    open.push(outputRead, outputWrite);
    const stdio = [-1, outputWrite, outputWrite];
    let reportRead = -1;
    let sync = -1;
    if (reports) {
      const [read, write] = addon.pipe();
      const [ours, theirs] = addon.socketpair();
      open.push(read, write, ours, theirs);
      stdio.push(write, theirs);
      [reportRead, sync] = [read, ours];
    }
    const { file, args, env } = commandLine(plan, where.cwd, where.run);
    const child = addon.spawn({
      file,
      args,
      env: pairs(env),
      cwd: where.cwd,
      ...placement,
      ...scoreOf(plan, ownOomScoreAdj),
      ...(plan.rlimits.length > 0 ? { rlimits: plan.rlimits } : {}),
      ...(plan.mempolicy ? { mempolicy: plan.mempolicy } : {}),
      ...(plan.cpus ? { cpus: plan.cpus } : {}),
      ...(plan.user ? { uid: plan.user.uid, gid: plan.user.gid } : {}),
      stdio,
      setsid: true,
      pdeathsig: signals["SIGKILL"] ?? 9,
    });
    for (const fd of new Set(stdio)) if (fd >= 0) shut(fd);

    let kept = 0;
    let last = "";
    let left = 0;
    const readOutput = (): void => {
      const text = readAvailable(outputRead);
      if (text === "") return;
      const first = text.slice(0, Math.max(0, outputLimit - kept));
      kept += first.length;
      if (first !== "") handlers.output(first);
      left += text.length - first.length;
      last = (last + text.slice(first.length)).slice(-lastWords);
    };
    let rest = "";
    const readReports = (): void => {
      const lines = (rest + readAvailable(reportRead)).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) handlers.report(JSON.parse(line) as WorkerReport);
    };
    if (plan.program !== "stress") polls.push(addon.poll(outputRead, "readable", readOutput));
    if (reports) polls.push(addon.poll(reportRead, "readable", readReports));
    addon.onExit(child, (exit) => {
      for (const poll of polls) poll.close();
      if (reports) readReports();
      readOutput();
      if (left > 0)
        handlers.output(
          left === last.length ? last : `\n... ${left - last.length} characters are left out ...\n${last}`,
        );
      for (const fd of open.splice(0)) closeSync(fd);
      handlers.exit(exit);
    });
    return {
      pid: child.pid,
      signal: (number) => addon.signal(child, number),
      goOn: () => {
        if (!open.includes(sync)) return;
        try {
          writeSync(sync, "\n");
        } catch (error) {
          if ((error as NodeJS.ErrnoException).code !== "EPIPE") throw error;
        }
      },
      release: () => shut(sync),
    };
  } catch (error) {
    for (const poll of polls) poll.close();
    for (const fd of open.splice(0)) closeSync(fd);
    throw error;
  }
}

const chunk = Buffer.allocUnsafe(65_536);

/** What a non-blocking descriptor has now. */
export function readAvailable(fd: number): string {
  let text = "";
  // Not without end: what writes faster than it is read would keep all else waiting.
  for (let reads = 0; reads < 16; reads++) {
    let size: number;
    try {
      size = readSync(fd, chunk, 0, chunk.length, null);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "EAGAIN") return text;
      throw error;
    }
    if (size === 0) return text;
    text += chunk.toString("utf8", 0, size);
    if (size < chunk.length) return text;
  }
  return text;
}
