/** Manifests: kinds, documents, defaults, and the API server's words where one is wrong. */
import { describe, expect, test } from "vitest";
import { loadScenarios, parseScenarios, type Scenario, ScenarioErrors } from "../../src/scenario/index.ts";

const pod = (spec: string, name = "web"): string => `apiVersion: v1
kind: Pod
metadata: { name: ${name} }
spec:
${spec
  .split("\n")
  .map((line) => `  ${line}`)
  .join("\n")}
`;
const container = (resources: string): string => pod(`containers: [ { name: a, resources: ${resources} } ]`);

function only(text: string): Scenario {
  const scenarios = parseScenarios(text, "pod.yaml");
  expect(scenarios).toHaveLength(1);
  return scenarios[0]!;
}

/** Each problem's first line. */
function problems(text: string): string[] {
  try {
    parseScenarios(text, "pod.yaml");
    return [];
  } catch (error) {
    if (!(error instanceof ScenarioErrors)) throw error;
    return error.errors.map(({ message }) => message.split("\n", 1)[0]!);
  }
}

const podsOf = (scenario: Scenario) => scenario.kubernetes?.pods ?? [];
const small = "{ name: a, resources: { limits: { memory: 1Mi } } }";

describe("a manifest is a scenario", () => {
  test("named as its Pod, with each container pressed in turn and nothing expected", () => {
    const scenario = only(pod(`initContainers: [ { name: i } ]\ncontainers: [ { name: a }, { name: b } ]`));
    expect(scenario).toMatchObject({ name: "web", line: 1, cgroups: [], processes: [] });
    expect(scenario.kubernetes).toMatchObject({ turns: ["web/i", "web/a", "web/b"], turn: null, pressure: [] });
    expect(scenario.expect).toMatchObject({ oom: null, victims: null });
  });

  test.each([
    ["Deployment", "apps/v1", "spec: { replicas: 3, template: { spec: { containers: [ { name: a } ] } } }"],
    ["ReplicaSet", "apps/v1", "spec: { template: { spec: { containers: [ { name: a } ] } } }"],
    ["StatefulSet", "apps/v1", "spec: { template: { spec: { containers: [ { name: a } ] } } }"],
    ["DaemonSet", "apps/v1", "spec: { template: { spec: { containers: [ { name: a } ] } } }"],
    ["Job", "batch/v1", "spec: { template: { spec: { containers: [ { name: a } ] } } }"],
    ["CronJob", "batch/v1", "spec: { jobTemplate: { spec: { template: { spec: { containers: [ { name: a } ] } } } } }"],
  ])("the template of a %s is a Pod of its name", (kind, apiVersion, spec) => {
    const scenario = only(`{ apiVersion: ${apiVersion}, kind: ${kind}, metadata: { name: x }, ${spec} }`);
    expect(podsOf(scenario).map(({ name, containers }) => [name, containers.map((one) => one.name)])).toEqual([
      ["x", ["a"]],
    ]);
  });

  test("documents and the items of a List share one node; other kinds are ignored, once", () => {
    const scenario = only(
      [
        pod(`containers: [ ${small} ]`, "one"),
        `{ apiVersion: v1, kind: Service, metadata: { name: s }, spec: { ports: [] } }`,
        `{ apiVersion: v1, kind: List, items: [ { apiVersion: v1, kind: Pod, metadata: { name: two, namespace: prod, labels: { a: b } }, spec: { nodeName: n, containers: [ { name: a, image: x }, { name: b, image: x } ] } } ] }`,
      ].join("\n---\n"),
    );
    expect(scenario.name).toBe("pod");
    expect(podsOf(scenario).map(({ name }) => name)).toEqual(["one", "prod/two"]);
    expect(scenario.kubernetes?.ignored).toEqual([
      "Service s",
      "metadata.labels",
      "spec.nodeName",
      "spec.containers[].image",
    ]);
  });

  test("a KubeletConfiguration beside it is the node's", () => {
    const scenario = only(
      `apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\ncgroupDriver: systemd\nmaxPods: 5\n---\n${container("{}")}`,
    );
    expect(scenario.kubernetes?.node.kubelet).toMatchObject({ cgroupDriver: "systemd", ignored: ["maxPods"] });
  });

  test("one without any Pod is no error of its own, but there must be something to run", async () => {
    expect(parseScenarios("{ apiVersion: v1, kind: Service, metadata: { name: s } }", "s.yaml")).toEqual([]);
    await expect(
      loadScenarios(["-"], { stdin: "{ apiVersion: v1, kind: Service, metadata: { name: s } }" }),
    ).rejects.toThrow("no Pod and no scenario in -");
  });

  test("a running Pod's uid, QoS class and container ids are taken from it", () => {
    const id = "ab".repeat(32);
    const [read] = podsOf(
      only(
        `{ apiVersion: v1, kind: Pod, metadata: { name: x, uid: 11111111-2222-3333-4444-555555555555 }, spec: { containers: [ { name: a } ] }, status: { qosClass: Burstable, containerStatuses: [ { name: a, containerID: "containerd://${id}" } ] } }`,
      ),
    );
    expect(read).toMatchObject({
      uid: "11111111-2222-3333-4444-555555555555",
      qosClass: "Burstable",
      containers: [{ id }],
    });
  });

  test("a static Pod's cgroup is named by its hash", () => {
    const hash = "0123456789abcdef0123456789abcdef";
    const [read] = podsOf(
      only(
        `{ apiVersion: v1, kind: Pod, metadata: { name: x, uid: u, annotations: { kubernetes.io/config.source: file, kubernetes.io/config.hash: ${hash} } }, spec: { containers: [ { name: a } ] } }`,
      ),
    );
    expect(read).toMatchObject({ uid: hash, static: true });
  });

  test("a limit without a request is the request, by name", () => {
    const [read] = podsOf(only(container("{ limits: { memory: 200Mi, cpu: 1 }, requests: { cpu: 500m } }")));
    expect(read?.containers[0]).toMatchObject({ requests: { memory: "200Mi", cpu: "500m" } });
  });

  test("numbers count as their text, hexadecimal ones as kubectl reads them", () => {
    const [read] = podsOf(
      only(
        pod(
          "containers: [ { name: a, resources: { limits: { memory: 1e3 } } }, { name: b, resources: { limits: { memory: 0x10 } } } ]",
        ),
      ),
    );
    expect(read?.containers.map(({ limits }) => limits["memory"])).toEqual(["1e3", "16"]);
  });

  test("Pod-level requests that are not given follow the containers', else the Pod's limit", () => {
    const [read] = podsOf(
      only(
        pod(
          "resources: { limits: { memory: 1Gi, cpu: 1 } }\ncontainers: [ { name: a, resources: { requests: { memory: 64Mi } } }, { name: b, resources: { requests: { memory: 32Mi } } } ]",
        ),
      ),
    );
    expect(read?.resources?.requests).toEqual({ memory: "96Mi", cpu: "1" });
  });

  test("fractional bytes are a warning", () => {
    expect(only(container("{ requests: { memory: 100m } }")).kubernetes?.warnings).toEqual([
      'spec.containers[0].resources.requests[memory]: fractional byte value "100m" is invalid, must be an integer',
    ]);
  });

  test("names are the same for the same Pod, and differ between Pods", () => {
    const uidOf = (name: string): string | undefined => podsOf(only(pod("containers: [ { name: a } ]", name)))[0]?.uid;
    expect(uidOf("x")).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-a[0-9a-f]{3}-[0-9a-f]{12}$/);
    expect(uidOf("x")).toBe(uidOf("x"));
    expect(uidOf("x")).not.toBe(uidOf("y"));
  });
});

