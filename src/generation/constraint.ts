import { Worker } from "node:worker_threads";
import { LineageError } from "../base/errors.js";
import { formatBytes } from "../base/memory.js";
import { resolvePackage } from "../base/packages.js";
import type { Tokenizer } from "../tokenizers/index.js";
import type { TokenConstraint } from "./sequence.js";
import {
  type GrammarAnswer,
  type GrammarRequest,
  type GrammarWorkerStart,
  type RuleSource,
  grammarWorker,
} from "./grammar-worker.js";

/** What an answer must be. */
export type ConstraintRule =
  /** JSON that a schema describes; properties that it does not name are not allowed unless it says so. */
  | { readonly jsonSchema: unknown }
  /** Text that a regular expression describes from its first to its last character. */
  | { readonly regex: string };

/** How much one rule may ask for. */
export interface ConstraintLimits {
  /** Characters of a schema as JSON, or of an expression. Default 65,536. */
  readonly length: number;
  /** Levels of nesting: objects and lists of a schema, brackets of an expression. Default 64. */
  readonly depth: number;
  /** Seconds that compiling a rule, or one step by it, may take. Default 5. */
  readonly seconds: number;
  /** Memory for all rules of a compiler at once, in bytes. Default 512 MiB. */
  readonly bytes: number;
}

const defaultLimits: ConstraintLimits = { length: 65_536, depth: 64, seconds: 5, bytes: 2 ** 29 };

/** Whether a text has a control character other than a line feed: JSON has no other, and in its strings not even that. */
const hasControl = (text: string): boolean =>
  Array.from(text).some((character) => character < " " && character !== "\n");
/** A class with a character beyond ASCII, of which the library matches single bytes. */
const wideClass = /(?<!\\)\[(?:[^\]\\]|\\.)*\P{ASCII}/u;

const nameOf = (rule: ConstraintRule) => ("regex" in rule ? "regular expression" : "JSON schema");
const refuse = (rule: ConstraintRule, reason: string, cause?: unknown) =>
  new LineageError("argument", `the ${nameOf(rule)} cannot be used: ${reason}`, { cause });

/** The rule as XGrammar reads it. Throws `argument` for one that is beyond the limits, before anything is built from it. */
function sourceOf(rule: ConstraintRule, { length, depth }: ConstraintLimits): RuleSource {
  const deep = () => refuse(rule, `it is nested deeper than ${depth} levels`);
  let text: string | undefined;
  if ("regex" in rule) {
    text = rule.regex;
    let level = 0;
    let inClass = false;
    if (text.length <= length) {
      for (let at = 0; at < text.length; at++) {
        const character = text[at]!;
        if (character === "\\") at++;
        else if (inClass) inClass = character !== "]";
        else if (character === "[") inClass = true;
        else if (character === ")") level--;
        else if (character === "(" && ++level > depth) throw deep();
      }
      if (wideClass.test(text))
        throw refuse(rule, "a class in brackets holds a character beyond ASCII; write (a|b) instead of [ab]");
    }
  } else {
    const size = sizeOf(rule.jsonSchema, length, depth);
    if (size.depth > depth) throw deep();
    if (size.values > length) throw refuse(rule, `it has more than ${length} values`);
    try {
      text = JSON.stringify(rule.jsonSchema) as string | undefined;
    } catch (error) {
      throw refuse(rule, "it is not JSON", error);
    }
    if (text === undefined) throw refuse(rule, "it is not JSON");
  }
  if (text.length > length)
    throw refuse(rule, `it has ${text.length} characters, but at most ${length} are taken`);
  return { kind: "regex" in rule ? "regex" : "schema", text };
}

/** Levels and values of a schema, counted until one is beyond its limit. */
function sizeOf(schema: unknown, values: number, depth: number): { values: number; depth: number } {
  let level = [schema];
  const size = { values: 1, depth: 0 };
  while (size.depth <= depth && size.values <= values) {
    const next: unknown[] = [];
    for (const value of level) {
      if (typeof value !== "object" || value === null) continue;
      const inside = Object.values(value) as unknown[];
      size.values += inside.length;
      if (size.values > values) return size;
      for (const item of inside) next.push(item);
    }
    if (next.length === 0) return size;
    level = next;
    size.depth++;
  }
  return size;
}

