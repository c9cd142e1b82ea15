import { z } from "zod";
import { plainMessages } from "../base/check.js";
import { LineageError } from "../base/errors.js";
import type { Warn } from "../base/warnings.js";

/** What a `config.json` holds, by entry. */
export type ConfigJson = Readonly<Record<string, unknown>>;

/** A value, or how it follows from fields above it in the table. */
type Derived<T, Needs> = T | ((earlier: Needs) => T);

const derive = <T, Needs>(value: Derived<T, Needs>, earlier: Needs): T =>
  typeof value === "function" ? (value as (earlier: Needs) => T)(earlier) : value;

/** One field of a configuration: its type, what it is when nobody says, and how it stands in a `config.json`. */
export interface Field<T, in Needs = unknown> {
  /** Entries of a `config.json` that it is read from. */
  readonly entries: readonly string[];
  /** What a value must be. */
  readonly schema: z.ZodType<T>;
  /** From a `config.json`. Throws `config` saying which entry is wrong; warns of parts of it that nobody here knows. */
  read(json: ConfigJson, earlier: Needs, warn?: Warn): T;
  /** The entries that say a value of a configuration. */
  write(value: T, config: Needs): ConfigJson;
  /** The choice for a new model; absent where a person has to make it. */
  published?(earlier: Needs): T;
}

export interface EntryOptions<T, Needs> {
  /** What a file without the entry means. Default: the file must have it. */
  readonly absent?: Derived<T, Needs>;
  /** What `null` in a file means. Default: as `absent`. */
  readonly null?: Derived<T, Needs>;
  /** The choice for a new model. Default: as `absent`; without either a person has to make it. */
  readonly published?: Derived<T, Needs>;
  /** Other names of the entry, taken where the first is not there. */
  readonly aliases?: readonly string[];
}

/** A field that is one entry of a `config.json`. */
export function entry<T, Needs = unknown>(
  name: string,
  schema: z.ZodType<T>,
  options: EntryOptions<NoInfer<T>, Needs> = {},
): Field<T, Needs> {
  const { aliases = [] } = options;
  const hasAbsent = "absent" in options;
  const absent = (earlier: Needs): T => derive(options.absent as Derived<T, Needs>, earlier);
  return {
    entries: [name, ...aliases],
    schema,
    read: (json, earlier) => {
      const found = [name, ...aliases].find((key) => Object.hasOwn(json, key) && json[key] !== undefined);
      const value = found === undefined ? undefined : json[found];
      if (value === null && "null" in options) return derive(options.null as Derived<T, Needs>, earlier);
      if (value === undefined || value === null) {
        if (hasAbsent) return absent(earlier);
        throw wrongEntry(`${name} is ${value === null ? "null" : "missing"}`);
      }
      return checked(schema, value, found!);
    },
    write: (value) => ({ [name]: value ?? null }),
    ...(("published" in options || hasAbsent) && {
      published: (earlier: Needs): T =>
        "published" in options ? derive(options.published as Derived<T, Needs>, earlier) : absent(earlier),
    }),
  };
}

/** `value` by `schema`. Throws `config` naming the entry, what it is and what it must be. */
export function checked<T>(schema: z.ZodType<T>, value: unknown, name: string): T {
  const parsed = schema.safeParse(value, plainMessages);
  if (parsed.success) return parsed.data;
  const { path, message } = parsed.error.issues[0]!;
  const place = [name, ...path.map(String)].join(".");
  throw wrongEntry(
    message.startsWith("it ") ? `${place} is ${shown(at(value, path))}: ${message}` : `${place} ${message}`,
  );
}

const at = (value: unknown, path: readonly PropertyKey[]): unknown =>
  path.reduce<unknown>((inner, key) => (inner as Record<PropertyKey, unknown> | null)?.[key], value);

const wrongEntry = (sentence: string): LineageError => new LineageError("config", sentence);

