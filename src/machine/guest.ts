/** The agent: the engine's end of the channel, inside a machine that oomlab made. */
import {
  closeSync,
  constants,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  readdirSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { basename, join } from "node:path";
import { StringDecoder } from "node:string_decoder";
import { probe, probeAgain } from "../engine/probe.ts";
import { runProgram } from "../engine/program.ts";
import { runPlan } from "../engine/run.ts";
import { loadAddon } from "../native.ts";
import type { Capabilities, CgroupVersion, Plan, VmSpec } from "../plan.ts";
import { agentProtocol, type Answer, decode, encode, lineSplitter, type Order } from "./agent.ts";
import { hostMachine } from "./host.ts";

/** The machine cannot do what the plan needs: a skip, no error. */
class Unmet extends Error {}

const workFolder = "/tmp/work";
/**
 * What the agent and the pages of its program keep whatever the scenario does. In a small guest only what it cannot read
 * again: what is protected from reclaim is protected from its own reclaim too.
 */
const protectedMemory = (memory: number): number =>
  memory < 192 * 1048576 ? 10 * 1048576 : Math.min(128 * 1048576, Math.floor(memory / 4));

/** Serves one channel: prepared once, then one plan, then done. */
export async function serve(channel: string): Promise<void> {
  const addon = loadAddon();
  const fd = openSync(channel, constants.O_RDWR);
  const answer = (message: Answer): void => writeAll(fd, encode(message));
  const interrupt = new AbortController();
  const decoder = new StringDecoder("utf8");
  const buffer = Buffer.allocUnsafe(65_536);
  const orders: Order[] = [];
  let wake = (): void => undefined;
  const lines = lineSplitter((line) => {
    const message = decode(line) as Order | null;
    if (message === null) return;
    if (message.type === "interrupt") interrupt.abort(message.reason);
    else orders.push(message);
    wake();
  });
  addon.poll(fd, "readable", () => {
    const size = readSync(fd, buffer, 0, buffer.length, null);
    if (size > 0) lines.push(decoder.write(buffer.subarray(0, size)));
  });
  const next = async <T extends Order["type"]>(type: T): Promise<Extract<Order, { type: T }>> => {
    for (;;) {
      const order = orders.shift();
      if (order?.type === type) return order as Extract<Order, { type: T }>;
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
  };
  answer({ type: "hello", protocol: agentProtocol });
  try {
    const { vm, cgroupVersion, rehearsal } = await next("prepare");
    setUp(vm, cgroupVersion);
    mkdirSync(workFolder, { recursive: true });
    process.chdir(workFolder);
    addon.setChildSubreaper(true);
    const known = rehearsal === null ? null : await rehearse(rehearsal);
    answer({ type: "prepared" });
    const { plan, now } = await next("run");
    // A snapshot's clock stands where it was saved.
    addon.setClock(now);
    // What booting left in the page cache would count in the kubelet's memory.available, in one guest more than in another.
    if (plan.kubelet) writeFileSync("/proc/sys/vm/drop_caches", "1");
    const caps = known === null ? probe({ alone: true }) : probeAgain(known);
    answer({ type: "ready", capabilities: caps });
    await runPlan(here(plan), caps, (event) => answer({ type: "event", event }), interrupt.signal);
  } catch (error) {
    answer({
      type: "event",
      event:
        error instanceof Unmet
          ? { type: "unmet", reason: error.message }
          : {
              type: "error",
              code: "GUEST_SETUP",
              message: `the VM could not be set up: ${(error as Error).message}`,
              hint: null,
            },
    });
  }
  answer({ type: "done" });
  closeSync(fd);
}

/**
 * Serves standard input and output, in a container: asked what it can do and given plans until its input ends, or a
 * signal comes. A run that is under way then ends in order: nothing of it is left.
 */
export async function serveStreams(): Promise<void> {
  const host = hostMachine();
  const orders: Order[] = [];
  let wake = (): void => undefined;
  let run: AbortController | null = null;
  let over: string | null = null;
  const leave = (reason: string): void => {
    over ??= reason;
    run?.abort(over);
    wake();
  };
  const answer = (message: Answer): void => {
    if (over !== null) return;
    try {
      writeAll(1, encode(message));
    } catch (error) {
      leave(`its channel cannot be written: ${(error as NodeJS.ErrnoException).code}`);
    }
  };
  const lines = lineSplitter((line) => {
    const message = decode(line) as Order | null;
    if (message === null) return;
    if (message.type === "interrupt") run?.abort(message.reason);
    else orders.push(message);
    wake();
  });
  process.stdin.setEncoding("utf8");
  process.stdin.on("data", (text: string) => lines.push(text));
  for (const event of ["end", "close", "error"]) process.stdin.on(event, () => leave("its oomlab has ended"));
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => leave(signal));
  answer({ type: "hello", protocol: agentProtocol });
  while (over === null) {
    const order = orders.shift();
    if (order === undefined)
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    else if (order.type === "greet") answer({ type: "hello", protocol: agentProtocol });
    else if (order.type === "probe") answer({ type: "capabilities", capabilities: await host.probe() });
    else if (order.type === "run") {
      run = new AbortController();
      const caps = await host.probe();
      answer({ type: "ready", capabilities: caps });
      await host.run(order.plan, caps, (event) => answer({ type: "event", event }), run.signal);
      run = null;
      answer({ type: "done" });
    }
  }
}

/**
 * A run that is thrown away, before the snapshot is taken: what a run loads and compiles is then there in each restored
 * guest. No OOM kill, and nothing in the kernel's log. What it found the machine to be.
 */
async function rehearse(plan: Plan): Promise<Capabilities> {
  const caps = probe({ alone: true });
  const errors: string[] = [];
  await runPlan(
    here(plan),
    caps,
    (event) => {
      // What is told to nobody is written all the same: encoding is part of it.
      encode({ type: "event", event });
      if (event.type === "error") errors.push(event.message);
    },
    new AbortController().signal,
  );
  if (errors.length > 0) throw new Error(errors.join("; "));
  return caps;
}

/** The scenario's own folder is the host's: its files are made in the guest's. */
const here = (plan: Plan): Plan => ({ ...plan, file: join(workFolder, basename(plan.file)) });

/** Hands all of it over before anything else happens: what is told is told. */
function writeAll(fd: number, text: string): void {
  const bytes = Buffer.from(text);
  for (let at = 0; at < bytes.length;) {
    try {
      at += writeSync(fd, bytes, at);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EAGAIN") throw error;
      Atomics.wait(pause, 0, 0, 1);
    }
  }
}

const pause = new Int32Array(new SharedArrayBuffer(4));

/** Makes this guest the machine of a VmSpec: all of it but the time of day. Throws Unmet where its kernel cannot be that. */
export function setUp(vm: VmSpec, version: CgroupVersion): void {
  // The console is the second copy of the kernel log: it gets every line from now on.
  writeFileSync("/proc/sys/kernel/printk", "7");
  const unified = mountCgroups(version, vm);
  if (version === 2) protectAgent(unified, vm.memory);
  if (vm.thp !== null) setting("/sys/kernel/mm/transparent_hugepage/enabled", vm.thp, "transparent huge pages");
  if (vm.zswap !== null) setting("/sys/module/zswap/parameters/enabled", vm.zswap ? "Y" : "N", "zswap");
  if (vm.scratch !== null) {
    tool("mke2fs", "-F", "-m", "0", disk("scratch"));
    mkdirSync(workFolder, { recursive: true });
    tool("mount", "-t", "ext4", disk("scratch"), workFolder);
  }
  if (vm.swap) addSwap(vm.swap);
  for (const [name, value] of Object.entries(vm.sysctl))
    setting(join("/proc/sys", name.replaceAll(".", "/")), value, `the sysctl ${name}`);
}

/** A program of the guest's own; its words where it fails. */
function tool(name: string, ...args: string[]): void {
  try {
    runProgram(name, ...args);
  } catch (error) {
    throw new Error(`${name} ${args.join(" ")} failed: ${(error as Error).message}`, { cause: error });
  }
}

function setting(path: string, value: string, what: string): void {
  if (!existsSync(path)) throw new Unmet(`the kernel of its VM has no ${what}`);
  try {
    writeFileSync(path, value);
  } catch (error) {
    throw new Error(`${what} cannot be set to ${value}: ${(error as NodeJS.ErrnoException).code}`, { cause: error });
  }
}

/**
 * Mounts the hierarchies; where v2's is, or would be. Hybrid is as systemd has it: v1's controllers in folders of their
 * own, v2 in `unified` with the controllers that no v1 hierarchy took.
 */
function mountCgroups(version: CgroupVersion, { hybrid, mountOptions }: VmSpec): string {
  const top = "/sys/fs/cgroup";
  // By the initramfs already.
  if (version === 2 && !hybrid && existsSync(join(top, "cgroup.controllers"))) return top;
  const unified = hybrid ? join(top, "unified") : top;
  const onV1 = version === 1 ? ["memory", "cpuset"] : hybrid ? ["cpu", "pids"] : [];
  if (onV1.length > 0) tool("mount", "-t", "tmpfs", "-o", "mode=755", "none", top);
  for (const controller of onV1) {
    mkdirSync(join(top, controller));
    try {
      tool("mount", "-t", "cgroup", "-o", controller, "none", join(top, controller));
    } catch {
      throw new Unmet(`the kernel of its VM has no ${controller} controller on cgroup v1`);
    }
  }
  if (version === 2 || hybrid) {
    // Documentation/admin-guide/cgroup-v2.rst: the mount options that this kernel knows, a line each.
    const known = new Set(readFileSync("/sys/kernel/cgroup/features", "utf8").split("\n"));
    const unknown = mountOptions.filter((option) => !known.has(option));
    if (unknown.length > 0)
      throw new Unmet(`the kernel of its VM has no mount option ${unknown.join(", ")} of cgroup2`);
    mkdirSync(unified, { recursive: true });
    tool("mount", "-t", "cgroup2", "-o", mountOptions.join(","), "none", unified);
  }
  return unified;
}

function protectAgent(unified: string, memory: number): void {
  for (const controller of ["memory", "cpuset"])
    writeFileSync(join(unified, "cgroup.subtree_control"), `+${controller}`);
  const own = join(unified, "agent");
  // Made by process 1 already, where that mounts cgroup2.
  mkdirSync(own, { recursive: true });
  writeFileSync(join(own, "memory.min"), String(protectedMemory(memory)));
  writeFileSync(join(own, "cgroup.procs"), String(process.pid));
}

/** A disk by the serial number that QEMU gave it. */
function disk(serial: string): string {
  for (const name of readdirSync("/sys/block")) {
    const file = `/sys/block/${name}/serial`;
    if (existsSync(file) && readFileSync(file, "latin1").trim() === serial) return `/dev/${name}`;
  }
  throw new Error(`there is no disk ${serial}`);
}

function addSwap({ size, kind }: NonNullable<VmSpec["swap"]>): void {
  let device: string;
  if (kind === "zram") {
    if (!existsSync("/sys/block/zram0")) loadModules("zram");
    writeFileSync("/sys/block/zram0/disksize", String(size));
    device = "/dev/zram0";
  } else {
    device = disk("swap");
  }
  tool("mkswap", device);
  tool("swapon", device);
}

/** Modules are kept in the order in which they must be loaded. */
function loadModules(name: string): void {
  const list = `/run/modules/${name}`;
  if (!existsSync(list)) throw new Unmet(`the kernel of its VM has no ${name}`);
  for (const file of readFileSync(list, "utf8").split("\n")) if (file !== "") tool("insmod", `/run/modules/${file}`);
}
