/** argv -> api -> exit status. The only file that reads argv, environment and standard streams. */
import { fstatSync, readFileSync, writeSync } from "node:fs";
import { relative, resolve } from "node:path";
import { isatty } from "node:tty";
import { setFlagsFromString } from "node:v8";
import { Argument, Command, CommanderError, InvalidArgumentError, Option } from "commander";
import type { GridOptions, RunOptions, Streams } from "./api.ts";
import { version } from "./api/streams.ts";
import { createWindow } from "./cli/window.ts";
import { OomlabError } from "./errors.ts";
import { reporters } from "./report/index.ts";
import { parseDuration, parseRate, parseSize } from "./units.ts";

/** Runs one command line (without node and script); resolves to its exit status. */
export async function main(argv: string[]): Promise<number> {
  if (argv[0] === "stress") return (await import("./cli/stress.ts")).stress(argv.slice(1));
  const interrupt = new AbortController();
  const streams = standardStreams(interrupt.signal);
  let status = 0;
  const program = commands(streams, interrupt, (code) => {
    status = code;
  });
  try {
    await program.parseAsync(argv, { from: "user" });
    // A stream tells of a failed write at the next turn.
    await new Promise(setImmediate);
    if (unwritten === null) return status;
    process.stderr.write(`oomlab: standard output is incomplete: ${unwritten}\n`);
    return status === 0 ? 3 : status;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
    if (error instanceof OomlabError) {
      streams.stderr.write(`oomlab: ${error.message}\n`);
      if (error.hint) streams.stderr.write(`  ${error.hint}\n`);
      return error.exitCode;
    }
    // A message for people; the stack only for those who ask for it.
    streams.stderr.write(`oomlab: unexpected error: ${(error as Error).message}\n`);
    streams.stderr.write(
      process.env["OOMLAB_DEBUG"]
        ? `${(error as Error).stack}\n`
        : "  please report it; OOMLAB_DEBUG=1 shows where it came from\n",
    );
    return 3;
  }
}

