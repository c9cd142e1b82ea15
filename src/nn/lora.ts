import { either } from "../base/check.js";
import { LineageError } from "../base/errors.js";
import {
  type RandomStream,
  type Tensor,
  div,
  dropout,
  linear,
  matmul,
  mul,
  sqrt,
  square,
  stopGradient,
  sum,
  transpose,
} from "../graph/index.js";
import { type Initializer, onesInit, zerosInit } from "./initializers.js";
import { Linear } from "./layers.js";
import { Module, Parameter, allModules, namedParameters } from "./module.js";

// Low-rank adapters, Hu et al. 2021, "LoRA", and Liu et al. 2024, "DoRA", with the names and numbers of Hugging Face's peft.

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
  /** Learns the length of each output's row of weights by itself, Liu et al. 2024. Default false. */
  readonly dora?: boolean | undefined;
  readonly targets: LoraTargets;
  /**
   * Modules that learn whole beside the update, by the ends of their paths: peft's `modules_to_save`, a task's head. No layer
   * in them gets an update. Default: none.
   */
  readonly whole?: readonly string[] | undefined;
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
  static override readonly names: Readonly<Record<string, string>> = {
    down: "lora_A",
    up: "lora_B",
    magnitude: "lora_magnitude_vector",
    baseNorms: "lora_base_norms",
  };
  readonly down: LoraMatrix;
  readonly up: LoraMatrix;
  readonly scaling: number;
  /** DoRA's lengths of the rows, `[outSize]`; undefined for LoRA. */
  readonly magnitude: Parameter | undefined;
  /** Lengths of the rows of the layer's own matrix, `[outSize]`, which do not learn; there with DoRA alone. */
  readonly baseNorms: Parameter | undefined;
  /** Where dropout draws from: there while a training program is written. */
  random: RandomStream | undefined;
  readonly #layer: Linear;

  constructor(
    layer: Linear,
    readonly rank: number,
    alpha: number,
    private readonly options: Pick<LoraOptions, "rankStabilized" | "dropout" | "dora">,
  ) {
    super();
    const { inSize, outSize } = layer;
    this.#layer = layer;
    this.down = new LoraMatrix(inSize, rank, kaimingUniform);
    this.up = new LoraMatrix(rank, outSize, zerosInit);
    this.scaling = alpha / (options.rankStabilized ? Math.sqrt(rank) : rank);
    this.magnitude = options.dora ? new Parameter([outSize], onesInit) : undefined;
    this.baseNorms = options.dora ? new Parameter([outSize], onesInit) : undefined;
  }

  /** What learns: A, B and DoRA's lengths. */
  get parameters(): readonly Parameter[] {
    return [this.down.weight, this.up.weight, ...(this.magnitude ? [this.magnitude] : [])];
  }

  /** What is added to the layer's `output` of `x`. */
  override forward(x: Tensor, output: Tensor): Tensor {
    const dropped = dropout(x, this.options.dropout ?? 0, this.random);
    const update = this.up.forward(this.down.forward(dropped), this.scaling);
    const { magnitude, baseNorms } = this;
    if (!magnitude || !baseNorms) return update;
    const { weight, bias, transposeWeight } = this.#layer;
    // The layer has multiplied already, unless dropout stands before it.
    const product =
      dropped === x
        ? bias
          ? output.sub(bias.tensor)
          : output
        : linear(dropped, weight.tensor, undefined, { transposeWeight });
    const factor = div(magnitude.tensor, this.norms(baseNorms.tensor));
    return mul(factor, product.add(update)).sub(product);
  }

  /**
   * Lengths of the rows of `W + scaling * B A`, `[outSize]`, from those of W: `|w + u|^2 = |w|^2 + 2 w u + |u|^2`, so that W is
   * multiplied by A alone. They are constants to the gradient: Liu et al. 2024, section 4.3.
   */
  private norms(base: Tensor): Tensor {
    const { down, up, scaling } = this;
    const { weight, transposeWeight } = this.#layer;
    const [a, b] = [down.weight.tensor, up.weight.tensor];
    const across = transpose(linear(a, weight.tensor, undefined, { transposeWeight }), [1, 0]);
    const inner = matmul(b, matmul(a, a, { transposeB: true }));
    const change = mul(b, mul(across, 2 * scaling).add(mul(inner, scaling ** 2)));
    return stopGradient(sqrt(square(base).add(sum(change, { axes: 1 }))));
  }
}

/** A model's adapter: the linear layers that have one, by dotted path, and what learns whole beside them. */
export class LoraAdapter {
  readonly kind = "lora";

  constructor(
    readonly options: LoraOptions,
    readonly layers: ReadonlyMap<string, { readonly linear: Linear; readonly lora: Lora }>,
    /** Parameters of the model that learn whole, by name. */
    readonly whole: ReadonlyMap<string, Parameter> = new Map(),
  ) {}

  /** The parameters of the updates by dotted name, in the order of the model. */
  get updates(): Map<string, Parameter> {
    return new Map(
      [...this.layers.values()].flatMap(({ lora }) => lora.parameters.map((one) => [one.name, one] as const)),
    );
  }

