import { Command, type Option } from "commander";
import { z } from "zod";
import { LineageError } from "../base/errors.js";
import { systemsOfKind } from "../models/index.js";
import {
  type AdapterRequest,
  type FurtherRequest,
  type TrainControl,
  type TrainRequest,
  type TrainResult,
  adapterOf,
  holdsTextRun,
  resumeText,
  resumeTraining,
  smallSizes,
  train,
  trainAdapter,
  trainFurther,
  trainOptions,
  trainText,
  trainTextOptions,
} from "../tasks/index.js";
import { modelFor } from "./model.js";
import { countOption, deviceOption, examples, libraryOptions, option } from "./options.js";
import { addPairOptions, refuseOthers, tellTextRun } from "./text-pairs.js";
import { type RunCommand, addRunOptions, shownRun, sizeOptions, tellEnd } from "./training.js";

const encoderDecoders = systemsOfKind("encoder-decoder");
const trainable = [...systemsOfKind("decoder"), ...encoderDecoders];

/** Options that only some systems have, by name, with the systems that have them. */
const ownOptions = new Map<
  string,
  {
    readonly help: string;
    readonly usual: string | undefined;
    readonly flag: boolean;
    readonly owners: string[];
  }
>();
for (const { name, config, options = {} } of trainable)
  for (const [option, { field, help, usual }] of Object.entries(options)) {
    const known = ownOptions.get(option);
    if (known) known.owners.push(name);
    else ownOptions.set(option, { help, usual, flag: config.isFlag(field), owners: [name] });
  }

const dashed = (option: string): string => option.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);

/** The configuration that a person's options choose. Throws `argument` for an option that the system does not have. */
function sizesOf(
  name: string,
  options: Readonly<Record<string, unknown>>,
): { readonly sizes: Record<string, unknown>; readonly others: Record<string, unknown> } {
  const system = trainable.find((one) => one.name === name);
  if (!system)
    throw new LineageError(
      "argument",
      `--model: there is no ${name}; there are ${trainable.map((one) => one.name).join(", ")}`,
    );
  const own = system.options ?? {};
  const sizes: Record<string, unknown> = {};
  const others: Record<string, unknown> = {};
  for (const [option, value] of Object.entries(options)) {
    if (value === undefined) continue;
    const field = Object.hasOwn(sizeOptions, option)
      ? sizeOptions[option as keyof typeof sizeOptions]
      : Object.hasOwn(own, option)
        ? own[option]!.field
        : undefined;
    if (field !== undefined) sizes[field] = system.config.checkField(field, value, `--${dashed(option)}`);
    else if (ownOptions.has(option)) {
      const { owners } = ownOptions.get(option)!;
      throw new LineageError(
        "argument",
        `${system.title} has no --${dashed(option)} (only ${owners.join(" and ")}); leave it out`,
      );
    } else others[option] = value;
  }
  return { sizes, others };
}

/** Trains a model from text to a checkpoint folder, or goes on with the run there. Ctrl-C saves. */
export const runTrain = (
  request: TrainRequest | AdapterRequest | FurtherRequest | { readonly out: string },
  command: RunCommand = {},
): Promise<TrainResult> =>
  shownRun(command, async (told, report) => {
    const control: TrainControl = {
      ...told,
      onTokenized: (characters, total) => {
        const share = characters / total;
        const state = { tokenizedCharacters: characters, characters: total };
        report.progress(`tokenizing: ${Math.floor(share * 100)}%`, state, share);
      },
    };
    const { out } = request;
    const result = await ("system" in request
      ? train(request, control)
      : "base" in request
        ? begin(request, control)
        : resumeTraining(out, control));
    tellEnd(report, result, {
      command: "train",
      out,
      made: (best) =>
        `the ${isWhole(result) ? "model" : "adapter"} (best held-out loss ${best.toFixed(4)}, perplexity ${Math.exp(best).toFixed(2)})${isWhole(result) ? ", its tokenizer" : ""} and loss.svg`,
    });
    return result;
  });

/** Whether all weights of the run's model learned. */
const isWhole = ({ options }: TrainResult): boolean =>
  options.base === undefined || adapterOf(options) === "none";

/** Begins with a finished model: beside it, or with all of it. */
const begin = (request: AdapterRequest | FurtherRequest, control: TrainControl): Promise<TrainResult> => {
  const { adapter, ...further } = request as AdapterRequest;
  return adapterOf({ ...further, adapter, objective: request.objective ?? "causal" }) === "none"
    ? trainFurther(further, control)
    : trainAdapter(request as AdapterRequest, control);
};

/** Trains an encoder-decoder on pairs of texts, or goes on with the run in `out`. */
const runPairs = (
  out: string,
  command: RunCommand,
  request?: Omit<Parameters<typeof trainText>[0], "out">,
): Promise<void> =>
  shownRun(command, async (control, report) => {
    const started = performance.now();
    const result = await (request ? trainText({ ...request, out }, control) : resumeText(out, control));
    const seconds = (performance.now() - started) / 1000;
    tellTextRun(report, result, { command: "train", out, seconds });
  });

