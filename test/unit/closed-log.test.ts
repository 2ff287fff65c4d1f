/** Runs of a user to whom the kernel's log is closed: what the counters and the ends of processes prove, and what stays open. */
import { describe, expect, test } from "vitest";
import type { Plan } from "../../src/plan.ts";
import type { Counters, EventOf, RunEvent } from "../../src/record.ts";
import { judge, type Verdict } from "../../src/verdict.ts";
import { recorded } from "../helpers/records.ts";

/** A run on cgroup v1: `hog` dies for the limit of `pod/app` (32Mi), below `pod` (64Mi). */
const real = recorded("memcg-v1.ndjson");

interface Changes {
  version?: 1 | 2;
  /** Own `oom` of each cgroup (v2). */
  oom?: Record<string, number>;
  /** Own `oom_kill` of each cgroup. */
  kills?: Record<string, number>;
  /** `oom_kill` and `oom` of a cgroup below pod/app that a process made and nobody read. */
  unread?: { oom: number; kills: number };
  /** memory.events.local.oom_group_kill of pod/app. */
  group?: number;
  expected?: Partial<Plan["expect"]>;
  /** Names of processes that end beside the hog, with the signal or null for status 0; they are in pod/app. */
  beside?: Record<string, string | null>;
  hog?: { code: number | null; signal: string | null };
  vmstat?: number;
  change?: (event: RunEvent) => RunEvent[];
}

const hint = "`sudo sysctl kernel.dmesg_restrict=0`";
const log: Omit<EventOf<"kernel-log">, "line" | "t"> = {
  type: "kernel-log",
  source: null,
  problem: "no permission to read /dev/kmsg",
  hint,
};

function record(changes: Changes): RunEvent[] {
  const { version = 2, oom = {}, kills = { "pod/app": 1 }, unread = { oom: 0, kills: 0 }, beside = {} } = changes;
  const below = (own: Record<string, number>, name: string): number =>
    Object.entries(own)
      .filter(([other]) => name === "" || other === name || other.startsWith(`${name}/`))
      .reduce((sum, [, count]) => sum + count, 0);
  const counters = (name: string): Counters => ({
    "memory.events.local.oom_kill": kills[name] ?? 0,
    "memory.events.oom_kill": below(kills, name) + unread.kills,
    ...(version === 2
      ? {
          "memory.events.local.oom": oom[name] ?? 0,
          "memory.events.oom": below(oom, name) + unread.oom,
          "memory.events.local.oom_group_kill": name === "pod/app" ? (changes.group ?? 0) : 0,
        }
      : {}),
  });
  const names = Object.keys(beside);
  return real.flatMap((given): RunEvent[] => {
    const event = structuredClone(given);
    const { line, t } = event;
    if (event.type === "kmsg" || (event.type === "oom-event" && version === 2)) return [];
    if (event.type === "run") {
      const [hog] = event.plan.processes;
      if (!hog) throw new TypeError("the record has a process");
      event.plan.cgroupVersion = version;
      for (const name of names)
        event.plan.processes.push({ ...hog, name, program: "command", bytes: null, forks: true });
      event.plan.expect = { ...event.plan.expect, exit: [], counters: [], ...changes.expected };
    }
    if (event.type === "counters" && event.moment !== "sample")
      event.counters =
        event.moment === "before"
          ? Object.fromEntries(Object.keys(counters(event.cgroup)).map((key) => [key, 0]))
          : { ...event.counters, ...counters(event.cgroup) };
    if (event.type === "vmstat" && event.moment !== "before") event.oomKill = 590 + (changes.vmstat ?? 1);
    if (event.type === "process-start") {
      const others = names.map((process, at): RunEvent => ({
        ...event,
        line: line + (at + 1) / 10,
        process,
        pid: event.pid + at + 1,
      }));
      return [event, ...others];
    }
    if (event.type === "process-exit") {
      const others = names.map((process, at): RunEvent => ({
        ...event,
        line: line + (at + 1) / 10,
        process,
        pid: event.pid + at + 1,
        signal: beside[process] ?? null,
        code: beside[process] === null ? 0 : null,
      }));
      return [{ ...event, ...changes.hog }, ...others];
    }
    const all = changes.change?.(event) ?? [event];
    return event.type === "phase" && event.phase === "collect" ? [...all, { line: line + 0.5, t, ...log }] : all;
  });
}

const verdictOf = (changes: Changes): Verdict => judge(record(changes));
const check = (verdict: Verdict, name: string): Verdict["checks"][number] | undefined =>
  verdict.checks.find((one) => one.name === name);

