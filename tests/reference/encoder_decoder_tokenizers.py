"""
Small tokenizers in the files that T5, mT5, Marian, mBART, mBART-50 and BART are published in, trained here on texts of ../shared/data, and
the ids that transformers' own (SentencePiece's, where there are two) give for texts of many kinds.

    python encoder_decoder_tokenizers.py          # trains, and writes files and ids
    python encoder_decoder_tokenizers.py FOLDER   # compares a folder that lineage has written with the ids (AutoTokenizer)
"""

import gzip
import io
import json
import shutil
import sys
import tempfile
from pathlib import Path

import sentencepiece
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    AutoTokenizer, BartTokenizer, MarianTokenizer, MBart50Tokenizer, MBartTokenizer, T5Tokenizer,
)

from common import VALUES, made_with, write, write_json

DATA = Path(__file__).parents[3] / "shared" / "data"
OUT = VALUES / "encoder-decoder-tokenizers"
TEXTS = [
    "",
    " ",
    "A dog runs through the park.",
    "Zwei Männer kochen draußen, während Äpfel fallen – „großartig“!",
    "吾輩は猫である。名前はまだ無い。どこで生れたか頓と見当がつかぬ。",
    "def f(x):\n    return {k: v**2 for k, v in x.items() if v != 0}  # comment\n",
    "🙂👩‍👩‍👧‍👦🏳️‍🌈 é e\u0301 ﬁ ½ Ⅷ ｆｕｌｌ　ｗｉｄｔｈ ㌔",
    "\u0001\u0002\u0007\u001b[0m\u007f\u0085\u00a0\u200b\u2028\ufeff\ufffd",
    " leading and trailing ",
    "two  three   four    many                 spaces",
    "tab\tnewline\nboth\r\n\n\n\tend",
    "naïve café Ωμέγα Привет 안녕하세요 مرحبا שלום ไทย",
    "1,234.56 € + 7% = ???  ...  (a|b) [c] {d} <e> \\f/ \"g\" 'h'",
    "the end</s> and more <unk> of <pad> it",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
]
SENTINELS = ["hide <extra_id_0> and <extra_id_1>, then<extra_id_99>.", "<extra_id_0> <extra_id_1>"]
MASKED = ["a <mask> runs", "a<mask>", "<mask> <mask> x"]
CODES = [">>de<< a dog", ">>xx<< a dog", " >>de<< a dog", ">>de<<", "a >>de<< dog"]


def lines(*names: str) -> list[str]:
    texts = []
    for name in names:
        data = (DATA / name).read_bytes()
        texts += (gzip.decompress(data) if name.endswith(".gz") else data).decode("utf8").split("\n")[:4000]
    return texts


def spm(texts: list[str], **options) -> bytes:
    # From memory and into memory: a model file keeps the paths that it was made with.
    writer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=writer, minloglevel=2, num_threads=1, **options
    )
    return writer.getvalue()


def ids(tokenizer, texts: list[str], **options) -> list:
    return [{"text": text, "ids": tokenizer(text, **options)["input_ids"]} for text in texts]


def decoded(tokenizer, entries: list) -> list:
    return [
        {**entry, "decoded": tokenizer.decode(entry["ids"], skip_special_tokens=True, clean_up_tokenization_spaces=False)}
        for entry in entries
    ]


def record(name: str, tokenizer, texts: list[str], **more) -> None:
    write_json(
        OUT / name / "values.json",
        {
            "madeWith": {**made_with(), "sentencepiece": sentencepiece.__version__},
            "encoded": decoded(tokenizer, ids(tokenizer, texts)),
            "pairs": [{"texts": ["a dog", "runs"], "ids": tokenizer("a dog", "runs")["input_ids"]}],
            "special": {key: getattr(tokenizer, key) for key in ("eos_token_id", "pad_token_id", "unk_token_id", "bos_token_id")},
            **more,
        },
    )


