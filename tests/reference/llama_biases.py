"""A LLaMA with biases in attention and in the feed-forward layer: its last logits after 24 ids."""

import json

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from common import VALUES

torch.manual_seed(11)
config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                     num_key_value_heads=2, max_position_embeddings=64, attention_bias=True, mlp_bias=True)
model = LlamaForCausalLM(config).eval()
with torch.no_grad():
    for parameter in model.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.2)
    ids = [(7 * i * i + 3 * i) % 64 for i in range(24)]
    logits = model(torch.tensor([ids])).logits[0, -1]
folder = VALUES / "cases" / "llama-biases"
model.save_pretrained(folder)
(folder / "generation_config.json").unlink(missing_ok=True)
(folder / "expected.json").write_text(json.dumps({"ids": ids, "last_logits": logits.tolist()}) + "\n")
