// @ts-check
/**
 * `npm test`: the tests of this machine and, beside them, those in a distribution's guest, which takes one CPU; then one
 * report of both. With arguments it is `vitest run` with them.
 */
import { spawn } from "node:child_process";
import { rmSync } from "node:fs";
import { fileURLToPath } from "node:url";

const vitest = fileURLToPath(new URL("../node_modules/vitest/vitest.mjs", import.meta.url));
const blobs = "test-results/blobs";

/** @param {string[]} args @returns {Promise<number>} the exit status */
const run = (...args) =>
  new Promise((resolve) => {
    spawn(process.execPath, [vitest, "run", ...args], { stdio: "inherit" }).on("exit", (code) => resolve(code ?? 1));
  });

/** @param {string} name @param {string[]} projects */
const part = (name, ...projects) =>
  run(
    ...projects.map((project) => `--project=${project}`),
    "--reporter=dot",
    "--reporter=blob",
    `--outputFile.blob=${blobs}/${name}.json`,
  );

const args = process.argv.slice(2);
if (args.length > 0) process.exitCode = await run(...args);
else {
  rmSync(blobs, { recursive: true, force: true });
  const parts = await Promise.all([part("here", "unit", "integration", "e2e"), part("distro", "distro")]);
  const report = await run(`--merge-reports=${blobs}`);
  process.exitCode = report || Math.max(...parts);
}
