/** Real userspace OOM killers on a real Debian, which end processes of a scenario: earlyoom by pid, systemd-oomd by cgroup. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { parseRecords, type RunEvent } from "../../src/record.ts";
import { judge, type Verdict } from "../../src/verdict.ts";
import { canStartDistro, type Distro, startDistro } from "../helpers/distro.ts";

/** Grows by 20 MiB at a time and then waits. */
const grow = (mebibytes: number, before = "pass"): string =>
  `["python3", "-c", "import signal, time; ${before}\\nall = []\\nfor i in range(${mebibytes / 20}): all.append(bytearray(20 << 20)); time.sleep(0.1)\\ntime.sleep(30)"]`;

/** Reads a file again and again that is larger than what its cgroup may cache. */
const thrash = `["python3", "-c", "import os\\nfd = os.open('/var/tmp/blob', os.O_RDONLY)\\nwhile True:\\n  for i in range(60): os.pread(fd, 1 << 20, i << 20)"]`;

let guest: Distro;

/** Runs a scenario as root in the guest. */
async function run(scenario: string): Promise<{ verdict: Verdict; record: RunEvent[] }> {
  await guest.put("/root/scenario.yaml", scenario);
  const { stderr } = await guest.run("rm -rf out; oomlab run scenario.yaml --machine host --output out", {
    timeoutMs: 200_000,
  });
  const text = await guest.run("cat out/*.ndjson");
  const [record] = text.stdout === "" ? [] : parseRecords(text.stdout, "out");
  if (!record) throw new Error(stderr);
  return { verdict: judge(record), record };
}

const check = ({ checks }: Verdict, name: string): Verdict["checks"][number] | undefined =>
  checks.find((one) => one.name === name);

