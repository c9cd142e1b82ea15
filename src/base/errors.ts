/**
 * Every error that lineage throws on purpose. `code` is for programs and stays the same between releases;
 * the message is a sentence for a person: what was wrong, where, and what would be right.
 */
export type ErrorCode =
  | "shape" // a tensor has a shape or dtype that an operation cannot take
  | "argument" // an option or argument is out of its range
  | "config" // a configuration contradicts itself or its weights
  | "data" // a corpus or data file cannot be used
  | "format" // a file from outside is malformed
  | "checkpoint" // a checkpoint is missing, incomplete or does not fit
  | "tokenizer" // a tokenizer is missing, malformed or does not fit its model
  | "length" // a prompt or sequence is longer than the model's context
  | "memory" // not enough memory for what was asked
  | "storage" // a file could not be read or written
  | "locked" // another process is using the same folder
  | "diverged" // training produced a value that is not finite
  | "runtime" // the engine refused a program or failed while running it
  | "disposed" // a tensor or program was used after it was disposed
  | "unsupported" // this platform, device or build cannot do what was asked
  | "internal"; // a mistake of lineage's own

export class LineageError extends Error {
  override readonly name: string = "LineageError";
  constructor(
    readonly code: ErrorCode,
    message: string,
    options?: { cause?: unknown },
  ) {
    super(message, options);
  }
}

/** A shape or dtype that an operation cannot take; thrown where the user wrote the operation. */
export class ShapeError extends LineageError {
  override readonly name = "ShapeError";
  constructor(message: string) {
    super("shape", message);
  }
}

/** A file from outside that is malformed; `file` says which. */
export class FormatError extends LineageError {
  override readonly name = "FormatError";
  constructor(
    readonly file: string,
    message: string,
    options?: { cause?: unknown },
  ) {
    super("format", `${file}: ${message}`, options);
  }
}

/** What the engine reported, with the graph node and the module path that it came from where they are known. */
export class RuntimeError extends LineageError {
  override readonly name = "RuntimeError";
  constructor(
    message: string,
    readonly details: { status?: number; node?: string; modulePath?: string } = {},
    options?: { cause?: unknown },
  ) {
    super("runtime", message, options);
  }
}

/** The message of anything that was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
