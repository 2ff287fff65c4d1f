import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  formatBytes,
  formatDuration,
  formatLimit,
  MAX_DURATION_MS,
  MAX_SIZE,
  parseDuration,
  parseLimit,
  parsePercent,
  parseQuantity,
  parseRate,
  parseSize,
  parseStep,
  UnitError,
} from "../../src/units.ts";

/** The message and hint of what a parser throws. */
function refusal(parse: () => unknown): string {
  try {
    return `accepted as ${String(parse())}`;
  } catch (error) {
    if (!(error instanceof UnitError)) throw error;
    return error.hint === undefined ? error.message : `${error.message} (${error.hint})`;
  }
}

/** What a parser throws; undefined where it accepts. */
function thrown(parse: () => unknown): unknown {
  try {
    parse();
    return undefined;
  } catch (error) {
    return error;
  }
}

describe("sizes", () => {
  test.each([
    ["0", 0],
    ["4096", 4096],
    ["200Mi", 209_715_200],
    ["1Ki", 1024],
    ["1k", 1000],
    ["1G", 1e9],
    ["1e3", 1000],
    ["1E3", 1000],
    ["1.5Gi", 1_610_612_736],
    [".5Ki", 512],
    ["1.Ki", 1024],
    ["+5Mi", 5_242_880],
    ["5000m", 5],
    ["2000000u", 2],
    ["8Pi", 2 ** 53],
    ["007", 7],
  ])("%s is read as Kubernetes reads it", (text, bytes) => {
    expect(parseSize(text)).toBe(bytes);
  });

  test("what is no size is refused with the reason and a better spelling", () => {
    const wrong = [
      "",
      " ",
      "Mi",
      "200 Mi",
      "200mi",
      "200MB",
      "200MiB",
      "200K",
      "0x10",
      "1_000",
      "1,5G",
      "--1",
      "-1",
      "500m",
      "1.0001Ki",
      "9007199254740993",
      "8193Ti",
      "1E",
      "12e-1",
      "Infinity",
      "NaN",
      "1e9999",
      "1".repeat(100),
      "max",
      "２００",
      "5\u001b[31m",
    ];
    expect(wrong.map((text) => refusal(() => parseSize(text))).join("\n")).toMatchInlineSnapshot(`
      "expected a size such as 200Mi; got ""
      expected a size such as 200Mi; got " "
      expected a size such as 200Mi; got Mi
      expected a size such as 200Mi; got "200 Mi" (200Mi)
      expected a size such as 200Mi; got 200mi (200Mi)
      expected a size such as 200Mi; got 200MB (200Mi or 200M)
      expected a size such as 200Mi; got 200MiB (200Mi)
      expected a size such as 200Mi; got 200K (200Ki or 200k)
      expected a size such as 200Mi; got 0x10
      expected a size such as 200Mi; got 1_000
      expected a size such as 200Mi; got 1,5G
      expected a size such as 200Mi; got --1
      expected a size such as 200Mi; got -1: a size cannot be negative
      expected a size such as 200Mi; got 500m: no whole number of bytes, m is a thousandth (500M or 500Mi)
      expected a size such as 200Mi; got 1.0001Ki: no whole number of bytes
      expected a size such as 200Mi; got 9007199254740993: more than 2^53 bytes (8Pi)
      expected a size such as 200Mi; got 8193Ti: more than 2^53 bytes (8Pi)
      expected a size such as 200Mi; got 1E: more than 2^53 bytes (8Pi)
      expected a size such as 200Mi; got 12e-1: no whole number of bytes
      expected a size such as 200Mi; got Infinity
      expected a size such as 200Mi; got NaN
      expected a size such as 200Mi; got 1e9999
      expected a size such as 200Mi; got 1111111111111111111111111111111111111111...: more than 2^53 bytes (8Pi)
      expected a size such as 200Mi; got max
      expected a size such as 200Mi; got "２００"
      expected a size such as 200Mi; got "5\\u001b[31m""
    `);
  });

  test("exact decimals stay exact where floating point would not", () => {
    expect(parseSize("0.1e1")).toBe(1);
    expect(parseSize("1.1k")).toBe(1100);
    expect(parseSize("4.35M")).toBe(4_350_000);
    expect(parseQuantity("0.1")).toEqual({ numerator: 1n, denominator: 10n });
    expect(parseQuantity("-1.5Ki")).toEqual({ numerator: -15_360n, denominator: 10n });
  });

  test("a limit may be max", () => {
    expect(parseLimit("max")).toBe("max");
    expect(parseLimit("1Mi")).toBe(1_048_576);
    expect(formatLimit("max")).toBe("max");
    expect(() => parseLimit("MAX")).toThrow(UnitError);
  });

  test("a size is written with the largest binary suffix that keeps it exact", () => {
    expect([209_715_200, 0, 1000, 1024, 1536, 2 ** 53, 2 ** 50 + 1].map(formatBytes)).toEqual([
      "200Mi",
      "0",
      "1000",
      "1Ki",
      "1536",
      "8Pi",
      "1125899906842625",
    ]);
  });

  test("what is written reads back the same", () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.maxSafeNat(),
          fc.nat({ max: 8191 }).map((n) => n * 2 ** 40),
        ),
        (bytes) => {
          expect(parseSize(formatBytes(bytes))).toBe(bytes);
        },
      ),
    );
  });

  const suffix = fc.constantFrom<[string, bigint]>(
    ["", 1n],
    ["k", 1000n],
    ["M", 10n ** 6n],
    ["Ki", 1024n],
    ["Ti", 1024n ** 4n],
    ["e5", 10n ** 5n],
  );

  test("a size agrees with exact arithmetic up to 2^53", () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 0n, max: 2n ** 53n }), suffix, (most, [unit, factor]) => {
        const digits = most / factor;
        expect(BigInt(parseSize(`${digits}${unit}`))).toBe(digits * factor);
      }),
    );
  });

  test("more than 2^53 is refused, by one byte too", () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 1n, max: 2n ** 62n }), suffix, (excess, [unit, factor]) => {
        const digits = (BigInt(MAX_SIZE) + excess - 1n) / factor + 1n;
        expect(() => parseSize(`${digits}${unit}`)).toThrow("more than 2^53 bytes");
      }),
    );
  });

  test("any text is read or refused with a UnitError that is fit for a terminal", () => {
    const parsers = [parseSize, parseLimit, parseRate, parseStep, parsePercent, parseDuration, parseQuantity];
    const text = fc.oneof(fc.string({ unit: "binary" }), fc.stringMatching(/^[-+]?[0-9.]{0,8}[a-zA-Z%/]{0,4}$/));
    fc.assert(
      fc.property(text, fc.constantFrom(...parsers), (input, parse) => {
        const error = thrown(() => parse(input)) ?? new UnitError("nothing", "");
        expect(error).toBeInstanceOf(UnitError);
        // oxlint-disable-next-line no-control-regex -- what must not reach a terminal
        expect((error as UnitError).message).not.toMatch(/[\u0000-\u001f\u007f-\u009f]/);
      }),
      { numRuns: 2000 },
    );
  });

  test("a hint is itself a good spelling", () => {
    fc.assert(
      fc.property(fc.nat({ max: 9999 }), fc.stringMatching(/^ ?[kKmMgGtTpP]?i?[bB]?$/), (digits, unit) => {
        const error = thrown(() => parseSize(`${digits}${unit}`));
        const spellings = error instanceof UnitError ? (error.hint?.split(" or ") ?? []) : [];
        expect(spellings.map((spelling) => thrown(() => parseSize(spelling)))).toEqual(spellings.map(() => undefined));
      }),
    );
  });
});

