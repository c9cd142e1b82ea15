/** How a byte-level tokenizer cuts texts into words before it merges, and what llama.cpp takes from the name of that. */
export interface PreTokenizer {
  /** A part of a `tokenizer.json`. */
  readonly definition: { readonly type: string };
  /** Whether texts begin with BOS where the file does not say. */
  readonly addsBos?: boolean;
  /** Whether texts begin with BOS whatever the file says. */
  readonly forcesBos?: boolean;
  /** Whether a word that is a token as a whole is one without merging. */
  readonly ignoresMerges?: boolean;
  /** Whether a file may have no merges: what is no token as a whole then becomes its bytes. */
  readonly needsNoMerges?: boolean;
  /** Where tokens are written as text, and not by the letters that stand for their bytes: what a space is written as. */
  readonly writtenSpace?: string | undefined;
}

const byteLevel = (useRegex: boolean) => ({
  type: "ByteLevel",
  add_prefix_space: false,
  trim_offsets: true,
  use_regex: useRegex,
});
const split = (regex: string) => ({
  type: "Split",
  pattern: { Regex: regex },
  behavior: "Isolated",
  invert: false,
});
const sequence = (...pretokenizers: readonly { type: string }[]) => ({ type: "Sequence", pretokenizers });
/** Cuts by one expression after the other: within what the one before found, and within what it left. */
const splits = (...expressions: readonly string[]) => sequence(...expressions.map(split), byteLevel(false));

// ---- Expressions, as the models' own tokenizer.json have them ------------------------------------------------------

const contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const spaces = "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
/** GPT-4's cut of 2023 with digits taken by `numbers` at a time. */
const gpt4 = (numbers: string, letters = "\\p{L}", marks = "") =>
  `${contractions}|[^\\r\\n\\p{L}\\p{N}]?${letters}+|${numbers}| ?[^\\s\\p{L}${marks}\\p{N}]+[\\r\\n]*|${spaces}`;
const byThrees = gpt4("\\p{N}{1,3}");
const byOnes = gpt4("\\p{N}");
const gpt2 = "'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)";

/** A word is capitals, then small letters; GPT-4o's cut keeps an apostrophe's ending, Mistral's does not. */
const cased = (ending: string, numbers: string) => {
  const [before, capitals, smalls] = [
    "[^\\r\\n\\p{L}\\p{N}]?",
    "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]",
    "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]",
  ];
  return `${before}${capitals}*${smalls}+${ending}|${before}${capitals}+${smalls}*${ending}|${numbers}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|${spaces}`;
};
const gpt4o = cased(`${contractions}?`, "\\p{N}{1,3}");

/** Kimi's: words have no ideographs, which stand by themselves. */
const kimi = (() => {
  const but = (letters: string) => `(?:(?!\\p{Han})[${letters}])`;
  const [capitals, smalls] = [but("\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}"), but("\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}")];
  const word = (first: string, second: string) =>
    `[^\\r\\n\\p{L}\\p{N}]?${capitals}${first}${smalls}${second}${contractions}?`;
  return `\\p{Han}+|${word("*", "+")}|${word("+", "*")}|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|${spaces}`;
})();

const ideographs = "[一-龥\u3040-ゟ゠-ヿ]+";
const symbols = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+";
const deepSeek3 = (ends: string) =>
  `${symbols}|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+${ends}|\\s+(?!\\S)|\\s+`;
const deepSeekIdeographs = "[一-龥\u0800-一가-\ud7ff]+";
const deepSeekLetters =
  "\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u1f7dᾀ-ᾴᾶ-ᾼ\u1fbeῂ-ῄῆ-ῌῐ-\u1fd3ῖ-\u1fdbῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝ\u2124\u2126\u2128\u212a-\u212dℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";
const bloom = " ?[^(\\s|.,!?…。，、।۔،)]+";

const cascade = [512, 256, 128, 64, 32, 16, 8, 4].map((count) => `\\s{${count}}(?!\\S)`).join("|");

// ---- Names ----------------------------------------------------------------------------------------------------------

