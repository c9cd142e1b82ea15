import { LineageError } from "../base/errors.js";
import { Random } from "../base/random.js";
import { type Differentiable, minimise } from "./minimise.js";

/** A training run as the fit of a scaling law takes it. */
export interface ScalingRun {
  /** What messages call it. */
  readonly name?: string;
  /** Parameters of the model, embeddings among them. */
  readonly parameters: number;
  /** Tokens that it was trained on. */
  readonly tokens: number;
  /** Held-out loss at the end, in nats a token. */
  readonly loss: number;
  /** Held-out loss during the run, by the tokens so far. Default: the end alone. */
  readonly curve?: readonly { readonly tokens: number; readonly loss: number }[];
}

/** A value and where 80 of 100 fits to runs drawn with replacement have it: their 10th and 90th percentiles. */
export interface Estimate {
  readonly value: number;
  /** Absent where too few of those fits succeed. */
  readonly interval?: readonly [low: number, high: number];
}

/** Model size and data for the least loss of a budget. */
export interface ComputeOptimal {
  /** In floating-point operations, 6 parameters tokens. */
  readonly compute: number;
  readonly parameters: number;
  readonly tokens: number;
}

/** How the best model size and the best amount of data grow with compute: `N = k C^a`, `D = C / 6N`, so that `b = 1 - a`. */
export interface PowerLaw {
  readonly a: Estimate;
  readonly b: Estimate;
  /** `k` of `N = k C^a`. */
  readonly coefficient: number;
  /** The optima that the law was fitted to. */
  readonly points: readonly ComputeOptimal[];
}

/** `L(N, D) = E + A / N^alpha + B / D^beta`. */
export interface ParametricLaw {
  readonly E: Estimate;
  readonly A: number;
  readonly B: number;
  readonly alpha: Estimate;
  readonly beta: Estimate;
  readonly a: Estimate;
  readonly b: Estimate;
  /** Mean Huber loss of the logarithm of the loss. */
  readonly residual: number;
}

/** A method's law, or why there is none. */
export type Fitted<T> = T | { readonly missing: string };

export interface ScalingFit {
  readonly runs: readonly ScalingRun[];
  /** Method 1: the least loss of all training curves at each amount of compute. */
  readonly envelope: Fitted<PowerLaw>;
  /** Method 2: the least of a parabola through the runs of one budget. */
  readonly isoFlop: Fitted<PowerLaw>;
  /** Method 3: a law of the loss itself. */
  readonly parametric: ParametricLaw;
}

export interface ScalingOptions {
  /** Fits to runs drawn with replacement, for the intervals. Default 100; 0 for none. */
  readonly bootstrap?: number;
  /** Default 1. */
  readonly seed?: number;
  /** Where the Huber loss of the logarithm turns from square to linear. Default 1e-3, as published. */
  readonly delta?: number;
}

const computeOf = ({ parameters, tokens }: Pick<ScalingRun, "parameters" | "tokens">): number =>
  6 * parameters * tokens;

/**
 * Fits how loss falls with model size and data, Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models",
 * section 3, by their three methods:
 *
 *     const { parametric } = fitScaling(runs);
 *     console.log(predictedLoss(parametric, 7e9, 140e9));
 *
 * Throws `data` for runs that no law can be fitted to.
 */
export function fitScaling(
  runs: readonly ScalingRun[],
  { bootstrap = 100, seed = 1, delta = 1e-3 }: ScalingOptions = {},
): ScalingFit {
  checkRuns(runs);
  const random = new Random(seed).fork("scaling");
  // Hoffmann et al. draw four fifths without replacement, which makes intervals half as wide as they should be.
  const parts = Array.from({ length: bootstrap }, () => runs.map(() => runs[random.integer(runs.length)]!));
  const whole = parametricLaw(runs, delta, starts());
  const others = parts.map((part) => parametricLaw(part, delta, [whole]));
  const estimate = (of: (law: Law) => number): Estimate => withInterval(of(whole), others.map(of));
  return {
    runs,
    envelope: powerLaw(envelopeOf, runs, parts),
    isoFlop: powerLaw(isoFlopOptima, runs, parts),
    parametric: {
      E: estimate(({ E }) => E),
      A: whole.A,
      B: whole.B,
      alpha: estimate(({ alpha }) => alpha),
      beta: estimate(({ beta }) => beta),
      a: estimate(({ alpha, beta }) => beta / (alpha + beta)),
      b: estimate(({ alpha, beta }) => alpha / (alpha + beta)),
      residual: whole.residual,
    },
  };
}

