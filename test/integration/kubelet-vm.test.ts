/** The races between the kubelet's eviction and the kernel's OOM killer, run for real. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { missingPrograms, which } from "../../src/machine/packages.ts";
import { eventsOf, parseRecords, type RunEvent } from "../../src/record.ts";
import { judge } from "../../src/verdict.ts";
import { oomlab } from "../helpers/cli.ts";
import { needs } from "../helpers/needs.ts";

const canBoot = needs({
  "x86-64 Linux": process.platform === "linux" && process.arch === "x64",
  "apt-get, for the guest's kernel": which("apt-get") !== undefined,
  "QEMU and erofs-utils, or root to install them": missingPrograms().length === 0 || process.getuid?.() === 0,
});

describe("the race in a VM", canBoot, () => {
  const names = [
    "slow growth is evicted",
    "a surge between two polls",
    "the limit of all Pods",
    "who goes by eviction",
    "critical Pods are spared",
    "the kernel notifies the kubelet",
  ];
  const output = mkdtempSync(join(tmpdir(), "oomlab-test-race-"));
  afterAll(() => rmSync(output, { recursive: true, force: true }));
  const records = new Map<string, RunEvent[]>();
  let words = "";

  beforeAll(async () => {
    const { stdout } = await oomlab([
      "run",
      "scenarios/kubernetes",
      "-g",
      `^(${names.join("|")})$`,
      "-j",
      "1",
      "--output",
      output,
    ]);
    words = stdout;
    for (const name of readdirSync(output)) {
      if (!name.endsWith(".ndjson")) continue;
      const [record = []] = parseRecords(readFileSync(join(output, name), "utf8"), name);
      records.set(eventsOf(record, "run")[0]?.plan.name ?? "", record);
    }
  }, 900_000);

  const record = (name: string): RunEvent[] => {
    const found = records.get(name);
    if (!found) throw new Error(`there is no record of ${name}:\n${words}`);
    return found;
  };

  test.each(names)("%s", (name) => {
    const { status, reason } = judge(record(name));
    expect({ status, reason }).toEqual({ status: "passed", reason: null });
  });

  test("passes come each ten seconds, none before its time", () => {
    const passes = eventsOf(record("slow growth is evicted"), "kubelet").filter(
      (event) => event.did === "pass" || event.did === "evict",
    );
    const untilEviction = passes.slice(
      0,
      passes.findIndex(({ did }) => did === "evict"),
    );
    expect(untilEviction.length).toBeGreaterThan(1);
    for (const [index, { t }] of untilEviction.entries()) {
      const next = untilEviction[index + 1];
      // The record's clock is the host's: what the guest said arrives a little later or sooner.
      if (next) expect(next.t - t).toBeGreaterThan(9_000_000);
    }
  });

  test("the eviction says what the kubelet says, with the numbers that it saw", () => {
    const [eviction] = judge(record("slow growth is evicted")).observed?.evictions ?? [];
    const { available, threshold, message, rank } = eviction ?? {};
    expect({ threshold, rank }).toEqual({ threshold: 104857600, rank: 1 });
    expect(available).toBeLessThan(104857600);
    expect(message).toMatch(
      new RegExp(
        `^The node was low on resource: memory\\. Threshold quantity: 100Mi, available: ${(available ?? 0) / 1024}Ki\\. (Container app was using \\d+Ki, request is 0, has larger consumption of memory\\. )?$`,
      ),
    );
  });

  test("the one whom the kernel kills is innocent", () => {
    const verdict = judge(record("a surge between two polls"));
    expect(verdict.observed?.kills).toMatchObject([
      { kind: "global", process: "web/app", witnesses: expect.arrayContaining(["kmsg", "counters", "exit"]) },
    ]);
    expect(verdict.observed?.processes["batch/app"]?.exit).toEqual({ code: 0, signal: null });
  });

  test("the report says where the kernel would have chosen otherwise", () => {
    const { notes } = judge(record("who goes by eviction"));
    expect(notes.join("\n")).toMatch(
      /the kubelet evicted burstable \(over its request: .*\); the OOM killer would have taken besteffort\/app \(oom_score \d+, burstable\/app \d+\)/,
    );
  });

  test("the kernel's notification makes a pass between two polls", () => {
    const events = eventsOf(record("the kernel notifies the kubelet"), "kubelet");
    const evict = events.findIndex(({ did }) => did === "evict");
    const pass = events.slice(0, evict).findLast(({ did }) => did === "pass");
    expect(pass).toMatchObject({ by: "notifier", met: ["memory.available"] });
  });
});
