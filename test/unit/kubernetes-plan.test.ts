/** Pods in a plan: where they run, what presses in which turn, another MemTotal than planned; and what a turn came to. */
import { describe, expect, test } from "vitest";
import { type Capabilities, type Plan, planScenario, relayPlan, turnsOf } from "../../src/plan.ts";
import { memoryFor, memTotalOf } from "../../src/plan/pods.ts";
import { parseScenarios, type Scenario } from "../../src/scenario/index.ts";
import { turnNote } from "../../src/verdict/turn.ts";
import { machineWith } from "../helpers/capabilities.ts";

const mebibyte = 1048576;

interface Container {
  name: string;
  limit?: string;
  mount?: string;
}
const manifest = (name: string, containers: Container[], init: Container[] = []): object => {
  const one = ({ name: own, limit, mount }: Container): object => ({
    name: own,
    ...(limit === undefined ? {} : { resources: { limits: { memory: limit } } }),
    ...(mount === undefined ? {} : { volumeMounts: [{ name: "v", mountPath: mount }] }),
  });
  return {
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name },
    spec: {
      initContainers: init.map(one),
      containers: containers.map(one),
      volumes: [{ name: "v", emptyDir: { medium: "Memory" } }],
    },
  };
};
const read = (document: object): Scenario => parseScenarios(JSON.stringify(document), "x.yaml")[0]!;
const plan = (
  scenario: Scenario,
  caps: Partial<Capabilities> = {},
  machine: "auto" | "host" | "vm" = "auto",
  versions: (1 | 2)[] = [1],
): Plan => planScenario(scenario, machineWith(caps, versions), { runId: "abc12345", machine });
const processOf = (planned: Plan, name: string) => planned.processes.find((process) => process.name === name);

describe("where Pods run", () => {
  test("on this host where each container has a limit, below oomlab's own cgroup", () => {
    const planned = plan(read(manifest("web", [{ name: "a", limit: "64Mi" }])));
    expect(planned).toMatchObject({ machine: "host", skip: null });
    expect(
      planned.cgroups.map(({ name, path }) => [
        name,
        path.replace(/[0-9a-f]{64}$/, "ID").replace(/pod[0-9a-f-]{36}/, "podID"),
      ]),
    ).toEqual([
      ["kubepods", "/oomlab-abc12345/kubepods"],
      ["kubepods/burstable", "/oomlab-abc12345/kubepods/burstable"],
      ["kubepods/besteffort", "/oomlab-abc12345/kubepods/besteffort"],
      ["web", "/oomlab-abc12345/kubepods/burstable/podID"],
      ["web/a", "/oomlab-abc12345/kubepods/burstable/podID/ID"],
    ]);
    expect(processOf(planned, "web/a")).toMatchObject({ cgroup: "web/a" });
  });

  test("in a VM, at the hierarchy's root, where a container without a limit is pressed", () => {
    const planned = plan(read(manifest("web", [{ name: "a" }])));
    expect(planned).toMatchObject({ machine: "vm", skip: null, top: { path: "", directory: "" } });
    expect(planned.cgroups[0]?.path).toBe("/kubepods.slice");
    expect(plan(read(manifest("web", [{ name: "a" }])), {}, "host").skip).toBe(
      "it needs a VM of its own: container web/a has no memory limit: it could take all that the node has",
    );
  });

  test("on this host where only containers with a limit press, whoever else is idle", () => {
    const scenario = read({
      pods: [
        {
          manifest: manifest("web", [{ name: "a", limit: "64Mi" }, { name: "b" }]),
          pressure: { a: { stress: { anon: "32Mi" } } },
        },
      ],
    });
    expect(plan(scenario)).toMatchObject({ machine: "host", skip: null });
  });

  test("what they press counts against this host's memory", () => {
    const scenario = read(manifest("web", [{ name: "a", limit: "4Gi" }]));
    expect(plan(scenario, { memAvailable: 2 * 1024 * mebibyte }, "host").skip).toMatch(/^it could take 4Gi of memory/);
  });

  test("a plan that is skipped still lists cgroups and processes, whatever the sizes", () => {
    const planned = plan(
      read({ node: { memory: "4Ti" }, pods: [{ manifest: manifest("web", [{ name: "a", limit: "1Ti" }]) }] }),
    );
    expect(planned.skip).toMatch(/^its VM takes/);
    expect(planned.cgroups.map(({ name }) => name)).toContain("web/a");
    expect(processOf(planned, "web/a")?.oomScoreAdj).toBe(750);
  });

  test("a score that this user may not set sends a Guaranteed Pod to a VM", () => {
    const pod = manifest("web", [{ name: "a", limit: "64Mi" }]) as {
      spec: { containers: { resources: { limits: object } }[] };
    };
    pod.spec.containers[0]!.resources.limits = { memory: "64Mi", cpu: "1" };
    expect(plan(read(pod), { capabilities: [] }, "host").skip).toBe(
      "process web/a: lowering oom_score_adj to -997 needs CAP_SYS_RESOURCE",
    );
    expect(plan(read(pod), { capabilities: [] }).machine).toBe("vm");
  });
});

