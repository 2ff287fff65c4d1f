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

describe("MemoryQoS protects by its policy", () => {
  const tiered = { kubelet: { featureGates: { MemoryQoS: true }, memoryReservationPolicy: "TieredReservation" } };
  const files = (planned: Plan, cgroup: string): Record<string, string | undefined> => ({
    min: fileOf(planned, cgroup, "memory.min"),
    low: fileOf(planned, cgroup, "memory.low"),
  });
  const none = { min: undefined, low: undefined };
  const low = (bytes: number): object => ({ min: undefined, low: String(bytes) });
  const least = (bytes: number): object => ({ min: String(bytes), low: undefined });

  test.each<[what: string, pod: object, containers: Record<string, object>]>([
    ["1: the blog's", low(104857600), { a: low(104857600) }],
    ["2: Guaranteed", least(1073741824), { a: least(1073741824) }],
    ["3: nothing stated", none, { a: none }],
    ["4: a limit alone is a request too", low(209715200), { a: low(209715200) }],
    ["5: a request without a limit", low(2147483648), { a: low(2147483648) }],
    ["6: one container without a limit leaves the Pod without one", low(134217728), { a: low(134217728), b: none }],
    ["7: an init container larger than the app", low(1073741824), { app: low(268435456) }],
    ["8: overhead is the Pod's alone", low(394264576), { a: low(268435456) }],
    ["9: critical to the node", low(52428800), { a: low(52428800) }],
    ["10: sizes that are no whole pages are written as they are", low(100000000), { a: low(100000000) }],
    ["12: two containers, Guaranteed by their sums", least(805306368), {}],
  ])("Pod %s", (what, pod, containers) => {
    const planned = plan("B", worked.find((one) => one.what === what)!.spec, tiered);
    expect(files(planned, "p")).toEqual(pod);
    for (const [name, protection] of Object.entries(containers))
      expect(files(planned, `p/${name}`)).toEqual(protection);
  });

  test("the tiers have the sums of their Pods", () => {
    const planned = plan("B", worked[0]!.spec, tiered);
    expect(files(planned, "kubepods.slice/kubepods-burstable.slice")).toEqual(low(104857600));
    expect(files(planned, "kubepods.slice")).toEqual(least(104857600));
  });

  test("up to 1.35 memory.min follows requests, and memory.high of BestEffort is not written", () => {
    const node = { kubeletVersion: "1.35", kubelet: { featureGates: { MemoryQoS: true } } };
    expect(files(plan("B", worked[0]!.spec, node), "p/a")).toEqual(least(104857600));
    expect(fileOf(plan("B", worked[0]!.spec, node), "p/a", "memory.high")).toBe("199229440");
    expect(fileOf(plan("B", worked[2]!.spec, node), "p/a", "memory.high")).toBeUndefined();
    expect(fileOf(plan("B", worked[5]!.spec, node), "p/b", "memory.high")).toBeUndefined();
    // 0.8 of the limit, to whole pages.
    const first = { kubeletVersion: "1.24", kubelet: { featureGates: { MemoryQoS: true } } };
    expect(fileOf(plan("B", worked[0]!.spec, first), "p/a", "memory.high")).toBe("167772160");
  });
});

