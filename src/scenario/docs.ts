/** docs/scenarios.md, from the schema: a test holds that the file says what loading takes. */
import { CGROUP_FILES, COUNTER_FILES } from "./cgroupfiles.ts";
import { NAME_BYTES, PATH_BYTES } from "./names.ts";
import type { JsonSchema } from "./place.ts";
import { scenarioJsonSchema } from "./schema.ts";

const SIZES = [
  ["written", "means"],
  ["`200Mi`, `1Gi`, `64Ki`", "2^10, 2^20, 2^30 ... bytes, as Kubernetes writes them"],
  [
    "`1G`, `500k`, `1e6`, `4096`",
    "powers of ten, and plain bytes; `500m` is half a byte, as in Kubernetes, and refused",
  ],
  ["`max`", "no limit"],
  ["`50%`", "of the limit above the process, or of RAM where there is none"],
  ["`50Mi/s`", "a rate"],
  ["`12Mi/10s`", "steps: so much each so often"],
  ["`500ms`, `5s`, `2m`, `1h`, `1m30s`", "a time"],
];

const INTRO = `# Scenario files

A scenario says which memory limits exist, which processes press against them, and which OOM kill must follow. It is YAML (or JSON); a file may hold several, separated by \`---\`. \`oomlab run\` takes files and folders (every \`*.yaml\`, \`*.yml\` and \`*.json\` below them), \`-\` is stdin, and without a path it takes the folder \`scenarios/\`.

\`\`\`yaml
# yaml-language-server: $schema=./scenario.schema.json
name: a container over its 200Mi limit, no swap
cgroups:
  nginx: { memory.max: 200Mi, memory.swap.max: 0 }
processes:
  nginx: { cgroup: nginx, stress: { anon: 256Mi } }
expect:
  oom: memcg
  limit: nginx
  victims: [nginx]
\`\`\`

\`oomlab schema > scenario.schema.json\` writes the JSON Schema of the first line: editors then complete keys and show what each does. \`oomlab validate\` checks files without running anything.

A larger one, with an order of events: a limit is lowered below what is in use. cgroup v1 refuses that with EBUSY, and nobody dies.

\`\`\`yaml
name: a limit lowered below its usage is refused on v1
tags: [v1]
cgroups:
  app: { memory.limit_in_bytes: 60Mi }
processes:
  hog: { cgroup: app, stress: { mlock: 50Mi, hold: forever } }
steps:
  - start: hog
  - wait: { process: hog, touched: true, timeout: 10s }
  - write: { cgroup: app, memory.limit_in_bytes: 20Mi, errno: EBUSY }
  - kill: hog
expect:
  oom: none
  exit: { hog: SIGKILL }
  counters: { app: { memory.oom_control.oom_kill: 0 } }
\`\`\`

What is stated under \`expect\` is checked, and always that no other OOM kill happened in the scenario's cgroups. What is not stated is not checked.

## Sizes, rates and times

${grid(SIZES)}
All of it is exact. The largest size is 2^53 bytes (8Pi).

## When a file is wrong

Nothing is run. Every problem of every file is printed with file, line and column, and the exit status is 2:

\`\`\`text
scenarios/web.yaml:3:24 cgroups.nginx.memory.max: expected a size such as 200Mi, or max; got 200MB
    nginx: { memory.max: 200MB }
                         ^ did you mean 200Mi or 200M?
\`\`\`

Aliases (\`*name\`) and merge keys (\`<<: *name\`) work; tags (\`!name\`) are refused. A file has at most 8 MiB. An expectation that cannot come true is not wrong: it runs, and fails.
`;

const CGROUP_INTRO = `A name is a path below oomlab's own cgroup: \`nginx\`, \`parent/child\`. Parents exist with their children; listing them is needed only to give them limits. A cgroup without files is written \`name: {}\`. The keys are the kernel's own file names; files that act instead of holding a value are written by the step \`write\`. A file that only one cgroup version has makes the scenario run on that version only, except where it is translated.`;

