"""
A small random GPT-Neo of Hugging Face transformers, whose global and local layers are GPT-3's: logits, loss, the gradient of
every parameter and greedy ids beyond the window; the parameters of the published sizes, from modules without memory.
"""

import torch
from transformers import GPTNeoConfig, GPTNeoForCausalLM

from common import VALUES, deterministic, made_with, write, write_json, write_safetensors

SIZES = {
    "gpt3-small": (768, 12, 12), "gpt3-medium": (1024, 24, 16), "gpt3-large": (1536, 24, 16), "gpt3-xl": (2048, 24, 16),
    "gpt3-2.7b": (2560, 32, 32), "gpt3-6.7b": (4096, 32, 32), "gpt3-13b": (5120, 40, 40), "gpt3-175b": (12288, 96, 96),
}


def main() -> None:
    deterministic()
    torch.manual_seed(31)
    folder = VALUES / "gpt3-tiny"
    config = GPTNeoConfig(
        vocab_size=97, max_position_embeddings=64, hidden_size=24, num_layers=4, num_heads=3, window_size=3,
        attention_types=[[["global", "local"], 2]], bos_token_id=None, eos_token_id=5,
    )
    model = GPTNeoForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    write(folder / "config.json", config.to_json_string().encode())
    write_safetensors(folder / "model.safetensors", dict(model.named_parameters()))
    ids = torch.randint(0, 97, (2, 17))
    inputs, labels = ids[:, :-1], ids[:, 1:].clone()
    labels[0, 3:6] = -100
    logits = model(inputs).logits
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, 97), labels.reshape(-1))
    loss.backward()
    write_safetensors(folder / "logits.safetensors", {"logits": logits})
    write_safetensors(folder / "gradients.safetensors", {name: p.grad for name, p in model.named_parameters()})
    prompt = ids[:1, :9]
    greedy = model.generate(
        prompt, do_sample=False, max_new_tokens=48, eos_token_id=None, pad_token_id=0, attention_mask=torch.ones_like(prompt)
    )
    parameters = {}
    for name, (width, layers, heads) in SIZES.items():
        with torch.device("meta"):
            size = GPTNeoForCausalLM(
                GPTNeoConfig(hidden_size=width, num_layers=layers, num_heads=heads, attention_types=[[["global", "local"], layers // 2]])
            )
        size.tie_weights()
        parameters[name] = sum(p.numel() for p in size.parameters())
    write_json(
        folder / "values.json",
        {
            "madeWith": made_with(), "inputIds": inputs.tolist(), "labels": labels.tolist(), "loss": loss.item(),
            "prompt": prompt[0].tolist(), "greedy": greedy[0, 9:].tolist(), "parameters": parameters,
        },
    )
    print(parameters)


main()
