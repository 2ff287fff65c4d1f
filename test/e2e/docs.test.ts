import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { transform } from "esbuild";
import { execa } from "execa";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { parseAllDocuments } from "yaml";
import { bin, canRun, type Ended, oomlab } from "../helpers/cli.ts";

const root = fileURLToPath(new URL("../../", import.meta.url));
const pages = ["README.md", "CONTRIBUTING.md", ...readdirSync(join(root, "docs")).map((name) => `docs/${name}`)].filter(
  (name) => name.endsWith(".md"),
);
const text = (page: string): string => readFileSync(join(root, page), "utf8");
const folder = mkdtempSync(join(tmpdir(), "oomlab-test-docs-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** GitHub's anchors of a page's headings. */
const anchors = (page: string): string[] =>
  [...text(page).matchAll(/^#{1,6} +(.+)$/gm)].map(([, heading = ""]) =>
    heading
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N}\s_-]/gu, "")
      .trim()
      .replaceAll(/\s/g, "-"),
  );

/** Fenced blocks of a page, with their language and what else the fence says. */
const blocks = (page: string): { language: string; info: string; body: string }[] =>
  [...text(page).matchAll(/^```(\w*) *([^\n]*)\n(.*?)^```/gms)].map(([, language = "", info = "", body = ""]) => ({
    language,
    info,
    body,
  }));

/** Shown commands: `sh`, `sh dry-run` (`oomlab run` takes a VM: --dry-run is added) or `sh not-run: REASON`. */
const shown = pages.flatMap((page) =>
  blocks(page)
    .filter(({ language }) => language === "sh")
    .flatMap(({ info, body }) =>
      body
        .split("\n")
        .filter((line) => line.trim() !== "")
        .map((command) => ({ page, info, command })),
    ),
);

