// @ts-check
/**
 * `npm run check:native:warnings`: compiles every native source with more warnings than the build has, all of them errors.
 * `npm run check:native:sanitizers`: builds with ASan and UBSan (native/build/Debug), then presses with that worker and
 * runs the tests of the native part on it.
 */
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, realpathSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const native = join(root, "native");
const compiler = process.env["CXX"] ?? "g++";

/** @param {string} file @param {string[]} args @param {NodeJS.ProcessEnv} [env] */
function run(file, args, env = {}) {
  const { status, signal, error } = spawnSync(file, args, {
    cwd: root,
    stdio: ["ignore", "inherit", "inherit"],
    env: { ...process.env, ...env },
  });
  if (error) throw error;
  if (status === 0) return true;
  console.error(`failed (${signal ?? `status ${status}`}): ${[file, ...args].join(" ")}`);
  process.exitCode = 1;
  return false;
}

function warnings() {
  const prefix = process.env["npm_config_nodedir"] ?? dirname(dirname(realpathSync(process.execPath)));
  const flags = [
    "-std=c++17 -O2 -D_GNU_SOURCE -DNAPI_VERSION=9 -DNODE_ADDON_API_CPP_EXCEPTIONS".split(" "),
    "-Wall -Wextra -Wformat=2 -Wformat-signedness -Wduplicated-cond -Wlogical-op".split(" "),
    "-Wnull-dereference -Wundef -Wcast-qual -Wvla -Werror".split(" "),
    ['-DOOMLAB_VERSION="check"'],
    ["-isystem", join(prefix, "include/node"), "-isystem", join(root, "node_modules/node-addon-api")],
  ].flat();
  for (const file of readdirSync(native).filter((name) => name.endsWith(".cc"))) {
    run(compiler, [...flags, "-c", "-o", "/dev/null", join(native, file)]);
  }
}

/** What the sanitizers' worker presses with: small sizes, no limit is near. */
const presses = [
  ...["anon", "shared", "brk", "shmem", "shm", "tmpfs", "file", "file-write"].map((kind) => [`--${kind}`, "8Mi"]),
  ...["stack", "mlock", "pipes", "sockets", "tcp", "kernel-stacks"].map((kind) => [`--${kind}`, "1Mi"]),
  ...["anon", "shared", "brk", "shm", "mlock"].map((kind) => [`--${kind}`, "1Mi", "--no-reserve"]),
  ["--anon", "16Mi", "--populate", "--threads", "2", "--workers", "2"],
  ["--anon", "4Mi", "--rate", "40Mi/s", "--delay", "10ms", "--retouch", "20ms", "--hold", "100ms"],
  ["--anon", "4Mi", "--content", "random", "--touch", "every", "--steps", "1Mi/10ms", "--repeat", "2"],
  ["--anon", "4Mi", "--share-vm", "2", "--oom-score-adj", "500", "--rlimit", "AS=max"],
  ["-m", "2", "--vm-bytes", "4M", "-t", "1"],
  ["-m", "1", "--vm-bytes", "4M", "--vm-keep", "--vm-stride", "64", "-t", "1"],
  ["-m", "1", "--vm-bytes", "4M", "--vm-hang", "1", "-t", "1", "-q"],
];

function sanitizers() {
  if (!run(process.execPath, [join(root, "scripts/build-native.mjs"), "--debug"])) return;
  const options = {
    ASAN_OPTIONS: "detect_leaks=0:abort_on_error=0",
    UBSAN_OPTIONS: "print_stacktrace=1:halt_on_error=1",
    OOMLAB_NATIVE: "native/build/Debug",
  };
  for (const args of presses) run(join(native, "build/Debug/stress"), args, options);
  const tests = ["test/unit", "test/integration"]
    .map((folder) => join(root, folder))
    .filter((folder) => existsSync(folder))
    .flatMap((folder) => readdirSync(folder).filter((name) => /^(native|addon|stress|worker).*\.test\.ts$/.test(name)));
  if (tests.length === 0) return;
  const { stdout } = spawnSync(compiler, ["-print-file-name=libasan.so"], { encoding: "utf8" });
  run(process.execPath, [join(root, "node_modules/vitest/vitest.mjs"), "run", ...tests], {
    ...options,
    LD_PRELOAD: stdout.trim(),
    // Only the tests' own skips count here, and the numbers are the plain run's.
    CI: "",
  });
}

const what = process.argv[2];
if (process.platform !== "linux") console.error("the native part is for Linux: not checked here");
else if (what === "warnings") warnings();
else if (what === "sanitizers") sanitizers();
else throw new Error("node scripts/check-native.mjs warnings|sanitizers");
