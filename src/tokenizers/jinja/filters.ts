import {
  asInteger,
  asText,
  bind,
  capitalize,
  formatPercent,
  join,
  pad,
  parseFloatText,
  parseInteger,
  replace,
  splitLines,
  strip,
} from "./methods.js";
import { Text } from "./text.js";
import {
  type Budget,
  type CallArguments,
  Callable,
  Dict,
  Float,
  Host,
  Namespace,
  Sequence,
  Undefined,
  type Value,
  compare,
  fail,
  given,
  integer,
  isEqual,
  isTrue,
  itemsOf,
  jsonOf,
  lengthOf,
  numberOf,
  pointsOf,
  reprOf,
  textOf,
  typeOf,
} from "./values.js";

/** What filters and tests ask of the interpreter. */
export interface Context {
  readonly budget: Budget;
  /** `object[key]`, or its attribute where it has no such item. */
  readonly item: (object: Value, key: Value) => Value;
  /** `object.name` without a look at its items. */
  readonly attribute: (object: Value, name: string) => Value;
  readonly filter: (name: string, input: Value, args: CallArguments) => Value;
  readonly test: (name: string, input: Value, args: CallArguments) => boolean;
}

type Filter = (input: Value, args: CallArguments, context: Context) => Value;
type Test = (input: Value, args: CallArguments, context: Context) => boolean;

/** No arguments. */
export const noArguments: CallArguments = { positional: [], named: new Map() };
const number = (value: number, like: Value): Value =>
  like instanceof Float ? new Float(value) : integer(value);

/** The value at a dotted path, as filters name it: `message.role`, `0.text`. */
function pathOf(path: Value, { item }: Context, standard?: Value): (value: Value) => Value {
  const keys: Value[] =
    path instanceof Text
      ? path.text.split(".").map((part) => (/^\d+$/.test(part) ? Number(part) : Text.of(part)))
      : [path];
  return (value) =>
    keys.reduce((object, key) => {
      const found = item(object, key);
      return found instanceof Undefined && standard !== undefined ? standard : found;
    }, value);
}

const folded = (value: Value, caseSensitive: boolean): Value =>
  value instanceof Text && !caseSensitive ? value.map((text) => text.toLowerCase()) : value;

function sorted<T>(items: readonly T[], keyOf: (item: T) => Value, reverse: boolean, budget: Budget): T[] {
  budget.spend(items.length);
  const keyed = items.map((item) => ({ item, key: keyOf(item) }));
  keyed.sort((a, b) => (reverse ? compare(b.key, a.key, budget) : compare(a.key, b.key, budget)));
  return keyed.map(({ item }) => item);
}

/** `map`, `select` and their like: by a path of attributes, or by a named filter or test. */
function selector(
  { positional, named }: CallArguments,
  context: Context,
  byAttribute: boolean,
): (value: Value) => boolean {
  const attribute = byAttribute ? positional[0] : undefined;
  const others = byAttribute ? positional.slice(1) : positional;
  const at = attribute === undefined ? (value: Value) => value : pathOf(attribute, context);
  const [name, ...rest] = others;
  if (name === undefined) return (value) => isTrue(at(value));
  const { text } = asText(name, "the name of a test");
  return (value) => context.test(text, at(value), { positional: rest, named });
}

const choose =
  (byAttribute: boolean, wanted: boolean): Filter =>
  (input, args, context) => {
    if (byAttribute && args.positional.length === 0) fail("Missing parameter for attribute name");
    const keep = selector(args, context, byAttribute);
    return new Sequence(
      itemsOf(input, context.budget).filter((item) => keep(item) === wanted),
      "generator",
    );
  };

