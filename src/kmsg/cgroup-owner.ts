/** What a cgroup's path says of who runs in it. No runtime is asked. */
export interface CgroupOwner {
  /** Pod UID, with dashes (kubelet pkg/kubelet/cm/cgroup_manager_linux.go). */
  pod: string | null;
  /** Guaranteed Pods lie directly below kubepods. */
  qos: "guaranteed" | "burstable" | "besteffort" | null;
  /** The container's id or name. */
  container: string | null;
  /** docker, containerd, cri-o, podman, lxc: where the name shows it. */
  runtime: string | null;
  /** The innermost systemd unit, a container's own scope not counted. */
  unit: string | null;
}

const RUNTIMES: readonly (readonly [RegExp, string | null])[] = [
  [/^docker-([0-9a-f]{12,64})\.scope$/, "docker"],
  [/^cri-containerd-([0-9a-f]{12,64})\.scope$/, "containerd"],
  [/^nerdctl-([0-9a-f]{12,64})\.scope$/, "containerd"],
  [/^crio-([0-9a-f]{12,64})(?:\.scope)?$/, "cri-o"],
  [/^libpod-([0-9a-f]{12,64})(?:\.scope)?$/, "podman"],
  [/^lxc\.payload\.([^/]+)$/, "lxc"],
  [/^([0-9a-f]{64})$/, null],
];
const POD = /^(?:kubepods-(?:(burstable|besteffort)-)?)?pod([0-9a-f]{8}[-_][0-9a-f_-]{27}|[0-9a-f]{32})(?:\.slice)?$/;
const QOS = /^(?:kubepods-)?(burstable|besteffort)(?:\.slice)?$/;

const segmentsOf = (path: string): string[] => path.split("/").filter((segment) => segment !== "");

/** Reads a cgroup path as the kernel prints it (`task_memcg=`, `oom_memcg=`). */
export function cgroupOwner(path: string): CgroupOwner {
  const owner: CgroupOwner = { pod: null, qos: null, container: null, runtime: null, unit: null };
  const segments = segmentsOf(path);
  for (const [index, segment] of segments.entries()) {
    const pod = POD.exec(segment);
    const qos = QOS.exec(segment)?.[1];
    if (pod?.[2]) {
      owner.pod = pod[2].replaceAll("_", "-");
      // With systemd the Pod's own slice names its class, whatever the slices above are called.
      if (pod[1] !== undefined) owner.qos = pod[1] as "burstable" | "besteffort";
    } else if (/^kubepods(\.slice)?$/.test(segment)) owner.qos = "guaranteed";
    else if (qos !== undefined && owner.qos !== null) owner.qos = qos as "burstable" | "besteffort";
    const found = RUNTIMES.map(([pattern, runtime]) => [pattern.exec(segment)?.[1], runtime] as const).find(
      ([id]) => id !== undefined,
    );
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

/** The same in words: `container 0123456789ab (docker) of Pod ...`; null where the path shows nothing. */
export function ownerWords({ pod, qos, container, runtime, unit }: CgroupOwner): string | null {
  const id =
    container === null
      ? null
      : `container ${/^[0-9a-f]{64}$/.test(container) ? container.slice(0, 12) : container}${runtime === null ? "" : ` (${runtime})`}`;
  const of = pod === null ? null : `Pod ${pod}${qos === null ? "" : ` (${qos})`}`;
  if (id !== null) return of === null ? id : `${id} of ${of}`;
  return of ?? unit;
}

/** Paths whose limit counts more than one container, unit or Pod. */
const SHARED: readonly (readonly [RegExp, (found: RegExpExecArray) => string])[] = [
  [/^\/$/, () => "the root cgroup"],
  [/(?:^|\/)kubepods(?:\.slice)?$/, () => "all Pods of the node together (its allocatable memory)"],
  [/(?:^|\/)(?:kubepods-)?(burstable|besteffort)(?:\.slice)?$/, ([, qos]) => `all ${qos ?? ""} Pods of the node`],
  [
    /\/job_(\d+)(?:\/step_([^/]+))?/,
    ([, job, step]) => `Slurm job ${job}${step === undefined ? "" : `, step ${step}`}`,
  ],
  [/\/user-(\d+)\.slice$/, ([, uid]) => `everything that user ${uid} runs`],
  [/(?:^|\/)([^/]+\.slice)$/, ([, slice]) => `the slice ${slice}`],
];

/** Whose limit a cgroup's is, in people's words; null where the path shows nothing. */
export function limitWords(path: string): string | null {
  for (const [pattern, words] of path.includes("pod") && POD.test(segmentsOf(path).at(-1) ?? "") ? [] : SHARED) {
    const found = pattern.exec(path);
    if (found !== null) return words(found);
  }
  const owner = cgroupOwner(path);
  // A slice or scope inside a container is no unit of the host's.
  if (owner.container === null && owner.pod !== null) return `${ownerWords(owner)!}: all its containers together`;
  return ownerWords(owner);
}