describe("userspace OOM killers", canStartDistro, () => {
  beforeAll(async () => {
    guest = await startDistro();
    await guest.installOomlab();
  }, 600_000);
  afterAll(async () => await guest[Symbol.asyncDispose]());

  describe("earlyoom", () => {
    beforeAll(async () => {
      await guest.must(
        `echo 'EARLYOOM_ARGS="-r 3600 -m 85,70"' > /etc/default/earlyoom; systemctl start earlyoom; sleep 1`,
      );
    }, 120_000);
    afterAll(async () => void (await guest.must("systemctl stop earlyoom")));

    test("ends a command by SIGTERM, is named with its words, and nothing passes for it", async () => {
      const { verdict } = await run(`
name: py
cgroups: { app: { memory.max: 600Mi } }
processes: { py: { cgroup: app, command: ${grow(400)} } }
expect: { oom: none, survivors: [py], exit: { py: SIGTERM } }
`);
      const words =
        /^ended by earlyoom \("sending SIGTERM to process \d+ uid 0 "python3": oom_score \d+, VmRSS \d+ MiB"\)$/;
      expect(check(verdict, "survivors.py")).toMatchObject({ status: "failed", actual: expect.stringMatching(words) });
      expect(check(verdict, "exit.py")).toMatchObject({
        status: "inconclusive",
        actual: "SIGTERM",
        note: expect.stringMatching(words),
      });
      expect(check(verdict, "workload.py")?.status).toBe("inconclusive");
      expect(check(verdict, "oom")).toMatchObject({ actual: "none", status: "passed" });
      expect(verdict.notes.join("\n")).toMatch(/^py was ended by earlyoom \("sending SIGTERM/m);
    }, 240_000);

    test("ends by SIGKILL a shell's child that does not heed its SIGTERM", async () => {
      const stubborn = grow(700, "signal.signal(signal.SIGTERM, signal.SIG_IGN)").slice('["python3", '.length, -1);
      const { verdict, record } = await run(`
name: stubborn
cgroups: { app: { memory.max: 900Mi } }
processes: { sh: { cgroup: app, command: [sh, -c, 'python3 "$@"; exit $?', sh, ${stubborn}] } }
expect: { oom: none, survivors: [sh], exit: { sh: 137 } }
`);
      const words =
        /^ended, by its child's end, by earlyoom \("sending SIG(TERM|KILL) to process \d+ uid 0 "python3": .*"\)$/;
      expect(check(verdict, "survivors.sh"), JSON.stringify(record.slice(-40))).toMatchObject({
        status: "failed",
        actual: expect.stringMatching(words),
      });
      expect(check(verdict, "exit.sh")).toMatchObject({
        status: "inconclusive",
        actual: 137,
        note: expect.stringMatching(words),
      });
    }, 240_000);

    test("ends a worker", async () => {
      const { verdict } = await run(`
name: worker
cgroups: { app: { memory.max: 600Mi } }
processes: { hog: { cgroup: app, stress: { anon: 400Mi, rate: 100Mi/s, hold: forever } } }
expect: { oom: none }
`);
      expect(verdict.status).toBe("inconclusive");
      expect(verdict.reason).toMatch(/ended by earlyoom \("sending SIGTERM to process \d+ uid 0 "stress"/);
    }, 240_000);

    test("leaves a run alone that stays small: it passes, and no kill is told", async () => {
      const { verdict, record } = await run(`
name: small
cgroups: { app: { memory.max: 100Mi } }
processes: { py: { cgroup: app, command: ["true"] }, hog: { cgroup: app, stress: { anon: 10Mi } } }
expect: { oom: none, survivors: [py, hog], exit: { py: 0 } }
`);
      expect(record.filter(({ type }) => type === "oom-killers")).toMatchObject([
        { running: [{ name: "earlyoom", unit: "earlyoom.service" }] },
      ]);
      expect(record.filter(({ type }) => type === "journal")).toMatchObject([{ problem: null }]);
      expect(record.filter(({ type }) => type === "oom-killer-log")).toEqual([]);
      expect(verdict.checks.every(({ status }) => status === "passed")).toBe(true);
    }, 240_000);
  });

  describe("systemd-oomd", () => {
    beforeAll(async () => {
      await guest.put("/etc/systemd/oomd.conf.d/test.conf", "[OOM]\nDefaultMemoryPressureDurationSec=1s\n");
      await guest.must(
        `dd if=/dev/zero of=/var/tmp/blob bs=1M count=60 2>/dev/null; sync; ` +
          `systemctl unmask systemd-oomd.service systemd-oomd.socket; systemctl daemon-reload; ` +
          `systemctl set-property --runtime system.slice ManagedOOMMemoryPressure=kill ManagedOOMMemoryPressureLimit=3%; ` +
          `systemctl start systemd-oomd`,
        { timeoutMs: 180_000 },
      );
    }, 200_000);
    afterAll(async () => void (await guest.must("systemctl stop systemd-oomd.socket systemd-oomd.service")));

    test("ends a command and a worker in one cgroup of a slice that it watches", async () => {
      await guest.must("echo 3 > /proc/sys/vm/drop_caches");
      const { verdict, record } = await run(`
name: thrash
timeout: 120s
cgroups: { app: { memory.high: 20Mi, memory.max: 200Mi } }
processes:
  py: { cgroup: app, command: ${thrash} }
  hog: { cgroup: app, stress: { anon: 4Mi, hold: forever } }
expect: { oom: none, survivors: [py], exit: { hog: SIGKILL } }
`);
      const words =
        /^ended by systemd-oomd \("Killed \/system\.slice\/\S+\/oomlab-\w+\/app due to memory pressure for \/system\.slice being .*"\)$/;
      expect(check(verdict, "survivors.py"), JSON.stringify(record.slice(-40))).toMatchObject({
        status: "failed",
        actual: expect.stringMatching(words),
      });
      expect(check(verdict, "exit.hog")).toMatchObject({ status: "inconclusive", note: expect.stringMatching(words) });
      const marks = record.flatMap((event) => (event.type === "oomd-marks" ? [event] : [])).at(-1)?.marks;
      expect(marks).toContainEqual({
        path: expect.stringMatching(/^\/system\.slice\/.*\/app$/),
        name: "user.oomd_ooms",
        count: 1,
      });
      // Its mark alone is enough.
      const unlogged = judge(record.filter(({ type }) => type !== "oom-killer-log"));
      expect(check(unlogged, "survivors.py")?.actual).toMatch(
        /^ended by systemd-oomd \("user\.oomd_(ooms|kill) of \S+\/app went from 0 to \d+"\)$/,
      );
    }, 240_000);
  });
});
