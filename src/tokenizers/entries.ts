import { FormatError } from "../base/errors.js";

/** What a tokenizer's files hold and nothing reads: said once the tokenizer is loaded. */
export class Reading {
  readonly warnings: string[] = [];

  /** @param source the file, for messages */
  constructor(readonly source: string) {}

  refuse(where: string, problem: string): never {
    throw new FormatError(this.source, `${where}: ${problem}`);
  }
}

/** A value that a file holds in the wrong place, short. */
export function shown(value: unknown): string {
  if (value === undefined) return "missing";
  if (typeof value === "string")
    return value.length > 40 ? `${JSON.stringify(value.slice(0, 40))}…` : JSON.stringify(value);
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (typeof value === "bigint") return `${value}n`;
  return typeof value === "object" && value !== null ? "an object" : String(value);
}

/**
 * The entries of an object in a tokenizer's definition. Each is asked for by name and kind; what nobody asked for is named
 * in a warning, so that no entry is dropped in silence.
 */
export class Entries {
  private readonly read = new Set<string>();
  private readonly values: Readonly<Record<string, unknown>>;

  constructor(
    value: unknown,
    readonly where: string,
    readonly reading: Reading,
  ) {
    if (typeof value !== "object" || value === null || Array.isArray(value))
      reading.refuse(where, `this is ${shown(value)}; it must be an object`);
    this.values = value as Record<string, unknown>;
  }

  /** An entry's value as it is; undefined where it is absent or null. */
  get(name: string): unknown {
    this.read.add(name);
    return Object.hasOwn(this.values, name) ? (this.values[name] ?? undefined) : undefined;
  }

  place(name: string): string {
    return `${this.where}.${name}`;
  }

  private wrong(name: string, value: unknown, right: string): never {
    return this.reading.refuse(this.place(name), `this is ${shown(value)}; it must be ${right}`);
  }

  string(name: string, otherwise?: string): string {
    const value = this.get(name) ?? otherwise;
    return typeof value === "string" ? value : this.wrong(name, value, "a string");
  }

  optionalString(name: string): string | undefined {
    return this.get(name) === undefined ? undefined : this.string(name);
  }

  /** A string of one character. */
  character(name: string, otherwise?: string): string {
    const value = this.string(name, otherwise);
    return Array.from(value).length === 1 ? value : this.wrong(name, value, "one character");
  }

  boolean(name: string, otherwise?: boolean): boolean {
    const value = this.get(name) ?? otherwise;
    return typeof value === "boolean" ? value : this.wrong(name, value, "true or false");
  }

  optionalBoolean(name: string): boolean | undefined {
    return this.get(name) === undefined ? undefined : this.boolean(name);
  }

  /** A whole number of at least `least`. */
  count(name: string, otherwise?: number, least = 0): number {
    const value = this.get(name) ?? otherwise;
    if (typeof value === "number" && Number.isSafeInteger(value) && value >= least) return value;
    return this.wrong(name, value, `a whole number of at least ${least}`);
  }

  choice<T extends string>(name: string, choices: readonly T[], otherwise?: T): T {
    const value = this.get(name) ?? otherwise;
    const found = choices.find((choice) => choice === value);
    return found ?? this.wrong(name, value, `one of ${choices.join(", ")}`);
  }

  list(name: string): readonly unknown[] {
    const value = this.get(name);
    // A list with holes has undefined in them, which nobody takes for a value.
    return Array.isArray(value) ? Array.from(value as unknown[]) : this.wrong(name, value, "a list");
  }

  /** The entries of a list of objects. */
  objects(name: string): Entries[] {
    return this.list(name).map(
      (value, index) => new Entries(value, `${this.place(name)}[${index}]`, this.reading),
    );
  }

  object(name: string): Entries {
    return new Entries(this.get(name), this.place(name), this.reading);
  }

  /** Names of all entries, for an object that is a dictionary. */
  names(): string[] {
    return Object.keys(this.values);
  }

  refuse(problem: string): never {
    return this.reading.refuse(this.where, problem);
  }

  /** Entries that mean nothing here. */
  ignore(...names: string[]): void {
    for (const name of names) this.read.add(name);
  }

  /** Names what nobody has read. */
  finish(): void {
    const unread = Object.keys(this.values).filter((name) => !this.read.has(name));
    if (unread.length > 0)
      this.reading.warnings.push(
        `${this.reading.source}: ${this.where} has ${unread.map((name) => JSON.stringify(name.slice(0, 60))).join(", ")}, which lineage does not know and ignores`,
      );
  }
}
