/** cgroup v2 (Documentation/admin-guide/cgroup-v2.rst). */
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { CgroupDriver, Counters } from "./driver.ts";
import {
  flatKeyed,
  makeDirectory,
  openFiles,
  pressure,
  readControl,
  readProcs,
  removeDirectory,
  singleValue,
  writeControl,
} from "./files.ts";

const keyed = ["memory.events", "memory.events.local", "memory.swap.events", "memory.stat", "cgroup.events"];
const single = [
  "memory.current",
  "memory.peak",
  "memory.max",
  "memory.swap.current",
  "memory.swap.peak",
  "memory.zswap.current",
];

export function driverV2(root: string): CgroupDriver {
  const files = openFiles(root);

  const levels = (name: string, which: readonly string[]): Counters => {
    const counters: Counters = {};
    for (const file of which) {
      const text = files.read(name, file);
      const value = text === undefined ? undefined : singleValue(text);
      if (value !== undefined) counters[file] = value;
    }
    return counters;
  };

  return {
    version: 2,
    oomEventFile: "memory.events",
    create: (name) => makeDirectory(join(root, name)),
    remove(name) {
      files.forget(name);
      return removeDirectory(join(root, name));
    },
    write(name, file, text) {
      // Each controller in a write of its own: one that cannot be had must not take the others along.
      for (const part of file === "cgroup.subtree_control" ? text.split(" ") : [text])
        writeControl(join(root, name, file), part);
      try {
        return readControl(join(root, name, file)).trim();
      } catch {
        return null;
      }
    },
    procs: (name) => readProcs(join(root, name, "cgroup.procs")),
    levels: (name) => levels(name, ["memory.current", "memory.swap.current"]),
    counters(name) {
      const counters = levels(name, single);
      for (const file of keyed) {
        const text = files.read(name, file);
        if (text !== undefined) flatKeyed(text, file, counters);
      }
      const stalls = files.read(name, "memory.pressure");
      if (stalls !== undefined) pressure(stalls, "memory.pressure", counters);
      counters["cgroup.procs"] = this.procs(name).length;
      return counters;
    },
    placement(name) {
      const cgroupProcs = [join(root, name, "cgroup.procs")];
      // Up to 6.2 a process that is cloned into a cgroup keeps its parent's cpuset (42a11bf5c543 mends it).
      const cloned = !existsSync(join(root, name, "cpuset.mems"));
      return cloned ? { cgroupFd: files.directory(name), cgroupProcs } : { cgroupProcs };
    },
    attach: (name, pid) => writeControl(join(root, name, "cgroup.procs"), String(pid)),
    kill(name) {
      const file = join(root, name, "cgroup.kill");
      if (!existsSync(file)) return false;
      writeControl(file, "1");
      return true;
    },
    close: () => files.close(),
  };
}
