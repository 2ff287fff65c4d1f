import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { memoryUse, nextHousekeeping } from "../../src/kubernetes/cadvisor.ts";
import {
  advance,
  type Amount,
  type EvictablePod,
  type EvictionConfig,
  evictionGraceSeconds,
  initialState,
  isSpared,
  type ManagerState,
  memoryPressureCondition,
  type Next,
  notifierThreshold,
  type Observation,
  type Observations,
  type Pass,
  type PodStats,
  rankMemoryPressure,
  refusal,
  synchronize,
} from "../../src/kubernetes/eviction.ts";
import { type EvictionSettings, parseThresholds } from "../../src/kubernetes/eviction-thresholds.ts";
import { formatQuantity, parseQuantity, quantityValue } from "../../src/kubernetes/quantity.ts";

const Mi = 1048576;
const Gi = 1024 * Mi;
/** Node N of the facts: 8 GiB, 512Mi and 256Mi reserved. */
const capacity = 8 * Gi;
const kubepodsLimit = 7784628224;

const amount = (text: string): Amount => {
  const quantity = parseQuantity(text);
  return { bytes: Number(quantityValue(quantity)), text: formatQuantity(quantity) };
};

function config(settings: EvictionSettings = {}, minor = 36, more: Partial<EvictionConfig> = {}): EvictionConfig {
  const { thresholds, problems } = parseThresholds(settings, minor);
  expect(problems).toEqual([]);
  return {
    minor,
    thresholds,
    maxPodGracePeriodSeconds: 0,
    pressureTransitionPeriodMs: 300_000,
    memcgNotification: false,
    ...more,
  };
}

function pod(name: string, request: string | null, more: Partial<EvictablePod> = {}): EvictablePod {
  return {
    name,
    priority: null,
    static: false,
    request: request === null ? 0 : amount(request).bytes,
    podRequest: null,
    terminationGracePeriodSeconds: 30,
    containers: [{ name: "app", init: false, request: request === null ? null : amount(request) }],
    volumes: [],
    ...more,
  };
}

const using = (bytes: number, containers?: Record<string, number>): PodStats => ({
  workingSet: bytes,
  containers: containers ?? { app: bytes },
  volumes: {},
});

const node = (available: number, timeMs: number): Observations => ({
  "memory.available": { available, capacity, timeMs },
});

/** A node over time: each pass sees what it is given, and no Pod ends. */
class Node {
  state: ManagerState = initialState;
  readonly #config: EvictionConfig;
  readonly #pods: EvictablePod[];
  readonly #stats: Record<string, PodStats>;

  constructor(
    settings: EvictionConfig,
    pods: EvictablePod[] = [pod("hog", null)],
    stats: Record<string, PodStats> = { hog: using(Gi) },
  ) {
    this.#config = settings;
    this.#pods = pods;
    this.#stats = stats;
  }

  pass(nowMs: number, available: number | Observations): Pass {
    const observations = typeof available === "number" ? node(available, nowMs) : available;
    const pass = synchronize(
      this.#config,
      this.state,
      nowMs,
      observations,
      this.#pods,
      (name) => this.#stats[name] ?? null,
    );
    this.state = pass.state;
    return pass;
  }
}

const evicted = ({ evictions }: Pass): string[] => evictions.map((eviction) => eviction.pod);