/** The commands with their options. `exit` is called with a command's exit status. */
export function commands(streams: Streams, interrupt: AbortController, exit: (status: number) => void): Command {
  const program = new Command("oomlab")
    .description("An OOM lab for Linux: make the memory limit, apply the pressure, prove which OOM kill followed.")
    .version(version(), "-V, --version")
    .exitOverride()
    .showSuggestionAfterError()
    .configureHelp({ showGlobalOptions: false });
  const reporter = (): Option =>
    new Option("--reporter <name[=file]>", `${Object.keys(reporters).join(", ")}; repeatable; without =file on stdout`)
      .argParser(collect)
      .default([] as string[], "terminal");

  program
    .command("run")
    .description("run scenario files and folders")
    .argument("[path...]", "scenario files or folders; - for stdin (default: the folder scenarios)")
    .addOption(
      new Option("--machine <name>", "where to run")
        .choices(["auto", "host", "vm", "container", "kubernetes"])
        .default("auto"),
    )
    .option("--cgroup <versions>", "v1, v2, hybrid, or several (v1,v2): one result each", cgroupVersions)
    .option("--kernel <version|path>", "kernel of the VM; repeatable", collect, [] as string[])
    .addOption(reporter())
    .option("-g, --grep <regexp>", "only scenarios whose name matches", regexp)
    .option("--tag <tag>", "only scenarios with this tag; repeatable", collect, [] as string[])
    .option("-j, --jobs <n>", "run so many at a time", count("--jobs"), 1)
    .option("--timeout <duration>", "for each scenario, e.g. 30s (default: 60s)", duration)
    .option("--retries <n>", "run a scenario that does not pass again", natural("--retries"), 0)
    .option("--repeat-each <n>", "run each scenario so many times", count("--repeat-each"), 1)
    .option("-x", "stop after the first scenario that does not pass")
    .option("--list", "list the scenarios, run nothing")
    .option("--dry-run", "print the plan, touch nothing")
    .option("--output <dir>", "write each run's record (NDJSON) there")
    .option("--fail-on-skipped", "exit 1 when a scenario is skipped")
    .option("--shard <i/n>", "run the i-th of n parts", shard)
    .option("--allow-host-oom", "run on this machine what could drain it")
    .option("--node <name>", "machine kubernetes: the node (default: the cluster's only one)")
    .option("--allow-node-oom", "machine kubernetes: run on the node what could drain it")
    .option("-v, --verbose", "say more on stderr")
    .action(async (paths: string[], flags: RunFlags) => {
      const stop = handleSignals(interrupt);
      const run = async (): Promise<number> => (await import("./api.ts")).run(runOptions(paths, flags), streams);
      try {
        exit(await (flags.dryRun ? soonOver(run) : run()));
      } finally {
        stop();
      }
    });

  const grid = (command: Command): Command =>
    command
      .argument("<path>", "a scenario file; - for stdin")
      .option(
        "--vary <name=range>",
        "a number of the scenario and its values: process.rate=5Mi/s..500Mi/s, or a list A,B,C; repeatable",
        collect,
        [] as string[],
      )
      .option("--steps <n>", "values of a range, for each --vary: 20 or 20,5 (default: 10)", steps)
      .addOption(new Option("--scale <name>", "how a range is divided").choices(["linear", "log"]).default("linear"))
      .option("-g, --grep <regexp>", "the scenario of that name, where the file holds several", regexp)
      .option("--timeout <duration>", "for each point, e.g. 90s (default: 60s)", duration)
      .addOption(cgroupVersion())
      .addOption(
        new Option("--reporter <name[=file]>", "terminal, csv, json, html; repeatable; without =file on stdout")
          .argParser(collect)
          .default([] as string[], "terminal"),
      );

  grid(program.command("sweep").description("run a scenario over a range of its numbers, tell where the outcome flips"))
    .addOption(
      new Option("--machine <name>", "where to run").choices(["auto", "host", "vm", "container"]).default("auto"),
    )
    .option("--kernel <version|path>", "kernel of the VM")
    .option("-j, --jobs <n>", "run so many points at a time", count("--jobs"), 1)
    .option("--output <dir>", "the points' records; those that are there are not run again (default: sweep-NAME)")
    .option("--allow-host-oom", "run on this machine what could drain it")
    .option("--list", "list the points, run nothing")
    .option("-v, --verbose", "say more on stderr")
    .action(async (path: string, flags: SweepFlags) => {
      const stop = handleSignals(interrupt);
      try {
        const options = {
          ...gridOptions(path, flags),
          machine: flags.machine,
          jobs: flags.jobs,
          allowHostOom: flags.allowHostOom ?? false,
          list: flags.list ?? false,
          verbose: flags.verbose ?? false,
          ...(flags.kernel === undefined ? {} : { kernel: flags.kernel }),
          ...(flags.output === undefined ? {} : { output: flags.output }),
        };
        exit(await (await import("./api.ts")).sweep(options, streams));
      } finally {
        stop();
      }
    });

  grid(
    program
      .command("predict")
      .description("tell the same from a model of the node, its kubelet and its OOM killer, without a run"),
  )
    .option("--working-set <size>", "the node's working set before anything presses (default: the VM's)", size)
    .option("--reserve <size>", "what of the node's memory no process can have (default: the VM's)", size)
    .option("--stall <duration>", "how long the kernel tries to reclaim before it kills (default: the VM's)", duration)
    .option("--touch-rate <rate>", "how fast memory is taken at most (default: the VM's)", rate)
    .action(async (path: string, flags: PredictFlags) => {
      const stop = handleSignals(interrupt);
      try {
        const { workingSet, reserve, stall, touchRate } = flags;
        const node = {
          ...(workingSet === undefined ? {} : { workingSet }),
          ...(reserve === undefined ? {} : { reserve, reserveShare: 0 }),
          ...(stall === undefined ? {} : { stallMs: stall }),
          ...(touchRate === undefined ? {} : { touchRate }),
        };
        exit(await (await import("./api.ts")).predict({ ...gridOptions(path, flags), node }, streams));
      } finally {
        stop();
      }
    });

  program
    .command("explain")
    .description("read a kernel log, tell every OOM kill in it")
    .argument("[file]", "a log file; - or nothing: stdin", "-")
    .addOption(new Option("--reporter <name>", "output form").choices(["terminal", "json"]).default("terminal"))
    .addOption(
      new Option("--format <name>", "the words of the terminal reporter: plain, or those of kernels 4.6 to 5.0")
        .choices(["plain", "classic"])
        .default("plain"),
    )
    .option("--details", "add memory, tasks, score and group members (json)")
    .action(async (file: string, flags: { reporter: string; format: string; details?: boolean }) =>
      exit(await (await import("./cli/explain.ts")).explain(file, flags, streams)),
    );

  program
    .command("watch")
    .description("tell OOM kills on this machine as they happen")
    .addOption(new Option("--reporter <name>", "output form").choices(["terminal", "ndjson"]).default("terminal"))
    .addOption(
      new Option("--since <time>", "boot: also what the kernel's log still has")
        .choices(["now", "boot"])
        .default("now"),
    )
    .option("--exec <command>", "run a program, with arguments, for each kill: the kill as JSON on its standard input")
    .action(async (flags: { reporter: string; since: string; exec?: string }) => {
      const stop = handleSignals(interrupt);
      try {
        exit(await (await import("./cli/watch.ts")).watch(flags, streams));
      } finally {
        stop();
      }
    });

  program
    .command("stress")
    .description("the native stressor, with the stress tool's own flags and ours (oomlab stress --help)")
    .allowUnknownOption()
    .action(() => exit(2));

  program
    .command("report")
    .description("judge and report recorded runs again")
    .argument("[record...]", "files that `oomlab run --output` wrote")
    .addOption(reporter())
    .option("--merge [dir...]", "join shards and later runs: one result a scenario, the last one")
    .option("--fail-on-skipped", "exit 1 when a scenario was skipped")
    .action(async (paths: string[], flags: { reporter: string[]; merge?: true | string[]; failOnSkipped?: true }) => {
      const options = {
        paths: [...paths, ...(Array.isArray(flags.merge) ? flags.merge : [])],
        reporters: flags.reporter,
        merge: flags.merge !== undefined,
        failOnSkipped: flags.failOnSkipped ?? false,
      };
      exit(await (await import("./api.ts")).report(options, streams));
    });

  program
    .command("validate")
    .description("check scenario files, run nothing")
    .argument("[path...]", "scenario files or folders (default: the folder scenarios)")
    .action(async (paths: string[]) =>
      exit(await soonOver(async () => (await import("./cli/validate.ts")).validate(paths, streams))),
    );

  program
    .command("schema")
    .description("print the JSON Schema of scenario files")
    .action(async () => {
      const { scenarioJsonSchema } = await import("./scenario/index.ts");
      streams.stdout.write(`${JSON.stringify(scenarioJsonSchema(), null, 2)}\n`);
    });

  program
    .command("doctor")
    .description("what this machine can run, what it lacks, and how to get it")
    .addOption(new Option("--reporter <name>", "output form").choices(["terminal", "json"]).default("terminal"))
    .action(async (flags: { reporter: string }) =>
      exit(await (await import("./cli/doctor.ts")).doctor(flags, streams)),
    );

  program
    .command("clean")
    .description("remove what a killed run left behind")
    .option("--cache", "also what VMs are made of: kernels and images")
    .action(async (flags: { cache?: boolean }) => exit(await (await import("./cli/clean.ts")).clean(flags, streams)));

  program
    .command("completion")
    .description("print the completion script of a shell: source <(oomlab completion bash)")
    .addArgument(new Argument("<shell>").choices(["bash", "zsh", "fish"]))
    .action(async (shell: string) => {
      const { completion } = await import("./cli/completion.ts");
      streams.stdout.write(completion(shell, program));
    });

  program
    .command("agent", { hidden: true })
    .description("the engine inside a machine of oomlab's own: plan in, events out")
    .argument("<channel>")
    .action(async (channel: string) => exit(await (await import("./cli/agent.ts")).agent(channel)));

  for (const command of program.commands) command.exitOverride();
  return program;
}

