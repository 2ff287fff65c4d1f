/** The library's own tests once more, in guests with the cgroup layouts that this machine has not. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, test } from "vitest";
import { probeCgroups } from "../../src/cgroup/index.ts";
import { missingPrograms, which } from "../../src/machine/packages.ts";
import { type GuestRun, GuestTests, type Layout } from "../helpers/guest.ts";
import type { GuestTest } from "../helpers/guest-runner.ts";
import { needs } from "../helpers/needs.ts";

const canBoot = needs({
  "x86-64 Linux": process.platform === "linux" && process.arch === "x64",
  "apt-get, for the guest's kernel": which("apt-get") !== undefined,
  "QEMU and erofs-utils, or root to install them": missingPrograms().length === 0 || process.getuid?.() === 0,
});

/** What proves a driver on a kernel's cgroups; the rest is the same on every machine, or runs on a real distribution (test/distro). */
const drivers: Record<string, RegExp> = {
  "test/integration/cgroup.test.ts": /./,
  "test/integration/native.test.ts": /cgroup|OOM|events file/,
  "test/integration/stress.test.ts": /^(what a kind of memory|an OOM kill) |percentage/,
  "test/e2e/run.test.ts": /JSON report|evidence that a check cites/,
};
const engine: Record<string, RegExp> = {
  ...drivers,
  "test/integration/namespace.test.ts": /./,
  "test/e2e/run.test.ts": /JSON report|evidence that a check cites|is judged right|forked|workers that hold/,
};
/** Where both versions are mounted, what is to be proven is that the right one is found and used. */
const mounts: Record<string, RegExp> = {
  "test/integration/cgroup.test.ts": /./,
  "test/e2e/run.test.ts": /JSON report/,
};

/** Linux 6.1 still has the memory controller on v1. */
const kernel = "6.1";
interface Selection {
  select: Record<string, RegExp>;
  /** Tests of the cgroup version that such a guest has not. */
  without: RegExp;
}
const withoutV2 = /cgroup v2|cgroup2|descriptor is of no cgroup/;

const layouts: Record<string, Layout & Selection> = {
  "cgroup v2": { kernel, version: 2, hybrid: false, select: engine, without: /\bv1\b|extended attributes/ },
  "cgroup v1": { kernel, version: 1, hybrid: false, select: drivers, without: withoutV2 },
  "hybrid cgroups, memory on v1": { kernel, version: 1, hybrid: true, select: mounts, without: /cgroup v2/ },
  "hybrid cgroups, memory on v2": {
    kernel,
    version: 2,
    hybrid: true,
    select: mounts,
    without: /\bv1\b|extended attributes/,
  },
};
// Where this machine's own memory controller is on v1 these tests have run on it.
if (probeCgroups("/").memoryController === 1) delete layouts["cgroup v1"];

const folder = mkdtempSync(join(tmpdir(), "oomlab-guest-tests-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const guestTests = await GuestTests.bundle(Object.keys(engine), folder);
const all = await guestTests.list();

describe.each(Object.entries(layouts))("in a VM with %s", canBoot, (_, layout) => {
  const { select, without } = layout;
  const tests = all.filter(({ file, name }) => select[file]?.test(name) && !without.test(name));
  let run: GuestRun;
  beforeAll(async () => {
    run = await guestTests.run(layout, tests);
    return async () => await run[Symbol.asyncDispose]();
  }, 300_000);

  describe.each(Object.keys(select))("%s", (file) => {
    const its = tests.filter((one) => one.file === file);
    test.for(its.map((one): [string, GuestTest] => [one.name, one]))(
      "%s",
      { timeout: 600_000 },
      async ([, one], { skip, task }) => {
        const { state, text, lacking } = await run.result(one);
        if (state === "failed") throw new Error(text);
        if (state === "passed") return;
        task.meta.lacking = lacking.map((what) => `${what}, in the VM`);
        skip(text);
      },
    );
  });
});
