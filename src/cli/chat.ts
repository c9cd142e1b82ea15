import { type Interface, createInterface } from "node:readline";
import { Command, Option } from "commander";
import { z } from "zod";
import { LineageError } from "../base/errors.js";
import { readJson, readText, writeJson } from "../base/files.js";
import {
  type AnswerReport,
  Chat,
  Decoder,
  type SamplingOptions,
  checkSampling,
} from "../generation/index.js";
import { scaledContext } from "../nn/index.js";
import { type Device, createRuntime } from "../runtime/index.js";
import { historyFile, historySize, keepHistory, readHistory } from "./history.js";
import {
  type ChoosingCommand,
  addModelOptions,
  addSamplingOptions,
  loadAnyToChoose,
  wordsOf,
} from "./inference.js";
import { modelFor } from "./model.js";
import { countOption, deviceOption, examples, option, threadsOption, requiredOption } from "./options.js";
import { colors, print, tell } from "./terminal.js";

interface ChatCommand extends SamplingOptions, ChoosingCommand {
  readonly model: string;
  readonly system?: string;
  readonly template?: string;
  /** Whether typed lines are kept for the next session. */
  readonly history: boolean;
  readonly context: number;
  readonly maxNewTokens?: number;
  readonly seed: number;
  readonly threads?: number;
  readonly device?: Device;
  readonly json?: boolean;
}

