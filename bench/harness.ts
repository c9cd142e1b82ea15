import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { createInterface } from "node:readline";

export interface Answer {
  seconds: number[];
  peakMiB: number;
}

/** PyTorch in a process of its own; undefined where there is none. */
export class Peer {
  private constructor(
    private readonly child: ChildProcessWithoutNullStreams,
    private readonly lines: AsyncIterator<string>,
    readonly version: string,
  ) {}

  /** @param script a Python file of `bench` */
  static async start(python: string, script: string, threads: number): Promise<Peer | undefined> {
    const file = new URL(`../../bench/${script}`, import.meta.url).pathname;
    const child = spawn(python, [file, String(threads)]);
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
