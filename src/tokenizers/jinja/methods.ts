import { Text } from "./text.js";
import {
  type Budget,
  type CallArguments,
  Callable,
  Dict,
  Float,
  Sequence,
  Undefined,
  type Value,
  fail,
  floatText,
  given,
  integer,
  isEqual,
  isTrue,
  itemsOf,
  lengthOf,
  numberOf,
  placesOf,
  pointsOf,
  reprOf,
  textOf,
  typeOf,
} from "./values.js";

// ---- arguments ----

/**
 * The arguments of a call by the names of its parameters. Throws for one that is missing or not known.
 * @param names a name that ends in `?` may be left out
 */
export function bind(
  name: string,
  { positional, named }: CallArguments,
  names: readonly string[],
): (Value | undefined)[] {
  if (positional.length > names.length)
    fail(`${name}() takes ${names.length} arguments but ${positional.length} were given`);
  const known = names.map((parameter) => parameter.replace("?", ""));
  for (const given of named.keys())
    if (!known.includes(given)) fail(`${name}() got an unexpected keyword argument '${given}'`);
  return names.map((parameter, index) => {
    const value = index < positional.length ? positional[index] : named.get(known[index]!);
    if (value === undefined && !parameter.endsWith("?")) fail(`${name}() needs an argument '${parameter}'`);
    return value;
  });
}

export function asText(value: Value | undefined, what: string): Text {
  if (value instanceof Text) return value;
  return fail(`${what} must be str, not ${typeOf(given(value, null))}`);
}

export function asInteger(value: Value | undefined, what: string): number {
  if (typeof value === "number") return value;
  if (typeof value === "boolean") return Number(value);
  if (value instanceof Undefined) fail(value.message);
  return fail(`${what} must be an integer, not ${typeOf(given(value, null))}`);
}

// ---- slices ----

/** Python's `start:stop:step` over so many items, as the indexes that it takes. */
function sliceIndexes(
  length: number,
  start: number | undefined,
  stop: number | undefined,
  step = 1,
): { first: number; count: number; step: number } {
  if (step === 0) fail("slice step cannot be zero");
  const clamp = (value: number) =>
    Math.min(Math.max(value < 0 ? value + length : value, step < 0 ? -1 : 0), step < 0 ? length - 1 : length);
  const first = start === undefined ? (step < 0 ? length - 1 : 0) : clamp(start);
  const end = stop === undefined ? (step < 0 ? -1 : length) : clamp(stop);
  return { first, count: Math.max(0, Math.ceil((end - first) / step)), step };
}

export function slice(
  value: Value,
  [start, stop, step]: readonly (number | undefined)[],
  budget: Budget,
): Value {
  if (value instanceof Text) {
    const places = placesOf(value.text);
    const length = places ? places.length - 1 : value.length;
    const range = sliceIndexes(length, start, stop, step);
    budget.text(range.count);
    const place = (index: number) => (places ? places[index]! : index);
    if (range.step === 1) return value.slice(place(range.first), place(range.first + range.count));
    return Text.concat(
      Array.from({ length: range.count }, (_, k) => {
        const at = range.first + k * range.step;
        return value.slice(place(at), place(at + 1));
      }),
    );
  }
  if (value instanceof Sequence && value.kind !== "generator") {
    const range = sliceIndexes(value.items.length, start, stop, step);
    budget.spend(range.count);
    const items = Array.from({ length: range.count }, (_, k) => value.items[range.first + k * range.step]!);
    return new Sequence(items, value.kind);
  }
  return fail(`'${typeOf(value)}' object is not subscriptable`);
}

// ---- strings ----

const spaces = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const space = new RegExp(`[${spaces}]+`, "g");
const lineEnds = "\\n\\r\\v\\f\\x1c-\\x1e\\x85\\u2028\\u2029";
const lineEnd = new RegExp(`\\r\\n|[${lineEnds}]`, "g");
const oneSpace = new RegExp(`^[${spaces}]$`);

export function strip(text: Text, characters: string | undefined, left: boolean, right: boolean): Text {
  const { text: whole } = text;
  const set = characters === undefined ? undefined : new Set(characters);
  const gone = (character: string) => (set ? set.has(character) : oneSpace.test(character));
  let [start, end] = [0, whole.length];
  const pointAt = (at: number) => String.fromCodePoint(whole.codePointAt(at)!);
  while (left && start < end && gone(pointAt(start))) start += pointAt(start).length;
  while (right && end > start) {
    const low = whole.charCodeAt(end - 1);
    const size =
      low >= 0xdc00 && low < 0xe000 && end - 2 >= start && whole.codePointAt(end - 2)! > 0xffff ? 2 : 1;
    if (!gone(whole.slice(end - size, end))) break;
    end -= size;
  }
  return text.slice(start, end);
}

