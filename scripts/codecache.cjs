"use strict";
// node scripts/codecache.cjs BUNDLE CACHE COMMAND...: V8's compiled code of the command line, taken after these commands
// have run once, so that the functions every start runs are in it.
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const v8 = require("node:v8");
const vm = require("node:vm");

const [filename = "", cache = "", ...warm] = process.argv.slice(2);
const script = new vm.Script(fs.readFileSync(filename, "latin1"), { filename });
/** @type {{ exports: { main?: (argv: string[]) => Promise<number> } }} */
const cli = { exports: {} };
script.runInThisContext()(cli.exports, require, cli, filename, path.dirname(filename));

const sample = `
name: a sample
cgroups:
  a: { memory.max: 64Mi, memory.swap.max: 0 }
processes:
  hog: { cgroup: a, stress: { anon: 96Mi } }
expect:
  oom: memcg
  limit: a
  victims: [hog]
`;

const manifest = `
apiVersion: v1
kind: Pod
metadata: { name: a }
spec: { containers: [{ name: a, image: a, resources: { limits: { memory: 64Mi } } }] }
---
apiVersion: v1
kind: Pod
metadata: { name: b }
spec: { containers: [{ name: b, image: b, resources: { requests: { memory: 32Mi } } }] }
`;

const log = `[  100.000001] stress invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0
[  100.000002] oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/a,task_memcg=/a,task=stress,pid=100,uid=0
[  100.000003] Memory cgroup out of memory: Killed process 100 (stress) total-vm:98524kB, anon-rss:65196kB, file-rss:64kB, shmem-rss:0kB, UID:0 pgtables:160kB oom_score_adj:0
`;

async function warmUp() {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "oomlab-build-"));
  try {
    const file = path.join(folder, "sample.yaml");
    fs.writeFileSync(file, sample);
    const pods = path.join(folder, "pods.yaml");
    fs.writeFileSync(pods, manifest);
    const kills = path.join(folder, "sample.log");
    fs.writeFileSync(kills, log);
    for (const argv of [
      ["validate", file],
      ["run", "--dry-run", file],
      ["run", "--dry-run", pods],
      // Where no cgroup can be made it ends with 125.
      ["explain", kills],
      ["explain", "--reporter", "json", kills],
    ]) {
      if (!warm.includes(argv[0] ?? "")) continue;
      const code = await cli.exports.main?.(argv);
      if (code !== 0 && code !== 125)
        console.error(`warning: warm-up of \`${argv[0]}\` ended with ${code}: oomlab will start slower`);
    }
  } finally {
    fs.rmSync(folder, { recursive: true, force: true });
  }
}

warmUp()
  // What explain sets; flags are part of what a cache must agree with.
  .then(() =>
    ["--semi-space-growth-factor=2", "--heap-growing-percent=0"].forEach((flag) => v8.setFlagsFromString(flag)),
  )
  .catch((error) => console.error(`warning: no warm-up: ${error.message}: oomlab will start slower`))
  .finally(() => {
    fs.writeFileSync(`${cache}.${process.pid}`, script.createCachedData());
    fs.renameSync(`${cache}.${process.pid}`, cache);
    process.exitCode = 0;
  });