  /** All that learns, by dotted name. */
  get parameters(): Map<string, Parameter> {
    return new Map([...this.updates, ...this.whole]);
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
 * Puts an adapter beside the linear layers of a model that `targets` names, and freezes all other parameters but those of
 * `whole`. Their values come from `Weights.partlyFrozen`: A uniform as in peft, B zero, so that the model begins as it was;
 * DoRA's lengths are the base's, which `withRowNorms` adds to its weights. Throws `argument` for a target or a module that
 * matches nothing, and for a model that has an adapter already.
 */
export function addLora(model: Module, options: LoraOptions): LoraAdapter {
  const { rank, alpha, ranks, alphas } = options;
  const parameters = namedParameters(model);
  const whole = wholeParameters(parameters, options.whole ?? []);
  const linears = linearLayers(model);
  const chosen = chosenLayers(linears, whole, options);
  const layers = new Map<string, { linear: Linear; lora: Lora }>();
  for (const path of chosen) {
    const linear = linears.get(path)!;
    if (linear.adapter)
      throw new LineageError("argument", `${path} has an adapter already; take that one off first`);
    const lora = new Lora(
      linear,
      patternValue(ranks, path) ?? rank,
      patternValue(alphas, path) ?? alpha,
      options,
    );
    layers.set(path, { linear, lora });
  }
  for (const [name, parameter] of parameters) parameter.trainable = whole.has(name);
  for (const { linear, lora } of layers.values()) {
    linear.adapter = lora;
    if (lora.baseNorms) lora.baseNorms.trainable = false;
  }
  namedParameters(model);
  return new LoraAdapter(options, layers, whole);
}

/** The heads that peft always trains whole; a model has one of them, or none. */
const usualHeads: readonly string[] = ["classifier", "score", "qa_outputs"];

/** Paths of the modules that hold a parameter, the outermost first. */
const holders = (name: string): string[] =>
  name
    .split(".")
    .slice(0, -1)
    .map((_, index, parts) => parts.slice(0, index + 1).join("."));

/** The parameters in modules whose paths end with one of some names: peft's rule. */
function wholeParameters(
  parameters: ReadonlyMap<string, Parameter>,
  names: readonly string[],
): Map<string, Parameter> {
  const inside = (parameter: string, ends: readonly string[]): boolean =>
    holders(parameter).some((path) => ends.some((end) => path.endsWith(end)));
  for (const name of names)
    if (!usualHeads.includes(name) && ![...parameters.keys()].some((one) => inside(one, [name])))
      throw new LineageError("argument", `the model has no module ${name} that could learn whole`);
  return new Map([...parameters].filter(([one]) => inside(one, names)));
}

/**
 * Names for `LoraOptions.whole` that choose just some parameters of a model: the outermost modules that hold nothing else, by
 * the last parts of their paths where those choose no others. Throws `argument` where a module holds others, too.
 */
export function wholeNames(model: Module, chosen: Iterable<string>): string[] {
  const parameters = namedParameters(model);
  const wanted = new Set(chosen);
  const only = (path: string): boolean =>
    [...parameters.keys()].every((name) => !name.startsWith(`${path}.`) || wanted.has(name));
  const paths = new Set<string>();
  for (const name of wanted) {
    const path = holders(name).find(only);
    if (path === undefined)
      throw new LineageError("argument", `${name} stands in no module that could learn whole`);
    paths.add(path);
  }
  const short = shortNames([...paths]);
  const exact = wholeParameters(parameters, short).size === wanted.size;
  return (exact ? short : [...paths]).sort();
}

/** The linear layers that may have an adapter, by path. Output embeddings have none: the loss multiplies by them itself. */
export function linearLayers(model: Module): Map<string, Linear> {
  namedParameters(model);
  const outputs = new Set<unknown>();
  const found = new Map<string, Linear>();
  for (const module of allModules(model)) {
    if ("head" in module) outputs.add(module.head);
    // A head may know the network below it, whose layers then have a second path; their parameters have one name.
    if (module instanceof Linear && !outputs.has(module))
      found.set(module.weight.name.replace(/\.?weight$/, ""), module);
  }
  return found;
}

/** Whether a path is one of some names, ends with one after a dot, or is matched as a whole: peft's rule. */
const matches = (path: string, targets: readonly string[] | RegExp): boolean =>
  targets instanceof RegExp
    ? new RegExp(`^(?:${targets.source})$`, targets.flags.replace(/[gy]/g, "")).test(path)
    : targets.some((name) => path === name || path.endsWith(`.${name}`));

function chosenLayers(
  linears: ReadonlyMap<string, Linear>,
  whole: ReadonlyMap<string, Parameter>,
  { targets, exclude }: LoraOptions,
): string[] {
  const paths = [...linears.keys()];
  // A layer without a path is a model by itself, which nothing names.
  const there = () => `linear layers are ${either(shortNames(paths))}`;
  if (targets !== "all-linear" && !(targets instanceof RegExp))
    for (const name of targets)
      if (!paths.some((path) => matches(path, [name])))
        throw new LineageError("argument", `the target ${name} matches no linear layer; ${there()}`);
  const chosen = paths.filter(
    (path) =>
      (targets === "all-linear" || matches(path, targets)) &&
      !(exclude && matches(path, exclude)) &&
      !whole.has(`${path}.weight`),
  );
  if (chosen.length === 0)
    throw new LineageError(
      "argument",
      `the targets ${targets instanceof RegExp ? String(targets) : either([targets].flat())} match no linear layer${exclude ? " that is not excluded" : ""}${whole.size > 0 ? " but those that learn whole" : ""}; ${there()}`,
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
export function targetNames(model: Module, { layers, whole }: LoraAdapter): string[] {
  const paths = [...layers.keys()];
  const short = shortNames(paths);
  const all = [...linearLayers(model).keys()].filter(
    (path) => matches(path, short) && !whole.has(`${path}.weight`),
  );
  return (all.length === paths.length ? short : paths).sort();
}

/** The value of the first pattern that the end of a path matches. */
function patternValue(patterns: ReadonlyMap<string, number> | undefined, path: string): number | undefined {
  for (const [pattern, value] of patterns ?? [])
    if (new RegExp(`^(.*\\.)?(${pattern})$`).test(path)) return value;
  return undefined;
}
