import { createInterface } from "node:readline";
import { Command, Option } from "commander";
import { LineageError } from "../base/errors.js";
import { readText, writeJson } from "../base/files.js";
import { type AnswerReport, Chat, Decoder, type SamplingOptions, endOfText } from "../generation/index.js";
import { loadForInference } from "../checkpoints/index.js";
import { type Device, createRuntime } from "../runtime/index.js";
import { deviceOption, examples, number, preparedOption, preparedWeights } from "./options.js";
import { type QuantizedBits, fastPromptsHelp, schemeOf } from "./quantize.js";
import { colors } from "./terminal.js";

interface ChatCommand extends SamplingOptions {
  readonly model: string;
  readonly system?: string;
  readonly template?: string;
  readonly quantize?: QuantizedBits;
  readonly fastPrompts?: boolean;
  readonly prepared: boolean;
  readonly context: number;
  readonly maxNewTokens?: number;
  readonly seed: number;
  readonly threads?: number;
  readonly device?: Device;
  readonly json?: boolean;
}

const help = `/help           this list
/reset          begin anew
/system TEXT    begin anew with this system message
/save FILE      write the conversation as JSON
/exit           leave; so does the end of the input
Ctrl-C          stop the answer; again, leave
`;

/** What is worth knowing about an answer, as one line. */
function summary(report: AnswerReport): string {
  const rate = report.newTokens > 1 ? (report.newTokens - 1) / report.seconds : 0;
  const ends: Partial<Record<AnswerReport["finish"], string>> = {
    length: ", cut off at --max-new-tokens",
    context: ", cut off: the context is full",
    aborted: ", stopped; Ctrl-C again leaves",
  };
  const forgotten =
    report.forgotten > 0
      ? `the context is full: the ${report.forgotten} oldest messages are forgotten; `
      : "";
  return `[${forgotten}${report.promptTokens} prompt tokens, ${report.reusedTokens} of them reused, first token after ${report.promptSeconds.toFixed(2)} s; ${report.newTokens} written at ${rate.toFixed(1)} tokens/s${ends[report.finish] ?? ""}]`;
}

