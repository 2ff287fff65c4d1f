import { readFileSync, readdirSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { scanKernelLog } from "../../src/kmsg/index.ts";

// The three records of one kill, as collectors, consoles and people dress them.

const folder = new URL("../fixtures/kernel-logs/prefixes/", import.meta.url);
const kill = {
  kind: "memcg",
  constraint: "CONSTRAINT_MEMCG",
  oomMemcg: "/foo",
  taskMemcg: "/foo/bar",
  missing: ["stack"],
  victim: { pid: 4321, comm: "python3", uid: 1000, totalVm: 299192 * 1024, shmemRss: 12 * 1024, oomScoreAdj: 0 },
};

describe("a report in a dress that shows on each of its lines", () => {
  for (const file of readdirSync(folder)) {
    it(`is read from ${file}`, () => {
      const log = readFileSync(new URL(file, folder));
      expect(scanKernelLog(log)).toMatchObject({ kills: [kill], incomplete: [] });
      expect(scanKernelLog(log, { details: true }).kills).toMatchObject([
        { ...kill, details: { invoker: { comm: "python3" } } },
      ]);
    });
  }
});
