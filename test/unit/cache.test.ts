import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readdirSync,
  rmSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { kvmProblem } from "../../src/machine/accel.ts";
import { cached, cachedEntry, emptyCache, removeAbandoned } from "../../src/machine/cache.ts";
import { loadAddon } from "../../src/native.ts";

let home: string;
beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), "oomlab-test-cache-"));
  vi.stubEnv("XDG_CACHE_HOME", home);
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(home, { recursive: true, force: true });
});

const built = (name = "image-1", content = "as it was built"): { path: Promise<string>; builds: number[] } => {
  const builds: number[] = [];
  const path = cached(name, (folder) => {
    builds.push(1);
    writeFileSync(join(folder, "file"), content);
    return Promise.resolve();
  });
  return { path, builds };
};

describe("the VM's cache", () => {
  test("builds an entry once", async () => {
    const first = built();
    const path = await first.path;
    const second = built();
    expect(await second.path).toBe(path);
    expect([first.builds.length, second.builds.length]).toEqual([1, 0]);
  });

  test.each([
    ["a file that is too short", (file: string) => truncateSync(file, 3)],
    ["a file of the same size with other content", (file: string) => writeFileSync(file, "as it was broken")],
    ["a file that is gone", (file: string) => rmSync(file)],
  ])("builds an entry again with %s", async (_, spoil) => {
    const path = await built("image-1", "as it was built!").path;
    spoil(join(path, "file"));
    expect(cachedEntry("image-1")).toBeNull();
    const again = built("image-1", "as it was built!");
    expect(readFileSync(join(await again.path, "file"), "utf8")).toBe("as it was built!");
    expect(again.builds).toHaveLength(1);
  });

  test("keeps an entry that was only copied or touched: its content decides", async () => {
    const path = await built().path;
    utimesSync(join(path, "file"), new Date(0), new Date(0));
    expect(cachedEntry("image-1")).toBe(path);
  });

  test("leaves nothing of a build that fails", async () => {
    const failing = cached("image-1", (folder) => {
      writeFileSync(join(folder, "file"), "half");
      return Promise.reject(new Error("the disk is full"));
    });
    await expect(failing).rejects.toThrow("the disk is full");
    expect(readdirSync(join(home, "oomlab"))).toEqual([]);
  });

  test("removes what a killed build left, and nothing of a build under way", async () => {
    const folder = join(home, "oomlab");
    mkdirSync(join(folder, ".image-1-4711-abc"), { recursive: true });
    mkdirSync(join(folder, ".image-2-4712-abc"));
    const lock = openSync(join(folder, ".image-2-4712-abc"), "r");
    loadAddon().lock(lock);
    expect(removeAbandoned()).toEqual([join(folder, ".image-1-4711-abc")]);
    closeSync(lock);
    expect(removeAbandoned()).toEqual([join(folder, ".image-2-4712-abc")]);
  });

  test("is bounded: the least recently used of a kind go", async () => {
    for (let number = 1; number <= 6; number++) {
      const path = await built(`kernel-${number}`).path;
      utimesSync(path, new Date(number * 1000), new Date(number * 1000));
    }
    expect(cachedEntry("kernel-1")).not.toBeNull();
    await built("kernel-7").path;
    expect(existsSync(join(home, "oomlab/kernel-1"))).toBe(true);
    expect(existsSync(join(home, "oomlab/kernel-2"))).toBe(false);
    expect(readdirSync(join(home, "oomlab"))).toHaveLength(6);
  });

  test("emptied, tells what was in it", async () => {
    const path = await built().path;
    expect(emptyCache()).toEqual([{ path, size: expect.any(Number) }]);
    expect(readdirSync(join(home, "oomlab"))).toEqual([]);
  });
});

describe("KVM", () => {
  const machine = (...paths: string[]): string => {
    for (const path of paths) {
      mkdirSync(join(home, path, ".."), { recursive: true });
      if (path.startsWith("dev")) writeFileSync(join(home, path), "");
      else mkdirSync(join(home, path));
    }
    return home;
  };

  test.each([
    [[], "there is no /dev/kvm"],
    [["dev/kvm"], "neither kvm_intel nor kvm_amd is loaded"],
    [["dev/kvm", "sys/module/kvm_intel", "sys/module/kvm_pvm"], expect.stringContaining("kvm_pvm")],
    [["dev/kvm", "sys/module/kvm_amd"], null],
  ])("with %j: %s", (paths, problem) => {
    expect(kvmProblem(machine(...paths))).toEqual(problem);
  });
});
