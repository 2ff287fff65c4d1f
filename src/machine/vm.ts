/** A throwaway VM: boots a kernel of its own for one plan, runs the engine in it as the agent, and is gone. */
import { setTimeout as sleep } from "node:timers/promises";
import { MachineError } from "../errors.ts";
import type { Plan } from "../plan.ts";
import type { RunEventBody } from "../record.ts";
import { agentProtocol, decode, encode } from "./agent.ts";
import { guestImage } from "./image.ts";
import { type GuestKernel, guestKernel } from "./kernel.ts";
import { ensurePrograms, type Say } from "./packages.ts";
import { type Qemu, startQemu } from "./qemu.ts";

/** From QEMU's start to the agent's greeting, at most; under emulation on a busy host a boot takes 4 to 10 s. */
const bootMs = 90_000;
/** A guest whose console is still empty has hung before its init: seen once in some dozens of boots under emulation. Each try gets so much more. */
const silentMs = 30_000;
const bootAttempts = 3;

/** The guest never began: it may be booted again, since nothing has been run in it. */
class SilentBoot extends Error {}
/** What a run may take beyond its own timeout: setting up, settling, removing. */
const graceMs = 20_000;
/** How long a guest may take to power off once everything has been said. */
const powerOffMs = 2_000;

export interface VmMachine {
  readonly name: "vm";
  /** Gets all that a plan's VM is made of. Throws MachineError where that cannot be had here. */
  prepare(plan: Plan): Promise<void>;
  run(plan: Plan, emit: (event: RunEventBody) => void, signal: AbortSignal): Promise<void>;
}

export function vmMachine(say: Say): VmMachine {
  const kernels = new Map<string | null, Promise<GuestKernel>>();
  let programs: Promise<void> | null = null;
  let image: Promise<string> | null = null;
  const parts = async (plan: Plan): Promise<{ kernel: GuestKernel; image: string }> => {
    await (programs ??= ensurePrograms(say));
    const wanted = plan.vm?.kernel ?? null;
    const kernel = kernels.get(wanted) ?? guestKernel(wanted, say);
    kernels.set(wanted, kernel);
    return { kernel: await kernel, image: await (image ??= guestImage(say)) };
  };
  return {
    name: "vm",
    prepare: async (plan) => void (await parts(plan)),
    async run(plan, emit, signal) {
      const began = performance.now();
      try {
        const { kernel, image: root } = await parts(plan);
        const made = { kernel: kernel.image, initrd: kernel.initrd, image: root };
        for (let attempt = 1; ; attempt++) {
          try {
            await runInGuest(plan, made, attempt, emit, signal);
            break;
          } catch (error) {
            if (!(error instanceof SilentBoot) || attempt >= bootAttempts) throw error;
            say(`${error.message}: booting it again`);
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

async function runInGuest(
  plan: Plan,
  parts: { kernel: string; initrd: string; image: string },
  attempt: number,
  emit: (event: RunEventBody) => void,
  signal: AbortSignal,
): Promise<void> {
  if (!plan.vm) throw new MachineError("NO_VM", "the plan names no VM");
  if (signal.aborted) return emit({ type: "interrupted", reason: String(signal.reason ?? "interrupted") });
  const began = performance.now();
  const state = { greeted: false, ready: false, done: false, panicked: false, interrupted: false };
  /** The last lines of the console: what is told where nothing else can be. */
  const last: string[] = [];
  let qemu: Qemu | null = null;
  let progress = (): void => undefined;
  const onAgent = (line: string): void => {
    const answer = decode(line);
    if (answer === null || qemu === null) return;
    if (answer.type === "hello") {
      state.greeted = true;
      if (answer.protocol === agentProtocol) qemu.send(encode({ type: "run", plan, now: Date.now() }));
    } else if (answer.type === "ready") {
      state.ready = true;
      emit({
        type: "machine",
        machine: "vm",
        bootMs: Math.round(performance.now() - began),
        capabilities: answer.capabilities,
      });
    } else if (answer.type === "event") {
      if (answer.event.type === "interrupted") state.interrupted = true;
      // The machine's own end is the run's.
      if (answer.event.type !== "end") emit(answer.event);
    } else if (answer.type === "done") {
      state.done = true;
    }
    progress();
  };
  const onConsole = (line: string): void => {
    if (line.trim() === "") return;
    emit({ type: "console", text: line });
    last.push(line);
    if (last.length > 5) last.shift();
    const panic = panicLine.exec(line);
    if (!panic || state.panicked) return;
    state.panicked = true;
    emit({ type: "panic", message: panic[1] ?? "" });
  };
  const guest = startQemu(plan.vm, parts, { agent: onAgent, console: onConsole });
  qemu = guest;
  const ended = guest.ended.then((end) => ({ ...end, type: "ended" as const }));
  /** Waits for something of the guest; its end, or the clock, come first at times. */
  const until = async (holds: () => boolean, ms: number): Promise<"holds" | "ended" | "timeout"> => {
    const deadline = performance.now() + ms;
    const over = ended.then(() => "ended" as const);
    while (!holds()) {
      const left = deadline - performance.now();
      if (left <= 0) return "timeout";
      const stop = new AbortController();
      const happened = new Promise<"progress">((resolve) => {
        progress = () => resolve("progress");
      });
      const clock = sleep(left, "timeout" as const, { signal: stop.signal }).catch(() => "timeout" as const);
      const first = await Promise.race([happened, over, clock]);
      stop.abort();
      if (first === "ended") return holds() ? "holds" : "ended";
    }
    return "holds";
  };
  const onAbort = (): void => {
    // An agent that is at work ends its run in order; before that there is nothing to end.
    if (state.ready) guest.send(encode({ type: "interrupt", reason: String(signal.reason ?? "interrupted") }));
    else guest.kill();
  };
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    const started = await until(() => last.length > 0 || state.greeted, silentMs * attempt);
    if (started === "timeout" && !signal.aborted)
      throw new SilentBoot(`the VM's kernel did not start within ${(silentMs * attempt) / 1000} s`);
    const booted = await until(() => state.ready || state.done, bootMs);
    const outcome = booted === "holds" ? await until(() => state.done, plan.timeoutMs + graceMs) : booted;
    if (outcome === "holds") {
      if (!signal.aborted) await Promise.race([ended, sleep(powerOffMs, undefined, { ref: false })]);
      return;
    }
    if (outcome === "timeout") guest.kill();
    const { words } = await ended;
    if (signal.aborted) {
      if (!state.interrupted) emit({ type: "interrupted", reason: String(signal.reason ?? "interrupted") });
      return;
    }
    if (state.panicked) return;
    const tail = last.length === 0 ? "its console is empty" : `its console's last lines: ${last.join(" | ")}`;
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
        ? `the VM hangs: the run in it was to end within ${plan.timeoutMs / 1000} s (${told})`
        : `the VM ended in the middle of the run (${told})`,
    );
  } finally {
    signal.removeEventListener("abort", onAbort);
    guest.kill();
    await ended;
  }
}
