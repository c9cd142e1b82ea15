"""
PaLM after the equations of its paper (Chowdhery et al. 2022, sections 2 and 5), since no library has it: logits, loss, the
gradient of every parameter and greedy ids of a small random one, with parallel layers and with layers one after the other.
"""

import json

import torch
from torch import nn

from common import VALUES, deterministic, made_with, write, write_json, write_safetensors

CONFIG = dict(
    model_type="palm", vocab_size=97, max_position_embeddings=64, hidden_size=32, intermediate_size=48,
    num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=1, head_dim=16, layer_norm_eps=1e-6, rope_theta=10000.0,
)


class Palm(nn.Module):
    """Tensors by their names in a file; the forward pass reads like the paper."""

    def __init__(self, parallel: bool):
        super().__init__()
        self.parallel = parallel
        d, f, heads, size = 32, 48, 4, 16
        names = {"model.embed_tokens.weight": (97, d), "model.norm.weight": (d,)}
        for layer in range(2):
            prefix = f"model.layers.{layer}."
            names[prefix + "input_layernorm.weight"] = (d,)
            names[prefix + "self_attn.q_proj.weight"] = (heads * size, d)
            names[prefix + "self_attn.k_proj.weight"] = (size, d)
            names[prefix + "self_attn.v_proj.weight"] = (size, d)
            names[prefix + "self_attn.o_proj.weight"] = (d, heads * size)
            if not parallel:
                names[prefix + "post_attention_layernorm.weight"] = (d,)
            names[prefix + "mlp.gate_proj.weight"] = (f, d)
            names[prefix + "mlp.up_proj.weight"] = (f, d)
            names[prefix + "mlp.down_proj.weight"] = (d, f)
        self.tensors = {name: (torch.randn(shape) * 0.4 + (len(shape) == 1)).requires_grad_() for name, shape in names.items()}

    def norm(self, x, name):
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * self.tensors[name + ".weight"]

    def linear(self, x, name):
        return x @ self.tensors[name + ".weight"].T

    @staticmethod
    def rotate(x):
        """Pairs of channels half a head apart, turned by position times 10000^(-2i/size). [batch, heads, n, size]"""
        n, size = x.shape[-2:]
        angles = torch.arange(n)[:, None] * 10000.0 ** (-torch.arange(0, size, 2) / size)
        a, b = x.chunk(2, -1)
        return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)

    def attention(self, x, prefix, visible):
        batch, n, _ = x.shape
        query = self.linear(x, prefix + "q_proj").view(batch, n, 4, 16).transpose(1, 2)
        # One head of keys and one of values, which all heads share.
        key = self.linear(x, prefix + "k_proj").view(batch, n, 1, 16).transpose(1, 2)
        value = self.linear(x, prefix + "v_proj").view(batch, n, 1, 16).transpose(1, 2)
        scores = self.rotate(query) @ self.rotate(key).transpose(-1, -2) / 16**0.5
        scores = scores.masked_fill(~visible, -torch.inf)
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, n, 64)
        return self.linear(mixed, prefix + "o_proj")

    def feed_forward(self, x, prefix):
        gate = self.linear(x, prefix + "gate_proj")
        return self.linear(gate * torch.sigmoid(gate) * self.linear(x, prefix + "up_proj"), prefix + "down_proj")

    def forward(self, ids, visible=None):
        """`visible`: bool, broadcast to [batch, heads, n, n]; which key each query sees. Default: those that are not after it."""
        if visible is None:
            visible = torch.ones(ids.shape[1], ids.shape[1]).tril().bool()
        table = self.tensors["model.embed_tokens.weight"]
        x = table[ids]
        for layer in range(2):
            prefix = f"model.layers.{layer}."
            normed = self.norm(x, prefix + "input_layernorm")
            if self.parallel:
                x = x + self.feed_forward(normed, prefix + "mlp.") + self.attention(
                    normed, prefix + "self_attn.", visible
                )
            else:
                x = x + self.attention(normed, prefix + "self_attn.", visible)
                x = x + self.feed_forward(self.norm(x, prefix + "post_attention_layernorm"), prefix + "mlp.")
        return self.norm(x, "model.norm") @ table.T / 32**0.5


def main() -> None:
    deterministic()
    for seed, (name, parallel) in enumerate([("palm-tiny", True), ("palm-serial-tiny", False)]):
        torch.manual_seed(20 + seed)
        model = Palm(parallel)
        folder = VALUES / name
        write(folder / "config.json", json.dumps({**CONFIG, "use_parallel_residual": parallel}, indent=2).encode())
        write_safetensors(folder / "model.safetensors", {key: value.detach() for key, value in model.tensors.items()})
        ids = torch.randint(0, 97, (2, 17))
        inputs, labels = ids[:, :-1], ids[:, 1:].clone()
        labels[0, 3:6] = -100
        logits = model(inputs)
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, 97), labels.reshape(-1))
        # The auxiliary loss that keeps the softmax's normaliser near 1; section 5, "Loss function".
        counted = labels.reshape(-1) != -100
        z_loss = 1e-4 * (logits.reshape(-1, 97).logsumexp(-1)[counted] ** 2).mean()
        loss.backward(retain_graph=True)
        write_safetensors(folder / "logits.safetensors", {"logits": logits.detach()})
        write_safetensors(folder / "gradients.safetensors", {key: value.grad for key, value in model.tensors.items()})
        for value in model.tensors.values():
            value.grad = None
        (loss + z_loss).backward()
        embeddings = model.tensors["model.embed_tokens.weight"].grad
        write_safetensors(folder / "z-loss.safetensors", {"model.embed_tokens.weight": embeddings})
        prompt = ids[:1, :9]
        greedy = prompt
        with torch.no_grad():
            for _ in range(48):
                greedy = torch.cat([greedy, model(greedy)[:, -1:].argmax(-1)], 1)
        write_json(
            folder / "values.json",
            {
                "madeWith": made_with(), "inputIds": inputs.tolist(), "labels": labels.tolist(), "loss": loss.item(),
                "zLoss": z_loss.item(), "prompt": prompt[0].tolist(), "greedy": greedy[0, 9:].tolist(),
            },
        )


if __name__ == "__main__":
    main()