describe("a threshold", () => {
  test("is met strictly below its value", () => {
    const pass = (available: number): string[] => evicted(new Node(config()).pass(0, available));
    expect(pass(100 * Mi)).toEqual([]);
    expect(pass(100 * Mi - 1)).toEqual(["hog"]);
  });

  test("on an 8 GiB node is met by a working set of more than 8485076992", () => {
    const pass = (workingSet: number): string[] => evicted(new Node(config()).pass(0, capacity - workingSet));
    expect(pass(8485076992)).toEqual([]);
    expect(pass(8485076993)).toEqual(["hog"]);
  });

  test("for all Pods together counts from the limit of kubepods", () => {
    const all = (workingSet: number): Pass =>
      new Node(config()).pass(0, {
        ...node(4 * Gi, 0),
        "allocatableMemory.available": { available: kubepodsLimit - workingSet, capacity: kubepodsLimit, timeMs: 0 },
      });
    expect(evicted(all(7679770624))).toEqual([]);
    const pass = all(7679770625);
    expect(evicted(pass)).toEqual(["hog"]);
    expect(pass.evictions[0]).toMatchObject({
      signal: "allocatableMemory.available",
      available: 100 * Mi - 1,
      threshold: 100 * Mi,
    });
  });

  test("without an observation is not met", () => {
    expect(new Node(config()).pass(0, {}).met).toEqual([]);
  });

  test("of a share goes by the capacity", () => {
    const settings = config({ evictionHard: { "memory.available": "10%" } });
    expect(evicted(new Node(settings).pass(0, 858993472))).toEqual([]);
    expect(evicted(new Node(settings).pass(0, 858993471))).toEqual(["hog"]);
  });

  test("once it has evicted stays met until its minimum reclaim is free too", () => {
    const node = new Node(config({ evictionMinimumReclaim: { "memory.available": "50Mi" } }));
    expect(evicted(node.pass(0, 120 * Mi))).toEqual([]);
    expect(evicted(node.pass(10_000, 99 * Mi))).toEqual(["hog"]);
    expect(evicted(node.pass(20_000, 149 * Mi))).toEqual(["hog"]);
    expect(evicted(node.pass(30_000, 150 * Mi))).toEqual([]);
    expect(evicted(node.pass(40_000, 120 * Mi))).toEqual([]);
  });

  test("is seen again with a newer measurement only: stale stats never evict twice", () => {
    const node = new Node(config());
    const stale: Observation = { available: Mi, capacity, timeMs: 5 };
    expect(evicted(node.pass(10, { "memory.available": stale }))).toEqual(["hog"]);
    expect(evicted(node.pass(10_010, { "memory.available": stale }))).toEqual([]);
    expect(evicted(node.pass(20_010, { "memory.available": { ...stale, timeMs: 6 } }))).toEqual(["hog"]);
  });
});

describe("a soft threshold", () => {
  const soft = (grace = "30s", more: EvictionSettings = {}, minor = 36): EvictionConfig =>
    config(
      {
        evictionHard: { "memory.available": "100Mi" },
        evictionSoft: { "memory.available": "500Mi" },
        evictionSoftGracePeriod: { "memory.available": grace },
        ...more,
      },
      minor,
      { maxPodGracePeriodSeconds: 20 },
    );

  test("evicts when it has been met for its grace", () => {
    const node = new Node(soft());
    for (const at of [0, 10_000, 20_000, 29_999]) expect(evicted(node.pass(at, 400 * Mi))).toEqual([]);
    expect(evicted(node.pass(30_000, 400 * Mi))).toEqual(["hog"]);
  });

  test("starts its grace over when it was not met in between", () => {
    const node = new Node(soft());
    expect(evicted(node.pass(0, 400 * Mi))).toEqual([]);
    expect(evicted(node.pass(20_000, 500 * Mi))).toEqual([]);
    expect(evicted(node.pass(30_000, 400 * Mi))).toEqual([]);
    expect(evicted(node.pass(50_000, 400 * Mi))).toEqual([]);
    expect(evicted(node.pass(60_000, 400 * Mi))).toEqual(["hog"]);
  });

  test("keeps no minimum reclaim while its grace runs", () => {
    const node = new Node(soft("30s", { evictionMinimumReclaim: { "memory.available": "100Mi" } }));
    node.pass(0, 400 * Mi);
    expect(node.pass(10_000, 550 * Mi).met).toEqual([]);
  });

  test("gives way to a hard one that is met", () => {
    const pass = new Node(soft()).pass(0, 50 * Mi);
    expect(pass.evictions[0]).toMatchObject({ threshold: 100 * Mi, graceSeconds: 1 });
  });

  test("reports MemoryPressure from its first observation on", () => {
    expect(new Node(soft()).pass(0, 400 * Mi).memoryPressure).toBe(true);
  });
});

