/**
 * What the 8 bits cost to which products with 4-bit weights round their inputs: log-likelihoods of one task by lineage, by llama.cpp and
 * by transformers, with a GGUF's weights as they are and unpacked into float32.
 *
 *   node dist/bench/rounding.js --model FILE.gguf --data DIR [--python PATH] [--task sst2] [--rows 20]
 *
 * Python needs torch and transformers. Everybody reads the same ids.
 */
import path from "node:path";
import { parseArgs } from "node:util";
import { loadForInference, loadModel, saveGguf, saveModel } from "../src/checkpoints/index.js";
import { findTask, planTask, runPlan } from "../src/evaluation/index.js";
import { Decoder } from "../src/generation/index.js";
import { createRuntime } from "../src/runtime/index.js";
import { type Answer, Peer } from "./harness.js";
import { LlamaCppModel } from "./llama-cpp.js";
import { llamaCppLikelihoods, llamaCppShape } from "./llama-cpp-evaluation.js";

const { values: options } = parseArgs({
  options: {
    model: { type: "string" },
    data: { type: "string" },
    task: { type: "string", default: "sst2" },
    rows: { type: "string", default: "20" },
    python: { type: "string", default: "python3" },
    folder: { type: "string", default: "runs/bench-rounding" },
    threads: { type: "string", default: "1" },
  },
});
const { model: file, data, folder } = options;
if (file === undefined) throw new Error("--model FILE.gguf is missing");
const threads = Number(options.threads);
const runtime = createRuntime({ threads });
const [plain, plainGguf] = [path.resolve(folder, "unpacked"), path.resolve(folder, "unpacked.gguf")];
{
  const unpacked = await loadModel(runtime, file, { kind: "decoder" });
  await saveModel(plain, unpacked);
  await saveGguf(plainGguf, unpacked, { format: "F32", name: "unpacked" });
  unpacked.weights.dispose();
}

const task = await findTask(options.task, { data });
const plan = await (async () => {
  const { tokenizer } = await loadForInference(runtime, plain);
  return planTask(task, tokenizer, 2048, { limit: Number(options.rows) });
})();
type Rows = readonly (readonly number[])[];

async function ours(place: string, exactProducts = false): Promise<Rows> {
  const loaded = await loadForInference(runtime, place);
  using decoder = await Decoder.create({
    ...loaded,
    capacity: plan.capacity,
    branching: true,
    exactProducts,
  });
  const predictions = await runPlan({ ...loaded, decoder }, plan);
  return predictions.map((each) => (each.kind === "choices" ? each.logLikelihoods : []));
}

function theirs(place: string, cache: "float16" | "float32"): Rows {
  using model = LlamaCppModel.load(place, { ...llamaCppShape, threads, contextLength: 2048, cache });
  return llamaCppLikelihoods(model, plan, 0);
}

const all: Record<string, Rows> = {
  "lineage, unpacked": await ours(plain),
  "lineage, float32 inputs": await ours(file, true),
  "lineage, inputs in 8 bits": await ours(file),
  "llama.cpp, unpacked, float32 cache": theirs(plainGguf, "float32"),
  "llama.cpp, unpacked, float16 cache": theirs(plainGguf, "float16"),
  "llama.cpp, inputs in 8 bits, float32 cache": theirs(file, "float32"),
  "llama.cpp, inputs in 8 bits, float16 cache": theirs(file, "float16"),
};
const peer = await Peer.start(options.python, "rounding.py", threads);
if (peer) {
  const rows = plan.asked.map(({ targets }) => targets);
  for (const rounded of [true, false]) {
    const answer = (await peer.ask({ model: plain, rows, rounded })) as Answer & { logLikelihoods: Rows };
    all[rounded ? "transformers, unpacked, inputs in 8 bits" : "transformers, unpacked"] =
      answer.logLikelihoods;
  }
  peer.stop();
}

const names = Object.keys(all);
const reference = names.at(-1)!;
const answers = (rows: Rows): number[] => rows.map((row) => row.indexOf(Math.max(...row)));
/** Mean and largest difference of likelihoods, mean difference with its sign, and rows with another answer. */
function differences(a: Rows, b: Rows): string {
  const each = a.flatMap((row, index) => row.map((value, place) => value - b[index]![place]!));
  const mean = each.reduce((sum, value) => sum + Math.abs(value), 0) / each.length;
  const signed = each.reduce((sum, value) => sum + value, 0) / each.length;
  const most = Math.max(...each.map(Math.abs));
  const [own, other] = [answers(a), answers(b)];
  const changed = own.filter((answer, index) => answer !== other[index]).length;
  return `${mean.toExponential(1)} at the mean, ${most.toExponential(1)} at most, ${signed.toFixed(4)} with signs; ${changed} of ${own.length} answers differ`;
}
for (const name of names.slice(0, -1))
  console.log(`${name} from ${reference}: ${differences(all[name]!, all[reference]!)}`);
const rounding = names.filter((name) => name.includes("8 bits"));
for (const [index, name] of rounding.entries())
  for (const other of rounding.slice(index + 1))
    console.log(`${name} from ${other}: ${differences(all[name]!, all[other]!)}`);
