import { spawn, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readFile, readdir, rm, truncate, writeFile } from "node:fs/promises";
import module from "node:module";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { z } from "zod";
import { finetuneOptions, pretrainOptions, trainOptions } from "../../src/tasks/index.js";
import { pngOf } from "../../src/pictures/index.js";
import { environment, lineage, main, spawned } from "../support/cli.js";

let folder = "";
let text = "";
let run = "";
const small = [
  "--tokenizer",
  "characters",
  "--layers",
  "1",
  "--hidden",
  "32",
  "--heads",
  "2",
  "--context",
  "16",
  "--batch",
  "4",
];
/** Workers run built code, so that a command with them has a process of its own. */
const runIn = (options: readonly string[]) =>
  options.includes("--workers") ? (...args: string[]) => Promise.resolve(spawned(args)) : lineage;

beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "lineage naïve folder "));
  text = path.join(folder, "my text.txt");
  run = path.join(folder, "run é");
  await writeFile(text, "the cat sat on the mat and the dog sat on the log.\n".repeat(60));
  const trained = await lineage(
    "train",
    "--data",
    text,
    "--out",
    run,
    ...small,
    "--steps",
    "60",
    "--eval-every",
    "30",
    "--json",
  );
  expect(trained.stderr).toBe("");
  expect(trained.status).toBe(0);
});
afterAll(() => rm(folder, { recursive: true }));