describe("what presses", () => {
  const two = read(
    manifest(
      "web",
      [
        { name: "a", limit: "64Mi" },
        { name: "b", limit: "256Mi" },
      ],
      [{ name: "i", limit: "32Mi" }],
    ),
  );

  test("each container in turn, past its limit, the others idle", () => {
    const turns = turnsOf(two);
    expect(turns.map(({ name }) => name)).toEqual(["web: web/i", "web: web/a", "web: web/b"]);
    const planned = plan(turns[1]!);
    expect(planned.processes.map(({ name, argv }) => [name, argv.join(" ")])).toEqual([
      ["web/i", "--anon 4096 --no-reserve"],
      ["web/a", `--anon ${80 * mebibyte} --no-reserve`],
      ["web/b", "--anon 4096 --no-reserve --hold forever"],
    ]);
  });

  test("one container's turn keeps the scenario's name; a scenario that says what presses has no turns", () => {
    expect(turnsOf(read(manifest("web", [{ name: "a" }]))).map(({ name }) => name)).toEqual(["web"]);
    const stated = read({ name: "x", pods: [{ manifest: manifest("web", [{ name: "a" }]), pressure: {} }] });
    expect(turnsOf(stated)).toEqual([stated]);
    expect(plan(stated).processes.map(({ argv }) => argv.join(" "))).toEqual([
      "--anon 4096 --no-reserve --hold forever",
    ]);
  });

  test("a plan shows all turns as one, with the largest container pressed", () => {
    expect(plan(two).pods).toMatchObject({ turns: ["web/i", "web/a", "web/b"], turn: "web/b" });
  });

  test("a container's own path is that of its volume, which is mounted then", () => {
    const scenario = read({
      pods: [
        {
          manifest: manifest("web", [{ name: "a", limit: "64Mi", mount: "/cache" }]),
          pressure: { a: { stress: { tmpfs: "16Mi", dir: "/cache/sub", hold: "forever" } } },
        },
      ],
    });
    const planned = plan(scenario);
    expect(processOf(planned, "web/a")?.argv).toContain("/tmp/oomlab-abc12345/0-v/sub");
    expect(planned.pods?.volumes.map(({ name, size, path }) => [name, size, path])).toEqual([
      ["web/v", "67108864", "/tmp/oomlab-abc12345/0-v"],
      ["web/dev-shm", "67108864", null],
    ]);
    expect(plan(scenario, { capabilities: ["SYS_RESOURCE"] }, "host").skip).toBe(
      "mounting a memory-backed volume needs CAP_SYS_ADMIN",
    );
  });

  test("the kubelet's cgroups are known by either driver's names", () => {
    const scenario = read({
      machine: { cgroup: "v2" },
      node: { memory: "1Gi" },
      pods: [{ manifest: manifest("web", [{ name: "a" }]), pressure: {} }],
      expect: { limit: "kubepods" },
    });
    expect(plan(scenario).expect.limit).toBe("kubepods.slice");
  });
});

describe("a VM's MemTotal", () => {
  test.each([
    [512, 492584960],
    [2048, 2075672576],
    [4096, 4118552576],
  ])("of %i MiB is foreseen within 1 %%", (memory, measured) => {
    expect(Math.abs(memTotalOf(memory * mebibyte) - measured) / measured).toBeLessThan(0.01);
    expect(Math.abs(memTotalOf(memoryFor(measured)) - measured) / measured).toBeLessThan(0.01);
  });

  const scenario = read({
    node: { memory: "1Gi", kubelet: { systemReserved: { memory: "100Mi" } } },
    pods: [
      {
        manifest: manifest("web", [{ name: "a", limit: "64Mi" }]),
        pressure: { a: { stress: { anon: "32Mi" }, oom_score_adj: 5 } },
      },
      { manifest: manifest("other", [{ name: "b", limit: "64Mi" }]) },
    ],
  });

  test("is what files and scores are computed from again, and nothing else changes", () => {
    const planned = plan(scenario, {}, "auto", [2]);
    const real = 1_000_000_000;
    const again = relayPlan(JSON.parse(JSON.stringify(planned)) as Plan, real);
    const limit = ({ cgroups }: Plan): string | undefined =>
      cgroups[0]?.writes.find(({ file }) => file === "memory.max")?.value;
    expect(limit(planned)).toBe(String(1024 * mebibyte - 100 * mebibyte));
    expect(limit(again)).toBe(String(real - 100 * mebibyte));
    // 64Mi of 1Gi are 62.5; of 1e9 bytes 67.1. A stated score stays.
    expect([processOf(planned, "other/b")?.oomScoreAdj, processOf(again, "other/b")?.oomScoreAdj]).toEqual([938, 933]);
    expect(processOf(again, "web/a")?.oomScoreAdj).toBe(5);
    expect(again.pods?.node).toMatchObject({ memory: 1024 * mebibyte, memTotal: real });
    expect(again.cgroups.map(({ writes }) => writes.map(({ file }) => file))).toEqual(
      planned.cgroups.map(({ writes }) => writes.map(({ file }) => file)),
    );
    expect(relayPlan(planned, 1024 * mebibyte)).toBe(planned);
  });
});

