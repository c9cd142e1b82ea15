import { LineageError } from "../base/errors.js";
import { formatBytes, requireMemory } from "../base/memory.js";
import { count } from "../base/numbers.js";
import { Random } from "../base/random.js";
import { readConversations } from "../data/index.js";
import { type Adapter, countParameters, namedParameters } from "../nn/index.js";
import { withAdapter } from "../objectives/index.js";
import { createRuntime } from "../runtime/index.js";
import {
  EvaluationStep,
  type LearningPlan,
  type Metrics,
  type RunFolder,
  type TrainingResult,
  chosenOptimizer,
  learningPlans,
  optimizerStateSize,
  plannedSchedule,
  runTraining,
  trainingMemory,
} from "../training/index.js";
import type { z } from "zod";
import { type ChatBase, openChatBase } from "./chat-base.js";
import { type FinetuneChatOptions, finetuneChatOptions } from "./chat-options.js";
import { type ChatData, chatRows } from "./chat-rows.js";
import { ChatSamples, sampleText } from "./chat-samples.js";
import { type RunControl, inRunFolder } from "./run.js";

export type { ChatSample } from "./chat-samples.js";

/** A run of fine-tuning on conversations: what it is told, and where it is kept. */
export type FinetuneChatRequest = z.input<typeof finetuneChatOptions> & { readonly out: string };

/** What such a run did. */
export interface FinetuneChatResult extends TrainingResult {
  readonly options: FinetuneChatOptions;
  readonly parameters: number;
  /** Those of them that learn. */
  readonly trainedParameters: number;
  readonly trainingConversations: number;
  readonly heldOutConversations: number;
  /** Tokens of a pass over the training conversations, and those of them that are learned. */
  readonly trainingTokens: number;
  readonly trainedTokens: number;
}

/**
 * Fine-tunes a decoder or an encoder-decoder on conversations, by an adapter or as a whole, and keeps the best checkpoint in
 * `out`:
 *
 *     await finetuneChat({ model: "SmolLM2-135M-Instruct.gguf", data: "chats.jsonl", out: "runs/mine" });
 *
 * The loss is over the assistant's turns, each with the token that ends it. A decoder's rows hold several conversations, none
 * of which sees another; an encoder-decoder reads what was said before an answer, and writes the answer. `out` receives an adapter in peft's layout, or a checkpoint folder, with the tokenizer, its chat template and
 * what ends a turn; a run that was stopped goes on with `resumeChat`. Throws `data` with the rows that cannot be learned.
 */
export const finetuneChat = (
  { out, ...given }: FinetuneChatRequest,
  control: RunControl = {},
): Promise<FinetuneChatResult> =>
  inRunFolder(out, finetuneChatOptions, { resume: false, given }, (folder) => run(folder, control));

/** Goes on with the run in a folder, to exactly the losses of a run that was never stopped. */
export const resumeChat = (out: string, control: RunControl = {}): Promise<FinetuneChatResult> =>
  inRunFolder(out, finetuneChatOptions, { resume: true }, (folder) => run(folder, control));

// ---- Data ---------------------------------------------------------------------------------------------------------

/** Reads the conversations of a run; a share of them is held out where there are none to evaluate on. */
async function readData(options: FinetuneChatOptions, { onMessage }: RunControl): Promise<ChatData> {
  const { format, encoding, skipBadRows, seed } = options;
  const read = async (file: string) => {
    const found = await readConversations(file, { format, encoding, skipBadRows });
    onMessage?.(
      `${file}: ${count(found.rows.length)} conversations, read as ${found.format}` +
        (found.bad.length > 0 ? `; ${found.bad.length} rows that cannot be used are left out` : ""),
      { file, conversations: found.rows.length, format: found.format, bad: found.bad.length },
    );
    return found.rows;
  };
  const rows = await read(options.data);
  if (options.eval !== undefined)
    return { name: options.data, training: rows, heldName: options.eval, held: await read(options.eval) };
  const share = Math.ceil(rows.length * options.validation);
  if (share >= rows.length)
    throw new LineageError(
      "data",
      `${options.data} has ${rows.length} ${rows.length === 1 ? "conversation" : "conversations"}, too few to hold some out; give --eval FILE`,
    );
  const held = new Set(new Random(seed).fork("held out").permutation(rows.length).slice(0, share));
  return {
    name: options.data,
    training: rows.filter((_, place) => !held.has(place)),
    heldName: `the ${share} of them that are held out`,
    held: rows.filter((_, place) => held.has(place)),
  };
}

// ---- The run ------------------------------------------------------------------------------------------------------

/** Peak of the learning rate where all weights of a decoder learn: a tenth of an adapter's, so that little is forgotten. */
const wholeRate = 2e-5;

