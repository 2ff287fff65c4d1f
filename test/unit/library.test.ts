import { afterAll, describe, expect, test } from "vitest";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { runDefaults, type Streams } from "../../src/api.ts";
import { commands } from "../../src/cli.ts";
import { UsageError } from "../../src/errors.ts";
import { loadScenarios, predict, report, run, sweep } from "../../src/library.ts";

const folder = mkdtempSync(join(tmpdir(), "oomlab-test-library-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** As a program without types may call it. */
const untyped = { run, report, sweep, predict, loadScenarios } as unknown as Record<
  string,
  (options: unknown, more?: unknown) => Promise<unknown>
>;

describe("a wrong call", () => {
  test.each<[string, unknown, string]>([
    ["run", { job: 1 }, "run: job is no option; did you mean jobs?"],
    ["run", { timeout: "30s" }, "run: timeout is no option; did you mean timeoutMs?"],
    ["run", { jobs: -1 }, "run: jobs is -1: expected a whole number from 1 to 999999"],
    ["run", { jobs: 1.5 }, "run: jobs is 1.5: expected a whole number from 1 to 999999"],
    ["run", { jobs: "2" }, "run: jobs is '2': expected a whole number from 1 to 999999"],
    ["run", { retries: Number.NaN }, "run: retries is NaN: expected a whole number from 0 to 999999"],
    ["run", { timeoutMs: 2 ** 31 }, "run: timeoutMs is 2147483648: expected a whole number from 1 to 2147483647"],
    ["run", { paths: "web.yaml" }, "run: paths is 'web.yaml': expected an array"],
    ["run", { paths: ["web.yaml", 7] }, "run: paths[1] is 7: expected a text that is not empty"],
    [
      "run",
      { machine: "hots" },
      "run: machine is 'hots': expected 'auto', 'host', 'vm', 'container', 'kubernetes'; did you mean host?",
    ],
    ["run", { cgroup: ["v2"] }, "run: cgroup[0] is 'v2': expected 1, 2, 'hybrid'"],
    ["run", { dryRun: "yes" }, "run: dryRun is 'yes': expected true or false"],
    ["run", { grep: "web" }, "run: grep is 'web': expected a RegExp"],
    ["run", { shard: { index: 3, of: 2 } }, "run: shard is { index: 3, of: 2 }: expected index from 1 to of"],
    ["run", { shard: { index: 1, off: 2 } }, "run: shard.off is no option; did you mean of?"],
    ["run", { reporters: ["jsn=out.json"] }, "run: reporters[0] is 'jsn'"],
    ["run", { reporters: [{}] }, "run: reporters[0] is no reporter: expected a name, name=file, or an object"],
    [
      "run",
      { reporters: [{ onRunEnd() {}, onScenarioEnded() {} }] },
      "run: reporters[0].onScenarioEnded is no option; did you mean onScenarioEnd?",
    ],
    ["run", { reporters: [{ onRunEnd: 7 }] }, "run: reporters[0].onRunEnd is no function"],
    ["run", "web.yaml", "run: the options are 'web.yaml': expected an object"],
    ["run", null, "run: the options are null: expected an object"],
    ["run", { kernels: ["6.1"], machine: "host" }, "--kernel is the VM's"],
    ["run", { node: "worker-1" }, "--node is a cluster's"],
    ["report", {}, "report: paths is missing"],
    ["report", { paths: ["out"], merge: 1 }, "report: merge is 1: expected true or false"],
    ["sweep", { path: "web.yaml" }, "sweep: vary is missing"],
    [
      "sweep",
      { path: "web.yaml", vary: ["a=1..2"], machine: "kubernetes" },
      "sweep: machine is 'kubernetes': expected 'auto', 'host', 'vm', 'container'",
    ],
    ["sweep", { path: "web.yaml", vary: ["a=1..2"], steps: [1] }, "sweep: steps[0] is 1: expected a whole number"],
    ["predict", {}, "predict: path is missing"],
    ["predict", { path: "web.yaml", reporters: ["junit"] }, "predict: reporters[0] is 'junit': expected 'terminal'"],
    ["predict", { path: "web.yaml", node: { workingset: 1 } }, "predict: node.workingset is no option; did you mean"],
    ["predict", { path: "web.yaml", node: { stallMs: -1 } }, "predict: node.stallMs is -1: expected a number from 0"],
    ["loadScenarios", "web.yaml", "loadScenarios: paths is 'web.yaml': expected an array"],
  ])("%s(%j) is refused by name", async (name, options, message) => {
    const error = await untyped[name]?.(options).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(UsageError);
    expect((error as Error).message.slice(0, message.length)).toBe(message);
  });

  test.each<[unknown, string]>([
    [{ stdout: 1 }, "run: stdout is 1: expected an object with a method write"],
    [{ stdin: "text" }, "run: stdin is 'text': expected a function"],
    [{ signal: new AbortController() }, "run: signal is AbortController"],
    [{ stdOut: process.stdout }, "run: stdOut is no option; did you mean stdout?"],
  ])("streams that are none are refused by name (%#)", async (streams, message) => {
    await expect(untyped["run"]?.({}, streams)).rejects.toThrow(message);
  });
});

test("the defaults of run are the command's", () => {
  const silent: Streams = {
    stdout: { write: () => undefined },
    stderr: { write: () => undefined },
    signal: new AbortController().signal,
  };
  const command = commands(silent, () => undefined).commands.find((one) => one.name() === "run");
  const flags = Object.fromEntries(command?.options.map((option) => [option.attributeName(), option]) ?? []);
  expect(flags["reporter"]?.defaultValueDescription).toBe(runDefaults.reporters[0]);
  const { machine, jobs, retries, repeatEach } = command?.opts() ?? {};
  expect(runDefaults).toMatchObject({ machine, jobs, retries, repeatEach });
});

describe("options that are undefined", () => {
  const file = join(folder, "web.yaml");
  writeFileSync(
    file,
    "name: web\ncgroups: { web: { memory.max: 64Mi } }\nprocesses: { leak: { cgroup: web, stress: { anon: 96Mi } } }\n",
  );

  test("count as left out", async () => {
    let text = "";
    const options = { paths: [file], list: true, jobs: undefined, grep: undefined } as object;
    const result = await run(options, { stdout: { write: (more) => void (text += more) } });
    expect(text).toBe(`${file}:1  web\n`);
    expect(result).toEqual({
      exitCode: 0,
      verdicts: [],
      summary: { passed: 0, failed: 0, inconclusive: 0, skipped: 0, errored: 0 },
      plans: [],
    });
  });
});

test("predict resolves to the points, in words and values, and to where the outcome flips", async () => {
  const { exitCode, points, stretches } = await predict({
    path: "scenarios/kubernetes/rate.yaml",
    grep: /polls$/,
    vary: ["process.rate=4Mi/s..64Mi/s"],
    steps: [4],
    reporters: [],
  });
  expect(exitCode).toBe(0);
  expect(points.map(({ values }) => values["process.rate"])).toEqual(["4Mi/s", "24Mi/s", "44Mi/s", "64Mi/s"]);
  expect(points.every(({ outcome, model, measured }) => outcome !== "unknown" && model && measured === null)).toBe(
    true,
  );
  expect(stretches).toHaveLength(1);
  expect(stretches[0]?.runs[0]?.word).toBe(points[0]?.outcome);
});