const of = libraryOptions(trainOptions.shape);
const size = (name: keyof typeof sizeOptions, help: string): Option =>
  countOption(name, help, undefined, { usual: String(smallSizes[sizeOptions[name]]) });

export const trainCommand = new Command("train")
  .description("train a decoder from scratch on a text file, or an encoder-decoder on pairs of texts")
  .optionsGroup("Data:")
  .addOption(
    of(
      "data",
      "<file>",
      'UTF-8 text, or "stories" for the embedded corpus; of several languages language=file; may be repeated',
      { required: true, again: true },
    ),
  )
  .addOption(of("exponent", "<x>", "languages are sampled by their share of the text to this power"))
  .addOption(
    of(
      "controlColumn",
      "<column>",
      "--data is a table of documents with labels in this column, of which some are marked by a token; generate --control asks for it",
      { usual: "none" },
    ),
  )
  .addOption(of("controlRate", "<p>", "share of the documents that are marked"))
  .addOption(of("validation", "<p>", "share of the text that is held out"))
  .addOption(
    of("tokenizer", "<kind>", "bpe (learned from the text), characters, or the folder of a tokenizer"),
  )
  .addOption(of("vocabSize", "<n>", "tokens of the vocabulary that bpe learns"))
  .addOption(
    of(
      "packing",
      "<kind>",
      "rows are blocks of the text, or several documents; attention never crosses documents",
    ),
  )
  .optionsGroup("Model:")
  .addOption(
    option("model", "<name>", "architecture", z.enum(trainable.map(({ name }) => name)).default("gpt2")),
  )
  .addOption(size("context", "context length in tokens; with --base, tokens of a row"))
  .addOption(size("layers", "number of layers"))
  .addOption(size("hidden", "width of the hidden states"))
  .addOption(size("heads", "attention heads"));
for (const [name, { help, usual, flag, owners }] of ownOptions)
  trainCommand.addOption(
    flag
      ? option(name, undefined, `${owners.join(", ")}: ${help}`)
      : option(name, "<n>", `${owners.join(", ")}: ${help}`, z.number(), { usual }),
  );
trainCommand
  .optionsGroup("Training a finished model (--base):")
  .addOption(
    of("base", "<place>", "a decoder that is trained further, or beside whose frozen weights an adapter is", {
      usual: "a model from nothing",
    }),
  )
  .addOption(
    of(
      "adapter",
      "<kind>",
      "lora; qlora, with the base in 4-bit NormalFloat; prompt (learned virtual tokens before every text); prefix (learned keys and values of every layer); none, where all weights learn",
      { usual: "lora; with another --objective than causal none" },
    ),
  )
  .addOption(
    of(
      "doubleQuantization",
      undefined,
      "keep the scales of qlora's base in 8 bits; merge with --quantize nf4-double",
    ),
  )
  .addOption(of("rank", "<n>", "rank of the adapter"))
  .addOption(of("alpha", "<x>", "the update is scaled by alpha / rank"))
  .addOption(of("rsLora", undefined, "scale it by alpha / sqrt(rank)"))
  .addOption(of("dora", undefined, "learn the length of each output's weights by itself (DoRA)"))
  .addOption(of("loraDropout", "<p>", "dropout of the adapter's input"))
  .addOption(
    of("loraTargets", "<names>", "layers: all-linear, names between commas, or /a regular expression/"),
  );
trainCommand.addOption(of("virtualTokens", "<n>", "tokens of a soft prompt or a prefix")).addOption(
  of("promptInit", "<text>", "what a soft prompt or a prefix begins as", {
    usual: "tokens of the vocabulary at random",
  }),
);
trainCommand
  .optionsGroup("Objective:")
  .addOption(
    of(
      "objective",
      "<name>",
      "causal; prefix (the end of a text from its beginning), spans (hidden spans), ul2 or ul2r (mixtures of denoisers); or several with weights, such as causal=0.5,prefix=0.25,spans=0.25",
    ),
  );
addRunOptions(trainCommand, of, {
  usualWarmup:
    "a third of the steps (an adapter a tenth, a finished model a twentieth), 100 at most; optimizer palm 0",
  usualLearningRate: "1e-3; sgd 0.1, adafactor and palm 1e-2; an adapter 2e-4, a finished model 3e-4",
  usualWeightDecay: "0.1; sgd, adafactor and adapters 0; palm the learning rate squared",
  out: undefined,
  more: [
    of(
      "optimizer",
      "<name>",
      "optimizer; adamw8bit keeps AdamW's moments in 8 bits, paged in a file of --out; palm is Adafactor as PaLM set it",
    ),
    of("schedule", "<name>", "schedule of the learning rate", { usual: "cosine; palm relative" }),
    of("beta2", "<x>", "AdamW's beta2"),
    of("zLoss", "<x>", "keeps the softmax's normaliser near 1; PaLM's is 1e-4"),
    of("ema", "<decay>", "evaluate and save a moving average of the weights with this decay", {
      usual: "off",
    }),
  ],
})
  .addOption(
    of("workers", "<n>", "worker threads that share the micro-batches of a step", {
      usual: "none",
    }),
  )
  .addOption(deviceOption());
