"""
Small random LLaMAs and a Mistral of Hugging Face transformers: logits, loss, the gradient of every parameter and greedy
ids; and the logits of every rotary scaling.
"""

import torch
from transformers import (
    LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM,
)

from common import VALUES, deterministic, made_with, write, write_json, write_safetensors

SHAPE = dict(
    vocab_size=97, max_position_embeddings=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
    num_attention_heads=4, bos_token_id=1, eos_token_id=2, pad_token_id=None,
)
MODELS = {
    # LLaMA: multi-head attention, head of its own.
    "llama-tiny": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, num_key_value_heads=4)),
    # LLaMA-2 70B's grouped queries; tied embeddings, as in the smallest LLaMA-3 and SmolLM2.
    "llama-grouped-tiny": lambda: LlamaForCausalLM(
        LlamaConfig(**SHAPE, num_key_value_heads=2, rms_norm_eps=1e-5, rope_theta=500000.0, tie_word_embeddings=True)
    ),
    # A window of 5, smaller than the 16 tokens of the sequence and far smaller than the 48 generated.
    "mistral-tiny": lambda: MistralForCausalLM(MistralConfig(**SHAPE, num_key_value_heads=2, sliding_window=5)),
    # Biases on queries, keys and values.
    "qwen2-tiny": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE, num_key_value_heads=2, tie_word_embeddings=True)),
    # The first layer sees all, the second a window of 5.
    "qwen2-window-tiny": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SHAPE, num_key_value_heads=2, use_sliding_window=True, sliding_window=5, max_window_layers=1)
    ),
}
# The pretrained context is 16 tokens and the sequence has 40, so that every scaling has something to do.
SCALINGS = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "llama3": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
}


def randomise(model: torch.nn.Module) -> torch.nn.Module:
    """Weights large enough that attention is far from uniform."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.eval()


def stored(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.named_parameters()}


def main() -> None:
    deterministic()
    for seed, (name, make) in enumerate(MODELS.items()):
        torch.manual_seed(seed)
        folder = VALUES / name
        model = randomise(make())
        write(folder / "config.json", model.config.to_json_string().encode())
        write_safetensors(folder / "model.safetensors", stored(model))
        ids = torch.randint(0, 97, (2, 17))
        inputs, labels = ids[:, :-1], ids[:, 1:].clone()
        labels[0, 3:6] = -100
        logits = model(inputs).logits
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, 97), labels.reshape(-1))
        loss.backward()
        write_safetensors(folder / "logits.safetensors", {"logits": logits})
        write_safetensors(folder / "gradients.safetensors", {key: p.grad for key, p in model.named_parameters()})
        prompt = ids[:1, :9]
        greedy = model.generate(
            prompt, do_sample=False, max_new_tokens=48, eos_token_id=None, pad_token_id=0,
            attention_mask=torch.ones_like(prompt),
        )
        write_json(
            folder / "values.json",
            {
                "madeWith": made_with(),
                "inputIds": inputs.tolist(),
                "labels": labels.tolist(),
                "loss": loss.item(),
                "prompt": prompt[0].tolist(),
                "greedy": greedy[0, 9:].tolist(),
            },
        )

    torch.manual_seed(9)
    shape = {**SHAPE, "max_position_embeddings": 16, "num_hidden_layers": 1, "hidden_size": 64}
    weights = stored(randomise(LlamaForCausalLM(LlamaConfig(**shape, num_key_value_heads=2))))
    ids = torch.randint(0, 97, (1, 40))
    folder = VALUES / "llama-rope"
    write_safetensors(folder / "model.safetensors", weights)
    configs, logits = {}, {}
    for kind, scaling in SCALINGS.items():
        config = LlamaConfig(**shape, num_key_value_heads=2, rope_scaling=scaling)
        model = LlamaForCausalLM(config).eval()
        model.load_state_dict(weights)
        with torch.no_grad():
            logits[kind] = model(ids).logits
        configs[kind] = {
            key: value for key, value in config.to_dict().items()
            if key in SHAPE or key in ("model_type", "num_key_value_heads", "rope_scaling", "rope_theta")
        }
    write_safetensors(folder / "logits.safetensors", logits)
    write_json(folder / "values.json", {"madeWith": made_with(), "inputIds": ids.tolist(), "configs": configs})

    # Parameter counts of the published sizes, from transformers' own modules without memory.
    sizes = {
        "llama-7b": LlamaConfig(),
        "llama-13b": LlamaConfig(hidden_size=5120, intermediate_size=13824, num_hidden_layers=40, num_attention_heads=40),
        "llama-30b": LlamaConfig(hidden_size=6656, intermediate_size=17920, num_hidden_layers=60, num_attention_heads=52),
        "llama-65b": LlamaConfig(hidden_size=8192, intermediate_size=22016, num_hidden_layers=80, num_attention_heads=64),
        "llama-2-7b": LlamaConfig(),
        "llama-2-13b": LlamaConfig(hidden_size=5120, intermediate_size=13824, num_hidden_layers=40, num_attention_heads=40),
        "llama-2-70b": LlamaConfig(
            hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8
        ),
        "llama-3-8b": LlamaConfig(vocab_size=128256, intermediate_size=14336, num_key_value_heads=8),
        "llama-3-70b": LlamaConfig(
            vocab_size=128256, hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64,
            num_key_value_heads=8,
        ),
        "llama-3.1-8b": LlamaConfig(vocab_size=128256, intermediate_size=14336, num_key_value_heads=8),
        "llama-3.2-1b": LlamaConfig(
            vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
            num_key_value_heads=8, tie_word_embeddings=True,
        ),
        "mistral-7b-v0.1": MistralConfig(),
        "mistral-7b-v0.2": MistralConfig(),
        "mistral-7b-v0.3": MistralConfig(vocab_size=32768),
        "qwen2.5-0.5b": Qwen2Config(
            hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2,
            tie_word_embeddings=True,
        ),
        "qwen2.5-1.5b": Qwen2Config(
            hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12, num_key_value_heads=2,
            tie_word_embeddings=True,
        ),
        "qwen2.5-7b": Qwen2Config(
            vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
            num_key_value_heads=4,
        ),
    }
    counts = {}
    for name, config in sizes.items():
        with torch.device("meta"):
            model = {
                "llama": LlamaForCausalLM, "mistral": MistralForCausalLM, "qwen2": Qwen2ForCausalLM,
            }[config.model_type](config)
        model.tie_weights()
        counts[name] = sum(p.numel() for p in model.parameters())
    write_json(VALUES / "llama-sizes.json", {"madeWith": made_with(), "parameters": counts})


main()
