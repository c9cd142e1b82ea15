import { existsSync } from "node:fs";
import path from "node:path";
import { describe, expect, it } from "vitest";
import {
  type GrowOptions,
  type Grown,
  type InstructionTask,
  type MixtureTask,
  ghostConversation,
  ghostPrompt,
  growTasks,
  instructionMixture,
  isFitInstruction,
  isNewInstruction,
  mixtureRates,
  readSeedTasks,
} from "../../src/data/index.js";

const user = (content: string) => ({ role: "user", content }) as const;
const assistant = (content: string) => ({ role: "assistant", content }) as const;

describe("ghost attention", () => {
  const talk = [user("Hi"), assistant("Ahoy"), user("Who?"), assistant("A pirate")];

  it("samples with the instruction in every turn, and learns with it in the first alone, from the last answer", () => {
    expect(ghostPrompt("Be a pirate.", talk.slice(0, 3)).map(({ content }) => content)).toEqual([
      "Be a pirate.\n\nHi",
      "Ahoy",
      "Be a pirate.\n\nWho?",
    ]);
    expect(ghostConversation("Be a pirate.", { row: 1, messages: talk }).messages).toEqual([
      user("Be a pirate.\n\nHi"),
      { ...assistant("Ahoy"), train: false },
      user("Who?"),
      assistant("A pirate"),
    ]);
  });
});

describe("a mixture of instructions", () => {
  const task = (name: string, count: number): MixtureTask => ({
    name,
    examples: Array.from({ length: count }, (_, index) => ({
      text: `${name}${index}`,
      label: String(index % 2),
      ...(index % 2 === 0 && { reason: "It is even." }),
    })),
    templates: [{ prompt: "Label {text}", answer: "{label}" }],
    inverted: [{ prompt: "Write a text of label {label}", answer: "{text}" }],
    chainOfThought: [{ prompt: "Label {text} and say why", answer: "{reason} {label}" }],
  });

  it("draws tasks in proportion to their examples, of which each counts the cap at most", () => {
    const tasks = [task("a", 9000), task("b", 1000)];
    expect(mixtureRates(tasks)).toEqual([0.75, 0.25]);
    const rows = instructionMixture(tasks, {
      count: 2000,
      seed: 1,
      fewShot: 0,
      inverted: 0,
      chainOfThought: 0,
    });
    const share = rows.filter(({ messages }) => messages[0]!.content.includes("Label a")).length / 2000;
    // Three standard errors of a share of 0.75 among 2,000.
    expect(Math.abs(share - 0.75)).toBeLessThan(0.03);
  });

  it("has zero- and few-shot forms, inverted ones, and reasons where an example has them", () => {
    const rows = instructionMixture([task("a", 40)], { count: 600, seed: 2 });
    const texts = rows.map(({ messages }) => messages.map(({ content }) => content) as [string, string]);
    const shots = texts.map(([prompt]) => prompt.split("\n\n").length - 1);
    expect(shots.filter((count) => count > 0).length / 600).toBeCloseTo(0.5, 0.9);
    expect(Math.max(...shots)).toBe(5);
    const inverted = texts.filter(([prompt]) => prompt.includes("Write a text"));
    expect(inverted.length).toBeGreaterThan(20);
    for (const [prompt, answer] of inverted) expect(Number(answer.slice(1)) % 2).toBe(Number(prompt.at(-1)));
    const reasoned = texts.filter(([prompt]) => prompt.endsWith("say why"));
    expect(reasoned.length).toBeGreaterThan(100);
    for (const [, answer] of reasoned) expect(answer).toBe("It is even. 0");
    // No row is solved by an example that it shows.
    for (const [prompt] of texts.filter(([prompt]) => prompt.startsWith("Label"))) {
      const parts = prompt.split("\n\n");
      expect(parts.slice(0, -1).some((part) => part.startsWith(`${parts.at(-1)!}\n`))).toBe(false);
    }
    expect(instructionMixture([task("a", 40)], { count: 600, seed: 2 })).toEqual(rows);
  });

  it("refuses a template that fits no example", () => {
    const bare = { name: "x", examples: [{ a: "1" }], templates: [{ prompt: "{b}", answer: "{a}" }] };
    expect(() => instructionMixture([bare], { count: 1, seed: 1 })).toThrow(
      /no template of x fits an example with a/,
    );
  });
});

