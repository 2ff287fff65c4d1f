/** A privileged container, started from outside: the engine in it as the agent, over its standard input and output. */
import { existsSync } from "node:fs";
import { basename, dirname, resolve } from "node:path";
import { MachineError } from "../errors.ts";
import { which } from "./packages.ts";
import {
  ask,
  asMachineError,
  type Cleaned,
  type Command,
  isAbandoned,
  lastLine,
  type RemoteMachine,
  remoteMachine,
  self,
  words,
} from "./remote.ts";

const engines = ["docker", "podman", "nerdctl"];
const label = "org.oomlab.owner";
const defaultImage = "oomlab";

/** `docker`, or what OOMLAB_CONTAINER_ENGINE says: a program with arguments of its own. */
interface Engine {
  name: string;
  command: Command;
}

/** `folders`: absolute, those of the scenarios; mounted read-only where they stand. */
export function containerMachine(folders: readonly string[], detail: (message: string) => void): RemoteMachine {
  let found: ReturnType<typeof findPlace> | null = null;
  return remoteMachine("container", "container", async (first) => {
    const { engine, image } = await (found ??= findPlace(folders));
    if (first) {
      const { removed } = await cleanWith(engine);
      for (const name of removed) detail(`removed ${name}, whose oomlab is gone`);
    }
    const name = `oomlab-${Math.random().toString(36).slice(2).padEnd(8, "0").slice(0, 8)}`;
    const [program, ...before] = engine.command;
    return {
      command: [program, ...before, ...runArguments(engine, name, image, folders)],
      startHint,
      fate: async () => null,
      // One that has ended well has gone with --rm; what never ran may stay for all of it.
      remove: async (ended) => void (ended || (await ask(engine.command, ["rm", "--force", name]))),
    };
  });
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
  const { ok, timedOut, stderr } = await ask(engine.command, ["image", "inspect", image]);
  if (timedOut)
    throw new MachineError("NO_ENGINE", `${engine.name} is too slow: ${stderr}`, {
      hint: "try again: it may be starting",
    });
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
    const { ok, stderr } = await ask(engine.command, ["info"]);
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

/** Removes containers whose oomlab is gone, from each engine that is there. */
export async function cleanContainers(): Promise<Cleaned> {
  const result: Cleaned = { removed: [], inUse: [], left: [] };
  for (const engine of candidates()) {
    if (which(engine.command[0]) === undefined && !existsSync(engine.command[0])) continue;
    const { removed, inUse, left } = await cleanWith(engine);
    result.removed.push(...removed);
    result.inUse.push(...inUse);
    result.left.push(...left);
  }
  return result;
}

async function cleanWith(engine: Engine): Promise<Cleaned> {
  const result: Cleaned = { removed: [], inUse: [], left: [] };
  const { ok, stdout } = await ask(engine.command, ["ps", "--all", "--quiet", "--filter", `label=${label}`]);
  if (!ok) return result;
  for (const id of words(stdout)) {
    const told = await ask(engine.command, [
      "inspect",
      "--format",
      "{{.State.Running}} {{.Name}} {{json .Config.Labels}}",
      id,
    ]);
    // One that has gone meanwhile is none.
    if (!told.ok) continue;
    const [, running, called = "", labels = ""] = /^(\S+) \/?(\S+) (.*)/.exec(told.stdout) ?? [];
    const name = `container ${called}`;
    // One that has ended serves nobody.
    if (running !== "false" && !isAbandoned(ownerIn(labels))) {
      result.inUse.push(name);
      continue;
    }
    const { ok: gone, stderr } = await ask(engine.command, ["rm", "--force", id]);
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
