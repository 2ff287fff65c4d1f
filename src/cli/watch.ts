/** `oomlab watch`: tells OOM kills on this machine as they happen. Runs for months: no state grows. */
import { spawn } from "node:child_process";
import { setFlagsFromString } from "node:v8";
import type { Streams } from "../api.ts";
import { openOutputs } from "../api/outputs.ts";
import { MachineError, UsageError } from "../errors.ts";
import { cgroupOwner, createOomScanner, type OomKill, ownerWords } from "../kmsg/index.ts";
import { printable } from "../printable.ts";
import { announce } from "../report/index.ts";
import { openKernelLog, openTrace, type Trace, type TraceEvent } from "../machine/index.ts";
import { loadAddon } from "../native.ts";
import { formatBytes } from "../units.ts";
import { sendToJournal, writesToJournal } from "./journal.ts";

/** Latency against wake-ups: a kill is told at most this much later. */
const everyMs = 100;

export async function watch(
  flags: { reporter: string[]; since: string; exec?: string; signals?: boolean },
  streams: Streams,
): Promise<number> {
  // Little is kept of what is read: months under the same few megabytes.
  setFlagsFromString("--semi-space-growth-factor=1");
  const command = flags.exec === undefined ? null : argv(flags.exec);
  const scanner = createOomScanner();
  const { outputs, close } = openOutputs(flags.reporter, ["terminal", "ndjson"], streams);
  let log;
  try {
    log = openKernelLog(loadAddon(), flags.since === "boot" ? "boot" : "now");
  } catch (error) {
    close();
    if (error instanceof MachineError) throw error;
    throw new MachineError("KMSG", `the kernel log /dev/kmsg cannot be read: ${(error as Error).message}`, {
      cause: error,
      hint: "run oomlab as root (a container: with --privileged)",
    });
  }
  const trace = flags.signals ? await traced().catch((error: unknown) => (log.close(), Promise.reject(error))) : null;
  const toJournal = writesToJournal();
  let lost = false;
  const lose = (message: string): void => {
    lost = true;
    streams.stderr.write(`oomlab: ${message}\n`);
  };
  const tell = (kill: OomKill): void => {
    const told = json(kill);
    announce(outputs, lose, ({ name, output }) => {
      if (name === "ndjson") output.write(`${JSON.stringify(told)}\n`);
      else if (toJournal && output === streams.stdout) sendToJournal(journalFields(kill, told));
      else output.write(`${words(kill)}\n`);
    });
    if (command !== null) run(command, told, streams);
  };
  try {
    // A file holds the kills of this watch alone, from the start on.
    announce(outputs, lose, ({ output }) => output !== streams.stdout && output.write(""));
    const printsRecords = outputs.some(({ name, output }) => name === "ndjson" && output === streams.stdout);
    let first = true;
    while (!streams.signal.aborted && streams.stdout.broken !== true) {
      for (const event of log.drain()) {
        if (event.type === "kmsg-lost") {
          streams.stderr.write(
            "oomlab: kernel log records were lost: the ring overran; kills in between may be missing\n",
          );
        } else if (event.type === "kmsg") {
          for (const kill of scanner.push({ ...event, line: event.seq ?? 0 })) tell(kill);
        }
      }
      for (const { text, json } of trace ? killWords(trace.drain(), streams) : [])
        announce(outputs, lose, ({ name, output }) => output.write(name === "ndjson" ? json : text));
      if (first && !printsRecords) streams.stderr.write("oomlab: watching /dev/kmsg, Ctrl-C ends it\n");
      first = false;
      await pause(streams.signal);
    }
    // `systemctl stop` ends a service that has done its work.
    if (streams.signal.aborted && streams.signal.reason !== "SIGTERM") return 130;
    return lost ? 3 : 0;
  } finally {
    close();
    log.close();
    await trace?.close();
  }
}

async function traced(): Promise<Trace> {
  try {
    return await openTrace(loadAddon(), `oomlab-watch${process.pid}`);
  } catch (error) {
    throw new MachineError("TRACE", `--signals: signals cannot be traced: ${(error as Error).message}`, {
      cause: error,
      hint: "run oomlab as root, on a kernel with tracefs",
    });
  }
}

