/**
 * What llama.cpp says to the prompts that `lineage evaluate --out` asked a GGUF: likelihoods of the same choices, and greedy text after
 * the same prompts.
 *
 *   lineage evaluate --model FILE.gguf --tasks sst2,gsm8k --data DIR --shots 0,5 --limit 30 --out results
 *   node dist/bench/beside-llama-cpp.js --model FILE.gguf --data DIR --results results [--rows 20] [--written 10]
 */
import { parseArgs } from "node:util";
import path from "node:path";
import { readJson } from "../src/base/files.js";
import { loadForInference } from "../src/checkpoints/index.js";
import { findTask, judged, planTask, readSummaries, scoresOf } from "../src/evaluation/index.js";
import type { Prediction } from "../src/evaluation/index.js";
import { indexOfLargest } from "../src/base/numbers.js";
import { commonLength } from "../src/generation/index.js";
import { createRuntime } from "../src/runtime/index.js";
import { LlamaCppModel } from "./llama-cpp.js";
import { llamaCppLikelihoods, llamaCppShape, sharedLength } from "./llama-cpp-evaluation.js";

const { values: options } = parseArgs({
  options: {
    model: { type: "string" },
    data: { type: "string" },
    results: { type: "string" },
    rows: { type: "string", default: "20" },
    written: { type: "string", default: "10" },
    threads: { type: "string", default: "1" },
  },
});
const { model: file, data, results } = options;
if (file === undefined || results === undefined)
  throw new Error("--model FILE.gguf and --results FOLDER are needed");
const threads = Number(options.threads);
const { tokenizer, stopIds = [] } = await loadForInference(createRuntime({ threads }), file);

/** Greedy text up to one of some ids or texts. */
function written(
  model: LlamaCppModel,
  prompt: readonly number[],
  most: number,
  stops: readonly string[],
): string {
  model.reset();
  const ids: number[] = [];
  for (let [logits] = model.evaluate(prompt); ; [logits] = model.evaluate(ids.slice(-1))) {
    const best = indexOfLargest(logits!);
    if (stopIds.includes(best)) break;
    ids.push(best);
    const text = tokenizer.decode(ids);
    const end = Math.min(...stops.map((stop) => text.indexOf(stop)).filter((place) => place >= 0));
    if (end !== Infinity) return text.slice(0, end);
    if (ids.length === most) break;
  }
  return tokenizer.decode(ids);
}

const score = (predictions: readonly Prediction[], name: string): string => {
  const found = scoresOf(predictions)[name];
  return found ? `${found.value.toFixed(3)} ± ${(found.stderr ?? 0).toFixed(3)}` : "";
};

for (const { file: stored, task: name, shots } of await readSummaries([results])) {
  const { identity, predictions: all } = (await readJson(stored)) as {
    identity: { seed: number };
    predictions: Prediction[];
  };
  const task = await findTask(name, { data });
  const writes = task.declaration.generate !== undefined;
  const own = all.slice(0, Number(writes ? options.written : options.rows));
  const planned = await planTask(task, tokenizer, 8192, { shots, seed: identity.seed, limit: own.length });
  const same = planned.asked.every(({ question }, index) => question.hash === own[index]?.hash);
  if (!same) throw new Error(`${stored} has other prompts`);
  const contextLength = 2048 + 256 * Math.ceil(planned.capacity / 256);
  const before = process.cpuUsage();
  using model = LlamaCppModel.load(
    file,
    writes ? { threads, contextLength } : { ...llamaCppShape, threads, contextLength },
  );
  const rule = task.declaration.generate;
  const theirs: Prediction[] = [];
  /** Bytes that both texts begin with, of those that are not the same. */
  const parted: string[] = [];
  if (rule) {
    for (const [index, { prompt, question }] of planned.asked.entries()) {
      const text = written(model, prompt as readonly number[], rule.maxNewTokens, rule.stop);
      const target = String(question.target);
      theirs.push({
        ...{ kind: "text", row: question.row, hash: question.hash, target, texts: [text] },
        ...judged([text], target, rule),
        ...(rule.flexible !== undefined && {
          flexible: judged([text], target, { ...rule, extract: rule.flexible, take: "last" }).correct,
        }),
      });
      const mine = own[index]!;
      if (mine.kind === "text" && mine.texts[0] !== text)
        parted.push(
          `${commonLength([...Buffer.from(mine.texts[0]!)], [...Buffer.from(text)])} of ${Buffer.byteLength(text)}`,
        );
    }
  } else {
    const likelihoods = llamaCppLikelihoods(model, planned, shots > 0 ? sharedLength(planned) : 0);
    for (const [index, prediction] of own.entries())
      if (prediction.kind === "choices")
        theirs.push({
          ...prediction,
          logLikelihoods: likelihoods[index]!,
          answer: indexOfLargest(likelihoods[index]!),
        });
  }
  const { user, system } = process.cpuUsage(before);
  const differences = own.flatMap((mine, index) => {
    const other = theirs[index];
    return mine.kind === "choices" && other?.kind === "choices"
      ? mine.logLikelihoods.map((value, place) => Math.abs(value - other.logLikelihoods[place]!))
      : [];
  });
  const answers = own.filter(
    (mine, index) => "answer" in mine && mine.answer === (theirs[index] as typeof mine).answer,
  );
  const metrics = rule ? ["exact_match", "flexible_match"] : ["acc"];
  for (const metric of metrics)
    console.log(
      `${path.basename(file)}, ${name}, ${shots}-shot, ${own.length} rows, ${metric}: lineage ${score(own, metric)}, llama.cpp ${score(theirs, metric)}`,
    );
  console.log(
    `  the same answer in ${answers.length} of ${own.length}; ` +
      (rule
        ? `${parted.length} texts differ, after bytes ${parted.join(", ") || "none"}`
        : `likelihoods differ by ${(differences.reduce((sum, each) => sum + each, 0) / differences.length).toFixed(3)} at the mean, ${Math.max(...differences).toFixed(3)} at most`) +
      `; ${((user + system) / 1e6).toFixed(0)} s of processor time`,
  );
}
