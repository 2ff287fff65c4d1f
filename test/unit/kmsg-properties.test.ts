import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, readdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  createLogReader,
  createLogScanner,
  createOomScanner,
  explainKill,
  findOomKills,
  type KmsgRecord,
  type OomKill,
  type OomScan,
  parseKmsgRecord,
  printable,
  scanKernelLog,
} from "../../src/kmsg/index.ts";
import { createSearch } from "../../src/kmsg/prefilter.ts";
import { readPrefix } from "../../src/kmsg/prefix.ts";

const corpus = new URL("../fixtures/kernel-logs/", import.meta.url);
const logs = ["field", "own", "guest"].flatMap((folder) =>
  readdirSync(new URL(`${folder}/`, corpus))
    .filter((file) => file !== "truth.json" && (folder !== "guest" || /61-v2-(group|cpuset)|72-v2-memcg/.test(file)))
    .map((file) => readFileSync(new URL(`${folder}/${file}`, corpus), "utf8")),
);
const lines = logs
  .flatMap((log) => log.split("\n").filter((line) => /kill|Kill|panic|memcg|oom/i.test(line)))
  .slice(0, 2000);

// Words that the records are made of, so that mutations hit where it hurts.
const pieces = [
  "Memory cgroup out of memory: ",
  "Out of memory: ",
  "Killed process ",
  "Kill process ",
  "oom-kill:constraint=CONSTRAINT_MEMCG",
  ",nodemask=(null)",
  ",cpuset=",
  ",mems_allowed=0",
  ",oom_memcg=/a",
  ",task_memcg=/a/b",
  ",task=",
  ",pid=1",
  ",uid=0",
  " (",
  ")",
  " total-vm:1kB",
  ", anon-rss:",
  "kB",
  "12",
  " invoked oom-killer: gfp_mask=0x",
  ", order=-1",
  "Tasks in /a are going to be killed due to memory.oom.group set",
  "Task in /a killed as a result of limit of /a",
  "[    1.000000] ",
  "6,1,1,-;",
  "Nov  1 10:00:00 h kernel: ",
  "> ",
  "\n",
  "\r",
  "\r\n",
  "\n\n",
  " ",
  "\u001b[0m",
  "\0",
  "\\x0a",
  '{"msg":"',
  '"}',
  "MESSAGE=",
  "__CURSOR=",
  "oom_kill_process+0x1/0x2",
  " memory_max_write+0x1/0x2",
  "Out of memory and no killable processes...",
  "System is deadlocked on memory",
  "#012",
  "é",
  "\ud800",
  "sysrq: Manual OOM execution",
  " score 5 or sacrifice child",
  "Memory cgroup out of memory: Kil",
  "Memory cgroup out of",
  "Out of memory: Kil",
  "led process 12 (x)",
  "Task in /a",
  "Tasks in /a are going to be kil",
  " killed as a result of limit of /a",
  "\u001b[01;31m\u001b[K",
  "oom_kill_process.cold+0x8/0x8a",
  " mem_cgroup_resize_max+0x1/0x2\n",
  "[    3.000000]  oom_kill_process+0x1/0x2\n",
  "3,900,9,-;",
  " SUBSYSTEM=pci\n",
  "<3>",
  "[    1.000000]\n",
  "kern  :notice: ",
  "kernel: ",
  "Nov  1 10:00:00 h app[12]: ",
  " app[12]: ",
  " kernel[12]: ",
  "<4>kernel[1]: ",
  "2025-01-01T10:00:00Z ",
  "#011",
];
const text = fc
  .array(
    fc.oneof(
      { weight: 4, arbitrary: fc.constantFrom(...pieces) },
      { weight: 2, arbitrary: fc.constantFrom(...lines) },
      { weight: 1, arbitrary: fc.string({ unit: "binary", maxLength: 12 }) },
    ),
    { maxLength: 40 },
  )
  .map((parts) => parts.join(""));
/** Real lines, some dropped, doubled or cut. */
const shuffled = fc
  .array(fc.tuple(fc.constantFrom(...lines), fc.constantFrom("keep", "cut", "glue"), fc.nat(200)), { maxLength: 40 })
  .map((rows) =>
    rows
      .map(([line, how, at]) => (how === "cut" ? `${line.slice(0, at)}\n` : how === "glue" ? line : `${line}\n`))
      .join(""),
  );
