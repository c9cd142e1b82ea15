import { either } from "../base/check.js";
import { LineageError } from "../base/errors.js";
import type { Conversation, Message, Preference, Ranking, RowOf, Verdict } from "./conversation.js";
import type { Row, Table } from "./table.js";

/** How a file writes conversations. */
export type Layout = keyof RowOf;

interface Description {
  readonly title: string;
  /** Columns that show the layout, for a person. */
  readonly columns: string;
  /** What of its rows is learned as a conversation, where they are more than that. */
  readonly answers?: string;
  readonly fits: (values: Values) => boolean;
  readonly read: (row: Row) => RowOf[Layout];
}

type Values = Row["values"];

/** Why a row cannot be used: `has no answer of the assistant`. */
export class RowError extends Error {}

const refuse = (reason: string): never => {
  throw new RowError(reason);
};

// ---- Cells --------------------------------------------------------------------------------------------------------

const names = {
  messages: ["messages", "conversations", "conversation", "dialog", "dialogue", "chat", "turns"],
  prompt: ["prompt", "question", "query", "instruction", "input", "user"],
  completion: ["completion", "response", "answer", "output", "assistant", "target"],
  answers: ["answers", "responses", "completions", "outputs", "candidates", "rankings"],
  verdict: ["label", "good", "thumb", "thumbs", "kto_tag", "vote"],
} as const;

/** The first of some names that a row has a value for. */
const nameIn = (values: Values, known: readonly string[]): string | undefined =>
  known.find((name) => values[name] !== undefined && values[name] !== null);

