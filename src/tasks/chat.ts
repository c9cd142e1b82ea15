import { LineageError } from "../base/errors.js";
import { formatBytes, requireMemory } from "../base/memory.js";
import { count } from "../base/numbers.js";
import { Random } from "../base/random.js";
import {
  type Conversation,
  type EncodedConversations,
  PackedLoader,
  type PackingOptions,
  describeConversations,
  encodeConversations,
  packedBatches,
  readConversations,
} from "../data/index.js";
import { Decoder, endOfText, generateText } from "../generation/index.js";
import {
  type Adapter,
  type Weights,
  countParameters,
  namedParameters,
  rotaryReach,
  scaledContext,
} from "../nn/index.js";
import { packedObjective, withAdapter } from "../objectives/index.js";
import { createRuntime } from "../runtime/index.js";
import { ChatTemplate } from "../tokenizers/index.js";
import {
  EvaluationStep,
  type Metrics,
  type RunFolder,
  type TrainingResult,
  adafactor,
  adamW,
  learningPlans,
  optimizerStateSize,
  plannedSchedule,
  runTraining,
  trainingMemory,
} from "../training/index.js";
import type { z } from "zod";
import { type ChatBase, openChatBase } from "./chat-base.js";
import { type FinetuneChatOptions, finetuneChatOptions } from "./chat-options.js";
import { type RunControl, inRunFolder } from "./run.js";

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

/** A held-out answer that was written at an evaluation, beside the one in the data. */
export interface ChatSample {
  readonly question: string;
  readonly reference: string;
  readonly text: string;
}

/**
 * Fine-tunes a decoder on conversations, by an adapter or as a whole, and keeps the best checkpoint in `out`:
 *
 *     await finetuneChat({ model: "SmolLM2-135M-Instruct.gguf", data: "chats.jsonl", out: "runs/mine" });
 *
 * The loss is over the assistant's turns, each with the token that ends it; rows hold several conversations, none of which
 * sees another. `out` receives an adapter in peft's layout, or a checkpoint folder, with the tokenizer, its chat template and
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

interface ChatData {
  readonly name: string;
  readonly training: readonly Conversation[];
  readonly heldName: string;
  readonly held: readonly Conversation[];
}

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

/** Tokens of a packed row at least, so that short conversations share one, and what lengths are rounded up to. */
const [leastRow, rowStep] = [256, 64];

/** Tokens of a row, and rows of a batch. */
function shapeOf(
  parts: readonly EncodedConversations[],
  maxLength: number,
  groupOf: (length: number) => number,
  { maxTokens, seed }: FinetuneChatOptions,
): Omit<PackingOptions, "seed"> {
  const longest = Math.max(...parts.flatMap(({ rows }) => rows.map(({ tokens }) => tokens.length)));
  const wanted = Math.max(longest, Math.min(leastRow, maxTokens));
  const sequenceLength = Math.max(longest, Math.min(maxLength, Math.ceil(wanted / rowStep) * rowStep));
  const { rowsOfEpoch } = new PackedLoader(parts[0]!.rows, { batchSize: 1, sequenceLength, seed, groupOf });
  const fitting = Math.floor(maxTokens / sequenceLength);
  return { batchSize: Math.max(1, Math.min(fitting, rowsOfEpoch)), sequenceLength, groupOf };
}

// ---- The run ------------------------------------------------------------------------------------------------------

