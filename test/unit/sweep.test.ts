import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { parseScenarios, type Scenario } from "../../src/scenario/index.ts";
import { type Outcome, outcomeWord } from "../../src/sweep/outcome.ts";
import { predict, type PredictOptions } from "../../src/sweep/predict.ts";
import { stretchesOf, stretchText, sweepReporters, type SweepResult } from "../../src/sweep/report.ts";
import { type Axis, parseVary, pointsOf, valuesAt, varied } from "../../src/sweep/vary.ts";

const root = join(import.meta.dirname, "../..");
const rate = readFileSync(join(root, "scenarios/kubernetes/rate.yaml"), "utf8");

const only = (text: string, name?: string): Scenario => {
  const scenarios = parseScenarios(text, "a.yaml");
  const found = name === undefined ? scenarios[0] : scenarios.find((scenario) => scenario.name === name);
  if (!found) throw new Error(`no scenario ${name ?? ""}`);
  return found;
};

const axes = (...vary: string[]): Axis[] =>
  vary.map((text) => {
    const [range = "", steps = "10"] = text.split("@");
    return parseVary(range, Number(steps), "linear");
  });

/** What the model says of a scenario at each point: `2Mi/s 3s: eviction`. */
function told(text: string, vary: string[], options: PredictOptions = {}, name?: string): string[] {
  const all = axes(...vary);
  return [...predict(varied(text, only(text, name), all), all, options)].map(
    ({ point, outcome }) => `${Object.values(valuesAt(all, point)).join(" ")}: ${outcomeWord(outcome)}`,
  );
}

function modelOf(text: string, options: PredictOptions = {}): Outcome {
  const [result] = [...predict(varied(text, only(text), []), [], options)];
  if (!result) throw new Error("no point");
  return result.outcome;
}

describe("--vary", () => {
  test.each([
    ["process.rate=5Mi/s..500Mi/s", 4, ["5Mi/s", "170Mi/s", "335Mi/s", "500Mi/s"]],
    ["a=1Mi..2Mi", 3, ["1Mi", "1536Ki", "2Mi"]],
    ["a=512Ki..1Mi", 3, ["512Ki", "768Ki", "1Mi"]],
    ["a=0s..10s", 5, ["0s", "2500ms", "5s", "7500ms", "10s"]],
    ["a=10s..0s", 3, ["10s", "5s", "0s"]],
    ["a=5%..50%", 4, ["5%", "20%", "35%", "50%"]],
    ["a=-1000..1000", 3, ["-1000", "0", "1000"]],
    ["a=1..4", 10, ["1", "2", "3", "4"]],
    ["a=0.5..0.9", 3, ["0.5", "0.7", "0.9"]],
    ["a=100M..1G", 4, ["100M", "400M", "700M", "1G"]],
    ["a=64Mi, 1Gi", 10, ["64Mi", "1Gi"]],
  ])("%s in %d steps", (text, steps, values) => {
    expect(parseVary(text, steps, "linear").values).toEqual(values);
  });

  test("a logarithmic scale multiplies", () => {
    expect(parseVary("a=1Mi/s..1Gi/s", 6, "log").values).toEqual([
      "1Mi/s",
      "4Mi/s",
      "16Mi/s",
      "64Mi/s",
      "256Mi/s",
      "1Gi/s",
    ]);
  });

  test("its numbers are of one kind whatever the unit", () => {
    expect(parseVary("a=512Ki..1Mi", 2, "linear").numbers).toEqual([524288, 1048576]);
    expect(parseVary("a=0s..2m", 2, "linear").numbers).toEqual([0, 120_000]);
  });

  test.each([
    ["process.rate", "it names no number and its range"],
    ["=1..2", "it names no number and its range"],
    ["a=1..2..3", "a range has two ends"],
    ["a=1Mi..5s", '"1Mi" and "5s" are not of one kind'],
    ["a=5Mi/s..5Mi", '"5Mi/s" and "5Mi" are not of one kind'],
    ["a=x..5", '"x" is no number with a unit'],
    ["a=5..5", "both ends are the same"],
    ["a=1,1", "a value stands twice"],
    ["a=1,", '"" is no number with a unit'],
  ])("%s: %s", (text, why) => {
    expect(() => parseVary(text, 10, "linear")).toThrow(`--vary ${JSON.stringify(text)}: ${why}`);
  });

  test("a logarithmic scale begins above 0", () => {
    expect(() => parseVary("a=0s..9s", 4, "log")).toThrow("a logarithmic scale begins above 0");
  });

  test("points go through the last axis first", () => {
    const all = axes("a=1,2", "b=3,4");
    expect([...pointsOf(all)].map((point) => Object.values(valuesAt(all, point)).join())).toEqual([
      "1,3",
      "1,4",
      "2,3",
      "2,4",
    ]);
    expect([...pointsOf([])]).toEqual([{ index: 1, places: [] }]);
  });
});

