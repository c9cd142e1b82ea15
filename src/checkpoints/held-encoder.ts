import type { WeightSet, Weights } from "../nn/index.js";
import { type Encoder, namedParameters } from "../nn/index.js";
import { modelForm } from "../formats/index.js";
import { decoderOf, headOf, headOfConfig } from "../models/index.js";
import { type ModelWeights, type QuantizationScheme, quantizeWeights } from "../quantization/index.js";
import type { Runtime } from "../runtime/types.js";
import type { EncoderCheckpoint, HeadCheckpoint, LoadOptions } from "./checkpoint.js";
import { readConfig } from "./folder.js";
import { kindIn } from "./load.js";
import { loadEncoder, loadEncoderForInference } from "./load-encoder.js";
import { headIn, loadForTask, loadTaskForInference } from "./load-task.js";

/** What the folder of a network that reads whole texts holds: an encoder alone, or a network with the head that it names. */
export type HeldEncoder<W extends WeightSet = Weights> = EncoderCheckpoint<W> | HeadCheckpoint<W>;

/** The encoder itself. */
export const encoderIn = (held: HeldEncoder<WeightSet>): Encoder =>
  "head" in held ? held.model.encoder : held.model;

/** Whether a place holds a network that reads whole texts: an encoder, or a decoder with a head of a task. */
export const holdsReader = async (place: string): Promise<boolean> => {
  const kind = await kindIn(place);
  if (kind !== "decoder" || (await modelForm(place)) === "gguf") return kind === "encoder";
  const json = await readConfig(place);
  return headOfConfig(decoderOf(json), json) !== undefined;
};

/** Reads an encoder's folder as it is: with the head that it names and has, or alone. Throws `checkpoint` for a quantised one. */
export async function loadHeldEncoder(
  runtime: Runtime,
  folder: string,
  options: LoadOptions = {},
): Promise<HeldEncoder> {
  const head = await headIn(folder, options);
  return head === undefined
    ? loadEncoder(runtime, folder, options)
    : loadForTask(runtime, folder, head, { ...options, newHead: "never" });
}

/** As `loadHeldEncoder`, for an encoder that is only run, quantised or not. */
export async function loadHeldForInference(
  runtime: Runtime,
  folder: string,
  options: LoadOptions = {},
): Promise<HeldEncoder<ModelWeights>> {
  const head = await headIn(folder, options);
  return head === undefined
    ? loadEncoderForInference(runtime, folder, options)
    : loadTaskForInference(runtime, folder, head, options);
}

/**
 * Whether a parameter stays in full precision when the matrices are quantised: a task's last layer has a few rows, from which
 * the answers come.
 */
export function staysWhole(held: HeldEncoder<WeightSet>): (name: string) => boolean {
  const output = "head" in held ? headOf(held.system, held.head).output : undefined;
  return (name) => output !== undefined && name.startsWith(`${output}.`);
}

/** How many classes a head tells apart; 0 for a head of another kind. */
export function classesOf({ system, head, model }: HeadCheckpoint<WeightSet>): number {
  const { output } = headOf(system, head);
  return output === undefined ? 0 : namedParameters(model).get(`${output}.weight`)!.shape[0]!;
}

/** An encoder's matrices in fewer bits. */
export async function quantizeEncoder(
  held: HeldEncoder,
  scheme: QuantizationScheme,
): Promise<HeldEncoder<ModelWeights>> {
  const options = { whole: staysWhole(held) };
  return { ...held, weights: await quantizeWeights(held.model, held.weights, scheme, options) };
}
