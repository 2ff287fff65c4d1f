/** The scenario file: every key with its shape and what it does. Types, checks, JSON Schema and docs all come from here. */
import { cgroups } from "./cgroups.ts";
import { expectShape } from "./expect.ts";
import type { Expected } from "./expect.ts";
import { machine } from "./machine.ts";
import { nameProblem } from "./names.ts";
import type { JsonSchema } from "./place.ts";
import { node, pods } from "./pods.ts";
import type { PodsGiven } from "./pods.ts";
import { processes } from "./process.ts";
import { someTime } from "./quantities.ts";
import { field, list, object, text } from "./shape.ts";
import type { Shape } from "./shape.ts";
import { step } from "./steps.ts";
import type { CgroupSpec, MachineNeeds, NodeSpec, ProcessSpec, Step } from "./types.ts";

/** The keys of a scenario as they were read. */
export interface ScenarioKeys {
  name?: string;
  description?: string;
  tags?: string[];
  machine?: MachineNeeds;
  cgroups?: CgroupSpec[];
  processes?: ProcessSpec[];
  node?: NodeSpec;
  pods?: PodsGiven;
  steps?: Step[];
  expect?: Expected;
  timeout?: number;
}

export const scenarioShape: Shape<ScenarioKeys> = object(
  "a scenario: a mapping with name, cgroups, processes and expect",
  {
    name: field(text("a name", { check: nameProblem }), "what it is called", { default: "the file's name" }),
    description: field(text("text"), "what it shows"),
    tags: field(list(text("a tag", { check: nameProblem }), "a list of tags"), "words to choose it by (--tag)", {
      example: "[swap]",
    }),
    machine: field(machine, "what it needs of the machine"),
    cgroups: field(
      cgroups,
      "the cgroups, by path, each with its control files; v2's names are translated on v1, v1's own make it v1-only",
      { example: "{ nginx: { memory.max: 200Mi } }" },
    ),
    processes: field(processes, "the processes, by name"),
    node: field(node, "the Kubernetes node that its Pods run on", {
      example: '{ memory: 8Gi, kubeletVersion: "1.34" }',
    }),
    pods: field(
      pods,
      "Pods, instead of or beside cgroups and processes, laid out as a kubelet does; a container's process is named pod/container",
      { example: "[{ manifest: pod.yaml }]" },
    ),
    steps: field(
      list(step, "a list of steps"),
      "what happens in which order; without steps all processes start at once",
    ),
    expect: field(expectShape, "what must be true after the run"),
    timeout: field(someTime, "when it is stopped; `--timeout` goes before it", { default: "60s" }),
  },
  { pod: "unknown key; did you mean pods?" },
);

/**
 * The JSON Schema of a scenario (draft 2020-12), for editors: names that do not exist, a scenario without processes and
 * Pods, and the like only loading finds.
 */
export function scenarioJsonSchema(): JsonSchema {
  const defs = new Map<string, JsonSchema>();
  const schema = scenarioShape.json(defs);
  return {
    $schema: "https://json-schema.org/draft/2020-12/schema",
    title: "oomlab scenario",
    description: "Which memory limits exist, which processes press against them, and which OOM kill must follow.",
    ...schema,
    $defs: Object.fromEntries([...defs].toSorted(([a], [b]) => (a < b ? -1 : 1))),
  };
}
