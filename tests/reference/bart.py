"""
Small random BART, mBART and Marian of Hugging Face transformers: states, logits, loss and the gradient of every parameter
with a padded source, greedy and beam-searched ids; and the parameter counts of the published sizes.
"""

import torch
from transformers import (
    BartConfig, BartForConditionalGeneration, MarianConfig, MarianMTModel, MBartConfig, MBartForConditionalGeneration,
)

from common import VALUES, deterministic, made_with, write, write_json, write_safetensors

SHAPE = dict(
    vocab_size=61, d_model=16, encoder_layers=2, decoder_layers=3, encoder_attention_heads=4, decoder_attention_heads=2,
    encoder_ffn_dim=24, decoder_ffn_dim=20, max_position_embeddings=32,
)
MODELS = {
    "bart-tiny": lambda: BartForConditionalGeneration(BartConfig(**SHAPE)),
    "mbart-tiny": lambda: MBartForConditionalGeneration(MBartConfig(**SHAPE, scale_embedding=True, decoder_start_token_id=2)),
    "marian-tiny": lambda: MarianMTModel(
        MarianConfig(
            **SHAPE, scale_embedding=True, activation_function="swish", pad_token_id=60, decoder_start_token_id=60,
            eos_token_id=0, forced_eos_token_id=0,
        )
    ),
}


def sizes() -> dict:
    def bart(**size):
        return BartForConditionalGeneration(BartConfig(**size))

    def marian(width, heads):
        return MarianMTModel(
            MarianConfig(
                vocab_size=37000, d_model=width, encoder_layers=6, decoder_layers=6, encoder_attention_heads=heads,
                decoder_attention_heads=heads, encoder_ffn_dim=4 * width, decoder_ffn_dim=4 * width,
                max_position_embeddings=512, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
            )
        )

    return {
        "bart-base": lambda: bart(
            d_model=768, encoder_layers=6, decoder_layers=6, encoder_attention_heads=12, decoder_attention_heads=12,
            encoder_ffn_dim=3072, decoder_ffn_dim=3072,
        ),
        "bart-large": lambda: bart(),
        # The published MASS has the network of a BART.
        "mass-base-uncased": lambda: bart(
            vocab_size=30522, max_position_embeddings=512, d_model=768, encoder_layers=6, decoder_layers=6,
            encoder_attention_heads=12, decoder_attention_heads=12, encoder_ffn_dim=3072, decoder_ffn_dim=3072,
        ),
        "mass-middle-uncased": lambda: bart(
            vocab_size=30522, max_position_embeddings=512, d_model=1024, encoder_layers=6, decoder_layers=6,
        ),
        "mbart-large-cc25": lambda: MBartForConditionalGeneration(MBartConfig(vocab_size=250027)),
        "mbart-large-50": lambda: MBartForConditionalGeneration(MBartConfig(vocab_size=250054)),
        "transformer-base": lambda: marian(512, 8),
        "transformer-big": lambda: marian(1024, 16),
    }


def main() -> None:
    deterministic()
    for seed, (name, make) in enumerate(MODELS.items()):
        torch.manual_seed(seed)
        folder = VALUES / name
        model = make().eval()
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if "embed_positions" in key and name.startswith("marian"):
                    continue
                parameter.add_(torch.randn_like(parameter) * 0.2)
            model.final_logits_bias.copy_(torch.randn_like(model.final_logits_bias) * 0.3)
        pad, start = model.config.pad_token_id, model.config.decoder_start_token_id
        write(folder / "config.json", model.config.to_json_string().encode())
        trained = {key: value for key, value in model.named_parameters() if value.requires_grad}
        write_safetensors(folder / "model.safetensors", {**trained, "final_logits_bias": model.final_logits_bias})
        source = torch.randint(4, 60, (2, 13))
        mask = torch.ones_like(source)
        mask[1, 8:] = 0
        source[1, 8:] = pad
        target = torch.randint(4, 60, (2, 11))
        labels = target.clone()
        labels[0, 7:] = -100
        given = torch.cat([torch.full((2, 1), start), target[:, :-1]], dim=1)
        result = model(input_ids=source, attention_mask=mask, decoder_input_ids=given, labels=labels)
        result.loss.backward()
        write_safetensors(
            folder / "logits.safetensors", {"logits": result.logits, "memory": result.encoder_last_hidden_state}
        )
        # The scores of one query all move alike with a bias of the keys: softmax does not see it.
        write_safetensors(
            folder / "gradients.safetensors",
            {key: value.grad for key, value in trained.items() if not key.endswith("k_proj.bias")},
        )
        with torch.no_grad():
            plain = dict(forced_eos_token_id=None, bad_words_ids=None)
            greedy = model.generate(source, attention_mask=mask, do_sample=False, num_beams=1, max_new_tokens=20, **plain)
            beams = model.generate(
                source, attention_mask=mask, do_sample=False, num_beams=4, max_new_tokens=20, num_return_sequences=2,
                length_penalty=0.8, **plain,
            )
        write_json(
            folder / "values.json",
            {
                "madeWith": made_with(), "source": source.tolist(), "mask": mask.tolist(), "decoderInputIds": given.tolist(),
                "labels": labels.tolist(), "loss": result.loss.item(), "greedy": greedy.tolist(), "beams": beams.tolist(),
            },
        )
    counts = {}
    for name, make in sizes().items():
        with torch.device("meta"):
            model = make()
        model.tie_weights()
        counts[name] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    write_json(VALUES / "bart-sizes.json", {"madeWith": made_with(), "parameters": counts})


main()
