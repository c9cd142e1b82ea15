import { type Context, applyFilter, applyTest, contains, noArguments } from "./filters.js";
import { asInteger, bind, formatPercent, methodOf, slice } from "./methods.js";
import {
  type Arguments,
  type BinaryOperator,
  type Expression,
  JinjaError,
  type MacroDefinition,
  type Statement,
  type Target,
  parseTemplate,
} from "./syntax.js";
import { Text, fromAssistant, fromUser } from "./text.js";
import {
  Budget,
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
  fromData,
  given,
  integer,
  isEqual,
  isTrue,
  itemsOf,
  numberOf,
  textOf,
  typeOf,
} from "./values.js";

/** What one rendering may use. */
export interface TemplateLimits {
  /** Characters of a template. Default 1,000,000. */
  readonly length: number;
  /** Steps of evaluation; an item of a list and 16 characters of a text count as one. Default 4,000,000. */
  readonly steps: number;
  /** Characters of any text that is made. Default 16,000,000. */
  readonly characters: number;
  readonly seconds: number;
}

export const templateLimits: TemplateLimits = {
  length: 1_000_000,
  steps: 4_000_000,
  characters: 16_000_000,
  seconds: 2,
};

export interface TemplateOptions {
  /** Whether what is not there fails where it is written, walked over or filtered, as jinja2's StrictUndefined. */
  readonly strict?: boolean;
}

/** Levels of macros and loops that call themselves. */
const maxCalls = 60;
/** The longest range that the sandbox of transformers allows. */
const maxRange = 100_000;

/**
 * A chat template: Jinja as jinja2 3.1 gives it in transformers' sandbox (`trim_blocks`, `lstrip_blocks`, loop controls,
 * `{% generation %}`), under limits, so that no model file can end or freeze the process.
 */
export class Template {
  private readonly body: readonly Statement[];

  /** Throws JinjaError for a text that is no template. */
  constructor(
    source: string,
    private readonly limits: TemplateLimits = templateLimits,
    private readonly options: TemplateOptions = {},
  ) {
    if (source.length > limits.length)
      throw new JinjaError(
        "limit",
        `it has ${source.length} characters, but at most ${limits.length} are taken`,
      );
    this.body = parseTemplate(source);
  }

  /**
   * @param data what the caller brings: its texts are marked as the user's
   * @param own what the model brings: special tokens
   * @param now for `strftime_now`
   * Throws JinjaError.
   */
  render(
    data: Readonly<Record<string, unknown>>,
    own: Readonly<Record<string, unknown>>,
    now = new Date(),
  ): Text {
    const { steps, seconds, characters } = this.limits;
    const budget = new Budget(steps, seconds, characters);
    try {
      const globals = new Scope(undefined);
      for (const [name, value] of builtins(budget, now)) globals.set(name, value);
      for (const [name, value] of Object.entries(own)) globals.set(name, fromData(value, 0));
      for (const [name, value] of Object.entries(data)) globals.set(name, fromData(value, fromUser));
      return new Run(budget, this.options.strict ?? false).write(this.body, new Scope(globals));
    } catch (error) {
      // Values may be nested as deep as the steps allow.
      if (error instanceof RangeError)
        throw new JinjaError("limit", "it nests values deeper than a template may");
      throw error;
    }
  }
}

class Scope {
  private readonly names = new Map<string, Value>();
  constructor(private readonly outer: Scope | undefined) {}

  get(name: string): Value | undefined {
    const own = this.names.get(name);
    return own === undefined ? this.outer?.get(name) : own;
  }
  set(name: string, value: Value): void {
    this.names.set(name, value);
  }
}

/** How a body ended: by its end, or by `break` or `continue`. */
type Ending = "end" | "break" | "continue";

class Run {
  private calls = 0;
  private readonly context: Context;

