import { appendFile, mkdir } from "node:fs/promises";
import { existsSync } from "node:fs";
import path from "node:path";
import { createInterface } from "node:readline/promises";
import { Command } from "commander";
import { z } from "zod";
import { LineageError } from "../base/errors.js";
import { readJson, readText, writeAtomically, writeJson } from "../base/files.js";
import { answerRewards, openRewardModel } from "../alignment/index.js";
import { loadForInference } from "../checkpoints/index.js";
import {
  type ArenaAnswer,
  type ArenaGame,
  type Judge,
  type Player,
  bootstrap,
  bradleyTerry,
  elo,
  inBothOrders,
  modelJudge,
  rewardJudge,
  runArena,
} from "../evaluation/index.js";
import { Decoder, generateText } from "../generation/index.js";
import { scaledContext } from "../nn/index.js";
import { type Runtime, createRuntime } from "../runtime/index.js";
import { ChatTemplate } from "../tokenizers/index.js";
import { lossChart } from "../training/index.js";
import { modelFor } from "./model.js";
import { countOption, examples, option, requiredOption, threadsOption } from "./options.js";
import { interruptible } from "./progress.js";
import { print, tell } from "./terminal.js";

interface ArenaCommand {
  readonly model: readonly string[];
  readonly prompts: string;
  readonly judge?: string;
  readonly judgeReward?: string;
  readonly out: string;
  readonly maxNewTokens: number;
  readonly temperature: number;
  readonly seed: number;
  readonly threads?: number;
  readonly json?: boolean;
}

const answerLine = z.object({ player: z.string(), prompt: z.int(), text: z.string() });
const gameLine = z.object({
  a: z.string(),
  b: z.string(),
  prompt: z.int(),
  winner: z.enum(["a", "b", "tie"]),
});

/** The lines of a file of an earlier run. A line that was cut off at the end is asked for again. */
async function linesOf<T>(file: string, schema: z.ZodType<T>): Promise<T[]> {
  if (!existsSync(file)) return [];
  const text = await readText(file);
  const whole = text.slice(0, text.lastIndexOf("\n") + 1);
  if (whole !== text) await writeAtomically(file, [whole]);
  return whole.split("\n").flatMap((line) => (line === "" ? [] : [schema.parse(JSON.parse(line))]));
}

/** Prompts: a line each, or with `.jsonl` the `prompt` of each row. */
async function promptsOf(file: string): Promise<string[]> {
  const lines = (await readText(file)).split("\n").filter((line) => line.trim() !== "");
  const prompts = file.endsWith(".jsonl")
    ? lines.map((line, index) => {
        const row = z.object({ prompt: z.string().min(1) }).safeParse(JSON.parse(line));
        if (!row.success)
          throw new LineageError("data", `${file}, line ${index + 1}: there is no text under "prompt"`);
        return row.data.prompt;
      })
    : lines;
  if (prompts.length === 0) throw new LineageError("data", `${file} has no prompt`);
  return prompts;
}

/** A model that is loaded for its first answer and let go after its last. */
function playerOf(runtime: Runtime, name: string, command: ArenaCommand) {
  const { maxNewTokens, temperature, seed } = command;
  let opened: Promise<Awaited<ReturnType<typeof open>>> | undefined;
  const open = async () => {
    const { model, weights, tokenizer, stopIds } = await loadForInference(runtime, await modelFor(name));
    const template = tokenizer.chatTemplate() === undefined ? undefined : new ChatTemplate(tokenizer);
    return { decoder: await Decoder.create({ model, weights }), weights, tokenizer, stopIds, template };
  };
  const player: Player = {
    name,
    answer: async (prompt) => {
      const writer = await (opened ??= open());
      const asked = writer.template?.encode([{ role: "user", content: prompt }]) ?? prompt;
      return (await generateText(writer, asked, { maxNewTokens, temperature, seed }).all()).text;
    },
  };
  const close = async (): Promise<void> => {
    const writer = await opened;
    writer?.decoder.dispose();
    writer?.weights.dispose();
    opened = undefined;
  };
  return { player, close };
}

