import { rm } from "node:fs/promises";
import { Command } from "commander";
import { z } from "zod";
import { generateText } from "./generate.js";
import { countOption, examples, option } from "./options.js";
import { colors, tell } from "./terminal.js";
import { runTrain } from "./train.js";

/** From nothing to a story: corpus, tokenizer, training, perplexity, text. */
async function demo({ out, steps }: { out: string; steps: number }): Promise<void> {
  await rm(out, { recursive: true, force: true });
  const { outcome } = await runTrain({
    system: "gpt2",
    out,
    data: "stories",
    vocabSize: 2048,
    steps,
    evalEvery: Math.max(1, Math.ceil(steps / 4)),
    learningRate: 2e-3,
    validation: 0.02,
  });
  if (outcome === "interrupted") return;
  tell(`\n${colors.bold("A story by the model:")}\n\n`);
  await generateText({
    model: out,
    prompt: "Once upon a time, there was a",
    maxNewTokens: 110,
    temperature: 0.7,
    seed: 3,
  });
  // npm start runs where no lineage is on the path.
  const lineage = process.env["npm_lifecycle_event"] === "start" ? "npm run lineage --" : "lineage";
  tell(`\nWrite another one: ${lineage} generate --model ${out} --prompt "Long ago" --seed 4\n`);
}

export const demoCommand = new Command("demo")
  .description("train a small GPT-2 on the embedded stories and let it write one (about three minutes)")
  .addOption(option("out", "<folder>", "checkpoint folder; it is replaced", z.string().default("runs/demo")))
  .addHelpText("after", examples(["lineage demo --steps 200", "a shorter run; the story is worse"]))
  .addOption(countOption("steps", "steps to train", 1200))
  .action(demo);
