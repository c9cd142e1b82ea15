/** Scripts by their name in Unicode; those of Japanese count as one, as SentencePiece has it. */
const names = [
  ..."Latin Common Han Hiragana Katakana Hangul Cyrillic Greek Arabic Hebrew Devanagari Thai Inherited".split(
    " ",
  ),
  ..."Adlam Ahom Anatolian_Hieroglyphs Armenian Avestan Balinese Bamum Bassa_Vah Batak Bengali Bhaiksuki".split(
    " ",
  ),
  ..."Bopomofo Brahmi Braille Buginese Buhid Canadian_Aboriginal Carian Caucasian_Albanian Chakma Cham".split(
    " ",
  ),
  ..."Cherokee Coptic Cuneiform Cypriot Deseret Duployan Egyptian_Hieroglyphs Elbasan Ethiopic Georgian".split(
    " ",
  ),
  ..."Glagolitic Gothic Grantha Gujarati Gurmukhi Hanunoo Hatran Imperial_Aramaic Inscriptional_Pahlavi".split(
    " ",
  ),
  ..."Inscriptional_Parthian Javanese Kaithi Kannada Kayah_Li Kharoshthi Khmer Khojki Khudawadi Lao".split(
    " ",
  ),
  ..."Lepcha Limbu Linear_A Linear_B Lisu Lycian Lydian Mahajani Malayalam Mandaic Manichaean Marchen".split(
    " ",
  ),
  ..."Meetei_Mayek Mende_Kikakui Meroitic_Cursive Meroitic_Hieroglyphs Miao Modi Mongolian Mro Multani".split(
    " ",
  ),
  ..."Myanmar Nabataean New_Tai_Lue Newa Nko Ogham Ol_Chiki Old_Hungarian Old_Italic Old_North_Arabian".split(
    " ",
  ),
  ..."Old_Permic Old_Persian Old_South_Arabian Old_Turkic Oriya Osage Osmanya Pahawh_Hmong Palmyrene".split(
    " ",
  ),
  ..."Pau_Cin_Hau Phags_Pa Phoenician Psalter_Pahlavi Rejang Runic Samaritan Saurashtra Sharada Shavian".split(
    " ",
  ),
  ..."Siddham SignWriting Sinhala Sora_Sompeng Sundanese Syloti_Nagri Syriac Tagalog Tagbanwa Tai_Le".split(
    " ",
  ),
  ..."Tai_Tham Tai_Viet Takri Tamil Tangut Telugu Thaana Tibetan Tifinagh Tirhuta Ugaritic Vai Warang_Citi Yi".split(
    " ",
  ),
];

let patterns: readonly (readonly [name: string, pattern: RegExp])[] | undefined;
const known = new Map<string, string | undefined>();

/** The script of a character as the pre-tokenizer UnicodeScripts sees it; undefined for a space and where there is none. */
export function scriptOf(character: string): string | undefined {
  if (known.has(character)) return known.get(character);
  patterns ??= names.map((name) => [name, new RegExp(`\\p{Script=${name}}`, "u")] as const);
  let script = character === " " ? undefined : patterns.find(([, pattern]) => pattern.test(character))?.[0];
  // Ideographs that are younger than the reference's table have no script there.
  const code = character.codePointAt(0)!;
  if (script === "Han" && code > 0x2cea1 && (code < 0x2f800 || code > 0x2fa1d)) script = undefined;
  if (script === "Hiragana" || script === "Katakana" || character === "\u30fc") script = "Han";
  known.set(character, script);
  return script;
}