const least =
  (name: string, sign: 1 | -1): Filter =>
  (input, args, context) => {
    const [caseSensitive, attribute] = bind(name, args, ["case_sensitive?", "attribute?"]);
    const at =
      attribute === undefined || attribute === null ? (value: Value) => value : pathOf(attribute, context);
    const keyOf = (value: Value) => folded(at(value), caseSensitive !== undefined && isTrue(caseSensitive));
    const [first, ...rest] = itemsOf(input, context.budget);
    if (first === undefined) return new Undefined("No aggregated item, sequence was empty.");
    return rest.reduce(
      (best, item) => (sign * compare(keyOf(item), keyOf(best), context.budget) < 0 ? item : best),
      first,
    );
  };

const standardOf: Filter = (input, args) => {
  const [standard, boolean] = bind("default", args, ["default_value?", "boolean?"]);
  const missing = input instanceof Undefined || (boolean !== undefined && isTrue(boolean) && !isTrue(input));
  return missing ? given(standard, Text.empty) : input;
};

const lengthFilter: Filter = (input) => {
  if (input instanceof Text) return lengthOf(input.text);
  if (input instanceof Dict) return input.size;
  if (input instanceof Sequence && input.kind !== "generator") return input.items.length;
  if (input instanceof Undefined) return 0;
  return fail(`object of type '${typeOf(input)}' has no len()`);
};