describe("the node condition MemoryPressure", () => {
  test("stays for the transition period after it was last observed", () => {
    const node = new Node(config());
    expect(node.pass(0, Gi).memoryPressure).toBe(false);
    expect(node.pass(10_000, Mi).memoryPressure).toBe(true);
    expect(node.pass(20_000, Mi).memoryPressure).toBe(true);
    expect(node.pass(319_999, Gi).memoryPressure).toBe(true);
    expect(node.pass(320_000, Gi).memoryPressure).toBe(false);
  });

  test("is told in the kubelet's words", () => {
    expect(memoryPressureCondition(true)).toEqual({
      status: "True",
      reason: "KubeletHasInsufficientMemory",
      message: "kubelet has insufficient memory available",
    });
    expect(memoryPressureCondition(false)).toEqual({
      status: "False",
      reason: "KubeletHasSufficientMemory",
      message: "kubelet has sufficient memory available",
    });
  });

  test("keeps BestEffort Pods away, and only those", () => {
    const ask = (more: Partial<Parameters<typeof refusal>[1]> = {}, pressure = true): unknown =>
      refusal(pressure, { spared: false, bestEffort: true, toleratesMemoryPressure: false, ...more });
    expect(ask()).toEqual({
      phase: "Failed",
      reason: "Evicted",
      message: "The node had condition: [MemoryPressure]. ",
    });
    expect(ask({}, false)).toBeNull();
    expect(ask({ bestEffort: false })).toBeNull();
    expect(ask({ toleratesMemoryPressure: true })).toBeNull();
    expect(ask({ spared: true })).toBeNull();
  });
});

describe("the order of eviction", () => {
  const order = (pods: EvictablePod[], stats: Record<string, PodStats>): string[] =>
    rankMemoryPressure(pods, (name) => stats[name] ?? null).map(({ name }) => name);
  const worked = { x: using(1100 * Mi), y: using(50 * Mi), z: using(1.9 * Gi) };

  test("the worked example: over the request first, then the lower priority, then the larger excess", () => {
    const [x, z] = [pod("x", "1Gi", { priority: 0 }), pod("z", "2Gi", { priority: -5 })];
    expect(order([z, pod("y", null, { priority: 100 }), x], worked)).toEqual(["x", "y", "z"]);
    expect(order([pod("y", null, { priority: 0 }), z, x], worked)).toEqual(["x", "y", "z"]);
  });

  test("a Pod under its request goes last however low its priority", () => {
    expect(
      order([pod("under", "1Gi", { priority: -100 }), pod("over", "1Mi", { priority: 1000 })], {
        under: using(900 * Mi),
        over: using(2 * Mi),
      }),
    ).toEqual(["over", "under"]);
  });

  test("at its request is not over it", () => {
    const pods = [pod("at", "100Mi", { priority: -1 }), pod("over", "100Mi", { priority: 5 })];
    expect(order(pods, { at: using(100 * Mi), over: using(100 * Mi + 1) })).toEqual(["over", "at"]);
  });

  test("a BestEffort Pod is over its request by its first byte, and not before", () => {
    const pods = [pod("guaranteed", "1Gi"), pod("empty", null, { priority: -1 }), pod("byte", null)];
    expect(order(pods, { guaranteed: using(Gi), empty: using(0), byte: using(1) })).toEqual([
      "byte",
      "empty",
      "guaranteed",
    ]);
  });

  test("no priority is 0", () => {
    const pods = [pod("none", null), pod("low", null, { priority: -1 }), pod("high", null, { priority: 1 })];
    expect(order(pods, { none: using(Mi), low: using(Mi), high: using(Mi) })).toEqual(["low", "none", "high"]);
  });

  test("a Pod without stats goes before all others", () => {
    const pods = [pod("hog", null, { priority: -10 }), pod("new", "8Gi", { priority: 1000 })];
    expect(order(pods, { hog: using(4 * Gi) })).toEqual(["new", "hog"]);
  });

  test("neither QoS class nor oom_score_adj have a say: a Guaranteed Pod over its request goes before a BestEffort one of higher priority", () => {
    const pods = [pod("besteffort", null, { priority: 10 }), pod("guaranteed", "100Mi", { priority: 0 })];
    // A Pod cannot be over a Guaranteed limit by much, but kernel memory and tmpfs count.
    expect(order(pods, { besteffort: using(Gi), guaranteed: using(101 * Mi) })).toEqual(["guaranteed", "besteffort"]);
  });
});

