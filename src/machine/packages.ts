/** What the system's package manager brings: programs that are installed, and packages that are only unpacked. */
import { execFile } from "node:child_process";
import { accessSync, constants, readdirSync, statSync } from "node:fs";
import { delimiter, join } from "node:path";
import { MachineError } from "../errors.ts";

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
    child.stdin?.end(options.input ?? "");
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

/** The newest version of a package: its fields, or null where apt knows none. */
export async function showPackage(name: string, say: Say): Promise<Record<string, string> | null> {
  if (which("apt-cache") === undefined) return null;
  await ensureLists(say);
  const text = await execute("apt-cache", ["show", "--no-all-versions", name]).catch(() => "");
  const fields = Object.fromEntries(
    text
      .split("\n")
      .filter((line) => /^[A-Z][A-Za-z0-9-]*: /.test(line))
      .map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 2)]),
  );
  return fields["Package"] === undefined ? null : fields;
}

/** Downloads a package (apt checks its hash against the signed list) and unpacks it, installing nothing. */
export async function unpackPackage(name: string, folder: string, say: Say): Promise<void> {
  if (which("apt-get") === undefined || which("dpkg-deb") === undefined)
    throw new MachineError("NO_PACKAGES", `the package ${name} cannot be had: there is no apt-get here`, {
      hint: "name a kernel of your own with --kernel PATH",
    });
  await ensureLists(say);
  say(`fetching ${name}`);
  await execute("apt-get", ["-qq", "-o", "APT::Sandbox::User=root", "download", name], { cwd: folder });
  const file = readdirSync(folder).find((entry) => entry.endsWith(".deb"));
  if (file === undefined) throw new MachineError("NO_PACKAGES", `apt-get downloaded nothing for ${name}`);
  await execute("dpkg-deb", ["-x", file, "."], { cwd: folder });
}