/**
 * The worker thread of one compiler, and its replacement when it takes too long. Requests go to it one at a time, so that
 * each has the whole time limit.
 */
class GrammarRoom {
  private worker: Worker | undefined;
  private turn: Promise<unknown> = Promise.resolve();
  private readonly sources = new Map<number, RuleSource>();
  private closed = false;

  constructor(
    private readonly start: GrammarWorkerStart,
    private readonly seconds: number,
  ) {}

  define(rule: number, source: RuleSource): void {
    this.sources.set(rule, source);
    this.worker?.postMessage({ kind: "define", rule, source } satisfies GrammarRequest);
  }

  forget(what: { readonly rule?: number; readonly walk?: number }): void {
    if (what.rule !== undefined) this.sources.delete(what.rule);
    this.worker?.postMessage({ kind: "forget", ...what } satisfies GrammarRequest);
  }

  /** Throws what `failed` makes of the reason, where the rule is refused or takes too long. */
  ask(request: GrammarRequest, failed: (reason: string) => LineageError): Promise<Int32Array | undefined> {
    const answer = this.turn.then(() => this.exchange(request, failed));
    this.turn = answer.catch(() => undefined);
    return answer;
  }

  private async exchange(
    request: GrammarRequest,
    failed: (reason: string) => LineageError,
  ): Promise<Int32Array | undefined> {
    if (this.closed) throw new LineageError("disposed", "the constraint compiler was disposed");
    const worker = (this.worker ??= this.open());
    worker.ref();
    const answer = await new Promise<GrammarAnswer | Error | "late">((resolve) => {
      const settle = (value: GrammarAnswer | Error | "late") => {
        clearTimeout(timer);
        worker.off("message", settle).off("error", settle).off("exit", ended);
        resolve(value);
      };
      const ended = () => {
        settle(new Error("the worker thread ended"));
      };
      const timer = setTimeout(settle, this.seconds * 1000, "late");
      worker.on("message", settle).on("error", settle).on("exit", ended);
      worker.postMessage(request);
    });
    worker.unref();
    if (answer === "late" || answer instanceof Error) {
      this.worker = undefined;
      void worker.terminate();
      if (this.closed) throw new LineageError("disposed", "the constraint compiler was disposed");
      if (answer === "late") throw failed(`it takes longer than ${this.seconds} seconds`);
      throw failed(answer.message);
    }
    if (answer.kind === "done") return answer.mask;
    if (answer.full) throw failed(`it takes more than ${formatBytes(this.start.bytes)} of memory`);
    const reason = answer.reason
      .replace(/^.*?Check failed: |^.*?\.cc:\d+: |\s*Aborted\(.*$/gs, "")
      .replace(/^RuntimeError: (?:memory access out of bounds|unreachable).*$/s, "it is too deep");
    throw failed(reason.length > 400 ? `${reason.slice(0, 400)}…` : reason);
  }

  private open(): Worker {
    // `name` helpers of a bundler would be missing in the worker: its text defines the one that esbuild writes.
    const worker = new Worker(`const __name = (f) => f; (${grammarWorker.toString()})()`, {
      eval: true,
      workerData: this.start,
    });
    for (const [rule, source] of this.sources)
      worker.postMessage({ kind: "define", rule, source } satisfies GrammarRequest);
    return worker;
  }

  close(): void {
    this.closed = true;
    void this.worker?.terminate();
  }
}

/**
 * Compiles what answers must be into masks over one tokenizer's tokens. Grammars by XGrammar, Dong et al. 2024, in a worker
 * thread: a rule that is refused, or beyond the limits, harms no other and never blocks the event loop.
 */
export class ConstraintCompiler implements Disposable {
  private rules = 0;

  private constructor(
    private readonly room: GrammarRoom,
    private readonly limits: ConstraintLimits,
    private readonly stopIds: readonly number[],
    /** Ids of tokens with control characters. */
    private readonly controls: readonly number[],
  ) {}

