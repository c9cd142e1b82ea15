import { type ChildProcessWithoutNullStreams, execFile, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { parseArgs, promisify } from "node:util";

/** What `main` hands to every subject. */
export const { values: options } = parseArgs({
  options: { python: { type: "string", default: "python3" }, smoke: { type: "boolean", default: false } },
  strict: false,
}) as { values: { python: string; smoke: boolean } };

export interface Answer {
  seconds: number[];
  peakMiB: number;
}

/** An engine in a process of its own, such as PyTorch; undefined where there is none. */
export class Peer {
  private constructor(
    private readonly child: ChildProcessWithoutNullStreams,
    private readonly lines: AsyncIterator<string>,
    readonly version: string,
  ) {}

  /** @param script a file of `bench`: a Python one, or a built one */
  static async start(command: string, script: string, threads: number): Promise<Peer | undefined> {
    const place = script.endsWith(".js") ? script : `../../bench/${script}`;
    const file = fileURLToPath(new URL(place, import.meta.url));
    const child = spawn(command, [file, String(threads)]);
    child.on("error", () => undefined);
    const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
    const first = await lines.next();
    return first.done
      ? undefined
      : new Peer(child, lines, (JSON.parse(first.value) as { version: string }).version);
  }

  async ask(request: object): Promise<Answer> {
    this.child.stdin.write(`${JSON.stringify(request)}\n`);
    const line = await this.lines.next();
    if (line.done) throw new Error("the peer process ended");
    return JSON.parse(line.value) as Answer;
  }

  stop(): void {
    this.child.stdin.end();
  }
}

export const median = (values: readonly number[]): number =>
  [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)]!;

export async function timed(repeats: number, run: () => unknown): Promise<number[]> {
  const seconds: number[] = [];
  for (let i = 0; i < repeats; i++) {
    const start = performance.now();
    await run();
    seconds.push((performance.now() - start) / 1000);
  }
  return seconds;
}

/** The most memory that this process has held. */
export const peakMiB = (): number => process.resourceUsage().maxRSS / 1024;

/** Runs another script of this folder, whose memory is then its own, with a question that it answers; undefined where it cannot. */
export async function inOwnProcess<Reply>(script: string, question: object): Promise<Reply | undefined> {
  const file = fileURLToPath(new URL(script, import.meta.url));
  try {
    const { stdout } = await promisify(execFile)(process.execPath, [file, JSON.stringify(question)], {
      maxBuffer: 2 ** 26,
    });
    return JSON.parse(stdout.trim().split("\n").at(-1)!) as Reply;
  } catch (error) {
    const { stderr, signal } = error as { stderr?: string; signal?: string | null };
    console.error(
      `  ${script} failed${signal ? ` by ${signal}` : ""}: ${stderr?.trim().split("\n").slice(0, 12).join("\n  ")}`,
    );
    return undefined;
  }
}

/** The question that `inOwnProcess` put. */
export const request = <Question>(): Question => JSON.parse(process.argv[2]!) as Question;

export function respond(reply: object): void {
  console.log(JSON.stringify(reply));
}
