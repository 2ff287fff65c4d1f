/** The points of a sweep answered by the model alone. Pure. */
import { UsageError } from "../errors.ts";
import { type Capabilities, type CgroupVersion, planScenario, turnsOf } from "../plan.ts";
import type { Scenario } from "../scenario/index.ts";
import { type Model, modelOf, type NodeModel } from "./model.ts";
import type { Outcome } from "./outcome.ts";
import { Simulator } from "./simulate.ts";
import { type Axis, type Point, pointsOf, type SweptScenario } from "./vary.ts";

export interface PredictOptions {
  cgroupVersion?: CgroupVersion;
  timeoutMs?: number;
  /** What of the node the model goes by; default: oomlab's own VM. */
  node?: Partial<NodeModel>;
  /** Keep what the kubelet saw. */
  polls?: boolean;
}

/** A machine that can do all that a plan may ask for. */
const anyMachine: Capabilities = {
  kernel: "",
  cpus: 1024,
  uid: 0,
  memTotal: 2 ** 46,
  memAvailable: 2 ** 53,
  swapTotal: 0,
  hierarchies: [],
  memoryController: 2,
  hybrid: false,
  cgroupProblems: {},
  kernelLog: "kmsg",
  kmsgProblem: null,
  capabilities: [],
  oomScoreAdj: 0,
  hugetlbFree: 2 ** 46,
  oomKillers: [],
  systemd: null,
  initPidNamespace: true,
};

/** The one scenario that a point is: a manifest of which nothing says what presses presses one container. Throws UsageError for more. */
export function onlyTurn(scenario: Scenario): Scenario {
  const [turn = scenario, ...others] = turnsOf(scenario);
  if (others.length > 0)
    throw new UsageError(
      `${scenario.name} presses ${others.length + 1} containers in turn, and a sweep looks at one run`,
      { hint: "say in a scenario what presses: pods: [{ manifest: pod.yaml, pressure: { app: { stress: ... } } }]" },
    );
  return turn;
}

/** A scenario as the model sees it; a text: why it does not. */
function modelled(scenario: Scenario, options: PredictOptions): Model | string {
  const plan = planScenario(onlyTurn(scenario), anyMachine, {
    runId: "model",
    machine: "vm",
    ...(options.cgroupVersion === undefined ? {} : { cgroupVersion: options.cgroupVersion }),
    ...(options.timeoutMs === undefined ? {} : { timeoutMs: options.timeoutMs }),
  });
  return plan.skip ?? modelOf(plan, options.node);
}

/**
 * Each point of the grid with its outcome, in the grid's order. Where the axes leave each other alone a point is put
 * together from numbers; else it is planned. Throws as `swept.at` does for a value that is no good.
 */
export function* predict(
  swept: SweptScenario,
  axes: readonly Axis[],
  options: PredictOptions = {},
): Generator<{ point: Point; outcome: Outcome }> {
  const simulators = new Map<string, Simulator>();
  const simulate = ({ shape, numbers }: Model): Outcome => {
    const key = JSON.stringify(shape);
    let simulator = simulators.get(key);
    if (!simulator) simulators.set(key, (simulator = new Simulator(shape)));
    return simulator.run(numbers, options.polls);
  };
  const planned = (places: readonly number[]): Model | string =>
    modelled(swept.at(axes.map(({ values }, axis) => values[places[axis] ?? 0] ?? "")).scenario, options);
  const fast = separate(axes, planned);
  if (fast) {
    const simulator = new Simulator(fast.shape);
    for (const point of pointsOf(axes)) yield { point, outcome: simulator.run(fast.at(point.places), options.polls) };
    return;
  }
  for (const point of pointsOf(axes)) {
    const model = planned(point.places);
    yield { point, outcome: typeof model === "string" ? unknown(model) : simulate(model) };
  }
}

const unknown = (problem: string): Outcome => ({
  ends: [],
  evicted: [],
  polls: [],
  course: [],
  threshold: null,
  problem,
});

/** Below so many points each is planned: that is exact, and fast enough. */
const fewPoints = 64;
/** So many values of an axis are planned to see what of the numbers it moves, and how. */
const probes = 9;
/** Sizes are rounded to pages. */
const page = 4096;

