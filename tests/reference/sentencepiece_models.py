"""Token ids and texts of the sentencepiece library: LLaMA's own model, and two small models trained here on botchan.txt.

The models are committed; LLaMA's stays where it is. Run: python sentencepiece_models.py (needs ../shared/data)."""

import io
import json
import random
from pathlib import Path

import sentencepiece

here = Path(__file__).parent
data = here.parents[2] / "shared" / "data"
values = here / "values" / "sentencepiece"
values.mkdir(parents=True, exist_ok=True)


def texts() -> list[str]:
    rng = random.Random(4)
    english = (data / "botchan.txt").read_text("utf8")
    japanese = (data / "wagahaiwa_nekodearu.txt").read_text("utf8")
    result = [
        "",
        " ",
        "    ",
        "Hello world",
        " leading and trailing ",
        "two  three   four    many                 spaces",
        "tab\tnewline\nboth\r\n\n\n\tend",
        "def f(x):\n    return {k: v**2 for k, v in x.items() if v != 0}  # comment\n",
        "<s> </s> <unk> <0x0A> ▁ <|im_end|>",
        "🙂👩‍👩‍👧‍👦🏳️‍🌈 é e\u0301 ﬁ ½ Ⅷ ｆｕｌｌ　ｗｉｄｔｈ ㌔",
        "吾輩は猫である。名前はまだ無い。",
        "\u0000\u0001\u0002\u0007\u001b[0m\u007f\u0085\u00a0\u200b\u2028\ufeff\ufffd",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaa ======================== ------- ……………",
        "naïve café Ωμέγα Привет 안녕하세요 مرحبا שלום ไทย",
        english[2000:3500],
        japanese[3000:3600],
        "".join(chr(rng.randrange(256)) for _ in range(600)),
        bytes(rng.randrange(256) for _ in range(400)).decode("utf8", "replace"),
    ]
    for _ in range(12):
        alphabet = rng.choice(["ab ", " \n\t", "=- a", "あいう ", "0123456789.,", "(){}[];\n ", "éèê e\u0301"])
        result.append("".join(rng.choice(alphabet) for _ in range(80)))
    for _ in range(12):
        result.append("".join(chr(c) for c in (rng.randrange(0x3000) for _ in range(40)) if not 0xD800 <= c < 0xE000))
    return result


def record(model: sentencepiece.SentencePieceProcessor) -> dict:
    rng = random.Random(7)
    encoded = [{"text": text, "ids": model.encode(text)} for text in texts()]
    for entry in encoded:
        entry["decoded"] = model.decode(entry["ids"])
    sequences = [[rng.randrange(model.vocab_size()) for _ in range(20)] for _ in range(10)]
    if model.piece_to_id("<0x00>") != model.unk_id():
        first = model.piece_to_id("<0x00>")
        sequences += [[first + rng.randrange(256) for _ in range(30)] for _ in range(10)]
    unknown = model.unk_id()
    sequences = [[id for id in sequence if id != unknown] for sequence in sequences]
    return {
        "vocabSize": model.vocab_size(),
        "encoded": encoded,
        "decoded": [{"ids": ids, "text": model.decode(ids)} for ids in sequences],
    }


def train(name: str, **options) -> dict:
    # From memory and into memory: a model file keeps the paths that it was made with.
    lines = (data / "botchan.txt").read_text("utf8").split("\n")
    writer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=writer, minloglevel=2, num_threads=1, **options
    )
    model = writer.getvalue()
    (values / f"{name}.model").write_bytes(model)
    return record(sentencepiece.SentencePieceProcessor(model_proto=model))


result = {
    "madeWith": {"sentencepiece": sentencepiece.__version__},
    "llama": record(sentencepiece.SentencePieceProcessor(str(data / "llama_tokenizer.model"))),
    # The defaults: NFKC with its table of characters, spaces removed.
    "unigram": train("unigram", vocab_size=500, model_type="unigram", user_defined_symbols=["<sep>", "foo"]),
    "unigramBytes": train(
        "unigramBytes", vocab_size=800, model_type="unigram", byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False,
    ),
    "bpe": train("bpe", vocab_size=500, model_type="bpe", character_coverage=0.99,
        normalization_rule_name="identity", user_defined_symbols=["<sep>"]),
}
for name, value in result.items():
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":")) + "\n"
    (values / f"{name}.json").write_text(text)
    print(name, len(text))