describe("rates, steps and shares", () => {
  test("a rate is bytes a second", () => {
    expect(parseRate("50Mi/s")).toBe(52_428_800);
    expect(parseRate("1G / s")).toBe(1e9);
    expect(refusal(() => parseRate("50Mi"))).toBe("expected a rate such as 50Mi/s; got 50Mi (50Mi/s)");
    expect(refusal(() => parseRate("0/s"))).toBe("expected a rate such as 50Mi/s; got 0/s: a rate is more than 0");
    expect(() => parseRate("50Mi/m")).toThrow(UnitError);
  });

  test("steps are a size and a time", () => {
    expect(parseStep("12Mi/10s")).toEqual({ size: 12_582_912, everyMs: 10_000 });
    expect(parseStep("4Ki/ms")).toEqual({ size: 4096, everyMs: 1 });
    expect(() => parseStep("12Mi")).toThrow(UnitError);
    expect(() => parseStep("12Mi/0")).toThrow(UnitError);
  });

  test("a share is more than nothing", () => {
    expect(parsePercent("50%")).toBe(50);
    expect(parsePercent("0.4 %")).toBe(0.4);
    const wrong = ["0%", "-5%", "10001%", "%", "50", "1e2%"];
    expect(wrong.map((text) => thrown(() => parsePercent(text)) instanceof UnitError)).toEqual(wrong.map(() => true));
  });
});

describe("durations", () => {
  test.each([
    ["0", 0],
    ["0s", 0],
    ["500ms", 500],
    ["5s", 5000],
    ["2m", 120_000],
    ["1h", 3_600_000],
    ["1m30s", 90_000],
    ["1.5s", 1500],
    ["0.001s", 1],
  ])("%s", (text, ms) => {
    expect(parseDuration(text)).toBe(ms);
  });

  test("what is no duration is refused with the reason and a better spelling", () => {
    const wrong = ["", "5", "5 s", "5sec", "2min", "1d", "-1s", "1.5ms", "600h", "s", "1s1", "5S"];
    expect(wrong.map((text) => refusal(() => parseDuration(text))).join("\n")).toMatchInlineSnapshot(`
      "expected a duration such as 500ms, 5s, 2m or 1h; got ""
      expected a duration such as 500ms, 5s, 2m or 1h; got 5 (5s or 5ms)
      expected a duration such as 500ms, 5s, 2m or 1h; got "5 s" (5s)
      expected a duration such as 500ms, 5s, 2m or 1h; got 5sec (5s)
      expected a duration such as 500ms, 5s, 2m or 1h; got 2min (2m)
      expected a duration such as 500ms, 5s, 2m or 1h; got 1d (24h)
      expected a duration such as 500ms, 5s, 2m or 1h; got -1s
      expected a duration such as 500ms, 5s, 2m or 1h; got 1.5ms: no whole number of milliseconds
      expected a duration such as 500ms, 5s, 2m or 1h; got 600h: longer than 596h
      expected a duration such as 500ms, 5s, 2m or 1h; got s
      expected a duration such as 500ms, 5s, 2m or 1h; got 1s1
      expected a duration such as 500ms, 5s, 2m or 1h; got 5S (5s)"
    `);
  });

  test("what is written reads back the same", () => {
    fc.assert(
      fc.property(fc.nat({ max: MAX_DURATION_MS }), (ms) => {
        expect(parseDuration(formatDuration(ms))).toBe(ms);
      }),
    );
    expect(formatDuration(90_000)).toBe("1m30s");
  });
});
