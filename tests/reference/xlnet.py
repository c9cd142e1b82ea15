"""A small random XLNet of Hugging Face transformers: two streams with memory, every head, and the published sizes."""

import torch
from transformers import (
    XLNetConfig, XLNetForMultipleChoice, XLNetForQuestionAnsweringSimple, XLNetForSequenceClassification,
    XLNetForTokenClassification, XLNetLMHeadModel, XLNetModel,
)

from common import VALUES, deterministic, write_safetensors
from encoders import BATCH, SEQUENCE, VOCABULARY, inputs, parameters, perturb, record, write_config, write_sizes

TARGETS, MEMORY = 3, 5


def main() -> None:
    deterministic()
    torch.manual_seed(17)
    folder = VALUES / "xlnet"
    config = XLNetConfig(
        vocab_size=VOCABULARY, d_model=20, n_layer=2, n_head=4, d_inner=36, dropout=0.0, mem_len=7, reuse_len=4,
        num_labels=3, use_mems_eval=False,
    )
    write_config(folder, config)
    for memory in (False, True):
        streams(folder / f"streams{'WithMemory' if memory else ''}.safetensors", config, memory)
    both_ways(folder, config)

    # Padding stands on the left, since the class token is the last.
    given = {name: value.flip(1) for name, value in inputs().items()}
    record(folder / "sequence.safetensors", XLNetForSequenceClassification(config), ("mask_emb",), **given, labels=torch.tensor([2, 0, 1]))
    tokens = torch.where(given["attention_mask"] == 1, torch.randint(0, 3, given["input_ids"].shape), -100)
    record(folder / "token.safetensors", XLNetForTokenClassification(config), ("mask_emb",), **given, labels=tokens)
    unpadded = inputs(lengths=(SEQUENCE,) * BATCH)
    starts, ends = torch.tensor([2, 0, 4]), torch.tensor([5, 3, 7])
    config.num_labels = 2
    record(
        folder / "span.safetensors", XLNetForQuestionAnsweringSimple(config), ("mask_emb", "layer.1.ff.layer_norm.bias", "qa_outputs.bias"),
        **unpadded, start_positions=starts, end_positions=ends,
    )
    choice = XLNetForMultipleChoice(config)
    record(
        folder / "choice.safetensors", choice, ("mask_emb", "logits_proj.bias"),
        **inputs(choices=2, lengths=(SEQUENCE,) * BATCH), labels=torch.randint(0, 2, (BATCH,)),
    )

    large = dict(d_model=1024, n_layer=24, n_head=16, d_inner=4096)
    write_sizes(folder, {
        "xlnet-base-cased": parameters(lambda: XLNetLMHeadModel(XLNetConfig(d_model=768, n_layer=12, n_head=12, d_inner=3072))),
        "xlnet-large-cased": parameters(lambda: XLNetLMHeadModel(XLNetConfig(**large))),
    })


def both_ways(folder, config) -> None:
    """Half of four rows read in the other direction, distances clamped; without disturbing what is drawn for the others."""
    state = torch.get_rng_state()
    config = XLNetConfig(**config.to_dict() | {"bi_data": True, "clamp_len": 6})
    streams(folder / "streamsBothWays.safetensors", config, True, rows=4)
    torch.set_rng_state(state)


def streams(path, config, memory: bool, rows: int = BATCH) -> None:
    """Permutation language modelling: logits and loss at the targets, the new memory and every gradient."""
    model = XLNetLMHeadModel(config).eval()
    perturb(model)
    given = inputs(lengths=(SEQUENCE,) * BATCH)
    if rows > BATCH:
        more = inputs(lengths=(SEQUENCE,) * BATCH)
        given = {name: torch.cat([value, more[name]])[:rows] for name, value in given.items()}
    del given["attention_mask"]
    targets = torch.stack([torch.randperm(SEQUENCE)[:TARGETS].sort().values for _ in range(rows)])
    given["target_mapping"] = torch.nn.functional.one_hot(targets, SEQUENCE).float()
    # A random order in which targets come last: a target is hidden from itself, from what precedes it and from the context.
    hidden = torch.zeros(rows, SEQUENCE, SEQUENCE)
    for row in range(rows):
        order = {place.item(): rank for rank, place in enumerate(targets[row][torch.randperm(TARGETS)])}
        for key, rank in order.items():
            for query in range(SEQUENCE):
                hidden[row, query, key] = float(order.get(query, -1) <= rank)
    given["perm_mask"] = hidden
    labels = given["input_ids"].gather(1, targets)
    mems = [torch.randn(MEMORY, rows, config.d_model) for _ in range(config.n_layer)] if memory else None
    out = model(**given, mems=mems, labels=labels, use_mems=True)
    out.loss.backward()
    tensors = {f"inputs/{name}": value for name, value in given.items() if name != "target_mapping"}
    tensors |= {"inputs/targets": targets, "inputs/labels": labels}
    for layer, state in enumerate(mems or ()):
        tensors[f"inputs/memory.{layer}"] = state.transpose(0, 1).contiguous()
    tensors |= {"outputs/logits": out.logits, "outputs/loss": out.loss}
    for layer, state in enumerate(out.mems):
        tensors[f"outputs/memory.{layer}"] = state.transpose(0, 1).contiguous()
    for name, parameter in model.named_parameters():
        tensors[f"weights/{name}"] = parameter
        tensors[f"gradients/{name}"] = parameter.grad
    write_safetensors(path, tensors)


main()
