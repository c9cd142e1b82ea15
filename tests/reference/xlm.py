"""A small random XLM of Hugging Face transformers under every head, with languages and reset positions; and the published sizes."""

import torch
from transformers import (
    XLMConfig, XLMForMultipleChoice, XLMForQuestionAnsweringSimple, XLMForSequenceClassification,
    XLMForTokenClassification, XLMWithLMHeadModel,
)

from common import VALUES, deterministic
from encoders import BATCH, SEQUENCE, VOCABULARY, inputs, masked_labels, parameters, record, write_config, write_sizes


def main() -> None:
    deterministic()
    torch.manual_seed(19)
    folder = VALUES / "xlm"
    config = XLMConfig(
        vocab_size=VOCABULARY, emb_dim=20, n_layers=2, n_heads=4, max_position_embeddings=24, n_langs=3,
        dropout=0.0, attention_dropout=0.0, num_labels=3,
    )
    write_config(folder, config)
    given = inputs(pad=2, segments=False)
    # The second half of each row is a translation: another language, positions from 0 again.
    half = (torch.arange(SEQUENCE) >= SEQUENCE // 2).long().expand(BATCH, SEQUENCE)
    pair = dict(given, langs=half + torch.tensor([[0], [1], [0]]), position_ids=torch.arange(SEQUENCE) - half * (SEQUENCE // 2))
    labels = masked_labels(given)
    silent = ("k_lin.bias", "lang_embeddings.weight")
    record(folder / "translation.safetensors", XLMWithLMHeadModel(config), silent, **pair, labels=labels)
    config.causal = True
    causal = XLMWithLMHeadModel(config)
    unpadded = inputs(segments=False, lengths=(SEQUENCE,) * BATCH)
    record(folder / "causal.safetensors", causal, silent, input_ids=unpadded["input_ids"], labels=masked_labels(unpadded))
    config.causal = False
    record(folder / "sequence.safetensors", XLMForSequenceClassification(config), silent, **given, labels=torch.tensor([2, 0, 1]))
    tokens = torch.where(given["attention_mask"] == 1, torch.randint(0, 3, given["input_ids"].shape), -100)
    record(folder / "token.safetensors", XLMForTokenClassification(config), silent, **given, labels=tokens)
    starts, ends = torch.tensor([2, 0, 4]), torch.tensor([5, 3, 7])
    config.num_labels = 2
    record(
        folder / "span.safetensors", XLMForQuestionAnsweringSimple(config), (*silent, "layer_norm2.1.bias", "qa_outputs.bias"),
        **unpadded, start_positions=starts, end_positions=ends,
    )
    choice = XLMForMultipleChoice(config)
    record(
        folder / "choice.safetensors", choice, (*silent, "layer_norm2.1.bias", "summary.bias", "logits_proj.bias"),
        **inputs(choices=2, segments=False, pad=2), labels=torch.randint(0, 2, (BATCH,)),
    )

    published = {
        "xlm-mlm-en-2048": XLMConfig(),
        "xlm-mlm-ende-1024": XLMConfig(vocab_size=64699, emb_dim=1024, n_layers=6, n_heads=8, n_langs=2),
        "xlm-mlm-tlm-xnli15-1024": XLMConfig(vocab_size=95000, emb_dim=1024, n_layers=12, n_heads=8, n_langs=15),
        "xlm-mlm-100-1280": XLMConfig(vocab_size=200000, emb_dim=1280, n_layers=16, n_heads=16, n_langs=100, use_lang_emb=False),
    }
    write_sizes(folder, {name: parameters(lambda: XLMWithLMHeadModel(sizes)) for name, sizes in published.items()})


main()