const help = `/help             this list
/reset            start over, with the same system message
/system TEXT      start over with this system message; without TEXT, with none
/regenerate       replace the last answer by another one (the next seed)
/adapter NAME     let another adapter answer; /adapter none the base; /adapter alone lists them
/set NAME VALUE   change temperature, top-k, top-p, min-p, repetition-penalty or seed; /set alone shows them
/save FILE        save the conversation as JSON
/load FILE        continue a saved conversation
/exit             leave (or Ctrl-D)
"""               starts a message of several lines and ends it; pasted lines are one message
Ctrl-C            stop the answer; press it again to leave
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
    aborted: ", stopped; press Ctrl-C again to leave",
  };
  const forgotten =
    report.forgotten > 0
      ? `the context is full, so the ${report.forgotten} oldest messages were dropped; `
      : "";
  return `[${forgotten}${report.promptTokens} prompt tokens (${report.reusedTokens} from the cache), first token after ${report.promptSeconds.toFixed(2)} s; ${report.newTokens} tokens written at ${rate.toFixed(1)} tokens/s${ends[report.finish] ?? ""}]`;
}

/** The history of earlier sessions; undefined, with a word, where its file cannot be read. */
async function earlierLines(say: (text: string) => void): Promise<string[] | undefined> {
  try {
    return await readHistory(historyFile());
  } catch (error) {
    if (!(error instanceof LineageError)) throw error;
    say(`${error.message}; this session starts without a history`);
    return undefined;
  }
}

async function chat(command: ChatCommand): Promise<void> {
  const { json = false } = command;
  const say = (text: string): void => tell(`${text}\n`);
  const runtime = createRuntime({ threads: command.threads, device: command.device });
  const started = performance.now();
  const notes: string[] = [];
  const loaded = await loadAnyToChoose(runtime, await modelFor(command.model), command, notes);
  const { model, weights } = loaded;
  const capacity = Math.min(scaledContext(model.config), command.context);
  using decoder = await Decoder.create({ model, weights, capacity });
  const template = command.template === undefined ? undefined : await readText(command.template);
  const talk = (by: string | undefined): Chat => {
    const { tokenizer, stopIds } = wordsOf(loaded, by);
    const { system, maxNewTokens } = command;
    return new Chat(decoder, tokenizer, { stopIds, system, maxNewTokens, template });
  };
  let [adapter] = decoder.adapters;
  let conversation = talk(adapter);
  const terminal = process.stdin.isTTY && !json;
  const kept = terminal && command.history ? await earlierLines(say) : undefined;
  const lines = createInterface({
    input: process.stdin,
    ...(terminal && { output: process.stderr, prompt: colors.bold("> "), historySize, history: kept ?? [] }),
  });
  if (kept)
    keepHistory(lines, historyFile(), ({ message }) => {
      say(`${message}; what you type is not kept`);
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
      say("nothing to stop; /exit, or Ctrl-C again, to leave");
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

  /** @param content undefined replaces the last answer */
  const answer = async (content?: string): Promise<void> => {
    answering = new AbortController();
    try {
      const options = { ...sampling, adapter, signal: answering.signal };
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
      say(
        `/set needs a name (${Object.keys(settings).join(", ")}) and a number, such as /set temperature 0.5`,
      );
      return;
    }
    const changed = { ...sampling, [key]: value };
    try {
      checkSampling(changed, (option) => (option === key ? name : option));
      if (!Number.isSafeInteger(changed.seed))
        throw new LineageError("argument", `seed must be a whole number, not ${text}`);
      sampling = changed;
      say(`${name} is ${value}`);
    } catch (error) {
      if (!(error instanceof LineageError)) throw error;
      say(error.message);
    }
  };

  const choose = (name: string): void => {
    const { adapters } = decoder;
    if (name === "") {
      for (const one of ["none", ...adapters]) say(one === (adapter ?? "none") ? `${one} (answers)` : one);
    } else if (name !== "none" && !adapters.includes(name)) {
      say(
        adapters.length === 0
          ? "there are no adapters to choose from: start with --adapter NAME=FOLDER"
          : `there is no adapter ${name}; there are ${adapters.join(", ")}, and none for the base`,
      );
    } else {
      const chosen = name === "none" ? undefined : name;
      const next = talk(chosen);
      next.load(conversation.messages);
      [adapter, conversation] = [chosen, next];
      say(name === "none" ? "the base answers" : `${name} answers`);
    }
  };

  const obey = async (name: string, rest: string): Promise<void> => {
    if (name === "help") tell(help);
    else if (name === "reset") {
      conversation.reset();
      say("started over");
    } else if (name === "system") {
      conversation.reset(rest === "" ? null : rest);
      say(rest === "" ? "started over without a system message" : "started over with this system message");
    } else if (name === "save" && rest !== "") {
      await writeJson(rest, conversation.messages);
      say(`saved ${conversation.messages.length} messages to ${rest}`);
    } else if (name === "load" && rest !== "") {
      conversation.load(await readJson(rest));
      say(`loaded ${conversation.messages.length} messages from ${rest}`);
    } else if (name === "save" || name === "load") say(`/${name} needs a file: /${name} talk.json`);
    else if (name === "regenerate") {
      if (sampling.temperature === 0)
        say("temperature is 0, so the answer stays the same; /set temperature 0.7");
      sampling = { ...sampling, seed: sampling.seed + 1 };
      await answer();
    } else if (name === "set") set(rest);
    else if (name === "adapter") choose(rest);
    else say(`there is no command /${name}; /help lists them`);
  };

  /** Whether a command ended the conversation, and with it its line. */
  let left = false;
  try {
    if (terminal) lines.prompt();
    for await (const message of messagesOf(lines, () => pasting)) {
      if (leave()) break;
      interrupts = 0;
      const [, name, rest] = /^\/(\S*)[^\S\n]*(.*)$/.exec(message) ?? [];
      if (name === "exit" || name === "quit") {
        left = true;
        break;
      }
      if (name !== undefined) {
        try {
          await obey(name, rest!.trim());
        } catch (error) {
          // A file that cannot be read or written does not end the conversation.
          if (!(error instanceof LineageError) || error.code === "internal") throw error;
          say(error.message);
        }
      } else if (message.trim() !== "") await answer(message);
      if (leave()) break;
      if (terminal) lines.prompt();
    }
  } finally {
    process.removeListener("SIGINT", interrupt);
    // The shell's own prompt begins a line.
    if (terminal) process.stderr.write(`\x1b[?2004l${left ? "" : "\n"}`);
    lines.close();
    // As programs end that a signal ended.
    if (leave()) process.exitCode = 130;
  }
  await loaded.kept;
  for (const note of notes) say(colors.dim(note));
}

export const chatCommand = new Command("chat")
  .description("talk with a model in the terminal; uses the model's own chat template")
  .optionsGroup("Conversation:")
  .addOption(option("system", "<text>", "system message", z.string(), { usual: "the chat template's" }))
  .addOption(
    option("template", "<file>", "a chat template in Jinja", z.string(), { usual: "the model's own" }),
  )
  .addOption(
    countOption("context", "most tokens of a conversation; beyond, the oldest messages are dropped", 4096),
  )
  .addOption(
    countOption("maxNewTokens", "most tokens of an answer", undefined, { usual: "a quarter of --context" }),
  )
  .addOption(
    new Option(
      "--no-history",
      `do not keep typed lines for the next session (default: they are kept in ${historyFile()})`,
    ),
  )
  .optionsGroup("Model:")
  .addOption(
    requiredOption("model", "<place>", "a .gguf file, a folder with a chat template, or ORG/NAME on the hub"),
  );
addSamplingOptions(addModelOptions(chatCommand, "several, each as NAME=FOLDER, are changed by /adapter"), {
  temperature: 0.7,
  topP: 0.9,
})
  .optionsGroup("Run:")
  .addOption(deviceOption())
  .addOption(threadsOption())
  .option("--json", "one JSON object for each answer; each line of the input is a message or a command")
  .addHelpText(
    "after",
    examples(
      ["lineage chat --model SmolLM2-135M-Instruct.gguf", "talk; /help lists the commands"],
      ['lineage chat --model folder --system "Answer briefly."', "with a system message"],
      [
        "lineage chat --model folder --adapter sql=runs/sql --adapter rhymes=runs/rhymes",
        "switch by /adapter",
      ],
      ["lineage chat --model folder --json < questions.txt", "for a program"],
    ),
  )
  .action(chat);