  constructor(
    private readonly budget: Budget,
    private readonly strict: boolean,
  ) {
    this.context = {
      budget,
      item: (object, key) => this.item(object, key),
      attribute: (object, name) => this.ownAttribute(object, name),
      filter: (name, input, args) => applyFilter(name, input, args, this.context),
      test: (name, input, args) => applyTest(name, input, args, this.context),
    };
  }

  /** The text of statements. */
  write(body: readonly Statement[], scope: Scope): Text {
    const out: Text[] = [];
    this.run(body, scope, out);
    return this.joined(out);
  }

  /** A value that is there, where the template is strict. */
  private present(value: Value): Value {
    return this.strict && value instanceof Undefined ? fail(value.message) : value;
  }

  private joined(out: readonly Text[]): Text {
    this.budget.text(out.reduce((sum, { length }) => sum + length, 0));
    return out.length === 0 ? Text.empty : Text.concat(out);
  }

  private run(body: readonly Statement[], scope: Scope, out: Text[]): Ending {
    for (const statement of body) {
      this.budget.spend();
      const ending = this.execute(statement, scope, out);
      if (ending !== "end") return ending;
    }
    return "end";
  }

  private execute(statement: Statement, scope: Scope, out: Text[]): Ending {
    switch (statement.type) {
      case "data":
        out.push(Text.of(statement.text));
        return "end";
      case "output":
        out.push(textOf(this.present(this.evaluate(statement.value, scope)), this.budget));
        return "end";
      case "if": {
        const branch = statement.branches.find(({ test }) => isTrue(this.evaluate(test, scope)));
        return this.run(branch?.body ?? statement.otherwise, scope, out);
      }
      case "for":
        this.loop(statement, this.present(this.evaluate(statement.iterable, scope)), scope, out, 0);
        return "end";
      case "set":
        this.assign(statement.target, this.evaluate(statement.value, scope), scope);
        return "end";
      case "setBlock": {
        let value: Value = this.write(statement.body, new Scope(scope));
        if (statement.filter) value = this.filtered(statement.filter, value, scope);
        this.assign(statement.target, value, scope);
        return "end";
      }
      case "macro":
        scope.set(statement.macro.name, this.macro(statement.macro, scope));
        return "end";
      case "callBlock": {
        const { call, macro } = statement;
        if (call.type !== "call") return fail("expected a call");
        const callee = this.evaluate(call.callee, scope);
        const { positional, named } = this.arguments(call.args, scope);
        const all = new Map(named).set("caller", this.macro(macro, scope));
        out.push(textOf(this.call(callee, { positional, named: all }), this.budget));
        return "end";
      }
      case "filterBlock": {
        const text = this.write(statement.body, new Scope(scope));
        out.push(textOf(this.filtered(statement.filter, text, scope), this.budget));
        return "end";
      }
      case "with": {
        const inner = new Scope(scope);
        statement.targets.forEach((target, index) => {
          this.assign(target, this.evaluate(statement.values[index]!, scope), inner);
        });
        return this.run(statement.body, inner, out);
      }
      case "scope": {
        const text = this.write(statement.body, new Scope(scope));
        out.push(statement.assistant ? text.flagged(fromAssistant) : text);
        return "end";
      }
      case "break":
      case "continue":
        return statement.type;
    }
  }

