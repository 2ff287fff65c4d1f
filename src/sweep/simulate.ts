/**
 * The race in virtual time: processes that grow, a kubelet that polls, a kernel that kills. From event to event, so that
 * a point takes microseconds; what the kubelet decides its own core decides (kubernetes/eviction.ts). Pure.
 */
import { nextHousekeeping, seeded } from "../kubernetes/cadvisor.ts";
import {
  advance,
  decide,
  type EvictablePod,
  type EvictionConfig,
  evictionGraceSeconds,
  initialState,
  type ManagerState,
  type Next,
  type PodStats,
} from "../kubernetes/eviction.ts";
import type { MemorySignal, Threshold } from "../kubernetes/eviction-thresholds.ts";
import { at, type ModelShape, offsetsOf, type Offsets, ofPod, ofProcess, ofThreshold } from "./model.ts";
import type { End, Outcome, Poll } from "./outcome.ts";

/** The kubelet is there before the first process: its first pass, and the polls that follow, are a little earlier. */
const firstPassMs = -60;
/** What a pass takes. */
const passMs = 20;
/** From SIGKILL until a container of some hundred MiB is gone. */
const killMs = 60;

const Phase = { Waiting: 0, Growing: 1, Holding: 2, Ended: 3 } as const;
const Event = { Process: 0, NodeFull: 1, CgroupFull: 2, Kill: 3, Poll: 4 } as const;

/** cAdvisor's clock of one cgroup. */
interface Clock {
  /** The Pod that it is the cgroup of; -1: a container's. */
  pod: number;
  processes: number[];
  /** When it looked last, and what it saw. */
  last: number;
  used: number;
  next: number;
  interval: number | null;
}

const unset = { last: 0, used: 0, next: 0, interval: null };
const noPolls: Poll[] = [];

/** Runs points of one shape; its state is used again by each. */
export class Simulator {
  readonly #shape: ModelShape;
  readonly #offsets: Offsets;
  readonly #phase: Uint8Array;
  readonly #used: Float64Array;
  /** When it began to grow, and when it ended: what it had at any time before follows from them. */
  readonly #began: Float64Array;
  readonly #ended: Float64Array;
  /** When its phase changes by itself. */
  readonly #due: Float64Array;
  readonly #killedBy: Int8Array;
  readonly #cgroupUsed: Float64Array;
  readonly #cgroupRate: Float64Array;
  readonly #evictedPods: Uint8Array;
  readonly #thresholds: { -readonly [K in keyof Threshold]: Threshold[K] }[];
  readonly #pods: { -readonly [K in keyof EvictablePod]: EvictablePod[K] }[];
  readonly #config: EvictionConfig | null;
  readonly #stats = (name: string): PodStats | null => this.#statsOf(name);
  readonly #podPlaces: Map<string, number>;
  #numbers: Float64Array = new Float64Array(0);
  #now = 0;
  #ends: End[] = [];
  #evicted: string[] = [];
  #polls: Poll[] | null = null;
  #course: Poll[] | null = null;
  /** Of each Pod's cgroup, and of those below it. */
  readonly #clocks: Clock[];
  /** For when the clocks were set last. */
  #lookedAt = Number.NaN;
  /** What chance says, draw after draw: the same at all points. */
  readonly #chance: () => number;
  readonly #drawn: number[] = [];
  #state: ManagerState = initialState;
  /** The last pass could evict nobody, nor will the next. */
  #stuck = false;
  /** Until when the kernel tries to reclaim; Infinity: it need not. */
  #stalled = Number.POSITIVE_INFINITY;

