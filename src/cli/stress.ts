/** `oomlab stress`: the native worker, its flags, its output, its exit status. */
import { constants } from "node:os";
import { OomlabError } from "../errors.ts";
import { loadAddon, stressPath } from "../native.ts";

const forwarded: NodeJS.Signals[] = ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"];

export async function stress(argv: string[]): Promise<number> {
  try {
    return await run(argv);
  } catch (error) {
    if (!(error instanceof OomlabError)) throw error;
    process.stderr.write(`oomlab: ${error.message}\n${error.hint ? `  ${error.hint}\n` : ""}`);
    return error.exitCode;
  }
}

function run(argv: string[]): Promise<number> {
  const addon = loadAddon();
  const child = addon.spawn({
    file: stressPath(),
    args: ["stress", ...argv],
    env: Object.entries(process.env).map(([key, value]) => `${key}=${value}`),
    stdio: [0, 1, 2],
    pdeathsig: 9,
  });
  // A terminal's Ctrl-C reaches the worker too; what only we were sent is passed on.
  const numbers = constants.signals;
  for (const signal of forwarded) process.on(signal, () => addon.signal(child, numbers[signal]));
  return new Promise((resolve) => {
    addon.onExit(child, ({ code, signal }) => {
      if (signal === null) return resolve(code ?? 1);
      // Ends as the worker did, so that a shell sees the same.
      for (const name of forwarded) process.removeAllListeners(name);
      process.kill(process.pid, signal);
    });
  });
}
