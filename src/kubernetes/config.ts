/**
 * A node as its kubelet sees it: the KubeletConfiguration as it is (kubelet.config.k8s.io/v1beta1), read with the
 * defaults of the kubelet's version. Only what concerns memory is kept; the rest is checked and listed as ignored.
 */
import { parseGoDuration, parseThresholds } from "./eviction-thresholds.ts";
import { parseQuantity, quantityValue } from "./quantity.ts";
import { at, didYouMean, type Value } from "./value.ts";

/** Minor versions of the kubelets that are modelled. */
const oldestMinor = 20;
export const newestMinor = 37;

export type Runtime = "docker" | "containerd" | "cri-o";

/** What of a kubelet decides about memory; JSON, sizes in bytes as decimal strings. */
export interface KubeletConfig {
  /** The kubelet is version 1.`minor`. */
  minor: number;
  /** null: not given, so the version's own way (see driverOf). */
  cgroupDriver: "cgroupfs" | "systemd" | null;
  cgroupRoot: string;
  enforceNodeAllocatable: string[];
  kubeReserved: string;
  systemReserved: string;
  kubeReservedCgroup: string;
  systemReservedCgroup: string;
  evictionHard: Record<string, string> | null;
  evictionSoft: Record<string, string> | null;
  evictionSoftGracePeriod: Record<string, string> | null;
  evictionMinimumReclaim: Record<string, string> | null;
  evictionMaxPodGracePeriod: number;
  evictionPressureTransitionPeriodMs: number;
  mergeDefaultEvictionSettings: boolean;
  kernelMemcgNotification: boolean;
  failSwapOn: boolean;
  failCgroupV1: boolean;
  /** `Runtime`: before 1.28 the kubelet says nothing and the container runtime's own way holds. */
  swapBehavior: "NoSwap" | "LimitedSwap" | "UnlimitedSwap" | "Runtime";
  singleProcessOOMKill: boolean;
  memoryQoS: boolean;
  memoryThrottlingFactor: number | null;
  /** `Always`: up to 1.35 memory.min follows requests wherever MemoryQoS is on. */
  memoryReservationPolicy: "None" | "TieredReservation" | "Always";
  podLevelResources: boolean;
  sizeMemoryBackedVolumes: boolean;
  /** The share of memory requests that QOSReserved keeps, in percent; null: off. */
  qosReservedMemory: number | null;
  /** Fields that do not concern memory, in the order written. */
  ignored: string[];
}

type Kind = "boolean" | "integer" | "number" | "text" | "duration" | "list" | "map" | "gates" | "any";

/** Every field of the KubeletConfiguration (staging/src/k8s.io/kubelet/config/v1beta1/types.go), by kind. */
const FIELD_NAMES: Readonly<Record<Kind, string>> = {
  boolean:
    "enableServer rotateCertificates serverTLSBootstrap enableDebuggingHandlers enableContentionProfiling cgroupsPerQOS singleProcessOOMKill runOnce cpuCFSQuota serializeImagePulls mergeDefaultEvictionSettings enableControllerAttachDetach protectKernelDefaults makeIPTablesUtilChains failSwapOn kernelMemcgNotification enableSystemLogHandler enableSystemLogQuery enableProfilingHandler enableDebugFlagsHandler seccompDefault registerNode localStorageCapacityIsolation failCgroupV1",
  integer:
    "port readOnlyPort registryPullQPS registryBurst eventRecordQPS eventBurst healthzPort oomScoreAdj nodeLeaseDurationSeconds imageGCHighThresholdPercent imageGCLowThresholdPercent maxPods podPidsLimit nodeStatusMaxImages maxOpenFiles kubeAPIQPS kubeAPIBurst maxParallelImagePulls evictionMaxPodGracePeriod podsPerCore iptablesMasqueradeBit iptablesDropBit containerLogMaxFiles containerLogMaxWorkers",
  number: "memoryThrottlingFactor",
  text: "staticPodPath podLogsDir staticPodURL address volumePluginDir providerID tlsCertFile tlsPrivateKeyFile tlsMinVersion imagePullCredentialsVerificationPolicy healthzBindAddress clusterDomain kubeletCgroups systemCgroups cgroupRoot cgroupDriver cpuManagerPolicy memoryManagerPolicy topologyManagerPolicy topologyManagerScope hairpinMode podCIDR resolvConf contentType containerLogMaxSize configMapAndSecretChangeDetectionStrategy reservedSystemCPUs showHiddenMetricsForVersion systemReservedCgroup kubeReservedCgroup memoryReservationPolicy containerRuntimeEndpoint imageServiceEndpoint",
  duration:
    "syncFrequency fileCheckFrequency httpCheckFrequency streamingConnectionIdleTimeout nodeStatusUpdateFrequency nodeStatusReportFrequency imageMinimumGCAge imageMaximumGCAge volumeStatsAggPeriod cpuManagerReconcilePeriod draManagerReconcilePeriod runtimeRequestTimeout cpuCFSQuotaPeriod evictionPressureTransitionPeriod containerLogMonitorInterval shutdownGracePeriod shutdownGracePeriodCriticalPods",
  list: "tlsCipherSuites preloadedImagesVerificationAllowlist clusterDNS enforceNodeAllocatable allowedUnsafeSysctls",
  map: "cpuManagerPolicyOptions topologyManagerPolicyOptions qosReserved evictionHard evictionSoft evictionSoftGracePeriod evictionMinimumReclaim systemReserved kubeReserved",
  gates: "featureGates",
  any: "staticPodURLHeader tlsCurvePreferences authentication authorization memorySwap logging shutdownGracePeriodByPodPriority crashLoopBackOff reservedMemory registerWithTaints tracing userNamespaces",
};