export function replace(text: Text, from: Text, to: Text, count: number, budget: Budget): Text {
  const parts: Text[] = [];
  let at = 0;
  const limit = count < 0 ? Infinity : count;
  if (from.text === "") {
    const points = pointsOf(text);
    budget.text(text.length + Math.min(limit, points.length + 1) * to.length);
    points.forEach((point, index) => {
      if (index < limit) parts.push(to);
      parts.push(point);
    });
    if (points.length < limit) parts.push(to);
    return Text.concat(parts);
  }
  let length = text.length;
  for (let done = 0; done < limit; done++) {
    const found = text.text.indexOf(from.text, at);
    if (found < 0) break;
    length += to.length - from.length;
    budget.spend();
    if (length > budget.maxLength) budget.text(length);
    parts.push(text.slice(at, found), to);
    at = found + from.length;
  }
  if (at === 0) return text;
  parts.push(text.slice(at));
  budget.text(length);
  return Text.concat(parts);
}

export function join(parts: readonly Text[], separator: Text, budget: Budget): Text {
  const length = parts.reduce(
    (sum, part) => sum + part.length,
    separator.length * Math.max(0, parts.length - 1),
  );
  budget.text(length);
  if (separator.text === "") return parts.length === 0 ? Text.empty : Text.concat(parts);
  return parts.length === 0
    ? Text.empty
    : Text.concat(parts.flatMap((part, index) => (index === 0 ? [part] : [separator, part])));
}

function split(text: Text, separator: Text | undefined, most: number, fromRight: boolean): Text[] {
  const limit = most < 0 ? Infinity : most;
  const cuts: [start: number, end: number][] = [];
  if (separator) {
    if (separator.text === "") fail("empty separator");
    if (fromRight) {
      for (let end = text.length; cuts.length < limit;) {
        const found =
          end < separator.length ? -1 : text.text.lastIndexOf(separator.text, end - separator.length);
        if (found < 0) break;
        cuts.unshift([found, found + separator.length]);
        end = found;
      }
    } else {
      for (let at = 0; cuts.length < limit;) {
        const found = text.text.indexOf(separator.text, at);
        if (found < 0) break;
        at = found + separator.length;
        cuts.push([found, at]);
      }
    }
  } else {
    const whole = strip(text, undefined, !fromRight || limit === Infinity, fromRight || limit === Infinity);
    const trimmed = fromRight ? strip(whole, undefined, false, true) : strip(whole, undefined, true, false);
    if (strip(trimmed, undefined, true, true).text === "") return [];
    const found = [...trimmed.text.matchAll(space)].map(
      ({ index, 0: run }) => [index, index + run.length] as [number, number],
    );
    const kept = fromRight ? found.slice(Math.max(0, found.length - limit)) : found.slice(0, limit);
    const parts: Text[] = [];
    let at = 0;
    for (const [start, end] of kept) {
      parts.push(trimmed.slice(at, start));
      at = end;
    }
    parts.push(trimmed.slice(at));
    // White space at the far end belongs to no part.
    return parts.filter(({ text: part }) => part !== "");
  }
  const parts: Text[] = [];
  let at = 0;
  for (const [start, end] of cuts) {
    parts.push(text.slice(at, start));
    at = end;
  }
  parts.push(text.slice(at));
  return parts;
}

export function splitLines(text: Text, keepEnds = false): Text[] {
  const lines: Text[] = [];
  let at = 0;
  for (const { index, 0: end } of text.text.matchAll(lineEnd)) {
    lines.push(text.slice(at, keepEnds ? index + end.length : index));
    at = index + end.length;
  }
  if (at < text.length) lines.push(text.slice(at));
  return lines;
}

export const capitalize = (text: Text): Text => {
  const first = text.text === "" ? 0 : String.fromCodePoint(text.text.codePointAt(0)!).length;
  return Text.concat([
    text.slice(0, first).map((part) => part.toUpperCase()),
    text.slice(first).map((part) => part.toLowerCase()),
  ]);
};

