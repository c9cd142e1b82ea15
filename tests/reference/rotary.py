"""
Rotary scalings of Hugging Face transformers in generation: the logits after prompts within and beyond the original context, and
the ids that are generated, each from a model that has read nothing before. The weights are those of llama-rope.
"""

import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from common import VALUES, deterministic, made_with, write_json

SHAPE = dict(
    vocab_size=97, max_position_embeddings=16, hidden_size=64, intermediate_size=48, num_hidden_layers=1,
    num_attention_heads=4, num_key_value_heads=2, bos_token_id=1, eos_token_id=2, pad_token_id=None,
)
LONG = {
    "short_factor": [1.0, 1.05, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6],
    "long_factor": [1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0],
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
# By name: what stands beside the scaling, and the scaling.
CASES = {
    "linear": ({}, {"rope_type": "linear", "factor": 4.0}),
    "linear, by its old name": ({}, {"type": "linear", "factor": 4.0}),
    "dynamic": ({}, {"rope_type": "dynamic", "factor": 4.0}),
    "llama3": (
        {"max_position_embeddings": 64},
        {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    ),
    "yarn": ({}, YARN),
    "yarn of a context that is scaled already": ({"max_position_embeddings": 64}, YARN),
    "yarn with mscale": ({}, {**YARN, "mscale": 0.8, "mscale_all_dim": 0.4}),
    "yarn with mscale alone": ({}, {**YARN, "mscale": 0.8}),
    "yarn with a factor of attention": ({}, {**YARN, "attention_factor": 1.3}),
    "yarn with bounds": ({}, {**YARN, "beta_fast": 4.0, "beta_slow": 0.5}),
    "yarn with bounds that are no channels": ({}, {**YARN, "beta_fast": 4.0, "beta_slow": 0.5, "truncate": False}),
    "longrope": (
        {"max_position_embeddings": 64, "original_max_position_embeddings": 16}, {"rope_type": "longrope", **LONG},
    ),
    "longrope with a factor of attention": (
        {"max_position_embeddings": 64, "original_max_position_embeddings": 16},
        {"rope_type": "longrope", **LONG, "attention_factor": 1.25},
    ),
    "longrope with a factor": ({"max_position_embeddings": 64}, {"rope_type": "longrope", **LONG, "factor": 4.0}),
}
# Within the original context of 16 tokens and across its end; at its end; beyond it.
PROMPTS = (9, 16, 24)
NEW = 16


def main() -> None:
    deterministic()
    weights = load_file(VALUES / "llama-rope" / "model.safetensors")
    torch.manual_seed(21)
    ids = torch.randint(0, 97, (1, max(PROMPTS)))
    cases = {}
    for name, (beside, scaling) in CASES.items():
        entries = {**SHAPE, **beside, "rope_theta": 10000.0, "rope_scaling": scaling}
        runs = []
        for length in PROMPTS:
            prompt = ids[:, :length]
            # Another model each time: dynamic scaling remembers the longest text that it has seen.
            model = LlamaForCausalLM(LlamaConfig(**{**entries, "rope_scaling": dict(scaling)})).eval()
            model.load_state_dict(weights)
            with torch.no_grad():
                logits = model(prompt).logits[0, -1]
            model = LlamaForCausalLM(LlamaConfig(**{**entries, "rope_scaling": dict(scaling)})).eval()
            model.load_state_dict(weights)
            greedy = model.generate(
                prompt, do_sample=False, max_new_tokens=NEW, eos_token_id=None, pad_token_id=0,
                attention_mask=torch.ones_like(prompt),
            )
            runs.append({"length": length, "logits": logits.tolist(), "greedy": greedy[0, length:].tolist()})
        cases[name] = {"config": {"model_type": "llama", **entries}, "runs": runs}
    write_json(VALUES / "rotary-scalings.json", {"madeWith": made_with(), "ids": ids[0].tolist(), "cases": cases})


main()
