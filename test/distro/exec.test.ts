/** `oomlab exec` on a real Debian with systemd and cgroup v2, as root and as a user. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { canStartDistro, type Distro, startDistro } from "../helpers/distro.ts";

const grow = `node -e "const a=[]; for (;;) a.push(Buffer.alloc(1e6, 1))"`;

describe("exec on Debian 13", canStartDistro, () => {
  let guest: Distro;
  beforeAll(async () => {
    guest = await startDistro();
    await guest.installOomlab();
  }, 600_000);
  afterAll(() => guest?.[Symbol.asyncDispose]());

  test("as root says whose limit was hit, in a scope of systemd's, and leaves nothing", async () => {
    const { exitCode, stderr } = await guest.run(`oomlab exec -m 60Mi --swap 0 -- ${grow}`, { timeoutMs: 90_000 });
    expect(stderr).toMatch(
      /oomlab: node was killed by the kernel's OOM killer: the memory limit of command \(60Mi\) was hit/,
    );
    expect(exitCode).toBe(137);
    expect(await guest.leftovers()).toEqual([]);
  });

  test("as root names the sender of a SIGKILL", async () => {
    const { exitCode, stderr } = await guest.run("oomlab exec --pids 50 -- sh -c 'kill -9 $$'", { timeoutMs: 60_000 });
    expect(stderr).toBe("oomlab: sh was ended by the SIGKILL that it sent to itself");
    expect(exitCode).toBe(137);
  });

  test("leaves nothing after kill -9 of oomlab itself", async () => {
    await guest.run(
      "oomlab exec -m 60Mi -- sh -c 'setsid sleep 600 & sleep 600' </dev/null >/dev/null 2>&1 & sleep 10; kill -9 $!; sleep 5",
      { timeoutMs: 60_000 },
    );
    const { stdout } = await guest.run("pgrep -x sleep -a; ls /sys/kernel/tracing/instances");
    expect(stdout).not.toContain("600");
    expect(stdout).not.toContain("oomlab-");
    expect(await guest.leftovers()).toEqual([]);
  });

  test("as a user passes the status on and proves a kill by counters", async () => {
    const { exitCode, stderr } = await guest.run(`oomlab exec -m 60Mi --swap 0 -- ${grow}`, {
      as: "ann",
      timeoutMs: 90_000,
    });
    expect(stderr).toContain("the memory limit of command (60Mi) was hit");
    expect(exitCode).toBe(137);
  });
});
