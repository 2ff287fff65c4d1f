/** The guest's root: a read-only erofs image with Node, oomlab itself and busybox, the same for every kernel. */
import { createHash } from "node:crypto";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { MachineError } from "../errors.ts";
import { addonPath, stressPath } from "../native.ts";
import { cached, identity, recall, remember } from "./cache.ts";
import { busybox } from "./kernel.ts";
import { execute, type Say } from "./packages.ts";

/** Bump it when what is in the image changes. */
const layout = 9;

/** Node's place in the guest, on its PATH: where it stands on the host may be hidden there, below /tmp say. */
const nodeInGuest = "/usr/local/bin/node";

/** oomlab as built: the folder that holds dist/. */
function builtFolder(): string {
  for (const up of ["../", "../../"]) {
    const folder = fileURLToPath(new URL(up, import.meta.url));
    if (existsSync(join(folder, "dist/agent.cjs"))) return folder;
  }
  throw new MachineError("NOT_BUILT", "the VM runs oomlab as built, and it is not built", {
    hint: "run `npm run setup` in the oomlab folder",
  });
}

/** What of oomlab goes into the image: path below its folder -> file. `programs`: which of dist/. */
export function oomlabFiles(programs: RegExp): Map<string, string> {
  const root = builtFolder();
  const files = new Map<string, string>([["package.json", join(root, "package.json")]]);
  for (const name of readdirSync(join(root, "dist")))
    if (programs.test(name) && name.endsWith(".cjs")) files.set(`dist/${name}`, join(root, "dist", name));
  for (const path of [addonPath(), stressPath()]) files.set(`native/build/Release/${basename(path)}`, path);
  return files;
}

/** Up to Node 23 V8 warns where it has to switch that off itself; later ones do so in silence, and refuse the flag. */
const noWasm = "--no-expose-wasm";
/** Emulation translates what V8 compiles once more: for what runs a few times that takes longer than it saves. */
const agentFlags = ["--jitless", ...(Number.parseInt(process.versions.node, 10) < 24 ? [noWasm] : [])];

/** Path of the agent's image. */
export const guestImage = (say: Say): Promise<string> =>
  programImage("image", oomlabFiles(/^(agent|workload)/), "dist/agent.cjs", say, agentFlags);

/**
 * Path of an image that runs one program of Node's, given the channel's device; built where it is missing, or where Node,
 * a file or a library has changed. `kind`: its name in the cache, one word. `flags`: of Node, before the program.
 */
export async function programImage(
  kind: string,
  files: ReadonlyMap<string, string>,
  program: string,
  say: Say,
  flags: readonly string[] = [],
): Promise<string> {
  const node = realpathSync(process.execPath);
  const sum = createHash("sha256").update(JSON.stringify([layout, program, flags, identity(node)]));
  for (const [name, path] of files) sum.update(`\0${name}\0`).update(readFileSync(path));
  const libraries = await librariesOf(node);
  for (const library of libraries) sum.update(identity(realpathSync(library)));
  const folder = await cached(`${kind}-${sum.digest("hex").slice(0, 20)}`, async (target) => {
    say("making the VM's image");
    const root = join(target, "root");
    for (const path of ["bin", "sbin", "dev", "proc", "sys", "run", "tmp", "var/tmp", "etc", "root"])
      mkdirSync(join(root, path), { recursive: true });
    place(root, nodeInGuest, node);
    for (const library of libraries) {
      // Where the loader looks, whatever run path Node's own place gave it.
      const path = /^(?:\/usr)?\/lib/.test(library) ? library : join("/usr/lib", basename(library));
      place(root, path, realpathSync(library));
    }
    for (const [name, path] of files) {
      place(root, `/oomlab/${name}`, path);
      if (/^dist\/agent-\w+\.cjs$/.test(name))
        await execute(node, [...flags, "-e", compile, path, join(root, "oomlab", codeCache(name))]);
    }
    await placeBusybox(root, say);
    writeFileSync(join(root, "etc/program"), `${[nodeInGuest, ...flags].join(" ")} /oomlab/${program}\n`);
    writeFileSync(join(root, "etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n");
    // Not compressed: unpacking under emulation takes longer than reading what is in the host's page cache.
    await execute("mkfs.erofs", ["-T0", "--all-root", join(target, "image.erofs"), root]);
    rmSync(root, { recursive: true });
  });
  return join(folder, "image.erofs");
}

/** Where a launcher looks for V8's compiled code of its bundle (scripts/launcher.cjs). */
const codeCache = (bundle: string): string => bundle.replace(/\.cjs$/, `-${process.version}-${process.arch}.cache`);

/**
 * A program for Node: V8's compiled code of all functions of a bundle, since under emulation compiling takes a guest longer
 * than loading. Node's flags must be those that it is loaded with.
 */
const compile = `
const [, bundle, target] = process.argv;
const v8 = require("node:v8");
v8.setFlagsFromString("--no-lazy");
const script = new (require("node:vm").Script)(fs.readFileSync(bundle, "latin1"));
v8.setFlagsFromString("--lazy");
fs.writeFileSync(target, script.createCachedData());
`;

/** Shared objects that Node and the addon load, as the loader names them; asked once, since Node's report takes 0.3 s. */
async function librariesOf(node: string): Promise<string[]> {
  const state = `${identity(node)} ${identity(addonPath())}`;
  const known = recall("libraries", state);
  if (known !== null) return known.split("\n");
  const text = await execute(node, [
    "-e",
    `require(${JSON.stringify(addonPath())}); console.log(JSON.stringify(process.report.getReport().sharedObjects))`,
  ]);
  const libraries = (JSON.parse(text) as string[]).filter(
    (path) => path.startsWith("/") && path !== addonPath() && existsSync(path),
  );
  remember("libraries", state, libraries.join("\n"));
  return libraries;
}

function place(root: string, path: string, from: string): void {
  const target = join(root, path);
  mkdirSync(dirname(target), { recursive: true });
  copyFileSync(from, target);
}

async function placeBusybox(root: string, say: Say): Promise<void> {
  const program = await busybox(say);
  place(root, "/bin/busybox", program);
  for (const name of (await execute(program, ["--list"])).split("\n")) {
    const link = join(root, "bin", name);
    if (name !== "" && !existsSync(link)) symlinkSync("busybox", link);
  }
  for (const name of ["poweroff", "insmod", "mkswap", "swapon", "swapoff"])
    symlinkSync(relative("/sbin", "/bin/busybox"), join(root, "sbin", name));
}
