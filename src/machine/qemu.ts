/** One QEMU process: its command line, its console and the agent's channel. It dies with this process, and leaves no file. */
import { closeSync, constants, ftruncateSync, mkdtempSync, openSync, rmdirSync, statfsSync, unlinkSync } from "node:fs";
import { Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MachineError } from "../errors.ts";
import { type ExitInfo, loadAddon } from "../native.ts";
import type { VmSpec } from "../plan.ts";
import { formatBytes } from "../units.ts";
import { lineSplitter } from "./agent.ts";
import { which } from "./packages.ts";
import { type Monitor, openMonitor } from "./qmp.ts";

export interface QemuParts {
  kernel: string;
  initrd: string;
  image: string;
  accelerator: "kvm" | "tcg";
  /** Instead of QEMU's own, SeaBIOS. */
  firmware?: string | null;
  /** Of the kernel's command line, beside what every guest has. */
  append?: string;
}

export interface Qemu {
  readonly monitor: Monitor;
  /** The files behind the throwaway disks. */
  readonly disks: readonly { serial: string; fd: number }[];
  /** Its own descriptor of the saved state. */
  readonly stateFd: number;
  /** Sends a line to the agent. */
  send(text: string): void;
  /** Resolves once, when QEMU has ended and all that it said has been read. */
  readonly ended: Promise<QemuEnd>;
  kill(): void;
}

export interface QemuEnd {
  exit: ExitInfo;
  /** QEMU's own complaints. */
  words: string;
}

/** A saved guest: the stream of its state, and its disks. */
export interface Saved {
  state: number;
  disks: number[];
}

export interface QemuHandlers {
  /** A line of the agent's channel. */
  agent(line: string): void;
  /** A line of the guest's console. */
  console(line: string): void;
}

/** Descriptors of the child: 0 nothing, 1 the console, 2 QEMU's own words, 3 the channel, 4 the monitor, then the disks. */
const channelFd = 3;
const monitorFd = 4;
const firstDiskFd = 5;

const scratchRoom = 64 * 1048576;

/** Of a line of the console, in characters: the kernel's own have at most 1024 (kernel/printk/internal.h PRINTK_MESSAGE_MAX 2048). */
const consoleLine = 4096;

/** Disks of the guest beside its image, by serial number. */
export function disksOf(vm: VmSpec): { serial: string; size: number }[] {
  return [
    ...(vm.swap?.kind === "disk" ? [{ serial: "swap", size: vm.swap.size }] : []),
    ...(vm.scratch === null ? [] : [{ serial: "scratch", size: vm.scratch }]),
  ];
}

/** QEMU's arguments. No network device, nothing of the user's configuration. */
export function qemuArguments(vm: VmSpec, parts: QemuParts): string[] {
  const mib = (bytes: number): number => Math.round(bytes / 1048576);
  const nodes = vm.numa ?? [];
  const cpusOf = (node: number): string[] =>
    Array.from({ length: vm.cpus }, (_, cpu) => cpu)
      .filter((cpu) => cpu % nodes.length === node)
      .map((cpu) => `cpus=${cpu}`);
  const flags: string[][] = [
    ["-nodefaults"],
    ["-no-user-config"],
    ["-display", "none"],
    ["-machine", "q35"],
    ["-accel", parts.accelerator === "kvm" ? "kvm" : "tcg,thread=multi"],
    ["-cpu", "max"],
    ["-smp", String(vm.cpus)],
    ["-m", String(mib(vm.memory))],
    ...nodes.flatMap((size, node) => [
      ["-object", `memory-backend-ram,id=mem${node},size=${mib(size)}M`],
      ["-numa", [`node,nodeid=${node}`, ...cpusOf(node), `memdev=mem${node}`].join(",")],
    ]),
    ...(parts.firmware == null ? [] : [["-bios", parts.firmware]]),
    ["-kernel", parts.kernel],
    ["-initrd", parts.initrd],
    ["-append", [kernelArguments, ...(parts.append === undefined ? [] : [parts.append])].join(" ")],
    ["-no-reboot"],
    ["-chardev", "stdio,id=console,signal=off"],
    ["-serial", "chardev:console"],
    ["-device", "virtio-serial-pci"],
    ["-chardev", `socket,id=agent,fd=${channelFd}`],
    ["-device", "virtserialport,chardev=agent,name=oomlab"],
    ["-chardev", `socket,id=monitor,fd=${monitorFd}`],
    ["-mon", "chardev=monitor,mode=control"],
    ["-blockdev", json(imageDisk(parts.image))],
    ["-device", "virtio-blk-pci,drive=image,serial=image"],
    ...disksOf(vm).flatMap(({ serial }, index) => [
      ["-add-fd", `fd=${firstDiskFd + index},set=${index + 1}`],
      ["-blockdev", json(throwawayDisk(serial, index + 1))],
      ["-device", `virtio-blk-pci,drive=${serial},serial=${serial}`],
    ]),
  ];
  return flags.flat();
}

/** swapaccount: before 5.19 Debian's kernels count swap only when asked to. */
/** no_timer_check: the kernel's own test of its timer fails now and then where QEMU emulates on a busy machine. */
const kernelArguments = "console=ttyS0 panic=-1 quiet no_timer_check cryptomgr.notests printk.devkmsg=on swapaccount=1";

