/** The native search that `explain` passes over quiet files with, against the library's own. */
import { closeSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { createFinder, MARGIN } from "../../src/kmsg/find.ts";
import { loadAddon } from "../../src/native.ts";
import { oomlab, root } from "../helpers/cli.ts";

const folder = mkdtempSync(join(tmpdir(), "oomlab-test-survey-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const path = join(folder, "log");

/** Of each block: its newlines, or -1 where the search stops in it. */
function byFinder(log: Uint8Array, from: number, blocks: number, size: number, plain: boolean): number[] {
  return Array.from({ length: blocks }, (_, block) => {
    const start = from + block * size;
    if (start + size > log.length) return -1;
    const finder = createFinder(log.length + MARGIN, plain);
    finder.bytes.set(log);
    return finder.find(start, start + size) === -1 ? finder.lines() : -1;
  });
}

function bySurvey(log: Uint8Array, from: number, blocks: number, size: number, threads: number): number[] {
  writeFileSync(path, log);
  const fd = openSync(path, "r");
  const survey = loadAddon().survey(fd, from, blocks, size, threads);
  try {
    const found: number[] = [];
    for (let some = survey.next(); some.length > 0; some = survey.next()) found.push(...some);
    return found;
  } finally {
    survey.close();
    closeSync(fd);
  }
}

describe("the native search", () => {
  const corpus = ["field", "guest"].flatMap((kind) =>
    readdirSync(join(root, "test/fixtures/kernel-logs", kind))
      .filter((name) => !name.endsWith(".json"))
      .map((name) => join(root, "test/fixtures/kernel-logs", kind, name)),
  );

  test("finds the blocks of each log of the corpus that the library's search stops in", () => {
    expect(corpus.length).toBeGreaterThan(30);
    for (const file of corpus) {
      const log = readFileSync(file);
      const blocks = Math.ceil(log.length / 1024) + 1;
      const found = bySurvey(log, 0, blocks, 1024, 2);
      expect({ file, found }).toEqual({ file, found: byFinder(log, 0, blocks, 1024, false) });
    }
  });

  test("and of random text made of what it looks for, wherever blocks are cut", () => {
    const words = [
      "kill",
      "Kill",
      "killed",
      "Killed",
      "oom-kill",
      "_kill_",
      " kill ",
      "mkill",
      "Out ",
      "OOM",
      "Memory c",
    ];
    const more = [
      "Memo",
      "Task",
      "Tas",
      "Ou",
      "OO",
      "Kil",
      "ki",
      "l",
      "k",
      "K",
      "M",
      "T",
      "\n",
      "\n\n",
      "x",
      " ",
      "\u001b",
    ];
    const text = fc.array(fc.oneof(fc.constantFrom(...words), fc.constantFrom(...more, ...more), fc.string()), {
      minLength: 1,
      maxLength: 120,
    });
    fc.assert(
      fc.property(text, fc.nat(64), fc.nat(200), (pieces, from, padding) => {
        const log = Buffer.from(pieces.join("".padEnd(padding, "."))).subarray(0, 20_000);
        const blocks = Math.ceil(log.length / 128) + 1;
        expect(bySurvey(log, from, blocks, 128, 3)).toEqual(byFinder(log, from, blocks, 128, true));
      }),
      { numRuns: 300, seed: 20261125 },
    );
  });

  test("may be left before its end", () => {
    writeFileSync(path, Buffer.alloc(64 * 1024 * 1024, "a line that holds nothing\n"));
    const fd = openSync(path, "r");
    const survey = loadAddon().survey(fd, 0, 64 * 1024, 1024, 2);
    expect(survey.next().length).toBeGreaterThan(0);
    survey.close();
    closeSync(fd);
    expect(survey.next()).toHaveLength(0);
  });
});

test("explain tells the same of a long file as of the same log from a pipe, whatever lies where blocks meet", async () => {
  const report = readFileSync(join(root, "test/fixtures/kernel-logs/guest/kmsg-61-v2-memcg.raw"), "utf8")
    .split("\n")
    .filter((line) => line.includes(";"))
    .map((line) => `[  100.000001] ${line.slice(line.indexOf(";") + 1)}\n`)
    .join("");
  const block = 128 * 1024;
  const noise = "[  100.000001] eth0: link is up, 1000 Mbps full duplex, flow control off\n";
  let log = "";
  // A report begins a little further from a block's edge each time, before it and behind it.
  for (let i = 0; i < 60; i++) {
    const edge = (i + 1) * 3 * block + (i - 45) * 97;
    log += noise.repeat(Math.max(0, Math.floor((edge - log.length) / noise.length)));
    log += `${".".repeat(Math.max(0, edge - log.length - 1))}\n${report}`;
  }
  log += noise.repeat(20_000);
  writeFileSync(path, log);
  const kills = log.split("\n").filter((line) => line.includes(" Killed process ")).length;
  for (const flags of [["--reporter", "json"], ["--reporter", "json", "--details"], []]) {
    const file = await oomlab(["explain", ...flags, path]);
    const pipe = await oomlab(["explain", ...flags, "-"], { input: log });
    expect(file.stdout).toBe(pipe.stdout);
    if (flags.length === 2) expect((JSON.parse(file.stdout) as { kills: unknown[] }).kills).toHaveLength(kills);
  }
});
