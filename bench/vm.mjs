// @ts-check
/** The VM against a bare boot of the same kernel: a static init that powers off, in the same run. */
import { execFileSync, spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { BenchError, compiled, interleaved, median, root } from "./lab.mjs";

const cli = join(root, "dist/oomlab.cjs");

const scenario = (/** @type {number} */ number) => `
name: one ${number}
machine: { memory: 512Mi }
cgroups: { app: { memory.max: 64Mi, memory.swap.max: 0 } }
processes: { hog: { cgroup: app, stress: { anon: 128Mi } } }
expect: { oom: memcg, limit: app, victims: [hog] }
`;

/**
 * @param {string} folder @param {string[]} flags @param {{ snapshots?: boolean, scenarios?: number, env?: Record<string, string> }} [options]
 * @returns {number} ms
 */
function run(folder, flags, { snapshots = true, scenarios = 1, env = {} } = {}) {
  const began = performance.now();
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [cli, "run", "--machine", "vm", "--cgroup", "v2", "--reporter", "json", ...flags],
    {
      cwd: folder,
      encoding: "utf8",
      maxBuffer: 2 ** 30,
      env: { ...process.env, ...env, ...(snapshots ? {} : { OOMLAB_SNAPSHOTS: "off" }) },
    },
  );
  const ms = performance.now() - began;
  if (status !== 0 || JSON.parse(stdout).summary.passed !== scenarios)
    throw new BenchError(`oomlab run ${flags.join(" ")} did not pass: ${stderr}${stdout.slice(0, 2000)}`);
  return ms;
}

/** An entry of the cache; of the kernels the one that a run takes without a word. @param {"kernel" | "busybox"} kind */
function entry(kind) {
  const base = process.env["XDG_CACHE_HOME"];
  const folder = join(base?.startsWith("/") ? base : join(process.env["HOME"] ?? "/root", ".cache"), "oomlab");
  const name =
    kind === "kernel"
      ? JSON.parse(readFileSync(join(folder, "kernel-default.note"), "utf8")).value
      : readdirSync(folder).find((file) => file.startsWith(`${kind}-`) && !file.endsWith(".note"));
  if (name === undefined) throw new BenchError(`the cache ${folder} holds no ${kind}`);
  return join(folder, name);
}

/** An initramfs with a static init and the worker. @param {string} folder */
function bareInitrd(folder) {
  const tree = join(folder, "tree");
  mkdirSync(join(tree, "dev"), { recursive: true });
  copyFileSync(compiled("poweroff", "-static"), join(tree, "init"));
  copyFileSync(join(root, "native/build/Release/stress"), join(tree, "stress"));
  const busybox = join(entry("busybox"), "busybox");
  const archive = execFileSync(busybox, ["cpio", "-o", "-H", "newc", "-R", "0:0"], {
    cwd: tree,
    input: "dev\ninit\nstress\n",
    stdio: ["pipe", "pipe", "ignore"],
    maxBuffer: 2 ** 28,
  });
  const file = join(folder, "bare.cpio");
  writeFileSync(file, archive);
  rmSync(tree, { recursive: true });
  return file;
}

/** @param {string} initrd @param {string} memory @param {string} told @param {string} [argument] @returns {number} ms */
function bare(initrd, memory, told, argument = "") {
  const began = performance.now();
  const { stdout, stderr } = spawnSync(
    "qemu-system-x86_64",
    [
      ..."-nodefaults -no-user-config -display none -no-reboot -M q35 -cpu max -smp 2 -accel tcg,thread=multi".split(
        " ",
      ),
      ..."-serial stdio -kernel".split(" "),
      join(entry("kernel"), "kernel"),
      "-initrd",
      initrd,
      "-m",
      memory,
      "-append",
      `console=ttyS0 panic=-1 quiet -- ${argument}`,
    ],
    { encoding: "utf8" },
  );
  const ms = performance.now() - began;
  if (!stdout.includes(told)) throw new BenchError(`the bare guest did not say ${told}: ${stdout}${stderr}`);
  return ms;
}

/** @typedef {{ temporary: string, rounds: number }} Lab */
/** @typedef {(what: string, values: number[], unit: string, compared?: { against?: string, base?: number, goal?: number }) => void} Row */

