import { existsSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type CgroupDriver, openCgroups, probeCgroups } from "../../src/cgroup/index.ts";
import { type ExitInfo, loadAddon, stressPath } from "../../src/native.ts";
import { needs } from "../helpers/needs.ts";

const { hierarchies } = probeCgroups("/");

/** The same tests on each cgroup version that this kernel has. */
describe.each([1, 2] as const)("the kernel's cgroup v%i", (version) => {
  const hierarchy = hierarchies.find((one) => one.version === version);

  describe(
    "driver",
    needs({ root: process.getuid?.() === 0, [`cgroup v${version} memory controller`]: hierarchy !== undefined }),
    () => {
      const name = `oomlab-test${process.pid}`;
      let driver: CgroupDriver;
      beforeEach(() => {
        if (!hierarchy) throw new Error("skipped above");
        driver = openCgroups({ ...hierarchy, cpusetDirectory: null }, name);
        if (version === 2) driver.write("..", "cgroup.subtree_control", "+memory");
        driver.create("");
        if (version === 2) driver.write("", "cgroup.subtree_control", "+memory");
        driver.create("app");
      });
      afterEach(() => {
        for (const cgroup of ["app", ""]) driver.remove(cgroup);
        driver.close();
        if (existsSync(join(hierarchy?.directory ?? "", name))) throw new Error("the test's cgroup is left");
      });

      const limit = version === 1 ? "memory.limit_in_bytes" : "memory.max";

      const run = (args: string[]): Promise<ExitInfo> =>
        new Promise((resolve) => {
          const addon = loadAddon();
          addon.onExit(
            addon.spawn({
              file: stressPath(),
              args: ["stress", ...args],
              env: [],
              stdio: [-1, -1, -1],
              pdeathsig: 9,
              ...driver.placement("app"),
            }),
            resolve,
          );
        });

      test("reads back what it wrote, rounded to pages", () => {
        expect(driver.write("app", limit, "10000000")).toBe("9998336");
        expect(driver.counters("app")["memory.max"]).toBe(9998336);
      });

      test("starts a process inside and counts its memory there", async () => {
        const before = driver.counters("app");
        const { code } = await run(["--anon", "16777216"]);
        expect(code).toBe(0);
        const { "memory.peak": peak } = driver.counters("app");
        expect(before["memory.current"]).toBe(0);
        expect(peak).toBeGreaterThanOrEqual(16777216);
      });

      test("counts an OOM kill in the cgroup and in its parent, locally only in the cgroup", async () => {
        driver.write("app", limit, String(16 * 2 ** 20));
        const { signal } = await run(["--anon", String(48 * 2 ** 20)]);
        expect(signal).toBe(9);
        expect(driver.counters("app")).toMatchObject({
          "memory.events.oom_kill": 1,
          "memory.events.local.oom_kill": 1,
        });
        expect(driver.counters("")).toMatchObject({ "memory.events.oom_kill": 1, "memory.events.local.oom_kill": 0 });
      });

      test("cannot be removed while a process is in it", async () => {
        const ended = run(["--anon", "1048576", "--hold", "300ms"]);
        expect(driver.procs("app")).toHaveLength(1);
        expect(driver.remove("app")).toBe(false);
        await ended;
        expect(driver.remove("app")).toBe(true);
        expect(driver.remove("app")).toBe(true);
      });
    },
  );
});