/** Fields that came with a later kubelet than the oldest modelled: its minor version. */
const SINCE: Readonly<Record<string, number>> = {
  singleProcessOOMKill: 32,
  mergeDefaultEvictionSettings: 33,
  enableSystemLogQuery: 27,
  enableProfilingHandler: 21,
  enableDebugFlagsHandler: 21,
  seccompDefault: 22,
  registerNode: 23,
  localStorageCapacityIsolation: 25,
  failCgroupV1: 31,
  podLogsDir: 30,
  imagePullCredentialsVerificationPolicy: 33,
  memoryManagerPolicy: 21,
  memoryReservationPolicy: 36,
  containerRuntimeEndpoint: 27,
  imageServiceEndpoint: 27,
  imageMaximumGCAge: 29,
  draManagerReconcilePeriod: 36,
  containerLogMonitorInterval: 30,
  tlsCurvePreferences: 36,
  memorySwap: 22,
  shutdownGracePeriodByPodPriority: 22,
  crashLoopBackOff: 32,
  registerWithTaints: 23,
  tracing: 25,
  userNamespaces: 33,
  maxParallelImagePulls: 27,
  containerLogMaxWorkers: 30,
  preloadedImagesVerificationAllowlist: 33,
  cpuManagerPolicyOptions: 22,
  topologyManagerPolicyOptions: 26,
  memoryThrottlingFactor: 22,
};

const FIELDS: ReadonlyMap<string, Kind> = new Map(
  (Object.keys(FIELD_NAMES) as Kind[]).flatMap((kind) =>
    FIELD_NAMES[kind].split(" ").map((name): [string, Kind] => [name, kind]),
  ),
);

/** Fields that decide something about memory here. */
const ABOUT_MEMORY: ReadonlySet<string> = new Set(
  (
    "apiVersion kind cgroupDriver cgroupRoot cgroupsPerQOS enforceNodeAllocatable kubeReserved systemReserved " +
    "kubeReservedCgroup systemReservedCgroup evictionHard evictionSoft evictionSoftGracePeriod " +
    "evictionMinimumReclaim evictionMaxPodGracePeriod evictionPressureTransitionPeriod mergeDefaultEvictionSettings " +
    "kernelMemcgNotification failSwapOn failCgroupV1 memorySwap singleProcessOOMKill memoryThrottlingFactor " +
    "memoryReservationPolicy qosReserved featureGates"
  ).split(" "),
);

