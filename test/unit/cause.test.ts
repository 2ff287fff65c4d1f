import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { causeOf, type Death, type OomKillFacts } from "../../src/cause/index.ts";
import { parseRecords, type RunEvent, type RunEventBody } from "../../src/record.ts";
import { outcomeOf, outcomeWord } from "../../src/sweep/outcome.ts";
import { judge } from "../../src/verdict.ts";

const noDeath: Death = {
  name: "app",
  pid: 100,
  exit: { code: 0, signal: null, at: null },
  kills: [],
  signals: [],
  untraced: null,
  own: null,
  eviction: null,
  oomKiller: null,
  output: "",
  refused: null,
  rlimits: [],
  limits: { web: 210 << 20 },
  noKill: null,
  namelessKill: null,
};
const status = (code: number): Death["exit"] => ({ code, signal: null, at: null });
const signalled = (signal: string): Death["exit"] => ({ code: null, signal, at: null });
const sent = (
  signal: string,
  sender: Partial<NonNullable<Death["signals"]>[number]["sender"]>,
  more: Partial<NonNullable<Death["signals"]>[number]> = {},
): NonNullable<Death["signals"]>[number] => ({
  pid: 100,
  signal,
  code: 0,
  toProcess: true,
  victim: false,
  at: null,
  sender: { pid: 7, comm: "kill", unit: null, ...sender },
  ...more,
});
const kill: OomKillFacts = {
  kind: "memcg",
  group: false,
  limit: "web",
  oomMemcg: "/web",
  witnesses: ["kmsg", "counters", "exit"],
  victim: { pid: 100, comm: "app", anonRss: 200 << 20, shmemRss: 0 },
};

test("a kill that only the counters show is the reason for a parent's status, its victim open", () => {
  const namelessKill = { source: "counters" as const, at: null, text: "oom_kill grew by 1" };
  expect(causeOf({ ...noDeath, exit: status(1), namelessKill })).toMatchObject({
    cause: "unknown-oom",
    confidence: "likely",
    by: { kind: "kernel" },
    missing: [expect.stringMatching(/^kernel-log/)],
  });
  expect(causeOf({ ...noDeath, namelessKill })).toMatchObject({ cause: "exit" });
});

describe("a program's last words", () => {
  test.each([
    ["SIGABRT", "FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory"],
    ["SIGTRAP", "# Fatal JavaScript out of memory: Ineffective mark-compacts near heap limit"],
    ["SIGILL", "FATAL ERROR: CALL_AND_RETRY_LAST Allocation failed - JavaScript heap out of memory"],
  ])("V8's heap limit by %s, and by the status that a shell makes of it", (signal, output) => {
    const code = { SIGABRT: 134, SIGTRAP: 133, SIGILL: 132 }[signal] ?? 0;
    for (const exit of [signalled(signal), status(code)])
      expect(causeOf({ ...noDeath, exit, output: `<--- Last few GCs --->\n${output}\n` })).toMatchObject({
        cause: "heap-limit",
        confidence: "proven",
        evidence: [{ source: "program-log" }, { source: "exit" }],
      });
  });

  test.each([
    [1, 'Exception in thread "main" java.lang.OutOfMemoryError: Java heap space', "heap-limit", "the JVM"],
    [3, "Terminating due to java.lang.OutOfMemoryError: Java heap space", "heap-limit", "the JVM"],
    [1, "java.lang.OutOfMemoryError: unable to create native thread: possibly out of memory", "enomem", ""],
    [
      1,
      "OpenJDK 64-Bit Server VM warning: INFO: os::commit_memory(0x1, 2, 0) failed; error='Not enough space' (errno=12)",
      "enomem",
      "",
    ],
    [2, "fatal error: runtime: out of memory", "heap-limit", "Go"],
    [2, "runtime: out of memory: cannot allocate 4194304-byte block", "heap-limit", "Go"],
    [1, "Traceback (most recent call last):\n  File x\nMemoryError", "heap-limit", "Python"],
    [1, "numpy.core._exceptions._ArrayMemoryError: Unable to allocate 7.45 GiB", "heap-limit", "Python"],
    [
      255,
      "PHP Fatal error:  Allowed memory size of 134217728 bytes exhausted (tried to allocate 1 bytes)",
      "heap-limit",
      "PHP",
    ],
    [1, "app: malloc: Cannot allocate memory", "enomem", ""],
    [134, "terminate called after throwing an instance of 'std::bad_alloc'", "enomem", ""],
    [101, "memory allocation of 1073741824 bytes failed", "enomem", ""],
  ])("status %i and %j is %s", (code, output, cause, runtime) => {
    const found = causeOf({ ...noDeath, exit: status(code), output });
    expect(found.cause).toBe(cause);
    expect(found.sentence).toContain(runtime);
  });

  test("under an rlimit a runtime without a limit of its own was refused memory", () => {
    const death = { ...noDeath, exit: status(1), output: "MemoryError", rlimits: ["RLIMIT_AS 64Mi"] };
    expect(causeOf(death)).toMatchObject({ cause: "enomem", advice: ["raise RLIMIT_AS 64Mi"] });
  });

  test("say nothing of a program that ends with status 0, or that a SIGKILL ended", () => {
    const output = "JavaScript heap out of memory? no. Cannot allocate memory";
    expect(causeOf({ ...noDeath, output }).cause).toBe("exit");
    expect(causeOf({ ...noDeath, exit: signalled("SIGKILL"), signals: null, output }).cause).toBe("unknown");
  });
});

