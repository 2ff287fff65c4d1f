import { describe, expect, test } from "vitest";
import type { Plan } from "../../src/plan.ts";
import type { RunEvent, RunEventBody } from "../../src/record.ts";
import { type ContainerStatus, containerStatuses, type KillOfContainer } from "../../src/verdict/statuses.ts";

const limited = (name: string, value: string): object => ({ name, writes: [{ file: "memory.max", value }] });
const plan = (cgroupVersion: 1 | 2, podLimit: string): Plan =>
  ({
    cgroupVersion,
    kubelet: { kubepods: "kubepods" },
    cgroups: [limited("web", podLimit), limited("web/app", "100")],
    pods: {
      pods: [{ name: "web" }],
      containers: [{ name: "web/app", pod: "web", kind: "app" }],
    },
  }) as unknown as Plan;

const counters = (oomKill: number): RunEventBody => ({
  type: "counters",
  cgroup: "web/app",
  moment: "settled",
  counters: { "memory.events.oom_kill": oomKill },
});
const starts: RunEventBody = { type: "process-start", process: "web/app", pid: 10, cgroup: "web/app" };
const ends = (code: number | null, signal: string | null): RunEventBody => ({
  type: "process-exit",
  process: "web/app",
  pid: 10,
  code,
  signal,
  coreDumped: false,
  userUs: 0,
  systemUs: 0,
});
const settles: RunEventBody = { type: "phase", phase: "settle" };
const watched: RunEventBody = { type: "oom-event", cgroup: "web/app", file: "memory.oom_control", count: 1 };
const kill = (changes: Partial<KillOfContainer>): KillOfContainer => ({
  kind: "memcg",
  limit: "web/app",
  process: "web/app",
  victim: { pid: 10 },
  ...changes,
});

function status(
  bodies: RunEventBody[],
  kills: KillOfContainer[] = [],
  { version = 2, evicted = [], podLimit = "200" }: { version?: 1 | 2; evicted?: string[]; podLimit?: string } = {},
): ContainerStatus | undefined {
  const events = bodies.map((body, at): RunEvent => ({ line: at + 1, t: at, ...body }));
  return containerStatuses(plan(version, podLimit), events, kills, evicted)[0];
}

describe("what kubectl would show of a container", () => {
  test("over its own limit: OOMKilled, and that is true", () => {
    expect(status([counters(0), starts, ends(null, "SIGKILL"), settles, counters(1)], [kill({})])).toEqual({
      name: "web/app",
      state: "terminated",
      reason: "OOMKilled",
      exitCode: 137,
      podReason: null,
      really: "an OOM kill: its own limit was hit",
      misleading: false,
    });
  });

  test.each([
    [{ limit: "web" }, "an OOM kill: the Pod's limit was hit, not its own"],
    [{ limit: "kubepods" }, "an OOM kill: the limit of all Pods together was hit, not its own"],
    [{ limit: "slice" }, "an OOM kill: the limit of slice was hit, not its own"],
    [{ limit: null }, "an OOM kill: another cgroup's limit was hit, not its own"],
    [{ kind: "global", limit: null }, "an OOM kill: the node ran out of memory, its own limit was not hit"],
  ])("OOMKilled for another's limit misleads: %o", (changes, really) => {
    const events = [counters(0), starts, ends(null, "SIGKILL"), settles, counters(1)];
    expect(status(events, [kill(changes)])).toMatchObject({ reason: "OOMKilled", really, misleading: true });
  });

  test("the limit of a Pod that has no other container is as good as its own", () => {
    const events = [counters(0), starts, ends(null, "SIGKILL"), settles, counters(1)];
    expect(status(events, [kill({ limit: "web" })], { podLimit: "100" })).toMatchObject({
      really: "an OOM kill: the Pod's limit was hit, which is as large as its own",
      misleading: false,
    });
  });

  test("on cgroup v1 the runtime does not hear of a global kill: Error 137", () => {
    const events = [counters(0), starts, ends(null, "SIGKILL"), settles, counters(1)];
    expect(status(events, [kill({ kind: "global", limit: null })], { version: 1 })).toMatchObject({
      reason: "Error",
      exitCode: 137,
      really: "an OOM kill: the node ran out of memory, its own limit was not hit",
      misleading: true,
    });
    expect(status([...events, watched], [kill({})], { version: 1 })).toMatchObject({
      reason: "OOMKilled",
      misleading: false,
    });
  });

  test("a child is killed and the main process lives on: nothing is shown", () => {
    const events = [counters(0), starts, settles, ends(0, null), counters(1)];
    expect(status(events, [kill({ victim: { pid: 11 } })])).toMatchObject({
      state: "running",
      reason: null,
      exitCode: null,
      really: "an OOM kill: its own limit was hit, and its main process lives on",
      misleading: true,
    });
  });

  test("a child is killed and the main process ends by itself, well: OOMKilled with exit code 0", () => {
    const events = [counters(0), starts, ends(0, null), settles, counters(1)];
    expect(status(events, [kill({ victim: { pid: 11 } })])).toMatchObject({
      reason: "OOMKilled",
      exitCode: 0,
      really: "an OOM kill: its own limit was hit; it ended by itself with status 0",
      misleading: true,
    });
  });

  test("evicted: the Pod's reason is Evicted, the container's Error", () => {
    const events = [counters(0), starts, ends(null, "SIGTERM"), settles, counters(0)];
    expect(status(events, [], { evicted: ["web"] })).toMatchObject({
      reason: "Error",
      exitCode: 143,
      podReason: "Evicted",
      really: "SIGTERM ended it",
      misleading: false,
    });
  });

  test("an OOM event that the log knows no kill of is told", () => {
    const events = [counters(0), starts, ends(null, "SIGKILL"), settles, counters(1)];
    expect(status(events)).toMatchObject({
      reason: "OOMKilled",
      really: "SIGKILL ended it; the log tells no OOM kill of it",
      misleading: true,
    });
  });

  test("what ended by itself, what lives, and what never ran", () => {
    expect(status([starts, ends(0, null), settles])).toMatchObject({ reason: "Completed", exitCode: 0 });
    expect(status([starts, ends(3, null), settles])).toMatchObject({ reason: "Error", exitCode: 3 });
    expect(status([starts, settles, ends(null, "SIGKILL")])).toMatchObject({ state: "running", really: "it lives" });
    expect(status([])).toMatchObject({ state: "waiting", really: "never started", misleading: false });
  });
});
