"""Random tokenizer.json over all components and settings, and what tokenizers makes of texts under them: ids, offsets and
decoded text. By hand: `tokenizer_differential.py OUT SEED COUNT TEXTS` writes a file for a comparison of thousands;
without arguments it writes the sample that the tests read, values/tokenizer-differential.json.

A tokenizer that the library refuses, or a text on which it fails, is left out: the tests are about equal values. So are three
accidents of the library: a normalizer's empty match at the start of a text (later steps then double what it put there), an
added token whose normalised content is empty (it is then found everywhere), and characters that are younger than its tables.
"""

import base64
import json
import pathlib
import random
import struct
import sys
import unicodedata

from tokenizers import Tokenizer

alphabet = list("abcdefghijklmnopqrstuvwxyzABCDEF0123456789 .,!?'-_<>[]()#|\n\t") + list("äöüßéàñΣσςİıſ")
alphabet += list("日本語猫である東京ひらがなカタカナーｱﾞ漢字") + ["𠮷", "𡈽", "🙂", "👩", "\u200d", "👧", "🏽", "\u0301", "\u0303", "\u0323"]
alphabet += ["▁", "Ġ", "\u00a0", "\u3000", "\u200b", "\u0007", "\x00", "\u2028", "\ufeff", "ﬁ", "½", "Ａ", "가", "ᄀ", "ᅡ", "ไ", "अ", "ि", "ا", "א", "٣", "Ⅷ", "￼", "\ufffd"]
words = ["hello", "world", "the", "The", "new", "york", "don't", "naïve", "café", "cafe\u0301", "straße", "Übergröße", "日本語", "吾輩は猫である", "東京タワー", "𠮷野家", "constructor", "toString", "__proto__", "foo_bar(x)", "x=1;", "1234567890", "3.14", "https://a.b/c?d=e", "👩‍👩‍👧", "👍🏽", "🙂🙂", "<s>", "</s>", "[CLS]", "[MASK]", "<unk>", "tok", "Tok", "light", "ΟΔΟΣ", "ﬁne", "한국어", "ไทย", "हिन्दी", "مرحبا", "don't", "do not", "we've", "I'm", "...", "!!!", "--", "\t", "\n", "\n\n", "  ", "   ", "\r\n", "\u3000", "\x00", "\x07", "\u200b", "a\u0323\u0307", "q\u0307\u0323", "ｶﾞ", "①", "㍿", "ＡＢＣ", "xxxxx", "aaaaaaaaaaaaaaaa", "ss", "ST", "'S", "'LL", "İstanbul", "<|x|>"]


def text(r):
    kind = r.random()
    if kind < 0.04:
        return ""
    if kind < 0.25:
        return "".join(r.choice(alphabet) for _ in range(r.randint(1, 30)))
    if kind < 0.3:
        return r.choice(alphabet) * r.randint(2, 150)
    if kind < 0.35:
        drawn = [chr(r.choice([r.randint(0, 0x250), r.randint(0x300, 0x3000), r.randint(0x3000, 0xA000)])) for _ in range(r.randint(1, 12))]
        return "".join(c for c in drawn if unicodedata.ucd_3_2_0.category(c) != "Cn")
    parts = []
    for _ in range(r.randint(1, 12)):
        parts.append(r.choice(words) if r.random() < 0.7 else "".join(r.choice(alphabet) for _ in range(r.randint(1, 5))))
        if r.random() < 0.7:
            parts.append(" ")
    return "".join(parts)


regexes = [
    r"\s+", r" {2,}", r"\p{L}+", r"[^\s\p{L}\p{N}]+", r"\d", r"\d{1,3}", r"\w+|[^\w\s]+", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+", r"[\r\n]", r"[一-龥぀-ゟ゠-ヿ]+", r"\p{Han}+|\p{Hiragana}+", r"(?<=[a-z])(?=[A-Z0-9])", r"\b", r"^.", r".$", r"^", r"$", r"\A\s+|\s+\z", r"\h+", r"[[:punct:]]", r"[[:alpha:]]+", r"[^[:alnum:]]", r"(?i)the|foo", r"a|b|", r"x*", r"(?>a+)b?", r"(.)\1+", r"(?<n>[a-z])\k<n>", r"\R", r"[\p{L}&&[^a-e]]+", r"\p{Lu}\p{Ll}*", r"\P{L}", r"\p{^L}+", r"(?m:.)+", r".+", r"\x{3042}|\u3044", r"[a\-z]", r"[\]\[]", r"\.{3}", r"\p{M}", r"[\u0300-\u036f]", "(?x) a b # comment\n", r"a{,2}", r"l{2}?", r"(?i)[a-f]+", r"\p{Alpha}+", r"[\w&&\P{Nd}]+", r"\S\s", r"[^\S\n]+", r"\p{P}", r"\p{Script=Latin}+" , r"\p{Latin}+", r"'(?i:[sdmt]|ll|ve|re)| ?\p{L}+", r"[ \t]+$", r"\Aa", r"o\Z", r"(?!the)\w+",
]
behaviors = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]


