/**
 * A real distribution as a test machine: Debian with systemd as PID 1, built once with mmdebstrap, booted once by QEMU under
 * software emulation and saved. `startDistro` restores it in seconds; commands run over ssh, each user in a login session of
 * its own (PAM, logind, user@.service). The guest has no network beyond the ssh port that QEMU forwards.
 */
import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { createConnection, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import type { Readable, Writable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { execa } from "execa";
import { cached } from "../../src/machine/cache.ts";
import { oomlabFiles } from "../../src/machine/image.ts";
import { which } from "../../src/machine/packages.ts";
import { type Monitor, openMonitor } from "../../src/machine/qmp.ts";
import { root } from "./cli.ts";
import { needs, type Needs } from "./needs.ts";

/** A distribution; a further one is one more of these. */
interface DistroSpec {
  suite: string;
  /** Packages that others have not: its own Node where that is new enough, docker's client where that is not docker.io's. */
  packages: string[];
}

/** By the name to put into OOMLAB_TEST_DISTRO. */
const distros: Record<string, DistroSpec> = {
  /** systemd 257, kernel 6.12, Node 20. */
  debian13: { suite: "trixie", packages: ["nodejs", "docker-cli"] },
  /** systemd 252, kernel 6.1. */
  debian12: { suite: "bookworm", packages: ["libstdc++6"] },
};

/** The users of a guest beside root, with their groups; all log in with one key. */
const users: Record<User, string[]> = { ann: [], eva: ["systemd-journal"], sam: ["sudo"] };
/** ann is in no group but her own, eva may read the journal, sam may use sudo. */
export type User = "ann" | "eva" | "sam";

const programs: Record<string, string> = {
  mmdebstrap: "mmdebstrap",
  "qemu-system-x86_64": "qemu-system-x86",
  "qemu-img": "qemu-utils",
  mke2fs: "e2fsprogs",
  ssh: "openssh-client",
};
const missing = Object.keys(programs).filter((name) => which(name) === undefined);

/** What a test in a distribution needs of this machine. */
export const canStartDistro: Needs = needs({
  "x86-64 Linux": process.platform === "linux" && process.arch === "x64",
  "root, to unpack a distribution": process.getuid?.() === 0,
  [missing.length === 0 ? "mmdebstrap, QEMU and ssh" : missing.map((name) => programs[name]).join(", ")]:
    missing.length === 0,
  "apt's sources name a Debian archive": which("apt-get") !== undefined,
});

const packages = [
  ["systemd", "systemd-sysv", "systemd-oomd", "dbus", "dbus-user-session", "libpam-systemd", "udev", "kmod"],
  ["linux-image-cloud-amd64", "initramfs-tools", "zstd", "procps", "util-linux", "login", "passwd", "iproute2"],
  ["openssh-server", "sudo", "cron", "earlyoom", "python3-minimal"],
  ["docker.io", "iptables", "podman", "crun", "uidmap", "fuse-overlayfs", "slirp4netns", "netavark"],
].flat();

/** Started by the tests that are about them; a manager with ManagedOOM properties starts systemd-oomd unless it is masked. */
const idle = ["docker.service", "docker.socket", "containerd.service", "earlyoom.service"];
const masked = ["systemd-oomd.service", "systemd-oomd.socket", "systemd-networkd-wait-online.service"];
const noise = [
  "apt-daily.timer",
  "apt-daily-upgrade.timer",
  "dpkg-db-backup.timer",
  "e2scrub_all.timer",
  "fstrim.timer",
];

/** Runs in the new system, as root. */
const setup = `set -e
echo oomlab-guest > /etc/hostname
echo 127.0.0.1 localhost oomlab-guest > /etc/hosts
systemctl enable systemd-networkd ssh
systemctl disable ${idle.join(" ")} 2>/dev/null || true
systemctl mask ${[...masked, ...noise].join(" ")}
${Object.entries(users)
  .map(
    ([name, groups]) =>
      `useradd -m -s /bin/bash ${groups.length > 0 ? `-G ${groups.join(",")} ` : ""}${name}; install -d -m 700 -o ${name} -g ${name} /home/${name}/.ssh; install -m 600 -o ${name} -g ${name} /root/.ssh/authorized_keys /home/${name}/.ssh/authorized_keys`,
  )
  .join("\n")}
echo '%sudo ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/oomlab
sed -i '/pam_motd/d' /etc/pam.d/sshd
rm -rf /var/cache/apt/archives/*.deb /var/lib/apt/lists/*
`;

const files: Record<string, string> = {
  "etc/systemd/network/eth0.network":
    "[Match]\nName=eth0\n[Network]\nAddress=10.0.2.15/24\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n",
  "etc/ssh/sshd_config.d/oomlab.conf":
    "PermitRootLogin prohibit-password\nUseDNS no\nPrintMotd no\nMaxSessions 100\nMaxStartups 100\n",
  "etc/fstab": "/dev/vda / ext4 rw,noatime 0 0\n",
};

/** What the initial file system needs before the disk is there. */
const initramfs: Record<string, string> = {
  "etc/initramfs-tools/conf.d/oomlab": "MODULES=list\nCOMPRESS=zstd\nCOMPRESSLEVEL=1\nRESUME=none\n",
  "etc/initramfs-tools/modules": "virtio_pci\nvirtio_blk\next4\n",
};

const kernelArguments =
  "root=/dev/vda rw console=ttyS0 quiet no_timer_check panic=-1 oops=panic net.ifnames=0 mitigations=off";
const diskSize = "6G";
const memory = "2G";

const keyOf = (spec: DistroSpec): string =>
  createHash("sha256")
    .update(JSON.stringify([5, process.version, spec, packages, setup, files, initramfs, diskSize, memory]))
    .digest("hex")
    .slice(0, 16);

/** Places files in a folder. */
function place(folder: string, content: Record<string, string>): void {
  for (const [path, text] of Object.entries(content)) {
    mkdirSync(join(folder, path, ".."), { recursive: true });
    writeFileSync(join(folder, path), text);
  }
}

/** The Debian archive that this machine's apt uses. */
export async function debianSite(): Promise<string> {
  const targets = ["indextargets", "--format", "$(SITE) $(ORIGIN) $(LABEL) $(COMPONENT)", "Created-By: Packages"];
  const { stdout: sites } = await execa("apt-get", targets);
  const site = /^(\S+) Debian Debian main$/m.exec(sites)?.[1];
  if (site === undefined) throw new Error("apt's sources name no Debian archive");
  return site;
}

/** Builds the disk, boots it, and saves the booted guest: `disk.qcow2`, `state`, `key`. */
async function build(spec: DistroSpec, folder: string): Promise<void> {
  const began = Date.now();
  const site = await debianSite();
  const tree = join(folder, "tree");
  const extra = join(folder, "extra");
  place(extra, files);
  place(join(folder, "early"), initramfs);
  await execa("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-C", "tests", "-f", join(folder, "key")]);
  place(extra, { "root/.ssh/authorized_keys": readFileSync(join(folder, "key.pub"), "utf8"), "root/setup.sh": setup });
  const hooks = [
    `--essential-hook=cp -r "${join(folder, "early")}"/. "$1"`,
    `--customize-hook=cp -r --no-preserve=ownership "${extra}"/. "$1" && chmod 700 "$1/root/.ssh" && chmod 600 "$1/root/.ssh/authorized_keys"`,
    // This machine's Node is first in PATH: oomlab's compiled code is made for it, and emulation is slow at compiling.
    `--customize-hook=cp "${realpathSync(process.execPath)}" "$1/usr/local/bin/node"`,
    '--customize-hook=chroot "$1" sh /root/setup.sh',
  ];
  const options = ["man", "doc", "locale", "info"].map((name) => `--dpkgopt=path-exclude=/usr/share/${name}/*`);
  const include = [...packages, ...spec.packages].join(",");
  const source = `deb ${site} ${spec.suite} main`;
  const what = ["--quiet", "--variant=minbase", `--include=${include}`, ...options, ...hooks, spec.suite, tree, source];
  await execa("mmdebstrap", what);
  for (const name of readdirSync(join(tree, "boot"))) {
    const part = /^(vmlinuz|initrd\.img)-/.exec(name)?.[1];
    if (part !== undefined) await execa("cp", [join(tree, "boot", name), join(folder, part)]);
  }
  const raw = join(folder, "disk.raw");
  await execa("mke2fs", ["-q", "-t", "ext4", "-L", "root", "-d", tree, raw, diskSize]);
  await execa("qemu-img", ["convert", "-O", "qcow2", raw, join(folder, "disk.qcow2")]);
  rmSync(raw);
  for (const name of ["tree", "extra", "early"]) rmSync(join(folder, name), { recursive: true });
  console.log(`${spec.suite}: unpacked after ${Math.round((Date.now() - began) / 1000)} s`);
  await using guest = await Distro.boot(folder, join(folder, "disk.qcow2"), null);
  await guest.run("systemctl is-system-running --wait; node -e 0; journalctl -n 1; systemd-run --version", {
    timeoutMs: 180_000,
  });
  await guest.save(join(folder, "state"));
  console.log(`${spec.suite}: booted and saved after ${Math.round((Date.now() - began) / 1000)} s`);
}

/** Builds the guest's disk and snapshot where they are missing. Resolves to their folder. */
const distroFolder = (spec: DistroSpec): Promise<string> =>
  cached(`distro-${spec.suite}-${keyOf(spec)}`, (folder) => build(spec, folder));

/** A guest as it was when it had booted, its clock set right; it is thrown away at its end. */
export async function startDistro(): Promise<Distro> {
  const name = process.env["OOMLAB_TEST_DISTRO"] ?? "debian13";
  const spec = distros[name];
  if (!spec) throw new Error(`OOMLAB_TEST_DISTRO=${name}: expected one of ${Object.keys(distros).join(", ")}`);
  const folder = await distroFolder(spec);
  const scratch = mkdtempSync(join(tmpdir(), "oomlab-distro-"));
  const overlay = join(scratch, "disk.qcow2");
  const above = ["create", "-q", "-f", "qcow2", "-b", join(folder, "disk.qcow2"), "-F", "qcow2", overlay];
  await execa("qemu-img", above);
  const guest = await Distro.boot(folder, overlay, join(folder, "state"), scratch);
  await guest.run(`date -s @${(Date.now() / 1000).toFixed(1)}`);
  return guest;
}

export interface RunOptions {
  /** Default: root. */
  as?: "root" | User;
  input?: string | Uint8Array;
  /** Default: 60 s. */
  timeoutMs?: number;
  /** In a terminal; Ctrl-C is the character \x03 on its input. */
  tty?: boolean;
  /** A connection, and so a login session, of its own. */
  fresh?: boolean;
}

/** A command's end. */
export interface Ended {
  exitCode?: number;
  stdout: string;
  stderr: string;
}

/** A command under way. */
export interface Running extends PromiseLike<Ended & { timedOut: boolean }> {
  readonly stdin: Writable | null;
  readonly stdout: Readable | null;
  kill(signal?: NodeJS.Signals): boolean;
}
type QemuProcess = ReturnType<typeof spawnQemu>;

const spawnSsh = (args: string[], timeout: number, input: string | Uint8Array | undefined) =>
  execa("ssh", args, { reject: false, timeout, ...(input === undefined ? {} : { input }) });

/** QEMU dies with this process, whatever ends it. */
const spawnQemu = (args: string[]) =>
  execa("setpriv", ["--pdeathsig", "KILL", "qemu-system-x86_64", ...args], { reject: false, stdin: "ignore" });

/** A running guest. */
export class Distro implements AsyncDisposable {
  readonly #qemu: QemuProcess;
  readonly #monitor: Monitor;
  readonly #socket: Socket;
  readonly #port: number;
  readonly #scratch: string;
  readonly #key: string;
  readonly #console: string;

  private constructor(parts: {
    qemu: QemuProcess;
    socket: Socket;
    port: number;
    scratch: string;
    key: string;
    console: string;
  }) {
    this.#qemu = parts.qemu;
    this.#socket = parts.socket;
    this.#monitor = openMonitor(parts.socket);
    this.#port = parts.port;
    this.#scratch = parts.scratch;
    this.#key = parts.key;
    this.#console = parts.console;
  }

  /** Starts QEMU and waits for sshd. `state`: what it goes on from, instead of booting. */
  static async boot(
    folder: string,
    disk: string,
    state: string | null,
    scratch: string = mkdtempSync(join(tmpdir(), "oomlab-distro-")),
  ): Promise<Distro> {
    const port = await freePort();
    const monitor = join(scratch, "monitor");
    const log = join(scratch, "console");
    // One CPU: with several, QEMU now and then emulates wrongly what the kernel patches while another CPU runs it.
    const flags = [
      ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"],
      ["-machine", "q35", "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", memory],
      ["-kernel", join(folder, "vmlinuz"), "-initrd", join(folder, "initrd.img"), "-append", kernelArguments],
      ["-drive", `file=${disk},format=qcow2,if=virtio,cache=unsafe`],
      ["-netdev", `user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:${port}-10.0.2.15:22`],
      ["-device", "virtio-net-pci,netdev=net,romfile=", "-device", "virtio-rng-pci"],
      ["-chardev", `file,id=console,path=${log}`, "-serial", "chardev:console"],
      ["-qmp", `unix:${monitor},server=on,wait=on`],
      state === null ? [] : ["-incoming", "defer"],
    ];
    const qemu = spawnQemu(flags.flat());
    const socket = await connected(monitor, qemu);
    socket.setEncoding("utf8");
    const guest = new Distro({ qemu, socket, port, scratch, key: join(folder, "key"), console: log });
    try {
      if (state !== null) {
        await guest.#migrate("migrate-incoming", `exec:cat ${state}`);
        await guest.#monitor.execute("cont");
      }
      await guest.#answers(state === null ? 240_000 : 60_000);
      return guest;
    } catch (error) {
      const { stderr } = await guest.#end();
      throw new Error(`the guest does not answer: ${stderr}\n${guest.#lastWords()}`, { cause: error });
    }
  }

  /** Runs a command in a user's login shell, to its end. Never rejects for its exit status. */
  async run(command: string, options: RunOptions = {}): Promise<Ended> {
    const { exitCode, stdout, stderr, timedOut } = await this.start(command, options);
    if (timedOut) throw new Error(`it took longer than it may: ${command}\n${stdout}\n${stderr}`);
    return { ...(exitCode === undefined ? {} : { exitCode }), stdout, stderr };
  }

  /** As `run`, but for the status: throws with what the command wrote where it is not 0. Resolves to standard output. */
  async must(command: string, options: RunOptions = {}): Promise<string> {
    const { exitCode, stdout, stderr } = await this.run(command, options);
    if (exitCode !== 0) throw new Error(`exit status ${exitCode}: ${command}\n${stdout}\n${stderr}`);
    return stdout;
  }

  /** Starts a command. Killing what it returns ends the connection of a `fresh` one, as a lost network does. */
  start(
    command: string,
    { as = "root", input, timeoutMs = 60_000, tty = false, fresh = false }: RunOptions = {},
  ): Running {
    const target = `${as}@127.0.0.1`;
    // Without a terminal on this side ssh leaves the modes unset, and \x03 is a mere byte.
    const typed = input ?? (tty ? undefined : "");
    return spawnSsh(
      [...this.#sshOptions(fresh), ...(tty ? ["-tt", target, `stty sane; ${command}`] : ["-T", target, command])],
      timeoutMs,
      typed,
    );
  }

  /** Writes a file in the guest, its folders too. */
  async put(path: string, content: string | Uint8Array, options: RunOptions = {}): Promise<void> {
    await this.must(`mkdir -p "$(dirname ${path})" && cat > ${path}`, { ...options, input: content });
  }

  /** Reads a file of the guest. */
  async take(path: string, options: RunOptions = {}): Promise<string> {
    return this.must(`cat ${path}`, options);
  }

  /** Installs oomlab as built, as /usr/local/bin/oomlab, its scenarios beside it. */
  async installOomlab(): Promise<void> {
    const tar = execa("tar", ["-cf", "-", ...tarNames(oomlabFiles(/./)), "-C", root, "scenarios"], {
      encoding: "buffer",
      maxBuffer: 2 ** 30,
    });
    const { stdout } = await tar;
    await this.must(
      "mkdir -p /opt/oomlab && tar -xf - -C /opt/oomlab && ln -s /opt/oomlab/dist/oomlab.cjs /usr/local/bin/oomlab",
      { input: stdout },
    );
  }

  /** What of oomlab's is in the guest: cgroups, units in any state, processes. */
  async leftovers(): Promise<string[]> {
    const found = await this.must(`
      find /sys/fs/cgroup -type d -name 'oomlab*'
      systemctl list-units --all --plain --no-legend 'oomlab-run*'
      for bus in /run/user/*/bus; do
        uid=$(stat -c %u $bus)
        [ -S $bus ] && setpriv --reuid $uid --regid $uid --clear-groups busctl --address=unix:path=$bus call org.freedesktop.systemd1 /org/freedesktop/systemd1 \
          org.freedesktop.systemd1.Manager ListUnitsByPatterns asas 0 1 'oomlab-run*' 2>&1 | grep -v '^a(ssssssouso) 0$'
      done
      ps -eo pid,comm,args | grep -E '[s]tress --|[o]omlab |[s]leep infinity'
      true`);
    return found.split("\n").filter((line) => line !== "");
  }

  /** Stops the guest and saves its state; it does not go on. */
  async save(file: string): Promise<void> {
    await this.run("sync");
    await this.#closeConnections();
    await this.#monitor.execute("stop");
    await this.#migrate("migrate", `exec:cat > ${file}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#closeConnections();
    await this.#end();
    rmSync(this.#scratch, { recursive: true, force: true });
  }

  #sshOptions(fresh: boolean): string[] {
    const options = [
      ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "IdentitiesOnly=yes"],
      ["GSSAPIAuthentication=no", "ConnectTimeout=60"],
      fresh
        ? ["ControlPath=none"]
        : ["ControlMaster=auto", `ControlPath=${this.#scratch}/ssh-%r`, "ControlPersist=yes"],
    ].flat();
    return ["-F", "none", "-i", this.#key, "-p", String(this.#port), ...options.flatMap((option) => ["-o", option])];
  }

  async #closeConnections(): Promise<void> {
    for (const name of readdirSync(this.#scratch).filter((file) => file.startsWith("ssh-"))) {
      const user = name.slice("ssh-".length);
      await execa("ssh", [...this.#sshOptions(false), "-O", "exit", `${user}@127.0.0.1`], { reject: false });
    }
  }

  /** A migration to its end, as fast as it goes. */
  async #migrate(command: string, uri: string): Promise<void> {
    await this.#monitor.execute("migrate-set-parameters", { "max-bandwidth": 2 ** 40 });
    await this.#monitor.execute("migrate-set-capabilities", { capabilities: [{ capability: "events", state: true }] });
    const end = this.#monitor.event("MIGRATION", ({ status }) => status === "completed" || status === "failed");
    await this.#monitor.execute(command, { uri });
    if ((await end)["status"] !== "completed") throw new Error(`QEMU failed at ${command}`);
  }

  /** Waits until sshd greets. */
  async #answers(ms: number): Promise<void> {
    const deadline = Date.now() + ms;
    let ended = false;
    void this.#qemu.then(() => (ended = true));
    while (!(await greets(this.#port))) {
      if (ended) throw new Error("QEMU has ended");
      if (Date.now() > deadline) throw new Error(`no answer from sshd within ${ms / 1000} s`);
      await sleep(100);
    }
  }

  #lastWords(): string {
    try {
      return readFileSync(this.#console, "utf8").split("\n").slice(-30).join("\n");
    } catch {
      return "";
    }
  }

  async #end(): Promise<Awaited<QemuProcess>> {
    this.#socket.destroy();
    this.#qemu.kill("SIGKILL");
    return this.#qemu;
  }
}

/** tar's arguments for files by their names in the archive. */
const tarNames = (wanted: ReadonlyMap<string, string>): string[] =>
  [...wanted].flatMap(([name, path]) => {
    const base = path.endsWith(name) ? path.slice(0, -name.length) : null;
    if (base === null) throw new Error(`${path} does not end with ${name}: ${basename(path)}`);
    return ["-C", base, name];
  });

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const address = server.address();
      server.close(() => resolve(typeof address === "object" && address !== null ? address.port : 0));
    });
  });
}

/** QEMU's monitor, as soon as it listens. */
async function connected(path: string, qemu: QemuProcess): Promise<Socket> {
  let words: string | null = null;
  void qemu.then(({ stderr, shortMessage }) => (words = stderr || (shortMessage ?? "")));
  for (;;) {
    const socket = await new Promise<Socket | null>((resolve) => {
      const trial = createConnection(path);
      trial.once("connect", () => resolve(trial));
      trial.once("error", () => resolve(null));
    });
    if (socket !== null) return socket;
    if (words !== null) throw new Error(`QEMU does not start: ${words as string}`);
    await sleep(20);
  }
}

/** Whether an ssh server answers at a port of this machine. */
function greets(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createConnection(port, "127.0.0.1");
    const end = (answer: boolean): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(answer);
    };
    const timer = setTimeout(() => end(false), 5_000);
    socket.once("data", (data) => end(data.toString("latin1").startsWith("SSH-")));
    socket.once("error", () => end(false));
    socket.once("close", () => end(false));
  });
}
