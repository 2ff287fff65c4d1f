import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { needs } from "../helpers/needs.ts";
import { everyStatus, hostileResult, recorded, resultOf, withPlan, written } from "../helpers/records.ts";

const xmllint = needs("xmllint (libxml2-utils)", spawnSync("xmllint", ["--version"]).status === 0);

/** Throws with xmllint's words where the XML is not valid. */
function validate(xml: string): void {
  const folder = mkdtempSync(join(tmpdir(), "oomlab-junit-"));
  try {
    const file = join(folder, "junit.xml");
    writeFileSync(file, xml);
    execFileSync("xmllint", ["--noout", "--schema", join(import.meta.dirname, "../fixtures/junit.xsd"), file], {
      stdio: "pipe",
    });
  } finally {
    rmSync(folder, { recursive: true });
  }
}

const all = () => Object.values(everyStatus).map((make) => make());

describe("the junit report", () => {
  test("is valid, whatever the names and the log hold", xmllint, async () => {
    const { output } = await written("junit", [...all(), hostileResult()]);
    validate(output);
    expect(output).not.toContain("<script>");
    expect(output).not.toContain("\u0000");
    expect(output).not.toContain("\u001b");
  });

  test("of nothing is valid too", xmllint, async () => {
    validate((await written("junit", [])).output);
  });

  test("says failure only of what is proven to fail; what is not known is an error", async () => {
    const { output } = await written("junit", all());
    expect(output).toContain('<testsuites name="oomlab" tests="5" failures="1" errors="2" time="');
    const elements = [...output.matchAll(/<testcase name="(\w+)"[^>]*>\s*(?:<(failure|error|skipped) )?/g)];
    expect(elements.map(([, name, element]) => [name, element])).toEqual([
      ["killed", undefined],
      ["failed", "failure"],
      ["inconclusive", "error"],
      ["skipped", "skipped"],
      ["errored", "error"],
    ]);
  });

  test("has the evidence as properties, and the kernel's log", async () => {
    const { output } = await written("junit", [everyStatus.failed()]);
    expect(output).toMatch(
      /<property name="kill\.1" value="memcg OOM kill of hog: pid \d+ \(stress\), limit of pod\/app,.* \[record [\d, -]+\]"\/>/,
    );
    expect(output).toMatch(
      /<property name="check\.limit" value="failed: limit: expected pod, got pod\/app \[record [\d, -]+\]"\/>/,
    );
    expect(output).toMatch(/<failure type="limit" message="limit: expected pod, got pod\/app">/);
    expect(output).toMatch(/<system-out>[^<]*Memory cgroup out of memory: Killed process \d+ \(stress\)/);
  });

  test("names attempts that did not count", xmllint, async () => {
    const failed = everyStatus.failed();
    const { output } = await written("junit", [
      { ...everyStatus.passed(), earlier: [failed.verdict, everyStatus.errored().verdict] },
      { ...failed, earlier: [failed.verdict] },
    ]);
    validate(output);
    expect([...output.matchAll(/<(flaky\w+|rerun\w+) /g)].map(([, name]) => name)).toEqual([
      "flakyFailure",
      "flakyError",
      "rerunFailure",
    ]);
  });

  test("tells results of one scenario apart by where they ran, and by number", async () => {
    const record = recorded("memcg-v1.ndjson");
    const { output } = await written("junit", [
      resultOf(record),
      resultOf(withPlan(record, { cgroupVersion: 2 })),
      resultOf(record),
    ]);
    const names = [...output.matchAll(/<testcase name="([^"]*)"/g)].map(([, name]) => name);
    expect(new Set(names).size).toBe(3);
    expect(names[0]).toMatch(/^killed \[host, cgroup v1, kernel [\d.]+.*\]$/);
    expect(names[1]).toMatch(/^killed \[host, cgroup v2/);
    expect(names[2]).toBe(`${names[0]} #2`);
  });
});
