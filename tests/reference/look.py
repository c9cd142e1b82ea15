"""
Attention probabilities and hidden states of every family as Hugging Face transformers gives them (`output_attentions`,
`output_hidden_states`, eager attention), on the small models that the other scripts wrote; batches are padded.
"""

import json

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from common import VALUES, deterministic, write_safetensors

# Folder, file of one recorded task, and what its weights' names begin with.
ENCODERS = {
    "albert": ("token", "albert."),
    "bert": ("token", "bert."),
    "deberta": ("sequence", "deberta."),
    "deberta-v2": ("sequence", "deberta."),
    "deberta-v3": ("choice", "deberta."),
    "electra": ("sequence", "electra."),
    "roberta": ("sequence", "roberta."),
    "unilm": ("modes", "bert."),
    "xlm": ("translation", "transformer."),
    "xlnet": ("token", "transformer."),
}
DECODERS = ("gpt1-tiny", "gpt2-tiny", "llama-tiny", "llama-grouped-tiny", "mistral-tiny", "qwen2-tiny")
ENCODER_DECODERS = ("t5-tiny", "mt5-tiny", "bart-tiny", "mbart-tiny", "marian-tiny")
BOTH = dict(output_attentions=True, output_hidden_states=True)


def named(prefix: str, tensors) -> dict[str, torch.Tensor]:
    return {f"{prefix}.{layer}": tensor for layer, tensor in enumerate(tensors)}


def record(name: str, **groups) -> None:
    tensors = {}
    for prefix, given in groups.items():
        tensors |= named(prefix, given)
    write_safetensors(VALUES / "look" / f"{name}.safetensors", tensors)


def built(kind, name: str):
    return kind.from_config(AutoConfig.from_pretrained(VALUES / name), attn_implementation="eager").eval()


def part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def encoder(name: str, task: str, prefix: str) -> None:
    tensors = load_file(VALUES / name / f"{task}.safetensors")
    model = built(AutoModel, name)
    missing, unexpected = model.load_state_dict(part(part(tensors, "weights/"), prefix), strict=False)
    assert not unexpected and all("pooler" in key or "position_ids" in key for key in missing), (missing, unexpected)
    given = part(tensors, "inputs/sequence-to-sequence/" if name == "unilm" else "inputs/")
    known = ("input_ids", "attention_mask", "token_type_ids", "langs", "position_ids")
    inputs = {key: value.flatten(0, -2) if name == "deberta-v3" else value for key, value in given.items() if key in known}
    out = model(**inputs, **BOTH)
    record(name, attention=out.attentions, hidden=out.hidden_states)


def streams() -> None:
    """XLNet's two streams, with memory before the segment."""
    tensors = load_file(VALUES / "xlnet" / "streamsWithMemory.safetensors")
    model = built(AutoModel, "xlnet")
    weights = part(part(tensors, "weights/"), "transformer.")
    model.load_state_dict(weights)
    given = part(tensors, "inputs/")
    mapping = torch.nn.functional.one_hot(given["targets"], given["input_ids"].shape[1]).float()
    memory = [given[f"memory.{layer}"].transpose(0, 1) for layer in range(model.config.n_layer)]
    out = model(
        given["input_ids"], token_type_ids=given["token_type_ids"], perm_mask=given["perm_mask"], target_mapping=mapping,
        mems=memory, use_mems=True, **BOTH,
    )
    content, query = zip(*out.attentions)
    # transformers sets the query stream among all places, and leaves the others' rows without a query.
    query = [torch.stack([map[row][:, places] for row, places in enumerate(given["targets"])]) for map in query]
    # transformers lists the states of both streams one after the other, content first.
    states = [state for pair in out.hidden_states for state in (pair if isinstance(pair, tuple) else (pair,))]
    record(
        "xlnet-streams", content_attention=content, query_attention=query,
        content_hidden=states[0::2], query_hidden=states[1::2],
    )


def decoder(name: str) -> None:
    model = built(AutoModelForCausalLM, name)
    model.load_state_dict(load_file(VALUES / name / "model.safetensors"), strict=False)
    ids = torch.tensor(json.loads((VALUES / name / "values.json").read_text())["inputIds"])
    mask = torch.ones_like(ids)
    mask[1, 11:] = 0
    out = model(ids, attention_mask=mask, use_cache=False, **BOTH)
    record(name, attention=out.attentions, hidden=out.hidden_states)


def encoder_decoder(name: str) -> None:
    model = built(AutoModelForSeq2SeqLM, name)
    missing, unexpected = model.load_state_dict(load_file(VALUES / name / "model.safetensors"), strict=False)
    assert not unexpected, unexpected
    model.tie_weights()
    values = json.loads((VALUES / name / "values.json").read_text())
    out = model(
        input_ids=torch.tensor(values["source"]), attention_mask=torch.tensor(values["mask"]),
        decoder_input_ids=torch.tensor(values["decoderInputIds"]), use_cache=False, **BOTH,
    )
    expected = load_file(VALUES / name / "logits.safetensors")["logits"]
    torch.testing.assert_close(out.logits, expected, rtol=1e-4, atol=1e-5)
    record(
        name, encoder_attention=out.encoder_attentions, decoder_attention=out.decoder_attentions,
        cross_attention=out.cross_attentions, encoder_hidden=out.encoder_hidden_states,
        decoder_hidden=out.decoder_hidden_states,
    )


def main() -> None:
    deterministic()
    with torch.no_grad():
        for name, (task, prefix) in ENCODERS.items():
            encoder(name, task, prefix)
        streams()
        for name in DECODERS:
            decoder(name)
        for name in ENCODER_DECODERS:
            encoder_decoder(name)


main()
