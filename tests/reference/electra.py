"""Small random ELECTRA networks of Hugging Face transformers: outputs, loss and gradients; and the published sizes."""

import torch
from transformers import (
    ElectraConfig, ElectraForMaskedLM, ElectraForMultipleChoice, ElectraForPreTraining, ElectraForSequenceClassification,
)

from common import VALUES, deterministic
from encoders import BATCH, TINY, inputs, masked_labels, parameters, record, write_config, write_sizes


def main() -> None:
    deterministic()
    torch.manual_seed(14)
    folder = VALUES / "electra"
    config = ElectraConfig(**TINY, embedding_size=12, num_labels=3)
    write_config(folder, config)
    given = inputs()
    replaced = (torch.rand(given["input_ids"].shape) < 0.3).long()
    record(folder / "discriminator.safetensors", ElectraForPreTraining(config), **given, labels=replaced)
    record(folder / "generator.safetensors", ElectraForMaskedLM(config), **given, labels=masked_labels(given))
    record(folder / "sequence.safetensors", ElectraForSequenceClassification(config), **given, labels=torch.tensor([2, 0, 1]))
    choice = ElectraForMultipleChoice(config)
    record(folder / "choice.safetensors", choice, ("classifier.bias",), **inputs(choices=2), labels=torch.randint(0, 2, (BATCH,)))

    sizes = {
        "small": (dict(), dict(hidden_size=64, num_attention_heads=1, intermediate_size=256)),
        "base": (
            dict(embedding_size=768, hidden_size=768, num_attention_heads=12, intermediate_size=3072),
            dict(embedding_size=768, hidden_size=256, num_attention_heads=4, intermediate_size=1024),
        ),
        "large": (
            dict(embedding_size=1024, hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096),
            dict(embedding_size=1024, hidden_size=256, num_hidden_layers=24, num_attention_heads=4, intermediate_size=1024),
        ),
    }
    write_sizes(folder, {
        f"electra-{name}-{part}": parameters(build)
        for name, (discriminator, generator) in sizes.items()
        for part, build in (
            ("discriminator", lambda: ElectraForPreTraining(ElectraConfig(**discriminator))),
            ("generator", lambda: ElectraForMaskedLM(ElectraConfig(**generator))),
        )
    })


main()
