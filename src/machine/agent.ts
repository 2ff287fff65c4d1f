/**
 * The agent's protocol, both ends: NDJSON over one duplex channel. A guest greets, is prepared, gets a plan, streams its
 * events. Elsewhere its channel is standard input and output: it is asked what it can do, then given plans.
 */
import type { Capabilities, CgroupVersion, Plan, VmSpec } from "../plan.ts";
import type { RunEventBody } from "../record.ts";

/** From the host to the agent. */
export type Order =
  /** Becomes the machine that plans of this shape run on; `rehearsal`: is run first and told to nobody, for a snapshot. */
  | { type: "prepare"; vm: VmSpec; cgroupVersion: CgroupVersion; rehearsal: Plan | null }
  /** Asks for the greeting again: who comes later has missed it. */
  | { type: "greet" }
  /** Asks what a container can do: its plans are made from that. */
  | { type: "probe" }
  | {
      type: "run";
      plan: Plan;
      /** The host's wall clock: a guest restored from a snapshot stands in the past. */
      now: number;
    }
  | { type: "interrupt"; reason: string };

/** From the agent to the host. */
export type Answer =
  | { type: "hello"; protocol: number }
  /** Waits for its plan: what a snapshot holds. */
  | { type: "prepared" }
  | { type: "capabilities"; capabilities: Capabilities }
  | { type: "ready"; capabilities: Capabilities }
  | { type: "event"; event: RunEventBody }
  /** Everything has been said of a plan. */
  | { type: "done" };

export const agentProtocol = 3;

export const encode = (message: Order | Answer): string => `${JSON.stringify(message)}\n`;

/** Cuts what comes in into lines; what is half a line waits for its rest. Of a line longer than `most` the beginning is kept. */
export function lineSplitter(
  take: (line: string) => void,
  most: number = Number.POSITIVE_INFINITY,
): { push(text: string): void; rest(): string } {
  let rest = "";
  return {
    push(text) {
      const lines = (rest + text).split("\n");
      rest = (lines.pop() ?? "").slice(0, most);
      for (const line of lines) take(line.slice(0, most));
    },
    rest: () => rest,
  };
}

/** One line of the channel, or null where it is none of ours: a torn one, or noise. */
export function decode(line: string): Order | Answer | null {
  try {
    const message = JSON.parse(line) as unknown;
    return typeof message === "object" && message !== null && typeof (message as { type?: unknown }).type === "string"
      ? (message as Order | Answer)
      : null;
  } catch {
    return null;
  }
}
