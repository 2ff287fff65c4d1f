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

describe("a report that is not the kernel's", () => {
  const report = readFileSync(new URL("md_bullet.log", folder), "utf8").replaceAll(/^- \[[^\]]*\] /gm, "");
  const dressed = (prefix: string, suffix = ""): string => report.replaceAll(/^(.+)$/gm, `${prefix}$1${suffix}`);

  it("is not read behind a program's tag, or with a facility of userland", () => {
    for (const prefix of [
      "Nov 24 23:42:31 host app[12]: ",
      "Nov 24 23:42:31 host app: > ",
      "web_1  | <12>[ 8523.347310] ",
      "collected 12,100,8523347310,-;",
      '[ 8523.347310] EXT4-fs (vda): Unrecognized mount option "',
    ])
      expect([prefix, scanKernelLog(dressed(prefix, prefix.endsWith('"') ? '" or missing value' : "")).kills]).toEqual([
        prefix,
        [],
      ]);
  });

  it("is incomplete where only the kill is in unknown words", () => {
    const [kill] = dressed("web_1  | ").trimEnd().split("\n").slice(-1);
    expect(scanKernelLog(`${kill}\n`)).toMatchObject({ kills: [], incomplete: [{ line: 1 }] });
  });
});
