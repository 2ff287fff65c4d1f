/** A node of a scenario file under its path, with the ways to look into it and to note what is wrong there. */
import { isAlias, isMap, isScalar, isSeq, visit } from "yaml";
import type { Alias, Document, LineCounter, Node, YAMLMap } from "yaml";
import { excerpt, nearest, ScenarioError } from "./problem.ts";
import type { Position } from "./types.ts";

export type JsonSchema = { [key: string]: unknown };
/** Named parts of the JSON Schema (`$defs`), collected while it is made. */
export type Defs = Map<string, JsonSchema>;

/** What names can stand for in a scenario; a reference is checked when its whole document has been read. */
export type NameKind = "cgroup" | "process" | "pod";

/** How many nodes aliases may bring in: a bomb multiplies, people do not. */
const MAX_ALIASED = 50_000;
/** How many problems are worth printing for one document. */
const MAX_PROBLEMS = 200;
/** The tags that YAML 1.2 itself gives to plain values. */
const PLAIN_TAG = /^(?:!|tag:yaml\.org,2002:(?:str|int|float|bool|null|map|seq))$/;

/** Another file that a scenario names: its text and its name in messages, or why it cannot be read. */
export type Include = (path: string) => { file: string; text: string } | { problem: string };

/** One document being read: its problems, names and places. */
export class Reader {
  readonly file: string;
  readonly text: string;
  readonly lines: LineCounter;
  problems: ScenarioError[] = [];
  readonly names: Record<NameKind, Set<string>> = { cgroup: new Set(), process: new Set(), pod: new Set() };
  readonly references: { kind: NameKind; name: string; place: Place }[] = [];
  /** Every place that was read: path -> offset in the text. */
  readonly places: Map<string, number> = new Map();
  readonly include: Include;
  readonly #targets: Map<Alias, Node>;
  #aliased: number = 0;
  #bombed: boolean = false;

  constructor(source: { file: string; text: string; lines: LineCounter; include: Include }, document: Document) {
    this.file = source.file;
    this.include = source.include;
    this.text = source.text;
    this.lines = source.lines;
    this.#targets = aliasTargets(document, this.text);
  }

  position(offset: number): Position {
    const { line, col } = this.lines.linePos(offset);
    return { line: Math.max(line, 1), column: Math.max(col, 1) };
  }

  problem(offset: number, path: string, what: string, hint?: string): void {
    if (this.full) return;
    if (this.problems.length === MAX_PROBLEMS - 1)
      [what, hint] = ["too many problems: the rest is not shown", undefined];
    const { line, column } = this.position(offset);
    this.problems.push(
      new ScenarioError({
        file: this.file,
        line,
        column,
        path,
        what,
        hint,
        code: codeLine(this.text, this.lines, line),
      }),
    );
  }

  /** No further problem is taken: there are too many, or a bomb made what follows meaningless. */
  get full(): boolean {
    return this.problems.length >= MAX_PROBLEMS || this.#bombed;
  }

  /** The node an alias stands for; undefined where no such anchor comes before it. */
  resolve(alias: Alias): Node | undefined {
    return this.#targets.get(alias);
  }

  /** Counts a node that was reached through an alias; false: there are too many. */
  countAliased(): boolean {
    this.#aliased += 1;
    return this.#aliased <= MAX_ALIASED;
  }

  /** Tells a bomb, once. */
  bomb(offset: number, path: string): void {
    this.problem(offset, path, `more than ${MAX_ALIASED} values through aliases`);
    this.#bombed = true;
  }
}

/** The text of a line, from 1, without its end. */
function codeLine(text: string, lines: LineCounter, line: number): string {
  const start = lines.lineStarts[line - 1] ?? 0;
  const end = text.indexOf("\n", start);
  return text.slice(start, end < 0 ? undefined : end).replace(/\r$/, "");
}

/** One walk for all aliases: yaml's own resolve() walks the document for each. */
function aliasTargets(document: Document, text: string): Map<Alias, Node> {
  const targets = new Map<Alias, Node>();
  if (!text.includes("*")) return targets;
  const anchors = new Map<string, Node>();
  visit(document, (_key, node) => {
    if (isAlias(node)) {
      const target = anchors.get(node.source);
      if (target !== undefined) targets.set(node, target);
    } else if ((isMap(node) || isSeq(node) || isScalar(node)) && node.anchor !== undefined)
      anchors.set(node.anchor, node);
  });
  return targets;
}

export interface Entry {
  key: string;
  /** The place of the key. */
  at: Place;
  value: Place;
}

export type ScalarKind = "text" | "number" | "boolean" | "nothing";

/** A node of the document under its path, with the ways to look into it. */
export class Place {
  readonly reader: Reader;
  readonly path: string;
  readonly node: Node | null;
  /** Where problems here are shown. */
  readonly offset: number;
  readonly #aliased: boolean;
  /** It has been told that nothing can be read here. */
  #broken: boolean = false;
  #entries: Entry[] | undefined;

  constructor(reader: Reader, node: unknown, path: string, fallback: number, aliased = false) {
    this.reader = reader;
    this.path = path;
    this.offset = rangeStart(node) ?? fallback;
    this.#aliased = aliased || isAlias(node);
    const target = isAlias(node) ? reader.resolve(node) : node;
    this.node = isMap(target) || isSeq(target) || isScalar(target) ? target : null;
    reader.places.set(path, this.offset);
    if (aliased && !reader.countAliased()) reader.bomb(this.offset, path);
    else if (isAlias(node) && target === undefined) {
      this.#break(`*${node.source} stands for nothing: no &${node.source} before it`);
    } else if (this.node?.tag !== undefined && !PLAIN_TAG.test(this.node.tag)) {
      this.#break("expected a value without a tag");
    }
  }

