/** A privileged container, started from outside: the engine in it as the agent, over its standard input and output. */
import { type ChildProcessByStdio, execFile, spawn } from "node:child_process";
import { existsSync, readFileSync, readlinkSync } from "node:fs";
import { basename, dirname, resolve } from "node:path";
import type { Readable, Writable } from "node:stream";
import { StringDecoder } from "node:string_decoder";
import { setTimeout as sleep } from "node:timers/promises";
import { MachineError } from "../errors.ts";
import type { Capabilities, Plan } from "../plan.ts";
import type { RunEventBody } from "../record.ts";
import { agentProtocol, type Answer, decode, encode, lineSplitter, type Order } from "./agent.ts";
import type { Machine } from "./index.ts";
import { which } from "./packages.ts";

/** What an engine may take to answer a question, and to bring a container up. */
const answerMs = 20_000;
const startMs = 90_000;
/** What a run may take beyond its own timeout: settling, removing. */
const graceMs = 20_000;
/** How long a container may take to end once its channel is closed. */
const endMs = 10_000;

const engines = ["docker", "podman", "nerdctl"];
const label = "org.oomlab.owner";
const defaultImage = "oomlab";

/** `docker`, or what OOMLAB_CONTAINER_ENGINE says: a program with arguments of its own. */
interface Engine {
  name: string;
  command: readonly [string, ...string[]];
}

export interface ContainerMachine extends Machine {
  readonly name: "container";
  /** Ends its containers. Resolves when they are gone. */
  close(): Promise<void>;
}

/**
 * `folders`: absolute, those of the scenarios; mounted read-only where they stand.
 * `probe` starts a container where none is idle, and throws MachineError where that cannot be done here.
 */
export function containerMachine(folders: readonly string[], detail: (message: string) => void): ContainerMachine {
  let place: Promise<{ engine: Engine; image: string }> | null = null;
  let known: Capabilities | null = null;
  const idle = new Set<Container>();
  const all = new Set<Container>();
  const of = new WeakMap<Capabilities, Container>();

  const start = async (): Promise<Container> => {
    const { engine, image } = await (place ??= findPlace(folders));
    if (all.size === 0) {
      const { removed } = await cleanWith(engine);
      for (const name of removed) detail(`removed ${name}, whose oomlab is gone`);
    }
    const container = new Container(engine, image, folders);
    all.add(container);
    try {
      await container.greeted();
      return container;
    } catch (error) {
      await end(container);
      throw error;
    }
  };
  const end = async (container: Container): Promise<void> => {
    idle.delete(container);
    await container.end();
    all.delete(container);
  };
  const takeIdle = (): Container | undefined => {
    for (const container of idle) {
      idle.delete(container);
      if (!container.gone) return container;
    }
    return undefined;
  };

  return {
    name: "container",
    async probe() {
      let container: Container | undefined;
      try {
        container = takeIdle() ?? (await start());
        known = await container.probe();
        of.set(known, container);
        idle.add(container);
        return known;
      } catch (error) {
        if (container) await end(container);
        // A run that is asked for all the same says what is wrong.
        if (known !== null) return { ...known };
        throw error;
      }
    },
    async run(plan, caps, emit, signal) {
      const began = performance.now();
      let container = of.get(caps);
      try {
        if (container === undefined || !idle.delete(container) || container.gone) container = await start();
        await container.run(plan, began, emit, signal);
        idle.add(container);
      } catch (error) {
        if (container) await end(container);
        const { message, code, hint } = asMachineError(error);
        emit({ type: "error", code, message, hint: hint ?? null });
      } finally {
        emit({ type: "end", durationMs: Math.round(performance.now() - began) });
      }
    },
    close: async () => void (await Promise.all([...all].map(end))),
  };
}

const asMachineError = (error: unknown): MachineError =>
  error instanceof MachineError ? error : new MachineError("CONTAINER", (error as Error).message, { cause: error });

type Emit = (event: RunEventBody) => void;

/** One container with the agent in it: serves plans one after another. */
class Container {
  readonly #engine: Engine;
  readonly #name: string;
  readonly #client: ChildProcessByStdio<Writable, Readable, Readable>;
  readonly #ended: Promise<void>;
  /** What the engine's client and the runtime say, the last of it. */
  #words = "";
  #gone = false;
  #protocol: number | null = null;
  #capabilities: Capabilities | null = null;
  #emit: Emit = () => undefined;
  #plan = { done: false };
  #began = 0;
  #progress = (): void => undefined;