/** Feature gates that decide something about memory here: since when they exist, and since when they are on. */
const GATES: Readonly<Record<string, { since: number; on: number | null }>> = {
  NodeSwap: { since: 22, on: 30 },
  MemoryQoS: { since: 22, on: 37 },
  PodLevelResources: { since: 32, on: 34 },
  SidecarContainers: { since: 28, on: 29 },
  SizeMemoryBackedVolumes: { since: 20, on: 22 },
  QOSReserved: { since: 11, on: null },
};

interface Given {
  booleans: Map<string, boolean>;
  numbers: Map<string, number>;
  texts: Map<string, string>;
  lists: Map<string, string[]>;
  maps: Map<string, Map<string, { text: string; place: Value }>>;
  gates: Map<string, boolean>;
}

const READERS: Readonly<Record<Kind, (name: string, place: Value, given: Given) => void>> = {
  boolean(name, place, { booleans }) {
    const read = readBoolean(place);
    if (read !== undefined) booleans.set(name, read);
  },
  integer(name, place, { numbers }) {
    const read = readNumber(place, true);
    if (read !== undefined) numbers.set(name, read);
  },
  number(name, place, { numbers }) {
    const read = readNumber(place, false);
    if (read !== undefined) numbers.set(name, read);
  },
  text(name, place, { texts }) {
    const scalar = place.scalar();
    if (scalar?.kind !== "text") place.wrong(`expected text; got ${place.found}`);
    else texts.set(name, scalar.text);
  },
  duration(name, place, { numbers }) {
    const scalar = place.scalar();
    try {
      numbers.set(name, parseGoDuration(scalar?.text ?? ""));
    } catch (error) {
      place.wrong((error as Error).message, "such as 10s, 2m or 1h30m");
    }
  },
  list(name, place, { lists }) {
    if (!place.isList) place.wrong(`expected a list; got ${place.found}`);
    else
      lists.set(
        name,
        place.items().map((item) => item.scalar()?.text ?? ""),
      );
  },
  map(name, place, { maps }) {
    if (!place.isMap) {
      place.wrong(`expected a mapping; got ${place.found}`);
      return;
    }
    const map = new Map<string, { text: string; place: Value }>();
    for (const { key, value } of place.entries()) {
      const scalar = value.scalar();
      if (scalar === undefined || scalar.kind === "nothing") value.wrong(`expected text; got ${value.found}`);
      else map.set(key, { text: scalar.text, place: value });
    }
    maps.set(name, map);
  },
  gates(_name, place, { gates }) {
    if (!place.isMap) {
      place.wrong(`expected a mapping such as { MemoryQoS: true }; got ${place.found}`);
      return;
    }
    for (const { key, at: keyPlace, value } of place.entries()) {
      const read = readBoolean(value);
      const near = Object.hasOwn(GATES, key) ? undefined : didYouMean(keyPlace, key, Object.keys(GATES));
      if (near !== undefined) keyPlace.wrong(`unrecognized feature gate: ${key}`, near);
      else if (read !== undefined) gates.set(key, read);
    }
  },
  any: () => undefined,
};

function readBoolean(place: Value): boolean | undefined {
  const scalar = place.scalar();
  if (scalar?.kind === "boolean") return scalar.text.toLowerCase() === "true";
  return place.wrong(`expected true or false; got ${place.found}`);
}

function readNumber(place: Value, whole: boolean): number | undefined {
  const scalar = place.scalar();
  const number = scalar?.kind === "number" ? Number(scalar.text) : Number.NaN;
  if (Number.isFinite(number) && (!whole || Number.isInteger(number))) return number;
  return place.wrong(`expected a ${whole ? "whole " : ""}number; got ${place.found}`);
}

/** Reads a kubelet's version: `1.20`, `v1.36.2`. Its minor number, or undefined with the problem noted. */
export function readKubeletVersion(place: Value): number | undefined {
  const text = place.scalar()?.text ?? "";
  const match = /^v?1\.(\d{1,3})(?:\.\d+)?(?:[-+].*)?$/.exec(text);
  const minor = Number(match?.[1] ?? Number.NaN);
  if (minor >= oldestMinor && minor <= newestMinor) return minor;
  // YAML takes 1.2 for what was 1.20.
  const hint = text === "1.2" || text === "1.3" ? `write it in quotes: "${text}0"` : undefined;
  return place.wrong(
    `expected a kubelet's version from 1.${oldestMinor} to 1.${newestMinor}; got ${place.found}`,
    hint,
  );
}