const definitions = {
  "gpt-2": byteLevel(true),
  smollm: sequence({ type: "Digits", individual_digits: true } as { type: string }, byteLevel(true)),
  "llama-bpe": splits(byThrees),
  qwen2: splits(byOnes),
  qwen35: splits(gpt4("\\p{N}", "[\\p{L}\\p{M}]", "\\p{M}")),
  ufakzeka: splits(byOnes.slice(contractions.length + 1)),
  "jais-2": splits(byThrees.replace("\\s+(?!\\S)|\\s+", `${cascade}|\\s{1,2}(?!\\S)|\\s{1}`)),
  minicpm5: splits("\\p{N}{1,3}", gpt4("\\p{N}+")),
  bailingmoe: splits(byOnes.replace("\\s*[\\r\\n]+", "\\s*[\\r\\n]")),
  "seed-coder": splits(byOnes.replace(" ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*", " ?[^\\s\\p{L}\\p{N}\\r\\n]+")),
  laguna: splits("[^\\n]+|[\\n]+", byOnes),
  tekken: splits(cased("", "\\p{N}")),
  "gpt-4o": splits(gpt4o),
  tiny_aya: splits("\\d{1,3}(?=(?:\\d{3})*\\b)", gpt4o),
  "deepseek-llm": splits(
    "[\\r\\n]",
    deepSeekLetters,
    "\\s?[!-/:-~！-／：-～‘-‟\u3000-。]+",
    "\\s+$",
    deepSeekIdeographs,
    "\\p{N}+",
  ),
  "deepseek-coder": splits("[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", deepSeekIdeographs, "\\p{N}"),
  "deepseek-v3": splits("\\p{N}{1,3}", ideographs, deepSeek3("[\\r\\n]*|\\s*[\\r\\n]+")),
  spark2_5: splits("\\p{N}{1,3}", ideographs, deepSeek3("|[\\r\\n]"), "\\p{N}"),
  falcon: splits("[\\p{P}\\$\\+<=>\\^~\\|`]+", gpt2, "[0-9][0-9][0-9]"),
  bloom: splits(bloom),
  viking: splits(bloom, "\\p{N}"),
  chameleon: splits(
    "<sentinel:[0-9]+>",
    "(?:IMGIMG)(?:[A-I]{1,4})Z",
    "[\\t\\n]|    |  ",
    "\\p{N}",
    "[\\p{P}!-/:-@\\[-`{-~]",
    gpt2,
  ),
  "kimi-k2": splits(kimi),
  // Digits by threes from the right.
  afmoe: splits(
    "\\p{N}{1,3}(?=(?:\\p{N}{3})*(?!\\p{N}))",
    "[一-鿿㐀-䶿豈-\ufaff\u3040-ゟ゠-ヿ･-ﾟ⼀-\u2fdf\u0e00-\u0e7f\u0e80-\u0effក-\u17ffက-႟ꩠ-ꩿꧠ-\ua9ff가-\ud7afᄀ-ᇿ]+",
    deepSeek3("[\\r\\n]*|\\s*[\\r\\n]+"),
  ),
  superbpe: splits("\\p{N}+", "(?=(\\d{3})+(?!\\d))"),
  "exaone-moe": splits(
    `${contractions}|[^\\r\\n\\p{L}\\p{N}]?(?:\\p{L}\\p{M}*(?: \\p{L}\\p{M}*)*)+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]?|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+`,
  ),
  youtu: splits(
    "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥\u3040-ゟ゠-ヿ]+",
    cased(`${contractions}?`, "\\p{N}"),
  ),
  // Lines, of text and not of bytes.
  gemma4: split("[^\\n]+|[\\n]+"),
  whitespace: { type: "WhitespaceSplit" },
  default: splits("[\\p{P}\\$\\+<=>\\^~\\|]+", gpt2, "\\p{N}+", "[0-9][0-9][0-9]"),
} as const satisfies Record<string, { readonly type: string }>;

type Definition = keyof typeof definitions;

