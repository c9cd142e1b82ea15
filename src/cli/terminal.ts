import type { createLogUpdate } from "log-update";
import picocolors from "picocolors";

/** Colours for standard error: on a terminal, or where FORCE_COLOR asks for them; never where NO_COLOR is set. */
function coloured({ NO_COLOR, FORCE_COLOR, TERM }: NodeJS.ProcessEnv): boolean {
  if (NO_COLOR) return false;
  if (FORCE_COLOR) return FORCE_COLOR !== "0";
  // Undefined, not false, where there is no terminal.
  return process.stderr.isTTY === true && TERM !== "dumb";
}

export const colors = picocolors.createColors(coloured(process.env));

/** What a terminal obeys instead of showing it; line feeds and tabs are left. */
const control = /[^\P{Cc}\t\n]/gu;
/** The colours and weights of `colors`, which are the only commands that reach a terminal. */
const ownStyle = /^.\[(?:1|2|22|3[1-69])m/u;

/**
 * A text as a terminal may have it: names, metadata and what models write can hold characters that move its cursor, change
 * its title or hide what follows. They are shown as JSON writes them, `\u001b`. The access token of a hub is left out.
 */
export function printable(text: string): string {
  const token = process.env["HF_TOKEN"]?.trim();
  const safe = token ? text.replaceAll(token, "(HF_TOKEN)") : text;
  return safe
    .replace(/\r\n/g, "\n")
    .replace(control, (character, offset: number, whole: string) =>
      character === "\u001b" && ownStyle.test(whole.slice(offset, offset + 5))
        ? character
        : `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
    );
}

/** Everything that a command prints passes one of these two: answers go to standard output, all else to standard error. */
export const print = (text: string): void => void process.stdout.write(printable(text));
export const tell = (text: string): void => void process.stderr.write(printable(text));

/** Milliseconds between two lines of progress where there is no terminal: a log file keeps each of them. */
const logInterval = 30_000;

/** Where a command reports: a line that renews itself on a terminal, one JSON object a line for programs. */
export class Reporter {
  private lastLine = performance.now();

  private constructor(
    /** Whether it writes for programs. */
    readonly json: boolean,
    /** The line that renews itself: on a terminal only. */
    private readonly live: ReturnType<typeof createLogUpdate> | undefined,
  ) {}

  static async create(json: boolean): Promise<Reporter> {
    if (json || !process.stderr.isTTY) return new Reporter(json, undefined);
    // The package takes as long to load as many a command to run, with its tables of all characters' widths.
    const { createLogUpdate } = await import("log-update");
    return new Reporter(json, createLogUpdate(process.stderr, { showCursor: true }));
  }

  /** A fact worth keeping on the screen. */
  say(message: string, data: Record<string, unknown> = {}): void {
    if (this.json) print(`${JSON.stringify({ message, ...data })}\n`);
    else {
      this.live?.clear();
      tell(`${message}\n`);
    }
  }

  /**
   * The state of something that goes on.
   * @param share how much of it is done, from 0 to 1: a terminal shows it as a bar
   */
  progress(message: string, data: Record<string, unknown>, share?: number): void {
    if (this.json) print(`${JSON.stringify(data)}\n`);
    else if (this.live) this.live(printable(share === undefined ? message : `${bar(share)} ${message}`));
    else if (performance.now() - this.lastLine > logInterval) {
      this.lastLine = performance.now();
      tell(`${message}\n`);
    }
  }

  done(): void {
    this.live?.done();
  }
}

/** `1:05:09` or `4:07`. */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return h > 0
    ? `${h}:${String(m).padStart(2, "0")}:${String(s).padStart(2, "0")}`
    : `${m}:${String(s).padStart(2, "0")}`;
}

/** `[████░░░░]` */
function bar(fraction: number, width = 24): string {
  const full = Math.round(Math.min(1, fraction) * width);
  return colors.cyan("█".repeat(full)) + colors.dim("░".repeat(width - full));
}

/** `12,345` */
