/** The kubelet of a plan: what it goes by, and which cgroups and processes its Pods are. JSON. */
import type { EvictablePod, EvictionConfig } from "./eviction.ts";

export interface PlannedContainer {
  name: string;
  init: boolean;
  /** Restarted init containers end after the others. */
  sidecar: boolean;
  request: EvictablePod["containers"][number]["request"];
  /** As the plan names them. */
  cgroup: string;
  process: string;
}

export interface PlannedPod extends Omit<EvictablePod, "containers" | "volumes"> {
  cgroup: string;
  containers: PlannedContainer[];
  /** `path`: where the tmpfs is mounted; null: it is not, and nobody knows what it holds. */
  volumes: (EvictablePod["volumes"][number] & { path: string | null })[];
}

export interface PlannedKubelet {
  config: EvictionConfig;
  /** The cgroup of all Pods, as the plan names it. */
  kubepods: string;
  pods: PlannedPod[];
}
