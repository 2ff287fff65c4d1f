/** A booted guest with the agent waiting in it, saved once for each shape of VM and restored for each further scenario. */
import { createHash } from "node:crypto";
import { closeSync, ftruncateSync, openSync, realpathSync, renameSync, rmSync, statSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { MachineError } from "../errors.ts";
import type { CgroupVersion, VmSpec } from "../plan.ts";
import { cached, cachedEntry, dropEntry } from "./cache.ts";
import { execute, which } from "./packages.ts";
import { disksOf, type Qemu, qemuArguments, type QemuParts, type Saved, unlinkedFile } from "./qemu.ts";
import { copyWithoutZeroPages, StreamError } from "./ramstream.ts";

/** Bump it when what a saved guest has done before it was saved changes, or how it is saved. */
const layout = 3;
/** Loading takes 0.2 to 0.9 s (facts of software emulation on a busy host). */
const loadMs = 20_000;
const saveMs = 60_000;

export interface Snapshot {
  /** Its name in the cache. */
  readonly name: string;
}

/** The snapshot of all guests of one shape: same QEMU, command line, image, kernel, cgroup version. */
export function snapshotOf(vm: VmSpec, cgroupVersion: CgroupVersion, parts: QemuParts): Snapshot {
  const qemu = realpathSync(which("qemu-system-x86_64") ?? "");
  const { size, mtimeMs } = statSync(qemu);
  const key = [layout, qemu, size, mtimeMs, qemuArguments(vm, parts), hostCpu(parts), vm, cgroupVersion];
  return { name: `snapshot-${createHash("sha256").update(JSON.stringify(key)).digest("hex").slice(0, 20)}` };
}

/** Under KVM the guest's CPU is the host's. */
const hostCpu = ({ accelerator }: QemuParts): string | null =>
  accelerator === "kvm" ? (cpus()[0]?.model ?? "") : null;

export const isSaved = ({ name }: Snapshot): boolean => cachedEntry(name) !== null;

export const forget = ({ name }: Snapshot): void => dropEntry(name);

/** Saves a guest that waits for its plan; it goes on afterwards, saved or not. Throws MachineError where it cannot be saved. */
export async function save({ name }: Snapshot, guest: Qemu): Promise<void> {
  const { monitor } = guest;
  await monitor.execute("stop");
  try {
    await cached(name, async (folder) => {
      await monitor.execute("migrate-set-parameters", { "max-bandwidth": 2 ** 40 });
      const whole = join(folder, "whole");
      await transfer(guest, "migrate", `exec:exec cat > ${quoted(whole)}`, saveMs);
      withoutZeroPages(whole, join(folder, "state"));
      for (const { serial, fd } of guest.disks)
        await execute("cp", ["--sparse=always", `/proc/${process.pid}/fd/${fd}`, join(folder, serial)]);
    });
  } finally {
    await monitor.execute("cont");
  }
}

/** What startQemu loads it from: its state, and copies of the disks as they were saved. */
export async function saved({ name }: Snapshot, vm: VmSpec): Promise<Saved> {
  const folder = cachedEntry(name);
  if (folder === null) throw new MachineError("SNAPSHOT", "the snapshot is gone");
  const open: number[] = [];
  try {
    open.push(openSync(join(folder, "state"), "r"));
    for (const { serial, size } of disksOf(vm)) {
      const fd = unlinkedFile(size);
      open.push(fd);
      await execute("cp", ["--sparse=always", join(folder, serial), `/proc/${process.pid}/fd/${fd}`]);
      ftruncateSync(fd, size);
    }
  } catch (error) {
    for (const fd of open) closeSync(fd);
    throw error;
  }
  const [state = -1, ...disks] = open;
  return { state, disks };
}

/** Loads the state that a QEMU was given, and lets the guest go on. */
export async function load(guest: Qemu): Promise<void> {
  await transfer(guest, "migrate-incoming", `fd:${guest.stateFd}`, loadMs);
  await guest.monitor.execute("cont");
}

/** A stream of another form than ours is kept as it is. */
function withoutZeroPages(whole: string, state: string): void {
  const from = openSync(whole, "r");
  const to = openSync(state, "wx");
  try {
    copyWithoutZeroPages(from, to);
    rmSync(whole);
  } catch (error) {
    if (!(error instanceof StreamError)) throw error;
    renameSync(whole, state);
  } finally {
    closeSync(from);
    closeSync(to);
  }
}

/** A migration to its end (docs/devel/migration/main.rst). */
async function transfer({ monitor }: Qemu, command: string, uri: string, ms: number): Promise<void> {
  await monitor.execute("migrate-set-capabilities", { capabilities: [{ capability: "events", state: true }] });
  const end = monitor.event("MIGRATION", ({ status }) => status === "completed" || status === "failed");
  // Told by the race below; where the command itself fails nobody waits for it.
  end.catch(() => undefined);
  await monitor.execute(command, { uri });
  const clock = new AbortController();
  const late = sleep(ms, null, { signal: clock.signal }).catch(() => null);
  const data = await Promise.race([end, late]);
  clock.abort();
  if (data?.["status"] !== "completed")
    throw new MachineError(
      "SNAPSHOT",
      data === null ? `QEMU did not end it within ${ms / 1000} s` : "QEMU failed at it",
    );
}

/** For /bin/sh, which QEMU starts. */
const quoted = (path: string): string => `'${path.replaceAll("'", "'\\''")}'`;