describe("the number that a name means", () => {
  const at = (vary: string, text = rate, name?: string): Scenario => {
    const all = axes(vary);
    return varied(text, only(text, name), all).at(all.map(({ values }) => values[0] ?? "")).scenario;
  };
  const stress = (scenario: Scenario, pod: string): unknown => {
    const workload = scenario.kubernetes?.pressure.find((process) => process.name === `${pod}/app`)?.workload;
    return workload?.kind === "stress" ? workload.stress : undefined;
  };

  test("process.rate: the only process that has one", () => {
    expect(stress(at("process.rate=9Mi/s,8Mi/s"), "web")).toMatchObject({ rate: 9437184 });
  });

  test("a Pod by its name, a list's element by its number", () => {
    expect(stress(at("pods.db.pressure.app.stress.anon=9Mi,8Mi"), "db")).toMatchObject({
      memory: [{ kind: "anon", size: { bytes: 9437184 } }],
    });
    expect(stress(at("pods.1.pressure.app.stress.anon=9Mi,8Mi"), "web")).toMatchObject({
      memory: [{ kind: "anon", size: { bytes: 9437184 } }],
    });
  });

  test("some of its keys are enough where they mean one", () => {
    expect(stress(at("web.anon=9Mi,8Mi"), "web")).toMatchObject({ memory: [{ size: { bytes: 9437184 } }] });
    expect(at("node.memory=1Gi,2Gi").kubernetes?.node.memory).toBe(2 ** 30);
  });

  test("what the scenario does not state is stated", () => {
    expect(at("node.kubelet.evictionHard.memory.available=300Mi,200Mi").kubernetes?.node.kubelet.evictionHard).toEqual({
      "memory.available": "300Mi",
    });
    for (const name of ["pods.web.pressure.app.stress.hold", "web.pressure.app.stress.hold", "web.pressure.app.hold"])
      expect(stress(at(`${name}=5s,6s`), "web")).toMatchObject({ hold: 5000 });
  });

  test("a version keeps its last digit", () => {
    expect(at("node.kubeletVersion=1.20,1.25").kubernetes?.node.kubelet.minor).toBe(20);
  });

  test("in a file of several scenarios it is the chosen one's", () => {
    const control = at("process.delay=7s,8s", rate, "growth between two polls, control");
    expect(stress(control, "web")).toMatchObject({ delayMs: 7000 });
    expect(control.name).toBe("growth between two polls, control");
  });

  test("in a manifest", () => {
    const manifest = readFileSync(join(root, "scenarios/blog/pod.yaml"), "utf8");
    const scenario = at("resources.limits.memory=150Mi,180Mi", manifest);
    expect(scenario.kubernetes?.pods[0]?.containers[0]?.limits["memory"]).toBe("150Mi");
  });

  test.each([
    ["process.anon=1Mi,2Mi", /the scenario has 2 of that name/],
    ["process.ratte=1Mi,2Mi", /ratte/],
    ["nothing.at.all=1,2", /the scenario has no such number/],
    ["pods.0.manifest.kind=1,2", /"Pod" is no number/],
    ["pods=1,2", /is no number/],
    ["process.rate=1Mi,2Mi", /expected a rate such as 50Mi\/s; got 1Mi/],
  ])("%s: %s", (vary, message) => {
    expect(() => at(vary)).toThrow(message);
  });

  test("one number is varied once", () => {
    const all = axes("process.rate=1Mi/s,2Mi/s", "web.rate=1Mi/s,2Mi/s");
    expect(() => varied(rate, only(rate), all)).toThrow("--vary web.rate: --vary process.rate varies the same number");
  });
});