/** The configuration of a kubelet that was given none. */
export function defaultKubelet(minor: number): KubeletConfig {
  return assemble(undefined, minor, {
    booleans: new Map(),
    numbers: new Map(),
    texts: new Map(),
    lists: new Map(),
    maps: new Map(),
    gates: new Map(),
  });
}

/** Reads a KubeletConfiguration for a kubelet of version 1.`minor`; problems are noted at their places. */
export function readKubeletConfig(top: Value, minor: number): KubeletConfig | undefined {
  if (!top.isMap) return top.wrong(`expected a KubeletConfiguration: a mapping; got ${top.found}`);
  const given: Given = {
    booleans: new Map(),
    numbers: new Map(),
    texts: new Map(),
    lists: new Map(),
    maps: new Map(),
    gates: new Map(),
  };
  for (const { key, at: keyPlace, value } of top.entries()) {
    if (key === "kind" || key === "apiVersion") {
      const wanted = key === "kind" ? "KubeletConfiguration" : "kubelet.config.k8s.io/v1beta1";
      if (value.scalar()?.text !== wanted) value.wrong(`expected ${wanted}; got ${value.found}`);
      continue;
    }
    const kind = FIELDS.get(key);
    const since = Object.hasOwn(SINCE, key) ? (SINCE[key] ?? 0) : 0;
    if (kind === undefined)
      keyPlace.wrong(`strict decoding error: unknown field "${key}"`, didYouMean(keyPlace, key, FIELDS.keys()));
    else if (since > minor)
      keyPlace.wrong(
        `strict decoding error: unknown field "${key}": it came with kubelet 1.${since}, this one is 1.${minor}`,
      );
    else if (!value.isNothing) READERS[kind](key, value, given);
  }
  return assemble(top, minor, given);
}

