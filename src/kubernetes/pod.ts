/**
 * Pod manifests: read, checked and defaulted as the API server does, down to what concerns memory. Pods stand by
 * themselves, in Lists, and as the templates of Deployments, StatefulSets, DaemonSets, Jobs and their like.
 */
import { formatQuantity, isFractional, parseQuantity, type Quantity, QUANTITY_TEXTS } from "./quantity.ts";
import { at, didYouMean, type Value } from "./value.ts";

/** Resource name -> quantity, as written. */
export type ResourceList = Record<string, string>;

export interface ContainerSpec {
  name: string;
  requests: ResourceList;
  limits: ResourceList;
  /** An init container with restartPolicy Always: it goes on beside the others. */
  sidecar: boolean;
  /** Its volumes, by the path it sees them at. */
  mounts: { volume: string; path: string }[];
  /** `containerd://<id>` of a running Pod's status, without the runtime. */
  id: string | null;
}

/** What of a Pod decides about memory; JSON. */
export interface PodSpec {
  /** Unique on the node: without its namespace where that is `default`, else `namespace/name`. */
  name: string;
  uid: string;
  /** From a file or a URL, or the mirror of one. */
  static: boolean;
  priorityClassName: string | null;
  priority: number | null;
  /** status.qosClass: once set it is taken as it is. */
  qosClass: QosClass | null;
  containers: ContainerSpec[];
  initContainers: ContainerSpec[];
  /** spec.resources. */
  resources: { requests: ResourceList; limits: ResourceList } | null;
  overhead: ResourceList;
  /** emptyDir volumes with medium Memory. */
  volumes: { name: string; sizeLimit: string | null }[];
  terminationGracePeriodSeconds: number | null;
}

export type QosClass = "Guaranteed" | "Burstable" | "BestEffort";

export interface Manifests {
  pods: PodSpec[];
  /** What does not concern memory, each path once: `spec.containers[].image`. */
  ignored: string[];
  /** The API server's warnings. */
  warnings: string[];
}

/** What a container's, a Pod's and its metadata's fields are called (API of 1.37); those that concern memory first. */
const CONTAINER_FIELDS = words(
  "name resources restartPolicy volumeMounts image args command env envFrom imagePullPolicy lifecycle livenessProbe ports readinessProbe resizePolicy restartPolicyRules securityContext startupProbe stdin stdinOnce terminationMessagePath terminationMessagePolicy tty volumeDevices workingDir",
);
const POD_FIELDS = words(
  "containers initContainers ephemeralContainers resources overhead volumes priority priorityClassName terminationGracePeriodSeconds activeDeadlineSeconds affinity automountServiceAccountToken dnsConfig dnsPolicy enableServiceLinks hostAliases hostIPC hostNetwork hostPID hostUsers hostname hostnameOverride imagePullSecrets nodeName nodeSelector os preemptionPolicy readinessGates resourceClaims restartPolicy runtimeClassName schedulerName schedulingGates securityContext serviceAccount serviceAccountName setHostnameAsFQDN shareProcessNamespace subdomain tolerations topologySpreadConstraints workloadRef",
);
const META_FIELDS = words(
  "name namespace uid annotations generateName labels creationTimestamp deletionGracePeriodSeconds deletionTimestamp finalizers generation managedFields ownerReferences resourceVersion selfLink clusterName",
);
const READ_CONTAINER = words("name resources restartPolicy volumeMounts");
const READ_POD = words(
  "containers initContainers ephemeralContainers resources overhead volumes priority priorityClassName terminationGracePeriodSeconds",
);

function words(text: string): ReadonlySet<string> {
  return new Set(text.split(" "));
}

/** Where the Pod template of a kind stands. */
const TEMPLATES: Readonly<Record<string, readonly string[]>> = {
  Deployment: ["spec", "template"],
  ReplicaSet: ["spec", "template"],
  ReplicationController: ["spec", "template"],
  StatefulSet: ["spec", "template"],
  DaemonSet: ["spec", "template"],
  Job: ["spec", "template"],
  CronJob: ["spec", "jobTemplate", "spec", "template"],
  PodTemplate: ["template"],
};