/** Each SIGKILL that was delivered, with its sender. */
function killWords(events: readonly TraceEvent[], { stderr }: Streams): { text: string; json: string }[] {
  const victims = new Set(events.flatMap((event) => (event.type === "trace-victim" ? [event.pid] : [])));
  return events.flatMap((event) => {
    if (event.type === "trace-lost")
      stderr.write(`oomlab: ${event.events} traced signals were lost: the buffer overran\n`);
    if (event.type !== "trace-signal" || event.signal !== "SIGKILL" || event.result !== 0) return [];
    const { timeUs, signal, pid, comm, sender } = event;
    const isKernels = event.code === 128;
    const isOom = isKernels && victims.has(pid);
    const by = isKernels
      ? { kind: isOom ? "oom-killer" : "kernel", pid: null, comm: null, unit: null }
      : { kind: "process", ...sender };
    const from = isKernels
      ? `the kernel${isOom ? "'s OOM killer" : ""}`
      : `pid ${sender.pid} (${printable(sender.comm ?? "unknown name")})${sender.unit === null ? "" : ` of ${printable(sender.unit)}`}`;
    return [
      {
        text: `[${(timeUs / 1e6).toFixed(6).padStart(12)}] ${signal} to pid ${pid} (${printable(comm ?? "unknown name")}) from ${from}\n`,
        json: `${JSON.stringify({ at: new Date().toISOString(), signal, pid, comm, by, timeUs })}\n`,
      },
    ];
  });
}

function pause(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const wake = (): void => {
      clearTimeout(timer);
      signal.removeEventListener("abort", wake);
      resolve();
    };
    const timer = setTimeout(wake, everyMs);
    signal.addEventListener("abort", wake);
  });
}

function json({
  kind,
  constraint,
  trigger,
  oomMemcg,
  taskMemcg,
  group,
  victim,
  seq,
  timeUs,
  missing,
}: OomKill): object {
  return {
    at: new Date().toISOString(),
    kind,
    constraint,
    trigger,
    oomMemcg,
    taskMemcg,
    group,
    victim,
    owner: taskMemcg === null ? null : cgroupOwner(taskMemcg),
    seq,
    timeUs,
    missing,
  };
}

/** Of all entries about an OOM kill: `journalctl MESSAGE_ID=...` lists them. */
const killMessageId = "5a4f6d0c8e2b4c6f9d3a7b1e0f2c4d68";

/** docs/watch.md lists them. Sizes in bytes. */
function journalFields(kill: OomKill, told: object): Record<string, string | number | null> {
  const { kind, oomMemcg, taskMemcg, victim } = kill;
  return {
    MESSAGE: words(kill),
    MESSAGE_ID: killMessageId,
    PRIORITY: 4,
    SYSLOG_IDENTIFIER: "oomlab",
    OOMLAB_KIND: kind,
    OOMLAB_PID: victim.pid,
    OOMLAB_COMM: victim.comm,
    OOMLAB_LIMIT: oomMemcg,
    OOMLAB_CGROUP: taskMemcg,
    OOMLAB_ANON_RSS: victim.anonRss,
    OOMLAB_KILL: JSON.stringify(told),
  };
}

function words({ kind, oomMemcg, taskMemcg, victim, timeUs }: OomKill): string {
  const owner = taskMemcg === null ? null : ownerWords(cgroupOwner(taskMemcg));
  const parts = [
    `${timeUs === null ? "" : `[${(timeUs / 1e6).toFixed(6).padStart(12)}] `}${kind} OOM kill of pid ${victim.pid} (${printable(victim.comm)})`,
    victim.anonRss === null ? null : `anon-rss ${formatBytes(victim.anonRss)}`,
    owner === null ? null : printable(owner),
    taskMemcg === null ? null : `in ${printable(taskMemcg)}`,
    oomMemcg === null || oomMemcg === taskMemcg ? null : `for the limit of ${printable(oomMemcg)}`,
  ];
  return parts.filter((part) => part !== null).join(", ");
}

/** A program and its arguments, parted by blanks; quotes and backslashes keep blanks. No shell has a part in it. */
function argv(command: string): string[] {
  const words: string[] = [];
  let word: string | null = null;
  let quote = "";
  for (let i = 0; i < command.length; i++) {
    const char = command[i]!;
    if (quote !== "" && char === quote) quote = "";
    else if (char === "\\" && quote !== "'" && i + 1 < command.length) word = (word ?? "") + command[++i]!;
    else if (quote !== "") word = (word ?? "") + char;
    else if (char === "'" || char === '"') [quote, word] = [char, word ?? ""];
    else if (/\s/.test(char)) {
      if (word !== null) words.push(word);
      word = null;
    } else word = (word ?? "") + char;
  }
  if (quote !== "") throw new UsageError(`--exec ${command}: the quotation mark ${quote} is not closed`);
  if (word !== null) words.push(word);
  if (words.length === 0) throw new UsageError("--exec: names no program");
  return words;
}

/** What it says goes where ours goes. A program that cannot start is told, not fatal. */
function run([program = "", ...args]: string[], kill: object, streams: Streams): void {
  const child = spawn(program, args, { stdio: ["pipe", "inherit", "inherit"] });
  child.on("error", (error) => streams.stderr.write(`oomlab: --exec ${program}: ${error.message}\n`));
  child.stdin.on("error", () => undefined);
  child.stdin.end(`${JSON.stringify(kill)}\n`);
}