export const pad = (
  text: Text,
  width: number,
  fill: string,
  side: "left" | "right" | "both",
  budget: Budget,
): Text => {
  const missing = width - lengthOf(text.text);
  if (missing <= 0) return text;
  budget.text(width);
  const left = side === "left" ? missing : side === "right" ? 0 : (missing >> 1) + (missing & width & 1);
  return Text.concat([Text.of(fill.repeat(left)), text, Text.of(fill.repeat(missing - left))]);
};

const every = (pattern: RegExp) => (text: string) => text !== "" && pattern.test(text);
const predicates: Readonly<Record<string, (text: string) => boolean>> = {
  isalnum: every(/^[\p{L}\p{N}]+$/u),
  isalpha: every(/^\p{L}+$/u),
  isascii: (text) => Array.from(text).every((character) => character <= "\x7f"),
  isdecimal: every(/^\p{Nd}+$/u),
  isdigit: every(/^[\p{Nd}\u00b2\u00b3\u00b9\u2070-\u2079\u2080-\u2089]+$/u),
  isnumeric: every(/^\p{N}+$/u),
  isspace: (text) => text !== "" && strip(Text.of(text), undefined, true, true).text === "",
  islower: (text) => /\p{Ll}/u.test(text) && text === text.toLowerCase(),
  isupper: (text) => /\p{Lu}/u.test(text) && text === text.toUpperCase(),
  istitle: (text) => /\p{L}/u.test(text) && text === titleCase(text),
  isidentifier: every(/^[\p{L}\p{Nl}_][\p{L}\p{Nl}\p{Mn}\p{Mc}\p{Nd}\p{Pc}]*$/u),
  isprintable: (text) => !/[\p{C}\u2028\u2029]|[^\P{Z} ]/u.test(text),
};

const titleCase = (text: string): string =>
  text.replace(/\p{L}+/gu, (word) => {
    const first = String.fromCodePoint(word.codePointAt(0)!);
    return first.toUpperCase() + word.slice(first.length).toLowerCase();
  });

type Method<T> = (self: T, args: CallArguments, budget: Budget) => Value;

/** `(prefix, start, end)` of `startswith` and the like: the searched part, and where it begins in the text. */
function searched(
  name: string,
  self: Text,
  args: CallArguments,
): { part: Text; offset: number; wanted: Value } {
  const [wanted, start, end] = bind(name, args, ["sub", "start?", "end?"]);
  if (start === undefined && end === undefined) return { part: self, offset: 0, wanted: wanted! };
  const places = placesOf(self.text);
  const length = places ? places.length - 1 : self.length;
  const at = (value: Value | undefined) =>
    value === undefined || value === null ? undefined : asInteger(value, "index");
  const range = sliceIndexes(length, at(start), at(end));
  const place = (index: number) => (places ? places[index]! : index);
  return {
    part: self.slice(place(range.first), place(range.first + range.count)),
    offset: range.first,
    wanted: wanted!,
  };
}

const affix = (name: string, test: (part: string, wanted: string) => boolean): Method<Text> =>
  function (self, args) {
    const { part, wanted } = searched(name, self, args);
    const choices = wanted instanceof Sequence ? wanted.items : [wanted];
    return choices.some((choice) => test(part.text, asText(choice, `${name} first arg`).text));
  };

const finder = (name: string, last: boolean, throws: boolean): Method<Text> =>
  function (self, args) {
    const { part, offset, wanted } = searched(name, self, args);
    const { text } = asText(wanted, "the substring");
    const found = last ? part.text.lastIndexOf(text) : part.text.indexOf(text);
    if (found < 0) return throws ? fail("substring not found") : -1;
    return offset + lengthOf(part.text.slice(0, found));
  };

const caseMethod = (turn: (text: string) => string): Method<Text> =>
  function (self, _args, budget) {
    budget.text(self.length);
    return self.map(turn);
  };

const stripMethod = (name: string, left: boolean, right: boolean): Method<Text> =>
  function (self, args) {
    const [characters] = bind(name, args, ["chars?"]);
    return strip(self, characters instanceof Text ? characters.text : undefined, left, right);
  };

const splitMethod = (name: string, fromRight: boolean): Method<Text> =>
  function (self, args, budget) {
    const [separator, most] = bind(name, args, ["sep?", "maxsplit?"]);
    budget.spend(1 + self.length / 8);
    const by = separator instanceof Text ? separator : undefined;
    return new Sequence(split(self, by, most === undefined ? -1 : asInteger(most, "maxsplit"), fromRight));
  };