/** A person at the terminal, who does not see whose answers they are. */
function personJudge(): { judge: Judge; close: () => void } {
  const lines = createInterface({ input: process.stdin, output: process.stderr });
  const judge: Judge = async (prompt, first, second) => {
    tell(`\n${prompt}\n\n1: ${first.trim()}\n\n2: ${second.trim()}\n\n`);
    for (;;) {
      const said = (await lines.question("better: 1, 2, or = for a tie? ")).trim();
      if (said === "1" || said === "2" || said === "=")
        return said === "1" ? "a" : said === "2" ? "b" : "tie";
    }
  };
  return {
    judge,
    close: () => {
      lines.close();
    },
  };
}

async function arena(command: ArenaCommand): Promise<void> {
  const { model: models, out, json, judgeReward, seed } = command;
  if (command.judge !== undefined && judgeReward !== undefined)
    throw new LineageError("argument", "an arena has one judge: give --judge or --judge-reward, not both");
  if (models.length < 2)
    throw new LineageError("argument", "an arena needs at least two models: give --model twice or more");
  const prompts = await promptsOf(command.prompts);
  const { maxNewTokens, temperature } = command;
  const judgeName = command.judge ?? "person";
  const named = judgeReward === undefined ? judgeName : { reward: judgeReward };
  const identity = { models, prompts, judge: named, maxNewTokens, temperature, seed };
  const file = (name: string): string => path.join(out, name);
  const begun = existsSync(file("arena.json"));
  if (begun && JSON.stringify(await readJson(file("arena.json"))) !== JSON.stringify(identity))
    throw new LineageError(
      "argument",
      `${out} holds an arena of other models, prompts or options; choose another --out`,
    );
  const runtime = createRuntime({ threads: command.threads });
  const judge =
    judgeReward !== undefined
      ? await openReward(runtime, judgeReward)
      : judgeName === "person"
        ? personJudge()
        : await openJudge(runtime, judgeName);
  const players = models.map((name) => playerOf(runtime, name, command));
  const append = (name: string) => (line: ArenaAnswer | ArenaGame) =>
    appendFile(file(name), `${JSON.stringify(line)}\n`);
  try {
    await mkdir(out, { recursive: true });
    // Only now, for a judge that cannot be opened is not to name the folder's arena.
    if (!begun) await writeJson(file("arena.json"), identity);
    const known = {
      answers: await linesOf(file("answers.jsonl"), answerLine),
      games: await linesOf(file("games.jsonl"), gameLine),
    };
    const games = await interruptible((signal) =>
      runArena(
        players.map(({ player }) => player),
        prompts,
        judge.judge,
        { known, answered: append("answers.jsonl"), judged: append("games.jsonl"), signal, seed },
      ),
    );
    await report(games, models, out, json);
  } finally {
    judge.close();
    for (const { close } of players) await close();
  }
}

async function openJudge(runtime: Runtime, name: string): Promise<{ judge: Judge; close: () => void }> {
  const { model, weights, tokenizer } = await loadForInference(runtime, await modelFor(name));
  const decoder = await Decoder.create({ model, weights, capacity: scaledContext(model.config) });
  return {
    judge: inBothOrders(modelJudge({ decoder, tokenizer })),
    close: () => {
      decoder.dispose();
      weights.dispose();
    },
  };
}

/** A reward model, which sees each answer alone. */
async function openReward(runtime: Runtime, folder: string): Promise<{ judge: Judge; close: () => void }> {
  const model = await openRewardModel(runtime, folder);
  return {
    judge: rewardJudge(answerRewards(model)),
    close: () => {
      model[Symbol.dispose]();
    },
  };
}

