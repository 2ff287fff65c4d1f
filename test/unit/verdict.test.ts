import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { parseRecords, type RunEvent, type RunEventBody } from "../../src/record.ts";
import { judge, type Verdict } from "../../src/verdict.ts";

/** A run on a 6.18 kernel, cgroup v1: `hog` dies for the limit of `pod/app` (32Mi), below `pod` (64Mi). */
const file = join(import.meta.dirname, "../fixtures/records/memcg-v1.ndjson");
const [real = []] = parseRecords(readFileSync(file, "utf8"), file);
const top = real.find((event) => event.type === "run")?.plan.top.name ?? "";

type Change = (event: RunEvent) => RunEventBody | null;

/** The record with some events changed, or left out. */
const changed = (change: Change): RunEvent[] =>
  real.flatMap((event) => {
    const body = change(structuredClone(event));
    return body === null ? [] : [{ line: event.line, t: event.t, ...body }];
  });

const kmsg = (event: RunEvent, words: RegExp): boolean => event.type === "kmsg" && words.test(event.text);
const check = (verdict: Verdict, name: string): Verdict["checks"][number] | undefined =>
  verdict.checks.find((one) => one.name === name);
const withText =
  (replace: (text: string) => string): Change =>
  (event) =>
    event.type === "kmsg" ? { ...event, text: replace(event.text) } : event;

test("three witnesses that agree make a kill, with its limit and its victim", () => {
  const verdict = judge(real);
  expect(verdict.status).toBe("passed");
  expect(verdict.observed?.kills).toMatchObject([
    {
      kind: "memcg",
      constraint: "CONSTRAINT_MEMCG",
      limit: "pod/app",
      process: "hog",
      witnesses: ["kmsg", "counters", "exit"],
      missing: [],
    },
  ]);
});

test("every check cites lines that the record has", () => {
  const lines = new Set(real.map(({ line }) => line));
  for (const { name, evidence } of judge(real).checks) {
    expect(evidence.length, name).toBeGreaterThan(0);
    expect(
      evidence.every((line) => lines.has(line)),
      name,
    ).toBe(true);
  }
});