describe("lineage", () => {
  it("colours its errors on a terminal or where it is asked to, never against NO_COLOR", async () => {
    const stderr = (extra: NodeJS.ProcessEnv) =>
      spawnSync(process.execPath, [main, "generate", "--model", "nowhere"], {
        encoding: "utf8",
        env: { ...environment, ...extra },
      }).stderr;
    expect(stderr({ NO_COLOR: undefined })).toMatch(/^error: /);
    expect(stderr({ NO_COLOR: "1", FORCE_COLOR: "1" })).toMatch(/^error: /);
    expect(stderr({ NO_COLOR: undefined, FORCE_COLOR: "1" })).toContain("\u001b[31merror");
  });

  it("says which version it is", async () => {
    const manifest = JSON.parse(await readFile(new URL("../../package.json", import.meta.url), "utf8")) as {
      version: string;
    };
    expect(await lineage("--version")).toMatchObject({
      stdout: `${manifest.version}\n`,
      stderr: "",
      status: 0,
    });
  });

  it("keeps what Node compiled for the next start, where Node can and may", async () => {
    for (const disable of [undefined, "1"]) {
      const temporary = await mkdtemp(path.join(folder, "temporary "));
      const places = { TMPDIR: temporary, TEMP: temporary, TMP: temporary, NODE_COMPILE_CACHE: undefined };
      const { status } = spawnSync(process.execPath, [main, "--version"], {
        env: { ...environment, ...places, NODE_DISABLE_COMPILE_CACHE: disable },
      });
      expect(status).toBe(0);
      const can = "enableCompileCache" in module;
      expect(await readdir(temporary)).toHaveLength(can && disable === undefined ? 1 : 0);
    }
  });

  it("knows each command of its help by its name, and shows its examples and every default", async () => {
    const names = Array.from(
      (await lineage("--help")).stdout.matchAll(/^ {2}([a-z-]+) \[options\]/gm),
      ([, name]) => name!,
    );
    expect(names).toEqual(expect.arrayContaining(["train", "generate", "transform", "look"]));
    expect((await lineage("--help")).stdout).toMatch(/Examples:\n {2}lineage /);
    // Nothing happens without these.
    const off = ["--stop", "--json-schema", "--regex", "--parallel"];
    for (const name of names) {
      const { stdout, status } = await lineage(name, "--help");
      expect(status).toBe(0);
      expect(stdout).toMatch(new RegExp(`^Usage: lineage ${name} `));
      expect(stdout, name).toMatch(/Examples:\n {2}(.* )?lineage /);
      const options = stdout.slice(0, stdout.indexOf("Examples:")).split(/\n {2}(?=-)/);
      for (const text of options.filter((one) => /^--[a-z-0-9]+ </.test(one)))
        if (!off.includes(text.split(" ")[0]!)) expect(text, name).toMatch(/\((default:\s|required\))/);
    }
  });

  it("ends quietly where the reader of its output has left", async () => {
    const child = spawn(process.execPath, [main, "train", "--help"], { env: environment });
    child.stdout.destroy();
    let stderr = "";
    child.stderr.on("data", (data: Buffer) => (stderr += data.toString()));
    const code = await new Promise((resolve) => child.on("close", resolve));
    expect({ code, stderr }).toEqual({ code: 141, stderr: "" });
  });

  it("answers what is no command with the nearest one, and not with what every object has", async () => {
    expect(await lineage("trian")).toMatchObject({
      stderr: "error: unknown command 'trian'\n(Did you mean train?)\n",
      status: 1,
    });
    expect(await lineage("constructor")).toMatchObject({
      stderr: "error: unknown command 'constructor'\n",
      status: 1,
    });
  });

  it("leaves a model, its tokenizer, metrics and a picture behind", async () => {
    for (const name of [
      "config.json",
      "model.safetensors",
      "tokenizer.json",
      "training.safetensors",
      "run.json",
    ]) {
      expect(existsSync(path.join(run, name)), name).toBe(true);
    }
    const lines = (await readFile(path.join(run, "metrics.jsonl"), "utf8"))
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as { loss?: number });
    const losses = lines.flatMap(({ loss }) => loss ?? []);
    expect(losses).toHaveLength(60);
    expect(losses.at(-1)!).toBeLessThan(losses[0]! - 0.5);
    const svg = await readFile(path.join(run, "loss.svg"), "utf8");
    expect(svg).toMatch(/^<svg [\s\S]*<\/svg>\n$/);
    const png = await pngOf(svg);
    if (png) expect((await readFile(path.join(run, "loss.png"))).equals(png)).toBe(true);
  });

  it("writes the same text for the same seed, and counts it", async () => {
    const write = async () =>
      JSON.parse(
        (await lineage("generate", "--model", run, "--prompt", "the ", "--max-new-tokens", "10", "--json"))
          .stdout,
      ) as Record<string, unknown>;
    const first = await write();
    expect(first).toMatchObject({ prompt: "the ", promptTokens: 4, newTokens: 10, finish: "length" });
    expect((await write())["text"]).toBe(first["text"]);
  });

  it("continues what standard input gives it", () => {
    for (const more of [[], ["--prompt", "-"]]) {
      const args = ["generate", "--model", run, ...more, "--max-new-tokens", "2", "--json"];
      const { stdout } = spawned(args, { input: "the cat\n" });
      expect(JSON.parse(stdout)).toMatchObject({ prompt: "the cat", promptTokens: 7, newTokens: 2 });
    }
  });

  it("lets no character reach a terminal that it would obey, nor the token of a hub", async () => {
    const { stderr } = await lineage("generate", "--model", "no\u001b[2Jwhere\u009b", "--prompt", "a");
    expect(stderr).toContain("no\\u001b[2Jwhere\\u009b");
    expect(stderr).not.toMatch(/[^\P{Cc}\n]/u);
    const env = { HF_TOKEN: "hf_secret\nsecond" };
    const pulled = spawned(["pull", "some/model"], { env });
    expect(pulled.stderr).toMatch(/^error: the token for the hub \(HF_TOKEN\) holds /);
    expect(pulled.stderr).not.toContain("hf_secret");
  });

  it("shows and removes pulled models", async () => {
    const cache = path.join(folder, "cache");
    await mkdir(path.join(cache, "org--name"), { recursive: true });
    await writeFile(path.join(cache, "org--name", ".lineage-pull.json"), '{"name":"org/name"}');
    expect((await lineage("list", "--cache", cache)).stdout).toMatch(/^org\/name /);
    expect((await lineage("rm", "org/nmae", "--cache", cache)).stderr).toContain("did you mean org/name?");
    expect((await lineage("rm", "org/name", "--cache", cache)).status).toBe(0);
    expect(await readdir(cache)).toEqual([]);
  });

  it("shows the default of every option that has one", async () => {
    for (const [command, schema] of [
      ["train", trainOptions],
      ["finetune", finetuneOptions],
      ["pretrain", pretrainOptions],
    ] as const) {
      const help = (await lineage(command, "--help")).stdout.replace(/\s+/g, " ");
      for (const [name, field] of Object.entries(schema.shape)) {
        const flag = `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)} <`;
        if (!(field instanceof z.ZodDefault) || !help.includes(flag)) continue;
        expect(help.slice(help.indexOf(flag), help.indexOf(flag) + 250)).toContain("(default: ");
      }
    }
  });

  it("writes the same most probable text when it guesses ahead, and counts the guesses", async () => {
    const write = async (...more: string[]) =>
      JSON.parse(
        (
          await lineage(
            "generate",
            "--model",
            run,
            "--prompt",
            "the cat sat",
            "--temperature",
            "0",
            "--json",
            ...more,
          )
        ).stdout,
      ) as { text: string; speculation?: { drafted: number; accepted: number } };
    const plain = await write();
    expect(plain.speculation).toBeUndefined();
    for (const drafter of ["lookup", run]) {
      const guessed = await write("--speculative", drafter);
      expect(guessed.text).toBe(plain.text);
      expect(guessed.speculation!.drafted).toBeGreaterThan(0);
    }
  });

  it.each([
    ["llama", ["--key-value-heads", "1"]],
    ["mistral", ["--window", "5"]],
  ])("trains a %s that generate reads", async (model, more) => {
    const out = path.join(folder, model);
    const trained = await lineage(
      ...["train", "--model", model, "--data", text, "--out", out, ...small, ...more],
      ...["--steps", "40", "--eval-every", "40", "--learning-rate", "0.01", "--json"],
    );
    expect(trained.status, trained.stderr).toBe(0);
    const losses = trained.stdout
      .trim()
      .split("\n")
      .flatMap((line) => (JSON.parse(line) as { loss?: number }).loss ?? []);
    expect(losses.at(-1)!).toBeLessThan(losses[0]! - 0.5);
    const { stdout } = await lineage("generate", "--model", out, "--prompt", "the", "--json");
    expect(JSON.parse(stdout)).toMatchObject({ promptTokens: 3, finish: "context" });
  });

  it("tells the perplexity of a text", async () => {
    const { stdout, stderr, status } = await lineage("evaluate", "--model", run, "--text", text, "--json");
    expect(status, stderr).toBe(0);
    const { results } = JSON.parse(stdout) as {
      results: { scores: { token_perplexity: { value: number } } }[];
    };
    expect(results[0]!.scores.token_perplexity.value).toBeLessThan(20);
  });

  it.each(["sgd", "adafactor"])("trains with %s, and resumes it", async (optimizer) => {
    const out = path.join(folder, optimizer);
    const { stdout, status } = await lineage(
      ...["train", "--data", text, "--out", out, ...small, "--steps", "30", "--eval-every", "10"],
      ...["--optimizer", optimizer, "--json"],
    );
    expect(status).toBe(0);
    const records = stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    const losses = records.flatMap(({ validationLoss }) => (validationLoss as number | undefined) ?? []);
    expect(losses.at(-1)!).toBeLessThan(losses[0]!);
    expect(records.at(-1)).toMatchObject({
      outcome: "finished",
      step: 30,
      droppedTokens: expect.any(Number),
    });
    const memory = records.find((record) => record["memory"])!["memory"] as Record<string, number>;
    const moments = { sgd: 1, adafactor: 0.2 }[optimizer]!;
    expect(memory["optimizer"]! / memory["weights"]!).toBeLessThanOrEqual(moments);
    expect((await lineage("train", "--resume", "--out", out)).status).toBe(0);
  });

  it("packs documents that do not see one another, in every architecture, and resumes", async () => {
    const data = path.join(folder, "documents.txt");
    const words = ["red", "blue", "green", "old"];
    const documents = Array.from({ length: 400 }, (_, i) => `the ${words[i % 4]!} cat<|endoftext|>`);
    await writeFile(data, documents.join(""));
    const losses: number[] = [];
    for (const [model, ...more] of [
      ["gpt2", "--accumulate", "2"],
      ["gpt2", "--accumulate", "2", "--workers", "2"],
      ["llama"],
      ["mistral"],
    ] as const) {
      const out = path.join(folder, `packed ${model} ${more.length}`);
      const sizes = ["--vocab-size", "270", "--layers", "1", "--hidden", "32", "--heads", "2"];
      const { stdout, stderr, status } = await runIn(more)(
        ...[
          "train",
          "--data",
          data,
          "--out",
          out,
          "--model",
          model,
          "--packing",
          "documents",
          ...sizes,
          ...more,
        ],
        ...["--context", "24", "--batch", "4", "--steps", "40", "--eval-every", "40", "--json"],
      );
      expect(stderr).toBe("");
      expect(status).toBe(0);
      expect(stdout).toMatch(/36\d documents in 36\d pieces of at most 24 tokens/);
      const { best } = JSON.parse(stdout.trim().split("\n").at(-1)!) as { best: number };
      // What is guessed blindly costs log(270).
      expect(best).toBeLessThan(Math.log(270) - 1);
      losses.push(best);
      expect((await runIn(more)("train", "--resume", "--out", out)).status).toBe(0);
    }
    expect(losses[1]! / losses[0]!).toBeCloseTo(1, 4);
  });

  it("takes prompts of any length, and leaves nothing of them with the engine's makers", async () => {
    const home = await mkdtemp(path.join(os.tmpdir(), "lineage-home-"));
    // The engine's own reports would end the process at a long command line, and keep it in the person's cache folder.
    const { status, stderr } = spawned(
      ["generate", "--model", run, "--prompt", "the cat ".repeat(4000), "--no-prepared"],
      { env: { HOME: home, XDG_CACHE_HOME: undefined } },
    );
    expect(stderr).toMatch(/the prompt has \d+ tokens, but the context holds 16/);
    expect(status).toBe(1);
    expect(await readdir(home)).toEqual([]);
    await rm(home, { recursive: true });
  });

  it("has the loss of one big batch in micro-batches and in workers", async () => {
    const losses = async (name: string, ...args: string[]) => {
      const out = path.join(folder, name);
      const steps = ["--steps", "6", "--eval-every", "6", "--seed", "5"];
      expect(
        (await runIn(args)("train", "--data", text, "--out", out, ...small, ...args, ...steps)).stderr,
      ).not.toMatch("error");
      return (await readFile(path.join(out, "metrics.jsonl"), "utf8"))
        .trim()
        .split("\n")
        .flatMap((line) => (JSON.parse(line) as { loss?: number }).loss ?? []);
    };
    const big = await losses("big batch", "--batch", "12");
    const accumulated = await losses("accumulated", "--batch", "4", "--accumulate", "3");
    const shared = await losses("shared", "--batch", "4", "--accumulate", "3", "--workers", "2");
    expect(big).toHaveLength(6);
    big.forEach((loss, step) => {
      expect(accumulated[step]).toBeCloseTo(loss, 5);
      expect(shared[step]).toBeCloseTo(loss, 5);
    });
  });

  it("saves on Ctrl-C and goes on to the losses of an uninterrupted run", async () => {
    const losses = async (out: string) =>
      (await readFile(path.join(out, "metrics.jsonl"), "utf8"))
        .trim()
        .split("\n")
        .flatMap((line) => (JSON.parse(line) as { loss?: number }).loss ?? []);
    const args = [
      "--data",
      text,
      ...small,
      "--dropout",
      "0.1",
      "--steps",
      "400",
      "--eval-every",
      "400",
      "--json",
    ];
    const whole = path.join(folder, "whole");
    expect((await lineage("train", "--out", whole, ...args)).status).toBe(0);
    const out = path.join(folder, "interrupted");
    const child = spawn(process.execPath, [main, "train", "--out", out, ...args], { env: environment });
    let seen = "";
    const code = await new Promise((resolve) => {
      child.stdout.on("data", (data: Buffer) => {
        seen += data.toString();
        // Once: a second Ctrl-C ends the process at once.
        if (!child.killed && seen.includes('"step":20,')) child.kill("SIGINT");
      });
      child.on("exit", resolve);
    });
    expect(code).toBe(130);
    expect((await losses(out)).length).toBeLessThan(400);
    expect((await lineage("train", "--resume", "--out", out, "--json")).status).toBe(0);
    expect(await losses(out)).toEqual(await losses(whole));
  });
});

