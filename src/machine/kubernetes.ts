/** A node of the user's cluster, through kubectl: a privileged Pod on it runs the agent. */
import { setTimeout as sleep } from "node:timers/promises";
import { MachineError } from "../errors.ts";
import { which } from "./packages.ts";
import {
  ask,
  asMachineError,
  type Cleaned,
  type Command,
  isAbandoned,
  lastLine,
  type RemoteMachine,
  remoteMachine,
  self,
  words,
} from "./remote.ts";

/** How long a Pod may take to run: its image may have to be pulled. */
const startMs = 300_000;
const pollMs = 500;
/** Where nobody deletes it, it ends by itself. */
const lifeSeconds = 24 * 3600;

const label = "app.kubernetes.io/managed-by";
const labelled = `${label}=oomlab`;
const annotation = "oomlab.org/owner";
const container = "agent";

/** What of a Pod is looked at (k8s.io/api/core/v1 types.go). */
interface Pod {
  metadata?: { name?: string; annotations?: Record<string, string> };
  status?: {
    phase?: string;
    reason?: string;
    message?: string;
    containerStatuses?: {
      state?: {
        waiting?: Told;
        terminated?: Told & { exitCode?: number };
      };
    }[];
  };
}
interface Told {
  reason?: string;
  message?: string;
}
interface List<T> {
  items?: T[];
}
interface Node {
  metadata?: { name?: string };
}

const kubectl = (): Command => {
  const [program, ...args] = words(process.env["OOMLAB_KUBECTL"]);
  return [program ?? "kubectl", ...args];
};
const imageName = (): string => process.env["OOMLAB_IMAGE"] || "oomlab";

/** Waiting for these is in vain (pkg/kubelet/images and kuberuntime, their errors' names). */
const hopeless = new Set([
  "ErrImagePull",
  "ImagePullBackOff",
  "ErrImageNeverPull",
  "InvalidImageName",
  "CreateContainerConfigError",
  "CreateContainerError",
  "RunContainerError",
]);

export interface KubernetesOptions {
  /** The name of the node; null: the cluster's only one. */
  node: string | null;
  /** Tells what went wrong and stays. */
  warn: (message: string) => void;
  /** Tells what somebody wants to know who looks closely. */
  detail: (message: string) => void;
  /** A Pod that does not come up is waited for no longer. */
  signal: AbortSignal;
}

export function kubernetesMachine({ node, warn, detail, signal }: KubernetesOptions): RemoteMachine {
  const remove = async (name: string): Promise<void> => {
    const problem = await deletePod(name);
    if (problem !== null) warn(`the pod ${name} could not be deleted (\`oomlab clean\` does): ${problem}`);
  };
  let found: Promise<string> | null = null;
  return remoteMachine("kubernetes", "Pod", async (first) => {
    const on = await (found ??= findNode(node));
    if (first) {
      const { removed } = await cleanPods();
      for (const name of removed) detail(`deleted ${name}, whose oomlab is gone`);
    }
    const name = `oomlab-${Math.random().toString(36).slice(2).padEnd(8, "0").slice(0, 8)}`;
    const created = await ask(kubectl(), ["create", "--validate=false", "-f", "-"], JSON.stringify(podOf(name, on)));
    if (!created.ok)
      throw new MachineError("KUBERNETES_POD", `the Pod cannot be created: ${lastLine(created.stderr)}`, {
        hint: "it is privileged and in the host's pid namespace: the namespace must allow that (Pod Security level privileged)",
      });
    detail(`created pod ${name} on node ${on}`);
    try {
      await running(name, signal);
    } catch (error) {
      await remove(name);
      throw error;
    }
    return {
      command: [...kubectl(), "attach", name, `--container=${container}`, "--stdin"],
      startHint: () => null,
      fate: async () => fateOf(await podNamed(name)),
      remove: () => remove(name),
    };
  });
}

/**
 * The node's pid namespace and cgroups, so that pids and paths are the kernel log's. Its standard input ends with the
 * first client that lets go of it, and the agent with its input: nothing goes on where nobody listens.
 */
const podOf = (name: string, node: string): object => ({
  apiVersion: "v1",
  kind: "Pod",
  metadata: { name, labels: { [label]: "oomlab" }, annotations: { [annotation]: self() } },
  spec: {
    nodeName: node,
    hostPID: true,
    restartPolicy: "Never",
    activeDeadlineSeconds: lifeSeconds,
    automountServiceAccountToken: false,
    enableServiceLinks: false,
    tolerations: [{ operator: "Exists" }],
    containers: [
      {
        name: container,
        image: imageName(),
        imagePullPolicy: "IfNotPresent",
        args: ["agent", "-"],
        stdin: true,
        stdinOnce: true,
        securityContext: { privileged: true },
        volumeMounts: [{ name: "cgroup", mountPath: "/sys/fs/cgroup" }],
      },
    ],
    volumes: [{ name: "cgroup", hostPath: { path: "/sys/fs/cgroup", type: "Directory" } }],
  },
});

