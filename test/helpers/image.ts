/** The image from the Dockerfile, built by podman in a store of the tests' own. */
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
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
export const engine: readonly string[] = [
  "podman",
  "--root",
  join(store, "root"),
  "--runroot",
  join(store, "run"),
  "--runtime",
  "runc",
];
/** For a user without CAP_SYS_RESOURCE, who may not raise limits. */
export const ulimits: readonly string[] = ["--ulimit", "nofile=1024:4096", "--ulimit", "nproc=1024:4096"];
export const base: string = `localhost/node:${process.versions.node}-bookworm-slim-1`;
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

/** What a guest imports: an archive, and the image's configuration as instructions of a Dockerfile. */
export interface GuestImage {
  archive: Buffer;
  changes: string[];
}

interface ImageConfig {
  Env?: string[];
  Entrypoint?: string[];
  Cmd?: string[];
  WorkingDir?: string;
}

/**
 * The image without its base: what the Dockerfile puts into it, with its configuration, on a root that takes its programs
 * from the guest's /usr (`--volume=/usr:/usr:ro`). 3 MB are imported in a second; under emulation docker and podman load
 * the 290 MB of the whole in minutes.
 */
export async function guestImage(): Promise<GuestImage> {
  const id = await buildImage();
  const folder = await cached(`oci-${id.slice(0, 20)}`, async (target) => {
    const tree = join(target, "root");
    for (const name of ["usr", "sbin", "etc", "root", "tmp"]) mkdirSync(join(tree, name), { recursive: true });
    for (const name of ["bin", "lib", "lib64"]) symlinkSync(`usr/${name}`, join(tree, name));
    writeFileSync(join(tree, "etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n");
    await unpackImage("/", "opt/oomlab", tree);
    await execa("tar", ["-C", tree, "-cf", join(target, "image.tar"), "."]);
    rmSync(tree, { recursive: true });
    writeFileSync(join(target, "config.json"), await must("image", "inspect", "--format", "{{json .Config}}", image));
  });
  const config = JSON.parse(readFileSync(join(folder, "config.json"), "utf8")) as ImageConfig;
  const changes = [
    ...(config.Env ?? []).filter((line) => line.startsWith("OOMLAB_")).map((line) => `ENV ${line}`),
    `WORKDIR ${config.WorkingDir ?? "/"}`,
    `ENTRYPOINT ${JSON.stringify(config.Entrypoint)}`,
    `CMD ${JSON.stringify(config.Cmd)}`,
  ];
  return { archive: readFileSync(join(folder, "image.tar")), changes };
}

/** Copies a path of the image, below `from` in it, into a folder. */
async function unpackImage(from: string, path: string, folder: string): Promise<void> {
  const [program = "", ...before] = engine;
  const flags = ["--rm", "--network=none", ...ulimits, "--entrypoint", "tar", image, "-c", "-C", from, path];
  const packed = execa(program, [...before, "run", ...flags], { stdout: "pipe", buffer: false, encoding: "buffer" });
  await packed.pipe("tar", ["-x", "-C", folder]);
}
