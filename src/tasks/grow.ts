import { writeAtomically } from "../base/files.js";
import { loadForInference } from "../checkpoints/index.js";
import { type GrowCounts, type InstructionTask, growTasks, readSeedTasks } from "../data/index.js";
import { Decoder, generateText } from "../generation/index.js";
import { createRuntime } from "../runtime/index.js";
import type { RunControl } from "./run.js";

export interface GrowRequest {
  /** A decoder's folder or GGUF, which writes the tasks. */
  readonly model: string;
  /** Tasks that people wrote, as self-instruct publishes its 175. */
  readonly seeds: string;
  /** Alpaca's rows of the new tasks: `.jsonl`. It holds all tasks so far whenever a run is stopped. */
  readonly out: string;
  readonly count: number;
  /** Prompts at most. Default: ten for each task. */
  readonly attempts?: number | undefined;
  /** ROUGE-L below which an instruction is new. Default 0.7. */
  readonly similarity?: number | undefined;
  readonly temperature?: number | undefined;
  readonly seed?: number | undefined;
}

/** Tokens of a prompt and what is written on it. */
const context = 2048;

/** Grows a list of instructions with a model of its own, Wang et al. 2023, and writes them as rows that `finetuneChat` reads. */
export async function growInstructions(
  request: GrowRequest,
  {
    runtime = createRuntime(),
    signal,
    onTask,
  }: Pick<RunControl, "runtime" | "signal"> & {
    readonly onTask?: (task: InstructionTask, counts: GrowCounts) => void;
  } = {},
): Promise<{ readonly tasks: readonly InstructionTask[]; readonly counts: GrowCounts }> {
  const { count, attempts, similarity, temperature = 0.8, seed = 1, out } = request;
  const seeds = await readSeedTasks(request.seeds);
  const { model, weights, tokenizer } = await loadForInference(runtime, request.model);
  const rows: string[] = [];
  const written: Promise<void>[] = [];
  try {
    using decoder = await Decoder.create({
      model,
      weights,
      capacity: Math.min(context, model.config.contextLength),
    });
    const found = await growTasks(seeds, {
      count,
      seed,
      ...(attempts !== undefined && { attempts }),
      ...(similarity !== undefined && { similarity }),
      signal,
      write: async (prompt, { stop, maxNewTokens, stream }) => {
        await Promise.all(written.splice(0));
        const ids = tokenizer.encode(prompt).slice(-(decoder.capacity - maxNewTokens));
        const sampling = { temperature, topP: 0.95, seed, stream, stop, maxNewTokens, signal };
        return (await generateText({ decoder, tokenizer }, ids, sampling).all()).text;
      },
      onTask: (task, counts) => {
        const { instruction, input, output } = task;
        rows.push(`${JSON.stringify({ instruction, input, output })}\n`);
        written.push(writeAtomically(out, [rows.join("")]));
        onTask?.(task, counts);
      },
    });
    await Promise.all(written.splice(0));
    return found;
  } finally {
    weights.dispose();
  }
}
