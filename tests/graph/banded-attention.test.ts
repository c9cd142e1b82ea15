import fc from "fast-check";
import { expect, it } from "vitest";
import * as g from "../../src/graph/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { relativeError } from "../support/reference.js";

const runtime = createRuntime();
const size = fc.integer({ min: 1, max: 4 });

it("attention over a window computes its band alone, and gives what a mask over all pairs gives", async () => {
  await fc.assert(
    fc.asyncProperty(
      size,
      size,
      size,
      size,
      fc.nat(13),
      fc.nat(1000),
      async (batch, heads, group, window, more, seed) => {
        const length = 4 * window + more;
        const shapes = { q: [batch, heads * group, length, 3], k: [batch, heads, length, 3] };
        const values = (shape: number[], phase: number) =>
          Float32Array.from({ length: shape.reduce((a, b) => a * b) }, (_, i) =>
            Math.sin(seed + phase + 1.7 * i),
          );
        const [q, k, v] = [
          g.input("q", "float32", shapes.q),
          g.input("k", "float32", shapes.k),
          g.input("v", "float32", shapes.k),
        ];
        using program = await g.compile(runtime, {
          band: g.attention(q, k, v, { causal: true, window }),
          // A mask of the caller's own keeps all pairs.
          dense: g.attention(q, k, v, { mask: g.causalMask(length, length, 0, window) }),
        });
        const { band, dense } = await program.run({
          q: runtime.createTensor("float32", shapes.q, values(shapes.q, 0)),
          k: runtime.createTensor("float32", shapes.k, values(shapes.k, 1)),
          v: runtime.createTensor("float32", shapes.k, values(shapes.k, 2)),
        });
        const wanted = (await dense!.read()) as Float32Array;
        expect(relativeError((await band!.read()) as Float32Array, wanted)).toBeLessThan(1e-5);
      },
    ),
    { numRuns: 25 },
  );
});

it("attention that somebody observes shows all pairs", () => {
  const x = g.input("x", "float32", [1, 1, 12, 3]);
  const { observations } = g.observing(() => g.attention(x, x, x, { causal: true, window: 2 }));
  expect(observations.map(({ tensor }) => tensor.shape)).toEqual([[1, 1, 12, 12]]);
});
