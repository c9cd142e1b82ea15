import path from "node:path";
import { FormatError } from "../../base/errors.js";
import type { GgufHeader, GgufTensor } from "./file.js";

/** As llama.cpp names the parts of a model: NAME-00002-of-00003.gguf. */
const partName = /^(.*)-(\d{5})-of-(\d{5})(\.gguf)?$/s;

const numberOf = ({ metadata }: GgufHeader, key: string): number | undefined => {
  const value = metadata.get(key)?.value;
  return typeof value === "number" ? value : undefined;
};

/** How many files a model is in; 1 for most. */
export const partCount = (header: GgufHeader): number => numberOf(header, "split.count") ?? 1;

/** Paths of all parts of a model, by one of them. Throws FormatError where its name does not say which part it is. */
export function partPaths(file: string, header: GgufHeader): string[] {
  const count = partCount(header);
  const [, start, number, of, ending = ""] = partName.exec(path.basename(file)) ?? [];
  if (start === undefined || Number(of) !== count || Number(number) - 1 !== numberOf(header, "split.no"))
    throw new FormatError(
      file,
      `it is part ${(numberOf(header, "split.no") ?? 0) + 1} of a model in ${count} files; they must be named NAME-00001-of-${String(count).padStart(5, "0")}.gguf and so on, and lie in one folder`,
    );
  return Array.from({ length: count }, (_, index) =>
    path.join(path.dirname(file), `${start}-${String(index + 1).padStart(5, "0")}-of-${of}${ending}`),
  );
}

/** The header of a whole model: the entries of its first part, and the tensors of all. Throws FormatError where they do not belong together. */
export function joinParts(
  paths: readonly string[],
  headers: readonly GgufHeader[],
): Pick<GgufHeader, "version" | "alignment" | "metadata" | "tensors"> {
  const [first] = headers as [GgufHeader];
  const tensors = new Map<string, GgufTensor>();
  headers.forEach((header, index) => {
    const file = paths[index]!;
    if (numberOf(header, "split.no") !== index || partCount(header) !== headers.length)
      throw new FormatError(file, `by its entries it is not part ${index + 1} of ${headers.length}`);
    for (const [name, tensor] of header.tensors) {
      if (tensors.has(name)) throw new FormatError(file, `the tensor ${name} is in another part, too`);
      tensors.set(name, tensor);
    }
  });
  const expected = numberOf(first, "split.tensors.count");
  if (expected !== undefined && expected !== tensors.size)
    throw new FormatError(
      paths[0]!,
      `its ${headers.length} parts hold ${tensors.size} tensors, but should hold ${expected}`,
    );
  return { ...first, tensors };
}
