"use strict";
// node scripts/codecache.cjs BUNDLE CACHE: V8's compiled code of the command line, taken after a warm-up, so that the
// functions every start runs are in it.
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const vm = require("node:vm");

const [filename = "", cache = ""] = process.argv.slice(2);
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

async function warmUp() {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "oomlab-build-"));
  const write = process.stdout.write.bind(process.stdout);
  try {
    const file = path.join(folder, "sample.yaml");
    fs.writeFileSync(file, sample);
    process.stdout.write = () => true;
    for (const argv of [
      ["validate", file],
      ["run", "--dry-run", file],
    ]) {
      const code = await cli.exports.main?.(argv);
      if (code !== 0) console.error(`warning: warm-up of \`${argv[0]}\` ended with ${code}: oomlab will start slower`);
    }
  } finally {
    process.stdout.write = write;
    fs.rmSync(folder, { recursive: true, force: true });
  }
}

warmUp()
  .catch((error) => console.error(`warning: no warm-up: ${error.message}: oomlab will start slower`))
  .finally(() => {
    fs.writeFileSync(`${cache}.${process.pid}`, script.createCachedData());
    fs.renameSync(`${cache}.${process.pid}`, cache);
    process.exitCode = 0;
  });
