import { Command } from "commander";
import { z } from "zod";
import {
  alignGrpo,
  alignPpo,
  alignPreferences,
  alignRejection,
  alignReward,
  grpoOptions,
  ppoOptions,
  preferenceOptions,
  rejectionOptions,
  resumeGrpo,
  resumePpo,
  resumePreferences,
  resumeRejection,
  resumeReward,
  rewardOptions,
} from "../alignment/index.js";
import { LineageError } from "../base/errors.js";
import { readJson } from "../base/files.js";
import { existsSync } from "node:fs";
import path from "node:path";
import { type RunControl, finetuneChat, finetuneChatOptions, resumeChat } from "../tasks/index.js";
import { type TrainingResult, parseOptions } from "../training/index.js";
import { addAdapterOptions, addChatOptions, tellChatRun } from "./chat-tuning.js";
import { modelFor } from "./model.js";
import { examples, libraryOptions, option, threadsOption } from "./options.js";
import { colors, duration } from "./terminal.js";
import { type RunCommand, shownRun } from "./training.js";

interface AlignArguments extends RunCommand {
  readonly out: string;
  readonly [option: string]: unknown;
}

interface Result extends TrainingResult {
  readonly metrics: Readonly<Record<string, number>>;
}

interface Method<Options> {
  readonly name: string;
  readonly schema: z.ZodType<Options>;
  start(request: Options & { readonly out: string }, control: RunControl): Promise<Result>;
  resume(out: string, control: RunControl): Promise<Result>;
  /** What the folder holds afterwards. */
  readonly made: (options: { readonly adapter?: string | undefined }) => string;
}

const listed = (metrics: Readonly<Record<string, number>>): string =>
  Object.entries(metrics)
    .filter(([name]) => name !== "loss")
    .map(([name, value]) => `${name} ${value.toFixed(4)}`)
    .join(", ");

/** The options of a new run, with the model's place in full. Throws `argument` where they name no model or no data. */
async function withModel(method: string, options: Readonly<Record<string, unknown>>) {
  for (const [name, example] of Object.entries({ model: "DIR", data: "FILE" }))
    if (options[name] === undefined)
      throw new LineageError("argument", `align ${method} needs --${name}, such as --${name} ${example}`);
  return { ...options, model: await modelFor(String(options["model"])) };
}

/** Runs a method, or goes on with the run in `--out`. */
const runMethod =
  <Options extends { readonly model: string; readonly adapter?: string | undefined }>(
    method: Method<Options>,
  ) =>
  ({ out, resume, threads, json, ...options }: AlignArguments): Promise<void> =>
    shownRun({ threads, json }, async (control, report) => {
      const started = performance.now();
      let made: string;
      let result: Result;
      if (resume) {
        const file = path.join(out, "run.json");
        const known = existsSync(file)
          ? ((await readJson(file)) as { readonly method?: unknown })
          : undefined;
        if (known?.method !== undefined && known.method !== method.name)
          throw new LineageError(
            "argument",
            `${out} holds a run of ${String(known.method)}; continue it with: lineage align ${String(known.method)} --resume --out ${out}`,
          );
        result = await method.resume(out, control);
        made = "what was learned";
      } else {
        const parsed = parseOptions(method.schema, await withModel(method.name, options));
        result = await method.start({ ...parsed, out }, control);
        made = method.made(parsed);
      }
      if (result.outcome === "interrupted") {
        report.say(
          `stopped after step ${result.step} and saved; continue with: lineage align ${method.name} --resume --out ${out}`,
          { outcome: result.outcome, step: result.step },
        );
        return;
      }
      const seconds = (performance.now() - started) / 1000;
      report.say(
        `${colors.green("done")} in ${duration(seconds)}${result.outcome === "stopped early" ? ", stopped early" : ""}: ${out} holds ${made} (step ${result.bestStep}): ${listed(result.metrics)}`,
        {
          outcome: result.outcome,
          step: result.step,
          bestStep: result.bestStep,
          metrics: result.metrics,
          seconds,
        },
      );
    });

