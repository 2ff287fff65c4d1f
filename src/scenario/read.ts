/** From the text of a file to its scenarios. */
import { LineCounter, parseAllDocuments } from "yaml";
import type { Document, YAMLError } from "yaml";
import { Place, Reader } from "./place.ts";
import type { Include } from "./place.ts";
import { isManifest, kubernetesOf, ManifestFile } from "./pods.ts";
import { didYouMean } from "./shape.ts";
import { ScenarioError, ScenarioErrors } from "./problem.ts";
import { scenarioShape } from "./schema.ts";
import type { CgroupSpec, Expectations, MachineNeeds, Position, ProcessSpec, Scenario, Step } from "./types.ts";

/** The largest file that is read, in characters: a scenario has a few hundred, what `helm template` prints some millions. */
export const MAX_TEXT: number = 8 * 1024 * 1024;

interface Source {
  file: string;
  text: string;
  lines: LineCounter;
  include: Include;
}

/**
 * Reads the scenarios of one file from its text; `file` is its name in messages and in the result, `include` reads
 * the files that it names. Throws ScenarioErrors with every problem there is.
 */
export function parseScenarios(text: string, file: string, include: Include = nowhere): Scenario[] {
  const { scenarios, problems } = readText(text, file, include);
  const [first, ...rest] = problems;
  if (first !== undefined) throw new ScenarioErrors([first, ...rest]);
  return scenarios;
}

const nowhere: Include = () => ({ problem: "other files cannot be read from here" });

/** As parseScenarios, with the problems as a value. */
export function readText(
  text: string,
  file: string,
  include: Include,
): { scenarios: Scenario[]; problems: ScenarioError[] } {
  const whole = (what: string): { scenarios: Scenario[]; problems: ScenarioError[] } => ({
    scenarios: [],
    problems: [new ScenarioError({ file, line: null, column: null, path: "", what })],
  });
  if (text.length > MAX_TEXT) return whole("expected a scenario; got a file of more than 8 MiB");
  // A byte order mark is allowed before YAML, and no part of it.
  const source: Source = {
    file,
    text: text.startsWith("\ufeff") ? text.slice(1) : text,
    lines: new LineCounter(),
    include,
  };
  let documents: Document[];
  try {
    const parsed = parseAllDocuments(source.text, {
      lineCounter: source.lines,
      prettyErrors: false,
      uniqueKeys: false,
      logLevel: "silent",
    });
    documents = "empty" in parsed ? [] : parsed;
  } catch (error) {
    return whole(
      `expected ${/\.json$/i.test(file) ? "JSON" : "YAML"}; got what cannot be read: ${error instanceof Error ? error.message : String(error)}`,
    );
  }
  const problems: ScenarioError[] = [];
  const scenarios: Scenario[] = [];
  const used = new Map<string, number>();
  const manifests = new ManifestFile();
  let seen = 0;
  for (const document of documents) {
    if (document.contents === null && document.errors.length === 0) continue;
    const reader = new Reader(source, document);
    if (isEmpty(document, reader)) continue;
    seen += 1;
    const scenario = readDocument(document, reader, source, manifests);
    if (scenario === undefined) {
      problems.push(...reader.problems);
      continue;
    }
    const first = used.get(scenario.name);
    if (first === undefined) used.set(scenario.name, scenario.line);
    else {
      const what = `the name ${JSON.stringify(scenario.name)} stands twice in this file; first in line ${first}`;
      const hint = reader.places.has("name") ? undefined : "give it a name of its own: name: ...";
      reader.problem(reader.places.get("name") ?? reader.places.get("") ?? 0, "name", what, hint);
    }
    problems.push(...reader.problems);
    scenarios.push(scenario);
  }
  problems.push(...manifests.problems);
  const found = manifests.result;
  if (found !== null && problems.length === 0) {
    const [only, ...others] = found.spec.pods;
    const name = only !== undefined && others.length === 0 ? only.name : baseName(file);
    scenarios.push({ ...empty(source, found.line), name, kubernetes: found.spec });
  }
  if (seen === 0 && problems.length === 0) return whole("expected a scenario; got an empty file");
  return {
    scenarios,
    problems: problems.toSorted((a, b) => (a.line ?? 0) - (b.line ?? 0) || (a.column ?? 0) - (b.column ?? 0)),
  };
}

function isEmpty(document: Document, reader: Reader): boolean {
  return document.errors.length === 0 && new Place(reader, document.contents, "", 0).isNothing;
}

const empty = ({ file }: Source, line: number): Scenario => ({
  name: baseName(file),
  file,
  line,
  tags: [],
  machine: NO_NEEDS,
  cgroups: [],
  processes: [],
  steps: [],
  expect: NOTHING_EXPECTED,
  timeoutMs: null,
});

