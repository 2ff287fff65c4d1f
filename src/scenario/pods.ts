/** The keys `node` and `pods`, and files that are Kubernetes manifests. */
import { LineCounter, parseAllDocuments } from "yaml";
import {
  defaultKubelet,
  type KubeletConfig,
  newestMinor,
  readKubeletConfig,
  readKubeletVersion,
  runtimeOf,
} from "../kubernetes/config.ts";
import { layOutPods } from "../kubernetes/layout.ts";
import { ManifestReader, type PodSpec } from "../kubernetes/pod.ts";
import { at } from "../kubernetes/value.ts";
import type { JsonSchema } from "./place.ts";
import { Place, Reader } from "./place.ts";
import type { ScenarioError } from "./problem.ts";
import { pressureShape } from "./process.ts";
import { size, someSize } from "./quantities.ts";
import { byForm, choice, didYouMean, field, list, map, object } from "./shape.ts";
import type { Shape } from "./shape.ts";
import type { KubernetesSpec, NodeSpec, ProcessSpec } from "./types.ts";

/** Whatever stands there, to be read once more is known. */
const raw = (expected: string, json: JsonSchema): Shape<Place> => ({
  expected,
  read: (place) => (place.isNothing ? place.expected(expected) : place),
  json: () => json,
});

/** The documents of another file, or [] with the problem noted at the place that names it. */
function included(place: Place, path: string): Place[] {
  const found = place.reader.include(path);
  if ("problem" in found) {
    place.wrong(`${path}: ${found.problem}`);
    return [];
  }
  const lines = new LineCounter();
  const source = { file: found.file, text: found.text, lines, include: place.reader.include };
  const parsed = parseAllDocuments(found.text, {
    lineCounter: lines,
    prettyErrors: false,
    uniqueKeys: false,
    logLevel: "silent",
  });
  return ("empty" in parsed ? [] : parsed).flatMap((document) => {
    const reader = new Reader(source, document);
    // What is wrong in it is told with the scenario's own problems.
    reader.problems = place.reader.problems;
    const [error] = document.errors;
    if (error !== undefined) {
      reader.problem(error.pos[0], "", `expected YAML: ${error.message.split("\n", 1)[0]?.toLowerCase() ?? ""}`);
      return [];
    }
    const top = new Place(reader, document.contents, "", 0);
    return top.isNothing ? [] : [top];
  });
}

/** A mapping where it stands, or the documents of the file that a text names. */
function inlineOrFile(place: Place, expected: string): Place[] {
  const scalar = place.scalar();
  if (place.isMap) return [place];
  if (scalar?.kind === "text") return included(place, scalar.text);
  place.expected(expected);
  return [];
}

const kubeletVersion: Shape<number> = {
  expected: "a kubelet's version such as 1.34",
  read: readKubeletVersion,
  json: () => ({ type: ["string", "number"], pattern: "^v?1\\.[0-9]+" }),
};

const nodeShape = object("a node such as { memory: 8Gi, kubeletVersion: 1.34 }", {
  memory: field(someSize, "its memory as the kubelet sees it (MemTotal); a machine of its own, so a VM"),
  swap: field(size, "its swap; so a VM"),
  kubelet: field(
    raw("a KubeletConfiguration, or the path of one", { anyOf: [{ type: "string" }, { type: "object" }] }),
    "the kubelet's KubeletConfiguration, as it is, or its path",
    { example: "{ evictionHard: { memory.available: 100Mi } }" },
  ),
  kubeletVersion: field(kubeletVersion, "the kubelet's version", { default: `1.${newestMinor}` }),
  runtime: field(choice("containerd", "cri-o", "docker"), "the container runtime, which names containers' cgroups", {
    default: "containerd; docker before 1.24",
  }),
});

/** The node of a scenario. */
export const node: Shape<NodeSpec> = map(nodeShape, (given) => {
  const minor = given.kubeletVersion ?? newestMinor;
  return {
    memory: given.memory ?? null,
    swap: given.swap ?? null,
    kubelet: kubeletOf(given.kubelet, minor),
    runtime: given.runtime ?? runtimeOf(minor),
  };
});