describe("the model", () => {
  const pod = (name: string, more: string, pressure: string, node = "memory: 512Mi"): string =>
    `node: { ${node} }\npods:\n  - manifest: { apiVersion: v1, kind: Pod, metadata: { name: ${name} }, spec: { ${more} containers: [{ name: app, image: a }] } }\n    pressure: { app: { stress: { ${pressure} } } }\n`;

  test("a container dies for its limit when it has taken that much", () => {
    const outcome = modelOf(
      "cgroups: { box: { memory.max: 64Mi } }\nprocesses: { hog: { cgroup: box, stress: { anon: 128Mi, rate: 16Mi/s, delay: 1s } } }\n",
    );
    expect(outcome.ends).toEqual([{ by: "memcg", process: "hog", atMs: 5000, limit: "box" }]);
  });

  test("the highest score dies, not the one who takes the last page", () => {
    const outcome = modelOf(
      "cgroups: { box: { memory.max: 100Mi } }\nprocesses:\n  quiet: { cgroup: box, stress: { anon: 60Mi, hold: forever } }\n  hog: { cgroup: box, stress: { anon: 50Mi, rate: 10Mi/s, delay: 1s } }\n",
    );
    expect(outcome.ends).toMatchObject([{ by: "memcg", process: "quiet" }]);
    expect(
      modelOf(
        "cgroups: { box: { memory.max: 100Mi } }\nprocesses:\n  quiet: { cgroup: box, stress: { anon: 60Mi, hold: forever } }\n  hog: { cgroup: box, oom_score_adj: 500, stress: { anon: 50Mi, rate: 10Mi/s, delay: 1s } }\n",
      ).ends,
    ).toMatchObject([{ by: "memcg", process: "hog" }]);
  });

  test("slow growth is evicted at the poll that finds too little, a second later it is gone", () => {
    const { ends, evicted, polls, threshold } = modelOf(pod("web", "", "anon: 1Gi, rate: 20Mi/s"), { polls: true });
    expect({ ends, evicted, threshold }).toEqual({
      ends: [{ by: "eviction", process: "web/app", atMs: 21040, limit: null }],
      evicted: ["web"],
      threshold: 104857600,
    });
    expect(polls.map(({ atMs }) => atMs)).toEqual([0, 9960, 19980]);
  });

  test("a surge between two polls is the kernel's", () => {
    expect(modelOf(pod("web", "", "anon: 1Gi, rate: 100Mi/s, delay: 1s"))).toMatchObject({
      ends: [{ by: "global", process: "web/app" }],
      evicted: [],
    });
  });

  test("critical Pods are never evicted", () => {
    expect(modelOf(pod("web", "priority: 2000000000,", "anon: 430Mi, hold: 30s")).evicted).toEqual([]);
    expect(modelOf(pod("web", "", "anon: 430Mi, hold: 30s")).evicted).toEqual(["web"]);
  });

  test("a soft threshold waits for its grace", () => {
    const soft = (grace: string): string =>
      `memory: 512Mi, kubelet: { evictionSoft: { memory.available: 400Mi }, evictionSoftGracePeriod: { memory.available: ${grace} }, evictionMaxPodGracePeriod: 3 }`;
    expect(modelOf(pod("web", "", "anon: 150Mi, hold: forever", soft("5s"))).ends).toMatchObject([
      { by: "eviction", atMs: 23040 },
    ]);
    expect(modelOf(pod("web", "", "anon: 150Mi, hold: forever", soft("15s"))).ends).toMatchObject([
      { by: "eviction", atMs: 33060 },
    ]);
  });

  test.each([
    ["swap", "node: { memory: 512Mi, swap: 256Mi }\n", "the model knows no swap"],
    ["a step", "steps: [{ sleep: 1s }]\n", "the model knows no steps, and the scenario's first is sleep"],
    ["a sysctl", "machine: { sysctl: { vm.panic_on_oom: 1 } }\n", "the model knows no vm.panic_on_oom = 1"],
    ["a small machine", "machine: { memory: 128Mi }\n", "the model knows no node of less than 192Mi"],
  ])("refuses %s in words", (_what, more, problem) => {
    const text = more.startsWith("node")
      ? more + pod("web", "", "anon: 1Mi").replace(/^node.*\n/, "")
      : `${more}processes: { hog: { stress: { anon: 1Mi } } }\n`;
    expect(modelOf(text).problem).toBe(problem);
  });

  test.each([
    ["command: 'true'", "the model does not know what the command of process hog takes"],
    ["stress: { tmpfs: 1Mi }", "the model knows no tmpfs, which outlives its process, and process hog asks for it"],
    [
      "stress: { anon: 1Mi, reserve: true }",
      "the model knows no memory that the kernel may refuse, and process hog states reserve: true",
    ],
    ["stress: { anon: 1Mi, repeat: 3 }", "the model knows no repetition, and process hog repeats 3 times"],
    ["stress: { anon: 9Mi, steps: 1Mi/1s }", "the model knows no growth in steps, and process hog asks for it"],
  ])("refuses %s", (workload, problem) => {
    expect(modelOf(`processes: { hog: { ${workload} } }\n`).problem).toBe(problem);
  });

  test("a grid put together from numbers is the grid planned point by point", () => {
    const vary = ["process.rate=2Mi/s..40Mi/s@12", "process.delay=0s..9s@7"];
    const alone = axes(...vary)[0]!.values.flatMap((value) =>
      told(rate, [`process.rate=${value},1Gi/s`, "process.delay=0s..9s@7"]).slice(0, 7),
    );
    expect(told(rate, vary)).toEqual(alone);
    expect(new Set(alone.map((line) => line.split(": ")[1]))).toEqual(new Set(["lives", "eviction", "global"]));
  });

  test("axes that do not leave each other alone are planned together: a share of a memory that varies", () => {
    const vary = [
      "node.memory=512Mi..1Gi@9",
      "node.kubelet.evictionHard.memory.available=5%..40%@8",
      "process.rate=8Mi/s,20Mi/s",
    ];
    const text = rate.replace("anon: 1Gi", "anon: 2Gi");
    const lines = told(text, vary);
    const [memories, shares] = axes(...vary).map(({ values }) => values);
    const some = lines.filter((_, index) => index % 13 === 0);
    for (const line of some) {
      const [memory = "", share = "", speed = ""] = line.split(/[ :]+/);
      expect(memories).toContain(memory);
      expect(shares).toContain(share);
      const one = told(text, [
        `node.memory=${memory}`,
        `node.kubelet.evictionHard.memory.available=${share}`,
        `process.rate=${speed}`,
      ]);
      expect([line]).toEqual(one);
    }
  });
});

