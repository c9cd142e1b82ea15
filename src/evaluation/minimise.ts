/** A function's value and gradient at a point. */
export type Differentiable = (x: Float64Array, gradient: Float64Array) => number;

const dot = (a: Float64Array, b: Float64Array): number => a.reduce((sum, value, i) => sum + value * b[i]!, 0);

/**
 * The least value of a smooth function near a start, by L-BFGS with as many pairs as there are dimensions and a line search
 * that halves (Nocedal and Wright 2006, algorithm 7.5).
 */
export function minimise(
  f: Differentiable,
  start: ArrayLike<number>,
  { iterations = 500, tolerance = 1e-10 }: { readonly iterations?: number; readonly tolerance?: number } = {},
): { readonly x: Float64Array; readonly value: number } {
  let x = Float64Array.from(start);
  let gradient = new Float64Array(x.length);
  let value = f(x, gradient);
  const pairs: { readonly s: Float64Array; readonly y: Float64Array; readonly rho: number }[] = [];
  for (let iteration = 0; iteration < iterations; iteration++) {
    if (!(Math.sqrt(dot(gradient, gradient)) > tolerance)) break;
    const direction = descent(gradient, pairs);
    let slope = dot(direction, gradient);
    if (!(slope < 0)) {
      pairs.length = 0;
      direction.forEach((_, i) => (direction[i] = -gradient[i]!));
      slope = -dot(gradient, gradient);
    }
    let step = pairs.length === 0 ? Math.min(1, 1 / Math.sqrt(-slope)) : 1;
    const nextGradient = new Float64Array(x.length);
    let next = x;
    let nextValue = Infinity;
    for (let tries = 0; tries < 50; tries++, step /= 2) {
      next = x.map((part, i) => part + step * direction[i]!);
      nextValue = f(next, nextGradient);
      if (nextValue <= value + 1e-4 * step * slope) break;
    }
    if (!(nextValue < value)) break;
    const s = next.map((part, i) => part - x[i]!);
    const y = nextGradient.map((part, i) => part - gradient[i]!);
    const curvature = dot(s, y);
    if (curvature > 1e-14) {
      pairs.push({ s, y, rho: 1 / curvature });
      if (pairs.length > 10) pairs.shift();
    }
    [x, gradient, value] = [next, nextGradient, nextValue];
  }
  return { x, value };
}

/** The direction of Newton's step as the pairs tell the curvature. */
function descent(
  gradient: Float64Array,
  pairs: readonly { readonly s: Float64Array; readonly y: Float64Array; readonly rho: number }[],
): Float64Array {
  const q = gradient.slice();
  const factors: number[] = [];
  for (const { s, y, rho } of [...pairs].reverse()) {
    const factor = rho * dot(s, q);
    factors.push(factor);
    q.forEach((_, i) => (q[i] = q[i]! - factor * y[i]!));
  }
  const last = pairs.at(-1);
  const scale = last ? dot(last.s, last.y) / dot(last.y, last.y) : 1;
  q.forEach((_, i) => (q[i] = q[i]! * scale));
  for (const { s, y, rho } of pairs) {
    const change = factors.pop()! - rho * dot(y, q);
    q.forEach((_, i) => (q[i] = q[i]! + change * s[i]!));
  }
  return q.map((part) => -part);
}
