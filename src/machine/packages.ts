/** What the system's package manager brings: programs that are installed, and packages that are only unpacked. */
import { execFile } from "node:child_process";
import {
  accessSync,
  constants,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { delimiter, join } from "node:path";
import { MachineError } from "../errors.ts";
import { cacheFolder } from "./cache.ts";

/** Tells the user what is done to the machine. */
export type Say = (message: string) => void;

/** Runs a program to its end; its output, or an error with its own words. */
export function execute(file: string, args: string[], options: { cwd?: string; input?: string } = {}): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = execFile(
      file,
      args,
      {
        cwd: options.cwd,
        maxBuffer: 256 * 1048576,
        encoding: "latin1",
        env: { ...process.env, DEBIAN_FRONTEND: "noninteractive", LC_ALL: "C" },
      },
      (error, stdout, stderr) => {
        if (error === null) return resolve(stdout);
        const words = (stderr.trim() || stdout.trim() || error.message).split("\n").slice(-5).join("\n");
        reject(
          new MachineError("PROGRAM_FAILED", `${[file, ...args.slice(0, 2)].join(" ")} failed: ${words}`, {
            cause: error,
          }),
        );
      },
    );
    // A program that does not read its input has ended well all the same.
    child.stdin?.on("error", () => undefined).end(options.input ?? "");
  });
}

export function which(name: string): string | undefined {
  for (const folder of (process.env["PATH"] ?? "/usr/sbin:/usr/bin:/sbin:/bin").split(delimiter)) {
    const path = join(folder, name);
    try {
      accessSync(path, constants.X_OK);
      if (statSync(path).isFile()) return path;
    } catch {
      continue;
    }
  }
  return undefined;
}

/** Nothing is fetched or installed: in an image what a VM needs is there from its making, or not at all. */
export const isOffline = (): boolean => !["", "0", "off"].includes(process.env["OOMLAB_OFFLINE"] ?? "");

/** Programs the VM needs -> the Debian package of each. */
const programs: Record<string, string> = {
  "qemu-system-x86_64": "qemu-system-x86",
  "mkfs.erofs": "erofs-utils",
};

/** Which of them are not there. */
export const missingPrograms = (): string[] => Object.keys(programs).filter((name) => which(name) === undefined);

/** Installs what is missing; throws MachineError with the line to type where it may not. */
export async function ensurePrograms(say: Say): Promise<void> {
  const missing = missingPrograms();
  if (missing.length === 0) return;
  if (isOffline())
    throw new MachineError("VM_PROGRAMS", `the VM needs ${missing.join(" and ")}`, {
      hint: "in an image of oomlab: build Dockerfile.full on top of it; else unset OOMLAB_OFFLINE, which forbids installing",
    });
  const packages = missing.map((name) => programs[name] ?? name);
  const line = `apt-get install -y --no-install-recommends ${packages.join(" ")}`;
  if (which("apt-get") === undefined)
    throw new MachineError("VM_PROGRAMS", `the VM needs ${missing.join(" and ")}`, { hint: otherSystems() });
  if (process.getuid?.() !== 0)
    throw new MachineError("VM_PROGRAMS", `the VM needs ${missing.join(" and ")}`, { hint: `type: sudo ${line}` });
  say(`installing for the VM: ${line}`);
  await ensureLists(say);
  try {
    await apt("install", "-y", "--no-install-recommends", ...packages);
  } catch {
    // The lists may be older than what the archive still has.
    await apt("update");
    await apt("install", "-y", "--no-install-recommends", ...packages);
  }
}

const apt = (...args: string[]): Promise<string> =>
  execute("apt-get", ["-qq", "-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0", ...args]);

function otherSystems(): string {
  const lines: Record<string, string> = {
    dnf: "sudo dnf install -y qemu-system-x86-core erofs-utils",
    zypper: "sudo zypper install -y qemu-x86 erofs-utils",
    pacman: "sudo pacman -S --needed qemu-system-x86 erofs-utils",
    apk: "apk add qemu-system-x86_64 erofs-utils",
  };
  const found = Object.keys(lines).find((name) => which(name) !== undefined);
  return found ? `type: ${lines[found]}` : "install QEMU (qemu-system-x86_64) and erofs-utils";
}

/** Images drop apt's lists; without them it knows no package. */
async function ensureLists(say: Say): Promise<void> {
  let have = false;
  try {
    have = readdirSync("/var/lib/apt/lists").some((file) => file.includes("_Packages"));
  } catch {
    // No apt, or not readable: what follows says so.
  }
  if (have || process.getuid?.() !== 0) return;
  say("fetching apt's package lists");
  await apt("update");
}