/** The API groups and versions of the kinds that hold Pods. */
const API_VERSIONS: Readonly<Record<string, string>> = {
  Pod: "v1",
  ReplicationController: "v1",
  PodTemplate: "v1",
  Deployment: "apps/v1",
  ReplicaSet: "apps/v1",
  StatefulSet: "apps/v1",
  DaemonSet: "apps/v1",
  Job: "batch/v1",
  CronJob: "batch/v1",
};

/** Reads manifests into one list of Pods; problems are noted at their places with the API server's texts. */
export class ManifestReader {
  readonly #pods = new Map<string, PodSpec>();
  readonly #ignored = new Set<string>();
  readonly #warnings: string[] = [];

  /** One document, or an item of a List. The Pods it brought, by name. */
  read(top: Value): string[] {
    if (!top.isMap) {
      top.wrong(`expected a Kubernetes manifest: a mapping; got ${top.found}`);
      return [];
    }
    const kindPlace = at(top, "kind");
    const kind = kindPlace?.scalar()?.text;
    const apiVersion = at(top, "apiVersion")?.scalar()?.text;
    if (kind === undefined) return none(top.tell("Object 'Kind' is missing", "such as kind: Pod"));
    if (apiVersion === undefined) return none(top.tell("Object 'apiVersion' is missing", "such as apiVersion: v1"));
    if (kind.endsWith("List") && at(top, "items") !== undefined) {
      const items = at(top, "items");
      return (items?.items() ?? []).flatMap((item) => this.read(item));
    }
    const path = kind === "Pod" ? [] : Object.hasOwn(TEMPLATES, kind) ? TEMPLATES[kind] : undefined;
    if (path === undefined) {
      const near = kindPlace?.nearest(kind, Object.keys(API_VERSIONS));
      // `pod` and `Deploymnet` are slips; a Service is just another kind.
      if (near !== undefined && (apiVersion === API_VERSIONS[near] || near.toLowerCase() === kind.toLowerCase()))
        return none(
          kindPlace?.tell(`no matches for kind "${kind}" in version "${apiVersion}"`, `did you mean ${near}?`),
        );
      const name = at(at(top, "metadata"), "name")?.scalar()?.text;
      this.#ignored.add(name === undefined ? kind : `${kind} ${name}`);
      return [];
    }
    if (apiVersion !== API_VERSIONS[kind])
      return none(
        at(top, "apiVersion")?.tell(
          `no matches for kind "${kind}" in version "${apiVersion}"`,
          `did you mean ${API_VERSIONS[kind]}?`,
        ),
      );
    const meta = metadata(top, at(top, "metadata"));
    let template: Value | undefined = top;
    for (const key of path) template = at(template, key);
    const prefix = path.length === 0 ? "" : `${path.join(".")}.`;
    if (template === undefined) return none(top.tell(`${prefix.slice(0, -1)}: Required value`));
    if (path.length > 0) {
      for (const { key } of at(top, "spec")?.entries() ?? []) if (!path.includes(key)) this.#ignored.add(`spec.${key}`);
    }
    for (const { key, at: keyPlace } of template.entries())
      if (!["apiVersion", "kind", "metadata", "spec", "status"].includes(key))
        unknown(keyPlace, `${prefix}${key}`, ["metadata", "spec", "status", "apiVersion", "kind"]);
    const pod = this.#pod(template, prefix, meta, path.length > 0);
    if (pod === undefined) return [];
    // Pods of a template have names of their own in a cluster.
    if (this.#pods.has(pod.name) && path.length > 0) {
      pod.name = `${pod.name}-${kind.toLowerCase()}`;
      pod.uid = uuidOf(pod.name);
    }
    const twin = [...this.#pods.values()].find(({ uid }) => uid === pod.uid);
    if (twin !== undefined && twin.name !== pod.name) {
      (at(at(top, "metadata"), "uid") ?? top).tell(
        `metadata.uid: Duplicate value: "${pod.uid}": the Pod ${twin.name} has it`,
        "leave it out, and each gets one of its own",
      );
      return [];
    }
    if (this.#pods.has(pod.name)) {
      (at(at(top, "metadata"), "name") ?? top).tell(
        `metadata.name: Duplicate value: "${pod.name}": two Pods of one node cannot have the same name`,
        "give one of them a name or a namespace of its own",
      );
      return [];
    }
    this.#pods.set(pod.name, pod);
    return [pod.name];
  }

  get result(): Manifests {
    return { pods: [...this.#pods.values()], ignored: [...this.#ignored], warnings: this.#warnings };
  }

  #pod(top: Value, prefix: string, owner: Meta, isTemplate: boolean): PodSpec | undefined {
    const meta = at(top, "metadata");
    for (const { key, at: keyPlace } of meta?.entries() ?? []) {
      if (!META_FIELDS.has(key)) unknown(keyPlace, `${prefix}metadata.${key}`, META_FIELDS);
      else if (!["name", "namespace", "uid", "annotations", "generateName"].includes(key))
        this.#ignored.add(`metadata.${key}`);
    }
    const spec = at(top, "spec");
    if (spec === undefined) return top.tell(`${prefix}spec.containers: Required value`);
    if (!spec.isMap) return unmarshal(spec, "PodSpec", `${prefix}spec`, "v1.PodSpec");
    for (const { key, at: keyPlace } of spec.entries()) {
      if (!POD_FIELDS.has(key)) unknown(keyPlace, `${prefix}spec.${key}`, POD_FIELDS);
      else if (!READ_POD.has(key)) this.#ignored.add(`spec.${key}`);
    }
    const volumes = this.#volumes(spec, prefix);
    const names = new Set<string>();
    const status = at(top, "status");
    const ids = containerIds(status);
    const read = (list: string): ContainerSpec[] => this.#containers(spec, prefix, list, names, volumes.names, ids);
    // The API server reports in its own order; names are unique over both lists.
    const initContainers = read("initContainers");
    const containers = read("containers");
    if (at(spec, "ephemeralContainers") !== undefined) this.#ignored.add("spec.ephemeralContainers");
    const containersPlace = at(spec, "containers");
    if (containersPlace === undefined || (containersPlace.isList && containersPlace.items().length === 0))
      (containersPlace ?? spec).tell(`${prefix}spec.containers: Required value`);
    const restart = at(spec, "restartPolicy");
    const policy = restart?.scalar()?.text;
    if (policy !== undefined && !["Always", "OnFailure", "Never"].includes(policy))
      restart?.tell(
        `${prefix}spec.restartPolicy: Unsupported value: "${policy}": supported values: "Always", "OnFailure", "Never"`,
        didYouMean(restart, policy, ["Always", "OnFailure", "Never"]),
      );
    const podResources = at(spec, "resources");
    const resources =
      podResources === undefined ? null : this.#resources(podResources, `${prefix}spec.resources`, true);
    const overhead = this.#list(at(spec, "overhead"), `${prefix}spec.overhead`, false);
    if (resources !== null) {
      defaultPodResources(resources, containers, initContainers);
      this.#checkPodResources(podResources as Value, prefix, resources, containers, initContainers);
    }
    const annotations = at(meta, "annotations");
    const annotation = (key: string): string | undefined => at(annotations, key)?.scalar()?.text;
    const source = annotation("kubernetes.io/config.source");
    const hash = annotation("kubernetes.io/config.hash");
    for (const { key } of annotations?.entries() ?? [])
      if (!key.startsWith("kubernetes.io/config.")) this.#ignored.add("metadata.annotations");
    const priorityClassName = at(spec, "priorityClassName")?.scalar()?.text ?? null;
    const namespace = owner.namespace ?? "default";
    const name = namespace === "default" ? owner.name : `${namespace}/${owner.name}`;
    const uid = isTemplate ? undefined : at(meta, "uid")?.scalar()?.text || undefined;
    // It becomes a directory's name.
    if (uid !== undefined && !directoryName.test(uid))
      at(meta, "uid")?.tell(`${prefix}metadata.uid: Invalid value: ${JSON.stringify(uid)}`, "such as a UUID");
    if (hash !== undefined && !directoryName.test(hash))
      at(annotations, "kubernetes.io/config.hash")?.tell(
        `${prefix}metadata.annotations[kubernetes.io/config.hash]: Invalid value: ${JSON.stringify(hash)}`,
        "such as the 32 hexadecimal digits of a hash",
      );
    const stated = at(status, "qosClass")?.scalar()?.text;
    return {
      name,
      uid: hash ?? uid ?? uuidOf(`${namespace}/${owner.name}`),
      static: (source !== undefined && source !== "api") || annotation("kubernetes.io/config.mirror") !== undefined,
      priorityClassName,
      priority: this.#integer(at(spec, "priority"), "priority") ?? CLASSES[priorityClassName ?? ""] ?? null,
      qosClass: stated === "Guaranteed" || stated === "Burstable" || stated === "BestEffort" ? stated : null,
      containers,
      initContainers,
      resources,
      overhead,
      volumes: volumes.memory,
      terminationGracePeriodSeconds: this.#integer(
        at(spec, "terminationGracePeriodSeconds"),
        "terminationGracePeriodSeconds",
      ),
    };
  }

  #integer(place: Value | undefined, field: string): number | null {
    const scalar = place?.scalar();
    if (place === undefined) return null;
    const number = scalar?.kind === "number" && /^[+-]?\d{1,15}$/.test(scalar.text) ? Number(scalar.text) : null;
    if (number !== null && (field !== "priority" || (number | 0) === number)) return number;
    unmarshal(place, "PodSpec", `spec.${field}`, field === "priority" ? "int32" : "int64");
    return null;
  }