function assemble(top: Value | undefined, minor: number, given: Given): KubeletConfig {
  const { booleans, numbers, texts, lists, maps, gates } = given;
  const place = (name: string): Value | undefined => at(top, name);
  const gate = (name: keyof typeof GATES): boolean => {
    const known = GATES[name];
    if (known === undefined || minor < known.since) return false;
    return gates.get(name) ?? (known.on !== null && minor >= known.on);
  };
  const plainMap = (name: string): Record<string, string> | null => {
    const map = maps.get(name);
    return map === undefined ? null : Object.fromEntries([...map].map(([key, { text }]) => [key, text]));
  };
  const driver = texts.get("cgroupDriver");
  if (driver !== undefined && driver !== "" && driver !== "cgroupfs" && driver !== "systemd")
    place("cgroupDriver")?.wrong(
      `expected cgroupfs or systemd; got ${driver}`,
      didYouMean(place("cgroupDriver") as Value, driver, ["cgroupfs", "systemd"]),
    );
  if (booleans.get("cgroupsPerQOS") === false)
    place("cgroupsPerQOS")?.wrong("a kubelet that makes no cgroups for Pods (cgroupsPerQOS: false) is not modelled");
  const enforce = lists.get("enforceNodeAllocatable") ?? ["pods"];
  checkEnforcement(place("enforceNodeAllocatable"), enforce, texts);
  const evictionHard = plainMap("evictionHard");
  const evictionSoft = plainMap("evictionSoft");
  const evictionSoftGracePeriod = plainMap("evictionSoftGracePeriod");
  const evictionMinimumReclaim = plainMap("evictionMinimumReclaim");
  const merge = booleans.get("mergeDefaultEvictionSettings") ?? false;
  const { problems } = parseThresholds(
    {
      evictionHard: evictionHard ?? undefined,
      evictionSoft: evictionSoft ?? undefined,
      evictionSoftGracePeriod: evictionSoftGracePeriod ?? undefined,
      evictionMinimumReclaim: evictionMinimumReclaim ?? undefined,
      enforceNodeAllocatable: enforce,
      mergeDefaultEvictionSettings: merge,
    },
    minor,
  );
  for (const { field, signal, message } of problems)
    (maps.get(field)?.get(signal)?.place ?? place(field))?.wrong(message);
  const factor = numbers.get("memoryThrottlingFactor");
  if (factor !== undefined && (factor <= 0 || factor > 1))
    place("memoryThrottlingFactor")?.wrong(
      `invalid configuration: memoryThrottlingFactor ${factor} must be greater than 0 and less than or equal to 1.0`,
    );
  const policy = texts.get("memoryReservationPolicy");
  if (policy !== undefined && policy !== "None" && policy !== "TieredReservation")
    place("memoryReservationPolicy")?.wrong(`expected None or TieredReservation; got ${policy}`);
  for (const field of ["cgroupRoot", "kubeReservedCgroup", "systemReservedCgroup"]) {
    const stated = (texts.get(field) ?? "").replace(/^\/+|\/+$/g, "");
    if (stated !== "" && stated.split("/").some((part) => part === "" || part === "." || part === ".."))
      place(field)?.wrong(`expected the path of a cgroup such as /system.slice; got ${texts.get(field) ?? ""}`);
  }
  const memoryQoS = gate("MemoryQoS");
  return {
    minor,
    cgroupDriver: driver === "systemd" || driver === "cgroupfs" ? driver : null,
    cgroupRoot: (texts.get("cgroupRoot") ?? "").replace(/^\/+|\/+$/g, ""),
    enforceNodeAllocatable: enforce,
    kubeReserved: reserved(maps.get("kubeReserved")),
    systemReserved: reserved(maps.get("systemReserved")),
    kubeReservedCgroup: (texts.get("kubeReservedCgroup") ?? "").replace(/^\/+|\/+$/g, ""),
    systemReservedCgroup: (texts.get("systemReservedCgroup") ?? "").replace(/^\/+|\/+$/g, ""),
    evictionHard,
    evictionSoft,
    evictionSoftGracePeriod,
    evictionMinimumReclaim,
    evictionMaxPodGracePeriod: numbers.get("evictionMaxPodGracePeriod") ?? 0,
    // 0 stands for the default too.
    evictionPressureTransitionPeriodMs: numbers.get("evictionPressureTransitionPeriod") || 300_000,
    mergeDefaultEvictionSettings: merge,
    kernelMemcgNotification: booleans.get("kernelMemcgNotification") ?? false,
    failSwapOn: booleans.get("failSwapOn") ?? true,
    failCgroupV1: booleans.get("failCgroupV1") ?? minor >= 35,
    swapBehavior: swapBehavior(place("memorySwap"), minor, gate("NodeSwap")),
    singleProcessOOMKill: booleans.get("singleProcessOOMKill") ?? false,
    memoryQoS,
    // KEP-2570: 0.8 at first, 0.9 from 1.27; from 1.37 nothing unless it is stated.
    memoryThrottlingFactor: factor ?? (minor >= 37 ? null : minor >= 27 ? 0.9 : 0.8),
    memoryReservationPolicy: minor < 36 ? "Always" : policy === "TieredReservation" ? "TieredReservation" : "None",
    podLevelResources: gate("PodLevelResources"),
    sizeMemoryBackedVolumes: gate("SizeMemoryBackedVolumes"),
    qosReservedMemory: gate("QOSReserved") ? qosReserved(maps.get("qosReserved")) : null,
    ignored: [
      ...(top?.entries() ?? []).map(({ key }) => key).filter((key) => FIELDS.has(key) && !ABOUT_MEMORY.has(key)),
      ...[...gates.keys()].filter((name) => !Object.hasOwn(GATES, name)).map((name) => `featureGates.${name}`),
    ],
  };
}

const ENFORCEMENTS = [
  "none",
  "pods",
  "system-reserved",
  "kube-reserved",
  "system-reserved-compressible",
  "kube-reserved-compressible",
];