type Of = ReturnType<typeof libraryOptions>;

const begin = (name: string, description: string, of: Of, data: string): Command =>
  new Command(name)
    .description(description)
    .optionsGroup("Data:")
    .addOption(of("data", "<file>", data, { required: true }))
    .addOption(of("eval", "<file>", "rows to evaluate on", { usual: "a share of --data is held out" }))
    .addOption(of("validation", "<p>", "share of --data that is held out without --eval"))
    .addOption(of("encoding", "<name>", "text encoding of the files", { usual: "UTF-8" }))
    .addOption(of("skipBadRows", undefined, "leave out rows that cannot be read, and count them"));

const addFormat = (command: Command, of: Of): Command =>
  command.addOption(of("format", "<name>", "layout of the rows", { usual: "told by looking" })).addOption(
    of("maxLength", "<n>", "tokens of a prompt with its answer; longer rows are left out and told", {
      usual: "the model's, 1024 at most",
    }),
  );

const addModel = (command: Command, of: Of): Command =>
  command
    .optionsGroup("Model:")
    .addOption(
      of("model", "<place>", "a decoder or an encoder-decoder: folder, GGUF, or ORG/NAME on the hub", {
        required: true,
      }),
    )
    .addOption(of("adapter", "<kind>", "what learns: an adapter, one beside 4-bit weights, or all weights"))
    .addOption(of("rank", "<n>", "rank of the adapter"))
    .addOption(of("alpha", "<x>", "the update is scaled by alpha / rank"))
    .addOption(of("rsLora", undefined, "scale it by alpha / sqrt(rank)"))
    .addOption(
      of("loraTargets", "<names>", "layers: all-linear, names between commas, or /a regular expression/"),
    );

const addLearning = (
  command: Command,
  of: Of,
  { rate, every }: { rate: string | undefined; every: string },
): Command =>
  command
    .addOption(of("accumulate", "<n>", "batches in a step"))
    .addOption(
      of(
        "gradientCheckpointing",
        undefined,
        "compute layers again in the backward pass: less memory, more time",
      ),
    )
    .addOption(of("learningRate", "<x>", "peak learning rate", rate === undefined ? {} : { usual: rate }))
    .addOption(of("warmup", "<p>", "share of the steps that are warm-up"))
    .addOption(of("schedule", "<name>", "schedule of the learning rate"))
    .addOption(of("weightDecay", "<x>", "weight decay of matrices"))
    .addOption(of("clip", "<x>", "largest gradient norm"))
    .addOption(of("seed", "<n>", "the same seed gives the same losses"))
    .addOption(
      of("evalEvery", "<n>", every, {
        usual: every.startsWith("rounds") ? "a tenth of the rounds" : "once an epoch",
      }),
    )
    .addOption(
      of("patience", "<n>", "stop after this many evaluations without a better one", { usual: "never" }),
    );

const addRun = (command: Command, name: string, lines: readonly (readonly [string, string])[]): Command =>
  command
    .optionsGroup("Run:")
    .addOption(option("out", "<folder>", "folder of the run", z.string().default(`runs/${name}`)))
    .option("--resume", "continue the run in --out, with its own options")
    .addOption(threadsOption())
    .option("--json", "one JSON object a line, for programs")
    .addHelpText(
      "after",
      examples(...lines, [
        `lineage align ${name} --resume --out runs/${name}`,
        "continue after Ctrl-C, with the same losses",
      ]),
    );

const end = <Options extends { readonly model: string; readonly adapter?: string | undefined }>(
  command: Command,
  method: Method<Options>,
  ...lines: readonly (readonly [string, string])[]
): Command => addRun(command, method.name, lines).action(runMethod(method));

const learned = ({ adapter }: { readonly adapter?: string | undefined }): string =>
  adapter === "none" ? "the best model" : "the best adapter, for --adapter and lineage merge";

// ---- sft ---------------------------------------------------------------------------------------------------------

