import { existsSync } from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";
import type { z } from "zod";
import { LineageError } from "../base/errors.js";
import { loadModel } from "../checkpoints/index.js";
import { DataLoader, textCorpus } from "../data/index.js";
import { DecoderBody, EncoderDecoder, type WeightSet, type Weights, scaledContext } from "../nn/index.js";
import { ActorCritic, type Writer } from "../objectives/index.js";
import { createRuntime } from "../runtime/index.js";
import type { Runtime } from "../runtime/types.js";
import { type RunControl, inRunFolder } from "../tasks/run.js";
import type { Tokenizer } from "../tokenizers/index.js";
import { type RunFolder, type TrainingResult, runTraining, schedule } from "../training/index.js";
import { combinedRewards } from "./advantages.js";
import { heldOut, optimizerOf, tellLong } from "./align.js";
import { CompletionReader } from "./forward.js";
import { type Learner, openLearner } from "./learner.js";
import {
  type GrpoOptions,
  type OnlineOptionsOf,
  type PpoOptions,
  type RejectionOptions,
  grpoOptions,
  ppoOptions,
  rejectionOptions,
} from "./options.js";
import {
  type OnlineRequest,
  type OnlineTraining,
  actorCriticWeights,
  grpo,
  ppo,
  rejectionSampling,
} from "./policy.js";
import { type RewardModel, openRewardModel } from "./reward-model.js";
import type { RewardFunction, Sample } from "./rollouts.js";
import { AnswerEncoder, type PromptRow, readPrompts } from "./texts.js";
import type { RoundReport } from "./watch.js";

/** What a run of PPO, GRPO or rejection sampling did. */
export interface OnlineResult<Options> extends TrainingResult {
  readonly options: Options;
  readonly prompts: number;
  /** What came of each round of this process. */
  readonly rounds: readonly RoundReport[];
  readonly metrics: Readonly<Record<string, number>>;
}

/** What a run is told that its options cannot hold. */
export interface OnlineControl extends RunControl {
  /** Rewards by a function instead of a model or a module. A run that goes on needs it again. */
  readonly reward?: RewardFunction;
  readonly onRound?: (report: RoundReport) => void;
}

type Request<S extends z.ZodType> = z.input<S> & { readonly out: string };

/**
 * Proximal policy optimisation on what a model writes after prompts:
 *
 *     await alignPpo({ model: "runs/sft", data: "prompts.jsonl", reward: "runs/reward", out: "runs/ppo" });
 */
export const alignPpo = ({ out, ...given }: Request<typeof ppoOptions>, control: OnlineControl = {}) =>
  inRunFolder(out, ppoOptions, { resume: false, given }, (folder) => run(folder, control, ppoMethod));
export const resumePpo = (out: string, control: OnlineControl = {}) =>
  inRunFolder(out, ppoOptions, { resume: true }, (folder) => run(folder, control, ppoMethod));

/** Group-relative policy optimisation, which takes rewards by rule well. */
export const alignGrpo = ({ out, ...given }: Request<typeof grpoOptions>, control: OnlineControl = {}) =>
  inRunFolder(out, grpoOptions, { resume: false, given }, (folder) => run(folder, control, grpoMethod));
export const resumeGrpo = (out: string, control: OnlineControl = {}) =>
  inRunFolder(out, grpoOptions, { resume: true }, (folder) => run(folder, control, grpoMethod));

/** Rejection sampling: the best of several completions is learned like a demonstration, round after round. */
export const alignRejection = (
  { out, ...given }: Request<typeof rejectionOptions>,
  control: OnlineControl = {},
) =>
  inRunFolder(out, rejectionOptions, { resume: false, given }, (folder) =>
    run(folder, control, rejectionMethod),
  );
export const resumeRejection = (out: string, control: OnlineControl = {}) =>
  inRunFolder(out, rejectionOptions, { resume: true }, (folder) => run(folder, control, rejectionMethod));

// ---- Methods ------------------------------------------------------------------------------------------------------

