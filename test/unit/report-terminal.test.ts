import { describe, expect, test } from "vitest";
import type { Plan } from "../../src/plan.ts";
import { liveView } from "../../src/report/live.ts";
import { everyStatus, hostileResult, recorded, resultOf, withPlan, written } from "../helpers/records.ts";

const all = () => Object.values(everyStatus).map((make) => make());

/** The closing account: what stands behind the last scenario's verdict. */
const account = (output: string): string =>
  output.slice(output.lastIndexOf("\n\n", output.lastIndexOf("\n\n") - 1) + 2);

describe("the terminal's report", () => {
  test("ends with what did not pass and why, the evidence with it, and then the count", async () => {
    const { output } = await written("terminal", all());
    const closing = account(output);
    expect(closing).toMatch(
      /^✗ failed {2}failed {2}fix\.yaml \(host, cgroup v1, kernel .*\)\n {4}limit: expected pod, got pod\/app\n {6}\d+: \[.*\] oom-kill:constraint/,
    );
    expect(closing).toMatch(
      /\n! errored {2}errored .*\n {4}the record breaks off before the run's end\n\? inconclusive {2}inconclusive /,
    );
    expect(closing).toMatch(/\n\n1 failed, 1 errored, 1 inconclusive, 1 skipped, 1 passed\n$/);
    expect(closing).not.toMatch(/^\S+ passed {2}/m);
  });

  test.each([12, 24, 60])("keeps that to a screen of %i rows, however much failed", async (rows) => {
    const many = Array.from({ length: 40 }, (_, at) =>
      resultOf(withPlan(recorded("memcg-v1.ndjson"), { name: `s${at}`, expect: everyStatus.failed().plan.expect })),
    );
    const { output } = await written("terminal", many, { output: { size: { columns: 80, rows } } });
    const closing = account(output);
    const height = closing
      .trimEnd()
      .split("\n")
      .reduce((sum, line) => sum + Math.max(1, Math.ceil(line.length / 80)), 0);
    expect(height).toBeLessThanOrEqual(rows);
    expect(closing).toMatch(/^✗ failed {2}s0 /);
    expect(closing).toMatch(/\n\n40 failed\n$/);
    const named = closing.match(/^✗ failed /gm)?.length ?? 0;
    const more = /\.\.\. and (\d+) more that did not pass, told above/.exec(closing)?.[1] ?? 0;
    expect(named + Number(more)).toBe(40);
  });

  test("of one scenario is not said twice", async () => {
    const { output } = await written("terminal", [everyStatus.failed()]);
    expect(output.match(/limit: expected pod, got pod\/app/g)).toHaveLength(2);
    expect(output).toMatch(/✗ failed in \d+ ms: limit: expected pod, got pod\/app\n\n1 failed\n$/);
  });

  test("colours only where it may, and passes no control character on", async () => {
    const plain = await written("terminal", [...all(), hostileResult()]);
    expect(plain.output.replaceAll("\n", "")).not.toMatch(/[\p{Cc}\u202e]/u);
    const coloured = await written("terminal", all(), { output: { colors: true } });
    expect(coloured.output).toContain("\u001b[31m✗ failed\u001b[39m");
  });

  test("draws a live region only where there is one, and takes it away", async () => {
    const drawn: (readonly string[])[] = [];
    await written("terminal", all(), {
      output: { live: (lines) => void drawn.push(lines), size: { columns: 80, rows: 24 } },
    });
    expect(drawn.at(-1)).toEqual([]);
  });
});

describe("the live view", () => {
  const record = recorded("memcg-v1.ndjson");
  const { plan } = resultOf(record);
  const at = (upTo: number, columns: number): string[] => {
    let now = 0;
    const view = liveView(() => now);
    view.start(plan);
    for (const event of record) if (event.t <= upTo) view.event(plan, event);
    now = 1234;
    return view.lines(columns);
  };
  const peak = record.reduce(
    (best, event) => {
      const used = (event.type === "counters" && event.cgroup === "pod/app" && event.counters["memory.current"]) || 0;
      return typeof used === "number" && used > best.used ? { used, t: event.t } : best;
    },
    { used: 0, t: 0 },
  );

  test("shows memory against the limit that is nearest, how long, and the phase", () => {
    expect(at(peak.t, 120)).toEqual([
      expect.stringMatching(/^\S killed +█{15,16}░? 3\d(\.\d)? MiB of 32 MiB pod\/app {2}1\.2 s {2}pressing$/),
    ]);
  });

  test.each([20, 40, 60, 80, 120])("fits %i columns", (columns) => {
    for (const line of at(peak.t, columns)) expect(Array.from(line).length).toBeLessThan(columns);
  });

  test("forgets what has ended", () => {
    const view = liveView(() => 0);
    view.start(plan);
    view.start({ ...plan } satisfies Plan);
    view.end(plan);
    expect(view.lines(80)).toHaveLength(1);
  });
});
