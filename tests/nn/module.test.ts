import { describe, expect, it } from "vitest";
import { Random } from "../../src/base/random.js";
import { type Tensor, input } from "../../src/graph/index.js";
import {
  LayerNorm,
  Linear,
  Module,
  Parameter,
  Weights,
  countParameters,
  flatLayout,
  namedParameters,
  onesInit,
} from "../../src/nn/index.js";
import { createRuntime } from "../../src/runtime/index.js";

class Block extends Module {
  static override readonly names = { norm: "ln", up: "mlp.up" };
  readonly norm = new LayerNorm(4);
  readonly up = new Linear(4, 6);
  override forward(x: Tensor): Tensor {
    return this.up.forward(this.norm.forward(x));
  }
}

class Network extends Module {
  readonly blocks = [new Block(), new Block()];
  readonly scale = new Parameter([6], onesInit);
  readonly tied = this.scale;
  override forward(x: Tensor): Tensor {
    return this.blocks[1]!.forward(this.blocks[0]!.forward(x));
  }
}

describe("a module", () => {
  it("names parameters by their properties, a shared one once", () => {
    const names = [...namedParameters(new Network()).keys()];
    const block = (index: number) =>
      ["ln.weight", "ln.bias", "mlp.up.weight", "mlp.up.bias"].map((name) => `blocks.${index}.${name}`);
    expect(names).toEqual([...block(0), ...block(1), "scale"]);
    expect(countParameters(new Network())).toBe(2 * (4 + 4 + 24 + 6) + 6);
  });

  it("tells its place in the error of its very first pass", () => {
    // The first block gives 6 channels, and the second takes 4.
    expect(() => new Network().forward(input("x", "float32", ["n", 4]))).toThrow(/\(in blocks\.1\.ln\)$/);
    const named = new Network();
    namedParameters(named);
    expect(() => named.forward(input("x", "float32", ["n", 4]))).toThrow(/\(in blocks\.1\.ln\)$/);
  });

  it("has no parameter names before it is named", () => {
    expect(() => new Block().norm.weight.name).toThrow("call namedParameters(model) first");
  });
});

describe("weights", () => {
  it("lie in one buffer, matrices first, each on a line of 64 bytes", () => {
    const { placements, size } = flatLayout(namedParameters(new Network()));
    const list = [...placements.values()];
    const ranks = list.map(({ parameter }) => parameter.shape.length);
    expect(ranks).toEqual([...ranks].sort((a, b) => b - a));
    let end = 0;
    for (const { offset, size: elements } of list) {
      expect(offset % 16).toBe(0);
      expect(offset).toBeGreaterThanOrEqual(end);
      end = offset + elements;
    }
    expect(size).toBeGreaterThanOrEqual(end);
  });

  it("begin as the initialisers say, whatever else the model has", () => {
    const runtime = createRuntime();
    const model = new Network();
    using weights = Weights.initialize(runtime, model, 7);
    expect([...weights.get("blocks.0.ln.weight").view()]).toEqual([1, 1, 1, 1]);
    const expected = new Float32Array(24);
    new Random(7).fork("blocks.1.mlp.up.weight").fillNormal(expected, 0, 0.02);
    expect(weights.get("blocks.1.mlp.up.weight").view()).toEqual(expected);
    using copy = weights.copy();
    weights.clear();
    expect(weights.flat.view().every((value) => value === 0)).toBe(true);
    expect(copy.get("blocks.1.mlp.up.weight").view()).toEqual(expected);
    expect(() => weights.get("none")).toThrow("the model has no parameter named none");
  });
});
