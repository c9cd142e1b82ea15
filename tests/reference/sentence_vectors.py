"""
Vectors of sentence-transformers 5.1.2 from the folders that it keeps: every pooling, a linear layer, prompts, lower case and
the length that the tokenizer's files say. One tiny BERT lies under all of them.
"""

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer, models
from transformers import BertConfig, BertModel, BertTokenizerFast

from common import VALUES, deterministic, write_json

WORDS = [f"w{i}" for i in range(20)]
TEXTS = ["w1 w2 w3", "W4 w5", " ".join(WORDS[i % 20] for i in range(30)), "w7"]
MODES = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]


def main() -> None:
    deterministic()
    torch.manual_seed(41)
    out = VALUES / "sentence-vectors"
    out.mkdir(exist_ok=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (out / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    tokenizer = BertTokenizerFast(str(out / "vocab.txt"), do_lower_case=False, model_max_length=16)
    (out / "vocab.txt").unlink()
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64,
    )
    model = BertModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    for name in ("special_tokens_map.json", "vocab.txt"):
        (out / name).unlink(missing_ok=True)

    dense = models.Dense(16, 5, activation_function=torch.nn.Tanh())
    save_file({k: v.contiguous() for k, v in dense.state_dict().items()}, out / "dense.safetensors")
    dense.load_state_dict(load_file(out / "dense.safetensors"))
    vectors = {}

    def build(modes, *more, length=None, lower=False):
        with tempfile.TemporaryDirectory() as folder:
            for file in out.iterdir():
                shutil.copy(file, folder)
            base = models.Transformer(folder, max_seq_length=length, do_lower_case=lower)
        pooling = models.Pooling(16, pooling_mode="+".join(modes) if len(modes) == 1 else None, **({} if len(modes) == 1 else flags(modes)))
        return SentenceTransformer(modules=[base, pooling, *more], device="cpu")

    def flags(modes):
        names = {"cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens", "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
                 "weightedmean": "weightedmean_tokens", "lasttoken": "lasttoken"}
        return {f"pooling_mode_{name}": mode in modes for mode, name in names.items()}

    for mode in MODES:
        vectors[mode] = build([mode]).encode(TEXTS)
    vectors["several"] = build(["weightedmean", "cls"]).encode(TEXTS)
    vectors["dense"] = build(["mean"], dense).encode(TEXTS)
    vectors["denseNormalize"] = build(["mean"], dense, models.Normalize()).encode(TEXTS)
    vectors["normalizeDense"] = build(["mean"], models.Normalize(), dense).encode(TEXTS)
    vectors["lowercase"] = build(["mean"], lower=True).encode(TEXTS)
    vectors["length"] = build(["mean"], length=8).encode(TEXTS)
    prompted = build(["mean"])
    prompted.prompts = {"query": "w9 w9 ", "passage": "w8 "}
    vectors["query"] = prompted.encode_query(TEXTS)
    vectors["document"] = prompted.encode_document(TEXTS)
    rounded = {name: [[round(float(x), 6) for x in row] for row in np.asarray(value)] for name, value in vectors.items()}
    write_json(out / "vectors.json", {"texts": TEXTS, "vectors": rounded})


main()
