/** What can go wrong with a template: its grammar, its own refusal, an operation, or a limit. */
export class JinjaError extends Error {
  constructor(
    readonly kind: "syntax" | "raised" | "operation" | "limit",
    message: string,
  ) {
    super(message);
  }
}

export type Expression =
  | {
      readonly type: "constant";
      readonly value: string | boolean | null | number | { readonly float: number };
    }
  | { readonly type: "name"; readonly name: string }
  | { readonly type: "list" | "tuple"; readonly items: readonly Expression[] }
  | { readonly type: "dict"; readonly entries: readonly (readonly [Expression, Expression])[] }
  | { readonly type: "attribute"; readonly object: Expression; readonly name: string }
  | { readonly type: "item"; readonly object: Expression; readonly key: Expression }
  | {
      readonly type: "slice";
      readonly start: Expression | undefined;
      readonly stop: Expression | undefined;
      readonly step: Expression | undefined;
    }
  | { readonly type: "call"; readonly callee: Expression; readonly args: Arguments }
  | {
      readonly type: "filter";
      readonly input: Expression | undefined;
      readonly name: string;
      readonly args: Arguments;
    }
  | { readonly type: "test"; readonly input: Expression; readonly name: string; readonly args: Arguments }
  | { readonly type: "not" | "negative" | "positive"; readonly operand: Expression }
  | { readonly type: "and" | "or"; readonly left: Expression; readonly right: Expression }
  | { readonly type: "concat"; readonly parts: readonly Expression[] }
  | {
      readonly type: "binary";
      readonly operator: BinaryOperator;
      readonly left: Expression;
      readonly right: Expression;
    }
  | {
      readonly type: "compare";
      readonly first: Expression;
      readonly rest: readonly { readonly operator: CompareOperator; readonly operand: Expression }[];
    }
  | {
      readonly type: "condition";
      readonly test: Expression;
      readonly then: Expression;
      readonly otherwise: Expression | undefined;
    };

export type BinaryOperator = "+" | "-" | "*" | "/" | "//" | "%" | "**";
export type CompareOperator = "==" | "!=" | "<" | "<=" | ">" | ">=" | "in" | "not in";

export interface Arguments {
  readonly positional: readonly Expression[];
  readonly named: readonly (readonly [name: string, value: Expression])[];
  readonly spread: Expression | undefined;
  readonly spreadNamed: Expression | undefined;
}

export type Target =
  | { readonly type: "name"; readonly name: string }
  | { readonly type: "namespace"; readonly name: string; readonly attribute: string }
  | { readonly type: "tuple"; readonly items: readonly Target[] };

export interface MacroDefinition {
  readonly name: string;
  readonly parameters: readonly { readonly name: string; readonly standard: Expression | undefined }[];
  readonly body: readonly Statement[];
  /** Whether the body asks for what a macro need not declare. */
  readonly usesCaller: boolean;
  readonly usesVarargs: boolean;
  readonly usesKwargs: boolean;
}

export type Statement =
  | { readonly type: "data"; readonly text: string }
  | { readonly type: "output"; readonly value: Expression }
  | {
      readonly type: "for";
      readonly target: Target;
      readonly iterable: Expression;
      readonly filter: Expression | undefined;
      readonly recursive: boolean;
      readonly body: readonly Statement[];
      readonly otherwise: readonly Statement[];
    }
  | {
      readonly type: "if";
      readonly branches: readonly { readonly test: Expression; readonly body: readonly Statement[] }[];
      readonly otherwise: readonly Statement[];
    }
  | { readonly type: "set"; readonly target: Target; readonly value: Expression }
  | {
      readonly type: "setBlock";
      readonly target: Target;
      readonly filter: Expression | undefined;
      readonly body: readonly Statement[];
    }
  | { readonly type: "macro"; readonly macro: MacroDefinition }
  | { readonly type: "callBlock"; readonly call: Expression; readonly macro: MacroDefinition }
  | { readonly type: "filterBlock"; readonly filter: Expression; readonly body: readonly Statement[] }
  | {
      readonly type: "with";
      readonly targets: readonly Target[];
      readonly values: readonly Expression[];
      readonly body: readonly Statement[];
    }
  | { readonly type: "scope"; readonly assistant: boolean; readonly body: readonly Statement[] }
  | { readonly type: "break" }
  | { readonly type: "continue" };

