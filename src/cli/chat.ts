import { type Interface, createInterface } from "node:readline";
import { Command, Option } from "commander";
import { LineageError } from "../base/errors.js";
import { readJson, readText, writeJson } from "../base/files.js";
import {
  type AnswerReport,
  Chat,
  Decoder,
  type SamplingOptions,
  checkSampling,
  endOfText,
} from "../generation/index.js";
import { loadForInference } from "../checkpoints/index.js";
import { scaledContext } from "../nn/index.js";
import { type Device, createRuntime } from "../runtime/index.js";
import { modelFor } from "./model.js";
import { deviceOption, examples, number, preparedOption, preparedWeights } from "./options.js";
import { type QuantizedBits, fastPromptsHelp, schemeOf } from "./quantize.js";
import { colors, print, tell } from "./terminal.js";

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

const help = `/help             this list
/reset            begin anew
/system TEXT      begin anew with this system message
/regenerate       write the last answer anew, with another seed
/set NAME VALUE   change temperature, top-k, top-p, min-p, repetition-penalty or seed; alone, show them
/save FILE        write the conversation as JSON
/load FILE        go on with a conversation that was saved
/exit             leave; so does the end of the input
"""               begins a message of several lines, and ends it; pasted lines are one message
Ctrl-C            stop the answer; again, leave
`;

/** What `/set` can change, by the names of the options. */
const settings = {
  temperature: "temperature",
  "top-k": "topK",
  "top-p": "topP",
  "min-p": "minP",
  "repetition-penalty": "repetitionPenalty",
  seed: "seed",
} as const;

/**
 * Messages from lines: those between `"""` are one, and so are those that were pasted.
 * @param isPasted whether more of a pasted text follows the line, asked as the line comes
 */
async function* messagesOf(lines: Interface, isPasted: () => boolean): AsyncGenerator<string> {
  const pasted: boolean[] = [];
  lines.on("line", () => void pasted.push(isPasted()));
  let held: string[] = [];
  let quoted = false;
  for await (const line of lines) {
    const more = pasted.shift()!;
    let text = line;
    if (!quoted && held.length === 0 && text.startsWith('"""')) {
      quoted = true;
      text = text.slice(3);
    }
    const ends = quoted && text.endsWith('"""');
    if (ends) text = text.slice(0, -3);
    held.push(text);
    if (ends) quoted = false;
    if (quoted || more) continue;
    // What stands alone on the line of a mark is no line of the message.
    yield held.join("\n").replace(/^\n|\n$/g, "");
    held = [];
  }
  if (held.length > 0) yield held.join("\n").replace(/^\n|\n$/g, "");
}

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
  const say = (text: string): void => tell(`${text}\n`);
  const runtime = createRuntime({ threads: command.threads, device: command.device });
  const started = performance.now();
  const notes: string[] = [];
  const loaded = await loadForInference(runtime, await modelFor(command.model), {
    quantize: schemeOf(command.quantize),
    fastPrompts: command.fastPrompts,
    prepared: preparedWeights(command.prepared, notes),
  });
  const { model, weights, tokenizer } = loaded;
  const capacity = Math.min(scaledContext(model.config), command.context);
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
  let pasting = false;
  if (terminal) {
    // The terminal then says where a pasted text begins and ends.
    process.stderr.write("\x1b[?2004h");
    process.stdin.on("keypress", (_text: unknown, key?: { readonly name?: string }) => {
      if (key?.name === "paste-start") pasting = true;
      else if (key?.name === "paste-end") pasting = false;
    });
  }
  let sampling: SamplingOptions & { readonly seed: number } = command;
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

  /** @param content undefined writes the last answer anew */
  const answer = async (content?: string): Promise<void> => {
    answering = new AbortController();
    try {
      const options = { ...sampling, signal: answering.signal };
      const pieces =
        content === undefined ? conversation.regenerate(options) : conversation.answer(content, options);
      let text = "";
      for (;;) {
        const next = await pieces.next();
        if (!next.done) {
          text += next.value;
          if (!json) print(next.value);
        } else if (json) {
          print(`${JSON.stringify({ role: "assistant", content: text, ...next.value })}\n`);
          return;
        } else {
          print("\n");
          say(colors.dim(summary(next.value)));
          return;
        }
      }
    } catch (error) {
      // A message that does not fit ends itself, not the conversation.
      if (!(error instanceof LineageError && ["length", "argument"].includes(error.code))) throw error;
      if (json) print(`${JSON.stringify({ error: error.message, code: error.code })}\n`);
      else say(error.message);
    } finally {
      answering = undefined;
    }
  };

  const set = (rest: string): void => {
    const [name = "", text = ""] = rest.split(/\s+/);
    if (rest === "") {
      for (const [option, key] of Object.entries(settings)) say(`${option} ${sampling[key] ?? "off"}`);
      return;
    }
    const key = Object.hasOwn(settings, name) ? settings[name as keyof typeof settings] : undefined;
    const value = Number(text);
    if (!key || text === "" || Number.isNaN(value)) {
      say(`/set takes one of ${Object.keys(settings).join(", ")} and a number: /set temperature 0.5`);
      return;
    }
    const changed = { ...sampling, [key]: value };
    try {
      checkSampling(changed);
      if (!Number.isSafeInteger(changed.seed))
        throw new LineageError("argument", "the seed is a whole number");
      sampling = changed;
      say(`${name} is ${value}`);
    } catch (error) {
      if (!(error instanceof LineageError)) throw error;
      say(error.message);
    }
  };

  /** Whether the conversation goes on. */
  const obey = async (line: string): Promise<boolean> => {
    const [, name, rest = ""] = /^\/(\S*)\s*(.*)$/s.exec(line)!;
    if (name === "exit" || name === "quit") return false;
    if (name === "help") tell(help);
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
    } else if (name === "load" && rest !== "") {
      try {
        conversation.load(await readJson(rest));
        say(`${conversation.messages.length} messages from ${rest}`);
      } catch (error) {
        if (!(error instanceof LineageError)) throw error;
        say(error.message);
      }
    } else if (name === "save" || name === "load") say(`/${name} needs a file: /${name} talk.json`);
    else if (name === "regenerate") {
      sampling = { ...sampling, seed: sampling.seed + 1 };
      await answer();
    } else if (name === "set") set(rest);
    else say(`there is no command /${name}; /help lists them`);
    return true;
  };

  try {
    if (terminal) lines.prompt();
    for await (const message of messagesOf(lines, () => pasting)) {
      if (leave()) break;
      interrupts = 0;
      if (/^\/[^\n]*$/.test(message)) {
        if (!(await obey(message))) break;
      } else if (message.trim() !== "") await answer(message);
      if (leave()) break;
      if (terminal) lines.prompt();
    }
  } finally {
    process.removeListener("SIGINT", interrupt);
    if (terminal) process.stderr.write("\x1b[?2004l");
    lines.close();
    // As programs end that a signal ended.
    if (leave()) process.exitCode = 130;
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