  private loop(
    statement: Statement & { readonly type: "for" },
    iterable: Value,
    scope: Scope,
    out: Text[],
    depth: number,
  ): void {
    if (iterable instanceof Undefined && depth > 0) fail(iterable.message);
    let items = itemsOf(iterable, this.budget);
    const { filter } = statement;
    if (filter) {
      items = items.filter((item) => {
        const inner = new Scope(scope);
        this.assign(statement.target, item, inner);
        return isTrue(this.evaluate(filter, inner));
      });
    }
    let index = 0;
    let changed: Value | undefined;
    const attributes = new Map<string, () => Value>([
      ["index", () => index + 1],
      ["index0", () => index],
      ["revindex", () => items.length - index],
      ["revindex0", () => items.length - index - 1],
      ["first", () => index === 0],
      ["last", () => index === items.length - 1],
      ["length", () => items.length],
      ["depth", () => depth + 1],
      ["depth0", () => depth],
      ["previtem", () => (index > 0 ? items[index - 1]! : new Undefined("there is no previous item"))],
      ["nextitem", () => given(items[index + 1], new Undefined("there is no next item"))],
      [
        "cycle",
        () =>
          new Callable("cycle", ({ positional }) =>
            positional.length === 0
              ? fail("no items for cycling given")
              : positional[index % positional.length]!,
          ),
      ],
      [
        "changed",
        () =>
          new Callable("changed", ({ positional }) => {
            const now = new Sequence(positional, "tuple");
            const different = changed === undefined || !isEqual(changed, now, this.budget);
            changed = now;
            return different;
          }),
      ],
    ]);
    const again = (args: CallArguments): Value => {
      if (!statement.recursive)
        return fail("The loop must have the 'recursive' marker to be called recursively.");
      const [inside] = bind("loop", args, ["iterable"]);
      return this.nested(() => {
        const parts: Text[] = [];
        this.loop(statement, inside!, scope, parts, depth + 1);
        return this.joined(parts);
      });
    };
    const loop = new Host("LoopContext", attributes, again);
    for (; index < items.length; index++) {
      const inner = new Scope(scope);
      inner.set("loop", loop);
      this.assign(statement.target, items[index]!, inner);
      if (this.run(statement.body, inner, out) === "break") break;
    }
    if (items.length === 0) this.run(statement.otherwise, new Scope(scope), out);
  }

  private assign(target: Target, value: Value, scope: Scope): void {
    this.budget.spend();
    if (target.type === "name") scope.set(target.name, value);
    else if (target.type === "namespace") {
      const namespace = scope.get(target.name);
      if (!(namespace instanceof Namespace)) fail("cannot assign attribute on non-namespace object");
      else namespace.attributes.set(target.attribute, value);
    } else {
      const items = itemsOf(value, this.budget);
      if (items.length !== target.items.length)
        fail(`cannot unpack ${items.length} values into ${target.items.length} names`);
      target.items.forEach((part, index) => {
        this.assign(part, items[index]!, scope);
      });
    }
  }

  private nested<T>(call: () => T): T {
    if (++this.calls > maxCalls)
      throw new JinjaError("limit", `its macros call each other more than ${maxCalls} levels deep`);
    const result = call();
    this.calls--;
    return result;
  }

  private macro(definition: MacroDefinition, scope: Scope): Callable {
    const { name, parameters, body, usesCaller, usesVarargs, usesKwargs } = definition;
    return new Callable(name, ({ positional, named }) =>
      this.nested(() => {
        const inner = new Scope(scope);
        const left = new Map(named);
        if (usesCaller) {
          inner.set("caller", given(left.get("caller"), new Undefined("No caller defined")));
          left.delete("caller");
        }
        for (const [index, { name: parameter, standard }] of parameters.entries()) {
          let value = positional[index];
          if (value !== undefined && left.has(parameter))
            fail(`macro '${name}' got multiple values for argument '${parameter}'`);
          if (value === undefined) value = left.get(parameter);
          left.delete(parameter);
          if (value === undefined && standard) value = this.evaluate(standard, inner);
          inner.set(parameter, given(value, new Undefined(`parameter '${parameter}' was not provided`)));
        }
        if (usesVarargs) inner.set("varargs", new Sequence(positional.slice(parameters.length), "tuple"));
        else if (positional.length > parameters.length)
          fail(`macro '${name}' takes not more than ${parameters.length} argument(s)`);
        if (usesKwargs)
          inner.set("kwargs", Dict.of([...left].map(([key, value]) => [Text.of(key), value] as const)));
        else if (left.size > 0) fail(`macro '${name}' takes no keyword argument '${[...left.keys()][0]!}'`);
        return this.write(body, inner);
      }),
    );
  }

  // ---- expressions ----

