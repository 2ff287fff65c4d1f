/**
 * A user without root in an ssh session of a real Debian, where kernel.dmesg_restrict closes /dev/kmsg: ann is in no group,
 * so her verdicts rest on two witnesses; eva is in systemd-journal, so she has the kernel's log all the same.
 */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { parseRecords, type RunEvent } from "../../src/record.ts";
import type { Verdict } from "../../src/verdict.ts";
import { canStartDistro, type Distro, startDistro, type User } from "../helpers/distro.ts";

const scenarios = `
name: own limit
cgroups: { app: { memory.max: 32Mi, memory.swap.max: 0 } }
processes:
  hog: { cgroup: app, stress: { anon: 64Mi } }
expect: { oom: memcg, limit: app, victims: [hog], exit: { hog: SIGKILL } }
---
name: a limit above
cgroups: { pod: { memory.max: 48Mi, memory.swap.max: 0 }, pod/app: { memory.max: 64Mi } }
processes:
  hog: { cgroup: pod/app, stress: { anon: 90Mi } }
expect: { oom: memcg, limit: pod, victims: [hog] }
---
# The first dies for the limit of pod/app, the second for that of pod.
name: two limits
cgroups:
  pod: { memory.max: 48Mi, memory.swap.max: 0 }
  pod/app: { memory.max: 32Mi }
  pod/other: {}
processes:
  first: { cgroup: pod/app, stress: { anon: 40Mi } }
  ballast: { cgroup: pod/other, stress: { anon: 30Mi, hold: forever } }
  second: { cgroup: pod/app, oom_score_adj: 1000, stress: { anon: 28Mi } }
steps:
  - start: first
  - wait: { process: first, exited: true }
  - start: ballast
  - wait: { process: ballast, touched: 30Mi }
  - start: second
expect: { oom: memcg, limit: pod/app, victims: [first, second], survivors: [ballast] }
---
name: a pattern and a trigger
cgroups: { app: { memory.max: 32Mi, memory.swap.max: 0 } }
processes:
  hog: { cgroup: app, stress: { anon: 64Mi } }
expect: { oom: memcg, trigger: allocation, log: [Killed process] }
---
name: survivors
cgroups: { app: { memory.max: 64Mi, memory.swap.max: 0 } }
processes:
  idle: { cgroup: app, stress: { anon: 8Mi, hold: forever } }
  done: { cgroup: app, stress: { anon: 16Mi } }
expect: { oom: none, victims: [], survivors: [idle, done], exit: { done: 0 } }
---
# What anybody writes to the log is not the kernel's.
name: a forged kill
cgroups: { app: { memory.max: 64Mi, memory.swap.max: 0 } }
processes:
  forger:
    cgroup: app
    command:
      - sh
      - -c
      - 'logger -p kern.err "Memory cgroup out of memory: Killed process $$ (sh) total-vm:2048kB, anon-rss:1024kB, file-rss:0kB, shmem-rss:0kB, UID:0 pgtables:40kB oom_score_adj:0"'
expect: { oom: none, victims: [], exit: { forger: 0 } }
`;

const file = "scenarios.yaml";

interface Outcome {
  verdicts: Map<string, Verdict>;
  terminal: string;
  records: RunEvent[][];
  doctor: string;
}

