import { LineageError } from "../base/errors.js";
import { loneWordCharacter, whiteSpace, wordCharacter } from "./unicode.js";

/**
 * The regular expressions of tokenizers are Oniguruma's; this translates them to JavaScript's. Anchors, classes and
 * options differ in meaning, so every construct is read and written again. Throws `unsupported` by name for what
 * JavaScript cannot say.
 */
export function fromOniguruma(source: string): RegExp {
  const parser = new Parser(source);
  const translated = parser.parse();
  try {
    return new RegExp(translated, "gv");
  } catch (error) {
    throw new LineageError(
      "unsupported",
      `the regular expression ${JSON.stringify(source)} cannot be read: ${error instanceof Error ? error.message : String(error)}`,
      { cause: error },
    );
  }
}

interface Options {
  readonly ignoreCase: boolean;
  readonly dotAll: boolean;
  readonly extended: boolean;
}

const newline = "(?:\\r\\n|[\\n-\\r\\u0085\\u2028\\u2029])";
/** Escapes that stand for a class, as the inside of a JavaScript class. */
const classes: Readonly<Record<string, string>> = {
  d: "\\p{Nd}",
  s: whiteSpace,
  w: wordCharacter,
  h: "0-9a-fA-F",
};
const posixClasses = new Map<string, string>([
  ["alnum", "\\p{Alphabetic}\\p{Nd}"],
  ["alpha", "\\p{Alphabetic}"],
  ["ascii", "\\0-\\x7f"],
  ["blank", "\\p{Zs}\\t"],
  ["cntrl", "\\p{Cc}"],
  ["digit", "\\p{Nd}"],
  ["graph", `[^${whiteSpace}\\p{Cc}\\p{Cn}\\p{Cs}]`],
  ["lower", "\\p{Lowercase}"],
  ["print", "[^\\p{Cc}\\p{Cn}\\p{Cs}\\u2028\\u2029]"],
  ["punct", "\\p{P}\\p{S}"],
  ["space", whiteSpace],
  ["upper", "\\p{Uppercase}"],
  ["word", wordCharacter],
  ["xdigit", "0-9a-fA-F"],
]);
const controls: Readonly<Record<string, string>> = {
  t: "\t",
  n: "\n",
  r: "\r",
  f: "\f",
  v: "\v",
  a: "\x07",
  e: "\x1b",
};
/** Names of what is refused, by the letter after the backslash. */
const refused: Readonly<Record<string, string>> = {
  G: "\\G, where the search began",
  K: "\\K, which keeps what is before it",
  X: "\\X, a whole grapheme",
  y: "\\y, a boundary of graphemes",
  Y: "\\Y, no boundary of graphemes",
  Q: "\\Q, quoting",
  E: "\\E, the end of quoting",
  g: "\\g, a call of a group",
  M: "\\M, a meta character",
  C: "\\C, a control character",
};

class Parser {
  private place = 0;
  private groups = 0;
  private atomics = 0;
  private lookbehinds = 0;
  private readonly named: boolean;

