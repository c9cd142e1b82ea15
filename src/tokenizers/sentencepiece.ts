import { BinaryReader, WireType } from "@bufbuild/protobuf/wire";
import { FormatError, messageOf } from "../base/errors.js";
import { addedToken, template } from "./definitions.js";
import type { TokenizerConfig, TokenizerDefinition } from "./tokenizer-definition.js";

/** What a piece is for; numbered as in sentencepiece_model.proto and in GGUF. */
export const PieceType = {
  normal: 1,
  unknown: 2,
  control: 3,
  userDefined: 4,
  unused: 5,
  byte: 6,
} as const;

export interface Piece {
  readonly piece: string;
  readonly score: number;
  readonly type: number;
}

/** What decides how a SentencePiece model cuts a text. */
export interface SentencePieceModel {
  readonly kind: "unigram" | "bpe";
  readonly pieces: readonly Piece[];
  /** The table of character replacements; empty for none. */
  readonly charactersMap: Uint8Array;
  /** Whether a text gets a space before it, so that its first word is written as all others. */
  readonly addPrefix: boolean;
  /** Whether spaces at the ends go, and several become one. */
  readonly removeExtraSpaces: boolean;
  readonly byteFallback: boolean;
  readonly bosId?: number;
  readonly eosId?: number;
  readonly padId?: number;
  readonly unkId: number;
}

const kinds: Readonly<Record<number, "unigram" | "bpe">> = { 1: "unigram", 2: "bpe" };

/** Reads a `tokenizer.model`. Throws FormatError for one that is malformed or of a kind without sub-words. */
export function parseSentencePiece(file: string, bytes: Uint8Array): SentencePieceModel {
  const pieces: Piece[] = [];
  let trainer = new Map<number, number>();
  let normalizer = new Map<number, number>();
  let charactersMap: Uint8Array = new Uint8Array();
  try {
    readFields(bytes, (field, reader, wire) => {
      if (field === 1 && wire === WireType.LengthDelimited) pieces.push(readPiece(reader.bytes()));
      else if (field === 2 && wire === WireType.LengthDelimited) trainer = readNumbers(reader.bytes());
      else if (field === 3 && wire === WireType.LengthDelimited) {
        const spec = reader.bytes();
        normalizer = readNumbers(spec);
        readFields(spec, (inner, specReader, innerWire) => {
          if (inner !== 2 || innerWire !== WireType.LengthDelimited) return false;
          charactersMap = specReader.bytes();
          return true;
        });
      } else return false;
      return true;
    });
  } catch (error) {
    throw new FormatError(file, `this is not a SentencePiece model: ${messageOf(error)}`, { cause: error });
  }
  const kind = kinds[trainer.get(3) ?? 1];
  if (!kind)
    throw new FormatError(file, "it cuts by words or characters; only unigram and BPE models are known");
  if (pieces.length === 0) throw new FormatError(file, "there is no piece in it");
  if (new Set(pieces.map(({ piece }) => piece)).size !== pieces.length)
    throw new FormatError(file, "the same piece is in it twice");
  if (pieces.some(({ type }) => type === PieceType.unused))
    throw new FormatError(file, "it has pieces marked as unused, which lineage does not know");
  const unkId = pieces.findIndex(({ type }) => type === PieceType.unknown);
  if (unkId < 0) throw new FormatError(file, "it has no piece for what is unknown");
  const id = (field: number, byDefault: number): number | undefined => {
    const value = (trainer.get(field) ?? byDefault) | 0;
    return pieces[value]?.type === PieceType.control ? value : undefined;
  };
  const flag = (fields: Map<number, number>, field: number, byDefault: number) =>
    (fields.get(field) ?? byDefault) !== 0;
  return {
    kind,
    pieces,
    charactersMap,
    addPrefix: flag(normalizer, 3, 1),
    removeExtraSpaces: flag(normalizer, 4, 1),
    byteFallback: flag(trainer, 35, 0),
    bosId: id(41, 1),
    eosId: id(42, 2),
    padId: id(43, -1),
    unkId,
  };
}