describe("the kernel log", () => {
  test("is matched by the run's own cgroup, whatever path a container or a scope puts before it", () => {
    const verdict = judge(
      changed(
        withText((text) =>
          text.replaceAll(/_memcg=\S*?\/oomlab-/g, (found) =>
            found.replace(/=.*\/oomlab-/, "=/system.slice/docker-0123.scope/oomlab-"),
          ),
        ),
      ),
    );
    expect(verdict).toMatchObject({ status: "passed", observed: { kills: [{ limit: "pod/app", process: "hog" }] } });
  });

  test("names another cgroup's limit as that, not as the expected one", () => {
    const verdict = judge(
      changed(withText((text) => text.replace(/oom_memcg=([^,]*)\/pod\/app,/, "oom_memcg=$1/pod,"))),
    );
    expect(verdict.status).toBe("failed");
    expect(check(verdict, "limit")).toMatchObject({ expected: "pod/app", actual: "pod", status: "failed" });
  });

  test("names a limit above the run's own cgroup by the kernel's path", () => {
    const verdict = judge(changed(withText((text) => text.replace(/oom_memcg=[^,]*,/, "oom_memcg=/user.slice,"))));
    expect(check(verdict, "limit")).toMatchObject({ actual: "/user.slice", status: "failed" });
  });

  test("with its head taken by the rate limit still makes a memcg kill, its limit told by the notifications", () => {
    const verdict = judge(
      changed((event) => (event.type === "kmsg" && !/Killed process/.test(event.text) ? null : event)),
    );
    expect(verdict.status).toBe("passed");
    expect(verdict.observed?.kills).toMatchObject([
      { kind: "memcg", constraint: null, limit: "pod/app", process: "hog", missing: ["header", "oom-kill"] },
    ]);
  });

  test("with its head taken and no notification leaves the limit open", () => {
    const verdict = judge(
      changed((event) =>
        (event.type === "kmsg" && !/Killed process/.test(event.text)) || event.type === "oom-event" ? null : event,
      ),
    );
    expect(verdict.status).toBe("inconclusive");
    expect(check(verdict, "oom")?.status).toBe("passed");
    expect(check(verdict, "limit")).toMatchObject({ actual: null, status: "inconclusive" });
  });

  test("lost altogether leaves the kind open, though counters and exit status tell of a kill", () => {
    const verdict = judge(
      changed((event) =>
        event.type !== "kmsg" ? event : kmsg(event, /Killed process/) ? { type: "kmsg-lost", afterSeq: 1 } : null,
      ),
    );
    expect(verdict.status).toBe("inconclusive");
    expect(verdict.observed).toMatchObject({ oom: "unknown", kills: [] });
  });

  test("forged from userspace (facility 1) is no witness", () => {
    const verdict = judge(changed((event) => (event.type === "kmsg" ? { ...event, facility: 1 } : event)));
    expect(verdict.observed?.kills).toEqual([]);
    expect(verdict.status).toBe("inconclusive");
  });

  test("of another cgroup's kill is foreign, and ours is not proven by it", () => {
    const verdict = judge(changed(withText((text) => text.replaceAll(`/${top}/`, "/somebody-else/"))));
    expect(verdict.observed?.kills).toEqual([]);
    expect(verdict.observed?.foreignKills).toMatchObject([{ process: null, limit: null, witnesses: ["kmsg"] }]);
    expect(verdict.status).toBe("inconclusive");
  });

  test("that names no pid of ours, its head lost, is foreign", () => {
    const verdict = judge(
      changed((event) =>
        event.type !== "kmsg"
          ? event
          : kmsg(event, /Killed process/)
            ? { ...event, text: event.text.replace(/process \d+/, "process 1") }
            : null,
      ),
    );
    expect(verdict.observed?.kills).toEqual([]);
    expect(verdict.observed?.foreignKills).toHaveLength(1);
  });

  test("that names a pid nobody saw is of the only process that was ever in its cgroup, moved there or not", () => {
    const verdict = judge(
      changed((event) => {
        if (event.type === "run") {
          for (const process of event.plan.processes)
            Object.assign(process, { forks: true, program: "command", bytes: null, cgroup: "pod" });
          event.plan.steps = [{ do: "move", process: "hog", cgroup: "pod/app", line: 1, column: 1 }];
          event.plan.expect.exit = [];
        }
        if (event.type === "process-exit") return { ...event, signal: null, code: 0 };
        if (event.type === "worker" || event.type === "procs") return null;
        return event.type === "kmsg"
          ? { ...event, text: event.text.replace(/Killed process \d+/, "Killed process 1").replace(/pid=\d+/, "pid=1") }
          : event;
      }),
    );
    expect(verdict.observed?.kills).toMatchObject([
      { process: "hog", limit: "pod/app", witnesses: ["kmsg", "counters"] },
    ]);
  });

  /** The victim is a child that nobody has seen, its report's head lost; `more` kills happened elsewhere. */
  const unseen = (more: number): Verdict =>
    judge(
      changed((event) => {
        if (event.type === "run") {
          for (const process of event.plan.processes)
            Object.assign(process, { forks: true, program: "command", bytes: null });
          event.plan.expect.exit = [];
          return event;
        }
        if (event.type === "vmstat" && event.moment !== "before")
          return { ...event, oomKill: (event.oomKill ?? 0) + more };
        if (event.type === "process-exit") return { ...event, signal: null, code: 0 };
        if (event.type === "worker" || event.type === "procs") return null;
        if (event.type !== "kmsg") return event;
        return kmsg(event, /Killed process/)
          ? { ...event, text: event.text.replace(/process \d+/, "process 1") }
          : null;
      }),
    );

  test("that names a pid nobody saw, its head lost, is of the process whose cgroup counts it, where the machine counts no other", () => {
    expect(unseen(0)).toMatchObject({
      status: "passed",
      observed: { kills: [{ process: "hog", limit: "pod/app", witnesses: ["kmsg", "counters"] }], foreignKills: [] },
    });
    expect(unseen(1)).toMatchObject({
      status: "inconclusive",
      observed: { kills: [], foreignKills: [{ process: null }] },
    });
  });

  test("of a cgroup whose name only begins like ours is foreign", () => {
    const verdict = judge(changed(withText((text) => text.replaceAll(`/${top}/`, `/${top}x/`))));
    expect(verdict.observed?.foreignKills).toHaveLength(1);
  });
});

