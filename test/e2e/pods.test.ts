/** Pod manifests on the command line, run for real on this host. */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { canRun, leftovers, oomlab, root } from "../helpers/cli.ts";
import { needs } from "../helpers/needs.ts";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "oomlab-test-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const blog = readFileSync(join(root, "scenarios/blog/pod.yaml"), "utf8");
/** A container whose init container ends first, beside a sidecar, with a memory-backed volume that it fills past its limit. */
const withVolume = `
name: a volume fills a container
pods:
  - manifest:
      apiVersion: v1
      kind: Pod
      metadata: { name: web }
      spec:
        initContainers:
          - { name: setup, resources: { limits: { memory: 16Mi } } }
          - { name: proxy, restartPolicy: Always, resources: { limits: { memory: 16Mi } } }
        containers:
          - name: app
            resources: { limits: { memory: 32Mi } }
            volumeMounts: [ { name: cache, mountPath: /cache } ]
        volumes: [ { name: cache, emptyDir: { medium: Memory } } ]
    pressure: { app: { stress: { tmpfs: 48Mi, dir: /cache } } }
expect: { oom: memcg, limit: web/app, victims: [web/app], survivors: [web/proxy], exit: { web/setup: 0 } }
`;

describe("run of a Pod manifest", needs(canRun), () => {
  test("from stdin: the blog's container dies past its limit, alone", async () => {
    const { stdout, stderr, exitCode } = await oomlab(["run", "-", "--reporter", "json"], { input: blog });
    expect({ stderr, exitCode }).toEqual({ stderr: "", exitCode: 0 });
    const [run, ...others] = JSON.parse(stdout).scenarios;
    expect(others).toEqual([]);
    expect(run).toMatchObject({ name: "memory-demo", file: "-", machine: "host", status: "passed" });
    expect(run.observed.kills).toEqual([
      expect.objectContaining({
        kind: "memcg",
        process: "memory-demo/stress",
        // Pod and container have the same limit: either may be the one that is hit.
        limit: expect.stringMatching(/^memory-demo(\/stress)?$/),
        oomMemcg: expect.stringMatching(/\/kubepods\/burstable\/pod[0-9a-f-]{36}(\/[0-9a-f]{64})?$/),
      }),
    ]);
    expect(run.observed.node.memTotal).toBeGreaterThan(0);
    expect(run.notes[0]).toMatch(/^memory-demo\/stress was pressed with 250Mi: .* it died alone; the node survived$/);
    expect(leftovers()).toEqual([]);
  });

  test("-g chooses one of the containers that are pressed in turn", async () => {
    const both = blog.replace(
      /(\n +)- name: stress/,
      "$1- { name: other, resources: { limits: { memory: 16Mi } } }$1- name: stress",
    );
    expect(both).toContain("name: other");
    const { stdout, exitCode } = await oomlab(["run", "-", "-g", ": .*/other$", "--reporter", "json"], { input: both });
    expect(exitCode).toBe(0);
    expect(JSON.parse(stdout).scenarios).toMatchObject([
      { name: "memory-demo: memory-demo/other", observed: { kills: [{ process: "memory-demo/other" }] } },
    ]);
  });

  test("init containers run first, sidecars beside; a volume's pages count against who wrote them, and it is gone afterwards", async () => {
    const file = join(folder, "volume.yaml");
    writeFileSync(file, withVolume);
    const { stdout, exitCode } = await oomlab(["run", file, "--reporter", "json", "--output", folder]);
    const [run] = JSON.parse(stdout).scenarios;
    expect(run).toMatchObject({ status: "passed", reason: null });
    expect(exitCode).toBe(0);
    const record = readFileSync(
      join(
        folder,
        readdirSync(folder).find((name) => name.endsWith(".ndjson"))!,
      ),
      "utf8",
    );
    const started = record
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as { type: string; process: string; record: string })
      .filter(({ type }) => type === "process-start")
      .map(({ process }) => process);
    expect(started).toEqual(["web/setup", "web/proxy", "web/app"]);
    expect(existsSync(join("/tmp", JSON.parse(record.split("\n", 1)[0]!).record))).toBe(false);
    expect(readFileSync("/proc/self/mounts", "utf8")).not.toContain("/tmp/oomlab-");
    expect(leftovers()).toEqual([]);
  });

  test("a dry run touches nothing and shows each file with its rule", async () => {
    const { stdout, exitCode } = await oomlab(["run", "--dry-run", "scenarios/blog/pod.yaml"]);
    expect(exitCode).toBe(0);
    expect(stdout).toMatch(/memory-demo\/stress +app +Burstable +\d+ /);
    expect(stdout).toMatch(/memory\.(limit_in_bytes|max) = 209715200 {2}# limits\.memory 200Mi/);
    expect(stdout).toContain("ignored: spec.containers[].image, spec.containers[].command, spec.containers[].args");
    expect(leftovers()).toEqual([]);
  });
});

describe("a wrong manifest", () => {
  test("is told with its place, in the API server's words, and nothing is run", async () => {
    const { stderr, exitCode } = await oomlab(["run", "-"], { input: blog.replace("200Mi", "200MB") });
    expect(exitCode).toBe(2);
    expect(stderr).toContain("-:13:27 spec.containers[0].resources.limits.memory: quantities must match the regular");
    expect(stderr).toContain("^ did you mean 200Mi or 200M?");
  });
});