/** Throws `data` for runs that no law can be fitted to. */
function checkRuns(runs: readonly ScalingRun[]): void {
  runs.forEach(({ name = "a run", parameters, tokens, loss, curve = [] }, place) => {
    const said = name === "a run" ? `run ${place + 1}` : name;
    for (const [what, value] of Object.entries({ parameters, tokens, loss }))
      if (!Number.isFinite(value) || value <= 0)
        throw new LineageError("data", `${said}: ${what} must be a number above 0, not ${value}`);
    if (curve.some((point) => !(point.tokens > 0 && Number.isFinite(point.loss))))
      throw new LineageError("data", `${said}: its curve has a loss that is no number`);
  });
  const unknowns = 5;
  if (runs.length <= unknowns)
    throw new LineageError(
      "data",
      `there ${runs.length === 1 ? "is 1 run" : `are ${runs.length} runs`}, but the law has ${unknowns} unknowns (E, A, B, alpha, beta): fit it to at least ${unknowns + 1} runs`,
    );
  for (const [what, values] of Object.entries({
    "model size": runs.map(({ parameters }) => parameters),
    "amount of data": runs.map(({ tokens }) => tokens),
  })) {
    const [first = 0] = values;
    if (values.every((value) => value === first))
      throw new LineageError(
        "data",
        `all runs have one ${what}, ${first.toLocaleString("en-US")}: a law of it needs at least two, better four`,
      );
  }
}

function withInterval(value: number, found: readonly number[]): Estimate {
  const sorted = found.filter(Number.isFinite).sort((x, y) => x - y);
  if (sorted.length < Math.max(10, found.length / 2)) return { value };
  const at = (share: number): number => sorted[Math.round(share * (sorted.length - 1))]!;
  return { value, interval: [at(0.1), at(0.9)] };
}

// ---- Methods 1 and 2: the best size at each amount of compute ------------------------------------------------------

type Optima = (runs: readonly ScalingRun[]) => readonly ComputeOptimal[] | { readonly missing: string };

function powerLaw(
  optima: Optima,
  runs: readonly ScalingRun[],
  parts: readonly (readonly ScalingRun[])[],
): Fitted<PowerLaw> {
  const points = optima(runs);
  if ("missing" in points) return points;
  const { slope: a, intercept } = straightLine(points);
  const others = parts.flatMap((part) => {
    const found = optima(part);
    return "missing" in found ? [] : [straightLine(found).slope];
  });
  const interval = others.length >= Math.max(10, parts.length / 2);
  return {
    a: interval ? withInterval(a, others) : { value: a },
    b: interval
      ? withInterval(
          1 - a,
          others.map((slope) => 1 - slope),
        )
      : { value: 1 - a },
    coefficient: Math.exp(intercept),
    points,
  };
}

/** The line through the logarithms of compute and size, by least squares. */
function straightLine(points: readonly ComputeOptimal[]): { slope: number; intercept: number } {
  const xs = points.map(({ compute }) => Math.log(compute));
  const ys = points.map(({ parameters }) => Math.log(parameters));
  const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const [x, y] = [mean(xs), mean(ys)];
  const slope =
    xs.reduce((sum, value, i) => sum + (value - x) * (ys[i]! - y), 0) /
    xs.reduce((sum, value) => sum + (value - x) ** 2, 0);
  return { slope, intercept: y - slope * x };
}

/** Places of compute at which the envelope is taken, from the least to the most. */
const envelopePlaces = 200;

/**
 * Section 3.1: at each amount of compute the model size whose curve is lowest. Places where the smallest or the largest size
 * wins say only that the optimum lies at it or beyond, and are left out.
 */
function envelopeOf(runs: readonly ScalingRun[]): ReturnType<Optima> {
  const curves = runs.flatMap(({ parameters, tokens, loss, curve = [] }) => {
    const points = [...curve.filter((point) => point.tokens < tokens), { tokens, loss }]
      .map((point) => ({
        compute: Math.log(computeOf({ parameters, tokens: point.tokens })),
        loss: point.loss,
      }))
      .sort((x, y) => x.compute - y.compute);
    return points.length > 1 ? [{ parameters, points }] : [];
  });
  if (curves.length < 3) return { missing: "the runs have no training curves" };
  const sizes = curves.map(({ parameters }) => parameters);
  const [smallest, largest] = [Math.min(...sizes), Math.max(...sizes)];
  const least = Math.min(...curves.map(({ points }) => points[0]!.compute));
  const most = Math.max(...curves.map(({ points }) => points.at(-1)!.compute));
  const found: ComputeOptimal[] = [];
  for (let place = 0; place < envelopePlaces; place++) {
    const compute = least + ((most - least) * place) / (envelopePlaces - 1);
    let best: { parameters: number; loss: number } | undefined;
    for (const { parameters, points } of curves) {
      const loss = valueAt(points, compute);
      if (loss !== undefined && (best === undefined || loss < best.loss)) best = { parameters, loss };
    }
    if (best === undefined || best.parameters === smallest || best.parameters === largest) continue;
    const { parameters } = best;
    found.push({ compute: Math.exp(compute), parameters, tokens: Math.exp(compute) / (6 * parameters) });
  }
  return new Set(found.map(({ parameters }) => parameters)).size >= 2
    ? found
    : {
        missing: "fewer than two sizes between the smallest and the largest are ever best; train more sizes",
      };
}