  /**
   * @param vocabSize of the model, at least the tokenizer's
   * @param stopIds what ends a text; allowed where the answer is complete
   */
  static create(
    tokenizer: Tokenizer,
    {
      vocabSize,
      stopIds,
      limits,
    }: {
      readonly vocabSize: number;
      readonly stopIds: readonly number[];
      readonly limits?: Partial<ConstraintLimits>;
    },
  ): Promise<ConstraintCompiler> {
    const { decoder, model } = tokenizer.definition;
    const type = decoder?.type === "ByteLevel" ? "byte_level" : model.byte_fallback ? "byte_fallback" : "raw";
    // A special token is no text: none may stand in an answer for its spelling.
    const vocabulary = Array.from({ length: vocabSize }, (_, id) =>
      tokenizer.isSpecial(id) ? "" : (tokenizer.idToToken(id) ?? ""),
    );
    const controls = vocabulary.flatMap((token, id) =>
      token !== "" && hasControl(new TextDecoder().decode(tokenizer.bytesOf(id))) ? [id] : [],
    );
    const all = { ...defaultLimits, ...limits };
    const file = resolvePackage("@mlc-ai/web-xgrammar", "writing by a schema or an expression");
    const room = new GrammarRoom(
      { file, vocabulary, type, stopIds: [...stopIds], bytes: all.bytes },
      all.seconds,
    );
    return Promise.resolve(new ConstraintCompiler(room, all, stopIds, controls));
  }

  /**
   * Throws `argument` for a schema or an expression that the library refuses, with its reason, or that is beyond a limit,
   * with the limit's name.
   */
  async compile(rule: ConstraintRule): Promise<Constraint> {
    const source = sourceOf(rule, this.limits);
    const id = this.rules++;
    this.room.define(id, source);
    const failed = (reason: string) => refuse(rule, reason);
    try {
      await this.room.ask({ kind: "compile", rule: id }, failed);
    } catch (error) {
      this.room.forget({ rule: id });
      throw error;
    }
    return new Constraint(this.room, id, this.stopIds, "regex" in rule ? [] : this.controls, failed);
  }

  dispose(): void {
    this.room.close();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** A compiled rule; each answer walks through it on its own. */
export class Constraint implements Disposable {
  private static walks = 0;

  /** @param never tokens that the rule never takes, whatever its grammar says */
  constructor(
    private readonly room: GrammarRoom,
    private readonly rule: number,
    private readonly stopIds: readonly number[],
    private readonly never: readonly number[],
    private readonly failed: (reason: string) => LineageError,
  ) {}

  /** The rule for one answer, from its start. */
  begin(): Promise<TokenConstraint & Disposable> {
    const walk = Constraint.walks++;
    const mask = (ids: readonly number[]) =>
      this.room.ask({ kind: "mask", rule: this.rule, walk, ids }, this.failed);
    const end = () => {
      this.room.forget({ walk });
    };
    return Promise.resolve(new Walk(mask, end, this.stopIds, this.never));
  }

  dispose(): void {
    this.room.forget({ rule: this.rule });
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

const allows = (mask: Int32Array, id: number): boolean => ((mask[id >> 5]! >>> (id & 31)) & 1) === 1;

class Walk implements TokenConstraint, Disposable {
  private readonly ids: number[] = [];
  /** What may come next, where it was asked for. */
  private mask: Int32Array | undefined;

  constructor(
    private readonly maskAfter: (ids: readonly number[]) => Promise<Int32Array | undefined>,
    private readonly end: () => void,
    private readonly stopIds: readonly number[],
    private readonly never: readonly number[],
  ) {}

  async restrict(logits: Float32Array): Promise<void> {
    const mask = (await this.maskAfter(this.ids))!;
    for (const id of this.never) mask[id >> 5]! &= ~(1 << (id & 31));
    let allowed = 0;
    for (let id = 0; id < logits.length; id++) {
      if (allows(mask, id)) allowed++;
      else logits[id] = -Infinity;
    }
    if (allowed === 0)
      throw new LineageError(
        "argument",
        "the constraint leaves no token: this vocabulary cannot write what it asks for",
      );
    this.mask = mask;
  }

  accept(id: number): void {
    if (this.mask && !allows(this.mask, id))
      throw new LineageError("internal", `the constraint refuses the token ${id} that it allowed`);
    this.mask = undefined;
    this.ids.push(id);
  }

  get finished(): boolean {
    return this.ids.length > 0 && this.stopIds.includes(this.ids.at(-1)!);
  }

  dispose(): void {
    this.end();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}
