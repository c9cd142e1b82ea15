import { replaceFiles } from "../base/folders.js";
import { isTokenizerFile, isWeightFile } from "../formats/index.js";

const settings = /^(config|generation_config|preprocessor_config|task)\.json$/;

/**
 * Replaces the model in a folder as a whole: what `write` writes, and nothing that another model left, is there afterwards.
 * Other files of the folder, such as a run's log or a README, stay.
 */
export const replaceModel = (folder: string, write: (staging: string) => Promise<void>): Promise<void> =>
  replaceFiles(folder, write, {
    part: (name) => settings.test(name) || isWeightFile(name) || isTokenizerFile(name),
  });