  #containers(
    spec: Value,
    prefix: string,
    field: string,
    names: Set<string>,
    volumes: ReadonlySet<string>,
    ids: ReadonlyMap<string, string>,
  ): ContainerSpec[] {
    const list = at(spec, field);
    if (list === undefined) return [];
    if (!list.isList) {
      unmarshal(list, "PodSpec", `spec.${field}`, "[]v1.Container");
      return [];
    }
    return list.items().flatMap((place, index) => {
      const path = `${prefix}spec.${field}[${index}]`;
      if (!place.isMap) {
        unmarshal(place, "PodSpec", `spec.${field}`, "v1.Container");
        return [];
      }
      for (const { key, at: keyPlace } of place.entries()) {
        if (!CONTAINER_FIELDS.has(key)) unknown(keyPlace, `${path}.${key}`, CONTAINER_FIELDS);
        else if (!READ_CONTAINER.has(key)) this.#ignored.add(`spec.${field}[].${key}`);
      }
      const namePlace = at(place, "name");
      const name = namePlace?.scalar()?.text ?? "";
      if (name === "") (namePlace ?? place).tell(`${path}.name: Required value`);
      else if (!LABEL.test(name) || name.length > 63)
        (namePlace ?? place).tell(
          name.length > 63 && LABEL.test(name)
            ? `${path}.name: Invalid value: ${JSON.stringify(name)}: must be no more than 63 bytes`
            : `${path}.name: Invalid value: ${JSON.stringify(name)}: ${LABEL_TEXT}`,
        );
      else if (names.has(name)) namePlace?.tell(`${path}.name: Duplicate value: ${JSON.stringify(name)}`);
      names.add(name);
      const restart = at(place, "restartPolicy");
      const policy = restart?.scalar()?.text;
      const sidecar = field === "initContainers" && policy === "Always";
      if (policy !== undefined && field === "initContainers" && !["Always", "OnFailure", "Never"].includes(policy))
        restart?.tell(
          `${path}.restartPolicy: Unsupported value: "${policy}": supported values: "Always"`,
          didYouMean(restart, policy, ["Always"]),
        );
      const resources = at(place, "resources");
      const { requests, limits } =
        resources === undefined ? { requests: {}, limits: {} } : this.#resources(resources, `${path}.resources`, false);
      // pkg/apis/core/v1/defaults.go: a limit without a request of that name is the request too.
      for (const [resource, limit] of Object.entries(limits)) requests[resource] ??= limit;
      return [
        {
          name,
          requests,
          limits,
          sidecar,
          mounts: mountsOf(place, path, volumes),
          id: ids.get(name) ?? null,
        },
      ];
    });
  }

  #resources(place: Value, path: string, ofPod: boolean): { requests: ResourceList; limits: ResourceList } {
    if (!place.isMap) {
      unmarshal(place, ofPod ? "PodSpec" : "Container", path, "v1.ResourceRequirements");
      return { requests: {}, limits: {} };
    }
    for (const { key, at: keyPlace } of place.entries())
      if (!["requests", "limits", "claims"].includes(key))
        unknown(keyPlace, `${path}.${key}`, ["requests", "limits", "claims"]);
    const limitsPlace = at(place, "limits");
    const requestsPlace = at(place, "requests");
    const limits = this.#list(limitsPlace, `${path}.limits`, true, ofPod);
    const requests = this.#list(requestsPlace, `${path}.requests`, true, ofPod);
    for (const [name, request] of Object.entries(requests)) {
      const limit = limits[name];
      const requestPlace = at(requestsPlace, name);
      if (limit === undefined) continue;
      const [asked, allowed] = [parseQuantity(request), parseQuantity(limit)];
      if (name.startsWith("hugepages-") && asked.nano !== allowed.nano)
        requestPlace?.tell(
          `${path}.requests: Invalid value: "${formatQuantity(asked)}": must be equal to ${name} limit of ${formatQuantity(allowed)}`,
        );
      else if (asked.nano > allowed.nano && allowed.nano >= 0n)
        requestPlace?.tell(
          `${path}.requests: Invalid value: "${formatQuantity(asked)}": must be less than or equal to ${name} limit of ${formatQuantity(allowed)}`,
        );
    }
    return { requests, limits };
  }

  /** Quantities by resource; those that cannot be read are noted and left out. */
  #list(place: Value | undefined, path: string, names: boolean, ofPod = false): ResourceList {
    const list: ResourceList = {};
    if (place === undefined) return list;
    if (!place.isMap) {
      unmarshal(place, "ResourceRequirements", path, "v1.ResourceList");
      return list;
    }
    for (const { key, at: keyPlace, value } of place.entries()) {
      // Quantity.UnmarshalJSON takes null for 0: not set.
      if (value.scalar()?.kind === "nothing") continue;
      const quantity = readQuantity(value);
      if (quantity === undefined) continue;
      const { text, parsed } = quantity;
      if (names && !isResource(key, ofPod)) {
        const known = ["memory", "cpu", "ephemeral-storage"];
        keyPlace.tell(
          ofPod
            ? `${path}[${key}]: Unsupported value: "${key}": supported values: "cpu", "hugepages-", "memory"`
            : `${path}[${key}]: Invalid value: "${key}": must be a standard resource for containers`,
          didYouMean(keyPlace, key, known),
        );
        continue;
      }
      const pageSize = /^hugepages-(.*)$/.exec(key)?.[1];
      if (pageSize !== undefined && !isSize(pageSize)) {
        keyPlace.tell(`${path}[${key}]: Invalid value: "${key}": ${QUANTITY_TEXTS.shape}`, "such as hugepages-2Mi");
        continue;
      }
      if (parsed.nano < 0n) {
        value.tell(`${path}[${key}]: Invalid value: "${formatQuantity(parsed)}": must be greater than or equal to 0`);
        continue;
      }
      if (key === "memory" && isFractional(parsed))
        this.#warnings.push(
          `${path}[memory]: fractional byte value "${formatQuantity(parsed)}" is invalid, must be an integer`,
        );
      list[key] = text;
    }
    return list;
  }

  #checkPodResources(
    place: Value,
    prefix: string,
    resources: { requests: ResourceList; limits: ResourceList },
    containers: readonly ContainerSpec[],
    initContainers: readonly ContainerSpec[],
  ): void {
    for (const [name, request] of Object.entries(resources.requests)) {
      const all = aggregate(containers, initContainers, "requests", name);
      if (all !== undefined && parseQuantity(request).nano < all.nano)
        (at(at(place, "requests"), name) ?? place).tell(
          `${prefix}spec.resources.requests[${name}]: Invalid value: "${request}": must be greater than or equal to aggregate container requests of ${formatQuantity(all)}`,
        );
    }
    for (const [name, limit] of Object.entries(resources.limits))
      for (const [index, container] of containers.entries()) {
        const own = container.limits[name];
        // The path is the API server's own (pkg/apis/core/validation, validatePodResources).
        if (own !== undefined && parseQuantity(own).nano > parseQuantity(limit).nano)
          (at(at(place, "limits"), name) ?? place).tell(
            `${prefix}spec.resources.containers[${index}][${name}].limits: Invalid value: "${own}": must be less than or equal to pod limits of ${limit}`,
          );
      }
  }

  #volumes(spec: Value, prefix: string): { names: ReadonlySet<string>; memory: PodSpec["volumes"] } {
    const list = at(spec, "volumes");
    const names = new Set<string>();
    const memory: PodSpec["volumes"] = [];
    if (list !== undefined && !list.isList) unmarshal(list, "PodSpec", "spec.volumes", "[]v1.Volume");
    for (const [index, volume] of (list?.items() ?? []).entries()) {
      const path = `${prefix}spec.volumes[${index}]`;
      const namePlace = at(volume, "name");
      const name = namePlace?.scalar()?.text ?? "";
      if (name === "") (namePlace ?? volume).tell(`${path}.name: Required value`);
      else if (!LABEL.test(name))
        namePlace?.tell(`${path}.name: Invalid value: ${JSON.stringify(name)}: ${LABEL_TEXT}`);
      else if (names.has(name)) namePlace?.tell(`${path}.name: Duplicate value: ${JSON.stringify(name)}`);
      names.add(name);
      const emptyDir = at(volume, "emptyDir");
      for (const { key, at: keyPlace } of emptyDir?.entries() ?? [])
        if (key !== "medium" && key !== "sizeLimit")
          unknown(keyPlace, `${path}.emptyDir.${key}`, ["medium", "sizeLimit"]);
      const sizePlace = at(emptyDir, "sizeLimit");
      const size = sizePlace === undefined ? undefined : readQuantity(sizePlace);
      if (size !== undefined && size.parsed.nano < 0n)
        sizePlace?.tell(`${path}.emptyDir.sizeLimit: Forbidden: SizeLimit field must be a valid resource quantity`);
      if (at(emptyDir, "medium")?.scalar()?.text === "Memory") memory.push({ name, sizeLimit: size?.text ?? null });
      else for (const { key } of volume.entries()) if (key !== "name") this.#ignored.add(`spec.volumes[].${key}`);
    }
    return { names, memory };
  }
}

