import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { oomlab, root } from "../helpers/cli.ts";
import { needs } from "../helpers/needs.ts";

let folder: string;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "oomlab-completion-"));
  for (const shell of ["bash", "zsh", "fish"])
    writeFileSync(join(folder, `oomlab.${shell}`), (await oomlab(["completion", shell])).stdout);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const has = (shell: string): boolean => spawnSync(shell, ["-c", "true"]).status === 0;
const script = (shell: string): string => join(folder, `oomlab.${shell}`);

/** What each line can become, whatever the shell. */
const cases: [string, string[]][] = [
  ["oomlab ru", ["run"]],
  ["oomlab run --machine ", ["auto", "container", "host", "kubernetes", "vm"]],
  ["oomlab run --reporter h", ["html", "html="]],
  ["oomlab sweep --reporter c", ["csv", "csv="]],
  ["oomlab predict --cgroup ", ["v1", "v2"]],
  ["oomlab report --mer", ["--merge"]],
  ["oomlab completion ", ["bash", "fish", "zsh"]],
  ["oomlab explain --format c", ["classic"]],
];

describe("bash's completion", needs("bash", has("bash")), () => {
  const complete = (line: string): string[] => {
    const driver = `source "$1"; COMP_LINE=$2; COMP_POINT=\${#2}; COMP_WORDS=($2); _oomlab; printf '%s\\n' "\${COMPREPLY[@]}"`;
    const { stdout, stderr } = spawnSync("bash", ["-c", driver, "bash", script("bash"), line], {
      encoding: "utf8",
      cwd: root,
    });
    expect(stderr).toBe("");
    return stdout
      .split("\n")
      .filter((word) => word !== "")
      .toSorted();
  };

  test.each(cases)("%s", (line, words) => expect(complete(line)).toEqual(words));

  test("knows every command and every flag of the help", async () => {
    const { stdout } = await oomlab(["--help"]);
    const commands = [...stdout.slice(stdout.indexOf("Commands:")).matchAll(/^ {2}([a-z]+)/gm)].map(([, name]) => name);
    expect(commands.length).toBeGreaterThan(8);
    expect(complete("oomlab ")).toEqual(expect.arrayContaining(commands));
    const help = await oomlab(["run", "--help"]);
    const flags = [...help.stdout.matchAll(/^ {2}(?:-\w, )?(--?[a-z-]+)/gm)].map(([, flag]) => flag);
    expect(flags.length).toBeGreaterThan(15);
    expect(complete("oomlab run -")).toEqual(expect.arrayContaining(flags));
  });

  test("names files where files are meant", () => {
    expect(complete("oomlab run scen")).toEqual(["scenarios"]);
    expect(complete("oomlab run --reporter html=pack")).toEqual(["package-lock.json", "package.json"]);
  });
});

describe("fish's completion", needs("fish", has("fish")), () => {
  const complete = (line: string): string[] => {
    const { stdout } = spawnSync(
      "fish",
      ["-N", "-c", `source ${script("fish")}; complete -C ${JSON.stringify(line)}`],
      {
        encoding: "utf8",
        cwd: root,
        env: { ...process.env, HOME: folder },
      },
    );
    return stdout
      .split("\n")
      .flatMap((row) => row.split("\t")[0] || [])
      .toSorted();
  };

  test.each(cases)("%s", (line, words) => expect(complete(line)).toEqual(words));

  test("names files where files are meant", () => {
    expect(complete("oomlab run --reporter html=pack")).toEqual(["html=package-lock.json", "html=package.json"]);
  });
});

describe("zsh's completion", needs("zsh", has("zsh")), () => {
  /** Types a line and a tab into a shell on a terminal of its own: what the line has become. */
  const complete = (line: string): string => {
    const got = join(folder, "line");
    rmSync(got, { force: true });
    const setup = `PS1=; cd ${root}; autoload -U compinit; compinit -u -D; source ${script("zsh")}; tell() { print -r -- "$BUFFER" > ${got}.part; mv ${got}.part ${got} }; zle -N tell; bindkey '^I' complete-word; bindkey '^Xt' tell; print REA""DY`;
    const driver = `zmodload zsh/zpty; zpty z zsh -f -i; zpty -w z "$1"; zpty -r -m z o '*READY*'
      zpty -w -n z "$2"$'\\t'$'\\C-xt'; until [[ -e "$3" ]]; do zpty -r -t z o; sleep 0.05; done; zpty -d z`;
    spawnSync("zsh", ["-f", "-c", driver, "zsh", setup, line, got], {
      timeout: 30_000,
      env: { ...process.env, TERM: "dumb", HOME: folder },
    });
    return readFileSync(got, "utf8").trimEnd();
  };

  test.each([
    ["oomlab expl", "oomlab explain"],
    ["oomlab run --machine k", "oomlab run --machine kubernetes"],
    ["oomlab run --reporter ju", "oomlab run --reporter junit"],
    ["oomlab completion f", "oomlab completion fish"],
    ["oomlab run --reporter html=READ", "oomlab run --reporter html=README.md"],
  ])("%s", (line, word) => expect(complete(line)).toBe(word));
});

test("a shell that there is none for is refused with those that there are", async () => {
  const { stderr, exitCode } = await oomlab(["completion", "tcsh"]);
  expect(exitCode).toBe(2);
  expect(stderr).toMatch(/Allowed choices are bash, zsh, fish/);
});
