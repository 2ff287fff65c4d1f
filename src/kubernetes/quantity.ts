/**
 * Kubernetes quantities, exactly as its API reads, rounds, caps and prints them
 * (kubernetes/apimachinery pkg/api/resource/quantity.go). Amounts are bigints in billionths.
 */
import { OomlabError } from "../errors.ts";

/** Which suffixes a quantity is printed with: those it was written with. */
export type QuantityFormat = "binary" | "decimal" | "exponent";

export interface Quantity {
  /** Billionths: `1` is 1_000_000_000n. */
  readonly nano: bigint;
  readonly format: QuantityFormat;
}

/** What the API server says of a text that is no quantity. */
export const QUANTITY_TEXTS = {
  shape: "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
  suffix: "unable to parse quantity's suffix",
  number: "unable to parse numeric part of quantity",
} as const;

/** The text is no quantity; the message is the API server's. */
class QuantityError extends OomlabError {
  constructor(message: string) {
    super("QUANTITY", message, { exitCode: 2 });
  }
}

const NANO = 1_000_000_000n;
/** The largest amount, 2^63-1: what is more is cut to it. */
export const MAX_QUANTITY: bigint = 2n ** 63n - 1n;

const BINARY = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
/** By their power of ten: -9, -6 ... 18. */
const DECIMAL = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];

const SHAPE = /^([+-]?)(\d*)(?:\.(\d*))?([eEinumkKMGTP]*[-+]?\d*)$/;

/** Reads a quantity such as `200Mi`, `1.5`, `1e3`, `-1`. Throws QuantityError with the API server's text. */
export function parseQuantity(text: string): Quantity {
  const match = SHAPE.exec(text);
  const [, sign = "", whole = "", fraction, suffix = ""] = match ?? [];
  // `Mi` or a sign alone has no number at all; `.` has the shape of one.
  if (match === null || (whole === "" && fraction === undefined)) throw new QuantityError(QUANTITY_TEXTS.shape);
  const scale = readSuffix(suffix);
  if (scale === undefined) throw new QuantityError(QUANTITY_TEXTS.suffix);
  if (whole === "" && fraction === "") throw new QuantityError(QUANTITY_TEXTS.number);
  const digits = BigInt(`${whole}${fraction ?? ""}`);
  const magnitude = scaled(digits, scale.power - (fraction?.length ?? 0) + 9, scale.factor);
  const capped = magnitude > MAX_QUANTITY * NANO ? MAX_QUANTITY * NANO : magnitude;
  // Less than one whole unit is never printed with a binary suffix.
  const format = scale.format === "binary" && capped > 0n && capped < NANO ? "decimal" : scale.format;
  return { nano: sign === "-" ? -capped : capped, format };
}

function readSuffix(suffix: string): { power: number; factor: bigint; format: QuantityFormat } | undefined {
  const binary = BINARY.indexOf(suffix);
  if (binary >= 0) return { power: 0, factor: 1024n ** BigInt(binary + 1), format: "binary" };
  const decimal = DECIMAL.indexOf(suffix);
  if (decimal >= 0) return { power: (decimal - 3) * 3, factor: 1n, format: "decimal" };
  const exponent = /^[eE]([+-]?\d+)$/.exec(suffix)?.[1];
  return exponent === undefined ? undefined : { power: Number(exponent), factor: 1n, format: "exponent" };
}

/** digits x factor x 10^power, rounded up where it is no whole number. */
function scaled(digits: bigint, power: number, factor: bigint): bigint {
  if (digits === 0n) return 0n;
  // Beyond these the result is the cap, or the least there is: no need to build the number.
  if (power > 40) return (MAX_QUANTITY + 1n) * NANO;
  if (-power > String(digits).length + 40) return 1n;
  const amount = digits * factor;
  return power >= 0 ? amount * 10n ** BigInt(power) : ceilDivide(amount, 10n ** BigInt(-power));
}

const ceilDivide = (amount: bigint, by: bigint): bigint => (amount + by - 1n) / by;

/** Whole units (bytes for memory), fractions rounded up away from zero: Go's Quantity.Value(). */
export function quantityValue({ nano }: Quantity): bigint {
  return nano < 0n ? -ceilDivide(-nano, NANO) : ceilDivide(nano, NANO);
}

/** Thousandths, rounded up away from zero: Go's Quantity.MilliValue(), for CPU. */
export function quantityMilliValue({ nano }: Quantity): bigint {
  return nano < 0n ? -ceilDivide(-nano, 1_000_000n) : ceilDivide(nano, 1_000_000n);
}

/** A count of bytes as a quantity that prints with binary suffixes: resource.NewQuantity(bytes, BinarySI). */
export function quantityOfBytes(bytes: bigint | number): Quantity {
  return { nano: BigInt(bytes) * NANO, format: "binary" };
}

/** The sum; it prints as its first non-zero part does (Quantity.Add). */
export function addQuantities(a: Quantity, b: Quantity): Quantity {
  return { nano: a.nano + b.nano, format: a.nano === 0n ? b.format : a.format };
}

/** Whether a text is written as a number with a fraction of a unit left: `100m`, `0.1Gi`. */
export const isFractional = ({ nano }: Quantity): boolean => nano % NANO !== 0n;

/** The canonical text: no fraction, the biggest suffix that loses nothing, of the same family (Quantity.String()). */
export function formatQuantity({ nano, format }: Quantity): string {
  if (nano === 0n) return "0";
  const negative = nano < 0n;
  const magnitude = negative ? -nano : nano;
  const sign = negative ? "-" : "";
  if (format === "binary" && magnitude >= 1024n * NANO && magnitude % NANO === 0n) {
    let rest = magnitude / NANO;
    let unit = 0;
    while (rest % 1024n === 0n && unit < BINARY.length) {
      rest /= 1024n;
      unit++;
    }
    return `${sign}${rest}${unit === 0 ? "" : BINARY[unit - 1]}`;
  }
  let rest = magnitude;
  let power = -9;
  while (rest % 1000n === 0n && power < 18) {
    rest /= 1000n;
    power += 3;
  }
  if (format === "exponent") return `${sign}${rest}${power === 0 ? "" : `e${power}`}`;
  return `${sign}${rest}${DECIMAL[power / 3 + 3]}`;
}
