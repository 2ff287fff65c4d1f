/** What the kubelet beside the Pods sees, decides and says, as lines of a run's record. Sizes in bytes. */
import type { ApiEvent, Eviction, RankedPod } from "./eviction.ts";
import type { MemorySignal } from "./eviction-thresholds.ts";

export interface SignalReading {
  signal: MemorySignal;
  available: number;
  capacity: number;
  usage: number;
  workingSet: number;
}

/** `did` is what it did. */
export type KubeletEvent = { type: "kubelet" } & (
  | {
      did: "start";
      /** Its version, 1.`minor`. */
      minor: number;
      /** What it set of the kernel, as every kubelet does; on a machine of the run's own only. */
      sysctl: Record<string, string>;
      /** The node's memory as the kubelet finds it (MemTotal). */
      capacity: number;
      /** What all Pods may take together, as read; null: no limit. */
      kubepodsLimit: number | null;
      thresholds: { signal: MemorySignal; bytes: number; text: string; gracePeriodMs: number }[];
    }
  /** A pass: by the clock, or by the kernel's notification. `met`, `due`: signals, `due` past their grace too. */
  | {
      did: "pass";
      by: "poll" | "notifier";
      signals: SignalReading[];
      met: MemorySignal[];
      due: MemorySignal[];
      /** The order in which Pods would go, by what the kubelet knows of them. */
      ranking: RankedPod[];
      /** /proc/PID/oom_score of each container's first process: whom the kernel would take. */
      oomScores: Record<string, number>;
      /** What its log says where it should evict and cannot. */
      log: string | null;
      ms: number;
    }
  /** The node's condition MemoryPressure changed. */
  | { did: "condition"; status: "True" | "False"; reason: string; message: string }
  /** A threshold is due: the event on the node. */
  | { did: "threshold-met"; event: ApiEvent }
  | { did: "evict"; eviction: Eviction; event: ApiEvent }
  /** The Pod's processes are gone, or the time that the kubelet waits for that is over. */
  | { did: "killed"; pod: string; ms: number; timedOut: boolean }
  /** The Pod's cgroups were looked at until they were empty. */
  | { did: "cleaned-up"; pods: string[]; ms: number; timedOut: boolean }
  /** The kernel's notification (cgroup v1) was armed at a usage, or could not be. */
  | { did: "armed"; signal: MemorySignal; usage: number; problem: string | null }
);
