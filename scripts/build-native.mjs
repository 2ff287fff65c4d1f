// @ts-check
/**
 * `npm run build:native`: node-gyp on native/, further arguments (--debug: the sanitizer build) passed on. Only what
 * changed is compiled. Also in an installed package, for a machine that no prebuild fits.
 * Called through npm, so that npm_config_nodedir is set where the user configured one; else the headers that came with
 * this Node are taken where they lie beside it, so that nothing is downloaded.
 */
import { spawnSync } from "node:child_process";
import { existsSync, realpathSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const prefix = dirname(dirname(realpathSync(process.execPath)));
const own = !process.env["npm_config_nodedir"] && existsSync(join(prefix, "include/node/node_api.h"));

/** node-gyp: our own, or in an installed package the one that npm brings. */
function nodeGyp() {
  try {
    return createRequire(import.meta.url).resolve("node-gyp/bin/node-gyp.js");
  } catch (error) {
    const npms = process.env["npm_config_node_gyp"];
    if (npms) return npms;
    throw error;
  }
}

const { status, error } = spawnSync(
  process.execPath,
  [
    nodeGyp(),
    "configure",
    "build",
    "-C",
    "native",
    ...(own ? [`--nodedir=${prefix}`] : []),
    ...(process.env["OOMLAB_VERBOSE"] ? [] : ["--silent"]),
    ...process.argv.slice(2),
  ],
  {
    cwd: root,
    stdio: ["ignore", "inherit", "inherit"],
    env: { ...process.env, MAKEFLAGS: process.env["MAKEFLAGS"] ?? "-j2" },
  },
);
if (error) throw error;
process.exitCode = status ?? 1;