/** Calls `take` for every field; it returns whether it has read the field. */
function readFields(
  bytes: Uint8Array,
  take: (field: number, reader: BinaryReader, wire: WireType) => boolean,
): void {
  const reader = new BinaryReader(bytes);
  while (reader.pos < reader.len) {
    const [field, wire] = reader.tag();
    if (!take(field, reader, wire)) reader.skip(wire, field);
  }
  if (reader.pos !== reader.len) throw new RangeError("a field goes beyond the end");
}

function readPiece(bytes: Uint8Array): Piece {
  let piece = "";
  let score = 0;
  let type: number = PieceType.normal;
  readFields(bytes, (field, reader, wire) => {
    if (field === 1 && wire === WireType.LengthDelimited) piece = reader.string();
    else if (field === 2 && wire === WireType.Bit32) score = reader.float();
    else if (field === 3 && wire === WireType.Varint) type = reader.int32();
    else return false;
    return true;
  });
  return { piece, score, type };
}

function readNumbers(bytes: Uint8Array): Map<number, number> {
  const numbers = new Map<number, number>();
  readFields(bytes, (field, reader, wire) => {
    if (wire !== WireType.Varint) return false;
    numbers.set(field, Number(reader.int64()));
    return true;
  });
  return numbers;
}

const space = "\u2581";
/** Spaces at the ends of a text; `^` and `$` would also mean those of a line to some runners. */
const textEnds = "(?<![\\s\\S]) +| +(?![\\s\\S])";

