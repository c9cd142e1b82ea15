"""
Small random T5s of Hugging Face transformers (1.0: ReLU and tied; 1.1 and mT5: gated and not tied): logits, loss and the
gradient of every parameter with a padded source, and greedy and beam-searched ids.
"""

import torch
from transformers import MT5Config, MT5ForConditionalGeneration, T5Config, T5ForConditionalGeneration

from common import VALUES, deterministic, made_with, write, write_json, write_safetensors

SHAPE = dict(
    vocab_size=61, d_model=16, d_kv=6, d_ff=24, num_layers=2, num_decoder_layers=3, num_heads=3,
    relative_attention_num_buckets=8, relative_attention_max_distance=12, n_positions=32,
    pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
)
MODELS = {
    "t5-tiny": lambda: T5ForConditionalGeneration(T5Config(**SHAPE)),
    "t5-gated-tiny": lambda: T5ForConditionalGeneration(
        T5Config(**SHAPE, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    ),
    "mt5-tiny": lambda: MT5ForConditionalGeneration(
        MT5Config(**SHAPE, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    ),
}
SIZES = {
    "t5-small": dict(),
    "t5-base": dict(d_model=768, d_ff=3072, num_layers=12, num_heads=12),
    "t5-large": dict(d_model=1024, d_ff=4096, num_layers=24, num_heads=16),
    "t5-3b": dict(d_model=1024, d_kv=128, d_ff=16384, num_layers=24, num_heads=32),
    "t5-11b": dict(d_model=1024, d_kv=128, d_ff=65536, num_layers=24, num_heads=128),
}
GATED = dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False)
V11 = {
    "small": dict(d_model=512, d_ff=1024, num_layers=8, num_heads=6),
    "base": dict(d_model=768, d_ff=2048, num_layers=12, num_heads=12),
    "large": dict(d_model=1024, d_ff=2816, num_layers=24, num_heads=16),
    "xl": dict(d_model=2048, d_ff=5120, num_layers=24, num_heads=32),
    "xxl": dict(d_model=4096, d_ff=10240, num_layers=24, num_heads=64),
}


def main() -> None:
    deterministic()
    for seed, (name, make) in enumerate(MODELS.items()):
        torch.manual_seed(seed)
        folder = VALUES / name
        model = make().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
        write(folder / "config.json", model.config.to_json_string().encode())
        stored = dict(model.named_parameters())
        write_safetensors(folder / "model.safetensors", stored)
        source = torch.randint(2, 61, (2, 23))
        mask = torch.ones_like(source)
        mask[1, 15:] = 0
        source[1, 15:] = 0
        target = torch.randint(2, 61, (2, 19))
        labels = target.clone()
        labels[0, 14:] = -100
        start = torch.cat([torch.zeros(2, 1, dtype=torch.long), target[:, :-1]], dim=1)
        result = model(input_ids=source, attention_mask=mask, decoder_input_ids=start, labels=labels, use_cache=False)
        result.loss.backward()
        write_safetensors(folder / "logits.safetensors", {"logits": result.logits, "memory": result.encoder_last_hidden_state})
        write_safetensors(folder / "gradients.safetensors", {key: value.grad for key, value in stored.items()})
        with torch.no_grad():
            greedy = model.generate(source, attention_mask=mask, do_sample=False, num_beams=1, max_new_tokens=20, use_cache=False)
            beams = model.generate(
                source, attention_mask=mask, do_sample=False, num_beams=4, max_new_tokens=20, num_return_sequences=2,
                length_penalty=0.8, use_cache=False,
            )
        write_json(
            folder / "values.json",
            {
                "madeWith": made_with(), "source": source.tolist(), "mask": mask.tolist(), "decoderInputIds": start.tolist(),
                "labels": labels.tolist(), "loss": result.loss.item(), "greedy": greedy.tolist(), "beams": beams.tolist(),
            },
        )
    counts = {}
    for name, config in {
        **{name: T5Config(**size) for name, size in SIZES.items()},
        **{f"t5-v1_1-{name}": T5Config(**size, **GATED) for name, size in V11.items()},
    }.items():
        with torch.device("meta"):
            model = T5ForConditionalGeneration(config)
        model.tie_weights()
        counts[name] = sum(p.numel() for p in model.parameters())
    for name, size in V11.items():
        with torch.device("meta"):
            model = MT5ForConditionalGeneration(MT5Config(**{**size, "vocab_size": 250112}, **GATED))
        counts[f"mt5-{name}"] = sum(p.numel() for p in model.parameters())
    write_json(VALUES / "t5-sizes.json", {"madeWith": made_with(), "parameters": counts})


main()
