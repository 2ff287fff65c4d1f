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

/** The shell that unshares stands outside, as a container engine does: only what it starts is in the box. */
const pids = ["--pid", "--fork", "--mount"];
test.each([
  ["its pids those of the host", []],
  ["a pid namespace of its own", pids],
])(
  "oomlab as a container's only process (%s) leaves its root cgroup, so that scenarios can be limited below it",
  able,
  async (_, flags) => {
    const box = join(mount ?? "", "oomlab.box");
    const folder = mkdtempSync(join(tmpdir(), "oomlab-test-namespace-"));
    const file = join(folder, "over.yaml");
    writeFileSync(file, `${scenario("first")}---\n${scenario("second")}`);
    try {
      writeFileSync(join(mount ?? "", "cgroup.subtree_control"), "+memory");
      mkdirSync(box);
      const own = flags.length === 0 ? "" : "mount -t proc proc /proc && ";
      const inside = `umount /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && ${own}exec "$@"`;
      const enter = `echo $$ > ${box}/cgroup.procs && exec "$@"`;
      const program = [process.execPath, bin, "run", "--machine", "host", "--reporter", "json", file];
      const command = [
        ...(flags.length === 0 ? [] : [unshare ?? "", ...flags]),
        "sh",
        "-c",
        enter,
        "sh",
        unshare ?? "",
        "--cgroup",
        "--mount",
        "sh",
        "-c",
        inside,
        "sh",
        ...program,
      ];
      const { stdout, stderr } = await execa(command[0] ?? "", command.slice(1), { reject: false });
      expect(stderr).toBe("");
      const kill = {
        process: "hog",
        oomMemcg: expect.stringMatching(/^\/oomlab\.box\/oomlab-[0-9a-z]{8}\/app$/),
        witnesses: expect.arrayContaining(["kmsg", "counters", "exit"]),
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
