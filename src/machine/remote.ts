/** Machines that are reached through a client: the engine stands there as the agent, on the client's standard input and output. */
import { type ChildProcessByStdio, execFile, spawn } from "node:child_process";
import { readFileSync, readlinkSync } from "node:fs";
import { resolve } from "node:path";
import type { Readable, Writable } from "node:stream";
import { StringDecoder } from "node:string_decoder";
import { setTimeout as sleep } from "node:timers/promises";
import { MachineError } from "../errors.ts";
import type { Capabilities, Plan } from "../plan.ts";
import type { Emit } from "../record.ts";
import { agentProtocol, type Answer, decode, encode, lineSplitter, type Order } from "./agent.ts";
import type { Machine } from "./index.ts";

/** What a client may take to answer a question. `podman info` takes 20 s and more on a busy machine. */
const answerMs = 60_000;
/** From a client's start to the agent's greeting. */
const startMs = 90_000;
/** What a run may take beyond its own timeout: settling, removing. */
const graceMs = 20_000;
/** How long the agent may take to end once its channel is closed. */
const endMs = 10_000;

/** A place that is ready for the agent, or comes up with its client. */
export interface Place {
  /** The client, whose standard input and output are the agent's. */
  command: Command;
  /** What may help where it did not start, from what the client said; null: nothing known. */
  startHint(said: string): string | null;
  /** Why it is gone, as whoever runs it tells; null: it does not say. */
  fate(): Promise<string | null>;
  /** Removes it, whatever it does. `ended`: the client has ended by itself, and well. */
  remove(ended: boolean): Promise<void>;
}

export interface RemoteMachine extends Machine {
  /** Ends its places. Resolves when they are gone. */
  close(): Promise<void>;
}

/**
 * `noun`: what messages call a place. `open` makes one, and throws MachineError where that cannot be done.
 * A place serves one scenario after another; each that runs beside another has its own.
 */
export function remoteMachine(
  name: "container" | "kubernetes",
  noun: string,
  open: (first: boolean) => Promise<Place>,
): RemoteMachine {
  let known: Capabilities | null = null;
  const idle = new Set<Remote>();
  const all = new Set<Remote>();
  const of = new WeakMap<Capabilities, Remote>();

  const start = async (): Promise<Remote> => {
    const remote = new Remote(name, noun, await open(all.size === 0));
    all.add(remote);
    try {
      await remote.greeted();
      return remote;
    } catch (error) {
      await end(remote);
      throw error;
    }
  };
  const end = async (remote: Remote): Promise<void> => {
    idle.delete(remote);
    await remote.end();
    all.delete(remote);
  };
  const takeIdle = (): Remote | undefined => {
    for (const remote of idle) {
      idle.delete(remote);
      if (!remote.gone) return remote;
    }
    return undefined;
  };

  return {
    name,
    async probe() {
      let remote: Remote | undefined;
      try {
        remote = takeIdle() ?? (await start());
        known = await remote.probe();
        of.set(known, remote);
        idle.add(remote);
        return known;
      } catch (error) {
        if (remote) await end(remote);
        // A run that is asked for all the same says what is wrong.
        if (known !== null) return { ...known };
        throw error;
      }
    },
    async run(plan, caps, emit, signal) {
      const began = performance.now();
      let remote = of.get(caps);
      try {
        if (remote === undefined || !idle.delete(remote) || remote.gone) remote = await start();
        await remote.run(plan, began, emit, signal);
        idle.add(remote);
      } catch (error) {
        if (remote) await end(remote);
        const { message, code, hint } = asMachineError(error);
        emit({ type: "error", code, message, hint: hint ?? null });
      } finally {
        emit({ type: "end", durationMs: Math.round(performance.now() - began) });
      }
    },
    close: async () => void (await Promise.all([...all].map(end))),
  };
}

export const asMachineError = (error: unknown): MachineError =>
  error instanceof MachineError ? error : new MachineError("REMOTE", (error as Error).message, { cause: error });

/** One place with the agent in it: serves plans one after another. */
class Remote {
  readonly #machine: "container" | "kubernetes";
  readonly #noun: string;
  readonly #place: Place;
  readonly #client: ChildProcessByStdio<Writable, Readable, Readable>;
  readonly #ended: Promise<void>;
  /** What the client says beside the channel, the last of it. */
  #words = "";
  #gone = false;
  #protocol: number | null = null;
  #capabilities: Capabilities | null = null;
  #emit: Emit = () => undefined;
  #plan = { done: false };
  #began = 0;
  #progress = (): void => undefined;

