"""Outputs and gradients of single operations in float64, by PyTorch.

Inputs are multiples of 1/256, which float32 holds exactly: a test in float32 differs by its own rounding only.
Gradients are those of `sum(output * cotangent)`, for every input with a floating dtype.
"""

import math
from collections.abc import Callable

import torch
from common import VALUES, deterministic, made_with, require_telling, tensor_json, write_json
from torch import Tensor
from torch.nn import functional as F
from transformers.models.gptj import modeling_gptj
from transformers.models.llama import modeling_llama

generator = torch.Generator().manual_seed(20)
cases: list[dict] = []


def normal(*shape: int, scale: float = 1.0, offset: float = 0.0) -> Tensor:
    values = torch.randn(shape, generator=generator, dtype=torch.float64) * scale + offset
    return (values * 256).round() / 256


def positive(*shape: int) -> Tensor:
    values = torch.rand(shape, generator=generator, dtype=torch.float64) * 3 + 0.25
    return (values * 256).round() / 256


def integers(high: int, *shape: int) -> Tensor:
    return torch.randint(high, shape, generator=generator)


def case(
    name: str,
    operation: str,
    inputs: dict[str, Tensor],
    compute: Callable[..., Tensor | dict[str, Tensor]],
    attributes: dict | None = None,
) -> None:
    """Adds one case; `compute` takes the inputs by name and returns the output, or outputs by name."""
    leaves = {
        key: value.clone().requires_grad_() if value.is_floating_point() else value for key, value in inputs.items()
    }
    computed = compute(**leaves)
    outputs = computed if isinstance(computed, dict) else {"output": computed}
    cotangents = {
        key: normal(*value.shape) for key, value in outputs.items() if value.is_floating_point() and value.requires_grad
    }
    gradients: dict[str, Tensor] = {}
    if cotangents:
        total = sum((outputs[key] * cotangent).sum() for key, cotangent in cotangents.items())
        differentiable = {key: value for key, value in leaves.items() if value.requires_grad}
        values = torch.autograd.grad(total, list(differentiable.values()))
        gradients = dict(zip(differentiable, values, strict=True))
    for key, value in {**outputs, **gradients}.items():
        require_telling(f"{name}: {key}", value)
    cases.append(
        {
            "name": name,
            "operation": operation,
            "inputs": {key: tensor_json(value) for key, value in inputs.items()},
            "attributes": attributes or {},
            "outputs": {key: tensor_json(value) for key, value in outputs.items()},
            "cotangents": {key: tensor_json(value) for key, value in cotangents.items()},
            "gradients": {key: tensor_json(value) for key, value in gradients.items()},
        }
    )


def elementwise() -> None:
    wide = torch.cat([torch.linspace(-6, 6, 25, dtype=torch.float64), normal(11, scale=2.0)]).reshape(4, 9)
    smooth = {
        "gelu": F.gelu,
        "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
        "silu": F.silu,
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "softplus": F.softplus,
        "erf": torch.erf,
        "exp": torch.exp,
        "sin": torch.sin,
        "cos": torch.cos,
    }
    for operation, function in smooth.items():
        case(operation, operation, {"x": wide}, lambda x, function=function: function(x))
    for operation, function in {"log": torch.log, "sqrt": torch.sqrt, "rsqrt": torch.rsqrt}.items():
        case(operation, operation, {"x": positive(3, 7)}, lambda x, function=function: function(x))
    # Away from the kink, where frameworks choose different subgradients.
    kinked = normal(3, 7, offset=0.001953125)
    kinked[kinked.abs() < 0.01] = 0.5
    case("relu", "relu", {"x": kinked}, lambda x: F.relu(x))
    case("abs", "abs", {"x": kinked}, lambda x: x.abs())
    case("leaky_relu", "leaky_relu", {"x": kinked}, lambda x: F.leaky_relu(x, 0.1), {"negativeSlope": 0.1})
    broadcast = {"x": normal(2, 3, 4), "y": normal(3, 1)}
    case("add with broadcasting", "add", broadcast, lambda x, y: x + y)
    case("mul with broadcasting", "mul", broadcast, lambda x, y: x * y)
    case("div with broadcasting", "div", {"x": normal(2, 3, 4), "y": positive(4)}, lambda x, y: x / y)
    case("pow with broadcasting", "pow", {"x": positive(2, 3, 4), "y": normal(3, 1)}, lambda x, y: x**y)
    case("maximum", "maximum", {"x": normal(3, 5), "y": normal(3, 5)}, torch_call(torch.maximum))
    case("minimum", "minimum", {"x": normal(3, 5), "y": normal(3, 5)}, torch_call(torch.minimum))
    case(
        "where with broadcasting",
        "where",
        {"condition": integers(2, 3, 5).bool(), "x": normal(2, 3, 5), "y": normal(5)},
        lambda condition, x, y: torch.where(condition, x, y),
    )


