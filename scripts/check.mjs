// @ts-check
/** `npm run check`: every `check:*` script, all of them even where one fails, and a summary. Exits 1 if any failed. */
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const npm = process.env["npm_execpath"];
const { scripts } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));

/** @param {string} script */
function run(script) {
  const start = performance.now();
  console.log(`\n> npm run ${script}`);
  const [file, ...args] = /** @type {[string, ...string[]]} */ (npm ? [process.execPath, npm] : ["npm"]);
  const { status } = spawnSync(file, [...args, "run", "--silent", script], {
    cwd: root,
    stdio: ["ignore", "inherit", "inherit"],
  });
  return { script, ok: status === 0, seconds: (performance.now() - start) / 1000 };
}

const setup = run("setup");
const results = setup.ok
  ? Object.keys(scripts)
      .filter((name) => name.startsWith("check:"))
      .map(run)
  : [setup];
console.log("");
for (const { script, ok, seconds } of results)
  console.log(`${ok ? "ok    " : "FAILED"} ${script} (${seconds.toFixed(1)} s)`);
process.exitCode = results.every(({ ok }) => ok) ? 0 : 1;
