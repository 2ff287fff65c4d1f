/** `oomlab completion SHELL`: the shell's own script, made from the commands' option tables. */
import type { Argument, Command, Option } from "commander";
import { UsageError } from "../errors.ts";

/** What stands behind an option or an argument. */
type Values = { kind: "none" } | { kind: "words"; words: readonly string[] } | { kind: "files" } | { kind: "any" };

interface Flag {
  short: string | null;
  long: string | null;
  description: string;
  values: Values;
  repeatable: boolean;
}

interface Verb {
  name: string;
  description: string;
  flags: Flag[];
  operands: Values;
}

/** The script that a shell sources: `bash`, `zsh` or `fish`. Throws UsageError for another one. */
export function completion(shell: string, program: Command): string {
  const scripts: Record<string, (verbs: Verb[]) => string> = { bash, zsh, fish };
  const script = Object.hasOwn(scripts, shell) ? scripts[shell] : undefined;
  if (!script)
    throw new UsageError(
      `no completion for ${JSON.stringify(shell)}: expected one of ${Object.keys(scripts).join(", ")}`,
    );
  return script(verbsOf(program));
}

function verbsOf(program: Command): Verb[] {
  const help = program.createHelp();
  const verbs = help
    .visibleCommands(program)
    .filter((command) => command.name() !== "help")
    .map((command): Verb => ({
      name: command.name(),
      description: sentence(command.description()),
      flags: help.visibleOptions(command).map(flag),
      operands: operands(command.registeredArguments),
    }));
  return [
    ...verbs,
    {
      name: "help",
      description: "show the help of a command",
      flags: [],
      operands: { kind: "words", words: verbs.map(({ name }) => name) },
    },
  ];
}

const sentence = (text: string): string => text.replace(/\s+/g, " ");

function flag(option: Option): Flag {
  const { short, long, description, argChoices, variadic } = option;
  return {
    short: short ?? null,
    long: long ?? null,
    description: sentence(description),
    values: valuesOf(option, argChoices),
    repeatable: variadic || Array.isArray(option.defaultValue),
  };
}

function valuesOf({ flags, long, description }: Option, choices: readonly string[] | undefined): Values {
  if (choices) return { kind: "words", words: choices };
  const [, name] = /[<[]([^>\]]+)[>\]]/.exec(flags) ?? [];
  if (name === undefined) return { kind: "none" };
  if (long === "--reporter") {
    // Its description begins with their names.
    const names = (description.split(";", 1)[0] ?? "").split(", ");
    return { kind: "words", words: [...names, ...names.map((word) => `${word}=`)] };
  }
  if (long === "--cgroup")
    return { kind: "words", words: name === "version" ? ["v1", "v2"] : ["v1", "v2", "hybrid", "v1,v2"] };
  return /path|dir|file|program/.test(name) ? { kind: "files" } : { kind: "any" };
}

function operands(all: readonly Argument[]): Values {
  const [first] = all;
  if (!first) return { kind: "none" };
  return first.argChoices ? { kind: "words", words: first.argChoices } : { kind: "files" };
}

const wordsOf = ({ short, long }: Flag): string[] => [short, long].filter((word) => word !== null);

// bash -----------------------------------------------------------------------------------------------------------------

function bash(verbs: Verb[]): string {
  const cases = verbs.map(({ name, flags, operands }) => {
    const values = flags
      .filter(({ values }) => values.kind !== "none")
      .map((flag) => `        ${wordsOf(flag).join("|")}) ${bashValues(flag.values)}; return ;;`);
    return [
      `    ${name})`,
      ...(values.length === 0 ? [] : [`      case $previous in`, ...values, "      esac"]),
      `      if [[ $word == -* ]]; then words ${JSON.stringify(flags.flatMap(wordsOf).join(" "))}; else ${bashValues(operands)}; fi`,
      "      ;;",
    ].join("\n");
  });
  return `# bash completion for oomlab:  source <(oomlab completion bash)
_oomlab() {
  local IFS=$' \\t\\n'
  # Words are not split at "=", so that json=FILE is one.
  local line=\${COMP_LINE:0:COMP_POINT} word previous command="" at
  local -a typed
  read -ra typed <<<"$line"
  [[ $line == *[[:space:]] ]] && typed+=("")
  word=\${typed[\${#typed[@]}-1]}
  previous=\${typed[\${#typed[@]}-2]}
  for ((at = 1; at < \${#typed[@]} - 1; at++)); do
    [[ \${typed[at]} == -* ]] || { command=\${typed[at]}; break; }
  done
  COMPREPLY=()
  # What stands before the last "=" is on the line already where "=" splits words.
  local cut=""
  [[ $COMP_WORDBREAKS == *=* && $word == *=* ]] && cut=\${word%=*}=
  words() { mapfile -t COMPREPLY < <(compgen -W "$1" -- "$word"); COMPREPLY=("\${COMPREPLY[@]#"$cut"}"); [[ \${COMPREPLY[0]-} == *= ]] && compopt -o nospace 2>/dev/null; return 0; }
  files() { compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "\${word##*=}"); }
  case $command in
    "") words ${JSON.stringify([...verbs.map(({ name }) => name), "--help", "--version"].join(" "))} ;;
${cases.join("\n")}
  esac
  unset -f words files
}
complete -F _oomlab oomlab
`;
}

