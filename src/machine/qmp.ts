/** QEMU's monitor, as far as a snapshot needs it (QEMU Machine Protocol: docs/interop/qmp-spec.txt). */
import type { Socket } from "node:net";
import { MachineError } from "../errors.ts";
import { lineSplitter } from "./agent.ts";

export interface Monitor {
  /** One command; its answer. Throws MachineError with QEMU's own words where it refuses, or where QEMU ends. */
  execute(command: string, args?: Record<string, unknown>): Promise<unknown>;
  /** Resolves to the data of the next event of a name for which `wanted` holds. */
  event(name: string, wanted: (data: Record<string, unknown>) => boolean): Promise<Record<string, unknown>>;
}

interface Message {
  QMP?: unknown;
  id?: number;
  return?: unknown;
  error?: { class: string; desc: string };
  event?: string;
  data?: Record<string, unknown>;
}

interface Waiting<T> {
  resolve(value: T): void;
  reject(error: Error): void;
}

const gone = (): MachineError => new MachineError("QMP", "QEMU ended while it was asked");

/** Speaks with QEMU over its end of a socket pair; greets it first. */
export function openMonitor(socket: Socket): Monitor {
  const commands = new Map<number, Waiting<unknown> & { command: string }>();
  const events = new Set<
    Waiting<Record<string, unknown>> & { name: string; wanted(data: Record<string, unknown>): boolean }
  >();
  let last = 0;
  let closed = false;
  const take = (line: string): void => {
    const message = JSON.parse(line) as Message;
    if (message.event !== undefined) {
      const data = message.data ?? {};
      for (const waiting of events)
        if (waiting.name === message.event && waiting.wanted(data)) {
          events.delete(waiting);
          waiting.resolve(data);
        }
      return;
    }
    const waiting = message.id === undefined ? undefined : commands.get(message.id);
    if (message.id === undefined || waiting === undefined) return;
    commands.delete(message.id);
    if (message.error)
      waiting.reject(new MachineError("QMP", `QEMU refuses ${waiting.command}: ${message.error.desc}`));
    else waiting.resolve(message.return);
  };
  const lines = lineSplitter(take);
  socket.on("data", (text: string) => lines.push(text));
  socket.once("close", () => {
    closed = true;
    for (const waiting of [...commands.values(), ...events]) waiting.reject(gone());
    commands.clear();
    events.clear();
  });
  const send = (command: string, args: Record<string, unknown> = {}): Promise<unknown> =>
    new Promise((resolve, reject) => {
      if (closed) return reject(gone());
      const id = ++last;
      commands.set(id, { command, resolve, reject });
      socket.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`);
    });
  const ready = send("qmp_capabilities");
  // Told by the first command that waits for it.
  ready.catch(() => undefined);
  return {
    async execute(command, args) {
      await ready;
      return send(command, args);
    },
    event: (name, wanted) =>
      new Promise((resolve, reject) => {
        if (closed) return reject(gone());
        events.add({ name, wanted, resolve, reject });
      }),
  };
}