const COUNTER_INTRO = `Counters are named \`file.key\`, or \`file\` alone where it holds one number; \`cgroup.procs\` is the number of processes. They are compared with a number (\`1\`, \`30Mi\`), a comparison (\`">0"\`, \`">=28Mi"\`, \`"!=0"\`), a range (\`"50Mi ±3%"\`), or a list of which all must hold (\`[">=28Mi", "<=32Mi"]\`).`;

const WAIT_INTRO = `\`wait\` takes a process with \`exited: true\` or \`touched\`, or a cgroup with counters: \`{ cgroup: nginx, memory.current: ">=40Mi", timeout: 5s }\`. \`write\` takes a cgroup and one control file with its value; with \`errno\` the write must fail so, and a value that is no size goes to the kernel as it stands.`;

const POD_INTRO = `Each Pod is a Kubernetes manifest as it is, with what presses in its containers. Pod cgroups are named as the Pod (\`web\`), containers' cgroups and processes \`web/nginx\`, the kubelet's own by their path (\`kubepods\`, \`kubepods/burstable\`; the systemd driver's names mean the same); a Pod of another namespace than \`default\` is \`namespace/web\`. What presses has the keys of a process without \`cgroup\`; a \`dir\` is the container's own path, so that of a memory-backed volume or \`/dev/shm\` is a real tmpfs. All other containers have an idle process.`;

/** The text of docs/scenarios.md. */
export function scenarioDocs(): string {
  const schema = scenarioJsonSchema();
  const defs = part(schema, "$defs");
  const keys = part(schema, "properties");
  const named = (name: string): JsonSchema => part(defs, name);
  const command = (named("process")["properties"] as Record<string, JsonSchema>)["command"] ?? {};
  return [
    INTRO,
    `## The keys\n\nOne of \`processes\` and \`pods\` is required; nothing else is.\n`,
    table(schema, ["machine", "cgroups", "processes", "node", "pods", "steps", "expect"]),
    `## cgroups\n\n${CGROUP_INTRO}\n`,
    fileTable(),
    `## processes\n\nA process has a name and one workload: \`stress\`, \`node\` or \`command\`. A scenario ends when no process presses any more, or at its timeout.\n\nThe names of scenarios, processes, tags and the parts of a cgroup's path have at most ${NAME_BYTES} bytes, no control characters and no line ends; a cgroup's whole path has at most ${PATH_BYTES} bytes.\n`,
    table(named("process"), ["stress", "node", "command"]),
    `### stress\n\n${text(named("stress")["description"])} A size is written \`256Mi\` or \`50%\`.\n`,
    table(named("stress")),
    `### node\n\n${text(named("node")["description"])}\n`,
    table(named("node")),
    `### command\n\nA string is run by \`/bin/sh -c\`, a list without a shell. A mapping says more:\n`,
    table((command["anyOf"] as JsonSchema[] | undefined)?.at(-1) ?? {}),
    `## node\n\nThe Kubernetes node on which \`pods\` run. [Pods](kubernetes.md) says what follows from it.\n`,
    table(part(keys, "node")),
    `## pods\n\n${POD_INTRO}\n`,
    table(part((part(keys, "pods")["anyOf"] as JsonSchema[] | undefined)?.[0] ?? {}, "items")),
    `## machine\n\nWhat the scenario needs. Sizes of memory or swap mean a machine of its own, so a VM.\n`,
    table(part(keys, "machine")),
    `## steps\n\nEach step is one key with its value. Processes that no step starts are started before the first step.\n`,
    table(part(part(keys, "steps"), "items")),
    `${WAIT_INTRO}\n`,
    `## expect\n`,
    table(part(keys, "expect")),
    `### Counters\n\n${COUNTER_INTRO}\n`,
    counterTable(),
  ].join("\n");
}

function part(schema: JsonSchema, key: string): JsonSchema {
  return (schema[key] ?? {}) as JsonSchema;
}

function table(schema: JsonSchema, sections: readonly string[] = []): string {
  const rows = Object.entries(part(schema, "properties") as Record<string, JsonSchema>)
    // Control files and counters beside fixed keys have their own tables.
    .filter(([key]) => !key.includes("."))
    .map(([key, child]) => {
      const link = sections.includes(key) ? `[\`${key}\`](#${key})` : `\`${key}\``;
      const example =
        (child["examples"] as unknown[] | undefined)?.map((value) => ` Example: \`${flow(value)}\`.`) ?? [];
      return [link, words(child), `${text(child["description"])}.${example.join("")}`];
    });
  return grid([["key", "value", "what it does"], ...rows]);
}

