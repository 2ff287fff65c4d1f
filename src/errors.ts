/** What every error of oomlab's own has: a code for programs, a hint for people, an exit status for the shell. */
export class OomlabError extends Error {
  readonly code: string;
  /** What to do next, in words. */
  readonly hint: string | undefined;
  /** Exit status of the command line (design: 2 wrong input, 3 the machine cannot). */
  readonly exitCode: number;

  constructor(code: string, message: string, options: { hint?: string; exitCode?: number; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = new.target.name;
    this.code = code;
    this.hint = options.hint;
    this.exitCode = options.exitCode ?? 3;
  }
}

/** The command line was wrong: exit status 2. */
export class UsageError extends OomlabError {
  constructor(message: string, options: { hint?: string } = {}) {
    super("USAGE", message, { ...options, exitCode: 2 });
  }
}

/** The machine cannot do what was asked: exit status 3. */
export class MachineError extends OomlabError {}
