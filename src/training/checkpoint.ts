import path from "node:path";
import { crc32 } from "node:zlib";
import { z } from "zod";
import { LineageError } from "../base/errors.js";
import { type ConstantWeights, constantTensors } from "../graph/index.js";
import { SafetensorsFile, writeSafetensors, readWeights, tensorsToSave } from "../formats/index.js";
import { type SpikeState, spikeStateSchema } from "./spikes.js";
import type { Trainer } from "./trainer.js";

/** Everything that a run needs to go on, in one file: it is whole and of one step, or it is not there. */
export const trainingFile = (folder: string): string => path.join(folder, "training.safetensors");

/** How far a run has come in its evaluations. */
export interface Progress {
  /** The best value so far of what the run is evaluated by. */
  readonly best?: number | undefined;
  readonly bestStep?: number | undefined;
  /** Evaluations since then. */
  readonly evaluationsSinceBest: number;
  /** What is known of spikes of the loss, where the run watches for them. */
  readonly spikes?: SpikeState | undefined;
}

const stateSchema = z.object({
  step: z.int().nonnegative(),
  source: z.unknown(),
  /** Files of earlier versions do not count them. */
  tokens: z.number().nonnegative().default(0),
  /** Checksum of the frozen weights, which a file does not hold. */
  frozen: z.number().optional(),
  progress: z.object({
    best: z.number().optional(),
    bestStep: z.int().optional(),
    evaluationsSinceBest: z.int().nonnegative(),
    spikes: spikeStateSchema.optional(),
  }),
});

/** What a training file holds: the tensors of a trainer by the prefix of their names. */
const parts = (trainer: Trainer) => ({
  "weights/": trainer.weights,
  ...Object.fromEntries(Object.entries(trainer.optimizer.state).map(([name, state]) => [`${name}/`, state])),
  ...(trainer.average && { "average/": trainer.average.weights }),
});

const checksums = new WeakMap<ConstantWeights, number>();

/** Which frozen weights a run stands on; undefined for none. */
function checksumOf(constants: ConstantWeights | undefined): number | undefined {
  if (!constants) return undefined;
  let sum = checksums.get(constants);
  if (sum === undefined) {
    sum = 0;
    for (const [name, tensor] of Object.entries(constantTensors(constants))) {
      const view = tensor.contents();
      sum = crc32(new Uint8Array(view.buffer, view.byteOffset, view.byteLength), crc32(name, sum));
    }
    checksums.set(constants, sum);
  }
  return sum;
}

/** Saves the weights that learn, moments and position of a run. */
export async function saveTraining(folder: string, trainer: Trainer, progress: Progress): Promise<void> {
  const tensors = Object.entries(parts(trainer)).flatMap(([prefix, state]) => tensorsToSave(state, prefix));
  const state = { ...trainer.state, progress, frozen: checksumOf(trainer.weights.constants) };
  await writeSafetensors(trainingFile(folder), tensors, { lineage: JSON.stringify(state) });
}

/**
 * Goes on exactly where `saveTraining` left off.
 * @param options.file another file of that kind
 * @param options.keepsSource whether the source of batches stays where it is
 */
export async function restoreTraining(
  folder: string,
  trainer: Trainer,
  options: { readonly file?: string; readonly keepsSource?: boolean } = {},
): Promise<Progress> {
  const file = await SafetensorsFile.open(options.file ?? trainingFile(folder));
  const parsed = stateSchema.safeParse(parseState(file));
  if (!parsed.success)
    throw new LineageError("checkpoint", `${file.path} does not hold the state of a training run`);
  if (parsed.data.frozen !== checksumOf(trainer.weights.constants))
    throw new LineageError(
      "checkpoint",
      `${file.path} was trained with other frozen weights; resume with the model that the run started from`,
    );
  for (const [prefix, state] of Object.entries(parts(trainer))) await readWeights([file], state, prefix);
  const { step, tokens, source } = parsed.data;
  trainer.restore({ step, tokens, source: options.keepsSource ? trainer.state.source : source });
  return parsed.data.progress;
}

function parseState(file: SafetensorsFile): unknown {
  try {
    return JSON.parse(file.header.metadata["lineage"] ?? "null") as unknown;
  } catch (error) {
    throw new LineageError("checkpoint", `${file.path} does not hold the state of a training run`, {
      cause: error,
    });
  }
}
