/** cgroup v1 (Documentation/admin-guide/cgroup-v1/memory.rst): its counters told in cgroup v2's names. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { CgroupDriver, Counters } from "./driver.ts";
import {
  flatKeyed,
  makeDirectory,
  openFiles,
  readControl,
  readProcs,
  removeDirectory,
  singleValue,
  writeControl,
} from "./files.ts";

/** memory.stat of v1 names that mean what v2 calls otherwise. */
const statNames: Record<string, string> = {
  rss: "anon",
  cache: "file",
  rss_huge: "anon_thp",
  mapped_file: "file_mapped",
};

export function driverV1(memoryRoot: string, cpusetRoot: string | null): CgroupDriver {
  const files = openFiles(memoryRoot);
  /** Children, by parent: v2's memory.events counts those of all descendants, v1's counters only their own. */
  const names = new Set<string>();

  const value = (name: string, file: string): number | "max" | undefined => {
    const text = files.read(name, file);
    return text === undefined ? undefined : singleValue(text);
  };

  const local = (name: string): Counters => {
    const counters: Counters = {};
    const set = (key: string, got: number | "max" | undefined): void => {
      if (got !== undefined) counters[key] = got;
    };
    set("memory.failcnt", value(name, "memory.failcnt"));
    set("memory.memsw.failcnt", value(name, "memory.memsw.failcnt"));
    const control = files.read(name, "memory.oom_control");
    if (control !== undefined) flatKeyed(control, "memory.oom_control", counters);
    return counters;
  };

  return {
    version: 1,
    oomEventFile: "memory.oom_control",
    create(name) {
      makeDirectory(join(memoryRoot, name));
      names.add(name);
      // Kernels before 5.11 make a new top cgroup that does not bind its children.
      const hierarchy = join(memoryRoot, name, "memory.use_hierarchy");
      if (existsSync(hierarchy) && readControl(hierarchy).trim() === "0") writeControl(hierarchy, "1");
      if (cpusetRoot === null) return;
      makeDirectory(join(cpusetRoot, name));
      // A v1 cpuset starts empty, and no task may enter an empty one.
      for (const file of ["cpuset.cpus", "cpuset.mems"]) {
        if (readControl(join(cpusetRoot, name, file)).trim() === "")
          writeControl(join(cpusetRoot, name, file), readControl(join(cpusetRoot, name, "..", file)).trim());
      }
    },
    remove(name) {
      files.forget(name);
      const gone = [memoryRoot, cpusetRoot].map((root) => root === null || removeDirectory(join(root, name)));
      names.delete(name);
      return gone.every(Boolean);
    },
    write(name, file, text) {
      const root = file.startsWith("cpuset.") ? (cpusetRoot ?? memoryRoot) : memoryRoot;
      writeControl(join(root, name, file), text);
      try {
        return readControl(join(root, name, file)).trim();
      } catch {
        return null;
      }
    },
    procs: (name) => readProcs(join(memoryRoot, name, "cgroup.procs")),
    levels(name) {
      const counters: Counters = {};
      const current = value(name, "memory.usage_in_bytes");
      if (current !== undefined) counters["memory.current"] = current;
      const both = value(name, "memory.memsw.usage_in_bytes");
      if (typeof both === "number" && typeof current === "number")
        counters["memory.swap.current"] = Math.max(0, both - current);
      return counters;
    },
    counters(name) {
      const counters: Counters = { ...this.levels(name), ...local(name) };
      const set = (key: string, got: number | "max" | undefined): void => {
        if (got !== undefined) counters[key] = got;
      };
      set("memory.peak", value(name, "memory.max_usage_in_bytes"));
      set("memory.max", value(name, "memory.limit_in_bytes"));
      set("memory.usage_in_bytes", counters["memory.current"]);
      set("memory.max_usage_in_bytes", counters["memory.peak"]);
      set("memory.limit_in_bytes", counters["memory.max"]);
      set("memory.memsw.usage_in_bytes", value(name, "memory.memsw.usage_in_bytes"));
      set("memory.memsw.limit_in_bytes", value(name, "memory.memsw.limit_in_bytes"));
      set("memory.memsw.max_usage_in_bytes", value(name, "memory.memsw.max_usage_in_bytes"));
      set("memory.kmem.usage_in_bytes", value(name, "memory.kmem.usage_in_bytes"));
      const stat = files.read(name, "memory.stat");
      if (stat !== undefined) {
        const raw: Counters = {};
        flatKeyed(stat, "memory.stat", raw);
        for (const [key, number] of Object.entries(raw)) {
          const short = key.slice("memory.stat.".length);
          counters[key] = number;
          const v2 = statNames[short];
          if (v2 !== undefined) counters[`memory.stat.${v2}`] = number;
        }
      }
      // v2's memory.events counts descendants in; memory.events.local does not (mm/memcontrol.c memcg_memory_event).
      const own = counters;
      const below = [...names]
        .filter((other) => (name === "" ? other !== "" : other.startsWith(`${name}/`)))
        .map(local);
      const sum = (key: string, of: Counters): number => (typeof of[key] === "number" ? of[key] : 0);
      const total = (key: string): number => below.reduce((all, child) => all + sum(key, child), sum(key, own));
      if (typeof own["memory.oom_control.oom_kill"] === "number") {
        counters["memory.events.local.oom_kill"] = own["memory.oom_control.oom_kill"];
        counters["memory.events.oom_kill"] = total("memory.oom_control.oom_kill");
      }
      // With memory and swap limited alike, memory.memsw.failcnt counts and memory.failcnt does not. Kernels from 6.13
      // count neither (page_counter.c track_failcnt): a limit that was reached with a count of 0 says nothing.
      const hits = sum("memory.failcnt", own) + sum("memory.memsw.failcnt", own);
      const reached = typeof own["memory.peak"] === "number" && own["memory.peak"] === own["memory.max"];
      if (hits > 0 || !reached) {
        counters["memory.events.local.max"] = hits;
        counters["memory.events.max"] = total("memory.failcnt") + total("memory.memsw.failcnt");
      }
      counters["cgroup.procs"] = this.procs(name).length;
      return counters;
    },
    placement: (name) => ({
      cgroupProcs: [memoryRoot, cpusetRoot]
        .filter((root) => root !== null)
        .map((root) => join(root, name, "cgroup.procs")),
    }),
    attach(name, pid) {
      for (const root of [memoryRoot, cpusetRoot])
        if (root !== null) writeControl(join(root, name, "cgroup.procs"), String(pid));
    },
    kill: () => false,
    close: () => files.close(),
  };
}
