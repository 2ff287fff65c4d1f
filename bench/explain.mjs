// @ts-check
/**
 * `explain` on three logs of 1 GiB that are made here from the corpus' real reports: quiet (a report every 10 MB of
 * other programs' lines), dense (reports back to back) and adversarial (lines that look like an OOM kill and are none).
 */
import { execFileSync } from "node:child_process";
import { closeSync, mkdirSync, openSync, readFileSync, rmSync, writeSync } from "node:fs";
import { join } from "node:path";
import { BenchError, MiB, interleaved, median, progress, root, timed, which } from "./lab.mjs";

const corpus = join(root, "test/fixtures/kernel-logs");
const size = 1024 * MiB;
const cli = join(root, "dist/oomlab.cjs");

/** The records of the guest logs' reports, their text alone. @returns {string[][]} */
function reports() {
  return ["61-v2-memcg", "61-v1-memcg", "61-v2-hier", "61-v1-memsw", "72-v2-memcg", "61-v2-allocating"].map((name) => {
    const lines = readFileSync(join(corpus, `guest/kmsg-${name}.raw`), "utf8").split("\n");
    const from = lines.findIndex((line) => line.includes(" invoked oom-killer: "));
    const to = lines.findIndex((line) => line.includes(" Killed process "));
    return lines.slice(from, to + 1).map((line) => line.slice(line.indexOf(";") + 1));
  });
}

/** Writes a log of `size` bytes from pieces; gives the number of kills in it. @param {string} file @param {() => { text: string, kills: number }} next */
function write(file, next) {
  const fd = openSync(file, "w");
  try {
    let [written, kills] = [0, 0];
    for (;;) {
      const piece = next();
      if (written + piece.text.length > size) return kills;
      written += writeSync(fd, piece.text, null, "latin1");
      kills += piece.kills;
    }
  } finally {
    closeSync(fd);
  }
}

/** A dense log's next reports: each a little later than the one before, with a pid of its own. */
function denseSource() {
  const all = reports();
  let [clock, pid, turn] = [1000, 5000, 0];
  return () => {
    const report = all[turn++ % all.length] ?? [];
    const old = /task=[^,]+,pid=(\d+)/.exec(report.join("\n"))?.[1] ?? "0";
    pid = 5000 + ((pid - 4999) % 4_000_000);
    clock += 0.01;
    const text = report
      .map((line, i) => {
        const stamp = `[${(clock + i / 1e6).toFixed(6).padStart(12)}] `;
        return `${stamp}${line.replace(`,pid=${old},`, `,pid=${pid},`).replace(`Killed process ${old} `, `Killed process ${pid} `)}\n`;
      })
      .join("");
    return { text, kills: 1 };
  };
}

const programs = ["systemd[1]", "sshd[2211]", "dockerd[801]", "kubelet[1442]", "CRON[9913]", "rsyslogd", "kernel"];
const sayings = [
  "Started Session 4711 of user root.",
  "Accepted publickey for deploy from 10.0.3.17 port 51234 ssh2: ED25519 SHA256:VqK0m4l4H2",
  'time="2026-11-24T23:42:31Z" level=info msg="shim disconnected" id=9f2b1c7a namespace=moby',
  "I1124 23:42:31.123456    1442 reconciler.go:161] operationExecutor.VerifyControllerAttachedVolume started",
  "(root) CMD (test -x /usr/sbin/anacron || ( cd / && run-parts --report /etc/cron.daily ))",
  "eth0: link is up, 1000 Mbps full duplex, flow control off; skill set 4, kilobyte counter 12",
  "Killing container with a grace period override; the task was killed by signal 15",
  "watchdog: timed out waiting for /dev/vdb1, out of luck",
];

/** Other programs' lines, about a megabyte. @param {number} seed */
function noise(seed) {
  let text = "";
  for (let i = 0; text.length < MiB; i++) {
    const n = (seed * 7919 + i * 104_729) % 1_000_003;
    const clock = `${String(n % 24).padStart(2, "0")}:${String(i % 60).padStart(2, "0")}:${String(n % 60).padStart(2, "0")}`;
    // One line in some fifty talks of killing.
    const saying = sayings[n % 50 === 0 ? i % sayings.length : (n >> 3) % 5];
    text += `Nov 24 ${clock} node-${n % 9} ${programs[n % programs.length]}: ${saying} ${n}\n`;
  }
  return text;
}

