import { z } from "zod";
import { validated } from "../base/check.js";
import { FormatError } from "../base/errors.js";
import type { Row } from "./table.js";

const answer = z.object({ text: z.string(), answer_start: z.int().nonnegative() });
const schema = z.object({
  data: z.array(
    z.object({
      title: z.string().optional(),
      paragraphs: z.array(
        z.object({
          context: z.string(),
          qas: z.array(
            z.object({
              id: z.union([z.string(), z.number()]).optional(),
              question: z.string(),
              answers: z.array(answer).optional(),
              is_impossible: z.boolean().default(false),
            }),
          ),
        }),
      ),
    }),
  ),
});

/** Whether parsed JSON has the nested form of SQuAD's files. */
export function isSquad(value: unknown): boolean {
  const { data } = (value ?? {}) as { data?: unknown };
  if (!Array.isArray(data) || data.length === 0) return false;
  return data.every((article: unknown) =>
    Array.isArray((article as { paragraphs?: unknown } | null)?.paragraphs),
  );
}

/**
 * The questions of SQuAD 1.1 or 2.0, each a row with its context, numbered through the file: a question that its context
 * does not answer has no answers. Throws FormatError saying where something is missing.
 */
export function squadRows(file: string, value: unknown): Row[] {
  const { data } = validated(schema, value, (problem) => new FormatError(file, problem));
  const questions = data.flatMap(({ title, paragraphs }) =>
    paragraphs.flatMap(({ context, qas }) =>
      qas.map(({ id, question, answers, is_impossible: impossible }) => {
        // What is plausible and wrong stands in a list of its own.
        const found = impossible ? [] : answers;
        return {
          ...(id !== undefined && { id }),
          title,
          question,
          context,
          ...(found && { answers: found }),
        };
      }),
    ),
  );
  return questions.map((values, index) => ({ number: index + 1, values }));
}