/** The priorities of the classes that every cluster has. */
const CLASSES: Readonly<Record<string, number>> = {
  "system-node-critical": 2_000_001_000,
  "system-cluster-critical": 2_000_000_000,
};

interface Meta {
  name: string;
  namespace: string | undefined;
}

const LABEL = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/;
const LABEL_TEXT =
  "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/;
const SUBDOMAIN_TEXT =
  "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

function metadata(top: Value, meta: Value | undefined): Meta {
  const namePlace = at(meta, "name");
  const name = namePlace?.scalar()?.text ?? "";
  const generated = at(meta, "generateName")?.scalar()?.text ?? "";
  const namespacePlace = at(meta, "namespace");
  const namespace = namespacePlace?.scalar()?.text;
  if (name === "" && generated === "")
    (namePlace ?? meta ?? top).tell("metadata.name: Required value: name or generateName is required");
  else if (name !== "" && (!SUBDOMAIN.test(name) || name.length > 253))
    namePlace?.tell(
      `metadata.name: Invalid value: ${JSON.stringify(name)}: ${name.length > 253 ? "must be no more than 253 bytes" : SUBDOMAIN_TEXT}`,
    );
  if (namespace !== undefined && !LABEL.test(namespace))
    namespacePlace?.tell(`metadata.namespace: Invalid value: ${JSON.stringify(namespace)}: ${LABEL_TEXT}`);
  return { name: name === "" ? generated.replace(/-+$/, "") : name, namespace };
}

