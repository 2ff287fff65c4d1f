// @ts-check
/** What the measurements stand on: a memory cgroup of our own, the C programs, verified runs, medians. */
import { execFileSync, spawnSync } from "node:child_process";
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmdirSync,
  writeFileSync,
} from "node:fs";
import os from "node:os";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

export const root = dirname(dirname(fileURLToPath(import.meta.url)));
export const MiB = 1024 * 1024;
const build = join(root, "bench-results/bin");
/** Nothing that is measured here may take more memory than this. */
const cap = 1200 * MiB;

/** Says what is wrong, without a stack. */
export class BenchError extends Error {}

/** @param {string} name */
export function which(name) {
  for (const folder of (process.env["PATH"] ?? "").split(delimiter)) {
    try {
      accessSync(join(folder, name), constants.X_OK);
      return join(folder, name);
    } catch {
      // Not here.
    }
  }
  return undefined;
}

/** The peers from Debian; as root they are installed. @param {string[]} names */
export function peers(...names) {
  const missing = names.filter((name) => !which(name));
  if (missing.length > 0 && which("apt-get")) {
    process.stderr.write(`bench: apt-get install ${missing.join(" ")}\n`);
    /** @type {import("node:child_process").SpawnSyncOptions} */
    const options = {
      stdio: ["ignore", "ignore", "inherit"],
      env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" },
    };
    const install = () =>
      spawnSync("apt-get", ["-qq", "install", "-y", "--no-install-recommends", ...missing], options).status === 0;
    if (!install()) spawnSync("apt-get", ["-qq", "update"], options);
    install();
  }
}

/** Compiles bench/NAME.c once. @param {string} name @param {string[]} flags */
export function compiled(name, ...flags) {
  mkdirSync(build, { recursive: true });
  const output = join(build, name);
  execFileSync("gcc", ["-O2", "-Wall", "-Wextra", ...flags, "-o", output, join(root, `bench/${name}.c`)], {
    stdio: ["ignore", "inherit", "inherit"],
  });
  return output;
}

// ---- the cgroup

/** @typedef {{ version: 1 | 2, folder: string }} Home */

/** A memory cgroup of our own, below the one we are in, that caps all that is measured. @returns {Home} */
export function openHome() {
  if (process.getuid?.() !== 0)
    throw new BenchError("needs root: every measured program runs in a memory cgroup of its own");
  const mounts = readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .map((line) => line.split(" "));
  const own = readFileSync("/proc/self/cgroup", "utf8")
    .split("\n")
    .map((line) => line.split(":"));
  const v1 = mounts.find((fields) => fields.includes("cgroup", 6) && /(^|,)memory(,|$)/.test(fields.at(-1) ?? ""));
  const v2 = mounts.find((fields) => fields.includes("cgroup2", 6));
  const [version, mount] = v1 ? [/** @type {const} */ (1), v1] : [/** @type {const} */ (2), v2];
  const path = (
    version === 1
      ? own.find(([, names]) => names?.split(",").includes("memory"))
      : own.find(([number]) => number === "0")
  )?.[2];
  if (!mount || path === undefined) throw new BenchError("needs a cgroup hierarchy with the memory controller");
  // v2: a cgroup with processes has no children with controllers, so beside ours rather than below.
  const parent = join(String(mount[4]), version === 1 ? path : dirname(path));
  const folder = join(parent, `oomlab-bench-${process.pid}`);
  try {
    mkdirSync(folder);
    const home = { version, folder };
    if (version === 2) writeFileSync(join(folder, "cgroup.subtree_control"), "+memory");
    limit(home, folder, cap);
    return home;
  } catch (cause) {
    throw new BenchError(`needs a memory cgroup of its own: ${/** @type {Error} */ (cause).message}`, { cause });
  }
}

/** @param {Home} home */
export function closeHome({ folder }) {
  for (const name of readdirSync(folder)) {
    try {
      rmdirSync(join(folder, name));
    } catch {
      // A file.
    }
  }
  rmdirSync(folder);
}

/** @param {Home} home @param {string} folder @param {number} bytes */
function limit({ version }, folder, bytes) {
  if (version === 2) {
    writeFileSync(join(folder, "memory.max"), String(bytes));
    if (existsSync(join(folder, "memory.swap.max"))) writeFileSync(join(folder, "memory.swap.max"), "0");
    return;
  }
  writeFileSync(join(folder, "memory.limit_in_bytes"), String(bytes));
  const memsw = join(folder, "memory.memsw.limit_in_bytes");
  if (existsSync(memsw)) writeFileSync(memsw, String(bytes));
}