  #break(what: string): void {
    this.wrong(what);
    this.#broken = true;
  }

  get position(): Position {
    return this.reader.position(this.offset);
  }

  get isMap(): boolean {
    return isMap(this.node);
  }

  get isList(): boolean {
    return isSeq(this.node);
  }

  /** Nothing has been noted here or below. */
  get sound(): boolean {
    if (this.path === "") return this.reader.problems.length === 0;
    return !this.reader.problems.some(
      ({ path }) => path.startsWith(this.path) && /^(?:$|[.[])/.test(path.slice(this.path.length)),
    );
  }

  get isNothing(): boolean {
    return this.scalar()?.kind === "nothing";
  }

  /** What stands here, for messages. */
  get found(): string {
    if (isMap(this.node)) return "a mapping";
    if (isSeq(this.node)) return "a list";
    const range = this.node?.range;
    const written = range ? excerpt(this.reader.text.slice(range[0], range[1])) : "";
    return written === "" || this.isNothing ? "nothing" : written;
  }

  /** Notes what is wrong here. */
  wrong(what: string, hint?: string): undefined {
    if (!this.#broken) this.reader.problem(this.offset, this.path, what, hint);
  }

  /** Notes that something else was expected here. */
  expected(expected: string, hint?: string): undefined {
    return this.wrong(`expected ${expected}; got ${this.found}`, hint);
  }

  /** Notes a text that names its place itself, as the API server's do. */
  tell(text: string, hint?: string): undefined {
    if (!this.#broken) this.reader.problem(this.offset, "", text, hint);
  }

  nearest(wrong: string, right: Iterable<string>): string | undefined {
    return nearest(wrong, right);
  }

  /** The value as its kind and its text as written (unquoted); undefined where it is no scalar. */
  scalar(): { kind: ScalarKind; text: string } | undefined {
    const { node } = this;
    if (node === null) return { kind: "nothing", text: "" };
    if (!isScalar(node)) return undefined;
    const { value, source } = node;
    if (typeof value === "string") return { kind: "text", text: value };
    const text = source ?? String(value);
    return { kind: value === null ? "nothing" : typeof value === "boolean" ? "boolean" : "number", text };
  }

  items(): Place[] {
    if (!isSeq(this.node) || this.#broken || this.reader.full) return [];
    return this.node.items.map(
      (item, index) => new Place(this.reader, item, `${this.path}[${index}]`, this.offset, this.#aliased),
    );
  }

  /** The pairs of a mapping; keys that are no plain text and keys that stand twice are noted and left out. */
  entries(): Entry[] {
    this.#entries ??= this.#readEntries();
    return this.#entries;
  }

  #readEntries(): Entry[] {
    const entries = new Map<string, Entry>();
    if (isMap(this.node) && !this.#broken) this.#collect(this.node, this.#aliased, entries, []);
    return [...entries.values()];
  }

  /** The pairs of a mapping, then those of the mappings that it merges (`<<`): what it says itself counts. */
  #collect(map: YAMLMap, aliased: boolean, entries: Map<string, Entry>, above: readonly YAMLMap[]): void {
    if (this.reader.full) return;
    const own = new Map<string, Entry>();
    const merged: [node: unknown, offset: number][] = [];
    for (const pair of map.items) {
      const { key: keyNode, value } = pair;
      const keyOffset = rangeStart(keyNode) ?? this.offset;
      if (!isScalar(keyNode) || keyNode.value === null) {
        this.reader.problem(keyOffset, this.path, "expected a key of plain text");
        continue;
      }
      const key = typeof keyNode.value === "string" ? keyNode.value : (keyNode.source ?? "");
      const path = this.path === "" ? key : `${this.path}.${key}`;
      if (key === "<<" && keyNode.type === "PLAIN") {
        const target = isAlias(value) ? this.reader.resolve(value) : value;
        for (const node of isSeq(target) ? target.items : [value]) merged.push([node, keyOffset]);
        continue;
      }
      const first = own.get(key);
      if (first !== undefined) {
        this.reader.problem(keyOffset, path, `the key stands twice; first in line ${first.at.position.line}`);
        continue;
      }
      if (entries.has(key)) continue;
      const at = new Place(this.reader, keyNode, path, keyOffset, aliased);
      own.set(key, {
        key,
        at,
        value: new Place(this.reader, value, path, endOf(keyNode) ?? keyOffset, aliased),
      });
    }
    for (const [key, entry] of own) entries.set(key, entry);
    for (const [node, offset] of merged) {
      const target = isAlias(node) ? this.reader.resolve(node) : node;
      if (!isMap(target))
        this.reader.problem(offset, this.path, "expected << to name a mapping, or a list of them", "such as <<: *name");
      else if (target === map || above.includes(target))
        this.reader.problem(offset, this.path, "a mapping cannot merge itself");
      else this.#collect(target, true, entries, [...above, map]);
    }
  }
}

function rangeStart(node: unknown): number | undefined {
  return isMap(node) || isSeq(node) || isScalar(node) || isAlias(node) ? node.range?.[0] : undefined;
}

function endOf(node: Node): number | undefined {
  return node.range?.[1];
}