describe("who is spared", () => {
  const critical = pod("critical", null, { priority: 2_000_000_000 });
  test.each([
    ["system-node-critical", { priority: 2_000_001_000 }, true],
    ["system-cluster-critical", { priority: 2_000_000_000 }, true],
    ["the highest of users' own", { priority: 1_000_000_000 }, false],
    ["just below", { priority: 1_999_999_999 }, false],
    ["a static Pod", { static: true, priority: 0 }, true],
    ["no priority", {}, false],
  ])("%s", (_, more, spared) => {
    expect(isSpared(pod("p", null, more))).toBe(spared);
  });

  test("the next in the order goes in its place, with its own rank", () => {
    const pods = [critical, pod("static", null, { static: true, priority: -5 }), pod("app", "1Gi")];
    const stats = { critical: using(2 * Gi), static: using(Gi), app: using(900 * Mi) };
    const pass = new Node(config(), pods, stats).pass(0, Mi);
    expect(pass.ranking.map(({ pod: name, rank, spared }) => [name, rank, spared])).toEqual([
      ["static", 1, true],
      ["critical", 2, true],
      ["app", 3, false],
    ]);
    expect(pass.evictions.map(({ pod: name, rank }) => [name, rank])).toEqual([["app", 3]]);
  });

  test("where all are spared nothing happens but a line in the log", () => {
    const pass = new Node(config(), [critical], { critical: using(Gi) }).pass(0, Mi);
    expect(evicted(pass)).toEqual([]);
    expect(pass.log).toBe("unable to evict any pods from the node");
    expect(pass.event?.reason).toBe("EvictionThresholdMet");
  });

  test("where no Pod is left there is nobody to evict", () => {
    const pass = new Node(config(), []).pass(0, Mi);
    expect(evicted(pass)).toEqual([]);
    expect(pass.log).toBe("eviction thresholds have been met, but no pods are active to evict");
  });
});

