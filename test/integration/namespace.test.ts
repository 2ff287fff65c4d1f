/** A cgroup namespace of its own on v2, as container engines make it: its root holds the container's first process. */
import { existsSync, mkdirSync, mkdtempSync, rmdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { execa } from "execa";
import { expect, test } from "vitest";
import { probeCgroups } from "../../src/cgroup/index.ts";
import { bin, root } from "../helpers/cli.ts";
import { needs } from "../helpers/needs.ts";

const unshare = [join(root, "test/unshare"), "/usr/bin/unshare"].find((path) => existsSync(path));
const mount = probeCgroups("/").hierarchies.find(({ version }) => version === 2)?.mount;
const able = needs({
  "cgroup v2 memory controller": mount !== undefined,
  root: process.getuid?.() === 0,
  unshare: unshare !== undefined,
});

const scenario = (name: string): string => `name: ${name}
cgroups: { app: { memory.max: 32Mi, memory.swap.max: 0 } }
processes: { hog: { cgroup: app, stress: { anon: 64Mi } } }
expect: { oom: memcg, limit: app, victims: [hog] }
`;

test(
  "oomlab as a container's only process leaves its root cgroup, so that scenarios can be limited below it",
  able,
  async () => {
    const box = join(mount ?? "", "oomlab.box");
    const folder = mkdtempSync(join(tmpdir(), "oomlab-test-namespace-"));
    const file = join(folder, "over.yaml");
    writeFileSync(file, `${scenario("first")}---\n${scenario("second")}`);
    try {
      writeFileSync(join(mount ?? "", "cgroup.subtree_control"), "+memory");
      mkdirSync(box);
      const inside = 'umount /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec "$@"';
      const { stdout, stderr } = await execa(
        "sh",
        [
          "-c",
          `echo $$ > ${box}/cgroup.procs && exec "$@"`,
          "sh",
          unshare ?? "",
          "--cgroup",
          "--mount",
          "sh",
          "-c",
          inside,
          "sh",
          process.execPath,
          bin,
          "run",
          "--machine",
          "host",
          "--reporter",
          "json",
          file,
        ],
        { reject: false },
      );
      expect(stderr).toBe("");
      const kill = {
        process: "hog",
        oomMemcg: expect.stringMatching(/^\/oomlab\.box\/oomlab-[0-9a-z]{8}\/app$/),
        witnesses: ["kmsg", "counters", "exit"],
      };
      expect(JSON.parse(stdout)).toMatchObject({
        scenarios: [
          { name: "first", status: "passed", cgroupVersion: 2, observed: { kills: [kill] } },
          { name: "second", status: "passed", cgroupVersion: 2, observed: { kills: [kill] } },
        ],
      });
    } finally {
      for (const path of [join(box, "oomlab.self"), box]) if (existsSync(path)) rmdirSync(path);
      rmSync(folder, { recursive: true });
    }
  },
);
