import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import * as z from "zod";
import { loadScenarios, parseScenarios, scenarioJsonSchema, ScenarioErrors } from "../../src/scenario/index.ts";
import { splitCounter } from "../../src/scenario/cgroupfiles.ts";
import { scenarioDocs } from "../../src/scenario/docs.ts";
import { parseAllDocuments } from "yaml";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../../", import.meta.url));
const schema = z.fromJSONSchema(scenarioJsonSchema());
const fits = (value: unknown): boolean => schema.safeParse(value).success;

function loads(value: unknown): boolean {
  try {
    parseScenarios(JSON.stringify(value), "x.json");
    return true;
  } catch (error) {
    if (error instanceof ScenarioErrors) return false;
    throw error;
  }
}

const processes = { hog: { stress: { anon: "1Mi" } } };

describe("the JSON Schema", () => {
  test("is one of draft 2020-12, with words for every key", () => {
    const text = JSON.stringify(scenarioJsonSchema());
    const wordless: string[] = [];
    const look = (value: unknown, path: string): void => {
      if (typeof value !== "object" || value === null) return;
      for (const [key, child] of Object.entries(value)) {
        // Counters speak for themselves, by the kernel's names.
        if (
          path.endsWith("/properties") &&
          !("description" in (child as object)) &&
          splitCounter(key) === null &&
          !/^[A-Z]{2}/.test(key)
        )
          wordless.push(`${path}/${key}`);
        look(child, `${path}/${key}`);
      }
    };
    look(JSON.parse(text), "");
    expect(wordless).toEqual([]);
    expect(text).toContain('"$schema":"https://json-schema.org/draft/2020-12/schema"');
  });

  test.each<[string, unknown]>([
    ["an unknown key", { processes, nmae: "x" }],
    ["a wrong size", { processes: { hog: { stress: { anon: "1MB" } } } }],
    ["a wrong control file", { processes, cgroups: { a: { "memory.mx": 1 } } }],
    ["a wrong kind", { processes, expect: { oom: "memgc" } }],
    ["a wrong counter", { processes, expect: { counters: { a: { "memory.events.oom_kil": 1 } } } }],
    ["two keys in a step", { processes, steps: [{ start: "hog", sleep: "1s" }] }],
    ["an absolute cgroup", { processes, cgroups: { "/a": {} } }],
    ["a duration without unit", { processes, timeout: 30 }],
  ])("refuses %s", (_what, value) => {
    expect(fits(value)).toBe(false);
    expect(loads(value)).toBe(false);
  });

  const size = fc.constantFrom<unknown>("200Mi", 0, 4096, "1e6", "1.5Gi", ".5Ki", "2E-1k");
  const time = fc.constantFrom<unknown>("5s", "500ms", 0, "0", "1m30s", "2h");
  const flag = fc.constantFrom<unknown>(true, false, true);
  const small = fc.constantFrom<unknown>(1, 2, 3);
  const name = fc.constantFrom("hog", "idle");
  const cgroup = fc.constantFrom("app", "app/web");
  const some = (model: Record<string, fc.Arbitrary<unknown>>): fc.Arbitrary<Record<string, unknown>> =>
    fc.record(model, { requiredKeys: [] });
  const compare = fc.oneof(
    fc.constantFrom<unknown>(1, ">0", "<=30Mi", "50Mi ±3%", ">= 1k", "!=0"),
    fc.constant([">0", "<5"]),
  );
  const counters = some({ "memory.peak": compare, "memory.events.oom": compare, "memory.stat.new": compare });
  const workload = fc.oneof(
    fc.record({
      stress: some({
        anon: size,
        file: size,
        rate: fc.constantFrom("50Mi/s", "1G / s"),
        hold: time,
        delay: time,
        populate: flag,
        repeat: small,
        steps: fc.constantFrom("12Mi/10s", "1Mi/s"),
        content: fc.constantFrom("zero", "random"),
      }),
    }),
    fc.record({ node: some({ heap: size, hold: time, maxOldSpaceSize: size }) }),
    fc.record({
      command: fc.constantFrom<unknown>("x", ["x", 1], { run: "x", env: { A: 1 } }, { run: ["x"], cwd: "." }),
    }),
  );
  const process = fc
    .tuple(
      workload,
      some({
        cgroup,
        oom_score_adj: small,
        user: fc.constantFrom<unknown>(0, { uid: 1 }),
        cpuset: fc.constantFrom<unknown>("0-1,3", 0, [0, 1]),
        mempolicy: fc.constantFrom<unknown>("bind:1", { mode: "bind", nodes: "0-1" }),
        rlimits: some({ AS: size }),
      }),
    )
    .map(([work, more]) => Object.assign({}, work, more));
  const step = fc.oneof(
    fc.record({ start: fc.oneof(name, fc.array(name)) }),
    fc.record({ sleep: time }),
    fc.record({ wait: some({ process: name, exited: flag, touched: size, timeout: time }) }),
    fc.record({ wait: fc.tuple(fc.record({ cgroup }), counters).map(([one, other]) => Object.assign({}, one, other)) }),
    fc.record({ write: some({ cgroup, "memory.max": size, errno: fc.constantFrom("EBUSY", "EINVAL") }) }),
    fc.record({ kill: fc.oneof(name, some({ process: name, cgroup, signal: fc.constantFrom("SIGTERM", "SIGKILL") })) }),
    fc.record({ reclaim: some({ cgroup, size }) }),
    fc.record({ swapoff: flag }),
    fc.record({ dropCaches: small }),
  );
  const machine = some({
    memory: size,
    swap: fc.oneof(size, fc.record({ size, kind: fc.constantFrom("zram", "disk") })),
    cpus: small,
    kernel: fc.constantFrom<unknown>("6.1", 6.1, "latest"),
    cgroup: fc.constantFrom<unknown>("v1", 2),
    zswap: flag,
  });
  const files = some({
    "memory.max": size,
    "memory.oom.group": flag,
    "memory.limit_in_bytes": size,
    "cgroup.max.depth": small,
    "cpuset.cpus": fc.constantFrom<unknown>("0-1", 0),
  });
  const expectations = some({
    oom: fc.constantFrom("memcg", "none"),
    limit: cgroup,
    victims: fc.array(name),
    exit: fc.record({ hog: fc.constantFrom<unknown>(0, 255, "SIGKILL") }),
    counters: fc.record({ app: counters }),
    log: fc.constantFrom(["x"], []),
    within: time,
  });
  const idle = fc.constant({ command: "x" });
  const tree = fc.constant({ "app/web": {} });
  const two = fc.record({ hog: idle, idle });
  /** One part at a time varies: a whole of random parts is rarely good. */
  const scenario = fc.oneof(
    fc.record({ cgroups: tree, processes: fc.record({ hog: process }) }),
    fc.record({ processes: two, machine }),
    fc.record({ processes: two, cgroups: fc.record({ app: files }) }),
    fc.record({ processes: two, cgroups: tree, steps: fc.array(step, { maxLength: 2 }) }),
    fc.record({ processes: two, cgroups: tree, expect: expectations, timeout: time }),
  );

  test("takes whatever loading takes", () => {
    let taken = 0;
    fc.assert(
      fc.property(scenario, (value) => {
        const good = loads(value);
        taken += good ? 1 : 0;
        expect(!good || fits(value)).toBe(true);
      }),
      { numRuns: 1500 },
    );
    // The rest is refused by loading: pairs that exclude each other, keys that are missing, zeros.
    expect(taken).toBeGreaterThan(300);
  });
});

describe("shipped scenarios", () => {
  test("load, and fit the JSON Schema", async () => {
    const loaded = await loadScenarios(["scenarios"], { cwd: root });
    const files = [...new Set(loaded.map(({ file }) => file))];
    // Kubernetes manifests have a schema of their own.
    const misfits = files.filter(
      (file) =>
        !parseAllDocuments(readFileSync(`${root}${file}`, "utf8")).every(
          (document) => document.has("apiVersion") || fits(document.toJS()),
        ),
    );
    expect(misfits).toEqual([]);
    expect(files.length).toBeGreaterThan(0);
  });
});

describe("the docs", () => {
  test("are what the schema says (vitest -u writes them)", async () => {
    await expect(scenarioDocs()).toMatchFileSnapshot("../../docs/scenarios.md");
  });

  test("show only scenarios that load", () => {
    const blocks = [...scenarioDocs().matchAll(/```yaml\n([^]*?)```/g)].map(([, yaml = ""]) => yaml);
    const whole = blocks.filter((yaml) => /^processes:/m.test(yaml));
    expect(whole.map((yaml) => parseScenarios(yaml, "docs.yaml").length)).toEqual(whole.map(() => 1));
    expect(whole.length).toBeGreaterThan(1);
  });
});