describe("what is said", () => {
  const hog = pod("hog", "100Mi", {
    containers: [
      { name: "app", init: false, request: amount("100Mi") },
      { name: "sidecar", init: true, request: null },
      { name: "small", init: false, request: amount("1Gi") },
    ],
  });
  const stats = { hog: using(500 * Mi, { app: 123456 * 1024, sidecar: 2 * Mi, small: 10 * Mi }) };
  const said = (minor: number, victim = hog, of: Record<string, PodStats> = stats): Pass["evictions"][number] => {
    const [eviction] = new Node(config({}, minor), [victim], of).pass(0, 98764 * 1024).evictions;
    if (!eviction) throw new Error("nobody was evicted");
    return eviction;
  };

  test("on the node when a threshold evicts", () => {
    expect(new Node(config()).pass(0, Mi).event).toEqual({
      type: "Warning",
      reason: "EvictionThresholdMet",
      message: "Attempting to reclaim memory",
    });
  });

  test("of the Pod by a new kubelet", () => {
    expect(said(36)).toMatchObject({
      message:
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 98764Ki. " +
        "Container app was using 123456Ki, request is 100Mi, has larger consumption of memory. " +
        "Container sidecar was using 2Mi, request is 0, has larger consumption of memory. ",
      annotations: {
        offending_containers: "app,sidecar",
        offending_containers_usage: "123456Ki,2Mi",
        starved_resource: "memory",
      },
    });
  });

  test("of the Pod by kubelet 1.20", () => {
    expect(said(20)).toMatchObject({
      message:
        "The node was low on resource: memory. Container app was using 123456Ki, which exceeds its request of 100Mi. ",
      annotations: {
        offending_containers: "app",
        offending_containers_usage: "123456Ki",
        starved_resource: "memory",
      },
      condition: null,
    });
  });

  test.each([25, 26])("the words changed with 1.26, the condition DisruptionTarget came (1.%i)", (minor) => {
    const { message, condition } = said(minor);
    expect(message.includes("Threshold quantity")).toBe(minor >= 26);
    expect(condition).toEqual(
      minor >= 26 ? { type: "DisruptionTarget", status: "True", reason: "TerminationByKubelet", message } : null,
    );
  });

  test("bytes that are no multiple of 1024 are printed as they are", () => {
    expect(said(36, hog, { hog: using(Gi, { app: 123456789 }) }).message).toContain("was using 123456789, request");
  });

  test("a Pod-level request is told first, exceeded or not", () => {
    const { message, annotations } = said(36, { ...hog, request: 2 * Gi, podRequest: amount("2Gi") });
    expect(message).toContain(
      "98764Ki. Pod hog was using 500Mi, request is 2Gi, has larger consumption of memory. Container app",
    );
    expect(annotations).toMatchObject({ offending_pod: "hog", offending_pod_usage: "500Mi" });
  });

  test("of a Pod without stats only the threshold is told", () => {
    expect(said(36, hog, {})).toMatchObject({
      message: "The node was low on resource: memory. Threshold quantity: 100Mi, available: 98764Ki. ",
      annotations: {},
    });
  });

  test("a share is printed as the bytes it comes to", () => {
    const settings = config({ evictionHard: { "memory.available": "12.5%" } });
    expect(new Node(settings).pass(0, 512).evictions[0]?.message).toContain(
      "Threshold quantity: 1Gi, available: 512. ",
    );
  });
});

describe("how a Pod is killed", () => {
  test.each([
    // hard, evictionMaxPodGracePeriod, the Pod's own
    [20, true, 0, 30, 0],
    [21, true, 60, 30, 0],
    // The 0 of "at once" was taken for none (kubernetes #115819).
    [22, true, 0, 30, 30],
    [30, true, 0, 7, 7],
    [30, true, 0, null, 30],
    [31, true, 0, 30, 1],
    [36, true, 60, 30, 1],
    [20, false, 0, 30, 0],
    [20, false, 60, 30, 60],
    [25, false, 60, 30, 60],
    [25, false, 0, 30, 30],
    [31, false, 60, 30, 60],
    [32, false, 60, 30, 30],
    [36, false, 20, 30, 20],
    [36, false, 0, 30, 1],
    [36, false, -1, 30, 1],
  ])("1.%i, hard %s, maximum %i s, its own %s s: %i s", (minor, hard, maximum, own, seconds) => {
    expect(evictionGraceSeconds({ minor, maxPodGracePeriodSeconds: maximum }, hard, own)).toBe(seconds);
  });

  test("the kubelet waits half as long again as the grace, ten seconds at least", () => {
    const soft = (maximum: number): number | undefined =>
      new Node(
        config(
          { evictionSoft: { "memory.available": "1Gi" }, evictionSoftGracePeriod: { "memory.available": "0s" } },
          29,
          { maxPodGracePeriodSeconds: maximum },
        ),
        [pod("hog", null, { terminationGracePeriodSeconds: maximum })],
      ).pass(0, Mi).evictions[0]?.killTimeoutMs;
    expect([soft(1), soft(7), soft(60)]).toEqual([10_000, 10_000, 90_000]);
  });
});