interface RunFlags {
  machine: RunOptions["machine"];
  cgroup?: RunOptions["cgroup"];
  kernel: string[];
  reporter: string[];
  grep?: RegExp;
  tag: string[];
  jobs: number;
  timeout?: number;
  retries: number;
  repeatEach: number;
  x?: boolean;
  list?: boolean;
  dryRun?: boolean;
  output?: string;
  failOnSkipped?: boolean;
  shard?: { index: number; of: number };
  allowHostOom?: boolean;
  node?: string;
  allowNodeOom?: boolean;
  verbose?: boolean;
}

interface GridFlags {
  vary: string[];
  steps?: number[];
  scale: "linear" | "log";
  grep?: RegExp;
  timeout?: number;
  cgroup?: 1 | 2;
  reporter: string[];
}

/** For what takes less time than V8 needs to optimize its functions. */
async function soonOver<Result>(work: () => Promise<Result>): Promise<Result> {
  setFlagsFromString("--no-opt");
  try {
    return await work();
  } finally {
    setFlagsFromString("--opt");
  }
}

interface SweepFlags extends GridFlags {
  machine: RunOptions["machine"];
  kernel?: string;
  jobs: number;
  output?: string;
  allowHostOom?: boolean;
  list?: boolean;
  verbose?: boolean;
}

