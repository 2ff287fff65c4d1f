/** The worked Pods: one node of 8 GiB, a kubelet of 1.20 on v1 with docker, and the newest on v2 with systemd and containerd. */
import { describe, expect, test } from "vitest";
import { type Plan, planScenario } from "../../src/plan.ts";
import { parseScenarios } from "../../src/scenario/index.ts";
import { machineWith } from "../helpers/capabilities.ts";

const uid = "11111111-2222-3333-4444-555555555555";
const gibibyte = 1024 ** 3;
const kubepodsLimit = "7784628224";

const reserved = {
  kubeReserved: { memory: "512Mi" },
  systemReserved: { memory: "256Mi" },
  evictionHard: { "memory.available": "100Mi" },
  enforceNodeAllocatable: ["pods"],
};
const old = { kubeletVersion: "1.20", kubelet: { ...reserved, cgroupDriver: "cgroupfs" } };
const newest = { kubelet: { ...reserved, cgroupDriver: "systemd" } };

type Side = "A" | "B";

function plan(side: Side, spec: object, node: object = {}): Plan {
  const { kubelet, ...rest } = side === "A" ? old : newest;
  const { kubelet: more = {}, ...other } = node as { kubelet?: object };
  const pod = { apiVersion: "v1", kind: "Pod", metadata: { name: "p", uid }, spec };
  const scenario = {
    name: "worked",
    machine: { cgroup: side === "A" ? "v1" : "v2" },
    node: { memory: 8 * gibibyte, kubelet: { ...kubelet, ...more }, ...rest, ...other },
    pods: [{ manifest: pod, pressure: {} }],
  };
  const [first] = parseScenarios(JSON.stringify(scenario), "worked.json");
  if (!first) throw new Error("no scenario");
  return planScenario(first, machineWith(), { runId: "abc12345", machine: "vm" });
}

const fileOf = (planned: Plan, cgroup: string, file: string): string | undefined =>
  planned.cgroups.find(({ name }) => name === cgroup)?.writes.find((write) => write.file === file)?.value;
const limitOf = (planned: Plan, cgroup: string): string | undefined =>
  fileOf(planned, cgroup, planned.cgroupVersion === 1 ? "memory.limit_in_bytes" : "memory.max");
const pathOf = (planned: Plan, cgroup: string): string | undefined =>
  planned.cgroups.find(({ name }) => name === cgroup)?.path;

const memory = (size: string): object => ({ memory: size });
const container = (name: string, requests?: object, limits?: object): object => ({
  name,
  image: "x",
  resources: { ...(requests ? { requests } : {}), ...(limits ? { limits } : {}) },
});
const equal = (cpu: string, size: string): [object, object] => [
  { cpu, memory: size },
  { cpu, memory: size },
];

interface Worked {
  what: string;
  spec: object;
  qos: "guaranteed" | "burstable" | "besteffort";
  pod: string | undefined;
  /** Limit, oom_score_adj, memory.high with a factor of 0.9, memory.min or low with TieredReservation. */
  containers: Record<string, [limit: string | undefined, adj: number, high: string | undefined]>;
}

const worked: Worked[] = [
  {
    what: "1: the blog's",
    spec: { containers: [container("a", memory("100Mi"), memory("200Mi"))] },
    qos: "burstable",
    pod: "209715200",
    containers: { a: ["209715200", 988, "199229440"] },
  },
  {
    what: "2: Guaranteed",
    spec: { containers: [container("a", ...equal("500m", "1Gi"))] },
    qos: "guaranteed",
    pod: "1073741824",
    containers: { a: ["1073741824", -997, undefined] },
  },
  {
    what: "3: nothing stated",
    spec: { containers: [container("a")] },
    qos: "besteffort",
    pod: undefined,
    containers: { a: [undefined, 1000, "7006162944"] },
  },
  {
    what: "4: a limit alone is a request too",
    spec: { containers: [container("a", undefined, memory("200Mi"))] },
    qos: "burstable",
    pod: "209715200",
    containers: { a: ["209715200", 976, undefined] },
  },
  {
    what: "5: a request without a limit",
    spec: { containers: [container("a", memory("2Gi"))] },
    qos: "burstable",
    pod: undefined,
    containers: { a: [undefined, 750, "7220912128"] },
  },
  {
    what: "6: one container without a limit leaves the Pod without one",
    spec: { containers: [container("a", memory("128Mi"), memory("256Mi")), container("b")] },
    qos: "burstable",
    pod: undefined,
    containers: { a: ["268435456", 985, "255012864"], b: [undefined, 999, "7006162944"] },
  },
  {
    what: "7: an init container larger than the app",
    spec: {
      initContainers: [container("i", memory("1Gi"), memory("1Gi"))],
      containers: [container("app", memory("256Mi"), memory("512Mi"))],
    },
    qos: "burstable",
    pod: "1073741824",
    containers: { i: ["1073741824", 875, undefined], app: ["536870912", 969, "510025728"] },
  },
  {
    what: "8: overhead is the Pod's alone",
    spec: {
      runtimeClassName: "kata",
      overhead: memory("120Mi"),
      containers: [container("a", memory("256Mi"), memory("512Mi"))],
    },
    qos: "burstable",
    pod: "662700032",
    containers: { a: ["536870912", 969, "510025728"] },
  },
  {
    what: "9: critical to the node",
    spec: { priorityClassName: "system-node-critical", containers: [container("a", memory("50Mi"))] },
    qos: "burstable",
    pod: undefined,
    containers: { a: [undefined, -997, "7011405824"] },
  },
  {
    what: "10: sizes that are no whole pages are written as they are",
    spec: { containers: [container("a", memory("1e8"), memory("200M"))] },
    qos: "burstable",
    pod: "200000000",
    containers: { a: ["200000000", 989, "189997056"] },
  },
  {
    what: "12: two containers, Guaranteed by their sums",
    spec: { containers: [container("a", ...equal("1", "512Mi")), container("b", ...equal("1", "256Mi"))] },
    qos: "guaranteed",
    pod: "805306368",
    containers: { a: ["536870912", -997, undefined], b: ["268435456", -997, undefined] },
  },
  {
    what: "12 without one cpu: Burstable",
    spec: {
      containers: [container("a", ...equal("1", "512Mi")), container("b", memory("256Mi"), memory("256Mi"))],
    },
    qos: "burstable",
    pod: "805306368",
    containers: { a: ["536870912", 938, undefined], b: ["268435456", 969, undefined] },
  },
];

