"""Ids, types, special-token masks and character offsets of single texts, pairs, cuts and windows by the tokenizers library,
under small tokenizers of three kinds: values/encodings.json. Its argument is the folder of shared data to train on."""

import json
import pathlib
import sys

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

data = pathlib.Path(sys.argv[1])
lines = (data / "botchan.txt").read_text(encoding="utf-8-sig").split("\n")[:1500]
lines += (data / "wagahaiwa_nekodearu.txt").read_text(encoding="utf-8-sig").split("\n")[:30]


def wordpiece():
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer()
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.decoder = decoders.WordPiece()
    t.train_from_iterator(lines, trainers.WordPieceTrainer(vocab_size=900, special_tokens=special))
    t.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return t


def roberta():
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    t.train_from_iterator(
        lines, trainers.BpeTrainer(vocab_size=700, special_tokens=special, initial_alphabet=alphabet)
    )
    t.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), True, False)
    return t


def unigram():
    special = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
    t = Tokenizer(models.Unigram())
    t.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(" {2,}", " ")]
    )
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    t.decoder = decoders.Metaspace()
    t.train_from_iterator(lines, trainers.UnigramTrainer(vocab_size=1600, special_tokens=special, unk_token="<unk>"))
    t.post_processor = processors.TemplateProcessing(
        single="$A:0 [SEP]:0 [CLS]:2",
        pair="$A:0 [SEP]:0 $B:1 [SEP]:1 [CLS]:2",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return t


texts = [
    "Hello world, it's a quiet evening.",
    "  two  spaces\tand\na line ",
    "naïve café — Ångström Straße",
    "decomposed: cafe\u0301 and n\u0303o",
    "日本語 means Japanese, 吾輩は猫である。",
    "an emoji 🙂 then 👩‍👩‍👧 and 👍🏽!",
    "full width ＡＢＣ and ﬁne ligature ½",
    "",
    "x",
    "a zero\u200bwidth and a \x07 bell",
    "unknown 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ☃☃☃ ☃",
]
question, context = "Who is the cat?", " ".join(lines[40:52])


def encoding(e):
    return {
        "ids": e.ids,
        "typeIds": e.type_ids,
        "specialMask": e.special_tokens_mask,
        "offsets": [list(o) for o in e.offsets],
    }


values = {"texts": texts, "question": question, "context": context, "tokenizers": {}}
for name, make in (("wordpiece", wordpiece), ("roberta", roberta), ("unigram", unigram)):
    t = make()
    entry = {"definition": json.loads(t.to_str()), "single": [encoding(t.encode(text)) for text in texts]}
    entry["pair"] = [encoding(t.encode(a, b)) for a, b in zip(texts, texts[2:])]
    cuts = []
    for a, b, limit in ((context, None, 20), (context, question, 30), (question, context, 31), (context, context, 33)):
        t.enable_truncation(limit)
        cuts.append({"text": a, "pair": b, "maxLength": limit, **encoding(t.encode(a, b) if b else t.encode(a))})
    entry["cuts"] = cuts
    t.enable_truncation(48, stride=12, strategy="only_second")
    e = t.encode(question, context)
    entry["windows"] = [encoding(w) for w in [e, *e.overflowing]]
    values["tokenizers"][name] = entry
out = pathlib.Path(__file__).parent / "values" / "encodings.json"
out.write_text(json.dumps(values, ensure_ascii=False, separators=(",", ":")) + "\n")