/** A curve's loss at an amount of compute, between its points; undefined beyond them. */
function valueAt(points: readonly { compute: number; loss: number }[], compute: number): number | undefined {
  const next = points.findIndex((point) => point.compute >= compute);
  if (next < 0 || (next === 0 && points[0]!.compute > compute)) return undefined;
  if (next === 0) return points[0]!.loss;
  const [before, after] = [points[next - 1]!, points[next]!];
  const share = (compute - before.compute) / (after.compute - before.compute);
  return before.loss + share * (after.loss - before.loss);
}

/** Budgets are one where they differ by less than this factor: models of a budget are rarely of exactly the same. */
const sameBudget = 1.1;

/** Runs by their budget, from the least. */
export function byBudget(
  runs: readonly ScalingRun[],
): { readonly compute: number; readonly runs: ScalingRun[] }[] {
  const groups: { compute: number; runs: ScalingRun[] }[] = [];
  for (const run of [...runs].sort((x, y) => computeOf(x) - computeOf(y))) {
    const last = groups.at(-1);
    if (last && computeOf(run) < last.compute * sameBudget) last.runs.push(run);
    else groups.push({ compute: computeOf(run), runs: [run] });
  }
  return groups;
}

/** Section 3.2: at each budget the least of a parabola in the logarithm of the size through the runs' last losses. */
function isoFlopOptima(runs: readonly ScalingRun[]): ReturnType<Optima> {
  const found = byBudget(runs).flatMap(({ compute, runs: own }): ComputeOptimal[] => {
    const parabola = isoFlopParabola(own);
    if (!parabola) return [];
    const { parameters } = parabola;
    const sizes = own.map((run) => run.parameters);
    // A least far beyond the sizes that were tried is a guess.
    if (parameters < Math.min(...sizes) / 2 || parameters > 2 * Math.max(...sizes)) return [];
    return [{ compute, parameters, tokens: compute / (6 * parameters) }];
  });
  return found.length >= 2
    ? found
    : {
        missing: `${found.length === 0 ? "no budget has" : "only one budget has"} three or more sizes with a least loss among them (runs of one budget differ by less than 10% in 6 parameters tokens)`,
      };
}

/** The parabola through runs of one budget, and the size where it is least; undefined where it has no least value. */
export function isoFlopParabola(
  runs: readonly ScalingRun[],
): { readonly parameters: number; loss(parameters: number): number } | undefined {
  const sizes = new Set(runs.map(({ parameters }) => parameters));
  if (sizes.size < 3) return undefined;
  const centre = runs.reduce((sum, { parameters }) => sum + Math.log(parameters), 0) / runs.length;
  const xs = runs.map(({ parameters }) => Math.log(parameters) - centre);
  const moment = (power: number): number => xs.reduce((sum, x) => sum + x ** power, 0);
  const product = (power: number): number =>
    runs.reduce((sum, { loss }, i) => sum + loss * xs[i]! ** power, 0);
  const solved = solve(
    [0, 1, 2].map((row) => [0, 1, 2].map((column) => moment(row + column))),
    [0, 1, 2].map(product),
  );
  const [c0, c1, c2] = solved as [number, number, number];
  if (!(c2 > 0)) return undefined;
  return {
    parameters: Math.exp(centre - c1 / (2 * c2)),
    loss: (parameters) => {
      const x = Math.log(parameters) - centre;
      return c0 + c1 * x + c2 * x * x;
    },
  };
}

/** The solution of a few linear equations, by elimination with the largest pivot. */
function solve(matrix: readonly (readonly number[])[], right: readonly number[]): number[] {
  const rows = matrix.map((row, i) => [...row, right[i]!]);
  const { length } = rows;
  for (let column = 0; column < length; column++) {
    const pivot = rows
      .slice(column)
      .reduce((best, row) => (Math.abs(row[column]!) > Math.abs(best[column]!) ? row : best));
    rows.splice(rows.indexOf(pivot), 1);
    rows.splice(column, 0, pivot);
    for (const row of rows) {
      if (row === pivot) continue;
      const factor = row[column]! / pivot[column]!;
      pivot.forEach((value, i) => (row[i] = row[i]! - factor * value));
    }
  }
  return rows.map((row, i) => row[length]! / row[i]!);
}

// ---- Method 3: a law of the loss ------------------------------------------------------------------------------------