function quietSource() {
  const blocks = Array.from({ length: 8 }, (_, i) => noise(i + 1));
  const next = denseSource();
  let turn = 0;
  return () => {
    const block = blocks[turn++ % blocks.length] ?? "";
    if (turn % 10 !== 5) return { text: block, kills: 0 };
    const { text } = next();
    const logged = text.replaceAll(/^/gm, "Nov 24 23:42:31 node-1 kernel: ").replace(/Nov 24 \S+ node-1 kernel: $/, "");
    return { text: block + logged, kills: 1 };
  };
}

function adversarialSource() {
  const near = [
    "[ 1234.567890] app: Killed process by request of the operator, name (stress) total-vm:1kB",
    "Nov 24 23:42:31 node-1 app[12]: Killed process 4242 (stress) total-vm:1kB, anon-rss:1kB, file-rss:0kB",
    "Nov 24 23:42:31 node-1 app[12]: a Killed process is no process; invoked oom-killer many times",
    "[ 1234.567890] usb 1-1: stress invoked oom-killer of its own: gfp_mask is not here",
    "Nov 24 23:42:31 node-1 web: GET /search?q=Killed+process+1 (x) Killed process 17 (y",
    'Nov 24 23:42:31 node-1 audit: msg="oom-kill:constraint" Killed process 77 of the batch',
    "[ 1234.567890] Out of memory in the heap of app 12: Killed process follows",
    "Nov 24 23:42:31 node-1 app[12]: Memory cgroup out of memory: Killed process 3 (z) total-vm:8kB, anon-rss:4kB",
  ];
  const block = Array.from({ length: 8000 }, (_, i) => `${near[i % near.length]} ${i}\n`).join("");
  const filler = [9, 10, 11]
    .map((seed) =>
      noise(seed)
        .slice(0, 700_000)
        .replace(/[^\n]*$/, ""),
    )
    .join("");
  const next = denseSource();
  let turn = 0;
  return () => {
    turn++;
    return turn % 64 === 9 ? { text: block + next().text, kills: 1 } : { text: block + filler, kills: 0 };
  };
}

/** cAdvisor's regular expressions (utils/oomparser/oomparser.go) on lines of a file, where Go is installed. */
function goPeer() {
  const go = which("go");
  if (go === undefined) return undefined;
  const binary = join(root, "bench-results/bin/oomparser");
  mkdirSync(join(root, "bench-results/bin"), { recursive: true });
  execFileSync(go, ["build", "-o", binary, join(root, "bench/oomparser.go")], {
    stdio: ["ignore", "ignore", "inherit"],
    env: { ...process.env, GO111MODULE: "off", GOFLAGS: "", GOTOOLCHAIN: "local" },
  });
  return binary;
}

/** The library alone without WebAssembly, as a script of its own. */
const plain = `
delete globalThis.WebAssembly;
const { readSync, openSync } = require("node:fs");
import(process.argv[1]).then(({ createLogScanner }) => {
  const [fd, buffer, scanner] = [openSync(process.argv[2], "r"), Buffer.allocUnsafe(262144), createLogScanner()];
  let kills = 0;
  for (let n; (n = readSync(fd, buffer)) > 0; ) kills += scanner.push(buffer.subarray(0, n)).length;
  console.log(kills + scanner.end().kills.length);
});`;

/**
 * @param {{ rounds: number, measure: string, temporary: string }} lab
 * @param {(what: string, values: number[], unit: string, compared?: { against?: string, base?: number, goal?: number }) => void} row
 */
