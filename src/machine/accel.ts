/** How QEMU runs the guest: KVM where a guest really gets on with it, else software emulation (TCG). */
import { accessSync, constants, existsSync, readFileSync, realpathSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { VmSpec } from "../plan.ts";
import { identity, recall, remember } from "./cache.ts";
import { execute, which } from "./packages.ts";
import { type QemuParts, startQemu } from "./qemu.ts";

export type Accelerator = "kvm" | "tcg";

/** A kernel's first line is there in 0.2 s under KVM; where KVM does not get on it never comes. */
const firstLineMs = 2_000;
const note = "accelerator";

/** Why KVM cannot be used here, or null where only a guest can tell. `root`: the filesystem looked at. */
export function kvmProblem(root = "/"): string | null {
  const loaded = (module: string): boolean => existsSync(join(root, "sys/module", module));
  if (!existsSync(join(root, "dev/kvm"))) return "there is no /dev/kvm";
  try {
    accessSync(join(root, "dev/kvm"), constants.R_OK | constants.W_OK);
  } catch {
    return "/dev/kvm cannot be opened";
  }
  // Under a para-virtual KVM /dev/kvm opens, a boot sector runs, and no stock kernel boots.
  if (loaded("kvm_pvm")) return "its KVM is para-virtual (module kvm_pvm): stock kernels do not boot on it";
  if (!loaded("kvm_intel") && !loaded("kvm_amd")) return "neither kvm_intel nor kvm_amd is loaded";
  return null;
}

/** What was found out since this machine booted: whether a guest gets on with KVM; null: not tried. */
export function knownAccelerator(): Accelerator | null {
  const known = recall(note, bootId());
  return known === "kvm" || known === "tcg" ? known : null;
}

/** The accelerator of this machine's guests: a real kernel is started with KVM once a boot of the machine. */
export async function accelerator(parts: Omit<QemuParts, "accelerator">): Promise<Accelerator> {
  if (kvmProblem() !== null) return "tcg";
  const known = knownAccelerator();
  if (known !== null) return known;
  const found = (await startsUnderKvm(parts)) ? "kvm" : "tcg";
  try {
    remember(note, bootId(), found);
  } catch {
    // Asked again the next time.
  }
  return found;
}

async function startsUnderKvm(parts: Omit<QemuParts, "accelerator">): Promise<boolean> {
  const qemu = startQemu(
    smallest,
    { ...parts, accelerator: "kvm" },
    { agent: () => undefined, console: () => heard() },
  );
  let heard = (): void => undefined;
  const spoke = new Promise<boolean>((resolve) => {
    heard = () => resolve(true);
  });
  const clock = new AbortController();
  const late = sleep(firstLineMs, false, { signal: clock.signal }).catch(() => false);
  const got = await Promise.race([spoke, late, qemu.ended.then(() => false)]);
  clock.abort();
  qemu.kill();
  await qemu.ended;
  return got;
}

/**
 * QEMU's firmware that starts a kernel and nothing else (qboot), or null where this QEMU has none. Under emulation it
 * takes 0.1 to 0.2 s less than SeaBIOS, which looks for disks and option ROMs; under KVM neither takes long.
 */
export async function kernelFirmware(accel: Accelerator): Promise<string | null> {
  if (accel === "kvm") return null;
  const qemu = realpathSync(which("qemu-system-x86_64") ?? "");
  const state = identity(qemu);
  const known = recall("firmware", state);
  if (known !== null && (known === "" || existsSync(known))) return known === "" ? null : known;
  // Where it looks for firmware, a folder a line (qemu(1), -L).
  const folders = (await execute(qemu, ["-L", "help"])).split("\n").filter((line) => line !== "");
  const found = folders.map((folder) => join(folder, "qboot.rom")).find((file) => existsSync(file)) ?? null;
  try {
    remember("firmware", state, found ?? "");
  } catch {
    // Asked again the next time.
  }
  return found;
}

const smallest: VmSpec = {
  memory: 256 * 1048576,
  cpus: 1,
  numa: null,
  swap: null,
  kernel: null,
  hybrid: false,
  sysctl: {},
  thp: null,
  zswap: null,
  mountOptions: [],
  scratch: null,
};

function bootId(): string {
  try {
    return readFileSync("/proc/sys/kernel/random/boot_id", "latin1").trim();
  } catch {
    return "";
  }
}
