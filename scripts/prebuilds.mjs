// @ts-check
/**
 * `npm pack`: compiles the native part for the package, prebuilds/linux-{x64,arm64}/{oomlab.node,stress,init}: an addon that
 * loads on glibc from 2.34 and on musl, a static worker. By node-gyp on a copy of native/ for each, so that
 * native/binding.gyp alone says how. Arguments: the architectures (default: both).
 *
 * Needs the other architecture's compiler: apt-get install g++-aarch64-linux-gnu.
 */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
/** @type {Record<string, string>} */
const compilers = { x64: "x86_64-linux-gnu-g++", arm64: "aarch64-linux-gnu-g++" };
const chosen = process.argv.slice(2);

/** Something is missing here: printed without a stack trace. */
class PackageError extends Error {}

/** What a prebuild depends on. @param {string} compiler */
function hash(compiler) {
  const sum = createHash("sha256").update(compiler);
  for (const name of readdirSync(join(root, "native")).toSorted())
    if (/\.(?:cc|h|gyp)$/.test(name)) sum.update(name).update(readFileSync(join(root, "native", name)));
  for (const name of ["package.json", "scripts/prebuilds.mjs", "scripts/build-native.mjs"])
    sum.update(readFileSync(join(root, name)));
  return sum.digest("hex");
}

/** Compiles for one architecture, unless what is there was made of the same. @param {string} arch */
function build(arch) {
  const compiler = compilers[arch];
  if (!compiler) throw new PackageError(`no prebuild for ${arch}: expected ${Object.keys(compilers).join(" or ")}`);
  const { stdout, error } = spawnSync(compiler, ["--version"], { encoding: "utf8" });
  if (error)
    throw new PackageError(
      `the native part for ${arch} needs the compiler ${compiler}: apt-get install g++-${compiler.replace(/-g\+\+$/, "").replace("_", "-")}`,
    );
  const folder = join(root, `prebuilds/linux-${arch}`);
  const stamp = join(root, `prebuilds/${arch}.stamp`);
  const key = hash(stdout);
  if (existsSync(join(folder, "init")) && existsSync(stamp) && readFileSync(stamp, "utf8") === key) return;
  const work = join(root, "prebuilds", `.${arch}`);
  rmSync(work, { recursive: true, force: true });
  cpSync(join(root, "native"), join(work, "native"), {
    recursive: true,
    filter: (path) => path !== join(root, "native/build"),
  });
  symlinkSync(join(root, "package.json"), join(work, "package.json"));
  try {
    const { status } = spawnSync(
      process.execPath,
      [
        join(root, "scripts/build-native.mjs"),
        `--directory=${join(work, "native")}`,
        `--arch=${arch}`,
        "--portable=1",
        // musl's C library is here for this machine's own architecture only.
        ...(arch === process.arch ? [] : ["--musl_specs="]),
      ],
      {
        stdio: ["ignore", "ignore", "inherit"],
        env: { ...process.env, CXX: compiler, CC: compiler.replace("g++", "gcc") },
      },
    );
    if (status !== 0) throw new PackageError(`the native part does not compile for ${arch} (see above)`);
    mkdirSync(folder, { recursive: true });
    for (const file of ["oomlab.node", "stress", "init"]) {
      copyFileSync(join(work, "native/build/Release", file), join(folder, file));
      chmodSync(join(folder, file), 0o755);
    }
    writeFileSync(stamp, key);
  } finally {
    rmSync(work, { recursive: true, force: true });
    // gyp's makefiles of node-addon-api.
    rmSync(join(root, "prebuilds/node_modules"), { recursive: true, force: true });
  }
}

try {
  if (process.platform !== "linux")
    throw new PackageError("the package is made on Linux: its native part is compiled there");
  for (const arch of chosen.length > 0 ? chosen : Object.keys(compilers)) build(arch);
} catch (error) {
  if (!(error instanceof PackageError)) throw error;
  process.stderr.write(`prebuilds: ${error.message}\n`);
  process.exitCode = 3;
}
