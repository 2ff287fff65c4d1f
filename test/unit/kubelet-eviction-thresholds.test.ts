import { describe, expect, test } from "vitest";
import {
  type EvictionSettings,
  parseGoDuration,
  parseThresholds,
  type Threshold,
  thresholdBytes,
  thresholdText,
} from "../../src/kubernetes/eviction-thresholds.ts";

const newest = 36;
const parse = (settings: EvictionSettings, minor = newest): ReturnType<typeof parseThresholds> =>
  parseThresholds(settings, minor);
const firstProblem = (settings: EvictionSettings, minor = newest): string | undefined =>
  parse(settings, minor).problems[0]?.message;
const shown = ({ signal, value, gracePeriodMs }: Threshold): string => `${signal}<${value.text} ${gracePeriodMs}`;

describe("which thresholds a node has", () => {
  test("without a word about it: 100Mi, for the node and for all Pods together", () => {
    expect(parse({}).thresholds.map(shown)).toEqual([
      "memory.available<100Mi 0",
      "allocatableMemory.available<100Mi 0",
    ]);
  });

  test("a hard threshold for anything drops the default for memory", () => {
    const { thresholds, ignored } = parse({ evictionHard: { "nodefs.available": "5%" } });
    expect(thresholds).toEqual([]);
    expect(ignored).toEqual(["nodefs.available"]);
  });

  test("unless a kubelet from 1.33 on merges the defaults in", () => {
    const settings = { evictionHard: { "nodefs.available": "5%" }, mergeDefaultEvictionSettings: true };
    expect(parse(settings, 33).thresholds.map(shown)).toEqual([
      "memory.available<100Mi 0",
      "allocatableMemory.available<100Mi 0",
    ]);
    expect(parse(settings, 32).thresholds).toEqual([]);
  });

  test("an empty evictionHard is none at all", () => {
    expect(parse({ evictionHard: {} }).thresholds).toEqual([]);
  });

  test.each(["0%", "100%"])("%s turns a threshold off", (text) => {
    expect(parse({ evictionHard: { "memory.available": text } })).toEqual({
      thresholds: [],
      ignored: [],
      problems: [],
    });
  });

  test("soft thresholds get their grace and are not copied for all Pods together", () => {
    const { thresholds } = parse({
      evictionHard: { "memory.available": "100Mi" },
      evictionSoft: { "memory.available": "300Mi" },
      evictionSoftGracePeriod: { "memory.available": "1m30s" },
    });
    expect(thresholds.map(shown)).toEqual([
      "memory.available<100Mi 0",
      "memory.available<300Mi 90000",
      "allocatableMemory.available<100Mi 0",
    ]);
  });

  test("a soft threshold with a grace of 0 is a hard one, copy and all", () => {
    const { thresholds } = parse({
      evictionHard: {},
      evictionSoft: { "memory.available": "300Mi" },
      evictionSoftGracePeriod: { "memory.available": "0s" },
    });
    expect(thresholds.map(shown)).toEqual(["memory.available<300Mi 0", "allocatableMemory.available<300Mi 0"]);
  });

  test("no copy where the limit of all Pods is not enforced", () => {
    expect(parse({ enforceNodeAllocatable: ["none"] }).thresholds.map(shown)).toEqual(["memory.available<100Mi 0"]);
    expect(parse({ enforceNodeAllocatable: [] }).thresholds.map(shown)).toEqual(["memory.available<100Mi 0"]);
  });

  test("the minimum reclaim goes to every threshold of its signal, the copy too", () => {
    const { thresholds } = parse({
      evictionMinimumReclaim: { "memory.available": "50Mi", "nodefs.available": "1Gi" },
    });
    expect(thresholds.map(({ minReclaim }) => minReclaim)).toEqual([
      { bytes: 52428800, text: "50Mi" },
      { bytes: 52428800, text: "50Mi" },
    ]);
  });

  test("containerfs is a signal since 1.29", () => {
    const settings = { evictionHard: { "containerfs.available": "5%" } };
    expect(firstProblem(settings, 29)).toBeUndefined();
    expect(firstProblem(settings, 28)).toBe("unsupported eviction signal containerfs.available");
  });
});

