import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { execa } from "execa";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { canRun, leftovers, oomlab, root } from "../helpers/cli.ts";
import { needs } from "../helpers/needs.ts";

const folder = mkdtempSync(join(tmpdir(), "oomlab-test-library-"));
const web = join(folder, "web.yaml");
const slow = join(folder, "slow.yaml");

beforeAll(() => {
  mkdirSync(join(folder, "node_modules"));
  symlinkSync(root, join(folder, "node_modules/oomlab"));
  const yaml = (name: string, stress: string, expected: string): string =>
    `name: ${name}\ncgroups: { web: { memory.max: 32Mi, memory.swap.max: 0 } }\nprocesses: { leak: { cgroup: web, stress: ${stress} } }\nexpect: ${expected}\n`;
  writeFileSync(web, yaml("web", "{ anon: 48Mi }", "{ oom: memcg, limit: web, victims: [leak] }"));
  writeFileSync(slow, yaml("slow", "{ anon: 8Mi, hold: 50s }", "{ oom: none }"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

interface Ended {
  stdout: string;
  stderr: string;
  exitCode: number | undefined;
  signal: string | undefined;
}

let count = 0;
/** Runs a module that has the library's functions and these files' names. */
async function program(body: string, args: string[] = []): Promise<Ended> {
  const file = join(folder, `program-${++count}.mjs`);
  writeFileSync(
    file,
    `import * as oomlab from "oomlab";\nconst { run, report } = oomlab;\nconst web = ${JSON.stringify(web)}, slow = ${JSON.stringify(slow)};\n${body}\n`,
  );
  const { stdout, stderr, exitCode, signal } = await execa(process.execPath, [...args, file], {
    cwd: folder,
    reject: false,
    env: { NO_COLOR: "1" },
  });
  return { stdout, stderr, exitCode, signal };
}

/** What differs from run to run. */
const steady = (text: string): string => text.replaceAll(/oomlab-\w{8}/g, "oomlab-ID");

describe("the library", needs(canRun), () => {
  test("prints what the command prints when nothing but paths is stated, and touches nothing in a dry run", async () => {
    const { stdout, stderr, exitCode } = await program(`await run({ paths: [web], dryRun: true })`);
    const command = await oomlab(["run", "--dry-run", web], { cwd: folder });
    expect(steady(stdout)).toBe(steady(command.stdout));
    expect({ stderr, exitCode }).toEqual({ stderr: command.stderr, exitCode: 0 });
  });

  test("reports at the terminal as the command does, process.stdout given or not", async () => {
    for (const streams of ["", ", { stdout: process.stdout, stderr: process.stderr }"]) {
      const { stdout, exitCode } = await program(
        `process.exitCode = (await run({ paths: [web] }${streams})).exitCode;`,
      );
      expect(stdout).toMatch(/✓ oom: memcg[\s\S]*^1 passed$/m);
      expect(exitCode).toBe(0);
    }
  });

  test("resolves to verdicts and prints nothing without a reporter", async () => {
    const { stdout, stderr } = await program(
      `const { exitCode, verdicts, summary } = await run({ paths: [web], reporters: [] });
       console.log(JSON.stringify({ exitCode, summary, kind: verdicts[0].observed.oom, status: verdicts[0].status }));`,
    );
    expect(stderr).toBe("");
    expect(JSON.parse(stdout)).toEqual({
      exitCode: 0,
      summary: { passed: 1, failed: 0, inconclusive: 0, skipped: 0, errored: 0 },
      kind: "memcg",
      status: "passed",
    });
  });

  test("calls a reporter of the program's, beside named ones, in order", async () => {
    const { stdout, stderr } = await program(
      `const hooks = [];
       const own = Object.fromEntries(["onRunStart", "onScenarioStart", "onAttemptEnd", "onScenarioEnd", "onRunEnd"]
         .map((name) => [name, () => hooks.push(name)]));
       await run({ paths: [web], reporters: ["json=out.json", own] });
       console.log(hooks.join(" "));`,
    );
    expect(stdout).toBe("onRunStart onScenarioStart onAttemptEnd onScenarioEnd onRunEnd");
    expect(stderr).toBe("");
    expect(JSON.parse(readFileSync(join(folder, "out.json"), "utf8")).summary.passed).toBe(1);
  });

  test("reports a hook that throws, and the run is no success", async () => {
    const { stdout, stderr } = await program(
      `const own = { onScenarioEnd() { throw new Error("mine"); } };
       const { exitCode, summary } = await run({ paths: [web], reporters: [own] });
       console.log(exitCode, summary.passed);`,
    );
    expect(stdout).toBe("3 1");
    expect(stderr).toBe("oomlab: a report is incomplete: mine");
  });

  test("writes to any stream, and reports records again", async () => {
    const { stdout } = await program(
      `import { PassThrough } from "node:stream";
       import { text } from "node:stream/consumers";
       const stream = new PassThrough();
       await run({ paths: [web], output: "records" }, { stdout: stream });
       stream.end();
       const first = await text(stream);
       const { verdicts } = await report({ paths: ["records"], reporters: [] });
       console.log(first.includes("1 passed"), verdicts[0].status);`,
    );
    expect(stdout).toBe("true passed");
  });

  test("throws errors by name: a wrong option, a missing file, a machine without the means", async () => {
    const { stdout } = await program(
      `for (const options of [{ jobs: 0 }, { paths: ["no-such.yaml"] }, { paths: [web], output: "/proc/no" }])
         await run(options).catch(({ name, exitCode }) => console.log(name, exitCode));`,
    );
    expect(stdout.split("\n")).toEqual(["UsageError 2", "ScenarioErrors 2", "MachineError 3"]);
  });

  describe("that is interrupted", () => {
    const interrupt = `setTimeout(() => process.kill(process.pid, "SIGINT"), 1500);`;

    test("removes what it made and ends the program by the signal", async () => {
      const { stdout, signal } = await program(`${interrupt} await run({ paths: [slow] }); console.log("went on");`);
      expect(signal).toBe("SIGINT");
      expect(stdout).not.toContain("went on");
      expect(leftovers()).toEqual([]);
    });

    test("leaves the program alone that listens to the signal itself", async () => {
      const { stdout, exitCode } = await program(
        `process.on("SIGINT", () => undefined); ${interrupt}
         const { exitCode } = await run({ paths: [slow], reporters: [] }); console.log(exitCode);`,
      );
      expect({ stdout, exitCode }).toEqual({ stdout: "130", exitCode: 0 });
      expect(leftovers()).toEqual([]);
    });

    test("ends by an AbortSignal with status 130", async () => {
      const { stdout, exitCode } = await program(
        `const { exitCode } = await run({ paths: [slow], reporters: [] }, { signal: AbortSignal.timeout(1500) });
         console.log(exitCode);`,
      );
      expect({ stdout, exitCode }).toEqual({ stdout: "130", exitCode: 0 });
      expect(leftovers()).toEqual([]);
    });
  });
});

describe("reports in files", needs(canRun), () => {
  const vm = join(root, "scenarios/vm/global.yaml");

  test("leave one line on stderr: how many of what status", async () => {
    const { stdout, stderr, exitCode } = await oomlab(["run", web, "--reporter", "json=a.json"], { cwd: folder });
    expect({ stdout, stderr, exitCode }).toEqual({ stdout: "", stderr: "oomlab: 1 passed", exitCode: 0 });
  });

  test("leave the first reason there, where nothing ran", async () => {
    const args = ["run", vm, "--machine", "host", "--reporter", "json=a.json", "--reporter", "html=a.html"];
    const { stdout, stderr, exitCode } = await oomlab(args, { cwd: folder });
    expect({ stdout, exitCode }).toEqual({ stdout: "", exitCode: 3 });
    expect(stderr).toMatch(/^oomlab: \d+ skipped: it needs a VM of its own[^\n]*$/);
  });

  test("of explain and doctor are those that standard output would have", async () => {
    const log = join(root, "test/fixtures/blog.log");
    const explained = await oomlab(["explain", log, "--reporter", "json"]);
    const both = await oomlab(["explain", log, "--reporter", "json=kills.json", "--reporter", "terminal"], {
      cwd: folder,
    });
    expect(readFileSync(join(folder, "kills.json"), "utf8").trimEnd()).toBe(explained.stdout);
    expect(both.stdout).toBe((await oomlab(["explain", log])).stdout);
    const doctor = await oomlab(["doctor", "--reporter", "json=doctor.json"], { cwd: folder });
    expect(doctor.stdout).toBe("");
    expect(JSON.parse(readFileSync(join(folder, "doctor.json"), "utf8")).findings).toBeInstanceOf(Array);
  });

  test("with details show them in the JSON alone where it asks for them", async () => {
    const log = join(root, "test/fixtures/blog.log");
    const plain = ["explain", log, "--reporter", "json=plain.json", "--reporter", "terminal"];
    await oomlab(plain, { cwd: folder });
    expect(JSON.parse(readFileSync(join(folder, "plain.json"), "utf8")).kills[0]).not.toHaveProperty("details");
    await oomlab([...plain, "--details"], { cwd: folder });
    expect(JSON.parse(readFileSync(join(folder, "plain.json"), "utf8")).kills[0]).toHaveProperty("details");
  });

  test.each([
    [["explain", "--reporter", "json", "--reporter", "terminal"], /cannot both be on standard output/],
    [["doctor", "--reporter", "html"], /there is no reporter "html": expected one of terminal, json/],
    [["watch", "--reporter", "json"], /there is no reporter "json": expected one of terminal, ndjson/],
    [["explain", "web.yaml", "--reporter", "json=web.yaml"], /would overwrite what is read/],
  ])("oomlab %j is wrong usage", async (args, words) => {
    const { stderr, stdout, exitCode } = await oomlab(args, { cwd: folder, input: "" });
    expect(stderr).toMatch(words);
    expect({ stdout, exitCode }).toEqual({ stdout: "", exitCode: 2 });
  });
});