interface Method {
  readonly weights: Weights;
  readonly training: OnlineTraining;
}
type MakeMethod<Options> = (
  learner: Learner,
  options: Options,
  request: OnlineRequest,
  rewardModel: RewardModel | undefined,
) => Promise<Method>;

const ppoMethod: MakeMethod<PpoOptions> = async (learner, options, request, rewardModel) => {
  const { model: policy, system, tokenizer, adapter } = learner;
  const reads = policy instanceof EncoderDecoder;
  const kind = options.value ?? (adapter || reads ? "shared" : "own");
  if (kind === "own" && (adapter || reads))
    throw new LineageError(
      "unsupported",
      "a value function of its own network stands beside a decoder whose weights all learn; use --value shared",
    );
  let critic: DecoderBody | undefined;
  let values: WeightSet | undefined;
  if (kind === "own" && system.kind === "decoder") {
    const decoder = rewardModel?.model.encoder instanceof DecoderBody ? rewardModel : undefined;
    const shape = decoder ?? learner;
    const make = (decoder?.system ?? system) as typeof system;
    critic = new DecoderBody(make.create(shape.model.config as never));
    if (decoder) values = decoder.weights;
  }
  const model = new ActorCritic(policy, critic);
  const weights = adapter
    ? learner.learning(model, options.seed)
    : actorCriticWeights(model, learner.base as Weights, values, options.seed);
  const { pretraining, pretrainingWeight, batch } = options;
  const text =
    pretraining === undefined
      ? undefined
      : pretrainingText(pretraining, tokenizer, policy, batch, options.seed);
  const training = await ppo(model, weights, {
    ...request,
    coefficient: options.klCoefficient,
    klTarget: options.klTarget,
    epochs: options.epochs,
    clipRange: options.clipRange,
    valueClipRange: options.clipRange,
    valueWeight: options.valueWeight,
    gamma: options.gamma,
    lambda: options.lambda,
    whitenRewards: options.whitenRewards,
    ...(text && { pretraining: text, pretrainingWeight }),
  });
  return { weights, training };
};

/** Rows of text as it was pretrained on. */
function pretrainingText(
  file: string,
  tokenizer: Tokenizer,
  { config }: Writer,
  batchSize: number,
  seed: number,
) {
  const ids: number[] = [];
  for (const part of textCorpus(file).parts()) ids.push(...tokenizer.encode(part, { parseSpecial: false }));
  const sequenceLength = Math.min(128, config.contextLength);
  return new DataLoader(Int32Array.from(ids), { batchSize, sequenceLength, seed }, file);
}

const grpoMethod: MakeMethod<GrpoOptions> = async (learner, options, request) => {
  const { beta, clipRange, meanOver } = options;
  const weights = learner.learning(learner.model, options.seed);
  return {
    weights,
    training: await grpo(learner.model, weights, { ...request, beta, clipRange, meanOver }),
  };
};

const rejectionMethod: MakeMethod<RejectionOptions> = async (learner, options, request) => {
  const weights = learner.learning(learner.model, options.seed);
  return {
    weights,
    training: await rejectionSampling(learner.model, weights, {
      ...request,
      temperature: options.temperature,
    }),
  };
};

// ---- A run --------------------------------------------------------------------------------------------------------

