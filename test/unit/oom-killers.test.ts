import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { killerLines } from "../../src/engine/journal.ts";
import type { Expectations } from "../../src/scenario/index.ts";
import type { RunEvent, RunEventBody } from "../../src/record.ts";
import { judge, type Verdict } from "../../src/verdict.ts";
import { type EndedProcess, type KillerEvidence, oomKillerOf } from "../../src/verdict/oom-killer.ts";
import { recorded } from "../helpers/records.ts";

const journal = (name: string): string => readFileSync(join(import.meta.dirname, "../fixtures/journal", name), "utf8");

describe("the journal of a real Debian 13", () => {
  test("has earlyoom's kills, without its reports and the command lines that it prints", () => {
    const lines = killerLines(journal("earlyoom.ndjson"));
    expect(new Set(lines.map(({ killer }) => killer))).toEqual(new Set(["earlyoom"]));
    const kills = lines.filter(({ text }) => text.startsWith("sending"));
    expect(kills.length).toBeGreaterThan(1);
    for (const { text, us } of kills) {
      expect(text).toMatch(/^sending SIG(TERM|KILL) to process \d+ uid 0 "python3": oom_score \d+, VmRSS \d+ MiB$/);
      expect(us).toBeGreaterThan(1.7e15);
    }
    expect(lines.map(({ text }) => text).join("\n")).not.toMatch(/import|mem avail|exited after/);
  });

  test("has systemd-oomd's kill, without its candidates", () => {
    expect(killerLines(journal("systemd-oomd.ndjson"))).toMatchObject([
      {
        killer: "systemd-oomd",
        text: expect.stringMatching(/^Killed \/press\.slice\/pp\.scope due to memory pressure for/),
      },
    ]);
  });

  test("is believed by its fields, not by the text", () => {
    const line = (fields: object): string =>
      JSON.stringify({
        MESSAGE: 'sending SIGTERM to process 7 uid 0 "x": oom_score 1, VmRSS 1 MiB',
        __REALTIME_TIMESTAMP: "1796093151575885",
        _TRANSPORT: "stdout",
        _PID: "533",
        ...fields,
      });
    const real = { _SYSTEMD_UNIT: "earlyoom.service", _COMM: "earlyoom", _UID: "61876" };
    const user = { _SYSTEMD_UNIT: "user@1000.service", _SYSTEMD_USER_UNIT: "earlyoom.service", _UID: "1000" };
    expect(killerLines(line(real))).toHaveLength(1);
    expect(killerLines(line({ _SYSTEMD_UNIT: "run-7.service", _COMM: "earlyoom", _UID: "0" }))).toHaveLength(1);
    expect(killerLines(line({ ...user, _COMM: "earlyoom" }))).toEqual([]);
    expect(killerLines(line({ SYSLOG_IDENTIFIER: "earlyoom", _COMM: "logger", _UID: "0" }))).toEqual([]);
    expect(killerLines(line({ ...real, _TRANSPORT: "kernel" }))).toEqual([]);
    expect(killerLines(line({ ...real, MESSAGE: null }))).toEqual([]);
    expect(killerLines("-- No entries --\n{half")).toEqual([]);
    const bytes = [...Buffer.from('sending SIGTERM to process 7 uid 0 "\xff": oom_score 1', "latin1")];
    expect(killerLines(line({ ...real, MESSAGE: bytes }))).toHaveLength(1);
  });
});

const nothing: KillerEvidence = { running: [], words: [], marks: [], isJournalWhole: true, lines: [9] };
const ended: EndedProcess = {
  pid: 535,
  children: new Set([540]),
  cgroups: ["/system.slice/oomlab-a.scope/oomlab-a/web"],
  signal: "SIGKILL",
  childSignal: null,
};
const said = (killer: string, ...texts: string[]): KillerEvidence => ({
  ...nothing,
  words: texts.map((text, index) => ({ killer, us: index + 1, text, line: index + 1 })),
});