describe("lineage refuses in one sentence, with a non-zero exit:", () => {
  const refused = async (args: string[], message: string | RegExp) => {
    const { stderr, status } = await lineage(...args);
    expect(stderr).toMatch(message);
    expect(stderr.trim().split("\n").at(-1)).toMatch(/^error: /);
    expect(stderr).not.toMatch(/\n\s+at /);
    expect(status).toBe(1);
  };

  it("a checkpoint that is not there", async () => {
    await refused(
      ["generate", "--model", path.join(folder, "nowhere"), "--prompt", "a"],
      /there is no .*nowhere; a model is a folder/,
    );
  });

  it("a damaged checkpoint", async () => {
    const broken = path.join(folder, "broken");
    await lineage("train", "--data", text, "--out", broken, ...small, "--steps", "2", "--json");
    await truncate(path.join(broken, "model.safetensors"), 5000);
    await refused(
      ["generate", "--model", broken, "--prompt", "a"],
      /model\.safetensors: .*(cut short|outside the file)/,
    );
  });

  it("a tokenizer that is too large for the model", async () => {
    const broken = path.join(folder, "other tokenizer");
    await lineage("train", "--data", text, "--out", broken, ...small, "--steps", "2", "--json");
    const file = path.join(broken, "config.json");
    await writeFile(file, (await readFile(file, "utf8")).replace(/"vocab_size": \d+/, '"vocab_size": 5'));
    await refused(
      ["generate", "--model", broken, "--prompt", "a"],
      /the tokenizer of .* has \d+ tokens, but the model has embeddings for 5/,
    );
  });

  it("an empty corpus, and one shorter than the context", async () => {
    const file = path.join(folder, "empty.txt");
    await writeFile(file, " \n");
    await refused(
      ["train", "--data", file, "--out", path.join(folder, "e")],
      "is empty; give a file with text",
    );
    await writeFile(file, "too short");
    await refused(
      ["train", "--data", file, "--out", path.join(folder, "f"), ...small],
      /enough for 0 rows of 16/,
    );
  });

  it("a prompt longer than the context", async () => {
    await refused(
      ["generate", "--model", run, "--prompt", "the cat sat on the mat and the dog"],
      "the prompt has 34 tokens, but the context holds 16",
    );
  });

  it("a second run in the same folder", async () => {
    await refused(
      ["train", "--data", text, "--out", run],
      "already holds a training run; continue it with --resume",
    );
  });

  it("a model that generate was not given, and parts that an architecture does not have", async () => {
    expect((await lineage("generate")).stderr).toMatch(
      /^error: required option '--model <place>' not specified/,
    );
    const refused = async (...more: string[]) =>
      (await lineage("train", "--data", text, "--out", path.join(folder, "refused"), ...small, ...more))
        .stderr;
    expect(await refused("--window", "4")).toContain("GPT-2 has no --window (only gpt3 and mistral)");
    expect(await refused("--model", "llama", "--dropout", "0.1")).toContain("LLaMA has no --dropout");
    expect(await refused("--model", "bert")).toMatch(
      /--model must be .*\bllama, mistral\b.* or .*, not "bert"/,
    );
  });

  it("to pack a text that is one document, or by a tokenizer that ends none", async () => {
    const pack = ["train", "--data", text, "--out", path.join(folder, "one"), "--packing", "documents"];
    await refused(pack, "is one document; write <|endoftext|> between documents to pack them");
    await refused(
      [...pack, "--tokenizer", "characters"],
      "needs an end-of-text token, which this tokenizer does not have",
    );
  });

  it("a process that trains in the same folder", async () => {
    const out = path.join(folder, "busy");
    const child = spawn(
      process.execPath,
      [main, "train", "--data", text, "--out", out, ...small, "--steps", "100000", "--json"],
      { env: environment },
    );
    const ended = new Promise((resolve) => child.on("exit", resolve));
    await new Promise<void>((resolve) => {
      child.stdout.on("data", (data: Buffer) => {
        if (data.toString().includes('"step"')) resolve();
      });
    });
    try {
      await refused(["train", "--data", text, "--out", out], /another process .*is training in/);
    } finally {
      child.kill("SIGINT");
    }
    expect(await ended).toBe(130);
  });

  it("a text that is not UTF-8", async () => {
    const file = path.join(folder, "latin1.txt");
    await writeFile(file, Buffer.from([0x63, 0x61, 0x66, 0xe9, 0x0a]));
    await refused(["train", "--data", file, "--out", path.join(folder, "h")], "the text is not UTF-8");
    await refused(["evaluate", "--model", run, "--text", file], "the text is not UTF-8");
  });

  it("a model that does not fit into memory, before anything is loaded", async () => {
    const huge = ["--hidden", "65536", "--heads", "64", "--layers", "80"];
    const out = path.join(folder, "huge");
    await refused(
      ["train", "--data", text, "--out", out, ...small, ...huge],
      /GPT-2 and a batch of 4 x 16 tokens need [\d.]+ TB of memory, but [\d.]+ [GM]B are free; use a smaller --batch/,
    );
  });

  it("a loss that is not finite, naming step and layer, with the last checkpoint as it was", async () => {
    const out = path.join(folder, "diverging");
    const args = ["--data", text, "--out", out, ...small, "--eval-every", "1", "--warmup", "0"];
    const steep = ["--steps", "40", "--optimizer", "sgd", "--learning-rate", "1e18", "--clip", "1e30"];
    await refused(
      ["train", ...args, ...steep],
      /step \d+: .*loss is (NaN|Infinity)(.|\n)*(keeps the checkpoint of step \d+|nothing was saved)/,
    );
    expect(existsSync(path.join(out, "metrics.jsonl"))).toBe(true);
    if (existsSync(path.join(out, "model.safetensors")))
      expect((await lineage("evaluate", "--model", out, "--text", text)).status).toBe(0);
  });

  it("a disk that is full, with what was written before as it was", async () => {
    const out = path.join(folder, "full disk");
    const limited = (blocks: number, ...args: string[]) =>
      spawnSync("bash", ["-c", `ulimit -f ${blocks}; exec "$0" "$@"`, process.execPath, main, ...args], {
        encoding: "utf8",
        env: environment,
      });
    const first = await lineage(
      "train",
      "--data",
      text,
      "--out",
      out,
      ...small,
      "--steps",
      "4",
      "--eval-every",
      "2",
    );
    expect(first.status).toBe(0);
    const state = await readFile(path.join(out, "training.safetensors"));
    const options = path.join(out, "run.json");
    await writeFile(options, (await readFile(options, "utf8")).replace('"steps": 4', '"steps": 8'));
    // Files of 64 KiB and no more: the state of the run is larger.
    const { stderr, status } = limited(64, "train", "--resume", "--out", out);
    expect(stderr).toMatch(
      /error: cannot write .*\.safetensors: the file would be larger than the system allows\n$/,
    );
    expect(status).toBe(1);
    expect(state.equals(await readFile(path.join(out, "training.safetensors")))).toBe(true);
    expect((await lineage("evaluate", "--model", out, "--text", text)).status).toBe(0);
    expect((await readdir(out)).filter((name) => name.endsWith(".tmp"))).toEqual([]);
    expect((await lineage("train", "--resume", "--out", out)).status).toBe(0);
  });

  it("a run to resume that is not there, or is damaged", async () => {
    await refused(["train", "--resume", "--out", path.join(folder, "none")], "there is nothing to resume in");
    const out = path.join(folder, "damaged run");
    await lineage("train", "--data", text, "--out", out, ...small, "--steps", "2", "--json");
    await truncate(path.join(out, "tokens", "training.bin"), 7);
    await refused(["train", "--resume", "--out", out], /training\.bin has 7 bytes, but its \d+ tokens take/);
    await rm(path.join(out, "tokens"), { recursive: true });
    expect((await lineage("train", "--resume", "--out", out)).status).toBe(0);
    await truncate(path.join(out, "training.safetensors"), 3000);
    await refused(["train", "--resume", "--out", out], /training\.safetensors: /);
    await rm(path.join(out, "tokenizer.json"));
    await refused(["train", "--resume", "--out", out], "has no tokenizer");
  });

  it("a value before anything is loaded, by the option's name as it is typed", async () => {
    const generate = ["generate", "--model", path.join(folder, "nowhere"), "--prompt", "a"];
    await refused(
      [...generate, "--temperature", "-1"],
      /^error: --temperature must be at least 0, not -1\n$/,
    );
    await refused(
      [...generate, "--max-new-tokens", "1.5"],
      "--max-new-tokens must be a whole number, not 1.5",
    );
    await refused([...generate, "--regex", "("], "--regex: Invalid regular expression");
    await refused(["train", "--learning-rate", "fast"], '--learning-rate must be a number, not "fast"');
    await refused(["train", "--model", "gtp2"], "did you mean gpt2?");
  });

  it("a place where there is no model, with what is near it", async () => {
    await refused(
      ["generate", "--model", `${run}x`, "--prompt", "a"],
      `there is no ${run}x; did you mean ${run}?`,
    );
    await refused(
      ["generate", "--model", text, "--prompt", "a"],
      "is not a model: it is neither a folder nor a GGUF file",
    );
    await refused(["generate", "--model", folder, "--prompt", "a"], "it has no config.json; did you mean ");
    const gguf = path.join(folder, "some.gguf");
    await writeFile(gguf, "GGUF and more than eight bytes");
    await refused(["embed", "--model", gguf, "a"], "is a GGUF file, which cannot be used for embedding");
  });

  it("an ending that no format has", async () => {
    await refused(
      ["convert", run, path.join(folder, "out.bin")],
      "convert does not write .bin files; end the name in .gguf or .onnx",
    );
    expect(existsSync(path.join(folder, "out.bin"))).toBe(false);
  });

  it("options out of range", async () => {
    await refused(
      ["train", "--data", text, "--out", path.join(folder, "g"), "--layers", "0"],
      "--layers must be above 0, not 0",
    );
    await refused(
      ["generate", "--model", run, "--prompt", "a", "--top-p", "2"],
      /^error: --top-p must be at most 1, not 2/,
    );
  });
});
