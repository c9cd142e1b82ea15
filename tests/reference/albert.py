"""A small random ALBERT of Hugging Face transformers: outputs, loss and gradients; and the published sizes."""

import torch
from transformers import AlbertConfig, AlbertForMultipleChoice, AlbertForPreTraining, AlbertForTokenClassification

from common import VALUES, deterministic
from encoders import BATCH, TINY, inputs, masked_labels, parameters, record, write_config, write_sizes


def main() -> None:
    deterministic()
    torch.manual_seed(13)
    folder = VALUES / "albert"
    # Five applications of two groups with two layers each: every way of sharing at once.
    shape = TINY | dict(num_hidden_layers=5, num_hidden_groups=2, inner_group_num=2)
    config = AlbertConfig(**shape, embedding_size=12)
    write_config(folder, config)
    given = inputs()
    order = torch.tensor([0, 1, 1])
    pretraining = AlbertForPreTraining(config)
    record(folder / "pretraining.safetensors", pretraining, **given, labels=masked_labels(given), sentence_order_label=order)
    config.num_labels = 3
    tokens = torch.where(given["attention_mask"] == 1, torch.randint(0, 3, given["input_ids"].shape), -100)
    record(folder / "token.safetensors", AlbertForTokenClassification(config), **given, labels=tokens)
    choice = AlbertForMultipleChoice(config)
    record(folder / "choice.safetensors", choice, ("classifier.bias",), **inputs(choices=2), labels=torch.randint(0, 2, (BATCH,)))

    sizes = {"base": (768, 12, 12), "large": (1024, 24, 16), "xlarge": (2048, 24, 16), "xxlarge": (4096, 12, 64)}
    write_sizes(folder, {
        f"albert-{name}-v2": parameters(lambda: AlbertForPreTraining(AlbertConfig(
            hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=4 * hidden,
        )))
        for name, (hidden, layers, heads) in sizes.items()
    })


main()
