import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { writeFile as writeFileAsync } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { UsageError } from "../../src/errors.ts";
import { loadScenarios, ScenarioErrors } from "../../src/scenario/index.ts";
import type { LoadOptions } from "../../src/scenario/index.ts";

let cwd = "";
beforeEach(() => {
  cwd = mkdtempSync(join(tmpdir(), "oomlab-test-"));
});
afterEach(() => {
  rmSync(cwd, { recursive: true, force: true });
});

const good = (name: string, more = ""): string => `name: ${name}\n${more}processes: { hog: { command: x } }\n`;

function write(files: Record<string, string | Uint8Array>): void {
  for (const [file, content] of Object.entries(files)) {
    mkdirSync(dirname(join(cwd, file)), { recursive: true });
    writeFileSync(join(cwd, file), content);
  }
}

const load = async (paths: string[], options: LoadOptions = {}): Promise<string[]> =>
  (await loadScenarios(paths, { cwd, ...options })).map(({ name, file }) => `${name} (${file})`);

/** What is printed where loading fails. */
async function refusal(...paths: string[]): Promise<string> {
  try {
    return `accepted ${(await load(paths)).join(", ")}`;
  } catch (error) {
    if (error instanceof ScenarioErrors) return `\n${error.message.replaceAll(cwd, "/cwd")}\n`;
    throw error;
  }
}

describe("paths", () => {
  test("name a file in the result as they were given", async () => {
    write({ "a.yaml": good("a"), "sub/b.txt": good("b") });
    expect(await load(["a.yaml", "./sub/b.txt", join(cwd, "a.yaml"), "sub/../a.yaml"])).toEqual([
      "a (a.yaml)",
      "b (./sub/b.txt)",
    ]);
    expect(await load([join(cwd, "a.yaml")])).toEqual([`a (${join(cwd, "a.yaml")})`]);
  });

  test("of folders are read recursively, sorted by bytes, without hidden folders and node_modules", async () => {
    write({
      "s/b.yaml": good("b"),
      "s/B.yml": good("B"),
      "s/ä.yaml": good("ae"),
      "s/a/z.json": '{ "name": "z", "processes": { "p": { "command": "x" } } }',
      "s/a.yaml": good("a"),
      "s/notes.txt": "no",
      "s/.git/x.yaml": "no",
      "s/node_modules/x.yaml": "no",
    });
    expect(await load(["s/"])).toEqual([
      "B (s/B.yml)",
      "z (s/a/z.json)",
      "a (s/a.yaml)",
      "b (s/b.yaml)",
      "ae (s/ä.yaml)",
    ]);
  });

  test("default to the folder scenarios/", async () => {
    write({ "scenarios/a.yaml": good("a") });
    expect(await load([])).toEqual(["a (scenarios/a.yaml)"]);
  });

  test("may be missing: then what to do next is told", async () => {
    const error = await load([]).catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(UsageError);
    expect(error).toMatchObject({
      exitCode: 2,
      message: "no scenario file given, and there is no folder scenarios/ here",
      hint: "name a scenario file or a folder: oomlab run path/to/scenario.yaml",
    });
  });

  test("may follow links, and may be stdin", async () => {
    write({ "real/a.yaml": good("a") });
    symlinkSync("real", join(cwd, "link"));
    expect(await load(["link"])).toEqual(["a (link/a.yaml)"]);
    expect(await load(["-"], { stdin: good("piped") })).toEqual(["piped (-)"]);
  });
});

describe("scenarios are chosen", () => {
  beforeEach(() => {
    write({
      "a.yaml": good("a container over its limit", "tags: [memcg, fast]\n"),
      "b.yaml": good("a node out of memory", "tags: [global]\n"),
    });
  });

  test.each<[string, LoadOptions, string[]]>([
    ["by name", { grep: /container/ }, ["a.yaml"]],
    ["by a pattern with state as by one without", { grep: /a /g }, ["a.yaml", "b.yaml"]],
    ["by any of some tags", { tags: ["fast", "global"] }, ["a.yaml", "b.yaml"]],
    ["by name and tag", { grep: /container/, tags: ["global"] }, []],
    ["by no tag at all", { tags: [] }, ["a.yaml", "b.yaml"]],
  ])("%s", async (_how, options, files) => {
    const chosen = await loadScenarios(["a.yaml", "b.yaml"], { cwd, ...options });
    expect(chosen.map(({ file }) => file)).toEqual(files);
  });
});

describe("what cannot be read", () => {
  test("is told for all files at once", async () => {
    write({
      "s/bad.yaml": "nmae: x\nprocesses: { hog: { command: x } }\n",
      "s/empty.yaml": "",
      "s/good.yaml": good("g"),
      "s/latin1.yaml": Buffer.from("name: caf\u00e9\n", "latin1"),
      "s/utf16.yaml": Buffer.from("\ufeffname: x\n", "utf16le"),
      "s/binary.yaml": Buffer.from([0x7f, 0x45, 0x4c, 0x46, 0]),
      "s/huge.yaml": "#".repeat(8 * 1024 * 1024 + 1),
      "none/readme.md": "",
    });
    symlinkSync("nowhere", join(cwd, "s/dangling.yaml"));
    symlinkSync(".", join(cwd, "s/loop"));
    symlinkSync("self.yaml", join(cwd, "self.yaml"));
    expect(await refusal("s", "none", "s/goood.yaml", "nowhere/x.yaml", "s/good.yaml/x", "self.yaml", ""))
      .toMatchInlineSnapshot(`
        "
        s/loop: this folder contains itself, through a symbolic link
        none: expected scenarios; got a folder without *.yaml, *.yml or *.json
        s/goood.yaml: no such file or folder
            did you mean s/good.yaml?
        nowhere/x.yaml: no such file or folder
        s/good.yaml/x: no such file or folder
        self.yaml: its symbolic links go in a circle
        "": expected the path of a file or folder
        s/bad.yaml:1:1 nmae: unknown key
            nmae: x
            ^ did you mean name?
        s/binary.yaml: expected a scenario; got a binary file
        s/dangling.yaml: no such file or folder
        s/empty.yaml: expected a scenario; got an empty file
        s/huge.yaml: expected a scenario; got a file of more than 8 MiB
        s/latin1.yaml:1:10: expected UTF-8; got the byte 0xe9
            save the file as UTF-8
        s/utf16.yaml: expected UTF-8; got UTF-16
        "
      `);
  });

  test("ends with exit status 2, each problem with its file", async () => {
    const error = await load(["x.yaml", "y.yaml"]).catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(ScenarioErrors);
    expect((error as ScenarioErrors).exitCode).toBe(2);
    expect((error as ScenarioErrors).errors.map(({ file, line, column }) => ({ file, line, column }))).toEqual([
      { file: "x.yaml", line: null, column: null },
      { file: "y.yaml", line: null, column: null },
    ]);
  });

  test("may be a pipe that never ends", async () => {
    expect(await refusal("/dev/zero")).toMatchInlineSnapshot(`
      "
      /dev/zero: expected a scenario; got more than 8 MiB
      "
    `);
  });

  test("may be a named pipe: it is read like a file", async () => {
    execFileSync("mkfifo", [join(cwd, "pipe")]);
    const [names] = await Promise.all([load(["pipe"]), writeFileAsync(join(cwd, "pipe"), good("through a pipe"))]);
    expect(names).toEqual(["through a pipe (pipe)"]);
  });
});
