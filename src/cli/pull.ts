import { Command } from "commander";
import { z } from "zod";
import { formatBytes } from "../base/memory.js";
import { hubAccess, pullModel } from "../formats/hub.js";
import { cacheOption, examples, option } from "./options.js";
import { Reporter, print } from "./terminal.js";

interface PullCommand {
  readonly cache: string;
  readonly revision: string;
  readonly offline?: boolean;
  readonly json?: boolean;
}

async function pull(name: string, { json, ...options }: PullCommand): Promise<void> {
  const report = await Reporter.create(json ?? false);
  try {
    const { folder, commit, files } = await pullModel(name, {
      ...options,
      ...hubAccess(),
      onProgress: (file, done, total) => {
        report.progress(`${file}  ${formatBytes(done)} of ${formatBytes(total)}`, { file, done, total });
      },
    });
    report.done();
    for (const { path: file, bytes, how } of files)
      report.say(`${how.padEnd(10)} ${file} (${formatBytes(bytes)})`, { file, bytes, how });
    report.say(`${name} at ${commit} is in ${folder}`, { folder, commit });
    if (!json) print(`${folder}\n`);
  } finally {
    report.done();
  }
}

export const pullCommand = new Command("pull")
  .description("download a model from the hub, and print its folder")
  .argument("<name>", "ORG/NAME on the hub; HF_TOKEN is used for private models")
  .addOption(option("revision", "<name>", "branch, tag or commit", z.string().default("main")))
  .addOption(cacheOption())
  .option("--offline", "use only what was pulled before; ask no host")
  .option("--json", "one JSON object a line, for programs")
  .addHelpText(
    "after",
    examples(
      ["lineage pull HuggingFaceTB/SmolLM2-135M-Instruct", "run again to continue a broken download"],
      [
        'lineage chat --model "$(lineage pull HuggingFaceTB/SmolLM2-135M-Instruct --offline)"',
        "without a network",
      ],
    ),
  )
  .action(pull);
