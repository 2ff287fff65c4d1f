/** oomlab as root on a real Debian with systemd and cgroup v2: each way in, each way out. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { root } from "../helpers/cli.ts";
import { canStartDistro, type Distro, startDistro } from "../helpers/distro.ts";

const scenario = (name: string, expect: string, anon = "60Mi", more = ""): string =>
  `name: ${name}
cgroups: { web: { memory.max: 40Mi, memory.swap.max: 0 } }
processes: { leak: { cgroup: web, stress: { anon: ${anon}${more} } } }
expect: ${expect}
`;

interface Report {
  summary: Record<string, number>;
  scenarios: {
    name: string;
    status: string;
    reason: string | null;
    observed: { kills: { oomMemcg: string; taskMemcg: string; limit: string; process: string; witnesses: string[] }[] };
  }[];
}

describe("on Debian 13 as root", canStartDistro, () => {
  let guest: Distro;
  beforeAll(async () => {
    guest = await startDistro();
    await guest.installOomlab();
    await guest.put("/srv/own.yaml", scenario("own limit", "{ oom: memcg, limit: web, victims: [leak] }"));
    await guest.put("/srv/wrong.yaml", scenario("wrong", "{ oom: none }"));
    await guest.put("/srv/holds.yaml", scenario("holds", "{ oom: none }", "8Mi", ", hold: 60s"));
  }, 600_000);
  afterAll(() => guest?.[Symbol.asyncDispose]());

  const report = async (command: string, timeoutMs = 60_000): Promise<Report> => {
    await guest.run("rm -f /tmp/report.json");
    const { exitCode, stderr } = await guest.run(command, { timeoutMs });
    const text = await guest.take("/tmp/report.json").catch(() => "");
    if (text === "") throw new Error(`no report, exit status ${exitCode}: ${stderr}`);
    return JSON.parse(text) as Report;
  };
  const run = "oomlab run /srv/own.yaml --reporter json=/tmp/report.json";

  test.each([
    ["in a session over ssh", run],
    ["with an empty environment", `env -i $(which node) /opt/oomlab/dist/oomlab.cjs ${run.slice("oomlab ".length)}`],
    ["with Debian's own Node", `/usr/bin/node /opt/oomlab/dist/oomlab.cjs ${run.slice("oomlab ".length)}`],
    ["in a unit", `systemd-run --quiet --wait --collect -p Type=oneshot ${run}`],
    ["by sudo", `su sam -c "sudo ${run}"`],
    ["by su", `su - root -c "${run}"`],
  ])("%s a kill is proven, in a scope below system.slice, and nothing is left", async (_, command) => {
    const { summary, scenarios } = await report(command);
    expect(summary).toMatchObject({ passed: 1 });
    const [kill] = scenarios[0]?.observed.kills ?? [];
    expect(kill).toMatchObject({
      limit: "web",
      process: "leak",
      witnesses: expect.arrayContaining(["kmsg", "counters", "exit"]),
    });
    expect(kill?.oomMemcg).toMatch(/^\/system\.slice\/oomlab-run-(\w+)\.scope\/oomlab-\1\/web$/);
    expect(await guest.leftovers()).toEqual([]);
  });

  test("from cron, without a session bus, a kill is proven", { timeout: 180_000 }, async () => {
    await guest.run("rm -rf /tmp/cron.json /tmp/cron.once");
    // Once only, though cron starts it each minute.
    const once = "mkdir /tmp/cron.once && /usr/local/bin/oomlab run /srv/own.yaml --reporter json=/tmp/cron.json";
    await guest.put("/etc/cron.d/oomlab", `* * * * * root ${once}\n`);
    // cron looks at its tables each minute: it is given the next one.
    await guest.must("date -s \"$(date -d 'next minute' +'%F %H:%M:57')\"");
    await expect
      .poll(() => guest.take("/tmp/cron.json").catch(() => ""), { timeout: 120_000, interval: 1_000 })
      .toContain('"passed": 1');
    await guest.must("rm /etc/cron.d/oomlab");
    await expect.poll(() => guest.leftovers(), { timeout: 20_000, interval: 1_000 }).toEqual([]);
  });

  test("a failed run and several at a time leave nothing", async () => {
    expect((await guest.run("oomlab run /srv/wrong.yaml")).exitCode).toBe(1);
    expect((await guest.run("oomlab run /srv/own.yaml --repeat-each 4 -j 4", { timeoutMs: 120_000 })).exitCode).toBe(0);
    expect(await guest.leftovers()).toEqual([]);
  });

  test("the plan and -v name the path that the kernel then names", async () => {
    const { stdout } = await guest.run("oomlab run /srv/own.yaml --dry-run");
    expect(stdout).toMatch(/cgroup web {2}\/system\.slice\/oomlab-run-(\w+)\.scope\/oomlab-\1\/web/);
    const { stderr } = await guest.run("oomlab run /srv/own.yaml -v --output /tmp/records");
    const path = /in (\/system\.slice\/\S+)/.exec(stderr)?.[1] ?? "";
    expect(await guest.take("/tmp/records/*.ndjson")).toContain(`oom_memcg=${path}/web`);
  });

  const holds = "pgrep -f '[s]tress .*[-]-hold' >/dev/null";
  const untilHolding = (): Promise<string> =>
    guest.must(`for i in $(seq 100); do ${holds} && exit 0; sleep 0.2; done; exit 1`);

  test("Ctrl-C in a terminal ends the run in order: status 130, nothing left", async () => {
    const running = guest.start("oomlab run /srv/holds.yaml", { tty: true });
    await untilHolding();
    running.stdin?.write("\x03");
    const { exitCode, stdout } = await running;
    expect(exitCode).toBe(130);
    expect(stdout).toContain("interrupted (SIGINT)");
    expect(await guest.leftovers()).toEqual([]);
  });

  test("a session that is lost ends the run, and nothing is left", async () => {
    const running = guest.start("oomlab run /srv/holds.yaml", { tty: true, fresh: true });
    await untilHolding();
    running.kill("SIGKILL");
    await running;
    await expect.poll(() => guest.leftovers(), { timeout: 30_000, interval: 1_000 }).toEqual([]);
  });

  test("kill -9 of oomlab leaves nothing: systemd removes the scope", async () => {
    const running = guest.start("oomlab run /srv/holds.yaml");
    await untilHolding();
    await guest.must("pkill -9 -f 'oomlab run /srv/holds'");
    await running;
    await expect.poll(() => guest.leftovers(), { timeout: 20_000, interval: 500 }).toEqual([]);
  });

  test("systemctl stop of the unit that it runs in ends the run in order", async () => {
    await guest.must("systemd-run --quiet --unit=lab -p SuccessExitStatus=130 oomlab run /srv/holds.yaml");
    await untilHolding();
    await guest.must("systemctl stop lab");
    expect(await guest.run("journalctl -u lab -o cat")).toMatchObject({
      stdout: expect.stringContaining("interrupted (SIGTERM)") as string,
    });
    expect(await guest.leftovers()).toEqual([]);
  });

  test("a scope that is stopped in the middle of a run is reported, and nothing is left", async () => {
    const running = guest.start("oomlab run /srv/holds.yaml --reporter json=/tmp/report.json");
    await untilHolding();
    await guest.must("systemctl stop 'oomlab-run-*.scope'");
    const { exitCode } = await running;
    expect(exitCode).toBe(3);
    const { scenarios } = JSON.parse(await guest.take("/tmp/report.json")) as Report;
    expect(scenarios[0]?.status).toMatch(/errored|inconclusive/);
    expect(scenarios[0]?.reason).toMatch(/SIGTERM|scope/);
    expect(await guest.leftovers()).toEqual([]);
  });

  test("what systemd refuses is reported in its own words", async () => {
    await guest.must("mv /usr/bin/systemd-run /usr/bin/systemd-run.away");
    const { exitCode, stdout } = await guest.run("oomlab run /srv/own.yaml");
    await guest.must("mv /usr/bin/systemd-run.away /usr/bin/systemd-run");
    expect(exitCode).toBe(3);
    expect(stdout).toMatch(/systemd-run/);
  });

  test("a read-only cgroup file system is reported before anything runs", async () => {
    const { exitCode, stdout } = await guest.run(
      "unshare -m sh -c 'mount -o remount,bind,ro /sys/fs/cgroup && oomlab run --machine host /srv/own.yaml'",
    );
    expect(exitCode).toBe(3);
    expect(stdout).toMatch(/skipped: the cgroup filesystem at \S+ is mounted read-only/);
  });

  test("watch as the documented service writes entries with fields, and systemctl stop ends it with success", async () => {
    const unit = /```ini\n([^]*?)```/.exec(readFileSync(join(root, "docs/watch.md"), "utf8"))?.[1] ?? "";
    await guest.put("/etc/systemd/system/oomlab-watch.service", unit);
    await guest.must("systemctl daemon-reload && systemctl start oomlab-watch");
    const journal = (): Promise<string> => guest.must("journalctl -u oomlab-watch -o json --no-pager");
    await expect.poll(journal, { timeout: 30_000, interval: 500 }).toContain("watching /dev/kmsg");
    expect((await guest.run("oomlab run /srv/own.yaml")).exitCode).toBe(0);
    await expect.poll(journal, { timeout: 10_000, interval: 500 }).toContain("OOMLAB_KIND");
    const entry = (await journal())
      .split("\n")
      .map((line) => JSON.parse(line) as Record<string, string>)
      .find((one) => one["OOMLAB_KIND"] !== undefined);
    expect(entry).toMatchObject({ OOMLAB_KIND: "memcg", OOMLAB_COMM: "stress", _SYSTEMD_UNIT: "oomlab-watch.service" });
    expect(entry?.["OOMLAB_CGROUP"]).toMatch(/^\/system\.slice\/oomlab-run-\w+\.scope\/oomlab-\w+\/web$/);
    expect(entry?.["MESSAGE"]).toMatch(/memcg OOM kill of pid \d+ \(stress\)/);
    await guest.must("systemctl stop oomlab-watch");
    const state = await guest.must("systemctl show oomlab-watch -p Result,ExecMainStatus,ActiveState");
    expect(state.split("\n").toSorted()).toEqual(["ActiveState=inactive", "ExecMainStatus=0", "Result=success"]);
  });

  test("explain reads this machine's own journal", async () => {
    const { stdout } = await guest.run("journalctl -k -o json | oomlab explain --reporter json");
    const { kills } = JSON.parse(stdout) as { kills: { kind: string; victim: { comm: string } }[] };
    expect(kills.length).toBeGreaterThan(4);
    expect(kills.every(({ kind, victim }) => kind === "memcg" && victim.comm === "stress")).toBe(true);
  });

  test("the shipped scenarios pass on cgroup v2", { timeout: 400_000 }, async () => {
    const { summary, scenarios } = await report(
      "cd /opt/oomlab && oomlab run scenarios/blog scenarios/memcg scenarios/node --machine host --reporter json=/tmp/report.json",
      380_000,
    );
    const bad = scenarios.filter(({ status }) => status !== "passed" && status !== "skipped");
    expect(bad.map(({ name, status, reason }) => ({ name, status, reason }))).toEqual([]);
    expect(summary["passed"]).toBeGreaterThan(48);
    expect(await guest.leftovers()).toEqual([]);
  });
});