def main() -> None:
    english, german = lines("botchan.txt", "multi30k/train.en.gz"), lines("multi30k/train.de.gz")
    japanese = lines("wagahaiwa_nekodearu.txt")
    mixed = english[:6000] + german + japanese[:300]

    t5 = spm(mixed, vocab_size=2200, character_coverage=0.995, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    write(OUT / "t5" / "spiece.model", t5)
    write_json(OUT / "t5" / "config.json", {"model_type": "t5"})
    record("t5", T5Tokenizer(str(OUT / "t5" / "spiece.model"), legacy=True), TEXTS + SENTINELS)

    plain = dict(normalization_rule_name="identity")
    mt5 = spm(
        mixed, vocab_size=2000, character_coverage=0.985, byte_fallback=True, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        user_defined_symbols=[f"<extra_id_{index}>" for index in reversed(range(100))], **plain,
    )
    write(OUT / "mt5" / "spiece.model", mt5)
    write_json(OUT / "mt5" / "config.json", {"model_type": "mt5"})
    write_json(OUT / "mt5" / "tokenizer_config.json", {"extra_ids": 0, "additional_special_tokens": None, "tokenizer_class": "T5Tokenizer"})
    record("mt5", T5Tokenizer(str(OUT / "mt5" / "spiece.model"), extra_ids=0, legacy=True), TEXTS)

    source = spm(german + japanese[:100], vocab_size=1800, character_coverage=0.99, **plain)
    target = spm(english, vocab_size=700, character_coverage=0.999, **plain)
    write(OUT / "marian" / "source.spm", source)
    write(OUT / "marian" / "target.spm", target)
    pieces = []
    for model in (source, target):
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        # Published vocabularies lack some pieces of their models.
        pieces += [processor.id_to_piece(i) for i in range(3, processor.vocab_size()) if i % 17]
    vocabulary = ["</s>", "<unk>", ">>de<<", ">>en<<", *dict.fromkeys(pieces), "<pad>"]
    write_json(OUT / "marian" / "vocab.json", {piece: index for index, piece in enumerate(vocabulary)})
    write_json(OUT / "marian" / "tokenizer_config.json", {"source_lang": "de", "target_lang": "en"})
    write_json(OUT / "marian" / "config.json", {"model_type": "marian"})
    marian = MarianTokenizer.from_pretrained(OUT / "marian")
    targets = [{"text": text, "ids": marian(text_target=text)["input_ids"]} for text in TEXTS]
    record("marian", marian, TEXTS + CODES, targets=targets)

    mbart = spm(mixed, vocab_size=2200, character_coverage=0.99, **plain)
    for name, make, model_type in (
        ("mbart", MBartTokenizer, "mbart"), ("mbart50", MBart50Tokenizer, "mbart"),
    ):
        write(OUT / name / "sentencepiece.bpe.model", mbart)
        write_json(OUT / name / "config.json", {"model_type": model_type})
        write_json(OUT / name / "tokenizer_config.json", {"tokenizer_class": make.__name__, "src_lang": "de_DE", "tgt_lang": "en_XX"})
        tokenizer = make(str(OUT / name / "sentencepiece.bpe.model"), src_lang="de_DE", tgt_lang="en_XX")
        targets = [{"text": text, "ids": tokenizer(text_target=text)["input_ids"]} for text in TEXTS]
        codes = {code: tokenizer.convert_tokens_to_ids(code) for code in ("ar_AR", "de_DE", "zh_CN", "<mask>")}
        record(name, tokenizer, TEXTS + MASKED, targets=targets, codes=codes, size=len(tokenizer))

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(mixed, vocab_size=1000, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"], show_progress=False)
    with tempfile.TemporaryDirectory() as folder:
        bpe.save_model(folder)
        (OUT / "bart").mkdir(exist_ok=True)
        for file in ("vocab.json", "merges.txt"):
            shutil.copy(Path(folder) / file, OUT / "bart" / file)
    write_json(OUT / "bart" / "config.json", {"model_type": "bart"})
    record("bart", BartTokenizer(str(OUT / "bart" / "vocab.json"), str(OUT / "bart" / "merges.txt")), TEXTS + MASKED)


def fast(kind: str) -> None:
    """What transformers makes of the same files: tokenizer.json, with ids that are not always SentencePiece's."""
    values = json.loads((OUT / kind / "values.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(OUT / kind)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            write_json(OUT / f"{kind}-fast" / file, json.loads((Path(folder) / file).read_text()))
    encoded = ids(tokenizer, [entry["text"] for entry in values["encoded"]])
    targets = [{"text": e["text"], "ids": tokenizer(text_target=e["text"])["input_ids"]} for e in values.get("targets", [])]
    write_json(OUT / f"{kind}-fast" / "values.json", {"madeWith": made_with(), "encoded": encoded, "targets": targets})


def compare(folder: Path) -> None:
    for place in sorted(folder.iterdir()):
        values = json.loads((OUT / place.name / "values.json").read_text())
        tokenizer = AutoTokenizer.from_pretrained(place)
        other = [e["text"] for e in values["encoded"] if tokenizer(e["text"])["input_ids"] != e["ids"]]
        targets = [e["text"] for e in values.get("targets", []) if tokenizer(text_target=e["text"])["input_ids"] != e["ids"]]
        print(place.name, type(tokenizer).__name__, "of", len(values["encoded"]), "other ids:", other, targets)


if len(sys.argv) > 1:
    compare(Path(sys.argv[1]))
else:
    main()
    for kind in ("mt5", "mbart", "mbart50"):
        fast(kind)