describe("a user without root, in an ssh session", canStartDistro, () => {
  let guest: Distro;
  const outcomes: Partial<Record<User, Outcome>> = {};
  const of = (user: User): Outcome => {
    const outcome = outcomes[user];
    if (!outcome) throw new Error(`${user} has run nothing`);
    return outcome;
  };
  const verdict = (user: User, name: string): Verdict => {
    const found = of(user).verdicts.get(name);
    if (!found) throw new Error(`${user} has not run "${name}":\n${of(user).terminal}`);
    return found;
  };
  const check = (user: User, name: string, about: string): Verdict["checks"][number] | undefined =>
    verdict(user, name).checks.find((one) => one.name === about);

  /** Side by side: the kills of the one are foreign to the other. */
  beforeAll(async () => {
    guest = await startDistro();
    await guest.installOomlab();
    const run = async (as: User): Promise<void> => {
      await guest.put(`/home/${as}/${file}`, scenarios, { as, timeoutMs: 180_000 });
      const { stdout: terminal, stderr } = await guest.run(
        `oomlab run --machine host --reporter json=report.json --reporter terminal --output records ${file}`,
        { as, timeoutMs: 240_000 },
      );
      const report = JSON.parse(await guest.take(`/home/${as}/report.json`, { as })) as { scenarios: Verdict[] };
      const records = await guest.must("cat records/*.ndjson", { as });
      const { stdout: doctor } = await guest.run("oomlab doctor", { as, timeoutMs: 120_000 });
      outcomes[as] = {
        verdicts: new Map(report.scenarios.map((one) => [one.name, one])),
        terminal: `${terminal}\n${stderr}`,
        records: parseRecords(records, "records"),
        doctor,
      };
    };
    await Promise.all([run("ann"), run("eva")]);
  }, 600_000);
  afterAll(() => guest?.[Symbol.asyncDispose]());

  const source = (user: User): unknown[] => [
    ...new Set(
      of(user)
        .records.map((events) => events.find(({ type }) => type === "kernel-log"))
        .map(sourceOf),
    ),
  ];

  describe("who may read neither /dev/kmsg nor the journal", () => {
    test("has records that say so, and why", () => {
      expect(source("ann")).toEqual([null]);
      expect(of("ann").records[0]).toContainEqual(
        expect.objectContaining({
          type: "kernel-log",
          problem: "no permission to read /dev/kmsg: kernel.dmesg_restrict is 1",
          hint: expect.stringContaining("sudo usermod -aG systemd-journal $USER"),
        }),
      );
    });

    test.each(["own limit", "a limit above"])("gets %s proven by two witnesses, and is shown why only two", (name) => {
      expect(verdict("ann", name)).toMatchObject({
        status: "passed",
        notes: expect.arrayContaining([
          expect.stringMatching(/two witnesses, .*dmesg_restrict is 1\); to read it: `sudo usermod -aG/),
        ]),
        observed: {
          foreignKills: null,
          kills: [{ kind: "memcg", process: "hog", witnesses: ["counters", "exit"], victim: { comm: null } }],
        },
      });
    });

    test("gets no limit where two were hit, and is shown what to type", () => {
      expect(verdict("ann", "two limits")).toMatchObject({
        status: "inconclusive",
        reason: expect.stringMatching(/^limit: .*the limits of pod\/app and pod were hit.*to read it: `sudo/),
        observed: { kills: [{ process: "first" }, { process: "second" }] },
      });
      for (const about of ["oom", "victims", "survivors.ballast"])
        expect(check("ann", "two limits", about)?.status, about).toBe("passed");
    });

    test("gets no pattern and no trigger", () => {
      expect(verdict("ann", "a pattern and a trigger").status).toBe("inconclusive");
      for (const about of ["log", "trigger"])
        expect(check("ann", "a pattern and a trigger", about)).toMatchObject({
          status: "inconclusive",
          note: expect.stringMatching(/^the kernel log was not readable .*to read it/),
        });
    });

    test("is shown by doctor before a run", () => {
      expect(of("ann").doctor).toMatch(/^- kernel log: no permission to read \/dev\/kmsg.*inconclusive\n.*usermod/m);
      expect(of("ann").doctor).toMatch(/^✓ systemd user instance: runs for uid \d+: .*memory/m);
      expect(of("ann").doctor).toMatch(/^- cgroup v1: /m);
    });
  });

  describe("who may read the journal", () => {
    test("has records that say that the log is the journal's", () => {
      expect(source("eva")).toEqual(["journal"]);
      expect(of("eva").doctor).toMatch(/^✓ kernel log: read through systemd's journal/m);
    });

    test.each(["own limit", "a limit above"])("gets %s proven by three witnesses", (name) => {
      expect(verdict("eva", name)).toMatchObject({
        status: "passed",
        observed: {
          kills: [
            {
              constraint: "CONSTRAINT_MEMCG",
              process: "hog",
              witnesses: expect.arrayContaining(["kmsg", "counters", "exit"]),
            },
          ],
        },
      });
    });

    test("gets the limit of each of two kills", () => {
      expect(check("eva", "two limits", "limit")).toMatchObject({ status: "failed", actual: ["pod/app", "pod"] });
    });

    test("gets patterns and the trigger", () => {
      expect(verdict("eva", "a pattern and a trigger").status).toBe("passed");
    });
  });

  test.each(["ann", "eva"] as const)("%s gets survivors and exits, and no kill of what a program logs", (user) => {
    expect(verdict(user, "survivors")).toMatchObject({ status: "passed", reason: null });
    expect(verdict(user, "a forged kill")).toMatchObject({ status: "passed", observed: { kills: [], oom: "none" } });
  });

  test("leaves no cgroup and no journalctl, after kill -9 neither", async () => {
    const scenario =
      "cgroups: { app: { memory.max: 32Mi } }\nprocesses: { idle: { cgroup: app, stress: { anon: 8Mi, hold: 1m } } }\n";
    await guest.put("/home/eva/idle.yaml", scenario, { as: "eva" });
    const script = `oomlab run --machine host idle.yaml > /dev/null 2>&1 & pid=$!
      for i in $(seq 300); do pgrep -u eva -x stress > /dev/null && break; sleep 0.1; done
      pgrep -u eva -x journalctl > /dev/null && echo follows
      kill -9 $pid
      for i in $(seq 100); do pgrep -u eva -x 'journalctl|stress' > /dev/null || break; sleep 0.1; done
      pgrep -a -x 'journalctl|stress'`;
    const { stdout } = await guest.run(script, { as: "eva", timeoutMs: 120_000 });
    expect(stdout).toBe("follows");
    const look = "for i in $(seq 100); do find /sys/fs/cgroup -name 'oomlab*' | grep -q . || break; sleep 0.1; done";
    expect(await guest.must(`${look}; find /sys/fs/cgroup -name 'oomlab*'`)).toBe("");
  }, 180_000);
});

const sourceOf = (event: RunEvent | undefined): unknown => (event?.type === "kernel-log" ? event.source : undefined);