  private evaluate(expression: Expression, scope: Scope): Value {
    this.budget.spend();
    switch (expression.type) {
      case "constant": {
        const { value } = expression;
        if (typeof value === "string") return Text.of(value);
        if (typeof value === "number") return integer(value);
        return typeof value === "object" && value !== null ? new Float(value.float) : value;
      }
      case "name":
        return given(scope.get(expression.name), new Undefined(`'${expression.name}' is undefined`));
      case "list":
      case "tuple":
        return new Sequence(
          expression.items.map((item) => this.evaluate(item, scope)),
          expression.type,
        );
      case "dict":
        return Dict.of(
          expression.entries.map(
            ([key, value]) => [this.evaluate(key, scope), this.evaluate(value, scope)] as const,
          ),
        );
      case "attribute":
        return this.attribute(this.evaluate(expression.object, scope), expression.name);
      case "item":
        return this.subscript(expression.object, expression.key, scope);
      case "slice":
        return fail("a slice stands in brackets");
      case "call": {
        const callee = this.evaluate(expression.callee, scope);
        return this.call(callee, this.arguments(expression.args, scope));
      }
      case "filter": {
        if (!expression.input) return fail("a filter needs a value");
        const value = this.evaluate(expression.input, scope);
        const input = /^(d|default)$/.test(expression.name) ? value : this.present(value);
        return applyFilter(expression.name, input, this.arguments(expression.args, scope), this.context);
      }
      case "test":
        return applyTest(
          expression.name,
          this.evaluate(expression.input, scope),
          this.arguments(expression.args, scope),
          this.context,
        );
      case "not":
        return !isTrue(this.evaluate(expression.operand, scope));
      case "negative":
      case "positive": {
        const operand = this.evaluate(expression.operand, scope);
        const value = numberOf(operand);
        if (value === undefined)
          return fail(
            operand instanceof Undefined
              ? operand.message
              : `bad operand type for unary -: '${typeOf(operand)}'`,
          );
        const signed = expression.type === "negative" ? -value : value;
        return operand instanceof Float ? new Float(signed) : integer(signed);
      }
      case "and": {
        const left = this.evaluate(expression.left, scope);
        return isTrue(left) ? this.evaluate(expression.right, scope) : left;
      }
      case "or": {
        const left = this.evaluate(expression.left, scope);
        return isTrue(left) ? left : this.evaluate(expression.right, scope);
      }
      case "concat":
        return this.joined(expression.parts.map((part) => textOf(this.evaluate(part, scope), this.budget)));
      case "binary":
        return this.binary(
          expression.operator,
          this.evaluate(expression.left, scope),
          this.evaluate(expression.right, scope),
        );
      case "compare": {
        let left = this.evaluate(expression.first, scope);
        for (const { operator, operand } of expression.rest) {
          const right = this.evaluate(operand, scope);
          if (!this.compares(operator, left, right)) return false;
          left = right;
        }
        return true;
      }
      case "condition":
        if (isTrue(this.evaluate(expression.test, scope))) return this.evaluate(expression.then, scope);
        return expression.otherwise
          ? this.evaluate(expression.otherwise, scope)
          : new Undefined("the inline if-expression evaluated to false and no else section was defined");
    }
  }

  private compares(operator: string, left: Value, right: Value): boolean {
    const { budget } = this;
    switch (operator) {
      case "==":
        return isEqual(left, right, budget);
      case "!=":
        return !isEqual(left, right, budget);
      case "in":
        return contains(right, left, budget);
      case "not in":
        return !contains(right, left, budget);
      case "<":
        return compare(left, right, budget) < 0;
      case "<=":
        return compare(left, right, budget) <= 0;
      case ">":
        return compare(left, right, budget) > 0;
      default:
        return compare(left, right, budget) >= 0;
    }
  }