describe("who ended a process", () => {
  const sending = (pid: number, more = ""): string =>
    `sending SIGTERM to process ${pid} uid 0 "python3": oom_score 850, VmRSS 542 MiB${more}`;

  test("earlyoom says by pid, with the words of its second signal", () => {
    const found = oomKillerOf(ended, said("earlyoom", sending(535), "escalating to SIGKILL after 6.297 seconds"));
    expect(found).toEqual({
      by: "earlyoom",
      words: `${sending(535)}; escalating to SIGKILL after 6.297 seconds`,
      confidence: "proven",
      child: false,
      evidence: [1, 2],
    });
    // 1.7, of Debian 12.
    const old = 'sending SIGTERM to process 535 uid 0 "python3": badness 800, VmRSS 542 MiB';
    expect(oomKillerOf({ ...ended, signal: "SIGTERM" }, said("earlyoom", old))?.words).toBe(old);
  });

  test("earlyoom says of a child", () => {
    expect(oomKillerOf({ ...ended, signal: null }, said("earlyoom", sending(540)))).toMatchObject({ child: true });
  });

  test("another pid's kill is not this one's, nor is one of a dry run, nor where pids are numbered otherwise", () => {
    expect(oomKillerOf(ended, said("earlyoom", sending(5350), sending(53)))).toBeNull();
    expect(oomKillerOf(ended, said("earlyoom", sending(535), "dryrun, not actually sending any signal"))).toBeNull();
    expect(oomKillerOf({ ...ended, pid: null, children: new Set() }, said("earlyoom", sending(535)))).toBeNull();
  });

  test("a kill that a victim's command line claims, printed at the same moment, is not believed", () => {
    const forged = said("earlyoom", sending(7, ', cmdline "x'), sending(535));
    const words = forged.words.map((line) => ({ ...line, us: 1 }));
    expect(oomKillerOf(ended, { ...forged, words })).toBeNull();
    expect(oomKillerOf(ended, forged)).not.toBeNull();
  });

  test("nohang says by the pid above its signal", () => {
    const victim = (pid: number): string[] => [
      "Victim status (found in 3ms):",
      `  PID:       ${pid}, name: python3, state: R`,
    ];
    const sent = ["Implementing a corrective action:", "  Sending SIGTERM to the victim"];
    expect(oomKillerOf(ended, said("nohang", ...victim(7), ...sent, ...victim(535), ...sent))).toMatchObject({
      by: "nohang",
      words: "Sending SIGTERM to the victim (pid 535)",
      confidence: "proven",
    });
    expect(oomKillerOf(ended, said("nohang", ...victim(535)))).toBeNull();
  });

  const pressure = "due to memory pressure for /system.slice being 6.64% > 5.00% for > 1s with reclaim activity";

  test.each([
    ["its own cgroup", `Killed ${ended.cgroups[0]} ${pressure}`, true],
    ["one above it", `Killed /system.slice/oomlab-a.scope ${pressure}`, true],
    ["one below it", `Killed ${ended.cgroups[0]}/worker ${pressure}`, true],
    ["systemd 258's words", `Marked ${ended.cgroups[0]} for killing ${pressure}`, true],
    [
      "swap",
      `Killed ${ended.cgroups[0]} due to memory used (1) / total (2) and swap used (3) / total (4) being more than 90%`,
      true,
    ],
    ["a cgroup beside it", `Killed /system.slice/oomlab-a.scope/oomlab-a/db ${pressure}`, false],
    ["a path that begins alike", `Killed /system.slice/oomlab-a.scope/oomlab-a/web2 ${pressure}`, false],
    ["half a name", `Killed /system.slice/oomlab-a.scope/oomlab-a/we ${pressure}`, false],
    ["a scope of a like name", `Killed /system.slice/oomlab-a ${pressure}`, false],
    ["the cgroup whose pressure it was", `Killed /system.slice/x.service ${pressure}`, false],
  ])("systemd-oomd names %s", (_, text, is) => {
    const found = oomKillerOf(ended, said("systemd-oomd", text));
    if (is) expect(found).toMatchObject({ by: "systemd-oomd", words: text, confidence: "proven", evidence: [1] });
    else expect(found).toBeNull();
  });

  test("systemd-oomd sends nothing but SIGKILL", () => {
    const words = said("systemd-oomd", `Killed ${ended.cgroups[0]} ${pressure}`);
    expect(oomKillerOf({ ...ended, signal: "SIGTERM" }, words)).toBeNull();
    expect(oomKillerOf({ ...ended, signal: null, childSignal: "SIGKILL" }, words)).toMatchObject({ child: true });
    expect(
      oomKillerOf({ ...ended, signal: "SIGTERM" }, { ...nothing, running: [{ name: "systemd-oomd", unit: null }] }),
    ).toBeNull();
  });

  test("oomd names its cgroup in the kernel's log", () => {
    const text = (cgroup: string): string =>
      `oomd kill: 9.00 3.00 1.00 ${cgroup} 104857600 ruleset:[protect] detectorgroup:[all] killer:kill_by_pressure v2`;
    expect(oomKillerOf(ended, said("oomd", text("system.slice/oomlab-a.scope/oomlab-a/web")))).toMatchObject({
      by: "oomd",
    });
    expect(oomKillerOf(ended, said("oomd", text("system.slice/oomlab-a.scope/oomlab-a/web2")))).toBeNull();
  });

  test("a mark that was counted up says so without a word", () => {
    const mark = {
      path: "/system.slice/oomlab-a.scope/oomlab-a/web",
      name: "user.oomd_ooms",
      before: 1,
      after: 2,
      lines: [4],
    };
    expect(oomKillerOf(ended, { ...nothing, marks: [mark] })).toEqual({
      by: "systemd-oomd",
      words: "user.oomd_ooms of /system.slice/oomlab-a.scope/oomlab-a/web went from 1 to 2",
      confidence: "proven",
      child: false,
      evidence: [4],
    });
    expect(oomKillerOf(ended, { ...nothing, marks: [{ ...mark, name: "trusted.oomd_kill" }] })?.by).toBe("oomd");
    expect(
      oomKillerOf(ended, { ...nothing, marks: [{ ...mark, path: "/system.slice/oomlab-a.scope/oomlab-a/we" }] }),
    ).toBeNull();
    expect(oomKillerOf({ ...ended, signal: null }, { ...nothing, marks: [mark] })).toBeNull();
  });

  test("one that runs is likely where its words could not be read, or go elsewhere than to the journal", () => {
    const running = [{ name: "earlyoom", unit: "earlyoom.service" }];
    expect(oomKillerOf(ended, { ...nothing, running, isJournalWhole: false })).toEqual({
      by: "earlyoom",
      words: null,
      confidence: "likely",
      child: false,
      evidence: [9],
    });
    expect(oomKillerOf(ended, { ...nothing, running: [{ name: "earlyoom", unit: null }] })?.confidence).toBe("likely");
    expect(oomKillerOf(ended, { ...nothing, running })).toBeNull();
    expect(oomKillerOf({ ...ended, signal: null }, { ...nothing, running, isJournalWhole: false })).toBeNull();
    expect(oomKillerOf({ ...ended, signal: "SIGSEGV" }, { ...nothing, running, isJournalWhole: false })).toBeNull();
  });
});

