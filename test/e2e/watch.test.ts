import { describe, expect, test } from "vitest";
import { canRun, oomlab, start } from "../helpers/cli.ts";
import { needs } from "../helpers/needs.ts";

describe("watch", needs(canRun), () => {
  test("tells a kill as it happens, runs a program for it, and ends with Ctrl-C", async () => {
    const watching = start(["watch", "--reporter", "ndjson", "--exec", "/bin/cat"]);
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
});