  /** A filter and the ones before it, the innermost of which gets the value where it has no input of its own. */
  private filtered(filter: Expression, value: Value, scope: Scope): Value {
    if (filter.type !== "filter") return fail("expected a filter");
    const input = filter.input ? this.filtered(filter.input, value, scope) : value;
    return applyFilter(filter.name, input, this.arguments(filter.args, scope), this.context);
  }

  private arguments(args: Arguments, scope: Scope): CallArguments {
    if (args.positional.length === 0 && args.named.length === 0 && !args.spread && !args.spreadNamed)
      return noArguments;
    const positional = args.positional.map((value) => this.evaluate(value, scope));
    if (args.spread)
      for (const item of itemsOf(this.evaluate(args.spread, scope), this.budget)) positional.push(item);
    const named = new Map(args.named.map(([name, value]) => [name, this.evaluate(value, scope)] as const));
    if (args.spreadNamed) {
      const dict = this.evaluate(args.spreadNamed, scope);
      if (!(dict instanceof Dict)) return fail("argument after ** must be a mapping");
      for (const [key, value] of dict.pairs()) named.set(textOf(key, this.budget).text, value);
    }
    return { positional, named };
  }

  private call(callee: Value, args: CallArguments): Value {
    if (callee instanceof Callable) return callee.call(args);
    if (callee instanceof Host && callee.call) return callee.call(args);
    return fail(callee instanceof Undefined ? callee.message : `'${typeOf(callee)}' object is not callable`);
  }

  /** `object.name`: Python's attribute, or else the item of that name. */
  private attribute(object: Value, name: string): Value {
    const value = this.ownAttribute(object, name);
    if (object instanceof Dict && value instanceof Undefined) return given(object.get(Text.of(name)), value);
    return value;
  }

  private ownAttribute(object: Value, name: string): Value {
    if (object instanceof Undefined) return fail(object.message);
    let value: Value | undefined;
    if (object instanceof Namespace) value = object.attributes.get(name);
    else if (object instanceof Host) value = object.attributes.get(name)?.();
    else value = methodOf(object, name, this.budget);
    return given(value, new Undefined(`'${describe(object)}' has no attribute '${name}'`));
  }

  /** `object[key]`: the item, or else Python's attribute. */
  private item(object: Value, key: Value): Value {
    if (object instanceof Undefined) return fail(object.message);
    if (object instanceof Dict) {
      const value = object.get(key);
      if (value !== undefined) return value;
    }
    if (typeof key === "number" || typeof key === "boolean") {
      const at = Number(key);
      if (object instanceof Sequence && object.kind !== "generator") {
        const value = object.items[at < 0 ? at + object.items.length : at];
        if (value !== undefined) return value;
      }
      if (object instanceof Text) {
        const value = slice(object, [at, at === -1 ? undefined : at + 1], this.budget) as Text;
        if (value.text !== "") return value;
      }
    }
    if (key instanceof Text) {
      const value =
        object instanceof Dict ? methodOf(object, key.text, this.budget) : this.attribute(object, key.text);
      if (value !== undefined) return value;
    }
    return new Undefined(
      key instanceof Text
        ? `'${describe(object)}' has no attribute '${key.text}'`
        : `${describe(object)} has no element ${textOf(key, this.budget).text}`,
    );
  }

  private subscript(of: Expression, key: Expression, scope: Scope): Value {
    const object = this.evaluate(of, scope);
    if (key.type !== "slice") return this.item(object, this.evaluate(key, scope));
    if (object instanceof Undefined) return fail(object.message);
    const bounds = [key.start, key.stop, key.step].map((bound) => {
      const value = bound && this.evaluate(bound, scope);
      return value === undefined || value === null ? undefined : asInteger(value, "slice indices");
    });
    return slice(object, bounds, this.budget);
  }

