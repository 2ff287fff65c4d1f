/** Reading and writing control files. */
import { closeSync, constants, mkdirSync, openSync, readSync, rmdirSync, writeSync } from "node:fs";
import { join } from "node:path";
import { MachineError } from "../errors.ts";
import type { Counters } from "./driver.ts";

const buffer = Buffer.allocUnsafe(65536);

/** Whole text of a control file, through one reused buffer. */
export function readControl(path: string): string {
  const fd = openSync(path, constants.O_RDONLY);
  try {
    return readDescriptor(fd);
  } finally {
    closeSync(fd);
  }
}

/** Whole text of an open control file, from its start. */
function readDescriptor(fd: number): string {
  const size = readSync(fd, buffer, 0, buffer.length, 0);
  if (size < buffer.length) return buffer.toString("latin1", 0, size);
  // Only memory.stat of a machine with very many nodes or cgroup.procs of a fork bomb is longer.
  const parts = [buffer.toString("latin1", 0, size)];
  for (let at = size, got = size; got > 0; at += got) {
    got = readSync(fd, buffer, 0, buffer.length, at);
    parts.push(buffer.toString("latin1", 0, got));
  }
  return parts.join("");
}

/** Writes a control file in one write(2), as the kernel wants it. */
export function writeControl(path: string, value: string): void {
  const fd = openSync(path, constants.O_WRONLY | constants.O_TRUNC);
  try {
    writeSync(fd, value);
  } finally {
    closeSync(fd);
  }
}

export function makeDirectory(path: string): void {
  try {
    mkdirSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
  }
}

/** rmdir of a cgroup: true when it is gone, false while it is busy. */
export function removeDirectory(path: string): boolean {
  try {
    rmdirSync(path);
    return true;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENODEV") return true;
    if (code === "EBUSY" || code === "ENOTEMPTY") return false;
    throw error;
  }
}

/** pids listed in a cgroup.procs file; none where the cgroup is gone. */
export function readProcs(path: string): number[] {
  try {
    return (
      readControl(path)
        .split("\n")
        // 0: a process of another pid namespace, which has no number here (and as a target means our own group).
        .filter((line) => line !== "" && line !== "0")
        .map(Number)
    );
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENODEV") return [];
    throw error;
  }
}

/** `key value` lines (memory.events, memory.stat, memory.oom_control ...) as `prefix.key`. */
export function flatKeyed(text: string, prefix: string, into: Counters): void {
  for (const line of text.split("\n")) {
    const space = line.indexOf(" ");
    if (space <= 0) continue;
    const value = Number(line.slice(space + 1));
    if (Number.isFinite(value)) into[`${prefix}.${line.slice(0, space)}`] = value;
  }
}

/** A single value: a number, or "max"; v1 writes unlimited as a number beyond 2^53. */
export function singleValue(text: string): number | "max" | undefined {
  const word = text.trim();
  if (word === "max" || (/^\d{16,}$/.test(word) && BigInt(word) > BigInt(Number.MAX_SAFE_INTEGER))) return "max";
  return /^-?\d+$/.test(word) ? Number(word) : undefined;
}

/** `some avg10=0.00 ... total=0` lines of pressure files as `prefix.some.avg10`. */
export function pressure(text: string, prefix: string, into: Counters): void {
  for (const line of text.split("\n")) {
    const [kind, ...pairs] = line.split(" ");
    for (const pair of pairs) {
      const [key, value] = pair.split("=");
      if (kind && key && value !== undefined) into[`${prefix}.${kind}.${key}`] = Number(value);
    }
  }
}

/**
 * The open control files of the cgroups below one directory: each is opened once and read again from its start,
 * since a run reads the same few files many times.
 */
export function openFiles(root: string): {
  read(name: string, file: string): string | undefined;
  directory(name: string): number;
  forget(name: string): void;
  close(): void;
} {
  const open = new Map<string, number | undefined>();
  const descriptor = (key: string, path: string, flags: number): number | undefined => {
    if (open.has(key)) return open.get(key);
    let fd: number | undefined;
    try {
      fd = openSync(path, flags);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code !== "ENOENT" && code !== "EACCES" && code !== "EOPNOTSUPP") throw error;
    }
    open.set(key, fd);
    return fd;
  };
  return {
    read(name, file) {
      const fd = descriptor(`${name}/${file}`, join(root, name, file), constants.O_RDONLY);
      if (fd === undefined) return undefined;
      try {
        return readDescriptor(fd);
      } catch (error) {
        const { code } = error as NodeJS.ErrnoException;
        if (code === "EOPNOTSUPP" || code === "EINVAL") return undefined;
        throw code === "ENODEV" ? gone(join(root, name)) : error;
      }
    },
    directory(name) {
      const fd = descriptor(`${name}/`, join(root, name), constants.O_RDONLY | constants.O_DIRECTORY);
      if (fd === undefined) throw gone(join(root, name));
      return fd;
    },
    forget(name) {
      for (const [key, fd] of open) {
        if (key !== `${name}/` && (!key.startsWith(`${name}/`) || key.slice(name.length + 1).includes("/"))) continue;
        if (fd !== undefined) closeSync(fd);
        open.delete(key);
      }
    },
    close() {
      for (const fd of open.values()) if (fd !== undefined) closeSync(fd);
      open.clear();
    },
  };
}

const gone = (path: string): MachineError =>
  new MachineError("CGROUP_GONE", `the cgroup ${path} was removed while the run was using it`);