def torch_call(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda x, y: function(x, y)


def reductions() -> None:
    for axis in (0, 1, -1):
        attributes = {"axis": axis}
        x = {"x": normal(2, 5, 4, scale=2.0)}
        case(f"softmax, axis {axis}", "softmax", x, lambda x, axis=axis: x.softmax(axis), attributes)
        case(f"log_softmax, axis {axis}", "log_softmax", x, lambda x, axis=axis: x.log_softmax(axis), attributes)
        case(f"logsumexp, axis {axis}", "logsumexp", x, lambda x, axis=axis: x.logsumexp(axis), attributes)
        case(f"cumsum, axis {axis}", "cumsum", x, lambda x, axis=axis: x.cumsum(axis), attributes)
    large = {"x": normal(3, 6, scale=4.0) + torch.tensor([[1000.0], [-1000.0], [0.0]], dtype=torch.float64)}
    case("softmax of large values", "softmax", large, lambda x: x.softmax(-1), {"axis": -1})
    case("log_softmax of large values", "log_softmax", large, lambda x: x.log_softmax(-1), {"axis": -1})
    case("logsumexp of large values", "logsumexp", large, lambda x: x.logsumexp(-1), {"axis": -1})
    x = {"x": normal(3, 4, 5)}
    over = {"axes": [0, 2], "keepDims": True}
    case("sum over two axes", "sum", x, lambda x: x.sum((0, 2), keepdim=True), over)
    case("mean over two axes", "mean", x, lambda x: x.mean((0, 2), keepdim=True), over)
    last = {"axes": [-1], "keepDims": False}
    case("max over the last axis", "max", x, lambda x: x.amax(-1), last)
    case("variance", "variance", x, lambda x: x.var(-1, correction=0), {**last, "correction": 0})
    case(
        "topk, largest first",
        "topk",
        {"x": normal(2, 3, 9)},
        lambda x: dict(zip(("values", "indices"), x.topk(4, -1), strict=True)),
        {"k": 4, "axis": -1},
    )
    case("argmax", "argmax", {"x": normal(3, 7)}, lambda x: x.argmax(-1), {"axis": -1})


def indexing() -> None:
    for axis in (0, 1, 2):
        index_shape = [3, 4, 5]
        index_shape[axis] = 6
        case(
            f"gather_elements, axis {axis}",
            "gather_elements",
            {"x": normal(3, 4, 5), "index": integers((3, 4, 5)[axis], *index_shape)},
            lambda x, index, axis=axis: x.gather(axis, index),
            {"axis": axis},
        )
        case(
            f"scatter_add, axis {axis}",
            "scatter_add",
            {"x": normal(3, 4, 5), "index": integers((3, 4, 5)[axis], *index_shape), "source": normal(*index_shape)},
            lambda x, index, source, axis=axis: x.scatter_add(axis, index, source),
            {"axis": axis},
        )
    case(
        "embedding with repeated indices",
        "embedding",
        {"weight": normal(7, 4), "index": torch.tensor([[1, 6, 1], [0, 1, 6]])},
        lambda weight, index: F.embedding(index, weight),
    )
    case(
        "one_hot",
        "one_hot",
        {"index": integers(6, 2, 4)},
        lambda index: F.one_hot(index, 6),
        {"depth": 6},
    )
    case(
        "lower triangle",
        "tril",
        {"x": normal(2, 4, 5)},
        lambda x: x.tril(-1),
        {"diagonal": -1},
    )


def matrices() -> None:
    case("matmul", "matmul", {"x": normal(3, 4), "y": normal(4, 5)}, torch_call(torch.matmul))
    case(
        "matmul with broadcast batches",
        "matmul",
        {"x": normal(2, 1, 3, 4), "y": normal(3, 4, 2)},
        torch_call(torch.matmul),
    )
    case(
        "linear",
        "linear",
        {"x": normal(2, 3, 4), "weight": normal(5, 4), "bias": normal(5)},
        lambda x, weight, bias: F.linear(x, weight, bias),
        {"weightLayout": "[out, in]"},
    )
    case(
        "swiglu",
        "swiglu",
        {"x": normal(2, 3, 4), "gate": normal(6, 4, scale=0.5), "up": normal(6, 4), "down": normal(4, 6)},
        lambda x, gate, up, down: F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down),
        {"weightLayout": "[out, in]"},
    )


