import { execFile } from "node:child_process";
import { copyFile, mkdtemp, readFile, readdir, rm, stat, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

const root = fileURLToPath(new URL("../../", import.meta.url));
const launcher = join(root, "dist/oomlab.cjs");
const { version } = JSON.parse(await readFile(join(root, "package.json"), "utf8")) as { version: string };

interface Result {
  code: number;
  stdout: string;
  stderr: string;
  ms: number;
}

function node(args: string[], options: { cwd?: string; env?: NodeJS.ProcessEnv } = {}): Promise<Result> {
  const start = performance.now();
  return new Promise((resolve) => {
    execFile(
      process.execPath,
      args,
      { cwd: options.cwd ?? root, env: { ...process.env, ...options.env } },
      (error, stdout, stderr) => {
        const code = error === null ? 0 : typeof error.code === "number" ? error.code : -1;
        resolve({ code, stdout, stderr, ms: performance.now() - start });
      },
    );
  });
}

let folder: string;
let scenario: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "oomlab-setup-test-"));
  scenario = join(folder, "scenario.yaml");
  await writeFile(
    scenario,
    "name: one\ncgroups:\n  a: { memory.max: 64Mi }\nprocesses:\n  hog: { cgroup: a, stress: { anon: 96Mi } }\nexpect: { oom: memcg }\n",
  );
});
beforeAll(() => node([join(root, "scripts/setup.mjs")]));
afterAll(() => rm(folder, { recursive: true }));

const cacheOf = (bundle: string): string => bundle.replace(".cjs", `-${process.version}-${process.arch}.cache`);

describe("npm run setup", () => {
  test("does nothing, and says nothing, when nothing is left to do", async () => {
    const before = await stat(launcher);
    const { code, stdout, stderr } = await node([join(root, "scripts/setup.mjs")], { cwd: folder });
    expect({ code, stdout, stderr }).toEqual({ code: 0, stdout: "", stderr: "" });
    expect((await stat(launcher)).mtimeMs).toBe(before.mtimeMs);
  });

  test("takes less than a second then", async () => {
    const times: number[] = [];
    for (let i = 0; i < 3; i++) times.push((await node([join(root, "scripts/setup.mjs")])).ms);
    expect(Math.min(...times)).toBeLessThan(1000);
  });

  test("works where HOME is nowhere", async () => {
    const { code, stderr } = await node([join(root, "scripts/setup.mjs")], { env: { HOME: "/nonexistent" } });
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  });
});

describe("the launcher", () => {
  test.each(["--version", "-V"])("prints package.json's version for %s", async (flag) => {
    const { code, stdout, stderr } = await node([launcher, flag]);
    expect({ code, stdout, stderr }).toEqual({ code: 0, stdout: `${version}\n`, stderr: "" });
  });

  test("is an executable with a #! line", async () => {
    expect((await readFile(launcher, "utf8")).split("\n")[0]).toBe("#!/usr/bin/env node");
    expect((await stat(launcher)).mode & 0o111).toBe(0o111);
  });

  test("works from another directory, with paths relative to that one", async () => {
    const { code, stdout, stderr } = await node([launcher, "validate", "scenario.yaml"], { cwd: folder });
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout).toContain("scenario.yaml");
  });

  test("works through a symbolic link", async () => {
    const link = join(folder, "oomlab");
    await symlink(launcher, link);
    const { code, stderr } = await node([link, "validate", scenario]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  });

  test("passes the command's exit status on", async () => {
    expect((await node([launcher, "validate", join(folder, "no-such-file.yaml")])).code).toBe(2);
    expect((await node([launcher, "--no-such-flag"])).code).toBe(2);
  });

  test.each([
    ["of another version or broken", async (path: string) => writeFile(path, Buffer.alloc(4096, 7))],
    ["empty", async (path: string) => writeFile(path, "")],
    ["missing", async (path: string) => rm(path, { force: true })],
  ])("works where V8's compiled code is %s", async (_, spoil) => {
    const bundle = (await readdir(dirname(launcher))).find((name) => /^cli-\w+\.cjs$/.test(name))!;
    const dist = await mkdtemp(join(root, "dist/copy-"));
    try {
      const explain = (await readdir(dirname(launcher))).find((name) => /^explain-\w+\.cjs$/.test(name))!;
      for (const name of ["oomlab.cjs", bundle, explain])
        await copyFile(join(dirname(launcher), name), join(dist, name));
      await spoil(join(dist, cacheOf(bundle)));
      const { code, stderr } = await node([join(dist, "oomlab.cjs"), "validate", scenario]);
      expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
      const read = await node([join(dist, "oomlab.cjs"), "explain", join(root, "test/fixtures/blog.log")]);
      expect(read).toMatchObject({ code: 0, stderr: "" });
    } finally {
      await rm(dist, { recursive: true });
    }
  });

  test.each(["cli", "explain"])("ships compiled code of %s that this Node accepts", async (kind) => {
    const names = await readdir(dirname(launcher));
    const bundle = names.find((name) => name.startsWith(`${kind}-`) && name.endsWith(".cjs"))!;
    const { Script } = await import("node:vm");
    const script = new Script(await readFile(join(dirname(launcher), bundle), "latin1"), {
      filename: join(dirname(launcher), bundle),
      cachedData: await readFile(join(dirname(launcher), cacheOf(bundle))),
    });
    expect(script.cachedDataRejected).toBe(false);
  });
});
