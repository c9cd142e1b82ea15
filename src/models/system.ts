import type { GgufFile } from "../formats/gguf/file.js";
import type { GgufRope } from "../formats/gguf/rope.js";
import type { StoredTensors } from "../formats/weight-files.js";
import type {
  CausalLm,
  Choices,
  ConfigJson,
  ConfigTable,
  DecoderHeadNames,
  Encoder,
  EncoderConfig,
  EncoderDecoder,
  EncoderDecoderConfig,
  EncoderWithHead,
  HeadDefinition,
  HeadName,
} from "../nn/index.js";
import type { PretrainingRecipe } from "../objectives/index.js";
import type { TokenizerRecipe } from "../tokenizers/recipe.js";

/** What every system's configuration has. */
export interface SystemConfig {
  readonly vocabSize: number;
  /** Positions that the model was made for. */
  readonly contextLength: number;
  readonly hiddenSize: number;
  readonly numLayers: number;
  readonly numHeads: number;
}

/** A published model. */
export interface PublishedSize<C> {
  readonly config: C;
  /** Its number of parameters, shared ones counted once. */
  readonly parameters: number;
}

/** An option of the command line that is a system's own: a field of its configuration. */
export interface SystemOption {
  readonly field: string;
  /** What it does, and what it is where it is not given, for `--help`. */
  readonly help: string;
  readonly usual?: string;
  /** The choice for a model that a person trains, where it is not the published one. */
  fallback?(sizes: SystemConfig): unknown;
}

/** What the rest of the library has to know of a system, whatever its kind. */
interface Definition<C> {
  /** The system's name, where several share one `model_type`. Default: the table's `type`. */
  readonly name?: string;
  /** The configuration; its `type` is Hugging Face's `model_type`, its `title` what a person says. */
  readonly config: ConfigTable<C>;
  /** The published sizes, by their published names. */
  readonly sizes: Readonly<Record<string, PublishedSize<C>>>;
  /** Its own options of the command line, by name in camel case. */
  readonly options?: Readonly<Record<string, SystemOption>>;
  /** Whether a `config.json` of the type is this system's, where several systems share it. Default: it is. */
  holds?(json: ConfigJson): boolean;
  /** Tensors that published files hold besides the parameters: buffers, copies of tied weights. */
  readonly unused?: RegExp;
  /** Names under which published files may hold a parameter, the likeliest first. Default: its own. */
  aliases?(parameter: string): readonly string[];
  /** Whether published files may do without a parameter, which then has its first values. Default: none. */
  optional?(parameter: string): boolean;
  /** The configuration with what the tensors of its files say, where `config.json` leaves it open. Default: as it is. */
  settle?(config: C, stored: StoredTensors): Promise<C>;
  /**
   * Where a parameter stands: 0 for the embeddings, 1 to `numLayers` for the layers, `numLayers + 1` for what follows them.
   * Layers that share it count by the last of them. An encoder-decoder's decoder layers follow those of its encoder.
   */
  depth(parameter: string, config: NoInfer<C>): number;
  /** How many layers have parameters of their own, each of which a file must have tensors for. Default: `numLayers`. */
  ownLayers?(config: NoInfer<C>): number;
  /** How its tokenizer is learned. */
  readonly tokenizer: TokenizerRecipe;
  /** Where llama.cpp knows it. */
  readonly gguf?: GgufLayout<NoInfer<C>>;
}

// ---- GGUF ---------------------------------------------------------------------------------------------------------

/** A field of a configuration as an entry of a GGUF's metadata. */
export interface GgufEntry<C> {
  /** Key behind the architecture's name: `context_length`. */
  readonly key: string;
  readonly type: "uint32" | "float32";
  /** Further keys that are written with the same value. */
  readonly also?: readonly string[];
  /** What a file without it means, from the fields above. Default: the file must have it. */
  absent?(earlier: C): unknown;
}

