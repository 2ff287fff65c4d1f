/** What this kernel and this user can do, found by looking. */
import { readFileSync, readdirSync, readlinkSync } from "node:fs";
import { availableParallelism, release } from "node:os";
import { probeCgroups, underSystemd } from "../cgroup/index.ts";
import type { Capabilities } from "../plan.ts";
import { findKernelLog } from "./kernel-log.ts";

const read = (path: string): string => {
  try {
    return readFileSync(path, "latin1");
  } catch {
    return "";
  }
};

/** linux/capability.h, those a scenario can need, by bit. */
const capabilityBits: Record<string, number> = {
  KILL: 5,
  SETGID: 6,
  SETUID: 7,
  IPC_LOCK: 14,
  SYS_ADMIN: 21,
  SYS_NICE: 23,
  SYS_RESOURCE: 24,
  SYSLOG: 34,
};

/** Names of userspace OOM killers as they stand in /proc/PID/comm (15 bytes at most). */
export const oomKillers: ReadonlySet<string> = new Set(["systemd-oomd", "earlyoom", "nohang", "oomd"]);

/** The userspace OOM killers that run on this machine, each with the systemd unit it runs in. */
export function runningOomKillers(): { name: string; pid: number; unit: string | null }[] {
  return readdirSync("/proc").flatMap((entry) => {
    if (!/^\d+$/.test(entry)) return [];
    const name = read(`/proc/${entry}/comm`).trim();
    if (!oomKillers.has(name)) return [];
    // On v2 `0::/system.slice/earlyoom.service`, on v1 `1:name=systemd:/system.slice/earlyoom.service`.
    const unit = /^(?:0:|\d+:name=systemd):\/(?:.*\/)?([^/\n]+\.service)$/m.exec(read(`/proc/${entry}/cgroup`))?.[1];
    return [{ name, pid: Number(entry), unit: unit ?? null }];
  });
}

/** Bytes, or pages, by name: each line of /proc/meminfo is `MemTotal:       24683528 kB`. */
function meminfo(): (name: string) => number {
  const values = new Map<string, number>();
  for (const line of read("/proc/meminfo").split("\n")) {
    const colon = line.indexOf(":");
    const number = Number.parseInt(line.slice(colon + 1), 10);
    values.set(line.slice(0, colon), line.endsWith(" kB") ? number * 1024 : number);
  }
  return (name) => values.get(name) ?? 0;
}

/** vm.overcommit_memory: 0 judges each request by itself, 1 grants all, 2 reserves everything, MAP_NORESERVE or not. */
function overcommitMemory(): number | null {
  const value = read("/proc/sys/vm/overcommit_memory").trim();
  return value === "" ? null : Number(value);
}

/** getrlimit(2), RLIMIT_MEMLOCK: the soft limit in bytes, null where there is none. */
function memlock(): number | null {
  const soft = /^Max locked memory\s+(\d+)/m.exec(read("/proc/self/limits"))?.[1];
  return soft === undefined ? null : Number(soft);
}

/** What is of the moment in capabilities that were found earlier, on this machine. */
export function probeAgain(earlier: Capabilities): Capabilities {
  const bytes = meminfo();
  return {
    ...earlier,
    memAvailable: bytes("MemAvailable"),
    swapTotal: bytes("SwapTotal"),
    overcommitMemory: overcommitMemory(),
  };
}

/** Probes the machine oomlab stands on. Cheap (below 2 ms): it runs before every scenario file. `alone`: nothing else runs on it. */
export function probe({ alone = false }: { alone?: boolean } = {}): Capabilities {
  const bytes = meminfo();
  const status = read("/proc/self/status");
  const effective = BigInt(`0x${/^CapEff:\s+([0-9a-f]+)/m.exec(status)?.[1] ?? "0"}`);
  const uid = process.getuid?.() ?? -1;
  const { hierarchies, memoryController, hybrid, problems, systemd } = underSystemd("/", uid, probeCgroups("/"));
  const hugePages = bytes("HugePages_Free") - bytes("HugePages_Rsvd");
  return {
    kernel: release(),
    cpus: availableParallelism(),
    uid,
    memTotal: bytes("MemTotal"),
    memAvailable: bytes("MemAvailable"),
    swapTotal: bytes("SwapTotal"),
    hierarchies,
    memoryController,
    hybrid,
    cgroupProblems: problems,
    ...findKernelLog(),
    capabilities: Object.entries(capabilityBits)
      .filter(([, bit]) => (effective >> BigInt(bit)) & 1n)
      .map(([name]) => name),
    oomScoreAdj: Number(read("/proc/self/oom_score_adj") || 0),
    overcommitMemory: overcommitMemory(),
    memlock: memlock(),
    hugetlbFree: Math.max(0, hugePages) * bytes("Hugepagesize"),
    oomKillers: alone ? [] : [...new Set(runningOomKillers().map(({ name }) => name))].toSorted(),
    systemd: systemd && {
      manager: systemd.manager,
      scope: systemd.manager === "user" ? `oomlab-run-${process.pid}.scope` : null,
    },
    initPidNamespace: linkIs("/proc/self/ns/pid", "pid:[4026531836]"),
  };
}

function linkIs(path: string, target: string): boolean {
  try {
    return readlinkSync(path) === target;
  } catch {
    return false;
  }
}
