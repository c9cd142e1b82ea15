import type { Conversation, Message } from "./conversation.js";

// Ghost attention, Touvron et al. 2023 ("Llama 2"), section 3.3: an instruction that holds for a whole conversation.

const joined = (instruction: string, message: Message): Message => ({
  ...message,
  content: `${instruction}\n\n${message.content}`,
});

/** The conversation to sample answers from: the instruction stands before every message of the user. */
export const ghostPrompt = (instruction: string, messages: readonly Message[]): Message[] =>
  messages.map((message) => (message.role === "user" ? joined(instruction, message) : message));

/**
 * The conversation to learn from, whose answers were sampled with the instruction in every turn: it is kept in the first turn
 * alone, and the loss is over the last answer alone, so that nothing is learned of turns before it.
 */
export function ghostConversation(instruction: string, conversation: Conversation): Conversation {
  const { messages } = conversation;
  const first = messages.findIndex(({ role }) => role === "user");
  const last = messages.findLastIndex(({ role }) => role === "assistant");
  return {
    ...conversation,
    messages: messages.map((message, place) => {
      if (place === first) return joined(instruction, message);
      return message.role === "assistant" && place !== last ? { ...message, train: false } : message;
    }),
  };
}
