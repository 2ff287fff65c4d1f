/** The image from the Dockerfile, built by podman in a store of the tests' own. */
import { cpSync, existsSync, mkdirSync, mkdtempSync, realpathSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { execa } from "execa";
import { cached } from "../../src/machine/cache.ts";
import { which } from "../../src/machine/packages.ts";
import { root } from "./cli.ts";
import { debianSite } from "./distro.ts";
import { needs, type Needs } from "./needs.ts";

/** Kept between runs: podman's storage with the base image and the build's layers. */
const store = join(tmpdir(), "oomlab-test-containers");
export const engine = ["podman", "--root", join(store, "root"), "--runroot", join(store, "run"), "--runtime", "runc"];
/** For a user without CAP_SYS_RESOURCE, who may not raise limits. */
export const ulimits = ["--ulimit", "nofile=1024:4096", "--ulimit", "nproc=1024:4096"];
export const base = `localhost/node:${process.versions.node}-bookworm-slim-1`;
export const image = "localhost/oomlab-test";

/** What building the image takes. */
export const imageNeeds: Record<string, boolean> = Object.fromEntries([
  ["root", process.getuid?.() === 0],
  ...["podman", "runc", "mmdebstrap"].map((name) => [name, which(name) !== undefined]),
]);
export const canBuildImage: Needs = needs(imageNeeds);

interface Ended {
  stdout: string;
  stderr: string;
  exitCode: number | undefined;
}

/** Runs podman on the tests' store. Never rejects. */
export async function podman(...args: string[]): Promise<Ended> {
  const [program = "", ...before] = engine;
  const { stdout, stderr, exitCode } = await execa(program, [...before, ...args], { cwd: root, reject: false });
  return { stdout, stderr, exitCode };
}

/** As `podman`, but throws where it fails. Resolves to standard output. */
async function must(...args: string[]): Promise<string> {
  const { stdout, stderr, exitCode } = await podman(...args);
  if (exitCode !== 0)
    throw new Error(`podman ${args.join(" ")}: status ${exitCode}\n${stderr.split("\n").slice(-20).join("\n")}`);
  return stdout;
}

/** Replaces the official base image on a machine without a registry: Debian with this machine's Node and its settings. */
async function makeBase(): Promise<void> {
  if ((await podman("image", "exists", base)).exitCode === 0) return;
  const work = mkdtempSync(join(store, "base-"));
  try {
    const tree = join(work, "rootfs");
    const without = ["man", "doc", "locale", "info"].map((name) => `--dpkgopt=path-exclude=/usr/share/${name}/*`);
    const source = `deb ${await debianSite()} bookworm main`;
    await execa("mmdebstrap", ["--quiet", "--variant=minbase", ...without, "bookworm", tree, source]);
    const prefix = dirname(dirname(realpathSync(process.execPath)));
    const npm = realpathSync(which("npm") ?? "");
    const copied = [
      realpathSync(process.execPath),
      join(prefix, "include/node"),
      dirname(dirname(npm)),
      join(prefix, "etc/npmrc"),
      "/root/.npmrc",
      "/etc/ssl/certs/ca-certificates.crt",
      "/etc/apt/sources.list",
      "/etc/apt/sources.list.d/debian.sources",
      "/etc/apt/apt.conf.d",
    ];
    for (const path of copied.filter((path) => existsSync(path)))
      cpSync(path, join(tree, path), { recursive: true, verbatimSymlinks: true });
    await execa("ln", ["-sfr", join(tree, npm), join(tree, prefix, "bin/npm")]);
    // A pipe as shells have it: the archive is not kept.
    const [program = "", ...before] = engine;
    const archive = execa("tar", ["-C", tree, "-c", "."], { stdout: "pipe", buffer: false, encoding: "buffer" });
    await archive.pipe(program, [...before, "import", "-", base]);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** Builds the image, from its layers where they are known. Resolves to its id. */
export async function buildImage(): Promise<string> {
  mkdirSync(store, { recursive: true });
  await makeBase();
  const flags = ["--runtime", which("runc") ?? "runc", "--network=host", "--build-arg", `BASE=${base}`];
  await must("build", ...flags, ...ulimits, "-t", image, ".");
  await must("image", "prune", "--force", "--filter", "until=24h");
  return (await must("image", "inspect", "--format", "{{.Id}}", image)).trim();
}

/** The image as `podman save` writes it, built where it is not kept: an archive that docker and podman load. */
export async function imageArchive(): Promise<string> {
  const id = await buildImage();
  const folder = await cached(`oci-${id.slice(0, 20)}`, async (target) => {
    await must("save", "--quiet", "--output", join(target, "image.tar"), image);
  });
  return join(folder, "image.tar");
}
