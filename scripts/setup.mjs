// @ts-check
/**
 * `npm run setup`: everything between a fresh clone and a working command. Does only what is left to do.
 * Plain JavaScript without packages: it runs before `npm ci`.
 *
 * What is done is known by content (the lock file against what npm wrote, hashes of the sources), and a stamp is written
 * only after its step has ended well: a step that was interrupted is done again.
 */
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  realpathSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import net from "node:net";
import os from "node:os";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = realpathSync(dirname(dirname(fileURLToPath(import.meta.url))));
const linux = process.platform === "linux";
const nativeOutputs = ["oomlab.node", "stress", "init"].map((name) => `native/build/Release/${name}`);

/** A step failed, or this machine lacks something: told without a stack trace. */
class SetupError extends Error {
  /** @param {string} message @param {number} [exitCode] */
  constructor(message, exitCode = 3) {
    super(message);
    this.exitCode = exitCode;
  }
}

/** @param {string} message */
const say = (message) => process.stderr.write(`setup: ${message}\n`);

// ---- running programs

/** @type {import("node:child_process").ChildProcess | undefined} */
let running;
/** @type {NodeJS.Signals | undefined} */
let interruptedBy;
for (const signal of /** @type {const} */ (["SIGINT", "SIGTERM", "SIGHUP"])) {
  process.on(signal, () => {
    interruptedBy ??= signal;
    // A terminal's Ctrl-C has reached the child already; a `kill` of this process alone has not.
    if (running) running.kill(signal);
    else process.exit(128 + os.constants.signals[signal]);
  });
}

/**
 * Runs a program, its output on our stderr; resolves with its status and the end of what it said.
 * @param {string} file @param {string[]} args @param {NodeJS.ProcessEnv} [env]
 * @returns {Promise<{ status: number, tail: string }>}
 */
function run(file, args, env = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, { cwd: root, stdio: ["ignore", "pipe", "pipe"], env: { ...process.env, ...env } });
    running = child;
    let tail = "";
    /** @param {Buffer} chunk */
    const echo = (chunk) => {
      process.stderr.write(chunk);
      tail = (tail + chunk.toString()).slice(-16_384);
    };
    child.stdout.on("data", echo);
    child.stderr.on("data", echo);
    child.on("error", (cause) => {
      running = undefined;
      reject(new SetupError(`cannot run ${file}: ${cause.message}`));
    });
    child.on("close", (code, signal) => {
      running = undefined;
      if (interruptedBy) process.exit(128 + os.constants.signals[interruptedBy]);
      resolve({ status: code ?? 128 + os.constants.signals[signal ?? "SIGKILL"], tail });
    });
  });
}

/** @param {string} name */
function which(name) {
  for (const folder of (process.env["PATH"] ?? "").split(delimiter)) {
    if (!folder) continue;
    try {
      const path = join(folder, name);
      accessSync(path, constants.X_OK);
      if (statSync(path).isFile()) return path;
    } catch {
      // Not here.
    }
  }
  return undefined;
}

/** npm as it called us, else the one on PATH. @param {string[]} args */
function npm(...args) {
  const script = process.env["npm_execpath"];
  const env = writableHome();
  if (script && /npm-cli\.[cm]?js$/.test(script)) return run(process.execPath, [script, ...args], env);
  return run(process.platform === "win32" ? "npm.cmd" : "npm", args, env);
}

/** npm and node-gyp keep caches in HOME: where that cannot be written, in the temporary folder. */
function writableHome() {
  const cache = process.env["npm_config_cache"] ?? join(os.homedir(), ".npm");
  for (let folder = cache; ; folder = dirname(folder)) {
    if (!existsSync(folder) && folder !== dirname(folder)) continue;
    try {
      accessSync(folder, constants.W_OK);
      return {};
    } catch {
      const own = join(os.tmpdir(), `oomlab-setup-${process.getuid?.() ?? 0}`);
      mkdirSync(own, { recursive: true, mode: 0o700 });
      return { npm_config_cache: join(own, "npm"), npm_config_devdir: join(own, "node-gyp") };
    }
  }
}

// ---- what is done already

/** @param {string} folder @param {(path: string) => boolean} [skip] @returns {string[]} */
function filesBelow(folder, skip = () => false) {
  return readdirSync(join(root, folder), { withFileTypes: true })
    .flatMap((entry) => {
      const path = `${folder}/${entry.name}`;
      if (skip(path)) return [];
      return entry.isDirectory() ? filesBelow(path, skip) : [path];
    })
    .toSorted();
}

