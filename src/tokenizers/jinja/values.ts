import { JinjaError } from "./syntax.js";
import { Text } from "./text.js";

/** Python's float; an integer is a JavaScript number. */
export class Float {
  constructor(readonly value: number) {}
}

/** A name or attribute that is not there. It prints as nothing; whatever else is done with it is an error. */
export class Undefined {
  constructor(readonly message: string) {}
}

/** A list, or a tuple, or a range. `generator` is what filters such as `map` give: it is read once and has no length. */
export class Sequence {
  constructor(
    readonly items: readonly Value[],
    readonly kind: "list" | "tuple" | "generator" = "list",
  ) {}
  private read = 0;

  /** The items, which a generator gives once. */
  take(count = Infinity): readonly Value[] {
    if (this.kind !== "generator") return this.items;
    const start = this.read;
    this.read = Math.min(this.items.length, start + count);
    return start === 0 && this.read === this.items.length ? this.items : this.items.slice(start, this.read);
  }
}

/** Python's dict, in the order of its keys. */
export class Dict {
  private readonly entries = new Map<string, { readonly key: Value; readonly value: Value }>();

  static of(entries: Iterable<readonly [Value, Value]>): Dict {
    const dict = new Dict();
    for (const [key, value] of entries) dict.set(key, value);
    return dict;
  }
  get size(): number {
    return this.entries.size;
  }
  get(key: Value): Value | undefined {
    return this.entries.get(hashOf(key))?.value;
  }
  /** Only while it is being built: templates cannot change one. */
  set(key: Value, value: Value): void {
    const hash = hashOf(key);
    this.entries.set(hash, { key: given(this.entries.get(hash)?.key, key), value });
  }
  keys(): Value[] {
    return [...this.entries.values()].map(({ key }) => key);
  }
  values(): Value[] {
    return [...this.entries.values()].map(({ value }) => value);
  }
  pairs(): (readonly [Value, Value])[] {
    return [...this.entries.values()].map(({ key, value }) => [key, value] as const);
  }
}

/** The one thing that a template can change. */
export class Namespace {
  readonly attributes = new Map<string, Value>();
}

/** `loop`, `cycler(…)` and the like: attributes that are computed when asked for. */
export class Host {
  constructor(
    readonly name: string,
    readonly attributes: ReadonlyMap<string, () => Value>,
    readonly call?: Callable["call"],
  ) {}
}

export interface CallArguments {
  readonly positional: readonly Value[];
  readonly named: ReadonlyMap<string, Value>;
}

export class Callable {
  constructor(
    readonly name: string,
    readonly call: (args: CallArguments) => Value,
  ) {}
}

export type Value =
  null | boolean | number | Float | Text | Sequence | Dict | Undefined | Namespace | Host | Callable;

/** The value, where there is one: `??` would take Python's None for none. */
export const given = (value: Value | undefined, standard: Value): Value =>
  value === undefined ? standard : value;

export const fail = (message: string): never => {
  throw new JinjaError("operation", message);
};

/** What a template may use up. */
export class Budget {
  private left: number;
  private readonly end: number;
  private untilClock = 0;

  constructor(
    steps: number,
    private readonly seconds: number,
    readonly maxLength: number,
  ) {
    this.left = steps;
    this.end = performance.now() + seconds * 1000;
  }

  /** @param steps of evaluation, or items made, or 16 characters made */
  spend(steps = 1): void {
    this.left -= steps;
    if (this.left < 0) throw new JinjaError("limit", "it takes more steps than a template may");
    this.untilClock -= steps;
    if (this.untilClock > 0) return;
    this.untilClock = 4096;
    if (performance.now() > this.end)
      throw new JinjaError("limit", `it takes longer than ${this.seconds} seconds`);
  }

  /** Before a text of this many characters is made. */
  text(length: number): void {
    if (!(length <= this.maxLength))
      throw new JinjaError("limit", `it makes a text of more than ${this.maxLength} characters`);
    this.spend(1 + length / 16);
  }
}

/** Python's name of a type, as its messages give it. */
export function typeOf(value: Value): string {
  if (value === null) return "NoneType";
  if (typeof value === "boolean") return "bool";
  if (typeof value === "number") return "int";
  if (value instanceof Float) return "float";
  if (value instanceof Text) return "str";
  if (value instanceof Sequence) return value.kind;
  if (value instanceof Dict) return "dict";
  if (value instanceof Undefined) return "Undefined";
  if (value instanceof Namespace) return "Namespace";
  return value instanceof Host ? value.name : "function";
}

