/** The kubelet of a plan: what it goes by, and which cgroups and processes its Pods are. JSON. */
import type { KubeletConfig } from "./config.ts";
import type { Amount, EvictablePod, EvictionConfig } from "./eviction.ts";
import { parseThresholds } from "./eviction-thresholds.ts";
import { podRequest } from "./layout.ts";
import type { ContainerSpec, PodSpec } from "./pod.ts";
import { formatQuantity, parseQuantity, quantityValue } from "./quantity.ts";

export interface PlannedContainer {
  name: string;
  init: boolean;
  /** Restarted init containers end after the others. */
  sidecar: boolean;
  request: Amount | null;
  /** As the plan names them. */
  cgroup: string;
  process: string;
}

export interface PlannedPod extends Omit<EvictablePod, "containers" | "volumes"> {
  cgroup: string;
  containers: PlannedContainer[];
  /** `volume`: the plan's name of it. */
  volumes: (EvictablePod["volumes"][number] & { volume: string })[];
}

export interface PlannedKubelet {
  config: EvictionConfig;
  /** The cgroup of all Pods, as the plan names it. */
  kubepods: string;
  pods: PlannedPod[];
}

/** What the manager goes by, of a node's configuration. */
function evictionConfig(kubelet: KubeletConfig): EvictionConfig {
  const { thresholds } = parseThresholds(
    {
      evictionHard: kubelet.evictionHard ?? undefined,
      evictionSoft: kubelet.evictionSoft ?? undefined,
      evictionSoftGracePeriod: kubelet.evictionSoftGracePeriod ?? undefined,
      evictionMinimumReclaim: kubelet.evictionMinimumReclaim ?? undefined,
      enforceNodeAllocatable: kubelet.enforceNodeAllocatable,
      mergeDefaultEvictionSettings: kubelet.mergeDefaultEvictionSettings,
    },
    kubelet.minor,
  );
  return {
    minor: kubelet.minor,
    thresholds,
    maxPodGracePeriodSeconds: kubelet.evictionMaxPodGracePeriod,
    pressureTransitionPeriodMs: kubelet.evictionPressureTransitionPeriodMs,
    memcgNotification: kubelet.kernelMemcgNotification,
  };
}

/** The kubelet of a node with these Pods; `kubepods` is the name of the cgroup of all Pods. */
export function planKubelet(kubelet: KubeletConfig, pods: readonly PodSpec[], kubepods: string): PlannedKubelet {
  return { config: evictionConfig(kubelet), kubepods, pods: pods.map((pod) => planPod(pod, kubelet)) };
}

function planPod(pod: PodSpec, kubelet: KubeletConfig): PlannedPod {
  const container =
    (init: boolean) =>
    ({ name, requests, sidecar }: ContainerSpec): PlannedContainer => ({
      name,
      init,
      sidecar: sidecar && kubelet.minor >= 29,
      request: amountOf(requests["memory"]),
      cgroup: `${pod.name}/${name}`,
      process: `${pod.name}/${name}`,
    });
  return {
    name: pod.name,
    cgroup: pod.name,
    priority: pod.priority,
    static: pod.static,
    request: Number(podRequest(pod, kubelet)),
    podRequest: kubelet.podLevelResources ? amountOf(pod.resources?.requests["memory"]) : null,
    terminationGracePeriodSeconds: pod.terminationGracePeriodSeconds,
    containers: [...pod.containers.map(container(false)), ...pod.initContainers.map(container(true))],
    volumes: pod.volumes.flatMap(({ name, sizeLimit }) => {
      const limit = amountOf(sizeLimit ?? undefined);
      return limit === null ? [] : [{ name, sizeLimit: limit, volume: `${pod.name}/${name}` }];
    }),
  };
}

function amountOf(text: string | undefined): Amount | null {
  if (text === undefined) return null;
  const quantity = parseQuantity(text);
  return { bytes: Number(quantityValue(quantity)), text: formatQuantity(quantity) };
}
