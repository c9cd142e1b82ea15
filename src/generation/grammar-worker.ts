/** @internal What the worker is started with. */
export interface GrammarWorkerStart {
  /** Path of XGrammar's script. */
  readonly file: string;
  /** Spelling of every token, empty for one that is no text. */
  readonly vocabulary: readonly string[];
  readonly type: "byte_level" | "byte_fallback" | "raw";
  readonly stopIds: readonly number[];
  /** Memory that XGrammar may take at most, in bytes. */
  readonly bytes: number;
}

/** @internal */
export type GrammarRequest =
  | { readonly kind: "define"; readonly rule: number; readonly source: RuleSource }
  | { readonly kind: "compile"; readonly rule: number }
  | { readonly kind: "mask"; readonly rule: number; readonly walk: number; readonly ids: readonly number[] }
  | { readonly kind: "forget"; readonly rule?: number; readonly walk?: number };

/** @internal */
export interface RuleSource {
  readonly kind: "schema" | "regex";
  readonly text: string;
}

/** @internal The answer to `compile` and `mask`. */
export type GrammarAnswer =
  | { readonly kind: "done"; readonly mask?: Int32Array }
  /** The reason, in XGrammar's words. */
  | { readonly kind: "refused"; readonly reason: string; readonly full: boolean };

// The part of @mlc-ai/web-xgrammar that is used here; its handles are freed by hand.
interface Handle {
  dispose(): void;
}
interface Matcher extends Handle {
  acceptToken(id: number): boolean;
  getNextTokenBitmask(): Promise<Int32Array>;
}
interface Compiler extends Handle {
  compileJSONSchema(schema: string): Promise<Handle>;
  compileGrammar(grammar: Handle): Promise<Handle>;
}
interface XGrammar {
  readonly TokenizerInfo: {
    createTokenizerInfo(
      vocabulary: readonly string[],
      type: string,
      prependSpace: boolean,
      size: number,
      stopIds: readonly number[],
    ): Promise<Handle>;
  };
  readonly Grammar: { fromStructuralTag(tag: object): Promise<Handle> };
  readonly GrammarCompiler: { createGrammarCompiler(info: Handle, cache: boolean): Promise<Compiler> };
  readonly GrammarMatcher: {
    createGrammarMatcher(grammar: Handle, stopIds: undefined, endsWithoutStop: boolean): Promise<Matcher>;
  };
}

/**
 * The body of a worker thread that compiles grammars and computes masks. The function is sent as text and so reads nothing
 * outside itself.
 *
 * XGrammar ends every refusal with an abort, after which its WebAssembly memory is not to be trusted. So an instance is
 * thrown away with its first failure. Rules and texts are rebuilt in the next instance when they are next asked for.
 * @internal
 */