/** @param {string[]} files @param {string[]} more */
function hash(files, ...more) {
  const sum = createHash("sha256").update(JSON.stringify(more));
  for (const file of files) sum.update(`\0${file}\0`).update(readFileSync(join(root, file)));
  return sum.digest("hex");
}

/** @param {string} file */
const read = (file) => {
  try {
    return readFileSync(join(root, file), "utf8");
  } catch {
    return undefined;
  }
};

/** @param {string} stamp @param {string} key @param {string[]} outputs */
const isDone = (stamp, key, outputs) => read(stamp) === key && outputs.every((file) => existsSync(join(root, file)));

/**
 * Whether node_modules is what the lock file says: npm writes node_modules/.package-lock.json when it has ended well.
 * Optional packages count where they are made for this machine.
 */
function packagesAreInstalled() {
  try {
    const wanted = JSON.parse(read("package-lock.json") ?? "").packages;
    const present = JSON.parse(read("node_modules/.package-lock.json") ?? "").packages;
    return Object.entries(wanted).every(([path, entry]) => {
      if (path === "") return true;
      if (!present[path]) {
        /** @param {string[] | undefined} list @param {string} value */
        const fits = (list, value) => list?.includes(value) ?? false;
        return (
          entry.optional === true &&
          (entry.libc || !(fits(entry.os, process.platform) && fits(entry.cpu, process.arch)))
        );
      }
      return present[path].version === entry.version && existsSync(join(root, path));
    });
  } catch {
    return false;
  }
}

const nativeStamp = "native/build/.stamp";
const nativeKey = () =>
  hash(
    filesBelow("native", (path) => path === "native/build" || path === "native/node_modules"),
    process.arch,
    process.versions.modules,
    // The worker is static musl where it can be.
    which("musl-gcc") ? "musl" : "glibc",
    ...addonVersions(),
  );
const addonVersions = () => {
  const { packages } = JSON.parse(read("package-lock.json") ?? "{}");
  return ["", "node_modules/node-addon-api"].map((path) => String(packages?.[path]?.version));
};

const buildStamp = "dist/.stamp";
const buildOutputs = ["dist/oomlab.cjs", "dist/agent.cjs", "dist/index.js", "dist/workload.cjs"];
const buildKey = () =>
  hash(
    [
      ...filesBelow("src"),
      "package.json",
      "package-lock.json",
      "tsconfig.json",
      "tsconfig.build.json",
      "scripts/build.mjs",
      "scripts/codecache.cjs",
      "scripts/launcher.cjs",
    ],
    // V8's compiled code is for one version and one kind of machine.
    process.version,
    process.arch,
  );

// ---- the steps

const nativeTools = [
  { program: "g++", pkg: "g++" },
  { program: "make", pkg: "make" },
  { program: "python3", pkg: "python3" },
];
const muslTools = { program: "musl-gcc", pkg: "musl-tools" };

/** Debian packages that the native build lacks. */
function missingPackages() {
  const compiler = process.env["CXX"] ? nativeTools.slice(1) : nativeTools;
  return [...compiler, muslTools].filter(({ program }) => !which(program)).map(({ pkg }) => pkg);
}

async function systemPackages() {
  let missing = missingPackages();
  if (missing.length === 0) return;
  const line = `apt-get install -y --no-install-recommends ${missing.join(" ")}`;
  if (which("apt-get") && process.getuid?.() === 0) {
    say(`installing system packages: ${line}`);
    const env = { DEBIAN_FRONTEND: "noninteractive" };
    const apt = (/** @type {string[]} */ ...args) =>
      run("apt-get", ["-qq", "-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0", ...args], env);
    const install = () => apt("install", "-y", "--no-install-recommends", ...missing);
    // Package lists may be missing (images drop them) or old: only then they are fetched.
    let { status } = haveLists() ? await install() : { status: 100 };
    if (status !== 0) {
      await apt("update");
      ({ status } = await install());
    }
    missing = missingPackages();
    if (status !== 0 && missing.some((pkg) => pkg !== muslTools.pkg)) {
      throw new SetupError(
        `apt-get could not install ${missing.join(" ")} (see above). Once that works, run \`npm run setup\` again.`,
      );
    }
  }
  const needed = missing.filter((pkg) => pkg !== muslTools.pkg);
  if (needed.length > 0) {
    const how = which("apt-get")
      ? `type\n\n    sudo apt-get update && sudo apt-get install -y ${missing.join(" ")}\n\nand run \`npm run setup\` again`
      : `${otherSystems()}\n\nand run \`npm run setup\` again`;
    throw new SetupError(`the native part needs ${needed.join(", ")}: ${how}`);
  }
  if (missing.includes(muslTools.pkg)) {
    say(
      `no musl-gcc: the stress worker is linked with the system's C library and has a bigger footprint of its own${which("apt-get") ? " (sudo apt-get install -y musl-tools)" : ""}`,
    );
  }
}

