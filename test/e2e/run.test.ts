import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { canRun, leftovers, oomlab, root } from "../helpers/cli.ts";
import { needs } from "../helpers/needs.ts";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "oomlab-test-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function scenario(name: string, yaml: string): string {
  const path = join(folder, `${name}.yaml`);
  writeFileSync(path, yaml);
  return path;
}

const kill = `
name: killed
cgroups: { app: { memory.max: 32Mi, memory.swap.max: 0 } }
processes: { hog: { cgroup: app, stress: { anon: 64Mi } } }
expect: { oom: memcg, limit: app, victims: [hog] }
`;

describe("run", needs(canRun), () => {
  test("the blog's first case ends with the kernel's own lines and the verdict", async () => {
    const { stdout, exitCode } = await oomlab(["run", "scenarios/blog", "-g", "^a container over its limit$"]);
    expect(exitCode).toBe(0);
    expect(stdout).toMatch(/Memory cgroup out of memory: Killed process \d+ \(stress\) total-vm:\d+kB, anon-rss:\d+kB/);
    expect(stdout).toMatch(/✓ passed in \d+ ms\n\n1 passed$/);
    expect(leftovers()).toEqual([]);
  });

  test("the JSON report names kind, victim and limit, with the witnesses and the record's lines", async () => {
    // The kernel prints ten reports in 5 s whole (mm/oom_kill.c, oom_rs): those of the tests before are not to be ours.
    await sleep(5_500);
    const { stdout, exitCode } = await oomlab(["run", scenario("json", kill), "--reporter", "json"]);
    expect(exitCode).toBe(0);
    const report = JSON.parse(stdout);
    expect(report).toMatchObject({
      schemaVersion: 1,
      summary: { passed: 1, failed: 0, inconclusive: 0, skipped: 0, errored: 0 },
    });
    const [run] = report.scenarios;
    expect(run).toMatchObject({ name: "killed", machine: "host", status: "passed", reason: null });
    const [told, ...others] = run.observed.kills;
    expect(others).toEqual([]);
    expect(told).toMatchObject({
      kind: "memcg",
      constraint: "CONSTRAINT_MEMCG",
      trigger: "allocation",
      limit: "app",
      process: "hog",
      group: false,
      witnesses: expect.arrayContaining(["kmsg", "counters", "exit"]),
    });
    expect(told.victim).toMatchObject({ comm: "stress", uid: 0, oomScoreAdj: 0 });
    // What a worker of 64 MiB holds when it dies at 32 MiB: a little below the limit.
    expect(told.victim.anonRss).toBeGreaterThan(28 * 2 ** 20);
    expect(told.victim.anonRss).toBeLessThanOrEqual(32 * 2 ** 20);
    expect(told.victim.totalVm).toBeGreaterThanOrEqual(64 * 2 ** 20);
    expect(told.oomMemcg).toMatch(/\/oomlab-[0-9a-z]+\/app$/);
    expect(run.observed.processes.hog).toMatchObject({ exit: { code: null, signal: "SIGKILL" } });
    expect(run.observed.cgroups.app["memory.events"].oom_kill).toBe(1);
    for (const check of run.checks) expect(check.evidence.length, check.name).toBeGreaterThan(0);
    expect(run.kernelLog.some((line: string) => /^\[ *\d+\.\d{6}\] Memory cgroup out of memory: /.test(line))).toBe(
      true,
    );
  });

  test("the evidence that a check cites stands in the record", async () => {
    const output = join(folder, "records");
    const { stdout } = await oomlab(["run", scenario("cited", kill), "--output", output, "--reporter", "json"]);
    const [file] = readdirSync(output);
    const lines = readFileSync(join(output, file ?? ""), "utf8")
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(lines.map(({ line }) => line)).toEqual(lines.map((_, index) => index + 1));
    const check = JSON.parse(stdout).scenarios[0].checks.find(({ name }: { name: string }) => name === "oom");
    const cited = check.evidence.map((line: number) => lines[line - 1]);
    expect(
      cited.some(
        ({ type, text }: { type: string; text: string }) =>
          type === "kmsg" && text.includes("oom-kill:constraint=CONSTRAINT_MEMCG"),
      ),
    ).toBe(true);
    expect(cited.some(({ type }: { type: string }) => type === "process-exit")).toBe(true);
    expect(cited.some(({ type }: { type: string }) => type === "counters")).toBe(true);
  });

  test("a record judged again without a run gives the same report", async () => {
    const output = join(folder, "again");
    const first = await oomlab(["run", scenario("again", kill), "--output", output, "--reporter", "json"]);
    const again = await oomlab([
      "report",
      ...readdirSync(output).map((file) => join(output, file)),
      "--reporter",
      "json",
    ]);
    expect(JSON.parse(again.stdout)).toEqual(JSON.parse(first.stdout));
    expect(again.exitCode).toBe(0);
  });

  test("the ndjson reporter prints records that report reads", async () => {
    const { stdout } = await oomlab(["run", scenario("ndjson", kill), "--reporter", "ndjson"]);
    const path = join(folder, "stream.ndjson");
    writeFileSync(path, stdout);
    const { stdout: told, exitCode } = await oomlab(["report", path]);
    expect(exitCode).toBe(0);
    expect(told).toMatch(/1 passed$/);
  });

  test("the dmesg reporter prints the kernel's records as they came", async () => {
    const { stdout } = await oomlab(["run", scenario("dmesg", kill), "--reporter", "dmesg"]);
    expect(stdout.split("\n").every((line) => line === "" || /^\[ *\d+\.\d{6}\] /.test(line))).toBe(true);
    expect(stdout).toContain("oom-kill:constraint=CONSTRAINT_MEMCG");
  });

  test.each([
    ["another victim than stated", kill.replace("victims: [hog]", "victims: []"), "victims"],
    ["a kill where none was expected", kill.replace("oom: memcg, limit: app, victims: [hog]", "oom: none"), "oom"],
    ["another kind than stated", kill.replace("oom: memcg", "oom: global"), "oom"],
    ["no kill where one was expected", kill.replace("64Mi", "8Mi"), "oom"],
    [
      "a counter that is otherwise",
      kill.replace("victims: [hog]", "victims: [hog], counters: { app: { memory.events.oom_kill: 2 } }"),
      "counters.app.memory.events.oom_kill",
    ],
    ["another exit than stated", kill.replace("victims: [hog]", "victims: [hog], exit: { hog: 0 }"), "exit.hog"],
    ["a survivor that died", kill.replace("victims: [hog]", "survivors: [hog]"), "survivors.hog"],
    ["a log line that did not come", kill.replace("victims: [hog]", "log: ['no such line']"), "log"],
    [
      "a kill that nobody expected",
      kill.replace(/expect:.*/, "expect: { log: ['Killed process'] }"),
      "other OOM kills",
    ],
    ["a panic that did not come", kill.replace("victims: [hog]", "victims: [hog], panic: true"), "panic"],
  ])("%s fails with status 1 and names the check", async (name, yaml, check) => {
    const { stdout, exitCode } = await oomlab(["run", scenario("fails", yaml), "--reporter", "json"]);
    expect(exitCode, name).toBe(1);
    const [run] = JSON.parse(stdout).scenarios;
    expect(run.status).toBe("failed");
    expect(
      run.checks
        .filter(({ status }: { status: string }) => status === "failed")
        .map((failed: { name: string }) => failed.name),
    ).toContain(check);
  });

  test("a kill of what one of two processes in a cgroup forked is that process's", async () => {
    const yaml =
      'name: sidecar\ncgroups: { app: { memory.max: 40Mi, memory.swap.max: 0 } }\nprocesses:\n  service: { cgroup: app, command: "tail /dev/zero; exit 0" }\n  sidecar: { cgroup: app, command: [sleep, "1"] }\nexpect: { oom: memcg, limit: app, victims: [service], survivors: [sidecar], exit: { service: 0 } }\n';
    const { stdout, exitCode } = await oomlab(["run", scenario("sidecar", yaml)]);
    expect(stdout).toMatch(/1 passed$/);
    expect(exitCode).toBe(0);
  });

  test("workers that hold go on holding when one of them is killed, and are let go at the end", async () => {
    const yaml =
      "name: workers\ncgroups: { app: { memory.max: 40Mi, memory.swap.max: 0 } }\nprocesses: { hog: { cgroup: app, stress: { anon: 30Mi, workers: 2, hold: forever } } }\nexpect: { oom: memcg, limit: app, victims: [hog] }\n";
    const { stdout } = await oomlab(["run", scenario("workers", yaml), "--reporter", "json"]);
    const [run] = JSON.parse(stdout).scenarios;
    expect(run.status).toBe("passed");
    expect(run.notes.join()).not.toMatch(/timeout/);
    expect(run.durationMs).toBeLessThan(30_000);
  });

  test.each([
    [
      "a range with its sign",
      "cgroups: { a: { memory.max: 60Mi } }\nprocesses: { p: { cgroup: a, stress: { anon: 50Mi } } }\nexpect: { oom: none, counters: { a: { memory.current: '50Mi \u00b15%' } } }",
    ],
    [
      "a limit that a step lowered",
      "cgroups: { a: { memory.max: 60Mi, memory.swap.max: 0 } }\nprocesses: { p: { cgroup: a, stress: { anon: 80Mi, rate: 20Mi/s } } }\nsteps: [{ write: { cgroup: a, memory.max: 30Mi } }]\nexpect: { oom: memcg, limit: a, victims: [p], counters: { a: { memory.max: 30Mi } } }",
    ],
    [
      "a moved process with its workers",
      "cgroups: { a: { memory.max: 60Mi, memory.swap.max: 0 }, b: { memory.max: 30Mi, memory.swap.max: 0 } }\nprocesses: { p: { cgroup: a, stress: { anon: 60Mi, rate: 20Mi/s, workers: 2 } } }\nsteps: [{ sleep: 300ms }, { move: { process: p, cgroup: b } }]\nexpect: { oom: memcg, limit: b, victims: [p] }",
    ],
    [
      "what a moved command forks",
      "cgroups: { a: { memory.max: 60Mi, memory.swap.max: 0 }, b: { memory.max: 20Mi, memory.swap.max: 0 } }\nprocesses: { p: { cgroup: a, command: 'sleep 0.6; sleep 0.4; tail /dev/zero; exit 0' } }\nsteps: [{ sleep: 200ms }, { move: { process: p, cgroup: b } }]\nexpect: { oom: memcg, limit: b, victims: [p] }",
    ],
    [
      "a wait for one that dies",
      "cgroups: { a: { memory.max: 30Mi, memory.swap.max: 0 } }\nprocesses: { p: { cgroup: a, stress: { anon: 50Mi } } }\nsteps: [{ wait: { process: p, touched: true, timeout: 20s } }]\nexpect: { oom: memcg, victims: [p] }",
    ],
  ])("%s is judged right", async (name, yaml) => {
    const { stdout, exitCode } = await oomlab([
      "run",
      "--machine",
      "host",
      scenario("judged", `name: judged\n${yaml}\n`),
    ]);
    expect(stdout, name).toMatch(/1 passed$/);
    expect(exitCode).toBe(0);
  });

  test("a stated limit, trigger or time alone accounts for the kill that it is about", async () => {
    for (const stated of [
      "limit: app",
      "trigger: allocation",
      "within: 30s",
      "exit: { hog: SIGKILL }",
      "counters: { app: { memory.events.oom_kill: 1 } }",
    ]) {
      const { exitCode } = await oomlab([
        "run",
        scenario("stated", kill.replace(/expect:.*/, `expect: { ${stated} }`)),
      ]);
      expect(exitCode, stated).toBe(0);
    }
  });

  test("a worker that the kernel refuses memory makes no verdict: ENOMEM is no OOM kill", async () => {
    const yaml =
      "name: refused\ncgroups: { app: { memory.max: 64Mi } }\nprocesses: { hog: { cgroup: app, stress: { anon: 32Mi }, rlimits: { AS: 10Mi } } }\nexpect: { oom: none }\n";
    const { stdout, exitCode } = await oomlab(["run", scenario("refused", yaml), "--reporter", "json"]);
    expect(exitCode).toBe(3);
    expect(JSON.parse(stdout).scenarios[0]).toMatchObject({
      status: "inconclusive",
      reason: expect.stringContaining("ENOMEM"),
    });
  });

  test("a run that its timeout ended reads its own SIGKILL as none of the kernel's", async () => {
    const yaml =
      "name: slow\ntimeout: 600ms\ncgroups: { app: { memory.max: 64Mi } }\nprocesses: { hog: { cgroup: app, stress: { anon: 48Mi, rate: 10Mi/s } } }\nexpect: { oom: none, victims: [] }\n";
    const { stdout, exitCode } = await oomlab(["run", scenario("slow", yaml), "--reporter", "json"]);
    const [run] = JSON.parse(stdout).scenarios;
    expect(run).toMatchObject({
      status: "passed",
      observed: { kills: [], processes: { hog: { exit: { signal: "SIGKILL" } } } },
    });
    expect(run.notes).toContain("it was ended by its timeout of 600 ms");
    expect(exitCode).toBe(0);
  });

  test.each([
    [["--machine", "host", "--kernel", "6.1"], "--kernel is the VM's"],
    [["--machine", "vm", "--node", "worker-1"], "--node is a cluster's"],
  ])("a flag of another machine's is refused: %j", async (flags, message) => {
    const { stderr, exitCode } = await oomlab(["run", ...flags, scenario("elsewhere", kill)]);
    expect([exitCode, stderr]).toEqual([2, expect.stringContaining(message)]);
  });

  test("what a scenario of another machine needs is skipped with the reason, and all skipped is status 3", async () => {
    const yaml = "name: elsewhere\nprocesses: { hog: { stress: { anon: 1Mi } } }\n";
    const { stdout, exitCode } = await oomlab(["run", "--machine", "host", scenario("elsewhere", yaml)]);
    expect(exitCode).toBe(3);
    expect(stdout).toMatch(/- elsewhere {2}skipped: .*process hog has no memory limit above it/);
    expect(
      (
        await oomlab([
          "run",
          "--machine",
          "host",
          scenario("elsewhere", yaml),
          scenario("here", kill),
          "--fail-on-skipped",
        ])
      ).exitCode,
    ).toBe(1);
    expect(
      (await oomlab(["run", "--machine", "host", scenario("elsewhere", yaml), scenario("here", kill)])).exitCode,
    ).toBe(0);
  });

  test("each repetition, retry, shard and the first failure do what their flags say", async () => {
    const path = scenario(
      "flags",
      `${kill}---${kill.replace("name: killed", "name: other").replace("victims: [hog]", "victims: []")}`,
    );
    const statuses = async (...flags: string[]): Promise<string[]> => {
      const { stdout } = await oomlab(["run", path, "--reporter", "json", ...flags]);
      return JSON.parse(stdout).scenarios.map(
        ({ name, status }: { name: string; status: string }) => `${name} ${status}`,
      );
    };
    expect(await statuses()).toEqual(["killed passed", "other failed"]);
    expect(await statuses("--repeat-each", "2", "-g", "killed")).toEqual(["killed passed", "killed passed"]);
    expect(await statuses("-x", "--repeat-each", "2", "-g", "other")).toEqual(["other failed"]);
    expect(await statuses("--shard", "2/2")).toEqual(["other failed"]);
    expect(await statuses("-j", "2")).toEqual(["killed passed", "other failed"]);
    const { stderr } = await oomlab(["run", path, "-g", "other", "--retries", "1"]);
    expect(stderr).toMatch(/other: failed .* tried again \(1 of 1\)/);
  });

  test("two oomlabs at once see each other's kills as foreign at most", async () => {
    const path = scenario("twice", kill);
    const runs = await Promise.all(
      [1, 2, 3].map(() => oomlab(["run", path, "--repeat-each", "3", "--reporter", "json"])),
    );
    for (const { stdout, exitCode } of runs) {
      const { scenarios } = JSON.parse(stdout);
      expect(
        scenarios.map(({ status, reason }: { status: string; reason: string | null }) => ({ status, reason })),
      ).toEqual(Array.from({ length: 3 }, () => ({ status: "passed", reason: null })));
      expect(exitCode).toBe(0);
      for (const { observed } of scenarios) {
        expect(observed.kills).toHaveLength(1);
        for (const foreign of observed.foreignKills) expect(foreign).toMatchObject({ process: null, limit: null });
      }
    }
    expect(leftovers()).toEqual([]);
  });

  test("--dry-run prints the plan and makes nothing", async () => {
    const before = leftovers();
    const { stdout, exitCode } = await oomlab([
      "run",
      "--dry-run",
      "--reporter",
      "json",
      "--cgroup",
      "v1,v2",
      scenario("dry", kill),
    ]);
    expect(exitCode).toBe(0);
    const { scenarios } = JSON.parse(stdout);
    expect(scenarios.map(({ cgroupVersion }: { cgroupVersion: number }) => cgroupVersion)).toEqual([1, 2]);
    expect(scenarios[0].cgroups[0]).toMatchObject({
      name: "app",
      path: expect.stringMatching(/^\/.*\/app$/),
      writes: [
        { file: "memory.limit_in_bytes", value: "33554432", why: "memory.max: 32Mi" },
        { file: "memory.memsw.limit_in_bytes", value: "33554432" },
      ],
    });
    expect(scenarios[1].cgroups[0].writes[0]).toEqual({
      file: "memory.max",
      value: "33554432",
      why: "memory.max: 32Mi",
    });
    expect(scenarios[0].processes[0]).toMatchObject({ name: "hog", cgroup: "app", oomScoreAdj: null });
    expect(leftovers()).toEqual(before);
  });
});