describe.each(worked)("Pod $what", ({ spec, qos, pod, containers }) => {
  test.each<Side>(["A", "B"])("limits and scores, side %s", (side) => {
    const planned = plan(side, spec);
    expect(limitOf(planned, "p")).toBe(pod);
    for (const [name, [limit, adj]] of Object.entries(containers)) {
      expect(limitOf(planned, `p/${name}`)).toBe(limit);
      expect(planned.processes.find((process) => process.name === `p/${name}`)?.oomScoreAdj).toBe(adj);
    }
    expect(limitOf(planned, side === "A" ? "kubepods" : "kubepods.slice")).toBe(kubepodsLimit);
  });

  test("directories of the cgroupfs and the systemd driver", () => {
    const tier = qos === "guaranteed" ? "" : `/${qos}`;
    expect(pathOf(plan("A", spec), "p")).toBe(`/kubepods${tier}/pod${uid}`);
    const dashed = qos === "guaranteed" ? "kubepods" : `kubepods-${qos}`;
    const slice = qos === "guaranteed" ? "" : `/${dashed}.slice`;
    const planned = plan("B", spec);
    expect(pathOf(planned, "p")).toBe(`/kubepods.slice${slice}/${dashed}-pod${uid.replaceAll("-", "_")}.slice`);
    for (const name of Object.keys(containers))
      expect(pathOf(planned, `p/${name}`)).toMatch(/\.slice\/cri-containerd-[0-9a-f]{64}\.scope$/);
  });

  test("on v2 a container swaps nothing and dies whole; its Pod has neither file", () => {
    const planned = plan("B", spec);
    for (const name of Object.keys(containers)) {
      expect(fileOf(planned, `p/${name}`, "memory.swap.max")).toBe("0");
      expect(fileOf(planned, `p/${name}`, "memory.oom.group")).toBe("1");
      for (const file of ["memory.high", "memory.min", "memory.low"])
        expect(fileOf(planned, `p/${name}`, file)).toBeUndefined();
    }
    expect(fileOf(planned, "p", "memory.swap.max")).toBeUndefined();
    expect(fileOf(planned, "p", "memory.oom.group")).toBeUndefined();
  });

  test("memory.high with MemoryQoS and a factor of 0.9", () => {
    const planned = plan("B", spec, {
      kubelet: { featureGates: { MemoryQoS: true }, memoryThrottlingFactor: 0.9 },
    });
    for (const [name, [, , high]] of Object.entries(containers))
      expect(fileOf(planned, `p/${name}`, "memory.high")).toBe(high);
  });
});

