import { either } from "../base/check.js";
import { LineageError } from "../base/errors.js";
import { type RandomStream, type Tensor, dropout, matmul } from "../graph/index.js";
import { type Initializer, zerosInit } from "./initializers.js";
import { Linear } from "./layers.js";
import { Module, Parameter, allModules, namedParameters } from "./module.js";

// Low-rank adapters, Hu et al. 2021, "LoRA", with the names and numbers of Hugging Face's peft.

/** Which linear layers get an adapter: all but the output embeddings, names or ends of dotted paths, or whole paths. */
export type LoraTargets = "all-linear" | readonly string[] | RegExp;

/** Names between commas, `all-linear`, or a regular expression between slashes. Throws `argument` where it is none. */
export function parseLoraTargets(text: string): LoraTargets {
  if (text === "all-linear") return text;
  const source = /^\/(.+)\/$/.exec(text)?.[1];
  if (source === undefined) return text.split(",").map((name) => name.trim());
  try {
    return new RegExp(source);
  } catch (error) {
    throw new LineageError("argument", `the targets ${text} are no regular expression`, { cause: error });
  }
}

export interface LoraOptions {
  /** Rank of the update. */
  readonly rank: number;
  /** The update is scaled by `alpha / rank`. */
  readonly alpha: number;
  /** Scales by `alpha / sqrt(rank)` instead, Kalajdzievski 2023. Default false. */
  readonly rankStabilized?: boolean | undefined;
  /** Probability of dropout of the adapter's input while training. Default 0. */
  readonly dropout?: number | undefined;
  readonly targets: LoraTargets;
  /** Layers that get none, whatever `targets` says. Default: none. */
  readonly exclude?: readonly string[] | RegExp | undefined;
  /** Ranks of some layers, by a regular expression for the end of their path. */
  readonly ranks?: ReadonlyMap<string, number> | undefined;
  /** The same for alpha. */
  readonly alphas?: ReadonlyMap<string, number> | undefined;
}

/** Uniform within `1 / sqrt(inSize)`: Kaiming's with a = sqrt(5), as `nn.Linear` of PyTorch and peft begin. */
const kaimingUniform: Initializer = (data, random, shape) => {
  const bound = shape.at(-1)! ** -0.5;
  random.fillUniform(data, -bound, bound);
};

/** A matrix `[outSize, inSize]` of an adapter; not a `Linear`, which quantisation and other adapters would take. */
class LoraMatrix extends Module {
  readonly weight: Parameter;

  constructor(inSize: number, outSize: number, initializer: Initializer) {
    super();
    this.weight = new Parameter([outSize, inSize], initializer);
  }

  override forward(x: Tensor, alpha = 1): Tensor {
    return matmul(x, this.weight.tensor, { transposeB: true, alpha });
  }
}

/** The update of one linear layer: `[..., inSize]` -> `[..., outSize]`, `scaling * B A dropout(x)`. Hu et al. 2021, section 4.1. */
export class Lora extends Module {
  static override readonly names = { down: "lora_A", up: "lora_B" };
  readonly down: LoraMatrix;
  readonly up: LoraMatrix;
  readonly scaling: number;
  /** Where dropout draws from: there while a training program is written. */
  random: RandomStream | undefined;

  constructor(
    inSize: number,
    outSize: number,
    readonly rank: number,
    alpha: number,
    private readonly options: Pick<LoraOptions, "rankStabilized" | "dropout">,
  ) {
    super();
    this.down = new LoraMatrix(inSize, rank, kaimingUniform);
    this.up = new LoraMatrix(rank, outSize, zerosInit);
    this.scaling = alpha / (options.rankStabilized ? Math.sqrt(rank) : rank);
  }

  override forward(x: Tensor): Tensor {
    const dropped = dropout(x, this.options.dropout ?? 0, this.random);
    return this.up.forward(this.down.forward(dropped), this.scaling);
  }
}

/** A model's adapter: the linear layers that have one, by dotted path. */
export class LoraAdapter {
  readonly kind = "lora";

  constructor(
    readonly options: LoraOptions,
    readonly layers: ReadonlyMap<string, { readonly linear: Linear; readonly lora: Lora }>,
  ) {}

  /** The adapter's parameters by dotted name, in the order of the model. */
  get parameters(): Map<string, Parameter> {
    const found = new Map<string, Parameter>();
    for (const { lora } of this.layers.values())
      for (const { weight } of [lora.down, lora.up]) found.set(weight.name, weight);
    return found;
  }