/** Which volume a container sees at which path. */
function mountsOf(container: Value, path: string, volumes: ReadonlySet<string>): ContainerSpec["mounts"] {
  return (at(container, "volumeMounts")?.items() ?? []).flatMap((mount, index) => {
    const namePlace = at(mount, "name");
    const name = namePlace?.scalar()?.text ?? "";
    const mountPath = at(mount, "mountPath")?.scalar()?.text ?? "";
    if (name === "") mount.tell(`${path}.volumeMounts[${index}].name: Required value`);
    else if (!volumes.has(name))
      namePlace?.tell(
        `${path}.volumeMounts[${index}].name: Not found: ${JSON.stringify(name)}`,
        didYouMean(namePlace, name, volumes),
      );
    if (mountPath === "") mount.tell(`${path}.volumeMounts[${index}].mountPath: Required value`);
    return [{ volume: name, path: mountPath }];
  });
}

function containerIds(status: Value | undefined): Map<string, string> {
  const ids = new Map<string, string>();
  for (const field of ["initContainerStatuses", "containerStatuses"])
    for (const container of at(status, field)?.items() ?? []) {
      const name = at(container, "name")?.scalar()?.text;
      const id = /^[a-z-]+:\/\/([0-9a-f]{64})$/.exec(at(container, "containerID")?.scalar()?.text ?? "")?.[1];
      if (name !== undefined && id !== undefined) ids.set(name, id);
    }
  return ids;
}