describe("what a threshold is in bytes", () => {
  const value = (text: string): Threshold["value"] => {
    const [first] = parse({ evictionHard: { "memory.available": text } }).thresholds;
    if (!first) throw new Error(`${text} gives no threshold`);
    return first.value;
  };

  test.each([
    ["100Mi", 104857600, "100Mi"],
    ["0.1Gi", 107374183, "107374182400m"],
    ["1.5Gi", 1610612736, "1536Mi"],
    ["1e8", 100000000, "100e6"],
  ])("%s", (text, bytes, printed) => {
    expect(thresholdBytes(value(text), 8589934592)).toBe(bytes);
    expect(thresholdText(value(text), 8589934592)).toBe(printed);
  });

  test.each([
    // float32(0.1) is 0.100000001490116..., so a share can be a little more than itself, and is then cut.
    ["10%", 8589934592, 858993472, "858993472"],
    ["10%", 1000000007, 100000002, "100000002"],
    ["5%", 8000000000, 400000005, "400000005"],
    ["12.5%", 8589934592, 1073741824, "1Gi"],
    ["0.5%", 1000, 4, "4"],
    ["1e1%", 1000, 100, "100"],
  ])("%s of %i is a float32's product, cut", (text, capacity, bytes, printed) => {
    expect(thresholdBytes(value(text), capacity)).toBe(bytes);
    expect(thresholdText(value(text), capacity)).toBe(printed);
  });
});

describe("what the kubelet says of bad thresholds", () => {
  const soft = (grace: string | null): EvictionSettings => ({
    evictionSoft: { "memory.available": "1Gi" },
    evictionSoftGracePeriod: grace === null ? {} : { "memory.available": grace },
  });
  test.each<[EvictionSettings, string]>([
    [{ evictionHard: { "memory.free": "1Gi" } }, "unsupported eviction signal memory.free"],
    [{ evictionSoftGracePeriod: { mem: "1s" } }, "unsupported eviction signal mem"],
    [{ evictionMinimumReclaim: { mem: "1Mi" } }, "unsupported eviction signal mem"],
    [{ evictionHard: { "memory.available": "-1" } }, "eviction threshold memory.available must be positive: -1"],
    [{ evictionHard: { "memory.available": "-1Mi" } }, "eviction threshold memory.available must be positive: -1Mi"],
    [{ evictionHard: { "memory.available": "0" } }, "eviction threshold memory.available must be positive: 0"],
    [
      { evictionHard: { "memory.available": "-5%" } },
      "eviction percentage threshold memory.available must be >= 0%: -5%",
    ],
    [
      { evictionHard: { "memory.available": "101%" } },
      "eviction percentage threshold memory.available must be <= 100%: 101%",
    ],
    [{ evictionHard: { "memory.available": "ten%" } }, 'strconv.ParseFloat: parsing "ten": invalid syntax'],
    [{ evictionHard: { "memory.available": "%" } }, 'strconv.ParseFloat: parsing "": invalid syntax'],
    [{ evictionHard: { "memory.available": "100mi" } }, "unable to parse quantity's suffix"],
    [
      { evictionHard: { "memory.available": "lots" } },
      "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
    ],
    [soft(null), "grace period must be specified for the soft eviction threshold memory.available"],
    [soft("-5s"), "invalid eviction grace period specified: -5s, must be a positive value"],
    [soft("90"), 'time: missing unit in duration "90"'],
    [soft("2d"), 'time: unknown unit "d" in duration "2d"'],
    [soft("soon"), 'time: invalid duration "soon"'],
    [soft(""), 'time: invalid duration ""'],
    [
      { evictionMinimumReclaim: { "memory.available": "-1Mi" } },
      "negative eviction minimum reclaim specified for memory.available",
    ],
    [
      { evictionMinimumReclaim: { "memory.available": "0%" } },
      "eviction percentage minimum reclaim memory.available must be positive: 0%",
    ],
  ])("%j: %s", (settings, message) => {
    expect(firstProblem(settings)).toBe(message);
    expect(parse(settings).thresholds).toEqual([]);
  });

  test("the problem says where it stands", () => {
    expect(parse({ evictionSoft: { "nodefs.available": "10%" } }).problems).toEqual([
      {
        field: "evictionSoft",
        signal: "nodefs.available",
        message: "grace period must be specified for the soft eviction threshold nodefs.available",
      },
    ]);
  });

  test("a minimum reclaim of 0 and a soft threshold that is off need nothing", () => {
    expect(
      parse({ evictionSoft: { "memory.available": "0%" }, evictionMinimumReclaim: { "memory.available": "0" } })
        .problems,
    ).toEqual([]);
  });
});

test.each([
  ["1m30s", 90_000],
  ["1.5h", 5_400_000],
  ["0", 0],
  ["-2s", -2_000],
  ["+2s", 2_000],
  [".5s", 500],
  ["1h2m3s4ms", 3_723_004],
  ["100us", 0.1],
])("Go's duration %s is %d ms", (text, ms) => {
  expect(parseGoDuration(text)).toBeCloseTo(ms, 9);
});
