import { LineageError } from "../base/errors.js";
import { type Dim, evaluateDim, parseDim } from "./dims.js";

/** A length that a program cannot exceed: a table of `atMost` rows from which `dim` are taken. */
export interface Limit {
  readonly dim: Dim;
  readonly atMost: number;
  /** What ends there, for messages. */
  readonly of: string;
}

/** Throws `length` for sizes of a program's named dimensions that exceed a limit. */
export type SizeCheck = (program: string, sizes: ReadonlyMap<string, number>) => void;

/** A check of all limits; undefined where there are none. */
export function checkOf(limits: readonly Limit[]): SizeCheck | undefined {
  if (limits.length === 0) return undefined;
  const known = limits.map((limit) => ({ ...limit, symbols: symbolsOf(limit.dim) }));
  return (program, sizes) => {
    for (const { dim, atMost, of, symbols } of known) {
      // A program of one's own may leave a dimension without a name.
      if (symbols.some((symbol) => !sizes.has(symbol))) continue;
      const size = evaluateDim(
        dim,
        Object.fromEntries(symbols.map((symbol) => [symbol, sizes.get(symbol)!])),
      );
      if (size <= atMost) continue;
      const [symbol] = symbols;
      const most = symbols.length === 1 ? largest(dim, atMost) : undefined;
      const [name, given, fitting] =
        most === undefined ? [dim, size, atMost] : [symbol, sizes.get(symbol!)!, most];
      throw new LineageError(
        "length",
        `${program}: ${name} is ${given}, but at most ${fitting} fit: ${of} knows no more; cut the rows, or take a model that reads longer ones`,
      );
    }
  };
}

const symbolsOf = (dim: Dim): string[] => [
  ...new Set([...parseDim(dim).keys()].flatMap((monomial) => monomial.split("*").filter(Boolean))),
];

/** The largest size of the one symbol of a linear `dim` at which it is still within `atMost`; undefined for other ones. */
function largest(dim: Dim, atMost: number): number | undefined {
  const terms = [...parseDim(dim)];
  const named = terms.filter(([monomial]) => monomial !== "");
  const [[monomial, factor]] = named as [[string, number]];
  if (named.length !== 1 || monomial.includes("*") || factor <= 0) return undefined;
  const constant = terms.find(([name]) => name === "")?.[1] ?? 0;
  return Math.floor((atMost - constant) / factor);
}