const imageDisk = (filename: string): unknown => ({
  driver: "raw",
  "node-name": "image",
  "read-only": true,
  file: { driver: "file", filename },
});

const throwawayDisk = (name: string, set: number): unknown => ({
  driver: "raw",
  "node-name": name,
  cache: { "no-flush": true },
  file: { driver: "file", filename: `/dev/fdset/${set}`, locking: "off", cache: { "no-flush": true } },
});

const json = (value: unknown): string => JSON.stringify(value);

/** `saved`: it waits to be told to load that, instead of booting. Takes its descriptors. */
export function startQemu(vm: VmSpec, parts: QemuParts, handlers: QemuHandlers, saved: Saved | null = null): Qemu {
  const addon = loadAddon();
  const file = which("qemu-system-x86_64");
  if (file === undefined) throw new MachineError("VM_PROGRAMS", "the VM needs qemu-system-x86_64");
  const [consoleRead, consoleWrite] = addon.pipe();
  const [wordsRead, wordsWrite] = addon.pipe();
  const [channel, theirChannel] = addon.socketpair();
  const [control, theirControl] = addon.socketpair();
  const disks = disksOf(vm).map(({ serial, size }, index) => ({
    serial,
    fd: saved?.disks[index] ?? unlinkedFile(size),
  }));
  const given = [consoleWrite, wordsWrite, theirChannel, theirControl];
  const stdio = [-1, ...given, ...disks.map(({ fd }) => fd)];
  if (saved !== null) given.push(saved.state);
  let child: { pid: number; pidfd: number };
  try {
    child = addon.spawn({
      file,
      args: ["qemu-system-x86_64", ...qemuArguments(vm, parts), ...(saved === null ? [] : ["-incoming", "defer"])],
      env: Object.entries(process.env).map(([key, value]) => `${key}=${value}`),
      stdio: saved === null ? stdio : [...stdio, saved.state],
      setsid: true,
      pdeathsig: 9,
    });
  } catch (error) {
    for (const fd of [consoleRead, wordsRead, channel, control, ...disks.map((disk) => disk.fd)]) closeSync(fd);
    throw error;
  } finally {
    for (const fd of given) closeSync(fd);
  }
  let words = "";
  const agent = new Socket({ fd: channel });
  const guestConsole = new Socket({ fd: consoleRead, writable: false });
  const complaints = new Socket({ fd: wordsRead, writable: false });
  const monitor = new Socket({ fd: control });
  const agentLines = lineSplitter((line) => handlers.agent(line));
  // A serial line ends its lines with CR LF; what a guest prints may hold control characters.
  const consoleLines = lineSplitter((line) => handlers.console(line.replaceAll(/\p{Cc}/gu, "")), consoleLine);
  for (const socket of [agent, guestConsole, complaints, monitor]) {
    socket.setEncoding("utf8");
    // The other end goes away with QEMU: its end is told by waitid.
    socket.on("error", () => undefined);
  }
  agent.on("data", (text: string) => agentLines.push(text));
  guestConsole.on("data", (text: string) => consoleLines.push(text));
  complaints.on("data", (text: string) => {
    if (words.length < 16_384) words += text;
  });
  const closed = [agent, guestConsole, complaints, monitor].map(
    (socket) => new Promise<void>((resolve) => socket.once("close", () => resolve())),
  );
  const exited = new Promise<ExitInfo>((resolve) => addon.onExit(child, resolve));
  return {
    monitor: openMonitor(monitor),
    disks,
    stateFd: stdio.length,
    send: (text) => void agent.write(text),
    ended: Promise.all([exited, ...closed]).then(([exit]) => {
      if (consoleLines.rest() !== "") consoleLines.push("\n");
      for (const { fd } of disks) closeSync(fd);
      return { exit, words: words.trim() };
    }),
    kill: () => void addon.signal(child, 9),
  };
}

/** A sparse file that no folder names: it is gone with its last descriptor, whatever ends this process. */
export function unlinkedFile(size: number): number {
  try {
    const folder = mkdtempSync(join(tmpdir(), "oomlab-vm-"));
    const path = join(folder, "disk");
    const fd = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL, 0o600);
    unlinkSync(path);
    rmdirSync(folder);
    ftruncateSync(fd, size);
    return fd;
  } catch (error) {
    throw noDisk(size, (error as Error).message, error);
  }
}

/** Throws MachineError where the disks of a guest have no room, before anything boots. */
export function checkDisks(vm: VmSpec): void {
  // Swap may be filled; of the other few scenarios write more than the file system itself.
  const needed = disksOf(vm).reduce(
    (sum, { serial, size }) => sum + (serial === "swap" ? size : Math.min(size, scratchRoom)),
    0,
  );
  if (needed === 0) return;
  let free: number;
  try {
    const { bavail, bsize } = statfsSync(tmpdir());
    free = bavail * bsize;
  } catch (error) {
    throw noDisk(needed, (error as Error).message, error);
  }
  if (free < needed) throw noDisk(needed, `${formatBytes(Math.floor(free / 1048576) * 1048576)} are free`);
}

const noDisk = (size: number, why: string, cause?: unknown): MachineError =>
  new MachineError("VM_DISK", `the VM's disks (swap, files) take ${formatBytes(size)} in ${tmpdir()}: ${why}`, {
    hint: "name another folder in TMPDIR",
    ...(cause === undefined ? {} : { cause }),
  });
