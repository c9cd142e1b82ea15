import type { Entries } from "./entries.js";
import type { PlacedToken } from "./pipeline.js";
import { whiteSpace } from "./unicode.js";

/** A part of the template around texts: an added token, or a text. */
export type TemplatePart =
  { readonly token: number; readonly type: number } | { readonly sequence: 0 | 1; readonly type: number };

/** Where special tokens go around one text and around two. */
export interface Template {
  readonly single: readonly TemplatePart[];
  readonly pair: readonly TemplatePart[];
  /** How a token's place leaves out the spaces at its ends; absent where it keeps them. */
  readonly trim?: Trim;
}

export interface Trim {
  /** Whether a first token keeps one space, which may have been put before the text. */
  readonly prefixSpace: boolean;
}

const first = (type = 0): TemplatePart => ({ sequence: 0, type });
const second = (type: number): TemplatePart => ({ sequence: 1, type });
const special = (token: number, type = 0): TemplatePart => ({ token, type });

/** No special tokens at all. */
export const bareTemplate: Template = { single: [first()], pair: [first(), second(1)] };

/** `[CLS] a [SEP]` and `[CLS] a [SEP] b [SEP]`. */
export const bertTemplateOf = (cls: number, sep: number): Template => ({
  single: [special(cls), first(), special(sep)],
  pair: [special(cls), first(), special(sep), second(1), special(sep, 1)],
});

/** `a <sep> <cls>` and `a <sep> b <sep> <cls>`. */
export const xlnetTemplateOf = (cls: number, sep: number): Template => ({
  single: [first(), special(sep), special(cls, 2)],
  pair: [first(), special(sep), second(1), special(sep, 1), special(cls, 2)],
});

interface Vocabulary {
  readonly size: number;
  idOf(token: string): number | undefined;
}

/** The template of a definition's post-processor. */
export function createTemplate(part: Entries, vocabulary: Vocabulary): Template {
  const template = templateOf(part, vocabulary);
  part.finish();
  return template;
}

function templateOf(part: Entries, vocabulary: Vocabulary): Template {
  const type = part.string("type");
  switch (type) {
    case "BertProcessing":
      return bertTemplateOf(namedId(part, "cls", vocabulary), namedId(part, "sep", vocabulary));
    case "RobertaProcessing": {
      const [cls, sep] = [namedId(part, "cls", vocabulary), namedId(part, "sep", vocabulary)];
      return {
        single: [special(cls), first(), special(sep)],
        // RoBERTa knows no segments.
        pair: [special(cls), first(), special(sep), special(sep), second(0), special(sep)],
        trim: trimOf(part),
      };
    }
    case "ByteLevel":
      part.boolean("use_regex", true);
      return { ...bareTemplate, trim: trimOf(part) };
    case "TemplateProcessing":
      return processing(part, vocabulary);
    case "Sequence": {
      const templates = part.objects("processors").map((inner) => createTemplate(inner, vocabulary));
      const adding = templates.filter(({ single, pair }) => single.length > 1 || pair.length > 2);
      if (adding.length > 1) part.refuse("more than one post-processor adds tokens; one may");
      return {
        ...(adding[0] ??
          templates.find(
            ({ single, pair }) => single !== bareTemplate.single || pair !== bareTemplate.pair,
          ) ??
          bareTemplate),
        trim: templates.find(({ trim }) => trim)?.trim,
      };
    }
    default:
      return part.refuse(`there is no post-processor of the type ${JSON.stringify(type)}`);
  }
}

function trimOf(part: Entries): Trim | undefined {
  const prefixSpace = part.boolean("add_prefix_space", true);
  return part.boolean("trim_offsets", true) ? { prefixSpace } : undefined;
}

function checkedId(part: Entries, id: unknown, { size }: Vocabulary, what: string): number {
  if (typeof id !== "number" || !Number.isInteger(id) || id < 0 || id >= size)
    part.refuse(`${what} has an id that is none of the vocabulary's, which has ${size}`);
  return id;
}

/** An entry `[token, id]`. */
function namedId(part: Entries, name: string, vocabulary: Vocabulary): number {
  const [token, id, ...rest] = part.list(name);
  if (typeof token !== "string" || rest.length > 0)
    part.refuse(`${name} must be a list of a token and its id`);
  return checkedId(part, id, vocabulary, name);
}

function processing(part: Entries, vocabulary: Vocabulary): Template {
  const tokens = part.get("special_tokens") === undefined ? undefined : part.object("special_tokens");
  const idsOf = (token: string): number[] => {
    if (tokens?.names().includes(token)) {
      const named = tokens.object(token);
      named.ignore("id", "tokens");
      const ids = named.list("ids").map((id) => checkedId(named, id, vocabulary, JSON.stringify(token)));
      named.finish();
      return ids;
    }
    const id = vocabulary.idOf(token);
    if (id === undefined)
      part.refuse(`the template has the token ${JSON.stringify(token)}, which is in no list`);
    return [id];
  };
  const parts = (name: string, sequences: readonly string[]): TemplatePart[] =>
    part.objects(name).flatMap((entry): TemplatePart[] => {
      const isText = entry.get("Sequence") !== undefined;
      const inner = entry.object(isText ? "Sequence" : "SpecialToken");
      const type = inner.count("type_id", 0);
      const result: TemplatePart[] = isText
        ? [{ sequence: inner.choice("id", sequences) === "A" ? 0 : 1, type }]
        : idsOf(inner.string("id")).map((id) => special(id, type));
      inner.finish();
      entry.finish();
      return result;
    });
  const template = { single: parts("single", ["A"]), pair: parts("pair", ["A", "B"]) };
  // What the templates do not use is checked too, so that no broken entry stays unseen.
  for (const token of tokens?.names() ?? []) idsOf(token);
  return template;
}

const leading = new RegExp(`^[${whiteSpace}\u0120]+`, "u");
const trailing = new RegExp(`[${whiteSpace}\u0120]+$`, "u");

/** The unit of a text that lies a number of characters before or after another one. */
function stepped(text: string, unit: number, characters: number): number {
  for (let left = Math.abs(characters); left > 0; left--) {
    if (characters > 0) unit += text.codePointAt(unit)! > 0xffff ? 2 : 1;
    else unit -= unit > 1 && text.codePointAt(unit - 2)! > 0xffff ? 2 : 1;
  }
  return Math.max(0, unit);
}

/** Places in a text without the spaces at the ends of their tokens, as the reference takes them off. */
export function trimPlaces(
  text: string,
  tokens: readonly PlacedToken[],
  { prefixSpace }: Trim,
): PlacedToken[] {
  return tokens.map((token, index) => {
    let { start, end } = token;
    const before = leading.exec(token.surface)?.[0].length ?? 0;
    const after = trailing.exec(token.surface)?.[0].length ?? 0;
    const keeps = prefixSpace && before === 1 && (index === 0 || start === 0);
    if (before > 0 && !keeps) start = Math.min(stepped(text, start, before), end);
    if (after > 0 && end > 0) end = Math.max(stepped(text, end, -after), start);
    return { ...token, start, end };
  });
}
