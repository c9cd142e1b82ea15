"""DeBERTa's enhanced mask decoder, which transformers leaves out, around its layers; He et al. 2021, section 3.2."""

import torch
from transformers.modeling_outputs import MaskedLMOutput


class PredictionHead(torch.nn.Module):
    """The authors' head under their names: `lm_predictions.lm_head`."""

    def __init__(self, config):
        super().__init__()
        self.dense = torch.nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = torch.nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.bias = torch.nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, states, embedding):
        return self.LayerNorm(torch.nn.functional.gelu(self.dense(states))) @ embedding.T + self.bias


class Pretraining(torch.nn.Module):
    """Masked language modelling through the decoder: the last layer twice, its queries from states and absolute positions."""

    def __init__(self, model, config):
        super().__init__()
        self.deberta = model
        size = config.max_position_embeddings, config.hidden_size
        # The model does not add positions to its input, so it has no table; the decoder's stands in its place.
        self.deberta.embeddings.position_embeddings = torch.nn.Embedding(*size)
        self.lm_predictions = torch.nn.ModuleDict({"lm_head": PredictionHead(config)})

    def forward(self, input_ids, attention_mask, labels):
        states = self.deberta(input_ids, attention_mask=attention_mask, output_hidden_states=True).hidden_states
        encoder, below = self.deberta.encoder, states[-2]
        query = below + self.deberta.embeddings.position_embeddings.weight[: input_ids.shape[1]]
        given = dict(relative_pos=encoder.get_rel_pos(below), rel_embeddings=encoder.get_rel_embedding())
        mask = encoder.get_attention_mask(attention_mask)
        for _ in range(2):
            query = encoder.layer[-1](below, mask, query_states=query, **given)[0]
        logits = self.lm_predictions["lm_head"](query, self.deberta.embeddings.word_embeddings.weight)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return MaskedLMOutput(loss=loss, logits=logits)