const base = recorded("memcg-v1.ndjson");
const pid = base.find((event) => event.type === "process-start")?.pid ?? 0;

interface Case {
  expect?: Partial<Expectations>;
  /** How the process ended; null: it lives. */
  exit?: { code?: number; signal?: string } | null;
  /** What was collected. */
  events?: RunEventBody[];
  oomKillers?: string[];
  initPidNamespace?: boolean;
}

/** A run without any OOM kill of the kernel, whose only process is a command. */
function verdictOf({
  expect: stated = {},
  exit = { signal: "SIGTERM" },
  events = [],
  oomKillers = ["earlyoom"],
  initPidNamespace = true,
}: Case): Verdict {
  const none: Partial<Expectations> = { oom: null, limit: null, victims: null, exit: [], counters: [] };
  const bodies = base.flatMap((event): RunEventBody[] => {
    const { line: _line, t: _t, ...body } = structuredClone(event);
    switch (body.type) {
      case "kmsg":
      case "oom-event":
      case "worker":
        return [];
      case "counters":
        for (const key of Object.keys(body.counters)) if (key.endsWith("oom_kill")) body.counters[key] = 0;
        return [body];
      case "run": {
        const { plan, capabilities } = body;
        const processes = plan.processes.map((process) => ({ ...process, program: "command" as const, bytes: null }));
        return [
          {
            ...body,
            plan: { ...plan, processes, expect: { ...plan.expect, ...none, ...stated } },
            capabilities: capabilities && { ...capabilities, oomKillers, initPidNamespace },
          },
        ];
      }
      case "process-exit":
        return exit === null ? [] : [{ ...body, code: exit.code ?? null, signal: exit.signal ?? null }, ...events];
      default:
        return [body];
    }
  });
  return judge(bodies.map((body, index): RunEvent => ({ line: index + 1, t: index, ...body })));
}

