"""
A small random GPT-1 of Hugging Face transformers: logits, loss, the gradient of every parameter and greedy ids; the number
of parameters of the published size; and the ids of its tokenizer, with a small vocabulary, on texts of many kinds.
"""

import json
import tempfile
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel, OpenAIGPTTokenizerFast

from common import VALUES, deterministic, made_with, write, write_json, write_safetensors

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "Isn't it?  Tabs\tand\nnew lines, and   many spaces.",
    "Zwölf Boxkämpfer jagen Viktor quer über den Sylter Deich: ÄÖÜ ß.",
    "吾輩は猫である。名前はまだ無い。",
    "def f(x): return x**2  # 3.14 e-5 <unk> </w>",
    "emoji 🙂👍🏽 and control \u0000\u0007 characters \ufffd \u200b",
    "",
    " ",
]


def main() -> None:
    deterministic()
    torch.manual_seed(11)
    folder = VALUES / "gpt1-tiny"
    config = OpenAIGPTConfig(
        vocab_size=97, n_positions=64, n_embd=24, n_layer=2, n_head=3, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )
    model = OpenAIGPTLMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
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
    greedy = prompt
    with torch.no_grad():
        for _ in range(48):
            greedy = torch.cat([greedy, model(greedy).logits[:, -1:].argmax(-1)], 1)
    with torch.device("meta"):
        published = sum(p.numel() for p in OpenAIGPTLMHeadModel(OpenAIGPTConfig()).parameters())

    # A vocabulary of its own, learned as the published one: no file of it can be had here.
    words = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    words.normalizer = normalizers.BertNormalizer(lowercase=True)
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    corpus = [
        "the fox and the dog jump over the quick brown hedge. it isn't lazy, is it? returning the boxes over there.",
        "viktor jagt den boxer über den deich; def return x lines spaces many new 吾輩は猫である",
    ] * 3
    words.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=260, special_tokens=["<unk>"], end_of_word_suffix="</w>"))
    state = json.loads(words.to_str())["model"]
    merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in state["merges"]]
    with tempfile.TemporaryDirectory() as place:
        Path(place, "vocab.json").write_text(json.dumps(state["vocab"]))
        Path(place, "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
        tokenizer = OpenAIGPTTokenizerFast(f"{place}/vocab.json", f"{place}/merges.txt")
        encoded = [{"text": text, "ids": tokenizer(text)["input_ids"]} for text in TEXTS]
        for entry in encoded:
            entry["decoded"] = tokenizer.decode(entry["ids"], clean_up_tokenization_spaces=False)
    write_json(
        folder / "values.json",
        {
            "madeWith": made_with(),
            "inputIds": inputs.tolist(),
            "labels": labels.tolist(),
            "loss": loss.item(),
            "prompt": prompt[0].tolist(),
            "greedy": greedy[0, 9:].tolist(),
            "publishedParameters": published,
            "tokenizer": {"vocabulary": state["vocab"], "merges": merges, "texts": encoded},
        },
    )


main()
