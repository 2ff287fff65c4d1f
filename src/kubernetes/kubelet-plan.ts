/** The kubelet of a plan: what it goes by, and which cgroups and processes its Pods are. JSON. */
import type { Amount, EvictablePod, EvictionConfig } from "./eviction.ts";

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