def norms() -> None:
    x = normal(2, 3, 8, scale=2.0, offset=0.5)
    weight, bias = normal(8, scale=0.5, offset=1.0), normal(8)
    case(
        "layer_norm",
        "layer_norm",
        {"x": x, "weight": weight, "bias": bias},
        lambda x, weight, bias: F.layer_norm(x, (8,), weight, bias, eps=1e-5),
        {"epsilon": 1e-5, "axis": -1},
    )
    case(
        "layer_norm of nearly constant rows",
        "layer_norm",
        {"x": normal(2, 8, scale=0.01, offset=3.0), "weight": weight, "bias": bias},
        lambda x, weight, bias: F.layer_norm(x, (8,), weight, bias, eps=1e-5),
        {"epsilon": 1e-5, "axis": -1},
    )
    case(
        "rms_norm",
        "rms_norm",
        {"x": x, "weight": weight},
        lambda x, weight: F.rms_norm(x, (8,), weight, eps=1e-6),
        {"epsilon": 1e-6, "axis": -1},
    )


def attention() -> None:
    """`[batch, heads, sequence, headDim]`; a boolean mask is true where attention is allowed."""

    def qkv(heads: int, kv_heads: int, queries: int, keys: int) -> dict[str, Tensor]:
        return {
            "query": normal(2, heads, queries, 4),
            "key": normal(2, kv_heads, keys, 4),
            "value": normal(2, kv_heads, keys, 4),
        }

    sdpa = F.scaled_dot_product_attention
    case("attention", "attention", qkv(2, 2, 3, 5), lambda query, key, value: sdpa(query, key, value))
    case(
        "attention, causal",
        "attention",
        qkv(2, 2, 5, 5),
        lambda query, key, value: sdpa(query, key, value, is_causal=True),
        {"causal": True},
    )
    case(
        "attention, causal, own scale",
        "attention",
        qkv(2, 2, 5, 5),
        lambda query, key, value: sdpa(query, key, value, is_causal=True, scale=0.125),
        {"causal": True, "scale": 0.125},
    )
    mask = integers(3, 2, 1, 4, 5).bool()
    mask[..., 0] = True
    case(
        "attention, boolean mask",
        "attention",
        {**qkv(2, 2, 4, 5), "mask": mask},
        lambda query, key, value, mask: sdpa(query, key, value, attn_mask=mask),
    )
    # The second row is padded by two keys on the right, and causal besides.
    padding = torch.ones(2, 1, 1, 5, dtype=torch.bool)
    padding[1, ..., 3:] = False
    case(
        "attention, causal and padded on the right",
        "attention",
        {**qkv(2, 2, 5, 5), "mask": padding & torch.ones(5, 5, dtype=torch.bool).tril()},
        lambda query, key, value, mask: sdpa(query, key, value, attn_mask=mask),
    )
    case(
        "attention, additive bias",
        "attention",
        {**qkv(2, 2, 4, 5), "bias": normal(2, 4, 5)},
        lambda query, key, value, bias: sdpa(query, key, value, attn_mask=bias.expand(2, 2, 4, 5)),
    )
    case(
        "attention, grouped queries, causal",
        "attention",
        qkv(4, 2, 5, 5),
        lambda query, key, value: sdpa(query, key, value, is_causal=True, enable_gqa=True),
        {"causal": True},
    )
    case(
        "attention, one key-value head",
        "attention",
        qkv(3, 1, 4, 4),
        lambda query, key, value: sdpa(query, key, value, is_causal=True, enable_gqa=True),
        {"causal": True},
    )
    case(
        "attention, cached: two queries at the end of six keys",
        "attention",
        {**qkv(4, 2, 2, 6), "mask": torch.ones(2, 6, dtype=torch.bool).tril(4)},
        lambda query, key, value, mask: sdpa(query, key, value, attn_mask=mask, enable_gqa=True),
    )