/** How llama.cpp keeps a system. */
export interface GgufLayout<C> {
  /** llama.cpp's name of the architecture, which several systems may share. */
  readonly architecture: string;
  /** Whether a file of the architecture is this system's. Default: it is. */
  holds?(file: GgufFile): boolean;
  /** llama.cpp's names of modules by their published ones; `*` stands for the number of the layer, as in T5's `block.*.layer.0`. */
  readonly names: Readonly<Record<string, string>>;
  /** Modules whose matrix lies `[in, out]` in the published layout and `[out, in]` in a GGUF. */
  readonly transposed?: readonly string[];
  /** Fields in the order in which they are read; `vocabSize` is read from the embeddings and written as it is here. */
  readonly metadata: Readonly<Partial<Record<keyof C & string, GgufEntry<C>>>>;
  /**
   * Heads of a module whose rotary pairs stand side by side in the GGUF and half a head apart in the published layout.
   * Default: none.
   */
  rotaryHeads?(module: string, config: C): number | undefined;
  /**
   * What a module's numbers are multiplied by in a GGUF, where llama.cpp leaves a product out that the model has.
   * @param file the file that is read; undefined while one is written
   */
  factor?(module: string, config: C, file?: GgufFile): number | undefined;
  /** Keys behind the architecture's name that llama.cpp does not read for it. */
  readonly withoutEffect?: readonly string[];
  /** Fields that more than an entry tells. Throws `unsupported` for a file that lineage does not compute. */
  read?(file: GgufFile, fields: C): Promise<Partial<C>>;
  /** What more than entries says. Throws `unsupported` for a configuration that llama.cpp has no words for. */
  write?(config: C): GgufRope;
}

// ---- Kinds --------------------------------------------------------------------------------------------------------

/** A decoder: it continues sequences, and is pretrained on next tokens. */
export interface DecoderDefinition<C extends SystemConfig, M extends CausalLm> extends Definition<C> {
  readonly kind: "decoder";
  /** Transformers' class: `LlamaForCausalLM`. */
  readonly className: string;
  create(config: C): M;
  /**
   * Tokens that fine-tuning puts around texts and learns anew, where the paper has some: before a row, between two texts,
   * and behind, where the answer is read. Default: none.
   */
  readonly rowTokens?: { readonly start: string; readonly delimiter: string; readonly extract: string };
  /** Weight of the language-model loss beside a task's, where the paper has one. Default 0. */
  readonly lmCoefficient?: number;
  /** How its heads are called, where they are not LLaMA's: `score`. */
  readonly headNames?: DecoderHeadNames<NoInfer<C>>;
}

/** An encoder: one state for each token, and heads that answer from them. */
export interface EncoderDefinition<
  C extends SystemConfig & EncoderConfig,
  E extends Encoder,
> extends Definition<C> {
  readonly kind: "encoder";
  /** What transformers' classes begin with: `Bert` in `BertForMaskedLM`. */
  readonly className: string;
  /** First part of the encoder's names in a checkpoint with a head: `bert`. */
  readonly prefix: string;
  /** @param options.pooler whether the model has a pooler, where the system knows one */
  create(config: C, options: { readonly pooler: boolean }): E;
  readonly heads: Readonly<Record<Exclude<HeadName, "classify">, HeadDefinition<C>>> & {
    readonly classify: HeadDefinition<C> & { readonly output: string };
  };
  /** Whether layers have the same parameters, so that one cannot be told from another. Default: they do not. */
  sharesLayers?(config: C): boolean;
  /** The masked language model under its authors' names, where transformers has another. */
  authorsMaskedLm?(config: C): EncoderWithHead;
  readonly pretraining: PretrainingRecipe;
}

/** An encoder-decoder: it writes a text about a text. */
export interface EncoderDecoderDefinition<
  C extends SystemConfig & EncoderDecoderConfig,
  M extends EncoderDecoder,
> extends Definition<C> {
  readonly kind: "encoder-decoder";
  /** Transformers' class: `T5ForConditionalGeneration`. */
  readonly className: string;
  create(config: C): M;
  /** The id that a written text begins with. */
  startId(config: NoInfer<C>): number;
  /** The system's own pretraining, where it has one. */
  readonly pretraining?: PretrainingRecipe;
}

// ---- Systems ------------------------------------------------------------------------------------------------------

interface Named {
  /** What the command line and the list of systems call it. */
  readonly name: string;
  /** Hugging Face's `model_type`. */
  readonly type: string;
  /** What a person says. */
  readonly title: string;
}

// Methods compare bivariantly, so that a system of one configuration is a system of any.
export type DecoderSystem<C extends SystemConfig = SystemConfig, M extends CausalLm = CausalLm> = Named &
  DecoderDefinition<C, M>;
export type EncoderSystem<
  C extends SystemConfig & EncoderConfig = SystemConfig & EncoderConfig,
  E extends Encoder = Encoder,
> = Named & EncoderDefinition<C, E>;
export type EncoderDecoderSystem<
  C extends SystemConfig & EncoderDecoderConfig = SystemConfig & EncoderDecoderConfig,
  M extends EncoderDecoder = EncoderDecoder,
> = Named & EncoderDecoderDefinition<C, M>;

/** A system of any kind. */
export type System = DecoderSystem | EncoderSystem | EncoderDecoderSystem;
export type SystemKind = System["kind"];