/** The node's name. Throws MachineError where there is no cluster, or no such node, or none of several was named. */
async function findNode(wanted: string | null): Promise<string> {
  const [program] = kubectl();
  if (which(program) === undefined)
    throw new MachineError("NO_KUBECTL", `${program} is not installed`, {
      hint: "install kubectl, or name it in OOMLAB_KUBECTL (docs/kubernetes.md)",
    });
  const { ok, stdout, stderr } = await ask(kubectl(), ["get", "nodes", "--output=json", "--request-timeout=15s"]);
  if (!ok)
    throw new MachineError("NO_CLUSTER", `no cluster answers: ${lastLine(stderr)}`, {
      hint: "kubectl must reach it and may list nodes: KUBECONFIG, or OOMLAB_KUBECTL='kubectl --context NAME'",
    });
  const names = ((parse(stdout) as List<Node> | null)?.items ?? []).flatMap(({ metadata }) => metadata?.name ?? []);
  if (wanted === null && names.length === 1) return names[0] ?? "";
  const list = names.slice(0, 10).join(", ") + (names.length > 10 ? ", ..." : "");
  if (wanted === null)
    throw new MachineError("NO_NODE", `the cluster has ${names.length} nodes`, {
      hint: names.length === 0 ? "it needs one" : `name the one with --node: ${list}`,
    });
  if (!names.includes(wanted))
    throw new MachineError("NO_NODE", `the cluster has no node ${wanted}`, { hint: `there are: ${list}` });
  return wanted;
}

async function running(name: string, signal: AbortSignal): Promise<void> {
  const deadline = performance.now() + startMs;
  for (;;) {
    const pod = await podNamed(name);
    const phase = pod?.status?.phase;
    if (phase === "Running") return;
    const waiting = pod?.status?.containerStatuses?.[0]?.state?.waiting;
    const fate = fateOf(pod) ?? (hopeless.has(waiting?.reason ?? "") ? tell(waiting) : null);
    if (pod === null || fate !== null || performance.now() > deadline) {
      const why = pod === null ? "it is gone" : (fate ?? (tell(waiting) || `it is ${phase ?? "unknown"}`));
      throw new MachineError("KUBERNETES_START", `the Pod does not run: ${why}`, {
        hint: `the image is ${imageName()}: the node must have it, or get it from a registry (OOMLAB_IMAGE)`,
      });
    }
    if (signal.aborted) throw new MachineError("KUBERNETES_START", "interrupted before the Pod ran");
    await sleep(pollMs, undefined, { signal }).catch(() => undefined);
  }
}

const tell = (told: Told | undefined): string => [told?.reason, told?.message].filter(Boolean).join(": ");

async function podNamed(name: string): Promise<Pod | null> {
  const { ok, stdout, stderr } = await ask(kubectl(), ["get", "pod", name, "--output=json", "--request-timeout=15s"]);
  if (ok) return parse(stdout) as Pod | null;
  if (/NotFound/.test(stderr)) return null;
  throw new MachineError("KUBERNETES_LOST", `the cluster does not answer: ${lastLine(stderr)}`);
}

/** How a Pod ended, in the kubelet's words, or null while it has not. */
function fateOf(pod: Pod | null): string | null {
  if (pod === null) return "the Pod is gone";
  const { phase, reason, message, containerStatuses } = pod.status ?? {};
  if (phase !== "Failed" && phase !== "Succeeded") return null;
  const terminated = containerStatuses?.[0]?.state?.terminated;
  const status = terminated?.exitCode === undefined ? "" : `exit code ${terminated.exitCode}`;
  return [tell({ reason, message } as Told), tell(terminated), status].filter(Boolean).join(", ") || phase;
}

/** Resolves when it is gone, or to the reason why it is not. */
async function deletePod(name: string): Promise<string | null> {
  const args = ["delete", "pod", name, "--ignore-not-found", "--grace-period=10", "--wait=true", "--timeout=18s"];
  const { ok, stderr } = await ask(kubectl(), args);
  return ok ? null : lastLine(stderr);
}

/** Deletes Pods of the current namespace whose oomlab is gone. Asks nobody where no cluster is configured. */
export async function cleanPods(): Promise<Cleaned> {
  const result: Cleaned = { removed: [], inUse: [], left: [] };
  const [program] = kubectl();
  if (which(program) === undefined || !(await ask(kubectl(), ["config", "current-context"])).ok) return result;
  const selected = ["get", "pods", `--selector=${labelled}`, "--output=json", "--request-timeout=5s"];
  const { ok, stdout } = await ask(kubectl(), selected);
  if (!ok) return result;
  for (const { metadata } of (parse(stdout) as List<Pod> | null)?.items ?? []) {
    const { name, annotations } = metadata ?? {};
    if (name === undefined) continue;
    const path = `pod ${name}`;
    if (!isAbandoned(annotations?.[annotation] ?? "")) {
      result.inUse.push(path);
      continue;
    }
    const gone = await ask(kubectl(), ["delete", "pod", name, "--ignore-not-found", "--wait=false"]);
    if (gone.ok) result.removed.push(path);
    else result.left.push({ path, reason: lastLine(gone.stderr) });
  }
  return result;
}

/** What machine `kubernetes` finds here, for people. */
export async function kubernetesFindings(): Promise<{ ok: boolean; detail: string; hint: string | null }> {
  try {
    return { ok: true, detail: `kubectl reaches a cluster, with the node ${await findNode(null)}`, hint: null };
  } catch (error) {
    const { code, message, hint } = asMachineError(error);
    return { ok: code === "NO_NODE" && !/ 0 nodes/.test(message), detail: message, hint: hint ?? null };
  }
}

/** What kubectl wrote, as JSON; null where it is none. */
function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