describe("what a turn came to, in a sentence", () => {
  const planned = plan(
    turnsOf(
      read(
        manifest(
          "web",
          [
            { name: "a", limit: "64Mi" },
            { name: "b", limit: "64Mi" },
          ],
          [{ name: "i", limit: "32Mi" }],
        ),
      ),
    )[1]!,
  );
  const kill = (process: string, limit: string | null, kind = "memcg") => ({ kind, limit, process, oomMemcg: limit });
  const all = new Set(["web/i", "web/a", "web/b"]);

  test.each([
    [[], all, "web/a was pressed with 80Mi: no OOM kill; the node survived"],
    [
      [kill("web/a", "web/a")],
      all,
      "web/a was pressed with 80Mi: its own limit (web/a) was hit: it died alone, the other containers live; the node survived",
    ],
    [
      [kill("web/b", "web")],
      all,
      "web/a was pressed with 80Mi: the limit of the Pod web was hit: web/b died in its place; the node survived",
    ],
    [
      [kill("web/a", null, "global"), kill("web/b", null, "global")],
      all,
      "web/a was pressed with 80Mi: the node ran out of memory (global OOM): it died together with web/b; the node survived",
    ],
    [
      [kill("web/a", "web/a")],
      new Set(["web/i", "web/a"]),
      "web/a was pressed with 80Mi: its own limit (web/a) was hit: it died alone; web/b never started; the node survived",
    ],
    [
      [kill("web/a", "kubepods")],
      all,
      "web/a was pressed with 80Mi: the limit of all Pods together (kubepods) was hit, not the container's own: it died alone, the other containers live; the node survived",
    ],
  ])("%#", (kills, started, sentence) => {
    expect(turnNote(planned, kills, started, false)).toBe(sentence);
  });

  test("nothing where nothing is pressed in turn", () => {
    expect(turnNote({ ...planned, pods: null }, [], all, false)).toBeNull();
  });
});

test("a plan notes reservations beyond the node and classes whose value it cannot know", () => {
  const [scenario] = parseScenarios(
    `node: { memory: 1Gi, kubelet: { kubeReserved: { memory: 2Gi } } }
pods: [ { manifest: { apiVersion: v1, kind: Pod, metadata: { name: p }, spec: { priorityClassName: gold, containers: [ { name: a } ] } } } ]
`,
    "x.yaml",
  );
  expect(plan(scenario!, {}, "vm").pods?.notes).toEqual(
    expect.arrayContaining([
      expect.stringMatching(/^such a kubelet does not start: .*reservation of 2252341248 but capacity of \d+\./),
      expect.stringMatching(/^p: what its priorityClassName gold is worth/),
    ]),
  );
});

test("the hard eviction threshold counts as reserved", () => {
  const notes = (threshold: string): string[] => {
    const [scenario] = parseScenarios(
      `node: { memory: 1Gi, kubelet: { kubeReserved: { memory: 600Mi }, evictionHard: { memory.available: ${threshold} } } }
pods: [ { manifest: { apiVersion: v1, kind: Pod, metadata: { name: p }, spec: { containers: [ { name: a } ] } } } ]
`,
      "x.yaml",
    );
    return plan(scenario!, {}, "vm").pods?.notes ?? [];
  };
  expect(notes("400Mi").join()).not.toContain("does not start");
  expect(notes("500Mi").join()).toContain("does not start");
});

test("the whole name of a container is that container's, though another's ends in it", () => {
  const [scenario] = parseScenarios(
    `pods:
  - manifest:
      apiVersion: v1
      kind: List
      items:
        - { apiVersion: v1, kind: Pod, metadata: { name: a }, spec: { containers: [ { name: c, resources: { limits: { memory: 16Mi } } } ] } }
        - { apiVersion: v1, kind: Pod, metadata: { name: a, namespace: n }, spec: { containers: [ { name: c, resources: { limits: { memory: 16Mi } } } ] } }
    pressure: { a/c: { stress: { anon: 32Mi } } }
`,
    "x.yaml",
  );
  expect(scenario?.kubernetes?.pressure.map(({ name }) => name)).toEqual(["a/c"]);
});