  constructor(machine: "container" | "kubernetes", noun: string, place: Place) {
    this.#machine = machine;
    this.#noun = noun;
    this.#place = place;
    const [program, ...args] = place.command;
    this.#client = spawn(program, args, {
      stdio: ["pipe", "pipe", "pipe"],
      // A terminal's Ctrl-C is ours to pass on: the run in it ends in order.
      detached: true,
    });
    const decoder = new StringDecoder("utf8");
    const lines = lineSplitter((line) => this.#onLine(line));
    this.#client.stdout.on("data", (bytes: Buffer) => lines.push(decoder.write(bytes)));
    this.#client.stderr.setEncoding("utf8").on("data", (text: string) => {
      this.#words = (this.#words + text).slice(-4096);
    });
    // What cannot be handed over is told by the client's end.
    this.#client.stdin.on("error", () => undefined);
    this.#ended = new Promise((done) => {
      const finish = (): void => {
        this.#gone = true;
        this.#progress();
        done();
      };
      this.#client.on("close", finish);
      this.#client.on("error", (error) => {
        this.#words += error.message;
        finish();
      });
    });
  }

  get gone(): boolean {
    return this.#gone;
  }

  async greeted(): Promise<void> {
    // Where the client comes to an agent that is up, its greeting has been said to nobody.
    this.#send({ type: "greet" });
    if (!(await this.#until(() => this.#protocol !== null, startMs)))
      throw this.#error("START", `the ${this.#noun} did not start: ${await this.#reason(startMs)}`, {
        hint: this.#place.startHint(this.#words),
      });
    if (this.#protocol !== agentProtocol)
      throw this.#error("IMAGE", "the image holds another version of oomlab", {
        hint: "build it again, or name the right one in OOMLAB_IMAGE",
      });
  }

  async probe(): Promise<Capabilities> {
    this.#capabilities = null;
    this.#send({ type: "probe" });
    await this.#until(() => this.#capabilities !== null, answerMs);
    const found = this.#capabilities as Capabilities | null;
    if (found === null) throw this.#error("LOST", `the ${this.#noun} does not answer: ${await this.#reason(answerMs)}`);
    return found;
  }

  /** Runs a plan; what happens is emitted. Throws MachineError where the place ends or hangs. */
  async run(plan: Plan, began: number, emit: Emit, signal: AbortSignal): Promise<void> {
    const state = { done: false };
    this.#plan = state;
    this.#emit = emit;
    this.#began = began;
    let interruptedAt = Number.POSITIVE_INFINITY;
    const onAbort = (): void => {
      interruptedAt = performance.now();
      this.#send({ type: "interrupt", reason: String(signal.reason ?? "interrupted") });
      this.#progress();
    };
    // The file is named as the container sees it: there it stands where it stands here.
    this.#send({ type: "run", plan: { ...plan, file: resolve(plan.file) }, now: 0 });
    if (signal.aborted) onAbort();
    else signal.addEventListener("abort", onAbort, { once: true });
    const limit = plan.timeoutMs + graceMs;
    const hurry = (): boolean => performance.now() > interruptedAt + graceMs;
    try {
      await this.#until(() => state.done || hurry(), limit);
    } finally {
      signal.removeEventListener("abort", onAbort);
      this.#emit = () => undefined;
    }
    if (state.done) return;
    if (this.#gone)
      throw this.#error("LOST", `the ${this.#noun} ended in the middle of the run: ${await this.#reason(0)}`);
    throw this.#error("HANGS", `the ${this.#noun} hangs: the run in it was to end within ${limit / 1000} s`);
  }

  /** Ends it: its input ends, which the agent takes as its order to leave; then it is removed. Resolves when it is gone. */
  async end(): Promise<void> {
    this.#client.stdin.end();
    const ended = await this.#endsWithin(endMs);
    await this.#place.remove(ended && this.#client.exitCode === 0);
    if (await this.#endsWithin(endMs)) return;
    this.#client.kill("SIGKILL");
    await this.#ended;
  }

  async #endsWithin(ms: number): Promise<boolean> {
    const clock = new AbortController();
    const timeout = sleep(ms, false, { signal: clock.signal }).catch(() => false);
    const ended = await Promise.race([this.#ended.then(() => true), timeout]);
    clock.abort();
    return ended;
  }

  #send(order: Order): void {
    if (!this.#gone) this.#client.stdin.write(encode(order));
  }

  #error(code: string, message: string, { hint = null }: { hint?: string | null } = {}): MachineError {
    return new MachineError(`${this.#machine.toUpperCase()}_${code}`, message, hint === null ? {} : { hint });
  }

  async #reason(ms: number): Promise<string> {
    const fate = await this.#place.fate();
    const words = this.#words.trim().split("\n").slice(-5).join(" | ");
    if (fate !== null) return words === "" ? fate : `${fate} (${words})`;
    if (words !== "") return words;
    return this.#gone ? `it ended with status ${this.#client.exitCode ?? "unknown"}` : `nothing for ${ms / 1000} s`;
  }

  #onLine(line: string): void {
    const answer = decode(line) as Answer | null;
    if (answer === null) return;
    if (answer.type === "hello") this.#protocol = answer.protocol;
    else if (answer.type === "capabilities") this.#capabilities = answer.capabilities;
    else if (answer.type === "ready") {
      this.#emit({
        type: "machine",
        machine: this.#machine,
        bootMs: Math.round(performance.now() - this.#began),
        restored: false,
        capabilities: answer.capabilities,
      });
    } else if (answer.type === "event") {
      // The machine's own end is the run's.
      if (answer.event.type !== "end") this.#emit(answer.event);
    } else if (answer.type === "done") this.#plan.done = true;
    this.#progress();
  }

  /** Waits for something of the agent; false where the client ends, or the time is up. */
  async #until(holds: () => boolean, ms: number): Promise<boolean> {
    const deadline = performance.now() + ms;
    while (!holds()) {
      const left = deadline - performance.now();
      if (left <= 0 || this.#gone) return false;
      await new Promise<void>((wake) => {
        const timer = setTimeout(wake, Math.min(left, 1_000));
        this.#progress = () => {
          clearTimeout(timer);
          wake();
        };
      });
    }
    return true;
  }
}

