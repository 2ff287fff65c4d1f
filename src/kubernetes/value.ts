/** What a manifest or a KubeletConfiguration is read from: a tree of values that know their place in a file. */

export interface ValueEntry {
  key: string;
  /** The place of the key. */
  at: Value;
  value: Value;
}

export interface Value {
  /** Where it stands in its file: `spec.containers[0].resources`. */
  readonly path: string;
  readonly position: { line: number; column: number };
  readonly isMap: boolean;
  readonly isList: boolean;
  readonly isNothing: boolean;
  /** What stands here, for messages. */
  readonly found: string;
  /** The pairs of a mapping; [] where it is none. */
  entries(): readonly ValueEntry[];
  /** The items of a list; [] where it is none. */
  items(): readonly Value[];
  /** Kind and text as written (unquoted); undefined where it is no scalar. */
  scalar(): { kind: "text" | "number" | "boolean" | "nothing"; text: string } | undefined;
  /** Notes what is wrong here; the message names the path. */
  wrong(what: string, hint?: string): undefined;
  /** Notes a text that names its place itself. */
  tell(text: string, hint?: string): undefined;
  /** The right name nearest to a wrong one. */
  nearest(wrong: string, right: Iterable<string>): string | undefined;
}

/** The value of a key; undefined where the key is absent or stands for nothing. */
export function at(value: Value | undefined, key: string): Value | undefined {
  const found = value?.entries().find((entry) => entry.key === key)?.value;
  return found === undefined || found.isNothing ? undefined : found;
}

/** The hint for a wrong name; undefined where none is near. */
export function didYouMean(value: Value, wrong: string, right: Iterable<string>): string | undefined {
  const near = value.nearest(wrong, right);
  return near === undefined ? undefined : `did you mean ${near}?`;
}