const partition = (name: string, last: boolean): Method<Text> =>
  function (self, args) {
    const separator = asText(bind(name, args, ["sep"])[0], "the separator");
    const found = last ? self.text.lastIndexOf(separator.text) : self.text.indexOf(separator.text);
    const parts =
      found < 0
        ? last
          ? [Text.empty, Text.empty, self]
          : [self, Text.empty, Text.empty]
        : [self.slice(0, found), separator, self.slice(found + separator.length)];
    return new Sequence(parts, "tuple");
  };

const justify = (name: string, side: "left" | "right" | "both"): Method<Text> =>
  function (self, args, budget) {
    const [width, fill] = bind(name, args, ["width", "fillchar?"]);
    return pad(self, asInteger(width, "width"), fill ? asText(fill, "fillchar").text : " ", side, budget);
  };

const textMethods: Readonly<Record<string, Method<Text>>> = {
  upper: caseMethod((text) => text.toUpperCase()),
  lower: caseMethod((text) => text.toLowerCase()),
  casefold: caseMethod((text) => text.toLowerCase().replaceAll("ß", "ss")),
  title: caseMethod(titleCase),
  swapcase: caseMethod((text) =>
    Array.from(text, (point) =>
      point === point.toUpperCase() ? point.toLowerCase() : point.toUpperCase(),
    ).join(""),
  ),
  capitalize: (self) => capitalize(self),
  strip: stripMethod("strip", true, true),
  lstrip: stripMethod("lstrip", true, false),
  rstrip: stripMethod("rstrip", false, true),
  split: splitMethod("split", false),
  rsplit: splitMethod("rsplit", true),
  splitlines: (self, args, budget) => {
    budget.spend(1 + self.length / 8);
    const [keep] = bind("splitlines", args, ["keepends?"]);
    return new Sequence(splitLines(self, keep !== undefined && isTrue(keep)));
  },
  startswith: affix("startswith", (part, wanted) => part.startsWith(wanted)),
  endswith: affix("endswith", (part, wanted) => part.endsWith(wanted)),
  find: finder("find", false, false),
  rfind: finder("rfind", true, false),
  index: finder("index", false, true),
  rindex: finder("rindex", true, true),
  count: (self, args, budget) => {
    const { part, wanted } = searched("count", self, args);
    const { text } = asText(wanted, "the substring");
    budget.spend(1 + part.length / 16);
    return text === "" ? lengthOf(part.text) + 1 : part.text.split(text).length - 1;
  },
  replace: (self, args, budget) => {
    const [from, to, count] = bind("replace", args, ["old", "new", "count?"]);
    const times = count === undefined ? -1 : asInteger(count, "count");
    return replace(self, asText(from, "old"), asText(to, "new"), times, budget);
  },
  join: (self, args, budget) => {
    const items = itemsOf(bind("join", args, ["iterable"])[0]!, budget);
    const parts = items.map((item, index) =>
      item instanceof Text
        ? item
        : fail(`sequence item ${index}: expected str instance, ${typeOf(item)} found`),
    );
    return join(parts, self, budget);
  },
  removeprefix: (self, args) => {
    const { text } = asText(bind("removeprefix", args, ["prefix"])[0], "the prefix");
    return self.text.startsWith(text) ? self.slice(text.length) : self;
  },
  removesuffix: (self, args) => {
    const { text } = asText(bind("removesuffix", args, ["suffix"])[0], "the suffix");
    return text !== "" && self.text.endsWith(text) ? self.slice(0, self.length - text.length) : self;
  },
  partition: partition("partition", false),
  rpartition: partition("rpartition", true),
  ljust: justify("ljust", "right"),
  rjust: justify("rjust", "left"),
  center: justify("center", "both"),
  zfill: (self, args, budget) => {
    const width = asInteger(bind("zfill", args, ["width"])[0], "width");
    const sign = /^[+-]/.test(self.text) ? 1 : 0;
    return Text.concat([self.slice(0, sign), pad(self.slice(sign), width - sign, "0", "left", budget)]);
  },
  expandtabs: (self, args, budget) => {
    const [size] = bind("expandtabs", args, ["tabsize?"]);
    const width = size === undefined ? 8 : asInteger(size, "tabsize");
    let column = 0;
    const parts = pointsOf(self).map((point) => {
      if (point.text === "\t") {
        const gap = width > 0 ? width - (column % width) : 0;
        budget.text(gap);
        column += gap;
        return Text.of(" ".repeat(gap));
      }
      column = point.text === "\n" || point.text === "\r" ? 0 : column + 1;
      return point;
    });
    return parts.length === 0 ? self : Text.concat(parts);
  },
  format: (self, args, budget) => formatBraces(self, args, budget),
  ...Object.fromEntries(
    Object.entries(predicates).map(([name, test]): [string, Method<Text>] => [
      name,
      (self) => test(self.text),
    ]),
  ),
};