describe("a signal", () => {
  test("is named by its sender", () => {
    expect(
      causeOf({ ...noDeath, exit: signalled("SIGKILL"), signals: [sent("SIGKILL", { unit: "cron.service" })] }),
    ).toMatchObject({
      cause: "signal",
      by: { kind: "process", pid: 7, comm: "kill" },
      confidence: "proven",
      sentence: "app was ended by a SIGKILL from kill (pid 7, cron.service)",
    });
  });

  test("to one task is cgroup.kill's", () => {
    const signals = [sent("SIGKILL", { comm: "sh" }, { toProcess: false })];
    expect(causeOf({ ...noDeath, exit: signalled("SIGKILL"), signals }).sentence).toContain("by cgroup.kill");
  });

  test.each([
    ["earlyoom", "SIGTERM", "userspace-oom", "earlyoom"],
    ["systemd-oomd", "SIGKILL", "userspace-oom", "systemd-oomd"],
    ["systemd", "SIGTERM", "stopped", "systemd"],
    ["containerd-shim", "SIGKILL", "stopped", "runtime"],
  ])("of %s (%s) is %s", (comm, signal, cause, kind) => {
    const signals = [sent(signal, { comm })];
    expect(causeOf({ ...noDeath, exit: signalled(signal), signals })).toMatchObject({ cause, by: { kind } });
  });

  test("of the kernel's that is no OOM kill is none", () => {
    const signals = [sent("SIGKILL", {}, { code: 128 })];
    expect(causeOf({ ...noDeath, exit: signalled("SIGKILL"), signals })).toMatchObject({
      cause: "signal",
      by: { kind: "kernel" },
    });
  });

  test("to an OOM victim that the log does not name is an OOM kill of unknown kind", () => {
    const signals = [sent("SIGKILL", {}, { code: 128, victim: true })];
    expect(causeOf({ ...noDeath, exit: signalled("SIGKILL"), signals })).toMatchObject({
      cause: "unknown-oom",
      missing: [expect.stringContaining("kernel-log")],
    });
  });

  test("that nobody saw has no cause, nor has status 137", () => {
    for (const exit of [signalled("SIGKILL"), status(137)])
      expect(causeOf({ ...noDeath, exit, signals: null, untraced: "no root" })).toMatchObject({
        cause: "unknown",
        confidence: "unknown",
        missing: ["trace: no root"],
      });
  });

  test("of ours is ours", () => {
    const own = { signal: "SIGKILL", why: "timeout" as const, at: null };
    expect(causeOf({ ...noDeath, exit: signalled("SIGKILL"), own })).toMatchObject({
      cause: "stopped",
      by: { kind: "oomlab" },
    });
  });
});

describe("an OOM kill", () => {
  const evidence = [
    { source: "kernel-log" as const, at: null, text: "Memory cgroup out of memory: Killed process 100" },
  ];

  test("of the process is proven by the log and its end", () => {
    expect(causeOf({ ...noDeath, exit: signalled("SIGKILL"), kills: [{ kill, evidence }] })).toMatchObject({
      cause: "memcg-oom",
      by: { kind: "kernel" },
      confidence: "proven",
      sentence: "app was killed by the kernel's OOM killer: the memory limit of web (210Mi) was hit, it held 200Mi",
    });
  });

  test("of a child is its parent's cause where that ended for it", () => {
    const kills = [{ kill: { ...kill, victim: { ...kill.victim, pid: 101 } }, evidence }];
    expect(causeOf({ ...noDeath, exit: status(137), kills })).toMatchObject({
      cause: "memcg-oom",
      confidence: "proven",
      sentence: expect.stringContaining("its child app (pid 101) was killed"),
    });
    expect(causeOf({ ...noDeath, exit: status(0), kills })).toMatchObject({ cause: "exit" });
  });
});

