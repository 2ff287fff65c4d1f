/** argv -> api -> exit status. Only this file and cli/ read argv, environment and standard streams. */
import { setFlagsFromString } from "node:v8";
import { Argument, Command, CommanderError, Option } from "commander";
import type { GridOptions, RunOptions, Streams, SweepOptions } from "./api.ts";
import { version } from "./api/streams.ts";
import {
  cgroupVersion,
  cgroupVersions,
  collect,
  count,
  duration,
  named,
  natural,
  rate,
  regexp,
  shard,
  size,
  someTime,
  steps,
} from "./cli/arguments.ts";
import { incomplete, standardStreams } from "./api/standard.ts";
import type { ExecFlags } from "./cli/exec.ts";
import { OomlabError } from "./errors.ts";
import { reporters } from "./report/index.ts";

export { isWritten } from "./api/standard.ts";

/** Runs one command line (without node and script); resolves to its exit status. */
export async function main(argv: string[]): Promise<number> {
  if (argv[0] === "stress") return (await import("./cli/stress.ts")).stress(argv.slice(1));
  const { streams, release } = standardStreams();
  let status = 0;
  const program = commands(streams, (code) => {
    status = code;
  });
  try {
    await program.parseAsync(argv, { from: "user" });
  } catch (error) {
    status = tell(error, streams);
    // Any other status is the command's own.
    if (argv[0] === "exec" && status !== 0) status = 125;
  } finally {
    release();
  }
  const why = await incomplete();
  if (why === null) return status;
  process.stderr.write(`oomlab: standard output is incomplete: ${why}\n`);
  return status === 0 ? 3 : status;
}

/** Tells of what ended a command; returns its exit status. */
function tell(error: unknown, { stderr }: Streams): number {
  // commander has told it; help and version end so too.
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
  if (error instanceof OomlabError) {
    // Several problems of a file stand in lines of their own, what belongs to one is indented.
    stderr.write(`${error.message.replaceAll(/^(?=\S)/gm, "oomlab: ")}\n`);
    if (error.hint) stderr.write(`  ${error.hint}\n`);
    return error.exitCode;
  }
  // A message for people; the stack only for those who ask for it.
  stderr.write(`oomlab: unexpected error: ${(error as Error).message}\n`);
  stderr.write(
    process.env["OOMLAB_DEBUG"]
      ? `${(error as Error).stack}\n`
      : "  please report it; OOMLAB_DEBUG=1 shows where it came from\n",
  );
  return 3;
}

