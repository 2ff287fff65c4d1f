/** `oomlab stress`: the native worker, its flags, its output, its exit status. */
import { spawn } from "node:child_process";
import { stressPath } from "../native.ts";
import { OomlabError } from "../errors.ts";

export async function stress(argv: string[]): Promise<number> {
  let path: string;
  try {
    path = stressPath();
  } catch (error) {
    if (!(error instanceof OomlabError)) throw error;
    process.stderr.write(`oomlab: ${error.message}\n${error.hint ? `  ${error.hint}\n` : ""}`);
    return error.exitCode;
  }
  const child = spawn(path, argv, { argv0: "stress", stdio: "inherit" });
  const forwarded: NodeJS.Signals[] = ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"];
  // A terminal's Ctrl-C reaches the child too; what only we were sent is passed on.
  for (const signal of forwarded) process.on(signal, () => child.kill(signal));
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("exit", (code, signal) => {
      if (signal === null) return resolve(code ?? 1);
      // Ends as the worker did, so that a shell sees the same.
      for (const name of forwarded) process.removeAllListeners(name);
      process.kill(process.pid, signal);
    });
  });
}