/** Commands of oomlab in fenced blocks and in the files of docs/ci: subcommand and flags. */
const commands = [
  ...pages.flatMap((page) => blocks(page).flatMap(({ body }) => body.split("\n"))),
  ...readdirSync(join(root, "docs/ci")).flatMap((name) => text(`docs/ci/${name}`).split("\n")),
].flatMap((line) =>
  [
    ...line.matchAll(
      /(?:^|[\s|'"])(?:npx |node dist\/)?oomlab(?:\.cjs)? ((?:run|sweep|predict|explain|watch|report|validate|schema|doctor|clean|completion)\b[^|#'"`]*)/g,
    ),
  ].map(([, command = ""]) => command.trim()),
);

/** The names that the pages use: scenarios, pod.yaml, my.yaml ...; kubectl and helm print the Pod; `oomlab` is this one. */
function workshop(): void {
  const scenario = blocks("README.md").find(({ language }) => language === "yaml")?.body ?? "";
  const program = (name: string, script: string): void =>
    writeFileSync(join(folder, "bin", name), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  for (const name of ["bin", "scenarios/vm", "scenarios/memcg", "scenarios/kubernetes", "out", "dist"])
    mkdirSync(join(folder, name), { recursive: true });
  for (const name of [
    "web.yaml",
    "my.yaml",
    "scenarios/web.yaml",
    "scenarios/vm/web.yaml",
    "scenarios/memcg/web.yaml",
    "scenarios/memcg/more.yaml",
  ])
    writeFileSync(join(folder, name), scenario);
  copyFileSync(join(root, "scenarios/blog/pod.yaml"), join(folder, "pod.yaml"));
  copyFileSync(join(root, "scenarios/kubernetes/rate.yaml"), join(folder, "scenarios/kubernetes/rate.yaml"));
  writeFileSync(join(folder, "bzImage"), "");
  rmSync(join(folder, "dist/oomlab.cjs"), { force: true });
  symlinkSync(bin, join(folder, "dist/oomlab.cjs"));
  program("oomlab", `exec '${process.execPath}' '${bin}' "$@"`);
  for (const name of ["kubectl", "helm"]) program(name, `cat '${join(folder, "pod.yaml")}'`);
}

/** Examples of the library: a module each, run in the folder with the README's scenario. */
const examples = blocks("docs/api.md")
  .filter(({ language }) => ["js", "cjs", "ts"].includes(language))
  .map(({ language, body }, index) => ({ language, body, number: index + 1 }));

const helps: Record<string, Promise<Ended>> = {};

describe("the docs", () => {
  test.each(pages)("%s: every link of the repository's resolves", (page) => {
    const broken = [...text(page).matchAll(/\]\(([^)\s]+)\)/g)]
      .map(([, link = ""]) => link)
      .filter((link) => !/^[a-z]+:/.test(link))
      .filter((link) => {
        const [path = "", anchor] = link.split("#");
        const target = path === "" ? page : join(dirname(page), path);
        if (!existsSync(join(root, target))) return true;
        return anchor !== undefined && target.endsWith(".md") && !anchors(target).includes(anchor);
      });
    expect(broken).toEqual([]);
  });

  test("name commands", () => expect(commands.length).toBeGreaterThan(10));

  test.each([...new Set(commands)])("oomlab %s: the command has these flags", async (command) => {
    const [name = "", ...words] = command.split(/\s+/);
    const { stdout, exitCode } = await (helps[name] ??= oomlab([name, "--help"]));
    expect(exitCode).toBe(0);
    const flags = words.filter((word) => /^--?[a-z]/.test(word)).map((word) => word.replace(/=.*/, ""));
    expect(flags.filter((flag) => !new RegExp(`(?:^|[\\s,])${flag}(?=[\\s,]|$)`, "m").test(stdout))).toEqual([]);
  });

  test("every block says what it is, and a command that is not run says why", () => {
    const unnamed = pages.flatMap((page) =>
      blocks(page)
        .filter(
          ({ language, info }) => language === "" || (language === "sh" && !/^(dry-run|not-run: .+)?$/.test(info)),
        )
        .map(({ body }) => `${page}: ${body.split("\n")[0]}`),
    );
    expect(unnamed).toEqual([]);
  });

  describe("commands, in a folder with the README's scenario", () => {
    beforeAll(() => workshop());
    const run = (command: string): Promise<{ exitCode?: number | undefined; all?: string }> =>
      execa("bash", ["-euo", "pipefail", "-c", command], {
        cwd: folder,
        reject: false,
        all: true,
        env: { NO_COLOR: "1", PATH: `${folder}/bin:${process.env["PATH"]}` },
      });

    test.each(shown.filter(({ info }) => info === "dry-run"))("$page: $command (dry)", async ({ command }) => {
      const { exitCode, all } = await run(command.replaceAll("oomlab run", "oomlab run --dry-run"));
      expect({ exitCode, all }).toEqual({ exitCode: 0, all: expect.stringMatching(/\S/) });
    });

    describe.runIf(canRun["root"] && canRun["a writable memory controller"])("that run on this machine", () => {
      // The page shows the first of four shards; the report joins all.
      beforeAll(async () => {
        for (const part of [2, 3, 4]) await run(`oomlab run scenarios --shard ${part}/4 --output records/${part}`);
      }, 60_000);

      test.each(shown.filter(({ info }) => info === ""))(
        "$page: $command",
        { timeout: 60_000 },
        async ({ command }) => {
          const { exitCode, all } = await run(command);
          expect({ exitCode, all }).toEqual({ exitCode: 0, all: expect.any(String) });
        },
      );
    });
  });

  describe.runIf(canRun["root"] && canRun["a writable memory controller"])("examples of the library", () => {
    beforeAll(() => {
      workshop();
      mkdirSync(join(folder, "node_modules"), { recursive: true });
      symlinkSync(root, join(folder, "node_modules/oomlab"));
    });

    test.each(examples)("docs/api.md: example $number ($language) runs", async ({ language, body, number }) => {
      const file = join(folder, `example-${number}.${language === "cjs" ? "cjs" : "mjs"}`);
      writeFileSync(file, language === "ts" ? (await transform(body, { loader: "ts" })).code : body);
      const { exitCode, all } = await execa(process.execPath, [file], { cwd: folder, reject: false, all: true });
      expect({ exitCode, all }).toEqual({ exitCode: 0, all: expect.any(String) });
    });

    test("the one that asserts on a verdict prints the kill in words", async () => {
      const { stdout } = await execa(process.execPath, [join(folder, "example-2.mjs")], { cwd: folder });
      expect(stdout).toBe("the web container, no swap: passed, memcg OOM kill of leak for the limit of web");
    });
  });

  test("the README's scenario is one", async () => {
    const scenario = blocks("README.md").find(({ language }) => language === "yaml");
    const file = join(folder, "web.yaml");
    writeFileSync(file, scenario?.body ?? "");
    const { exitCode, stdout } = await oomlab(["run", "--dry-run", file]);
    expect({ exitCode, stdout }).toEqual({ exitCode: 0, stdout: expect.stringContaining("process leak") });
  });

  test.each(["github.yml", "gitlab-ci.yml", "buildkite.yml"])("docs/ci/%s is YAML", (name) => {
    const documents = parseAllDocuments(text(`docs/ci/${name}`));
    expect(documents.flatMap((document) => document.errors)).toEqual([]);
  });
});
