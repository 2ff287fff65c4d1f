// @ts-check
/**
 * `npm run bench [-- --rounds N] [--only REGEXP] [--json FILE]`: how oomlab compares with its peers (Debian's stress and
 * stress-ng) and with floors built here (bench/*.c). Ratios of medians, measured in turn; every run is verified.
 */
import { spawn, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import { dirname, join } from "node:path";
import { parseArgs } from "node:util";
import { explain } from "./explain.mjs";
import {
  BenchError,
  MiB,
  closeHome,
  compiled,
  inCgroup,
  interleaved,
  machine,
  median,
  openHome,
  peers,
  progress,
  root,
  timed,
  which,
} from "./lab.mjs";
import { fullScale, vm } from "./vm.mjs";

const worker = join(root, "native/build/Release/stress");
const cli = join(root, "dist/oomlab.cjs");

/**
 * @typedef {{ what: string, value: number, unit: string, against: string, ratio: number | null, goal: number | null, ok: boolean | null }} Row
 * `value` in its unit; `ratio` where there is something to compare with; `goal`: what ratio, or value where there is none, may be at most.
 */
/** @typedef {{ home: import("./lab.mjs").Home, rounds: number, measure: string, temporary: string, rows: Row[] }} Lab */

/**
 * @param {Lab} lab @param {string} what @param {number[]} values @param {string} unit
 * @param {{ against?: string, base?: number, goal?: number }} [compared]
 */
function row({ rows }, what, values, unit, { against = "", base, goal } = {}) {
  const value = median(values);
  const ratio = base === undefined ? null : value / base;
  rows.push({
    what,
    value,
    unit,
    against,
    ratio,
    goal: goal ?? null,
    ok: goal === undefined ? null : (ratio ?? value) <= goal,
  });
}

/** @param {boolean} truth @param {string} message */
function verify(truth, message) {
  if (!truth) throw new BenchError(`a measured run was not what it should be: ${message}`);
}

// ---- memory

/** A program touches `bytes` under a limit above them: ms. @param {Lab} lab @param {number} bytes @param {string[]} command */
function touching({ home, measure }, bytes, ...command) {
  const { result, kills, peak } = inCgroup(home, 1100 * MiB, (procs) => timed(measure, procs, command));
  verify(result.code === 0 && kills === 0, `${command.join(" ")} ended with ${result.code}, oom_kill ${kills}`);
  // Where the kernel knows no peak (v2 before 5.19), the process's own.
  const touched = Number.isNaN(peak) ? result.maxRssKb * 1024 : peak;
  verify(
    touched >= bytes && touched <= bytes * 1.02 + 4 * MiB,
    `${command.join(" ")} touched ${touched} bytes, not ${bytes}`,
  );
  return result.ns / 1e6;
}

/** @param {Lab} lab */
function touch(lab) {
  const bytes = 900 * MiB;
  const floor = compiled("touch");
  const size = ["--anon", String(bytes)];
  const ms = interleaved("touch 900 MiB", lab.rounds, {
    floor: () => touching(lab, bytes, floor, String(bytes)),
    touch: () => touching(lab, bytes, worker, ...size),
    populate: () => touching(lab, bytes, worker, ...size, "--populate"),
    threads: () => touching(lab, bytes, worker, ...size, "--populate", "--threads", "2"),
  });
  const base = median(ms.floor);
  row(lab, "touch 900 MiB: C touch loop", ms.floor, "ms");
  row(lab, "touch 900 MiB: worker", ms.touch, "ms", { against: "C touch loop", base, goal: 1.05 });
  row(lab, "touch 900 MiB: worker, populate", ms.populate, "ms", { against: "C touch loop", base, goal: 0.8 });
  row(lab, "touch 900 MiB: worker, populate, 2 threads", ms.threads, "ms", {
    against: "C touch loop",
    base,
    goal: 0.45,
  });
}

/** A program goes over a limit of 1 GiB and is killed: ms from exec to its end. @param {Lab} lab @param {string[]} command */
function dying({ home, measure }, ...command) {
  const limit = 1024 * MiB;
  const { result, kills, peak } = inCgroup(home, limit, (procs) => timed(measure, procs, command));
  verify(kills === 1, `${command.join(" ")}: oom_kill ${kills}, not 1`);
  verify(
    Number.isNaN(peak) || peak > limit - MiB,
    `${command.join(" ")} was killed at ${peak} bytes, not at the limit`,
  );
  return result.ns / 1e6;
}

/** @param {Lab} lab */
function kill(lab) {
  const [stress, ng] = [which("stress"), which("stress-ng")];
  /** @type {Record<string, () => number>} */
  const cases = {
    touch: () => dying(lab, worker, "--anon", "1100Mi"),
    threads: () => dying(lab, worker, "--anon", "1100Mi", "--populate", "--threads", "2"),
  };
  if (stress) cases["stress"] = () => dying(lab, stress, "-m", "1", "--vm-bytes", "1100M", "-t", "60");
  if (ng)
    cases["ng"] = () =>
      dying(lab, ng, "--vm", "1", "--vm-bytes", "1100M", "--vm-method", "write64", "--oomable", "-t", "60");
  const ms = interleaved("1 GiB limit, start to death", lab.rounds, cases);
  const base = ms["stress"] && { against: "stress -m 1", base: median(ms["stress"]) };
  if (ms["stress"]) row(lab, "1 GiB limit, start to death: stress -m 1", ms["stress"], "ms");
  if (ms["ng"]) row(lab, "1 GiB limit, start to death: stress-ng --oomable", ms["ng"], "ms", base);
  row(lab, "1 GiB limit, start to death: worker by touch", ms["touch"] ?? [], "ms", { ...base, goal: 1.05 });
  row(lab, "1 GiB limit, start to death: worker, populate, 2 threads", ms["threads"] ?? [], "ms", {
    ...base,
    goal: 0.5,
  });
}

/** Size and RSS of a holding worker beside the memory asked for, in kB. @param {number} bytes @returns {Promise<{ vm: number, rss: number }>} */
async function footprint(bytes) {
  const child = spawn(worker, ["--anon", String(bytes), "--hold", "forever", "--report-fd", "1"], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  try {
    let said = "";
    for await (const chunk of child.stdout) {
      said += String(chunk);
      if (said.includes('"type":"touched"')) break;
    }
    const status = readFileSync(`/proc/${child.pid}/status`, "utf8");
    const kb = (/** @type {string} */ key) => Number(new RegExp(`^${key}:\\s+(\\d+) kB$`, "m").exec(status)?.[1]);
    verify(kb("VmRSS") * 1024 >= bytes, `the worker holds ${kb("VmRSS")} kB, not ${bytes / 1024}`);
    return { vm: kb("VmSize") - bytes / 1024, rss: kb("VmRSS") - bytes / 1024 };
  } finally {
    child.kill("SIGKILL");
  }
}

/** @param {Lab} lab */
async function own(lab) {
  const [vm, rss] = [[], []].map(() => /** @type {number[]} */ ([]));
  for (let round = 0; round < lab.rounds; round++) {
    const { vm: size, rss: resident } = await footprint(256 * MiB);
    vm?.push(size);
    rss?.push(resident);
  }
  row(lab, "worker beside the memory asked for: total_vm", vm ?? [], "kB", { goal: 780 });
  row(lab, "worker beside the memory asked for: RSS", rss ?? [], "kB", { goal: 128 });
  const hello = compiled("hello", "-static");
  const empty = compiled("empty", "-static", "-nostdlib");
  const run = (/** @type {string[]} */ ...command) => {
    const { ns, code } = timed(lab.measure, "-", command);
    verify(code === 0, `${command.join(" ")} ended with ${code}`);
    return ns / 1e6;
  };
  const ms = interleaved("exec to exit", Math.max(31, lab.rounds), {
    empty: () => run(empty),
    glibc: () => run(hello),
    worker: () => run(worker, "--anon", "4096"),
  });
  row(lab, "exec to exit: static glibc program", ms.glibc, "ms");
  row(lab, "exec to exit: empty program, no library", ms.empty, "ms", {
    against: "static glibc program",
    base: median(ms.glibc),
  });
  row(lab, "exec to exit: worker, one page", ms.worker, "ms", {
    against: "static glibc program",
    base: median(ms.glibc),
    goal: 0.35,
  });
}

/** 50 MiB/s for 4 s, by the worker's own clock; how far off in all, and its steps. @param {Lab} lab */
function rate(lab) {
  /** @type {number[]} */
  const off = [];
  for (let round = 0; round < lab.rounds; round++) {
    progress(`rate ${round + 1}/${lab.rounds}`);
    const { stdout } = spawnSync(worker, ["--anon", "200Mi", "--rate", "50Mi/s", "--report-fd", "1"], {
      encoding: "utf8",
    });
    const events = stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    const start = events.find(({ type }) => type === "start");
    const touched = events.find(({ type }) => type === "touched");
    verify(touched?.touched === 200 * MiB, `rate: touched ${touched?.touched} bytes`);
    off.push((Math.abs((touched.t - start.t) / 1e6 - 4) / 4) * 100);
  }
  progress("");
  row(lab, "rate 50 MiB/s for 4 s: off in all", off, "%", { goal: 0.1 });
}

// ---- the command line

/** @param {number} limit MiB */
const scenario = (limit) => `
name: one scenario
cgroups:
  a: { memory.max: ${limit}Mi, memory.swap.max: 0 }
processes:
  hog: { cgroup: a, stress: { anon: ${limit * 1.5}Mi } }
expect:
  oom: memcg
  limit: a
  victims: [hog]
`;

/** Runs a command in our cgroup where processes may be in it (v1). @param {Lab} lab @param {string[]} command */
function command({ home, measure }, ...command) {
  const measured = timed(measure, home.version === 1 ? join(home.folder, "cgroup.procs") : "-", command);
  verify(measured.code === 0, `${command.join(" ")} ended with ${measured.code}, signal ${measured.signal}`);
  return measured;
}

/** @param {Lab} lab */
function version(lab) {
  const ms = interleaved("--version", Math.max(15, lab.rounds), {
    node: () => command(lab, process.execPath, "-e", "0").ns / 1e6,
    version: () => command(lab, process.execPath, cli, "--version").ns / 1e6,
  });
  row(lab, "node -e 0", ms.node, "ms");
  row(lab, "oomlab --version", ms.version, "ms", { against: "node -e 0", base: median(ms.node), goal: 1.5 });
}

/** Runs oomlab and verifies that all scenarios passed: they prove the kill themselves. @param {Lab} lab @param {string} file @param {number} times */
function oomlab(lab, file, times) {
  const report = join(lab.temporary, "report.json");
  const measured = command(
    lab,
    process.execPath,
    cli,
    "run",
    "--repeat-each",
    String(times),
    "--reporter",
    `json=${report}`,
    file,
  );
  const { summary, scenarios } = JSON.parse(readFileSync(report, "utf8"));
  verify(summary.passed === times, `oomlab run: ${JSON.stringify(summary)}`);
  for (const { observed } of scenarios) {
    verify(observed.kills.length === 1 && observed.kills[0].kind === "memcg", "oomlab run: not one memcg kill");
  }
  return measured;
}

/** The C program's ms for `times` scenarios. @param {Lab} lab @param {string} program @param {number} times */
function floor({ home }, program, times) {
  const { stdout, status } = spawnSync(program, [String(home.version), home.folder, String(times)], {
    encoding: "utf8",
    stdio: ["ignore", "pipe", "inherit"],
  });
  verify(status === 0, `the C program ended with ${status}`);
  return Number(JSON.parse(stdout).ms);
}

/** @param {Lab} lab */
function one(lab) {
  const program = compiled("scenario");
  const file = join(lab.temporary, "one.yaml");
  writeFileSync(file, scenario(64));
  const ms = interleaved("run, one scenario", Math.max(11, lab.rounds), {
    node: () => command(lab, process.execPath, "-e", "0").ns / 1e6,
    floor: () => floor(lab, program, 1),
    oomlab: () => oomlab(lab, file, 1).ns / 1e6,
  });
  row(lab, "one 64 MiB scenario: C program", ms.floor, "ms");
  const base = median(ms.floor) + median(ms.node);
  row(lab, "one 64 MiB scenario: oomlab run", ms.oomlab, "ms", { against: "C program + node -e 0", base, goal: 1.5 });
}

/** @param {Lab} lab */
function fifty(lab) {
  const program = compiled("scenario");
  const file = join(lab.temporary, "one.yaml");
  writeFileSync(file, scenario(64));
  const ms = interleaved("run, 50 scenarios", lab.rounds, {
    node: () => command(lab, process.execPath, "-e", "0").ns / 1e6,
    floor: () => floor(lab, program, 50),
    oomlab: () => oomlab(lab, file, 50).ns / 1e6,
  });
  row(lab, "50 such, one after another: C program", ms.floor, "ms");
  const base = median(ms.floor) + median(ms.node);
  row(lab, "50 such, one after another: oomlab run", ms.oomlab, "ms", {
    against: "50 x C program + node -e 0",
    base,
    goal: 1.2,
  });
}

/** @param {Lab} lab */
function memory(lab) {
  // A rusage's maxrss is the largest of the process and the children it waited for: keep those small.
  const file = join(lab.temporary, "small.yaml");
  writeFileSync(file, scenario(16));
  const { rss } = interleaved("RSS of oomlab", lab.rounds, {
    rss: () => (oomlab(lab, file, 10).maxRssKb * 1024) / 1e6,
  });
  row(lab, "RSS of oomlab while it runs 10 scenarios", rss, "MB", { goal: 90 });
}

/** @param {Lab} lab */
function predict(lab) {
  const file = join(root, "scenarios/kubernetes/rate.yaml");
  const points = join(lab.temporary, "points.csv");
  const args = ["-g", "polls$", "--vary", "process.rate=4Mi/s..64Mi/s", "--vary", "process.delay=0s..9s"];
  const { seconds } = interleaved("predict", Math.min(lab.rounds, 5), {
    seconds: () =>
      // All on one core: what else Node does counts too.
      command(
        lab,
        "/usr/bin/taskset",
        "-c",
        "0",
        process.execPath,
        cli,
        "predict",
        file,
        ...args,
        "--steps",
        "1000,1000",
        "--reporter",
        `csv=${points}`,
      ).ns / 1e9,
  });
  row(lab, "oomlab predict: 1,000,000 points as CSV, on one core", seconds, "s", { goal: 5 });
}

/** @param {Lab} lab */
function pods(lab) {
  const file = join(lab.temporary, "pods.yaml");
  const manifest = (/** @type {number} */ index) => `apiVersion: v1
kind: Pod
metadata: { name: pod-${index} }
spec: { containers: [{ name: a, image: a, resources: { limits: { memory: 64Mi } } }] }
`;
  writeFileSync(file, Array.from({ length: 200 }, (_, index) => manifest(index)).join("---\n"));
  const ms = interleaved("200 Pods", Math.max(11, lab.rounds), {
    node: () => command(lab, process.execPath, "-e", "0").ns / 1e6,
    pods: () => command(lab, process.execPath, cli, "run", "--dry-run", file).ns / 1e6,
  });
  const node = median(ms.node);
  const beyond = ms.pods.map((each) => each - node);
  row(lab, "a manifest of 200 documents validated and laid out, beyond node -e 0", beyond, "ms", { goal: 300 });
}

// ---- all of it

/** @param {Lab} lab */
function machineOfItsOwn(lab) {
  vm(lab, (what, values, unit, compared) => row(lab, what, values, unit, compared));
}

/** @param {Lab} lab */
function kernelLogs(lab) {
  explain(lab, (what, values, unit, compared) => row(lab, what, values, unit, compared));
}

/** @param {Lab} lab */
function wholeNode(lab) {
  fullScale(lab, (what, values, unit, compared) => row(lab, what, values, unit, compared));
}

const parts = {
  touch,
  kill,
  own,
  rate,
  version,
  one,
  fifty,
  memory,
  explain: kernelLogs,
  predict,
  pods,
  vm: machineOfItsOwn,
  node: wholeNode,
};

/** @param {Row[]} rows */
function table(rows) {
  const number = (/** @type {number | null} */ value, /** @type {number} */ digits) =>
    value === null ? "" : value.toFixed(digits);
  const cells = [
    ["what", "median", "ratio", "at most", "", "against"],
    ...rows.map(({ what, value, unit, ratio, goal, ok, against }) => [
      what,
      `${number(value, value < 10 ? 3 : 1)} ${unit}`,
      number(ratio, 2),
      goal === null ? "" : String(goal),
      ok === null ? "" : ok ? "ok" : "MISSED",
      against,
    ]),
  ];
  const widths = cells[0]?.map((_, column) => Math.max(...cells.map((line) => line[column]?.length ?? 0))) ?? [];
  return cells
    .map((line) =>
      line
        .map((cell, column) =>
          column === 0 || column > 3 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0),
        )
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}

function flags() {
  try {
    return parseArgs({
      options: { rounds: { type: "string", default: "7" }, only: { type: "string" }, json: { type: "string" } },
    });
  } catch (error) {
    throw new BenchError(`${/** @type {Error} */ (error).message} (flags: --rounds N, --only REGEXP, --json FILE)`);
  }
}

async function main() {
  const { values } = flags();
  const rounds = Number(values.rounds);
  if (!Number.isInteger(rounds) || rounds < 1) throw new BenchError(`--rounds: a whole number, not ${values.rounds}`);
  if (process.platform !== "linux") throw new BenchError("needs Linux");
  const only = new RegExp(values.only ?? "");
  const chosen = Object.entries(parts).filter(([name]) => only.test(name));
  if (chosen.length === 0) throw new BenchError(`--only ${values.only}: none of ${Object.keys(parts).join(", ")}`);
  peers("stress", "stress-ng");
  const home = openHome();
  const temporary = mkdtempSync(join(os.tmpdir(), "oomlab-bench-"));
  for (const signal of /** @type {const} */ (["SIGINT", "SIGTERM", "SIGHUP"])) {
    process.on(signal, () => {
      clean();
      process.exit(130);
    });
  }
  const clean = () => {
    rmSync(temporary, { recursive: true, force: true });
    closeHome(home);
  };
  const about = machine();
  /** @type {Row[]} */
  const rows = [];
  try {
    const lab = { home, rounds, measure: compiled("measure", "-static"), temporary, rows };
    for (const [, part] of chosen) await part(lab);
  } finally {
    clean();
  }
  console.log(table(rows));
  console.log(
    `\n${about.cpus} x ${about.cpu}, kernel ${about.kernel}, cgroup v${home.version}, Node ${about.node}, ${about.os}`,
  );
  if (values.json) {
    mkdirSync(dirname(values.json), { recursive: true });
    writeFileSync(
      values.json,
      `${JSON.stringify({ schemaVersion: 1, machine: { ...about, cgroupVersion: home.version }, rounds, rows }, null, 2)}\n`,
    );
  }
}

try {
  await main();
} catch (error) {
  if (!(error instanceof BenchError)) throw error;
  console.error(`bench: ${error.message}`);
  process.exitCode = 3;
}
