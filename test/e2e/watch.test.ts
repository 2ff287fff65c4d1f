import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test, vi } from "vitest";
import { canRun, oomlab, start } from "../helpers/cli.ts";
import { needs } from "../helpers/needs.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));

describe("watch", needs(canRun), () => {
  test("tells a kill as it happens, runs a program for it, and ends with Ctrl-C", async () => {
    const watching = start(["watch", "--reporter", "ndjson", "--exec", `/bin/sh -c 'exec "$0" "$1"' /bin/cat -u`]);
    // Node's own start; what is logged before it is not told.
    await new Promise((resolve) => setTimeout(resolve, 2_000));
    const { stdout: report } = await oomlab([
      "run",
      "scenarios/memcg/own-limit.yaml",
      "-g",
      "limit$",
      "--reporter",
      "json",
    ]);
    await new Promise((resolve) => setTimeout(resolve, 1_000));
    watching.kill("SIGINT");
    const { stdout, exitCode } = await watching.ended;
    expect(exitCode).toBe(130);
    const [kill] = JSON.parse(report).scenarios[0].observed.kills;
    const told = stdout
      .split("\n")
      .map((line) => JSON.parse(line))
      .filter(({ taskMemcg }) => taskMemcg === kill.taskMemcg);
    // Once by watch itself, once by the program it ran.
    expect(told).toHaveLength(2);
    expect(told[0]).toMatchObject({ kind: "memcg", oomMemcg: kill.oomMemcg, victim: kill.victim });
    expect(told[1]).toEqual(told[0]);
  });

  test("writes to a file as a kill happens, over what an earlier watch left there", async () => {
    const folder = mkdtempSync(join(tmpdir(), "oomlab-test-watch-"));
    const file = join(folder, "kills.ndjson");
    writeFileSync(file, "earlier\n");
    const watching = start(["watch", "--reporter", `ndjson=${file}`]);
    await vi.waitFor(() => expect(readFileSync(file, "utf8")).toBe(""), { timeout: 20_000 });
    await new Promise((resolve) => setTimeout(resolve, 500));
    await oomlab(["run", "scenarios/memcg/own-limit.yaml", "-g", "limit$"]);
    await vi.waitFor(() => expect(readFileSync(file, "utf8")).toContain('"comm":"stress"'), { timeout: 10_000 });
    watching.kill("SIGINT");
    const { stdout, exitCode } = await watching.ended;
    expect({ stdout, exitCode }).toEqual({ stdout: "", exitCode: 130 });
    for (const line of readFileSync(file, "utf8").trimEnd().split("\n"))
      expect(JSON.parse(line)).toMatchObject({ victim: { pid: expect.any(Number) } });
    rmSync(folder, { recursive: true });
  });

  test("ends when its reader does", async () => {
    // head ends with the first kill; the next one is nobody's.
    const watching = spawn(
      "/bin/sh",
      ["-c", '"$0" dist/oomlab.cjs watch --reporter ndjson | head -n 1', process.execPath],
      { cwd: root, stdio: ["ignore", "pipe", "ignore"] },
    );
    const ended = once(watching, "exit");
    await new Promise((resolve) => setTimeout(resolve, 2_000));
    const kill = () => oomlab(["run", "scenarios/memcg/own-limit.yaml", "-g", "limit$", "--reporter", "json"]);
    await kill();
    await kill();
    expect(
      await Promise.race([ended, new Promise((resolve) => setTimeout(resolve, 20_000, "still watching"))]),
    ).toEqual([0, null]);
  });

  test("refuses a command with an open quotation mark", async () => {
    const { exitCode, stderr } = await oomlab(["watch", "--exec", "mail -s 'a kill"]);
    expect(exitCode).toBe(2);
    expect(stderr).toContain("quotation mark");
  });
});
