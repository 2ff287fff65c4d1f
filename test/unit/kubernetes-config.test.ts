/** A node's kubelet: its configuration as it is, the defaults of its version, and what is wrong in it. */
import { describe, expect, test } from "vitest";
import { driverOf, type KubeletConfig } from "../../src/kubernetes/config.ts";
import { parseScenarios, ScenarioErrors } from "../../src/scenario/index.ts";

const scenario = (node: string): string =>
  `node: ${node}\npods: [ { manifest: { apiVersion: v1, kind: Pod, metadata: { name: p }, spec: { containers: [ { name: a } ] } } } ]\n`;

function node(text: string) {
  const [read] = parseScenarios(scenario(text), "x.yaml");
  if (read?.kubernetes === undefined) throw new Error("no node");
  return read.kubernetes.node;
}
const kubelet = (minor: number, config = "{}"): KubeletConfig =>
  node(`{ kubeletVersion: "1.${minor}", kubelet: ${config} }`).kubelet;

function problems(text: string): string[] {
  try {
    parseScenarios(scenario(text), "x.yaml");
    return [];
  } catch (error) {
    if (!(error instanceof ScenarioErrors)) throw error;
    return error.errors.map(({ message }) => message);
  }
}

describe("the defaults of a kubelet's version", () => {
  test.each([
    [20, { swapBehavior: "Runtime", memoryQoS: false, podLevelResources: false, sizeMemoryBackedVolumes: false }],
    [22, { swapBehavior: "Runtime", memoryQoS: false, sizeMemoryBackedVolumes: true, memoryThrottlingFactor: 0.8 }],
    [27, { swapBehavior: "Runtime", memoryThrottlingFactor: 0.9, memoryReservationPolicy: "Always" }],
    [28, { swapBehavior: "NoSwap", failCgroupV1: false }],
    [33, { podLevelResources: false }],
    [34, { podLevelResources: true, memoryQoS: false }],
    [35, { failCgroupV1: true }],
    [36, { memoryQoS: false, memoryThrottlingFactor: 0.9, memoryReservationPolicy: "None" }],
    [37, { memoryQoS: true, memoryThrottlingFactor: null, memoryReservationPolicy: "None" }],
  ])("1.%i", (minor, defaults) => {
    expect(kubelet(minor)).toMatchObject({ minor, ...defaults, enforceNodeAllocatable: ["pods"], failSwapOn: true });
  });

  test("a node without words has the newest kubelet and its own memory", () => {
    expect(node("{}")).toMatchObject({ memory: null, swap: null, runtime: "containerd", kubelet: { minor: 37 } });
    expect(node('{ kubeletVersion: "1.23" }').runtime).toBe("docker");
    expect(node("{ kubeletVersion: v1.30.4-eks-abc, runtime: cri-o }")).toMatchObject({
      runtime: "cri-o",
      kubelet: { minor: 30 },
    });
    expect(node("{ kubeletVersion: 1.20 }").kubelet.minor).toBe(20);
  });

  test("the driver: as stated, else cgroupfs, from 1.34 on the runtime's", () => {
    expect(driverOf(kubelet(33), 2)).toBe("cgroupfs");
    expect(driverOf(kubelet(34), 2)).toBe("systemd");
    expect(driverOf(kubelet(34), 1)).toBe("cgroupfs");
    expect(driverOf(kubelet(37, "{ cgroupDriver: cgroupfs }"), 2)).toBe("cgroupfs");
    expect(driverOf(kubelet(20, "{ cgroupDriver: systemd }"), 1)).toBe("systemd");
  });
});

