"""The Python side of the alignment bench, transformers and trl 1.12.0: one JSON request a line in, one JSON line out."""

import contextlib
import json
import resource
import sys
import tempfile
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, TrainerCallback

THREADS = int(sys.argv[1])
PAD, END = 0, 1


def config(shape, **more):
    return LlamaConfig(
        vocab_size=shape["vocabSize"], hidden_size=shape["hiddenSize"], intermediate_size=shape["intermediateSize"],
        num_hidden_layers=shape["numLayers"], num_attention_heads=shape["numHeads"],
        num_key_value_heads=shape["numKeyValueHeads"], max_position_embeddings=shape["contextLength"],
        tie_word_embeddings=True, pad_token_id=PAD, eos_token_id=END, bos_token_id=None, **more,
    )


def tokenizer():
    """Never asked for text: what it has is a pad token and an end."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": PAD, "<end>": END, "<unk>": 2}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<end>", unk_token="<unk>")


class Times(TrainerCallback):
    """Seconds of each step."""

    def __init__(self):
        self.marks = []

    def on_train_begin(self, *_, **__):
        self.marks.append(time.perf_counter())

    def on_step_end(self, *_, **__):
        self.marks.append(time.perf_counter())

    @property
    def seconds(self):
        return [after - before for before, after in zip(self.marks, self.marks[1:])][1:]


def rollouts(shape, prompts, tokens, **_):
    model = LlamaForCausalLM(config(shape)).eval()
    longest = max(map(len, prompts))
    # As trl pads them: on the left.
    ids = torch.tensor([[PAD] * (longest - len(row)) + row for row in prompts])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in prompts])

    def write(count):
        with torch.inference_mode():
            model.generate(
                ids, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                min_new_tokens=count, max_new_tokens=count,
            )

    write(2)
    start = time.perf_counter()
    write(tokens)
    return [time.perf_counter() - start]


def common(folder):
    return dict(
        output_dir=folder, use_cpu=True, report_to=[], save_strategy="no", logging_strategy="no", bf16=False,
        gradient_checkpointing=False, learning_rate=1e-6, lr_scheduler_type="constant", disable_tqdm=True,
    )


def dpo(shape, pairs, steps, batch, **_):
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    # The pairs are ids already.
    DPOTrainer._prepare_dataset = lambda self, dataset, *_, **__: dataset
    rows = [{"prompt_ids": row["prompt"], "chosen_ids": row["chosen"], "rejected_ids": row["rejected"]} for row in pairs]
    times = Times()
    with tempfile.TemporaryDirectory() as folder:
        trainer = DPOTrainer(
            model=LlamaForCausalLM(config(shape)),
            args=DPOConfig(
                per_device_train_batch_size=batch, max_steps=steps + 1, max_length=None,
                precompute_ref_log_probs=True, **common(folder),
            ),
            train_dataset=Dataset.from_list(rows), processing_class=tokenizer(), callbacks=[times],
        )
        trainer.train()
    return times.seconds


def ppo(shape, prompts, tokens, steps, epochs, **_):
    from datasets import Dataset
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    rows = [{"input_ids": row} for row in prompts * (steps + 1)]
    times = Times()
    classes = dict(num_labels=1)
    small = dict(shape, hiddenSize=64, intermediateSize=64, numLayers=1, numHeads=1, numKeyValueHeads=1)
    with tempfile.TemporaryDirectory() as folder:
        trainer = PPOTrainer(
            args=PPOConfig(
                per_device_train_batch_size=len(prompts), num_mini_batches=1, num_ppo_epochs=epochs,
                local_rollout_forward_batch_size=len(prompts), response_length=tokens,
                total_episodes=len(prompts) * (steps + 1), num_sample_generations=0, temperature=1.0, **common(folder),
            ),
            processing_class=tokenizer(), model=LlamaForCausalLM(config(shape)), ref_model=LlamaForCausalLM(config(shape)),
            reward_model=LlamaForSequenceClassification(config(small, **classes)),
            value_model=LlamaForSequenceClassification(config(shape, **classes)),
            train_dataset=Dataset.from_list(rows), callbacks=[times],
        )
        # A text that ended early would be less work there than here.
        trainer.policy_model.generation_config.min_new_tokens = tokens
        trainer.train()
    return times.seconds


def main():
    torch.set_num_threads(THREADS)
    torch.manual_seed(1)
    print(json.dumps({"version": torch.__version__}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        op = {"rollouts": rollouts, "dpo": dpo, "ppo": ppo}[request.pop("op")]
        answer = {"seconds": []}
        try:
            # trl prints what it does.
            with contextlib.redirect_stdout(sys.stderr):
                answer["seconds"] = op(**request)
        except ModuleNotFoundError as error:
            answer["missing"] = f"no {error.name}"
        except Exception as error:  # What a peer cannot do is a line of the table, and the others go on.
            answer["missing"] = f"{type(error).__name__}: {error}"
        answer["peakMiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(answer), flush=True)


main()