/** The `tokenizer.json` and `tokenizer_config.json` that cut as the model does. */
export function sentencePieceDefinition(model: SentencePieceModel): {
  definition: TokenizerDefinition;
  config: TokenizerConfig;
} {
  const { pieces, kind, addPrefix, removeExtraSpaces, bosId, eosId, padId, unkId } = model;
  const content = (id: number | undefined) => (id === undefined ? undefined : pieces[id]!.piece);
  const added = pieces.flatMap(({ piece, type }, id) =>
    type === PieceType.control || type === PieceType.unknown || type === PieceType.userDefined
      ? [
          {
            id,
            content: piece,
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: false,
            special: type !== PieceType.userDefined,
          },
        ]
      : [],
  );
  const replace = (pattern: Record<string, string>, by: string) => ({
    type: "Replace",
    pattern,
    content: by,
  });
  const normalizers = [
    ...(model.charactersMap.byteLength > 0
      ? [{ type: "Precompiled", precompiled_charsmap: toBase64(model.charactersMap) }]
      : []),
    ...(removeExtraSpaces ? [replace({ Regex: textEnds }, ""), replace({ Regex: " {2,}" }, " ")] : []),
    ...(addPrefix ? [{ type: "Prepend", prepend: space }] : []),
    replace({ String: " " }, space),
  ];
  const bos = content(bosId);
  const definition: TokenizerDefinition = {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: added,
    normalizer: { type: "Sequence", normalizers },
    pre_tokenizer: null,
    post_processor:
      bos === undefined
        ? null
        : {
            type: "TemplateProcessing",
            single: [{ SpecialToken: { id: bos, type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
            pair: [
              { SpecialToken: { id: bos, type_id: 0 } },
              { Sequence: { id: "A", type_id: 0 } },
              { SpecialToken: { id: bos, type_id: 1 } },
              { Sequence: { id: "B", type_id: 1 } },
            ],
            special_tokens: { [bos]: { id: bos, ids: [bosId], tokens: [bos] } },
          },
    decoder: {
      type: "Sequence",
      decoders: [
        replace({ String: space }, " "),
        { type: "ByteFallback" },
        { type: "Fuse" },
        ...(addPrefix || removeExtraSpaces ? [{ type: "Strip", content: " ", start: 1, stop: 0 }] : []),
      ],
    },
    model:
      kind === "bpe"
        ? {
            type: "BPE",
            dropout: null,
            unk_token: pieces[unkId]!.piece,
            continuing_subword_prefix: null,
            end_of_word_suffix: null,
            fuse_unk: true,
            byte_fallback: model.byteFallback,
            vocab: Object.fromEntries(pieces.map(({ piece }, id) => [piece, id])),
            merges: mergesOf(pieces),
          }
        : {
            type: "Unigram",
            unk_id: unkId,
            vocab: pieces.map(({ piece, score }): [string, number] => [piece, score]),
            byte_fallback: model.byteFallback,
          },
  };
  return {
    definition,
    config: {
      add_bos_token: kind === "bpe" && bos !== undefined,
      add_eos_token: false,
      bos_token: bos,
      eos_token: content(eosId),
      pad_token: content(padId),
      unk_token: pieces[unkId]!.piece,
      clean_up_tokenization_spaces: false,
      lineage_cut: "sentencepiece",
    },
  };
}

/** The pairs of pieces that make a piece, best score first. */
function mergesOf(pieces: readonly Piece[]): [string, string][] {
  const ids = new Map(
    pieces.flatMap(({ piece, type }, id) => (type === PieceType.normal ? [[piece, id] as const] : [])),
  );
  const order = [...ids].sort(([, a], [, b]) => pieces[b]!.score - pieces[a]!.score || a - b);
  return order.flatMap(([piece]) => {
    const merges: [string, string][] = [];
    for (let cut = 1; cut < piece.length; cut++) {
      const [left, right] = [piece.slice(0, cut), piece.slice(cut)];
      if (ids.has(left) && ids.has(right)) merges.push([left, right]);
    }
    return merges;
  });
}

function toBase64(bytes: Uint8Array): string {
  let binary = "";
  for (const byte of bytes) binary += String.fromCharCode(byte);
  return btoa(binary);
}

// ---- Systems --------------------------------------------------------------------------------------------------------

/**
 * T5's tokenizer, Raffel et al. 2020: `text </s>`, with tokens behind the pieces that stand for hidden spans, the first of them
 * last.
 * @param sentinels how many of them
 */
export function sentencePieceOfT5(model: SentencePieceModel, sentinels: number) {
  const { definition, config } = sentencePieceDefinition(model);
  const { pieces, eosId } = model;
  const names = Array.from({ length: sentinels }, (_, index) => `<extra_id_${index}>`);
  const added = names.map((content, index) => ({
    ...addedToken(pieces.length + sentinels - 1 - index, content),
    lstrip: true,
    rstrip: true,
  }));
  const end = eosId === undefined ? undefined : pieces[eosId]!.piece;
  return {
    definition: {
      ...definition,
      added_tokens: [...(definition.added_tokens ?? []), ...added.reverse()],
      post_processor: end === undefined ? null : template(["A", end], ["A", end, "B", end], [[end, eosId!]]),
    },
    config: { ...config, extra_ids: sentinels, ...(sentinels > 0 && { additional_special_tokens: names }) },
  };
}

/**
 * mBART's tokenizer: fairseq's special tokens come first, so that ids are one above those of the pieces; the languages and the
 * mask come last. Throws FormatError for a model that begins otherwise than fairseq's do.
 */
export function sentencePieceOfMbart(file: string, model: SentencePieceModel, languages: readonly string[]) {
  const special = (piece: string): Piece => ({ piece, score: 0, type: PieceType.control });
  const [unknown, bos, eos, ...pieces] = model.pieces;
  if (
    unknown?.type !== PieceType.unknown ||
    bos?.type !== PieceType.control ||
    eos?.type !== PieceType.control ||
    model.kind !== "unigram"
  )
    throw new FormatError(
      file,
      "it must be a unigram model that begins with <unk>, <s> and </s>, as mBART's does",
    );
  const mask = "<mask>";
  const { definition, config } = sentencePieceDefinition({
    ...model,
    pieces: [bos, special("<pad>"), eos, unknown, ...pieces, ...languages.map(special), special(mask)],
    bosId: 0,
    padId: 1,
    eosId: 2,
    unkId: 3,
  });
  const added = (definition.added_tokens ?? []).map((token) =>
    // As a word, the mask takes the space before it along.
    token.content === mask ? { ...token, lstrip: true } : token,
  );
  return {
    definition: { ...definition, added_tokens: added, post_processor: null },
    config: {
      ...config,
      add_bos_token: false,
      cls_token: bos.piece,
      sep_token: eos.piece,
      mask_token: mask,
      additional_special_tokens: [...languages],
    },
  };
}