interface Token {
  readonly type: "data" | "begin" | "end" | "name" | "string" | "integer" | "float" | "operator" | "eof";
  readonly value: string;
  readonly line: number;
}

const operators = [
  ...["**", "//", "==", "!=", "<=", ">="],
  ..."+-/*%~[](){}><=.:|,;".split(""),
] as readonly string[];
const closing: Readonly<Record<string, string>> = { "(": ")", "[": "]", "{": "}" };

/**
 * Tokens of a template, as jinja2's lexer gives them with `trim_blocks` and `lstrip_blocks`: a line feed after a block
 * goes, and so does white space before a block that begins its line. Variables are `begin "{{"`, blocks `begin "{%"`.
 */
function tokenize(template: string): Token[] {
  const source = template.replace(/\r\n|\r/g, "\n").replace(/\n$/, "");
  const tokens: Token[] = [];
  let at = 0;
  let line = 1;
  let lineStarting = true;
  const advance = (text: string): void => {
    if (text === "") return;
    at += text.length;
    for (let place = text.indexOf("\n"); place >= 0; place = text.indexOf("\n", place + 1)) line++;
    lineStarting = text.endsWith("\n");
  };
  const match = (pattern: RegExp): RegExpExecArray | null => {
    pattern.lastIndex = at;
    return pattern.exec(source);
  };
  const fail = (reason: string): never => {
    throw new JinjaError("syntax", `line ${line}: ${reason}`);
  };
  const data = (text: string, sign: string, strips: boolean): void => {
    let kept = text;
    if (sign === "-") kept = text.trimEnd();
    else if (sign !== "+" && strips) {
      const start = text.lastIndexOf("\n") + 1;
      if ((start > 0 || lineStarting) && text.slice(start).trim() === "") kept = text.slice(0, start);
    }
    if (kept !== "") tokens.push({ type: "data", value: kept, line });
  };
  while (at < source.length) {
    const opening = match(/\{(?:%([-+]?)\s*raw\s*(?:(-%\}\s*)|%\})|([%#{])([-+]?))/g);
    if (!opening) {
      data(source.slice(at), "+", false);
      break;
    }
    const raw = opening[3] === undefined;
    data(source.slice(at, opening.index), (raw ? opening[1] : opening[4]) ?? "", opening[3] !== "{");
    advance(source.slice(at, opening.index + opening[0].length));
    if (raw) {
      const end = match(/\{%([-+]?)\s*endraw\s*(?:\+%\}|-%\}\s*|%\}\n?)/g);
      if (!end) return fail("a raw block is never closed");
      data(source.slice(at, end.index), end[1] ?? "", true);
      advance(source.slice(at, end.index + end[0].length));
    } else if (opening[3] === "#") {
      const end = match(/(?:\+#\}|-#\}\s*|#\}\n?)/g);
      if (!end) return fail("a comment is never closed");
      advance(source.slice(at, end.index + end[0].length));
    } else {
      tokens.push({ type: "begin", value: `{${opening[3]!}`, line });
      const end = opening[3] === "{" ? /-\}\}\s*|\}\}/y : /\+%\}|-%\}\s*|%\}\n?/y;
      const brackets: string[] = [];
      for (;;) {
        advance(match(/\s*/y)![0]);
        if (at >= source.length) return fail("a tag is never closed");
        const close = brackets.length === 0 ? match(end) : null;
        if (close) {
          tokens.push({ type: "end", value: `${opening[3]!}}`, line });
          advance(close[0]);
          break;
        }
        const number = match(/(?:0b(?:_?[01])+|0o(?:_?[0-7])+|0x(?:_?[\da-f])+|[1-9](?:_?\d)*|0(?:_?0)*)/iy);
        const float = match(/(?<!\.)(?:\d+_)*\d+(?:(?:\.(?:\d+_)*\d+)?e[+-]?(?:\d+_)*\d+|\.(?:\d+_)*\d+)/iy);
        const name = match(/[\p{L}\p{Nl}_][\p{L}\p{Nl}\p{Mn}\p{Mc}\p{Nd}\p{Pc}]*/uy);
        const string = match(/'[^'\\]*(?:\\[^][^'\\]*)*'|"[^"\\]*(?:\\[^][^"\\]*)*"/y);
        const [type, text] = float
          ? (["float", float[0]] as const)
          : number
            ? (["integer", number[0]] as const)
            : name
              ? (["name", name[0]] as const)
              : string
                ? (["string", string[0]] as const)
                : (["operator", operators.find((operator) => source.startsWith(operator, at))] as const);
        if (text === undefined) return fail(`unexpected character ${JSON.stringify(source[at])}`);
        if (type === "operator") {
          if (closing[text]) brackets.push(closing[text]);
          else if (")]}".includes(text) && brackets.pop() !== text) return fail(`unexpected ${text}`);
        }
        tokens.push({ type, value: text, line });
        advance(text);
      }
    }
  }
  tokens.push({ type: "eof", value: "", line });
  return tokens;
}

