import { Worker } from "node:worker_threads";
import { LineageError, messageOf } from "../base/errors.js";
import type { Batch } from "../data/index.js";
import type { Weights } from "../nn/index.js";
import { type PartValues, type PassOptions, addParts } from "./step.js";
import type { WorkerAnswer, WorkerShare, WorkerStart } from "./worker.js";

export interface WorkerGroupOptions extends PassOptions {
  readonly workers: number;
  /** Module that exports a function making the objective, as `import.meta.url` gives it, and that function's name. */
  readonly module: string;
  readonly name: string;
  /** What the function is given; it must survive being sent to another thread. */
  readonly argument: unknown;
  /** Engine threads of each worker. Default 1. */
  readonly threads?: number;
}

/**
 * Worker threads that share out the micro-batches of a step, each with a model and an engine of its own. Their gradients
 * are added up in the order of the workers, so that a step repeats exactly, and is that of the one big batch.
 */
export class WorkerGroup implements Disposable {
  private constructor(
    private readonly workers: readonly Worker[],
    private readonly weights: Weights,
    private readonly gradients: Weights,
    private readonly sharedWeights: Float32Array,
    private readonly sharedGradients: readonly Float32Array[],
  ) {}

  /** @param gradients where the sums go: `weights.like` of the trainable parameters */
  static create(weights: Weights, gradients: Weights, options: WorkerGroupOptions): WorkerGroup {
    if (!Number.isInteger(options.workers) || options.workers < 1)
      throw new LineageError(
        "argument",
        `workers must be a whole number of at least 1, not ${options.workers}`,
      );
    const share = (buffer: Weights) => new SharedArrayBuffer(buffer.layout.size * 4);
    const sharedWeights = share(weights);
    const sharedGradients = Array.from({ length: options.workers }, () => share(gradients));
    const workers = sharedGradients.map((memory) => {
      const workerData: WorkerStart = {
        module: options.module,
        name: options.name,
        argument: options.argument,
        threads: options.threads ?? 1,
        gradientCheckpointing: options.gradientCheckpointing,
        weights: sharedWeights,
        gradients: memory,
      };
      return new Worker(new URL("./worker.js", import.meta.url), { workerData });
    });
    return new WorkerGroup(
      workers,
      weights,
      gradients,
      new Float32Array(sharedWeights),
      sharedGradients.map((memory) => new Float32Array(memory)),
    );
  }

  /** Runs the micro-batches of one step, each with its seed, and leaves the sum of their gradients. Sums of the parts of the loss. */
  async run(
    batches: readonly { readonly batch: Batch; readonly seed: number }[],
    counts: PartValues,
  ): Promise<PartValues> {
    this.sharedWeights.set(this.weights.flat.contents());
    const shares = this.workers.map((_, index): WorkerShare => ({
      batches: batches.filter((__, place) => place % this.workers.length === index),
      counts,
    }));
    const answers = await Promise.all(
      this.workers.map((worker, index) =>
        shares[index]!.batches.length > 0 ? ask(worker, shares[index]!) : undefined,
      ),
    );
    this.gradients.clear();
    const total = this.gradients.flat.view();
    const sums: Record<string, number> = {};
    answers.forEach((parts, worker) => {
      if (!parts) return;
      const own = this.sharedGradients[worker]!;
      for (let i = 0; i < total.length; i++) total[i]! += own[i]!;
      addParts(sums, parts);
    });
    return sums;
  }

  dispose(): void {
    for (const worker of this.workers) void worker.terminate();
  }
  [Symbol.dispose](): void {
    this.dispose();
  }
}

function ask(worker: Worker, share: WorkerShare): Promise<PartValues> {
  return new Promise((resolve, reject) => {
    const settle = (action: () => void): void => {
      worker.off("message", answered).off("error", failed).off("exit", ended);
      action();
    };
    const failed = (error: unknown): void => {
      settle(() => {
        reject(
          new LineageError("runtime", `a training worker failed: ${messageOf(error)}`, { cause: error }),
        );
      });
    };
    const answered = (answer: WorkerAnswer): void => {
      if ("error" in answer) failed(answer.error);
      else
        settle(() => {
          resolve(answer.sums);
        });
    };
    const ended = (): void => {
      failed(new Error("it ended"));
    };
    worker.on("message", answered).on("error", failed).on("exit", ended);
    worker.postMessage(share);
  });
}
