/** Sweeps run for real: on this host against a container's limit, in a VM against the kubelet's polls. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { missingPrograms, which } from "../../src/machine/packages.ts";
import { canRun, leftovers, oomlab, start } from "../helpers/cli.ts";
import { needs } from "../helpers/needs.ts";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "oomlab-test-sweep-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A scenario whose container has 32 MiB; what it takes is varied. */
function scenario(name: string): { path: string; output: string } {
  const path = join(folder, `${name}.yaml`);
  const text = `name: ${name}\ncgroups: { box: { memory.max: 32Mi } }\nprocesses: { hog: { cgroup: box, stress: { anon: 16Mi } } }\n`;
  writeFileSync(path, text);
  return { path, output: join(folder, name) };
}

interface Point {
  values: Record<string, string>;
  outcome: string;
  first: { by: string; process: string; limit: string } | null;
  record: string | null;
  model: { outcome: string } | null;
}

const pointsOf = (stdout: string): Point[] => (JSON.parse(stdout) as { points: Point[] }).points;
const flip = ["--vary", "process.anon=8Mi..56Mi", "--steps", "4", "--reporter", "json"];

describe("sweep on this host", needs(canRun), () => {
  test("shows at which size the limit kills, each point with its record, and the model beside it", async () => {
    const { path, output } = scenario("sizes");
    const { stdout, exitCode } = await oomlab(["sweep", path, ...flip, "--output", output]);
    expect(exitCode).toBe(0);
    expect(
      pointsOf(stdout).map(({ values, outcome, model }) => [values["process.anon"], outcome, model?.outcome]),
    ).toEqual([
      ["8Mi", "lives", "lives"],
      ["24Mi", "lives", "lives"],
      ["40Mi", "memcg", "memcg"],
      ["56Mi", "memcg", "memcg"],
    ]);
    expect(pointsOf(stdout)[2]?.first).toMatchObject({ by: "memcg", process: "hog", limit: "box" });
    expect(JSON.parse(stdout).stretches).toEqual([
      {
        axis: "process.anon",
        at: {},
        runs: [
          { word: "lives", from: "8Mi", to: "24Mi" },
          { word: "memcg", from: "40Mi", to: "56Mi" },
        ],
      },
    ]);
    for (const { record } of pointsOf(stdout)) expect(readFileSync(record ?? "", "utf8")).toMatch(/"type":"end"/);
    const again = await oomlab(["report", output, "--reporter", "json"]);
    expect(JSON.parse(again.stdout).scenarios).toHaveLength(4);
    expect(leftovers()).toEqual([]);
  });

  test("what has its record is not run again; a record that was cut is", async () => {
    const { path, output } = scenario("again");
    const command = ["sweep", path, ...flip, "--output", output];
    const first = await oomlab(command);
    const records = readdirSync(output);
    const before = records.map((name) => readFileSync(join(output, name), "utf8"));
    truncateSync(join(output, records[0] ?? ""), 5000);
    const second = await oomlab(command);
    expect(second.stderr).toMatch(/^oomlab: 3 of 4 points have their record in .*\noomlab: 4 of 4: process\.anon=/);
    expect(pointsOf(second.stdout).map(({ outcome }) => outcome)).toEqual(
      pointsOf(first.stdout).map(({ outcome }) => outcome),
    );
    const after = records.map((name) => readFileSync(join(output, name), "utf8"));
    expect(after.slice(1)).toEqual(before.slice(1));
    expect(after[0]).toMatch(/"type":"end"/);
    // Another scenario is another sweep, in the same folder too.
    writeFileSync(path, readFileSync(path, "utf8").replace("32Mi", "48Mi"));
    const other = await oomlab(command);
    expect(pointsOf(other.stdout).map(({ outcome }) => outcome)).toEqual(["lives", "lives", "lives", "memcg"]);
  });

  test("goes on after Ctrl-C where it was cut", async () => {
    const { path, output } = scenario("cut");
    writeFileSync(path, readFileSync(path, "utf8").replace("anon: 16Mi", "anon: 16Mi, hold: 500ms"));
    const command = ["sweep", path, "--vary", "process.anon=1Mi..16Mi", "--steps", "8", "--output", output];
    const running = start(command);
    while (!(await written(output, 3))) await new Promise((resolve) => setTimeout(resolve, 50));
    running.kill("SIGINT");
    const cut = await running.ended;
    expect(cut.exitCode).toBe(130);
    expect(cut.stderr).toContain("interrupted: the same command goes on where it was cut");
    expect(leftovers()).toEqual([]);
    const rest = await oomlab(command);
    expect(rest.exitCode).toBe(0);
    const [, kept] = /^oomlab: (\d) of 8 points have their record/.exec(rest.stderr) ?? [];
    expect(Number(kept)).toBeGreaterThanOrEqual(2);
    expect(rest.stderr.match(/^oomlab: \d of 8: /gm)).toHaveLength(8 - Number(kept));
    expect(rest.stdout).toContain("process.anon: lives throughout\n8 points; the model says the same of 8 of 8");
  });

  test("several points at a time, a table, a page and CSV of one sweep", async () => {
    const { path, output } = scenario("several");
    const [page, csv] = [join(folder, "page.html"), join(folder, "points.csv")];
    const { stdout, exitCode } = await oomlab([
      "sweep",
      path,
      "--vary",
      "process.anon=8Mi,40Mi",
      "--vary",
      "memory.max=16Mi,64Mi",
      "-j",
      "4",
      "--output",
      output,
      "--reporter",
      "terminal",
      "--reporter",
      `html=${page}`,
      "--reporter",
      `csv=${csv}`,
    ]);
    expect(exitCode).toBe(0);
    expect(stdout).toContain("process.anon (memory.max 16Mi): lives at 8Mi, memcg at 40Mi\n");
    expect(stdout).toContain("process.anon (memory.max 64Mi): lives throughout\n");
    expect(readFileSync(page, "utf8")).toContain('<h2 id="results">Where the outcome flips</h2>');
    expect(readFileSync(csv, "utf8").split("\r\n")).toHaveLength(6);
  });
});

