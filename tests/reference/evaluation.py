"""lm-evaluation-harness on a small random LLaMA: likelihoods, scores and standard errors of a multiple-choice task, with plain
prompts and in a chat template, and the perplexity of texts longer than the context; and likelihoods of a small random T5. Needs lm_eval 0.4.13 besides requirements.txt and datasets 4.0.0 (`pip install --no-deps`)."""

import json
import random

import datasets
import lm_eval
import torch
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from common import VALUES, deterministic, made_with, write, write_json, write_safetensors

FOLDER = VALUES / "evaluation"
T5 = VALUES / "evaluation-t5"
CHAT = "{% for message in messages %}<{{ message['role'] }}> {{ message['content'] }}\n{% endfor %}{% if add_generation_prompt %}<assistant>\n{% endif %}"
ANIMALS = ["cat", "dog", "small grey elephant", "zebra", "très vieux hérisson", "fish"]
VERBS = ["eats", "sees", "likes", "follows quietly"]


def row(draw: random.Random) -> dict:
    options = draw.sample(ANIMALS, 4)
    answer = draw.randrange(4)
    return {"question": f"The {options[answer]} {draw.choice(VERBS)} the {draw.choice(ANIMALS)}. Who?", "options": options, "answer": answer}


def lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in rows).encode()


def task(**config) -> ConfigurableTask:
    made = ConfigurableTask(config={"test_split": "test", "dataset_path": "", "metadata": {"version": 1}, **config})
    made.set_fewshot_seed(0)
    return made


def main() -> None:
    deterministic()
    draw = random.Random(5)
    test, train = [row(draw) for _ in range(40)], [row(draw) for _ in range(5)]
    texts = [{"text": " ".join(each["question"] for each in (row(draw) for _ in range(count)))} for count in (1, 9, 60)]
    for name, rows in {"test.jsonl": test, "train.jsonl": train, "texts.jsonl": texts}.items():
        write(FOLDER / name, lines(rows))

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator([each["question"] for each in test], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>")
    fast.chat_template = CHAT
    fast.save_pretrained(FOLDER)

    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=192, bos_token_id=0, eos_token_id=0, tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.25)
    write(FOLDER / "config.json", config.to_json_string().encode())
    write_safetensors(FOLDER / "model.safetensors", {k: v for k, v in model.state_dict().items() if k != "lm_head.weight"})

    data = datasets.DatasetDict({"test": datasets.Dataset.from_list(test), "train": datasets.Dataset.from_list(train)})
    long = datasets.DatasetDict({"test": datasets.Dataset.from_list(texts)})
    metrics = ["acc", "acc_norm", "acc_bytes", "acc_mutual_info"]
    writer = HFLM(pretrained=model, tokenizer=fast, batch_size=4)
    values = {"madeWith": {**made_with(), "lm_eval": lm_eval.__version__}, "shots": {}}
    for shots in (0, 3):
        choice = task(
            task="choice", custom_dataset=lambda **_: data, fewshot_split="train", num_fewshot=shots, fewshot_config={"sampler": "first_n"},
            output_type="multiple_choice", doc_to_text="Question: {{question}}\nAnswer:", doc_to_choice="{{options}}", doc_to_target="answer",
            metric_list=[{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in metrics],
        )
        got = lm_eval.evaluate(lm=writer, task_dict={"choice": choice}, log_samples=True, bootstrap_iters=10)
        samples = sorted(got["samples"]["choice"], key=lambda each: each["doc_id"])
        values["shots"][str(shots)] = {
            "scores": {name: got["results"]["choice"][f"{name},none"] for name in metrics},
            "stderr": {name: got["results"]["choice"].get(f"{name}_stderr,none") for name in metrics},
            "logLikelihoods": [[round(float(pair[0][0]), 6) for pair in each["resps"]] for each in samples],
            "greedy": [[bool(pair[0][1]) for pair in each["resps"]] for each in samples],
        }
    for name, shots, turns in (("0", 0, True), ("1", 1, True), ("3 in one turn", 3, False)):
        choice = task(
            task="choice", custom_dataset=lambda **_: data, fewshot_split="train", num_fewshot=shots, fewshot_config={"sampler": "first_n"},
            output_type="multiple_choice", doc_to_text="Question: {{question}}\nAnswer:", doc_to_choice="{{options}}", doc_to_target="answer",
            description="Who is it?", metric_list=[{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        )
        got = lm_eval.evaluate(
            lm=writer, task_dict={"choice": choice}, log_samples=True, bootstrap_iters=0, apply_chat_template=True, fewshot_as_multiturn=turns, limit=8,
        )
        samples = sorted(got["samples"]["choice"], key=lambda each: each["doc_id"])
        values.setdefault("chat", {})[name] = {
            "prompt": samples[0]["arguments"][0][0],
            "logLikelihoods": [[round(float(pair[0][0]), 6) for pair in each["resps"]] for each in samples],
        }

    rolling = task(
        task="texts", custom_dataset=lambda **_: long, output_type="loglikelihood_rolling", doc_to_text="", doc_to_target="{{text}}",
        metric_list=[{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
    )
    got = lm_eval.evaluate(lm=writer, task_dict={"texts": rolling}, log_samples=True, bootstrap_iters=0)
    values["texts"] = {
        "logLikelihoods": [round(float(each["resps"][0][0]), 5) for each in got["samples"]["texts"]],
        "scores": {name: got["results"]["texts"][f"{name},none"] for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")},
    }

    tokenizer.post_processor = processors.TemplateProcessing(single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", 0)])
    ended = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    ended.save_pretrained(T5)
    torch.manual_seed(4)
    shape = T5Config(
        vocab_size=tokenizer.get_vocab_size(), d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, n_positions=192,
        decoder_start_token_id=0, eos_token_id=0, pad_token_id=0,
    )
    transformer = T5ForConditionalGeneration(shape).eval()
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.25)
    write(T5 / "config.json", transformer.config.to_json_string().encode())
    write_safetensors(T5 / "model.safetensors", {k: v for k, v in transformer.state_dict().items() if "embed_tokens" not in k and k != "lm_head.weight"})
    reader = HFLM(pretrained=transformer, tokenizer=ended, batch_size=1, backend="seq2seq")
    choice = task(
        task="choice", custom_dataset=lambda **_: data, fewshot_split="train", num_fewshot=3, fewshot_config={"sampler": "first_n"},
        output_type="multiple_choice", doc_to_text="Question: {{question}}\nAnswer:", doc_to_choice="{{options}}", doc_to_target="answer",
        metric_list=[{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    )
    got = lm_eval.evaluate(lm=reader, task_dict={"choice": choice}, log_samples=True, bootstrap_iters=0, limit=8)
    samples = sorted(got["samples"]["choice"], key=lambda each: each["doc_id"])
    values["sources"] = {
        "logLikelihoods": [[round(float(pair[0][0]), 6) for pair in each["resps"]] for each in samples],
        "greedy": [[bool(pair[0][1]) for pair in each["resps"]] for each in samples],
    }
    write_json(FOLDER / "values.json", values)


if __name__ == "__main__":
    main()