describe("the shipped scenarios", needs(canRun), () => {
  test("pass on the host, or are skipped for what it must not or cannot do", async () => {
    const { stdout } = await oomlab([
      "run",
      "--machine",
      "host",
      "scenarios",
      "-g",
      "^(?!.*full scale)",
      "--reporter",
      "json",
    ]);
    const { scenarios } = JSON.parse(stdout);
    const unexpected = scenarios
      .filter(
        ({ status, reason }: { status: string; reason: string }) =>
          status !== "passed" &&
          !(status === "skipped" && /cgroup v[12]|a VM of its own|CAP_SYS_RESOURCE/.test(reason)),
      )
      .map(
        ({ name, status, reason }: { name: string; status: string; reason: string }) => `${name}: ${status}: ${reason}`,
      );
    expect(unexpected).toEqual([]);
    expect(scenarios.length).toBeGreaterThan(40);
    expect(leftovers()).toEqual([]);
  });

  test("each file has a negative control", async () => {
    const filesOf = async (...flags: string[]): Promise<Set<string | undefined>> =>
      new Set(
        (await oomlab(["run", "--list", "scenarios", ...flags])).stdout.split("\n").map((line) => line.split(":")[0]),
      );
    const controlled = await filesOf("--tag", "control");
    // A manifest states no expectation, so it has nothing to control.
    const isManifest = (file: string): boolean => /^apiVersion:/m.test(readFileSync(join(root, file), "utf8"));
    expect([...(await filesOf())].filter((file) => !controlled.has(file) && !isManifest(file ?? ""))).toEqual([]);
  });
});