interface Separate {
  shape: Model["shape"];
  /** The numbers of a point; the same array each time. */
  at(places: readonly number[]): Float64Array;
}

interface Movement {
  /** Which of the numbers it moves. */
  slots: number[];
  /** What they are at each of its values, slot after slot. */
  values: Float64Array;
}

/** The grid as numbers, where each axis moves its own and no other; null: it must be planned point by point. */
function separate(axes: readonly Axis[], planned: (places: readonly number[]) => Model | string): Separate | null {
  const count = axes.reduce((product, { values }) => product * values.length, 1);
  if (count < fewPoints) return null;
  const origin = axes.map(() => 0);
  const base = planned(origin);
  if (typeof base === "string") return null;
  const shape = JSON.stringify(base.shape);
  const movements: Movement[] = [];
  for (const [axis, { numbers, values }] of axes.entries()) {
    const alone = (place: number): Model | null => {
      const model = planned(origin.map((_, other) => (other === axis ? place : 0)));
      return typeof model === "string" || JSON.stringify(model.shape) !== shape ? null : model;
    };
    const movement = movementOf(base, numbers, values.length, alone);
    if (movement === null) return null;
    movements.push(movement);
  }
  const moved = movements.flatMap(({ slots }) => slots);
  if (new Set(moved).size < moved.length) return null;
  const numbers = Float64Array.from(base.numbers);
  const at = (places: readonly number[]): Float64Array => {
    for (const [axis, { slots, values }] of movements.entries()) {
      const from = (places[axis] ?? 0) * slots.length;
      for (const [index, slot] of slots.entries()) numbers[slot] = values[from + index] ?? 0;
    }
    return numbers;
  };
  // The far corner and the middle tell whether axes that move different numbers also do so together.
  const corners = [axes.map(({ values }) => values.length - 1), axes.map(({ values }) => values.length >> 1)];
  for (const places of corners) {
    const model = planned(places);
    if (typeof model === "string" || JSON.stringify(model.shape) !== shape) return null;
    const made = at(places);
    if (!model.numbers.every((value, slot) => isNear(value, made[slot] ?? 0))) return null;
  }
  return { shape: base.shape, at };
}

const isNear = (a: number, b: number): boolean =>
  Object.is(a, b) || Math.abs(a - b) <= Math.max(1e-9 * Math.abs(a), Math.abs(a) > 256 * page ? page : 0);

/** What an axis moves: planned at some of its values, and where that is a straight line taken from it between them. */
function movementOf(
  base: Model,
  numbers: readonly number[],
  count: number,
  alone: (place: number) => Model | null,
): Movement | null {
  const places =
    count <= probes
      ? Array.from({ length: count }, (_, place) => place)
      : Array.from({ length: probes }, (_, index) => Math.round((index * (count - 1)) / (probes - 1)));
  const models = new Map<number, Model>();
  for (const place of places) {
    const model = alone(place);
    if (model === null) return null;
    models.set(place, model);
  }
  const slots = base.numbers.reduce<number[]>((found, value, slot) => {
    if ([...models.values()].some((model) => !Object.is(model.numbers[slot], value))) found.push(slot);
    return found;
  }, []);
  const values = new Float64Array(count * slots.length);
  const last = count - 1;
  const [low = 0, high = 0] = [numbers[0], numbers[last]];
  const lines = slots.map((slot) => {
    const first = base.numbers[slot] ?? 0;
    return { slot, first, slope: ((models.get(last)?.numbers[slot] ?? 0) - first) / (high - low) };
  });
  const straight = lines.every(({ slot, first, slope }) =>
    [...models].every(([place, model]) =>
      isNear(model.numbers[slot] ?? 0, first + slope * ((numbers[place] ?? 0) - low)),
    ),
  );
  for (let place = 0; place < count; place++) {
    const model = models.get(place) ?? (straight ? null : alone(place));
    if (model === null && !straight) return null;
    const beyond = (numbers[place] ?? 0) - low;
    for (let index = 0; index < lines.length; index++) {
      const { slot = 0, first = 0, slope = 0 } = lines[index] ?? {};
      values[place * lines.length + index] = model === null ? first + slope * beyond : (model.numbers[slot] ?? 0);
    }
  }
  return { slots, values };
}