def pattern(r):
    if r.random() < 0.35:
        return {"String": r.choice([" ", "  ", "a", "▁", "ll", ".", "\n", "", "日", "the", "é", "Ġ"])}
    return {"Regex": r.choice(regexes)}


def charsmap():
    """A small table in the layout of Darts-clone, as SentencePiece writes it."""
    entries = sorted((k.encode(), v) for k, v in {"ﬁ": "fi", "Ａ": "A", "①": "1", "㍿": "株式会社", "\u3000": " ", "é": "e\u0301", "e\u0301": "é", "\x07": "", "ab": "X", "a\u0323": "ạ", "ｶ": "カ"}.items())
    normalized = b""
    keys = []
    for k, v in entries:
        keys.append((k, len(normalized)))
        normalized += v.encode() + b"\x00"
    units = [0] * 4096
    used = [False] * 4096
    used[0] = True

    def place(items, depth):
        labels = {}
        for k, v in items:
            label = k[depth] if depth < len(k) else 0
            labels.setdefault(label, []).append((k, v))
        base = 1
        while any(base ^ label >= 4096 or used[base ^ label] for label in labels) or used[base]:
            base += 1
        used[base] = True
        for label in labels:
            used[base ^ label] = True
        for label, group in labels.items():
            if label == 0:
                units[base] = group[0][1] | 0x80000000
                continue
            unit = base ^ label
            child, leaf = place(group, depth + 1)
            units[unit] = label | ((unit ^ child) << 10) | (0x100 if leaf else 0)
        return base, 0 in labels

    root, _ = place(keys, 0)
    units[0] = root << 10
    return base64.b64encode(struct.pack("<I", 4 * len(units)) + struct.pack(f"<{len(units)}I", *units) + normalized).decode()


precompiled = charsmap()


may_be_empty = ["", "^", "$", r"\b", "x*", "a|b|", "a{,2}", r"\A\s+|\s+\z"]


def replaced(r):
    while True:
        drawn = pattern(r)
        if not set(drawn.values()) & set(may_be_empty):
            return drawn