export interface PackageInfo {
  name: string;
  version: string;
  depends: string;
}

/** Packages of the machine's own sources, or of another suite of the same archive. apt checks signatures and hashes. */
export interface Archive {
  show(name: string): Promise<PackageInfo | null>;
  /** Names that begin so. */
  names(prefix: string): Promise<string[]>;
  /** Downloads packages and unpacks them into a folder, installing nothing. */
  unpack(packages: PackageInfo[], folder: string): Promise<void>;
}

const noApt = (): MachineError =>
  new MachineError("NO_PACKAGES", "there is no apt-get here, through which kernels for the VM are fetched", {
    hint: "name a kernel of your own with --kernel PATH (a bzImage, its modules beside it in lib/modules)",
  });

/** The archive as this machine's own sources have it. */
export async function ownArchive(say: Say): Promise<Archive> {
  if (isOffline())
    throw new MachineError(
      "NO_PACKAGES",
      "what the VM is made of is not in the cache, and OOMLAB_OFFLINE forbids fetching it",
      {
        hint: "unset OOMLAB_OFFLINE, or name a kernel of your own with --kernel PATH",
      },
    );
  if (which("apt-get") === undefined || which("dpkg-deb") === undefined) throw noApt();
  await ensureLists(say);
  return archive([], say);
}

/** Another suite, from where the machine's own sources get theirs; lists and settings of its own, nothing of the system's is touched. */
export async function otherSuite(suite: string, say: Say): Promise<Archive> {
  await ownArchive(say);
  const sites = await execute("apt-get", [
    "indextargets",
    "--format",
    "$(SITE) $(ORIGIN) $(LABEL) $(COMPONENT)",
    "Created-By: Packages",
  ]);
  const site = /^(\S+) Debian Debian main$/m.exec(sites)?.[1];
  if (site === undefined)
    throw new MachineError("NO_PACKAGES", `apt's sources name no Debian archive to fetch ${suite}'s kernels from`, {
      hint: "name a kernel of your own with --kernel PATH (a bzImage, its modules beside it in lib/modules)",
    });
  const folder = join(cacheFolder(), "apt", suite);
  for (const path of ["lists/partial", "cache/archives/partial"]) mkdirSync(join(folder, path), { recursive: true });
  const sources = join(folder, "sources.list");
  const text = `deb ${site} ${suite} main\n`;
  if (!isRecent(sources, text)) {
    const options = privateApt(folder);
    writeFileSync(`${sources}.new`, text);
    say(`fetching the package list of ${suite}`);
    await execute("apt-get", [...options, "-o", `Dir::Etc::sourcelist=${sources}.new`, "-qq", "update"]);
    renameSync(`${sources}.new`, sources);
  }
  return archive([...privateApt(folder), "-o", `Dir::Etc::sourcelist=${sources}`], say);
}

const dayMs = 24 * 3600 * 1000;

function isRecent(path: string, text: string): boolean {
  try {
    return readFileSync(path, "utf8") === text && Date.now() - statSync(path).mtimeMs < dayMs;
  } catch {
    return false;
  }
}

const privateApt = (folder: string): string[] =>
  [
    "Dir::Etc::sourceparts=/dev/null",
    `Dir::State::lists=${folder}/lists`,
    `Dir::Cache=${folder}/cache`,
    "Acquire::Languages=none",
    "APT::Sandbox::User=root",
  ].flatMap((option) => ["-o", option]);

function archive(options: string[], say: Say): Archive {
  const show = async (name: string): Promise<PackageInfo | null> => {
    const text = await execute("apt-cache", [...options, "show", "--no-all-versions", name]).catch(() => "");
    const field = (key: string): string | undefined => new RegExp(`^${key}: (.*)$`, "m").exec(text)?.[1];
    const version = field("Version");
    return version === undefined ? null : { name: field("Package") ?? name, version, depends: field("Depends") ?? "" };
  };
  return {
    show,
    names: async (prefix) =>
      (await execute("apt-cache", [...options, "pkgnames", prefix])).split("\n").filter((name) => name !== ""),
    async unpack(packages, folder) {
      const names = packages.map(({ name, version }) => `${name}=${version}`);
      say(`fetching ${names.join(", ")}`);
      await execute("apt-get", [...options, "-qq", "-o", "APT::Sandbox::User=root", "download", ...names], {
        cwd: folder,
      });
      for (const file of readdirSync(folder).filter((entry) => entry.endsWith(".deb")))
        await execute("dpkg-deb", ["-x", file, "."], { cwd: folder });
    },
  };
}