interface PredictFlags extends GridFlags {
  workingSet?: number;
  reserve?: number;
  stall?: number;
  touchRate?: number;
}

const gridOptions = (
  path: string,
  { vary, steps, scale, grep, timeout, cgroup, reporter }: GridFlags,
): GridOptions => ({
  path,
  vary,
  steps: steps ?? [],
  scale,
  reporters: reporter,
  ...(grep === undefined ? {} : { grep }),
  ...(timeout === undefined ? {} : { timeoutMs: timeout }),
  ...(cgroup === undefined ? {} : { cgroup }),
});

const cgroupVersion = (): Option =>
  new Option("--cgroup <version>", "v1 or v2").argParser((value): 1 | 2 => {
    if (value === "v1") return 1;
    if (value === "v2") return 2;
    throw new InvalidArgumentError("Expected v1 or v2.");
  });

function steps(value: string): number[] {
  return value.split(",").map((word) => {
    if (!/^\d{1,7}$/.test(word) || Number(word) < 2)
      throw new InvalidArgumentError("Expected whole numbers from 2, such as 20 or 20,5.");
    return Number(word);
  });
}

function runOptions(paths: string[], flags: RunFlags): RunOptions {
  return {
    paths,
    // Another kernel than this one is a VM's.
    machine: flags.kernel.length > 0 && flags.machine === "auto" ? "vm" : flags.machine,
    cgroup: flags.cgroup ?? [],
    kernels: flags.kernel,
    reporters: flags.reporter,
    tags: flags.tag,
    jobs: flags.jobs,
    retries: flags.retries,
    repeatEach: flags.repeatEach,
    bail: flags.x ?? false,
    list: flags.list ?? false,
    dryRun: flags.dryRun ?? false,
    failOnSkipped: flags.failOnSkipped ?? false,
    allowHostOom: flags.allowHostOom ?? false,
    allowNodeOom: flags.allowNodeOom ?? false,
    ...(flags.node === undefined ? {} : { node: flags.node }),
    verbose: flags.verbose ?? false,
    ...(flags.grep ? { grep: flags.grep } : {}),
    ...(flags.timeout === undefined ? {} : { timeoutMs: flags.timeout }),
    ...(flags.output === undefined ? {} : { output: flags.output }),
    ...(flags.shard ? { shard: flags.shard } : {}),
  };
}

const collect = (value: string, before: string[]): string[] => [...before, value];

function cgroupVersions(value: string): RunOptions["cgroup"] {
  return value.split(",").map((word) => {
    if (word === "v1") return 1;
    if (word === "v2") return 2;
    if (word === "hybrid") return word;
    throw new InvalidArgumentError("Expected v1, v2, hybrid, or several of them: v1,v2.");
  });
}

const regexp = (value: string): RegExp => argument((text) => new RegExp(text))(value);

const natural =
  (flag: string, least = 0) =>
  (value: string): number => {
    if (!/^\d{1,6}$/.test(value) || Number(value) < least)
      throw new InvalidArgumentError(`Expected ${flag} to be a whole number from ${least}.`);
    return Number(value);
  };

const count = (flag: string): ((value: string) => number) => natural(flag, 1);

/** An argument as a unit's own reader takes it. */
const argument =
  <T>(read: (text: string) => T) =>
  (value: string): T => {
    try {
      return read(value);
    } catch (error) {
      throw new InvalidArgumentError((error as Error).message);
    }
  };

const duration: (value: string) => number = argument(parseDuration);
const size: (value: string) => number = argument(parseSize);
const rate: (value: string) => number = argument(parseRate);

function shard(value: string): { index: number; of: number } {
  const [, index, of] = /^(\d{1,4})\/(\d{1,4})$/.exec(value) ?? [];
  if (index === undefined || of === undefined || Number(index) < 1 || Number(index) > Number(of))
    throw new InvalidArgumentError("Expected i/n with i from 1 to n, e.g. 2/4.");
  return { index: Number(index), of: Number(of) };
}