/** Boot, agent, run and rest of one scenario, from its record. @param {string} folder @param {Row} row @param {string} how */
function parts(folder, row, how, /** @type {number[]} */ wall) {
  /** @type {Record<string, any>[]} */
  const events = readFileSync(
    join(folder, String(readdirSync(folder).find((name) => name.endsWith(".ndjson")))),
    "utf8",
  )
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line));
  const at = (/** @type {(event: Record<string, any>) => boolean} */ wanted) =>
    (events.find(wanted)?.["t"] ?? Number.NaN) / 1000;
  const up = at(({ type }) => type === "console");
  const ready = at(({ type }) => type === "machine");
  const removed = at(({ type, phase }) => type === "phase" && phase === "remove");
  const end = at(({ type }) => type === "end");
  if (how === "booted") row("  its kernel's boot", [up], "ms");
  row(`  ${how === "booted" ? "its agent's start" : "its restore"}`, [ready - (how === "booted" ? up : 0)], "ms");
  row("  its run", [removed - ready], "ms");
  row("  the rest (removal, QEMU's end, oomlab itself)", [median(wall) - removed], "ms");
  if (!(end >= removed)) throw new BenchError("the record has no end");
}

/** @param {Lab} lab @param {Row} row */
export function vm({ temporary, rounds }, row) {
  const folder = join(temporary, "vm");
  mkdirSync(folder);
  writeFileSync(join(folder, "one.yaml"), scenario(1));
  writeFileSync(join(folder, "twenty.yaml"), Array.from({ length: 20 }, (_, index) => scenario(index)).join("---\n"));
  // Image, kernel and snapshot are built before anything is measured.
  run(folder, ["one.yaml"]);
  const initrd = bareInitrd(folder);
  const ms = interleaved("a VM's scenario", Math.min(rounds, 5), {
    bare: () => bare(initrd, "512", "bare: init"),
    booted: () => run(folder, ["one.yaml", "--output", "booted"], { snapshots: false }),
    restored: () => run(folder, ["one.yaml", "--output", "restored"]),
  });
  const base = median(ms.bare);
  row("bare boot of its kernel", ms.bare, "ms");
  row("first scenario, booted", ms.booted, "ms", { against: "bare boot", base, goal: 2.5 });
  parts(join(folder, "booted"), row, "booted", ms.booted);
  row("scenario, restored", ms.restored, "ms", { against: "bare boot", base, goal: 1 });
  parts(join(folder, "restored"), row, "restored", ms.restored);
  const many = interleaved("20 scenarios", Math.min(rounds, 2), {
    bare: () => bare(initrd, "512", "bare: init"),
    one: () => run(folder, ["twenty.yaml"], { scenarios: 20 }),
    two: () => run(folder, ["twenty.yaml", "-j", "2"], { scenarios: 20 }),
  });
  const again = median([...ms.bare, ...many.bare]);
  row("20, one after another", many.one, "ms", { against: "bare boot", base: again, goal: 16 });
  row("20, two at a time", many.two, "ms", { against: "bare boot", base: again, goal: 11 });
}

/** The blog's node at full scale against the same kill in a bare guest of the same size. @param {Lab} lab @param {Row} row */
export function fullScale({ temporary, rounds }, row) {
  const folder = join(temporary, "full");
  mkdirSync(folder);
  const file = join(root, "scenarios/blog/node-out-of-memory.yaml");
  const memory = /full scale[\s\S]*?memory: (\d+)Mi/.exec(readFileSync(file, "utf8"))?.[1];
  if (memory === undefined) throw new BenchError(`${file} states no memory`);
  const flags = [file, "-g", "full scale"];
  writeFileSync(join(folder, "one.yaml"), scenario(1));
  run(folder, ["one.yaml"]);
  const initrd = bareInitrd(folder);
  const ms = interleaved("the blog's node at full scale", Math.min(rounds, 3), {
    bare: () => bare(initrd, memory, "bare: signal 9", "bytes=8388608000"),
    oomlab: () => run(folder, flags),
  });
  row("8000M until the node's OOM kill, bare guest", ms.bare, "ms");
  row("the same scenario", ms.oomlab, "ms", { against: "bare guest", base: median(ms.bare), goal: 1.3 });
}
