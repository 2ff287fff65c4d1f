/** The real kubectl against a small API server: no cluster is at hand. A container is a process of this machine. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeEach, describe, expect, test } from "vitest";
import { which } from "../../src/machine/packages.ts";
import { bin, canRun, eventually, leftovers, oomlab, processesWith, start } from "../helpers/cli.ts";
import { type Cluster, type ClusterOptions, fakeCluster } from "../helpers/cluster.ts";
import { needs } from "../helpers/needs.ts";

const folder = mkdtempSync(join(tmpdir(), "oomlab-test-kubernetes-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function scenario(name: string, expected: string): string {
  const path = join(folder, `${name}.yaml`);
  writeFileSync(path, `name: ${name}\n${expected}`);
  return path;
}

const over = scenario(
  "over",
  `cgroups: { box: { memory.max: 32Mi, memory.swap.max: 0 } }
processes: { hog: { cgroup: box, stress: { anon: 64Mi } } }
expect: { oom: memcg, limit: box, victims: [hog] }
`,
);
const held = scenario(
  "held",
  `cgroups: { box: { memory.max: 64Mi } }
processes: { holder: { cgroup: box, stress: { anon: 12349440, hold: 90s } } }
expect: { oom: none }
`,
);
const holds = (): boolean => processesWith("12349440").length > 0;

interface Told {
  name: string;
  status: string;
  reason: string | null;
  machine: string;
  observed: { kills: { process: string; witnesses: string[] }[] } | null;
}
const scenariosOf = (stdout: string): Told[] => (JSON.parse(stdout) as { scenarios: Told[] }).scenarios;

describe("--machine kubernetes", needs({ ...canRun, kubectl: which("kubectl") !== undefined }), () => {
  let cluster: Cluster;
  let env: Record<string, string>;
  const agent: ClusterOptions["run"] = () => [process.execPath, bin, "agent", "-"];
  const has = async (nodes: string[], run = agent): Promise<void> => {
    await cluster?.close();
    cluster = await fakeCluster({ nodes, run });
    const kubeconfig = join(folder, "kubeconfig");
    const named = (name: string, value: object): object => ({ name, ...value });
    writeFileSync(
      kubeconfig,
      JSON.stringify({
        apiVersion: "v1",
        kind: "Config",
        "current-context": "test",
        contexts: [named("test", { context: { cluster: "test", user: "test" } })],
        clusters: [named("test", { cluster: { server: cluster.url } })],
        users: [named("test", { user: {} })],
      }),
    );
    env = {
      OOMLAB_KUBECTL: `kubectl --cache-dir=${join(folder, "cache")}`,
      OOMLAB_IMAGE: "example.org/oomlab",
      KUBECONFIG: kubeconfig,
    };
  };
  const run = (...args: string[]): ReturnType<typeof oomlab> =>
    oomlab(["run", "--machine", "kubernetes", "--reporter", "json", ...args], { env });

  beforeEach(() => has(["worker-1"]));
  afterEach(() => cluster.close());

  test("runs scenarios in one privileged Pod on the node, and deletes it", async () => {
    const { stdout, stderr, exitCode } = await run(over, over);
    expect({ stderr, exitCode }).toEqual({ stderr: "", exitCode: 0 });
    const kill = { process: "hog", witnesses: expect.arrayContaining(["kmsg", "counters", "exit"]) };
    const passed = { name: "over", status: "passed", machine: "kubernetes", observed: { kills: [kill] } };
    expect(scenariosOf(stdout)).toMatchObject([passed]);
    expect(cluster.created).toMatchObject([
      {
        metadata: { labels: { "app.kubernetes.io/managed-by": "oomlab" } },
        spec: {
          nodeName: "worker-1",
          hostPID: true,
          restartPolicy: "Never",
          automountServiceAccountToken: false,
          containers: [{ image: "example.org/oomlab", args: ["agent", "-"], securityContext: { privileged: true } }],
        },
      },
    ]);
    expect(cluster.deleted).toEqual(cluster.created.map(({ metadata }) => metadata.name));
    expect(leftovers()).toEqual([]);
  });

  test("runs what could drain the node only where that is allowed", async () => {
    const free = scenario("free", "processes: { one: { stress: { anon: 8Mi } } }\nexpect: { oom: none }\n");
    const { stdout, exitCode } = await run(free);
    expect(scenariosOf(stdout)).toMatchObject([
      {
        status: "skipped",
        reason: expect.stringMatching(/no memory limit above it \(--allow-node-oom runs it there all the same\)$/),
      },
    ]);
    expect(exitCode).toBe(3);
    expect((await run(free, "--allow-host-oom")).exitCode).toBe(3);
    const allowed = await run(free, "--allow-node-oom");
    expect(scenariosOf(allowed.stdout)).toMatchObject([{ status: "passed", machine: "kubernetes" }]);
  });

  test("asks for the node where there are several", async () => {
    await has(["worker-1", "worker-2"]);
    const open = await run(over);
    expect(scenariosOf(open.stdout)[0]?.reason).toBe(
      "the cluster has 2 nodes: name the one with --node: worker-1, worker-2",
    );
    const wrong = await run(over, "--node", "worker-3");
    expect(scenariosOf(wrong.stdout)[0]?.reason).toBe(
      "the cluster has no node worker-3: there are: worker-1, worker-2",
    );
    expect(cluster.created).toEqual([]);
    const named = await run(over, "--node", "worker-2");
    expect(named.exitCode).toBe(0);
    expect(cluster.created).toMatchObject([{ spec: { nodeName: "worker-2" } }]);
  });

  test("says why a Pod does not run, and deletes it", async () => {
    await has(["worker-1"], () => null);
    const { stdout, exitCode } = await run(over);
    expect(scenariosOf(stdout)[0]?.reason).toBe(
      "the Pod does not run: ErrImagePull: pull access denied for example.org/oomlab: the image is example.org/oomlab: the node must have it, or get it from a registry (OOMLAB_IMAGE)",
    );
    expect(exitCode).toBe(3);
    expect([...cluster.pods.keys()]).toEqual([]);
  });

  test.each([
    [
      "an agent of another version",
      ["sh", "-c", `echo '{"type":"hello","protocol":1}'; exec sleep 60`],
      /another version/,
    ],
    ["another program", ["sh", "-c", "exit 4"], /^the Pod does not run: exit code 4/],
  ] as const)("does not take %s for its own", async (_, command, reason) => {
    await has(["worker-1"], () => command);
    const { stdout } = await run(over);
    expect(scenariosOf(stdout)[0]?.reason).toMatch(reason);
    expect([...cluster.pods.keys()]).toEqual([]);
  });

  test("a Pod that ends in the middle of a run is told, with the cluster's words", async () => {
    const ended = run(held);
    await eventually(holds, "the worker", 30_000);
    // What a kubelet does that evicts it.
    cluster.evict("The node was low on resource: memory.");
    const { stdout, exitCode } = await ended;
    expect(scenariosOf(stdout)).toMatchObject([
      {
        status: "errored",
        reason: expect.stringMatching(/^the Pod ended in the middle of the run: Evicted: The node/),
      },
    ]);
    expect(exitCode).toBe(3);
    await eventually(() => !holds() && leftovers().length === 0, "the end of the run", 30_000);
  });

  test("leaves nothing after Ctrl-C", async () => {
    const running = start(["run", "--machine", "kubernetes", held], { env });
    await eventually(holds, "the worker", 30_000);
    running.kill("SIGINT");
    expect((await running.ended).exitCode).toBe(130);
    expect([...cluster.pods.keys()]).toEqual([]);
    expect({ left: leftovers(), holds: holds() }).toEqual({ left: [], holds: false });
  });

  test("after kill -9 nothing goes on, and clean deletes the Pod", async () => {
    const running = start(["run", "--machine", "kubernetes", held], { env });
    await eventually(holds, "the worker", 30_000);
    running.kill("SIGKILL");
    await running.ended;
    await eventually(() => !holds() && leftovers().length === 0, "the end of the run", 30_000);
    const [name] = cluster.pods.keys();
    const { stdout, exitCode } = await oomlab(["clean"], { env });
    expect(stdout).toContain(`removed pod ${name}`);
    expect(exitCode).toBe(0);
    expect(cluster.deleted).toEqual([name]);
  });

  test("clean leaves the Pod of a living oomlab", async () => {
    const running = start(["run", "--machine", "kubernetes", held], { env });
    await eventually(holds, "the worker", 30_000);
    const [name] = cluster.pods.keys();
    expect((await oomlab(["clean"], { env })).stdout).toContain(`left pod ${name}: its oomlab is still running`);
    running.kill("SIGINT");
    await running.ended;
  });

  test("doctor tells", async () => {
    expect((await oomlab(["doctor"], { env })).stdout).toMatch(
      /^✓ machine kubernetes: kubectl reaches a cluster, with the node worker-1$/m,
    );
  });

  test("without a cluster it is skipped with what to do", async () => {
    const nowhere = { ...env, OOMLAB_KUBECTL: `${env["OOMLAB_KUBECTL"]} --server=http://127.0.0.1:9` };
    const { stdout, exitCode } = await oomlab(["run", "--machine", "kubernetes", over], { env: nowhere });
    expect(stdout).toMatch(/skipped: no cluster answers: .*: kubectl must reach it/);
    expect(exitCode).toBe(3);
  });
});

test("without kubectl it is skipped with what to install, and --dry-run asks nobody", async () => {
  const env = { OOMLAB_KUBECTL: "no-such-kubectl" };
  const { stdout, exitCode } = await oomlab(["run", "--machine", "kubernetes", over], { env });
  expect(stdout).toMatch(/skipped: no-such-kubectl is not installed: install kubectl/);
  expect(exitCode).toBe(3);
  const dry = await oomlab(["run", "--machine", "kubernetes", "--dry-run", "--reporter", "json", over], { env });
  expect(scenariosOf(dry.stdout)).toMatchObject([{ name: "over", machine: "kubernetes" }]);
});