/** A YAML number counts as its text; hexadecimal is what YAML 1.1, and so kubectl, makes of it. */
function readQuantity(place: Value): { text: string; parsed: Quantity } | undefined {
  const scalar = place.scalar();
  if (scalar === undefined || scalar.kind === "boolean" || scalar.kind === "nothing")
    return place.wrong(`quantities must be text or a number; got ${place.found}`, "such as 200Mi");
  const text =
    scalar.kind === "number" && /^[+-]?0x[0-9a-f]+$/i.test(scalar.text) ? String(Number(scalar.text)) : scalar.text;
  try {
    return { text, parsed: parseQuantity(text) };
  } catch (error) {
    return place.wrong((error as Error).message, nearQuantity(text));
  }
}

function isSize(text: string): boolean {
  try {
    return parseQuantity(text).nano > 0n;
  } catch {
    return false;
  }
}

/** The likely meaning of 200MB, 200 MiB, 200mi, 200K. */
function nearQuantity(text: string): string | undefined {
  const match = /^([+-]?[\d.]{1,20})\s*([kmgtpe]?)(i?)b?$/i.exec(text);
  const [, digits = "", letter = "", binary = ""] = match ?? [];
  if (match === null) return undefined;
  const upper = letter.toUpperCase();
  const wanted =
    upper === ""
      ? digits
      : binary === ""
        ? `${digits}${upper}i or ${digits}${upper === "K" ? "k" : upper}`
        : `${digits}${upper}i`;
  return wanted === text ? undefined : `did you mean ${wanted}?`;
}