const hashOf = (key: Value): string => {
  if (key instanceof Text) return `s${key.text}`;
  const number = numberOf(key);
  if (number !== undefined) return `n${number}`;
  if (key === null) return "N";
  if (key instanceof Sequence && key.kind === "tuple") return `t${JSON.stringify(key.items.map(hashOf))}`;
  return fail(`unhashable type: '${typeOf(key)}'`);
};

/** The number of an int, float or bool. */
export function numberOf(value: Value): number | undefined {
  if (typeof value === "number") return value;
  if (typeof value === "boolean") return Number(value);
  return value instanceof Float ? value.value : undefined;
}

/** An integer of a whole number; beyond what JavaScript counts exactly, a limit. */
export function integer(value: number): number {
  if (!Number.isSafeInteger(value)) throw new JinjaError("limit", "it computes with an integer beyond 2^53");
  return value === 0 ? 0 : value;
}

export function isTrue(value: Value): boolean {
  if (value === null || value instanceof Undefined) return false;
  const number = numberOf(value);
  if (number !== undefined) return number !== 0;
  if (value instanceof Text) return value.text !== "";
  if (value instanceof Sequence) return value.kind === "generator" || value.items.length > 0;
  if (value instanceof Dict) return value.size > 0;
  return true;
}

/** Data whose texts carry flags of their own. */
export class Flagged {
  constructor(
    readonly data: unknown,
    readonly flags: number,
  ) {}
}

/** JavaScript data as a template sees it; every text in it carries `flags`. Throws for what is no data. */
export function fromData(data: unknown, flags: number, depth = 0): Value {
  if (depth > 64) throw new JinjaError("limit", "its data is nested deeper than 64 levels");
  if (data === null || typeof data === "boolean") return data;
  if (data === undefined) return new Undefined("the value is undefined");
  if (data instanceof Flagged) return fromData(data.data, data.flags, depth);
  if (typeof data === "string") return Text.of(data, flags);
  if (typeof data === "number") return Number.isSafeInteger(data) ? data : new Float(data);
  if (typeof data === "bigint") return integer(Number(data));
  if (Array.isArray(data)) return new Sequence(data.map((item) => fromData(item, flags, depth + 1)));
  if (typeof data === "object") {
    const dict = new Dict();
    for (const [key, value] of Object.entries(data))
      if (value !== undefined) dict.set(Text.of(key, flags), fromData(value, flags, depth + 1));
    return dict;
  }
  return fail(`a ${typeof data} is no data`);
}

/** The items of what can be walked over. */
export function itemsOf(value: Value, budget: Budget): readonly Value[] {
  if (value instanceof Sequence) {
    budget.spend(value.items.length / 4);
    return value.take();
  }
  if (value instanceof Dict) {
    budget.spend(value.size);
    return value.keys();
  }
  if (value instanceof Text) {
    budget.spend(value.length);
    return pointsOf(value);
  }
  if (value instanceof Undefined) return [];
  return fail(`'${typeOf(value)}' object is not iterable`);
}

const astral = /[\ud800-\udfff]/;

/** The characters of a text, as Python counts them. */
export function pointsOf(text: Text): Text[] {
  const points: Text[] = [];
  let at = 0;
  for (const point of text.text) {
    points.push(text.slice(at, at + point.length));
    at += point.length;
  }
  return points;
}

export const lengthOf = (text: string): number => (astral.test(text) ? Array.from(text).length : text.length);

/** Where each code point of a text begins, with its end; undefined where that is its index. */
export function placesOf(text: string): number[] | undefined {
  if (!astral.test(text)) return undefined;
  const places: number[] = [];
  let at = 0;
  for (const point of text) {
    places.push(at);
    at += point.length;
  }
  return [...places, at];
}

// ---- texts of values ----

export function floatText(value: number): string {
  if (Number.isNaN(value)) return "nan";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
  if (Object.is(value, -0)) return "-0.0";
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e16 || size < 1e-4))
    return value.toExponential().replace(/e([+-])(\d)$/, "e$10$2");
  const text = String(value);
  return text.includes(".") ? text : `${text}.0`;
}