describe("on cgroup v2, oom of the limit's cgroup, oom_kill of the victim's and a SIGKILL", () => {
  const own: Changes = { oom: { "pod/app": 1 } };

  test("prove a kill for its own limit, and the report says on what it rests and why", () => {
    const verdict = verdictOf(own);
    expect(verdict).toMatchObject({ status: "passed", reason: null, kernelLog: [] });
    expect(verdict.notes).toContain(
      `each OOM kill rests on two witnesses, the counters and the exit status, as the kernel log was not readable (no permission to read /dev/kmsg); to read it: ${hint}`,
    );
  });

  test("show nothing that only the log has: comm, sizes and trigger are null or unknown, foreign kills not known", () => {
    const { observed } = verdictOf(own);
    expect(observed).toMatchObject({
      oom: "memcg",
      foreignKills: null,
      kills: [
        {
          kind: "memcg",
          constraint: null,
          trigger: "unknown",
          limit: "pod/app",
          oomMemcg: expect.stringMatching(/\/oomlab-[^/]*\/pod\/app$/),
          taskMemcg: expect.stringMatching(/\/oomlab-[^/]*\/pod\/app$/),
          process: "hog",
          group: false,
          witnesses: ["counters", "exit"],
          atMs: expect.any(Number),
        },
      ],
    });
    expect(observed?.kills[0]?.victim).toEqual({
      pid: expect.any(Number),
      comm: null,
      uid: null,
      totalVm: null,
      anonRss: null,
      fileRss: null,
      shmemRss: null,
      pgtables: null,
      oomScoreAdj: null,
    });
  });

  test("cite lines of the record", () => {
    const events = record(own);
    const lines = new Set(events.map(({ line }) => line));
    for (const { name, evidence } of judge(events).checks) {
      expect(evidence.length, name).toBeGreaterThan(0);
      expect(evidence.filter((line) => !lines.has(line))).toEqual([]);
    }
  });

  test("prove the limit of a cgroup above, and contradict another that was expected", () => {
    expect(verdictOf({ oom: { pod: 1 }, expected: { limit: "pod" } }).status).toBe("passed");
    const verdict = verdictOf({ oom: { pod: 1 }, expected: { limit: "pod/app" } });
    expect(check(verdict, "limit")).toMatchObject({ actual: "pod", status: "failed" });
  });

  test("leave open which of two limits it was where both were hit", () => {
    const verdict = verdictOf({ oom: { pod: 1, "pod/app": 1 } });
    expect(check(verdict, "oom")?.status).toBe("passed");
    expect(check(verdict, "victims")?.status).toBe("passed");
    expect(verdict).toMatchObject({ status: "inconclusive", observed: { kills: [{ limit: null, oomMemcg: null }] } });
    expect(verdict.reason).toMatch(
      /^limit: expected pod\/app, got nothing \(the limits of pod\/app and pod were hit, .*to read it: `sudo sysctl/,
    );
  });

  test("leave the kind open where no limit of ours was hit, whichever kind is expected", () => {
    for (const oom of ["memcg", "global"] as const) {
      const verdict = verdictOf({ expected: { oom, limit: null } });
      expect(verdict).toMatchObject({ status: "inconclusive", observed: { oom: "unknown" } });
      expect(verdict.reason).toMatch(/no limit at or above pod\/app is known to have been hit.*; to read it: /);
    }
  });

  test("leave the kind open where more was killed than limits were hit", () => {
    const two: Changes = { oom: { "pod/app": 1 }, kills: { "pod/app": 2 }, beside: { other: "SIGKILL" } };
    const verdict = verdictOf({ ...two, expected: { victims: ["hog", "other"] } });
    expect(check(verdict, "oom")).toMatchObject({
      status: "inconclusive",
      note: expect.stringMatching(/another kind/),
    });
    expect(verdictOf({ ...two, oom: { "pod/app": 2 }, expected: { victims: ["hog", "other"] } }).status).toBe("passed");
  });

  test("prove a group kill, which counts its first victim twice", () => {
    const verdict = verdictOf({
      oom: { "pod/app": 1 },
      kills: { "pod/app": 3 },
      group: 1,
      beside: { other: "SIGKILL" },
      expected: { victims: ["hog", "other"] },
    });
    expect(verdict).toMatchObject({ status: "passed", observed: { kills: [{ group: true }, { group: true }] } });
  });

  test("leave open who died where more SIGKILLs came than the kernel sent", () => {
    const verdict = verdictOf({ ...own, beside: { other: "SIGKILL" }, expected: { survivors: ["other"] } });
    expect(verdict).toMatchObject({
      status: "failed",
      observed: { kills: [{ kind: "memcg", process: null, victim: { pid: null } }] },
    });
    expect(check(verdict, "victims")?.status).toBe("inconclusive");
    // Whoever sent it: a process that a signal ended is no survivor.
    expect(check(verdict, "survivors.other")).toMatchObject({
      status: "failed",
      actual: "ended by a SIGKILL, which may be the kernel's OOM killer's",
    });
  });

  test("say nothing against what survives beside the victim", () => {
    expect(verdictOf({ ...own, beside: { other: null }, expected: { survivors: ["other"] } }).status).toBe("passed");
  });

  test("are not there for a child that nobody saw: the counters alone are one witness", () => {
    const verdict = verdictOf({ ...own, hog: { code: 137, signal: null } });
    expect(verdict).toMatchObject({ status: "inconclusive", observed: { kills: [] } });
    expect(check(verdict, "oom")?.note).toMatch(/oom_kill of pod\/app grew by 1, and 0 of its processes.*one witness/);
  });

  test("count kills in a cgroup that a process made for itself, whose limit may be the one that was hit", () => {
    const verdict = verdictOf({ oom: { "pod/app": 1 }, kills: {}, unread: { oom: 1, kills: 1 } });
    expect(check(verdict, "limit")?.status).toBe("inconclusive");
    expect(check(verdict, "oom")?.status).toBe("passed");
    expect(verdict.observed?.kills).toMatchObject([{ process: "hog", taskMemcg: null, limit: null }]);
  });

  test("of which oom_kill did not grow prove that there was no OOM kill", () => {
    const none: Changes = { kills: {}, vmstat: 0, expected: { oom: "none", limit: null, victims: [] } };
    const verdict = verdictOf({ ...none, hog: { code: 0, signal: null }, change: touchedAll });
    expect(verdict.status).toBe("passed");
    expect(verdict.notes[0]).toMatch(/^that no OOM kill happened rests on the counters, as the kernel log/);
    expect(verdictOf(none).status).toBe("inconclusive");
    expect(verdictOf({ ...none, expected: {}, hog: { code: 0, signal: null }, change: touchedAll })).toMatchObject({
      status: "failed",
      reason: "oom: expected memcg, got none",
    });
  });
});

/** The hog says that it has touched all. */
const touchedAll = (event: RunEvent): RunEvent[] =>
  event.type === "worker" && event.report.type === "progress"
    ? [
        {
          ...event,
          report: { type: "touched", pid: event.report.pid, touched: event.report.touched, rss: 0, hwm: 0 },
        },
      ]
    : [event];

describe("what only the log decides is inconclusive, with the reason and what to type:", () => {
  test.each([
    ["a pattern", "log", { log: [{ pattern: "Killed process" }] }],
    ["the trigger", "trigger", { trigger: "allocation" }],
  ] as [string, string, Partial<Plan["expect"]>][])("%s", (_, name, expected) => {
    const verdict = verdictOf({ oom: { "pod/app": 1 }, expected });
    expect(verdict.status).toBe("inconclusive");
    expect(check(verdict, name)).toMatchObject({
      status: "inconclusive",
      note: `the kernel log was not readable (no permission to read /dev/kmsg); to read it: ${hint}`,
    });
  });

  test("how many OOM kills of others there were is known by their number", () => {
    expect(verdictOf({ oom: { "pod/app": 1 }, vmstat: 4 }).notes).toContain(
      "3 more OOM kill(s) on this machine in the meantime are known by their number only (/proc/vmstat)",
    );
  });
});

describe("on cgroup v1, whose OOM notifications stand in for the oom counter", () => {
  test("a notification of the limit's own cgroup proves kind and limit", () => {
    const verdict = verdictOf({ version: 1 });
    expect(verdict).toMatchObject({
      status: "passed",
      observed: { kills: [{ kind: "memcg", limit: "pod/app", witnesses: ["counters", "exit"] }] },
    });
  });

  test("without a notification oom_kill alone says nothing of the kind", () => {
    const verdict = verdictOf({ version: 1, change: (event) => (event.type === "oom-event" ? [] : [event]) });
    expect(verdict).toMatchObject({ status: "inconclusive", observed: { oom: "unknown" } });
    expect(verdict.reason).toMatch(/no OOM notification came/);
  });
});

describe("a log that was read through the journal", () => {
  const journal = (change: (event: RunEvent) => RunEvent[] = (event) => [event]): RunEvent[] =>
    real.flatMap((given): RunEvent[] => {
      const event = structuredClone(given);
      const { line, t } = event;
      // The journal has no sequence numbers, and its records come late.
      if (event.type === "kmsg") return change({ ...event, seq: null, t: 900_000 });
      return event.type === "phase" && event.phase === "collect"
        ? [event, { line: line + 0.5, t, ...log, source: "journal", hint: null }]
        : change(event);
    });

  test("is the kernel's log as any other, and a kill is as old as its victim's end", () => {
    const verdict = judge(journal());
    expect(verdict).toMatchObject({
      status: "passed",
      observed: { foreignKills: [], kills: [{ witnesses: ["kmsg", "counters", "exit"], atMs: 289 }] },
    });
    expect(verdict.notes).toEqual(judge(real).notes);
  });

  test("that missed records is incomplete", () => {
    const verdict = judge(
      journal((event) =>
        event.type === "kmsg" && /Killed process/.test(event.text)
          ? [
              {
                line: event.line,
                t: event.t,
                type: "kmsg-lost",
                afterSeq: null,
                reason: "journald: Missed 3 kernel messages",
              },
            ]
          : [event],
      ),
    );
    expect(verdict.status).toBe("inconclusive");
  });
});