const escape: Filter = (input, _args, { budget }) => {
  const text = textOf(input, budget);
  budget.text(text.length * 5);
  const names: Readonly<Record<string, string>> = {
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
    "'": "&#39;",
    '"': "&#34;",
  };
  return text.map((part) => part.replace(/[&<>'"]/g, (character) => names[character]!));
};

const byCase =
  (turn: (text: string) => string): Filter =>
  (input, _args, { budget }) => {
    const text = textOf(input, budget);
    budget.text(text.length);
    return text.map(turn);
  };

/** Python rounds a half to the even neighbour, of the exact binary value. */
function round(value: number, digits: number, method: string): number {
  if (method === "ceil" || method === "floor") {
    const factor = 10 ** digits;
    return (method === "ceil" ? Math.ceil(value * factor) : Math.floor(value * factor)) / factor;
  }
  if (method !== "common") fail("method must be common, ceil or floor");
  if (digits > 0) {
    if (!Number.isFinite(value) || digits > 30 || Math.abs(value) >= 1e21) return value;
    const near = Number(value.toFixed(digits));
    // The exact value, of which a tie ends in 5.
    const rest = value.toFixed(100).split(".")[1]!.slice(digits);
    if (!/^50*$/.test(rest)) return near;
    const [down, up] = [Math.floor(value * 10 ** digits), Math.ceil(value * 10 ** digits)];
    return (down % 2 === 0 ? down : up) / 10 ** digits;
  }
  const factor = 10 ** -digits;
  const scaled = value / factor;
  const floor = Math.floor(scaled);
  const rest = scaled - floor;
  return (rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor) * factor;
}

const filters: Readonly<Record<string, Filter>> = {
  abs: (input) => {
    const value = numberOf(input);
    return value === undefined
      ? fail(`bad operand type for abs(): '${typeOf(input)}'`)
      : number(Math.abs(value), input);
  },
  attr: (input, args, { attribute }) =>
    attribute(input, asText(bind("attr", args, ["name"])[0], "name").text),
  batch: (input, args, { budget }) => {
    const [count, fill] = bind("batch", args, ["linecount", "fill_with?"]);
    const size = asInteger(count, "linecount");
    if (size < 1) fail("linecount must be at least 1");
    const items = itemsOf(input, budget);
    const rows: Sequence[] = [];
    for (let at = 0; at < items.length; at += size) {
      const row = items.slice(at, at + size);
      if (fill !== undefined && fill !== null) {
        budget.spend(size - row.length);
        while (row.length < size) row.push(fill);
      }
      rows.push(new Sequence(row));
    }
    return new Sequence(rows, "generator");
  },
  capitalize: (input, _args, { budget }) => capitalize(textOf(input, budget)),
  center: (input, args, { budget }) => {
    const [width] = bind("center", args, ["width?"]);
    return pad(
      textOf(input, budget),
      width === undefined ? 80 : asInteger(width, "width"),
      " ",
      "both",
      budget,
    );
  },
  count: lengthFilter,
  d: standardOf,
  default: standardOf,
  dictsort: (input, args, { budget }) => {
    const [caseSensitive, by, reverse] = bind("dictsort", args, ["case_sensitive?", "by?", "reverse?"]);
    if (!(input instanceof Dict)) return fail(`'${typeOf(input)}' object has no attribute 'items'`);
    const place = by === undefined || asText(by, "by").text === "key" ? 0 : 1;
    const sensitive = caseSensitive !== undefined && isTrue(caseSensitive);
    const pairs = sorted(
      input.pairs(),
      (pair) => folded(pair[place], sensitive),
      reverse !== undefined && isTrue(reverse),
      budget,
    );
    return new Sequence(pairs.map((pair) => new Sequence([...pair], "tuple")));
  },
  e: escape,
  escape,
  filesizeformat: (input, args) => {
    const [binary] = bind("filesizeformat", args, ["binary?"]);
    const bytes = numberOf(input) ?? (input instanceof Text ? parseFloatText(input.text) : undefined);
    if (bytes === undefined) return fail("a file size must be a number");
    const two = binary !== undefined && isTrue(binary);
    const base = two ? 1024 : 1000;
    if (bytes === 1) return Text.of("1 Byte");
    if (bytes < base) return Text.of(`${Math.trunc(bytes)} Bytes`);
    const units = two
      ? ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"]
      : ["kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"];
    let power = 0;
    while (power < units.length - 1 && bytes >= base ** (power + 2)) power++;
    return Text.of(`${(bytes / base ** (power + 1)).toFixed(1)} ${units[power]!}`);
  },
  first: (input, _args, { budget }) => {
    const item = input instanceof Sequence ? input.take(1)[0] : itemsOf(input, budget)[0];
    return given(item, new Undefined("No first item, sequence was empty."));
  },
  float: (input, args) => {
    const [standard] = bind("float", args, ["default?"]);
    const value = numberOf(input) ?? (input instanceof Text ? parseFloatText(input.text) : undefined);
    return value === undefined ? given(standard, new Float(0)) : new Float(value);
  },
  forceescape: escape,
  format: (input, { positional, named }, { budget }) => {
    if (positional.length > 0 && named.size > 0)
      fail("can't handle positional and keyword arguments at the same time");
    const values =
      named.size > 0
        ? Dict.of([...named].map(([name, value]) => [Text.of(name), value] as const))
        : new Sequence(positional, "tuple");
    return formatPercent(textOf(input, budget), values, budget);
  },
  groupby: (input, args, context) => {
    const [attribute, standard, caseSensitive] = bind("groupby", args, [
      "attribute",
      "default?",
      "case_sensitive?",
    ]);
    const at = pathOf(attribute!, context, standard);
    const sensitive = caseSensitive !== undefined && isTrue(caseSensitive);
    const groups: { key: Value; name: Value; items: Value[] }[] = [];
    const keyOf = (item: Value) => folded(at(item), sensitive);
    for (const item of sorted(itemsOf(input, context.budget), keyOf, false, context.budget)) {
      const key = keyOf(item);
      const last = groups.at(-1);
      if (last && isEqual(last.key, key, context.budget)) last.items.push(item);
      else groups.push({ key, name: at(item), items: [item] });
    }
    return new Sequence(groups.map(({ name, items }) => new Sequence([name, new Sequence(items)], "tuple")));
  },
  indent: (input, args, { budget }) => {
    const [width, first, blank] = bind("indent", args, ["width?", "first?", "blank?"]);
    if (!(width instanceof Text)) budget.text(width === undefined ? 4 : asInteger(width, "width"));
    const margin =
      width instanceof Text
        ? width
        : Text.of(" ".repeat(Math.max(0, width === undefined ? 4 : asInteger(width, "width"))));
    const text = Text.concat([textOf(input, budget), Text.of("\n")]);
    const lines = splitLines(text);
    budget.text(text.length + lines.length * margin.length);
    const all = blank !== undefined && isTrue(blank);
    const parts = lines.flatMap((line, index) => [
      ...(index > 0 ? [Text.of("\n")] : []),
      ...(index > 0 && (all || line.text !== "") ? [margin] : []),
      line,
    ]);
    return Text.concat(first !== undefined && isTrue(first) ? [margin, ...parts] : parts);
  },
  int: (input, args) => {
    const [standard, base] = bind("int", args, ["default?", "base?"]);
    const value = numberOf(input);
    if (value !== undefined) return Number.isFinite(value) ? integer(Math.trunc(value)) : given(standard, 0);
    if (!(input instanceof Text)) return given(standard, 0);
    const whole = parseInteger(input.text, base === undefined ? 10 : asInteger(base, "base"));
    if (whole !== undefined) return whole;
    const float = parseFloatText(input.text);
    return float !== undefined && Number.isFinite(float) ? integer(Math.trunc(float)) : given(standard, 0);
  },
  items: (input, _args, { budget }) => {
    if (input instanceof Undefined) return new Sequence([], "generator");
    if (!(input instanceof Dict)) return fail("Can only get item pairs from a mapping.");
    budget.spend(input.size);
    return new Sequence(
      input.pairs().map((pair) => new Sequence([...pair], "tuple")),
      "generator",
    );
  },
  join: (input, args, context) => {
    const [separator, attribute] = bind("join", args, ["d?", "attribute?"]);
    const at =
      attribute === undefined || attribute === null ? (value: Value) => value : pathOf(attribute, context);
    const parts = itemsOf(input, context.budget).map((item) => textOf(at(item), context.budget));
    return join(
      parts,
      separator === undefined ? Text.empty : textOf(separator, context.budget),
      context.budget,
    );
  },
  last: (input, _args, { budget }) => {
    if (input instanceof Sequence && input.kind === "generator") fail("'generator' object is not reversible");
    return given(itemsOf(input, budget).at(-1), new Undefined("No last item, sequence was empty."));
  },
  length: lengthFilter,
  list: (input, _args, { budget }) => new Sequence([...itemsOf(input, budget)]),
  lower: byCase((text) => text.toLowerCase()),
  map: (input, { positional, named }, context) => {
    const items = itemsOf(input, context.budget);
    const attribute = named.get("attribute");
    let turn: (value: Value) => Value;
    if (positional.length === 0 && attribute !== undefined)
      turn = pathOf(attribute, context, named.get("default"));
    else {
      const [name, ...rest] = positional;
      if (name === undefined) return fail("map requires a filter argument");
      const { text } = asText(name, "the name of a filter");
      turn = (value) => context.filter(text, value, { positional: rest, named });
    }
    return new Sequence(items.map(turn), "generator");
  },
  max: least("max", -1),
  min: least("min", 1),
  pprint: (input, _args, { budget }) => reprOf(input, budget),
  reject: choose(false, false),
  rejectattr: choose(true, false),
  replace: (input, args, { budget }) => {
    const [from, to, count] = bind("replace", args, ["old", "new", "count?"]);
    const times = count === undefined || count === null ? -1 : asInteger(count, "count");
    return replace(textOf(input, budget), textOf(from!, budget), textOf(to!, budget), times, budget);
  },
  reverse: (input, _args, { budget }) => {
    if (input instanceof Text) return Text.concat([Text.empty, ...pointsOf(input).reverse()]);
    const items = itemsOf(input, budget);
    return new Sequence([...items].reverse(), "generator");
  },
  round: (input, args) => {
    const [precision, method] = bind("round", args, ["precision?", "method?"]);
    const value = numberOf(input);
    if (value === undefined) return fail(`type ${typeOf(input)} doesn't define __round__ method`);
    const digits = precision === undefined ? 0 : asInteger(precision, "precision");
    const rounded = round(value, digits, method === undefined ? "common" : asText(method, "method").text);
    return input instanceof Float || (method !== undefined && asText(method, "method").text !== "common")
      ? new Float(rounded)
      : integer(rounded);
  },
  safe: (input, _args, { budget }) => textOf(input, budget),
  select: choose(false, true),
  selectattr: choose(true, true),
  slice: (input, args, { budget }) => {
    const [slices, fill] = bind("slice", args, ["slices", "fill_with?"]);
    const count = asInteger(slices, "slices");
    if (count < 1) fail("slices must be at least 1");
    budget.spend(count);
    const items = itemsOf(input, budget);
    const size = Math.floor(items.length / count);
    const longer = items.length % count;
    let offset = 0;
    const rows = Array.from({ length: count }, (_, index) => {
      const start = offset + index * size;
      if (index < longer) offset++;
      const row = items.slice(start, offset + (index + 1) * size);
      if (fill !== undefined && fill !== null && index >= longer && longer > 0) row.push(fill);
      return new Sequence(row);
    });
    return new Sequence(rows, "generator");
  },
  sort: (input, args, context) => {
    const [reverse, caseSensitive, attribute] = bind("sort", args, [
      "reverse?",
      "case_sensitive?",
      "attribute?",
    ]);
    const sensitive = caseSensitive !== undefined && isTrue(caseSensitive);
    const paths =
      attribute === undefined || attribute === null
        ? undefined
        : attribute instanceof Text
          ? attribute.text.split(",").map((path) => pathOf(Text.of(path), context))
          : [pathOf(attribute, context)];
    const keyOf = (item: Value): Value =>
      paths ? new Sequence(paths.map((at) => folded(at(item), sensitive))) : folded(item, sensitive);
    return new Sequence(
      sorted(itemsOf(input, context.budget), keyOf, reverse !== undefined && isTrue(reverse), context.budget),
    );
  },
  string: (input, _args, { budget }) => textOf(input, budget),
  striptags: (input, _args, { budget }) => {
    const text = textOf(input, budget);
    budget.text(text.length);
    return text.map((part) =>
      part
        .replace(/<!--[^]*?-->|<[^>]*>/g, "")
        .split(/\s+/)
        .filter((word) => word !== "")
        .join(" "),
    );
  },
  sum: (input, args, context) => {
    const [attribute, start] = bind("sum", args, ["attribute?", "start?"]);
    const at =
      attribute === undefined || attribute === null ? (value: Value) => value : pathOf(attribute, context);
    return itemsOf(input, context.budget).reduce(
      (total: Value, item) => {
        const value = at(item);
        const [a, b] = [numberOf(total), numberOf(value)];
        if (a === undefined || b === undefined)
          return fail(`unsupported operand type(s) for +: '${typeOf(total)}' and '${typeOf(value)}'`);
        return total instanceof Float || value instanceof Float ? new Float(a + b) : integer(a + b);
      },
      given(start, 0),
    );
  },
  title: (input, _args, { budget }) =>
    textOf(input, budget).map((text) =>
      text.replace(/[^-\s({[<]+/gu, (word) => {
        const first = String.fromCodePoint(word.codePointAt(0)!);
        return first.toUpperCase() + word.slice(first.length).toLowerCase();
      }),
    ),
  tojson: (input, args, { budget }) => {
    const [ascii, indent, separators, sortKeys] = bind("tojson", args, [
      "ensure_ascii?",
      "indent?",
      "separators?",
      "sort_keys?",
    ]);
    let margin: string | undefined;
    if (indent instanceof Text) margin = indent.text;
    else if (indent !== undefined && indent !== null) {
      const width = Math.max(0, asInteger(indent, "indent"));
      budget.text(width);
      margin = " ".repeat(width);
    }
    const [item, key] =
      separators instanceof Sequence
        ? separators.items.map((part) => asText(part, "a separator").text)
        : [margin === undefined ? ", " : ",", ": "];
    return jsonOf(
      input,
      {
        ensureAscii: ascii !== undefined && isTrue(ascii),
        indent: margin,
        separators: [item ?? ", ", key ?? ": "],
        sortKeys: sortKeys !== undefined && isTrue(sortKeys),
      },
      budget,
    );
  },
  trim: (input, args, { budget }) => {
    const [characters] = bind("trim", args, ["chars?"]);
    return strip(textOf(input, budget), characters instanceof Text ? characters.text : undefined, true, true);
  },
  truncate: (input, args, { budget }) => {
    const [length, killWords, end, leeway] = bind("truncate", args, [
      "length?",
      "killwords?",
      "end?",
      "leeway?",
    ]);
    const text = textOf(input, budget);
    const most = length === undefined ? 255 : asInteger(length, "length");
    const ending = end === undefined ? Text.of("...") : textOf(end, budget);
    const points = pointsOf(text);
    if (most < lengthOf(ending.text)) fail(`expected length >= ${lengthOf(ending.text)}, got ${most}`);
    if (points.length <= most + (leeway === undefined || leeway === null ? 5 : asInteger(leeway, "leeway")))
      return text;
    const kept = Text.concat([Text.empty, ...points.slice(0, most - lengthOf(ending.text))]);
    if (killWords !== undefined && isTrue(killWords)) return Text.concat([kept, ending]);
    const cut = kept.text.lastIndexOf(" ");
    return Text.concat([cut < 0 ? kept : kept.slice(0, cut), ending]);
  },
  unique: (input, args, context) => {
    const [caseSensitive, attribute] = bind("unique", args, ["case_sensitive?", "attribute?"]);
    const at =
      attribute === undefined || attribute === null ? (value: Value) => value : pathOf(attribute, context);
    const seen = new Dict();
    const kept = itemsOf(input, context.budget).filter((item) => {
      const key = folded(at(item), caseSensitive !== undefined && isTrue(caseSensitive));
      if (seen.get(key) !== undefined) return false;
      seen.set(key, true);
      return true;
    });
    return new Sequence(kept, "generator");
  },
  upper: byCase((text) => text.toUpperCase()),
  urlencode: (input, _args, { budget }) => {
    const encode = (value: Value, slash: boolean) => {
      const text = textOf(value, budget);
      budget.text(text.length * 3);
      return text.map((part) =>
        encodeURIComponent(part.replace(/\p{Surrogate}/gu, "\uFFFD"))
          .replace(/[!'()*]/g, (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`)
          .replace(slash ? /%2F/g : /%20/g, slash ? "/" : "+"),
      );
    };
    if (input instanceof Text || numberOf(input) !== undefined) return encode(input, true);
    const pairs =
      input instanceof Dict ? input.pairs() : itemsOf(input, budget).map((pair) => itemsOf(pair, budget));
    return join(
      pairs.map(([key, value]) => Text.concat([encode(key!, false), Text.of("="), encode(value!, false)])),
      Text.of("&"),
      budget,
    );
  },
  wordcount: (input, _args, { budget }) => textOf(input, budget).text.match(/[\p{L}\p{N}_]+/gu)?.length ?? 0,
};

const is =
  (accepts: (input: Value) => boolean): Test =>
  (input) =>
    accepts(input);
const compares =
  (accepts: (order: number) => boolean): Test =>
  (input, args, { budget }) =>
    accepts(compare(input, given(args.positional[0], null), budget));
const equals: Test = (input, args, { budget }) => isEqual(input, bind("eq", args, ["other"])[0]!, budget);
const differs: Test = (input, args, context) => !equals(input, args, context);
const [less, lessOrEqual, greater, greaterOrEqual] = [
  compares((order) => order < 0),
  compares((order) => order <= 0),
  compares((order) => order > 0),
  compares((order) => order >= 0),
] as const;
const remainder = (input: Value, by: number): number => {
  const value = numberOf(input);
  if (value === undefined) return fail(`unsupported operand type(s) for %: '${typeOf(input)}' and 'int'`);
  if (by === 0) return fail("integer modulo by zero");
  return ((value % by) + by) % by;
};

const tests: Readonly<Record<string, Test>> = {
  "!=": differs,
  "<": less,
  "<=": lessOrEqual,
  "==": equals,
  ">": greater,
  ">=": greaterOrEqual,
  boolean: is((input) => typeof input === "boolean"),
  callable: is((input) => input instanceof Callable || (input instanceof Host && input.call !== undefined)),
  defined: is((input) => !(input instanceof Undefined)),
  divisibleby: (input, args) =>
    remainder(input, asInteger(bind("divisibleby", args, ["num"])[0], "num")) === 0,
  eq: equals,
  equalto: equals,
  escaped: () => false,
  even: (input) => remainder(input, 2) === 0,
  false: is((input) => input === false),
  filter: is((input) => input instanceof Text && Object.hasOwn(filters, input.text)),
  float: is((input) => input instanceof Float),
  ge: greaterOrEqual,
  greaterthan: greater,
  gt: greater,
  in: (input, args, { budget }) => contains(bind("in", args, ["seq"])[0]!, input, budget),
  integer: is((input) => typeof input === "number"),
  iterable: is(
    (input) =>
      input instanceof Text ||
      input instanceof Sequence ||
      input instanceof Dict ||
      input instanceof Undefined,
  ),
  le: lessOrEqual,
  lessthan: less,
  lower: (input, _args, { budget }) => {
    const { text } = textOf(input, budget);
    return /\p{Ll}/u.test(text) && text === text.toLowerCase();
  },
  lt: less,
  mapping: is((input) => input instanceof Dict),
  ne: differs,
  none: is((input) => input === null),
  number: is((input) => numberOf(input) !== undefined),
  odd: (input) => remainder(input, 2) === 1,
  sameas: (input, args) => {
    const [other] = bind("sameas", args, ["other"]);
    return input === other || (input instanceof Text && other instanceof Text && input.text === other.text);
  },
  sequence: is(
    (input) =>
      input instanceof Text ||
      input instanceof Dict ||
      input instanceof Undefined ||
      (input instanceof Sequence && input.kind !== "generator"),
  ),
  string: is((input) => input instanceof Text),
  test: is((input) => input instanceof Text && Object.hasOwn(tests, input.text)),
  true: is((input) => input === true),
  undefined: is((input) => input instanceof Undefined),
  upper: (input, _args, { budget }) => {
    const { text } = textOf(input, budget);
    return /\p{Lu}/u.test(text) && text === text.toUpperCase();
  },
};

/** `item in container`. */
export function contains(container: Value, item: Value, budget: Budget): boolean {
  if (container instanceof Text) {
    if (!(item instanceof Text))
      return fail(`'in <string>' requires string as left operand, not ${typeOf(item)}`);
    budget.spend(1 + container.length / 64);
    return container.text.includes(item.text);
  }
  if (container instanceof Dict) return container.get(item) !== undefined;
  if (container instanceof Sequence || container instanceof Undefined)
    return itemsOf(container, budget).some((other) => isEqual(other, item, budget));
  if (container instanceof Namespace) return fail("argument of type 'Namespace' is not iterable");
  return fail(`argument of type '${typeOf(container)}' is not iterable`);
}

/** Throws for a filter that jinja2 does not have. */
export function applyFilter(name: string, input: Value, args: CallArguments, context: Context): Value {
  const filter = Object.hasOwn(filters, name) ? filters[name] : undefined;
  return filter ? filter(input, args, context) : fail(`No filter named '${name}'.`);
}

/** Throws for a test that jinja2 does not have. */
export function applyTest(name: string, input: Value, args: CallArguments, context: Context): boolean {
  const test = Object.hasOwn(tests, name) ? tests[name] : undefined;
  return test ? test(input, args, context) : fail(`No test named '${name}'.`);
}
