import { compile, input, matmul } from "../src/graph/index.js";
import type { Runtime } from "../src/runtime/index.js";
import { timed } from "./harness.js";

/**
 * Bytes a second that the engine's threads read from memory, far beyond the caches: the best of many products of one row
 * with a matrix of a GiB, in either orientation. Decoding is such products, and cannot be faster than they are.
 */
export async function memoryBandwidth(runtime: Runtime, smoke: boolean): Promise<number> {
  const size = smoke ? 1024 : 16_384;
  using matrix = runtime.createTensor("float32", [size, size]);
  // Memory that nothing has written is one page of zeros, which the caches hold.
  matrix.view().fill(1);
  using x = runtime.createTensor("float32", [1, size]);
  using y = runtime.createTensor("float32", [1, size]);
  let best = Infinity;
  for (const transposeB of [false, true]) {
    const product = matmul(input("x", "float32", [1, size]), input("matrix", "float32", [size, size]), {
      transposeB,
    });
    using program = await compile(runtime, { y: product });
    using binding = program.bind({ x, matrix }, { y });
    best = Math.min(best, ...(await timed(9, () => binding.run())));
  }
  return (4 * size * size) / best;
}