function checkEnforcement(place: Value | undefined, enforce: readonly string[], texts: Map<string, string>): void {
  if (place === undefined) return;
  for (const [index, option] of enforce.entries()) {
    const item = place.items()[index] ?? place;
    if (!ENFORCEMENTS.includes(option))
      item.wrong(
        `invalid configuration: option "${option}" specified for enforceNodeAllocatable (--enforce-node-allocatable). Valid options are "pods", "system-reserved", "kube-reserved", or "none"`,
        didYouMean(item, option, ENFORCEMENTS.slice(0, 4)),
      );
    if (option === "none" && enforce.length > 1)
      item.wrong(
        'invalid configuration: enforceNodeAllocatable (--enforce-node-allocatable) may not contain additional enforcements when "none" is specified',
      );
    for (const name of ["system", "kube"])
      if (option === `${name}-reserved` && (texts.get(`${name}ReservedCgroup`) ?? "") === "")
        item.wrong(
          `invalid configuration: ${name}ReservedCgroup (--${name}-reserved-cgroup) must be specified when "${name}-reserved" contained in enforceNodeAllocatable (--enforce-node-allocatable)`,
        );
  }
}

/** The memory of a reservation in bytes; all its quantities are checked. */
function reserved(map: Map<string, { text: string; place: Value }> | undefined): string {
  let memory = 0n;
  for (const [name, { text, place }] of map ?? []) {
    if (!["cpu", "memory", "ephemeral-storage", "pid"].includes(name)) {
      place.wrong(
        `cannot reserve "${name}" resource`,
        didYouMean(place, name, ["cpu", "memory", "ephemeral-storage", "pid"]),
      );
      continue;
    }
    try {
      const quantity = parseQuantity(text);
      if (quantity.nano < 0n) place.wrong(`resource quantity for "${name}" cannot be negative: ${text}`);
      else if (name === "memory") memory = quantityValue(quantity);
    } catch (error) {
      place.wrong(`failed to parse quantity "${text}" for "${name}" resource: ${(error as Error).message}`);
    }
  }
  return String(memory);
}

function swapBehavior(place: Value | undefined, minor: number, on: boolean): KubeletConfig["swapBehavior"] {
  if (place !== undefined && !place.isMap)
    place.wrong(
      `memorySwap: expected a mapping; got ${place.found}`,
      "such as memorySwap: { swapBehavior: LimitedSwap }",
    );
  for (const { key, at: keyPlace } of place?.entries() ?? [])
    if (key !== "swapBehavior")
      keyPlace.wrong(
        `strict decoding error: unknown field "memorySwap.${key}"`,
        didYouMean(keyPlace, key, ["swapBehavior"]),
      );
  const behavior = at(place, "swapBehavior");
  const text = behavior?.scalar()?.text ?? "";
  const known =
    minor >= 30 ? ["NoSwap", "LimitedSwap"] : ["LimitedSwap", "UnlimitedSwap", ...(minor >= 28 ? ["NoSwap"] : [])];
  if (text !== "" && !known.includes(text))
    behavior?.wrong(
      `invalid configuration: memorySwap.swapBehavior "${text}" must be one of: "", ${known.join(", ")}`,
      didYouMean(behavior, text, known),
    );
  if (text !== "" && !on)
    behavior?.wrong(
      "invalid configuration: memorySwap.swapBehavior cannot be set when NodeSwap feature flag is disabled",
      "featureGates: { NodeSwap: true }",
    );
  if (text === "UnlimitedSwap") return text;
  if (minor < 28) return "Runtime";
  return text === "LimitedSwap" ? text : "NoSwap";
}

function qosReserved(map: Map<string, { text: string; place: Value }> | undefined): number | null {
  let percent: number | null = null;
  for (const [name, { text, place }] of map ?? []) {
    const number = /^(\d{1,3})%$/.exec(text)?.[1];
    if (name !== "memory") place.wrong(`only memory can be reserved by qosReserved; got ${name}`);
    else if (number === undefined || Number(number) > 100)
      place.wrong(`expected a percentage such as 50%; got ${text}`);
    else percent = Number(number);
  }
  return percent;
}

/**
 * The cgroup driver. The field's own default is cgroupfs; from 1.34 the kubelet takes the runtime's
 * (KubeletCgroupDriverFromCRI), which on cgroup v2 is systemd's.
 */
export function driverOf({ cgroupDriver, minor }: KubeletConfig, version: 1 | 2): "cgroupfs" | "systemd" {
  return cgroupDriver ?? (minor >= 34 && version === 2 ? "systemd" : "cgroupfs");
}

/** The container runtime where none is named: dockershim left with 1.24. */
export const runtimeOf = (minor: number): Runtime => (minor < 24 ? "docker" : "containerd");