/** Scenarios of these folders that the model does not refuse; what they expect, their runs in a VM hold. */
const shipped = ["scenarios/kubernetes", "scenarios/blog"].flatMap((folder) =>
  readdirSync(join(root, folder))
    .filter((name) => name.endsWith(".yaml"))
    .flatMap((name) => {
      const text = readFileSync(join(root, folder, name), "utf8");
      return parseScenarios(text, `${folder}/${name}`)
        .map((scenario) => ({ name: scenario.name, scenario, outcome: outcomeOfOne(text, scenario) }))
        .filter(({ outcome }) => outcome.problem === null);
    }),
);

function outcomeOfOne(text: string, scenario: Scenario): Outcome {
  const [result] = [...predict(varied(text, scenario, []), [])];
  if (!result) throw new Error("no point");
  return result.outcome;
}

describe("the model and the shipped scenarios", () => {
  test("are many", () => expect(shipped.length).toBeGreaterThan(20));

  test.each(shipped)("agree: $name", ({ scenario: { expect: wanted }, outcome }) => {
    const kills = outcome.ends.filter(({ by }) => by !== "eviction");
    if (wanted.oom !== null) expect(kills[0]?.by ?? "none").toBe(wanted.oom);
    if (wanted.victims !== null)
      expect(kills.map(({ process }) => process).toSorted()).toEqual(wanted.victims.toSorted());
    if (wanted.evicted) expect(outcome.evicted.toSorted()).toEqual(wanted.evicted.toSorted());
    if (wanted.first) expect(outcome.ends[0]?.by === "eviction" ? "eviction" : "oom").toBe(wanted.first);
    if (wanted.limit !== null) expect(kills[0]?.limit).toMatch(new RegExp(`^${wanted.limit}(\\.slice)?$`));
  });
});

interface Point {
  values: Record<string, string>;
  outcome: string;
  first: { by: string; process: string; atMs: number } | null;
}

/** Runs of docs/sweep.md in a VM: `oomlab sweep ... --reporter json`, without what the model says. */
const recorded = JSON.parse(readFileSync(join(root, "test/fixtures/sweep/growth.json"), "utf8")) as {
  points: Point[];
};