const escapes: Readonly<Record<string, string>> = {
  n: "\n",
  t: "\t",
  r: "\r",
  b: "\b",
  f: "\f",
  v: "\v",
  a: "\x07",
  "\\": "\\",
  "'": "'",
  '"': '"',
  "\n": "",
};

/** The value of a string literal with Python's escapes. */
const unquote = (literal: string): string =>
  literal
    .slice(1, -1)
    .replace(
      /\\(?:x([\da-fA-F]{2})|u([\da-fA-F]{4})|U([\da-fA-F]{8})|([0-7]{1,3})|([^]))/g,
      (whole, x?: string, u?: string, long?: string, octal?: string, one?: string) => {
        const hexadecimal = x ?? u ?? long;
        if (hexadecimal !== undefined) {
          const code = parseInt(hexadecimal, 16);
          if (code > 0x10ffff) throw new JinjaError("syntax", `there is no character ${whole}`);
          return String.fromCodePoint(code);
        }
        if (octal !== undefined) return String.fromCharCode(parseInt(octal, 8));
        return escapes[one!] ?? whole;
      },
    );

/** The deepest nesting of blocks, brackets and operators in a template. */
const maxDepth = 100;
const keywords = new Set(["not", "and", "or", "if", "else", "is", "in"]);

/** The statements of a template. Throws JinjaError for one that jinja2 would not compile either. */
export function parseTemplate(template: string): Statement[] {
  return new Parser(tokenize(template)).template();
}

class Parser {
  private at = 0;
  private depth = 0;
  /** Names that the macros being read use, innermost last. */
  private readonly used: Set<string>[] = [];

  constructor(private readonly tokens: readonly Token[]) {}

  template(): Statement[] {
    const { body, end } = this.body([]);
    if (end !== "") this.fail(`unexpected ${end}`);
    return body;
  }

  // ---- tokens ----

  private get current(): Token {
    return this.tokens[this.at]!;
  }
  private next(): Token {
    return this.tokens[this.at++]!;
  }
  private is(type: Token["type"], value?: string, ahead = 0): boolean {
    const token = this.tokens[this.at + ahead];
    return token?.type === type && (value === undefined || token.value === value);
  }
  private skip(type: Token["type"], value?: string): boolean {
    const found = this.is(type, value);
    if (found) this.at++;
    return found;
  }
  private expect(type: Token["type"], value?: string): Token {
    if (!this.is(type, value))
      this.fail(`expected ${value ?? `a ${type}`}, not ${this.current.value || "the end of the template"}`);
    return this.next();
  }
  private fail(reason: string): never {
    throw new JinjaError("syntax", `line ${this.current.line}: ${reason}`);
  }
  private deeper<T>(read: () => T): T {
    if (++this.depth > maxDepth) this.fail(`nested deeper than ${maxDepth} levels`);
    const result = read();
    this.depth--;
    return result;
  }

