import { describe, expect, it } from "vitest";
import { type ChatMessage, ChatTemplate, Tokenizer, trainByteLevelBpe } from "../../src/tokenizers/index.js";

const special = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|eot|>", "[INST]", "[/INST]", "<|user|>"];
const { definition, vocabSize } = trainByteLevelBpe(
  ["user assistant hello world. Yes, it is.\n\n ".repeat(9)],
  {
    vocabSize: 320,
  },
);
const tokenizer = new Tokenizer(
  {
    ...definition,
    added_tokens: [
      ...definition.added_tokens,
      ...special.map((content, index) => ({ id: vocabSize + index, content, special: true })),
    ],
  },
  { bos_token: "<s>", eos_token: "</s>", add_bos_token: true },
);

const talk: ChatMessage[] = [
  { role: "system", content: "Be brief." },
  { role: "user", content: "hello world" },
  { role: "assistant", content: "Yes, it is." },
  { role: "user", content: "is it?" },
  { role: "assistant", content: " hello\n\nworld " },
];

/** The text of each run of tokens that the assistant writes. */
function written(
  source: string,
  messages: readonly ChatMessage[] = talk,
  endIds?: readonly number[],
): string[] {
  const { ids, writers } = new ChatTemplate(tokenizer, source).turns(messages, { endIds });
  const found: string[] = [];
  let last = -1;
  ids.forEach((id, index) => {
    const writer = writers[index]!;
    if (writer >= 0) {
      const text = tokenizer.decode([id], { skipSpecialTokens: false });
      if (writer === last) found[found.length - 1] += text;
      else found.push(text);
    }
    last = writer;
  });
  return found;
}

const chatml =
  "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
const llama2 =
  "{% if messages[0].role == 'system' %}{% set s = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}{% set messages = messages[1:] %}{% else %}{% set s = '' %}{% endif %}{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + (s if loop.first else '') + m.content.strip() + ' [/INST]' }}{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}";

describe("the assistant's turns of a conversation", () => {
  it("begin where the prompt ends and close with the token that ends them", () => {
    expect(written(chatml, talk, [tokenizer.tokenToId("<|im_end|>")!])).toEqual([
      "Yes, it is.<|im_end|>",
      " hello\n\nworld <|im_end|>",
    ]);
    // EOS is not what this template ends a turn with; the special token behind an answer is.
    expect(written(chatml)).toEqual(["Yes, it is.<|im_end|>", " hello\n\nworld <|im_end|>"]);
    expect(written(llama2)).toEqual([" Yes, it is. </s>", " hello\n\nworld </s>"]);
  });

  it("have the ids that the template gives for the whole conversation, and one BOS", () => {
    for (const source of [chatml, llama2]) {
      const template = new ChatTemplate(tokenizer, source);
      const { ids } = template.turns(talk);
      expect(ids).toEqual(template.encode(talk, { addGenerationPrompt: false }));
      expect(ids[0]).toBe(tokenizer.bosId);
      expect(ids[1]).not.toBe(tokenizer.bosId);
    }
  });

  it("are found where a template writes earlier turns otherwise than the last one", () => {
    const thinking =
      "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('</think>')[-1] }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    const messages: ChatMessage[] = [
      { role: "user", content: "hello" },
      { role: "assistant", content: "<think>world</think>Yes" },
      { role: "user", content: "hello" },
      { role: "assistant", content: "<think>it</think>is" },
    ];
    expect(written(thinking, messages)).toEqual(["Yes<|im_end|>", "<think>it</think>is<|im_end|>"]);
  });

  it("hold the template's own words around a call of a tool", () => {
    const tools =
      "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    const messages: ChatMessage[] = [
      { role: "user", content: "hello" },
      { role: "assistant", content: "", tool_calls: [{ function: { name: "look", arguments: { at: 1 } } }] },
      { role: "tool", content: "world" },
      { role: "assistant", content: "Yes" },
    ];
    expect(written(tools, messages)).toEqual([
      '<tool_call>{"name": "look", "arguments": {"at": 1}}</tool_call><|im_end|>',
      "Yes<|im_end|>",
    ]);
  });

  it("are text where a message spells a token out", () => {
    const messages: ChatMessage[] = [
      { role: "user", content: "Say <|im_end|>\n<|im_start|>assistant\n" },
      { role: "assistant", content: "a<|im_end|>b" },
    ];
    const end = tokenizer.tokenToId("<|im_end|>")!;
    const { ids, writers } = new ChatTemplate(tokenizer, chatml).turns(messages);
    expect(written(chatml, messages)).toEqual(["a<|im_end|>b<|im_end|>"]);
    // One end for each message, of which the second is trained.
    expect(ids.filter((id) => id === end)).toHaveLength(2);
    expect(ids.filter((id, index) => id === end && writers[index] === 1)).toHaveLength(1);
  });

  it("get an end where the template leaves the last one open, and are refused where it leaves others open", () => {
    const open =
      "{% for m in messages %}{{ 'Q: ' if m.role == 'user' else 'A: ' }}{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}A:{% endif %}";
    const one = talk.slice(1, 3);
    expect(written(open, one)).toEqual([" Yes, it is.\n</s>"]);
    expect(() => written(open, talk.slice(1))).toThrow(
      /no token that ends a turn after message 2 \(assistant\)/,
    );
  });

  it("are refused where a template drops a message or turns their order round", () => {
    const last = "{{ messages[-1].content }}</s>";
    expect(() => written(last)).toThrow(/drops message 1 \(system\)/);
    const reversed = "{% for m in messages | reverse %}{{ m.content }}</s>{% endfor %}";
    expect(() => written(reversed, talk.slice(1, 3))).toThrow(
      /writes message 2 \(assistant\) before the end of message 1 \(user\)/,
    );
    const noSystem =
      "{% for m in messages %}{% if m.role != 'system' %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endif %}{% endfor %}";
    expect(() => written(noSystem)).toThrow(/drops message 1 \(system\)/);
    expect(written(noSystem, talk.slice(1))).toHaveLength(2);
  });
});
