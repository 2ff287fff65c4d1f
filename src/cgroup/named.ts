/** A driver whose cgroups go by other names than their directories: Pods and containers. */
import type { CgroupDriver } from "./driver.ts";

export function namedDriver(driver: CgroupDriver, directoryOf: (name: string) => string): CgroupDriver {
  return {
    version: driver.version,
    oomEventFile: driver.oomEventFile,
    create: (name) => driver.create(directoryOf(name)),
    remove: (name) => driver.remove(directoryOf(name)),
    write: (name, file, value) => driver.write(directoryOf(name), file, value),
    procs: (name) => driver.procs(directoryOf(name)),
    counters: (name) => driver.counters(directoryOf(name)),
    levels: (name) => driver.levels(directoryOf(name)),
    placement: (name) => driver.placement(directoryOf(name)),
    attach: (name, pid) => driver.attach(directoryOf(name), pid),
    kill: (name) => driver.kill(directoryOf(name)),
    close: () => driver.close(),
  };
}
