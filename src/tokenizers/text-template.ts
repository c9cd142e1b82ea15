import { JinjaError } from "./jinja/syntax.js";
import { Template, templateLimits } from "./jinja/template.js";

/**
 * A text from a Jinja template, in the language and under the limits of chat templates. A name that is not there fails, where
 * a chat template would write nothing.
 * @param unreadable makes the error for a text that is no template
 * @returns writes the text of some values; its second argument makes the error of a template that fails
 */
export function templateOf(
  source: string,
  unreadable: (reason: string) => Error,
): (values: Readonly<Record<string, unknown>>, failed: (reason: string) => Error) => string {
  const orThrow = <T>(work: () => T, make: (reason: string) => Error): T => {
    try {
      return work();
    } catch (error) {
      if (error instanceof JinjaError) throw make(error.message.slice(0, 400));
      throw error;
    }
  };
  const template = orThrow(
    () => new Template(source, templateLimits, { strict: true }),
    (reason) => unreadable(`cannot be read: ${reason}`),
  );
  return (values, failed) => orThrow(() => template.render(values, {}).text, failed);
}