addPairOptions(
  trainCommand,
  `Pairs of texts (--model ${encoderDecoders.map(({ name }) => name).join(", ")}):`,
  trainCommand.options.map((one) => one.attributeName()),
);
trainCommand
  .addHelpText(
    "after",
    examples(
      ["lineage train --data my.txt --out runs/mine", "train on your own text"],
      ["lineage train --resume --out runs/mine", "continue after Ctrl-C, with the same losses"],
      ["lineage train --data my.txt --tokenizer characters", "one token for each character"],
      ["lineage train --data my.txt --layers 6 --hidden 384 --heads 6", "a larger model"],
      [
        "lineage train --data stories --model llama --key-value-heads 2",
        "a LLaMA with grouped-query attention",
      ],
      [
        "lineage train --data my.txt --model palm --optimizer palm --z-loss 1e-4 --batch-ramp 16,32@500 --skip-spikes 8",
        "as PaLM was trained: its Adafactor, a batch that grows, no batches around spikes of the loss",
      ],
      [
        "lineage train --base some-llama --adapter qlora --data my.txt --out runs/lora",
        "an adapter in peft's layout, for generate --adapter and merge",
      ],
      [
        "lineage train --base runs/palm --objective ul2r --data my.txt --out runs/u-palm",
        "U-PaLM: a causal model becomes one that reads prompts both ways and fills gaps",
      ],
      [
        "lineage train --model palm --data en=a.en --data de=a.de --exponent 0.3 --objective causal=0.5,prefix=0.25,spans=0.25",
        "several languages and objectives, as PaLM 2 learned",
      ],
      [
        "lineage train --model transformer --data train.de --targets train.en",
        "a translator, with a tokenizer of its own",
      ],
    ),
  )
  .action(async ({ resume, json, threads, device, model, out: given, ...options }: TrainArguments) => {
    const out = given ?? `runs/${model}`;
    const command = { json, threads, device };
    if (resume && (await holdsTextRun(out))) return runPairs(out, command);
    if (resume) return void (await runTrain({ out }, command));
    const files = options["data"] as readonly string[] | undefined;
    if (files === undefined)
      throw new LineageError(
        "argument",
        "train needs --data FILE, or --data stories for the embedded corpus",
      );
    const data = files.length === 1 ? files[0]! : files;
    const ofAdapters = [
      "doubleQuantization",
      "rank",
      "alpha",
      "rsLora",
      "dora",
      "loraDropout",
      "loraTargets",
      "virtualTokens",
      "promptInit",
    ];
    if (typeof options["base"] === "string") {
      const { context, base, ...rest } = options;
      const { adapter, objective = "causal" } = rest as Pick<AdapterRequest, "adapter" | "objective">;
      const whole = adapterOf({ base: base as string, adapter, objective }) === "none";
      refuseOthers(rest, trainOptions.shape, whole ? "a finished model" : "an adapter");
      const place = await modelFor(base as string);
      const rows = context === undefined ? {} : { sizes: { contextLength: context } };
      // The library checks every option by name.
      const request = { ...rest, ...rows, data, base: place } as Omit<AdapterRequest, "out">;
      const idle = whole ? ofAdapters.find((name) => options[name] !== undefined) : undefined;
      if (idle !== undefined)
        throw new LineageError(
          "argument",
          `--${dashed(idle)} is for an adapter, but all weights learn here; leave it out, or choose --adapter lora`,
        );
      const out = given ?? (whole ? "runs/further" : "runs/adapter");
      return void (await runTrain({ ...request, out }, command));
    }
    const adapterOption = ["adapter", ...ofAdapters].find((name) => options[name] !== undefined);
    if (adapterOption !== undefined)
      throw new LineageError(
        "argument",
        `--${dashed(adapterOption)} is for an adapter of a model: name it with --base`,
      );
    const { sizes, others } = sizesOf(model, options);
    const pairs = encoderDecoders.find(({ name }) => name === model);
    if (pairs) {
      refuseOthers(others, trainTextOptions.shape, `${pairs.title} on pairs of texts`);
      if (typeof data !== "string")
        throw new LineageError(
          "argument",
          `${pairs.title} learns from one --data; put the pairs into one file`,
        );
      return runPairs(out, command, { ...others, data, system: pairs, sizes });
    }
    refuseOthers(others, trainOptions.shape, `--model ${model}`);
    // The library checks every option by name.
    const request = { ...others, data, out, system: model, sizes };
    await runTrain(request as TrainRequest, command);
  });

interface TrainArguments extends RunCommand {
  readonly model: string;
  readonly out?: string;
  readonly [option: string]: unknown;
}
