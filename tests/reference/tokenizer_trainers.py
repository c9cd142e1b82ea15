"""Tokens of botchan.txt under vocabularies that the Python trainers learn from it: values/tokenizer-trainers.json."""

import io
import json
import pathlib
import sys

import sentencepiece
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

size = 4000
text = pathlib.Path(sys.argv[1]).read_text(encoding="utf-8-sig")
lines = text.split("\n")


def count(tokenizer):
    return sum(len(e.ids) for e in tokenizer.encode_batch(lines, add_special_tokens=False))


def trained(model, normalizer, pre_tokenizer, trainer):
    tokenizer = Tokenizer(model)
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.train_from_iterator(lines, trainer)
    return count(tokenizer)


special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
lower = [line.lower() for line in lines]
model = io.BytesIO()
sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lower), model_writer=model, vocab_size=size, minloglevel=2)
pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).encode(lower)
values = {
    "vocabSize": size,
    "wordPiece": trained(
        models.WordPiece(unk_token="[UNK]"),
        normalizers.BertNormalizer(),
        pre_tokenizers.BertPreTokenizer(),
        trainers.WordPieceTrainer(vocab_size=size, special_tokens=special),
    ),
    "byteLevelBpe": trained(
        models.BPE(),
        None,
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        trainers.BpeTrainer(
            vocab_size=size,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=["<|endoftext|>"],
        ),
    ),
    "unigram": trained(
        models.Unigram(),
        normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()]),
        pre_tokenizers.Metaspace(),
        trainers.UnigramTrainer(vocab_size=size, special_tokens=["<pad>", "<unk>"], unk_token="<unk>"),
    ),
    "sentencePiece": sum(len(ids) for ids in pieces),
}
out = pathlib.Path(__file__).parent / "values" / "tokenizer-trainers.json"
out.write_text(json.dumps(values, indent=2) + "\n")
