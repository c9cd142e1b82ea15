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

/** Where a command reports: a line that renews itself on a terminal, one JSON object a line for programs. */
export class Reporter {
  private lastLine = 0;

  private constructor(
    private readonly json: boolean,
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
    if (this.json) process.stdout.write(`${JSON.stringify({ message, ...data })}\n`);
    else {
      this.live?.clear();
      process.stderr.write(`${message}\n`);
    }
  }

  /** The state of something that goes on. Without a terminal it appears every few seconds. */
  progress(message: string, data: Record<string, unknown>): void {
    if (this.json) process.stdout.write(`${JSON.stringify(data)}\n`);
    else if (this.live) this.live(message);
    else if (performance.now() - this.lastLine > 5000) {
      this.lastLine = performance.now();
      process.stderr.write(`${message}\n`);
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
export function bar(fraction: number, width = 24): string {
  const full = Math.round(Math.min(1, fraction) * width);
  return colors.cyan("█".repeat(full)) + colors.dim("░".repeat(width - full));
}

/** `12,345` */
export const count = (value: number): string => value.toLocaleString("en-US");