function readDocument(
  document: Document,
  reader: Reader,
  source: Source,
  manifests: ManifestFile,
): Scenario | undefined {
  for (const error of [...document.errors, ...document.warnings]) syntaxProblem(error, reader);
  if (reader.problems.length > 0) return undefined;
  const top = new Place(reader, document.contents, "", 0);
  if (isManifest(top)) {
    manifests.read(top);
    return undefined;
  }
  const given = scenarioShape.read(top);
  if (given === undefined) return undefined;
  if (
    given.processes === undefined &&
    given.pods === undefined &&
    !reader.problems.some(
      ({ path, message }) => /^(?:processes|pods)\b/.test(path) || /mean (?:processes|pods)/.test(message),
    )
  ) {
    top.wrong("expected the key processes: nothing presses", "such as processes: { hog: { stress: { anon: 64Mi } } }");
  }
  const kubernetes = given.pods === undefined ? undefined : kubernetesOf(given.pods, given.node, top, reader);
  if (given.node !== undefined && top.entries().every(({ key }) => key !== "pods"))
    top.wrong("node describes where Pods run: expected the key pods", "such as pods: [{ manifest: pod.yaml }]");
  if (given.node?.memory && given.machine?.memory)
    top.wrong("node.memory and machine.memory say the same thing twice", "leave out machine.memory");
  if (given.node?.swap && given.machine?.swap)
    top.wrong("node.swap and machine.swap say the same thing twice", "leave out machine.swap");
  checkReferences(reader);
  if (reader.problems.length > 0) return undefined;
  const steps = given.steps ?? [];
  return {
    name: given.name ?? baseName(source.file),
    file: source.file,
    line: top.position.line,
    ...(given.description === undefined ? {} : { description: given.description }),
    tags: given.tags ?? [],
    machine: given.machine ?? NO_NEEDS,
    cgroups: withParents(given.cgroups ?? []),
    processes: startedBySteps(given.processes ?? [], steps),
    steps,
    expect: expectations(given.expect ?? {}, reader),
    timeoutMs: given.timeout ?? null,
    ...(kubernetes === undefined ? {} : { kubernetes }),
  };
}

function syntaxProblem(error: YAMLError, reader: Reader): void {
  const { line } = reader.position(error.pos[0]);
  // What follows a syntax error in the same line is its echo.
  if (reader.problems.some((problem) => problem.line === line)) return;
  const [what = ""] = error.message.split("\n", 1);
  const hint = error.code === "TAB_AS_INDENT" ? "indent with spaces" : undefined;
  // yaml composes by recursion: very deep nesting ends its stack.
  const told = /call stack/.test(what) ? "it is nested too deeply" : what.charAt(0).toLowerCase() + what.slice(1);
  reader.problem(
    lastText(reader.text, error.pos[0]),
    "",
    `expected ${/\.json$/i.test(reader.file) ? "JSON" : "YAML"}: ${told}`,
    hint,
  );
}

/** Where a problem at the end of the file is shown: at its last text, not in an empty line. */
function lastText(text: string, offset: number): number {
  return text.slice(offset).trim() === "" ? Math.max(text.trimEnd().length - 1, 0) : offset;
}

function checkReferences(reader: Reader): void {
  for (const { kind, name, place } of reader.references) {
    const names = reader.names[kind];
    if (names.has(name)) continue;
    const all = [...names];
    const known =
      all.length === 0
        ? `the scenario has no ${kind}${kind === "process" ? "es" : "s"}`
        : `known here: ${all.slice(0, 10).join(", ")}${all.length > 10 ? ", ..." : ""}`;
    const whole = all.find((known) => known.endsWith(`/${name}`));
    const hint = whole === undefined ? didYouMean(name, all) : `did you mean ${whole}?`;
    place.wrong(`no ${kind} is named ${JSON.stringify(name)}${hint === undefined ? `; ${known}` : ""}`, hint);
  }
}

function startedBySteps(processes: ProcessSpec[], steps: readonly Step[]): ProcessSpec[] {
  const named = new Set(steps.flatMap((step) => (step.do === "start" ? step.processes : [])));
  return processes.map((process) => (named.has(process.name) ? { ...process, start: "step" } : process));
}

/** Adds the parents that are not listed, and puts every parent before its children. */
function withParents(cgroups: readonly CgroupSpec[]): CgroupSpec[] {
  const listed = new Map(cgroups.map((cgroup) => [cgroup.name, cgroup]));
  const ordered = new Map<string, CgroupSpec>();
  for (const cgroup of cgroups) {
    for (let end = cgroup.name.indexOf("/"); end > 0; end = cgroup.name.indexOf("/", end + 1)) {
      const name = cgroup.name.slice(0, end);
      if (!ordered.has(name))
        ordered.set(name, listed.get(name) ?? { name, files: [], line: cgroup.line, column: cgroup.column });
    }
    ordered.set(cgroup.name, cgroup);
  }
  return [...ordered.values()];
}

const NO_NEEDS: MachineNeeds = {
  memory: null,
  swap: null,
  cpus: null,
  numa: null,
  kernel: null,
  cgroup: null,
  sysctl: {},
  thp: null,
  zswap: null,
  mountOptions: [],
  available: null,
};

export const NOTHING_EXPECTED: Expectations = {
  oom: null,
  limit: null,
  victims: null,
  survivors: null,
  exit: [],
  counters: [],
  log: [],
  trigger: null,
  panic: null,
  withinMs: null,
  where: {},
};

function expectations(
  given: NonNullable<NonNullable<ReturnType<typeof scenarioShape.read>>["expect"]>,
  reader: Reader,
): Expectations {
  const where: [string, Position][] = [];
  for (const [path, offset] of reader.places)
    if (path.startsWith("expect.")) where.push([path.slice("expect.".length), reader.position(offset)]);
  return {
    oom: given.oom ?? null,
    limit: given.limit ?? null,
    victims: given.victims ?? null,
    survivors: given.survivors ?? null,
    exit: given.exit ?? [],
    counters: given.counters?.flat() ?? [],
    log: given.log ?? [],
    trigger: given.trigger ?? null,
    panic: given.panic ?? null,
    withinMs: given.within ?? null,
    ...(given.first === undefined ? {} : { first: given.first }),
    ...(given.evicted === undefined ? {} : { evicted: given.evicted }),
    where: Object.fromEntries(where),
  };
}

/** `scenarios/basic.yaml` -> `basic`. */
function baseName(file: string): string {
  if (file === "-") return "stdin";
  const name = file.split(/[/\\]/).at(-1) ?? file;
  return name.replace(/\.(?:ya?ml|json)$/i, "") || file;
}
