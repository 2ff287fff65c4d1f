import { describe, expect, test } from "vitest";
import type { Eviction, RankedPod } from "../../src/kubernetes/eviction.ts";
import { type Expectations, parseScenarios } from "../../src/scenario/index.ts";
import type { Plan, PlannedProcess } from "../../src/plan.ts";
import type { RunEvent, RunEventBody } from "../../src/record.ts";
import { judge, type Verdict } from "../../src/verdict.ts";

const Mi = 1048576;
const top = "oomlab-k1";

const process = (name: string, cgroup: string): PlannedProcess => ({
  name,
  cgroup,
  program: "stress",
  argv: [],
  env: {},
  cwd: null,
  oomScoreAdj: 1000,
  user: null,
  cpus: null,
  mempolicy: null,
  rlimits: [],
  start: "auto",
  bytes: 400 * Mi,
  workers: 1,
  forks: false,
  waits: true,
});

/** What a scenario expects that states nothing. */
const nothing = parseScenarios("processes: { p: { stress: { anon: 1Mi } } }", "test.yaml")[0]!.expect;

const plan = (expectations: Partial<Expectations>): Plan => ({
  name: "a race",
  file: "race.yaml",
  machine: "vm",
  cgroupVersion: 2,
  skip: null,
  top: { name: top, path: `/${top}`, writes: [] },
  cgroups: ["web", "db"].map((name) => ({ name, path: `/${top}/${name}`, writes: [] })),
  processes: [process("web/app", "web"), process("db/app", "db")],
  steps: [],
  expect: { ...nothing, ...expectations },
  timeoutMs: 60_000,
  demand: null,
  vm: null,
  kubelet: {
    config: {
      minor: 36,
      thresholds: [],
      maxPodGracePeriodSeconds: 0,
      pressureTransitionPeriodMs: 300_000,
      memcgNotification: false,
    },
    kubepods: "kubepods",
    pods: [],
  },
});

/** Bodies at seconds since the record began. */
const record = (expectations: Partial<Expectations>, ...body: [number, RunEventBody][]): RunEvent[] =>
  [
    [
      0,
      {
        type: "run",
        schemaVersion: 1,
        oomlab: "0",
        record: "k1",
        startedAt: "",
        plan: plan(expectations),
        capabilities: null,
      },
    ] as [number, RunEventBody],
    ...body,
  ].map(([seconds, event], index) => ({ line: index + 1, t: Math.round(seconds * 1e6), ...event }));

const before: [number, RunEventBody][] = [
  [0.5, { type: "vmstat", moment: "before", oomKill: 0 }],
  ...["web", "db"].map((cgroup): [number, RunEventBody] => [
    0.5,
    { type: "counters", cgroup, moment: "before", counters: { "memory.events.local.oom_kill": 0 } },
  ]),
  [
    0.6,
    { type: "kubelet", did: "start", minor: 36, sysctl: {}, capacity: 512 * Mi, kubepodsLimit: null, thresholds: [] },
  ],
  [
    0.7,
    {
      type: "kubelet",
      did: "pass",
      by: "poll",
      signals: [],
      met: [],
      due: [],
      ranking: [],
      oomScores: {},
      log: null,
      ms: 1,
    },
  ],
  [1, { type: "process-start", process: "web/app", pid: 100, cgroup: "web" }],
  [1, { type: "process-start", process: "db/app", pid: 200, cgroup: "db" }],
  [3, { type: "worker", process: "web/app", report: { type: "touched", pid: 100, touched: 400 * Mi, rss: 1, hwm: 1 } }],
  [3, { type: "worker", process: "db/app", report: { type: "touched", pid: 200, touched: 400 * Mi, rss: 1, hwm: 1 } }],
];

const eviction = (pod: string, rank = 1): Eviction => ({
  pod,
  rank,
  message: `The node was low on resource: memory. `,
  annotations: {},
  signal: "memory.available",
  available: 50 * Mi,
  threshold: 100 * Mi,
  graceSeconds: 1,
  killTimeoutMs: 10_000,
  condition: null,
});
const decides = (at: number, pod: string, rank = 1): [number, RunEventBody] => [
  at,
  {
    type: "kubelet",
    did: "evict",
    eviction: eviction(pod, rank),
    event: { type: "Warning", reason: "Evicted", message: "The node was low on resource: memory. " },
  },
];
const signals = (at: number, pod: string, pid: number, signal = "SIGKILL"): [number, RunEventBody] => [
  at,
  { type: "kill", process: `${pod}/app`, cgroup: pod, pid, signal, why: "eviction" },
];
const ends = (at: number, pod: string, pid: number, signal: string | null = "SIGKILL"): [number, RunEventBody] => [
  at,
  {
    type: "process-exit",
    process: `${pod}/app`,
    pid,
    code: signal === null ? 0 : null,
    signal,
    coreDumped: false,
    userUs: 0,
    systemUs: 0,
  },
];

