/** A throwaway VM: a kernel of its own for one plan, with the engine in it as the agent; then it is gone. */
import { setTimeout as sleep } from "node:timers/promises";
import { MachineError } from "../errors.ts";
import type { Plan } from "../plan.ts";
import { rehearsalPlan } from "../plan/rehearsal.ts";
import type { Emit, RunEventBody } from "../record.ts";
import { formatBytes } from "../units.ts";
import { type Accelerator, accelerator, kernelFirmware } from "./accel.ts";
import { agentProtocol, decode, encode } from "./agent.ts";
import { guestImage } from "./image.ts";
import { type GuestKernel, guestKernel } from "./kernel.ts";
import { ensurePrograms, type Say } from "./packages.ts";
import { checkDisks, type Qemu, type QemuParts, type Saved, startQemu } from "./qemu.ts";
import { forget, isSaved, load, save, saved, type Snapshot, snapshotOf } from "./snapshot.ts";

/** From QEMU's start to the agent's greeting, at most; under emulation on a busy host a boot takes 4 to 10 s. */
const bootMs = 90_000;
/** A guest whose console is still empty has hung before its init: seen once in some dozens of boots under emulation. Each try gets so much more. */
const silentMs = 30_000;
const bootAttempts = 3;
/** A restored guest answers in 0.3 to 1 s. */
const restoreMs = 20_000;
/** What a run may take beyond its own timeout: setting up, settling, removing. */
const graceMs = 20_000;
/** Kernels before 6.0 run an agent in 128 MiB, and thrash in 112. */
const leastOfOldKernels = 128 * 2 ** 20;
/** How long QEMU may take to end once everything has been said. */
const quitMs = 2_000;

/** The guest never began: another may be made, since nothing has been run in it. */
class NoStart extends Error {}

/** The initramfs mounts cgroup2: in the agent the first program that it starts costs 0.2 s under emulation. */
const earlyMount = ({ vm, cgroupVersion }: Plan): { append?: string } =>
  vm && cgroupVersion === 2 && !vm.hybrid ? { append: `oomlab.cgroup2=${vm.mountOptions.join(",")}` } : {};

export interface VmMachine {
  readonly name: "vm";
  /** Gets all that a plan's VM is made of. Throws MachineError where that cannot be had here. */
  prepare(plan: Plan): Promise<void>;
  run(plan: Plan, emit: (event: RunEventBody) => void, signal: AbortSignal): Promise<void>;
}

export interface VmOptions {
  /** Tells what is done to the machine. */
  say: Say;
  /** Tells what somebody wants to know who looks closely. */
  detail: Say;
  /** Guests are saved and restored; without it each is booted. */
  snapshots: boolean;
}