def normalizer(r, depth=0):
    kinds = ["BertNormalizer", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Strip", "StripAccents", "Replace", "Replace", "Prepend", "Precompiled", "Nmt", "ByteLevel", "Sequence", "Sequence"]
    kind = r.choice(kinds if depth < 2 else kinds[:-2])
    n = {"type": kind}
    if kind == "BertNormalizer":
        n |= {"clean_text": r.random() < 0.5, "handle_chinese_chars": r.random() < 0.5, "strip_accents": r.choice([None, True, False]), "lowercase": r.random() < 0.5}
    elif kind == "Strip":
        n |= {"strip_left": r.random() < 0.6, "strip_right": r.random() < 0.6}
    elif kind == "Replace":
        n |= {"pattern": replaced(r), "content": r.choice(["", " ", "▁", "xy", "é", "\n"])}
    elif kind == "Prepend":
        n |= {"prepend": r.choice(["▁", " ", "ab", "日"])}
    elif kind == "Precompiled":
        n |= {"precompiled_charsmap": precompiled}
    elif kind == "Sequence":
        n |= {"normalizers": [normalizer(r, depth + 1) for _ in range(r.randint(0, 3))]}
    return n


def metaspace(r):
    m = {"type": "Metaspace", "replacement": r.choice(["▁", "▁", "_", "𠮷"])}
    if r.random() < 0.2:
        m["add_prefix_space"] = True
    else:
        m["prepend_scheme"] = r.choice(["always", "first", "never"])
    if r.random() < 0.8:
        m["split"] = r.random() < 0.5
    return m


def byte_level(r):
    return {"type": "ByteLevel", "add_prefix_space": r.random() < 0.5, "trim_offsets": r.random() < 0.5, "use_regex": r.random() < 0.7}


def pre_tokenizer(r, depth=0):
    kinds = ["BertPreTokenizer", "ByteLevel", "ByteLevel", "Digits", "Metaspace", "Metaspace", "Punctuation", "Split", "Split", "Split", "Whitespace", "WhitespaceSplit", "CharDelimiterSplit", "UnicodeScripts", "FixedLength", "Sequence", "Sequence"]
    kind = r.choice(kinds if depth < 2 else kinds[:-2])
    p = {"type": kind}
    if kind == "ByteLevel":
        return byte_level(r)
    if kind == "Metaspace":
        return metaspace(r)
    if kind == "Digits":
        p["individual_digits"] = r.random() < 0.5
    elif kind == "Punctuation":
        p["behavior"] = r.choice(behaviors)
    elif kind == "Split":
        p |= {"pattern": pattern(r), "behavior": r.choice(behaviors), "invert": r.random() < 0.4}
    elif kind == "CharDelimiterSplit":
        p["delimiter"] = r.choice([" ", "a", "日", "-", "𠮷"])
    elif kind == "FixedLength":
        p["length"] = r.randint(1, 7)
    elif kind == "Sequence":
        p["pretokenizers"] = [pre_tokenizer(r, depth + 1) for _ in range(r.randint(0, 3))]
    return p


def byte_characters():
    printable = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    result, extra = {}, 0
    for b in range(256):
        if b in printable:
            result[b] = chr(b)
        else:
            result[b] = chr(256 + extra)
            extra += 1
    return result


byte_of = byte_characters()


def pieces(r, level):
    """Characters and substrings of the words that texts are made of."""
    source = [w for w in words] + ["".join(r.choice(alphabet) for _ in range(4)) for _ in range(20)]
    if level:
        source = ["".join(byte_of[b] for b in (r.choice(["", " "]) + w).encode()) for w in source]
    else:
        source = [r.choice(["", "▁", " "]) + w for w in source]
    return source


def model(r, level):
    kind = r.choice(["BPE", "BPE", "BPE", "WordPiece", "Unigram", "Unigram", "WordLevel"])
    source = pieces(r, level)
    singles = sorted({c for w in source for c in w} | ({byte_of[b] for b in range(256)} if level else set(alphabet)))
    if not level or r.random() < 0.3:
        singles = [c for c in singles if r.random() < r.choice([0.7, 0.95, 1])]
    unk = r.choice(["<unk>", "[UNK]", "<s>"])
    if kind == "BPE":
        prefix = r.choice([None, None, None, "", "##"])
        suffix = r.choice([None, None, None, "", "</w>"])
        fallback = r.random() < 0.3
        vocab = {}

        def add(token):
            if token not in vocab:
                vocab[token] = len(vocab)

        named = r.random() < 0.8
        if named:
            add(unk)
        if fallback:
            for b in range(256):
                if r.random() < 0.995:
                    add(f"<0x{b:02X}>")
        for c in singles:
            add(c)
            if prefix:
                add(prefix + c)
            if suffix:
                add(c + suffix)
                if prefix:
                    add(prefix + c + suffix)
        merges = []
        for w in source:
            symbols = [(prefix if prefix and i else "") + c for i, c in enumerate(w)]
            if suffix and symbols:
                symbols[-1] += suffix
            for _ in range(r.randint(0, 6)):
                if len(symbols) < 2:
                    break
                i = r.randrange(len(symbols) - 1)
                left, right = symbols[i], symbols[i + 1]
                if left not in vocab or right not in vocab:
                    break
                joined = left + right[len(prefix or ""):]
                add(joined)
                if (left, right) not in merges:
                    merges.append((left, right))
                symbols[i : i + 2] = [joined]
        if r.random() < 0.5:
            r.shuffle(merges)
        spaced = any(" " in a or " " in b or a.startswith("#version") for a, b in merges)
        m = {"type": "BPE", "dropout": r.choice([None, None, 0.0]), "unk_token": unk if named else None, "continuing_subword_prefix": prefix, "end_of_word_suffix": suffix, "fuse_unk": r.random() < 0.5, "byte_fallback": fallback, "ignore_merges": r.random() < 0.3, "vocab": vocab, "merges": [f"{a} {b}" for a, b in merges] if not spaced and r.random() < 0.3 else [list(p) for p in merges]}
        if r.random() < 0.1:
            del m["type"]
        return m
    if kind == "WordPiece":
        prefix = r.choice(["##", "##", "", "▁"])
        vocab = {}
        for t in [unk] + [c for c in singles] + [prefix + c for c in singles] + [w for w in source if r.random() < 0.7] + [prefix + w[1:] for w in source] + [w[:3] for w in source]:
            if t and t not in vocab:
                vocab[t] = len(vocab)
        m = {"type": "WordPiece", "unk_token": unk, "continuing_subword_prefix": prefix, "max_input_chars_per_word": r.choice([100, 5, 12]), "vocab": vocab}
        if r.random() < 0.1:
            del m["type"]
        return m
    if kind == "WordLevel":
        vocab = {}
        for t in [unk] + source + singles:
            if t not in vocab:
                vocab[t] = len(vocab)
        m = {"type": "WordLevel", "vocab": vocab, "unk_token": unk}
        if r.random() < 0.1:
            del m["type"]
        return m
    fallback = r.random() < 0.4
    entries = [[unk, 0.0]] + [[c, -round(r.uniform(4, 9), 3)] for c in singles]
    if fallback:
        entries += [[f"<0x{b:02X}>", 0.0] for b in range(256) if r.random() < 0.997]
    for w in source:
        for _ in range(3):
            a = r.randrange(len(w)) if w else 0
            b = r.randint(a, min(len(w), a + 8))
            if b > a:
                entries.append([w[a:b], -r.choice([round(r.uniform(1, 12), 3), float(r.randint(1, 9))])])
    if r.random() < 0.9:
        seen = set()
        entries = [e for e in entries if not (e[0] in seen or seen.add(e[0]))]
    m = {"type": "Unigram", "unk_id": 0 if r.random() < 0.9 else r.choice([None, 3]), "vocab": entries, "byte_fallback": fallback}
    if r.random() < 0.1:
        del m["type"]
    return m


def template(r, ids):
    token = lambda: r.choice(list(ids))
    special = lambda: {"SpecialToken": {"id": token(), "type_id": r.randint(0, 2)}}
    sequence = lambda s: {"Sequence": {"id": s, "type_id": r.randint(0, 2)}}
    around = lambda: [special() for _ in range(r.randint(0, 2))]
    return {"type": "TemplateProcessing", "single": around() + [sequence("A")] + around(), "pair": around() + [sequence("A")] + around() + [sequence("B")] + around(), "special_tokens": {t: {"id": t, "ids": [i], "tokens": [t]} for t, i in ids.items()}}


def post_processor(r, ids):
    kind = r.choice([None, None, "BertProcessing", "RobertaProcessing", "TemplateProcessing", "ByteLevel", "Sequence"])
    named = lambda: list(r.choice(list(ids.items())))
    if kind == "BertProcessing":
        return {"type": kind, "sep": named(), "cls": named()}
    if kind == "RobertaProcessing":
        return {"type": kind, "sep": named(), "cls": named(), "trim_offsets": r.random() < 0.5, "add_prefix_space": r.random() < 0.5}
    if kind == "TemplateProcessing":
        return template(r, ids)
    if kind == "ByteLevel":
        return byte_level(r)
    if kind == "Sequence":
        return {"type": kind, "processors": [byte_level(r), template(r, ids)]}
    return None


def decoder(r, depth=0):
    kinds = ["ByteLevel", "WordPiece", "BPEDecoder", "Metaspace", "CTC", "Replace", "Fuse", "Strip", "ByteFallback", "Sequence", "Sequence"]
    kind = r.choice(kinds if depth < 2 else kinds[:-2])
    d = {"type": kind}
    if kind == "ByteLevel":
        return byte_level(r)
    if kind == "Metaspace":
        return metaspace(r)
    if kind == "WordPiece":
        d |= {"prefix": r.choice(["##", "▁"]), "cleanup": r.random() < 0.5}
    elif kind == "BPEDecoder":
        d |= {"suffix": r.choice(["</w>", "e"])}
    elif kind == "CTC":
        d |= {"pad_token": r.choice(["<s>", "a"]), "word_delimiter_token": r.choice(["|", "▁"]), "cleanup": r.random() < 0.5}
    elif kind == "Replace":
        d |= {"pattern": pattern(r), "content": r.choice([" ", "", "x"])}
    elif kind == "Strip":
        d |= {"content": r.choice([" ", "a"]), "start": r.randint(0, 2), "stop": r.randint(0, 1)}
    elif kind == "Sequence":
        if r.random() < 0.4:
            d["decoders"] = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]
        else:
            d["decoders"] = [decoder(r, depth + 1) for _ in range(r.randint(0, 3))]
    return d


