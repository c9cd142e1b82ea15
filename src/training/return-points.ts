import { copyFile, link, readdir, rename, rm } from "node:fs/promises";
import path from "node:path";
import { storageError } from "../base/files.js";
import { temporaryName } from "../base/temporary.js";
import { trainingFile } from "./checkpoint.js";

const kept = 2;
const namePattern = /^training\.step-(\d+)\.safetensors$/;

/**
 * Checkpoints of a run's last evaluations, which it may go back to: `training.step-500.safetensors` beside the one that it is resumed
 * from. A run that is interrupted and resumed has those of one that was not.
 */
export class ReturnPoints {
  constructor(private readonly folder: string) {}

  file(step: number): string {
    return path.join(this.folder, `training.step-${step}.safetensors`);
  }

  async steps(): Promise<number[]> {
    const names = await readdir(this.folder);
    return names.flatMap((name) => namePattern.exec(name)?.slice(1).map(Number) ?? []).sort((a, b) => a - b);
  }

  /** Keeps the checkpoint that was saved last, which is of this step, and lets the oldest go. */
  async keep(step: number): Promise<void> {
    const target = this.file(step);
    const steps = await this.steps();
    if (steps.includes(step)) return;
    const temporary = path.join(this.folder, temporaryName("tmp"));
    try {
      // A second name of the same file, where the file system has such names: it takes no room until the first is replaced.
      await link(trainingFile(this.folder), temporary).catch(() =>
        copyFile(trainingFile(this.folder), temporary),
      );
      await rename(temporary, target);
      for (const old of [...steps, step].slice(0, -kept)) await rm(this.file(old), { force: true });
    } catch (error) {
      throw storageError("keep the checkpoint", target, error);
    }
  }

  /** Lets those of later steps go. */
  async forget(step: number): Promise<void> {
    for (const later of await this.steps()) if (later > step) await rm(this.file(later), { force: true });
  }
}