const isResource = (name: string, ofPod: boolean): boolean =>
  name === "cpu" ||
  name === "memory" ||
  name.startsWith("hugepages-") ||
  (!ofPod && (name === "ephemeral-storage" || name.includes("/")));

/** The sum of what containers and init containers state of one resource (helpers.go AggregateContainerRequests). */
export function aggregate(
  containers: readonly ContainerSpec[],
  initContainers: readonly ContainerSpec[],
  list: "requests" | "limits",
  name: string,
): Quantity | undefined {
  const own = (container: ContainerSpec): Quantity | undefined => {
    const text = container[list][name];
    return text === undefined ? undefined : parseQuantity(text);
  };
  const sum = (a: Quantity | undefined, b: Quantity | undefined): Quantity | undefined =>
    a === undefined || b === undefined ? (a ?? b) : { nano: a.nano + b.nano, format: a.format };
  let all: Quantity | undefined;
  for (const container of containers) all = sum(all, own(container));
  let sidecars: Quantity | undefined;
  let peak: Quantity | undefined;
  for (const container of initContainers) {
    const mine = own(container);
    let candidate: Quantity | undefined;
    if (container.sidecar) {
      all = sum(all, mine);
      sidecars = sum(sidecars, mine);
      candidate = sidecars;
    } else candidate = sum(mine, sidecars);
    if (candidate !== undefined && (peak === undefined || candidate.nano > peak.nano)) peak = candidate;
  }
  return peak !== undefined && (all === undefined || peak.nano > all.nano) ? peak : all;
}