/** How a base learns. All weights of an encoder-decoder bear what they bear on pairs of texts. */
function planOf({ kind, adapter }: ChatBase): LearningPlan {
  if (adapter) return learningPlans[adapter.kind === "lora" ? "adapter" : "softPrompt"];
  const { learningRate } = learningPlans.finetunePairs;
  return { ...learningPlans.adapter, learningRate: kind === "decoder" ? wholeRate : learningRate };
}

const adapterName = (adapter: Adapter): string =>
  adapter.kind === "lora"
    ? `an adapter beside ${adapter.layers.size} layers`
    : `a ${adapter.kind === "prompt" ? "soft prompt" : "prefix"} of ${adapter.prompt.tokens} tokens`;

async function run(folder: RunFolder<FinetuneChatOptions>, control: RunControl): Promise<FinetuneChatResult> {
  const { options, path: out } = folder;
  const { onMessage, signal, observer } = control;
  const tell = (sentence: string, data: object = {}) => onMessage?.(sentence, { ...data });
  const runtime = control.runtime ?? createRuntime();
  const data = await readData(options, control);
  using base = await openChatBase(runtime, options, (sentence) => {
    tell(sentence);
  });
  const { model, adapter, weights, system, room } = base;
  const maxLength = options.maxLength ?? Math.min(room, 1024);
  if (maxLength > room)
    throw new LineageError(
      "length",
      `conversations of ${maxLength} tokens do not fit the model, which has room for ${room}; choose a smaller --max-length`,
    );
  const rows = chatRows(base, data, { ...options, maxLength }, tell);
  const { training, held, source, stopIds } = rows;
  const objective = adapter ? withAdapter(rows.objective, adapter) : rows.objective;
  const { accumulate } = options;
  const stepsPerEpoch = Math.max(1, Math.ceil(rows.batches / accumulate));
  const steps = options.steps ?? Math.max(1, Math.round(stepsPerEpoch * options.epochs));
  const parameters = countParameters(model);
  const trainedParameters = [...namedParameters(model).values()].reduce(
    (sum, { trainable, size }) => sum + (trainable ? size : 0),
    0,
  );
  const memory = trainingMemory(objective, rows.sizes, {
    optimizer: optimizerStateSize[options.optimizer],
    average: false,
    frozen: weights.constants,
    gradientCheckpointing: options.gradientCheckpointing,
    resident: process.memoryUsage.rss(),
  });
  tell(
    `${system.title} with ${count(parameters)} parameters, of which ${count(trainedParameters)} learn` +
      `${adapter ? `, in ${adapterName(adapter)}` : ""}; ${steps} steps, ${stepsPerEpoch} an epoch, ` +
      `each of ${accumulate > 1 ? `${accumulate} times ` : ""}${rows.shape}; about ${formatBytes(memory.total)} of memory`,
    { parameters, trainedParameters, steps, memory },
  );
  requireMemory(
    memory.total - process.memoryUsage.rss(),
    `${system.title} and batches of ${options.maxTokens} tokens`,
    "use a smaller --max-tokens or --max-length with a larger --accumulate, --gradient-checkpointing, or an adapter",
  );

  const plan = planOf(base);
  const { schedule, learningRate, weightDecay, beta2 } = options;
  let evaluation: EvaluationStep | undefined;
  using samples = new ChatSamples(base, data.held, stopIds, options);
  const result = await runTraining({
    folder,
    objective,
    weights,
    source,
    accumulation: accumulate,
    gradientCheckpointing: options.gradientCheckpointing,
    clipNorm: options.clip,
    seed: options.seed,
    schedule: plannedSchedule(plan, steps, {
      schedule,
      learningRate,
      warmup: Math.floor(steps * options.warmup),
    }),
    optimizer: (...buffers) =>
      chosenOptimizer({ optimizer: options.optimizer, betas: [0.9, beta2], weightDecay }, out, ...buffers),
    steps,
    evalEvery: options.evalEvery ?? stepsPerEpoch,
    patience: options.patience,
    evaluate: async (current, { signal: stop }): Promise<Metrics> => {
      evaluation ??= await EvaluationStep.create(objective, current);
      const { loss } = await evaluation.evaluate(rows.heldOut(), { signal: stop });
      const written = await samples.write(current, stop);
      if (written.length > 0) tell(written.map(sampleText).join("\n\n"), { samples: written });
      return { loss, perplexity: Math.exp(loss) };
    },
    save: (kept) => base.save(out, kept, stopIds),
    ...(signal && { signal }),
    ...(observer && { observer }),
  }).finally(() => evaluation?.dispose());
  return {
    ...result,
    options,
    parameters,
    trainedParameters,
    trainingConversations: training.conversations,
    heldOutConversations: held.conversations,
    trainingTokens: training.tokens,
    trainedTokens: training.trainedTokens,
  };
}
