/** How much memory a scenario can take, and whether this machine can spare it. Sizes in bytes. Pure. */
import type { Capabilities, PlannedProcess } from "../plan.ts";
import type { Scenario, Size } from "../scenario/index.ts";
import { formatBytes } from "../units.ts";
import { cgroupNames, childrenOf, effectiveLimit } from "./tree.ts";

/** A size of a workload in bytes; `whole`: what a percentage is of. */
export const sizeIn = (size: Size, whole: number): number =>
  "bytes" in size ? size.bytes : Math.floor((whole * size.percent) / 100);

/** What a percentage in a workload is a percentage of: the limit above the process, else the machine's memory. */
export function wholeOf(scenario: Scenario, cgroup: string | null, caps: Capabilities): number {
  const limit = effectiveLimit(scenario, cgroup);
  return Number.isFinite(limit) ? limit : (scenario.machine.memory ?? caps.memTotal);
}

/** Memory that the scenario can take at most: what presses, bounded by each limit above it. */
export function demandOf(scenario: Scenario, processes: PlannedProcess[]): number {
  const own = new Map<string | null, number>();
  for (const { cgroup, bytes, workers } of processes)
    own.set(cgroup, (own.get(cgroup) ?? 0) + (bytes === null ? Number.POSITIVE_INFINITY : bytes * workers));
  const children = childrenOf(cgroupNames(scenario));
  const below = (cgroup: string | null): number => {
    const all = children.get(cgroup) ?? [];
    const demand = (own.get(cgroup) ?? 0) + all.reduce((sum, child) => sum + below(child), 0);
    return cgroup === null ? demand : Math.min(demand, effectiveLimit(scenario, cgroup));
  };
  return below(null);
}

/** Room for the files that the scenario's processes write, twice over; null where none writes any. */
export function scratchSize(scenario: Scenario, memory: number): number | null {
  const sizes = scenario.processes.flatMap(({ workload }) =>
    workload.kind === "stress"
      ? workload.stress.memory
          .filter(({ kind }) => kind === "file" || kind === "fileWrite")
          .map(({ size }) => sizeIn(size, memory) * workload.stress.workers)
      : workload.kind === "command"
        ? [memory]
        : [],
  );
  return sizes.length === 0 ? null : 256 * 1048576 + 2 * sizes.reduce((sum, size) => sum + mebibytes(size), 0);
}

/** Rounded down to whole MiB: as sizes of whole machines are told. */
export const mebibytes = (bytes: number): number => Math.floor(bytes / 1048576) * 1048576;

/** What this machine keeps for its kernel and everything else that runs on it. */
const hostReserve = ({ memTotal }: Capabilities): number => Math.min(512 * 1048576, Math.floor(memTotal / 10));

/** In words, why this machine cannot spare `demand` bytes (infinite: no limit holds it) and its reserve; null: it can. */
export function shortOf(demand: number, host: Capabilities): string | null {
  const reserve = hostReserve(host);
  const wanted = Number.isFinite(demand) ? formatBytes(mebibytes(demand)) : "any amount";
  return demand + reserve > host.memAvailable
    ? `${wanted} of memory, and ${formatBytes(mebibytes(host.memAvailable))} are available on this machine, which keeps ${formatBytes(mebibytes(reserve))} for itself`
    : null;
}