  /** Lets the adapter's dropout draw from `random` while `body` writes a program. */
  drawing<T>(random: RandomStream | undefined, body: () => T): T {
    for (const { lora } of this.layers.values()) lora.random = random;
    try {
      return body();
    } finally {
      for (const { lora } of this.layers.values()) lora.random = undefined;
    }
  }

  /** Takes the adapter off the model. Programs that were compiled with it keep it. */
  remove(): void {
    for (const { linear } of this.layers.values()) linear.adapter = undefined;
  }
}

/**
 * Puts an adapter beside the linear layers of a model that `targets` names, and freezes all other parameters. Their values
 * come from `Weights.partlyFrozen`: A uniform as in peft, B zero, so that the model begins as it was. Throws `argument` for a
 * target that matches no linear layer, and for a model that has an adapter already.
 */
export function addLora(model: Module, options: LoraOptions): LoraAdapter {
  const { rank, alpha, ranks, alphas } = options;
  const linears = linearLayers(model);
  const chosen = chosenLayers(linears, options);
  const parameters = namedParameters(model);
  const layers = new Map<string, { linear: Linear; lora: Lora }>();
  for (const path of chosen) {
    const linear = linears.get(path)!;
    if (linear.adapter)
      throw new LineageError("argument", `${path} has an adapter already; take that one off first`);
    const [inSize, outSize] = (
      linear.transposeWeight ? linear.weight.shape.toReversed() : linear.weight.shape
    ) as [number, number];
    const lora = new Lora(
      inSize,
      outSize,
      patternValue(ranks, path) ?? rank,
      patternValue(alphas, path) ?? alpha,
      options,
    );
    layers.set(path, { linear, lora });
  }
  for (const parameter of parameters.values()) parameter.trainable = false;
  for (const { linear, lora } of layers.values()) linear.adapter = lora;
  namedParameters(model);
  return new LoraAdapter(options, layers);
}

/** The linear layers that may have an adapter, by path. Output embeddings have none: the loss multiplies by them itself. */
function linearLayers(model: Module): Map<string, Linear> {
  namedParameters(model);
  const output = "head" in model ? model.head : undefined;
  const found = new Map<string, Linear>();
  for (const module of allModules(model))
    if (module instanceof Linear && module !== output) found.set(module.path, module);
  return found;
}

/** Whether a path is one of some names, ends with one after a dot, or is matched as a whole: peft's rule. */
const matches = (path: string, targets: readonly string[] | RegExp): boolean =>
  targets instanceof RegExp
    ? new RegExp(`^(?:${targets.source})$`, targets.flags.replace(/[gy]/g, "")).test(path)
    : targets.some((name) => path === name || path.endsWith(`.${name}`));

function chosenLayers(linears: ReadonlyMap<string, Linear>, { targets, exclude }: LoraOptions): string[] {
  const paths = [...linears.keys()];
  // A layer without a path is a model by itself, which nothing names.
  const there = () => `linear layers are ${either(shortNames(paths))}`;
  if (targets !== "all-linear" && !(targets instanceof RegExp))
    for (const name of targets)
      if (!paths.some((path) => matches(path, [name])))
        throw new LineageError("argument", `the target ${name} matches no linear layer; ${there()}`);
  const chosen = paths.filter(
    (path) => (targets === "all-linear" || matches(path, targets)) && !(exclude && matches(path, exclude)),
  );
  if (chosen.length === 0)
    throw new LineageError(
      "argument",
      `the targets ${targets instanceof RegExp ? String(targets) : either([targets].flat())} match no linear layer${exclude ? " that is not excluded" : ""}; ${there()}`,
    );
  return chosen;
}

/** The last parts of paths, each once. */
const shortNames = (paths: readonly string[]): string[] => [
  ...new Set(paths.map((path) => path.split(".").at(-1)!)),
];

/**
 * Names that choose just the layers of an adapter in `model`: the last parts of their paths where those choose no others, as
 * peft writes them, else the paths.
 */
export function targetNames(model: Module, { layers }: LoraAdapter): string[] {
  const paths = [...layers.keys()];
  const short = shortNames(paths);
  const all = [...linearLayers(model).keys()].filter((path) => matches(path, short));
  return (all.length === paths.length ? short : paths).sort();
}

/** The value of the first pattern that the end of a path matches. */
function patternValue(patterns: ReadonlyMap<string, number> | undefined, path: string): number | undefined {
  for (const [pattern, value] of patterns ?? [])
    if (new RegExp(`^(.*\\.)?(${pattern})$`).test(path)) return value;
  return undefined;
}