/** The commands with their options. `exit` is called with a command's exit status. */
export function commands(streams: Streams, exit: (status: number) => void): Command {
  const program = new Command("oomlab")
    .description("An OOM lab for Linux: make the memory limit, apply the pressure, prove which OOM kill followed.")
    .version(version(), "-V, --version")
    .exitOverride()
    .enablePositionalOptions()
    .showSuggestionAfterError()
    .configureHelp({ showGlobalOptions: false })
    .configureOutput({
      writeOut: (text) => streams.stdout.write(text),
      writeErr: (text) => streams.stderr.write(text),
    });
  const reporter = (names = Object.keys(reporters)): Option =>
    new Option("--reporter <name[=file]>", `${names.join(", ")}; repeatable; without =file on stdout`)
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
    .option("--timeout <duration>", "for each scenario, e.g. 30s (default: 60s)", someTime)
    .option("--retries <n>", "run a scenario that does not pass again", natural("--retries"), 0)
    .option("--repeat-each <n>", "run each scenario so many times", count("--repeat-each"), 1)
    .option("-x", "stop after the first scenario that does not pass")
    .option("--list", "list the scenarios, run nothing")
    .option("--dry-run", "print the plan, touch nothing")
    .option("--output <dir>", "write each run's record (NDJSON) there", named)
    .option("--fail-on-skipped", "exit 1 when a scenario is skipped")
    .option("--shard <i/n>", "run the i-th of n parts", shard)
    .option("--allow-host-oom", "run on this machine what could drain it")
    .option("--node <name>", "machine kubernetes: the node (default: the cluster's only one)", named)
    .option("--allow-node-oom", "machine kubernetes: run on the node what could drain it")
    .option("-v, --verbose", "say more on stderr")
    .action(async (paths: string[], flags: RunFlags) => {
      const run = async (): Promise<number> =>
        (await (await import("./api.ts")).run(runOptions(paths, flags), streams)).exitCode;
      exit(await (flags.dryRun ? soonOver(run) : run()));
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
      .option("--timeout <duration>", "for each point, e.g. 90s (default: 60s)", someTime)
      .option("--cgroup <version>", "v1 or v2", cgroupVersion)
      .addOption(reporter(["terminal", "csv", "json", "html"]));

  grid(program.command("sweep").description("run a scenario over a range of its numbers, tell where the outcome flips"))
    .addOption(
      new Option("--machine <name>", "where to run").choices(["auto", "host", "vm", "container"]).default("auto"),
    )
    .option("--kernel <version|path>", "kernel of the VM", named)
    .option("-j, --jobs <n>", "run so many points at a time", count("--jobs"), 1)
    .option(
      "--output <dir>",
      "the points' records; those that are there are not run again (default: sweep-NAME)",
      named,
    )
    .option("--allow-host-oom", "run on this machine what could drain it")
    .option("--list", "list the points, run nothing")
    .option("-v, --verbose", "say more on stderr")
    .action(async (path: string, flags: SweepFlags) => {
      const options: SweepOptions = {
        ...gridOptions(path, flags),
        machine: flags.machine,
        jobs: flags.jobs,
        allowHostOom: flags.allowHostOom ?? false,
        list: flags.list ?? false,
        verbose: flags.verbose ?? false,
        ...(flags.kernel === undefined ? {} : { kernel: flags.kernel }),
        ...(flags.output === undefined ? {} : { output: flags.output }),
      };
      exit((await (await import("./api.ts")).sweep(options, streams)).exitCode);
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
      const { workingSet, reserve, stall, touchRate } = flags;
      const node = {
        ...(workingSet === undefined ? {} : { workingSet }),
        ...(reserve === undefined ? {} : { reserve, reserveShare: 0 }),
        ...(stall === undefined ? {} : { stallMs: stall }),
        ...(touchRate === undefined ? {} : { touchRate }),
      };
      exit(await (await import("./api.ts")).reportPrediction({ ...gridOptions(path, flags), node }, streams));
    });

  program
    .command("exec")
    .description("run one command under a limit, and say in a line why it ended")
    .usage("[options] -- <command> [arg...]")
    .argument("<command...>", "the command with its arguments; it has this terminal, these streams and signals")
    .option("-m, --memory <size>", "its memory limit, e.g. 300Mi", size)
    .option("--swap <size>", "how much swap it may use, e.g. 0", size)
    .option("--high <size>", "above this the kernel slows it down (memory.high, cgroup v2)", size)
    .option("--pids <n>", "how many processes and threads it may have (cgroup v2)", count("--pids"))
    .addOption(new Option("--limit-on <cgroup>", "where the limits are").choices(["self", "parent"]).default("self"))
    .addOption(new Option("--machine <name>", "where to run").choices(["host", "vm"]).default("host"))
    .option("--timeout <duration>", "end it after this time, e.g. 10m", someTime)
    .addOption(
      new Option(
        "--reporter <name[=file]>",
        `${Object.keys(reporters).join(", ")}; repeatable (default: none)`,
      ).argParser((value: string, before: string[] | undefined) => collect(value, before ?? [])),
    )
    .option("--output <dir>", "write the record (NDJSON) there", named)
    .option("-q, --quiet", "no line about its end")
    .passThroughOptions()
    .action(async (command: string[], flags: ExecFlags) => {
      exit(await (await import("./cli/exec.ts")).exec(command, flags, streams));
    });

  program
    .command("explain")
    .description("read a kernel log, tell every OOM kill in it")
    .argument("[file...]", "log files; - or nothing: stdin", ["-"])
    .addOption(reporter(["terminal", "json"]))
    .addOption(
      new Option("--format <name>", "the words of the terminal reporter: plain, or those of kernels 4.6 to 5.0")
        .choices(["plain", "classic"])
        .default("plain"),
    )
    .option("--details", "add memory, tasks, score and group members (json)")
    .action(async (files: string[], flags: { reporter: string[]; format: string; details?: boolean }) =>
      exit(await (await import("./cli/explain.ts")).explain(files, flags, streams)),
    );

  program
    .command("watch")
    .description("tell OOM kills on this machine as they happen")
    .addOption(reporter(["terminal", "ndjson"]))
    .addOption(
      new Option("--since <time>", "boot: also what the kernel's log still has")
        .choices(["now", "boot"])
        .default("now"),
    )
    .option("--signals", "also every SIGKILL on this machine, with its sender (root)")
    .option("--exec <command>", "run a program, with arguments, for each kill: the kill as JSON on its standard input")
    .action(async (flags: { reporter: string[]; since: string; exec?: string; signals?: boolean }) => {
      exit(await (await import("./cli/watch.ts")).watch(flags, streams));
    });

  program
    .command("stress")
    .description("the native stressor, with the stress tool's own flags and ours (oomlab stress --help)")
    .allowUnknownOption()
    .action(() => exit(2));

  program
    .command("report")
    .description("judge and report recorded runs again")
    .argument("[record...]", "what `oomlab run --output` wrote: files, folders, or - for stdin")
    .addOption(reporter())
    .option("--merge [dir...]", "join shards and later runs: one result a scenario, the last one")
    .option("--fail-on-skipped", "exit 1 when a scenario was skipped")
    .action(async (paths: string[], flags: { reporter: string[]; merge?: true | string[]; failOnSkipped?: true }) => {
      const options = {
        paths: [...paths, ...(Array.isArray(flags.merge) ? flags.merge : [])],
        ...reportersOf(flags),
        merge: flags.merge !== undefined,
        failOnSkipped: flags.failOnSkipped ?? false,
      };
      exit((await (await import("./api.ts")).report(options, streams)).exitCode);
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
    .addOption(reporter(["terminal", "json"]))
    .action(async (flags: { reporter: string[] }) =>
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
  machine: NonNullable<RunOptions["machine"]>;
  cgroup?: NonNullable<RunOptions["cgroup"]>;
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
  machine: NonNullable<SweepOptions["machine"]>;
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
  scale,
  ...reportersOf({ reporter }),
  ...(steps === undefined ? {} : { steps }),
  ...(grep === undefined ? {} : { grep }),
  ...(timeout === undefined ? {} : { timeoutMs: timeout }),
  ...(cgroup === undefined ? {} : { cgroup }),
});

/** Where none is named the default's is left out. */
const reportersOf = ({ reporter }: { reporter: string[] }): { reporters?: string[] } =>
  reporter.length > 0 ? { reporters: reporter } : {};

/** What was stated, by the library's names. */
function runOptions(paths: string[], { reporter, kernel, tag, timeout, x, ...same }: RunFlags): RunOptions {
  return {
    paths,
    kernels: kernel,
    tags: tag,
    ...reportersOf({ reporter }),
    ...(timeout === undefined ? {} : { timeoutMs: timeout }),
    ...(x === undefined ? {} : { bail: x }),
    ...same,
  };
}
