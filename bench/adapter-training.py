"""The PyTorch and peft side of the bench of adapters: reads one JSON request a line, answers with one JSON line."""

import json
import sys
import time

import peft
import torch
from transformers import LlamaConfig, LlamaForCausalLM


def peak_mib():
    """The most memory since `forget_peak`."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


def forget_peak():
    with open("/proc/self/clear_refs", "w") as refs:
        refs.write("5")


def llama(config):
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=config["vocabSize"], max_position_embeddings=config["contextLength"],
        hidden_size=config["hiddenSize"], intermediate_size=config["intermediateSize"],
        num_hidden_layers=config["numLayers"], num_attention_heads=config["numHeads"],
        num_key_value_heads=config["numKeyValueHeads"], tie_word_embeddings=config["tieEmbeddings"], use_cache=False,
    ))


def in_four_bits(model):
    """bitsandbytes' NF4 with double quantisation for all linear layers but the output embeddings, as QLoRA has it."""
    import bitsandbytes

    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.Linear) and name != "lm_head":
                packed = bitsandbytes.nn.Linear4bit(
                    child.in_features, child.out_features, bias=False, compute_dtype=torch.float32,
                    compress_statistics=True, quant_type="nf4",
                )
                packed.weight = bitsandbytes.nn.Params4bit(
                    child.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4", module=packed
                )
                setattr(module, name, packed.to("cpu"))
    return model


def batch_of(rows, vocabulary):
    """Random ids of rows of a prompt and an answer, padded to the longest, as transformers' collator does."""
    longest = max(prompt + answer for prompt, answer in rows)
    ids = torch.randint(3, vocabulary, (len(rows), longest))
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, (prompt, answer) in enumerate(rows):
        mask[row, : prompt + answer] = 1
        labels[row, prompt : prompt + answer] = ids[row, prompt : prompt + answer]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def train(config, kind, rank, batches, checkpointing):
    """`batches`: of each row the tokens of its prompt and of its answer."""
    model = llama(config)
    if kind == "qlora":
        model = in_four_bits(model)
    adapter = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, adapter).train()
    if checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=1e-4)

    def step(batch):
        optimizer.zero_grad(set_to_none=True)
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()

    given = [batch_of(rows, config["vocabSize"]) for rows in batches]
    forget_peak()
    step(max(given, key=lambda batch: batch["input_ids"].numel()))
    start, used = time.perf_counter(), time.process_time()
    for batch in given:
        step(batch)
    return {"seconds": [time.perf_counter() - start], "processor": time.process_time() - used, "peakMiB": peak_mib()}


def main():
    torch.set_num_threads(int(sys.argv[1]))
    print(json.dumps({"version": f"{torch.__version__} with peft {peft.__version__}"}), flush=True)
    for line in sys.stdin:
        try:
            answer = train(**json.loads(line))
        except ImportError as error:
            answer = {"seconds": [], "processor": 0, "peakMiB": 0, "missing": str(error)}
        print(json.dumps(answer), flush=True)


main()
