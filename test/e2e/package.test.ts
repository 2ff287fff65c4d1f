import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { execa } from "execa";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { canRun, root } from "../helpers/cli.ts";
import { needs } from "../helpers/needs.ts";

const found = (program: string): boolean => !spawnSync(program, ["--version"]).error;
const linux = process.platform === "linux" && process.arch === "x64";
const cross = linux && found("aarch64-linux-gnu-g++");

/** The package as `npm pack` makes it, installed where no compiler is. */
describe("the package", needs("Linux on x64", linux), () => {
  let folder: string;
  let files: string[];
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
    mkdirSync(join(folder, "user"));
    mkdirSync(join(folder, "bin"));
    writeFileSync(join(folder, "user/package.json"), '{"private":true}');
    for (const program of ["sh", "env"]) symlinkSync(`/bin/${program}`, join(folder, "bin", program));
    symlinkSync(process.execPath, join(folder, "bin/node"));
    await execa("npm", ["install", "--no-audit", "--no-fund", join(folder, packed?.filename ?? "")], {
      cwd: join(folder, "user"),
    });
  }, 300_000);
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  test("has the build, the prebuilt native part, its sources and the manual page, and runs nothing when installed", () => {
    expect(files).toEqual(
      expect.arrayContaining([
        "dist/oomlab.cjs",
        "dist/index.js",
        "prebuilds/linux-x64/oomlab.node",
        "prebuilds/linux-x64/stress",
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

  test("tells its version and explains a log", async () => {
    const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { version: string };
    expect(await oomlab("--version")).toEqual({ exitCode: 0, all: version });
    const log = join(root, "test/fixtures/blog.log");
    expect(await oomlab("explain", log)).toEqual({ exitCode: 0, all: expect.stringContaining("killed") });
  });

  test("is a library", async () => {
    const script = `import { scanKernelLog } from "oomlab/kmsg"; import * as oomlab from "oomlab"; console.log(typeof scanKernelLog, Object.keys(oomlab).length > 0)`;
    expect(await run("node", ["--input-type=module", "-e", script])).toEqual({ exitCode: 0, all: "function true" });
  });

  test.runIf(Object.values(canRun).every(Boolean))("runs a scenario on this machine", async () => {
    const scenario = join(root, "scenarios/blog/container-over-its-limit.yaml");
    const { exitCode, all } = await oomlab("run", "-g", "over its limit$", "--machine", "host", scenario);
    expect({ exitCode, all }).toEqual({ exitCode: 0, all: expect.stringMatching(/^1 passed/m) });
  });

  test.runIf(found("make") && found("python3") && found("g++"))(
    "compiles itself where there is a compiler",
    { timeout: 120_000 },
    async () => {
      const at = join(folder, "user/node_modules/oomlab");
      await execa("npm", ["run", "--silent", "build:native"], { cwd: at });
      expect(existsSync(join(at, "native/build/Release/oomlab.node"))).toBe(true);
      const { stdout } = await execa(join(at, "native/build/Release/stress"), ["--version"], { reject: false });
      expect(stdout).toMatch(/oomlab|stress/);
    },
  );

  test.runIf(found("musl-gcc"))("its addon loads in a program of musl's", () => {
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

  test.runIf(cross && found("qemu-aarch64"))("its arm64 worker runs", () => {
    const { stdout, status } = spawnSync(
      "qemu-aarch64",
      [join(root, "prebuilds/linux-arm64/stress"), "-m", "1", "--vm-bytes", "4M", "--vm-hang", "0", "-t", "1"],
      { encoding: "utf8" },
    );
    expect({ stdout, status }).toEqual({ stdout: expect.stringContaining("successful run completed"), status: 0 });
  });
});