function kubeletOf(place: Place | undefined, minor: number): KubeletConfig {
  if (place === undefined) return defaultKubelet(minor);
  const [top, second] = inlineOrFile(place, "a KubeletConfiguration, or the path of one");
  if (second !== undefined) second.wrong("expected one KubeletConfiguration; got several documents");
  return (top === undefined ? undefined : readKubeletConfig(top, minor)) ?? defaultKubelet(minor);
}

const defaultNode = (kubelet: KubeletConfig): NodeSpec => ({
  memory: null,
  swap: null,
  kubelet,
  runtime: runtimeOf(kubelet.minor),
});

const pressureMap: Shape<Place> = {
  expected: "what presses, by container, such as { nginx: { stress: { anon: 256Mi } } }",
  read: (place) => (place.isMap ? place : place.expected(pressureMap.expected)),
  json: (defs) => ({ type: "object", additionalProperties: pressureShape.json(defs) }),
};

const podEntry = object("a Pod such as { manifest: pod.yaml }", {
  manifest: field(
    raw("a manifest, or the path of one", { anyOf: [{ type: "string" }, { type: "object" }] }),
    "a Pod, a List, or what holds a Pod's template (Deployment, StatefulSet, DaemonSet, Job ...): as it is, or its path",
    { example: "pod.yaml" },
  ),
  pressure: field(pressureMap, "what presses in which container; {}: nothing", {
    default: "each container in turn is pressed past what it may have",
    example: "{ nginx: { stress: { anon: 256Mi } } }",
  }),
});

/** Pods of a scenario as they were read. */
export interface PodsGiven {
  pods: PodSpec[];
  pressure: ProcessSpec[];
  turns: string[];
  ignored: string[];
  warnings: string[];
}

const entries = byForm("a list of Pods such as [{ manifest: pod.yaml }]", {
  list: list(podEntry, "a list of Pods such as [{ manifest: pod.yaml }]", { min: 1 }),
});

export const pods: Shape<PodsGiven> = map(entries, (given, place): PodsGiven | undefined => {
  const reader = new ManifestReader();
  const pressure: ProcessSpec[] = [];
  const turns: string[] = [];
  for (const [index, { manifest, pressure: stated }] of given.entries()) {
    if (manifest === undefined) {
      const item = place.items()[index] ?? place;
      if (item.sound) item.wrong("expected the key manifest");
      continue;
    }
    const names = new Set(inlineOrFile(manifest, "a manifest, or the path of one").flatMap((top) => reader.read(top)));
    const read = reader.result.pods.filter(({ name }) => names.has(name));
    const containers = read.flatMap(containersOf);
    if (stated === undefined) turns.push(...containers);
    else if (read.length > 0) pressure.push(...pressureOf(stated, containers));
  }
  return { ...reader.result, pressure, turns };
});

const containersOf = (pod: PodSpec): string[] =>
  [...pod.initContainers, ...pod.containers].map(({ name }) => `${pod.name}/${name}`);

/** Containers are named as in their Pod, or `pod/container` where several Pods come from one manifest. */
function pressureOf(place: Place, containers: readonly string[]): ProcessSpec[] {
  const keys = new Map<string, string>();
  return place.entries().flatMap(({ key, at: keyPlace, value }) => {
    const found = containers.includes(key) ? [key] : containers.filter((name) => name.endsWith(`/${key}`));
    if (found.length === 0) {
      const short = containers.map((name) => name.slice(name.lastIndexOf("/") + 1));
      const hint = didYouMean(key, short);
      keyPlace.wrong(
        `no container is named ${JSON.stringify(key)}${hint === undefined ? `; known here: ${short.join(", ")}` : ""}`,
        hint,
      );
      return [];
    }
    if (found.length > 1) {
      keyPlace.wrong(`several containers are named ${JSON.stringify(key)}`, `write one of ${found.join(", ")}`);
      return [];
    }
    const [name = ""] = found;
    const other = keys.get(name);
    if (other !== undefined) {
      keyPlace.wrong(`${JSON.stringify(key)} and ${JSON.stringify(other)} are the same container`, "name it once");
      return [];
    }
    keys.set(name, key);
    const given = pressureShape.read(value);
    return given === undefined ? [] : [{ ...given, name, cgroup: name, ...keyPlace.position }];
  });
}

