import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { cgroupOwner, classicLines, ownerWords, scanKernelLog } from "../../src/kmsg/index.ts";

const id = "85d3a7f5db9b92df4f5930b5bf062cff540084aacfc05310acc6c5cc963023ad";

describe("a cgroup's path", () => {
  test.each([
    [
      `/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podf9411888_a753_41f4_9520_afc45712f5b5.slice/cri-containerd-${id}.scope`,
      { pod: "f9411888-a753-41f4-9520-afc45712f5b5", qos: "burstable", container: id, runtime: "containerd" },
    ],
    [
      `/kubepods.slice/kubepods-podf9411888_a753_41f4_9520_afc45712f5b5.slice/crio-${id}.scope`,
      { pod: "f9411888-a753-41f4-9520-afc45712f5b5", qos: "guaranteed", container: id, runtime: "cri-o" },
    ],
    [
      `/kubepods/besteffort/podf9411888-a753-41f4-9520-afc45712f5b5/${id}`,
      { pod: "f9411888-a753-41f4-9520-afc45712f5b5", qos: "besteffort", container: id, runtime: null },
    ],
    [`/docker/${id}`, { pod: null, container: id, runtime: "docker" }],
    [`/system.slice/docker-${id}.scope`, { container: id, runtime: "docker", unit: null }],
    [`/machine.slice/libpod-${id}.scope/container`, { container: id, runtime: "podman" }],
    ["/lxc/web/init.scope", { container: "web", runtime: "lxc", unit: "init.scope" }],
    ["/lxc.payload.web", { container: "web", runtime: "lxc" }],
    ["/system.slice/nginx.service", { pod: null, container: null, unit: "nginx.service" }],
    ["/", { pod: null, qos: null, container: null, runtime: null, unit: null }],
  ])("%s names its owner", (path, owner) => expect(cgroupOwner(path)).toMatchObject(owner));

  test("is told in words, or not at all", () => {
    expect(ownerWords(cgroupOwner(`/docker/${id}`))).toBe("container 85d3a7f5db9b (docker)");
    expect(ownerWords(cgroupOwner(`/kubepods/podf9411888-a753-41f4-9520-afc45712f5b5/${id}`))).toBe(
      "container 85d3a7f5db9b of Pod f9411888-a753-41f4-9520-afc45712f5b5 (guaranteed)",
    );
    expect(ownerWords(cgroupOwner("/system.slice/nginx.service"))).toBe("nginx.service");
    expect(ownerWords(cgroupOwner("/some/where"))).toBeNull();
  });
});

test("the blog's own kill, rendered in the words of its kernel, is what the blog shows", () => {
  const log = readFileSync(join(import.meta.dirname, "../fixtures/blog.log"), "utf8");
  const [kill] = scanKernelLog(log, { details: true }).kills;
  const shown = log.split("\n").map((line) => line.replace(/^\[[^\]]*\] /, ""));
  expect(kill && classicLines(kill)).toEqual(shown.slice(0, 3));
});

test("a score that the report does not give is not invented", () => {
  const line =
    "Memory cgroup out of memory: Killed process 7 (stress) total-vm:8kB, anon-rss:4kB, file-rss:0kB, shmem-rss:0kB, UID:0 pgtables:4kB oom_score_adj:0\n";
  const [kill] = scanKernelLog(line).kills;
  expect(kill && classicLines(kill)[0]).toBe(
    "Memory cgroup out of memory: Kill process 7 (stress) score ? or sacrifice child",
  );
});
