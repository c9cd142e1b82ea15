import type { Command } from "commander";
import { LineageError } from "../base/errors.js";
import { type TextResult, finetuneTextOptions } from "../tasks/index.js";
import { flagOf, libraryOptions } from "./options.js";
import { type Reporter, colors, duration } from "./terminal.js";

// Options and words of runs over pairs of texts, which `train` and `finetune` share.

const of = libraryOptions(finetuneTextOptions.shape);

/** Adds to a command the options that only pairs of texts have. */
export function addPairOptions(command: Command, group: string, taken: readonly string[]): Command {
  const options = [
    of("source", "<column>", "column of the source", { usual: "source, input, text, document, …" }),
    of("target", "<column>", "column of the target", { usual: "target, output, summary, …" }),
    of("targets", "<file>", "the targets, one a line; --data then has the sources, one a line", {
      usual: "both are columns of --data",
    }),
    of("prefix", "<text>", "text before every source, such as 'summarize: '", { usual: "none" }),
    of("eval", "<file>", "pairs to evaluate on", { usual: "a share of --data is held out" }),
    of("evalTargets", "<file>", "the targets of --eval, one a line", { usual: "a column of --eval" }),
    of("encoding", "<name>", "text encoding of the files", { usual: "UTF-8" }),
    of("skipBadRows", undefined, "leave out rows that cannot be read, and count them"),
    of("maxLength", "<n>", "most tokens of a text", { usual: "the model's context" }),
    of("long", "<how>", "what becomes of a pair with a longer text; it is counted and told"),
    of("maxTokens", "<n>", "most tokens of a batch on either side, padding included"),
    of("epochs", "<n>", "passes over the pairs"),
    of("steps", "<n>", "steps to train", { usual: "as many as the epochs have" }),
    of("labelSmoothing", "<p>", "share of the target that is spread over the vocabulary"),
    of(
      "optimizer",
      "<name>",
      "optimizer; adamw8bit keeps AdamW's moments in 8 bits, paged in a file of --out",
    ),
    of("schedule", "<name>", "schedule of the learning rate"),
    of("warmupTokens", "<n>", "target tokens of warm-up, in steps of mean size", {
      usual: "as --warmup says",
    }),
    of("metric", "<name>", "metric that chooses the best checkpoint"),
    of("evalRows", "<n>", "held-out texts that are written and scored at an evaluation"),
    of("samples", "<n>", "of them, how many are shown beside their references"),
    of("averageLast", "<n>", "evaluate and save the mean of the weights at the last n evaluations"),
  ];
  command.optionsGroup(group);
  for (const one of options) if (!taken.includes(one.attributeName())) command.addOption(one);
  return command;
}

/** Throws `argument` for a given option that a kind of run does not have. */
export function refuseOthers(
  options: Readonly<Record<string, unknown>>,
  known: Readonly<Record<string, unknown>>,
  what: string,
): void {
  for (const [name, value] of Object.entries(options))
    if (value !== undefined && !Object.hasOwn(known, name))
      throw new LineageError("argument", `${what} has no ${flagOf(name)}; leave it out`);
}

/** How a base and the adapter of a run are named to a command that uses them. */
export const adapterUse = (
  { model, adapter }: { readonly model: string; readonly adapter: string },
  out: string,
): string => `--model ${model} --adapter ${out}${adapter === "qlora" ? " --quantize nf4" : ""}`;

/** Says how a run over pairs of texts ended. */
export function tellTextRun(
  report: Reporter,
  { outcome, step, metrics, signatures, ...result }: TextResult,
  { command, out, seconds }: { readonly command: string; readonly out: string; readonly seconds: number },
): void {
  if (outcome === "interrupted") {
    report.say(
      `stopped after step ${step} and saved; continue with: lineage ${command} --resume --out ${out}`,
      { outcome, step },
    );
    return;
  }
  const shown = Object.entries(metrics ?? {}).map(([name, value]) => `${name} ${value.toFixed(4)}`);
  const { options } = result;
  const adapted = "adapter" in options && options.adapter !== "none" ? options : undefined;
  const use = adapted ? `; use it: lineage transform ${adapterUse(adapted, out)}` : "";
  const signed = Object.entries(signatures ?? {}).map(([name, signature]) => `\n  ${name}: ${signature}`);
  report.say(
    `${colors.green("done")} in ${duration(seconds)}${outcome === "stopped early" ? ", stopped early" : ""}: ${out} holds the best ${adapted ? "adapter" : "checkpoint"} (step ${result.bestStep}): ${shown.join(", ")}${use}${signed.join("")}`,
    { outcome, step, metrics, signatures, ...result, seconds },
  );
}