/** `str(value)`. */
export function textOf(value: Value, budget: Budget): Text {
  if (value instanceof Text) return value;
  if (value instanceof Undefined) return Text.empty;
  return reprOf(value, budget);
}

const unprintable = /[\p{C}\p{Z}]/u;
const quoteEscapes: Readonly<Record<string, string>> = {
  "\\": "\\\\",
  "\n": "\\n",
  "\r": "\\r",
  "\t": "\\t",
};

function quote(text: Text): Text {
  const mark = text.text.includes("'") && !text.text.includes('"') ? '"' : "'";
  const inside = text.map((part) =>
    part.replace(/[^]/gu, (character) => {
      if (quoteEscapes[character] !== undefined) return quoteEscapes[character];
      if (character === mark) return `\\${mark}`;
      if (character === " " || !unprintable.test(character)) return character;
      const code = character.codePointAt(0)!;
      if (code < 0x100) return `\\x${code.toString(16).padStart(2, "0")}`;
      if (code < 0x10000) return `\\u${code.toString(16).padStart(4, "0")}`;
      return `\\U${code.toString(16).padStart(8, "0")}`;
    }),
  );
  return Text.concat([Text.of(mark), inside, Text.of(mark)]);
}

/** `repr(value)`. */
export function reprOf(value: Value, budget: Budget): Text {
  const parts: Text[] = [];
  const write = (text: string | Text): void => {
    budget.text(text.length);
    parts.push(typeof text === "string" ? Text.of(text) : text);
  };
  const walk = (item: Value): void => {
    if (item === null) write("None");
    else if (typeof item === "boolean") write(item ? "True" : "False");
    else if (typeof item === "number") write(String(item));
    else if (item instanceof Float) write(floatText(item.value));
    else if (item instanceof Text) {
      budget.text(item.length);
      write(quote(item));
    } else if (item instanceof Undefined) write("Undefined");
    else if (item instanceof Sequence) {
      const [open, close] = item.kind === "list" ? "[]" : "()";
      if (item.kind === "generator") write("<generator>");
      else {
        write(open!);
        item.items.forEach((inside, index) => {
          if (index > 0) write(", ");
          walk(inside);
        });
        write(item.kind === "tuple" && item.items.length === 1 ? ",)" : close!);
      }
    } else if (item instanceof Dict) {
      write("{");
      item.pairs().forEach(([key, inside], index) => {
        if (index > 0) write(", ");
        walk(key);
        write(": ");
        walk(inside);
      });
      write("}");
    } else if (item instanceof Namespace) {
      write("<Namespace ");
      walk(Dict.of([...item.attributes].map(([name, inside]) => [Text.of(name), inside])));
      write(">");
    } else write(`<${typeOf(item)}>`);
  };
  walk(value);
  budget.text(parts.reduce((sum, { length }) => sum + length, 0));
  return Text.concat(parts);
}

export interface JsonOptions {
  readonly ensureAscii: boolean;
  readonly indent: string | undefined;
  readonly separators: readonly [item: string, key: string];
  readonly sortKeys: boolean;
}

