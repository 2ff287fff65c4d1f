import { execFileSync, spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { bin, canRun, oomlab, root } from "../helpers/cli.ts";
import { needs } from "../helpers/needs.ts";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "oomlab-report-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const record = join(root, "test/fixtures/records/memcg-v1.ndjson");
const scenarios = (names: string[], rest = "expect: { oom: none }"): string =>
  names
    .map(
      (name) => `name: ${name}
cgroups: { app: { memory.max: 32Mi } }
processes: { p: { cgroup: app, stress: { anon: 4Mi } } }
${rest}
`,
    )
    .join("---\n");
function file(name: string, text: string): string {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
}

describe("report", () => {
  test("writes every report of one old record at once, each a file of its own", async () => {
    const names = ["json", "ndjson", "junit", "github", "html", "dmesg"];
    const out = join(folder, "all");
    const { stdout, exitCode } = await oomlab([
      "report",
      record,
      ...names.flatMap((name) => ["--reporter", `${name}=${join(out, name)}`]),
      "--reporter",
      "terminal",
    ]);
    expect(exitCode).toBe(0);
    expect(stdout).toMatch(/\n1 passed$/);
    const text = (name: string): string => readFileSync(join(out, name), "utf8");
    expect(JSON.parse(text("json"))).toMatchObject({ summary: { passed: 1 } });
    expect(text("ndjson")).toBe(readFileSync(record, "utf8"));
    expect(text("junit")).toContain('<testcase name="killed" classname="fix"');
    expect(text("html")).toMatch(/^<!doctype html>[\s\S]*<\/html>\n$/);
    expect(text("dmesg")).toMatch(/Memory cgroup out of memory: Killed process/);
    expect(text("github")).toBe("");
  });

  test("never writes over the record that it reads, nor two reports into one file", async () => {
    const own = file("own.ndjson", readFileSync(record, "utf8"));
    const over = await oomlab(["report", own, "--reporter", `ndjson=${own}`]);
    expect([over.exitCode, over.stderr]).toEqual([2, expect.stringContaining("would overwrite what is read")]);
    expect(readFileSync(own, "utf8")).toBe(readFileSync(record, "utf8"));
    const both = join(folder, "both");
    const twice = await oomlab(["report", own, "--reporter", `json=${both}`, "--reporter", `html=${both}`]);
    expect([twice.exitCode, twice.stderr]).toEqual([
      2,
      expect.stringContaining("would overwrite what --reporter json writes"),
    ]);
    expect(existsSync(both)).toBe(false);
  });

  test("never writes over the scenario that is run, nor among its records", async () => {
    const path = file("kept.yaml", scenarios(["kept"]));
    const over = await oomlab(["run", path, "--reporter", `json=${path}`]);
    expect([over.exitCode, over.stderr]).toEqual([2, expect.stringContaining("would overwrite what is read")]);
    expect(readFileSync(path, "utf8")).toBe(scenarios(["kept"]));
    const among = join(folder, "among", "001-kept-v1.ndjson");
    const record = await oomlab(["run", path, "--output", join(folder, "among"), "--reporter", `html=${among}`]);
    expect([record.exitCode, record.stderr]).toEqual([2, expect.stringContaining("would stand among the records")]);
  });

  test("leaves a report of before as it is where a dry run has nothing to say in it", async () => {
    const old = file("old.html", "of before");
    const missing = join(folder, "missing.html");
    const specs = [old, missing].flatMap((path) => ["--reporter", `html=${path}`]);
    const scenario = file("dry.yaml", scenarios(["dry"]));
    const { exitCode } = await oomlab(["run", scenario, "--dry-run", ...specs]);
    expect([exitCode, readFileSync(old, "utf8"), existsSync(missing)]).toEqual([0, "of before", false]);
    await oomlab(["report", record, "--reporter", `html=${old}`]);
    expect(readFileSync(old, "utf8")).toMatch(/^<!doctype html>[\s\S]*<\/html>\n$/);
  });

  test("a GitHub runner takes only annotations for commands, whatever a scenario is called", async () => {
    const hostile = file("hostile.ndjson", readFileSync(record, "utf8").replaceAll('"killed"', '"::error::x"'));
    const args = ["report", hostile, "--reporter", "terminal", "--reporter", "github"];
    const { stdout } = await oomlab(args, { env: { GITHUB_ACTIONS: "true" } });
    const [, token = ""] = /^::stop-commands::([\w-]{36})\n/.exec(stdout) ?? [];
    expect(stdout.split("\n").filter((line) => line.startsWith("::"))).toEqual([
      `::stop-commands::${token}`,
      expect.stringMatching(/^::error::x /),
      `::${token}::`,
    ]);
    expect((await oomlab(args, { env: { GITHUB_ACTIONS: "false" } })).stdout).not.toContain("stop-commands");
    // What is read by others stays as it is there too.
    const json = await oomlab(["report", hostile, "--reporter", "json"], { env: { GITHUB_ACTIONS: "true" } });
    expect(JSON.parse(json.stdout)).toMatchObject({ summary: { passed: 1 } });
  });

  test.each([
    [["json", "junit"], "json and junit cannot both be on standard output: name a file, json=FILE"],
    [["terminal", "html"], "html and terminal cannot both be on standard output: name a file, html=FILE"],
  ])("%j is not taken for one standard output", async (names, words) => {
    const { stdout, stderr, exitCode } = await oomlab([
      "report",
      record,
      ...names.flatMap((name) => ["--reporter", name]),
    ]);
    expect([exitCode, stdout, stderr]).toEqual([2, "", `oomlab: ${words}`]);
  });

  test("reads records from standard input", async () => {
    const { stdout, exitCode } = await oomlab(["report", "-", "--reporter", "ndjson"], { input: readFileSync(record) });
    expect([exitCode, `${stdout}\n`]).toEqual([0, readFileSync(record, "utf8")]);
    const none = await oomlab(["report", "-"], { input: "no record\n" });
    expect([none.exitCode, none.stderr]).toEqual([2, expect.stringContaining("-:1: expected a JSON object a line")]);
  });

  test("appends GitHub's summary to the file that the runner names, and files are named from the checkout", async () => {
    const summary = file("summary.md", "what another step wrote\n");
    const failed = readFileSync(record, "utf8").replace('"limit":"pod/app"', '"limit":"pod"');
    const { stdout } = await oomlab(["report", file("failed.ndjson", failed), "--reporter", "github"], {
      env: { GITHUB_STEP_SUMMARY: summary, GITHUB_WORKSPACE: join(root, "..") },
    });
    expect(stdout).toMatch(/^::error file=[^/:,]+\/fix\.yaml,line=\d+,col=\d+,title=/);
    expect(readFileSync(summary, "utf8")).toMatch(/^what another step wrote\n## oomlab: 1 failed\n/);
  });

  test("of a folder without records says so, with what would be right", async () => {
    const { stderr, exitCode } = await oomlab(["report", join(root, "docs")]);
    expect(exitCode).toBe(2);
    expect(stderr).toMatch(/docs holds no record: expected files that end in \.ndjson\n {2}`oomlab run --output DIR`/);
  });

  test.each([
    [
      "--reporter=htm",
      /there is no reporter "htm": expected one of terminal, json, ndjson, junit, github, html, dmesg/,
    ],
    ["--reporter=html=", /--reporter html= names no file: expected html=FILE/],
  ])("%s is refused", async (flag, words) => {
    const { stderr, exitCode } = await oomlab(["report", record, flag]);
    expect(exitCode).toBe(2);
    expect(stderr).toMatch(words);
  });

  test("a record cut off in the middle says nothing of what it does not hold", async () => {
    const half = readFileSync(record, "utf8").split("\n").slice(0, 40).join("\n");
    const { stdout, exitCode } = await oomlab(["report", file("half.ndjson", half)]);
    expect(exitCode).toBe(3);
    expect(stdout).toContain("! errored: the record breaks off before the run's end");
    expect(stdout).not.toContain("no OOM kill happened");
  });

  test("a closed standard output is told", () => {
    const { stderr } = spawnSync("sh", ["-c", `"$0" "$1" report "$2" >&-`, process.execPath, bin, record], {
      encoding: "utf8",
    });
    expect(stderr).toMatch(/^oomlab: standard output is closed/);
    const discarded = spawnSync("sh", ["-c", `"$0" "$1" report "$2" >/dev/null`, process.execPath, bin, record], {
      encoding: "utf8",
    });
    expect(discarded.stderr).toBe("");
  });
});

test("where nothing is run, the reports of the last time stay", async () => {
  const old = file("old.html", "the last one");
  await oomlab(["run", file("one.yaml", scenarios(["one"])), "--list", "--reporter", `html=${old}`]);
  expect((await oomlab(["run", file("bad.yaml", "name: [\n"), "--reporter", `html=${old}`])).exitCode).toBe(2);
  expect(readFileSync(old, "utf8")).toBe("the last one");
});

describe("shards and attempts", needs(canRun), () => {
  test("joined shards are the whole run, and a shard that is missing is told and is not status 0", async () => {
    const path = file("four.yaml", scenarios(["a", "b", "c", "d"]));
    const shard = async (part: string): Promise<string> => {
      const output = join(folder, `shard-${part.replace("/", "-")}`);
      expect((await oomlab(["run", path, "--shard", part, "--output", output, "--reporter", "json"])).exitCode).toBe(0);
      return output;
    };
    const shards = [await shard("1/3"), await shard("2/3"), await shard("3/3")];
    const whole = await oomlab(["report", "--merge", ...shards.toReversed(), "--reporter", "json"]);
    expect(whole).toMatchObject({ exitCode: 0, stderr: "" });
    expect(JSON.parse(whole.stdout).scenarios.map(({ name }: { name: string }) => name)).toEqual(["a", "b", "c", "d"]);
    const lacking = await oomlab(["report", shards[0] ?? "", shards[2] ?? "", "--merge", "--reporter", "html"]);
    expect(lacking.exitCode).toBe(3);
    expect(lacking.stderr).toBe("oomlab: no record of 1 of 4 scenarios (shard 2/3)");
    expect(lacking.stdout).toContain("no record of 1 of 4 scenarios (shard 2/3)");
    const inReport = async (reporter: string): Promise<string> =>
      (await oomlab(["report", shards[0] ?? "", shards[2] ?? "", "--merge", "--reporter", reporter])).stdout;
    expect(JSON.parse(await inReport("json"))).toMatchObject({ notes: ["no record of 1 of 4 scenarios (shard 2/3)"] });
    expect(await inReport("github")).toBe("::error title=oomlab::no record of 1 of 4 scenarios (shard 2/3)");
    expect(await inReport("junit")).toMatch(
      /<testsuites name="oomlab" tests="4" failures="0" errors="1"[^]*<error type="missing" message="no record of 1 of 4 scenarios \(shard 2\/3\)"\/>/,
    );
  });

  test("a shard that gets none of the scenarios is no failure; what -x left out is told in the reports", async () => {
    const path = file("few.yaml", scenarios(["a", "b"], "expect: { oom: memcg }"));
    const shard = (part: string): string => join(folder, "few", part.replace("/", "-"));
    expect((await oomlab(["run", path, "--shard", "5/5", "--output", shard("5/5")])).exitCode).toBe(0);
    await oomlab(["run", path, "--shard", "1/5", "--output", shard("1/5")]);
    const merged = await oomlab(["report", "--merge", shard("1/5"), shard("5/5"), shard("4/5"), "--reporter", "json"]);
    expect([merged.stderr, JSON.parse(merged.stdout).summary]).toEqual([
      `oomlab: there is no ${shard("4/5")}: taken for a shard that had no scenario\noomlab: no record of 1 of 2 scenarios (shard 2/5)`,
      expect.objectContaining({ failed: 1 }),
    ]);
    expect((await oomlab(["report", "--merge", shard("5/5")])).stderr).toContain("5-5 holds no record");
    const { stdout, exitCode } = await oomlab(["run", path, "-x", "--reporter", "json"]);
    expect(exitCode).toBe(1);
    expect(JSON.parse(stdout)).toMatchObject({
      summary: { failed: 1 },
      notes: ["1 of 2 scenarios were not run: an earlier one did not pass (-x)"],
    });
  });

  test("a shard that was run again counts once, the later run", async () => {
    const path = file("again.yaml", scenarios(["a"]));
    for (const part of ["first", "second"])
      await oomlab(["run", path, "--output", join(folder, "again", part), "--reporter", "json"]);
    const { stdout, stderr } = await oomlab(["report", "--merge", join(folder, "again"), "--reporter", "json"]);
    expect(JSON.parse(stdout).summary).toMatchObject({ passed: 1 });
    expect(stderr).toBe("oomlab: 1 record(s) are of earlier runs of the same scenarios: left out");
  });

  test("of retries the last attempt counts, also where old records do not say which they are", async () => {
    const output = join(folder, "retried");
    const path = file("retried.yaml", scenarios(["never"], "expect: { oom: memcg }"));
    const first = await oomlab(["run", path, "--retries", "2", "--output", output, "--reporter", "json"]);
    expect(first.exitCode).toBe(1);
    expect(readdirSync(output)).toHaveLength(3);
    const again = await oomlab(["report", output, "--reporter", "json"]);
    expect(again.stdout).toBe(first.stdout);
    for (const name of readdirSync(output)) {
      const text = readFileSync(join(output, name), "utf8");
      writeFileSync(join(output, name), text.replace(/,"selection":\{[^}]*\}/, ""));
    }
    expect((await oomlab(["report", output, "--reporter", "json"])).stdout).toBe(first.stdout);
    const { stdout } = await oomlab(["report", output, "--reporter", "junit"]);
    expect(stdout.match(/<rerunFailure /g)).toHaveLength(2);
  });

  test("a run into the same folder leaves no attempt of the one before; other scenarios' records are told", async () => {
    const output = join(folder, "reused");
    const path = file("reused.yaml", scenarios(["fickle"], "expect: { oom: memcg }"));
    await oomlab(["run", path, "--retries", "2", "--output", output]);
    expect(readdirSync(output)).toHaveLength(3);
    file("reused.yaml", scenarios(["fickle"]));
    await oomlab(["run", path, "--output", output]);
    expect(readdirSync(output)).toEqual(["001-fickle-v1.ndjson"]);
    cpSync(join(output, "001-fickle-v1.ndjson"), join(output, "old.ndjson"));
    await oomlab(["run", path, "--output", output]);
    const { stdout, stderr } = await oomlab(["report", output, "--reporter", "json"]);
    expect(stderr).toBe(
      "oomlab: 1 record(s) are of earlier runs of the same scenarios: reported too (--merge takes the last of each)",
    );
    expect(JSON.parse(stdout).summary).toMatchObject({ passed: 2 });
  });

  test("a skipped scenario leaves a record, so an old run is reported whole", async () => {
    const output = join(folder, "skipped");
    const path = file(
      "skipped.yaml",
      `${scenarios(["here"])}---\nname: elsewhere\nprocesses: { p: { stress: { anon: 4Mi } } }\n`,
    );
    const first = await oomlab(["run", path, "--machine", "host", "--output", output, "--reporter", "json"]);
    expect(JSON.parse(first.stdout).summary).toMatchObject({ passed: 1, skipped: 1 });
    expect((await oomlab(["report", output, "--reporter", "json"])).stdout).toBe(first.stdout);
    const { exitCode } = await oomlab(["report", output]);
    expect([exitCode, (await oomlab(["report", output, "--fail-on-skipped"])).exitCode]).toEqual([0, 1]);
  });

  test("what a command wrote last is in the reports, where its end is not the stated one", async () => {
    const path = file(
      "words.yaml",
      `cgroups: { app: { memory.max: 32Mi } }
processes:
  talker:
    cgroup: app
    command: [sh, -c, 'yes "filling line" | head -n 20000; echo "the file & its folder are <gone>"; exit 7']
expect: { exit: { talker: 0 } }
`,
    );
    const output = join(folder, "words");
    const { stdout, exitCode } = await oomlab(["run", path, "--output", output]);
    expect(exitCode).toBe(1);
    expect(stdout).toMatch(/exit\.talker: expected 0, got 7 \(it wrote: \.\.\..*the file & its folder are <gone>\)/);
    for (const reporter of ["junit", "github", "html"])
      expect((await oomlab(["report", output, "--reporter", reporter])).stdout).toMatch(/folder are (?:<|&lt;)gone/);
    // What it wrote meanwhile is kept in part.
    const kept = JSON.parse(
      `[${readFileSync(join(output, "001-words-v1.ndjson"), "utf8").trim().split("\n").join(",")}]`,
    ) as { type: string; text?: string }[];
    for (const line of stdout.split("\n")) expect(line.length).toBeLessThan(1000);
    const text = kept.flatMap((event) => (event.type === "output" ? (event.text ?? "") : [])).join("");
    expect(text).toMatch(/^filling line\n[^]*characters are left out[^]*<gone>\n$/);
    expect(text.length).toBeLessThan(100_000);
  });

  test("records of scenarios that ran at a time are whole on one stream", async () => {
    const path = file("side.yaml", scenarios(["a", "b", "c", "d"]));
    const { stdout } = await oomlab(["run", path, "-j", "4", "--reporter", "ndjson"]);
    const { stdout: report, exitCode } = await oomlab(["report", file("side.ndjson", stdout), "--reporter", "json"]);
    expect(exitCode).toBe(0);
    expect(JSON.parse(report).summary).toMatchObject({ passed: 4, errored: 0 });
  });
});

describe("at a terminal", needs({ ...canRun, "script (bsdutils)": existsSync("/usr/bin/script") }), () => {
  /** Runs oomlab on a pseudo terminal of 100 columns. */
  function onTerminal(args: string[], env: Record<string, string> = {}): string {
    const command = `stty cols 100 rows 30; ${[process.execPath, bin, ...args].map((word) => `'${word}'`).join(" ")}`;
    const { CI: _ci, NO_COLOR: _noColor, FORCE_COLOR: _forceColor, ...rest } = process.env;
    return execFileSync("script", ["-qec", command, "/dev/null"], {
      encoding: "utf8",
      env: { ...rest, TERM: "xterm-256color", ...env },
      timeout: 60_000,
    });
  }
  const slow = (): string =>
    file(
      "slow.yaml",
      `name: slow
cgroups: { app: { memory.max: 64Mi } }
processes: { p: { cgroup: app, stress: { anon: 40Mi, rate: 50Mi/s } } }
expect: { oom: none }
`,
    );

  test("what runs is seen with its memory against the limit, and nothing of it stays", () => {
    const output = onTerminal(["run", slow()]);
    expect(output).toMatch(/\S slow +█+░+ [\d.]+ MiB of 64 MiB app {2}[\d.]+ m?s {2}pressing/);
    expect(output).toContain("\u001b[32m✓ passed in");
    // The last thing that the region does is to be taken away; what stays follows.
    const end = output.slice(output.lastIndexOf("\u001b[J"));
    expect(end).not.toMatch(/█/);
    expect(end).toMatch(/1 passed/);
  });

  test.each([{ CI: "true" }, { TERM: "dumb" }])("%o: lines alone", (env) => {
    const output = onTerminal(["run", slow()], env);
    expect(output).not.toContain("█");
    expect(output).not.toContain("\u001b[J");
    expect(output).toMatch(/✓ passed in/);
  });

  test("NO_COLOR takes the colours away, if it is not empty", () => {
    expect(onTerminal(["report", record], { NO_COLOR: "1" })).not.toContain("\u001b[3");
    expect(onTerminal(["report", record], { NO_COLOR: "" })).toContain("\u001b[32m");
  });
});

test("reports that were not named cost a start nothing: their code stands in the bundle, and is not run", async () => {
  // A copy of the built program whose html reporter throws when it is loaded.
  const copy = join(folder, "dist");
  cpSync(join(root, "dist"), copy, { recursive: true });
  const bundle = readdirSync(copy).find((name) => /^cli-.*\.cjs$/.test(name)) ?? "";
  const text = readFileSync(join(copy, bundle), "latin1");
  const style = text.indexOf(":root{color-scheme:light dark");
  expect(style).toBeGreaterThan(0);
  rmSync(join(copy, bundle.replace(/cjs$/, "cache")), { force: true });
  const marked = `${text.slice(0, style)}\${globalThis.process.stderr.write("loaded ")}${text.slice(style)}`;
  writeFileSync(join(copy, bundle), marked, "latin1");
  const start = (...args: string[]): { stderr: string; status: number | null } =>
    spawnSync(process.execPath, [join(copy, "oomlab.cjs"), ...args], { encoding: "utf8", cwd: root });
  expect(start("report", record, "--reporter", "json")).toMatchObject({ stderr: "", status: 0 });
  expect(start("report", record, "--reporter", "html")).toMatchObject({ stderr: "loaded ", status: 0 });
});