/** Peak of the learning rate where all weights learn: a tenth of an adapter's, so that little is forgotten. */
const wholeRate = 2e-5;

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
  const { model, adapter, weights, tokenizer, system } = base;
  const { room } = base;
  const maxLength = options.maxLength ?? Math.min(room, 1024);
  if (maxLength > room)
    throw new LineageError(
      "length",
      `conversations of ${maxLength} tokens do not fit the model, which has room for ${room}; choose a smaller --max-length`,
    );
  const template = new ChatTemplate(tokenizer);
  const ends = base.stopIds ?? endOfText(tokenizer);
  const encode = (name: string, conversations: readonly Conversation[]): EncodedConversations => {
    const { train, long, skipBadRows } = options;
    const found = encodeConversations(template, conversations, {
      name,
      maxLength,
      long,
      train,
      skipBadRows,
      endIds: ends,
    });
    tell(describeConversations(name, found, maxLength), { ...found, rows: undefined });
    if (found.addedEnds > 0)
      tell(
        `the chat template does not end the last turn; ${tokenizer.idToToken(found.endIds[0]!) ?? ""} is added to it`,
      );
    return found;
  };
  const training = encode(data.name, data.training);
  const held = encode(data.heldName, data.held);
  const stopIds = [...new Set([...training.endIds, ...ends])];

  // Positions of a model whose angles depend on the length of a text.
  const virtual = scaledContext(model.config) - room;
  const groupOf = (length: number) => rotaryReach(model.config, length + virtual);
  const shape = shapeOf([training, held], maxLength, groupOf, options);
  const plain = packedObjective(model, shape);
  const objective = adapter ? withAdapter(plain, adapter) : plain;
  const source = new PackedLoader(training.rows, { ...shape, seed: options.seed }, data.name);
  const { accumulate } = options;
  const stepsPerEpoch = Math.max(1, Math.ceil(source.rowsOfEpoch / shape.batchSize / accumulate));
  const steps = options.steps ?? Math.max(1, Math.round(stepsPerEpoch * options.epochs));
  const parameters = countParameters(model);
  const trainedParameters = [...namedParameters(model).values()].reduce(
    (sum, { trainable, size }) => sum + (trainable ? size : 0),
    0,
  );
  const memory = trainingMemory(
    objective,
    {},
    {
      optimizer: optimizerStateSize[options.optimizer],
      average: false,
      frozen: weights.constants,
      gradientCheckpointing: options.gradientCheckpointing,
      resident: process.memoryUsage.rss(),
    },
  );
  tell(
    `${system.title} with ${count(parameters)} parameters, of which ${count(trainedParameters)} learn` +
      `${adapter ? `, in ${adapterName(adapter)}` : ""}; ${steps} steps, ${stepsPerEpoch} an epoch, ` +
      `each of ${accumulate * shape.batchSize} rows of ${shape.sequenceLength} tokens; about ${formatBytes(memory.total)} of memory`,
    { parameters, trainedParameters, steps, ...shape, memory },
  );
  requireMemory(
    memory.total - process.memoryUsage.rss(),
    `${system.title} and batches of ${options.maxTokens} tokens`,
    "use a smaller --max-tokens or --max-length with a larger --accumulate, --gradient-checkpointing, or an adapter",
  );

  const plan =
    adapter === undefined
      ? { ...learningPlans.adapter, learningRate: wholeRate }
      : learningPlans[adapter.kind === "lora" ? "adapter" : "softPrompt"];
  const { schedule, learningRate, weightDecay, beta2 } = options;
  let evaluation: EvaluationStep | undefined;
  using samples = new ChatSamples(base, template, data.held, stopIds, options);
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
    optimizer: (own, gradients) =>
      options.optimizer === "adafactor"
        ? adafactor(own, gradients, { weightDecay })
        : adamW(own, gradients, { betas: [0.9, beta2], weightDecay }),
    steps,
    evalEvery: options.evalEvery ?? stepsPerEpoch,
    patience: options.patience,
    evaluate: async (current, { signal: stop }): Promise<Metrics> => {
      evaluation ??= await EvaluationStep.create(objective, current);
      const { loss } = await evaluation.evaluate(packedBatches(held.rows, shape), { signal: stop });
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

// ---- Samples ------------------------------------------------------------------------------------------------------

const sampleText = ({ question, reference, text }: ChatSample): string =>
  `  question   ${question}\n  reference  ${reference}\n  written    ${text}`;

/** Writes the last answer of some held-out conversations anew, greedily. */
class ChatSamples implements Disposable {
  private readonly prompts: readonly { ids: readonly number[]; sample: Omit<ChatSample, "text"> }[];
  private decoder: Decoder | undefined;

  constructor(
    private readonly base: ChatBase,
    template: ChatTemplate,
    held: readonly Conversation[],
    private readonly stopIds: readonly number[],
    private readonly options: FinetuneChatOptions,
  ) {
    const room = base.room - options.sampleTokens;
    this.prompts = held
      .flatMap(({ messages, tools }) => {
        const last = messages.findLastIndex(({ role }) => role === "assistant");
        const before = messages.slice(0, last);
        if (before.at(-1)?.role !== "user") return [];
        const sample = { question: before.at(-1)!.content, reference: messages[last]!.content };
        return [{ ids: template.encode(before, { tools }), sample }];
      })
      .filter(({ ids }) => ids.length < room)
      .slice(0, options.samples);
  }

  async write(weights: Weights, signal: AbortSignal | undefined): Promise<ChatSample[]> {
    const { model, tokenizer, room } = this.base;
    const { sampleTokens } = this.options;
    const virtual = scaledContext(model.config) - room;
    if (this.prompts.length === 0) return [];
    this.decoder ??= await Decoder.create({
      model,
      weights,
      slots: this.prompts.length,
      capacity: virtual + sampleTokens + Math.max(...this.prompts.map(({ ids }) => ids.length)),
    });
    // What slots hold was computed with the weights of then.
    this.decoder.forget();
    const writer = { decoder: this.decoder, tokenizer, stopIds: this.stopIds };
    const streams = this.prompts.map(({ ids }) =>
      generateText(writer, ids, { temperature: 0, maxNewTokens: sampleTokens, signal }),
    );
    const texts = await Promise.all(streams.map((stream) => stream.all()));
    return this.prompts.map(({ sample }, place) => ({ ...sample, text: texts[place]!.text }));
  }

  [Symbol.dispose](): void {
    this.decoder?.dispose();
  }
}
