import type { DType } from "../base/dtype.js";
import { LineageError } from "../base/errors.js";
import { type Dim, Tensor, currentScope, input, observe, withScope } from "../graph/index.js";
import type { Initializer } from "./initializers.js";

/** A trainable tensor of a module. Its numbers live outside the graph, in `Weights`. */
export class Parameter {
  /** Where the parameter stands in graphs. */
  readonly tensor: Tensor;
  /** Whether training changes it. */
  trainable = true;
  private dottedName: string | undefined;

  constructor(
    readonly shape: readonly number[],
    readonly initializer: Initializer,
    readonly dtype: DType = "float32",
  ) {
    this.tensor = input(this, dtype, shape as readonly Dim[]);
  }

  /** Dotted name in the published checkpoint; known once the whole model has been named. */
  get name(): string {
    if (this.dottedName === undefined) {
      throw new LineageError(
        "internal",
        "a parameter has no name before its model is named: call namedParameters(model) first",
      );
    }
    return this.dottedName;
  }
  set name(name: string) {
    this.dottedName = name;
  }

  /** Number of elements. */
  get size(): number {
    return this.shape.reduce((product, dim) => product * dim, 1);
  }
}

/**
 * A part of a model: parameters and other parts as plain properties, and a `forward` that writes graph operations. A
 * property's name is its part of the checkpoint's dotted name, unless `static names` gives the published one.
 */
export abstract class Module {
  /** Published names of properties: `{ attention: "attn" }`. */
  static readonly names: Readonly<Record<string, string>> = {};

  /** Dotted place in the model; operations written by `forward` carry it into error messages. */
  path = "";

  constructor() {
    // Wrapped here once, so that a subclass's forward stays plain and every operation still knows its module.
    const forward = this.forward as (...inputs: unknown[]) => unknown;
    Object.defineProperty(this, "forward", {
      value: (...inputs: unknown[]): unknown => {
        // The outermost module tells the others their places, so that an error of the first pass knows where it was.
        if (!currentScope())
          for (const [module, path] of places(this)) if (module.path === "") module.path = path;
        return withScope(this, () => {
          const output = forward.apply(this, inputs);
          if (output instanceof Tensor) observe("output", output);
          return output;
        });
      },
    });
  }

  abstract forward(...inputs: never): unknown;

  /** Published names of this module's properties, where they are not the same for every instance of its class. */
  get partNames(): Readonly<Record<string, string>> {
    return (this.constructor as typeof Module).names;
  }
}

/** Every module and parameter directly in `module`, by its part of the dotted name. */
function* children(module: Module): Generator<[string, Module | Parameter]> {
  const names = module.partNames;
  for (const [key, value] of Object.entries(module) as [string, unknown][]) {
    const name = names[key] ?? key;
    if (value instanceof Module || value instanceof Parameter) yield [name, value];
    else if (Array.isArray(value)) {
      for (const [index, item] of (value as unknown[]).entries()) {
        if (item instanceof Module || item instanceof Parameter) yield [`${name}.${index}`, item];
      }
    }
  }
}

const joinedPath = (path: string, part: string): string =>
  path === "" || part === "" ? path + part : `${path}.${part}`;

/** Every module in `root`, with its dotted path from there. */
function* places(root: Module, path = ""): Generator<[Module, string]> {
  yield [root, path];
  for (const [part, child] of children(root))
    if (child instanceof Module) yield* places(child, joinedPath(path, part));
}

/**
 * All parameters by dotted name, in the order of their definition; a shared one once, under its first name. Tells every
 * module and parameter its name on the way.
 */
export function namedParameters(model: Module): Map<string, Parameter> {
  const parameters = new Map<string, Parameter>();
  const seen = new Set<Parameter>();
  const visit = (module: Module, path: string): void => {
    module.path = path;
    for (const [part, child] of children(module)) {
      const name = joinedPath(path, part);
      if (child instanceof Module) visit(child, name);
      else if (!seen.has(child)) {
        seen.add(child);
        child.name = name;
        parameters.set(name, child);
      }
    }
  };
  visit(model, "");
  return parameters;
}

/** `model` and every module in it. */
export function* allModules(model: Module): Generator<Module> {
  yield model;
  for (const [, child] of children(model)) if (child instanceof Module) yield* allModules(child);
}

/** The number of trainable elements of a model, shared ones counted once. */
export function countParameters(model: Module): number {
  let count = 0;
  for (const parameter of namedParameters(model).values()) count += parameter.size;
  return count;
}

/** A table of a model's parameters: name, shape, number of elements; and their sum. */
export function summary(model: Module): string {
  const rows = [...namedParameters(model)].map(([name, { shape, size, dtype }]) => [
    name,
    `${dtype} [${shape.join(", ")}]`,
    size.toLocaleString("en-US"),
  ]);
  const total = countParameters(model).toLocaleString("en-US");
  const table = [["parameter", "shape", "elements"], ...rows, ["total", "", total]] as [
    string,
    string,
    string,
  ][];
  const widths = [0, 1, 2].map((column) => Math.max(...table.map((row) => row[column]!.length)));
  const lines = table.map(
    ([name, shape, size]) =>
      `${name.padEnd(widths[0]!)}  ${shape.padEnd(widths[1]!)}  ${size.padStart(widths[2]!)}`,
  );
  const rule = "-".repeat(lines[0]!.length);
  return [lines[0], rule, ...lines.slice(1, -1), rule, lines.at(-1)].join("\n");
}
