"""
UniLM by the equations of its paper (Dong et al. 2019, section 2.2) over the weights of a small random BERT: logits, loss and
every gradient under each of the four masks. The equations are held against transformers' BERT under the same masks here.
"""

import math

import torch
from transformers import BertConfig, BertForPreTraining

from common import VALUES, deterministic, write_safetensors
from encoders import TINY, VOCABULARY, parameters, perturb, write_config, write_sizes

BATCH, SOURCE, TARGET = 2, 5, 4
LENGTH = SOURCE + TARGET
SEGMENTS = {"bidirectional": (0, 1), "left-to-right": (2, 2), "right-to-left": (3, 3), "sequence-to-sequence": (4, 5)}


def mask(mode: str) -> torch.Tensor:
    """M of equation 3, as True where it is 0 (allowed) and False where it is minus infinity."""
    rows, columns = torch.arange(LENGTH)[:, None], torch.arange(LENGTH)[None]
    return {
        "bidirectional": torch.ones(LENGTH, LENGTH, dtype=torch.bool),
        "left-to-right": columns <= rows,
        "right-to-left": columns >= rows,
        "sequence-to-sequence": torch.where(rows < SOURCE, columns < SOURCE, columns <= rows),
    }[mode]


def heads(x: torch.Tensor, config: BertConfig) -> torch.Tensor:
    return x.view(*x.shape[:2], config.num_attention_heads, -1).transpose(1, 2)


def forward(model: BertForPreTraining, ids: torch.Tensor, segments: torch.Tensor, allowed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """H^l = Transformer_l(H^(l-1)) with A_l = softmax(Q K^T / sqrt(d_k) + M) V, equations 1 to 3."""
    config, bert = model.config, model.bert
    e = bert.embeddings
    h = e.LayerNorm(e.word_embeddings(ids) + e.token_type_embeddings(segments) + e.position_embeddings.weight[: ids.shape[1]])
    m = torch.where(allowed, 0.0, -math.inf)
    for layer in bert.encoder.layer:
        attention = layer.attention.self
        q, k, v = (heads(linear(h), config) for linear in (attention.query, attention.key, attention.value))
        a = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + m, dim=-1) @ v
        a = layer.attention.output.dense(a.transpose(1, 2).flatten(2))
        h = layer.attention.output.LayerNorm(a + h)
        f = layer.output.dense(torch.nn.functional.gelu(layer.intermediate.dense(h)))
        h = layer.output.LayerNorm(f + h)
    return model.cls.predictions(h), model.cls.seq_relationship(bert.pooler(h))


def main() -> None:
    deterministic()
    torch.manual_seed(23)
    folder = VALUES / "unilm"
    config = BertConfig(**TINY, type_vocab_size=6)
    write_config(folder, config)
    model = BertForPreTraining(config).eval()
    perturb(model)
    tensors = {f"weights/{name}": parameter for name, parameter in model.named_parameters()}
    for mode, (first, second) in SEGMENTS.items():
        ids = torch.randint(5, VOCABULARY, (BATCH, LENGTH))
        segments = torch.tensor([first] * SOURCE + [second] * TARGET).expand(BATCH, LENGTH)
        labels = torch.where(torch.rand(BATCH, LENGTH) < 0.4, torch.randint(5, VOCABULARY, (BATCH, LENGTH)), -100)
        follows = torch.tensor([0, 1])
        allowed = mask(mode)
        model.zero_grad()
        logits, relation = forward(model, ids, segments, allowed)
        loss = torch.nn.functional.cross_entropy(logits.view(-1, VOCABULARY), labels.view(-1))
        if mode == "bidirectional":
            loss = loss + torch.nn.functional.cross_entropy(relation, follows)
        loss.backward()
        peer = model(ids, token_type_ids=segments, attention_mask=allowed.expand(BATCH, LENGTH, LENGTH)).prediction_logits
        torch.testing.assert_close(logits, peer, rtol=1e-4, atol=1e-5)
        given = {"input_ids": ids, "token_type_ids": segments.contiguous(), "labels": labels, "next_sentence_label": follows}
        tensors |= {f"inputs/{mode}/{name}": value for name, value in given.items()}
        tensors |= {f"inputs/{mode}/attention_mask": allowed.expand(BATCH, LENGTH, LENGTH).long().contiguous()}
        tensors |= {f"outputs/{mode}/logits": logits, f"outputs/{mode}/loss": loss}
        for name, parameter in model.named_parameters():
            if parameter.grad is not None and parameter.grad.abs().max() >= 1e-6:
                tensors[f"gradients/{mode}/{name}"] = parameter.grad.clone()
            elif not name.endswith("key.bias") and mode == "bidirectional":
                raise ValueError(f"{name} has no gradient")
    write_safetensors(folder / "modes.safetensors", tensors)

    cased = dict(vocab_size=28996, type_vocab_size=6)
    large = dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
    write_sizes(folder, {
        "unilm1-base-cased": parameters(lambda: BertForPreTraining(BertConfig(**cased))),
        "unilm1-large-cased": parameters(lambda: BertForPreTraining(BertConfig(**cased, **large))),
    })


main()