describe("the rules beside the worked Pods", () => {
  const scoreOf = (planned: Plan, name: string): number | null | undefined =>
    planned.processes.find((process) => process.name === `p/${name}`)?.oomScoreAdj;
  const qosOf = (spec: object, node: object = {}): string | undefined => plan("B", spec, node).pods?.pods[0]?.qos;

  test("scores stay between 3 and 999", () => {
    const score = (request: string): unknown =>
      scoreOf(plan("B", { containers: [container("a", memory(request))] }), "a");
    expect(score("8200Mi")).toBe(3);
    expect(score("8Mi")).toBe(999);
    expect(score("9Mi")).toBe(999);
    expect(score("1Gi")).toBe(875);
  });

  test("a stated 0 is as good as nothing", () => {
    const zero = { containers: [container("a", undefined, memory("0"))] };
    expect(qosOf(zero)).toBe("BestEffort");
    expect(limitOf(plan("B", zero), "p/a")).toBeUndefined();
  });

  test("memory alone never makes a Pod Guaranteed; an init container can keep it from being so", () => {
    expect(qosOf({ containers: [container("a", memory("1Gi"), memory("1Gi"))] })).toBe("Burstable");
    expect(qosOf({ initContainers: [container("i")], containers: [container("a", ...equal("1", "1Gi"))] })).toBe(
      "Burstable",
    );
  });

  test("from 1.27 on an init container without a limit leaves the Pod without one", () => {
    const spec = {
      initContainers: [container("i", memory("1Gi"))],
      containers: [container("app", memory("256Mi"), memory("512Mi"))],
    };
    expect(limitOf(plan("B", spec), "p")).toBeUndefined();
    expect(limitOf(plan("B", spec, { kubeletVersion: "1.26" }), "p")).toBe("536870912");
  });

  const sidecar = { ...container("side", memory("64Mi"), memory("128Mi")), restartPolicy: "Always" };

  test("a sidecar adds to what comes after it, and is scored no higher than the container that asks least", () => {
    const spec = {
      initContainers: [sidecar, container("i", memory("1Gi"), memory("1Gi"))],
      containers: [container("a", memory("256Mi"), memory("512Mi"))],
    };
    const planned = plan("B", spec);
    // 128Mi + 1Gi beats 128Mi + 512Mi.
    expect(limitOf(planned, "p")).toBe(String((128 + 1024) * 1048576));
    // 64Mi of 8Gi are 7.8: 993; the app's 256Mi are 31.25: 969.
    expect(scoreOf(planned, "side")).toBe(969);
    const before = plan("B", spec, { kubeletVersion: "1.28" });
    expect(limitOf(before, "p")).toBe("1073741824");
    expect(scoreOf(before, "side")).toBe(993);
  });

  test("init containers run one after another, the sidecar beside them, the app behind them", () => {
    const { processes } = plan("B", {
      initContainers: [container("one"), sidecar, container("two")],
      containers: [container("a")],
    });
    expect(processes.map(({ name, after, waits }) => [name, after, waits])).toEqual([
      ["p/one", undefined, false],
      ["p/side", ["p/one"], true],
      ["p/two", ["p/one"], false],
      ["p/a", ["p/one", "p/two"], true],
    ]);
  });

  test("Pod-level resources replace the sums, limit containers without a limit, and share what is left of the request", () => {
    const spec = {
      resources: { requests: memory("1Gi"), limits: memory("2Gi") },
      containers: [container("a", memory("256Mi"), memory("512Mi")), container("b")],
    };
    const planned = plan("B", spec);
    expect(limitOf(planned, "p")).toBe("2147483648");
    expect([limitOf(planned, "p/a"), limitOf(planned, "p/b")]).toEqual(["536870912", "2147483648"]);
    // (1Gi - 256Mi) / 2 = 384Mi: 640Mi of 8Gi are 78.1, 384Mi are 46.9.
    expect([scoreOf(planned, "a"), scoreOf(planned, "b")]).toEqual([922, 954]);
    const gated = plan("B", spec, { kubeletVersion: "1.33" });
    expect(limitOf(gated, "p")).toBeUndefined();
    expect(qosOf({ resources: { limits: { cpu: "1", memory: "1Gi" } }, containers: [container("a")] })).toBe(
      "Guaranteed",
    );
  });

  test("limits and requests past 2^53 are exact, and cut at 2^63-1", () => {
    const planned = plan("B", { containers: [container("a", memory("9007199254740993"), memory("100E"))] });
    expect(limitOf(planned, "p/a")).toBe("9223372036854775807");
    expect(planned.pods?.pods[0]).toMatchObject({ request: "9007199254740993", limit: "9223372036854775807" });
    expect(() => JSON.stringify(planned)).not.toThrow();
  });

  test("containers' cgroups are named by runtime and driver", () => {
    const spec = { containers: [container("a")] };
    const name = (driver: string, runtime: string): string | undefined =>
      pathOf(plan("B", spec, { runtime, kubelet: { cgroupDriver: driver } }), "p/a")
        ?.replace(/.*\//, "")
        .replace(/[0-9a-f]{64}/, "ID");
    expect(["docker", "containerd", "cri-o"].map((runtime) => name("systemd", runtime))).toEqual([
      "docker-ID.scope",
      "cri-containerd-ID.scope",
      "crio-ID.scope",
    ]);
    expect(["docker", "containerd", "cri-o"].map((runtime) => name("cgroupfs", runtime))).toEqual([
      "ID",
      "ID",
      "crio-ID",
    ]);
  });

  test("cgroupRoot is a parent", () => {
    const spec = { containers: [container("a")] };
    expect(pathOf(plan("A", spec, { kubelet: { cgroupRoot: "/pool" } }), "p")).toBe(
      `/pool/kubepods/besteffort/pod${uid}`,
    );
    expect(pathOf(plan("B", spec, { kubelet: { cgroupRoot: "/pool" } }), "p")).toMatch(
      /^\/pool\.slice\/pool-kubepods\.slice\/pool-kubepods-besteffort\.slice\/pool-kubepods-besteffort-pod11111111_/,
    );
  });

  test("reservations are enforced on their own cgroups where they are named", () => {
    const planned = plan(
      "A",
      { containers: [container("a")] },
      {
        kubelet: { enforceNodeAllocatable: ["pods", "system-reserved"], systemReservedCgroup: "/system" },
      },
    );
    expect(limitOf(planned, "system")).toBe("268435456");
  });

  test("swap by version: the runtime's way before 1.28, then NoSwap", () => {
    const spec = { containers: [container("a", undefined, memory("200Mi"))] };
    const memsw = (version: string): string | undefined =>
      fileOf(plan("A", spec, { kubeletVersion: version }), "p/a", "memory.memsw.limit_in_bytes");
    expect(memsw("1.20")).toBe("419430400");
    expect(memsw("1.25")).toBe("209715200");
    expect(memsw("1.34")).toBe("209715200");
    const onV2 = (version: string): string | undefined =>
      fileOf(plan("B", spec, { kubeletVersion: version }), "p/a", "memory.swap.max");
    expect([onV2("1.20"), onV2("1.27"), onV2("1.34")]).toEqual(["209715200", "0", "0"]);
    expect(
      fileOf(plan("B", { containers: [container("a")] }, { kubeletVersion: "1.27" }), "p/a", "memory.swap.max"),
    ).toBeUndefined();
  });

  test("LimitedSwap leaves out who is not Burstable, critical, or asks for its limit", () => {
    const swap = (spec: object): string | undefined =>
      fileOf(
        plan("B", spec, { swap: 4 * gibibyte, kubelet: { memorySwap: { swapBehavior: "LimitedSwap" } } }),
        "p/a",
        "memory.swap.max",
      );
    expect(swap({ containers: [container("a", ...equal("1", "1Gi"))] })).toBe("0");
    expect(swap({ containers: [container("a")] })).toBe("0");
    expect(swap({ containers: [container("a", memory("1Gi"), memory("1Gi"))] })).toBe("0");
    expect(swap({ containers: [container("a", memory("1Gi"))], priorityClassName: "system-cluster-critical" })).toBe(
      "0",
    );
    expect(swap({ containers: [container("a", memory("1Gi"), memory("2Gi"))] })).toBe("536870912");
  });

  test("huge pages that a Pod states are limited, its containers' each by their own", () => {
    const pages = { "hugepages-2Mi": "4Mi", memory: "64Mi" };
    const planned = plan("B", { containers: [container("a", undefined, pages), container("b", memory("1Mi"))] });
    expect(fileOf(planned, "p", "hugetlb.2MB.max")).toBe("4194304");
    expect([fileOf(planned, "p/a", "hugetlb.2MB.max"), fileOf(planned, "p/b", "hugetlb.2MB.max")]).toEqual([
      "4194304",
      "0",
    ]);
  });

  test("volumes of medium Memory are cut to the Pod's limit, else to what the node may give", () => {
    const volume = (spec: object, sizeLimit?: string): (string | null)[] =>
      (
        plan("B", {
          ...spec,
          volumes: [{ name: "v", emptyDir: { medium: "Memory", ...(sizeLimit ? { sizeLimit } : {}) } }],
        }).pods?.volumes ?? []
      )
        .filter(({ name }) => name === "p/v")
        .map(({ size }) => size);
    const limited = { containers: [container("a", undefined, memory("128Mi"))] };
    expect(volume(limited)).toEqual(["134217728"]);
    expect(volume(limited, "1Gi")).toEqual(["134217728"]);
    expect(volume({ containers: [container("a")] })).toEqual(["7679770624"]);
  });
});