function standardStreams(signal: AbortSignal): Streams {
  const { env } = process;
  const terminal = isTerminal() && env["TERM"] !== "dumb";
  const forced = env["FORCE_COLOR"];
  // https://no-color.org: set, and not empty.
  const colors = forced === undefined || forced === "" ? terminal && !env["NO_COLOR"] : forced !== "0";
  const live = terminal && !env["CI"];
  const window = createWindow((text) => write("stdout", text));
  return {
    stdout: {
      write: (text) => window.above(() => write("stdout", text)),
      colors,
      get broken() {
        return gone;
      },
      ...(terminal
        ? {
            get size() {
              const { columns, rows } = process.stdout;
              return { columns: columns || 80, rows: rows || 24 };
            },
          }
        : {}),
      ...(live ? { live: (lines: readonly string[]) => window.draw(lines) } : {}),
    },
    stderr: { write: (text) => window.above(() => write("stderr", text)) },
    stdin: async () => {
      let text = "";
      process.stdin.setEncoding("utf8");
      for await (const chunk of process.stdin) text += chunk as string;
      return text;
    },
    github: {
      ...(env["GITHUB_STEP_SUMMARY"] ? { summary: env["GITHUB_STEP_SUMMARY"] } : {}),
      fileName: (file) => inRepository(file, env["GITHUB_WORKSPACE"]),
      isRunner: env["GITHUB_ACTIONS"] === "true",
    },
    signal,
  };
}

/** A file as GitHub names it: from the root of the checkout, where it lies below it. */
function inRepository(file: string, root: string | undefined): string {
  if (!root || file === "-") return file;
  const path = relative(root, resolve(file));
  return path === "" || path.startsWith("..") ? file : path;
}

/** Ctrl-C and the like end the run in order: everything is removed, what was seen is reported. Returns how to stop listening. */
function handleSignals(interrupt: AbortController): () => void {
  const signals: NodeJS.Signals[] = ["SIGINT", "SIGTERM", "SIGHUP"];
  const listener = (signal: NodeJS.Signals): void => interrupt.abort(signal);
  for (const signal of signals) process.on(signal, listener);
  return () => {
    for (const signal of signals) process.removeListener(signal, listener);
  };
}

/** Loading node:tty takes a tenth of a short command's time, and only a character device can be a terminal. */
function isTerminal(): boolean {
  try {
    return fstatSync(1).isCharacterDevice() && isatty(1);
  } catch {
    return false;
  }
}

/** What could not be written to a standard stream, or null. */
let unwritten: string | null = null;
let gone = false;
const opened = new Set<NodeJS.WriteStream>();
/** Descriptors that are written to as they are: regular files. A stream for one costs a short command a tenth of its time. */
const files = new Map<number, boolean>();

/** Whether all that was written to the standard streams has left this process. */
export const isWritten = (): boolean => [...opened].every(({ writableLength }) => writableLength === 0);

function isFile(fd: number): boolean {
  let is = files.get(fd);
  if (is === undefined) {
    try {
      is = fstatSync(fd).isFile();
    } catch {
      is = false;
    }
    files.set(fd, is);
  }
  return is;
}

/** Writes to a standard stream, opened when first needed. A reader that went away (`oomlab run | head`) or a closed terminal is no error of ours; a full disk is, told at the end. */
function write(name: "stdout" | "stderr", text: string): void {
  const failed = ({ code, message }: NodeJS.ErrnoException): void => {
    gone = true;
    if (code !== "EPIPE" && code !== "EIO") unwritten ??= message;
  };
  if (gone) return;
  const fd = name === "stdout" ? 1 : 2;
  try {
    if (isFile(fd)) {
      const bytes = Buffer.from(text);
      for (let at = 0; at < bytes.length;) at += writeSync(fd, bytes, at);
      return;
    }
    const stream = process[name];
    if (!opened.has(stream)) {
      opened.add(stream);
      stream.on("error", failed);
      if (name === "stdout" && wasClosed(1))
        write("stderr", "oomlab: standard output is closed, or /dev/null: what would stand there is lost\n");
    }
    stream.write(text);
  } catch (error) {
    failed(error as NodeJS.ErrnoException);
  }
}

/**
 * Whether a standard stream was closed when the program began: Node opens /dev/null for reading and writing in its
 * place, which `>/dev/null` (for writing alone) is not. Others that open it so, as Node does for a child's ignored
 * stream, cannot be told apart: so it is said, and changes no status.
 */
function wasClosed(fd: number): boolean {
  try {
    const { rdev } = fstatSync(fd);
    if (rdev !== 0x103) return false;
    const [, flags] = /^flags:\s+([0-7]+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, "latin1")) ?? [];
    return flags !== undefined && (Number.parseInt(flags, 8) & 3) === 2;
  } catch {
    return false;
  }
}