def added(r, vocabulary, size):
    contents = r.sample(["<s>", "</s>", "[CLS]", "[MASK]", "tok", "Tok", "light", "日本", "é", " x ", "<|x|>", "the", "👩", "ss", "constructor", "__proto__", "  ", "e\u0301"], r.randint(0, 7))
    result, following = [], size
    for content in contents:
        special = r.random() < 0.5
        if content in vocabulary:
            index = vocabulary[content]
        else:
            index, following = following, following + 1
        result.append({"id": index, "content": content, "single_word": r.random() < 0.3, "lstrip": r.random() < 0.3, "rstrip": r.random() < 0.3, "normalized": r.random() < (0.2 if special else 0.6), "special": special})
    return result


def has(part, kind):
    return json.dumps(part).find(f'"type": "{kind}"') >= 0


def tokenizer(r):
    n = normalizer(r) if r.random() < 0.6 else None
    p = pre_tokenizer(r) if r.random() < 0.85 else None
    level = has(n, "ByteLevel") or has(p, "ByteLevel")
    m = model(r, level and r.random() < 0.9)
    vocab = m["vocab"]
    ids = {e[0]: i for i, e in enumerate(vocab)} if isinstance(vocab, list) else vocab
    tokens = added(r, ids, len(vocab))
    known = {t: i for t, i in [*list(ids.items())[:3], *[(a["content"], a["id"]) for a in tokens]]}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": tokens, "normalizer": n, "pre_tokenizer": p, "post_processor": post_processor(r, known), "decoder": (decoder(r) if r.random() < 0.85 else None), "model": m}


