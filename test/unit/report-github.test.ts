import { describe, expect, test } from "vitest";
import { everyStatus, hostileResult, recorded, resultOf, withPlan, written } from "../helpers/records.ts";

const lines = (output: string): string[] => output.split("\n").filter((line) => line !== "");

/** What the runner makes of a command (actions/runner, ActionCommand.TryParseV2). */
function parsed(line: string): { command: string; properties: Record<string, string>; message: string } | null {
  const match = /^::(\w+) ([^:]*)::(.*)$/.exec(line);
  if (!match) return null;
  const [, command = "", list = "", message = ""] = match;
  const data = (text: string): string => text.replaceAll("%0D", "\r").replaceAll("%0A", "\n").replaceAll("%25", "%");
  const properties = list.split(",").map((pair): [string, string] => {
    const [name = "", ...value] = pair.split("=");
    return [name, data(value.join("=").replaceAll("%3A", ":").replaceAll("%2C", ","))];
  });
  return { command, properties: Object.fromEntries(properties), message: data(message) };
}

describe("the annotations", () => {
  test("stand at the expectation that does not hold, with the evidence", async () => {
    const failed = everyStatus.failed();
    const { output } = await written("github", [failed]);
    const [first, ...others] = lines(output).map(parsed);
    expect(others).toEqual([]);
    const { line, column } = failed.plan.expect.where["limit"] ?? {};
    expect(line).toBeGreaterThan(1);
    expect(first).toMatchObject({
      command: "error",
      properties: { file: "fix.yaml", line: String(line), col: String(column) },
    });
    expect(first?.properties["title"]).toMatch(/^failed \(host, cgroup v1, kernel .*\): failed$/);
    expect(first?.message).toMatch(/^limit: expected pod, got pod\/app\n\d+: .*oom-kill:constraint=CONSTRAINT_MEMCG/);
    expect(first?.message).toMatch(/Killed process \d+ \(stress\)/);
  });

  test("are errors, warnings and notices by what is known", async () => {
    const { output } = await written(
      "github",
      Object.values(everyStatus).map((make) => make()),
    );
    const kinds = new Set(
      lines(output).map((line) => `${parsed(line)?.command} ${parsed(line)?.properties["title"]?.split(" ")[0]}`),
    );
    expect(kinds).toEqual(new Set(["error failed", "error errored", "warning inconclusive", "notice skipped"]));
  });

  test("are at most ten of a kind, each scenario's first before others, and the last says how many more", async () => {
    const many = Array.from({ length: 25 }, (_, at) =>
      resultOf(
        withPlan(recorded("memcg-v1.ndjson"), {
          name: `s${at}`,
          expect: { ...everyStatus.failed().plan.expect, oom: "global" },
        }),
      ),
    );
    const { output } = await written("github", many);
    const told = lines(output).map(parsed);
    expect(told).toHaveLength(10);
    expect(told.slice(0, 9).map((one) => one?.properties["title"]?.split(" ")[0])).toEqual(
      Array.from({ length: 9 }, (_, at) => `s${at}`),
    );
    expect(told[9]?.message).toMatch(/^and 41 more/);
  });

  test("let no name or log line make a command of its own", async () => {
    const result = hostileResult();
    const { plan } = result;
    const { output } = await written("github", [
      resultOf(withPlan([...result.record], { expect: { ...plan.expect, limit: "pod" } })),
    ]);
    for (const line of lines(output)) expect(line).toMatch(/^::(error|warning) file=/);
    const [first] = lines(output).map(parsed);
    expect(first?.properties["title"]).toContain("%0A::error::x");
    expect(first?.message).toContain("]]></pre>%0A<b>");
  });

  test("name files as the repository does", async () => {
    const { output } = await written("github", [everyStatus.failed()], {
      around: { fileName: (file) => `sub/dir/${file}` },
    });
    expect(parsed(output.trim())?.properties["file"]).toBe("sub/dir/fix.yaml");
  });
});

describe("the job's summary", () => {
  test("has a row for each scenario, those that failed first, and the evidence", async () => {
    const { summary } = await written(
      "github",
      Object.values(everyStatus).map((make) => make()),
    );
    expect(summary).toMatch(/^## oomlab: 1 failed, 1 errored, 1 inconclusive, 1 skipped, 1 passed\n/);
    const rows = [...summary.matchAll(/^\| [^\s\w|]+ (\w+) \|/gm)].map(([, status]) => status);
    expect(rows).toEqual(["failed", "errored", "inconclusive", "skipped", "passed"]);
    expect(summary).toMatch(/<details open><summary>✗ failed /);
    expect(summary).toMatch(/```text\n.*invoked oom-killer/);
    expect(summary).toContain("Killed process");
  });

  test("keeps hostile names text", async () => {
    const { summary } = await written("github", [hostileResult()]);
    const outside = summary.replace(/```text\n[\s\S]*?\n```/g, "").replace(/`+ .*? `+/g, "");
    expect(outside).not.toMatch(/<(?!\/?details|\/?summary|!-- -->)/);
    expect(outside.match(/^\|.*\|$/gm)?.every((row) => row.replaceAll("\\|", "").split("|").length === 7)).toBe(true);
  });

  test("stays below what the runner takes, and says what is left out", async () => {
    const one = everyStatus.failed();
    const long = {
      ...one,
      verdict: { ...one.verdict, kernelLog: Array.from({ length: 60 }, () => `Killed process 1 (${"x".repeat(380)})`) },
    };
    const { summary } = await written(
      "github",
      Array.from({ length: 300 }, () => long),
    );
    expect(Buffer.byteLength(summary)).toBeLessThan(1024 * 1024);
    expect(summary).toMatch(/The evidence of \d+ more scenarios did not fit/);
    expect(summary).toMatch(/^## oomlab: 300 failed/);
  });
});
