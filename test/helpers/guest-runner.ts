/** Runs test files inside a guest: vitest's own runner and `expect`, bundled with the files; told line by line as it happens. */
import { execFileSync } from "node:child_process";
import { closeSync, constants, openSync, readSync, writeFileSync, writeSync } from "node:fs";
import { collectTests, type File, startTests, type Suite, type Test, type VitestRunner } from "@vitest/runner";
import { getTestName, getTests } from "@vitest/runner/utils";
import { setUp } from "../../src/machine/guest.ts";
import { loadAddon } from "../../src/native.ts";
import type { CgroupVersion, VmSpec } from "../../src/plan.ts";

/** What a guest is to be before the tests run in it. */
export interface GuestOrder {
  vm: VmSpec;
  version: CgroupVersion;
  /** The host's wall clock. */
  now: number;
  /** The tests to run in it, of all that it has. */
  tests: GuestTest[];
}

/** What one test may take; under emulation a command line takes seconds. */
export const testMs = 300_000;

export interface GuestTest {
  file: string;
  name: string;
}

export interface GuestResult extends GuestTest {
  state: "passed" | "failed" | "skipped";
  /** The failure as vitest would show it. */
  text: string;
  /** What the guest lacks for it, see needs.ts. */
  lacking: string[];
}

export type GuestLine =
  | { type: "hello" }
  | { type: "result"; result: GuestResult }
  | { type: "done"; error: string | null };

export const keyOf = ({ file, name }: GuestTest): string => `${file} ${name}`;

type TestFiles = Readonly<Record<string, () => Promise<unknown>>>;

/** `list` prints the tests' names; `run CHANNEL` waits there for its order, sets the guest up and runs them. */
export async function main([command, channel]: string[], files: TestFiles): Promise<void> {
  if (command === "list") {
    const collected = await collectTests(Object.keys(files), runnerOf(files));
    process.stdout.write(JSON.stringify(named(collected).map(({ file, name }): GuestTest => ({ file, name }))));
    return;
  }
  const fd = openSync(channel ?? "", constants.O_RDWR);
  const tell = (line: GuestLine): void => void writeSync(fd, `${JSON.stringify(line)}\n`);
  try {
    tell({ type: "hello" });
    const { vm, version, now, tests } = JSON.parse(readLine(fd)) as GuestOrder;
    setUp(vm, version);
    loadAddon().setClock(now);
    // What the tests start is to be killed like anywhere else: nothing of this process's protection is inherited.
    writeFileSync("/proc/self/oom_score_adj", "0");
    // The disk: page cache is charged only where a disk is behind it.
    execFileSync("mount", ["-o", "bind", "/tmp/work", "/var/tmp"]);
    await run(files, tests, (result) => tell({ type: "result", result }));
    tell({ type: "done", error: null });
  } catch (error) {
    tell({ type: "done", error: (error as Error).stack ?? String(error) });
  }
  closeSync(fd);
}

async function run(files: TestFiles, wanted: readonly GuestTest[], tell: (result: GuestResult) => void): Promise<void> {
  const keys = new Set(wanted.map(keyOf));
  const waiting = new Map<Test, GuestTest>();
  const end = (test: Test): void => {
    const its = waiting.get(test);
    if (!its) return;
    waiting.delete(test);
    tell({ ...its, ...resultOf(test) });
  };
  await startTests(Object.keys(files), {
    ...runnerOf(files),
    onCollected(collected) {
      for (const { test, ...its } of named(collected)) {
        if (keys.has(keyOf(its))) waiting.set(test, its);
        else test.mode = "skip";
      }
      for (const test of waiting.keys()) if (test.mode === "skip" || test.mode === "todo") end(test);
    },
    onAfterRunTask: end,
  });
  // Those that were never begun: a hook of their suite has failed.
  for (const test of waiting.keys()) end(test);
}

const runnerOf = (files: TestFiles): VitestRunner => ({
  config: {
    root: "/",
    setupFiles: [],
    name: undefined,
    passWithNoTests: false,
    testNamePattern: undefined,
    allowOnly: false,
    sequence: { seed: 0, hooks: "stack", setupFiles: "list" },
    chaiConfig: undefined,
    maxConcurrency: 1,
    testTimeout: testMs,
    hookTimeout: testMs,
    retry: 0,
    includeTaskLocation: false,
    tags: [],
    tagsFilter: undefined,
    strictTags: false,
  },
  importFile: async (path) => await files[path]?.(),
});

/** Every test with its file and its name; a name that comes again gets a number. Throws where a file cannot be loaded. */
function named(collected: File[]): (GuestTest & { test: Test })[] {
  for (const file of collected)
    if (file.result?.state === "fail") throw new Error(`${file.filepath} cannot be loaded: ${errorsOf(file)}`);
  return collected.flatMap((file) => {
    const seen = new Map<string, number>();
    return getTests(file).map((test) => {
      const full = getTestName(test);
      const count = (seen.get(full) ?? 0) + 1;
      seen.set(full, count);
      return { file: file.filepath, name: count === 1 ? full : `${full} (${count})`, test };
    });
  });
}

function resultOf(test: Test): Pick<GuestResult, "state" | "text" | "lacking"> {
  const above = suitesAbove(test);
  const lacking = [...new Set([test, ...above].flatMap(({ meta }) => meta.lacking ?? []))];
  const hook = above.find(({ result }) => result?.state === "fail" && (result.errors?.length ?? 0) > 0);
  if (test.result?.state === "pass") return { state: "passed", text: "", lacking };
  if (test.result?.state === "fail" || hook)
    return { state: "failed", text: errorsOf(test) || errorsOf(hook ?? test), lacking };
  return { state: "skipped", text: "", lacking };
}

function suitesAbove(test: Test): Suite[] {
  const above: Suite[] = [];
  for (let suite: Suite | undefined = test.suite; suite; suite = suite.suite) above.push(suite);
  return above.includes(test.file) ? above : [...above, test.file];
}

const errorsOf = ({ result }: Test | Suite): string =>
  (result?.errors ?? [])
    .map(({ name, message, diff, stack }) =>
      [
        `${name ?? "Error"}: ${message}`,
        diff,
        stack
          ?.split("\n")
          .filter((line) => /^\s*at /.test(line))
          .join("\n"),
      ]
        .filter((part) => part !== undefined && part !== "")
        .join("\n"),
    )
    .join("\n");

/** One line of a blocking descriptor. */
function readLine(fd: number): string {
  let text = "";
  const buffer = Buffer.alloc(65_536);
  while (!text.includes("\n")) text += buffer.toString("utf8", 0, readSync(fd, buffer));
  return text.slice(0, text.indexOf("\n"));
}
