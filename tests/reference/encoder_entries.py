"""
Entries of a config.json that change an encoder's network: matrices of words that are not the embeddings, positions that are
sinusoids, and attention that looks back alone. A small random network of Hugging Face transformers for each.
"""

import json

import torch
from transformers import (
    AlbertConfig, AlbertForMaskedLM, BertConfig, BertForMaskedLM, DebertaConfig, DebertaForMaskedLM, DebertaV2Config,
    DebertaV2ForMaskedLM, ElectraConfig, ElectraForMaskedLM, RobertaConfig, RobertaForMaskedLM, XLMConfig,
    XLMForSequenceClassification, XLMWithLMHeadModel, XLNetConfig, XLNetForTokenClassification, XLNetLMHeadModel,
)

from common import VALUES, deterministic, made_with, write_json
from encoders import BATCH, SEQUENCE, TINY, VOCABULARY, inputs, masked_labels, record

XLM = dict(
    vocab_size=VOCABULARY, emb_dim=20, n_layers=2, n_heads=4, max_position_embeddings=24, n_langs=1,
    dropout=0.0, attention_dropout=0.0,
)
XLNET = dict(vocab_size=VOCABULARY, d_model=20, n_layer=2, n_head=4, d_inner=36, dropout=0.0)


def main() -> None:
    deterministic()
    torch.manual_seed(31)
    given = inputs()
    record(VALUES / "bert" / "untied.safetensors", BertForMaskedLM(BertConfig(**TINY, tie_word_embeddings=False)), **given, labels=masked_labels(given))

    sinusoidal = XLMForSequenceClassification(XLMConfig(**XLM, num_labels=3, sinusoidal_embeddings=True))
    given = inputs(pad=2, segments=False)
    first = sinusoidal.transformer.position_embeddings.weight.detach().clone()
    record(VALUES / "xlm" / "sinusoidal.safetensors", sinusoidal, ("k_lin.bias", "position_embeddings.weight"), **given, labels=torch.tensor([2, 0, 1]))

    uni = XLNetForTokenClassification(XLNetConfig(**XLNET, num_labels=3, attn_type="uni", use_mems_eval=False))
    # With padding transformers fails: it adds masks that do not broadcast.
    given = inputs(lengths=(SEQUENCE,) * BATCH)
    del given["attention_mask"]
    labels = torch.randint(0, 3, (BATCH, SEQUENCE))
    record(VALUES / "xlnet" / "uni.safetensors", uni, ("mask_emb",), **given, labels=labels)

    untied = {
        "albert": AlbertForMaskedLM(AlbertConfig(**TINY, embedding_size=12, tie_word_embeddings=False)),
        "bert": BertForMaskedLM(BertConfig(**TINY, tie_word_embeddings=False)),
        "deberta": DebertaForMaskedLM(DebertaConfig(**TINY, tie_word_embeddings=False)),
        "deberta-v2": DebertaV2ForMaskedLM(DebertaV2Config(**TINY, tie_word_embeddings=False)),
        "electra": ElectraForMaskedLM(ElectraConfig(**TINY, embedding_size=12, tie_word_embeddings=False)),
        "roberta": RobertaForMaskedLM(RobertaConfig(**TINY, pad_token_id=1, tie_word_embeddings=False)),
        "xlm": XLMWithLMHeadModel(XLMConfig(**XLM, tie_word_embeddings=False)),
        "xlnet": XLNetLMHeadModel(XLNetConfig(**XLNET, tie_word_embeddings=False)),
    }
    write_json(VALUES / "encoder-entries.json", {
        "madeWith": made_with(),
        "sinusoids": [round(value, 6) for value in first.flatten().tolist()],
        "untied": {
            name: {"config": json.loads(model.config.to_json_string()), "parameters": {key: list(p.shape) for key, p in model.named_parameters()}}
            for name, model in untied.items()
        },
    })


main()