describe("self-instruct", () => {
  const seeds: InstructionTask[] = Array.from({ length: 8 }, (_, index) => ({
    instruction: `Do thing number ${index} with care`,
    input: `in ${index}`,
    output: `out ${index}`,
    isClassification: index % 2 === 0,
  }));

  it("keeps what is fit and new, asks for the class, and writes a label before its input", async () => {
    const said = [
      "Do thing number 3 with care", // Too like a seed: ROUGE-L 1.
      "Draw a picture of a cat",
      "12",
      "Tell whether a review is good or bad",
      "Name three rivers that flow into the sea",
    ];
    const prompts: string[] = [];
    const { tasks, counts } = await growTasks(seeds, {
      count: 2,
      write: (prompt) => {
        prompts.push(prompt);
        if (prompt.startsWith("Come up")) return Promise.resolve(` ${said.shift() ?? ""}\n`);
        if (prompt.endsWith("Is it classification?"))
          return Promise.resolve(prompt.includes("Task: Tell") ? " Yes" : " No");
        return Promise.resolve(
          prompt.endsWith("Label:") ? " good\nInput: What a film" : " None\nOutput: Rhine, Po, Nile",
        );
      },
    });
    expect(tasks).toEqual([
      {
        instruction: "Tell whether a review is good or bad",
        input: "What a film",
        output: "good",
        isClassification: true,
      },
      {
        instruction: "Name three rivers that flow into the sea",
        input: "",
        output: "Rhine, Po, Nile",
        isClassification: false,
      },
    ]);
    expect(counts).toEqual({ kept: 2, similar: 1, unfit: 2, withoutInstance: 0 });
    const lists = prompts.filter((prompt) => prompt.startsWith("Come up"));
    // Eight tasks are shown; once one has been grown, it is among them.
    for (const list of lists) expect(list.match(/^Task \d+:/gm)).toHaveLength(9);
    expect(lists.at(-1)).toContain("Tell whether a review is good or bad");
  });

  it("goes on where it stopped, to the tasks of a run that was never stopped", async () => {
    const nouns = ["river", "bridge", "planet", "engine", "garden", "letter", "season", "market"];
    const write: GrowOptions["write"] = (prompt, { stream }) =>
      Promise.resolve(
        prompt.startsWith("Come up")
          ? ` Explain the ${nouns[stream % nouns.length]} to ${prompt.length}`
          : prompt.endsWith("Is it classification?")
            ? ["Yes", "No"][stream % 2]!
            : `one\nOutput: ${prompt.length}\nInput: two`,
      );
    const states: Grown[] = [];
    const whole = await growTasks(seeds, {
      count: 3,
      write,
      onPrompt: (grown) => void states.push(grown),
    });
    expect(whole.tasks).toHaveLength(3);
    for (const from of states) expect(await growTasks(seeds, { count: 3, write, from })).toEqual(whole);
    // A text that was cut off becomes no task.
    const stop = new AbortController();
    const cut = growTasks(seeds, {
      count: 3,
      signal: stop.signal,
      write: (prompt, options) => {
        if (options.stream === 2) stop.abort();
        return write(prompt, options);
      },
      onPrompt: ({ prompts }) => {
        expect(prompts).toBeLessThanOrEqual(2);
      },
    });
    await expect(cut).rejects.toThrow("aborted");
  });

  it("filters by ROUGE-L and by what a model of text can do", () => {
    // Three of four words in common on either side: 0.75, of which 0.7 is the limit.
    expect(isNewInstruction("write a short poem", ["write a long poem"])).toBe(false);
    expect(isNewInstruction("write a short poem", ["count the long words"])).toBe(true);
    expect(
      ["Name it", "Draw a map of it", "1 2 3 4", "Name three large rivers"].map(isFitInstruction),
    ).toEqual([false, false, false, true]);
  });

  const file = path.join("../shared/data", "self_instruct_seed_tasks.jsonl");
  it.skipIf(!existsSync(file))("reads the 175 tasks that its authors published", async () => {
    const tasks = await readSeedTasks(file);
    expect(tasks).toHaveLength(175);
    expect(tasks.filter(({ isClassification }) => isClassification)).toHaveLength(26);
  });
});
