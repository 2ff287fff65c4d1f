/** Words that scenarios take from Linux, and the rules for names. */

/** Linux' signals on x86 and arm64, by number - 1; kept here because macOS and Windows know fewer. */
export const SIGNALS: readonly string[] =
  "SIGHUP SIGINT SIGQUIT SIGILL SIGTRAP SIGABRT SIGBUS SIGFPE SIGKILL SIGUSR1 SIGSEGV SIGUSR2 SIGPIPE SIGALRM SIGTERM SIGSTKFLT SIGCHLD SIGCONT SIGSTOP SIGTSTP SIGTTIN SIGTTOU SIGURG SIGXCPU SIGXFSZ SIGVTALRM SIGPROF SIGWINCH SIGIO SIGPWR SIGSYS".split(
    " ",
  );

/** A signal's number, or null where there is none of that name. */
export const signalNumber = (name: string): number | null => SIGNALS.indexOf(name) + 1 || null;

/** What a write to a control file may fail with. */
export const ERRNOS: readonly string[] =
  "EBUSY EINVAL EPERM EACCES EAGAIN ENOMEM ENOENT ENODEV ENXIO EIO EINTR ENOSPC ERANGE EROFS ESRCH EEXIST E2BIG EOPNOTSUPP ENOTSUP ENOSYS EFAULT".split(
    " ",
  );

/** setrlimit's resources, without RLIMIT_. */
export const RLIMITS: readonly string[] =
  "AS CORE CPU DATA FSIZE LOCKS MEMLOCK MSGQUEUE NICE NOFILE NPROC RSS RTPRIO RTTIME SIGPENDING STACK".split(" ");

export const NAME_BYTES = 255;
export const PATH_BYTES = 1024;

/** What is wrong with the name of a process or scenario; undefined: nothing. */
export function nameProblem(name: string): string | undefined {
  if (name.trim() === "") return "a name cannot be empty";
  if (hasControl(name)) return "a name has no control characters and no line ends";
  if (Buffer.byteLength(name) > NAME_BYTES) return `a name has at most ${NAME_BYTES} bytes`;
  if (name === "__proto__") return "this name means something to JavaScript";
  return undefined;
}

/** Whether text has a control character or a line end; a loop, because the first use of a \p{...} pattern costs a run 0.5 ms. */
function hasControl(text: string): boolean {
  for (let index = 0; index < text.length; index++) {
    const code = text.charCodeAt(index);
    if (code < 0x20 || (code >= 0x7f && code < 0xa0) || code === 0x2028 || code === 0x2029) return true;
  }
  return false;
}

/** What is wrong with the path of a cgroup; undefined: nothing. */
export function cgroupProblem(path: string): string | undefined {
  if (path.startsWith("/")) return "a cgroup is named relative to oomlab's own";
  if (Buffer.byteLength(path) > PATH_BYTES) return `a cgroup's path has at most ${PATH_BYTES} bytes`;
  for (const segment of path.split("/")) {
    if (segment === "" && path !== "") return "a path has no empty part";
    if (segment === "." || segment === "..") return `a cgroup's path has no ${segment}`;
    const problem = nameProblem(segment);
    if (problem !== undefined) return problem;
    if (
      /^(?:cgroup|memory|cpuset|cpu|cpuacct|io|blkio|pids|hugetlb|rdma|misc|devices|freezer)\.|^(?:tasks|notify_on_release|release_agent)$/.test(
        segment,
      )
    ) {
      return `${segment} is named like the kernel's own files`;
    }
  }
  return undefined;
}

/** Reads a list of CPU or node numbers such as `0-1,3`: ascending, each once; undefined where it is none. */
export function parseNumberList(text: string): number[] | undefined {
  const numbers = new Set<number>();
  for (const part of text.split(",")) {
    const match = /^\s*(\d{1,4})(?:-(\d{1,4}))?\s*$/.exec(part);
    if (match === null) return undefined;
    const first = Number(match[1]);
    const last = Number(match[2] ?? match[1]);
    if (last < first) return undefined;
    for (let number = first; number <= last; number++) numbers.add(number);
  }
  return [...numbers].toSorted((a, b) => a - b);
}
