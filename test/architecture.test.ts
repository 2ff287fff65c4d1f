import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";

const root = fileURLToPath(new URL("../", import.meta.url));
const src = join(root, "src");

/** Who may import whom; type imports count. Every module but kmsg may also import `errors`, `units` and `printable`. */
const allowed: Readonly<Record<string, readonly string[] | "anything">> = {
  printable: [],
  kmsg: ["printable"],
  errors: [],
  units: [],
  native: [],
  kubernetes: [],
  scenario: ["kubernetes"],
  plan: ["scenario", "kubernetes"],
  cgroup: ["native"],
  record: ["plan", "kmsg", "kubernetes"],
  cause: [],
  verdict: ["cause", "record", "plan", "kmsg", "scenario", "kubernetes"],
  engine: ["cgroup", "native", "kmsg", "plan", "record", "kubernetes"],
  machine: ["engine", "plan", "record", "native", "cgroup"],
  report: ["record", "verdict", "cause", "kmsg", "plan", "kubernetes"],
  sweep: ["scenario", "plan", "record", "verdict", "report", "kmsg", "kubernetes"],
  api: ["cause", "sweep", "scenario", "plan", "machine", "record", "verdict", "report", "kmsg"],
  library: ["api", "plan", "report", "scenario", "sweep"],
  cli: ["api", "report", "scenario", "kmsg", "native", "machine"],
  workload: ["native"],
  agent: ["cli"],
  index: "anything",
};
const everywhere: ReadonlySet<string> = new Set(["errors", "units", "printable"]);

/** Modules that are pure: what they may take from Node is listed, and it does no I/O. */
const pure: Readonly<Record<string, readonly string[]>> = {
  printable: [],
  kmsg: [],
  kubernetes: [],
  errors: [],
  units: [],
  plan: ["node:path", "node:path/posix"],
  cause: [],
  verdict: [],
  sweep: [],
  scenario: ["node:path", "node:path/posix"],
};
/** The door of scenario/ reads the files. */
const ioFiles = new Set(["scenario/index.ts"]);

const files = readdirSync(src, { recursive: true, encoding: "utf8" })
  .map((file) => file.split(sep).join("/"))
  .filter((file) => file.endsWith(".ts"))
  .toSorted();
const text = (file: string): string => readFileSync(join(src, file), "utf8");
const moduleOf = (file: string): string => file.split("/")[0]!.replace(/\.ts$/, "");

/** Everything a file imports: `import`, `export ... from`, `import()` and `import("...")` in types. */
function importsOf(file: string): string[] {
  return [...text(file).matchAll(/\b(?:from|import)\s*\(?\s*["']([^"'\n]+)["']/g)].map((match) => match[1]!);
}

const relativeImports = (file: string): string[] =>
  importsOf(file)
    .filter((name) => name.startsWith("."))
    .map((name) =>
      relative(src, join(src, dirname(file), name))
        .split(sep)
        .join("/"),
    );

describe("the shape of src/", () => {
  test.each(files)("%s belongs to a module of the table", (file) => {
    expect(Object.keys(allowed)).toContain(moduleOf(file));
  });

  test.each(files)("%s imports only what its module may", (file) => {
    const from = moduleOf(file);
    const may = allowed[from] ?? [];
    if (may === "anything") return;
    const wrong = relativeImports(file).filter((to) => {
      const module = moduleOf(to);
      return module !== from && !may.includes(module) && (from === "kmsg" || !everywhere.has(module));
    });
    expect(wrong).toEqual([]);
  });

  test.each(files)("%s leaves src/ only through packages", (file) => {
    expect(relativeImports(file).filter((to) => to.startsWith(".."))).toEqual([]);
  });

  test.each(files.filter((file) => moduleOf(file) in pure && !ioFiles.has(file)))("%s does no I/O", (file) => {
    const may = pure[moduleOf(file)]!;
    expect(importsOf(file).filter((name) => name.startsWith("node:") && !may.includes(name))).toEqual([]);
  });

  test.each(files.filter((file) => moduleOf(file) === "kmsg"))("%s imports no package", (file) => {
    expect(importsOf(file).filter((name) => !name.startsWith("."))).toEqual([]);
  });

  test("native.ts alone loads the addon", () => {
    expect(files.filter((file) => /\boomlab\.node\b|\.node["'`]/.test(text(file)))).toEqual(["native.ts"]);
  });

  test.each(files)("%s names built-in modules with node:", (file) => {
    const bare =
      /^(?:assert|child_process|crypto|events|fs|module|net|os|path|process|stream|tty|url|util|v8|vm|worker_threads|zlib)(?:\/|$)/;
    expect(importsOf(file).filter((name) => bare.test(name))).toEqual([]);
  });
});