export function grammarWorker(): void {
  const { parentPort, workerData } = process.getBuiltinModule("node:worker_threads");
  const { readFileSync } = process.getBuiltinModule("node:fs");
  const Module = process.getBuiltinModule("node:module");
  const { dirname } = process.getBuiltinModule("node:path");
  const { file, vocabulary, type, stopIds, bytes } = workerData as GrammarWorkerStart;
  const code = readFileSync(file, "utf8");

  interface Instance {
    readonly library: XGrammar;
    readonly compiler: Compiler;
    readonly grammars: Map<number, Handle>;
    readonly walks: Map<number, { readonly matcher: Matcher; count: number }>;
  }
  let instance: Instance | undefined;
  let compiled: WebAssembly.Module | undefined;
  const sources = new Map<number, RuleSource>();
  /** What the library has printed: its reasons come by no other way. */
  let printed: string[] = [];
  /** Whether the library wanted more memory than it may take. */
  let full = false;
  const collect = (...parts: unknown[]) => void printed.push(parts.join(" "));
  const engine = Object.assign(Object.create(WebAssembly) as typeof WebAssembly, {
    async instantiate(binary: BufferSource, imports: WebAssembly.Imports) {
      compiled ??= await WebAssembly.compile(binary);
      const made = await WebAssembly.instantiate(compiled, imports);
      for (const memory of Object.values(made.exports)) {
        if (!(memory instanceof WebAssembly.Memory)) continue;
        memory.grow = (pages) => {
          if (memory.buffer.byteLength + pages * 65536 > bytes) {
            full = true;
            throw new RangeError("the grammar takes too much memory");
          }
          return WebAssembly.Memory.prototype.grow.call(memory, pages);
        };
      }
      return { instance: made, module: compiled };
    },
  });

  async function begin(): Promise<Instance> {
    // The package calls itself a module of the new kind and is one of the old kind, so that neither `import` nor `require`
    // takes it: its source is compiled as what it is, with a console that keeps its messages.
    const script = new Module(file) as InstanceType<typeof Module> & {
      _compile(source: string, file: string): void;
      host?: object;
    };
    script.filename = file;
    script.paths = [dirname(file)];
    const console = { log: collect, warn: collect, error: collect, debug: collect, info: collect };
    script.host = { console, engine };
    script._compile(`const { console, engine: WebAssembly } = module.host; ${code}`, file);
    const library = script.exports as XGrammar;
    const info = await library.TokenizerInfo.createTokenizerInfo(
      vocabulary,
      type,
      false,
      vocabulary.length,
      stopIds,
    );
    const compiler = await library.GrammarCompiler.createGrammarCompiler(info, false);
    return { library, compiler, grammars: new Map(), walks: new Map() };
  }

  async function grammarOf({ library, compiler, grammars }: Instance, rule: number): Promise<Handle> {
    const known = grammars.get(rule);
    if (known) return known;
    const { kind, text } = sources.get(rule)!;
    let grammar: Handle;
    if (kind === "schema") grammar = await compiler.compileJSONSchema(text);
    else {
      const format = { type: "regex", pattern: text };
      const parsed = await library.Grammar.fromStructuralTag({ type: "structural_tag", format });
      grammar = await compiler.compileGrammar(parsed);
      parsed.dispose();
    }
    grammars.set(rule, grammar);
    return grammar;
  }

  async function maskOf(current: Instance, rule: number, walk: number, ids: readonly number[]) {
    let place = current.walks.get(walk);
    if (!place) {
      const grammar = await grammarOf(current, rule);
      place = {
        matcher: await current.library.GrammarMatcher.createGrammarMatcher(grammar, undefined, false),
        count: 0,
      };
      current.walks.set(walk, place);
    }
    for (; place.count < ids.length; place.count++)
      if (!place.matcher.acceptToken(ids[place.count]!)) throw new Error(`token ${ids[place.count]} refused`);
    return await place.matcher.getNextTokenBitmask();
  }

  async function answer(request: GrammarRequest): Promise<GrammarAnswer | undefined> {
    switch (request.kind) {
      case "define":
        sources.set(request.rule, request.source);
        return undefined;
      case "forget":
        for (const [table, id] of [
          [instance?.grammars, request.rule],
          [instance?.walks, request.walk],
        ] as const) {
          if (id === undefined || !table) continue;
          const held = table.get(id);
          if (held) ("matcher" in held ? held.matcher : held).dispose();
          table.delete(id);
        }
        if (request.rule !== undefined) sources.delete(request.rule);
        return undefined;
      case "compile":
        instance ??= await begin();
        await grammarOf(instance, request.rule);
        return { kind: "done" };
      case "mask":
        instance ??= await begin();
        return { kind: "done", mask: await maskOf(instance, request.rule, request.walk, request.ids) };
    }
  }

  let turn = Promise.resolve();
  parentPort!.on("message", (request: GrammarRequest) => {
    turn = turn.then(async () => {
      printed = [];
      full = false;
      let reply: GrammarAnswer | undefined;
      try {
        reply = await answer(request);
      } catch (error) {
        instance = undefined;
        if (request.kind === "compile" || request.kind === "mask")
          reply = { kind: "refused", reason: printed.join(" ") || String(error), full };
      }
      if (reply) parentPort!.postMessage(reply);
    });
  });
}