/** A program with its arguments. */
export type Command = readonly [string, ...string[]];

/** What an environment variable says, split at spaces. */
export const words = (text: string | undefined): string[] => (text ?? "").split(/\s+/).filter((word) => word !== "");

export const lastLine = (text: string): string => text.trim().split("\n").at(-1) || "does not answer";

/** A client's answer to one command. */
export interface Reply {
  ok: boolean;
  /** It was killed because it took too long; `stderr` says so. */
  timedOut: boolean;
  stdout: string;
  stderr: string;
}

/** Runs a command of a client's to its end, or kills it when the time is up. Never rejects. */
export function ask([program, ...before]: Command, args: string[], input = "", ms: number = answerMs): Promise<Reply> {
  return new Promise((done) => {
    const child = execFile(
      program,
      [...before, ...args],
      { timeout: ms, killSignal: "SIGKILL", maxBuffer: 16 * 1048576 },
      (error, stdout, stderr) => {
        const timedOut = error?.killed === true;
        const why = timedOut ? `no answer within ${ms / 1000} s` : stderr.trim() || error?.message;
        done({ ok: error === null, timedOut, stdout, stderr: why ?? "" });
      },
    );
    child.stdin?.on("error", () => undefined);
    child.stdin?.end(input);
  });
}

// ---- whose a place is

export interface Cleaned {
  removed: string[];
  /** Their oomlab is alive, or cannot be seen from here. */
  inUse: string[];
  left: { path: string; reason: string }[];
}

/** `BOOT.PIDNAMESPACE.PID.START`: this process, for as long as it lives. */
export const self = (): string => `${world()} ${process.pid} ${startOf(process.pid) ?? 0}`.replaceAll(" ", ".");

/** Whether its oomlab ran in this boot and pid namespace, and is no more; of another machine's nothing is known. */
export function isAbandoned(owner: string): boolean {
  const [boot, namespace, pid, start] = owner.split(".");
  return `${boot} ${namespace}` === world() && startOf(Number(pid)) !== Number(start);
}

function world(): string {
  try {
    const boot = readFileSync("/proc/sys/kernel/random/boot_id", "latin1").trim();
    return `${boot} ${/\d+/.exec(readlinkSync("/proc/self/ns/pid"))?.[0] ?? 0}`;
  } catch {
    return "elsewhere 0";
  }
}

/** When a process began, in ticks since boot (proc_pid_stat(5), field 22), or null where there is none. */
function startOf(pid: number): number | null {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, "latin1");
    const [state, ...rest] = fields.slice(fields.lastIndexOf(")") + 2).split(" ");
    return state === "Z" || state === "X" ? null : Number(rest[18]);
  } catch {
    return null;
  }
}