function fileTable(): string {
  const rows = [...CGROUP_FILES].map(([name, file]) => {
    const value = {
      size: "size",
      flag: "0 or 1",
      integer: file.range === undefined ? "number" : file.range.join(" to "),
      list: "list such as 0-1,3",
      words: file.words?.join(", ") ?? "",
      text: "text",
    };
    const version = file.versions.map((each) => `v${each}`).join(", ");
    return [
      `\`${name}\``,
      version,
      `${value[file.type]}${file.setting ? "" : " (only by a step)"}`,
      `${file.about.replace(/^v1: /, "")}.`,
    ];
  });
  return grid([["file", "version", "value", "what it does"], ...rows]);
}

function counterTable(): string {
  const rows = [...COUNTER_FILES]
    .filter(([name, { keys }]) => keys !== null || CGROUP_FILES.get(name)?.setting !== true)
    .map(([name, { versions, keys, open }]) => {
      const version = versions.map((each) => `v${each}`).join(", ");
      const shown = open === true ? "every key of the file" : (keys ?? []).map((key) => `\`${key}\``).join(", ");
      return [`\`${name}\``, version, shown || "(one number)"];
    });
  return `${grid([["file", "version", "keys"], ...rows])}\nLimits can be compared too: they read back as the kernel rounded them.\n`;
}

/** The named parts of the JSON Schema, in words. */
const NAMED: Readonly<Record<string, string>> = {
  share: "size, or %",
  limit: "size, or max",
  duration: "time",
  hold: "time, or forever",
  cpuList: "numbers: 0-1,3",
  nodeList: "numbers: 0-1,3",
  stress: "mapping",
  node: "mapping",
};

/** What may stand there, from its JSON Schema. */
function words(schema: JsonSchema): string {
  const reference = schema["$ref"];
  if (typeof reference === "string") {
    const name = reference.replace(/^.*\//, "");
    return NAMED[name] ?? name;
  }
  const either = schema["anyOf"] as JsonSchema[] | undefined;
  if (either !== undefined) return [...new Set(either.map(words))].join(", or ");
  const choice = schema["enum"] as unknown[] | undefined;
  if (choice !== undefined)
    return choice.length > 8 ? `a name such as ${String(choice[0])}` : choice.map(String).join(", ");
  if ("const" in schema) return String(schema["const"]);
  switch (schema["type"]) {
    case "integer":
      return "maximum" in schema
        ? `${String(schema["minimum"])} to ${String(schema["maximum"])}`
        : `number from ${String(schema["minimum"])}`;
    case "array":
      return `list (${words(part(schema, "items"))})`;
    case "object":
      return "mapping";
    case "boolean":
      return "true, false";
    default:
      return "text";
  }
}

function text(value: unknown): string {
  return typeof value === "string" ? value : "";
}

/** A table with its head in the first row, padded as the formatter pads it. */
function grid(rows: readonly (readonly string[])[]): string {
  const cells = rows.map((row) => row.map((cell) => cell.replaceAll("|", "\\|")));
  const [head = [], ...body] = cells;
  const widths = head.map((_, column) => Math.max(3, ...cells.map((row) => row[column]?.length ?? 0)));
  const line = (row: readonly string[]): string =>
    `| ${row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join(" | ")} |`;
  return [line(head), line(widths.map((width) => "-".repeat(width))), ...body.map(line), ""].join("\n");
}

/** A value as YAML's flow style writes it. */
function flow(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(flow).join(", ")}]`;
  if (typeof value === "object" && value !== null) {
    return `{ ${Object.entries(value)
      .map(([key, child]) => `${key}: ${flow(child)}`)
      .join(", ")} }`;
  }
  const text = String(value);
  return typeof value === "string" && /[>:#,[\]{}%& ]/.test(text) ? JSON.stringify(text) : text;
}