const oomRecord = (at: number, pod: string, pid: number): [number, RunEventBody][] =>
  [
    "stress invoked oom-killer: gfp_mask=0x140dca(GFP_HIGHUSER_MOVABLE|__GFP_COMP|__GFP_ZERO), order=0, oom_score_adj=1000",
    `oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/${top}/${pod},task=stress,pid=${pid},uid=0`,
    `Out of memory: Killed process ${pid} (stress) total-vm:1000kB, anon-rss:900kB, file-rss:0kB, shmem-rss:0kB, UID:0 pgtables:44kB oom_score_adj:1000`,
  ].map((text, index) => [
    at,
    {
      type: "kmsg",
      seq: 10 * pid + index,
      timeUs: at * 1e6,
      facility: 0,
      level: 6,
      caller: null,
      text,
    },
  ]);

const after = (killsOf: Record<string, number> = {}): [number, RunEventBody][] => [
  ...["web", "db"].map((cgroup): [number, RunEventBody] => [
    40,
    { type: "counters", cgroup, moment: "settled", counters: { "memory.events.local.oom_kill": killsOf[cgroup] ?? 0 } },
  ]),
  [41, { type: "end", durationMs: 40_000 }],
];

const check = (verdict: Verdict, name: string): Verdict["checks"][number] | undefined =>
  verdict.checks.find((one) => one.name === name);

const evicted: [number, RunEventBody][] = [decides(10.7, "web"), signals(11.7, "web", 100), ends(11.8, "web", 100)];

describe("an eviction", () => {
  test("is told with what the kubelet said, saw and when", () => {
    const verdict = judge(record({}, ...before, ...evicted, ...after()));
    expect(verdict.observed?.evictions).toMatchObject([
      {
        pod: "web",
        message: "The node was low on resource: memory. ",
        atMs: 9700,
        available: 50 * Mi,
        threshold: 100 * Mi,
        rank: 1,
      },
    ]);
  });

  test("is no OOM kill, nor a SIGKILL that nobody explains, though its process ends with 137", () => {
    const verdict = judge(
      record(
        { oom: "none", victims: [], survivors: ["db/app"], exit: [{ process: "web/app", exit: "SIGKILL" }] },
        ...before,
        ...evicted,
        ...after(),
      ),
    );
    expect(verdict).toMatchObject({ status: "passed", observed: { oom: "none", kills: [], foreignKills: [] } });
    expect(verdict.notes.join()).not.toContain("SIGKILL");
  });

  test("leaves no survivor", () => {
    const verdict = judge(record({ survivors: ["web/app", "db/app"] }, ...before, ...evicted, ...after()));
    expect(verdict.status).toBe("failed");
    expect(check(verdict, "survivors.web/app")).toMatchObject({ actual: "evicted by the kubelet", status: "failed" });
    expect(check(verdict, "survivors.db/app")?.status).toBe("passed");
  });

  test("satisfies what is expected of it", () => {
    const verdict = judge(record({ evicted: ["web"], first: "eviction" }, ...before, ...evicted, ...after()));
    expect(verdict.status).toBe("passed");
    for (const { evidence, name } of verdict.checks) expect(evidence.length, name).toBeGreaterThan(0);
  });

  test("of another Pod, of one Pod more, or none fails", () => {
    const status = (expectedPods: string[], ...body: [number, RunEventBody][]): string =>
      judge(record({ evicted: expectedPods }, ...before, ...body, ...after())).status;
    expect(status(["db"], ...evicted)).toBe("failed");
    expect(status([], ...evicted)).toBe("failed");
    expect(status(["web", "db"], ...evicted)).toBe("failed");
    expect(status(["web"])).toBe("failed");
    expect(status([])).toBe("passed");
  });

  test("that is not told where the kubelet's record is missing is open", () => {
    const blind = before.filter(([, { type }]) => type !== "kubelet");
    expect(judge(record({ evicted: [] }, ...blind, ...after())).status).toBe("inconclusive");
    expect(judge(record({ first: "eviction" }, ...blind, ...after())).status).toBe("inconclusive");
  });

  test("is looked for in runs with a kubelet only", () => {
    const [run, ...rest] = record({}, ...before, ...after());
    if (run?.type !== "run") throw new Error();
    const verdict = judge([{ ...run, plan: { ...run.plan, kubelet: null } }, ...rest]);
    expect(verdict.observed).not.toHaveProperty("evictions");
  });
});