/** hog of this record dies for the limit of `pod/app`. */
const file = join(import.meta.dirname, "../fixtures/records/memcg-v1.ndjson");
const [record = []] = parseRecords(readFileSync(file, "utf8"), file);

/** The record with events put in before a process ends. */
const withEvents = (bodies: RunEventBody[], keep: (event: RunEvent) => boolean = () => true): RunEvent[] => {
  const at = record.findIndex(({ type }) => type === "process-exit");
  return [...record.slice(0, at), ...bodies.map((body) => ({ t: 0, line: 0, ...body })), ...record.slice(at)]
    .filter(keep)
    .map((event, index) => ({ ...event, line: index + 1 }));
};

describe("a record's processes", () => {
  test("each have a cause beside their exit", () => {
    const processes = judge(record).observed?.processes ?? {};
    expect(processes["hog"]).toMatchObject({
      exit: { signal: "SIGKILL" },
      cause: { cause: "memcg-oom", confidence: "proven", kill: { limit: "pod/app" } },
    });
    for (const { cause } of Object.values(processes)) expect(cause.sentence).not.toBe("");
  });

  test("the trace is a witness of a kill, and names who sent a SIGKILL that is none", () => {
    const exit = record.find((event) => event.type === "process-exit" && event.process === "hog");
    const pid = exit?.type === "process-exit" ? exit.pid : 0;
    const none = {
      uid: null,
      totalVm: null,
      anonRss: null,
      fileRss: null,
      shmemRss: null,
      pgtables: null,
      oomScoreAdj: null,
    };
    const traced = withEvents([
      { type: "trace", problem: null },
      { type: "trace-victim", timeUs: 1, pid, comm: null, ...none, by: { pid, comm: null } },
    ]);
    expect(judge(traced).observed?.kills[0]?.witnesses).toEqual(["kmsg", "counters", "exit", "trace"]);
    const signal: RunEventBody = {
      type: "trace-signal",
      timeUs: 1,
      signal: "SIGKILL",
      code: 0,
      pid,
      comm: "stress",
      toProcess: true,
      result: 0,
      sender: { pid: 4711, comm: "reaper", unit: null },
    };
    const killed = judge(withEvents([{ type: "trace", problem: null }, signal], ({ type }) => type !== "kmsg"));
    expect(killed.observed?.processes["hog"]?.cause).toMatchObject({
      cause: "signal",
      by: { kind: "process", pid: 4711, comm: "reaper" },
    });
    expect(killed.notes.join("\n")).not.toContain("no kernel record or counter explains");
  });
});

test("a sweep whose program gave up by itself does not say that it lives", () => {
  const word = (output: string, code: number): string => {
    const events = record
      .filter(({ type }) => type !== "kmsg" && type !== "oom-event" && type !== "worker")
      .map((event): RunEvent => {
        if (event.type === "process-exit") return { ...event, code, signal: null };
        if (event.type === "counters") return { ...event, counters: { "memory.events.local.oom_kill": 0 } };
        if (event.type !== "run") return event;
        const { plan } = event;
        const processes = plan.processes.map((process) => ({ ...process, program: "command" as const, bytes: null }));
        const expect = { ...plan.expect, oom: null, limit: null, victims: null, exit: [], counters: [], log: [] };
        return { ...event, plan: { ...plan, processes, expect } };
      });
    const at = events.findIndex(({ type }) => type === "process-exit");
    events.splice(at, 0, { line: 0, t: 0, type: "output", process: "hog", text: output });
    const lined = events.map((event, index) => ({ ...event, line: index + 1 }));
    return outcomeWord(outcomeOf(judge(lined), lined));
  };
  expect(word("", 0)).toBe("lives");
  expect(word("FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory", 134)).toBe(
    "heap-limit",
  );
  expect(word("malloc: Cannot allocate memory", 1)).toBe("enomem");
  expect(word("", 3)).toBe("exit");
});