/** Pod-level requests that are not given: what the containers ask for, else the Pod's own limit (defaults.go). */
function defaultPodResources(
  resources: { requests: ResourceList; limits: ResourceList },
  containers: readonly ContainerSpec[],
  initContainers: readonly ContainerSpec[],
): void {
  const names = new Set([...containers, ...initContainers].flatMap(({ requests }) => Object.keys(requests)));
  for (const name of names) {
    const all = isResource(name, true) ? aggregate(containers, initContainers, "requests", name) : undefined;
    if (all !== undefined) resources.requests[name] ??= formatQuantity(all);
  }
  for (const [name, limit] of Object.entries(resources.limits)) resources.requests[name] ??= limit;
}

function unknown(place: Value, path: string, known: Iterable<string>): void {
  place.tell(`strict decoding error: unknown field "${path}"`, didYouMean(place, path.split(".").at(-1) ?? "", known));
}

function unmarshal(place: Value, struct: string, path: string, type: string): undefined {
  const scalar = place.scalar();
  const found = place.isMap
    ? "object"
    : place.isList
      ? "array"
      : scalar?.kind === "boolean"
        ? "bool"
        : scalar?.kind === "number"
          ? /^int\d+$/.test(type)
            ? `number ${scalar.text}`
            : "number"
          : "string";
  return place.tell(`json: cannot unmarshal ${found} into Go struct field ${struct}.${path} of type ${type}`);
}

/** No Pods: what was wrong has been noted. */
const none = (_noted: undefined): [] => [];

/** 32 bits of FNV-1a. */
function hash32(text: string, seed: number): number {
  let hash = seed >>> 0;
  for (let index = 0; index < text.length; index++) hash = Math.imul(hash ^ text.charCodeAt(index), 0x01000193);
  // Murmur3's last mix: similar names get far apart.
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}

/** As many hexadecimal digits as wanted, the same for the same text: names where a cluster would have drawn some. */
export function hexOf(text: string, digits: number): string {
  let hex = "";
  for (let part = 0; hex.length < digits; part++)
    hex += hash32(text, 0x811c9dc5 + Math.imul(part, 0x9e3779b1))
      .toString(16)
      .padStart(8, "0");
  return hex.slice(0, digits);
}

const directoryName = /^[A-Za-z0-9][A-Za-z0-9_-]{0,127}$/;

function uuidOf(text: string): string {
  const hex = hexOf(text, 32);
  // RFC 9562: version 8 is for everyone's own making.
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-8${hex.slice(13, 16)}-a${hex.slice(17, 20)}-${hex.slice(20)}`;
}