  // ---- statements ----

  /** Statements up to a block that begins with one of `ends`, whose name is read. */
  private body(ends: readonly string[]): { body: Statement[]; end: string } {
    return this.deeper(() => {
      const body: Statement[] = [];
      for (;;) {
        const token = this.next();
        if (token.type === "eof") {
          if (ends.length > 0) {
            this.at--;
            this.fail(`a block is never closed: expected ${ends.join(" or ")}`);
          }
          return { body, end: "" };
        }
        if (token.type === "data") body.push({ type: "data", text: token.value });
        else if (token.value === "{{") {
          body.push({ type: "output", value: this.tuple() });
          this.expect("end");
        } else {
          const name = this.expect("name").value;
          if (ends.includes(name)) return { body, end: name };
          body.push(this.statement(name));
        }
      }
    });
  }

  private closed(end: string): Statement[] {
    this.expect("end");
    const { body } = this.body([end]);
    this.expect("end");
    return body;
  }

  private statement(name: string): Statement {
    switch (name) {
      case "for":
        return this.forLoop();
      case "if":
        return this.condition();
      case "set":
        return this.assignment();
      case "macro": {
        const macro = this.expect("name").value;
        return { type: "macro", macro: this.macro(macro, this.signature(), "endmacro") };
      }
      case "call": {
        const parameters = this.is("operator", "(") ? this.signature() : [];
        const call = this.expression();
        if (call.type !== "call") this.fail("expected a call");
        return { type: "callBlock", call, macro: this.macro("caller", parameters, "endcall") };
      }
      case "filter": {
        const filter = this.filters(undefined, true);
        return { type: "filterBlock", filter: filter!, body: this.closed("endfilter") };
      }
      case "with": {
        const targets: Target[] = [];
        const values: Expression[] = [];
        while (!this.is("end")) {
          if (targets.length > 0) this.expect("operator", ",");
          targets.push(this.target());
          this.expect("operator", "=");
          values.push(this.expression());
        }
        return { type: "with", targets, values, body: this.closed("endwith") };
      }
      case "block":
        this.expect("name");
        this.skip("name", "required");
        this.expect("end");
        return { type: "scope", assistant: false, body: this.blockBody() };
      case "generation":
        return { type: "scope", assistant: true, body: this.closed("endgeneration") };
      case "break":
      case "continue":
        this.expect("end");
        return { type: name };
      default:
        this.at--;
        return this.fail(
          ["include", "import", "from", "extends"].includes(name)
            ? `${name}: a chat template stands alone`
            : `unknown tag ${JSON.stringify(name)}`,
        );
    }
  }

  private blockBody(): Statement[] {
    const { body } = this.body(["endblock"]);
    this.skip("name");
    this.expect("end");
    return body;
  }

  private forLoop(): Statement {
    const target = this.targets(true);
    this.expect("name", "in");
    const iterable = this.tuple(false);
    const filter = this.skip("name", "if") ? this.expression() : undefined;
    const recursive = this.skip("name", "recursive");
    this.expect("end");
    const { body, end } = this.body(["endfor", "else"]);
    this.expect("end");
    let otherwise: Statement[] = [];
    if (end === "else") {
      otherwise = this.body(["endfor"]).body;
      this.expect("end");
    }
    return { type: "for", target, iterable, filter, recursive, body, otherwise };
  }