describe("a KubeletConfiguration as it is", () => {
  test("sizes, thresholds, gates; what does not concern memory is ignored", () => {
    expect(
      kubelet(
        34,
        `{ apiVersion: kubelet.config.k8s.io/v1beta1, kind: KubeletConfiguration, kubeReserved: { cpu: 100m, memory: 512Mi }, systemReserved: { memory: "268435456" }, evictionHard: { memory.available: 5%, nodefs.available: 10% }, evictionSoft: { memory.available: 1Gi }, evictionSoftGracePeriod: { memory.available: 1m30s }, evictionMinimumReclaim: { memory.available: 100Mi }, evictionMaxPodGracePeriod: 30, evictionPressureTransitionPeriod: 30s, kernelMemcgNotification: true, memorySwap: { swapBehavior: LimitedSwap }, featureGates: { MemoryQoS: true, CustomCPUCFSQuotaPeriod: true }, clusterDNS: [ 10.0.0.10 ], maxPods: 110 }`,
      ),
    ).toMatchObject({
      kubeReserved: "536870912",
      systemReserved: "268435456",
      evictionHard: { "memory.available": "5%" },
      evictionSoft: { "memory.available": "1Gi" },
      evictionSoftGracePeriod: { "memory.available": "1m30s" },
      evictionMinimumReclaim: { "memory.available": "100Mi" },
      evictionMaxPodGracePeriod: 30,
      evictionPressureTransitionPeriodMs: 30_000,
      kernelMemcgNotification: true,
      swapBehavior: "LimitedSwap",
      memoryQoS: true,
      ignored: ["clusterDNS", "maxPods", "featureGates.CustomCPUCFSQuotaPeriod"],
    });
  });

  test.each([
    [
      "{ evictionHrd: {} }",
      'node.kubelet.evictionHrd: strict decoding error: unknown field "evictionHrd"',
      "did you mean evictionHard?",
    ],
    [
      "{ memorySwap: { swapBehaviour: LimitedSwap } }",
      'unknown field "memorySwap.swapBehaviour"',
      "did you mean swapBehavior?",
    ],
    ["{ evictionHard: { memory.avail: 1Mi } }", "unsupported eviction signal memory.avail", ""],
    ["{ evictionHard: { memory.available: -1 } }", "eviction threshold memory.available must be positive: -1", ""],
    [
      "{ evictionSoft: { memory.available: 1Gi } }",
      "grace period must be specified for the soft eviction threshold memory.available",
      "",
    ],
    ["{ cgroupDriver: systmd }", "expected cgroupfs or systemd; got systmd", "did you mean systemd?"],
    [
      '{ enforceNodeAllocatable: [ "" ] }',
      'option "" specified for enforceNodeAllocatable (--enforce-node-allocatable). Valid options are "pods", "system-reserved", "kube-reserved", or "none"',
      "",
    ],
    ["{ enforceNodeAllocatable: [ pod ] }", 'option "pod" specified for enforceNodeAllocatable', "did you mean pods?"],
    [
      "{ enforceNodeAllocatable: [ pods, kube-reserved ] }",
      'kubeReservedCgroup (--kube-reserved-cgroup) must be specified when "kube-reserved" contained',
      "",
    ],
    [
      "{ kubeReserved: { memory: 1GB } }",
      'failed to parse quantity "1GB" for "memory" resource: quantities must match',
      "",
    ],
    ["{ kubeReserved: { memory: -1 } }", 'resource quantity for "memory" cannot be negative: -1', ""],
    ["{ systemReserved: { memry: 1Gi } }", 'cannot reserve "memry" resource', "did you mean memory?"],
    ["{ featureGates: { MemoryQos: true } }", "unrecognized feature gate: MemoryQos", "did you mean MemoryQoS?"],
    [
      "{ memoryThrottlingFactor: 1.5 }",
      "memoryThrottlingFactor 1.5 must be greater than 0 and less than or equal to 1.0",
      "",
    ],
    ["{ memorySwap: { swapBehavior: UnlimitedSwap } }", 'memorySwap.swapBehavior "UnlimitedSwap" must be one of', ""],
    ["{ failSwapOn: maybe }", "expected true or false; got maybe", ""],
    ["{ kind: Kubelet }", "expected KubeletConfiguration; got Kubelet", ""],
    ["{ evictionPressureTransitionPeriod: 30 }", 'time: missing unit in duration "30"', ""],
  ])("%s is wrong", (config, message, hint) => {
    const [first, ...rest] = problems(`{ kubelet: ${config} }`);
    expect(rest).toEqual([]);
    expect(first).toMatch(/^x\.yaml:1:\d+ node\.kubelet/);
    expect(first).toContain(message);
    expect(first).toContain(hint);
  });

  test("fields of later kubelets are unknown to this one", () => {
    expect(problems('{ kubeletVersion: "1.21", kubelet: { memorySwap: {}, singleProcessOOMKill: true } }')).toEqual([
      expect.stringContaining('unknown field "memorySwap": it came with kubelet 1.22, this one is 1.21'),
      expect.stringContaining('unknown field "singleProcessOOMKill": it came with kubelet 1.32, this one is 1.21'),
    ]);
  });

  test.each(["1.19", "1.38", "2.0", "latest", "1.2"])("a kubelet of version %s is not modelled", (version) => {
    expect(problems(`{ kubeletVersion: ${version} }`)).toEqual([
      expect.stringContaining(`expected a kubelet's version from 1.20 to 1.37; got ${version}`),
    ]);
  });
});

test("what has no effect here is listed, gates too; a memorySwap that is no mapping is an error", () => {
  expect(kubelet(37, "{ podPidsLimit: 100, featureGates: { NodeSwap: true, CPUManager: true } }").ignored).toEqual([
    "podPidsLimit",
    "featureGates.CPUManager",
  ]);
  expect(problems('{ kubeletVersion: "1.37", kubelet: { memorySwap: LimitedSwap } }')).toEqual([
    expect.stringContaining("memorySwap: expected a mapping; got LimitedSwap"),
  ]);
});