const dictMethods: Readonly<Record<string, Method<Dict>>> = {
  get: (self, args) => {
    const [key, standard] = bind("get", args, ["key", "default?"]);
    return given(self.get(key!), given(standard, null));
  },
  items: (self, _args, budget) => {
    budget.spend(self.size * 2);
    return new Sequence(self.pairs().map((pair) => new Sequence([...pair], "tuple")));
  },
  keys: (self, _args, budget) => {
    budget.spend(self.size);
    return new Sequence(self.keys());
  },
  values: (self, _args, budget) => {
    budget.spend(self.size);
    return new Sequence(self.values());
  },
  copy: (self, _args, budget) => {
    budget.spend(self.size);
    return Dict.of(self.pairs());
  },
};

const sequenceMethods: Readonly<Record<string, Method<Sequence>>> = {
  index: (self, args, budget) => {
    const [wanted] = bind("index", args, ["value"]);
    const found = self.items.findIndex((item) => isEqual(item, wanted!, budget));
    return found < 0 ? fail("the list has no such item") : found;
  },
  count: (self, args, budget) => {
    const [wanted] = bind("count", args, ["value"]);
    return self.items.filter((item) => isEqual(item, wanted!, budget)).length;
  },
  copy: (self, _args, budget) => {
    budget.spend(self.items.length);
    return new Sequence(self.items, self.kind);
  },
};

/** What would change a list or a dict in place, which the sandbox of transformers refuses. */
const changing = [
  "append",
  "clear",
  "extend",
  "insert",
  "pop",
  "popitem",
  "remove",
  "reverse",
  "setdefault",
  "sort",
  "update",
];

const own = <T>(table: Readonly<Record<string, T>>, name: string): T | undefined =>
  Object.hasOwn(table, name) ? table[name] : undefined;

/**
 * The method of a text, list or dict, bound to it; undefined where Python's type has none. One that the sandbox forbids is
 * an undefined value.
 */
export function methodOf(value: Value, name: string, budget: Budget): Callable | Undefined | undefined {
  const bound = <T extends Value>(self: T, method: Method<T> | undefined) =>
    method && new Callable(name, (args) => method(self, args, budget));
  if (value instanceof Text) return bound(value, own(textMethods, name));
  if (value instanceof Dict || (value instanceof Sequence && value.kind === "list")) {
    const known =
      value instanceof Dict ? bound(value, own(dictMethods, name)) : bound(value, own(sequenceMethods, name));
    if (known) return known;
    const changes = value instanceof Dict ? ["clear", "pop", "popitem", "setdefault", "update"] : changing;
    if (changes.includes(name))
      return new Undefined(`access to attribute '${name}' of '${typeOf(value)}' object is unsafe.`);
    return undefined;
  }
  if (value instanceof Sequence && value.kind === "tuple" && name !== "copy")
    return bound(value, own(sequenceMethods, name));
  return undefined;
}

// ---- printf and str.format ----

function fixed(value: number, digits: number, budget: Budget): string {
  budget.text(digits);
  return digits <= 100 ? value.toFixed(digits) : value.toFixed(100) + "0".repeat(digits - 100);
}

function general(value: number, precision: number): string {
  const digits = Math.min(100, Math.max(1, precision));
  if (value === 0) return "0";
  const exponent = Number(value.toExponential(digits - 1).split("e")[1]);
  if (exponent < -4 || exponent >= digits) {
    const [mantissa, power] = value.toExponential(digits - 1).split("e") as [string, string];
    const short = mantissa.includes(".") ? mantissa.replace(/\.?0+$/, "") : mantissa;
    return `${short}e${power.replace(/^([+-])(\d)$/, "$10$2")}`;
  }
  const text = value.toFixed(Math.max(0, digits - 1 - exponent));
  return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
}