const check = (verdict: Verdict, name: string): Verdict["checks"][number] | undefined =>
  verdict.checks.find((one) => one.name === name);

const words = `sending SIGTERM to process ${pid} uid 0 "python3": oom_score 850, VmRSS 542 MiB`;
const running: RunEventBody = {
  type: "oom-killers",
  running: [{ name: "earlyoom", pid: 533, unit: "earlyoom.service" }],
};
const read: RunEventBody = { type: "journal", problem: null, hint: null };
const unread: RunEventBody = {
  type: "journal",
  problem: "no permission to read the system's journal",
  hint: "run oomlab as root",
};
const log: RunEventBody = { type: "oom-killer-log", killer: "earlyoom", pid: 533, us: 1, text: words };
const proven = [running, log, read];

describe("a command that earlyoom ended", () => {
  /** docs/verdicts.md has this table. */
  test.each<[string, Partial<Expectations>, string, Verdict["status"], unknown]>([
    ["oom: none", { oom: "none" }, "oom", "passed", "none"],
    ["oom: memcg", { oom: "memcg" }, "oom", "inconclusive", "none"],
    ["limit", { limit: "pod/app" }, "limit", "inconclusive", null],
    ["trigger", { trigger: "allocation" }, "trigger", "inconclusive", null],
    ["victims: [hog]", { victims: ["hog"] }, "victims", "inconclusive", []],
    ["victims: []", { victims: [] }, "victims", "passed", []],
    ["within", { withinMs: 5000 }, "within", "inconclusive", null],
    ["survivors", { survivors: ["hog"] }, "survivors.hog", "failed", `ended by earlyoom ("${words}")`],
    ["exit: SIGTERM", { exit: [{ process: "hog", exit: "SIGTERM" }] }, "exit.hog", "inconclusive", "SIGTERM"],
    ["exit: SIGKILL", { exit: [{ process: "hog", exit: "SIGKILL" }] }, "exit.hog", "failed", "SIGTERM"],
    ["exit: 0", { exit: [{ process: "hog", exit: 0 }] }, "exit.hog", "failed", "SIGTERM"],
  ])("%s", (_, stated, name, status, actual) => {
    const verdict = verdictOf({ expect: stated, events: proven });
    expect(check(verdict, name)).toMatchObject({ status, actual });
    expect(verdict.status).toBe(status === "passed" ? "inconclusive" : status);
    expect(check(verdict, "workload.hog")).toMatchObject({
      status: "inconclusive",
      actual: `ended by earlyoom ("${words}")`,
    });
    expect(verdict.notes).toContain(`hog was ended by earlyoom ("${words}")`);
  });

  test("and which caught its SIGTERM and ended with 0 is no survivor either, nor is its status its own", () => {
    const stated = { survivors: ["hog"], exit: [{ process: "hog", exit: 0 }] };
    const verdict = verdictOf({ expect: stated, exit: { code: 0 }, events: proven });
    expect(check(verdict, "survivors.hog")?.status).toBe("failed");
    expect(check(verdict, "exit.hog")).toMatchObject({
      status: "inconclusive",
      note: `ended by earlyoom ("${words}")`,
    });
  });

  test("first is neither the kernel's nor the kubelet's", () => {
    for (const first of ["oom", "eviction"] as const)
      expect(check(verdictOf({ expect: { first }, events: proven }), "first")).toMatchObject({
        actual: "earlyoom",
        status: "inconclusive",
      });
  });

  test("whose words may not be read is likely earlyoom's, with what to type", () => {
    const stated = { survivors: ["hog"], exit: [{ process: "hog", exit: "SIGTERM" }] };
    const verdict = verdictOf({ expect: stated, events: [running, unread] });
    const told =
      "ended by a SIGTERM that no kernel record or counter explains; earlyoom runs on this machine and may have sent it (its journal could not be read whole: no permission to read the system's journal; run oomlab as root)";
    expect(check(verdict, "survivors.hog")).toMatchObject({ status: "failed", actual: told });
    expect(check(verdict, "exit.hog")).toMatchObject({ status: "inconclusive", note: told });
    expect(verdict.notes).toContain(`hog was ${told}`);
  });

  test("outside a container is said to be out of sight, with what to type", () => {
    const verdict = verdictOf({ expect: { survivors: ["hog"] }, oomKillers: [], initPidNamespace: false });
    expect(check(verdict, "survivors.hog")?.actual).toMatch(/outside this container .*`journalctl -u systemd-oomd/);
  });

  test("whose words are not in a journal that was read whole is nobody's we know", () => {
    const verdict = verdictOf({ expect: { survivors: ["hog"] }, events: [running, read] });
    expect(check(verdict, "survivors.hog")).toMatchObject({
      status: "failed",
      actual:
        "ended by a SIGTERM that no kernel record or counter explains; earlyoom runs on this machine (the journal shows no such kill)",
    });
    expect(check(verdict, "workload.hog")).toBeUndefined();
  });
});

describe("survivors", () => {
  const survivor = (given: Case): Verdict["checks"][number] | undefined =>
    check(verdictOf({ oomKillers: [], expect: { survivors: ["hog"] }, ...given }), "survivors.hog");

  test("are alive, or have ended with status 0 or with the one that is stated", () => {
    expect(survivor({ exit: null })).toMatchObject({ status: "passed", actual: "alive at the end" });
    expect(survivor({ exit: { code: 0 } })).toMatchObject({ status: "passed", actual: "ended with status 0" });
    expect(survivor({ exit: { code: 3 } })).toMatchObject({ status: "failed", actual: "ended with status 3" });
    const stated = { survivors: ["hog"], exit: [{ process: "hog", exit: 3 }] };
    expect(survivor({ exit: { code: 3 }, expect: stated })?.status).toBe("passed");
  });

  test("are none whom a signal ended, whoever sent it", () => {
    for (const signal of ["SIGKILL", "SIGTERM", "SIGSEGV"])
      expect(survivor({ exit: { signal } })).toMatchObject({
        status: "failed",
        actual: expect.stringContaining(signal),
      });
  });
});

test("a command that loses a child to earlyoom and goes on survives, and proves nothing", () => {
  const forked: RunEventBody = { type: "procs", cgroup: "pod/app", processes: [{ pid: 77_001, parent: pid }] };
  const text = words.replace(String(pid), "77001");
  const verdict = verdictOf({
    expect: { oom: "none", survivors: ["hog"] },
    exit: { code: 0 },
    events: [forked, running, { ...log, text }, read],
  });
  expect(check(verdict, "survivors.hog")?.status).toBe("passed");
  expect(check(verdict, "workload.hog")?.actual).toBe(`robbed of a child by earlyoom ("${text}")`);
  expect(verdict.status).toBe("inconclusive");
});

test("a mark that was there before the run is of an earlier kill", () => {
  const top = "/system.slice/oomlab-2bu6m24q.scope/oomlab-2bu6m24q";
  const marked = (moment: "before" | "end", path: string, count: number): RunEventBody => ({
    type: "oomd-marks",
    moment,
    top,
    marks: [{ path, name: "user.oomd_ooms", count }],
  });
  const survivor = (...events: RunEventBody[]): unknown =>
    check(
      verdictOf({
        expect: { survivors: ["hog"] },
        exit: { signal: "SIGKILL" },
        oomKillers: [],
        events: [...events, read],
      }),
      "survivors.hog",
    )?.actual;
  const none = "ended by a SIGKILL that no kernel record or counter explains";
  expect(survivor(marked("before", "/system.slice", 1), marked("end", "/system.slice", 1))).toBe(none);
  expect(survivor(marked("end", "/system.slice", 1))).toBe(none);
  expect(survivor(marked("before", "/system.slice", 1), marked("end", "/system.slice", 2))).toBe(
    'ended by systemd-oomd ("user.oomd_ooms of /system.slice went from 1 to 2")',
  );
  expect(survivor(marked("end", `${top}/pod/app`, 1))).toBe(
    `ended by systemd-oomd ("user.oomd_ooms of ${top}/pod/app went from 0 to 1")`,
  );
  expect(survivor(marked("end", `${top}/pod`, 1))).toContain("ended by systemd-oomd");
  expect(survivor(marked("end", `${top}/po`, 1))).toBe(none);
});
