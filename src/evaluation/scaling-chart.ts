import { type Curve, lossChart } from "../pictures/index.js";
import { type ScalingFit, byBudget, computeOptimal, predictedLoss } from "./scaling.js";

/** IsoFLOP curves, Hoffmann et al. 2022, figure 3: the loss of each budget's runs by size, and where the law has the least. */
export function isoFlopChart({ runs, parametric }: ScalingFit): string {
  const groups = byBudget(runs).filter(({ runs: own }) => own.length > 1);
  const curves = groups.map(({ compute, runs: own }): Curve => ({
    label: `${compute.toExponential(1)} FLOPs`,
    points: [...own]
      .sort((one, other) => one.parameters - other.parameters)
      .map(({ parameters, loss }) => ({ step: parameters, loss })),
  }));
  const best: Curve = {
    label: "least by the law",
    points: groups.map(({ compute }) => {
      const { parameters, tokens } = computeOptimal(parametric, compute);
      return { step: parameters, loss: predictedLoss(parametric, parameters, tokens) };
    }),
  };
  return lossChart("Loss of runs of one budget", [...curves, best], { x: "parameters", log: "x" });
}