  private condition(): Statement {
    const branches: { test: Expression; body: Statement[] }[] = [];
    let otherwise: Statement[] = [];
    for (let test: Expression | undefined = this.tuple(false); ;) {
      this.expect("end");
      const { body, end } = this.body(test ? ["elif", "else", "endif"] : ["endif"]);
      if (test) branches.push({ test, body });
      else otherwise = body;
      if (end === "endif") break;
      test = end === "elif" ? this.tuple(false) : undefined;
    }
    this.expect("end");
    return { type: "if", branches, otherwise };
  }

  private assignment(): Statement {
    const target = this.targets(false);
    if (this.skip("operator", "=")) {
      const value = this.tuple();
      this.expect("end");
      return { type: "set", target, value };
    }
    const filter = this.is("operator", "|") ? this.filters(undefined) : undefined;
    return { type: "setBlock", target, filter, body: this.closed("endset") };
  }

  private targets(loop: boolean): Target {
    const items: Target[] = [];
    let several = false;
    for (;;) {
      if (this.is("operator", "=") || (loop && this.is("name", "in"))) break;
      items.push(this.target());
      if (!this.skip("operator", ",")) break;
      several = true;
    }
    if (items.length === 0) this.fail("expected a name");
    return several ? { type: "tuple", items } : items[0]!;
  }

  private target(): Target {
    if (this.skip("operator", "(")) {
      const inner = this.targets(false);
      this.expect("operator", ")");
      return inner;
    }
    const { value: name } = this.expect("name");
    if (keywords.has(name) || ["true", "false", "none", "True", "False", "None"].includes(name))
      this.fail(`cannot assign to ${name}`);
    if (this.skip("operator", ".")) return { type: "namespace", name, attribute: this.expect("name").value };
    return { type: "name", name };
  }

  private signature(): { name: string; standard: Expression | undefined }[] {
    const parameters: { name: string; standard: Expression | undefined }[] = [];
    this.expect("operator", "(");
    while (!this.is("operator", ")")) {
      if (parameters.length > 0) this.expect("operator", ",");
      if (this.is("operator", ")")) break;
      const { value: name } = this.expect("name");
      parameters.push({ name, standard: this.skip("operator", "=") ? this.expression() : undefined });
    }
    this.expect("operator", ")");
    return parameters;
  }

  private macro(name: string, parameters: MacroDefinition["parameters"], end: string): MacroDefinition {
    const used = new Set<string>();
    this.used.push(used);
    const body = this.closed(end);
    this.used.pop();
    return {
      name,
      parameters,
      body,
      usesCaller: used.has("caller"),
      usesVarargs: used.has("varargs"),
      usesKwargs: used.has("kwargs"),
    };
  }

  // ---- expressions, from what binds least to what binds most ----

  private tuple(conditions = true, parenthesised = false): Expression {
    const items: Expression[] = [];
    let several = false;
    const ends = () =>
      this.is("end") || this.is("operator", ")") || this.is("name", "in") || this.is("name", "recursive");
    while (!ends()) {
      items.push(conditions ? this.expression() : this.or());
      if (!this.skip("operator", ",")) break;
      several = true;
    }
    if (!several && items.length === 1) return items[0]!;
    if (items.length === 0 && !parenthesised) this.fail(`expected an expression, not ${this.current.value}`);
    return { type: "tuple", items };
  }

  private expression(): Expression {
    return this.deeper(() => {
      let value = this.or();
      while (this.skip("name", "if")) {
        const test = this.or();
        const otherwise = this.skip("name", "else") ? this.expression() : undefined;
        value = { type: "condition", test, then: value, otherwise };
      }
      return value;
    });
  }

  private or(): Expression {
    let left = this.and();
    for (let level = 0; this.skip("name", "or"); level++) {
      this.chain(level);
      left = { type: "or", left, right: this.and() };
    }
    return left;
  }

  private and(): Expression {
    let left = this.not();
    for (let level = 0; this.skip("name", "and"); level++) {
      this.chain(level);
      left = { type: "and", left, right: this.not() };
    }
    return left;
  }

  private not(): Expression {
    if (!this.skip("name", "not")) return this.comparison();
    return this.deeper(() => ({ type: "not", operand: this.not() }));
  }