const runSft = ({ out, resume, threads, json, ...options }: AlignArguments): Promise<void> =>
  shownRun({ threads, json }, async (control, report) => {
    const result = resume
      ? await resumeChat(out, control)
      : await finetuneChat(
          { ...parseOptions(finetuneChatOptions, await withModel("sft", options)), out },
          control,
        );
    tellChatRun(report, out, result, "align sft");
  });

function sftCommand(): Command {
  const of = libraryOptions(finetuneChatOptions.shape);
  const command = begin(
    "sft",
    "learn demonstrations, the first stage: the same run as lineage finetune --task chat",
    of,
    "conversations in any layout: JSON, JSONL, CSV, Parquet",
  )
    .addOption(
      of("maxLength", "<n>", "most tokens of a conversation", { usual: "the model's, 1024 at most" }),
    )
    .addOption(of("long", "<how>", "what becomes of a longer conversation; it is counted and told"))
    .optionsGroup("Model:")
    .addOption(of("model", "<place>", "a decoder: folder, GGUF, or ORG/NAME on the hub", { required: true }));
  addAdapterOptions(command, "Adapter:", "lora");
  addChatOptions(command, "Conversations:");
  command
    .optionsGroup("Training:")
    .addOption(of("epochs", "<n>", "passes over the conversations"))
    .addOption(of("steps", "<n>", "steps to train", { usual: "as many as the epochs have" }))
    .addOption(of("maxTokens", "<n>", "tokens of a batch, in rows of several conversations"));
  addLearning(command, of, {
    rate: "2e-4 for an adapter, 2e-5 for all weights",
    every: "steps between evaluations",
  });
  return addRun(command, "sft", [
    [
      "lineage align sft --model some.gguf --data chats.jsonl --adapter lora",
      "then align reward and align ppo, or align dpo",
    ],
  ]).action(runSft);
}

// ---- dpo ----------------------------------------------------------------------------------------------------------

function dpoCommand(): Command {
  const of = libraryOptions(preferenceOptions.shape);
  const command = addModel(
    addFormat(
      begin(
        "dpo",
        "learn from pairs of a better and a worse answer: DPO, IPO, SimPO, ORPO, CPO; or from thumbs: KTO",
        of,
        "pairs (prompt, chosen, rejected), rankings, or for kto answers with a label: JSON, JSONL, CSV, Parquet",
      ),
      of,
    ),
    of,
  )
    .optionsGroup("Loss:")
    .addOption(
      of(
        "loss",
        "<name>",
        "dpo, ipo, hinge and robust look at the model as it was; simpo, cpo and orpo do not",
      ),
    )
    .addOption(of("beta", "<x>", "larger keeps the model nearer to what it was", { usual: "0.1; simpo 2" }))
    .addOption(
      of("labelSmoothing", "<p>", "share of the preferences that may be the wrong way round", {
        usual: "0; robust 0.1",
      }),
    )
    .addOption(of("gamma", "<x>", "simpo: margin of the rewards"))
    .addOption(of("desirableWeight", "<x>", "kto: weight of liked answers"))
    .addOption(of("undesirableWeight", "<x>", "kto: weight of disliked answers"))
    .optionsGroup("Training:")
    .addOption(of("batch", "<n>", "pairs in a batch"))
    .addOption(of("epochs", "<n>", "passes over the pairs"))
    .addOption(of("steps", "<n>", "steps to train", { usual: "as many as the epochs have" }));
  addLearning(command, of, {
    rate: "5e-5 for an adapter, 5e-6 for all weights",
    every: "steps between evaluations",
  });
  return end(
    command,
    {
      name: "dpo",
      schema: preferenceOptions,
      start: alignPreferences,
      resume: resumePreferences,
      made: learned,
    },
    [
      "lineage align dpo --model DIR --data prefs.jsonl --out runs/dpo",
      "an adapter, from columns prompt, chosen, rejected",
    ],
    [
      "lineage align dpo --model DIR --data prefs.jsonl --adapter none --loss simpo",
      "all weights, without a reference",
    ],
    ["lineage align dpo --model DIR --data thumbs.json --loss kto", "from answers that were liked or not"],
  );
}

