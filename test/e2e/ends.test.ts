import { copyFileSync, cpSync, chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { execa } from "execa";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { bin, canRun, eventually, leftovers, oomlab, processesWith, root, start } from "../helpers/cli.ts";
import { needs } from "../helpers/needs.ts";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "oomlab-ends-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A scenario that holds memory in workers and in a command's descendants, one of them in a session of its own. */
function holding(mark: string): string {
  const path = join(folder, `${mark}.yaml`);
  writeFileSync(
    path,
    `name: holds
cgroups: { a: { memory.max: 64Mi, memory.swap.max: 0 }, b: { memory.max: 64Mi } }
processes:
  hog: { cgroup: a, stress: { anon: 8Mi, hold: 60s, workers: 2 } }
  sh: { cgroup: b, command: "(exec -a ${mark} sleep 60) & (exec setsid -f sleep 60) ; exec -a ${mark} sleep 60" }
expect: { oom: none }
`
      .replaceAll('command: "', 'command: [bash, -c, "')
      .replace('sleep 60" }', 'sleep 60"] }'),
  );
  return path;
}

const running = (mark: string): boolean => processesWith(mark).length >= 2 && processesWith("--hold").length >= 3;

describe("bad ends", needs(canRun), () => {
  test.each(["SIGINT", "SIGTERM", "SIGHUP"] as const)(
    "%s ends the run in order: status 130, no process and no cgroup left",
    async (signal) => {
      const mark = `oomlab-mark-${signal.toLowerCase()}`;
      const run = start(["run", holding(mark)]);
      await eventually(() => running(mark), "the run's processes");
      run.kill(signal);
      const { exitCode, stdout } = await run.ended;
      expect(exitCode).toBe(130);
      expect(stdout).toMatch(new RegExp(`interrupted \\(${signal}\\)`));
      expect(leftovers()).toEqual([]);
      expect(processesWith(mark)).toEqual([]);
    },
  );

  test("kill -9 of oomlab takes its workers along, and clean removes the rest", async () => {
    const mark = "oomlab-mark-kill9";
    const run = start(["run", holding(mark)]);
    await eventually(() => running(mark), "the run's processes");
    run.kill("SIGKILL");
    await run.ended;
    await eventually(() => processesWith("--hold").length === 0, "the workers' end");
    expect(leftovers()).not.toEqual([]);
    const { stdout, exitCode } = await oomlab(["clean"]);
    expect(exitCode).toBe(0);
    expect(stdout).toMatch(/^removed .*\/oomlab-[0-9a-z]+$/m);
    expect(leftovers()).toEqual([]);
    expect(processesWith(mark)).toEqual([]);
  });

  test("the next run removes what a killed one left", async () => {
    const mark = "oomlab-mark-next";
    const run = start(["run", holding(mark)]);
    await eventually(() => running(mark), "the run's processes");
    run.kill("SIGKILL");
    await run.ended;
    const next = await oomlab(["run", "scenarios/memcg/own-limit.yaml"]);
    expect(next.exitCode).toBe(0);
    expect(leftovers()).toEqual([]);
  });

  test("clean leaves a living run alone", async () => {
    const mark = "oomlab-mark-alive";
    const run = start(["run", holding(mark)]);
    await eventually(() => running(mark), "the run's processes");
    const { stdout } = await oomlab(["clean"]);
    expect(stdout).toMatch(/its oomlab is still running/);
    expect(running(mark)).toBe(true);
    run.kill("SIGINT");
    await run.ended;
    expect(leftovers()).toEqual([]);
  });

  test("kill -9 of a worker is no OOM kill, and no proof of survival either", async () => {
    const path = join(folder, "worker.yaml");
    writeFileSync(
      path,
      "name: worker\ncgroups: { a: { memory.max: 64Mi } }\nprocesses: { hog: { cgroup: a, stress: { anon: 32Mi, rate: 4Mi/s } } }\nexpect: { oom: none }\n",
    );
    const run = start(["run", path, "--reporter", "json"]);
    await eventually(() => processesWith("--sync-fd").length === 1, "the worker");
    process.kill(processesWith("--sync-fd")[0] ?? 0, "SIGKILL");
    const { stdout, exitCode } = await run.ended;
    const [told] = JSON.parse(stdout).scenarios;
    expect(told).toMatchObject({
      status: "inconclusive",
      reason: expect.stringMatching(/SIGKILL (?:from node|that no kernel record or counter explains)/),
      observed: { oom: "none", kills: [] },
    });
    expect(exitCode).toBe(3);
  });

  test("a signal of ours that did not end the worker does not explain the one that did", async () => {
    const path = join(folder, "sigcont.yaml");
    writeFileSync(
      path,
      "name: sigcont\ncgroups: { a: { memory.max: 64Mi } }\nprocesses: { hog: { cgroup: a, stress: { anon: 32Mi, rate: 4Mi/s } } }\nsteps: [{ sleep: 100ms }, { kill: { process: hog, signal: SIGCONT } }]\nexpect: { oom: none }\n",
    );
    const run = start(["run", path]);
    await eventually(() => processesWith("--sync-fd").length === 1, "the worker");
    await new Promise((resolve) => setTimeout(resolve, 500));
    process.kill(processesWith("--sync-fd")[0] ?? 0, "SIGKILL");
    const { stdout, exitCode } = await run.ended;
    expect(stdout).toMatch(/SIGKILL (?:from node|that no kernel record or counter explains)/);
    expect(exitCode).toBe(3);
  });

  test("a cgroup that is removed under its feet is told in plain words", async () => {
    const path = join(folder, "removed.yaml");
    writeFileSync(
      path,
      "name: removed\ncgroups: { a: { memory.max: 64Mi }, b: { memory.max: 64Mi } }\nprocesses: { hog: { cgroup: a, stress: { anon: 1Mi, hold: 1500ms } } }\nexpect: { oom: none }\n",
    );
    const run = start(["run", path]);
    await eventually(
      () => leftovers().some((line) => line.includes("oomlab-")) && processesWith("--sync-fd").length === 1,
      "the run's cgroup",
    );
    const top = leftovers().find((line) => /oomlab-[0-9a-z]+$/.test(line)) ?? "";
    await execa("rmdir", [join(top, "b")]);
    const { stdout, stderr, exitCode } = await run.ended;
    expect(stdout).toMatch(/errored in \d+ ms: the cgroup \S+\/b was removed while the run was using it/);
    expect(`${stdout}${stderr}`).not.toMatch(/^\s+at /m);
    expect(exitCode).toBe(3);
    expect(leftovers()).toEqual([]);
  });

  test("a reader that goes away is no error", async () => {
    const { stderr } = await execa(
      "sh",
      ["-c", `"${process.execPath}" "${bin}" run scenarios/memcg/own-limit.yaml | head -1`],
      { cwd: root, reject: false },
    );
    expect(stderr).toBe("");
    expect(leftovers()).toEqual([]);
  });

  test("a folder or file that cannot be written is told before anything is run", async () => {
    const file = join(folder, "a-file");
    writeFileSync(file, "");
    const { stderr, exitCode } = await oomlab([
      "run",
      "scenarios/memcg/own-limit.yaml",
      "--output",
      join(file, "below"),
    ]);
    expect(exitCode).toBe(3);
    expect(stderr).toMatch(/^oomlab: records cannot be written to .*a-file\/below: /);
    expect(stderr).not.toMatch(/^\s+at /m);
    const report = await oomlab([
      "run",
      "scenarios/memcg/own-limit.yaml",
      "--reporter",
      `json=${join(file, "below.json")}`,
    ]);
    expect(report.exitCode).toBe(3);
    expect(report.stderr).toMatch(/^oomlab: the report .*below\.json cannot be written: /);
  });

  test("a full standard output or report is told in a line, and is not status 0", async () => {
    const full = await execa(
      "sh",
      ["-c", `"${process.execPath}" "${bin}" run scenarios/memcg/own-limit.yaml > /dev/full`],
      {
        cwd: root,
        reject: false,
      },
    );
    expect(full.exitCode).toBe(3);
    expect(full.stderr).toMatch(/^oomlab: standard output is incomplete: ENOSPC/);
    expect(full.stderr).not.toMatch(/^\s+at /m);
    const report = await oomlab(["run", "scenarios/memcg/own-limit.yaml", "--reporter", "json=/dev/full"]);
    expect(report.exitCode).toBe(3);
    expect(report.stderr).toMatch(/^oomlab: a report is incomplete: ENOSPC/);
    const help = await execa("sh", ["-c", `"${process.execPath}" "${bin}" run --help > /dev/full`], { reject: false });
    expect([help.exitCode, help.stderr]).toEqual([
      3,
      expect.stringMatching(/^oomlab: standard output is incomplete: [^\n]*$/),
    ]);
    expect(leftovers()).toEqual([]);
  });

  test.each(["run", "predict", "sweep"])("%s that waits for its scenario is ended by a signal", async (command) => {
    const fifo = join(folder, `pipe-${command}.yaml`);
    await execa("mkfifo", [fifo]);
    const run = start([command, fifo, ...(command === "run" ? [] : ["--vary", "process.rate=1Mi/s..2Mi/s"])]);
    await new Promise((resolve) => setTimeout(resolve, 1000));
    run.kill("SIGTERM");
    expect(await run.ended).toMatchObject({ signal: "SIGTERM", stdout: "", stderr: "" });
    // Of a folder, a pipe is not read.
    const none = await oomlab(["validate", folder, "nothing.yaml"]);
    expect(none.stderr).toContain("nothing.yaml: no such file");
  });

  test("Ctrl-C says in the reports what was not run", async () => {
    const path = join(folder, "two.yaml");
    const scenario = (name: string): string =>
      `name: ${name}\ncgroups: { a: { memory.max: 64Mi } }\nprocesses: { p: { cgroup: a, stress: { anon: 8Mi, hold: 20s } } }\n`;
    writeFileSync(path, `${scenario("one")}---\n${scenario("two")}`);
    const run = start(["run", path, "--reporter", "json"]);
    await eventually(() => leftovers().length > 0, "a cgroup of the run");
    run.kill("SIGINT");
    const { stdout, exitCode } = await run.ended;
    expect(exitCode).toBe(130);
    expect(JSON.parse(stdout)).toMatchObject({
      summary: { errored: 1 },
      notes: ["1 of 2 scenarios were not run: the run was interrupted"],
    });
    expect(leftovers()).toEqual([]);
  });

  test("a terminal obeys no file's name", async () => {
    const name = join(folder, "\u001b]0;title\u0007.yaml");
    writeFileSync(name, "name: a\nprocesses: { p: { command: ['true'] } }\n");
    const bad = join(folder, "\u001b[31m.json");
    writeFileSync(bad, "{");
    const texts = await Promise.all(
      [
        ["run", name, "--list"],
        ["validate", name],
        ["validate", bad],
        ["validate", join(folder, "\u001b[2Jmissing")],
        ["report", join(folder, "\u001b[2Jmissing")],
        ["run", "--machine", "\u001b[2J"],
        ["\u001b[2J"],
      ].map((args) => oomlab(args)),
    );
    for (const { stdout, stderr } of texts) {
      expect(stdout + stderr).toMatch(/\\x1b/);
      expect(stdout + stderr).not.toContain("\u001b");
    }
    expect(texts[2]?.stderr).toContain("expected JSON");
  });

  test("what a command makes below its cgroup is removed with it", async () => {
    const path = join(folder, "nested.yaml");
    writeFileSync(
      path,
      `name: nested
cgroups: { a: { memory.max: 64Mi } }
processes:
  y:
    cgroup: a
    command: |
      d=$(for c in /sys/fs/cgroup/memory /sys/fs/cgroup; do for p in $(cut -d: -f3 /proc/self/cgroup); do [ -e "$c$p/memory.stat" ] && echo "$c$p"; done; done | grep oomlab | head -1)
      mkdir "$d/x" "$d/x/y" && (sleep 100 >/dev/null 2>&1 & echo $! > "$d/x/y/cgroup.procs")
expect: { oom: none, exit: { y: 0 } }
`,
    );
    const { stdout, exitCode } = await oomlab(["run", path]);
    expect(stdout).toMatch(/1 passed$/);
    expect(exitCode).toBe(0);
    expect(leftovers()).toEqual([]);
  });

  test("the timeout ends the steps too: nothing goes on behind it, and what was not reached proves nothing", async () => {
    const path = join(folder, "late.yaml");
    writeFileSync(
      path,
      "name: late\ntimeout: 500ms\ncgroups: { a: { memory.max: 64Mi } }\nprocesses: { y: { cgroup: a, stress: { anon: 1Mi } } }\nsteps: [{ sleep: 50s }, { start: y }]\nexpect: { oom: none, survivors: [y] }\n",
    );
    const began = Date.now();
    const { stdout, exitCode } = await oomlab(["run", path, "--reporter", "json"]);
    expect(Date.now() - began).toBeLessThan(10_000);
    expect(exitCode).toBe(3);
    const [{ checks }] = JSON.parse(stdout).scenarios;
    expect(checks).toContainEqual(
      expect.objectContaining({ name: "survivors.y", actual: "never started", status: "inconclusive" }),
    );
    expect(checks).toContainEqual(expect.objectContaining({ name: "step 1 (sleep)", status: "inconclusive" }));
  });

  test("a full disk costs the record, not the verdict, and is told", async () => {
    const mount = join(folder, "full");
    mkdirSync(mount);
    await execa("mount", ["-t", "tmpfs", "-o", "size=8k", "none", mount]);
    try {
      const { stdout, stderr, exitCode } = await oomlab(["run", "scenarios/memcg/own-limit.yaml", "--output", mount]);
      expect(stdout).toMatch(/2 passed$/);
      expect(stderr).toMatch(/the record .* is incomplete: ENOSPC/);
      expect(exitCode).toBe(3);
    } finally {
      await execa("umount", [mount]);
    }
  });
});

describe("machines that lack something", needs(canRun), () => {
  /** oomlab in a mount namespace of its own, after some shell commands there. */
  const within = async (
    commands: string,
    args: string[],
  ): Promise<{ stdout: string; stderr: string; exitCode: number | undefined }> => {
    const { stdout, stderr, exitCode } = await execa(
      "unshare",
      ["--mount", "sh", "-c", `${commands} && exec "$@"`, "sh", process.execPath, bin, ...args],
      { cwd: root, reject: false },
    );
    return { stdout, stderr, exitCode };
  };

  test("a read-only cgroup filesystem is a reason to skip, with what to do", async () => {
    const { stdout, exitCode } = await within(
      "for m in $(awk '$3 ~ /^cgroup/ {print $2}' /proc/mounts); do mount -o remount,ro,bind $m; done",
      ["run", "--machine", "host", "scenarios/memcg/own-limit.yaml"],
    );
    expect(stdout).toMatch(
      /skipped: the cgroup filesystem at .* is mounted read-only \(a container: run it with --privileged\)/,
    );
    expect(exitCode).toBe(3);
  });

  test("without /dev/kmsg the counters and the exit status prove a kill for a limit", async () => {
    const { stdout, exitCode } = await within(
      "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && mknod -m 666 /dev/urandom c 1 9",
      ["run", "--machine", "host", "scenarios/memcg/own-limit.yaml"],
    );
    expect(stdout).toMatch(/witnesses: counters, exit; the kernel log was not readable/);
    expect(stdout).toMatch(/note: .* rests on two witnesses, .*there is no \/dev\/kmsg.*; to read it: /);
    expect(exitCode).toBe(0);
  });

  const restricted = readFileSync("/proc/sys/kernel/dmesg_restrict", "latin1").trim() === "1";
  test(
    "without CAP_SYSLOG a pattern in the kernel's log is inconclusive, and what opens it is said",
    needs("kernel.dmesg_restrict", restricted),
    async () => {
      const file = join(folder, "pattern.yaml");
      writeFileSync(
        file,
        "cgroups: { app: { memory.max: 20Mi, memory.swap.max: 0 } }\nprocesses: { hog: { cgroup: app, stress: { anon: 40Mi } } }\nexpect: { oom: memcg, limit: app, victims: [hog], log: [Killed process] }\n",
      );
      const { stdout, exitCode } = await execa(
        "setpriv",
        ["--bounding-set=-syslog,-sys_admin", process.execPath, bin, "run", "--machine", "host", file],
        { reject: false },
      );
      expect(stdout).toMatch(/✓ limit: app/);
      expect(stdout).toMatch(
        /\? log: expected .* got nothing \(the kernel log was not readable.*; to read it: .*CAP_SYSLOG/,
      );
      expect(exitCode).toBe(3);
    },
  );

  test("without a memory controller the reason names it", async () => {
    const { stdout, exitCode } = await within(
      "umount -l /sys/fs/cgroup/memory 2>/dev/null || umount -l /sys/fs/cgroup",
      ["run", "--machine", "host", "scenarios/memcg/own-limit.yaml"],
    );
    expect(stdout).toMatch(/skipped: cgroup v[12]/);
    expect(exitCode).toBe(3);
    expect(
      (await within("umount -l /sys/fs/cgroup/memory 2>/dev/null || umount -l /sys/fs/cgroup", ["doctor"])).exitCode,
    ).toBe(3);
  });

  test("an ordinary user is told to be root", async () => {
    const copy = join(folder, "copy");
    for (const path of ["dist", "native/build/Release"]) mkdirSync(join(copy, path), { recursive: true });
    cpSync(join(root, "dist"), join(copy, "dist"), { recursive: true });
    for (const file of ["oomlab.node", "stress"])
      copyFileSync(join(root, "native/build/Release", file), join(copy, "native/build/Release", file));
    copyFileSync(join(root, "scenarios/memcg/own-limit.yaml"), join(copy, "own-limit.yaml"));
    chmodSync(folder, 0o755);
    const { stdout, stderr, exitCode } = await execa(
      "setpriv",
      [
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        process.execPath,
        join(copy, "dist/oomlab.cjs"),
        "run",
        "--machine",
        "host",
        join(copy, "own-limit.yaml"),
      ],
      { reject: false },
    );
    expect(stdout).toMatch(/skipped: .*run oomlab as root/);
    expect(stderr).toBe("");
    expect(exitCode).toBe(3);
  });

  test.each([
    ["a checkout", true, "npm run setup"],
    ["an installed package", false, "npm run build:native"],
  ])("without the native part %s says how to build it", async (what, hasSetup, command) => {
    const copy = join(folder, what);
    mkdirSync(join(copy, "scripts"), { recursive: true });
    if (hasSetup) copyFileSync(join(root, "scripts/setup.mjs"), join(copy, "scripts/setup.mjs"));
    cpSync(join(root, "dist"), join(copy, "dist"), { recursive: true });
    copyFileSync(join(root, "scenarios/memcg/own-limit.yaml"), join(copy, "own-limit.yaml"));
    for (const args of [
      ["run", "--machine", "host", join(copy, "own-limit.yaml")],
      ["stress", "-m", "1"],
      ["doctor"],
    ]) {
      const { stdout, stderr, exitCode } = await execa(process.execPath, [join(copy, "dist/oomlab.cjs"), ...args], {
        reject: false,
      });
      expect(`${stdout}${stderr}`).toMatch(new RegExp(`the native part is not built.*\n.*run \`${command}\``));
      expect(`${stdout}${stderr}`).not.toMatch(/^\s+at /m);
      expect(exitCode).toBe(3);
    }
  });
});

describe("the command line", () => {
  test.each([
    [["--reportr"], /unknown option '--reportr'/],
    [["rnu"], /unknown command 'rnu'[\s\S]*Did you mean run\?/],
    [["run", "--reportr", "json"], /Did you mean --reporter\?/],
    [["run", "--reporter", "jsn"], /there is no reporter "jsn": expected one of terminal, json/],
    [["run", "--machine", "moon"], /Allowed choices are auto, host, vm, container, kubernetes/],
    [["run", "--cgroup", "v3"], /Expected v1, v2, hybrid, or several of them: v1,v2/],
    [["run", "--timeout", "5parsecs"], /--timeout/],
    [["run", "--shard", "3/2"], /Expected i\/n/],
    [["run", "-j", "0"], /whole number from 1/],
    [["run", "-g", "("], /--grep/],
    [["run", "no/such/file.yaml"], /no\/such\/file\.yaml/],
    [["validate", "no/such/folder"], /no\/such\/folder/],
    [["report"], /name the records to report/],
    [["report", "package.json"], /package\.json:1: expected/],
    [["report", "no-such-record"], /no-such-record cannot be read/],
    [["explain", "no-such-log"], /no-such-log cannot be read/],
  ])("oomlab %s is wrong usage: status 2 and what would be right", async (args, words) => {
    const { stderr, stdout, exitCode } = await oomlab(args);
    expect(stderr).toMatch(words);
    expect(stderr).not.toMatch(/^\s+at /m);
    expect(stdout).toBe("");
    expect(exitCode).toBe(2);
  });

  test("run with no file in sight says what to do next", async () => {
    const { stderr, exitCode } = await oomlab(["run"], { cwd: folder });
    expect(exitCode).toBe(2);
    expect(stderr.split("\n").length).toBeLessThan(8);
    expect(stderr).toMatch(/oomlab run/);
  });

  test("explain reads a file and standard input alike", async () => {
    const log = join(root, "test/fixtures/blog.log");
    const file = await oomlab(["explain", log, "--reporter", "json"]);
    const stdin = await oomlab(["explain", "--reporter", "json"], { input: readFileSync(log) });
    expect(file.exitCode).toBe(0);
    expect(stdin.stdout).toBe(file.stdout);
    const { kills } = JSON.parse(file.stdout);
    expect(
      kills.map(({ kind, victim }: { kind: string; victim: { pid: number; comm: string } }) => [
        kind,
        victim.pid,
        victim.comm,
      ]),
    ).toEqual([["memcg", 27881, "stress"]]);
  });

  test("explain refuses what is no text, instead of telling it free of kills", async () => {
    for (const input of [
      Buffer.from("fd377a585a0000", "hex"),
      Buffer.from("BZh91AY&SY"),
      Buffer.alloc(4096, "\u0001\u0002abc"),
    ]) {
      const { stdout, stderr, exitCode } = await oomlab(["explain"], { input });
      expect(stderr).toMatch(/cannot be read: it is /);
      expect(stdout).toBe("");
      expect(exitCode).toBe(2);
    }
  });

  test("explain of a log without a kill is status 0", async () => {
    const { stdout, exitCode } = await oomlab(["explain"], { input: "nothing of interest\n" });
    expect(stdout).toBe("no OOM kill in this log");
    expect(exitCode).toBe(0);
  });

  test("schema prints a JSON Schema, stress the worker's help, doctor what is there", async () => {
    expect(JSON.parse((await oomlab(["schema"])).stdout)).toMatchObject({
      $schema: expect.stringContaining("json-schema.org"),
    });
    const help = await oomlab(["stress", "--help"]);
    expect(help.stdout).toContain("--vm-bytes");
    const doctor = JSON.parse((await oomlab(["doctor", "--reporter", "json"])).stdout);
    expect(doctor.findings.map(({ name }: { name: string }) => name)).toEqual(
      expect.arrayContaining(["native part", "cgroup v1", "cgroup v2", "kernel log"]),
    );
  });
});