const exponential = (value: number, digits: number): string =>
  value.toExponential(Math.min(100, digits)).replace(/e([+-])(\d)$/, "e$10$2");

function numberText(value: number, type: string, precision: number | undefined, budget: Budget): string {
  switch (type) {
    case "f":
    case "F":
      return fixed(value, precision ?? 6, budget);
    case "e":
      return exponential(value, precision ?? 6);
    case "E":
      return exponential(value, precision ?? 6).toUpperCase();
    case "g":
      return general(value, precision ?? 6);
    case "x":
      return Math.trunc(value).toString(16);
    case "X":
      return Math.trunc(value).toString(16).toUpperCase();
    case "o":
      return Math.trunc(value).toString(8);
    case "b":
      return Math.trunc(value).toString(2);
    default:
      return String(Math.trunc(value));
  }
}

/** `text % values`. */
export function formatPercent(format: Text, values: Value, budget: Budget): Text {
  const list = values instanceof Sequence && values.kind === "tuple" ? values.items : [values];
  const pattern = /%(?:\(([^)]*)\))?([-+ #0]*)(\*|\d+)?(?:\.(\d+))?([diouxXeEfFgGcrsa%])/g;
  const parts: Text[] = [];
  let at = 0;
  let used = 0;
  for (const match of format.text.matchAll(/%/g)) {
    if (match.index < at) continue;
    pattern.lastIndex = match.index;
    const found = pattern.exec(format.text);
    if (found?.index !== match.index) fail("unsupported format character");
    const [whole, key, flags, width, precision, type] = found as unknown as [
      string,
      string?,
      string?,
      string?,
      string?,
      string?,
    ];
    parts.push(format.slice(at, match.index));
    at = match.index + whole.length;
    if (type === "%") {
      parts.push(Text.of("%"));
      continue;
    }
    if (width === "*") fail("a format's width must be written out");
    let value: Value | undefined;
    if (key !== undefined)
      value = values instanceof Dict ? values.get(Text.of(key)) : fail("format requires a mapping");
    else value = list[used++];
    if (value === undefined) fail("not enough arguments for format string");
    const digits = precision === undefined ? undefined : Number(precision);
    let text: Text;
    if (type === "s" || type === "r" || type === "a") {
      text = type === "s" ? textOf(value!, budget) : reprOf(value!, budget);
      if (digits !== undefined) text = slice(text, [undefined, digits], budget) as Text;
    } else if (type === "c")
      text = typeof value === "number" ? Text.of(String.fromCodePoint(value)) : asText(value, "%c");
    else {
      const number = numberOf(value!);
      if (number === undefined) fail(`%${type!} format: a number is required, not ${typeOf(value!)}`);
      const body = numberText(number!, type!, digits, budget);
      const sign = body.startsWith("-") ? "" : flags!.includes("+") ? "+" : flags!.includes(" ") ? " " : "";
      text = Text.of(sign + body);
    }
    const side = flags!.includes("-") ? "right" : "left";
    const zero = flags!.includes("0") && side === "left" && type !== "s" && type !== "r";
    const sign = zero && /^[+-]/.test(text.text) ? 1 : 0;
    const size = Number(width ?? 0);
    parts.push(text.slice(0, sign), pad(text.slice(sign), size - sign, zero ? "0" : " ", side, budget));
  }
  if (used < list.length && !(values instanceof Dict) && (used > 0 || values instanceof Sequence))
    fail("not all arguments converted during string formatting");
  if (
    used === 0 &&
    !(values instanceof Dict) &&
    !(values instanceof Sequence && values.items.length === 0) &&
    parts.length === 0
  )
    fail("not all arguments converted during string formatting");
  parts.push(format.slice(at));
  budget.text(parts.reduce((sum, { length }) => sum + length, 0));
  return Text.concat(parts);
}

function formatBraces(format: Text, { positional, named }: CallArguments, budget: Budget): Text {
  const parts: Text[] = [];
  let at = 0;
  let automatic = 0;
  for (const match of format.text.matchAll(
    /\{\{|\}\}|\{(\w*)((?:\[[^\]]*\])*)(?:!([rs]))?(?::([^{}]*))?\}|[{}]/g,
  )) {
    const [whole, name, keys, conversion, spec] = match as unknown as [
      string,
      string?,
      string?,
      string?,
      string?,
    ];
    parts.push(format.slice(at, match.index));
    at = match.index + whole.length;
    if (whole === "{{" || whole === "}}") {
      parts.push(Text.of(whole[0]!));
      continue;
    }
    if (name === undefined) fail(`Single '${whole}' encountered in format string`);
    let value: Value | undefined =
      name === ""
        ? positional[automatic++]
        : /^\d+$/.test(name!)
          ? positional[Number(name)]
          : named.get(name!);
    for (const [, key] of (keys ?? "").matchAll(/\[([^\]]*)\]/g)) {
      if (value instanceof Dict) value = value.get(Text.of(key!));
      else if (value instanceof Sequence) value = value.items[Number(key)];
    }
    if (value === undefined) fail(`the format has no argument ${JSON.stringify(name)}`);
    const shown: Value =
      conversion === "r" ? reprOf(value!, budget) : conversion === "s" ? textOf(value!, budget) : value!;
    parts.push(spec ? formatSpec(shown, spec, budget) : textOf(shown, budget));
  }
  parts.push(format.slice(at));
  budget.text(parts.reduce((sum, { length }) => sum + length, 0));
  return Text.concat(parts);
}

