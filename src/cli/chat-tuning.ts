import type { Command } from "commander";
import { type FinetuneChatResult, finetuneChatOptions } from "../tasks/index.js";
import { libraryOptions } from "./options.js";
import { type Reporter, colors } from "./terminal.js";
import { adapterUse } from "./text-pairs.js";

// Options and words of runs on conversations.

const of = libraryOptions(finetuneChatOptions.shape);

/** Adds the options that conversations have to a command; those that `finetune` has already serve for both. */
export function addChatOptions(command: Command, group = "Conversations (--task chat):"): void {
  const options = [
    of("format", "<layout>", "how the conversations are written", { usual: "told by looking" }),
    of("train", "<part>", "what is learned of a conversation"),
    of("template", "<file>", "a chat template in Jinja", {
      usual: "the model's own, else a plain one that is written into its tokenizer",
    }),
    of("sampleTokens", "<n>", "most tokens of an answer that an evaluation writes"),
  ];
  command.optionsGroup(group);
  for (const one of options) command.addOption(one);
}

/**
 * Adds the options of adapters, which conversations, tables and pairs of texts have.
 * @param usual the adapter where nobody names one
 */
export function addAdapterOptions(command: Command, group: string, usual: string): void {
  const options = [
    of(
      "adapter",
      "<kind>",
      "what learns beside a frozen model; qlora keeps the model in 4-bit NormalFloat; prompt and prefix (for chat) learn virtual tokens; none trains all weights",
      { usual },
    ),
    of("rank", "<n>", "rank of the adapter"),
    of("alpha", "<x>", "the update is scaled by alpha / rank"),
    of("rsLora", undefined, "scale it by alpha / sqrt(rank)"),
    of("dora", undefined, "learn the length of each output's weights by itself (DoRA)"),
    of("loraDropout", "<p>", "dropout of the adapter's input"),
    of("loraTargets", "<names>", "layers: all-linear, names between commas, or /a regular expression/"),
    of("virtualTokens", "<n>", "tokens of a soft prompt or a prefix"),
    of("promptInit", "<text>", "what a soft prompt or a prefix begins as", { usual: "random tokens" }),
  ];
  command.optionsGroup(group);
  for (const one of options) command.addOption(one);
}

/** Says how a run on conversations ended, and what to do with it. */
export function tellChatRun(
  report: Reporter,
  out: string,
  result: FinetuneChatResult,
  command = "finetune",
): void {
  const { outcome, step, options, best = NaN } = result;
  if (outcome === "interrupted") {
    report.say(
      `stopped after step ${step} and saved; continue with: lineage ${command} --resume --out ${out}`,
      { ...result },
    );
    return;
  }
  const whole = options.adapter === "none";
  const use = whole ? `--model ${out}` : adapterUse(options, out);
  report.say(
    `${colors.green("done")}${outcome === "stopped early" ? ", stopped early" : ""}: ${out} holds the ${whole ? "model" : "adapter"} of step ${result.bestStep} (held-out loss ${best.toFixed(4)}, perplexity ${Math.exp(best).toFixed(2)}); talk with it: lineage chat ${use}`,
    { ...result },
  );
}
