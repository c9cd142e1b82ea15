import type { TaskInput } from "./declaration.js";

const exam = (language: string): readonly [string, TaskInput] => [
  `exams-${language}`,
  {
    data: `exams/${language}.jsonl`,
    prompt: "{{ input[1].content }}",
    choices:
      '{% for letter in ["A", "B", "C", "D", "E", "F", "G"] %}{% if ("\\n" ~ letter ~ ". ") in input[1].content %}{{ letter }}{{ "\\n" }}{% endif %}{% endfor %}',
    target: "{{ ideal[1] }}",
  },
];

/** Tasks over files that the user has: `data` is relative to one folder of them. */
export const builtInTasks: ReadonlyMap<string, TaskInput> = new Map<string, TaskInput>([
  [
    "sst2",
    {
      data: "sst2/dev.tsv",
      columns: ["text", "label"],
      prompt: "Review: {{ text }}\nSentiment:",
      choices: ["negative", "positive"],
      unconditional: "Sentiment:",
      target: "{{ label }}",
      shots: {
        data: "sst2/train.tsv",
        columns: ["text", "label"],
      },
    },
  ],
  [
    "logiqa",
    {
      data: "exams/logiqa.jsonl.gz",
      prompt: "{{ input[1].content | trim }}",
      choices: ["A", "B", "C", "D"],
      unconditional: "Answer:",
      target: "{{ ideal }}",
    },
  ],
  [
    "medmcqa",
    {
      data: "exams/medmcqa.jsonl",
      prompt: "{{ input[1].content }}\n\nAnswer:",
      choices: ["a)", "b)", "c)", "d)"],
      unconditional: "Answer:",
      target: "{{ ideal[:2] }}",
    },
  ],
  [
    "pubmedqa",
    {
      data: "pubmedqa_labeled.json",
      ask: { data: "pubmedqa_test_ids.json", key: "{{ key }}" },
      prompt: 'Abstract: {{ CONTEXTS | join("\\n") }}\nQuestion: {{ QUESTION }}\nAnswer:',
      choices: ["yes", "no", "maybe"],
      unconditional: "Answer:",
      target: "{{ final_decision }}",
    },
  ],
  ...["german", "french", "spanish", "italian", "portuguese"].map(exam),
  [
    "mmlu-cot",
    {
      data: "exams/mmlu_dev_cot.json",
      // Of five worked examples of a subject the last is the question, and those before it are its examples.
      prompt:
        '{% set cue = "A: Let\'s think step by step." %}{{ value.split(cue)[:-1] | join(cue) }}{{ cue }}',
      target: '{{ value.split("The answer is (")[-1][0] }}',
      generate: { stop: ["\n\nQ:"], maxNewTokens: 300, extract: "answer is \\(?([A-D])" },
      shots: false,
    },
  ],
  [
    "gsm8k",
    {
      revision: "2",
      data: "gsm8k/test.jsonl",
      prompt: "Question: {{ question }}\nAnswer:",
      target: '{{ answer.split("#### ")[-1] }}',
      generate: {
        stop: ["Question:", "</s>", "<|im_end|>"],
        extract: "#### (-?[0-9.,]+)",
        flexible: "-?[$0-9.,]{2,}|-?[0-9]+",
        ignore: [",", "\\$", "\\.$"],
      },
      shots: { data: "gsm8k/train.jsonl", target: "{{ answer }}" },
    },
  ],
  ["humaneval-perplexity", { data: "HumanEval.jsonl.gz", text: "{{ prompt }}", shots: false }],
]);
