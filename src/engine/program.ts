/** Runs a program of the system's to its end. Throws an Error with its own words where it fails. */
export function runProgram(program: string, ...args: string[]): void {
  // Loaded where it is needed: under emulation that takes a guest 0.15 s, and most guests run no such program.
  const { execFileSync } = process.getBuiltinModule("node:child_process");
  try {
    execFileSync(program, args, { stdio: ["ignore", "ignore", "pipe"], encoding: "utf8" });
  } catch (error) {
    const words = ((error as { stderr?: string }).stderr ?? "").trim();
    throw new Error(words || (error as Error).message, { cause: error });
  }
}