  constructor(shape: ModelShape) {
    this.#shape = shape;
    this.#offsets = offsetsOf(shape);
    const { processes, cgroups, pods, thresholds, kubelet } = shape;
    this.#phase = new Uint8Array(processes.length);
    this.#used = new Float64Array(processes.length);
    this.#began = new Float64Array(processes.length);
    this.#ended = new Float64Array(processes.length);
    this.#due = new Float64Array(processes.length);
    this.#killedBy = new Int8Array(processes.length);
    this.#cgroupUsed = new Float64Array(cgroups.length);
    this.#cgroupRate = new Float64Array(cgroups.length);
    this.#evictedPods = new Uint8Array(pods.length);
    this.#thresholds = thresholds.map(({ signal }) => ({
      signal,
      value: { bytes: 0, text: "" },
      gracePeriodMs: 0,
      minReclaim: null,
    }));
    this.#pods = pods.map(({ name, static: isStatic, containers }) => ({
      name,
      static: isStatic,
      priority: null,
      request: 0,
      podRequest: null,
      terminationGracePeriodSeconds: null,
      containers: containers.map((container) => ({ name: container.name, init: false, request: null })),
      volumes: [],
    }));
    this.#podPlaces = new Map(pods.map(({ name }, place) => [name, place]));
    this.#chance = seeded(shape.seed);
    this.#clocks = pods.flatMap(({ processes: all, containers }, pod) => [
      { pod, processes: all, ...unset },
      // A container's own clock draws from the same chance.
      ...containers.map((container) => ({ pod: -1, processes: container.processes, ...unset })),
    ]);
    this.#config = kubelet === null ? null : { ...kubelet, thresholds: this.#thresholds, memcgNotification: false };
  }

  /** One point. `withPolls`: what the kubelet saw is kept too. */
  run(numbers: Float64Array, withPolls = false): Outcome {
    this.#start(numbers, withPolls);
    this.#toTheEnd();
    return {
      ends: this.#ends,
      evicted: this.#evicted,
      polls: this.#polls ?? noPolls,
      course: this.#course ?? noPolls,
      threshold: withPolls ? this.#hardThreshold() : null,
      problem: null,
    };
  }

  #start(numbers: Float64Array, withPolls: boolean): void {
    this.#numbers = numbers;
    this.#now = 0;
    this.#ends = [];
    this.#evicted = [];
    this.#polls = withPolls ? [] : null;
    this.#course = withPolls && this.#shape.kubelet !== null ? [] : null;
    this.#lookedAt = Number.NaN;
    this.#state = initialState;
    this.#stuck = false;
    this.#stalled = Number.POSITIVE_INFINITY;
    this.#used.fill(0);
    this.#began.fill(Number.POSITIVE_INFINITY);
    this.#ended.fill(Number.POSITIVE_INFINITY);
    this.#killedBy.fill(0);
    this.#evictedPods.fill(0);
    this.#phase.fill(Phase.Waiting);
    const { processes } = this.#shape;
    for (let place = 0; place < processes.length; place++)
      this.#due[place] =
        processes[place]!.after.length === 0 ? this.#of(place, ofProcess.delayMs) : Number.POSITIVE_INFINITY;
  }

  #of(process: number, what: number): number {
    return this.#numbers[this.#offsets.processes + process * ofProcess.size + what]!;
  }

  /** In bytes a millisecond. */
  #rateOf(process: number): number {
    return Math.min(this.#of(process, ofProcess.rate), this.#numbers[at.touchRate]!);
  }

  #toTheEnd(): void {
    const numbers = this.#numbers;
    const { processes, cgroups, kubelet } = this.#shape;
    const count = processes.length;
    const timeout = numbers[at.timeoutMs]!;
    const room = numbers[at.room]!;
    let poll = kubelet === null ? Number.POSITIVE_INFINITY : firstPassMs + passMs + 10_000;
    if (this.#polls !== null && kubelet !== null) this.#polls.push(this.#look(0));
    let killAt = Number.POSITIVE_INFINITY;
    let dying = -1;
    for (let guard = 0; guard < 100_000; guard++) {
      // What grows, and what is full first.
      let rate = 0;
      let total = 0;
      let due = Number.POSITIVE_INFINITY;
      let duePlace = -1;
      let pressing = false;
      this.#cgroupUsed.fill(0);
      this.#cgroupRate.fill(0);
      for (let place = 0; place < count; place++) {
        const phase = this.#phase[place]!;
        if (phase === Phase.Ended) continue;
        const process = processes[place]!;
        const used = this.#used[place]!;
        const own = phase === Phase.Growing && this.#stalled === Number.POSITIVE_INFINITY ? this.#rateOf(place) : 0;
        total += used;
        rate += own;
        for (const cgroup of process.limits) {
          this.#cgroupUsed[cgroup]! += used;
          this.#cgroupRate[cgroup]! += own;
        }
        const change =
          phase === Phase.Growing
            ? own > 0
              ? this.#now + (this.#of(place, ofProcess.bytes) - used) / own
              : Number.POSITIVE_INFINITY
            : this.#due[place]!;
        if (change < due) {
          due = change;
          duePlace = place;
        }
        if (phase === Phase.Waiting ? change < Number.POSITIVE_INFINITY : !(process.waits && phase === Phase.Holding))
          pressing = true;
      }
      if (!pressing && dying < 0 && this.#isQuiet(total)) return;
      let when = due;
      let what: number = Event.Process;
      let full = -1;
      if (this.#stalled < when) {
        when = this.#stalled;
        what = Event.NodeFull;
      } else if (rate > 0 && total + rate * (when - this.#now) >= room) {
        when = this.#now + Math.max(0, room - total) / rate;
        what = Event.NodeFull;
      }
      for (let cgroup = 0; cgroup < cgroups.length; cgroup++) {
        const own = this.#cgroupRate[cgroup]!;
        if (own === 0) continue;
        const limit = numbers[this.#offsets.cgroups + cgroup]!;
        const hit = this.#now + Math.max(0, limit - this.#cgroupUsed[cgroup]!) / own;
        if (hit < when) {
          when = hit;
          what = Event.CgroupFull;
          full = cgroup;
        }
      }
      // While the kernel looks for memory the kubelet gets none either, and nowhere.
      if (this.#stalled === Number.POSITIVE_INFINITY) {
        if (killAt <= when) {
          when = Math.max(killAt, this.#now);
          what = Event.Kill;
        }
        if (poll < when) {
          when = Math.max(poll, this.#now);
          what = Event.Poll;
        }
      }
      if (timeout <= when) return;
      if (when === Number.POSITIVE_INFINITY) return;
      this.#advance(when, this.#stalled === Number.POSITIVE_INFINITY);
      switch (what) {
        case Event.Process:
          this.#change(duePlace);
          break;
        case Event.NodeFull:
          if (this.#stalled === Number.POSITIVE_INFINITY && numbers[at.stallMs]! > 0) {
            this.#stalled = when + numbers[at.stallMs]!;
            break;
          }
          this.#stalled = Number.POSITIVE_INFINITY;
          if (!this.#oom(-1)) return;
          if (dying >= 0 && this.#isGone(dying)) killAt = this.#now;
          break;
        case Event.CgroupFull:
          if (!this.#oom(full)) this.#block(full);
          if (dying >= 0 && this.#isGone(dying)) killAt = this.#now;
          break;
        case Event.Kill: {
          this.#endPod(dying);
          killAt = Number.POSITIVE_INFINITY;
          const look: Next = advance({ type: "killed", nowMs: this.#now, pods: [] });
          poll = look.do === "look" ? look.atMs : this.#now;
          dying = -1;
          break;
        }
        case Event.Poll: {
          const victim = this.#pass();
          if (victim === null) poll = this.#now + passMs + 10_000;
          else {
            dying = victim.pod;
            killAt = this.#isGone(dying) ? this.#now : this.#now + victim.graceMs;
            poll = Number.POSITIVE_INFINITY;
          }
          break;
        }
      }
    }
  }

  /** Time goes on: what grows has grown. */
  #advance(when: number, growing: boolean): void {
    const span = when - this.#now;
    if (growing && span > 0)
      for (let place = 0; place < this.#phase.length; place++)
        if (this.#phase[place] === Phase.Growing)
          this.#used[place] = Math.min(
            this.#of(place, ofProcess.bytes),
            this.#used[place]! + span * this.#rateOf(place),
          );
    this.#now = when;
    this.#course?.push(this.#look(this.#total()));
  }

  /** A process begins to grow, has all it wants, or ends by itself. */
  #change(place: number): void {
    switch (this.#phase[place]) {
      case Phase.Waiting:
        this.#phase[place] = Phase.Growing;
        this.#began[place] = this.#now;
        break;
      case Phase.Growing:
        this.#phase[place] = Phase.Holding;
        this.#used[place] = this.#of(place, ofProcess.bytes);
        this.#due[place] = this.#now + this.#of(place, ofProcess.holdMs);
        break;
      case Phase.Holding:
        this.#end(place);
        this.#startFollowers(place);
        break;
      default:
        break;
    }
  }

  #end(place: number): void {
    this.#phase[place] = Phase.Ended;
    this.#ended[place] = this.#now;
    this.#used[place] = 0;
    this.#course?.push(this.#look(this.#total()));
    this.#stuck = false;
    // There is memory again.
    this.#stalled = Number.POSITIVE_INFINITY;
  }

  /** Those that waited for a process which ended with status 0. */
  #startFollowers(ended: number): void {
    const { processes } = this.#shape;
    for (let place = 0; place < processes.length; place++) {
      const { after, pod } = processes[place]!;
      if (!after.includes(ended) || (pod >= 0 && this.#evictedPods[pod] === 1)) continue;
      if (after.every((before) => this.#phase[before] === Phase.Ended && this.#killedBy[before] === 0))
        this.#due[place] = this.#now + this.#of(place, ofProcess.delayMs);
    }
  }

  // the kernel -----------------------------------------------------------------------------------------------------

  /** The OOM killer comes, for the node (-1) or a cgroup; false: nobody is left to kill (mm/oom_kill.c oom_badness). */
  #oom(cgroup: number): boolean {
    const { processes } = this.#shape;
    const total = cgroup < 0 ? this.#numbers[at.capacity]! : this.#numbers[this.#offsets.cgroups + cgroup]!;
    let victim = -1;
    let most = 0;
    for (let place = 0; place < processes.length; place++) {
      if (this.#phase[place] === Phase.Ended) continue;
      // What waits for an init container is not there; what delays is.
      if (this.#phase[place] === Phase.Waiting && this.#due[place] === Number.POSITIVE_INFINITY) continue;
      if (cgroup >= 0 && !processes[place]!.limits.includes(cgroup)) continue;
      const adj = this.#of(place, ofProcess.adj);
      if (adj === -1000) continue;
      const points = Math.max(1, this.#used[place]! + (adj * total) / 1000);
      if (points >= most) {
        most = points;
        victim = place;
      }
    }
    if (victim < 0) return false;
    // The outermost that does not reach beyond what is full (mem_cgroup_get_oom_group).
    const domain = cgroup < 0 ? "" : `${this.#shape.cgroups[cgroup]!.directory}/`;
    const group = processes[victim]!.groups.findLast((directory) => `${directory}/`.startsWith(domain));
    for (let place = 0; place < processes.length; place++) {
      const member =
        place === victim ||
        (group !== undefined && processes[place]!.groups.includes(group) && this.#of(place, ofProcess.adj) !== -1000);
      if (member && this.#phase[place] !== Phase.Ended) this.#kill(place, cgroup < 0 ? "global" : "memcg", cgroup);
    }
    return true;
  }

  #kill(place: number, by: End["by"], limit: number): void {
    this.#end(place);
    this.#killedBy[place] = 1;
    const { processes, cgroups } = this.#shape;
    const process = processes[place]?.name ?? "";
    this.#ends.push({
      by,
      process,
      atMs: Math.round(this.#now),
      limit: limit < 0 ? null : (cgroups[limit]?.name ?? null),
    });
  }

  /** A cgroup at its limit in which nobody may be killed: its processes wait for ever. */
  #block(cgroup: number): void {
    const { processes } = this.#shape;
    for (let place = 0; place < processes.length; place++)
      if (this.#phase[place] === Phase.Growing && processes[place]!.limits.includes(cgroup)) {
        this.#phase[place] = Phase.Holding;
        this.#due[place] = Number.POSITIVE_INFINITY;
      }
  }

  // the kubelet ----------------------------------------------------------------------------------------------------

  #podUsed(pod: number): number {
    let used = 0;
    for (const place of this.#shape.pods[pod]!.processes) used += this.#used[place]!;
    return used;
  }

  #signal(signal: MemorySignal, total: number): { available: number; capacity: number } {
    const numbers = this.#numbers;
    if (signal === "memory.available") {
      const capacity = numbers[at.capacity]!;
      return { capacity, available: Math.max(0, capacity - numbers[at.workingSet]! - total) };
    }
    const capacity = numbers[at.kubepods]!;
    let used = 0;
    for (let pod = 0; pod < this.#pods.length; pod++) used += this.#podUsed(pod);
    return { capacity, available: Math.max(0, capacity - used) };
  }

  #total(): number {
    let total = 0;
    for (let place = 0; place < this.#used.length; place++) total += this.#used[place]!;
    return total;
  }

  #look(total: number): Poll {
    return {
      atMs: Math.round(this.#now),
      available: Math.round(this.#signal("memory.available", total).available),
    };
  }

  /** The first hard threshold of memory.available, in bytes. */
  #hardThreshold(): number | null {
    const { thresholds } = this.#shape;
    for (let place = 0; place < thresholds.length; place++) {
      const offset = this.#offsets.thresholds + place * ofThreshold.size;
      const value = this.#numbers[offset + ofThreshold.value]!;
      if (thresholds[place]!.signal !== "memory.available" || this.#numbers[offset + ofThreshold.graceMs] !== 0)
        continue;
      return thresholds[place]!.share ? Math.trunc(this.#numbers[at.capacity]! * value) : value;
    }
    return null;
  }

  /** Whether no threshold is met as things stand. */
  #anyMet(total: number): boolean {
    const { thresholds } = this.#shape;
    for (let place = 0; place < thresholds.length; place++) {
      const { signal, share } = thresholds[place]!;
      const { available, capacity } = this.#signal(signal, total);
      if (capacity === Number.POSITIVE_INFINITY) continue;
      const value = this.#numbers[this.#offsets.thresholds + place * ofThreshold.size + ofThreshold.value]!;
      if (available < (share ? Math.trunc(capacity * value) : value)) return true;
    }
    return false;
  }

  #isQuiet(total: number): boolean {
    if (this.#config === null || this.#stuck) return true;
    if (!this.#pods.some((_, pod) => this.#isActive(pod))) return true;
    return this.#state.met.length === 0 && !this.#anyMet(total);
  }

  #isActive(pod: number): boolean {
    return this.#evictedPods[pod] === 0 && !this.#isGone(pod);
  }

  #isGone(pod: number): boolean {
    return this.#shape.pods[pod]!.processes.every((place) => this.#phase[place] === Phase.Ended);
  }

  /** A pass of the eviction manager: the Pod that goes, or null. */
  #pass(): { pod: number; graceMs: number } | null {
    const total = this.#total();
    if (this.#polls !== null) this.#polls.push(this.#look(total));
    // Where nothing is met and nothing was, a pass decides nothing.
    if (this.#state === initialState && !this.#anyMet(total)) return null;
    this.#readNumbers();
    const observations: Partial<Record<MemorySignal, { available: number; capacity: number; timeMs: number }>> = {};
    for (const signal of ["memory.available", "allocatableMemory.available"] as const) {
      const { available, capacity } = this.#signal(signal, total);
      if (capacity !== Number.POSITIVE_INFINITY) observations[signal] = { available, capacity, timeMs: this.#now };
    }
    const active = this.#pods.filter((_, pod) => this.#isActive(pod));
    const config = this.#config!;
    const { state, log, ranked, victim, chosen } = decide(
      config,
      this.#state,
      this.#now,
      observations,
      active,
      this.#stats,
    );
    this.#state = state;
    this.#stuck = log !== null;
    const goes = ranked[victim];
    if (!goes || !chosen) return null;
    const pod = this.#podPlaces.get(goes.name) ?? 0;
    this.#evictedPods[pod] = 1;
    this.#evicted.push(goes.name);
    const hard = chosen.threshold.gracePeriodMs === 0;
    const grace = evictionGraceSeconds(config, hard, goes.terminationGracePeriodSeconds);
    return { pod, graceMs: grace * 1000 + killMs };
  }

  /** A Pod's processes go, by the kubelet's signal. */
  #endPod(pod: number): void {
    for (const place of this.#shape.pods[pod]!.processes)
      if (this.#phase[place] !== Phase.Ended) this.#kill(place, "eviction", -1);
  }

  /** The numbers of this point, as the kubelet's core takes them. */
  #readNumbers(): void {
    const { thresholds } = this.#shape;
    for (let place = 0; place < thresholds.length; place++) {
      const { share, reclaimShare } = thresholds[place]!;
      const offset = this.#offsets.thresholds + place * ofThreshold.size;
      const amount = (isShare: boolean, value: number): Threshold["value"] =>
        isShare ? { fraction: value, text: "" } : { bytes: value, text: "0" };
      const threshold = this.#thresholds[place]!;
      threshold.value = amount(share, this.#numbers[offset + ofThreshold.value]!);
      threshold.gracePeriodMs = this.#numbers[offset + ofThreshold.graceMs]!;
      threshold.minReclaim =
        reclaimShare === null ? null : amount(reclaimShare, this.#numbers[offset + ofThreshold.reclaim]!);
    }
    for (let place = 0; place < this.#pods.length; place++) {
      const offset = this.#offsets.pods + place * ofPod.size;
      const pod = this.#pods[place]!;
      const orNull = (value: number): number | null => (Number.isNaN(value) ? null : value);
      pod.request = this.#numbers[offset + ofPod.request]!;
      pod.priority = orNull(this.#numbers[offset + ofPod.priority]!);
      pod.terminationGracePeriodSeconds = orNull(this.#numbers[offset + ofPod.graceSeconds]!);
    }
  }

  // what cAdvisor knows --------------------------------------------------------------------------------------------

  /** A Pod as it was when cAdvisor last looked at it. */
  #statsOf(name: string): PodStats | null {
    const pod = this.#podPlaces.get(name) ?? -1;
    if (this.#lookedAt !== this.#now) this.#keepHouse();
    const clock = this.#clocks.find((candidate) => candidate.pod === pod);
    if (!clock) return null;
    let workingSet = 0;
    for (const place of clock.processes) workingSet += this.#usedAt(place, clock.last);
    return { workingSet, containers: {}, volumes: {} };
  }

  /** The clocks of all cgroups of Pods until now, as the engine's kubelet sets them. */
  #keepHouse(): void {
    this.#lookedAt = this.#now;
    for (const clock of this.#clocks) {
      clock.next = firstPassMs;
      clock.interval = null;
      clock.used = Number.NaN;
    }
    for (let drawn = 0; ; drawn++) {
      let clock = this.#clocks[0];
      for (const other of this.#clocks) if (clock && other.next < clock.next) clock = other;
      if (!clock || clock.next > this.#now) return;
      let used = 0;
      for (const place of clock.processes) used += this.#usedAt(place, clock.next);
      while (this.#drawn.length <= drawn) this.#drawn.push(this.#chance());
      const following = nextHousekeeping(clock.interval, used === clock.used, this.#drawn[drawn]!);
      clock.used = used;
      clock.last = clock.next;
      clock.interval = following.intervalMs;
      clock.next += following.waitMs;
    }
  }

  /** What a process had at a time before now. */
  #usedAt(place: number, time: number): number {
    if (time >= this.#ended[place]! || time <= this.#began[place]!) return 0;
    return Math.min(this.#of(place, ofProcess.bytes), (time - this.#began[place]!) * this.#rateOf(place));
  }
}