  private comparison(): Expression {
    const first = this.sum();
    const rest: { operator: CompareOperator; operand: Expression }[] = [];
    for (;;) {
      let operator: string | undefined;
      if (this.current.type === "operator" && /^(?:[=!<>]=|[<>])$/.test(this.current.value))
        operator = this.next().value;
      else if (this.skip("name", "in")) operator = "in";
      else if (this.is("name", "not") && this.is("name", "in", 1)) {
        this.at += 2;
        operator = "not in";
      } else break;
      rest.push({ operator: operator as CompareOperator, operand: this.sum() });
    }
    return rest.length === 0 ? first : { type: "compare", first, rest };
  }

  private operatorOf(choices: readonly string[]): BinaryOperator | undefined {
    return this.current.type === "operator" && choices.includes(this.current.value)
      ? (this.next().value as BinaryOperator)
      : undefined;
  }

  /** Operators of one rank nest to the left, a level each. */
  private chain(level: number): void {
    if (level > 20 * maxDepth) this.fail(`more than ${20 * maxDepth} operators in a row`);
  }

  private leftToRight(choices: readonly string[], operand: () => Expression): Expression {
    let left = operand();
    for (let level = 0; ; level++) {
      const operator = this.operatorOf(choices);
      if (!operator) return left;
      this.chain(level);
      left = { type: "binary", operator, left, right: operand() };
    }
  }

  private sum(): Expression {
    return this.leftToRight(["+", "-"], () => this.concatenation());
  }

  private concatenation(): Expression {
    const parts = [this.product()];
    while (this.skip("operator", "~")) parts.push(this.product());
    return parts.length === 1 ? parts[0]! : { type: "concat", parts };
  }

  private product(): Expression {
    return this.leftToRight(["*", "/", "//", "%"], () => this.power());
  }

  private power(): Expression {
    return this.leftToRight(["**"], () => this.unary(true));
  }

  private unary(filtered: boolean): Expression {
    let value: Expression;
    if (this.is("operator", "-") || this.is("operator", "+")) {
      const type = this.next().value === "-" ? "negative" : "positive";
      value = this.deeper(() => ({ type, operand: this.unary(false) }));
    } else value = this.primary();
    value = this.postfix(value);
    return filtered ? this.filters(value)! : value;
  }

  private primary(): Expression {
    return this.deeper(() => {
      const token = this.next();
      switch (token.type) {
        case "name":
          if (["true", "True"].includes(token.value)) return { type: "constant", value: true };
          if (["false", "False"].includes(token.value)) return { type: "constant", value: false };
          if (["none", "None"].includes(token.value)) return { type: "constant", value: null };
          if (keywords.has(token.value)) break;
          for (const names of this.used) names.add(token.value);
          return { type: "name", name: token.value };
        case "string": {
          let value = unquote(token.value);
          while (this.is("string")) value += unquote(this.next().value);
          return { type: "constant", value };
        }
        case "integer":
          return { type: "constant", value: Number(token.value.replaceAll("_", "")) };
        case "float":
          return { type: "constant", value: { float: Number(token.value.replaceAll("_", "")) } };
        case "operator":
          if (token.value === "(") {
            const inner = this.tuple(true, true);
            this.expect("operator", ")");
            return inner;
          }
          if (token.value === "[") return { type: "list", items: this.list("]", () => this.expression()) };
          if (token.value === "{") {
            const entries = this.list("}", () => {
              const key = this.expression();
              this.expect("operator", ":");
              return [key, this.expression()] as const;
            });
            return { type: "dict", entries };
          }
      }
      this.at--;
      return this.fail(`unexpected ${token.type === "end" ? "end of a tag" : token.value || token.type}`);
    });
  }

  private list<T>(end: string, item: () => T): T[] {
    const items: T[] = [];
    while (!this.is("operator", end)) {
      if (items.length > 0) this.expect("operator", ",");
      if (this.is("operator", end)) break;
      items.push(item());
    }
    this.expect("operator", end);
    return items;
  }