/** A table, and a picture of strengths with their intervals. */
async function report(
  games: readonly ArenaGame[],
  models: readonly string[],
  out: string,
  json: boolean | undefined,
): Promise<void> {
  const [ratings, strengths] = [elo(games), bradleyTerry(games)];
  const intervals = bootstrap(games, (drawn) => bradleyTerry(drawn));
  const rows = models
    .map((model) => {
      const won = (winner: "a" | "b" | "tie", as: "a" | "b" | "any"): number =>
        games.filter(
          (game) =>
            game.winner === winner && (as === "any" ? [game.a, game.b].includes(model) : game[as] === model),
        ).length;
      const wins = won("a", "a") + won("b", "b");
      const losses = won("a", "b") + won("b", "a");
      const ties = won("tie", "any");
      return {
        model,
        wins,
        losses,
        ties,
        elo: ratings.get(model)!,
        strength: strengths.get(model)!,
        interval: intervals.get(model)!,
      };
    })
    .sort((a, b) => b.strength - a.strength);
  const picture = path.join(out, "arena.svg");
  await writeAtomically(picture, [
    lossChart(
      "Strength by rank, with 95% intervals",
      [
        { label: "strength", points: rows.map(({ strength: loss }, rank) => ({ step: rank + 1, loss })) },
        { label: "low", points: rows.map(({ interval }, rank) => ({ step: rank + 1, loss: interval.low })) },
        {
          label: "high",
          points: rows.map(({ interval }, rank) => ({ step: rank + 1, loss: interval.high })),
        },
      ],
      { x: "rank", y: "strength (nats)" },
    ),
  ]);
  if (json) {
    print(`${JSON.stringify({ games: games.length, players: rows, picture })}\n`);
    return;
  }
  const width = Math.max(5, ...models.map(({ length }) => length));
  print(`${"model".padEnd(width)}  won  lost  tied   Elo  strength  95% interval\n`);
  for (const { model, wins, losses, ties, elo: rating, strength, interval } of rows)
    print(
      `${model.padEnd(width)} ${String(wins).padStart(4)} ${String(losses).padStart(5)} ${String(ties).padStart(5)} ${rating.toFixed(0).padStart(5)}  ${strength.toFixed(2).padStart(8)}  ${interval.low.toFixed(2)} to ${interval.high.toFixed(2)}\n`,
    );
  tell(`${games.length} games; ${picture}\n`);
}

export const arenaCommand = new Command("arena")
  .description("let models answer the same prompts, judge the answers in pairs, and rate the models")
  .addOption(
    option(
      "model",
      "<place>",
      "a model: a folder, a .gguf file, or ORG/NAME; given twice or more",
      z.string(),
      {
        again: true,
        required: true,
      },
    ).makeOptionMandatory(),
  )
  .addOption(requiredOption("prompts", "<file>", "a prompt on each line, or JSONL with a prompt in each row"))
  .addOption(
    option(
      "judge",
      "<who>",
      "person, who judges in the terminal without seeing whose the answers are; or a model, which sees both orders",
      z.string(),
      { usual: "person" },
    ),
  )
  .addOption(
    option(
      "judgeReward",
      "<folder>",
      "a reward model of lineage align reward as judge: the answer with the higher reward wins",
      z.string(),
      { usual: "none" },
    ),
  )
  .addOption(
    option(
      "out",
      "<folder>",
      "folder of answers and games; a run that was stopped goes on",
      z.string().default("runs/arena"),
    ),
  )
  .addOption(countOption("maxNewTokens", "most tokens of an answer", 128))
  .addOption(option("temperature", "<x>", "of the answers", z.number().nonnegative().default(0)))
  .addOption(
    option(
      "seed",
      "<n>",
      "of the answers, and of which answer is shown first",
      z.int().nonnegative().default(0),
    ),
  )
  .addOption(threadsOption())
  .option("--json", "one JSON object")
  .addHelpText(
    "after",
    examples(
      ["lineage arena --model runs/a --model runs/b --prompts prompts.txt", "judge yourself, blind"],
      [
        "lineage arena --model a.gguf --model b.gguf --prompts prompts.jsonl --judge big.gguf",
        "let a model judge",
      ],
      [
        "lineage arena --model runs/sft --model runs/ppo --prompts prompts.txt --judge-reward runs/reward",
        "let a reward model judge",
      ],
    ),
  )
  .action(arena);