const input = fc.oneof(text, shuffled);
/** A real log cut at some width, behind another prefix, with some lines dropped. */
const wrapped = fc
  .tuple(
    fc.constantFrom(...logs.filter((log) => log.length < 20_000)),
    fc.integer({ min: 20, max: 200 }),
    fc.constantFrom(
      "",
      "> ",
      "  ",
      "Nov 24 23:42:31 host kernel: ",
      "Nov 24 23:42:31 host kernel[12]: ",
      "Nov 24 23:42:31 host app[12]: ",
      "12:00:00 app[12]: ",
      "2025-01-01T10:00:00Z host app[12]: ",
      "[    1.000000] ",
      "6,1,1,-;",
    ),
    fc.array(fc.nat(200), { maxLength: 5 }),
    fc.constantFrom("", "\n", "\r\n"),
  )
  .map(([log, width, prefix, dropped, end]) =>
    log
      .split("\n")
      .filter((_, i) => !dropped.includes(i))
      .map((line) => `${`${prefix}${line}`.replace(new RegExp(`.{${width}}(?=.)`, "g"), "$&\n")}${end}`)
      .join("\n"),
  );
// OOMLAB_MANY_RUNS=100 goes a hundred times as far.
const many = Number(process.env["OOMLAB_MANY_RUNS"] ?? 1);

function slow(log: string | Uint8Array): OomScan {
  const reader = createLogReader();
  return findOomKills([...reader.push(log), ...reader.end()]);
}

function cutAt<T extends string | Uint8Array>(whole: T, cuts: number[]): T[] {
  const at = [...new Set(cuts.map((cut) => cut % (whole.length + 1)))].toSorted((a, b) => a - b);
  return [0, ...at].map((from, i) => whole.slice(from, [...at, whole.length][i]) as T);
}

describe("any input", () => {
  it("never makes it throw, and never gives a kill without pid and sizes in bytes", () => {
    fc.assert(
      fc.property(fc.oneof(input, fc.uint8Array({ maxLength: 400 })), (log) => {
        for (const details of [false, true]) {
          for (const kill of scanKernelLog(log, { details }).kills) {
            expect(Number.isSafeInteger(kill.victim.pid)).toBe(true);
            expect(kill.lines).toContain(kill.line);
            expect(kill.lines).toEqual(kill.lines.toSorted((a, b) => a - b));
            expect(explainKill(kill).every((sentence) => sentence === printable(sentence))).toBe(true);
            expect(JSON.parse(JSON.stringify(kill))).toEqual(kill);
          }
        }
        const line = typeof log === "string" ? log : String.fromCharCode(...log);
        parseKmsgRecord(line);
        readPrefix(line);
      }),
      { numRuns: 1500 },
    );
  });

  it("gives the same answer wherever the chunks are cut", () => {
    fc.assert(
      fc.property(input, fc.array(fc.nat(4000), { maxLength: 12 }), (log, cuts) => {
        const bytes = new TextEncoder().encode(log);
        const want = scanKernelLog(bytes);
        expect(scanKernelLog(cutAt(bytes, cuts))).toEqual(want);
        expect(scanKernelLog(cutAt(log, cuts))).toEqual(want);
        const records = (chunks: (string | Uint8Array)[]): KmsgRecord[] => {
          const reader = createLogReader();
          return [...chunks.flatMap((chunk) => reader.push(chunk)), ...reader.end()];
        };
        expect(records(cutAt(bytes, cuts))).toEqual(records([bytes]));
        const scanner = createLogScanner();
        const kills: OomKill[] = cutAt(bytes, cuts).flatMap((chunk) => scanner.push(chunk));
        expect([...kills, ...scanner.end().kills]).toEqual(want.kills);
      }),
      { numRuns: 1000 },
    );
  });

  it("gives the same answer whether every line of it is read or only those that may matter", () => {
    const whole = fc.array(fc.constantFrom(...lines), { maxLength: 60 }).map((rows) => `${rows.join("\n")}\n`);
    fc.assert(
      fc.property(whole, (log) => {
        // A record in words of others is no record to a reader, and incomplete to a scanner.
        const rest = { incomplete: [] };
        expect({ ...scanKernelLog(log), ...rest }).toEqual({ ...slow(log), ...rest });
      }),
      { numRuns: 1500 * many },
    );
  });

  it("gives no kill that reading every line does not, however it is cut", () => {
    const pids = (scan: OomScan): number[] => scan.kills.map(({ victim }) => victim.pid);
    fc.assert(
      fc.property(fc.oneof(input, wrapped), (log) => {
        expect(pids(slow(log))).toEqual(expect.arrayContaining(pids(scanKernelLog(log))));
      }),
      { numRuns: 1500 * many },
    );
  });
});

