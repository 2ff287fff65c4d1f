/** The key `machine`: what a scenario needs of the machine it runs on. */
import { formatBytes } from "../units.ts";
import type { JsonSchema } from "./place.ts";
import { size, someSize } from "./quantities.ts";
import { boolean, byForm, choice, field, integer, list, map, object, rawText, record } from "./shape.ts";
import type { Shape } from "./shape.ts";
import type { MachineNeeds } from "./types.ts";

const swap = byForm("a size such as 512Mi, or { size, kind }", {
  scalar: map(size, (bytes): { size: number; kind: "disk" | "zram" } => ({ size: bytes, kind: "disk" })),
  map: map(
    object("{ size, kind }", {
      size: field(size, "how much"),
      kind: field(choice("disk", "zram"), "a disk, or compressed memory", { default: "disk" }),
    }),
    (given, place): { size: number; kind: "disk" | "zram" } | undefined =>
      given.size === undefined
        ? place.sound
          ? place.wrong("expected the key size")
          : undefined
        : { size: given.size, kind: given.kind ?? "disk" },
  ),
});

const sysctl = record(
  "kernel settings such as { vm.panic_on_oom: 1 }",
  ({ key, at, value }): [string, string] | undefined => {
    if (!/^[a-z][a-z0-9_]*(?:[./][A-Za-z0-9_-]+)+$/.test(key))
      return at.wrong("expected the name of a sysctl such as vm.panic_on_oom");
    const read = rawText("a value", (given) => (/[\0\r\n]/.test(given) ? "a value is one line" : undefined)).read(
      value,
    );
    return read === undefined ? undefined : [key, read];
  },
  () => ({
    type: "object",
    propertyNames: { pattern: "^[a-z][a-z0-9_]*([./][A-Za-z0-9_-]+)+$" },
    additionalProperties: { type: ["string", "number", "boolean"] },
  }),
);

const MOUNT_OPTIONS = [
  "memory_recursiveprot",
  "memory_localevents",
  "memory_hugetlb_accounting",
  "nsdelegate",
  "favordynmods",
  "pids_localevents",
] as const;

const kernel = {
  ...rawText("a version such as 6.1, latest, or a path", (value) =>
    /^\d+(?:\.\d+){0,3}(?:[-+~][\w.+~-]*)?$|^latest$|\//.test(value) && !/[\0\r\n]/.test(value)
      ? undefined
      : "it is none of them",
  ),
  json: (): JsonSchema => ({ type: ["string", "number"] }),
};

const cgroupVersion: Shape<1 | 2> = {
  ...map(
    rawText("v1 or v2"),
    (value, place): 1 | 2 | undefined =>
      ({ 1: 1 as const, v1: 1 as const, 2: 2 as const, v2: 2 as const })[value] ?? place.expected("v1 or v2"),
  ),
  json: () => ({ enum: ["v1", "v2", 1, 2] }),
};

export const machine: Shape<MachineNeeds> = map(
  object("needs such as { memory: 1Gi }", {
    memory: field(someSize, "its RAM; a machine of its own, so a VM"),
    swap: field(swap, "its swap: a size, or { size, kind: disk | zram }; so a VM. 0: none"),
    cpus: field(integer(1, 4096), "how many CPUs"),
    numa: field(
      list(someSize, "a size for each NUMA node, such as [1Gi, 1Gi]", { min: 1 }),
      "the memory of each NUMA node",
      { example: "[1Gi, 1Gi]" },
    ),
    kernel: field(kernel, "the kernel: a version (6.1), latest, or a path", { default: "the machine's own" }),
    cgroup: field(cgroupVersion, "the cgroup version it must have"),
    sysctl: field(sysctl, "kernel settings", { example: "{ vm.panic_on_oom: 1 }" }),
    thp: field(choice("always", "madvise", "never"), "transparent huge pages"),
    zswap: field(boolean(), "whether zswap is on"),
    mountOptions: field(
      list(choice(...MOUNT_OPTIONS), "mount options such as [memory_recursiveprot]"),
      "options of the cgroup2 mount",
    ),
    available: field(someSize, "memory that must be free, on whatever machine it runs"),
  }),
  (given, place) => {
    const total = given.numa?.reduce((sum, next) => sum + next, 0);
    if (total !== undefined && given.memory !== undefined && total !== given.memory) {
      return place.wrong(
        `the nodes of numa have ${formatBytes(total)} together, memory says ${formatBytes(given.memory)}`,
      );
    }
    return {
      memory: given.memory ?? null,
      swap: given.swap ?? null,
      cpus: given.cpus ?? null,
      numa: given.numa ?? null,
      kernel: given.kernel ?? null,
      cgroup: given.cgroup ?? null,
      sysctl: Object.fromEntries(given.sysctl ?? []),
      thp: given.thp ?? null,
      zswap: given.zswap ?? null,
      mountOptions: given.mountOptions ?? [],
      available: given.available ?? null,
    };
  },
);
