"""Small random DeBERTas of the second and third version, of Hugging Face transformers: outputs, loss, gradients; the sizes."""

import torch
from transformers import (
    DebertaV2Config, DebertaV2ForMaskedLM, DebertaV2ForMultipleChoice, DebertaV2ForSequenceClassification, DebertaV2Model,
)
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position
from transformers.utils import ModelOutput

from common import VALUES, deterministic, made_with, write_json
from encoders import BATCH, TINY, inputs, masked_labels, parameters, record, write_config, write_sizes
from enhanced_decoder import Pretraining


class SharedEmbedding(torch.nn.Module):
    """Gradient-disentangled sharing: the generator's embeddings, detached, and a difference."""

    def __init__(self, generator):
        super().__init__()
        self.shared = [generator]
        self.weight = torch.nn.Parameter(torch.zeros_like(generator.weight))

    def forward(self, ids):
        return torch.nn.functional.embedding(ids, self.shared[0].weight.detach() + self.weight)


class ReplacedTokenHead(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.dense = torch.nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = torch.nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.classifier = torch.nn.Linear(config.hidden_size, 1)

    def forward(self, states):
        mixed = self.dense(self.LayerNorm(states[:, :1] + states))
        return self.classifier(torch.nn.functional.gelu(mixed)).squeeze(-1)


class ThirdVersion(torch.nn.Module):
    """Both networks on one input, each under its own loss."""

    def __init__(self, config, generator):
        super().__init__()
        self.generator = Pretraining(DebertaV2Model(generator), generator)
        self.discriminator = torch.nn.Module()
        self.discriminator.deberta = DebertaV2Model(config)
        shared = self.generator.deberta.embeddings.word_embeddings
        self.discriminator.deberta.embeddings.word_embeddings = SharedEmbedding(shared)
        self.discriminator.mask_predictions = ReplacedTokenHead(config)

    def forward(self, input_ids, attention_mask, labels, replaced_labels):
        generated = self.generator(input_ids, attention_mask, labels)
        states = self.discriminator.deberta(input_ids, attention_mask=attention_mask).last_hidden_state
        logits = self.discriminator.mask_predictions(states)
        real = attention_mask == 1
        found = torch.nn.functional.binary_cross_entropy_with_logits(logits[real], replaced_labels[real].float())
        return ModelOutput(loss=generated.loss + 50 * found, generator=generated.logits, replaced=logits)


def main() -> None:
    deterministic()
    torch.manual_seed(17)
    relative = dict(relative_attention=True, pos_att_type=["p2c", "c2p"], norm_rel_ebd="layer_norm")
    given = inputs()
    labels = masked_labels(given)

    # Everything that the second version can have: own projections, convolution, segments, absolute positions.
    folder = VALUES / "deberta-v2"
    config = DebertaV2Config(
        **TINY, **relative, position_buckets=4, max_relative_positions=12, share_att_key=False, position_biased_input=True,
        type_vocab_size=2, conv_kernel_size=3, conv_act="gelu", num_labels=3,
    )
    write_config(folder, config)
    silent = ("pos_key_proj.bias",)
    record(folder / "maskedLm.safetensors", DebertaV2ForMaskedLM(config), silent, **given, labels=labels)
    sequence = DebertaV2ForSequenceClassification(config)
    record(folder / "sequence.safetensors", sequence, silent, **given, labels=torch.tensor([2, 0, 1]))

    # The third version: shared projections, no convolution.
    folder = VALUES / "deberta-v3"
    lean = dict(position_buckets=4, max_relative_positions=12, share_att_key=True, position_biased_input=False, type_vocab_size=0)
    config = DebertaV2Config(**TINY, **relative, **lean)
    write_config(folder, config)
    given.pop("token_type_ids")
    chosen = torch.randint(0, 2, (BATCH,))
    choice = DebertaV2ForMultipleChoice(config)
    record(folder / "choice.safetensors", choice, ("classifier.bias",), **inputs(segments=False, choices=2), labels=chosen)
    # One generator layer would leave the decoder nothing below it but the embeddings.
    both = ThirdVersion(config, DebertaV2Config(**TINY, **relative, **lean))
    replaced = (torch.rand(given["input_ids"].shape) < 0.3).long()
    record(folder / "pretraining.safetensors", both, **given, labels=labels, replaced_labels=replaced)

    distances = torch.arange(-511, 512)
    buckets = {
        f"{size}/{limit}": make_log_bucket_position(distances, size, limit).long().tolist() for size, limit in ((256, 512), (32, 128))
    }
    write_json(VALUES / "deberta-v2" / "buckets.json", {"madeWith": made_with(), "buckets": buckets})

    published = relative | dict(position_buckets=256, share_att_key=True, position_biased_input=False)
    second = published | dict(conv_kernel_size=3, conv_act="gelu")
    shapes = {
        "deberta-v2-xlarge": second | dict(hidden_size=1536, num_hidden_layers=24, num_attention_heads=24),
        "deberta-v2-xxlarge": second | dict(hidden_size=1536, num_hidden_layers=48, num_attention_heads=24),
        "deberta-v3-xsmall": published | dict(hidden_size=384, num_hidden_layers=12, num_attention_heads=6),
        "deberta-v3-small": published | dict(hidden_size=768, num_hidden_layers=6, num_attention_heads=12),
        "deberta-v3-base": published | dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12),
        "deberta-v3-large": published | dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16),
    }
    write_sizes(VALUES / "deberta-v2", {
        name: parameters(lambda: DebertaV2ForMaskedLM(DebertaV2Config(**shape, intermediate_size=4 * shape["hidden_size"])))
        for name, shape in shapes.items()
    })


main()
