"""A small random RoBERTa of Hugging Face transformers: outputs, loss and gradients; and the published sizes."""

import torch
from transformers import RobertaConfig, RobertaForMaskedLM, RobertaForMultipleChoice, RobertaForSequenceClassification

from common import VALUES, deterministic
from encoders import BATCH, TINY, inputs, masked_labels, parameters, record, write_config, write_sizes


def main() -> None:
    deterministic()
    torch.manual_seed(12)
    folder = VALUES / "roberta"
    # Padding has the id 3 here: positions are counted from 4.
    config = RobertaConfig(**TINY, type_vocab_size=1, pad_token_id=3, layer_norm_eps=1e-5, num_labels=3)
    write_config(folder, config)
    given = inputs(pad=3, segments=False)
    record(folder / "maskedLm.safetensors", RobertaForMaskedLM(config), **given, labels=masked_labels(given))
    record(folder / "sequence.safetensors", RobertaForSequenceClassification(config), **given, labels=torch.tensor([2, 0, 1]))
    choice = RobertaForMultipleChoice(config)
    chosen = torch.randint(0, 2, (BATCH,))
    record(folder / "choice.safetensors", choice, ("classifier.bias",), **inputs(pad=3, segments=False, choices=2), labels=chosen)

    base = dict(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1)
    large = dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
    write_sizes(folder, {
        "roberta-base": parameters(lambda: RobertaForMaskedLM(RobertaConfig(**base))),
        "roberta-large": parameters(lambda: RobertaForMaskedLM(RobertaConfig(**base, **large))),
    })


main()