const names: Readonly<Record<Definition, string>> = {
  "gpt-2":
    "gpt-2 phi-2 jina-es jina-de jina-v1-en jina-v2-es jina-v2-de jina-v2-code roberta-bpe gigachat a.x-4.0 mellum modern-bert exaone4 mpt olmo jais trillion granite-docling",
  smollm: "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2",
  "llama-bpe":
    "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano dbrx smaug-bpe glm4 chatglm-bpe",
  qwen2: "qwen2 stablelm2 deepseek-r1-qwen kormo f2llmv2 megrez hunyuan solar-open grok-2",
  qwen35: "qwen35",
  ufakzeka: "ufakzeka",
  "jais-2": "jais-2",
  minicpm5: "minicpm5",
  bailingmoe: "bailingmoe bailingmoe2 llada-moe",
  "seed-coder": "seed-coder",
  laguna: "laguna",
  tekken: "tekken",
  "gpt-4o": "gpt-4o llama4 kanana2 talkie minimax-m2 granite-embed-multi-97m",
  tiny_aya: "tiny_aya cohere2moe",
  "deepseek-llm": "deepseek-llm",
  "deepseek-coder": "deepseek-coder",
  "deepseek-v3": "deepseek-v3 hunyuan-dense joyai-llm hy_v4",
  spark2_5: "spark2_5",
  falcon: "falcon",
  bloom: "bloom poro-chat gpt3-finnish",
  viking: "viking",
  chameleon: "chameleon",
  "kimi-k2": "kimi-k2",
  afmoe: "afmoe",
  superbpe: "superbpe",
  "exaone-moe": "exaone-moe",
  youtu: "youtu",
  gemma4: "gemma4 granite-embed-multi-311m sarvam-moe",
  whitespace: "whitespace",
  default: "default",
};

const withBos = new Set(
  "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano tekken chameleon".split(
    " ",
  ),
);
const gemma = new Set(["gemma4", "granite-embed-multi-311m"]);
// Of Gemma's words llama.cpp looks up breaks of lines alone; its merges lead to every other token.
const withoutMerges = new Set(
  [...withBos, ...gemma, "minicpm5", "youtu", "granite-embed-multi-97m"].filter(
    (name) => name !== "chameleon",
  ),
);
const writtenSpaces: ReadonlyMap<string, string> = new Map([
  ...[...gemma, "sarvam-moe"].map((name) => [name, "▁"] as const),
  ["whitespace", " "],
]);

/** By `tokenizer.ggml.pre`. */
export const preTokenizers: ReadonlyMap<string, PreTokenizer> = new Map(
  Object.entries(names).flatMap(([definition, all]) =>
    all.split(" ").map((name) => [
      name,
      {
        definition: definitions[definition as Definition],
        addsBos: withBos.has(name),
        forcesBos: gemma.has(name),
        needsNoMerges: name === "kimi-k2",
        writtenSpace: writtenSpaces.get(name),
        ignoresMerges: withoutMerges.has(name),
      },
    ]),
  ),
);

/** The name that a file gets for a cut of byte-level tokens; undefined where llama.cpp has none. */
export function preTokenizerName(definition: unknown): string | undefined {
  const wanted = fingerprint(definition);
  return Object.entries(definitions).find(
    ([name, known]) => !writtenSpaces.has(name) && fingerprint(known) === wanted,
  )?.[0];
}

/** What of a pre-tokenizer decides where it cuts. */
function fingerprint(part: unknown): string {
  if (typeof part !== "object" || part === null) return JSON.stringify(part);
  const { type, pretokenizers, pattern, use_regex, individual_digits, add_prefix_space } = part as Record<
    string,
    unknown
  >;
  if (Array.isArray(pretokenizers)) {
    return pretokenizers.length === 1
      ? fingerprint(pretokenizers[0])
      : JSON.stringify(pretokenizers.map(fingerprint));
  }
  return JSON.stringify([type, pattern, use_regex ?? true, individual_digits, add_prefix_space ?? false]);
}