  private binary(operator: BinaryOperator, left: Value, right: Value): Value {
    const { budget } = this;
    for (const side of [left, right]) if (side instanceof Undefined) return fail(side.message);
    const [a, b] = [numberOf(left), numberOf(right)];
    if (operator === "%" && left instanceof Text) return formatPercent(left, right, budget);
    if (a !== undefined && b !== undefined)
      return arithmetic(operator, a, b, left instanceof Float || right instanceof Float);
    if (operator === "+") {
      if (left instanceof Text && right instanceof Text) {
        if (left.length + right.length > budget.maxLength) budget.text(left.length + right.length);
        budget.spend(1 + left.parts + right.parts + Math.min(left.length, right.length) / 16);
        return Text.concat([left, right]);
      }
      if (
        left instanceof Sequence &&
        right instanceof Sequence &&
        left.kind === right.kind &&
        left.kind !== "generator"
      ) {
        budget.spend(left.items.length + right.items.length);
        return new Sequence([...left.items, ...right.items], left.kind);
      }
    }
    if (operator === "*") {
      const [value, times] = typeof right === "number" ? [left, right] : [right, left];
      const count = typeof times === "number" ? Math.max(0, times) : undefined;
      if (count !== undefined && value instanceof Text) {
        budget.text(value.length * count);
        return value.parts === 0
          ? Text.of(value.text.repeat(count))
          : Text.concat([Text.empty, ...Array.from({ length: count }, () => value)]);
      }
      if (count !== undefined && value instanceof Sequence && value.kind !== "generator") {
        budget.spend(value.items.length * count);
        return new Sequence(Array.from({ length: count }, () => value.items).flat(), value.kind);
      }
    }
    return fail(`unsupported operand type(s) for ${operator}: '${typeOf(left)}' and '${typeOf(right)}'`);
  }
}

const describe = (value: Value): string => (value === null ? "None" : `${typeOf(value)} object`);

function arithmetic(operator: BinaryOperator, a: number, b: number, float: boolean): Value {
  const result = (value: number) => (float ? new Float(value) : integer(value));
  if (b === 0 && ["/", "//", "%"].includes(operator)) fail("division by zero");
  switch (operator) {
    case "+":
      return result(a + b);
    case "-":
      return result(a - b);
    case "*":
      return result(a * b);
    case "/":
      return new Float(a / b);
    case "//":
      return result(Math.floor(a / b));
    case "%": {
      const rest = a % b;
      return result(rest !== 0 && rest < 0 !== b < 0 ? rest + b : rest);
    }
    case "**":
      return b < 0 ? new Float(a ** b) : result(a ** b);
  }
}

function builtins(budget: Budget, now: Date): [string, Value][] {
  const host = (name: string, call: Callable["call"]): [string, Value] => [name, new Callable(name, call)];
  return [
    host("range", (args) => {
      const numbers = args.positional.map((value) => asInteger(value, "range"));
      if (args.named.size > 0 || numbers.length < 1 || numbers.length > 3)
        fail("range takes 1 to 3 integers");
      const [start, stop, step] =
        numbers.length === 1 ? [0, numbers[0]!, 1] : [numbers[0]!, numbers[1]!, numbers[2] ?? 1];
      if (step === 0) fail("range() arg 3 must not be zero");
      const count = Math.max(0, Math.ceil((stop - start) / step));
      if (count > maxRange)
        throw new JinjaError("limit", `it asks for a range of more than ${maxRange} numbers`);
      budget.spend(count);
      return new Sequence(Array.from({ length: count }, (_, index) => start + index * step));
    }),
    host("dict", ({ positional, named }) => {
      const dict = new Dict();
      const [base] = positional;
      if (base instanceof Dict) for (const [key, value] of base.pairs()) dict.set(key, value);
      else if (base !== undefined)
        for (const pair of itemsOf(base, budget)) {
          const [key, value] = itemsOf(pair, budget);
          dict.set(key!, value!);
        }
      for (const [key, value] of named) dict.set(Text.of(key), value);
      budget.spend(dict.size);
      return dict;
    }),
    host("namespace", ({ positional, named }) => {
      const namespace = new Namespace();
      const [base] = positional;
      if (base instanceof Dict)
        for (const [key, value] of base.pairs()) namespace.attributes.set(textOf(key, budget).text, value);
      for (const [key, value] of named) namespace.attributes.set(key, value);
      return namespace;
    }),
    host("cycler", ({ positional }) => {
      let at = 0;
      if (positional.length === 0) fail("at least one item has to be provided");
      return new Host(
        "Cycler",
        new Map<string, () => Value>([
          ["current", () => positional[at]!],
          ["next", () => new Callable("next", () => positional[at++ % positional.length]!)],
          [
            "reset",
            () =>
              new Callable("reset", () => {
                at = 0;
                return null;
              }),
          ],
        ]),
      );
    }),
    host("joiner", (args) => {
      const [separator] = bind("joiner", args, ["sep?"]);
      let used = false;
      return new Host("Joiner", new Map(), () => {
        const before = used;
        used = true;
        return before ? given(separator, Text.of(", ")) : Text.empty;
      });
    }),
    host("raise_exception", (args) => {
      const [message] = bind("raise_exception", args, ["message"]);
      throw new JinjaError("raised", textOf(message!, budget).text);
    }),
    host("strftime_now", (args) => {
      const [format] = bind("strftime_now", args, ["format"]);
      return textOf(format!, budget).map((text) => strftime(now, text));
    }),
  ];
}

