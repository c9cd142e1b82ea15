import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type InferenceCheckpoint, loadForInference } from "../../src/checkpoints/index.js";
import {
  type Plan,
  type TaskInput,
  logLikelihoods,
  planTask,
  runPlan,
  scoresOf,
  taskOf,
} from "../../src/evaluation/index.js";
import { Decoder } from "../../src/generation/index.js";
import { createRuntime } from "../../src/runtime/index.js";
import { Reference } from "../support/reference.js";

const reference = new Reference("evaluation");
const values = reference.json("values.json") as {
  shots: Record<
    string,
    {
      scores: Record<string, number>;
      stderr: Record<string, number>;
      logLikelihoods: number[][];
      greedy: boolean[][];
    }
  >;
  texts: { logLikelihoods: number[]; scores: Record<string, number> };
};

const choice: TaskInput = {
  data: "test.jsonl",
  prompt: "Question: {{ question }}\nAnswer:",
  choices: '{{ options | join("\\n") }}',
  target: "{{ answer }}",
  unconditional: "",
  shots: { data: "train.jsonl", draw: "first" },
};

let model: InferenceCheckpoint;
let decoder: Decoder;
const context = 192;

beforeAll(async () => {
  model = await loadForInference(createRuntime(), reference.path());
  decoder = await Decoder.create({ ...model, branching: true });
});
afterAll(() => {
  decoder.dispose();
});

const plan = (input: TaskInput, shots = 0): Promise<Plan> =>
  planTask(taskOf("choice", input, reference.path()), model.tokenizer, context, { shots });
const run = (made: Plan) => runPlan({ ...model, decoder }, made);

describe("Evaluation equals lm-evaluation-harness", () => {
  it.each([0, 3])(
    "in likelihoods, scores and standard errors of choices after %i examples",
    async (shots) => {
      const wanted = values.shots[String(shots)]!;
      const predictions = await run(await plan(choice, shots));
      expect(predictions).toHaveLength(wanted.logLikelihoods.length);
      for (const [row, prediction] of predictions.entries()) {
        if (prediction.kind !== "choices") throw new Error(`row ${row} has no choices`);
        expect(prediction.greedy).toEqual(wanted.greedy[row]!.slice(0, 4));
        const all = [...prediction.logLikelihoods, ...prediction.unconditional!];
        expect(all).toHaveLength(wanted.logLikelihoods[row]!.length);
        for (const [index, sum] of all.entries())
          expect(Math.abs(sum - wanted.logLikelihoods[row]![index]!)).toBeLessThan(1e-4);
      }
      const scores = scoresOf(predictions);
      expect(Object.keys(wanted.scores)).toEqual(["acc", "acc_norm", "acc_bytes", "acc_mutual_info"]);
      for (const [name, value] of Object.entries(wanted.scores)) {
        expect(scores[name]!.value).toBeCloseTo(value, 10);
        expect(scores[name]!.stderr).toBeCloseTo(wanted.stderr[name]!, 10);
      }
    },
  );

  it("in perplexities of texts longer than the context", async () => {
    const predictions = await run(await plan({ data: "texts.jsonl", text: "{{ text }}", shots: false }));
    for (const [row, prediction] of predictions.entries()) {
      if (prediction.kind !== "perplexity") throw new Error(`row ${row} is no text`);
      expect(Math.abs(prediction.logLikelihood - values.texts.logLikelihoods[row]!)).toBeLessThan(
        1e-5 * prediction.tokens,
      );
    }
    expect(predictions.some((each) => each.kind === "perplexity" && each.tokens > 3 * context)).toBe(true);
    const scores = scoresOf(predictions);
    for (const [name, value] of Object.entries(values.texts.scores))
      expect(scores[name]!.value / value).toBeCloseTo(1, 5);
  });
});

describe("Likelihoods of continuations", () => {
  it("are those of the same tokens one by one, whatever else is asked", async () => {
    const writer = { ...model, decoder };
    const pair = { context: "The cat eats the ", continuation: "small grey elephant. Who?" };
    const others = ["The cat eats", "", "The cat eats the dog"].map((each) => ({ ...pair, context: each }));
    const [alone] = await logLikelihoods(writer, [pair]);
    const among = await logLikelihoods(writer, [others[0]!, pair, ...others.slice(1)]);
    expect(among[1]!.sum).toBeCloseTo(alone!.sum, 4);
    // The definition: after each beginning the logarithm of the softmax of its logits.
    const head = model.tokenizer.encode("The cat eats the");
    const ids = model.tokenizer.encode("The cat eats the small grey elephant. Who?");
    let sum = 0;
    for (let length = head.length; length < ids.length; length++) {
      using fresh = decoder.open();
      const logits = await decoder.read(fresh, ids.slice(0, length));
      const total = logits.reduce((all, value) => all + Math.exp(value), 0);
      sum += logits[ids[length]!]! - Math.log(total);
    }
    expect(alone).toMatchObject({ tokens: ids.length - head.length });
    expect(alone!.sum).toBeCloseTo(sum, 4);
  });
});
