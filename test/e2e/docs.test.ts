import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, test } from "vitest";
import { parseAllDocuments } from "yaml";
import { oomlab } from "../helpers/cli.ts";

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

/** Fenced blocks of a page, with their language. */
const blocks = (page: string): { language: string; body: string }[] =>
  [...text(page).matchAll(/^```(\w*)[^\n]*\n(.*?)^```/gms)].map(([, language = "", body = ""]) => ({ language, body }));

/** Commands of oomlab in fenced blocks and in the files of docs/ci: subcommand and flags. */
const commands = [
  ...pages.flatMap((page) => blocks(page).flatMap(({ body }) => body.split("\n"))),
  ...readdirSync(join(root, "docs/ci")).flatMap((name) => text(`docs/ci/${name}`).split("\n")),
].flatMap((line) =>
  [
    ...line.matchAll(
      /(?:^|[\s|'"])(?:npx |node dist\/)?oomlab(?:\.cjs)? ((?:run|explain|watch|report|validate|schema|doctor|clean|completion)\b[^|#'"`]*)/g,
    ),
  ].map(([, command = ""]) => command.trim()),
);

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
    const { stdout, exitCode } = await oomlab([name, "--help"]);
    expect(exitCode).toBe(0);
    const flags = words.filter((word) => /^--?[a-z]/.test(word)).map((word) => word.replace(/=.*/, ""));
    expect(flags.filter((flag) => !new RegExp(`(?:^|[\\s,])${flag}(?=[\\s,]|$)`, "m").test(stdout))).toEqual([]);
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
