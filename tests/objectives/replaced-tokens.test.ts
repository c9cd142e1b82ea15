import { afterAll, describe, expect, it } from "vitest";
import { RandomStream, compile, constant, gradients, input, mul, sum } from "../../src/graph/index.js";
import {
  disentangledEmbedding,
  replaceTokens,
  replacedTokenBatch,
  sampleTokens,
} from "../../src/objectives/index.js";
import { createRuntime } from "../../src/runtime/index.js";

const runtime = createRuntime();
const made: { dispose(): void }[] = [];
afterAll(() => {
  for (const each of made) each.dispose();
});

describe("replaced-token detection", () => {
  it("draws from the generator's distribution, anew with every seed", async () => {
    const rows = 4000;
    const logits = constant("float32", [1, 3], [Math.log(0.5), Math.log(0.3), Math.log(0.2)]).expand([
      rows,
      3,
    ]);
    const random = new RandomStream(input("seed", "uint32", []));
    const program = await compile(runtime, {
      drawn: sampleTokens(logits, { random }),
      likeliest: sampleTokens(logits, {}),
    });
    made.push(program);
    const draw = async (seed: number) => {
      const given = runtime.createTensor("uint32", [], Uint32Array.of(seed));
      const { drawn, likeliest } = await program.run({ seed: given });
      expect(new Set((await likeliest!.read()) as Int32Array)).toEqual(new Set([0]));
      return [...((await drawn!.read()) as Int32Array)];
    };
    const first = await draw(1);
    for (const [token, share] of [0.5, 0.3, 0.2].entries())
      // Four standard deviations of 4,000 draws are 3.2%.
      expect(Math.abs(first.filter((id) => id === token).length / rows - share)).toBeLessThan(0.032);
    expect(await draw(1)).toEqual(first);
    expect(await draw(2)).not.toEqual(first);
  });

  it("puts draws at the hidden places, calls a draw of the original original, and leaves ignored places alone", async () => {
    const ids = constant("int32", [2, 4], [1, 9, 9, 2, 1, 9, 7, 2]);
    const places = constant("int32", [4], [1, 2, 5, 0]);
    const labels = constant("int32", [4], [5, 6, 8, -100]);
    const drawn = constant("int32", [4], [5, 4, 7, 3]);
    const { corrupted, replaced } = replaceTokens(ids, places, labels, drawn);
    const program = await compile(runtime, { corrupted, replaced: replaced.cast("int32") });
    made.push(program);
    const results = await program.run({});
    expect([...((await results["corrupted"]!.read()) as Int32Array)]).toEqual([1, 5, 4, 2, 1, 7, 7, 2]);
    expect([...((await results["replaced"]!.read()) as Int32Array)]).toEqual([0, 0, 1, 0, 0, 1, 0, 0]);
  });

  it("counts every real token for the discriminator, and the hidden ones for the generator", () => {
    const row = (length: number) => ({
      ids: new Array<number>(length).fill(5),
      typeIds: new Array<number>(length).fill(0),
      inputIds: new Int32Array(length).fill(5),
      positions: Int32Array.of(1),
      labels: Int32Array.of(5),
    });
    expect(replacedTokenBatch([row(3), row(6)], 0).counts).toEqual({ maskedLm: 2, replacedTokens: 9 });
  });

  it("keeps the discriminator's gradient from the generator's embeddings where they are disentangled", async () => {
    const generator = input("generator", "float32", [2]);
    const difference = input("difference", "float32", [2]);
    const loss = sum(mul(disentangledEmbedding(generator, difference), constant("float32", [2], [3, 5])));
    const [ofGenerator, ofDifference] = gradients(loss, [generator, difference]);
    const program = await compile(runtime, { loss, ofGenerator: ofGenerator!, ofDifference: ofDifference! });
    made.push(program);
    const tensor = (a: number, b: number) => runtime.createTensor("float32", [2], Float32Array.of(a, b));
    const results = await program.run({ generator: tensor(1, 2), difference: tensor(10, 20) });
    expect(Number((await results["loss"]!.read())[0])).toBe(3 * 11 + 5 * 22);
    expect([...((await results["ofGenerator"]!.read()) as Float32Array)]).toEqual([0, 0]);
    expect([...((await results["ofDifference"]!.read()) as Float32Array)]).toEqual([3, 5]);
  });
});