def rotary() -> None:
    """`x` is `[batch, heads, sequence, headDim]`, `positions` `[batch, sequence]`."""

    def angles(positions: Tensor, dim: int, base: float) -> Tensor:
        frequencies = base ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        return positions[..., None].double() * frequencies

    def half(x: Tensor, positions: Tensor, base: float) -> Tensor:
        angle = angles(positions, x.shape[-1], base)
        embedding = torch.cat([angle, angle], dim=-1)
        return modeling_llama.apply_rotary_pos_emb(x, x, embedding.cos(), embedding.sin())[0]

    def interleaved(x: Tensor, positions: Tensor, base: float, dim: int) -> Tensor:
        angle = angles(positions, dim, base)
        rotated, kept = x.transpose(1, 2).split([dim, x.shape[-1] - dim], dim=-1)
        rotated = modeling_gptj.apply_rotary_pos_emb(rotated, angle.sin(), angle.cos())
        return torch.cat([rotated, kept], dim=-1).transpose(1, 2)

    positions = torch.tensor([[0, 1, 2, 3], [5, 6, 7, 100]])
    for base in (10_000.0, 500_000.0):
        case(
            f"rotary, half rotation (LLaMA), base {base:.0f}",
            "rotary",
            {"x": normal(2, 2, 4, 8), "positions": positions},
            lambda x, positions, base=base: half(x, positions, base),
            {"interleaved": False, "base": base, "rotaryDim": 8},
        )
    for dim in (8, 4):
        case(
            f"rotary, interleaved (GPT-J), {dim} of 8 dimensions",
            "rotary",
            {"x": normal(2, 2, 4, 8), "positions": positions},
            lambda x, positions, dim=dim: interleaved(x, positions, 10_000.0, dim),
            {"interleaved": True, "base": 10_000.0, "rotaryDim": dim},
        )


def losses() -> None:
    logits = normal(6, 11, scale=2.0)
    target = torch.tensor([3, -100, 0, 10, -100, 7])
    for reduction in ("mean", "sum"):
        for smoothing in (0.0, 0.1):
            case(
                f"cross_entropy, {reduction}, label smoothing {smoothing}",
                "cross_entropy",
                {"logits": logits, "target": target},
                lambda logits, target, reduction=reduction, smoothing=smoothing: F.cross_entropy(
                    logits, target, reduction=reduction, label_smoothing=smoothing
                ),
                {"reduction": reduction, "labelSmoothing": smoothing, "ignoreIndex": -100},
            )
    case(
        "cross_entropy, ignoring index 0",
        "cross_entropy",
        {"logits": logits, "target": torch.tensor([3, 0, 0, 10, 5, 7])},
        lambda logits, target: F.cross_entropy(logits, target, ignore_index=0, label_smoothing=0.1),
        {"reduction": "mean", "labelSmoothing": 0.1, "ignoreIndex": 0},
    )
    case(
        "kl_divergence",
        "kl_divergence",
        {"logits": normal(4, 6), "target": normal(4, 6)},
        lambda logits, target: F.kl_div(
            logits.log_softmax(-1), target.log_softmax(-1), reduction="batchmean", log_target=True
        ),
        {"meaning": "mean over rows of KL(softmax(target) || softmax(logits))"},
    )


def main() -> None:
    deterministic()
    for part in (elementwise, reductions, indexing, matrices, norms, attention, rotary, losses):
        part()
    names = [entry["name"] for entry in cases]
    if len(set(names)) != len(names):
        raise ValueError("two cases have the same name")
    # An independent look at one value of each kind that PyTorch alone defines here.
    gelu = next(entry for entry in cases if entry["name"] == "gelu")
    x, y = gelu["inputs"]["x"]["data"], gelu["outputs"]["output"]["data"]
    assert all(abs(b - 0.5 * a * (1 + math.erf(a / math.sqrt(2)))) < 1e-14 for a, b in zip(x, y, strict=True))
    write_json(VALUES / "ops.json", {"madeWith": made_with(), "dtype": "float64", "cases": cases})
    print(f"{len(cases)} cases")


if __name__ == "__main__":
    main()
