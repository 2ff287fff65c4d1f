import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { version } from "../../src/api.ts";
import { commands } from "../../src/cli.ts";
import { manPage } from "../../src/cli/man.ts";
import type { Streams } from "../../src/api.ts";

const silent: Streams = {
  stdout: { write: () => undefined, colors: false, broken: false },
  stderr: { write: () => undefined },
  stdin: async () => "",
  signal: new AbortController().signal,
};
const program = commands(silent, () => undefined);

test("the manual page is what the commands' tables say (vitest -u writes it)", async () => {
  await expect(manPage(program, version())).toMatchFileSnapshot("../../docs/oomlab.1");
});

test("the manual page tells every option of every command", () => {
  const page = manPage(program, version());
  const missing = program.commands
    .filter((command) => command.name() !== "agent")
    .flatMap((command) => command.options.map(({ flags }) => flags.replaceAll("-", "\\-")))
    .filter((flags) => !page.includes(`.B "${flags}"`));
  expect(missing).toEqual([]);
  expect(page).not.toContain("oomlab agent");
});

const root = fileURLToPath(new URL("../../", import.meta.url));
const groff = spawnSync("man", ["--version"]).status === 0;
test.runIf(groff)("man reads the manual page without a warning", () => {
  const { stdout, stderr, status } = spawnSync("man", ["--warnings=all", "-l", "docs/oomlab.1"], {
    cwd: root,
    encoding: "utf8",
    env: { ...process.env, MANWIDTH: "80", LC_ALL: "C.UTF-8" },
  });
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  expect(stdout).toMatch(/-g, --grep <regexp>/);
});
