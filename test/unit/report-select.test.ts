import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { Selection } from "../../src/record.ts";
import { reporters } from "../../src/report/index.ts";
import { type RecordHead, selectRecords } from "../../src/report/select.ts";
import { judge } from "../../src/verdict.ts";
import { everyStatus, recorded, resultOf } from "../helpers/records.ts";

const { plan } = resultOf(recorded("memcg-v1.ndjson"));
const selection = (changes: Partial<Selection>): Selection => ({
  session: "a",
  index: 1,
  of: 4,
  shard: null,
  repeat: 1,
  attempt: 1,
  ...changes,
});
const head = (file: string, changes: Partial<RecordHead> = {}): RecordHead => ({
  file,
  position: 0,
  startedAt: "2026-01-01T00:00:00.000Z",
  plan,
  kernel: "6.1",
  selection: null,
  ...changes,
});
const files = (heads: RecordHead[], merge: boolean): string[] =>
  selectRecords(heads, merge).records.map(({ head }) => head.file);

describe("of many records", () => {
  test("the last attempt counts, told by the record wherever its file lies", () => {
    const heads = [
      head("c", { selection: selection({ attempt: 3 }) }),
      head("x/a", { selection: selection({ attempt: 1 }) }),
      head("b", { selection: selection({ attempt: 2 }) }),
      head("d", { selection: selection({ index: 2 }) }),
    ];
    expect(files(heads, false)).toEqual(["c", "d"]);
    expect(selectRecords(heads, false).records[0]?.earlier.map(({ file }) => file)).toEqual(["x/a", "b"]);
  });

  test("the last attempt counts, told by the file's name where the record does not say", () => {
    const names = [
      "out/001-a-v1.ndjson",
      "out/001-a-v1-retry1.ndjson",
      "out/001-a-v1-retry10.ndjson",
      "out/002-b-v1.ndjson",
    ];
    expect(
      files(
        names.map((name) => head(name)),
        false,
      ),
    ).toEqual(["out/001-a-v1-retry10.ndjson", "out/002-b-v1.ndjson"]);
  });

  test("several in one file are no attempts at each other", () => {
    expect(files([head("all.ndjson"), head("all.ndjson", { position: 1 })], false)).toHaveLength(2);
  });

  test("joined shards stand in the order of the selection", () => {
    const shard = (index: number, part: number, session: string): RecordHead =>
      head(`${session}${index}`, {
        plan: { ...plan, name: `s${index}` },
        selection: selection({ session, index, shard: { index: part, of: 2 } }),
      });
    const heads = [shard(1, 1, "a"), shard(3, 1, "a"), shard(2, 2, "b"), shard(4, 2, "b")];
    expect(files(heads, true)).toEqual(["a1", "b2", "a3", "b4"]);
    expect(selectRecords(heads, true).missing).toEqual([]);
  });

  test("what no shard left a record of is missing, and the shard is named", () => {
    const heads = [1, 4].map((index) =>
      head(`a${index}`, {
        plan: { ...plan, name: `s${index}` },
        selection: selection({ index, of: 5, shard: { index: 1, of: 3 } }),
      }),
    );
    expect(selectRecords(heads, true).missing).toEqual(["no record of 3 of 5 scenarios (shard 2/3, 3/3)"]);
    expect(selectRecords(heads, false).missing).toEqual([]);
  });

  test("of two runs of one scenario the later counts when they are joined, and both when not", () => {
    const heads = [
      head("new", { startedAt: "2026-01-02T00:00:00.000Z", selection: selection({ session: "b" }) }),
      head("old", { selection: selection({ session: "a" }) }),
    ];
    expect(files(heads, true)).toEqual(["new"]);
    expect(selectRecords(heads, true).superseded).toBe(1);
    expect(files(heads, false)).toHaveLength(2);
  });

  test("the same scenario on another kernel, cgroup version or repetition is another one", () => {
    const heads = [
      head("a", { selection: selection({ session: "a" }) }),
      head("b", { selection: selection({ session: "b" }), kernel: "6.12" }),
      head("c", { selection: selection({ session: "c" }), plan: { ...plan, cgroupVersion: 2 } }),
      head("d", { selection: selection({ session: "d", repeat: 2 }) }),
    ];
    expect(files(heads, true)).toHaveLength(4);
  });
});

test("docs/reports.md names every reporter, and no other", () => {
  const text = readFileSync(join(import.meta.dirname, "../../docs/reports.md"), "utf8");
  const table = text.slice(text.indexOf("| name"), text.indexOf("A report that cannot be written"));
  const named = [...table.matchAll(/^\| `(\w+)`/gm)].map(([, name]) => name);
  expect(new Set(named)).toEqual(new Set(Object.keys(reporters)));
});

describe("a record", () => {
  test("that breaks off in the middle does not say that no OOM kill happened", () => {
    const { verdict } = everyStatus.errored();
    expect(verdict).toMatchObject({ status: "errored", reason: "the record breaks off before the run's end" });
    expect(verdict.observed?.oom).toBe("unknown");
    expect(JSON.stringify(verdict.checks)).not.toMatch(/"no OOM kill happened"|"status":"failed"/);
  });

  test("of a scenario that was skipped says why", () => {
    const { verdict } = everyStatus.skipped();
    expect(verdict).toMatchObject({
      status: "skipped",
      reason: "it needs what is not there",
      kernel: expect.stringMatching(/^6\./),
    });
    expect(judge(everyStatus.skipped().record)).toEqual(verdict);
  });
});