describe("the model and the runs of docs/sweep.md", () => {
  test("are of points on both sides", () => {
    const words = recorded.points.map(({ outcome }) => outcome);
    expect(words.filter((word) => word === "eviction").length).toBeGreaterThan(10);
    expect(words.filter((word) => word === "global").length).toBeGreaterThan(10);
  });

  test("agree at nine of ten points at least, and in time within a third or three seconds", () => {
    const off: string[] = [];
    let inTime = 0;
    for (const { values, outcome, first } of recorded.points) {
      const all = Object.entries(values).map(([name, value]) => parseVary(`${name}=${value}`, 2, "linear"));
      const [result] = [...predict(varied(rate, only(rate), all), all)];
      const said = result?.outcome;
      if (!said || outcomeWord(said) !== outcome) off.push(Object.values(values).join(" "));
      const distance = Math.abs((said?.ends[0]?.atMs ?? 0) - (first?.atMs ?? 0));
      if (distance <= Math.max(3000, (first?.atMs ?? 0) / 3)) inTime++;
    }
    const { length } = recorded.points;
    expect(off.length, `the model says otherwise at ${off.join("; ")}`).toBeLessThanOrEqual(length / 10);
    expect(inTime).toBeGreaterThanOrEqual(length * 0.9);
  });
});

describe("the reports of a sweep", () => {
  const all = axes("a=1,2,3", "b=5,6");
  const outcome = (by: "eviction" | "global" | null): Outcome => ({
    ends: by === null ? [] : [{ by, process: '=evil,"x"', atMs: 1234, limit: null }],
    evicted: by === "eviction" ? ["web"] : [],
    polls: [],
    course: [],
    threshold: null,
    problem: null,
  });
  const kinds = [null, "eviction", "eviction", "eviction", "global", "eviction"] as const;
  const results = [...pointsOf(all)].map((point, index): SweepResult => ({
    point,
    measured: outcome(kinds[index] ?? null),
    record: `r${index}.ndjson`,
    model: outcome(index === 5 ? "global" : (kinds[index] ?? null)),
  }));
  const report = async (name: string): Promise<string> => {
    let text = "";
    const make = await sweepReporters[name]!();
    const reporter = make({ write: (more) => void (text += more), colors: false }, all);
    for (const result of results) reporter.onPoint(result);
    reporter.onEnd({
      scenario: "<b>s</b>",
      file: "s.yaml",
      axes: all,
      machine: { name: "vm", cgroupVersion: 2, kernel: "6.1" },
    });
    return text;
  };

  test("stretches tell where the outcome flips along the first axis", () => {
    const words = ["lives", "eviction", "eviction", "eviction", "global", "eviction"];
    expect(stretchesOf(all, words).map(stretchText)).toEqual([
      "a (b 5): lives at 1, eviction at 2, global at 3",
      "a (b 6): eviction throughout",
    ]);
  });

  test("terminal: a row a point, the flips, how often the model says the same", async () => {
    const text = await report("terminal");
    expect(text).toContain("a (b 5): lives at 1, eviction at 2, global at 3\n");
    expect(text).toContain('  3  5  global: =evil,"x" after 1.2 s');
    expect(text).toMatch(/6 points; the model says the same of 5 of 6\n$/);
  });

  test("csv: RFC 4180, and no formula for a spreadsheet", async () => {
    const lines = (await report("csv")).split("\r\n");
    expect(lines[0]).toBe("a,b,outcome,first_by,first_process,first_ms,limit,evicted,source,model");
    expect(lines[1]).toBe("1,5,lives,,,,,,run,lives");
    expect(lines[6]).toBe(`3,6,eviction,eviction,"'=evil,""x""",1234,,web,run,global`);
    expect(lines).toHaveLength(8);
  });

  test("json: points, axes and stretches", async () => {
    const json = JSON.parse(await report("json"));
    expect(json).toMatchObject({
      scenario: "<b>s</b>",
      machine: { name: "vm", cgroupVersion: 2, kernel: "6.1" },
      vary: [
        { name: "a", values: ["1", "2", "3"] },
        { name: "b", values: ["5", "6"] },
      ],
      stretches: [
        { axis: "a", at: { b: "5" } },
        { axis: "a", at: { b: "6" } },
      ],
    });
    expect(json.points[5]).toMatchObject({
      values: { a: "3", b: "6" },
      outcome: "eviction",
      first: { by: "eviction", atMs: 1234 },
      evicted: ["web"],
      record: "r5.ndjson",
      model: { outcome: "global" },
    });
  });

  test("html: what others named stays text, and nothing is loaded", async () => {
    const html = await report("html");
    expect(html).toContain("&lt;b&gt;s&lt;/b&gt;");
    expect(html).not.toContain("<b>s</b>");
    expect(html).not.toMatch(/<script|src=|href="http/);
    expect(html).toContain("default-src 'none'");
    expect(html).toContain("The model says the same as the run at 5 of 6 points.");
  });
});