describe("what came first", () => {
  const oomKill = (at: number): [number, RunEventBody][] => [...oomRecord(at, "db", 200), ends(at + 0.01, "db", 200)];

  test("was the kernel, where its kill came before the kubelet's", () => {
    const body = [...before, ...oomKill(5), ...evicted, ...after({ db: 1 })] as const;
    expect(check(judge(record({ first: "oom" }, ...body)), "first")).toMatchObject({ actual: "oom", status: "passed" });
    expect(judge(record({ first: "eviction", oom: "global" }, ...body)).status).toBe("failed");
  });

  test("was the eviction, where the kernel's kill came after", () => {
    const body = [...before, ...evicted, ...oomKill(13), ...after({ db: 1 })] as const;
    expect(check(judge(record({ first: "eviction" }, ...body)), "first")).toMatchObject({
      actual: "eviction",
      status: "passed",
    });
    expect(check(judge(record({ first: "oom" }, ...body)), "first")?.status).toBe("failed");
  });

  test("was the kernel, where it killed within the grace of a Pod that was told to go", () => {
    const verdict = judge(
      record(
        { first: "oom", evicted: ["web"], oom: "global", victims: ["web/app"] },
        ...before,
        decides(10.7, "web"),
        signals(10.8, "web", 100, "SIGTERM"),
        ...oomRecord(11, "web", 100),
        ends(11.1, "web", 100),
        ...after({ web: 1 }),
      ),
    );
    expect(verdict.status).toBe("passed");
  });

  test("was the kernel, though its log was read late", () => {
    const late = [...evicted, ends(11.75, "db", 200), ...oomRecord(12.5, "db", 200)];
    const verdict = judge(record({ first: "oom" }, ...before, ...late, ...after({ db: 1 })));
    expect(check(verdict, "first")).toMatchObject({ actual: "oom", status: "passed" });
  });

  test("was nothing, where all went on", () => {
    const verdict = judge(record({ first: "oom" }, ...before, ...after()));
    expect(check(verdict, "first")).toMatchObject({ actual: null, status: "failed" });
  });

  test("an expected kernel's win accounts for its kills", () => {
    expect(judge(record({ first: "oom" }, ...before, ...oomKill(5), ...after({ db: 1 }))).status).toBe("passed");
  });

  test("an expected eviction does not account for a kill beside it", () => {
    const verdict = judge(record({ first: "eviction" }, ...before, ...evicted, ...oomKill(13), ...after({ db: 1 })));
    expect(verdict.status).toBe("failed");
  });
});

describe("why kernel and kubelet do not choose alike", () => {
  const place = (pod: string, rank: number, more: Partial<RankedPod>): RankedPod => ({
    pod,
    rank,
    workingSet: 70 * Mi,
    request: 0,
    exceeds: true,
    priority: 0,
    spared: false,
    ...more,
  });
  const pass = (at: number, ranking: RankedPod[], oomScores: Record<string, number>): [number, RunEventBody] => [
    at,
    { type: "kubelet", did: "pass", by: "poll", signals: [], met: [], due: [], ranking, oomScores, log: null, ms: 1 },
  ];
  const web = place("web", 1, { request: 50 * Mi });
  const db = place("db", 2, { priority: 1000 });

  test("is told of an eviction that the kernel would not have made", () => {
    const scores = { "web/app": 1040, "db/app": 1117 };
    const { notes } = judge(record({}, ...before, pass(10.6, [web, db], scores), ...evicted, ...after()));
    expect(notes).toContain(
      "the kubelet evicted web (over its request: 70Mi of 50Mi requested, priority 0); the OOM killer would have taken db/app (oom_score 1117, web/app 1040)",
    );
  });

  test("is not told where both would have taken the same", () => {
    const scores = { "web/app": 1140, "db/app": 1117 };
    const { notes } = judge(record({}, ...before, pass(10.6, [web, db], scores), ...evicted, ...after()));
    expect(notes).toEqual([]);
  });

  test("is told where the kernel would have taken a Pod of a namespace that is named as the evicted one", () => {
    const scores = { "web/app": 1040, "web/db/app": 1117 };
    const other = place("web/db", 2, { priority: 1000 });
    const { notes } = judge(record({}, ...before, pass(10.6, [web, other], scores), ...evicted, ...after()));
    expect(notes.join()).toContain("the OOM killer would have taken web/db/app (oom_score 1117, web/app 1040)");
  });

  test("is told of a kill of another Pod than the kubelet's first", () => {
    const body = [pass(4, [web, db], {}), ...oomRecord(5, "db", 200), ends(5.1, "db", 200)] as const;
    const { notes } = judge(record({ first: "oom" }, ...before, ...body, ...after({ db: 1 })));
    expect(notes).toContain(
      "the kernel killed db/app; by what the kubelet knew at its last pass it would have evicted web (over its request: 70Mi of 50Mi requested, priority 0; db: over its request: 70Mi of 0 requested, priority 1000)",
    );
  });

  test("names who was spared", () => {
    const spared = place("db", 1, { spared: true, request: 0 });
    const body = [
      pass(10.6, [spared, place("web", 2, { exceeds: false, request: 100 * Mi })], { "db/app": 1400, "web/app": 900 }),
      decides(10.7, "web", 2),
      signals(11.7, "web", 100),
      ends(11.8, "web", 100),
    ] as const;
    expect(judge(record({}, ...before, ...body, ...after())).notes).toContain(
      "the kubelet evicted web (within its request: 70Mi of 100Mi requested, priority 0; db before it: spared); the OOM killer would have taken db/app (oom_score 1400, web/app 900)",
    );
  });
});
