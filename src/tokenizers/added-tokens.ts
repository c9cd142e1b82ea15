import type { Reading } from "./entries.js";
import type { CheckedDefinition, TokenizerConfig } from "./tokenizer-definition.js";
import { literal, rustWordCharacter, whiteSpace } from "./unicode.js";

/** A token that is found in a text as it is written, before the text is cut into words. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
  /** Whether it is found only where no word goes on beside it. */
  readonly singleWord: boolean;
  /** Whether it takes the spaces before it along, and those after it. */
  readonly leftStrip: boolean;
  readonly rightStrip: boolean;
  /** Whether it is looked for in the normalised text. */
  readonly normalized: boolean;
  readonly special: boolean;
}

/** A part of a text: an added token's, or one between them. */
export interface AddedMatch {
  readonly token: AddedToken | undefined;
  readonly start: number;
  readonly end: number;
}

interface TrieNode {
  readonly children: Map<number, TrieNode>;
  token?: AddedToken;
}

const endsWithWord = new RegExp(`[${rustWordCharacter}]$`, "u");
const startsWithWord = new RegExp(`^[${rustWordCharacter}]`, "u");
const isSpace = new RegExp(`[${whiteSpace}]`, "u");

/** Finds added tokens: the leftmost first, and the longest of those that begin there. */
export class AddedTokenFinder {
  private readonly root: TrieNode = { children: new Map() };
  private readonly firsts: RegExp | undefined;

  /** @param tokens each with the text that is looked for; of equal texts the first one holds */
  constructor(tokens: Iterable<readonly [text: string, token: AddedToken]>) {
    const firsts = new Set<string>();
    for (const [text, token] of tokens) {
      if (text === "") continue;
      let node = this.root;
      for (let unit = 0; unit < text.length; unit++) {
        const code = text.charCodeAt(unit);
        let child = node.children.get(code);
        if (!child) node.children.set(code, (child = { children: new Map() }));
        node = child;
      }
      node.token ??= token;
      firsts.add(text[0]!);
    }
    // Without the flag for characters: tokens may begin with a half of one here, which finds candidates as well.
    if (firsts.size > 0) this.firsts = new RegExp([...firsts].map(literal).join("|"), "g");
  }

  /** The longest token that begins at a unit of the text, and where it ends. */
  private longest(text: string, start: number): { token: AddedToken; end: number } | undefined {
    let found: { token: AddedToken; end: number } | undefined;
    let node: TrieNode | undefined = this.root;
    for (let unit = start; unit < text.length; unit++) {
      node = node.children.get(text.charCodeAt(unit));
      if (!node) break;
      if (node.token) found = { token: node.token, end: unit + 1 };
    }
    return found;
  }

  /**
   * The text in parts; undefined where it has no added token. Tokens that `keeps` refuses are read as text.
   */
  split(text: string, keeps: (token: AddedToken) => boolean): AddedMatch[] | undefined {
    const { firsts } = this;
    if (!firsts) return undefined;
    let parts: AddedMatch[] | undefined;
    let done = 0;
    firsts.lastIndex = 0;
    for (let candidate = firsts.exec(text); candidate; candidate = firsts.exec(text)) {
      const match = this.longest(text, candidate.index);
      if (!match) {
        firsts.lastIndex = candidate.index + 1;
        continue;
      }
      const { token } = match;
      let { end } = match;
      let start = candidate.index;
      firsts.lastIndex = end;
      if (!keeps(token)) continue;
      if (token.singleWord) {
        const before = text.slice(Math.max(0, start - 2), start);
        const after = text.slice(end, end + 2);
        if (endsWithWord.test(before) || startsWithWord.test(after)) continue;
      }
      // The token before may have taken the spaces already.
      if (token.leftStrip) {
        while (start > done && isSpace.test(text[start - 1]!)) start--;
        start = Math.max(start, done);
      }
      if (token.rightStrip) while (end < text.length && isSpace.test(text[end]!)) end++;
      parts ??= [];
      if (done < start) parts.push({ token: undefined, start: done, end: start });
      if (start < end) parts.push({ token, start, end });
      done = end;
    }
    if (parts && done < text.length) parts.push({ token: undefined, start: done, end: text.length });
    return parts;
  }
}

// ---- Which tokens there are -----------------------------------------------------------------------------------------

type OwnToken = CheckedDefinition["added_tokens"][number];
interface Described extends Pick<OwnToken, "content" | "special"> {
  readonly id?: number;
  readonly normalized?: boolean;
  readonly single_word?: boolean;
  readonly lstrip?: boolean;
  readonly rstrip?: boolean;
}

/** The entries of a `tokenizer_config.json` that name a special token. */
const specialEntries = [
  "bos_token",
  "eos_token",
  "unk_token",
  "sep_token",
  "pad_token",
  "cls_token",
  "mask_token",
] as const;

/** The token that an entry of a configuration names. */
export function namedToken(
  config: TokenizerConfig,
  entry: (typeof specialEntries)[number],
): string | undefined {
  const token = config[entry];
  return (typeof token === "object" ? token?.content : token) ?? undefined;
}

/**
 * The added tokens of a definition, and those that only its configuration names. As in the reference, a token of the
 * vocabulary keeps its id, and another one gets the next id; one whose file says otherwise is named in a warning.
 * @param size entries of the model's vocabulary
 */
export function resolveAddedTokens(
  { added_tokens: own }: CheckedDefinition,
  config: TokenizerConfig,
  vocabulary: ReadonlyMap<string, number>,
  size: number,
  reading: Reading,
): AddedToken[] {
  const tokens = new Map<string, AddedToken>();
  const add = (described: readonly Described[]): void => {
    let next = size;
    for (const { id } of tokens.values()) next = Math.max(next, id + 1);
    for (const token of described) {
      if (token.content === "") continue;
      const before = tokens.get(token.content);
      const special = before?.special === true || token.special;
      const id = before?.id ?? vocabulary.get(token.content) ?? next++;
      if (token.id !== undefined && token.id !== id)
        reading.warnings.push(
          `${reading.source}: the added token ${JSON.stringify(token.content.slice(0, 60))} has the id ${token.id}, but gets ${id}: ` +
            (vocabulary.has(token.content) ? "the vocabulary has it" : "ids have no gaps"),
        );
      tokens.set(token.content, {
        id,
        content: token.content,
        singleWord: token.single_word ?? false,
        leftStrip: token.lstrip ?? false,
        rightStrip: token.rstrip ?? false,
        normalized: token.normalized ?? !token.special,
        special,
      });
    }
  };
  add(own);
  const described = Object.entries(config.added_tokens_decoder ?? {})
    .map(([id, token]): Described => ({ ...token, id: Number(id) }))
    .sort((a, b) => a.id! - b.id!);
  add(described);
  const named: (string | undefined)[] = specialEntries.map((entry) => namedToken(config, entry));
  for (const token of config.additional_special_tokens ?? [])
    named.push(typeof token === "string" ? token : token.content);
  for (const content of named) {
    if (content === undefined || content === "" || tokens.has(content)) continue;
    if (vocabulary.has(content)) add([{ content, special: true }]);
    else
      reading.warnings.push(
        `${reading.source}: the configuration names the special token ${JSON.stringify(content.slice(0, 60))}, which is in no vocabulary`,
      );
  }
  return [...tokens.values()];
}