export function explain(lab, row) {
  const output = join(lab.temporary, "out");
  const rg = which("rg");
  const go = goPeer();
  const node = process.execPath;
  const logs = /** @type {const} */ ([
    ["quiet", quietSource, 1.5],
    ["dense", denseSource, 15],
    ["adversarial", adversarialSource, 6],
  ]);
  for (const [name, source, goal] of logs) {
    const log = join(lab.temporary, `${name}.log`);
    progress(`writing the ${name} log`);
    const truth = write(log, source());
    /** @type {Record<string, number>} */
    const rss = {};
    /** A shell, so that stdout can be a file: grep ends at the first match when it is /dev/null. @param {string} key @param {string} script @param {(text: string) => number} [kills] */
    const timedRun = (key, script, kills) => () => {
      const sh = [
        "/bin/sh",
        "-c",
        `${script} > ${kills === undefined ? "/dev/null" : '"$2"'}`,
        "sh",
        log,
        output,
        node,
        cli,
        go ?? "",
        join(root, "dist/kmsg/index.js"),
        plain,
      ];
      const { ns, code, maxRssKb } = timed(lab.measure, "-", sh);
      if (code !== 0) throw new BenchError(`${script} ended with ${code}`);
      rss[key] = Math.max(rss[key] ?? 0, (maxRssKb * 1024) / 1e6);
      if (kills !== undefined) {
        const told = kills(readFileSync(output, "latin1"));
        if (told !== truth) throw new BenchError(`${name}: ${script} tells ${told} kills of ${truth}`);
      }
      return ns / 1e6;
    };
    const any = () => truth;
    const json = (/** @type {string} */ text) => JSON.parse(text).kills.length;
    /** @type {Record<string, () => number>} */
    const cases = {
      grep: timedRun("grep", `LC_ALL=C exec grep -c 'Killed process' "$1"`, any),
      explain: timedRun("explain", `exec "$3" "$4" explain --reporter json "$1"`, json),
      pipe: timedRun("pipe", `cat "$1" | "$3" "$4" explain --reporter json -`, json),
      plain: timedRun("plain", `exec "$3" -e "$7" "$6" "$1"`, Number),
    };
    if (rg) cases["rg"] = timedRun("rg", `exec rg -c 'Killed process' "$1"`, any);
    // Of a log with lines that only look like kills cAdvisor's parser believes some.
    if (go) cases["go"] = timedRun("go", `exec "$5" "$1"`, name === "dense" ? Number : undefined);
    const ms = interleaved(`explain, ${name}`, lab.rounds, cases);
    // Whole reports take long where there is nothing else.
    Object.assign(
      ms,
      interleaved(`explain, ${name}, in full`, 1, {
        details: timedRun("details", `exec "$3" "$4" explain --reporter json --details "$1"`),
        words: timedRun("words", `exec "$3" "$4" explain "$1"`),
      }),
    );
    rmSync(log);
    const of = (/** @type {string} */ key) => ms[key] ?? [];
    const what = `explain, 1 GiB ${name} (${truth} kills)`;
    const grep = { against: "grep -c", base: median(of("grep")) };
    const ripgrep = rg ? { against: "rg -c", base: median(of("rg")) } : undefined;
    row(`${what}: grep -c 'Killed process'`, of("grep"), "ms", ripgrep);
    if (rg) row(`${what}: rg -c 'Killed process'`, of("rg"), "ms");
    if (go) row(`${what}: cAdvisor's expressions, Go`, of("go"), "ms", ripgrep);
    row(`${what}: explain`, of("explain"), "ms", { ...grep, goal });
    if (go) row(`${what}: explain`, of("explain"), "ms", { against: "cAdvisor's", base: median(of("go")) });
    row(`${what}: explain`, of("explain"), "ms", ripgrep);
    row(`${what}: explain, from a pipe`, of("pipe"), "ms", ripgrep);
    row(`${what}: explain --details`, of("details"), "ms", ripgrep);
    row(`${what}: explain, words`, of("words"), "ms", ripgrep);
    row(`${what}: library without WebAssembly`, of("plain"), "ms", ripgrep);
    for (const key of ["explain", "pipe", "details", "words"])
      row(`${what}: RSS of ${key}`, [rss[key] ?? 0], "MB", { goal: 90 });
  }
}