describe("a counter that the record does not hold", () => {
  const asked = (keep: (event: RunEvent) => boolean): Verdict => {
    const expected = { cgroup: "pod/app", key: "memory.events.no_such", compare: { op: ">", value: 0, text: ">0" } };
    return judge(
      real.filter(keep).map((event) =>
        event.type === "run"
          ? ({
              ...event,
              plan: { ...event.plan, expect: { ...event.plan.expect, counters: [expected] } },
            } as RunEvent)
          : event,
      ),
    );
  };
  const name = "counters.pod/app.memory.events.no_such";

  test("is one that the kernel does not report, where others were read", () => {
    expect(
      check(
        asked(() => true),
        name,
      ),
    ).toMatchObject({
      status: "inconclusive",
      note: "this kernel does not report memory.events.no_such",
    });
  });

  test("says nothing of the kernel, where the run never got to read one", () => {
    expect(
      check(
        asked(({ type }) => type !== "counters"),
        name,
      ),
    ).toMatchObject({
      status: "inconclusive",
      note: "it was never read: the run did not get that far",
    });
  });
});

describe("witnesses that contradict", () => {
  const noKillCounted: Change = (event) =>
    event.type === "counters"
      ? {
          ...event,
          counters: Object.fromEntries(
            Object.entries(event.counters).map(([key, value]) => [key, key.endsWith("oom_kill") ? 0 : value]),
          ),
        }
      : event;

  test("a logged kill that no counter counts is inconclusive", () => {
    const verdict = judge(changed(noKillCounted));
    // The scenario also states the counter: that alone would be a failure.
    expect(check(verdict, "evidence")).toMatchObject({
      status: "inconclusive",
      actual: expect.stringContaining("counter did not grow"),
    });
    expect(verdict.status).toBe("failed");
  });

  test("a logged kill of a process that exited 0 is inconclusive", () => {
    const verdict = judge(
      changed((event) => (event.type === "process-exit" ? { ...event, code: 0, signal: null } : event)),
    );
    expect(check(verdict, "evidence")).toMatchObject({
      status: "inconclusive",
      actual: expect.stringContaining("ended with status 0"),
    });
  });

  test("a kill that only the log tells is inconclusive", () => {
    const alone = changed((event) => (event.type === "counters" || event.type === "process-exit" ? null : event)).map(
      (event) =>
        event.type === "run"
          ? { ...event, plan: { ...event.plan, expect: { ...event.plan.expect, counters: [], exit: [] } } }
          : event,
    );
    expect(judge(alone)).toMatchObject({
      status: "inconclusive",
      reason: expect.stringContaining("only the kernel log says"),
    });
  });

  test("a kill that only the log tells does not fail the expectation of none", () => {
    const alone = changed((event) => (event.type === "counters" || event.type === "process-exit" ? null : event)).map(
      (event): RunEvent => {
        if (event.type !== "run") return event;
        const expected = {
          ...event.plan.expect,
          oom: "none" as const,
          limit: null,
          victims: null,
          counters: [],
          exit: [],
        };
        return { ...event, plan: { ...event.plan, expect: expected } };
      },
    );
    const verdict = judge(alone);
    expect(check(verdict, "oom")?.status).toBe("inconclusive");
    expect(verdict.status).toBe("inconclusive");
  });

  test("kills that are counted and not logged are inconclusive", () => {
    const verdict = judge(changed((event) => (event.type === "kmsg" ? null : event)));
    expect(verdict.status).toBe("inconclusive");
    expect(check(verdict, "evidence")).toMatchObject({
      actual: expect.stringMatching(/oom_kill of pod\/app grew by 1, the log tells 0/),
      note: "the log has no gap",
    });
  });
});

