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