  private postfix(start: Expression): Expression {
    let value = start;
    for (let level = 0; ; level++) {
      this.chain(level * 4);
      if (this.is("operator", "(")) value = this.call(value);
      else if (this.skip("operator", ".")) {
        const token = this.next();
        if (token.type === "name") value = { type: "attribute", object: value, name: token.value };
        else if (token.type === "integer")
          value = { type: "item", object: value, key: { type: "constant", value: Number(token.value) } };
        else {
          this.at--;
          this.fail("expected a name or a number after the dot");
        }
      } else if (this.skip("operator", "[")) {
        const keys = this.list("]", () => this.subscript());
        if (keys.length === 0) this.fail("expected an index");
        const key: Expression = keys.length === 1 ? keys[0]! : { type: "tuple", items: keys };
        value = { type: "item", object: value, key };
      } else return value;
    }
  }

  private subscript(): Expression {
    const ends = () => this.is("operator", ":") || this.is("operator", "]") || this.is("operator", ",");
    const start = ends() ? undefined : this.expression();
    if (!this.is("operator", ":")) {
      if (start) return start;
      this.fail("expected an index");
    }
    this.next();
    const stop = ends() ? undefined : this.expression();
    const step = this.skip("operator", ":") && !ends() ? this.expression() : undefined;
    return { type: "slice", start, stop, step };
  }

  private call(callee: Expression): Expression {
    return { type: "call", callee, args: this.arguments() };
  }

  private arguments(): Arguments {
    this.expect("operator", "(");
    const positional: Expression[] = [];
    const named: [string, Expression][] = [];
    let spread: Expression | undefined;
    let spreadNamed: Expression | undefined;
    this.list(")", () => {
      if (this.skip("operator", "**")) spreadNamed = this.expression();
      else if (this.skip("operator", "*")) spread = this.expression();
      else if (this.is("name") && this.is("operator", "=", 1)) {
        const name = this.next().value;
        this.next();
        named.push([name, this.expression()]);
      } else {
        if (named.length > 0 || spreadNamed) this.fail("a positional argument after a named one");
        positional.push(this.expression());
      }
    });
    return { positional, named, spread, spreadNamed };
  }

  private readonly none: Arguments = {
    positional: [],
    named: [],
    spread: undefined,
    spreadNamed: undefined,
  };

  private dotted(): string {
    let name = this.expect("name").value;
    while (this.skip("operator", ".")) name += `.${this.expect("name").value}`;
    return name;
  }

  /** Filters, tests and calls behind a value; with `inside`, the first filter of a block has no `|` before it. */
  private filters(start: Expression | undefined, inside = false): Expression | undefined {
    let value = start;
    for (let level = 0, first = inside; ; level++) {
      this.chain(level * 4);
      if (first || this.skip("operator", "|")) {
        first = false;
        const name = this.dotted();
        const args = this.is("operator", "(") ? this.arguments() : this.none;
        value = { type: "filter", input: value, name, args };
      } else if (value && start && this.is("name", "is")) value = this.test(value);
      else if (value && start && this.is("operator", "(")) value = this.call(value);
      else return value;
    }
  }

  private test(input: Expression): Expression {
    this.next();
    const negated = this.skip("name", "not");
    const name = this.dotted();
    let args = this.none;
    if (this.is("operator", "(")) args = this.arguments();
    else {
      const { type, value } = this.current;
      const begins =
        ["name", "string", "integer", "float"].includes(type) ||
        (type === "operator" && ["[", "{"].includes(value));
      if (begins && !(type === "name" && ["else", "or", "and", "if", "in", "not"].includes(value))) {
        if (type === "name" && value === "is") this.fail("tests cannot be chained with is");
        args = { ...this.none, positional: [this.postfix(this.primary())] };
      }
    }
    const test: Expression = { type: "test", input, name, args };
    return negated ? { type: "not", operand: test } : test;
  }
}
