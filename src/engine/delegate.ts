/** Where systemd owns the cgroup tree, it is asked for a part of it (https://systemd.io/CGROUP_DELEGATION). */
import { closeSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { MachineError } from "../errors.ts";
import type { Addon, ExitInfo } from "../native.ts";

export interface DelegatedScope {
  /** The scope's directory in the memory controller's hierarchy. */
  directory: string;
  close(): Promise<void>;
}

const waitMs = 10_000;

/**
 * Asks systemd for a transient scope with `Delegate=yes`, held open by a `sleep` of ours.
 * `mount`: the hierarchy's mount point. Throws MachineError with systemd-run's own words where it is refused.
 */
export async function delegatedScope(
  addon: Addon,
  name: string,
  version: 1 | 2,
  mount: string,
  systemdRun = "/usr/bin/systemd-run",
): Promise<DelegatedScope> {
  const user = process.getuid?.() === 0 ? [] : ["--user"];
  const [output, write] = addon.pipe();
  let ended: ExitInfo | null = null;
  const holder = addon.spawn({
    file: systemdRun,
    args: [
      "systemd-run",
      ...user,
      "--scope",
      "--quiet",
      "--collect",
      `--unit=${name}`,
      "-p",
      "Delegate=yes",
      "sleep",
      "infinity",
    ],
    env: Object.entries(process.env).map(([key, value]) => `${key}=${value}`),
    stdio: [-1, write, write],
    pdeathsig: 9,
  });
  closeSync(write);
  const exited = new Promise<void>((done) => {
    addon.onExit(holder, (exit) => {
      ended = exit;
      done();
    });
  });
  const close = async (directory: string | null): Promise<void> => {
    addon.signal(holder, 9);
    await exited;
    closeSync(output);
    // systemd removes the scope itself; the leaf is ours.
    if (directory !== null && version === 2) rmdirSync(join(directory, "holder"));
  };
  try {
    const deadline = performance.now() + waitMs;
    for (;;) {
      if (ended !== null)
        throw new MachineError(
          "NO_SCOPE",
          `systemd-run could not make a delegated scope: ${readFileSync(output, "utf8").trim()}`,
          { hint: "run oomlab as root, or in a session with a systemd user instance" },
        );
      const path = cgroupPath(readFileSync(`/proc/${holder.pid}/cgroup`, "latin1"), version);
      if (path?.includes(`${name}.scope`)) {
        const directory = join(mount, path);
        if (version === 2) {
          // The scope may pass controllers on only when it holds no process itself.
          mkdirSync(join(directory, "holder"), { recursive: true });
          writeFileSync(join(directory, "holder", "cgroup.procs"), String(holder.pid));
        }
        return { directory, close: () => close(directory) };
      }
      if (performance.now() > deadline)
        throw new MachineError("NO_SCOPE", `systemd did not make the scope ${name}.scope within ${waitMs / 1000} s`);
      await sleep(5);
    }
  } catch (error) {
    await close(null);
    throw error;
  }
}

/** A process's cgroup in the memory controller's hierarchy, from the text of /proc/PID/cgroup. */
function cgroupPath(text: string, version: 1 | 2): string | null {
  for (const line of text.split("\n")) {
    const [id, controllers, ...path] = line.split(":");
    if (version === 2 ? id === "0" : controllers?.split(",").includes("memory")) return path.join(":");
  }
  return null;
}