describe("the search", () => {
  it("finds with SIMD what a plain loop finds, and counts the same lines", () => {
    const alphabet = fc.constantFrom(
      "-vm:",
      "-",
      "v",
      "k",
      "i",
      "l",
      "K",
      "O",
      "o",
      "m",
      "M",
      " ",
      "\n",
      "kill",
      "KiLl",
      "OOM",
      "oom",
      "\u000bill",
      "x".repeat(15),
    );
    fc.assert(
      fc.property(fc.array(alphabet, { maxLength: 80 }), fc.nat(40), (parts, from) => {
        const bytes = new TextEncoder().encode(parts.join(""));
        const hits = [createSearch(4096), createSearch(4096, true)].map((search) => {
          search.bytes.set(bytes);
          const found: number[][] = [];
          for (let at = Math.min(from, bytes.length), hit = 0; hit !== -1; at = hit + 1) {
            hit = search.find(at, bytes.length);
            found.push([hit, search.lines()]);
          }
          return found;
        });
        expect(hits[0]).toEqual(hits[1]);
      }),
      { numRuns: 2000 },
    );
  });

  it("is the one that its source gives", () => {
    const made = join(mkdtempSync(join(tmpdir(), "oomlab-test-")), "search.wasm.ts");
    execFileSync(process.execPath, ["scripts/build-search.mjs", made]);
    expect(readFileSync(made, "utf8")).toBe(readFileSync("src/kmsg/search.wasm.ts", "utf8"));
  });
});

describe("time and memory", () => {
  const kib64 = 65_536;
  const crafted: Record<string, string> = {
    "a line of opening brackets": "[".repeat(kib64),
    "a name that never ends": `Out of memory: Killed process 1 (${"a".repeat(kib64)}`,
    "names that may end anywhere": `Out of memory: Killed process 1 (${") total-vm:1kB".repeat(4_000)}`,
    "paths that may end anywhere": `oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/a${",task_memcg=/a".repeat(4_000)},task=x,pid=1,uid=0`,
    "invocations in one line": "x invoked oom-killer: gfp_mask=0x".repeat(2_000),
    "kills in one line": "[ 1.0] Killed process 1 (x) ".repeat(2_400),
    "prefixes in one line": "> Nov  1 10:00:00 h kernel: ".repeat(2_400),
    "limits in one line": `Task in /a${" killed as a result of limit of /a".repeat(2_000)}`,
    "colours in one line": `\u001b[0m\u001b]`.repeat(8_000),
    "escapes in one line": `3,1,1,-;${"\\x0a".repeat(16_000)}`,
    "words in one line": "a ".repeat(kib64 / 2),
    "dates in one line": "Nov 1 ".repeat(10_000),
    "objects in one line": `{"msg":"${'{"msg":"'.repeat(8_000)}`,
    "carriage returns in one line": "Killed process 1\r".repeat(4_000),
    "wrapped lines without end": "[ 1.0] Out of memory: Killed process 1 (x) total-vm:1kB, \n, \n, \n".repeat(1_000),
  };
  for (const [name, line] of Object.entries(crafted)) {
    it(`takes ${name} in linear time`, () => {
      const megabyte = line.repeat(Math.ceil(1_048_576 / line.length));
      for (const log of [megabyte, `${line}\n`.repeat(Math.ceil(1_048_576 / line.length))]) {
        const start = process.cpuUsage();
        scanKernelLog(log);
        scanKernelLog(log, { details: true });
        slow(log);
        // A megabyte of a real log's reports takes some tens of milliseconds; a quadratic matcher takes minutes.
        expect(process.cpuUsage(start).user).toBeLessThan(4_000_000);
      }
    });
  }

  it("watches millions of records in bounded memory", () => {
    const report = readFileSync(new URL("guest/kmsg-61-v2-memcg.raw", corpus), "utf8")
      .split("\n")
      .map((line) => parseKmsgRecord(line))
      .filter((record): record is KmsgRecord => record !== null);
    const scanner = createOomScanner();
    let kills = 0;
    let seq = 0;
    const replay = (records: number): number => {
      for (const end = seq + records; seq < end;)
        for (const record of report) kills += scanner.push({ ...record, seq: ++seq, timeUs: seq * 1000 }).length;
      // Headers whose report never ends.
      scanner.push({ ...report[0]!, seq: ++seq, text: "x invoked oom-killer: gfp_mask=0x0, order=0, oom_score_adj=0" });
      return process.memoryUsage().heapUsed;
    };
    const early = replay(200_000);
    const late = replay(2_000_000);
    expect(kills).toBeGreaterThan(5_000);
    expect(late - early).toBeLessThan(20_000_000);
  });

  it("holds no more memory after a hundred megabytes than after one", () => {
    const megabyte = new TextEncoder().encode(`${logs.join("\n")}\n`.repeat(2)).slice(0, 1_048_576);
    const scanner = createLogScanner();
    for (let i = 0; i < 5; i++) scanner.push(megabyte);
    const before = process.memoryUsage().rss;
    for (let i = 0; i < 100; i++) scanner.push(megabyte);
    expect(process.memoryUsage().rss - before).toBeLessThan(60_000_000);
    expect(scanner.end().incomplete.length).toBeLessThanOrEqual(10_000);
  });
});