async function run<Options extends OnlineOptionsOf>(
  folder: RunFolder<Options>,
  control: OnlineControl,
  make: MakeMethod<Options>,
): Promise<OnlineResult<Options>> {
  const { options } = folder;
  const { onMessage: tell } = control;
  const runtime = control.runtime ?? createRuntime();
  using learner = await openLearner(runtime, options);
  using rewards = await openRewards(runtime, options, learner.tokenizer, control.reward);
  const { model, tokenizer, stopIds } = learner;
  const encoder = new AnswerEncoder(tokenizer, stopIds, learner.system.kind);
  const read = async (file: string) => {
    const rows = await readPrompts(file, options);
    const encoded = rows.map((row) => ({ row, ids: encoder.prompt(row.messages) }));
    const context = scaledContext(model.config);
    const room = model instanceof EncoderDecoder ? context : context - options.maxNewTokens;
    if (room < 1)
      throw new LineageError(
        "length",
        `--max-new-tokens ${options.maxNewTokens} leaves no room for a prompt in the model's context of ${context}`,
      );
    const most = Math.min(options.maxPrompt, room);
    const long = encoded.filter(({ ids }) => ids.length > most).map(({ row }) => row.number);
    tellLong(file, long, rows.length, most, tell);
    return encoded.filter(({ ids }) => ids.length <= most);
  };
  const all = await read(options.data);
  const [training, held] =
    options.eval === undefined
      ? heldOut(all, options.validation, options.seed, options.data)
      : [all, await read(options.eval)];
  const shown = held.slice(0, options.evalPrompts);
  tell?.(`${training.length} prompts to write after, ${shown.length} held out`, { prompts: training.length });
  const reports: RoundReport[] = [];
  // A copy of the model as it was, where all of it learns.
  const frozen = learner.adapter
    ? undefined
    : await loadModel(runtime, options.model, { kind: learner.system.kind });
  using reference = frozen
    ? await CompletionReader.logProbs(frozen.model as unknown as Writer, frozen.weights)
    : undefined;
  let evaluating = false;
  const request: OnlineRequest = {
    prompts: training.map(({ ids }) => ids),
    reward: (samples) =>
      rewards.of(
        samples.map((sample) => {
          const { row, messages } = (evaluating ? shown : training)[sample.index]!.row;
          return { ...sample, row, messages };
        }),
      ),
    reference: reference ?? learner.reference,
    tokenizer,
    stopIds,
    maxNewTokens: options.maxNewTokens,
    promptsPerRound: options.prompts,
    samplesPerPrompt: options.samples,
    minibatch: options.batch,
    epochs: options.epochs,
    missingEndPenalty: options.missingEndPenalty,
    seed: options.seed,
    signal: control.signal,
    onRound: (report) => {
      reports.push(report);
      control.onRound?.(report);
      const { round, reward, kl, length } = report;
      tell?.(
        `round ${round}: reward ${reward.toFixed(3)}, divergence ${kl.toFixed(2)} nats, ${length.toFixed(1)} tokens`,
        { ...report },
      );
    },
    onWarning: (sentence) => tell?.(sentence, { warning: sentence }),
  };
  const { weights, training: method } = await make(learner, options, request, rewards.model);
  try {
    const learned = options.method === "rejection" ? options.prompts : options.prompts * options.samples;
    const perRound = Math.ceil((Math.ceil(learned / options.batch) * options.epochs) / options.accumulate);
    const steps = options.rounds * perRound;
    let metrics: Readonly<Record<string, number>> = {};
    const result = await runTraining({
      folder,
      objective: method.objective,
      source: method.source,
      weights,
      steps,
      accumulation: options.accumulate,
      gradientCheckpointing: options.gradientCheckpointing,
      clipNorm: options.clip,
      seed: options.seed,
      schedule: schedule(options.schedule, {
        learningRate: options.learningRate ?? (learner.adapter ? 1e-4 : 1e-5),
        warmupSteps: Math.floor(steps * options.warmup),
        totalSteps: steps + 1,
      }),
      optimizer: optimizerOf(options.weightDecay),
      evalEvery: perRound * (options.evalEvery ?? Math.max(1, Math.floor(options.rounds / 10))),
      patience: options.patience,
      best: { metric: "reward", mode: "most" },
      evaluate: async (_, { signal }) => {
        evaluating = true;
        try {
          const found = await method.evaluate(
            shown.map(({ ids }) => ids),
            signal,
          );
          metrics = found;
          return found;
        } finally {
          evaluating = false;
        }
      },
      save: (kept) => learner.save(folder.path, kept),
      ...(control.signal && { signal: control.signal }),
      ...(control.observer && { observer: control.observer }),
    });
    return { ...result, options, prompts: training.length, rounds: reports, metrics };
  } finally {
    method[Symbol.dispose]();
    weights.dispose();
    frozen?.weights.dispose();
  }
}