describe("ends", () => {
  const noKill: Change = (event) => {
    if (event.type === "kmsg" || event.type === "oom-event") return null;
    if (event.type === "counters")
      return {
        ...event,
        counters: Object.fromEntries(
          Object.entries(event.counters).map(([key, value]) => [key, key.endsWith("oom_kill") ? 0 : value]),
        ),
      };
    if (event.type === "run")
      return {
        ...event,
        plan: {
          ...event.plan,
          expect: { ...event.plan.expect, oom: "none", limit: null, victims: [], exit: [], counters: [] },
        },
      };
    return event;
  };

  test("a SIGKILL without a kernel record and without a count is no OOM kill, and leaves the workload unproven", () => {
    const verdict = judge(changed(noKill));
    expect(verdict.observed).toMatchObject({ oom: "none", kills: [] });
    expect(verdict).toMatchObject({
      status: "inconclusive",
      reason: expect.stringContaining("SIGKILL that no kernel record or counter explains"),
    });
  });

  test("such a SIGKILL names the userspace OOM killer that runs there", () => {
    const verdict = judge(
      changed((event) => {
        const body = noKill(event);
        return body?.type === "run" && body.capabilities
          ? { ...body, capabilities: { ...body.capabilities, oomKillers: ["systemd-oomd"] } }
          : body;
      }),
    );
    expect(verdict.reason).toContain("systemd-oomd runs on this machine and may have sent it");
  });

  test("the watchdog's own SIGKILL is neither a kill nor an early end", () => {
    const ours = changed(noKill).flatMap((event): RunEvent[] =>
      event.type === "process-exit"
        ? [
            { line: event.line - 0.5, t: event.t, type: "timeout", ms: 1000 },
            {
              line: event.line - 0.25,
              t: event.t,
              type: "kill",
              process: "hog",
              cgroup: "pod/app",
              pid: event.pid,
              signal: "SIGKILL",
              why: "timeout",
            },
            event,
          ]
        : [event],
    );
    expect(judge(ours)).toMatchObject({
      status: "passed",
      notes: expect.arrayContaining(["it was ended by its timeout of 1000 ms"]),
    });
  });

  test("V8's own heap limit is named, and is no OOM kill", () => {
    const verdict = judge(
      changed(noKill).flatMap((event): RunEvent[] =>
        event.type === "process-exit"
          ? [
              {
                line: event.line - 0.5,
                t: event.t,
                type: "output",
                process: "hog",
                text: "FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory",
              },
              { ...event, signal: "SIGABRT" },
            ]
          : [event],
      ),
    );
    expect(verdict).toMatchObject({
      status: "inconclusive",
      reason: expect.stringMatching(/V8's own heap limit ended it .*SIGABRT.*no OOM kill/),
    });
  });

  test("ENOMEM that a worker tells is named, and is no OOM kill", () => {
    const refused = changed(noKill).map((event): RunEvent =>
      event.type === "worker" && event.report.type === "progress"
        ? { ...event, report: { type: "error", pid: event.report.pid, op: "mmap", errno: "ENOMEM", touched: 0 } }
        : event.type === "process-exit"
          ? { ...event, code: 1, signal: null }
          : event,
    );
    expect(judge(refused)).toMatchObject({
      status: "inconclusive",
      reason: expect.stringMatching(/mmap failed after 0: ENOMEM \(no OOM kill\)/),
    });
  });

  test.each<[string, { overcommit?: number | null; errno?: string; argv?: string[]; rlimit?: string }, boolean]>([
    ["is 2 and it asked for no reservation", { overcommit: 2 }, true],
    ["is 0", { overcommit: 0 }, false],
    ["is not known", { overcommit: null }, false],
    ["is not in the record", {}, false],
    ["is 2 and it asked for reservation", { overcommit: 2, argv: ["--anon", "1"] }, false],
    ["is 2 and its RLIMIT_AS may have refused it too", { overcommit: 2, rlimit: "AS" }, false],
    ["is 2 and it failed otherwise", { overcommit: 2, errno: "EPERM" }, false],
  ])(
    "a worker's ENOMEM is noted with the sysctl that allows it only where vm.overcommit_memory %s",
    (_, given, noted) => {
      const { errno = "ENOMEM", argv = ["--anon", "1", "--no-reserve"], rlimit } = given;
      const record = changed((event) => {
        if (event.type === "run") {
          if (event.capabilities && given.overcommit !== undefined)
            event.capabilities.overcommitMemory = given.overcommit;
          for (const process of event.plan.processes)
            Object.assign(process, { argv, rlimits: rlimit === undefined ? [] : [{ resource: rlimit, value: 1 }] });
        }
        return event.type === "worker" && event.report.type === "progress"
          ? { ...event, report: { type: "error", pid: event.report.pid, op: "mmap", errno, touched: 0 } }
          : event;
      });
      const note = expect.stringContaining("`sysctl vm.overcommit_memory=0` allows it");
      expect(judge(record).notes).toEqual(noted ? expect.arrayContaining([note]) : expect.not.arrayContaining([note]));
    },
  );

  test("an expected kill that did not come is a failure where all was touched, and proves nothing where a worker gave up", () => {
    const without = (touched: boolean): Verdict =>
      judge(
        changed((event) => {
          const body = noKill(event);
          if (body?.type === "worker" && body.report.type === "progress" && touched)
            return {
              ...body,
              report: { ...body.report, type: "touched", rss: 0, hwm: 0, ms: 1, slow: false } as never,
            };
          return body?.type === "run"
            ? { ...body, plan: { ...body.plan, expect: { ...body.plan.expect, oom: "memcg", victims: ["hog"] } } }
            : body;
        }),
      );
    expect(without(true).status).toBe("failed");
    expect(check(without(true), "oom")).toMatchObject({ expected: "memcg", actual: "none", status: "failed" });
    expect(without(false).status).toBe("inconclusive");
    expect(check(without(false), "oom")).toMatchObject({ expected: "memcg", actual: "none", status: "inconclusive" });
  });

  test("a record that breaks off is judged as far as it goes and is errored", () => {
    const verdict = judge(real.slice(0, -3));
    expect(verdict).toMatchObject({ status: "errored", reason: "the record breaks off before the run's end" });
    expect(verdict.observed?.kills).toHaveLength(1);
  });

  test("a failure of the machine is errored, with the hint", () => {
    const failed = [
      ...real.slice(0, -1),
      { line: real.length, t: 0, type: "error", code: "X", message: "no such thing", hint: "get one" } as RunEvent,
      ...real.slice(-1),
    ];
    expect(judge(failed)).toMatchObject({ status: "errored", reason: "no such thing: get one" });
  });
});

describe("a private pid namespace, whose numbers are not the kernel log's", () => {
  const victim = real.find((event) => event.type === "process-start")?.pid ?? 0;

  /** The hog is 17 here; `beside` is one more process in its cgroup, with the number that the log gives the hog. */
  const inContainer = (beside: { signal: string | null } | null): RunEvent[] => {
    const events = changed((event) => {
      switch (event.type) {
        case "run": {
          if (event.capabilities) event.capabilities.initPidNamespace = false;
          const [hog] = event.plan.processes;
          if (hog && beside) event.plan.processes.push({ ...hog, name: "other", bytes: null, program: "command" });
          return event;
        }
        case "process-start":
        case "process-exit":
          return { ...event, pid: 17 };
        case "worker":
          return { ...event, report: { ...event.report, pid: 17 } };
        default:
          return event;
      }
    });
    if (!beside) return events;
    const start = events.findIndex(({ type }) => type === "process-start");
    const { line, t } = events[start] as RunEvent;
    const other = { line, t, process: "other", pid: victim };
    const exit = {
      ...other,
      type: "process-exit",
      code: beside.signal === null ? 0 : null,
      signal: beside.signal,
      coreDumped: false,
      userUs: 0,
      systemUs: 0,
    } as RunEvent;
    const settle = events.findIndex((event) => event.type === "phase" && event.phase === "settle");
    return [
      ...events.slice(0, start),
      { ...other, type: "process-start", cgroup: "pod/app" },
      ...events.slice(start, settle),
      exit,
      ...events.slice(settle),
    ];
  };

  test("the victim is ours by its cgroup, and its end is a witness", () => {
    const verdict = judge(inContainer(null));
    expect(verdict).toMatchObject({
      status: "passed",
      observed: {
        kills: [{ process: "hog", victim: { pid: victim }, witnesses: ["kmsg", "counters", "exit"] }],
        foreignKills: [],
      },
    });
  });

  test("of two processes in the cgroup the victim is the one that a SIGKILL ended, whatever number the other has", () => {
    expect(judge(inContainer({ signal: null }))).toMatchObject({
      status: "passed",
      observed: { kills: [{ process: "hog", witnesses: ["kmsg", "counters", "exit"] }] },
    });
  });

  test("which of two that ended so was the victim stays open", () => {
    const verdict = judge(inContainer({ signal: "SIGKILL" }));
    expect(verdict).toMatchObject({ status: "inconclusive", observed: { kills: [{ process: null }] } });
    expect(check(verdict, "victims")?.status).toBe("inconclusive");
  });
});

describe("records", () => {
  const text = readFileSync(file, "utf8");

  test("several behind each other are told apart", () => {
    expect(parseRecords(text + text, "two").map((events) => events.length)).toEqual([real.length, real.length]);
  });

  test("a last line cut off by a kill -9 is left out", () => {
    expect(parseRecords(text.slice(0, -20), "cut")[0]).toHaveLength(real.length - 1);
  });

  test.each([
    ["", /the file holds no record/],
    ["hello\n", /bad:1: expected a JSON object a line/],
    ['{"line":1,"type":"phase"}\n', /bad:1: expected the record's first event to be of type "run"/],
    ['{"type":"run"}\n', /bad:1: expected an event with "type" and "line"/],
    ['{"line":1,"type":"run","schemaVersion":99}\n', /bad:1: expected a record of schemaVersion 1, got 99/],
  ])("%j is refused with file and line", (bad, words) => {
    expect(() => parseRecords(bad, "bad")).toThrow(words);
  });
});
