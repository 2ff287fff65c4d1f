/** What a cgroup's path says of who runs in it. Only what stands in the path: no runtime is asked. */
export interface CgroupOwner {
  /** Pod UID, with dashes (kubelet pkg/kubelet/cm/cgroup_manager_linux.go). */
  pod: string | null;
  /** Guaranteed Pods lie directly below kubepods. */
  qos: "guaranteed" | "burstable" | "besteffort" | null;
  /** The container's id or name. */
  container: string | null;
  /** docker, containerd, cri-o, podman, lxc: where the name tells. */
  runtime: string | null;
  /** The innermost systemd unit, a container's own scope not counted. */
  unit: string | null;
}

const runtimes: readonly (readonly [RegExp, string | null])[] = [
  [/^docker-([0-9a-f]{12,64})\.scope$/, "docker"],
  [/^cri-containerd-([0-9a-f]{12,64})\.scope$/, "containerd"],
  [/^nerdctl-([0-9a-f]{12,64})\.scope$/, "containerd"],
  [/^crio-([0-9a-f]{12,64})(?:\.scope)?$/, "cri-o"],
  [/^libpod-([0-9a-f]{12,64})(?:\.scope)?$/, "podman"],
  [/^lxc\.payload\.([^/]+)$/, "lxc"],
  [/^([0-9a-f]{64})$/, null],
];

/** Reads a cgroup path as the kernel prints it (`task_memcg=`, `oom_memcg=`). */
export function cgroupOwner(path: string): CgroupOwner {
  const owner: CgroupOwner = { pod: null, qos: null, container: null, runtime: null, unit: null };
  const segments = path.split("/").filter((segment) => segment !== "");
  for (const [index, segment] of segments.entries()) {
    const pod =
      /^(?:kubepods-(?:(?:burstable|besteffort)-)?)?pod([0-9a-f]{8}[-_][0-9a-f_-]{27}|[0-9a-f]{32})(?:\.slice)?$/.exec(
        segment,
      );
    if (pod?.[1]) owner.pod = pod[1].replaceAll("_", "-");
    else if (/^kubepods(\.slice)?$/.test(segment)) owner.qos = "guaranteed";
    else if (/^(kubepods-)?burstable(\.slice)?$/.test(segment) && owner.qos) owner.qos = "burstable";
    else if (/^(kubepods-)?besteffort(\.slice)?$/.test(segment) && owner.qos) owner.qos = "besteffort";
    const found = runtimes
      .map(([pattern, runtime]) => [pattern.exec(segment)?.[1], runtime] as const)
      .find(([id]) => id !== undefined);
    if (found?.[0] !== undefined) {
      owner.container = found[0];
      owner.runtime = found[1] ?? (segments[index - 1] === "docker" ? "docker" : null);
    } else if (segments[index - 1] === "lxc") {
      [owner.container, owner.runtime] = [segment, "lxc"];
    } else if (/\.(service|scope)$/.test(segment)) {
      owner.unit = segment;
    }
  }
  return owner;
}

/** The same in words: `container 0123456789ab (docker) of Pod ...`; null where the path tells nothing. */
export function ownerWords({ pod, qos, container, runtime, unit }: CgroupOwner): string | null {
  const id =
    container === null
      ? null
      : `container ${/^[0-9a-f]{64}$/.test(container) ? container.slice(0, 12) : container}${runtime === null ? "" : ` (${runtime})`}`;
  const of = pod === null ? null : `Pod ${pod}${qos === null ? "" : ` (${qos})`}`;
  if (id !== null) return of === null ? id : `${id} of ${of}`;
  return of ?? unit;
}
