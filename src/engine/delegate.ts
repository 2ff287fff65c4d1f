/** Where systemd owns the cgroup tree, it is asked for a part of it (https://systemd.io/CGROUP_DELEGATION). */
import { closeSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { cgroupOf, removeDirectory } from "../cgroup/index.ts";
import { MachineError } from "../errors.ts";
import type { Addon, ExitInfo } from "../native.ts";
import type { Hierarchy } from "../plan.ts";

export interface HeldScope {
  /** Lets the scope go; resolves when systemd has removed it, or has had time to. */
  close(): Promise<void>;
}

const waitMs = 10_000;
const goneMs = 2_000;

/** Of the unit, in systemctl's lists. */
const description = "oomlab: the cgroups of a run";

/**
 * As root: a transient scope with `Delegate=yes` in system.slice, held open by a `sleep` of ours; this process stays
 * where it is. `hierarchy`: the one that the run uses, its directory the slice. Throws MachineError with systemd-run's
 * own words where it is refused.
 */
export async function heldScope(addon: Addon, scope: string, hierarchy: Hierarchy): Promise<HeldScope> {
  const { version } = hierarchy;
  const directory = join(hierarchy.directory, scope);
  const [output, write] = addon.pipe();
  let ended: ExitInfo | null = null;
  const holder = addon.spawn({
    file: "/usr/bin/systemd-run",
    args: [
      ["systemd-run", "--scope", "--quiet", "--collect", `--unit=${scope}`, "--slice=system.slice"],
      [`--description=${description}`, "--property=Delegate=yes", "sleep", "infinity"],
    ].flat(),
    env: Object.entries(process.env).map(([key, value]) => `${key}=${value}`),
    stdio: [-1, write, write],
    setsid: true,
    pdeathsig: 9,
  });
  closeSync(write);
  const exited = new Promise<void>((done) => {
    addon.onExit(holder, (exit) => {
      ended = exit;
      done();
    });
  });
  const leaf = join(directory, "holder");
  const close = async (): Promise<void> => {
    addon.signal(holder, 9);
    await exited;
    closeSync(output);
    // systemd removes an empty scope with all that is in it; whoever is second finds nothing.
    if (version === 2) removeDirectory(leaf);
    await until(() => !existsSync(directory), goneMs);
  };
  try {
    const controller = version === 2 ? "cgroup2" : "memory";
    const isIn = (): boolean => cgroupOf(readStatus(holder.pid), controller) === `${hierarchy.path}/${scope}`;
    await until(() => ended !== null || isIn(), waitMs);
    if (ended !== null)
      throw refused(`systemd-run could not make a delegated scope: ${readFileSync(output, "utf8").trim()}`);
    if (!isIn()) throw refused(`systemd did not make the scope ${hierarchy.path}/${scope} within ${waitMs / 1000} s`);
    if (version === 2) {
      // The scope may pass controllers on only when it holds no process itself.
      mkdirSync(leaf, { recursive: true });
      writeFileSync(join(leaf, "cgroup.procs"), String(holder.pid));
    }
    return { close };
  } catch (error) {
    await close();
    throw error;
  }
}

/**
 * As a user: moves this process into a scope of the user's own systemd instance, where it may make cgroups and start
 * processes in them (a login session's cgroup is root's, and nobody but root moves a process out of it). systemd removes
 * the scope when this process ends. Once a process; `slice`: the path of the slice.
 */
export async function enterScope(scope: string, slice: string): Promise<void> {
  const isIn = (): boolean => {
    const path = cgroupOf(readStatus("self"), "cgroup2");
    return path === `${slice}/${scope}` || path?.startsWith(`${slice}/${scope}/`) === true;
  };
  if (isIn()) return;
  // org.freedesktop.systemd1(5), StartTransientUnit: what systemd-run --scope asks for, of a process that runs already.
  const properties = [
    ["PIDs", "au", "1", String(process.pid)],
    ["Delegate", "b", "true"],
    ["Slice", "s", "app.slice"],
    ["CollectMode", "s", "inactive-or-failed"],
    ["Description", "s", description],
  ];
  const { execFile } = await import("node:child_process");
  const words = await new Promise<string | null>((resolve) => {
    execFile(
      "busctl",
      [
        [`--address=unix:path=/run/user/${process.getuid?.() ?? 0}/bus`],
        ["--quiet", "call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1"],
        ["org.freedesktop.systemd1.Manager", "StartTransientUnit", "ssa(sv)a(sa(sv))"],
        [scope, "fail", String(properties.length), ...properties.flat(), "0"],
      ].flat(),
      { timeout: waitMs },
      (error, _stdout, stderr) => resolve(error === null ? null : stderr.trim() || error.message),
    );
  });
  if (words !== null) throw refused(`this user's systemd instance made no delegated scope: ${words}`);
  await until(isIn, waitMs);
  if (!isIn())
    throw refused(`this user's systemd instance did not make the scope ${slice}/${scope} within ${waitMs / 1000} s`);
}

const refused = (message: string): MachineError =>
  new MachineError("NO_SCOPE", message, {
    hint: "run oomlab as root, in a cgroup delegated to it (systemd-run --scope -p Delegate=yes oomlab ...), or in a VM (--machine vm)",
  });

/** Waits until something holds, or the time is up. */
async function until(holds: () => boolean, ms: number): Promise<void> {
  const deadline = performance.now() + ms;
  while (!holds() && performance.now() < deadline) await sleep(5);
}

/** /proc/PID/cgroup; "" where the process is gone. */
function readStatus(pid: number | "self"): string {
  try {
    return readFileSync(`/proc/${pid}/cgroup`, "latin1");
  } catch {
    return "";
  }
}