  constructor(private readonly source: string) {
    this.named = /\(\?<[^=!]|\(\?'/.test(source);
  }

  parse(): string {
    const result = this.alternatives({ ignoreCase: false, dotAll: false, extended: false });
    if (this.place < this.source.length) this.refuse("a closing bracket without an opening one");
    return result;
  }

  private refuse(what: string): never {
    throw new LineageError(
      "unsupported",
      `the regular expression ${JSON.stringify(shortened(this.source))} has ${what} at ${this.place}, which lineage cannot run`,
    );
  }

  private peek(text: string): boolean {
    return this.source.startsWith(text, this.place);
  }

  private take(text: string): boolean {
    if (!this.peek(text)) return false;
    this.place += text.length;
    return true;
  }

  /** The next character, whole. */
  private next(): string {
    const code = this.source.codePointAt(this.place);
    if (code === undefined) this.refuse("an end in the middle");
    const character = String.fromCodePoint(code);
    this.place += character.length;
    return character;
  }

  private get done(): boolean {
    return this.place >= this.source.length;
  }

  private alternatives(options: Options): string {
    let result = "";
    for (;;) {
      if (this.done || this.peek(")")) return result;
      if (this.take("|")) result += "|";
      else {
        const item = this.quantified(options);
        // `(?i)` in the middle holds for the rest of its group, with all that `|` parts there.
        if (typeof item === "string") result += item;
        else result += `(?:${this.alternatives(item)})`;
      }
    }
  }

  /** An atom with its repeats; options when the atom sets them for what follows. */
  private quantified(options: Options): string | Options {
    const from = this.place;
    const read = this.atom(options);
    if (typeof read !== "string") return read;
    let atom: string = read;
    for (;;) {
      if (options.extended) this.skipSpace();
      const repeat = this.repeat();
      if (!repeat) return atom;
      if (atom === "") this.refuse(`a repeat of nothing (${this.source.slice(from, this.place)})`);
      const repeated = `${isSingle(atom) ? atom : `(?:${atom})`}${repeat.text}`;
      atom = repeat.possessive ? this.atomic(repeated) : repeat.optional ? `(?:${repeated})?` : repeated;
    }
  }

  private repeat(): { text: string; possessive?: boolean; optional?: boolean } | undefined {
    for (const sign of ["*", "+", "?"] as const) {
      if (!this.take(sign)) continue;
      if (this.take("?")) return { text: `${sign}?` };
      if (this.take("+")) return { text: sign, possessive: true };
      return { text: sign };
    }
    const interval = /^\{(\d*)(,?)(\d*)\}/.exec(this.source.slice(this.place, this.place + 32));
    const [whole, low, comma, high] = interval ?? [];
    if (whole === undefined || (low === "" && high === "")) return undefined;
    if (low !== "" && high !== "" && comma !== "" && Number(low) > Number(high))
      this.refuse("an interval whose ends are swapped");
    this.place += whole.length;
    const text = `{${low || "0"}${comma}${high}}`;
    if (this.take("?")) return comma === "" ? { text, optional: true } : { text: `${text}?` };
    return { text };
  }

  /** A part that gives nothing back once it has matched. */
  private atomic(text: string): string {
    if (this.lookbehinds > 0) this.refuse("an atomic part within a lookbehind");
    const name = `atomic${this.atomics++}`;
    return `(?:(?=(?<${name}>${text}))\\k<${name}>)`;
  }

  private skipSpace(): void {
    for (;;) {
      const space = /^(?:\s+|#[^\n]*)/.exec(this.source.slice(this.place));
      if (!space) return;
      this.place += space[0].length;
    }
  }

  private atom(options: Options): string | Options {
    if (options.extended) {
      this.skipSpace();
      if (this.done || this.peek(")") || this.peek("|")) return "";
    }
    if (this.peek("(")) return this.group(options);
    if (this.peek("[")) return this.characterClass(options);
    const character = this.next();
    switch (character) {
      case ".":
        return options.dotAll ? "[\\s\\S]" : "[^\\n]";
      case "^":
        return "(?:(?<![\\s\\S])|(?<=\\n)(?=[\\s\\S]))";
      case "$":
        return "(?![^\\n])";
      case "\\":
        return this.escape(options);
      case "*":
      case "+":
      case "?":
        return this.refuse(`a repeat of nothing (${character})`);
      default:
        return written(character, options);
    }
  }

  private group(options: Options): string | Options {
    this.place++;
    const inside = (inner: Options = options): string => {
      const text = this.alternatives(inner);
      if (!this.take(")")) this.refuse("an opening bracket without a closing one");
      return text;
    };
    if (!this.take("?")) {
      // Plain brackets capture nothing where others have names.
      if (this.named) return `(?:${inside()})`;
      const number = ++this.groups;
      return `(?<group${number}>${inside()})`;
    }
    if (this.take("#")) {
      const end = this.source.indexOf(")", this.place);
      if (end < 0) this.refuse("a comment without an end");
      this.place = end + 1;
      return "";
    }
    if (this.take(":")) return `(?:${inside()})`;
    for (const look of ["=", "!"]) if (this.take(look)) return `(?${look}${inside()})`;
    if (this.take(">")) return this.atomic(inside());
    for (const look of ["<=", "<!"]) {
      if (!this.take(look)) continue;
      this.lookbehinds++;
      const text = `(?${look}${inside()})`;
      this.lookbehinds--;
      return text;
    }
    const name = /^(?:<([A-Za-z_]\w*)>|'([A-Za-z_]\w*)')/.exec(this.source.slice(this.place));
    if (name) {
      this.place += name[0].length;
      return `(?<${name[1] ?? name[2]}>${inside()})`;
    }
    const set = /^([imx]*)(?:-([imx]*))?([:)])/.exec(this.source.slice(this.place));
    if (!set) return this.refuse(`the group (?${this.source.slice(this.place, this.place + 2)}`);
    this.place += set[0].length;
    const value = (letter: string, before: boolean) =>
      set[2]?.includes(letter) ? false : set[1]!.includes(letter) || before;
    const inner: Options = {
      ignoreCase: value("i", options.ignoreCase),
      dotAll: value("m", options.dotAll),
      extended: value("x", options.extended),
    };
    return set[3] === ":" ? `(?:${inside(inner)})` : inner;
  }

  private escape(options: Options): string {
    const letter = this.next();
    const lower = letter.toLowerCase();
    const inside = lower === "w" ? loneWordCharacter : classes[lower];
    if (inside !== undefined) return letter === lower ? `[${inside}]` : `[^${inside}]`;
    const word = `[${loneWordCharacter}]`;
    switch (letter) {
      case "A":
        return "(?<![\\s\\S])";
      case "z":
        return "(?![\\s\\S])";
      case "Z":
        return "(?=\\n?(?![\\s\\S]))";
      case "b":
        return `(?:(?<=${word})(?!${word})|(?<!${word})(?=${word}))`;
      case "B":
        return `(?:(?<=${word})(?=${word})|(?<!${word})(?!${word}))`;
      case "R":
        return this.atomic(newline);
      case "N":
        return "[^\\n]";
      case "O":
        return "[\\s\\S]";
      case "p":
      case "P":
        return this.property(letter === "P", options);
      case "k": {
        const name = /^<([A-Za-z_]\w*)>/.exec(this.source.slice(this.place));
        if (!name) this.refuse("a reference that is not to a name");
        this.place += name[0].length;
        return this.reference(`\\k<${name[1]}>`, options);
      }
    }
    if (/[1-9]/.test(letter)) {
      const number = Number(/^\d*/.exec(this.source.slice(this.place - 1))![0]);
      if (this.named || number > this.groups)
        this.refuse(`a reference to group ${number} that is not before it`);
      this.place += String(number).length - 1;
      return this.reference(`\\k<group${number}>`, options);
    }
    this.place -= letter.length;
    return written(this.escapedCharacter(), options);
  }

  private reference(text: string, { ignoreCase }: Options): string {
    if (ignoreCase) this.refuse("a reference that ignores case");
    return text;
  }

  /** The character that an escape stands for; the backslash is read already. */
  private escapedCharacter(): string {
    const letter = this.next();
    const rest = this.source.slice(this.place, this.place + 16);
    const number = (pattern: RegExp, radix: number): string => {
      const match = pattern.exec(rest);
      if (!match) return this.refuse(`\\${letter} without its digits`);
      this.place += match[0].length;
      const code = parseInt(match[1]!, radix);
      if (code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) this.refuse("a character that is none");
      return String.fromCodePoint(code);
    };
    if (controls[letter] !== undefined) return controls[letter];
    if (letter === "x") {
      const braced = rest.startsWith("{");
      const character = braced ? number(/^\{([0-9a-fA-F]{1,8})\}/, 16) : number(/^([0-9a-fA-F]{1,2})/, 16);
      if (!braced && character > "\x7f") this.refuse("a byte of a character (\\x80 and above)");
      return character;
    }
    if (letter === "u") return number(/^([0-9a-fA-F]{4})/, 16);
    if (letter === "o") return number(/^\{([0-7]{1,11})\}/, 8);
    if (letter === "0") {
      const digits = /^[0-7]{0,2}/.exec(rest)![0];
      this.place += digits.length;
      return String.fromCodePoint(parseInt(`0${digits}`, 8));
    }
    if (letter === "c") return String.fromCodePoint(this.next().codePointAt(0)! & 0x1f);
    if (refused[letter] !== undefined) this.refuse(refused[letter]);
    return letter;
  }

  private property(inverted: boolean, { ignoreCase }: Options): string {
    const match = /^\{(\^?)([\w\- ]+)\}/.exec(this.source.slice(this.place));
    if (!match) this.refuse("a property without a name");
    this.place += match[0].length;
    const inside = propertyClass(match[2]!);
    if (inside === undefined) this.refuse(`the property ${match[2]!}`);
    if (
      ignoreCase &&
      /\\p\{(?:Lu|Ll|Lt|Uppercase|Lowercase|Uppercase_Letter|Lowercase_Letter)\}/.test(inside)
    )
      this.refuse(`the property ${match[2]!} where case is ignored`);
    return (inverted ? match[1] === "" : match[1] === "^") ? `[^${inside}]` : `[${inside}]`;
  }

  private characterClass(options: Options): string {
    this.place++;
    const negated = this.take("^");
    // Parts between `&&` are classes of their own.
    const parts: string[] = [""];
    let first = true;
    for (;;) {
      if (this.done) this.refuse("a class without an end");
      if (!first && this.take("]")) break;
      if (this.take("&&")) parts.push("");
      else parts[parts.length - 1] += this.classItem(options, first);
      first = false;
    }
    const inside = parts.length === 1 ? parts[0]! : parts.map((part) => `[${part}]`).join("&&");
    return `[${negated ? "^" : ""}${inside}]`;
  }

  private classItem(options: Options, first: boolean): string {
    if (this.peek("[:")) {
      const posix = /^\[:(\^?)([a-z]+):\]/.exec(this.source.slice(this.place));
      const inside = posix && posixClasses.get(posix[2]!);
      if (posix && inside !== undefined && inside !== null) {
        this.place += posix[0].length;
        if (options.ignoreCase && /^(?:upper|lower)$/.test(posix[2]!))
          this.refuse(`the class ${posix[2]!} where case is ignored`);
        return posix[1] === "^" ? `[^${inside}]` : inside;
      }
    }
    if (this.peek("[")) return this.characterClass(options);
    if (first && this.take("]")) return this.range("]", options);
    if (this.take("\\")) {
      const letter = this.source[this.place] ?? "";
      const lower = letter.toLowerCase();
      if (classes[lower] !== undefined) {
        this.place++;
        return letter === lower ? classes[lower] : `[^${classes[lower]}]`;
      }
      if (lower === "p") {
        this.place++;
        return this.property(letter === "P", options);
      }
      if (letter === "b") {
        this.place++;
        return this.range("\b", options);
      }
      if (letter === "R" || letter === "X" || letter === "N" || letter === "O")
        this.refuse(`\\${letter} in a class`);
      if (/[1-7]/.test(letter)) {
        const digits = /^[0-7]{1,3}/.exec(this.source.slice(this.place))![0];
        this.place += digits.length;
        return this.range(String.fromCodePoint(parseInt(digits, 8)), options);
      }
      return this.range(this.escapedCharacter(), options);
    }
    return this.range(this.next(), options);
  }

  /** A character of a class, or the range that begins with it. */
  private range(from: string, options: Options): string {
    const after = this.source[this.place + 1];
    if (
      !this.peek("-") ||
      after === undefined ||
      after === "]" ||
      this.source.startsWith("[", this.place + 1)
    )
      return inClass(from, from, options);
    const mark = this.place;
    this.place++;
    if (this.take("\\")) {
      if (/[dswhpDSWHP]/.test(this.source[this.place] ?? "")) {
        // A class has no end for a range: the hyphen stands for itself.
        this.place = mark;
        return inClass(from, from, options);
      }
      return inClass(from, this.escapedCharacter(), options, this.source);
    }
    return inClass(from, this.next(), options, this.source);
  }
}

const shortened = (source: string): string => (source.length > 120 ? `${source.slice(0, 120)}…` : source);

/** Whether a repeat can follow as it stands: one character, escape, class or group. */
const isSingle = (atom: string): boolean =>
  /^(?:[^\\]|\\u\{[0-9a-f]+\}|\\.|\[(?:[^[\]\\]|\\.)*\]|\(\?:[^()[\]\\]*\))$/su.test(atom);

const code = (character: string): string =>
  /^[0-9A-Za-z]$/.test(character) ? character : `\\u{${character.codePointAt(0)!.toString(16)}}`;

function written(character: string, { ignoreCase }: Options): string {
  const variants = ignoreCase ? caseVariants(character) : undefined;
  return variants && variants.length > 1 ? `[${variants.map(code).join("")}]` : code(character);
}

function inClass(from: string, to: string, { ignoreCase }: Options, source = ""): string {
  const [low, high] = [from.codePointAt(0)!, to.codePointAt(0)!];
  if (low > high)
    throw new LineageError(
      "unsupported",
      `the regular expression ${JSON.stringify(shortened(source))} has an empty range from ${from} to ${to}`,
    );
  let result = low === high ? code(from) : `${code(from)}-${code(to)}`;
  if (ignoreCase) for (const variant of variantsOf(low, high)) result += code(variant);
  return result;
}

/** Characters outside of a range that differ from one within only by case. */
function variantsOf(low: number, high: number): string[] {
  const found = new Set<string>();
  for (const orbit of caseOrbits().values()) {
    const inside = (character: string) => {
      const place = character.codePointAt(0)!;
      return place >= low && place <= high;
    };
    if (orbit.some(inside)) for (const character of orbit) if (!inside(character)) found.add(character);
  }
  return [...found];
}

const caseVariants = (character: string): readonly string[] =>
  caseOrbits().get(caseKey(character)) ?? [character];

const single = (text: string, otherwise: string): string =>
  text.length === (text.codePointAt(0)! > 0xffff ? 2 : 1) ? text : otherwise;
const caseKey = (character: string): string => {
  const upper = single(character.toUpperCase(), character);
  return single(upper.toLowerCase(), upper);
};

let orbits: Map<string, string[]> | undefined;
/** Characters that differ only by case, by the one that stands for them. */
function caseOrbits(): ReadonlyMap<string, readonly string[]> {
  if (orbits) return orbits;
  orbits = new Map();
  const cased = /\p{Changes_When_Casemapped}/u;
  for (let place = 0x41; place < 0x1_f000; place++) {
    const character = String.fromCodePoint(place);
    if (!cased.test(character)) continue;
    const key = caseKey(character);
    const orbit = orbits.get(key);
    if (orbit) orbit.push(character);
    else orbits.set(key, [character]);
  }
  return orbits;
}

/** The inside of a class for a property's name, which may be written in many ways; undefined for one that is not known. */
function propertyClass(name: string): string | undefined {
  const plain = name.replace(/[\s_-]/g, "").toLowerCase();
  if (plain === "any") return "\\s\\S";
  const posix = posixClasses.get(plain);
  if (posix !== undefined) return plain === "punct" ? "\\p{P}" : posix;
  const words = name
    .split(/[\s_-]+/)
    .map((word) => word.charAt(0).toUpperCase() + word.slice(1).toLowerCase());
  const candidate = words.join("_");
  for (const property of [candidate, `Script=${candidate}`, name]) {
    try {
      new RegExp(`\\p{${property}}`, "v");
      return `\\p{${property}}`;
    } catch (error) {
      // JavaScript tells names that it does not know by refusing them.
      if (!(error instanceof SyntaxError)) throw error;
    }
  }
  return undefined;
}

/**
 * Where a pattern matches, as a flat list of `start, end`, found as the reference finds them: an empty match right after
 * another one does not count.
 */
export function findMatches(pattern: RegExp, text: string): number[] {
  const found: number[] = [];
  let last = -1;
  pattern.lastIndex = 0;
  for (let match = pattern.exec(text); match; match = pattern.exec(text)) {
    const start = match.index;
    // Some engines look for empty matches within a character of two units as well.
    if (start > 0 && text.codePointAt(start - 1)! > 0xffff) {
      pattern.lastIndex = start + 1;
      continue;
    }
    const end = start + match[0].length;
    if (end === start) {
      const empty = end === last;
      if (pattern.lastIndex === end) pattern.lastIndex += text.codePointAt(end)! > 0xffff ? 2 : 1;
      if (empty) continue;
      // The search goes on from here; only the same empty match must not be found again.
      found.push(start, end);
      last = end;
      continue;
    }
    found.push(start, end);
    last = end;
  }
  return found;
}
