/** This machine for a command in the foreground: what it needs and no other machine, since a command is not to wait. */
export { forwardSignals } from "../engine/foreground.ts";
export { startGuard } from "../engine/guard.ts";
export { hostMachine } from "./host.ts";