// ---- reward -------------------------------------------------------------------------------------------------------

function rewardCommand(): Command {
  const of = libraryOptions(rewardOptions.shape);
  const command = addFormat(
    begin(
      "reward",
      "train a reward model: one number for a text, from rankings of answers",
      of,
      "rankings, or pairs (prompt, chosen, rejected): JSON, JSONL, CSV, Parquet",
    ),
    of,
  )
    .addOption(
      of(
        "margin",
        "<x>",
        "factor of the data's grades, by which the better answer is to win; 0 ignores them",
      ),
    )
    .optionsGroup("Model:")
    .addOption(
      of("model", "<place>", "a decoder or an encoder: folder, or ORG/NAME on the hub", { required: true }),
    )
    .optionsGroup("Training:")
    .addOption(of("batch", "<n>", "prompts in a batch, each with all of its answers"))
    .addOption(of("epochs", "<n>", "passes over the prompts"))
    .addOption(of("steps", "<n>", "steps to train", { usual: "as many as the epochs have" }));
  addLearning(command, of, { rate: undefined, every: "steps between evaluations" });
  return end(
    command,
    {
      name: "reward",
      schema: rewardOptions,
      start: alignReward,
      resume: resumeReward,
      made: () => "the best reward model, and reward.json with its accuracy by margin and calibration",
    },
    [
      "lineage align reward --model DIR --data rankings.jsonl --out runs/reward",
      "for align ppo --reward runs/reward",
    ],
    [
      "lineage align reward --model DIR --data graded.jsonl --margin 0.3",
      "LLaMA-2's margin by the grades of the data",
    ],
  );
}

// ---- ppo, grpo, rejection -----------------------------------------------------------------------------------------

function onlineBegin(name: string, description: string, of: Of): Command {
  return addModel(
    begin(
      name,
      description,
      of,
      "prompts: rows with messages, prompt, question or instruction; .txt has one a line",
    ).addOption(of("maxPrompt", "<n>", "tokens of a prompt; longer ones are left out and told")),
    of,
  )
    .optionsGroup("Reward:")
    .addOption(
      of("reward", "<folder>", "a reward model of lineage align reward", { usual: "none; --rule instead" }),
    )
    .addOption(
      of("safety", "<folder>", "a second one for safety, combined with the first as in LLaMA-2", {
        usual: "none",
      }),
    )
    .addOption(
      of(
        "rule",
        "<file>",
        "a JavaScript module: export default (samples) => numbers; a sample has text, promptText, finished, row",
        {
          usual: "none; --reward instead",
        },
      ),
    )
    .addOption(of("missingEndPenalty", "<x>", "taken from the reward of an answer that was cut off"))
    .optionsGroup("Rounds:")
    .addOption(of("rounds", "<n>", "rounds of writing and learning"))
    .addOption(of("prompts", "<n>", "prompts of a round"))
    .addOption(of("samples", "<n>", "answers to each prompt"))
    .addOption(of("maxNewTokens", "<n>", "tokens of an answer"))
    .addOption(of("evalPrompts", "<n>", "held-out prompts that an evaluation answers"))
    .optionsGroup("Training:")
    .addOption(of("batch", "<n>", "answers in a batch"))
    .addOption(of("epochs", "<n>", "times that a round is learned from"));
}
const onlineRate = { rate: "1e-4 for an adapter, 1e-5 for all weights", every: "rounds between evaluations" };

