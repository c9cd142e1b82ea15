import path from "node:path";
import { Command } from "commander";
import { z } from "zod";
import { LineageError } from "../base/errors.js";
import { writeAtomically } from "../base/files.js";
import { count } from "../base/numbers.js";
import { type Looked, cutsOf, lookPage, openLooker, viewsOf } from "../look/index.js";
import { attentionPicture, pngOf } from "../pictures/index.js";
import { createRuntime } from "../runtime/index.js";
import { modelFor } from "./model.js";
import { countOption, examples, option, requiredOption, threadsOption } from "./options.js";
import { Reporter } from "./terminal.js";
import { readInput } from "./texts.js";

interface LookCommand {
  readonly model: string;
  readonly text?: string;
  readonly pair?: string;
  readonly layers?: string;
  readonly maxTokens: number;
  readonly out: string;
  readonly threads?: number;
  readonly json?: boolean;
}

/** Layers as they are typed: `0,3,8-11`. Throws `argument` for what is none. */
function layersOf(typed: string): number[] {
  const layers = typed.split(",").flatMap((part) => {
    const found = /^\s*(\d{1,4})(?:\s*-\s*(\d{1,4}))?\s*$/.exec(part);
    const [from, to] = [Number(found?.[1]), Number(found?.[2] ?? found?.[1])];
    if (!found || to < from)
      throw new LineageError(
        "argument",
        `--layers ${typed}: give numbers from 0, alone or as ranges, such as 0,3,8-11`,
      );
    return Array.from({ length: to - from + 1 }, (_, index) => from + index);
  });
  return [...new Set(layers)];
}

async function lookAt(command: LookCommand): Promise<void> {
  const { model: place, pair, maxTokens, out, threads, json = false } = command;
  const layers = command.layers === undefined ? undefined : layersOf(command.layers);
  if (!/\.(html|png|svg|json)$/.test(out))
    throw new LineageError("argument", `${out}: a look is written to an .html, .png, .svg or .json file`);
  const text = command.text ?? (await typedText());
  const report = await Reporter.create(json);
  using looker = await openLooker(createRuntime({ threads }), await modelFor(place));
  const looked = await looker.look(text, { pair, layers, maxTokens });
  const files = await writeLook(looked, out, `${path.basename(path.resolve(place))}: “${excerpt(text)}”`);
  report.done();
  for (const cut of cutsOf(looked)) report.say(cut, { cut });
  const heads = looked.attention[0]!.heads;
  report.say(
    `${files.join(" and ")}: ${count(looked.tokens.length)} tokens, ${looked.attention.length} layers of ${heads} heads`,
    { files, tokens: looked.tokens.length, layers: looked.attention.map(({ layer }) => layer), heads },
  );
}

/** The beginning of a text, in one line. */
function excerpt(text: string): string {
  const line = text.replace(/\s+/g, " ").trim();
  const characters = [...new Intl.Segmenter().segment(line)].map(({ segment }) => segment);
  return characters.length > 80 ? `${characters.slice(0, 79).join("")}…` : line;
}

async function typedText(): Promise<string> {
  if (process.stdin.isTTY)
    throw new LineageError(
      "argument",
      "there is nothing to look at: give --text, or a text on standard input",
    );
  return readInput();
}

/** The file that is asked for; beside a page, the picture of all heads. Gives the names of what was written. */
async function writeLook(looked: Looked, out: string, name: string): Promise<string[]> {
  if (out.endsWith(".json")) {
    await writeAtomically(out, jsonOf(looked));
    return [out];
  }
  const svg = attentionPicture(
    `Attention of ${name}`,
    [
      `${looked.model}. Layers down, heads across; in each map, from every token down to every token across. The darker, the larger the square root of the weight.`,
      ...cutsOf(looked).filter((cut) => cut.startsWith("The model")),
    ],
    viewsOf(looked).map(({ name: title, rows, columns, maps }) => ({
      name: title,
      rows: rows.length,
      columns: columns.length,
      maps,
    })),
  );
  if (out.endsWith(".svg")) {
    await writeAtomically(out, [svg]);
    return [out];
  }
  const written: string[] = [];
  if (out.endsWith(".html")) {
    await writeAtomically(out, [lookPage(looked, { name })]);
    written.push(out);
  }
  const png = await pngOf(svg);
  const picture = out.replace(/\.html$/, ".png");
  if (png) {
    await writeAtomically(picture, [png]);
    written.push(picture);
  } else if (out.endsWith(".png"))
    throw new LineageError(
      "unsupported",
      `this system has no font or no library to draw ${out} with; ask for an .svg file instead`,
    );
  return written;
}

/** All numbers: weights as nested lists `[head][query][key]`, states as `[token][channel]`. */
function* jsonOf(looked: Looked): Generator<string> {
  const nested = (values: Float32Array, ...shape: number[]): unknown => {
    const [size = 1, ...rest] = shape;
    if (rest.length === 0) return [...values];
    const step = values.length / size;
    return Array.from({ length: size }, (_, place) =>
      nested(values.subarray(place * step, (place + 1) * step), ...rest),
    );
  };
  const views = viewsOf(looked).map(({ name, rows, columns, maps, hiddenStates }) => ({
    name,
    rows,
    columns,
    attention: maps.map(({ layer, heads, weights }) => ({
      layer,
      weights: nested(weights, heads, rows.length, columns.length),
    })),
    hiddenStates: hiddenStates.map((states) =>
      nested(states, rows.length, states.length / Math.max(1, rows.length)),
    ),
  }));
  yield `{"model":${JSON.stringify(looked.model)},"views":[`;
  for (const [place, view] of views.entries()) yield `${place > 0 ? "," : ""}${JSON.stringify(view)}`;
  yield "]}\n";
}

export const lookCommand = new Command("look")
  .description("show where each token of a text looks: attention maps and hidden states, as a page")
  .addOption(requiredOption("model", "<place>", "any model: folder, .gguf file, or ORG/NAME on the hub"))
  .addOption(option("text", "<text>", "what the model reads", z.string(), { usual: "standard input" }))
  .addOption(
    option(
      "pair",
      "<text>",
      "a second text, for encoders; what is written, for encoder-decoders",
      z.string(),
      {
        usual: "none",
      },
    ),
  )
  .addOption(option("layers", "<list>", "layers, counted from 0: 0,3,8-11", z.string(), { usual: "all" }))
  .addOption(countOption("maxTokens", "most tokens of a text; longer texts are cut", 128))
  .addOption(
    option(
      "out",
      "<file>",
      "an .html page, with a .png beside it; or a .png, .svg, or .json file with all numbers",
      z.string().default("look.html"),
    ),
  )
  .addOption(threadsOption())
  .option("--json", "messages as JSON lines, for programs")
  .addHelpText(
    "after",
    examples(
      ['lineage look --model SmolLM2-135M.gguf --text "The cat sat on the mat."', "look.html and look.png"],
      ['lineage look --model bert-base-uncased --text "Who wrote it?" --pair "Ada wrote it."', "two texts"],
      [
        'lineage look --model t5-small --text "I am here." --pair "Ich bin hier."',
        "and across the two sides",
      ],
      ['lineage look --model gpt2 --text "Once upon a time" --layers 5 --out maps.json', "a layer's numbers"],
    ),
  )
  .action(lookAt);
