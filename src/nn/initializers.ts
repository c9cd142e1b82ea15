import type { Random } from "../base/random.js";

/** Fills fresh memory with a parameter's first values. */
export type Initializer = (data: Float32Array, random: Random, shape: readonly number[]) => void;

export const constantInit =
  (value: number): Initializer =>
  (data) => {
    data.fill(value);
  };
export const zerosInit = constantInit(0);
export const onesInit = constantInit(1);

/** Normal with mean 0. */
export const normalInit =
  (standardDeviation: number): Initializer =>
  (data, random) => {
    random.fillNormal(data, 0, standardDeviation);
  };

/**
 * Normal for a weight whose product is added to the stream between layers: smaller by the root of the number of sums, which
 * are two a layer, so that the sums begin no larger however deep the network is. Radford et al. 2019, section 2.3.
 */
export const residualInit = ({
  initializerRange,
  numLayers,
}: {
  readonly initializerRange: number;
  readonly numLayers: number;
}): Initializer => normalInit(initializerRange / Math.sqrt(2 * numLayers));

/** Normal for a matrix `[outSize, inSize]`, with a standard deviation of 1 / sqrt(inSize): products keep their input's scale. */
export const fanInInit: Initializer = (data, random, shape) => {
  random.fillNormal(data, 0, shape.at(-1)! ** -0.5);
};