describe("a wrong manifest is told in the API server's words, at its place", () => {
  test.each([
    [
      container("{ limits: { memory: -1Mi } }"),
      'pod.yaml:5:59: spec.containers[0].resources.limits[memory]: Invalid value: "-1Mi": must be greater than or equal to 0',
    ],
    [
      container("{ requests: { memory: 2Gi }, limits: { memory: 1Gi } }"),
      'pod.yaml:5:61: spec.containers[0].resources.requests: Invalid value: "2Gi": must be less than or equal to memory limit of 1Gi',
    ],
    [
      container("{ limits: { memory: 1GB } }"),
      "pod.yaml:5:59 spec.containers[0].resources.limits.memory: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
    ],
    [
      container("{ limits: { memory: 1K } }"),
      "pod.yaml:5:59 spec.containers[0].resources.limits.memory: unable to parse quantity's suffix",
    ],
    [
      container('{ limits: { memory: "" } }'),
      "pod.yaml:5:59 spec.containers[0].resources.limits.memory: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
    ],
    [
      container("{ limits: { mem: 1Mi } }"),
      'pod.yaml:5:51: spec.containers[0].resources.limits[mem]: Invalid value: "mem": must be a standard resource for containers',
    ],
    [
      container("{ limits: { hugepages-2Mi: 4Mi }, requests: { hugepages-2Mi: 2Mi } }"),
      'pod.yaml:5:100: spec.containers[0].resources.requests: Invalid value: "2Mi": must be equal to hugepages-2Mi limit of 4Mi',
    ],
    [pod("containers: []"), "pod.yaml:5:15: spec.containers: Required value"],
    [pod("containers: [ { image: x } ]"), "pod.yaml:5:17: spec.containers[0].name: Required value"],
    [
      pod("initContainers: [ { name: a } ]\ncontainers: [ { name: a } ]"),
      'pod.yaml:6:25: spec.containers[0].name: Duplicate value: "a"',
    ],
    [
      pod("containers: [ { name: a, resource: {} } ]"),
      'pod.yaml:5:28: strict decoding error: unknown field "spec.containers[0].resource"',
    ],
    [
      pod("containers: { name: a }"),
      "pod.yaml:5:15: json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container",
    ],
    [
      pod("restartPolicy: always\ncontainers: [ { name: a } ]"),
      'pod.yaml:5:18: spec.restartPolicy: Unsupported value: "always": supported values: "Always", "OnFailure", "Never"',
    ],
    [
      pod(
        "containers: [ { name: a, volumeMounts: [ { name: cach, mountPath: /c } ] } ]\nvolumes: [ { name: cache, emptyDir: {} } ]",
      ),
      'pod.yaml:5:52: spec.containers[0].volumeMounts[0].name: Not found: "cach"',
    ],
    [
      pod(
        "resources: { requests: { memory: 1Mi } }\ncontainers: [ { name: a, resources: { requests: { memory: 2Mi } } } ]",
      ),
      'pod.yaml:5:36: spec.resources.requests[memory]: Invalid value: "1Mi": must be greater than or equal to aggregate container requests of 2Mi',
    ],
    ["kind: Pod\nspec: {}\n", "pod.yaml:1:1: Object 'apiVersion' is missing"],
    [
      "apiVersion: v1\nkind: Deployment\nmetadata: { name: x }\n",
      'pod.yaml:1:13: no matches for kind "Deployment" in version "v1"',
    ],
    ["apiVersion: v1\nkind: pod\nmetadata: { name: x }\n", 'pod.yaml:2:7: no matches for kind "pod" in version "v1"'],
    [
      "apiVersion: v1\nkind: Pod\nspec: { containers: [ { name: a } ] }\n",
      "pod.yaml:1:1: metadata.name: Required value: name or generateName is required",
    ],
  ])("%#: %s", (text, message) => {
    expect(problems(text)).toEqual([message]);
  });

  test("names outside RFC 1123", () => {
    expect(problems(pod("containers: [ { name: A_b } ]", "Web"))).toEqual([
      expect.stringMatching(
        /^pod\.yaml:3:19: metadata\.name: Invalid value: "Web": a lowercase RFC 1123 subdomain must consist of/,
      ),
      expect.stringMatching(
        /^pod\.yaml:5:25: spec\.containers\[0\]\.name: Invalid value: "A_b": a lowercase RFC 1123 label must consist of/,
      ),
    ]);
  });

  test("all of them at once, in the order of the file, two Pods of one name too", () => {
    const text = `${container("{ limits: { memory: 1K } }")}---\n${pod("containers: [ { name: a, resources: { limits: { memory: 1g } } } ]")}`;
    expect(problems(text).map((line) => line.split(" ", 1)[0])).toEqual([
      "pod.yaml:5:59",
      "pod.yaml:9:19:",
      "pod.yaml:11:59",
    ]);
  });
});