/** A sample with the row that its prompt stands in: what a rule looks at. */
export interface RuleSample extends Sample {
  readonly row: PromptRow["row"];
  /** What it answers. */
  readonly messages: PromptRow["messages"];
}

interface Rewards extends Disposable {
  of(samples: readonly RuleSample[]): Promise<readonly number[]>;
  readonly model: RewardModel | undefined;
}

/** Rewards of a run: a function, a module, a reward model, or two of them. */
async function openRewards(
  runtime: Runtime,
  { reward, safety, rule }: OnlineOptionsOf,
  tokenizer: Tokenizer,
  given: RewardFunction | undefined,
): Promise<Rewards> {
  const ways = [reward, rule, given].filter((way) => way !== undefined).length;
  if (ways !== 1)
    throw new LineageError(
      "argument",
      ways === 0
        ? "nothing says what is good: give --reward FOLDER (a reward model of lineage align reward) or --rule FILE.mjs (its default function takes samples and gives numbers)"
        : "give one of --reward and --rule, not both",
    );
  if (safety !== undefined && reward === undefined)
    throw new LineageError("argument", "--safety stands beside --reward, the model of helpfulness");
  const by = given ?? (rule === undefined ? undefined : await ruleOf(rule));
  if (by) return { of: async (samples) => by(samples), model: undefined, [Symbol.dispose]: () => undefined };
  const models: RewardModel[] = [];
  const dispose = () => {
    for (const model of models) model[Symbol.dispose]();
  };
  try {
    for (const place of [reward!, ...(safety === undefined ? [] : [safety])]) {
      const model = await openRewardModel(runtime, place);
      models.push(model);
      // An encoder reads the words.
      if (model.system.kind === "encoder") continue;
      if (JSON.stringify(model.tokenizer.definition) !== JSON.stringify(tokenizer.definition))
        throw new LineageError(
          "checkpoint",
          `the reward model ${place} has another tokenizer than the policy; train it from the same base (lineage align reward --model BASE)`,
        );
    }
  } catch (error) {
    dispose();
    throw error;
  }
  const [first, second] = models;
  return {
    of: async (samples) => {
      const helpful = await rewardsBy(first!, samples);
      return second ? combinedRewards(helpful, await rewardsBy(second, samples)) : helpful;
    },
    model: first,
    [Symbol.dispose]: dispose,
  };
}

/** A decoder reads the tokens of the policy, whose tokenizer it has; an encoder reads the words as two texts. */
function rewardsBy(model: RewardModel, samples: readonly RuleSample[]): Promise<number[]> {
  if (model.system.kind !== "encoder")
    return model.rewards(samples.map(({ prompt, completion }) => [...prompt, ...completion]));
  const encoder = new AnswerEncoder(model.tokenizer, [], "encoder");
  const most = scaledContext(model.model.config);
  return model.rewards(
    samples.map(({ messages, text }) => {
      const whole = encoder.whole(messages, [{ role: "assistant", content: text }]);
      if (whole.ids.length > most)
        throw new LineageError(
          "length",
          `a prompt and its answer have ${whole.ids.length} tokens, but the reward model reads at most ${most}; give a smaller --max-prompt or --max-new-tokens`,
        );
      return whole;
    }),
  );
}

async function ruleOf(file: string): Promise<RewardFunction> {
  if (!existsSync(file))
    throw new LineageError("argument", `there is no rule ${file}: --rule names a JavaScript module`);
  const module = (await import(pathToFileURL(path.resolve(file)).href)) as { readonly default?: unknown };
  if (typeof module.default !== "function")
    throw new LineageError(
      "argument",
      `${file} has no default function: export default (samples) => samples.map(({ text, row }) => ...)`,
    );
  return module.default as RewardFunction;
}