let cgroups = 0;

/**
 * Runs in a fresh cgroup below ours and tells what its counters say afterwards.
 * @template T
 * @param {Home} home @param {number} bytes @param {(procs: string, folder: string) => T} body
 */
export function inCgroup(home, bytes, body) {
  const folder = join(home.folder, `run-${++cgroups}`);
  mkdirSync(folder);
  try {
    limit(home, folder, bytes);
    const result = body(join(folder, "cgroup.procs"), folder);
    /** @param {string} file */
    const read = (file) => {
      try {
        return readFileSync(join(folder, file), "utf8");
      } catch {
        return "";
      }
    };
    const events = read(home.version === 1 ? "memory.oom_control" : "memory.events");
    const kills = Number(/^oom_kill (\d+)$/m.exec(events)?.[1] ?? Number.NaN);
    const peak = Number(read(home.version === 1 ? "memory.max_usage_in_bytes" : "memory.peak") || Number.NaN);
    return { result, kills, peak };
  } finally {
    remove(folder);
  }
}

/** @param {string} folder */
function remove(folder) {
  for (let tries = 0; ; tries++) {
    try {
      return rmdirSync(folder);
    } catch (error) {
      // The last process may still be on its way out.
      if (tries === 100) throw error;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10);
    }
  }
}

// ---- measuring

/** @typedef {{ ns: number, code: number, signal: number, maxRssKb: number, cpuUs: number }} Measured */

/** @param {string} measure @param {string} procs @param {string[]} command @returns {Measured} */
export function timed(measure, procs, command) {
  const { stdout, status } = spawnSync(measure, [procs, ...command], {
    cwd: root,
    encoding: "utf8",
    stdio: ["ignore", "pipe", "inherit"],
  });
  if (status !== 0) throw new BenchError(`measure ${command.join(" ")} ended with ${status}`);
  const measured = /** @type {Measured} */ (JSON.parse(stdout));
  if (measured.code === 125) throw new BenchError(`could not enter the cgroup ${procs}`);
  if (measured.code === 126) throw new BenchError(`could not start ${command[0]}`);
  return measured;
}

/** @param {number[]} values */
export const median = (values) => {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? Number(sorted[middle]) : (Number(sorted[middle - 1]) + Number(sorted[middle])) / 2;
};

/**
 * Measures several things in turn, round by round, so that what disturbs the machine disturbs all of them alike.
 * The first round warms up and does not count.
 * @template {string} Name
 * @param {string} what @param {number} rounds @param {Record<Name, () => number>} cases
 * @returns {Record<Name, number[]>}
 */
export function interleaved(what, rounds, cases) {
  const names = /** @type {Name[]} */ (Object.keys(cases));
  const values = /** @type {Record<Name, number[]>} */ ({});
  for (const name of names) values[name] = [];
  for (let round = 0; round <= rounds; round++) {
    progress(`${what} ${round}/${rounds}`);
    // Every other round backwards: none always comes first.
    for (const name of round % 2 === 0 ? names : names.toReversed()) {
      const value = cases[name]();
      if (round > 0) values[name].push(value);
    }
  }
  progress("");
  return values;
}

/** What is being measured, where someone looks on. @param {string} text */
export function progress(text) {
  if (process.stderr.isTTY) process.stderr.write(`\r\u001B[K${text && `bench: ${text}`}`);
}

/** The machine, for those who compare tables. */
export function machine() {
  /** @param {string} file */
  const read = (file) => {
    try {
      return readFileSync(file, "utf8").trim();
    } catch {
      return null;
    }
  };
  return {
    kernel: os.release(),
    arch: os.arch(),
    cpu: os.cpus()[0]?.model ?? null,
    cpus: os.availableParallelism(),
    memory: os.totalmem(),
    loadAverage: os.loadavg(),
    node: process.version,
    transparentHugePages: /\[(\w+)\]/.exec(read("/sys/kernel/mm/transparent_hugepage/enabled") ?? "")?.[1] ?? null,
    os: /^PRETTY_NAME="(.*)"$/m.exec(read("/etc/os-release") ?? "")?.[1] ?? null,
  };
}
