"""A small random DeBERTa of Hugging Face transformers, and its enhanced mask decoder: outputs, loss, gradients; the sizes."""

import math

import torch
from transformers import DebertaConfig, DebertaForMaskedLM, DebertaForSequenceClassification, DebertaModel
from transformers.models.deberta.modeling_deberta import DisentangledSelfAttention

from common import VALUES, deterministic
from encoders import TINY, inputs, masked_labels, parameters, record, write_config, write_sizes
from enhanced_decoder import Pretraining


class QueryAttention(DisentangledSelfAttention):
    """With queries from elsewhere; transformers' own branch for them takes two-dimensional states alone."""

    def forward(self, hidden_states, attention_mask, output_attentions=False, query_states=None, relative_pos=None, rel_embeddings=None):
        source = hidden_states if query_states is None else query_states
        query = self.transpose_for_scores(self.in_proj(source)).chunk(3, dim=-1)[0]
        _, key, value = self.transpose_for_scores(self.in_proj(hidden_states)).chunk(3, dim=-1)
        query = (query + self.transpose_for_scores(self.q_bias[None, None])) / math.sqrt(query.shape[-1] * 3)
        value = value + self.transpose_for_scores(self.v_bias[None, None])
        scores = query @ key.transpose(-1, -2)
        scores = scores + self.disentangled_att_bias(query, key, relative_pos, rel_embeddings, 3)
        scores = scores.masked_fill(~attention_mask.bool(), torch.finfo(scores.dtype).min)
        mixed = (scores.softmax(-1) @ value).permute(0, 2, 1, 3).flatten(2)
        return mixed, None


def main() -> None:
    deterministic()
    torch.manual_seed(16)
    folder = VALUES / "deberta"
    # Distances beyond 4 are alike, and rows are longer than that.
    shape = dict(relative_attention=True, pos_att_type=["c2p", "p2c"], max_relative_positions=4, position_biased_input=False)
    config = DebertaConfig(**TINY, **shape, type_vocab_size=0, num_labels=3)
    write_config(folder, config)
    given = inputs(segments=False)
    labels = masked_labels(given)
    record(folder / "maskedLm.safetensors", DebertaForMaskedLM(config), **given, labels=labels)
    record(folder / "sequence.safetensors", DebertaForSequenceClassification(config), **given, labels=torch.tensor([2, 0, 1]))
    model = DebertaModel(config)
    for layer in model.encoder.layer:
        layer.attention.self = QueryAttention(config)
    record(folder / "pretraining.safetensors", Pretraining(model, config), **given, labels=labels)

    published = dict(relative_attention=True, pos_att_type=["c2p", "p2c"], position_biased_input=False)
    large = dict(hidden_size=1024, num_attention_heads=16, intermediate_size=4096)
    write_sizes(folder, {
        "deberta-base": parameters(lambda: DebertaForMaskedLM(DebertaConfig(**published))),
        "deberta-large": parameters(lambda: DebertaForMaskedLM(DebertaConfig(**published, **large, num_hidden_layers=24))),
        "deberta-xlarge": parameters(lambda: DebertaForMaskedLM(DebertaConfig(**published, **large, num_hidden_layers=48))),
    })


main()
