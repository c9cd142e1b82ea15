import { LineageError } from "../base/errors.js";
import { count } from "../base/numbers.js";
import type { EncoderComparison } from "../checkpoints/index.js";

/** What rounding may change of an encoder's numbers at most, by how they are kept; more is a mistake. */
const tolerance: Readonly<Record<string, number>> = {
  float32: 1e-4,
  fp32: 1e-4,
  float16: 0.01,
  fp16: 0.01,
  bfloat16: 0.05,
  q8: 0.1,
  "8": 0.1,
  q4: 0.6,
  "4": 0.6,
  nf4: 0.6,
};

/** What a comparison of encoders shows that is more than rounding. */
export const encoderProblems = ({ relativeError }: EncoderComparison, kind: string): string[] =>
  relativeError <= tolerance[kind]!
    ? []
    : [`its numbers differ by ${(100 * relativeError).toPrecision(2)} %, more than rounding does`];

/** A comparison of encoders as lines for a person. */
export function describeEncoders(comparison: EncoderComparison, from: string, to: string): string {
  const { texts, tokens, relativeError, largestDifference, cosine, answers } = comparison;
  const lines: (readonly [string, string])[] = [
    [
      cosine ? "states" : "logits",
      `differ by ${(100 * relativeError).toPrecision(2)} % of their size, by ${largestDifference.toExponential(1)} at most, over ${count(tokens)} tokens of ${texts} texts`,
    ],
  ];
  if (cosine)
    lines.push([
      "vectors",
      `cosine ${cosine.mean.toFixed(6)} on average, ${cosine.least.toFixed(6)} at least`,
    ]);
  if (answers) lines.push(["answers", `${answers.same} of ${answers.all} are the same`]);
  return [
    `${to}, compared with ${from}:`,
    ...lines.map(([name, text]) => `  ${name.padEnd(14)} ${text}`),
  ].join("\n");
}

/** Throws `checkpoint` for a result that is another model than its source. */
export function refuseProblems(problems: readonly string[], from: string, to: string): void {
  if (problems.length > 0)
    throw new LineageError("checkpoint", `${to} differs from ${from}: ${problems.join("; ")}`);
}
