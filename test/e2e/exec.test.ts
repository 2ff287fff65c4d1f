/** `oomlab exec` on this machine: small limits, own processes. */
import { spawn } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { execa } from "execa";
import { afterAll, describe, expect, test } from "vitest";
import { traceProblem } from "../../src/engine/trace.ts";
import { loadAddon } from "../../src/native.ts";
import { bin, canRun, type Ended, eventually, leftovers, oomlab, processesWith, start } from "../helpers/cli.ts";
import { needs } from "../helpers/needs.ts";

const folder = mkdtempSync(join(tmpdir(), "oomlab-test-exec-"));
afterAll(() => rmSync(folder, { recursive: true }));

const exec = (...args: string[]): Promise<Ended> => oomlab(["exec", ...args]);
const grow = "const a=[]; for (;;) a.push(Buffer.alloc(1e6, 1))";
const heap = "const a=[]; for (;;) a.push(new Array(1e4).fill(1.5))";

/** Trace instances that are there now, oomlab's. */
function instances(): string[] {
  const fd = loadAddon().mountDetached("tracefs");
  return readdirSync(`/proc/self/fd/${fd}/instances`).filter((name) => name.startsWith("oomlab-"));
}

describe("exec", needs(canRun), () => {
  test.each([
    ["sh -c 'exit 0'", ["sh", "-c", "exit 0"], 0],
    ["sh -c 'exit 7'", ["sh", "-c", "exit 7"], 7],
    ["a SIGTERM of its own", ["sh", "-c", "kill -TERM $$"], 143],
    ["an abort", ["sh", "-c", "kill -ABRT $$"], 134],
  ])("passes on how a command ended: %s", async (_, command, status) => {
    const { exitCode, stdout } = await exec("--quiet", "--", ...command);
    expect({ exitCode, stdout }).toEqual({ exitCode: status, stdout: "" });
  });

  test("says nothing of a command that ends by itself", async () => {
    expect((await exec("-m", "100Mi", "--", "sh", "-c", "echo out; echo err >&2; exit 3")).stderr).toBe("err");
  });

  test("ends with 127 for a command that is not found, 126 for one that cannot be executed, 125 for its own failures", async () => {
    const file = join(folder, "not-executable");
    writeFileSync(file, "#!/bin/sh\n", { mode: 0o644 });
    expect(await exec("oomlab-no-such-command")).toMatchObject({
      exitCode: 127,
      stderr: "oomlab: oomlab-no-such-command: command not found",
    });
    expect((await exec("--", file)).exitCode).toBe(126);
    expect((await exec("--no-such-flag", "--", "true")).exitCode).toBe(125);
    expect((await exec("-m", "much", "--", "true")).exitCode).toBe(125);
    expect((await exec("--machine", "vm", "--", "true")).exitCode).toBe(125);
  });

  test("says whose limit was hit, and how much it held, in one line", async () => {
    const { exitCode, stderr } = await exec("-m", "64Mi", "--swap", "0", "--", process.execPath, "-e", grow);
    expect(exitCode).toBe(137);
    expect(stderr).toMatch(
      /^oomlab: \S+ was killed by the kernel's OOM killer: the memory limit of command \(64Mi\) was hit, it held \d+(?:Ki|Mi)$/,
    );
  });

  test("says it of a child too, and of a limit on the cgroup above", async () => {
    const script = `"${process.execPath}" -e '${grow}'; exit $?`;
    const { exitCode, stderr } = await exec("-m", "64Mi", "--limit-on", "parent", "--", "sh", "-c", script);
    expect(exitCode).toBe(137);
    expect(stderr).toMatch(
      /oomlab: sh ended with status 137, for its child node \(pid \d+\) was killed .* limit of limit \(64Mi\)/,
    );
  });

  test.each([
    ["a pipe", "2>&1 | cat >&2; exit ${PIPESTATUS[0]}"],
    ["a file", `2>${join(folder, "stderr")}; s=$?; cat ${join(folder, "stderr")} >&2; exit $s`],
  ])("tells V8's heap limit from an OOM kill, standard error being %s", async (_, where) => {
    const { exitCode, stderr } = await execa(
      "bash",
      ["-c", `"$0" "$1" exec -m 512Mi -- "$0" --max-old-space-size=40 -e '${heap}' ${where}`, process.execPath, bin],
      { reject: false },
    );
    expect(exitCode).toBe(134);
    expect(stderr.split("\n").at(-1)).toMatch(/^oomlab: \S+ ended with SIGABRT: V8 gave up.*heap out of memory$/);
  });

  test("names who sent a SIGKILL", needs("tracefs", traceProblem(loadAddon()) === null), async () => {
    const { exitCode, stderr } = await exec("--", "sh", "-c", "sleep 60 & kill -9 $$");
    expect(exitCode).toBe(137);
    expect(stderr).toBe("oomlab: sh was ended by the SIGKILL that it sent to itself");
    const word = `70.${process.pid}`;
    const running = start(["exec", "--", "sleep", word]);
    const isThere = (): number[] =>
      processesWith(word).filter((pid) => readFileSync(`/proc/${pid}/comm`, "utf8") === "sleep\n");
    await eventually(() => isThere().length > 0, "the command");
    spawn("/bin/kill", ["-9", String(isThere()[0])]);
    expect((await running.ended).stderr).toMatch(/^oomlab: sleep was ended by a SIGKILL from kill \(pid \d+/);
  });

  test("passes binary data through all three streams unchanged", async () => {
    const data = randomBytes(3_000_000);
    const digest = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");
    const { stdout, stderr } = await execa(process.execPath, [bin, "exec", "--", "tee", "/dev/stderr"], {
      input: data,
      encoding: "buffer",
    });
    expect([digest(stdout), digest(stderr)]).toEqual([digest(data), digest(data)]);
  });

  test("passes signals on, once each", async () => {
    const running = execa(
      process.execPath,
      [bin, "exec", "--", "sh", "-c", "trap 'echo term; exit 5' TERM; echo ready; while :; do sleep 0.05; done"],
      { reject: false },
    );
    await new Promise((resolve) => running.stdout.once("data", resolve));
    running.kill("SIGTERM");
    expect(await running).toMatchObject({ exitCode: 5, stdout: "ready\nterm", stderr: "" });
  });

  test("leaves nothing, whatever the command has started", async () => {
    const word = `71.${process.pid}`;
    await exec("--", "sh", "-c", `sleep ${word} & setsid sleep ${word} & exit 0`);
    expect(processesWith(word)).toEqual([]);
    expect(leftovers()).toEqual([]);
  });

  test("leaves nothing after kill -9 of oomlab itself", async () => {
    const word = `72.${process.pid}`;
    const before = new Set(instances());
    const running = start(["exec", "-m", "100Mi", "--", "sh", "-c", `setsid sleep ${word} & sleep ${word}`]);
    await eventually(() => processesWith(word).length >= 4, "the command's processes");
    running.kill("SIGKILL");
    await running.ended;
    await eventually(() => processesWith(word).length === 0, "the end of the command's processes");
    await eventually(() => leftovers().length === 0, "the end of its cgroup");
    await eventually(() => instances().every((name) => before.has(name)), "the end of its trace");
  });

  test("writes a report and a record that can be judged again", async () => {
    const report = join(folder, "report.json");
    const records = join(folder, "records");
    const limits = ["-m", "64Mi", "--reporter", `json=${report}`, "--output", records];
    await exec(...limits, "--", process.execPath, "-e", grow);
    const expected = { cause: "memcg-oom", confidence: "proven", by: { kind: "kernel" }, kill: { limit: "command" } };
    const causeOf = (text: string): unknown => JSON.parse(text).scenarios[0].observed.processes.command.cause;
    expect(causeOf(readFileSync(report, "utf8"))).toMatchObject(expected);
    const again = await oomlab(["report", "--reporter", "json", records]);
    expect(causeOf(again.stdout)).toMatchObject(expected);
  });

  test("ends a command at its timeout, and says so", async () => {
    expect(await exec("--timeout", "300ms", "--", "sleep", "20")).toMatchObject({
      exitCode: 137,
      stderr: "oomlab: sleep was ended by oomlab: its timeout was over",
    });
  });
});
