import path from "node:path";
import type { SafetensorsFile } from "../formats/index.js";
import type { HeadSystem, SystemConfig } from "../models/index.js";
import { DecoderBody, type EncoderWithHead, type Module, namedParameters } from "../nn/index.js";
import type { LoadOptions } from "./checkpoint.js";
import { type ModelFolder, readFolder } from "./folder.js";
import { type FolderFiles, packedEntries } from "./inference.js";

/** Names under which published files may hold a parameter, the likeliest first. */
export type NamesOf = (parameter: string) => readonly string[];

/** What a folder says of an encoder or of a network with a head, and its weight files. */
export interface NetworkFolder<S = HeadSystem, C extends SystemConfig = SystemConfig>
  extends ModelFolder<S, C>, FolderFiles {}

/** Reads a folder but for its weights. @param find the system that a `config.json` is of */
export async function openNetwork<S extends HeadSystem>(
  folder: string,
  find: (json: unknown) => S,
  options: LoadOptions,
): Promise<NetworkFolder<S>> {
  const found = await readFolder<S, SystemConfig>(folder, find, options);
  return { ...found, folder, entries: packedEntries(path.join(folder, "config.json"), found.json) };
}

/** Names of an encoder's parameters: with the family's prefix or without, and what TensorFlow called them. */
export const encoderNames =
  (prefix: string): NamesOf =>
  (name) => {
    const start = `${prefix}.`;
    const places = name.startsWith(start) ? [name, name.slice(start.length)] : [name, start + name];
    // TensorFlow's names of norms, which old conversions kept; and a bias that is tied to its decoder's.
    const old = places.map((place) =>
      place.replace(/LayerNorm\.weight$/, "LayerNorm.gamma").replace(/LayerNorm\.bias$/, "LayerNorm.beta"),
    );
    const tied = name.replace(/^(cls\.predictions|predictions|lm_head)\.bias$/, "$1.decoder.bias");
    return [...new Set([...places, ...old, tied])];
  };

/** Names of the parameters of a network with a head. */
export function headNetworkNames(system: HeadSystem, { encoder }: EncoderWithHead): NamesOf {
  if (system.kind === "encoder") return encoderNames(system.prefix);
  if (!(encoder instanceof DecoderBody)) return (name) => [name];
  return (name) => {
    const published = encoder.languageModelNameOf(name);
    const others = system.aliases?.(published) ?? [published.replace(/^transformer\./, "")];
    return [...new Set([name, published, ...others])];
  };
}

/** Whether a parameter is the network's below the head. */
export function isBelowHead(system: HeadSystem, { encoder }: EncoderWithHead): (name: string) => boolean {
  if (encoder instanceof DecoderBody) return (name) => encoder.owns(name);
  const start = system.kind === "encoder" ? `${system.prefix}.` : "";
  return (name) => name.startsWith(start);
}

/** What files hold a parameter as, under any of its names; undefined where they do not. */
export const storedAs = (files: readonly SafetensorsFile[], names: readonly string[]) =>
  names
    .map((name) => files.map(({ header }) => header.tensors.get(name)).find((entry) => entry !== undefined))
    .find((entry) => entry !== undefined);

/** Whether a folder holds a parameter, in whatever form. */
export const holds = ({ files, entries }: FolderFiles, names: readonly string[]): boolean =>
  storedAs(files, names) !== undefined || names.some((one) => Object.hasOwn(entries, one));

/** Whether a folder has every parameter of a model. */
export const holdsAll = (opened: FolderFiles, model: Module, names: NamesOf): boolean =>
  [...namedParameters(model).keys()].every((name) => holds(opened, names(name)));