describe("names that would be said of two things", () => {
  test("a Pod of a namespace and a container of another Pod", () => {
    const inNamespace = pod(`containers: [ ${small} ]`).replace("{ name: web }", "{ name: a, namespace: web }");
    const [problem, ...others] = problems(`${inNamespace}---\n${pod(`containers: [ ${small} ]`)}`);
    expect(problem).toBe('pod.yaml:1:1: "web/a" is a Pod (web\'s a) and a container (of Pod web, a)');
    expect(others).toEqual([]);
  });

  test("a cgroup of the scenario and a Pod, or a cgroup of the kubelet's", () => {
    const manifest = `{apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {containers: [ ${small} ]}}`;
    expect(problems(`cgroups: { web: {}, kubepods.slice: {} }\npods:\n  - manifest: ${manifest}\n`)).toEqual([
      'pod.yaml:1:12 cgroups.web: a cgroup and a Pod are both named "web"',
      'pod.yaml:1:21 cgroups.kubepods.slice: "kubepods.slice" is a cgroup that the kubelet makes',
    ]);
  });

  test("one container under both of its names in pressure", () => {
    const manifest = `{apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {containers: [ ${small} ]}}`;
    const pressure = "{ a: { stress: { anon: 1Mi } }, web/a: { stress: { anon: 1Mi } } }";
    expect(problems(`pods:\n  - manifest: ${manifest}\n    pressure: ${pressure}\n`)).toEqual([
      expect.stringContaining('pods[0].pressure.web/a: "web/a" and "a" are the same container'),
    ]);
  });
});

describe("numbers and limits beyond what is allowed", () => {
  test("a priority beyond int32", () => {
    expect(problems(pod("priority: 99999999999\ncontainers: [ { name: a } ]"))).toEqual([
      "pod.yaml:5:13: json: cannot unmarshal number 99999999999 into Go struct field PodSpec.spec.priority of type int32",
    ]);
  });

  test("a container's limit over its Pod's", () => {
    const spec =
      "resources: { limits: { memory: 20Mi } }\ncontainers: [ { name: a, resources: { limits: { memory: 50Mi } } } ]";
    expect(problems(pod(spec))).toEqual([
      'pod.yaml:5:34: spec.resources.containers[0][memory].limits: Invalid value: "50Mi": must be less than or equal to pod limits of 20Mi',
    ]);
  });
});