/** A list or an object, which a table of text cells holds as JSON. */
function structured(value: unknown): unknown {
  if (typeof value !== "string" || !/^\s*[[{]/.test(value)) return value;
  try {
    return JSON.parse(value) as unknown;
  } catch {
    return value;
  }
}

const isObject = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

const listIn = (values: Values, known: readonly string[]): readonly unknown[] | undefined => {
  const name = nameIn(values, known);
  const value = name === undefined ? undefined : structured(values[name]);
  return Array.isArray(value) ? (value as readonly unknown[]) : undefined;
};

const textIn = (values: Values, name: string | undefined): string | undefined => {
  const value = name === undefined ? undefined : values[name];
  if (typeof value === "number" || typeof value === "bigint") return String(value);
  return typeof value === "string" && value.trim() !== "" ? value : undefined;
};

function toolsIn(values: Values): { tools?: readonly unknown[] } {
  const tools = structured(values["tools"]);
  if (tools === undefined || tools === null || tools === "") return {};
  if (!Array.isArray(tools)) return refuse("has tools that are no list of JSON schemas");
  return tools.length === 0 ? {} : { tools };
}

// ---- Messages -----------------------------------------------------------------------------------------------------

const roles: ReadonlyMap<string, Message["role"]> = new Map([
  ["system", "system"],
  ["developer", "system"],
  ["user", "user"],
  ["human", "user"],
  ["prompter", "user"],
  ["assistant", "assistant"],
  ["gpt", "assistant"],
  ["bot", "assistant"],
  ["model", "assistant"],
  ["chatgpt", "assistant"],
  ["function_call", "assistant"],
  ["tool_call", "assistant"],
  ["tool", "tool"],
  ["function", "tool"],
  ["observation", "tool"],
  ["tool_response", "tool"],
  ["function_response", "tool"],
  ["ipython", "tool"],
]);

/** The text of a content: a text, or a list of parts of text. */
function contentOf(value: unknown, which: string): string {
  if (value === undefined || value === null) return "";
  if (typeof value === "string") return value;
  if (!Array.isArray(value)) return refuse(`has in ${which} a content that is no text`);
  return value
    .map((part: unknown) => {
      if (typeof part === "string") return part;
      if (!isObject(part)) return refuse(`has in ${which} a part that is no object`);
      const text = part["text"] ?? part["value"] ?? part["content"];
      const type = part["type"] ?? "text";
      if (type !== "text" || typeof text !== "string")
        return refuse(`has in ${which} a part of type ${JSON.stringify(type)}; only text can be learned`);
      return text;
    })
    .join("");
}

/** A call as ShareGPT writes it: one JSON object with name and arguments, or a list of them. */
function callsOf(text: string, which: string): readonly unknown[] {
  const value = structured(text);
  const calls = Array.isArray(value) ? (value as readonly unknown[]) : [value];
  return calls.map((call) =>
    isObject(call) && typeof call["name"] === "string"
      ? { type: "function", function: { name: call["name"], arguments: call["arguments"] ?? {} } }
      : refuse(`has in ${which} a call that is no JSON object with a name and arguments`),
  );
}

/** One message of any writing. `loss_weight` or `weight` 0 and `train` false take it out of what is learned. */
function messageOf(value: unknown, place: number): Message {
  const which = `message ${place + 1}`;
  if (!isObject(value)) return refuse(`has as ${which} no object with a role and a content`);
  const { role: plain, from, content, value: said, loss_weight, weight, train, ...rest } = value;
  const written = plain ?? from;
  if (typeof written !== "string" || written.trim() === "") return refuse(`has no role in ${which}`);
  const role = roles.get(written.trim().toLowerCase());
  if (role === undefined)
    return refuse(
      `has in ${which} the role ${JSON.stringify(written)}; roles are system, user, assistant and tool`,
    );
  const text = contentOf(content ?? said ?? (rest["text"] as unknown), which);
  const isCall = ["function_call", "tool_call"].includes(written.trim().toLowerCase());
  const calls = isCall ? callsOf(text, which) : structured(rest["tool_calls"]);
  const untrained = [loss_weight, weight].includes(0) || train === false;
  return {
    ...Object.fromEntries(Object.entries(rest).filter(([, entry]) => entry !== null && entry !== undefined)),
    role,
    content: isCall ? "" : text,
    ...(Array.isArray(calls) && { tool_calls: calls as readonly unknown[] }),
    ...(untrained && { train: false }),
  };
}

const messagesOf = (list: readonly unknown[]): Message[] => list.map(messageOf);

const isBlank = ({ content, tool_calls: calls }: Message): boolean =>
  content.trim() === "" && !(Array.isArray(calls) && calls.length > 0);

/** Refuses messages that no model can be asked or learn from. */
function checked(messages: readonly Message[]): readonly Message[] {
  const systems = messages.flatMap(({ role }, place) => (role === "system" ? [place] : []));
  if (systems.length > 1)
    refuse(`has ${systems.length} system messages (${systems.map((place) => place + 1).join(", ")})`);
  if (systems.length === 1 && systems[0] !== 0)
    refuse(`has its system message in place ${systems[0]! + 1}; it must be the first one`);
  messages.forEach((message, place) => {
    if (message.role !== "tool" && isBlank(message))
      refuse(
        message.role === "assistant"
          ? `has an empty answer in message ${place + 1}`
          : `has an empty message ${place + 1} (${message.role})`,
      );
  });
  return messages;
}

function conversation(row: Row, messages: readonly Message[]): Conversation {
  if (messages.length === 0) refuse("has no messages");
  if (!checked(messages).some(({ role }) => role === "assistant")) refuse("has no answer of the assistant");
  return { row: row.number, messages, ...toolsIn(row.values) };
}

const systemOf = (values: Values): Message[] => {
  const content = textIn(values, nameIn(values, ["system", "system_prompt"]));
  return content === undefined ? [] : [{ role: "system", content }];
};
const user = (content: string): Message => ({ role: "user", content });
const assistant = (content: string): Message => ({ role: "assistant", content });

/** A text as Anthropic's HH writes a conversation: turns after "\n\nHuman:" and "\n\nAssistant:". */
const turnMark = /(?:^|\n\n)(Human|Assistant): ?/;
const isTranscript = (text: string): boolean => /^\s*Human:/.test(text);

function transcript(text: string): Message[] {
  const parts = text.replace(/^\s*(?=Human:)/, "").split(turnMark);
  const messages: Message[] = [];
  for (let at = 1; at < parts.length; at += 2)
    messages.push((parts[at] === "Human" ? user : assistant)(parts[at + 1]!.trim()));
  return messages;
}

// ---- Prompts and answers ------------------------------------------------------------------------------------------

/** The instruction and its input in one message, as Alpaca's prompts have them one after the other. */
function instructionOf(values: Values): Message[] | undefined {
  const instruction = textIn(values, "instruction");
  const input = textIn(values, nameIn(values, ["input", "context"]));
  if (instruction === undefined && input === undefined) return undefined;
  return [user([instruction, input].filter((text) => text !== undefined).join("\n\n"))];
}

/** Earlier exchanges: `history: [[question, answer], …]`. */
function historyOf(values: Values): Message[] {
  const history = structured(values["history"]);
  if (history === undefined || history === null || history === "") return [];
  if (!Array.isArray(history)) return refuse("has a history that is no list of [question, answer]");
  return history.flatMap((pair: unknown) => {
    const [question, answer] = Array.isArray(pair) ? (pair as unknown[]) : [];
    return typeof question === "string" && typeof answer === "string"
      ? [user(question), assistant(answer)]
      : refuse("has a history that is no list of [question, answer]");
  });
}

/** What is answered: messages, a transcript, an instruction with its input, or a text; undefined where there is none. */
function promptOf(values: Values): Message[] | undefined {
  const list = listIn(values, [...names.messages, "prompt"]);
  if (list) return [...(list.some(isSystem) ? [] : systemOf(values)), ...messagesOf(list)];
  if (values["instruction"] !== undefined)
    return [...systemOf(values), ...historyOf(values), ...(instructionOf(values) ?? [])];
  const text = textIn(values, nameIn(values, names.prompt));
  if (text === undefined) return undefined;
  return [
    ...systemOf(values),
    ...historyOf(values),
    ...(isTranscript(text) ? withoutOpening(text) : [user(text)]),
  ];
}

const isSystem = (value: unknown): boolean =>
  isObject(value) && roles.get(String(value["role"] ?? value["from"])) === "system";

/** A transcript that ends with "Assistant:", where the answer begins. */
const withoutOpening = (text: string): Message[] => {
  const messages = transcript(text);
  return messages.at(-1)?.content === "" ? messages.slice(0, -1) : messages;
};

/** An answer: a text, a transcript, a message or several. */
function answerOf(value: unknown, what: string): Message[] {
  const inner = structured(value);
  if (Array.isArray(inner))
    return inner.length > 0 && inner.every((item) => typeof item === "string")
      ? inner.map((text) => assistant(text as string))
      : messagesOf(inner as readonly unknown[]);
  if (isObject(inner)) {
    if ("role" in inner || "from" in inner) return [messageOf(inner, 0)];
    const text = textIn(inner, nameIn(inner, [...names.completion, "text", "content", "value"]));
    return text === undefined ? refuse(`has no text in ${what}`) : [assistant(text)];
  }
  if (typeof inner !== "string") return refuse(`has no text in ${what}`);
  return isTranscript(inner) ? transcript(inner) : [assistant(inner)];
}

const same = (a: Message, b: Message): boolean =>
  a.role === b.role &&
  a.content === b.content &&
  JSON.stringify(a["tool_calls"] ?? null) === JSON.stringify(b["tool_calls"] ?? null);

/** Answers without the messages that they share with the prompt or among each other, which become the prompt. */
function parted(
  given: readonly Message[] | undefined,
  answers: readonly (readonly Message[])[],
): { readonly messages: readonly Message[]; readonly answers: readonly (readonly Message[])[] } {
  const [first = []] = answers;
  let shared = 0;
  while (
    shared < Math.min(...answers.map(({ length }) => length)) &&
    answers.every((answer) => same(answer[shared]!, first[shared]!))
  )
    shared++;
  const common = first.slice(0, shared);
  // An answer may repeat the conversation that it ends.
  const repeats = given?.every((message, place) => shared > place && same(message, common[place]!)) ?? false;
  const system = given?.[0]?.role === "system" && common[0]?.role === "user" ? given.slice(0, 1) : [];
  const rest = given?.slice(system.length) ?? [];
  const repeatsRest =
    system.length > 0 && rest.every((message, place) => shared > place && same(message, common[place]!));
  const messages = repeats ? common : repeatsRest ? [...system, ...common] : [...(given ?? []), ...common];
  return { messages, answers: answers.map((answer) => answer.slice(shared)) };
}

/** Checks a prompt and answers to it. */
function answered(messages: readonly Message[], answers: readonly (readonly Message[])[]): void {
  if (messages.every(({ role }) => role === "system")) refuse("has no prompt");
  for (const answer of answers) {
    if (answer.length === 0 || answer[0]!.role !== "assistant")
      refuse("has an answer that does not begin with the assistant");
    checked([...messages, ...answer]);
  }
  if (messages.at(-1)!.role === "assistant") refuse("has a prompt that ends with the assistant");
}

function marginOf(values: Values): number | undefined {
  const number = (name: string): number | undefined => {
    const value = values[name];
    const found = typeof value === "string" && value.trim() === "" ? NaN : Number(value ?? NaN);
    return Number.isFinite(found) ? found : undefined;
  };
  const given = number("margin");
  if (given !== undefined) return given;
  for (const score of ["score", "rating"])
    for (const [chosen, rejected] of [
      [`${score}_chosen`, `${score}_rejected`],
      [`chosen_${score}`, `rejected_${score}`],
    ] as const) {
      const [better, worse] = [number(chosen), number(rejected)];
      if (better !== undefined && worse !== undefined) return better - worse;
    }
  return undefined;
}

function preference(row: Row): Preference {
  const { values } = row;
  const given = promptOf(without(values, ["chosen", "rejected"]));
  const answers = (["chosen", "rejected"] as const).map((name) => {
    const answer = answerOf(values[name], name);
    return answer.every(isBlank) ? refuse(`has an empty answer in ${name}`) : answer;
  });
  if (JSON.stringify(answers[0]) === JSON.stringify(answers[1]))
    refuse("has a chosen answer equal to the rejected one");
  const { messages, answers: apart } = parted(given, answers);
  answered(messages, apart);
  const margin = marginOf(values);
  return {
    row: row.number,
    messages,
    ...toolsIn(values),
    chosen: apart[0]!,
    rejected: apart[1]!,
    ...(margin !== undefined && { margin }),
  };
}

function ranking(row: Row): Ranking {
  const { values } = row;
  const list = listIn(values, names.answers) ?? refuse("has no list of answers");
  if (list.length < 2) refuse(`has ${list.length} answers; a ranking needs two or more`);
  const given = promptOf(without(values, names.answers));
  const all = list.map((item, place) => answerOf(item, `answer ${place + 1}`));
  const { messages, answers } = given ? { messages: given, answers: all } : parted(given, all);
  answered(messages, answers);
  const numbersOf = (name: string): readonly number[] | undefined => {
    const own = list.map((item) => (isObject(item) ? item[name] : undefined));
    const given = structured(
      values[name] ?? values[`${name}s`] ?? (name === "rank" ? values["ranking"] : undefined),
    );
    const found = Array.isArray(given) ? (given as readonly unknown[]) : own;
    if (found.every((value) => value === undefined)) return undefined;
    if (found.length !== list.length || !found.every((value) => Number.isFinite(Number(value))))
      return refuse(`has ${list.length} answers, but no ${name} for each`);
    return found.map(Number);
  };
  const grades =
    numbersOf("rank") ?? numbersOf("score")?.map((score) => -score) ?? answers.map((_, place) => place);
  const order = answers.map((_, place) => place).sort((a, b) => grades[a]! - grades[b]! || a - b);
  if (new Set(grades).size === 1) refuse("ranks all answers alike");
  return {
    row: row.number,
    messages,
    ...toolsIn(values),
    answers: order.map((place) => answers[place]!),
    ranks: order.map((place) => grades.filter((grade) => grade < grades[place]!).length),
  };
}

const verdicts: ReadonlyMap<string, boolean> = new Map([
  ["true", true],
  ["1", true],
  ["up", true],
  ["good", true],
  ["desirable", true],
  ["chosen", true],
  ["false", false],
  ["0", false],
  ["-1", false],
  ["down", false],
  ["bad", false],
  ["undesirable", false],
  ["rejected", false],
]);

const verdictOf = (value: unknown): boolean | undefined =>
  ["string", "number", "boolean"].includes(typeof value)
    ? verdicts.get(String(value).trim().toLowerCase())
    : undefined;

function verdict(row: Row): Verdict {
  const { values } = row;
  const label = nameIn(values, names.verdict);
  const good = label === undefined ? undefined : verdictOf(values[label]);
  if (good === undefined) return refuse("has no thumb: a label that is true or false");
  const name = nameIn(values, names.completion);
  const given = promptOf(name === undefined ? values : without(values, [name])) ?? [];
  const all = name === undefined ? given : [...given, ...answerOf(values[name], name)];
  const last = all.findLastIndex(({ role }) => role === "user" || role === "tool");
  const [messages, answer] = [all.slice(0, last + 1), all.slice(last + 1)];
  answered(messages, [answer]);
  return { row: row.number, messages, ...toolsIn(values), answer, good };
}

const without = (values: Values, taken: readonly string[]): Values =>
  Object.fromEntries(Object.entries(values).filter(([name]) => !taken.includes(name)));

// ---- The layouts --------------------------------------------------------------------------------------------------

const firstOf = (list: readonly unknown[] | undefined): unknown => list?.find(isObject);
const hasMessages = (values: Values, key: string): boolean => {
  const first = firstOf(listIn(values, names.messages));
  return isObject(first) && key in first;
};
const listed = (row: Row): Conversation => {
  const { values } = row;
  const list = listIn(values, names.messages) ?? refuse("has no list of messages");
  return conversation(row, [...(list.some(isSystem) ? [] : systemOf(values)), ...messagesOf(list)]);
};

/** A prompt and its completion in two columns, each with a name of its own. */
function completionNames(values: Values): readonly [prompt: string, completion: string] | undefined {
  const prompt = nameIn(values, names.prompt);
  const completion = nameIn(values, names.completion);
  return prompt === undefined || completion === undefined ? undefined : [prompt, completion];
}

export const layouts: { readonly [L in Layout]: Description } = {
  messages: {
    title: "messages",
    columns: "messages: [{role, content}, …]",
    fits: (values) => hasMessages(values, "role") || hasMessages(values, "content"),
    read: listed,
  },
  sharegpt: {
    title: "ShareGPT's conversations",
    columns: "conversations: [{from, value}, …]",
    fits: (values) => hasMessages(values, "from") || hasMessages(values, "value"),
    read: listed,
  },
  alpaca: {
    title: "Alpaca's instructions",
    columns: "instruction, input, output",
    fits: (values) =>
      typeof values["instruction"] === "string" && nameIn(values, names.completion) !== undefined,
    read: (row) => {
      const { values } = row;
      const asked = instructionOf(values) ?? refuse("has an empty instruction");
      const name = nameIn(values, names.completion);
      const output = textIn(values, name) ?? refuse(`has an empty answer in ${name ?? "output"}`);
      return conversation(row, [...systemOf(values), ...historyOf(values), ...asked, assistant(output)]);
    },
  },
  completion: {
    title: "prompts with completions",
    columns: "prompt, completion",
    fits: (values) => completionNames(values) !== undefined,
    read: (row) => {
      const { values } = row;
      const name = nameIn(values, names.completion) ?? refuse("has no completion");
      const prompt = promptOf(without(values, [name])) ?? refuse("has an empty prompt");
      return conversation(row, [...prompt, ...answerOf(values[name], name)]);
    },
  },
  preference: {
    title: "preferences",
    columns: "prompt, chosen, rejected",
    answers: "the chosen answers",
    fits: (values) => nameIn(values, ["chosen"]) !== undefined && nameIn(values, ["rejected"]) !== undefined,
    read: preference,
  },
  ranking: {
    title: "rankings",
    columns: "prompt, answers (the best first, or with rank or score)",
    answers: "the best answers",
    fits: (values) => (listIn(values, names.answers)?.length ?? 0) >= 2,
    read: ranking,
  },
  verdict: {
    title: "verdicts",
    columns: "messages or prompt and completion, label (true or false)",
    answers: "the good answers",
    fits: (values) => {
      const label = nameIn(values, names.verdict);
      return (
        label !== undefined &&
        verdictOf(values[label]) !== undefined &&
        (listIn(values, names.messages) !== undefined || completionNames(values) !== undefined)
      );
    },
    read: verdict,
  },
};

/** The layouts by their names. */
export const layoutNames = Object.keys(layouts) as readonly Layout[];

/** One row as its layout has it. Throws RowError. */
export const readRow = (layout: Layout, row: Row): RowOf[Layout] => layouts[layout].read(row);

/** Those that hold more than a conversation are seen first: their rows are also rows of simpler layouts. */
const byRichness: readonly (readonly Layout[])[] = [
  ["preference", "ranking", "verdict"],
  ["messages", "sharegpt", "alpaca"],
  ["completion"],
];

/** The layout of a table, by its first rows. Throws `data` where none fits, or where several do. */
export function findLayout(table: Table): Layout {
  const rows = table.rows.slice(0, 20);
  const counted = (layout: Layout) => rows.filter(({ values }) => layouts[layout].fits(values)).length;
  for (const group of byRichness) {
    const fitting = group.filter((layout) => counted(layout) > 0);
    const [found, other] = fitting;
    if (other !== undefined)
      throw new LineageError(
        "data",
        `${table.file} may hold ${either(fitting.map((layout) => layouts[layout].title))}; say which with --format ${either([...fitting])}`,
      );
    if (found !== undefined) return found;
  }
  throw new LineageError(
    "data",
    `${table.file} has the columns ${table.columns.join(", ")}, and no conversations are known that look so; known are\n${layoutNames
      .map((layout) => `  --format ${layout}: ${layouts[layout].columns}`)
      .join("\n")}`,
  );
}