function bashValues(values: Values): string {
  switch (values.kind) {
    case "words":
      return values.words.some((word) => word.endsWith("="))
        ? `if [[ $word == *=* ]]; then files; else words ${JSON.stringify(values.words.join(" "))}; fi`
        : `words ${JSON.stringify(values.words.join(" "))}`;
    case "files":
      return "files";
    case "any":
    case "none":
      return ":";
  }
}

// zsh ------------------------------------------------------------------------------------------------------------------

const single = (text: string): string => `'${text.replaceAll("'", String.raw`'\''`)}'`;
/** Within _arguments a colon ends a field and brackets the description. */
const field = (text: string): string => text.replace(/[\\:[\]]/g, String.raw`\$&`);

function zsh(verbs: Verb[]): string {
  const list = verbs.map(({ name, description }) => `    ${single(`${field(name)}:${description}`)}`);
  const cases = verbs.map(({ name, flags, operands }) => {
    const specs = [...flags.flatMap(zshFlag), ...zshOperands(operands)];
    return `    ${name}) _arguments -s -S ${specs.map(single).join(" \\\n      ")} ;;`;
  });
  return `#compdef oomlab
# zsh completion for oomlab:  oomlab completion zsh > "\${fpath[1]}/_oomlab", or source <(oomlab completion zsh)
_oomlab_reporters() {
  if compset -P '*='; then _files; else
    local -a names=("$@")
    compadd -- $names
    compadd -S '' -- \${^names}=
  fi
}
_oomlab() {
  local curcontext=$curcontext state line
  local -a commands=(
${list.join("\n")}
  )
  _arguments -C '(- *)'{-h,--help}'[show help]' '(- *)'{-V,--version}'[show the version]' '1:command:->command' '*::argument:->argument' && return
  case $state in
    command) _describe -t commands command commands; return ;;
  esac
  case $line[1] in
${cases.join("\n")}
  esac
}
if [[ $funcstack[1] == _oomlab ]]; then _oomlab "$@"; else compdef _oomlab oomlab; fi
`;
}

function zshFlag(flag: Flag): string[] {
  const { description, values, repeatable } = flag;
  return wordsOf(flag).map((word) => {
    const others = repeatable ? "*" : wordsOf(flag).length > 1 ? `(${wordsOf(flag).join(" ")})` : "";
    // --option=VALUE and --option VALUE; -o VALUE and -oVALUE.
    const joined = values.kind === "none" ? "" : word.startsWith("--") ? "=" : "+";
    return `${others}${word}${joined}[${field(description)}]${zshValues(values)}`;
  });
}

const zshOperands = (values: Values): string[] => (values.kind === "none" ? [] : [`*${zshValues(values)}`]);

function zshValues(values: Values): string {
  switch (values.kind) {
    case "none":
      return "";
    case "any":
      return ":value: ";
    case "files":
      return ":file:_files";
    case "words":
      return values.words.some((word) => word.endsWith("="))
        ? `:reporter:_oomlab_reporters ${values.words.filter((word) => !word.endsWith("=")).join(" ")}`
        : `:value:(${values.words.join(" ")})`;
  }
}

// fish -----------------------------------------------------------------------------------------------------------------

function fish(verbs: Verb[]): string {
  const names = verbs.map(({ name }) => name).join(" ");
  const lines = verbs.flatMap(({ name, description, flags, operands }) => {
    const here = `complete -c oomlab -n ${single(`__fish_seen_subcommand_from ${name}; and not __fish_is_nth_token 1`)}`;
    return [
      `complete -c oomlab -n __oomlab_bare -f -a ${name} -d ${single(description)}`,
      ...flags.map((flag) => {
        const short = flag.short === null ? "" : ` -s ${flag.short.slice(1)}`;
        // A long option of one letter is fish's -s, or an old-style one.
        const long = flag.long === null ? "" : ` -l ${flag.long.slice(2)}`;
        return `${here}${short}${long}${fishValues(flag.values)} -d ${single(flag.description)}`;
      }),
      ...(operands.kind === "words"
        ? [`${here} -f -a ${single(operands.words.join(" "))}`]
        : operands.kind === "none"
          ? [`${here} -f`]
          : []),
    ];
  });
  return `# fish completion for oomlab:  oomlab completion fish | source
function __oomlab_bare
    not __fish_seen_subcommand_from ${names}
end
function __oomlab_reporters
    set -l word (commandline -ct | string replace -r -- '^--reporter=' '')
    if string match -q '*=*' -- $word
        set -l name (string split -m1 = -- $word)[1]
        __fish_complete_path (string split -m1 = -- $word)[2] | string replace -r '^' "$name="
    else
        printf '%s\\n' $argv
    end
end
complete -c oomlab -n __oomlab_bare -f
complete -c oomlab -n __oomlab_bare -s h -l help -d 'show help'
complete -c oomlab -n __oomlab_bare -s V -l version -d 'show the version'
${lines.join("\n")}
`;
}

function fishValues(values: Values): string {
  switch (values.kind) {
    case "none":
      return "";
    case "any":
      return " -x";
    case "files":
      return " -r -F";
    case "words":
      return values.words.some((word) => word.endsWith("="))
        ? ` -x -a ${single(`(__oomlab_reporters ${values.words.join(" ")})`)}`
        : ` -x -a ${single(values.words.join(" "))}`;
  }
}
