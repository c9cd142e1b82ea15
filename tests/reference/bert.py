"""A small random BERT of Hugging Face transformers under every head: outputs, loss and gradients; and the published sizes."""

import torch
from transformers import (
    BertConfig, BertForMaskedLM, BertForMultipleChoice, BertForPreTraining, BertForQuestionAnswering,
    BertForSequenceClassification, BertForTokenClassification,
)

from common import VALUES, deterministic
from encoders import BATCH, SEQUENCE, TINY, inputs, masked_labels, parameters, record, write_config, write_sizes


def main() -> None:
    deterministic()
    torch.manual_seed(11)
    folder = VALUES / "bert"
    config = BertConfig(**TINY, num_labels=3)
    write_config(folder, config)
    given = inputs()
    labels = masked_labels(given)
    follows = torch.tensor([0, 1, 1])
    record(folder / "pretraining.safetensors", BertForPreTraining(config), **given, labels=labels, next_sentence_label=follows)
    record(folder / "maskedLm.safetensors", BertForMaskedLM(config), **given, labels=labels)
    record(folder / "sequence.safetensors", BertForSequenceClassification(config), **given, labels=torch.tensor([2, 0, 1]))
    tokens = torch.where(given["attention_mask"] == 1, torch.randint(0, 3, given["input_ids"].shape), -100)
    record(folder / "token.safetensors", BertForTokenClassification(config), **given, labels=tokens)
    # Padding would be no evidence here: transformers keeps the padding token's embedding from learning, whose span logits count.
    unpadded = inputs(lengths=(SEQUENCE,) * BATCH)
    starts, ends = torch.tensor([2, 0, 4]), torch.tensor([5, 3, 7])
    config.num_labels = 2
    record(
        folder / "span.safetensors", BertForQuestionAnswering(config), ("layer.1.output.LayerNorm.bias", "qa_outputs.bias"),
        **unpadded, start_positions=starts, end_positions=ends,
    )
    choice = BertForMultipleChoice(config)
    record(folder / "choice.safetensors", choice, ("classifier.bias",), **inputs(choices=2), labels=torch.randint(0, 2, (BATCH,)))

    large = dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
    write_sizes(folder, {
        "bert-base-uncased": parameters(lambda: BertForPreTraining(BertConfig())),
        "bert-large-uncased": parameters(lambda: BertForPreTraining(BertConfig(**large))),
    })


main()