describe("a memory-backed volume over its size limit", () => {
  const full = (size: number): PodStats => ({ workingSet: size, containers: {}, volumes: { cache: size } });
  const owner = (name: string, more: Partial<EvictablePod> = {}): EvictablePod =>
    pod(name, "1Gi", { volumes: [{ name: "cache", sizeLimit: amount("64Mi") }], ...more });

  test("costs its Pod its place, on a node with memory to spare", () => {
    const pass = new Node(config(), [owner("a"), owner("b")], { a: full(64 * Mi), b: full(64 * Mi + 1) }).pass(
      0,
      4 * Gi,
    );
    expect(pass.evictions).toMatchObject([
      { pod: "b", rank: null, signal: null, message: 'Usage of EmptyDir volume "cache" exceeds the limit "64Mi". ' },
    ]);
  });

  test("comes before memory, and takes all such Pods at once", () => {
    const pods = [owner("a"), owner("b"), owner("critical", { static: true }), pod("hog", null)];
    const stats = { a: full(65 * Mi), b: full(66 * Mi), critical: full(67 * Mi), hog: using(4 * Gi) };
    expect(evicted(new Node(config(), pods, stats).pass(0, Mi))).toEqual(["a", "b"]);
  });
});

describe("the loop", () => {
  const pass = (evictions: string[]): Pass => ({
    ...new Node(config()).pass(0, Gi),
    evictions: evictions.map((name) => ({ pod: name }) as Pass["evictions"][number]),
  });

  test("sleeps ten seconds after a pass that evicted nobody", () => {
    expect(advance({ type: "passed", nowMs: 1234, pass: pass([]) })).toEqual({ do: "pass", atMs: 11_234 });
  });

  test("kills, then looks each second whether the Pod is gone, and passes at once when it is", () => {
    expect(advance({ type: "passed", nowMs: 0, pass: pass(["hog"]) }).do).toBe("kill");
    let next: Next = advance({ type: "killed", nowMs: 1_500, pods: ["hog"] });
    expect(next).toEqual({ do: "look", pods: ["hog"], atMs: 2_500, untilMs: 31_500 });
    if (next.do !== "look") throw new Error();
    next = advance({ type: "looked", nowMs: 2_510, look: next, cleanedUp: false });
    expect(next).toMatchObject({ do: "look", atMs: 3_500 });
    if (next.do !== "look") throw new Error();
    expect(advance({ type: "looked", nowMs: 3_502, look: next, cleanedUp: true })).toEqual({ do: "pass", atMs: 3_502 });
  });

  test("waits thirty seconds at most", () => {
    let next: Next = advance({ type: "killed", nowMs: 0, pods: ["hog"] });
    let looks = 0;
    while (next.do === "look") {
      looks++;
      next = advance({ type: "looked", nowMs: next.atMs, look: next, cleanedUp: false });
    }
    expect([looks, next]).toEqual([30, { do: "pass", atMs: 30_000 }]);
  });
});

