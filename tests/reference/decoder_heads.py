"""
Small random decoders of Hugging Face transformers with heads of tasks, over rows filled up to one length: logits, loss and
the gradient of every parameter. GPT-1's classification and double heads (with its language-model loss), and LLaMA's
classification, labels of tokens and spans.
"""

import torch
from transformers import (
    LlamaConfig,
    LlamaForQuestionAnswering,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    OpenAIGPTConfig,
    OpenAIGPTDoubleHeadsModel,
    OpenAIGPTForSequenceClassification,
)

from common import VALUES, deterministic, made_with, write, write_json, write_safetensors

PAD = 3
LENGTHS = [9, 5, 12]
LENGTH = max(LENGTHS)


def rows(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids without the padding's, filled up behind, and the mask of the real ones."""
    ids = torch.randint(PAD + 1, 61, shape)
    mask = torch.zeros(shape, dtype=torch.long)
    for index in range(shape[0]):
        mask[index, ..., : LENGTHS[index]] = 1
    return torch.where(mask == 1, ids, PAD), mask


def random(model: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def keep(name: str, model: torch.nn.Module, loss: torch.Tensor, logits: torch.Tensor, values: dict) -> None:
    folder = VALUES / "decoder-heads" / name
    loss.backward()
    config = model.config
    config.architectures = [type(model).__name__]
    write(folder / "config.json", config.to_json_string().encode())
    named = dict(model.named_parameters())
    write_safetensors(folder / "model.safetensors", named)
    write_safetensors(folder / "logits.safetensors", {"logits": logits})
    # The bias of a choice is in all of them, and softmax does not see it.
    seen = {key: p.grad for key, p in named.items() if p.grad is not None and p.grad.abs().max() > 1e-6}
    write_safetensors(folder / "gradients.safetensors", seen)
    write_json(folder / "values.json", {"madeWith": made_with(), "loss": loss.item(), **values})


def main() -> None:
    deterministic()
    torch.manual_seed(23)
    gpt = dict(
        vocab_size=61, n_positions=16, n_embd=16, n_layer=2, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        summary_first_dropout=0.0, pad_token_id=PAD,
    )
    llama = dict(
        vocab_size=61, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, pad_token_id=PAD, classifier_dropout=0.0,
    )

    ids, mask = rows(3, LENGTH)
    labels = torch.tensor([2, 0, 1])
    for name, model in (
        ("gpt1-classify", OpenAIGPTForSequenceClassification(OpenAIGPTConfig(**gpt, num_labels=3))),
        ("llama-classify", LlamaForSequenceClassification(LlamaConfig(**llama, num_labels=3))),
    ):
        answer = random(model)(ids, attention_mask=mask, labels=labels)
        keep(name, model, answer.loss, answer.logits, {
            "head": "classify", "inputIds": ids.tolist(), "attentionMask": mask.tolist(), "labels": labels.tolist(),
        })

    ids, mask = rows(3, 2, LENGTH)
    words = torch.where(mask == 1, ids, -100)
    last = mask.sum(-1) - 1
    model = random(OpenAIGPTDoubleHeadsModel(OpenAIGPTConfig(**gpt)))
    answer = model(ids, mc_token_ids=last, labels=words, mc_labels=torch.tensor([1, 0, 1]))
    loss = answer.mc_loss + 0.5 * answer.loss
    keep("gpt1-choice", model, loss, answer.mc_logits, {
        "head": "choice", "inputIds": ids.tolist(), "attentionMask": mask.tolist(), "labels": [1, 0, 1],
        "languageLoss": answer.loss.item(), "choiceLoss": answer.mc_loss.item(),
    })

    ids, mask = rows(3, LENGTH)
    tags = torch.where(mask == 1, torch.randint(0, 3, (3, LENGTH)), -100)
    model = random(LlamaForTokenClassification(LlamaConfig(**llama, num_labels=3)))
    answer = model(ids, attention_mask=mask, labels=tags)
    real = answer.logits * mask.unsqueeze(-1)
    keep("llama-tag", model, answer.loss, real, {
        "head": "tag", "inputIds": ids.tolist(), "attentionMask": mask.tolist(), "labels": tags.tolist(),
    })

    starts, ends = torch.tensor([1, 0, 4]), torch.tensor([3, 2, 9])
    model = random(LlamaForQuestionAnswering(LlamaConfig(**llama)))
    answer = model(ids, attention_mask=mask)
    # Logits of padding are left out of the loss, as lineage and the run_qa scripts of BERT have it.
    hidden = (1 - mask) * -1e4
    start, end = answer.start_logits + hidden, answer.end_logits + hidden
    loss = (torch.nn.functional.cross_entropy(start, starts) + torch.nn.functional.cross_entropy(end, ends)) / 2
    real = torch.stack([answer.start_logits, answer.end_logits], -1) * mask.unsqueeze(-1)
    keep("llama-span", model, loss, real, {
        "head": "span", "inputIds": ids.tolist(), "attentionMask": mask.tolist(),
        "starts": starts.tolist(), "ends": ends.tolist(),
    })


main()
