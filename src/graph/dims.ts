import { LineageError } from "../base/errors.js";

/**
 * One dimension of a shape: a number, or a name that stands for a number known only when the program runs. Arithmetic
 * on names gives a polynomial in a canonical form, `"past+sequence"` or `"2*batch*sequence"`, so that two dimensions are
 * equal exactly when their text is.
 */
export type Dim = number | string;
export type Shape = readonly Dim[];

/** Coefficients by monomial; a monomial is its symbols, sorted and joined by `*`, the constant one being "". */
export type Polynomial = ReadonlyMap<string, number>;

const symbolPattern = /^[A-Za-z_]\w*$/;

/** Throws unless `name` can name a symbolic dimension. */
export function checkSymbol(name: string): void {
  for (const monomial of parseDim(name).keys()) {
    for (const symbol of monomial.split("*")) {
      if (symbol !== "" && !symbolPattern.test(symbol)) {
        throw new LineageError("argument", `"${name}" does not name a dimension: use letters, digits and _`);
      }
    }
  }
}

export function parseDim(dim: Dim): Polynomial {
  if (typeof dim === "number") return new Map(dim === 0 ? [] : [["", dim]]);
  const terms = new Map<string, number>();
  for (const term of dim.replaceAll("-", "+-").split("+")) {
    if (term === "") continue;
    let coefficient = 1;
    const symbols: string[] = [];
    for (const factor of term.split("*")) {
      const negative = factor.startsWith("-");
      const bare = negative ? factor.slice(1) : factor;
      if (negative) coefficient = -coefficient;
      if (/^\d+$/.test(bare)) coefficient *= Number(bare);
      else symbols.push(bare);
    }
    const monomial = symbols.sort().join("*");
    terms.set(monomial, (terms.get(monomial) ?? 0) + coefficient);
  }
  return terms;
}

function formatDim(terms: Polynomial): Dim {
  const entries = [...terms].filter(([, coefficient]) => coefficient !== 0);
  if (entries.length === 0) return 0;
  if (entries.length === 1 && entries[0]![0] === "") return entries[0]![1];
  // Symbols first, the constant last: "sequence-1" reads as people write it.
  entries.sort(([a], [b]) => (a === "" ? 1 : b === "" ? -1 : a < b ? -1 : 1));
  return entries
    .map(([monomial, coefficient], index) => {
      const sign = coefficient < 0 ? "-" : index === 0 ? "" : "+";
      const size = Math.abs(coefficient);
      const body = monomial === "" ? `${size}` : size === 1 ? monomial : `${size}*${monomial}`;
      return sign + body;
    })
    .join("");
}

export function addDims(a: Dim, b: Dim): Dim {
  if (typeof a === "number" && typeof b === "number") return a + b;
  const sum = new Map(parseDim(a));
  for (const [monomial, coefficient] of parseDim(b))
    sum.set(monomial, (sum.get(monomial) ?? 0) + coefficient);
  return formatDim(sum);
}

export function multiplyDims(a: Dim, b: Dim): Dim {
  if (typeof a === "number" && typeof b === "number") return a * b;
  const product = new Map<string, number>();
  for (const [left, x] of parseDim(a)) {
    for (const [right, y] of parseDim(b)) {
      const monomial = [...left.split("*"), ...right.split("*")].filter(Boolean).sort().join("*");
      product.set(monomial, (product.get(monomial) ?? 0) + x * y);
    }
  }
  return formatDim(product);
}

export const subtractDims = (a: Dim, b: Dim): Dim => addDims(a, multiplyDims(-1, b));

/** `a / b` where that is exact and `b` has one term; undefined otherwise. */
export function divideDims(a: Dim, b: Dim): Dim | undefined {
  if (a === b) return 1;
  const divisor = [...parseDim(b)];
  if (divisor.length !== 1) return undefined;
  const [monomial, coefficient] = divisor[0]!;
  const quotient = new Map<string, number>();
  for (const [left, x] of parseDim(a)) {
    const symbols = left.split("*").filter(Boolean);
    for (const symbol of monomial.split("*").filter(Boolean)) {
      const index = symbols.indexOf(symbol);
      if (index < 0) return undefined;
      symbols.splice(index, 1);
    }
    if (x % coefficient !== 0) return undefined;
    quotient.set(symbols.join("*"), x / coefficient);
  }
  return formatDim(quotient);
}

/** The number of elements of a shape. */
export const productOf = (shape: Shape): Dim => shape.reduce<Dim>(multiplyDims, 1);

export const formatShape = (shape: Shape): string => `[${shape.join(", ")}]`;

export const equalShapes = (a: Shape, b: Shape): boolean =>
  a.length === b.length && a.every((dim, index) => dim === b[index]);

export const isStatic = (shape: Shape): shape is readonly number[] =>
  shape.every((dim) => typeof dim === "number");

/** The shape that `a` and `b` broadcast to by NumPy's rule, or undefined. */
export function broadcastShapes(a: Shape, b: Shape): Shape | undefined {
  const rank = Math.max(a.length, b.length);
  const result: Dim[] = [];
  for (let i = 0; i < rank; i++) {
    const x = a[a.length - rank + i] ?? 1;
    const y = b[b.length - rank + i] ?? 1;
    if (x !== y && x !== 1 && y !== 1) return undefined;
    result.push(x === 1 ? y : x);
  }
  return result;
}

/** The number that a dimension is when its symbols have these sizes. Throws `argument` for one without a size. */
export function evaluateDim(dim: Dim, sizes: Readonly<Record<string, number>>): number {
  if (typeof dim === "number") return dim;
  let total = 0;
  for (const [monomial, coefficient] of parseDim(dim)) {
    let product = coefficient;
    for (const symbol of monomial.split("*").filter(Boolean)) {
      const size = sizes[symbol];
      if (size === undefined)
        throw new LineageError("argument", `the dimension "${symbol}" has no size; give it one`);
      product *= size;
    }
    total += product;
  }
  return total;
}