/** A value as a message shows it: its beginning, when it is long. */
function shown(value: unknown): string {
  const text = value === undefined ? "missing" : JSON.stringify(value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

// ---- Tables -------------------------------------------------------------------------------------------------------

/** Fields of any types; a field that derives from others names them in its second parameter. */
export type Fields = Readonly<Record<string, Field<unknown, never>>>;

type ValueOf<F> = F extends Field<infer T, never> ? T : never;
type OptionalKeys<F extends Fields> = {
  [K in keyof F]: undefined extends ValueOf<F[K]> ? K : never;
}[keyof F];

/** The configuration that a table's fields describe. */
export type FieldsConfig<F extends Fields> = Flat<
  { readonly [K in keyof F as K extends OptionalKeys<F> ? never : K]: ValueOf<F[K]> } & {
    readonly [K in OptionalKeys<F>]?: ValueOf<F[K]>;
  }
>;
type Flat<T> = { readonly [K in keyof T]: T[K] };

/** Sizes that a person always chooses. */
export interface ModelSizes {
  readonly hiddenSize: number;
  readonly numLayers: number;
  readonly numHeads: number;
}

/** What makes a new configuration: the sizes, and any other field that is not to be as published. */
export type Choices<C> = Partial<C> & Pick<C, keyof C & keyof ModelSizes>;

/** Entries that lineage does not read, besides those of every `config.json`. */
export interface OtherEntries {
  /** Entries that must have this value, or one of `only`, where they are there; they are written with it. */
  readonly fixed?: ConfigJson;
  /** Entries that are refused unless they have one of these values, or are null: others change the model's numbers. */
  readonly only?: Readonly<Record<string, readonly unknown[]>>;
  /** Entries that mean nothing here, by name, with the reason. */
  readonly withoutEffect?: Readonly<Record<string, string>>;
}

/** One reason for several entries that mean nothing. */
export const reasons = (reason: string, names: readonly string[]): Record<string, string> =>
  Object.fromEntries(names.map((name) => [name, reason]));

/** Entries that are refused unless they say what follows from the configuration already. */
export type ImpliedEntries<C> = Readonly<Record<string, (config: C) => unknown>>;

export interface ConfigTableOptions<F extends Fields> extends OtherEntries {
  /** `model_type` of the `config.json`. */
  readonly type: string;
  /** What a person calls the model. */
  readonly title: string;
  readonly fields: F;
  readonly implied?: ImpliedEntries<FieldsConfig<F>>;
  /** Throws `config` for a configuration that contradicts itself. */
  readonly check?: (config: FieldsConfig<F>) => void;
}

/**
 * The configuration of a system as one table: its type, the check of a `config.json`, both directions, and what a new
 * model has where a person chooses nothing.
 */
export class ConfigTable<C> {
  readonly type: string;
  readonly title: string;
  private readonly fields: ReadonlyMap<string, Field<unknown, unknown>>;
  private readonly others: OtherEntries;
  private readonly implied: ReadonlyMap<string, (config: unknown) => unknown>;
  private readonly check: (config: unknown) => void;

  constructor({
    type,
    title,
    fields,
    implied = {},
    check,
    ...others
  }: OtherEntries & {
    readonly type: string;
    readonly title: string;
    readonly fields: Fields;
    readonly implied?: ImpliedEntries<C> | undefined;
    readonly check?: ((config: C) => void) | undefined;
  }) {
    this.type = type;
    this.title = title;
    this.fields = new Map(Object.entries(fields as Record<string, Field<unknown, unknown>>));
    this.others = others;
    this.implied = new Map(
      Object.entries(implied).map(([name, follows]) => [name, (config) => follows(config as C)]),
    );
    this.check = (config) => check?.(config as C);
  }

  /** Whether the configuration has a field. */
  has(field: string): boolean {
    return this.fields.has(field);
  }

  /** A field's value, checked. Throws `config` naming it as the caller does. */
  checkField(field: string, value: unknown, name: string): unknown {
    const { schema } = this.fields.get(field)!;
    return checked(schema, value, name);
  }

  /** Whether a field is true or false. */
  isFlag(field: string): boolean {
    return this.fields.get(field)?.schema.safeParse(true).success ?? false;
  }

  /** A configuration with the published choices where `choices` makes none. Throws `config` for one that contradicts itself. */
  create(choices: Choices<C>): C {
    const given = new Map(Object.entries(choices));
    const config: Record<string, unknown> = {};
    for (const [name, field] of this.fields) {
      const optional = field.schema.safeParse(undefined).success;
      const value = given.get(name);
      if (value !== undefined || (optional && given.has(name)))
        config[name] = checked(field.schema, value, name);
      else if (field.published) config[name] = field.published(config);
      else throw new LineageError("config", `${this.title} needs ${name}`);
    }
    for (const name of given.keys())
      if (!this.fields.has(name)) throw new LineageError("config", `${this.title} has no ${name}`);
    this.check(config);
    return config as C;
  }

  /**
   * The configuration that a `config.json` describes. Throws `config` saying which entries are wrong; warns of entries that
   * nobody here knows.
   */
  read(json: unknown, warn: Warn = () => undefined): C {
    const refuse = (sentence: string): never => {
      throw new LineageError("config", `this is not the configuration of a ${this.title}: ${sentence}`);
    };
    if (typeof json !== "object" || json === null || Array.isArray(json))
      return refuse("it is no JSON object");
    const entries = json as ConfigJson;
    const wrong: string[] = [];
    const config: Record<string, unknown> = {};
    for (const [name, field] of this.fields) {
      try {
        config[name] = field.read(entries, config, warn);
      } catch (error) {
        if (!(error instanceof LineageError)) throw error;
        wrong.push(error.message);
        // What derives from it would be wrong for its sake alone.
        break;
      }
    }
    wrong.push(...this.refused(entries));
    if (wrong.length === 0) wrong.push(...this.contradicted(entries, config as C));
    if (wrong.length > 0) return refuse(wrong.join("; "));
    try {
      this.check(config);
    } catch (error) {
      if (!(error instanceof LineageError)) throw error;
      refuse(error.message);
    }
    for (const name of Object.keys(entries))
      if (this.meaningOf(name) === undefined)
        warn(
          `config.json: lineage does not know the entry ${name} (${shown(entries[name])}) of a ${this.title} and ignores it`,
        );
    return config as C;
  }

  /** The `config.json` that Hugging Face transformers reads, but for the names of its class. */
  write(config: C): Record<string, unknown> {
    const json: Record<string, unknown> = { model_type: this.type };
    for (const [name, field] of this.fields)
      Object.assign(json, field.write(config[name as keyof C], config));
    return { ...json, ...this.others.fixed };
  }

  /** What an entry of a `config.json` does here: read, refused unless it has certain values, or without effect for a reason. */
  meaningOf(entryName: string): "read" | "refused" | { readonly withoutEffect: string } | undefined {
    const { fixed = {}, only = {}, withoutEffect = {} } = this.others;
    if (entryName === "model_type") return "read";
    for (const field of this.fields.values()) if (field.entries.includes(entryName)) return "read";
    if (Object.hasOwn(fixed, entryName) || Object.hasOwn(only, entryName)) return "refused";
    if (this.implied.has(entryName)) return "refused";
    if (Object.hasOwn(withoutEffect, entryName)) return { withoutEffect: withoutEffect[entryName]! };
    if (Object.hasOwn(commonOnly, entryName)) return "refused";
    const reason = commonWithoutEffect.get(entryName);
    return reason === undefined ? undefined : { withoutEffect: reason };
  }

  /** Entries that have another value than the network here computes with. */
  private *refused(json: ConfigJson): Generator<string> {
    const { fixed = {}, only = {}, withoutEffect = {} } = this.others;
    if (json["model_type"] !== undefined && json["model_type"] !== this.type)
      yield `model_type is ${shown(json["model_type"])}, not "${this.type}"`;
    const allowed: Record<string, readonly unknown[]> = { ...commonOnly, ...only };
    for (const [name, value] of Object.entries(fixed)) allowed[name] = [value, ...(only[name] ?? [])];
    for (const [name, values] of Object.entries(allowed)) {
      const value = Object.hasOwn(json, name) ? json[name] : undefined;
      if (value === undefined || value === null) continue;
      if (this.readsItself(name) || Object.hasOwn(withoutEffect, name)) continue;
      const text = JSON.stringify(value);
      if (!values.some((one) => JSON.stringify(one) === text))
        yield `${name} is ${shown(value)}, but lineage computes it only with ${values.map(shown).join(" or ")}`;
    }
  }

  /** Entries that say something else than what follows from the configuration. */
  private *contradicted(json: ConfigJson, config: C): Generator<string> {
    for (const [name, follows] of this.implied) {
      const value = Object.hasOwn(json, name) ? json[name] : undefined;
      const right = follows(config);
      if (value !== undefined && value !== null && value !== right)
        yield `${name} is ${shown(value)}, but lineage computes it only with ${shown(right)}, which follows from the other entries`;
    }
  }

  private readsItself(entryName: string): boolean {
    return [...this.fields.values()].some(({ entries }) => entries.includes(entryName));
  }
}

/**
 * Makes a table of fields. A field that derives its value from others names them by the type of its function's parameter,
 * and stands below them.
 */
export function configTable<F extends Fields>(options: ConfigTableOptions<F>): ConfigTable<FieldsConfig<F>> {
  return new ConfigTable<FieldsConfig<F>>(options);
}

/** The configuration of a table. */
export type ConfigOf<T> = T extends ConfigTable<infer C> ? C : never;

// ---- Entries of every config.json ---------------------------------------------------------------------------------

/** What transformers' `PretrainedConfig` has for every model, and what it means here. */
const commonWithoutEffect: ReadonlyMap<string, string> = new Map(
  Object.entries({
    "names a class, a program or a folder, and says nothing of the network": [
      "_name_or_path",
      "name_or_path",
      "architectures",
      "auto_map",
      "finetuning_task",
      "tokenizer_class",
      "transformers_version",
      "transformers.js_config",
      "transformers_weights",
      "_commit_hash",
      "custom_pipelines",
    ],
    "weights are read in whatever type they lie in": ["torch_dtype", "dtype", "use_bfloat16", "torchscript"],
    "the tokenizer's files say it": [
      "bos_token_id",
      "eos_token_id",
      "pad_token_id",
      "sep_token_id",
      "cls_token_id",
      "mask_token_id",
      "unk_token_id",
      "decoder_start_token_id",
    ],
    "names of classes, which the head's loader reads": ["id2label", "label2id", "problem_type", "num_labels"],
    "read by the loader of weights": ["quantization_config"],
    "chooses what a call gives back": [
      "output_attentions",
      "output_hidden_states",
      "output_scores",
      "return_dict",
      "return_dict_in_generate",
      "use_return_dict",
    ],
    "chooses among ways to compute the same numbers": [
      "attn_implementation",
      "_attn_implementation",
      "_attn_implementation_autoset",
      "_attn_implementation_internal",
      "_flash_attn_2_enabled",
      "chunk_size_feed_forward",
      "gradient_checkpointing",
      "use_cache",
      "tp_plan",
      "pretraining_tp",
    ],
    "settings of generation, which a call gives": [
      "bad_words_ids",
      "begin_suppress_tokens",
      "diversity_penalty",
      "do_sample",
      "early_stopping",
      "encoder_no_repeat_ngram_size",
      "exponential_decay_length_penalty",
      "forced_bos_token_id",
      "forced_eos_token_id",
      "length_penalty",
      "max_length",
      "min_length",
      "no_repeat_ngram_size",
      "num_beam_groups",
      "num_beams",
      "num_return_sequences",
      "prefix",
      "remove_invalid_values",
      "repetition_penalty",
      "suppress_tokens",
      "task_specific_params",
      "temperature",
      "top_k",
      "top_p",
      "typical_p",
    ],
    "belongs to TensorFlow's training loop": ["tf_legacy_loss"],
    "only names how an encoder-decoder of two models shares weights": [
      "tie_encoder_decoder",
      "cross_attention_hidden_size",
    ],
  }).flatMap(([reason, names]) => names.map((name) => [name, reason] as const)),
);

/** Entries of every model that change its network, with the values that leave it as it is. */
const commonOnly: Readonly<Record<string, readonly unknown[]>> = {
  pruned_heads: [{}],
  add_cross_attention: [false],
  is_decoder: [false],
  is_encoder_decoder: [false],
  prefix_lm: [false],
};
