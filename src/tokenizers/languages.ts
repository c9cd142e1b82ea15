import { LineageError } from "../base/errors.js";
import { template } from "./definitions.js";
import { Tokenizer } from "./tokenizer.js";

/** The languages that a text is in and is to be written in, by their codes: `de_DE`. */
export interface Languages {
  readonly source?: string | undefined;
  readonly target?: string | undefined;
}

/** mBART's languages, in the order of their ids; the first 25 are those of Liu et al. 2020, the others of Tang et al. 2020. */
export const mbartLanguages = (
  "ar_AR cs_CZ de_DE en_XX es_XX et_EE fi_FI fr_XX gu_IN hi_IN it_IT ja_XX kk_KZ ko_KR lt_LT lv_LV my_MM ne_NP nl_XX " +
  "ro_RO ru_RU si_LK tr_TR vi_VN zh_CN af_ZA az_AZ bn_IN fa_IR he_IL hr_HR id_ID ka_GE km_KH mk_MK ml_IN mn_MN mr_IN " +
  "pl_PL ps_AF pt_XX sv_SE sw_KE ta_IN te_IN th_TH tl_XX uk_UA ur_PK xh_ZA gl_ES sl_SI"
).split(" ");

/** Where a class of tokenizers writes the code of the language; undefined for one that writes none. */
export function languagePlace(tokenizerClass: unknown): "first" | "last" | undefined {
  const name = String(tokenizerClass).replace(/Fast$/, "");
  return name === "MBartTokenizer" ? "last" : name === "MBart50Tokenizer" ? "first" : undefined;
}

/**
 * mBART's tokenizer for a language, and with another template for the texts that are to be written: `X </s> de_DE`, or
 * `de_DE X </s>` in the model of 50 languages. Throws `tokenizer` for a tokenizer without languages or without one of these.
 */
export function inLanguages(tokenizer: Tokenizer, { source, target }: Languages): Tokenizer {
  const { config } = tokenizer;
  const place = languagePlace(config["tokenizer_class"]);
  const eos = config.eos_token;
  const end = typeof eos === "object" ? eos?.content : eos;
  if (place === undefined || tokenizer.eosId === undefined || typeof end !== "string")
    throw new LineageError("tokenizer", "the tokenizer has no codes of languages: it is not mBART's");
  const make = (language: string, languages: object, other?: Tokenizer): Tokenizer => {
    const id = tokenizer.tokenToId(language);
    if (id === undefined || !tokenizer.isSpecial(id))
      throw new LineageError(
        "tokenizer",
        `the tokenizer has no language ${language}; it has ${mbartLanguages.filter((code) => tokenizer.tokenToId(code) !== undefined).join(", ")}`,
      );
    const around = (...texts: string[]): string[] =>
      place === "first" ? [language, ...texts, end] : [...texts, end, language];
    return new Tokenizer(
      {
        ...tokenizer.definition,
        post_processor: template(around("A"), around("A", "B"), [
          [end, tokenizer.eosId!],
          [language, id],
        ]),
      },
      { ...config, ...languages },
      undefined,
      other && { target: other },
    );
  };
  const languages = { ...(source && { src_lang: source }), ...(target && { tgt_lang: target }) };
  return make(source ?? "en_XX", languages, target === undefined ? undefined : make(target, languages));
}
