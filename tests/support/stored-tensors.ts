import { SafetensorsFile } from "../../src/formats/index.js";

/** Every tensor of a safetensors file by its name, with its type, its shape and its bytes: files are equal where these are. */
export async function storedTensors(place: string): Promise<Record<string, string>> {
  const file = await SafetensorsFile.open(place);
  const all: Record<string, string> = {};
  for (const [key, { shape, dtype, byteLength }] of file.header.tensors) {
    const bytes = new Uint8Array(byteLength);
    await file.readInto(key, bytes);
    all[key] = `${dtype} ${shape.join()} ${Buffer.from(bytes).toString("base64")}`;
  }
  return all;
}