def values(definition, texts):
    try:
        t = Tokenizer.from_str(json.dumps(definition))
    except BaseException as error:
        return {"refused": str(error)}
    if t.normalizer and any(a["normalized"] and not t.normalizer.normalize_str(a["content"]) for a in definition["added_tokens"]):
        return {"refused": "an added token is empty"}
    cases = []
    for a, b in texts:
        case = {"text": a}
        try:
            plain = t.encode(a, add_special_tokens=False)
            case["ids"] = plain.ids
        except BaseException as error:
            cases.append({"text": a, "fails": str(error)[:100]})
            continue
        try:
            e = t.encode(a, b) if b is not None else t.encode(a)
            case |= {"pair": b, "encoded": e.ids, "types": e.type_ids, "offsets": [list(o) for o in e.offsets]}
        except BaseException:
            pass
        for skip in (True, False):
            try:
                case["decoded" if skip else "spelled"] = t.decode(plain.ids, skip_special_tokens=skip)
            except BaseException:
                pass
        t.encode_special_tokens = True
        try:
            case["plain"] = t.encode(a, add_special_tokens=False).ids
        except BaseException:
            pass
        t.encode_special_tokens = False
        cases.append(case)
    return {"cases": cases}


def run(seed, count, texts):
    r = random.Random(seed)
    result = []
    for _ in range(count):
        definition = tokenizer(r)
        batch = [(text(r), text(r) if r.random() < 0.3 else None) for _ in range(texts)]
        result.append({"definition": definition, **values(definition, batch)})
    return result


def sample():
    """A few texts under each of many tokenizers, so that every component is there more than once."""
    chosen, length = [], 0
    for entry in run(7, 400, 5):
        if "cases" not in entry:
            continue
        definition, cases = entry["definition"], [c for c in entry["cases"] if "ids" in c and len(c["text"]) < 60][:3]
        size = len(json.dumps([definition, cases], ensure_ascii=False).encode())
        if cases and size < 7600 and length + size < 285_000:
            chosen.append({"definition": definition, "cases": cases})
            length += size
    return chosen


if __name__ == "__main__":
    if len(sys.argv) > 1:
        out, seed, count, texts = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
        pathlib.Path(out).write_text(json.dumps(run(seed, count, texts), ensure_ascii=False))
    else:
        out = pathlib.Path(__file__).parent / "values" / "tokenizer-differential.json"
        out.write_text(json.dumps(sample(), ensure_ascii=False, separators=(",", ":")) + "\n")