async function written(output: string, count: number): Promise<boolean> {
  try {
    return readdirSync(output).filter((name) => name.endsWith(".ndjson")).length >= count;
  } catch {
    return false;
  }
}

describe("what is wrong is told before anything runs", () => {
  test.each([
    [[], "name what to vary: --vary NAME=FROM..TO"],
    [["--vary", "process.anno=8Mi..56Mi"], "processes.hog.stress.anno: unknown key"],
    [["--vary", "hog.nothing.at=1,2"], "--vary hog.nothing.at: the scenario has no such number"],
    [["--vary", "process.anon=8Mi..9Gi/s"], "are not of one kind"],
    [["--vary", "process.anon=8,9s"], "at process.anon=9s: "],
    [["--vary", "process.anon=1..5000000", "--steps", "20000"], "20000 points are more than the 10000 that are run"],
    [["--vary", "process.anon=1Mi..2Mi", "--reporter", "junit"], 'there is no reporter "junit"'],
  ])("%j", async (args, message) => {
    const { path, output } = scenario("wrong");
    const { stderr, exitCode } = await oomlab(["sweep", path, ...args, "--output", output]);
    expect(stderr).toContain(message);
    expect(exitCode).toBe(2);
    expect(() => readdirSync(output)).toThrow("ENOENT");
  });

  test("a file of several scenarios", async () => {
    const { stderr, exitCode } = await oomlab(["predict", "scenarios/kubernetes/rate.yaml"]);
    expect(stderr).toContain("holds 2 scenarios, and a sweep is of one");
    expect(exitCode).toBe(2);
  });
});

describe("predict", () => {
  const growth = ["scenarios/kubernetes/rate.yaml", "-g", "polls$"];

  test("answers without a run", async () => {
    const { stdout, exitCode } = await oomlab([
      "predict",
      ...growth,
      "--vary",
      "process.rate=4Mi/s..64Mi/s",
      "--vary",
      "process.delay=0s..9s",
      "--steps",
      "300,100",
      "--reporter",
      "csv",
    ]);
    expect(exitCode).toBe(0);
    const lines = stdout.trim().split("\r\n");
    expect(lines).toHaveLength(30_001);
    expect(new Set(lines.slice(1).map((line) => line.split(",")[2]))).toEqual(new Set(["eviction", "global"]));
  });

  test("tells which threshold would have saved the node", async () => {
    const threshold = ["--vary", "node.kubelet.evictionHard.memory.available=50Mi..350Mi", "--steps", "31"];
    const { stdout } = await oomlab(["predict", ...growth, "--vary", "process.delay=3s", ...threshold]);
    expect(stdout).toMatch(/node\.kubelet\.evictionHard\.memory\.available/);
    expect(stdout).toMatch(/ 100Mi +global: web\/app/);
    expect(stdout).toMatch(/ 200Mi +eviction: web\/app/);
  });

  test("says what it does not know, and that is no success", async () => {
    const { stdout, exitCode } = await oomlab(["predict", "scenarios/kubernetes/swap.yaml", "-g", "swaps$"]);
    expect(stdout).toContain("unknown: the model knows no swap\n");
    expect(exitCode).toBe(3);
  });

  test("of another node than the VM", async () => {
    const firstMs = async (...args: string[]): Promise<number> => {
      const { stdout } = await oomlab([
        "predict",
        ...growth,
        "--vary",
        "process.rate=300Mi/s",
        "--reporter",
        "json",
        ...args,
      ]);
      return JSON.parse(stdout).points[0].first.atMs as number;
    };
    const other = await firstMs("--stall", "0s", "--reserve", "20Mi", "--touch-rate", "4Gi/s");
    expect(other).toBeLessThan((await firstMs()) - 2900);
  });
});

const canBoot = needs({
  "x86-64 Linux": process.platform === "linux" && process.arch === "x64",
  "apt-get, for the guest's kernel": which("apt-get") !== undefined,
  "QEMU and erofs-utils, or root to install them": missingPrograms().length === 0 || process.getuid?.() === 0,
});

describe("sweep in a VM", canBoot, () => {
  test(
    "the poll is in time for one rate and too late for the other, as the model says",
    { timeout: 300_000 },
    async () => {
      const { stdout, exitCode } = await oomlab([
        "sweep",
        "scenarios/kubernetes/rate.yaml",
        "-g",
        "polls$",
        "--vary",
        "process.rate=16Mi/s,45Mi/s",
        "--vary",
        "process.delay=3s",
        "--output",
        join(folder, "vm"),
        "--reporter",
        "json",
      ]);
      expect(exitCode).toBe(0);
      expect(pointsOf(stdout)).toMatchObject([
        { outcome: "eviction", first: { by: "eviction", process: "web/app" }, model: { outcome: "eviction" } },
        { outcome: "global", first: { by: "global", process: "web/app" }, model: { outcome: "global" } },
      ]);
    },
  );
});
