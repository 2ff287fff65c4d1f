import { describe, expect, test } from "vitest";
import {
  everyStatus,
  hostile,
  hostileComm,
  hostileResult,
  recorded,
  resultOf,
  withPlan,
  written,
} from "../helpers/records.ts";

const all = () => Object.values(everyStatus).map((make) => make());
const page = async (
  ...args: Parameters<typeof written> extends [string, ...infer Rest] ? Rest : never
): Promise<string> => (await written("html", ...args)).output;

const ids = (html: string): string[] => [...html.matchAll(/ id="([^"]*)"/g)].map(([, id]) => id ?? "");
const targets = (html: string): string[] => [...html.matchAll(/ href="#([^"]*)"/g)].map(([, id]) => id ?? "");
const text = (html: string): string =>
  html
    .replace(/<style>[\s\S]*?<\/style>/, "")
    .replace(/<[^>]*>/g, " ")
    .replace(/\s+/g, " ");

describe("the page", () => {
  test("says of each scenario the verdict in a sentence, what failed first", async () => {
    const html = await page(all());
    expect(html).toMatch(/<title>oomlab: 1 failed, 1 errored, 1 inconclusive, 1 skipped, 1 passed<\/title>/);
    const order = [...html.matchAll(/<li><span class="badge (\w+)">/g)].map(([, status]) => status);
    expect(order).toEqual(["failed", "errored", "inconclusive", "skipped", "passed"]);
    const words = text(html);
    expect(words).toContain("Failed: limit: expected pod, got pod/app.");
    expect(words).toMatch(
      /Passed: as expected, the kernel killed hog \(pid \d+\) for the limit of pod\/app \(memcg\), as the kernel log, the counters and the exit status say\./,
    );
    expect(words).toContain("Errored: the record breaks off before the run&#39;s end.");
    expect(words).toContain("Skipped: it needs what is not there.");
  });

  test("has the checks, explain's words, the victim's numbers, the tree, the log and a plot with the kill", async () => {
    const html = await page([everyStatus.passed()]);
    const words = text(html);
    expect(words).toMatch(
      /✓ oom passed: memcg , as expected \(line \d+ of the scenario's file\) Evidence: kernel log line/,
    );
    expect(words).toMatch(
      /The kernel killed process \d+ \(stress\) because the memory cgroup \/.*\/pod\/app was at its limit/,
    );
    expect(words).toMatch(/anon-rss 3\d(\.\d)? MiB \(\d+ bytes\)/);
    expect(html).toMatch(
      /<strong>pod<\/strong>[\s\S]*<ul>\s*<li><strong>pod\/app<\/strong> <em>its limit was hit<\/em>[\s\S]*process <strong>hog<\/strong> <em>OOM killed<\/em>/,
    );
    expect(html).toMatch(/<mark id="s1-line\d+">\[.*Memory cgroup out of memory: Killed process/);
    expect(html).toMatch(/<svg [^>]*role="img"[\s\S]*✕<\/tspan> OOM kill of hog, \d/);
    expect(html).toMatch(/<desc [^>]*>.*pod\/app reached 3\d(\.\d)? MiB of its limit of 32 MiB.*OOM kill of hog at \d/);
  });

  test("draws swap and stalls where the record has them", async () => {
    const html = await page([resultOf(recorded("swap-vm-v2.ndjson"))]);
    expect(text(html)).toMatch(
      /Blue: memory\.current; orange, dashed: the limit; violet, dotted: swap; bars below: the share of time/,
    );
    expect(html).toContain('stroke="#a855f7"');
    expect(html).toMatch(/>stalls<\/text><path d="M/);
  });

  test("links each cited line to where it stands, and no id twice", async () => {
    const html = await page([...all(), hostileResult(), resultOf(recorded("swap-vm-v2.ndjson"))]);
    expect(new Set(ids(html)).size).toBe(ids(html).length);
    const known = new Set(ids(html));
    expect(targets(html).filter((target) => !known.has(target))).toEqual([]);
    const { verdict } = everyStatus.passed();
    const limit = verdict.checks.find(({ name }) => name === "limit");
    for (const line of limit?.evidence ?? []) expect(known).toContain(`s1-line${line}`);
  });

  test("needs nothing else, runs nothing, and forbids itself both", async () => {
    const html = await page([...all(), hostileResult()]);
    expect(html).not.toMatch(/<(script|img|link|iframe|object|embed|form|base)\b/i);
    expect(html).not.toMatch(/<[^>]*\s(on\w+|style|src)=/i);
    expect([...html.matchAll(/href="([^#"][^"]*)"/g)]).toEqual([]);
    expect(html).toMatch(
      /http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'sha256-[\w+/]+=*'; base-uri 'none'; form-action 'none'"/,
    );
  });

  test("keeps hostile names and log lines text", async () => {
    const html = await page([hostileResult()]);
    const escaped = hostile.slice(0, 40).replaceAll("<", "&lt;").replaceAll(">", "&gt;");
    expect(html.split(escaped).length).toBeGreaterThan(4);
    expect(html).toContain(hostileComm.replaceAll("<", "&lt;").replaceAll(">", "&gt;"));
    expect(html.replaceAll("\n", "")).not.toMatch(/[\p{Cc}\u202e]/u);
  });

  test("has a grid where scenarios ran on several kernels or cgroup versions, and only there", async () => {
    const record = recorded("memcg-v1.ndjson");
    expect(await page(all())).not.toContain("Kernels and cgroup versions");
    const html = await page([resultOf(record), resultOf(withPlan(record, { cgroupVersion: 2 })), everyStatus.failed()]);
    expect(html).toMatch(/<th scope="col">host, cgroup v1, kernel [^<]*<\/th><th scope="col">host, cgroup v2/);
    expect(html).toMatch(
      /<tr><th scope="row">killed<\/th><td><a class="badge passed" href="#s1">✓ passed<\/a><\/td><td><a class="badge passed" href="#s2">✓ passed<\/a><\/td><\/tr>/,
    );
    expect(html).toMatch(
      /<tr><th scope="row">failed<\/th><td><a class="badge failed" href="#s3">✗ failed<\/a><\/td><td>not run<\/td><\/tr>/,
    );
  });

  test("tells what is missing of the whole", async () => {
    expect(await page(all(), { info: { notes: ["no record of 2 of 7 scenarios (shard 2/3)"] } })).toContain(
      "<strong>Note:</strong> no record of 2 of 7 scenarios (shard 2/3)",
    );
  });
});

describe("its size", () => {
  test("stays reasonable for a hundred scenarios", async () => {
    const html = await page(
      Array.from({ length: 100 }, (_, at) => (at % 10 === 0 ? everyStatus.failed() : everyStatus.passed())),
    );
    expect(html.length).toBeLessThan(3 * 2 ** 20);
  });

  test("is bounded where a log is long: evidence and its neighbours stay, and the rest is said to be left out", async () => {
    const { verdict, plan, record } = everyStatus.passed();
    const at = record.findIndex(({ type }) => type === "kmsg");
    const filler = Array.from({ length: 20_000 }, (_, index) => ({
      line: 100_000 + index,
      t: 0,
      type: "kmsg" as const,
      seq: index,
      timeUs: index,
      facility: 0,
      level: 4,
      caller: null,
      text: `filler ${index} ${"x".repeat(3000)}`,
    }));
    const long = [...record.slice(0, at), ...filler, ...record.slice(at)];
    const kernelLog = [
      ...verdict.kernelLog,
      ...filler.map(({ text, timeUs }) => `[${(timeUs / 1e6).toFixed(6).padStart(12)}] ${text}`),
    ];
    const html = await page([{ verdict: { ...verdict, kernelLog }, plan, record: long, earlier: [] }]);
    expect(html.length).toBeLessThan(2 ** 20);
    expect(html).toMatch(/\.\.\. \d+ lines left out: oomlab report RECORD --reporter dmesg prints all/);
    expect(html).toMatch(/<mark id="s1-line\d+">\[.*Killed process/);
    expect(html).toContain("more characters)");
  });
});