describe("what is read", () => {
  const statV1 = "cache 5\nrss 6\ninactive_file 1\ntotal_cache 50\ntotal_inactive_file 4096\ntotal_active_file 8192\n";
  const statV2 = "anon 1000000\nfile 500000\nkernel 700000\ninactive_anon 1\nactive_file 3\ninactive_file 200000\n";
  const meminfo = "MemTotal:        1000000 kB\nMemFree:          600000 kB\n";

  test("on v1 usage without the inactive file pages of the whole tree", () => {
    expect(memoryUse({ version: 1, usage: "1000000\n", stat: statV1, meminfo: null }, 20)).toEqual({
      usage: 1000000,
      workingSet: 995904,
    });
  });

  test("on v2 memory.current without inactive_file", () => {
    expect(memoryUse({ version: 2, usage: "1000000\n", stat: statV2, meminfo }, 36).workingSet).toBe(800000);
  });

  test("never less than nothing", () => {
    expect(memoryUse({ version: 2, usage: "100\n", stat: statV2, meminfo }, 36).workingSet).toBe(0);
  });

  test("at the root of v2 anon and file, so kernel memory does not count", () => {
    expect(memoryUse({ version: 2, usage: null, stat: statV2, meminfo }, 36)).toEqual({
      usage: 1500000,
      workingSet: 1300000,
    });
  });

  test("at the root of v2 until 1.28 all that is not free, kernel memory and all", () => {
    expect(memoryUse({ version: 2, usage: null, stat: statV2, meminfo }, 28).usage).toBe(400000 * 1024);
  });

  test("the notifier of v1 waits for the usage at which the working set reaches the threshold", () => {
    const [hard] = config().thresholds;
    if (!hard) throw new Error();
    const threshold = notifierThreshold(hard, { usage: 5 * Gi, workingSet: 4 * Gi, available: 4 * Gi });
    expect(threshold).toBe(8 * Gi - 100 * Mi + Gi);
  });

  test("Pods are read each ten seconds and as much again by chance, less often while nothing moves", () => {
    expect(nextHousekeeping(null, false, 0)).toEqual({ intervalMs: 10_000, waitMs: 10_000 });
    expect(nextHousekeeping(10_000, false, 0.5).waitMs).toBe(15_000);
    expect(nextHousekeeping(10_000, true, 1)).toEqual({ intervalMs: 15_000, waitMs: 30_000 });
    expect(nextHousekeeping(15_000, false, 0)).toEqual({ intervalMs: 10_000, waitMs: 10_000 });
  });
});

describe("whatever the node does", () => {
  const pods = fc.uniqueArray(
    fc.record({
      name: fc.string({ minLength: 1, maxLength: 3 }),
      priority: fc.option(fc.constantFrom(-5, 0, 7, 2_000_000_000)),
      static: fc.boolean(),
      request: fc.nat(2 ** 31),
      workingSet: fc.option(fc.nat(2 ** 31)),
    }),
    { selector: ({ name }) => name, maxLength: 8 },
  );
  const made = (specs: { name: string; priority: number | null; static: boolean; request: number }[]): EvictablePod[] =>
    specs.map(({ name, priority, request, static: isStatic }) =>
      pod(name, null, { priority, request, static: isStatic }),
    );
  const statsOf =
    (specs: { name: string; workingSet: number | null }[]) =>
    (name: string): PodStats | null => {
      const workingSet = specs.find((spec) => spec.name === name)?.workingSet ?? null;
      return workingSet === null ? null : using(workingSet);
    };

  test("a pass evicts one Pod at most, never a spared one, and whom it ranks first of the others", () => {
    fc.assert(
      fc.property(pods, fc.nat(200 * Mi), (specs, available) => {
        const pass = synchronize(config(), initialState, 0, node(available, 0), made(specs), statsOf(specs));
        expect(pass.evictions.length).toBeLessThanOrEqual(1);
        const first = pass.ranking.find(({ spared }) => !spared);
        if (available < 100 * Mi) expect(evicted(pass)).toEqual(first ? [first.pod] : []);
        else expect(evicted(pass)).toEqual([]);
      }),
    );
  });

  test("the order ranks each Pod once, and no Pod before one that goes before it", () => {
    fc.assert(
      fc.property(pods, (specs) => {
        const stats = statsOf(specs);
        const ranked = rankMemoryPressure(made(specs), stats);
        expect(ranked.map(({ name }) => name).toSorted()).toEqual(specs.map(({ name }) => name).toSorted());
        const key = (one: EvictablePod): [number, number, number] => {
          const known = stats(one.name);
          return [
            known === null ? 0 : known.workingSet > one.request ? 1 : 2,
            one.priority ?? 0,
            known === null ? 0 : one.request - known.workingSet,
          ];
        };
        for (const [index, one] of ranked.entries()) {
          const next = ranked[index + 1];
          if (!next) continue;
          const [a, b] = [key(one), key(next)];
          const differs = a.findIndex((value, at) => value !== b[at]);
          if (differs >= 0) expect(a[differs]).toBeLessThan(b[differs] ?? Number.NaN);
        }
      }),
    );
  });

  test("a soft threshold evicts only when it was met in every pass of its grace", () => {
    const settings = config({
      evictionHard: {},
      evictionSoft: { "memory.available": "500Mi" },
      evictionSoftGracePeriod: { "memory.available": "25s" },
    });
    fc.assert(
      fc.property(fc.array(fc.boolean(), { maxLength: 12 }), (low) => {
        const node = new Node(settings);
        for (const [index, isLow] of low.entries()) {
          const pass = node.pass(index * 10_000, isLow ? 400 * Mi : 600 * Mi);
          const since = low.slice(0, index + 1).lastIndexOf(false) + 1;
          expect(pass.evictions.length).toBe(isLow && (index - since) * 10_000 >= 25_000 ? 1 : 0);
        }
      }),
    );
  });

  test("MemoryPressure holds exactly while a threshold was met less than the transition period ago", () => {
    const settings = config({}, 36, { pressureTransitionPeriodMs: 35_000 });
    fc.assert(
      fc.property(fc.array(fc.boolean(), { maxLength: 15 }), (low) => {
        const node = new Node(settings);
        for (const [index, isLow] of low.entries()) {
          const { memoryPressure } = node.pass(index * 10_000, isLow ? Mi : Gi);
          const last = low.slice(0, index + 1).lastIndexOf(true);
          expect(memoryPressure).toBe(last >= 0 && (index - last) * 10_000 < 35_000);
        }
      }),
    );
  });
});