function formatSpec(value: Value, spec: string, budget: Budget): Text {
  const match = /^(?:(.)?([<>^=]))?([-+ ])?(#)?(0)?(\d+)?(,)?(?:\.(\d+))?([bcdeEfFgGnosxX%])?$/u.exec(spec);
  if (!match) fail(`Invalid format specifier '${spec}'`);
  const [, fill, align, sign, , zero, width, comma, precision, type] = match!;
  const number = numberOf(value);
  let text: Text;
  if (number === undefined || type === "s") {
    text = textOf(value, budget);
    if (precision !== undefined) text = slice(text, [undefined, Number(precision)], budget) as Text;
  } else {
    const digits = precision === undefined ? undefined : Number(precision);
    let body: string;
    if (type === "%") body = `${fixed(number * 100, digits ?? 6, budget)}%`;
    else if (type !== undefined) body = numberText(number, type, digits, budget);
    else if (value instanceof Float)
      body = digits === undefined ? floatText(number) : general(number, digits);
    else body = String(number);
    if (comma) body = body.replace(/^(-?\d+)/, (whole) => whole.replace(/\B(?=(\d{3})+$)/g, ","));
    if (!body.startsWith("-") && (sign === "+" || sign === " ")) body = sign + body;
    text = Text.of(body);
  }
  const side =
    align === "<" ? "right" : align === "^" ? "both" : align || number !== undefined ? "left" : "right";
  const size = Number(width ?? 0);
  const zeros = (zero && !align) || align === "=";
  const signed = zeros && /^[+-]/.test(text.text) ? 1 : 0;
  const filler = fill ?? (zero && !align ? "0" : " ");
  if (side === "both") {
    const missing = Math.max(0, size - lengthOf(text.text));
    budget.text(size);
    const left = missing >> 1;
    return Text.concat([Text.of(filler.repeat(left)), text, Text.of(filler.repeat(missing - left))]);
  }
  return Text.concat([text.slice(0, signed), pad(text.slice(signed), size - signed, filler, side, budget)]);
}

/** `int(text)`: undefined for what is no whole number of the base. */
export function parseInteger(text: string, base = 10): number | undefined {
  const clean = text.trim().replace(/(?<=[\da-z])_(?=[\da-z])/gi, "");
  const prefixed =
    base === 16
      ? clean.replace(/^([+-]?)0x/i, "$1")
      : base === 2
        ? clean.replace(/^([+-]?)0b/i, "$1")
        : base === 8
          ? clean.replace(/^([+-]?)0o/i, "$1")
          : clean;
  const digits = "0123456789abcdefghijklmnopqrstuvwxyz".slice(0, base);
  if (!new RegExp(`^[+-]?[${digits}]+$`, "i").test(prefixed)) return undefined;
  return integer(parseInt(prefixed, base));
}

/** `float(text)`: undefined for what is no number. */
export function parseFloatText(text: string): number | undefined {
  const clean = text
    .trim()
    .replace(/(?<=\d)_(?=\d)/g, "")
    .toLowerCase();
  const special = /^([+-]?)(inf(?:inity)?|nan)$/.exec(clean);
  if (special) return special[2] === "nan" ? NaN : special[1] === "-" ? -Infinity : Infinity;
  return /^[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?$/.test(clean) ? Number(clean) : undefined;
}