  constructor(engine: Engine, image: string, folders: readonly string[]) {
    this.#engine = engine;
    this.#name = `oomlab-${Math.random().toString(36).slice(2).padEnd(8, "0").slice(0, 8)}`;
    const [program, ...before] = engine.command;
    this.#client = spawn(program, [...before, ...runArguments(engine, this.#name, image, folders)], {
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
    if (!(await this.#until(() => this.#protocol !== null, startMs)))
      throw new MachineError("CONTAINER_START", `the container did not start: ${this.#reason(startMs)}`, {
        hint: startHint(this.#words),
      });
    if (this.#protocol !== agentProtocol)
      throw new MachineError("CONTAINER_IMAGE", "the image holds another version of oomlab", {
        hint: "build it again, or name the right one in OOMLAB_IMAGE",
      });
  }

  async probe(): Promise<Capabilities> {
    this.#capabilities = null;
    this.#send({ type: "probe" });
    await this.#until(() => this.#capabilities !== null, answerMs);
    const found = this.#capabilities as Capabilities | null;
    if (found === null)
      throw new MachineError("CONTAINER_LOST", `the container does not answer: ${this.#reason(answerMs)}`);
    return found;
  }

  /** Runs a plan; what happens is emitted. Throws MachineError where the container ends or hangs. */
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
    throw new MachineError(
      this.#gone ? "CONTAINER_LOST" : "CONTAINER_HANGS",
      this.#gone
        ? `the container ended in the middle of the run: ${this.#reason(0)}`
        : `the container hangs: the run in it was to end within ${limit / 1000} s`,
    );
  }

  /** Ends it: its input ends, which the agent takes as its order to leave; then the engine is told. Resolves when it is gone. */
  async end(): Promise<void> {
    this.#client.stdin.end();
    // What never ran may stay for all of --rm.
    if ((await this.#endsWithin(endMs)) && this.#client.exitCode === 0) return;
    await ask(this.#engine, ["rm", "--force", this.#name]);
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

  #reason(ms: number): string {
    const words = this.#words.trim().split("\n").slice(-5).join(" | ");
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
        machine: "container",
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

  /** Waits for something of the container; false where it ends, or the time is up. */
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

/**
 * The initial pid namespace and the host's view of cgroups: pids and paths are then those of the kernel's log. The
 * network is nobody's business.
 */
function runArguments(engine: Engine, name: string, image: string, folders: readonly string[]): string[] {
  const options = words(process.env["OOMLAB_CONTAINER_OPTIONS"]);
  return [
    "run",
    "--rm",
    "--interactive",
    "--privileged",
    "--network=none",
    "--pid=host",
    "--cgroupns=host",
    "--pull=never",
    // Events are the run's, not the engine's log.
    ...(engine.name === "nerdctl" ? [] : ["--log-driver=none"]),
    `--name=${name}`,
    `--label=${label}=${self()}`,
    "--volume=/sys/fs/cgroup:/sys/fs/cgroup:rw",
    ...folders.map((folder) => `--volume=${folder}:${folder}:ro`),
    ...options,
    image,
    "agent",
    "-",
  ];
}

const words = (text: string | undefined): string[] => (text ?? "").split(/\s+/).filter((word) => word !== "");

function startHint(said: string): string {
  if (/rlimit/i.test(said))
    return "set OOMLAB_CONTAINER_OPTIONS='--ulimit nofile=1024:4096 --ulimit nproc=1024:4096': this user may not raise limits";
  if (/cgroups? in hybrid mode|cgroups? v1/i.test(said) && /crun|not supported/i.test(said))
    return "this machine's cgroups need runc: set OOMLAB_CONTAINER_ENGINE='podman --runtime runc'";
  return "options for the engine's `run` go into OOMLAB_CONTAINER_OPTIONS (docs/containers.md)";
}

/** Folders that cannot be mounted: they would hide what the image itself needs. */
const ofTheImage =
  /^\/(?:$|(?:bin|boot|dev|etc|lib|lib64|opt|opt\/oomlab|proc|root|run|sbin|sys|tmp|usr|var|var\/tmp)$|(?:dev|proc|sys|usr\/(?:bin|lib|local))(?:\/|$))/;

/** Folders of scenario files (`-`: the working directory), each once, none below another. */
export function scenarioFolders(files: readonly string[]): string[] {
  const folders = [...new Set(files.map((file) => (file === "-" ? resolve(".") : dirname(resolve(file)))))];
  return folders.filter((folder) => !folders.some((other) => other !== folder && folder.startsWith(`${other}/`)));
}

async function findPlace(folders: readonly string[]): Promise<{ engine: Engine; image: string }> {
  const hidden = folders.find((folder) => ofTheImage.test(folder));
  if (hidden !== undefined)
    throw new MachineError(
      "CONTAINER_FOLDER",
      `the scenario's folder ${hidden} cannot be mounted in a container: it would hide the image's own`,
      { hint: "put the scenario into a folder of its own" },
    );
  const colon = folders.find((folder) => folder.includes(":"));
  if (colon !== undefined)
    throw new MachineError("CONTAINER_FOLDER", `the scenario's folder ${colon} has a colon in its name`, {
      hint: "container engines take a colon for the end of a path: rename the folder",
    });
  const { engine, tried } = await findEngine();
  if (engine === null)
    throw new MachineError("NO_ENGINE", `no container engine answers (${tried.join("; ")})`, { hint: engineHint });
  const image = imageName();
  const { ok } = await ask(engine, ["image", "inspect", image]);
  if (!ok)
    throw new MachineError("NO_IMAGE", `${engine.name} has no image ${image}`, { hint: imageHint(engine, image) });
  return { engine, image };
}

const engineHint =
  "start docker, or install one: apt-get install podman; OOMLAB_CONTAINER_ENGINE names another program (docs/containers.md)";
const imageName = (): string => process.env["OOMLAB_IMAGE"] || defaultImage;
const imageHint = (engine: Engine, image: string): string =>
  image === defaultImage
    ? `type: ${engine.command.join(" ")} build -t oomlab . (in oomlab's source folder), or name another in OOMLAB_IMAGE`
    : `type: ${engine.command.join(" ")} pull ${image}, or name another in OOMLAB_IMAGE`;

/** The first engine that answers: a client without its daemon is none. */
async function findEngine(): Promise<{ engine: Engine | null; tried: string[] }> {
  const tried: string[] = [];
  for (const engine of candidates()) {
    if (which(engine.command[0]) === undefined && !existsSync(engine.command[0])) {
      tried.push(`${engine.command[0]}: not installed`);
      continue;
    }
    const { ok, stderr } = await ask(engine, ["info"]);
    if (ok) return { engine, tried };
    tried.push(`${engine.command[0]}: ${lastLine(stderr)}`);
  }
  return { engine: null, tried };
}

function candidates(): Engine[] {
  const [program, ...rest] = words(process.env["OOMLAB_CONTAINER_ENGINE"]);
  if (program !== undefined) return [{ name: basename(program), command: [program, ...rest] }];
  return engines.map((name) => ({ name, command: [name] }));
}

const lastLine = (text: string): string => text.trim().split("\n").at(-1) || "does not answer";

/** Runs a command of the engine's to its end. Never rejects. */
function ask(
  { command: [program, ...before] }: Engine,
  args: string[],
): Promise<{ ok: boolean; stdout: string; stderr: string }> {
  return new Promise((done) => {
    execFile(
      program,
      [...before, ...args],
      { timeout: answerMs, killSignal: "SIGKILL", maxBuffer: 16 * 1048576 },
      (error, stdout, stderr) =>
        done({ ok: error === null, stdout, stderr: error && stderr.trim() === "" ? error.message : stderr }),
    );
  });
}

/** What machine `container` finds here, for people. */
export async function containerFindings(): Promise<{ ok: boolean; detail: string; hint: string | null }> {
  try {
    const { engine, image } = await findPlace([]);
    return { ok: true, detail: `${engine.command.join(" ")} answers and has the image ${image}`, hint: null };
  } catch (error) {
    const { message, hint } = asMachineError(error);
    return { ok: false, detail: message, hint: hint ?? null };
  }
}

// ---- what killed runs left behind

/** `BOOT PIDNAMESPACE PID START`: this process, for as long as it lives. */
const self = (): string => `${world()} ${process.pid} ${startOf(process.pid) ?? 0}`.replaceAll(" ", ".");

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

export interface CleanedContainers {
  removed: string[];
  /** Their oomlab is alive, or cannot be seen from here. */
  inUse: string[];
  left: { path: string; reason: string }[];
}

/** Removes containers whose oomlab is gone, from each engine that is there. */
export async function cleanContainers(): Promise<CleanedContainers> {
  const result: CleanedContainers = { removed: [], inUse: [], left: [] };
  for (const engine of candidates()) {
    if (which(engine.command[0]) === undefined && !existsSync(engine.command[0])) continue;
    const { removed, inUse, left } = await cleanWith(engine);
    result.removed.push(...removed);
    result.inUse.push(...inUse);
    result.left.push(...left);
  }
  return result;
}

async function cleanWith(engine: Engine): Promise<CleanedContainers> {
  const result: CleanedContainers = { removed: [], inUse: [], left: [] };
  const { ok, stdout } = await ask(engine, ["ps", "--all", "--quiet", "--filter", `label=${label}`]);
  if (!ok) return result;
  for (const id of words(stdout)) {
    const told = await ask(engine, ["inspect", "--format", "{{.State.Running}} {{.Name}} {{json .Config.Labels}}", id]);
    // One that has gone meanwhile is none.
    if (!told.ok) continue;
    const [, running, called = "", labels = ""] = /^(\S+) \/?(\S+) (.*)/.exec(told.stdout) ?? [];
    const name = `container ${called}`;
    // One that has ended serves nobody.
    if (running !== "false" && !isAbandoned(ownerIn(labels))) {
      result.inUse.push(name);
      continue;
    }
    const { ok: gone, stderr } = await ask(engine, ["rm", "--force", id]);
    if (gone) result.removed.push(name);
    else result.left.push({ path: name, reason: lastLine(stderr) });
  }
  return result;
}

function ownerIn(labels: string): string {
  try {
    return (JSON.parse(labels) as Record<string, string>)[label] ?? "";
  } catch {
    return "";
  }
}

/** Whether its oomlab ran in this boot and pid namespace, and is no more; of another machine's nothing is known. */
function isAbandoned(owner: string): boolean {
  const [boot, namespace, pid, start] = owner.split(".");
  return `${boot} ${namespace}` === world() && startOf(Number(pid)) !== Number(start);
}