const days = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const months = [
  ...["January", "February", "March", "April", "May", "June"],
  ...["July", "August", "September", "October", "November", "December"],
];

/** C's `strftime` in local time and the C locale. */
function strftime(date: Date, format: string): string {
  const two = (value: number, fill = "0") => String(value).padStart(2, fill);
  const hour12 = date.getHours() % 12 || 12;
  const start = new Date(date.getFullYear(), 0, 1);
  const day = Math.round(
    (new Date(date.getFullYear(), date.getMonth(), date.getDate()).getTime() - start.getTime()) / 86_400_000,
  );
  const fields: Readonly<Record<string, () => string>> = {
    a: () => days[date.getDay()]!.slice(0, 3),
    A: () => days[date.getDay()]!,
    b: () => months[date.getMonth()]!.slice(0, 3),
    h: () => months[date.getMonth()]!.slice(0, 3),
    B: () => months[date.getMonth()]!,
    c: () => strftime(date, "%a %b %e %H:%M:%S %Y"),
    d: () => two(date.getDate()),
    D: () => strftime(date, "%m/%d/%y"),
    e: () => two(date.getDate(), " "),
    f: () => `${String(date.getMilliseconds()).padStart(3, "0")}000`,
    F: () => strftime(date, "%Y-%m-%d"),
    H: () => two(date.getHours()),
    I: () => two(hour12),
    j: () => String(day + 1).padStart(3, "0"),
    m: () => two(date.getMonth() + 1),
    M: () => two(date.getMinutes()),
    n: () => "\n",
    p: () => (date.getHours() < 12 ? "AM" : "PM"),
    R: () => strftime(date, "%H:%M"),
    s: () => String(Math.floor(date.getTime() / 1000)),
    S: () => two(date.getSeconds()),
    t: () => "\t",
    T: () => strftime(date, "%H:%M:%S"),
    u: () => String(date.getDay() || 7),
    U: () => two(Math.floor((day + 7 - date.getDay()) / 7)),
    w: () => String(date.getDay()),
    W: () => two(Math.floor((day + 7 - ((date.getDay() + 6) % 7)) / 7)),
    x: () => strftime(date, "%m/%d/%y"),
    X: () => strftime(date, "%H:%M:%S"),
    y: () => two(date.getFullYear() % 100),
    Y: () => String(date.getFullYear()),
    z: () => "",
    Z: () => "",
    "%": () => "%",
  };
  return format.replace(/%(-?)([a-zA-Z%])/g, (whole, plain: string, letter: string) => {
    const text = Object.hasOwn(fields, letter) ? fields[letter]!() : whole;
    return plain === "-" ? text.replace(/^[0 ](?=.)/, "") : text;
  });
}
