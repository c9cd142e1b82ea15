import { readFileSync } from "node:fs";
import Module, { createRequire } from "node:module";
import path from "node:path";
import { LineageError } from "../base/errors.js";
import type { Tokenizer } from "../tokenizers/index.js";
import type { TokenConstraint } from "./generate.js";

/** What an answer must be. */
export type ConstraintRule =
  /** JSON that a schema describes; `undefined` properties not allowed unless the schema says so. */
  | { readonly jsonSchema: unknown }
  /** Text that a regular expression describes from its first to its last character. */
  | { readonly regex: string };

// The part of @mlc-ai/web-xgrammar that is used here; its handles are freed by hand.
interface Handle {
  dispose(): void;
}
interface Matcher extends Handle {
  acceptToken(id: number): boolean;
  getNextTokenBitmask(): Promise<Int32Array>;
  isTerminated(): boolean;
}
interface Compiler extends Handle {
  compileJSONSchema(schema: string): Promise<Handle>;
  compileGrammar(grammar: Handle): Promise<Handle>;
}
interface XGrammar {
  readonly TokenizerInfo: {
    createTokenizerInfo(
      vocabulary: string[],
      type: string,
      prependSpace: boolean,
      size: number,
      stopIds: number[],
    ): Promise<Handle>;
  };
  readonly Grammar: { fromStructuralTag(tag: object): Promise<Handle> };
  readonly GrammarCompiler: { createGrammarCompiler(info: Handle, cache: boolean): Promise<Compiler> };
  readonly GrammarMatcher: {
    createGrammarMatcher(grammar: Handle, stopIds: undefined, endsWithoutStop: boolean): Promise<Matcher>;
  };
}

/** What the library has printed: its reasons come by no other way. */
const printed: string[] = [];
let loaded: XGrammar | undefined;

/**
 * The package calls itself a module of the new kind and is one of the old kind, so that neither `import` nor `require`
 * takes it: its source is compiled as what it is, with a console that keeps its messages.
 */
function xgrammar(): XGrammar {
  if (loaded) return loaded;
  const file = createRequire(import.meta.url).resolve("@mlc-ai/web-xgrammar");
  const collect = (...parts: unknown[]) => void printed.push(parts.join(" "));
  const module_ = new Module(file) as Module & {
    _compile(source: string, file: string): void;
    console?: object;
  };
  module_.filename = file;
  module_.paths = [path.dirname(file)];
  module_.console = { log: collect, warn: collect, error: collect, debug: collect, info: collect };
  module_._compile(`const console = module.console; ${readFileSync(file, "utf8")}`, file);
  loaded = module_.exports as XGrammar;
  return loaded;
}

/** Whether a text has a control character other than a line feed: JSON has no other, and in its strings not even that. */
const hasControl = (text: string): boolean =>
  Array.from(text).some((character) => character < " " && character !== "\n");
/** A class with a character beyond ASCII, of which the library matches single bytes. */
const wideClass = /(?<!\\)\[(?:[^\]\\]|\\.)*\P{ASCII}/u;

/** Compiles what answers must be into masks over one tokenizer's tokens. Grammars by XGrammar, Dong et al. 2024. */
export class ConstraintCompiler implements Disposable {
  private constructor(
    private readonly info: Handle,
    private readonly compiler: Compiler,
    /** Ids of tokens with control characters. */
    private readonly controls: readonly number[],
  ) {}

  /**
   * @param vocabSize of the model, at least the tokenizer's
   * @param stopIds what ends a text; allowed where the answer is complete
   */
  static async create(
    tokenizer: Tokenizer,
    { vocabSize, stopIds }: { readonly vocabSize: number; readonly stopIds: readonly number[] },
  ): Promise<ConstraintCompiler> {
    const { TokenizerInfo, GrammarCompiler } = xgrammar();
    const { decoder, model } = tokenizer.definition;
    const type = decoder?.type === "ByteLevel" ? "byte_level" : model.byte_fallback ? "byte_fallback" : "raw";
    // A special token is no text: none may stand in an answer for its spelling.
    const vocabulary = Array.from({ length: vocabSize }, (_, id) =>
      tokenizer.isSpecial(id) ? "" : (tokenizer.idToToken(id) ?? ""),
    );
    const controls = vocabulary.flatMap((token, id) =>
      token !== "" && hasControl(new TextDecoder().decode(tokenizer.bytesOf(id))) ? [id] : [],
    );
    const info = await TokenizerInfo.createTokenizerInfo(vocabulary, type, false, vocabSize, [...stopIds]);
    return new ConstraintCompiler(info, await GrammarCompiler.createGrammarCompiler(info, true), controls);
  }

  /** Throws `argument` for a schema or an expression that the library refuses, with its reason. */
  async compile(rule: ConstraintRule): Promise<Constraint> {
    const { Grammar } = xgrammar();
    if ("regex" in rule && wideClass.test(rule.regex))
      throw new LineageError(
        "argument",
        "the regular expression cannot be used: a class in brackets holds a character beyond ASCII; write (a|b) instead of [ab]",
      );
    printed.length = 0;
    try {
      if ("jsonSchema" in rule)
        return new Constraint(
          await this.compiler.compileJSONSchema(JSON.stringify(rule.jsonSchema)),
          this.controls,
        );
      const format = { type: "regex", pattern: rule.regex };
      const grammar = await Grammar.fromStructuralTag({ type: "structural_tag", format });
      try {
        return new Constraint(await this.compiler.compileGrammar(grammar), []);
      } finally {
        grammar.dispose();
      }
    } catch (error) {
      const reason = printed.join(" ").replace(/^.*?Check failed: |^.*?\.cc:\d+: |\s*Aborted\(.*$/gs, "");
      throw new LineageError(
        "argument",
        `the ${"regex" in rule ? "regular expression" : "JSON schema"} cannot be used: ${reason || String(error)}`,
        { cause: error },
      );
    }
  }

  dispose(): void {
    this.compiler.dispose();
    this.info.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** A compiled rule; each answer walks through it on its own. */
export class Constraint implements Disposable {
  /** @param never tokens that the rule never takes, whatever its grammar says */
  constructor(
    private readonly grammar: Handle,
    private readonly never: readonly number[],
  ) {}

  /** The rule for one answer, from its start. */
  async begin(): Promise<TokenConstraint & Disposable> {
    return new Walk(
      await xgrammar().GrammarMatcher.createGrammarMatcher(this.grammar, undefined, false),
      this.never,
    );
  }

  dispose(): void {
    this.grammar.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

class Walk implements TokenConstraint, Disposable {
  constructor(
    private readonly matcher: Matcher,
    private readonly never: readonly number[],
  ) {}

  async restrict(logits: Float32Array): Promise<void> {
    const mask = await this.matcher.getNextTokenBitmask();
    for (const id of this.never) mask[id >> 5]! &= ~(1 << (id & 31));
    let allowed = 0;
    for (let id = 0; id < logits.length; id++) {
      if ((mask[id >> 5]! >>> (id & 31)) & 1) allowed++;
      else logits[id] = -Infinity;
    }
    if (allowed === 0)
      throw new LineageError(
        "argument",
        "the constraint leaves no token: this vocabulary cannot write what it asks for",
      );
  }

  accept(id: number): void {
    if (!this.matcher.acceptToken(id))
      throw new LineageError("internal", `the constraint refuses the token ${id} that it allowed`);
  }

  get finished(): boolean {
    return this.matcher.isTerminated();
  }

  dispose(): void {
    this.matcher.dispose();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}
