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
  /** Names, keys and paths from outside may stand in `message`: it is made readable and is never longer than a screen. */
  constructor(
    readonly code: ErrorCode,
    message: string,
    options?: { cause?: unknown },
  ) {
    super(readable(message), options);
  }
}

/** Control characters but tab and line feed, halves of characters, marks that turn the direction, and invisible tags. */
const unreadable =
  /[^\P{Cc}\t\n]|\p{Cs}|[\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]|[\u{e0000}-\u{e007f}]/gu;

/** Characters of a message, of which the beginning says where and the end says why; and of a name in it. */
const longestMessage = 2000;
const longestWord = 300;

/**
 * A text from anywhere as a person may see it: no character in it moves a cursor, changes a colour or turns the direction
 * of writing, and long words and long texts lose their middle.
 */
export function readable(text: string): string {
  const escaped = text
    .replace(/\S{301,}/gu, (word) => withoutMiddle(word, longestWord))
    .replace(unreadable, (character) => {
      const code = character.codePointAt(0)!.toString(16);
      return code.length > 4 ? `\\u{${code}}` : `\\u${code.padStart(4, "0")}`;
    });
  return withoutMiddle(escaped, longestMessage);
}

function withoutMiddle(text: string, length: number): string {
  if (text.length <= length) return text;
  const half = Math.floor((length - 40) / 2);
  // Half a character would show as none.
  const start = text.slice(0, half).replace(/[\uD800-\uDBFF]$/, "");
  const end = text.slice(-half).replace(/^[\uDC00-\uDFFF]/, "");
  return `${start} [${text.length - start.length - end.length} characters] ${end}`;
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