/** `json.dumps(value)`; texts keep where they came from. */
export function jsonOf(value: Value, options: JsonOptions, budget: Budget): Text {
  const parts: Text[] = [];
  let total = 0;
  const write = (text: string | Text): void => {
    budget.text(text.length);
    total += text.length;
    if (total > budget.maxLength) budget.text(total);
    parts.push(typeof text === "string" ? Text.of(text) : text);
  };
  const escaped = (text: Text): Text =>
    text.map((part) => {
      // JavaScript escapes lone surrogates, Python does not.
      const quoted = JSON.stringify(part)
        .slice(1, -1)
        .replace(/\\\\|\\ud[89a-f][\da-f]{2}/g, (found) =>
          found.length < 6 ? found : String.fromCharCode(parseInt(found.slice(2), 16)),
        );
      if (!options.ensureAscii) return quoted;
      return quoted.replace(
        /[\u007f-\uffff]/g,
        (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`,
      );
    });
  const string = (text: Text): void => {
    write('"');
    write(escaped(text));
    write('"');
  };
  const number = (value: number): string =>
    Number.isFinite(value)
      ? floatText(value)
      : Number.isNaN(value)
        ? "NaN"
        : value > 0
          ? "Infinity"
          : "-Infinity";
  const container = (brackets: string, count: number, depth: number, item: (index: number) => void): void => {
    write(brackets[0]!);
    const { indent, separators } = options;
    for (let index = 0; index < count; index++) {
      if (index > 0) write(separators[0]);
      if (indent !== undefined) write(`\n${indent.repeat(depth + 1)}`);
      item(index);
    }
    if (count > 0 && indent !== undefined) write(`\n${indent.repeat(depth)}`);
    write(brackets[1]!);
  };
  const keyText = (key: Value): Text => {
    if (key instanceof Text) return key;
    if (key === null) return Text.of("null");
    if (typeof key === "boolean") return Text.of(String(key));
    if (typeof key === "number") return Text.of(String(key));
    if (key instanceof Float) return Text.of(number(key.value));
    return fail(`keys must be str, int, float, bool or None, not ${typeOf(key)}`);
  };
  const walk = (item: Value, depth: number): void => {
    budget.spend();
    if (item === null || typeof item === "boolean" || typeof item === "number") write(String(item));
    else if (item instanceof Float) write(number(item.value));
    else if (item instanceof Text) string(item);
    else if (item instanceof Sequence && item.kind !== "generator")
      container("[]", item.items.length, depth, (index) => {
        walk(item.items[index]!, depth + 1);
      });
    else if (item instanceof Dict) {
      const pairs = item.pairs();
      if (options.sortKeys) pairs.sort(([a], [b]) => compare(a, b, budget));
      container("{}", pairs.length, depth, (index) => {
        const [key, inside] = pairs[index]!;
        string(keyText(key));
        write(options.separators[1]);
        walk(inside, depth + 1);
      });
    } else fail(`Object of type ${typeOf(item)} is not JSON serializable`);
  };
  walk(value, 0);
  return Text.concat(parts);
}

// ---- comparisons ----

export function isEqual(a: Value, b: Value, budget: Budget): boolean {
  budget.spend();
  if (a === b) return true;
  if (a instanceof Text) {
    budget.spend(a.length / 64);
    return b instanceof Text && a.text === b.text;
  }
  const [left, right] = [numberOf(a), numberOf(b)];
  if (left !== undefined) return left === right;
  if (a instanceof Sequence && b instanceof Sequence) {
    return (
      a.kind === b.kind &&
      a.kind !== "generator" &&
      a.items.length === b.items.length &&
      a.items.every((item, index) => isEqual(item, b.items[index]!, budget))
    );
  }
  if (a instanceof Dict && b instanceof Dict) {
    return (
      a.size === b.size &&
      a.pairs().every(([key, value]) => {
        const other = b.get(key);
        return other !== undefined && isEqual(value, other, budget);
      })
    );
  }
  return a instanceof Undefined && b instanceof Undefined;
}

/** Negative, zero or positive. Throws for what Python does not order. */
export function compare(a: Value, b: Value, budget: Budget): number {
  budget.spend();
  if (a instanceof Undefined) fail(a.message);
  if (b instanceof Undefined) fail(b.message);
  const [left, right] = [numberOf(a), numberOf(b)];
  if (left !== undefined && right !== undefined) return left - right;
  if (a instanceof Text && b instanceof Text) {
    budget.spend(Math.min(a.length, b.length) / 16);
    return compareTexts(a.text, b.text);
  }
  if (a instanceof Sequence && b instanceof Sequence && a.kind === b.kind && a.kind !== "generator") {
    for (const [index, item] of a.items.entries()) {
      const other = b.items[index];
      if (other === undefined) return 1;
      if (!isEqual(item, other, budget)) return compare(item, other, budget);
    }
    return a.items.length - b.items.length;
  }
  return fail(`'<' not supported between instances of '${typeOf(a)}' and '${typeOf(b)}'`);
}

/** By code points: UTF-16 puts characters beyond U+FFFF before some of the others. */
function compareTexts(a: string, b: string): number {
  if (!astral.test(a) && !astral.test(b)) return a < b ? -1 : a > b ? 1 : 0;
  const [left, right] = [Array.from(a), Array.from(b)];
  for (const [index, point] of left.entries()) {
    if (index >= right.length) return 1;
    const difference = point.codePointAt(0)! - right[index]!.codePointAt(0)!;
    if (difference !== 0) return difference;
  }
  return left.length - right.length;
}