export function vmMachine({ say, detail, snapshots }: VmOptions): VmMachine {
  const kernels = new Map<string | null, Promise<GuestKernel>>();
  let programs: Promise<void> | null = null;
  let image: Promise<string> | null = null;
  let accel: Promise<Accelerator> | null = null;
  let firmware: Promise<string | null> | null = null;
  const partsOf = async (plan: Plan): Promise<QemuParts> => {
    if (plan.vm) checkDisks(plan.vm);
    await (programs ??= ensurePrograms(say));
    const wanted = plan.vm?.kernel ?? null;
    const kernel = kernels.get(wanted) ?? guestKernel(wanted, say);
    kernels.set(wanted, kernel);
    const { image: file, initrd, release } = await kernel;
    if (plan.vm && /^[2-5]\./.test(release) && plan.vm.memory < leastOfOldKernels)
      throw new MachineError(
        "VM_MEMORY",
        `the VM's ${formatBytes(plan.vm.memory)} are too little: its kernel ${release} and the engine in it need ${formatBytes(leastOfOldKernels)}`,
      );
    const parts = { kernel: file, initrd, image: await (image ??= guestImage(say)), ...earlyMount(plan) };
    const found = await (accel ??= accelerator(parts));
    return { ...parts, accelerator: found, firmware: await (firmware ??= kernelFirmware(found)) };
  };
  /** Snapshots that are being made, by name: who needs the same one waits for it. */
  const making = new Map<string, Promise<void>>();
  /** Those that could not be made or loaded: not tried again. */
  const useless = new Set<string>();

  /** Kernels of which no guest came up, and how the last one failed. */
  const dead = new Map<string, string>();

  /** A guest that waits for its plan: restored where one of its shape was saved, else booted, and saved. */
  const waiting = async (plan: Plan, parts: QemuParts, emit: Emit, signal: AbortSignal): Promise<Guest> => {
    const snapshot = snapshots && plan.vm ? snapshotOf(plan.vm, plan.cgroupVersion, parts) : null;
    if (snapshot === null || useless.has(snapshot.name)) return booted(plan, parts, null, emit, signal);
    await making.get(snapshot.name);
    if (isSaved(snapshot)) {
      try {
        return await restored(plan, parts, snapshot, emit, signal);
      } catch (error) {
        if (signal.aborted) throw error;
        forget(snapshot);
        detail(`the VM's snapshot cannot be used, so it boots: ${(error as Error).message}`);
      }
    }
    if (useless.has(snapshot.name) || signal.aborted) return booted(plan, parts, null, emit, signal);
    let made = (): void => undefined;
    making.set(snapshot.name, new Promise((resolve) => (made = resolve)));
    try {
      return await booted(plan, parts, snapshot, emit, signal);
    } finally {
      if (!isSaved(snapshot)) useless.add(snapshot.name);
      making.delete(snapshot.name);
      made();
    }
  };

  const booted = async (
    plan: Plan,
    parts: QemuParts,
    snapshot: Snapshot | null,
    emit: Emit,
    signal: AbortSignal,
  ): Promise<Guest> => {
    const before = dead.get(parts.kernel);
    if (before !== undefined) throw new MachineError("VM_START", `${before}; it is not tried again in this run`);
    for (let attempt = 1; ; attempt++) {
      const guest = new Guest(plan, parts, emit, signal, null);
      try {
        await guest.boot(attempt, snapshot !== null);
      } catch (error) {
        await guest.end();
        if (!(error instanceof NoStart) || attempt >= bootAttempts || signal.aborted) {
          if (error instanceof NoStart && !signal.aborted) dead.set(parts.kernel, error.message);
          throw error;
        }
        say(`${error.message}: booting it again`);
        continue;
      }
      if (snapshot !== null && guest.waits) {
        try {
          await save(snapshot, guest.qemu);
        } catch (error) {
          detail(`the VM cannot be saved, so each boots: ${(error as Error).message}`);
        }
      }
      return guest;
    }
  };

  const restored = async (
    plan: Plan,
    parts: QemuParts,
    snapshot: Snapshot,
    emit: Emit,
    signal: AbortSignal,
  ): Promise<Guest> => {
    if (!plan.vm) throw new MachineError("NO_VM", "the plan names no VM");
    const guest = new Guest(plan, parts, emit, signal, await saved(snapshot, plan.vm));
    try {
      await load(guest.qemu);
      guest.restored();
      return guest;
    } catch (error) {
      await guest.end();
      throw error;
    }
  };

  return {
    name: "vm",
    prepare: async (plan) => void (await partsOf(plan)),
    async run(plan, emit, signal) {
      const began = performance.now();
      try {
        const parts = await partsOf(plan);
        for (let attempt = 1; ; attempt++) {
          if (signal.aborted) {
            emit({ type: "interrupted", reason: String(signal.reason ?? "interrupted") });
            break;
          }
          const guest = await waiting(plan, parts, emit, signal);
          try {
            await guest.run(began);
            break;
          } catch (error) {
            // A restored guest that does not answer has run nothing.
            if (!(error instanceof NoStart) || attempt > 1 || !plan.vm) throw error;
            const snapshot = snapshotOf(plan.vm, plan.cgroupVersion, parts);
            forget(snapshot);
            useless.add(snapshot.name);
            detail(`${error.message}: it boots`);
          } finally {
            await guest.end();
          }
        }
      } catch (error) {
        emit({
          type: "error",
          code: error instanceof MachineError ? error.code : "VM",
          message: (error as Error).message,
          hint: error instanceof MachineError ? (error.hint ?? null) : null,
        });
      } finally {
        emit({ type: "end", durationMs: Math.round(performance.now() - began) });
      }
    },
  };
}