describe("the race in virtual time", () => {
  /** A Pod that grows evenly from `startMs` on, polls from 0 on: who ends it? Killing takes no time. */
  function race(settings: EvictionConfig, free: number, ratePerMs: number, startMs: number): "eviction" | "oom" {
    const available = (at: number): number => Math.floor(free - Math.max(0, at - startMs) * ratePerMs);
    let state = initialState;
    let next: Next = { do: "pass", atMs: 0 };
    for (;;) {
      if (next.do !== "pass") throw new Error(`the loop asks for ${next.do}`);
      if (available(next.atMs) < 0) return "oom";
      const observations = node(available(next.atMs), next.atMs);
      const pass = synchronize(settings, state, next.atMs, observations, [pod("hog", null)], () => using(Gi));
      state = pass.state;
      if (pass.evictions.length > 0) {
        const graceSeconds = pass.evictions[0]?.graceSeconds ?? 0;
        return available(next.atMs + graceSeconds * 1000) < 0 ? "oom" : "eviction";
      }
      next = advance({ type: "passed", nowMs: next.atMs, pass });
    }
  }

  const hard = config({}, 20);
  const perSecond = (mebibytes: number): number => (mebibytes * Mi) / 1000;

  test("at up to a tenth of the threshold a second the kubelet is always in time", () => {
    fc.assert(
      fc.property(fc.double({ min: 0.1, max: 10, noNaN: true }), fc.nat(9_999), (rate, start) => {
        expect(race(hard, Gi, perSecond(rate), start)).toBe("eviction");
      }),
    );
  });

  test("faster growth hangs on when it began: there is a start at which the kernel is first, and one at which it is not", () => {
    const outcomes = (rate: number): Set<string> =>
      new Set(Array.from({ length: 100 }, (_, tenths) => race(hard, Gi, perSecond(rate), tenths * 100)));
    expect(outcomes(9)).toEqual(new Set(["eviction"]));
    expect(outcomes(20)).toEqual(new Set(["eviction", "oom"]));
  });

  test("the grace that kubelets from 1.22 to 1.30 give loses races that others win", () => {
    expect(race(config({}, 21), Gi, perSecond(5), 0)).toBe("eviction");
    expect(race(config({}, 25), Gi, perSecond(5), 0)).toBe("oom");
    expect(race(config({}, 31), Gi, perSecond(5), 0)).toBe("eviction");
  });
});
