/**
 * What kubectl asks of a cluster, for Pods that are processes of this machine: no API server and no kubelet run here.
 * The API's paths and answers as kubectl's own requests want them; attach over SPDY (client-go remotecommand/v4.go).
 */
import { type ChildProcessByStdio, spawn } from "node:child_process";
import { createServer, type IncomingMessage, type Server } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import type { Duplex, Readable, Writable } from "node:stream";
import { serveSpdy } from "./spdy.ts";

export interface ClusterPod {
  metadata: { name: string; annotations?: Record<string, string>; labels?: Record<string, string> };
  spec: { nodeName?: string; containers: { name: string; image: string; args?: string[] }[] };
  status?: object;
}

export interface Cluster {
  url: string;
  /** Pods that the API knows now. */
  pods: Map<string, ClusterPod>;
  /** All that were ever created, and what was deleted. */
  created: ClusterPod[];
  deleted: string[];
  /** Ends all Pods as a kubelet does that is short of memory. */
  evict(message: string): void;
  close(): Promise<void>;
}

export interface ClusterOptions {
  nodes: string[];
  /** The command that stands for a container; null: its image cannot be had. */
  run: (pod: ClusterPod) => readonly [string, ...string[]] | null;
}

type Agent = ChildProcessByStdio<Writable, Readable, Readable>;

export async function fakeCluster({ nodes, run }: ClusterOptions): Promise<Cluster> {
  const pods = new Map<string, ClusterPod>();
  const agents = new Map<string, Agent>();
  const evicted = new Set<Agent>();
  const created: ClusterPod[] = [];
  const deleted: string[] = [];

  const start = (pod: ClusterPod): void => {
    const command = run(pod);
    if (command === null) {
      const waiting = { reason: "ErrImagePull", message: `pull access denied for ${pod.spec.containers[0]?.image}` };
      pod.status = { phase: "Pending", containerStatuses: [{ state: { waiting } }] };
      return;
    }
    const agent = spawn(command[0], command.slice(1), { stdio: ["pipe", "pipe", "pipe"] });
    agents.set(pod.metadata.name, agent);
    // A container runtime's log is nobody's here.
    agent.stderr.resume();
    pod.status = { phase: "Running", containerStatuses: [{ state: { running: {} } }] };
    agent.on("exit", (exitCode) => {
      if (evicted.has(agent)) return;
      pod.status = {
        phase: exitCode === 0 ? "Succeeded" : "Failed",
        containerStatuses: [{ state: { terminated: { exitCode } } }],
      };
    });
  };

  const answer = (request: IncomingMessage, body: string): [number, object] => {
    const { pathname } = new URL(request.url ?? "/", "http://cluster");
    const name = /^\/api\/v1\/namespaces\/default\/pods\/([^/]+)$/.exec(pathname)?.[1];
    if (pathname === "/api") return [200, { kind: "APIVersions", versions: ["v1"] }];
    if (pathname === "/apis") return [200, { kind: "APIGroupList", apiVersion: "v1", groups: [] }];
    if (pathname === "/api/v1") return [200, resources];
    if (pathname === "/api/v1/nodes")
      return [
        200,
        list(
          "NodeList",
          nodes.map((node) => ({ apiVersion: "v1", kind: "Node", metadata: { name: node } })),
        ),
      ];
    if (pathname === "/api/v1/namespaces/default/pods" && request.method === "POST") {
      const pod = JSON.parse(body) as ClusterPod;
      pods.set(pod.metadata.name, pod);
      created.push(pod);
      start(pod);
      return [201, shown(pod)];
    }
    if (pathname === "/api/v1/namespaces/default/pods") return [200, list("PodList", [...pods.values()].map(shown))];
    const pod = pods.get(name ?? "");
    if (!pod)
      return [
        404,
        {
          kind: "Status",
          apiVersion: "v1",
          status: "Failure",
          reason: "NotFound",
          code: 404,
          message: `pods "${name}" not found`,
        },
      ];
    if (request.method !== "DELETE") return [200, shown(pod)];
    agents.get(pod.metadata.name)?.kill("SIGTERM");
    pods.delete(pod.metadata.name);
    deleted.push(pod.metadata.name);
    return [200, shown(pod)];
  };

  const server = createServer((request, response) => {
    let body = "";
    request.setEncoding("utf8").on("data", (text: string) => (body += text));
    request.on("end", () => {
      const [status, content] = answer(request, body);
      response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(content));
    });
  });
  server.on("upgrade", (request: IncomingMessage, socket: Socket) => {
    const name = /\/pods\/([^/]+)\/attach/.exec(request.url ?? "")?.[1] ?? "";
    const agent = agents.get(name);
    socket.on("error", () => undefined);
    if (!agent) socket.end("HTTP/1.1 404 Not Found\r\n\r\n");
    // A newer kubectl asks for a WebSocket first.
    else if (request.headers.upgrade !== "SPDY/3.1") socket.end("HTTP/1.1 400 Bad Request\r\n\r\n");
    else attach(agent, socket);
  });
  const port = await listen(server);
  return {
    url: `http://127.0.0.1:${port}`,
    pods,
    created,
    deleted,
    evict(message) {
      for (const [name, agent] of agents) {
        evicted.add(agent);
        Object.assign(pods.get(name) ?? {}, { status: { phase: "Failed", reason: "Evicted", message } });
        agent.kill("SIGTERM");
      }
    },
    close: async () => {
      for (const agent of agents.values()) agent.kill("SIGKILL");
      server.closeAllConnections();
      await new Promise((done) => server.close(done));
    },
  };
}

/** Streams in the order in which the client opens them (remotecommand/v2.go). stdinOnce: the end of stdin is the agent's. */
function attach(agent: Agent, socket: Socket): void {
  socket.write(
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n",
  );
  const streams: Duplex[] = [];
  serveSpdy(socket, (stream, place) => {
    streams.push(stream);
    const name = ["error", "stdin", "stdout", "stderr"][place];
    if (name === "stdin") stream.pipe(agent.stdin);
    if (name === "stdout") agent.stdout.pipe(stream);
  });
  socket.on("close", () => agent.stdin.end());
  agent.on("close", (code) => {
    const failure = { metadata: {}, status: "Failure", reason: "NonZeroExitCode", message: `exit code ${code}` };
    streams[0]?.end(JSON.stringify(code === 0 ? { metadata: {}, status: "Success" } : failure));
    for (const stream of streams.slice(1)) stream.end();
  });
}

const shown = (pod: ClusterPod): object => ({ apiVersion: "v1", kind: "Pod", ...pod });
const list = (kind: string, items: object[]): object => ({ apiVersion: "v1", kind, metadata: {}, items });

const resource = (name: string, kind: string, namespaced: boolean): object => ({
  name,
  singularName: kind.toLowerCase(),
  kind,
  namespaced,
  verbs: ["create", "delete", "get", "list", "watch"],
});
const resources = {
  kind: "APIResourceList",
  groupVersion: "v1",
  resources: [resource("pods", "Pod", true), resource("nodes", "Node", false)],
};

async function listen(server: Server): Promise<number> {
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  return (server.address() as AddressInfo).port;
}