const panicLine = /Kernel panic - not syncing: (.*)/;

/** One QEMU with the agent in it: what has been heard of it, and what is waited for. */
class Guest {
  readonly qemu: Qemu;
  #bootPanic: string | null = null;
  readonly #plan: Plan;
  readonly #emit: Emit;
  readonly #signal: AbortSignal;
  readonly #ended: Promise<string>;
  readonly #state = {
    greeted: false,
    prepared: false,
    running: false,
    ready: false,
    done: false,
    panicked: false,
    interrupted: false,
    restored: false,
  };
  /** The last lines of the console: what is told where nothing else can be. */
  readonly #last: string[] = [];
  #began = 0;
  #gone = false;
  #progress = (): void => undefined;

  /** `from`: what will be loaded; null: it boots. */
  constructor(plan: Plan, parts: QemuParts, emit: Emit, signal: AbortSignal, from: Saved | null) {
    if (!plan.vm) throw new MachineError("NO_VM", "the plan names no VM");
    this.#plan = plan;
    this.#emit = emit;
    this.#signal = signal;
    this.qemu = startQemu(
      plan.vm,
      parts,
      { agent: (line) => this.#onAgent(line), console: (line) => this.#onConsole(line) },
      from,
    );
    this.#ended = this.qemu.ended.then(({ words }) => {
      this.#gone = true;
      return words;
    });
    if (signal.aborted) this.#onAbort();
    else signal.addEventListener("abort", this.#onAbort, { once: true });
  }

  /** It waits for its plan, and nothing has been run in it. */
  get waits(): boolean {
    return this.#state.prepared && !this.#state.done && !this.#signal.aborted;
  }

  /** From the kernel's start to an agent that waits for its plan, or has said why it cannot. */
  async boot(attempt: number, rehearse: boolean): Promise<void> {
    const { vm, cgroupVersion } = this.#plan;
    if (!vm) throw new MachineError("NO_VM", "the plan names no VM");
    const ms = silentMs * attempt;
    const started = await this.#until(() => this.#last.length > 0 || this.#state.greeted, ms);
    if (started === "timeout" && !this.#signal.aborted)
      throw new NoStart(`the VM's kernel did not start within ${ms / 1000} s`);
    if ((await this.#until(() => this.#state.greeted, bootMs)) !== "holds") {
      if (this.#bootPanic !== null) throw new NoStart(`the VM's kernel panicked as it booted: ${this.#bootPanic}`);
      return;
    }
    const rehearsal = rehearse ? rehearsalPlan(vm, cgroupVersion) : null;
    this.qemu.send(encode({ type: "prepare", vm, cgroupVersion, rehearsal }));
    await this.#until(() => this.#state.prepared || this.#state.done, bootMs);
  }

  /** A snapshot has been loaded: it is where `boot` ends. */
  restored(): void {
    Object.assign(this.#state, { greeted: true, prepared: true, restored: true });
  }

  /** Runs the plan; what happens is emitted. Throws MachineError where the guest ends or hangs, NoStart where it never began. */
  async run(began: number): Promise<void> {
    const state = this.#state;
    this.#began = began;
    if (this.waits) {
      state.running = true;
      this.qemu.send(encode({ type: "run", plan: this.#plan, now: Date.now() }));
    }
    const begun = state.prepared
      ? await this.#until(() => state.ready || state.done, state.restored ? restoreMs : bootMs)
      : state.done
        ? "holds"
        : this.#gone
          ? "ended"
          : "timeout";
    if (begun === "timeout" && state.restored && !this.#signal.aborted)
      throw new NoStart(`the VM restored from its snapshot does not answer within ${restoreMs / 1000} s`);
    const outcome = begun === "holds" ? await this.#until(() => state.done, this.#plan.timeoutMs + graceMs) : begun;
    if (outcome === "holds") {
      if (!this.#signal.aborted) await this.#quit();
      return;
    }
    this.#tellEnd(outcome, await this.#words());
  }

  /** QEMU hands over what it still holds of the console; a guest that powers itself off takes longer. */
  async #quit(): Promise<void> {
    this.qemu.monitor.execute("quit").catch(() => undefined);
    await Promise.race([this.#ended, sleep(quitMs, undefined, { ref: false })]);
  }

  async #words(): Promise<string> {
    this.qemu.kill();
    return this.#ended;
  }

  #tellEnd(outcome: "ended" | "timeout", words: string): void {
    const state = this.#state;
    if (this.#signal.aborted) {
      if (!state.interrupted) this.#emit({ type: "interrupted", reason: String(this.#signal.reason ?? "interrupted") });
      return;
    }
    if (state.panicked) return;
    const tail =
      this.#last.length === 0
        ? "its console is empty"
        : `its console's last lines: ${this.#last.map((line) => line.slice(0, 200)).join(" | ")}`;
    const told = words === "" ? tail : `QEMU says: ${words}`;
    if (!state.ready)
      throw new MachineError(
        "VM_BOOT",
        outcome === "timeout"
          ? `the VM did not come up within ${bootMs / 1000} s (${told})`
          : `the VM ended before it came up (${told})`,
      );
    throw new MachineError(
      "VM_LOST",
      outcome === "timeout"
        ? `the VM hangs: the run in it was to end within ${this.#plan.timeoutMs / 1000} s (${told})`
        : `the VM ended in the middle of the run (${told})`,
    );
  }

  /** Ends it, whatever it does. Resolves when it is gone. */
  async end(): Promise<void> {
    this.#signal.removeEventListener("abort", this.#onAbort);
    this.qemu.kill();
    await this.#ended;
  }

  readonly #onAbort = (): void => {
    // An agent that is at work ends its run in order; before that there is nothing to end.
    if (this.#state.ready)
      this.qemu.send(encode({ type: "interrupt", reason: String(this.#signal.reason ?? "interrupted") }));
    else this.qemu.kill();
  };

  #onAgent(line: string): void {
    const answer = decode(line);
    if (answer === null) return;
    const state = this.#state;
    if (answer.type === "hello") {
      state.greeted = answer.protocol === agentProtocol;
    } else if (answer.type === "prepared") {
      state.prepared = true;
    } else if (answer.type === "ready") {
      state.ready = true;
      this.#emit({
        type: "machine",
        machine: "vm",
        bootMs: Math.round(performance.now() - this.#began),
        restored: state.restored,
        capabilities: answer.capabilities,
      });
    } else if (answer.type === "event") {
      if (answer.event.type === "interrupted") state.interrupted = true;
      // The machine's own end is the run's.
      if (answer.event.type !== "end") this.#emit(answer.event);
    } else if (answer.type === "done") {
      state.done = true;
    }
    this.#progress();
  }

  #onConsole(line: string): void {
    if (line.trim() === "") return;
    this.#emit({ type: "console", text: line });
    this.#last.push(line);
    if (this.#last.length > 5) this.#last.shift();
    this.#progress();
    const panic = panicLine.exec(line);
    if (!panic || this.#state.panicked) return;
    // A kernel that dies on its way up has not met the scenario yet: QEMU's timers are late on a busy machine.
    if (!this.#state.running) {
      this.#bootPanic ??= panic[1] ?? "";
      return;
    }
    this.#state.panicked = true;
    this.#emit({ type: "panic", message: panic[1] ?? "" });
  }

  /** Waits for something of the guest; its end, or the clock, come first at times. */
  async #until(holds: () => boolean, ms: number): Promise<"holds" | "ended" | "timeout"> {
    const deadline = performance.now() + ms;
    const over = this.#ended.then(() => "ended" as const);
    while (!holds()) {
      const left = deadline - performance.now();
      if (left <= 0) return "timeout";
      const stop = new AbortController();
      const happened = new Promise<"progress">((resolve) => {
        this.#progress = () => resolve("progress");
      });
      const clock = sleep(left, "timeout" as const, { signal: stop.signal }).catch(() => "timeout" as const);
      const first = await Promise.race([happened, over, clock]);
      stop.abort();
      if (first === "ended") return holds() ? "holds" : "ended";
    }
    return "holds";
  }
}
