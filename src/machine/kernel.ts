/** Kernels for the VM: a distribution's package or the user's own bzImage, with the few modules that the guest loads. */
import {
  closeSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { createHash } from "node:crypto";
import { basename, dirname, join } from "node:path";
import { MachineError } from "../errors.ts";
import { initPath } from "../native.ts";
import { cached, cachedEntry, identity, recall, remember } from "./cache.ts";
import {
  type Archive,
  execute,
  isOffline,
  otherSuite,
  ownArchive,
  type PackageInfo,
  type Say,
  which,
} from "./packages.ts";

export interface GuestKernel {
  release: string;
  /** What QEMU boots. */
  image: string;
  initrd: string;
}

/** Of what is in an entry beside packages: bump the number when that changes. */
const layout = (): string => `6.${createHash("sha256").update(readFileSync(initPath())).digest("hex").slice(0, 8)}`;

/** Loaded before the image can be mounted. */
const earlyModules = ["virtio_pci", "virtio_blk", "virtio_console", "erofs"];
/** Loaded when a scenario asks for them; zram's default compressor is not among its dependencies. */
const lateModules: Record<string, string[]> = { zram: ["lzo-rle", "lz4", "zstd", "zram"] };

const metaPackage = "linux-image-cloud-amd64";

/** The Debian suite whose cloud kernel is of a series, where the machine's own suite has another. */
const suites: Record<string, string> = { "5.10": "bullseye", "6.1": "bookworm", "6.12": "trixie", latest: "sid" };

export async function guestKernel(wanted: string | null, say: Say): Promise<GuestKernel> {
  const folder =
    wanted !== null && wanted.includes("/") ? await ownKernel(wanted, say) : await packagedKernel(wanted, say);
  const release = readFileSync(join(folder, "release"), "utf8");
  return { release, image: join(folder, "kernel"), initrd: join(folder, "initrd") };
}

async function packagedKernel(wanted: string | null, say: Say): Promise<string> {
  // Asking apt takes a second: what it said holds until its lists change.
  const note = `kernel-${wanted ?? "default"}`;
  const known = cachedEntry(recall(note, isOffline() ? null : listsState()) ?? "");
  if (known !== null) return known;
  const { from, packages } = await resolve(wanted, say);
  const [image] = packages;
  const key = `${image.name}_${image.version}`.replaceAll(/[^\w.+~-]/g, "_");
  const entry = `kernel-${layout()}-${key}`;
  const path = await cached(entry, async (folder) => {
    const tree = join(folder, "tree");
    mkdirSync(tree);
    await from.unpack(packages, tree);
    const roots = [join(tree, "lib/modules"), join(tree, "usr/lib/modules")].filter((path) => existsSync(path));
    const modules = roots.flatMap((root) => readdirSync(root).map((release) => join(root, release)))[0];
    const boot = join(tree, "boot");
    const candidates = [
      ...(existsSync(boot) ? readdirSync(boot).filter((file) => file.startsWith("vmlinuz-")) : []).map((file) =>
        join(boot, file),
      ),
      ...(modules === undefined ? [] : [join(modules, "vmlinuz")]),
    ];
    const file = candidates.find((path) => existsSync(path));
    if (file === undefined || modules === undefined)
      throw new MachineError("NO_KERNEL", `the package ${image.name} holds no kernel with its modules`);
    await assemble(folder, file, modules, say);
    rmSync(tree, { recursive: true });
  });
  remember(note, listsState(), entry);
  return path;
}

/** What apt knows, and the day: another suite's lists are fetched once a day. */
function listsState(): string {
  const lists = "/var/lib/apt/lists";
  return `${layout()} ${existsSync(lists) ? statSync(lists).mtimeMs : 0} ${Math.floor(Date.now() / 86_400_000)}`;
}

type Packages = [PackageInfo, ...PackageInfo[]];

/** The packages of a kernel: a series means its newest, null the newest of this machine's own suite. */
async function resolve(wanted: string | null, say: Say): Promise<{ from: Archive; packages: Packages }> {
  const own = await ownArchive(say);
  const here = wanted === "latest" ? null : await newest(own, wanted);
  if (here !== null) return { from: own, packages: await withParts(own, here) };
  const suite = suites[wanted ?? ""];
  if (suite !== undefined) {
    const other = await otherSuite(suite, say);
    const there = await newest(other, wanted === "latest" ? null : wanted);
    if (there !== null) return { from: other, packages: await withParts(other, there) };
  }
  throw new MachineError(
    "NO_KERNEL",
    wanted === null
      ? `apt knows no ${metaPackage}, which names the newest kernel`
      : `there is no cloud kernel ${wanted}`,
    {
      hint: `expected one of ${Object.keys(suites).join(", ")}, or a path to a bzImage with its modules beside it in lib/modules`,
    },
  );
}

async function newest(from: Archive, wanted: string | null): Promise<PackageInfo | null> {
  if (wanted === null) {
    const name = /linux-image-\d[\w.+~-]*/.exec((await from.show(metaPackage))?.depends ?? "")?.[0];
    return name === undefined ? null : from.show(name);
  }
  const prefix = `linux-image-${wanted}`;
  const names = (await from.names(prefix)).filter(
    // The next character ends the number: 6.1 is not 6.12. A meta package has none after it.
    (name) => name.endsWith("-cloud-amd64") && /^[.+]|^-\d/.test(name.slice(prefix.length)),
  );
  const name = names.toSorted(byVersion).at(-1);
  return name === undefined ? null : from.show(name);
}

const byVersion = (a: string, b: string): number => a.localeCompare(b, "en", { numeric: true });

/** From Debian 14 on a kernel is in several packages. */
async function withParts(from: Archive, image: PackageInfo): Promise<Packages> {
  const names = image.depends.match(/\blinux-(?:binary|modules)-\d[\w.+~-]*/g) ?? [];
  const parts: PackageInfo[] = [];
  for (const name of new Set(names)) {
    const found = await from.show(name);
    if (found !== null) parts.push(found);
  }
  return [image, ...parts];
}

/** A bzImage that the user names, or a folder that holds one. */
async function ownKernel(path: string, say: Say): Promise<string> {
  const image = existsSync(path) && statSync(path).isDirectory() ? findImage(path) : path;
  if (existsSync(image) && !statSync(image).isFile())
    throw new MachineError("NO_KERNEL", `the kernel ${image} is no regular file: expected a bzImage`);
  const release = releaseOf(image);
  const bytes = readFileSync(image);
  if (payloadOf(bytes).end > bytes.length)
    throw new MachineError("NO_KERNEL", `the kernel ${image} is cut short: it is smaller than it states`);
  const roots = [dirname(image), dirname(dirname(image)), "/"];
  const modules = roots
    .flatMap((root) => [join(root, "lib/modules", release), join(root, "usr/lib/modules", release)])
    .find((folder) => existsSync(folder));
  // Modules that were built again, or put beside it, make another entry.
  const hash = createHash("sha256")
    .update(bytes)
    .update(modules === undefined ? "" : stateOf(modules))
    .digest("hex")
    .slice(0, 16);
  return cached(`kernel-${layout()}-${release.replaceAll(/[^\w.+~-]/g, "_")}-${hash}`, (folder) =>
    assemble(folder, image, modules ?? null, say),
  );
}

/** What the modules of a kernel are, without reading them. */
const stateOf = (modules: string): string =>
  readdirSync(modules, { recursive: true, encoding: "utf8" })
    .filter((file) => /\.ko(\.\w+)?$|modules\.builtin$/.test(file))
    .toSorted()
    .map((file) => identity(join(modules, file)))
    .join("\n");

function findImage(folder: string): string {
  for (const inside of [folder, join(folder, "boot")]) {
    const image = existsSync(inside)
      ? readdirSync(inside)
          .toSorted(byVersion)
          .findLast((file) => /^(vmlinuz|bzImage)/.test(file))
      : undefined;
    if (image !== undefined) return join(inside, image);
  }
  throw new MachineError("NO_KERNEL", `there is no vmlinuz or bzImage in ${folder}`);
}

/** The release a bzImage states of itself (Documentation/arch/x86/boot.rst, kernel_version). */
function releaseOf(image: string): string {
  let head: Buffer;
  try {
    head = readHead(image, 65_536);
  } catch (error) {
    throw new MachineError(
      "NO_KERNEL",
      `the kernel ${image} cannot be read: ${(error as NodeJS.ErrnoException).code}`,
      {
        cause: error,
      },
    );
  }
  if (head.length < 0x250 || head.toString("latin1", 0x202, 0x206) !== "HdrS")
    throw new MachineError("NO_KERNEL", `${image} is no x86 bzImage`, {
      hint: "name a vmlinuz or bzImage, not a vmlinux",
    });
  const at = head.readUInt16LE(0x20e) + 0x200;
  const release = /^[\w.+~-]+/.exec(head.toString("latin1", at, at + 256))?.[0];
  if (release === undefined) throw new MachineError("NO_KERNEL", `${image} does not state its release`);
  return release;
}

/** Where the packed kernel lies in a bzImage (Documentation/arch/x86/boot.rst, payload_offset and payload_length). */
function payloadOf(bytes: Buffer): { start: number; end: number } {
  const start = ((bytes[0x1f1] ?? 0) + 1) * 512 + bytes.readUInt32LE(0x248);
  return { start, end: start + bytes.readUInt32LE(0x24c) };
}

function readHead(path: string, size: number): Buffer {
  const fd = openSync(path, "r");
  try {
    const bytes = Buffer.alloc(size);
    return bytes.subarray(0, readSync(fd, bytes, 0, size, 0));
  } finally {
    closeSync(fd);
  }
}

/** Puts an entry together: kernel, initrd, release. */
async function assemble(folder: string, image: string, modules: string | null, say: Say): Promise<void> {
  const release = releaseOf(image);
  const root = join(folder, "root");
  for (const path of ["dev", "sys", "image", "modules"]) mkdirSync(join(root, path), { recursive: true });
  const early = await placeModules(root, modules, release);
  copyFileSync(initPath(), join(root, "init"));
  const files = readdirSync(root, { recursive: true, encoding: "utf8" });
  // newc, as the kernel unpacks it; not compressed: it is small, and unpacking would take longer than reading.
  writeFileSync(
    join(folder, "initrd"),
    Buffer.from(
      await execute(await busybox(say), ["cpio", "-o", "-H", "newc", "-R", "0:0"], {
        cwd: root,
        input: `${files.join("\n")}\n`,
      }),
      "latin1",
    ),
  );
  rmSync(root, { recursive: true });
  const kernel = join(folder, "kernel");
  if (!(await unpackKernel(image, kernel))) copyFileSync(image, kernel);
  // A file system that is built in has its name in the kernel.
  else if (!early.includes("erofs.ko") && !readFileSync(kernel).includes("erofs\0"))
    throw new MachineError(
      "KERNEL_LACKS",
      `the kernel ${release} has no erofs built in, and its modules are not there: the VM needs them`,
      { hint: `put them beside it: lib/modules/${release}` },
    );
  writeFileSync(join(folder, "release"), release);
}

/** A static busybox: the guest's tools, and cpio on the host. */
export async function busybox(say: Say): Promise<string> {
  const folder = await cached("busybox-1", async (target) => {
    const tree = join(target, "tree");
    mkdirSync(tree);
    const from = await ownArchive(say);
    const found = await from.show("busybox-static");
    if (found === null) throw new MachineError("NO_BUSYBOX", "apt knows no busybox-static");
    await from.unpack([found], tree);
    const file = ["bin/busybox", "usr/bin/busybox"].map((path) => join(tree, path)).find((path) => existsSync(path));
    if (file === undefined) throw new MachineError("NO_BUSYBOX", "the package busybox-static holds no busybox");
    renameSync(file, join(target, "busybox"));
    rmSync(tree, { recursive: true });
  });
  return join(folder, "busybox");
}

/** Copies the modules that the guest loads, and lists each with all it depends on, in the order of loading; those loaded first. */
async function placeModules(root: string, modules: string | null, release: string): Promise<string[]> {
  const found = new Map<string, string>();
  const builtin = new Set<string>();
  if (modules !== null) {
    for (const file of readdirSync(modules, { recursive: true, encoding: "utf8" }))
      if (/\.ko(\.xz|\.zst|\.gz)?$/.test(file)) found.set(moduleName(file), join(modules, file));
    const list = join(modules, "modules.builtin");
    if (existsSync(list))
      for (const file of readFileSync(list, "latin1").split("\n")) if (file !== "") builtin.add(moduleName(file));
  }
  const placed = new Set<string>();
  const load = async (name: string): Promise<string[]> => {
    const file = found.get(name);
    if (file === undefined || builtin.has(name)) return [];
    const target = join(root, "modules", `${name}.ko`);
    if (!placed.has(name)) {
      placed.add(name);
      await placeModule(file, target);
    }
    const order: string[] = [];
    for (const dependency of dependenciesOf(target)) order.push(...(await load(dependency)));
    return [...order, `${name}.ko`];
  };
  const listed = async (names: string[]): Promise<string[]> => {
    const all: string[] = [];
    for (const name of names) all.push(...(await load(moduleName(name))));
    return [...new Set(all)];
  };
  const early = await listed(earlyModules);
  writeFileSync(join(root, "modules/early"), early.join("\n"));
  for (const [name, needed] of Object.entries(lateModules)) {
    const order = await listed(needed);
    if (order.includes(`${name}.ko`) || builtin.has(name))
      writeFileSync(join(root, "modules", name), order.filter((file) => !early.includes(file)).join("\n"));
  }
  const lacks = earlyModules.filter((name) => !early.includes(`${name}.ko`) && !builtin.has(name));
  // Without the list of what is built in (Debian 14 ships none) the guest itself has to find out.
  if (builtin.size > 0 && lacks.length > 0)
    throw new MachineError("KERNEL_LACKS", `the kernel ${release} has no ${lacks.join(", ")}, which the VM needs`);
  return early;
}

const moduleName = (file: string): string =>
  basename(file)
    .replace(/\.ko(\.\w+)?$/, "")
    .replaceAll("-", "_");

/** modinfo's \`depends\`, from the module's own .modinfo section. */
const dependenciesOf = (file: string): string[] =>
  (/\0depends=([^\0]*)\0/.exec(readFileSync(file, "latin1"))?.[1] ?? "")
    .split(",")
    .filter((name) => name !== "")
    .map(moduleName);

async function placeModule(file: string, target: string): Promise<void> {
  const tool = file.endsWith(".xz") ? "xz" : file.endsWith(".zst") ? "zstd" : file.endsWith(".gz") ? "gzip" : null;
  if (tool === null) cpSync(file, target);
  else writeFileSync(target, Buffer.from(await execute(tool, ["-dc", file]), "latin1"));
}

/** A bzImage's payload, unpacked once: the guest's own unpacking takes 0.3 s of each boot. False where it cannot be done. */
async function unpackKernel(image: string, target: string): Promise<boolean> {
  const bytes = readFileSync(image);
  const { start, end } = payloadOf(bytes);
  const payload = bytes.subarray(start, end);
  const tool = { "02214c18": "lz4", "28b52ffd": "zstd" }[payload.subarray(0, 4).toString("hex")];
  if (tool === undefined || which(tool) === undefined) return false;
  const packed = `${target}.packed`;
  // The last four bytes are the unpacked size, which is no part of the stream.
  writeFileSync(packed, payload.subarray(0, payload.length - 4));
  try {
    writeFileSync(target, Buffer.from(await execute(tool, ["-dc", packed]), "latin1"));
    return readHead(target, 4).toString("latin1") === "\x7fELF";
  } catch {
    return false;
  } finally {
    rmSync(packed, { force: true });
  }
}