/** Options that are fields of the configuration. */
interface OptionsOf<C> {
  readonly options?: Readonly<Record<string, { readonly field: keyof C & string }>>;
}

/**
 * Defines a system once: everything that loaders, the command line, pretraining, conversion and the catalogue need to know
 * of it. It stands at the end of the system's file; `systems` lists it.
 */
export function defineSystem<C extends SystemConfig, M extends CausalLm>(
  definition: DecoderDefinition<C, M> & OptionsOf<NoInfer<C>>,
): DecoderSystem<C, M>;
export function defineSystem<C extends SystemConfig & EncoderConfig, E extends Encoder>(
  definition: EncoderDefinition<C, E> & OptionsOf<NoInfer<C>>,
): EncoderSystem<C, E>;
export function defineSystem<C extends SystemConfig & EncoderDecoderConfig, M extends EncoderDecoder>(
  definition: EncoderDecoderDefinition<C, M> & OptionsOf<NoInfer<C>>,
): EncoderDecoderSystem<C, M>;
export function defineSystem<C, D extends Definition<C>>(definition: D): D & Named {
  const { type, title } = definition.config;
  return { ...definition, type, title, name: definition.name ?? type };
}

/** Where parameters stand, told from their names. @param layer has the number of the layer as its first group */
export const depthByName =
  (embeddings: RegExp, layer: RegExp) =>
  (parameter: string, { numLayers }: { readonly numLayers: number }): number => {
    const number = layer.exec(parameter)?.[1];
    if (number !== undefined) return Number(number) + 1;
    return embeddings.test(parameter) ? 0 : numLayers + 1;
  };

/** Where an encoder-decoder's parameters stand. @param of `encoder` and `decoder` have the number of the layer as their first group */
export const encoderDecoderDepth =
  (of: { readonly embeddings: RegExp; readonly encoder: RegExp; readonly decoder: RegExp }) =>
  (
    parameter: string,
    { numLayers, numDecoderLayers }: { readonly numLayers: number; readonly numDecoderLayers: number },
  ): number => {
    if (of.embeddings.test(parameter)) return 0;
    const encoder = of.encoder.exec(parameter);
    // The encoder's last norm belongs to its last layer: the decoder's layers come after it.
    if (encoder) return encoder[1] === undefined ? numLayers : Number(encoder[1]) + 1;
    const decoder = of.decoder.exec(parameter);
    return numLayers + (decoder ? Number(decoder[1]) : numDecoderLayers) + 1;
  };

/** What the definitions of encoder-decoders have in common. */
export const encoderDecoder = {
  kind: "encoder-decoder",
  startId: ({ decoderStartTokenId }: { readonly decoderStartTokenId: number }) => decoderStartTokenId,
  ownLayers: ({
    numLayers,
    numDecoderLayers,
  }: {
    readonly numLayers: number;
    readonly numDecoderLayers: number;
  }) => numLayers + numDecoderLayers,
  options: {
    dropout: { field: "dropout", help: "dropout probability", usual: "as published" },
    decoderLayers: { field: "numDecoderLayers", help: "layers of the decoder", usual: "as many as --layers" },
    ffn: {
      field: "intermediateSize",
      help: "width of the feed-forward layers",
      usual: "four times --hidden",
    },
  },
} as const;

/** What the definitions of the systems over `SharedEncoderDecoder` have in common: names as transformers has them. */
export const sharedEncoderDecoder = {
  ...encoderDecoder,
  /** Copies of the shared embeddings; sinusoids, which are computed; what fairseq's files say of their version. */
  unused:
    /^(model\.(encoder|decoder)\.(embed_tokens\.weight|embed_positions\.(weight|_float_tensor)|version)|lm_head\.weight)$/,
  aliases: (name: string) =>
    name === "model.shared.weight"
      ? [name, "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"]
      : [name],
  /** Many files are written without a bias of the logits: it is zero then. */
  optional: (name: string) => name === "final_logits_bias",
  depth: encoderDecoderDepth({
    embeddings: /^model\.(shared|(encoder|decoder)\.(embed_positions|layernorm_embedding))\./,
    encoder: /^model\.encoder\.(?:layers\.(\d+)\.)?/,
    decoder: /^model\.decoder\.layers\.(\d+)\./,
  }),
} as const;

/** A published size: its number of parameters, and what makes its configuration. */
export const publishedSize =
  <C>(table: ConfigTable<C>) =>
  (parameters: number, choices: Choices<C>): PublishedSize<C> => ({
    parameters,
    config: table.create(choices),
  });