async function chat(command: ChatCommand): Promise<void> {
  const { json = false } = command;
  const say = (text: string): void => void process.stderr.write(`${text}\n`);
  const runtime = createRuntime({ threads: command.threads, device: command.device });
  const started = performance.now();
  const notes: string[] = [];
  const loaded = await loadForInference(runtime, command.model, {
    quantize: schemeOf(command.quantize),
    fastPrompts: command.fastPrompts,
    prepared: preparedWeights(command.prepared, notes),
  });
  const { model, weights, tokenizer } = loaded;
  const capacity = Math.min(model.config.contextLength, command.context);
  using decoder = await Decoder.create({ model, weights, capacity });
  const conversation = new Chat(decoder, tokenizer, {
    stopIds: loaded.stopIds ?? endOfText(tokenizer),
    system: command.system,
    maxNewTokens: command.maxNewTokens,
    template: command.template === undefined ? undefined : await readText(command.template),
  });
  const terminal = process.stdin.isTTY && !json;
  const lines = createInterface({
    input: process.stdin,
    ...(terminal && { output: process.stderr, prompt: colors.bold("> ") }),
  });
  let answering: AbortController | undefined;
  /** Ctrl-C since the last message: the first one stops, the second one leaves. */
  let interrupts = 0;
  const leave = (): boolean => interrupts > 1;
  const interrupt = (): void => {
    interrupts++;
    answering?.abort();
    if (leave()) lines.close();
    else if (!answering) {
      say("nothing to stop; /exit or Ctrl-C again leaves");
      if (terminal) lines.prompt();
    }
  };
  lines.on("SIGINT", interrupt);
  process.on("SIGINT", interrupt);
  // Only now: who reads this may press Ctrl-C.
  say(
    colors.dim(
      `${command.model}: ${loaded.system.title}, a context of ${capacity} tokens, ready in ${((performance.now() - started) / 1000).toFixed(1)} s; /help for commands`,
    ),
  );

  const answer = async (content: string): Promise<void> => {
    answering = new AbortController();
    try {
      const pieces = conversation.answer(content, { ...command, signal: answering.signal });
      let text = "";
      for (;;) {
        const next = await pieces.next();
        if (!next.done) {
          text += next.value;
          if (!json) process.stdout.write(next.value);
        } else if (json) {
          process.stdout.write(`${JSON.stringify({ role: "assistant", content: text, ...next.value })}\n`);
          return;
        } else {
          process.stdout.write("\n");
          say(colors.dim(summary(next.value)));
          return;
        }
      }
    } catch (error) {
      // A message that does not fit ends itself, not the conversation.
      if (!(error instanceof LineageError && error.code === "length")) throw error;
      if (json) process.stdout.write(`${JSON.stringify({ error: error.message, code: error.code })}\n`);
      else say(error.message);
    } finally {
      answering = undefined;
    }
  };

  /** Whether the conversation goes on. */
  const obey = async (line: string): Promise<boolean> => {
    const [, name, rest = ""] = /^\/(\S*)\s*(.*)$/s.exec(line)!;
    if (name === "exit" || name === "quit") return false;
    if (name === "help") process.stderr.write(help);
    else if (name === "reset") {
      conversation.reset();
      say("begun anew");
    } else if (name === "system") {
      conversation.reset(rest === "" ? undefined : rest);
      say(
        rest === "" ? "begun anew, without a system message of yours" : "begun anew with this system message",
      );
    } else if (name === "save" && rest !== "") {
      await writeJson(rest, conversation.messages);
      say(`wrote ${conversation.messages.length} messages to ${rest}`);
    } else if (name === "save") say("/save needs a file: /save talk.json");
    else say(`there is no command /${name}; /help lists them`);
    return true;
  };

  try {
    if (terminal) lines.prompt();
    for await (const line of lines) {
      if (leave()) break;
      interrupts = 0;
      if (line.startsWith("/")) {
        if (!(await obey(line))) break;
      } else if (line.trim() !== "") await answer(line);
      if (leave()) break;
      if (terminal) lines.prompt();
    }
  } finally {
    process.removeListener("SIGINT", interrupt);
    lines.close();
  }
  await loaded.kept;
  for (const note of notes) say(colors.dim(note));
}

export const chatCommand = new Command("chat")
  .description("talk with a model in the terminal, by its own chat template")
  .requiredOption("--model <place>", "a .gguf file, or a folder of Hugging Face with a chat template")
  .option("--system <text>", "system message; default what the template says")
  .option("--template <file>", "Jinja instead of the model's own template")
  .option(
    "--context <n>",
    "tokens that the conversation may hold; the oldest exchanges go first",
    number,
    4096,
  )
  .option("--max-new-tokens <n>", "tokens of an answer; so many are kept free", number)
  .option("--temperature <x>", "0 takes the most probable token every time", number, 0.7)
  .option("--top-k <n>", "keep the k most probable tokens", number)
  .option("--top-p <p>", "keep the most probable tokens up to this probability", number, 0.9)
  .option("--min-p <p>", "keep tokens this probable beside the first", number)
  .option("--repetition-penalty <x>", "above 1 avoids tokens seen before", number)
  .option("--seed <n>", "the same seed gives the same answers", number, 0)
  .addOption(new Option("--quantize <bits>", "keep matrices in fewer bits").choices(["4", "8", "nf4"]))
  .option("--fast-prompts", fastPromptsHelp)
  .addOption(preparedOption())
  .addOption(deviceOption())
  .option("--threads <n>", "threads of the engine", number)
  .option("--json", "one JSON object for each answer; each line of the input is a message or a command")
  .addHelpText(
    "after",
    examples(
      ["lineage chat --model SmolLM2-135M-Instruct.gguf", "talk; /help lists the commands"],
      ['lineage chat --model folder --system "Answer briefly."', "with a system message"],
      ["lineage chat --model folder --json < questions.txt", "for a program"],
    ),
  )
  .action(chat);