/** A Pod of a namespace and a container of a Pod can have the same name here: what is said of it would be said of both. */
function checkPodNames(pods: readonly PodSpec[], place: Place): void {
  const containers = new Set(pods.flatMap(containersOf));
  for (const { name } of pods)
    if (containers.has(name))
      place.wrong(
        `${JSON.stringify(name)} is a Pod (${name.replace("/", "'s ")}) and a container (of Pod ${name.replace("/", ", ")})`,
        "give one of them another name",
      );
}

/** The node and the Pods of a scenario; the names they bring are known from then on. `top`: the scenario. */
export function kubernetesOf(
  given: PodsGiven,
  stated: NodeSpec | undefined,
  top: Place,
  reader: Reader,
): KubernetesSpec {
  const entries = top.entries();
  checkPodNames(given.pods, entries.find(({ key }) => key === "pods")?.at ?? top);
  const spec: KubernetesSpec = {
    node: stated ?? defaultNode(defaultKubelet(newestMinor)),
    pods: given.pods,
    pressure: given.pressure,
    turns: given.turns,
    turn: null,
    ignored: given.ignored,
    warnings: given.warnings,
  };
  for (const { name } of spec.pods) reader.names.pod.add(name);
  for (const name of spec.pods.flatMap(containersOf)) reader.names.process.add(name);
  const taken = new Set<string>();
  // Names do not depend on sizes; both versions' are known, because the machine decides on one later.
  for (const cgroupVersion of [1, 2] as const)
    for (const kubelet of [
      spec.node.kubelet,
      { ...spec.node.kubelet, cgroupDriver: "systemd" as const },
      { ...spec.node.kubelet, cgroupDriver: "cgroupfs" as const },
    ])
      for (const { name } of layOutPods(spec.pods, {
        kubelet,
        runtime: spec.node.runtime,
        cgroupVersion,
        capacity: 2n ** 33n,
        swap: 0n,
        swapController: false,
      }).cgroups)
        taken.add(name);
  for (const { key, at: place } of entries.find(({ key }) => key === "cgroups")?.value.entries() ?? []) {
    if (reader.names.pod.has(key)) place.wrong(`a cgroup and a Pod are both named ${JSON.stringify(key)}`);
    else if (taken.has(key))
      place.wrong(`${JSON.stringify(key)} is a cgroup that the kubelet makes`, "name yours otherwise");
  }
  for (const name of taken) reader.names.cgroup.add(name);
  return spec;
}

/** Whether a document is a Kubernetes object: it has a kind and an apiVersion, or is one but for a slip. */
export const isManifest = (top: Place): boolean =>
  top.isMap && at(top, "kind") !== undefined && (at(top, "apiVersion") !== undefined || at(top, "spec") !== undefined);

/** The manifests of one file: all its Pods on one node, and the kubelet where a document configures it. */
export class ManifestFile {
  readonly #reader = new ManifestReader();
  #kubelet: KubeletConfig | undefined;
  #first: Place | undefined;

  read(top: Place): void {
    this.#first ??= top;
    if (at(top, "kind")?.scalar()?.text === "KubeletConfiguration") {
      if (this.#kubelet === undefined) this.#kubelet = readKubeletConfig(top, newestMinor);
      else top.wrong("a node has one kubelet: a KubeletConfiguration stands twice in this file");
    } else this.#reader.read(top);
  }

  /** What is wrong with the Pods of all documents together. */
  get problems(): ScenarioError[] {
    if (this.#first === undefined) return [];
    const { problems } = this.#first.reader;
    const known = problems.length;
    checkPodNames(this.#reader.result.pods, this.#first);
    return problems.slice(known);
  }

  /** null: no manifest in it has a Pod. */
  get result(): { spec: KubernetesSpec; line: number } | null {
    const { pods: found, ignored, warnings } = this.#reader.result;
    if (found.length === 0 || this.#first === undefined) return null;
    return {
      spec: {
        node: defaultNode(this.#kubelet ?? defaultKubelet(newestMinor)),
        pods: found,
        pressure: [],
        turns: found.flatMap(containersOf),
        turn: null,
        ignored,
        warnings,
      },
      line: this.#first.position.line,
    };
  }

  get seen(): boolean {
    return this.#first !== undefined;
  }
}
