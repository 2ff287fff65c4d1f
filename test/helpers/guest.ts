/** A guest that runs test files of this folder: bundled on a read-only image, booted, and told test by test. */
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { build, type Plugin } from "esbuild";
import { execa } from "execa";
import { oomlabFiles, programImage } from "../../src/machine/image.ts";
import { guestKernel } from "../../src/machine/kernel.ts";
import { ensurePrograms, which } from "../../src/machine/packages.ts";
import { type Qemu, type QemuParts, startQemu } from "../../src/machine/qemu.ts";
import { type CgroupVersion, planScenario, type VmSpec } from "../../src/plan.ts";
import { parseScenarios } from "../../src/scenario/index.ts";
import { machineWith } from "./capabilities.ts";
import { root } from "./cli.ts";
import { type GuestLine, type GuestOrder, type GuestResult, type GuestTest, keyOf, testMs } from "./guest-runner.ts";

/** Where the repository lies: in the guest, unless told otherwise. */
const home = 'process.env["OOMLAB_HOME"] ?? "/oomlab"';

/** A bundle has no `import.meta` of its files': each gets what it would have where the repository lies. */
const ownPlaces: Plugin = {
  name: "own-places",
  setup(bundler) {
    bundler.onLoad({ filter: /\.ts$/ }, ({ path }) => {
      const place = (what: string): string => `(${home}) + ${JSON.stringify(`/${what}`)}`;
      const file = relative(root, path);
      return {
        loader: "ts",
        contents: readFileSync(path, "utf8")
          .replaceAll("import.meta.url", `("file://" + ${place(file)})`)
          .replaceAll("import.meta.dirname", `(${place(dirname(file))})`),
      };
    });
  },
};

/** The test files with all that they import, as one program of Node's. */
async function bundle(files: readonly string[]): Promise<string> {
  const imports = files.map((file) => `${JSON.stringify(file)}: () => import(${JSON.stringify(`./${file}`)})`);
  const { outputFiles } = await build({
    stdin: {
      contents: `import { main } from "./test/helpers/guest-runner.ts";\nvoid main(process.argv.slice(2), { ${imports.join(", ")} });`,
      resolveDir: root,
      loader: "ts",
    },
    absWorkingDir: root,
    bundle: true,
    write: false,
    format: "cjs",
    platform: "node",
    target: "node20.19",
    keepNames: true,
    logLevel: "error",
    plugins: [ownPlaces],
  });
  return outputFiles[0]?.text ?? "";
}

/** How the cgroup hierarchies of a guest are mounted, and the kernel that still can. */
export interface Layout {
  kernel: string;
  version: CgroupVersion;
  hybrid: boolean;
}

/** The longest that a guest may be silent: its boot, or one test. */
const silentMs = testMs + 20_000;

/** Test files made into a program: their tests can be listed here, and run in guests. */
export class GuestTests {
  readonly #program: string;

  private constructor(program: string) {
    this.#program = program;
  }

  /** `files`: paths from the repository's root; `folder`: a temporary one. */
  static async bundle(files: readonly string[], folder: string): Promise<GuestTests> {
    const program = join(folder, "tests.cjs");
    writeFileSync(program, await bundle(files));
    return new GuestTests(program);
  }

  /** Every test, in the order of running. */
  async list(): Promise<GuestTest[]> {
    const { stdout } = await execa(process.execPath, [this.#program, "list"], {
      cwd: root,
      env: { OOMLAB_HOME: root },
    });
    return JSON.parse(stdout) as GuestTest[];
  }

  /** Boots a guest and runs tests in it. */
  async run(layout: Layout, tests: GuestTest[]): Promise<GuestRun> {
    await ensurePrograms(say);
    const kernel = await guestKernel(layout.kernel, say);
    const files = new Map([
      ...oomlabFiles(/./),
      ["test/guest.cjs", this.#program] as const,
      // Busybox's own knows no cgroup namespaces.
      ["test/unshare", which("unshare") ?? "/usr/bin/unshare"] as const,
      ...filesBelow("scenarios"),
    ]);
    const image = await programImage("tests", files, "test/guest.cjs run", say);
    return new GuestRun(layout, tests, { kernel: kernel.image, initrd: kernel.initrd, image, accelerator: "tcg" });
  }
}

const say = (text: string): void => console.log(text);

const filesBelow = (folder: string): [string, string][] =>
  readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .map((path) => [relative(root, path), path]);

/** The guest that a scenario of 1 GiB would get, with a disk for files. */
function vmOf({ kernel, version, hybrid }: Layout): VmSpec {
  const [scenario] = parseScenarios(
    `name: tests\nmachine: { memory: 1Gi, cgroup: v${version} }\nprocesses: { any: { stress: { anon: 1Mi } } }\n`,
    "tests.yaml",
  );
  if (!scenario) throw new Error("the guest's scenario is none");
  const { vm } = planScenario(scenario, machineWith(), { runId: "tests", machine: "vm", kernel, hybrid });
  if (!vm) throw new Error("the guest's scenario has no VM");
  // Huge pages as most distributions have them: a stride would touch whole ones otherwise.
  return { ...vm, thp: "madvise", scratch: 512 << 20 };
}

/** One guest with the tests running in it. */
export class GuestRun implements AsyncDisposable {
  readonly #results = new Map<string, GuestResult>();
  readonly #console: string[] = [];
  readonly #qemu: Qemu;
  readonly #waiting = new Set<() => void>();
  #over: string | null = null;
  #watchdog: NodeJS.Timeout;

  constructor({ version, ...layout }: Layout, tests: GuestTest[], parts: QemuParts) {
    const vm = vmOf({ version, ...layout });
    const order = (): GuestOrder => ({ vm, version, now: Date.now(), tests });
    this.#qemu = startQemu(vm, parts, {
      agent: (line) => {
        this.#watchdog.refresh();
        const told = JSON.parse(line) as GuestLine;
        if (told.type === "hello") this.#qemu.send(`${JSON.stringify(order())}\n`);
        else if (told.type === "result") this.#results.set(keyOf(told.result), told.result);
        else this.#over ??= told.error ?? "it was not among those that the guest ran";
        this.#wake();
      },
      console: (line) => this.#console.push(line),
    });
    this.#watchdog = setTimeout(() => this.#end(`nothing came for ${silentMs / 1000} s`), silentMs);
    void this.#qemu.ended.then(({ words }) => this.#end(`the guest ended: ${words}`));
  }

  /** How a test ended in the guest; waits for it. Throws where the guest will not tell any more. */
  async result(test: GuestTest): Promise<GuestResult> {
    for (;;) {
      const result = this.#results.get(keyOf(test));
      if (result) return result;
      if (this.#over !== null)
        throw new Error(`no result: ${this.#over}\nthe console's last lines:\n${this.#console.slice(-30).join("\n")}`);
      await new Promise<void>((resolve) => this.#waiting.add(resolve));
    }
  }

  #end(why: string): void {
    this.#over ??= why;
    this.#qemu.kill();
    this.#wake();
  }

  #wake(): void {
    for (const wake of this.#waiting) wake();
    this.#waiting.clear();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearTimeout(this.#watchdog);
    this.#qemu.kill();
    await this.#qemu.ended;
  }
}
