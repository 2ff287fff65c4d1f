import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  formatQuantity,
  MAX_QUANTITY,
  parseQuantity,
  QUANTITY_TEXTS,
  quantityMilliValue,
  quantityOfBytes,
  quantityValue,
} from "../../src/kubernetes/quantity.ts";

const bytes = (text: string): bigint => quantityValue(parseQuantity(text));
const canonical = (text: string): string => formatQuantity(parseQuantity(text));

describe("a quantity's whole units", () => {
  test.each([
    ["100m", 1n],
    ["0.1Gi", 107374183n],
    ["1.5Gi", 1610612736n],
    ["128974848", 128974848n],
    ["123Mi", 128974848n],
    ["129e6", 129000000n],
    ["129M", 129000000n],
    ["1e3", 1000n],
    ["1E3", 1000n],
    ["1E-1", 1n],
    [".5Gi", 536870912n],
    ["1.", 1n],
    ["1.G", 1000000000n],
    ["+5", 5n],
    ["-1Mi", -1048576n],
    ["-100m", -1n],
    ["0", 0n],
    ["00012", 12n],
    ["1E", 10n ** 18n],
    ["1Ei", 2n ** 60n],
    ["1k", 1000n],
    ["1Ki", 1024n],
    ["1n", 1n],
    ["0.0000000001", 1n],
    ["1e-999999999999", 1n],
  ])("%s is %s", (text, whole) => {
    expect(bytes(text)).toBe(whole);
  });

  test.each(["10E", "8Ei", "100Ei", "1e30", "1e999999999", "9223372036854775808"])("%s is capped at 2^63-1", (text) => {
    expect(bytes(text)).toBe(MAX_QUANTITY);
  });

  test("what passes 2^53 is exact", () => {
    expect(bytes("9007199254740993")).toBe(9007199254740993n);
    expect(bytes("7999999999999999999")).toBe(7999999999999999999n);
  });

  test("thousandths are there for CPU", () => {
    expect(quantityMilliValue(parseQuantity("500m"))).toBe(500n);
    expect(quantityMilliValue(parseQuantity("1.5"))).toBe(1500n);
    expect(quantityMilliValue(parseQuantity("1u"))).toBe(1n);
  });
});

describe("a text that is no quantity gets the API server's words", () => {
  test.each([
    "",
    "Mi",
    "+",
    "1 Mi",
    " 1",
    "1g",
    "1MB",
    "1GiB",
    "1KI",
    "1.1.1",
    "200Mib",
    "0x10",
    "1e3e",
    "1e3.5",
    "--1",
  ])("%j has the wrong shape", (text) => {
    expect(() => parseQuantity(text)).toThrow(
      "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
    );
  });
  test.each(["1K", "1mi", "1ki", "1e", "1MiMi", "1M3", "1i", "1Ki5"])("%j has no such suffix", (text) => {
    expect(() => parseQuantity(text)).toThrow("unable to parse quantity's suffix");
  });
  test.each([".", "-.", ".Mi"])("%j has no number", (text) => {
    expect(() => parseQuantity(text)).toThrow(QUANTITY_TEXTS.number);
  });
});

describe("the canonical text", () => {
  test.each([
    ["1.5Gi", "1536Mi"],
    ["1.5", "1500m"],
    ["1024Mi", "1Gi"],
    ["1000M", "1G"],
    ["100m", "100m"],
    ["1e3", "1e3"],
    ["1e4", "10e3"],
    ["0Mi", "0"],
    ["1023Ki", "1023Ki"],
    ["0.5Ki", "512"],
    ["0.1Ki", "102400m"],
    ["-1024Mi", "-1Gi"],
    ["128974848", "128974848"],
    ["1000000", "1M"],
  ])("of %s is %s", (text, out) => {
    expect(canonical(text)).toBe(out);
  });

  test("of a byte count has a binary suffix only where it divides by 1024", () => {
    expect(formatQuantity(quantityOfBytes(102460 * 1024))).toBe("102460Ki");
    expect(formatQuantity(quantityOfBytes(98765432))).toBe("98765432");
    expect(formatQuantity(quantityOfBytes(104857600))).toBe("100Mi");
    expect(formatQuantity(quantityOfBytes(0n))).toBe("0");
    expect(formatQuantity(quantityOfBytes(1000))).toBe("1k");
  });

  test("reads back as the same amount, and is its own canonical text", () => {
    const suffix = fc.constantFrom("", "n", "u", "m", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti", "e3", "E-3", "e+2");
    const number = fc.tuple(fc.bigInt({ min: 0n, max: 10n ** 7n }), fc.option(fc.nat(999_999), { nil: undefined }));
    fc.assert(
      fc.property(fc.constantFrom("", "-", "+"), number, suffix, (sign, [whole, fraction], unit) => {
        const text = `${sign}${whole}${fraction === undefined ? "" : `.${fraction}`}${unit}`;
        const read = parseQuantity(text);
        const again = parseQuantity(formatQuantity(read));
        expect(again.nano).toBe(read.nano);
        expect(formatQuantity(again)).toBe(formatQuantity(read));
      }),
    );
  });

  test("whole binary amounts are what their arithmetic says", () => {
    fc.assert(
      fc.property(fc.nat(1_000_000), fc.constantFrom(0, 1, 2, 3), (count, power) => {
        expect(bytes(`${count}${["", "Ki", "Mi", "Gi"][power]}`)).toBe(BigInt(count) * 1024n ** BigInt(power));
      }),
    );
  });
});