function haveLists() {
  try {
    return readdirSync("/var/lib/apt/lists").some((file) => file.includes("_Packages"));
  } catch {
    return false;
  }
}

/** The line to type where there is no apt-get. */
function otherSystems() {
  const lines = [
    { tool: "dnf", line: "sudo dnf install -y gcc-c++ make python3" },
    { tool: "zypper", line: "sudo zypper install -y gcc-c++ make python3" },
    { tool: "pacman", line: "sudo pacman -S --needed gcc make python" },
    { tool: "apk", line: "apk add g++ make python3 linux-headers" },
  ];
  const found = lines.find(({ tool }) => which(tool));
  return found ? `type\n\n    ${found.line}` : "install a C++17 compiler (g++), make and python3";
}

async function installPackages() {
  if (packagesAreInstalled()) return;
  say("installing npm packages");
  const ci = await npm("ci");
  if (ci.status === 0) return;
  say("`npm ci` failed, trying `npm install`");
  const install = await npm("install");
  if (install.status !== 0) throw new SetupError("npm could not install the packages (see above)");
}

async function compileNative() {
  if (!linux) {
    say(
      `the native part is for Linux: skipped on ${process.platform} (\`oomlab explain\` and the oomlab/kmsg library work)`,
    );
    return;
  }
  const key = nativeKey();
  if (isDone(nativeStamp, key, nativeOutputs)) return;
  rmSync(join(root, nativeStamp), { force: true });
  say("compiling the native part");
  const { status } = await npm("run", "--silent", "build:native");
  if (status !== 0) throw new SetupError("the native part did not compile (see above)");
  writeFileSync(join(root, nativeStamp), key);
}

async function buildSources() {
  const key = buildKey();
  if (isDone(buildStamp, key, buildOutputs)) return;
  rmSync(join(root, buildStamp), { force: true });
  say("building");
  const { status } = await npm("run", "--silent", "build");
  if (status !== 0) throw new SetupError("the build failed (see above)");
  writeFileSync(join(root, buildStamp), key);
}

function nothingIsLeft() {
  return (
    packagesAreInstalled() &&
    (!linux || isDone(nativeStamp, nativeKey(), nativeOutputs)) &&
    isDone(buildStamp, buildKey(), buildOutputs)
  );
}

// ---- one at a time in one folder

/** A listening socket is the lock: whoever holds it loses it when it ends, however it ends. */
function lockName() {
  const name = `oomlab-setup-${createHash("sha256").update(root).digest("hex").slice(0, 16)}`;
  if (linux) return `\0${name}`;
  if (process.platform === "win32") return `\\\\.\\pipe\\${name}`;
  return join(os.tmpdir(), `${name}.sock`);
}

/** @returns {Promise<net.Server>} */
async function lock() {
  const name = lockName();
  for (let told = false; ;) {
    const server = net.createServer();
    const held = await new Promise((resolve, reject) => {
      server.once("listening", () => resolve(true));
      server.once("error", (/** @type {NodeJS.ErrnoException} */ error) =>
        error.code === "EADDRINUSE" ? resolve(false) : reject(error),
      );
      server.listen(name);
    });
    if (held) return server;
    if (!told) say("another setup is under way in this folder: waiting for it");
    told = true;
    await new Promise((resolve) => {
      const holder = net.connect(name);
      holder.on("error", (/** @type {NodeJS.ErrnoException} */ error) => {
        if (error.code === "ECONNREFUSED" && name.startsWith("/")) rmSync(name, { force: true });
      });
      holder.on("close", () => setTimeout(resolve, 20));
      holder.resume();
    });
  }
}

async function main() {
  const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
  if (major < 20 || (major === 20 && minor < 19)) {
    throw new SetupError(`oomlab needs Node >= 20.19, this is ${process.version}`);
  }
  if (nothingIsLeft()) return;
  const server = await lock();
  try {
    if (linux && !isDone(nativeStamp, nativeKey(), nativeOutputs)) await systemPackages();
    await installPackages();
    await compileNative();
    await buildSources();
    say("done");
  } finally {
    server.close();
    server.unref();
  }
}

try {
  await main();
  // Those who wait for the lock are still connected.
  process.exit(0);
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  say(error.message);
  process.exit(error.exitCode);
}