function ppoCommand(): Command {
  const of = libraryOptions(ppoOptions.shape);
  const command = onlineBegin("ppo", "learn from rewards by PPO, as InstructGPT did", of)
    .addOption(
      of("klCoefficient", "<x>", "penalty of the divergence from the model as it was, at each token"),
    )
    .addOption(
      of("klTarget", "<x>", "divergence of an answer, in nats, that the penalty is adapted to", {
        usual: "the penalty stays",
      }),
    )
    .addOption(of("clipRange", "<x>", "how far probabilities may move within a round"))
    .addOption(
      of("value", "<kind>", "the value function reads the policy's states, or has a network of its own", {
        usual: "shared with an adapter, own without",
      }),
    )
    .addOption(of("valueWeight", "<x>", "weight of the value function's loss"))
    .addOption(of("gamma", "<x>", "discount of later rewards"))
    .addOption(of("lambda", "<x>", "0 trusts values, 1 rewards"))
    .addOption(of("whitenRewards", undefined, "divide rewards by their deviation"))
    .addOption(
      of("pretraining", "<file>", "text whose loss is mixed in, against forgetting: PPO-ptx", {
        usual: "none",
      }),
    )
    .addOption(of("pretrainingWeight", "<x>", "weight of that loss"));
  addLearning(command, of, onlineRate);
  return end(
    command,
    { name: "ppo", schema: ppoOptions, start: alignPpo, resume: resumePpo, made: learned },
    [
      "lineage align ppo --model runs/sft --data prompts.jsonl --reward runs/reward",
      "an adapter, with rewards of a model",
    ],
    [
      "lineage align ppo --model DIR --data prompts.jsonl --reward runs/helpful --safety runs/safe --kl-target 6",
      "two rewards, and an adapted penalty",
    ],
    [
      "lineage align ppo --model DIR --data prompts.jsonl --rule reward.mjs --pretraining my.txt",
      "a rule, and PPO-ptx",
    ],
  );
}

function grpoCommand(): Command {
  const of = libraryOptions(grpoOptions.shape);
  const command = onlineBegin(
    "grpo",
    "learn from rewards by GRPO: answers to one prompt are compared with each other",
    of,
  )
    .addOption(of("beta", "<x>", "penalty of the divergence from the model as it was"))
    .addOption(of("clipRange", "<x>", "how far probabilities may move within a round"))
    .addOption(
      of("meanOver", "<what>", "losses are a mean over answers (the paper's), or over tokens (DAPO's)"),
    );
  addLearning(command, of, onlineRate);
  return end(
    command,
    { name: "grpo", schema: grpoOptions, start: alignGrpo, resume: resumeGrpo, made: learned },
    [
      "lineage align grpo --model DIR --data gsm8k.jsonl --rule right-number.mjs",
      "a rule that compares with row.answer",
    ],
    [
      "lineage align grpo --model DIR --data prompts.jsonl --reward runs/reward --samples 16",
      "rewards of a model, groups of 16",
    ],
  );
}

function rejectionCommand(): Command {
  const of = libraryOptions(rejectionOptions.shape);
  const command = onlineBegin(
    "rejection",
    "learn the best of several answers to each prompt, round after round",
    of,
  ).addOption(of("temperature", "<x>", "temperature of the answers that are chosen from"));
  addLearning(command, of, onlineRate);
  return end(
    command,
    {
      name: "rejection",
      schema: rejectionOptions,
      start: alignRejection,
      resume: resumeRejection,
      made: learned,
    },
    [
      "lineage align rejection --model DIR --data prompts.jsonl --reward runs/reward --samples 16",
      "best of 16",
    ],
  );
}

export const alignCommand = new Command("align")
  .description(
    "learn from demonstrations, preferences and rewards: SFT, reward models, DPO and its kin, PPO, GRPO, best of n",
  )
  .addCommand(sftCommand())
  .addCommand(rewardCommand())
  .addCommand(dpoCommand())
  .addCommand(ppoCommand())
  .addCommand(grpoCommand())
  .addCommand(rejectionCommand())
  .addHelpText(
    "after",
    examples(
      [
        "lineage align dpo --model DIR --data prefs.jsonl --out runs/dpo",
        "learn from pairs, without a reward model",
      ],
      ["lineage align reward --model DIR --data rankings.jsonl --out runs/reward", "a reward model"],
      [
        "lineage align ppo --model DIR --data prompts.jsonl --reward runs/reward --out runs/ppo",
        "learn from its rewards",
      ],
      ["lineage align dpo --help", "the options of a method"],
    ),
  );
