import { bytePattern } from "./bytes.js";
import { type Merge, createBpe, createSentencePieceBpe } from "./bpe.js";
import type { Entries } from "./entries.js";
import { type Model, type ModelContext, remembering } from "./model.js";
import { createUnigram } from "./unigram.js";
import { createWordLevel, createWordPiece } from "./wordpiece.js";

/** A definition's model, which can be built in more than one way. */
export interface ModelMaker {
  /** Ids by token; of a token that is there twice, the last one's. */
  readonly vocabulary: ReadonlyMap<string, number>;
  /** Tokens by id. */
  readonly tokens: readonly (string | undefined)[];
  /** Entries of the vocabulary. */
  readonly size: number;
  /** A token as its encoding shows it: a Unigram shows the text, also of what is unknown. */
  surfaceOf(token: string, text: string): string;
  /** @param hidden tokens that no word is cut into */
  create(hidden: ReadonlySet<string>): Model;
}

export interface ModelOptions {
  /** Whether it runs as SentencePiece does, and which tokens it finds within words there. */
  readonly sentencePiece?: { readonly userDefined: readonly string[] };
  /** Ids by token, where another file than the model's has them, and the token for pieces that it lacks. */
  readonly vocabulary?: ReadonlyMap<string, number>;
  readonly unknown?: string | undefined;
}

const modelTypes = ["BPE", "WordPiece", "WordLevel", "Unigram"] as const;
type ModelType = (typeof modelTypes)[number];

/** The type of a model; older files tell it by their entries alone. */
function typeOf(part: Entries): ModelType {
  const type = part.optionalString("type");
  if (type !== undefined)
    return (
      modelTypes.find((known) => known === type) ??
      part.refuse(`there is no model of the type ${JSON.stringify(type)}`)
    );
  const names = new Set(part.names());
  if (Array.isArray(part.get("vocab"))) return "Unigram";
  if (names.has("merges")) return "BPE";
  return names.has("continuing_subword_prefix") || names.has("max_input_chars_per_word")
    ? "WordPiece"
    : "WordLevel";
}

/** The model that a checked definition describes. */
export function readModel(part: Entries, options: ModelOptions): ModelMaker {
  const type = typeOf(part);
  const vocabulary = new Map<string, number>();
  const tokens: (string | undefined)[] = [];
  const vocab = part.get("vocab");
  const pieces = Array.isArray(vocab) ? (vocab as [string, number][]) : undefined;
  if ((type === "Unigram") !== (pieces !== undefined))
    part.refuse(
      `the vocabulary of a ${type} is ${type === "Unigram" ? "a list of [piece, score]" : "an object with the id of each token"}`,
    );
  const entries: Iterable<readonly [string, number]> = options.vocabulary
    ? options.vocabulary
    : pieces
      ? pieces.map(([piece], id) => [piece, id] as const)
      : Object.entries(vocab as Record<string, number>);
  let size = 0;
  for (const [token, id] of entries) {
    vocabulary.set(token, id);
    tokens[id] = token;
    size++;
  }
  const maker = makerOf(type, part, pieces, options);
  part.finish();
  return {
    vocabulary,
    tokens,
    size,
    surfaceOf: (token, text) => (type === "Unigram" && !bytePattern.test(token) ? text : token),
    create: (hidden) => maker({ vocabulary, hidden }),
  };
}

function makerOf(
  type: ModelType,
  part: Entries,
  pieces: readonly [string, number][] | undefined,
  { sentencePiece, vocabulary: other, unknown = "" }: ModelOptions,
): (context: ModelContext) => Model {
  switch (type) {
    case "BPE": {
      const dropout = part.get("dropout");
      if (dropout !== undefined && dropout !== 0)
        part.refuse("dropout cuts every text in another way; it must be null for texts to be encoded");
      const bpe = {
        merges: mergesOf(part),
        unknownToken: part.optionalString("unk_token"),
        fuseUnknown: part.boolean("fuse_unk", false),
        byteFallback: part.boolean("byte_fallback", false),
        ignoreMerges: part.boolean("ignore_merges", false),
        continuingPrefix: part.string("continuing_subword_prefix", ""),
        endSuffix: part.string("end_of_word_suffix", ""),
      };
      return (context) =>
        checked(part, () =>
          remembering(
            sentencePiece
              ? createSentencePieceBpe(context, { ...bpe, ...sentencePiece })
              : createBpe(context, bpe),
          ),
        );
    }
    case "WordPiece": {
      const wordPiece = {
        unknownToken: part.string("unk_token", "[UNK]"),
        continuingPrefix: part.string("continuing_subword_prefix", "##"),
        maxCharacters: part.count("max_input_chars_per_word", 100),
      };
      return (context) => remembering(createWordPiece(context, wordPiece));
    }
    case "WordLevel": {
      const unknownToken = part.string("unk_token", "<unk>");
      return (context) => createWordLevel(context, unknownToken);
    }
    case "Unigram": {
      const unknownId = part.get("unk_id") === undefined ? undefined : part.count("unk_id");
      if (unknownId !== undefined && unknownId >= pieces!.length)
        part.refuse(`unk_id is ${unknownId}, and the vocabulary has ${pieces!.length} pieces`);
      const byteFallback = part.boolean("byte_fallback", false);
      const own = sentencePiece && {
        userDefined: new Set(sentencePiece.userDefined),
        neverCut: (piece: string) => byteFallback && bytePattern.test(piece),
      };
      const unigram = {
        pieces: pieces!,
        unknownId: other ? other.get(unknown) : unknownId,
        byteFallback,
        sentencePiece: own,
      };
      return (context) => remembering(createUnigram(context, unigram));
    }
  }
}

/** The pairs of a list of merges, each a list of two or, in older files, a string with a space between the two. */
function mergesOf(part: Entries): Merge[] {
  const merges: Merge[] = [];
  part.list("merges").forEach((merge, index) => {
    if (typeof merge !== "string") merges.push(merge as [string, string]);
    else if (!merge.startsWith("#version")) {
      const place = merge.indexOf(" ");
      if (place < 0 || merge.includes(" ", place + 1))
        part.refuse(
          `merges[${index}] is ${JSON.stringify(merge.slice(0, 60))}; it must be two tokens with one space between`,
        );
      merges.push([merge.slice(0, place), merge.slice(place + 1)]);
    }
  });
  return merges;
}

/** Builds a model; what contradicts itself in it is a fault of its file. */
function checked(part: Entries, create: () => Model): Model {
  try {
    return create();
  } catch (error) {
    if (error instanceof RangeError) part.refuse(error.message);
    throw error;
  }
}
