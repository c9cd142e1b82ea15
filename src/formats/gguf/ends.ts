/** Tokens that end what a model writes, by their names: many files have ids for some of them only, or for none. */
const ends = new Set(
  (
    "<|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <|flush|> <|calls|> <end_of_turn> <|endoftext|> </s> <|eom_id|> <EOT> " +
    "_<EOT> [EOT] [EOS] <|end_of_text|> <end_of_utterance> <eos> <turn|> <|tool_response> <｜end▁of▁sentence｜> [e~["
  ).split(" "),
);
/** The one that ends a turn, where `eot` has no id. */
const turns =
  "<|eot_id|> <|im_end|> <|end|> <end_of_turn> <|endoftext|> <|end_of_text|> <EOT> _<EOT> [EOT] <｜end▁of▁sentence｜> <end_of_utterance>".split(
    " ",
  );
/** Tokens between files and repositories, and the padding between them: text after them is another document's. */
const betweenFiles: Readonly<Record<string, readonly string[]>> = {
  fim_pad: "<|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD]".split(" "),
  fim_rep: "<|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame>".split(" "),
  fim_sep: ["<|file_sep|>"],
};

/**
 * Ids after which llama.cpp stops: those that the file names and those of tokens with the names that the field gives to
 * ends. The file's own come first.
 * @param idOf the id that the file has for `eos`, `eot`, `eom`, `fim_pad`, `fim_rep` or `fim_sep`
 */
export function endIds(tokens: readonly string[], idOf: (name: string) => number | undefined): number[] {
  const ids = new Map(tokens.map((token, id) => [token, id]));
  const named = (names: readonly string[]) =>
    names.map((name) => ids.get(name)).find((id) => id !== undefined);
  const found = new Set<number>();
  const add = (id: number | undefined) => {
    if (id !== undefined) found.add(id);
  };
  add(idOf("eos"));
  add(idOf("eot") ?? named(turns));
  add(idOf("eom"));
  tokens.forEach((token, id) => {
    if (ends.has(token)) add(id);
  });
  for (const [name, names] of Object.entries(betweenFiles)) add(idOf(name) ?? named(names));
  const has = (token: string) => found.has(ids.get(token) ?? -1);
  const remove = (token: string) => found.delete(ids.get(token) ?? -1);
  // Where answers end with these, the others only part their sections.
  if ((has("<|return|>") || has("<|flush|>")) && (has("<|call|>") || has("<|calls|>"))) remove("<|end|>");
  if (has("<|tool_response>")) remove("</s>");
  return [...found];
}