describe("what a node's Pods have in common", () => {
  const one = { containers: [container("a", memory("100Mi"), memory("200Mi"))] };

  test("a memory-backed volume has its sizeLimit, before 1.22 half of RAM", () => {
    const spec = {
      containers: [
        { ...container("a", memory("64Mi"), memory("128Mi")), volumeMounts: [{ name: "v", mountPath: "/cache" }] },
      ],
      volumes: [{ name: "v", emptyDir: { medium: "Memory", sizeLimit: "64Mi" } }],
    };
    const sizes = (side: Side): (string | null)[] =>
      (plan(side, spec).pods?.volumes ?? []).filter(({ name }) => name === "p/v").map(({ size }) => size);
    expect(sizes("B")).toEqual(["67108864"]);
    expect(sizes("A")).toEqual([null]);
  });

  test("a memory-backed volume of a Pod without a limit may be as large as its sizeLimit", () => {
    const spec = {
      containers: [container("a", memory("64Mi"), memory("128Mi")), container("b")],
      volumes: [{ name: "v", emptyDir: { medium: "Memory", sizeLimit: "1Gi" } }],
    };
    expect(plan("B", spec).pods?.volumes.find(({ name }) => name === "p/v")?.size).toBe("1073741824");
  });

  test.each([
    ["a uid that is a path", { uid: "../../../../x" }, {}, /metadata\.uid: Invalid value/],
    [
      "a static Pod's hash that is a path",
      { annotations: { "kubernetes.io/config.hash": "../x" } },
      {},
      /config\.hash/,
    ],
    ["a cgroup root above the root", {}, { cgroupRoot: "/../.." }, /expected the path of a cgroup/],
    ["a cgroup root with an empty part", {}, { cgroupRoot: "a//b" }, /expected the path of a cgroup/],
    ["a reserved cgroup above the root", {}, { systemReservedCgroup: "/../../x" }, /expected the path of a cgroup/],
  ])("no cgroup outside of oomlab's own: %s", (_, metadata, kubelet, message) => {
    const scenario = {
      node: { kubelet },
      pods: [{ manifest: { apiVersion: "v1", kind: "Pod", metadata: { name: "p", ...metadata }, spec: one } }],
    };
    expect(() => parseScenarios(JSON.stringify(scenario), "x.json")).toThrow(message);
  });

  test.each([
    [
      { requests: memory("2048Mi"), limits: memory("1024Mi") },
      'Invalid value: "2Gi": must be less than or equal to memory limit of 1Gi',
    ],
    [{ limits: memory("-1024Ki") }, 'Invalid value: "-1Mi": must be greater than or equal to 0'],
    [{ limits: { "hugepages-foo": "2Mi", memory: "1Gi" } }, 'limits[hugepages-foo]: Invalid value: "hugepages-foo"'],
  ])("errors are the API server's, quantities in its own form: %j", (resources, message) => {
    const manifest = {
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name: "p" },
      spec: { containers: [{ name: "a", image: "x", resources }] },
    };
    const text = JSON.stringify(manifest);
    expect(() => parseScenarios(text, "pod.json")).toThrow(message);
    expect(() => parseScenarios(text, "pod.json")).toThrow(/^pod\.json:1:\d+/);
  });

  test("an empty quantity is none", () => {
    const planned = plan("B", { containers: [{ name: "a", image: "x", resources: { limits: { memory: null } } }] });
    expect(limitOf(planned, "p/a")).toBeUndefined();
  });

  test("two Pods cannot have one uid; a Deployment and a Job may have one name", () => {
    const pod = (name: string): object => ({ apiVersion: "v1", kind: "Pod", metadata: { name, uid }, spec: one });
    const scenario = (...manifests: object[]): string =>
      JSON.stringify({ pods: manifests.map((manifest) => ({ manifest })) });
    const list = (...items: object[]): object => ({ apiVersion: "v1", kind: "List", items });
    expect(() => parseScenarios(scenario(list(pod("a"), pod("b"))), "x.json")).toThrow(
      /metadata\.uid: Duplicate value/,
    );
    const template = { metadata: { labels: { app: "w" } }, spec: { ...one, restartPolicy: "Never" } };
    const deployment = { apiVersion: "apps/v1", kind: "Deployment", metadata: { name: "w" }, spec: { template } };
    const job = { apiVersion: "batch/v1", kind: "Job", metadata: { name: "w" }, spec: { template } };
    const [read] = parseScenarios(scenario(list(deployment, job)), "x.json");
    expect(read?.kubernetes?.pods.map(({ name }) => name)).toEqual(["w", "w-job"]);
  });

  test("a group kill is off where the kubelet says so", () => {
    expect(
      fileOf(plan("B", one, { kubelet: { singleProcessOOMKill: true } }), "p/a", "memory.oom.group"),
    ).toBeUndefined();
  });

  test("LimitedSwap gives a Burstable container its share of the swap", () => {
    const planned = plan("B", one, {
      swap: 4 * gibibyte,
      kubelet: { failSwapOn: false, memorySwap: { swapBehavior: "LimitedSwap" } },
    });
    // 100Mi of 8Gi, of 4Gi of swap.
    expect(fileOf(planned, "p/a", "memory.swap.max")).toBe(
      String(Math.trunc((104857600 / (8 * gibibyte)) * 4 * gibibyte)),
    );
  });

  test("reservations are no limit where nothing is enforced", () => {
    const planned = plan("B", one, { kubelet: { enforceNodeAllocatable: ["none"] } });
    expect(limitOf(planned, "kubepods.slice")).not.toBe(kubepodsLimit);
  });
});