interface Law {
  readonly E: number;
  readonly A: number;
  readonly B: number;
  readonly alpha: number;
  readonly beta: number;
  readonly residual: number;
}

/** Section 3.3 and appendix D.2: the starts of the search. */
function starts(): Omit<Law, "residual">[] {
  const halves = [0, 0.5, 1, 1.5, 2];
  const fives = [0, 5, 10, 15, 20, 25];
  return halves.flatMap((alpha) =>
    halves.flatMap((beta) =>
      [-1, -0.5, 0, 0.5, 1].flatMap((e) =>
        fives.flatMap((a) =>
          fives.map((b) => ({ alpha, beta, E: Math.exp(e), A: Math.exp(a), B: Math.exp(b) })),
        ),
      ),
    ),
  );
}

/** Starts that are followed to their end: those that begin lowest. */
const followed = 60;

/** The law whose logarithm has the least Huber loss, by L-BFGS from the starts. */
function parametricLaw(
  runs: readonly ScalingRun[],
  delta: number,
  from: readonly Omit<Law, "residual">[],
): Law {
  const mean = (of: (run: ScalingRun) => number): number =>
    runs.reduce((sum, run) => sum + Math.log(of(run)), 0) / runs.length;
  // Around their means the unknowns hardly depend on each other, and the search is short.
  const n = mean(({ parameters }) => parameters);
  const d = mean(({ tokens }) => tokens);
  const points = runs.map(({ parameters, tokens, loss }) => ({
    n: Math.log(parameters) - n,
    d: Math.log(tokens) - d,
    loss: Math.log(loss),
  }));
  const objective: Differentiable = ([a, b, e, alpha, beta], gradient) => {
    gradient.fill(0);
    let total = 0;
    for (const point of points) {
      const terms = [a! - alpha! * point.n, b! - beta! * point.d, e!] as const;
      const most = Math.max(...terms);
      const powers = terms.map((term) => Math.exp(term - most)) as [number, number, number];
      const sum = powers[0] + powers[1] + powers[2];
      const error = most + Math.log(sum) - point.loss;
      const size = Math.abs(error);
      total += size <= delta ? error ** 2 / 2 : delta * (size - delta / 2);
      const slope = Math.max(-delta, Math.min(delta, error));
      const [pa, pb, pe] = powers.map((power) => (slope * power) / sum) as [number, number, number];
      gradient[0]! += pa;
      gradient[1]! += pb;
      gradient[2]! += pe;
      gradient[3]! -= pa * point.n;
      gradient[4]! -= pb * point.d;
    }
    // In units of delta, so that a search ends by the same rule whatever delta is.
    gradient.forEach((value, i) => (gradient[i] = value / (delta * points.length)));
    return total / (delta * points.length);
  };
  const unused = new Float64Array(5);
  const begun = from
    .map(({ E, A, B, alpha, beta }) =>
      Float64Array.of(Math.log(A) - alpha * n, Math.log(B) - beta * d, Math.log(E), alpha, beta),
    )
    .map((x) => ({ x, value: objective(x, unused) }))
    .filter(({ value }) => Number.isFinite(value))
    .sort((one, other) => one.value - other.value)
    .slice(0, followed);
  let best: { readonly x: Float64Array; readonly value: number } | undefined;
  for (const { x } of begun) {
    const found = minimise(objective, x);
    if (best === undefined || found.value < best.value) best = found;
  }
  const [a, b, e, alpha, beta] = best!.x as unknown as [number, number, number, number, number];
  return {
    ...{ E: Math.exp(e), A: Math.exp(a + alpha * n), B: Math.exp(b + beta * d), alpha, beta },
    residual: best!.value * delta,
  };
}

// ---- What a fit says ------------------------------------------------------------------------------------------------

/** The loss that the law expects of a model of so many parameters after so many tokens. */
export const predictedLoss = (
  { E, A, B, alpha, beta }: ParametricLaw,
  parameters: number,
  tokens: number,
): number => E.value + A / parameters ** alpha.value + B / tokens ** beta.value;

/** Size and data that give the least loss for a budget, in floating-point operations; equation 4. */
export function computeOptimal(
  { A, B, alpha: { value: alpha }, beta: { value: beta } }: ParametricLaw,
  compute: number,
): ComputeOptimal {
  const scale = ((alpha * A) / (beta * B)) ** (1 / (alpha + beta));
  const parameters = scale * (compute / 6) ** (beta / (alpha + beta));
  return { compute, parameters, tokens: compute / (6 * parameters) };
}

/** As `computeOptimal`, by a power law. */
export function powerLawOptimal({ a, coefficient }: PowerLaw, compute: number): ComputeOptimal {
  const parameters = coefficient * compute ** a.value;
  return { compute, parameters, tokens: compute / (6 * parameters) };
}
