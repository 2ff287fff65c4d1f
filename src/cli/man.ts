/** The manual page, made from the commands' option tables: `docs/oomlab.1` (`npx vitest run test/unit/man.test.ts -u` writes it). */
import type { Command } from "commander";

/** roff of man(7) for section 1. The same wherever and whenever it is made. */
export function manPage(program: Command, version: string): string {
  const help = program.createHelp();
  const verbs = help.visibleCommands(program).filter((command) => command.name() !== "help");
  const blocks = [
    `.TH OOMLAB 1 "" "oomlab ${text(version)}" "User Commands"`,
    ".SH NAME",
    "oomlab \\- an OOM lab for Linux: make the memory limit, apply the pressure, prove which OOM kill followed",
    ".SH SYNOPSIS",
    ...verbs.flatMap((command, index) => [
      ...(index === 0 ? [] : [".br"]),
      `.B oomlab ${text(command.name())}`,
      text(synopsis(command)),
    ]),
    ".SH DESCRIPTION",
    "A scenario file says which memory limits exist, which processes press against them, and which OOM kill must follow.",
    "oomlab makes the cgroups, applies the pressure, and tells from the kernel log, the counters and the exit statuses what happened: passed, failed, inconclusive, skipped or errored.",
    ".SH COMMANDS",
    ...verbs.flatMap((command) => [
      `.SS oomlab ${text(command.name())}`,
      `${text(sentence(command.description()))}.`,
      ...help.visibleArguments(command).flatMap((argument) => term(`I ${argument.name()}`, argument.description)),
      ...help
        .visibleOptions(command)
        .filter(({ long }) => long !== "--help")
        .flatMap((option) => term(`B ${option.flags}`, help.optionDescription(option))),
    ]),
    ".SH EXIT STATUS",
    ...(
      [
        ["0", "all passed; what was skipped is listed"],
        ["1", "a scenario failed"],
        ["2", "wrong usage or an invalid scenario; nothing was run"],
        ["3", "errored, inconclusive, or nothing that this machine can run"],
        ["130", "interrupted"],
      ] as const
    ).flatMap(([status, meaning]) => term(`B ${status}`, meaning)),
    ".SH ENVIRONMENT",
    ...(
      [
        [
          "NO_COLOR, FORCE_COLOR",
          "no colours; colours even where standard output is no terminal (goes before NO_COLOR)",
        ],
        ["CI", "no live view"],
        ["XDG_CACHE_HOME", "where kernels and images of VMs are kept: oomlab/ in it (default: ~/.cache)"],
        ["OOMLAB_CONTAINER_ENGINE, OOMLAB_CONTAINER_OPTIONS", "machine container: the engine, and options of its run"],
        ["OOMLAB_IMAGE", "machines container and kubernetes: the image (default: oomlab)"],
        ["OOMLAB_KUBECTL", "machine kubernetes: kubectl, with arguments of its own"],
        ["OOMLAB_OFFLINE", "1: nothing is fetched or installed for a VM"],
        ["OOMLAB_SNAPSHOTS", "off: each VM boots"],
        ["OOMLAB_DEBUG", "where an unexpected error came from"],
      ] as const
    ).flatMap(([name, meaning]) => term(`B ${name}`, meaning)),
    ".SH EXAMPLES",
    ...(
      [
        ["oomlab run web.yaml", "run a scenario"],
        ["oomlab run --dry-run pod.yaml", "what a kubelet would write for a Pod, and why"],
        ["dmesg | oomlab explain", "tell every OOM kill in a kernel log"],
      ] as const
    ).flatMap(([command, meaning]) => term(`B ${command}`, meaning)),
    ".SH SEE ALSO",
    ".BR dmesg (1),",
    ".BR cgroups (7),",
    ".BR proc (5)",
  ];
  return `${blocks.join("\n")}\n`;
}

function synopsis(command: Command): string {
  const operands = command.registeredArguments.map((argument) => {
    const name = `${argument.name()}${argument.variadic ? "..." : ""}`;
    return argument.required ? name.toUpperCase() : `[${name}]`;
  });
  return ["[options]", ...operands].join(" ");
}

/** A tagged paragraph; `head` is a font macro (B, I) and its text. */
function term(head: string, meaning: string): string[] {
  const [, font = "B", words = ""] = /^(\w) (.*)$/s.exec(head) ?? [];
  return [".TP", `.${font} "${text(words).replaceAll('"', '""')}"`, text(sentence(meaning))];
}

const sentence = (words: string): string => words.replace(/\s+/g, " ").trim();

/** Escapes what roff takes for its own: backslashes, hyphens that must stay hyphens, a dot or quote at a line's start. */
const text = (words: string): string =>
  words
    .replaceAll("\\", "\\e")
    .replaceAll("-", "\\-")
    .replace(/^(?=[.'])/, "\\&");
