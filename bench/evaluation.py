"""The side of EleutherAI's lm-evaluation-harness: reads one JSON request a line, answers with one JSON line."""

import json
import os
import resource
import sys
import time

os.environ["TQDM_DISABLE"] = "1"

import datasets
import lm_eval
import torch
import transformers
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM

transformers.utils.logging.set_verbosity_error()
datasets.disable_progress_bars()


def read(file):
    with open(file, encoding="utf8") as lines:
        return [json.loads(line) for line in lines]


def evaluate(writer, request, rows):
    data = datasets.DatasetDict(
        {"test": datasets.Dataset.from_list(rows), "train": datasets.Dataset.from_list(read(f"{request['folder']}/train.jsonl"))}
    )
    task = ConfigurableTask(
        config={
            "task": "bench", "custom_dataset": lambda **_: data, "dataset_path": "", "test_split": "test", "fewshot_split": "train",
            "num_fewshot": request["shots"], "fewshot_config": {"sampler": "first_n"}, "output_type": "multiple_choice",
            "doc_to_text": request["prompt"], "doc_to_choice": request["choices"], "doc_to_target": "answer",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}], "metadata": {"version": 1},
        }
    )
    task.set_fewshot_seed(0)
    return lm_eval.evaluate(lm=writer, task_dict={"bench": task}, log_samples=True, bootstrap_iters=0)


def main():
    torch.set_num_threads(int(sys.argv[1]))
    answers = sys.stdout
    # What the harness prints is no answer.
    sys.stdout = sys.stderr
    print(json.dumps({"version": f"{lm_eval.__version__} on PyTorch {torch.__version__}"}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        model = transformers.AutoModelForCausalLM.from_pretrained(request["model"], dtype=torch.float32).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(request["model"])
        writer = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=request["batch"], add_bos_token=False)
        rows = read(f"{request['folder']}/test.jsonl")[: request["rows"]]
        evaluate(writer, request, rows[:2])
        start, before = time.perf_counter(), time.process_time()
        with torch.inference_mode():
            found = evaluate(writer, request, rows)
        seconds, cpu = time.perf_counter() - start, time.process_time() - before
        samples = sorted(found["samples"]["bench"], key=lambda each: each["doc_id"])
        print(
            json.dumps(
                {
                    "seconds": [seconds],
                    "cpuSeconds": cpu,
                    "peakMiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                    "logLikelihoods": [[float(pair[0][0]) for pair in each["resps"]] for each in samples],
                    "accuracy": found["results"]["bench"]["acc,none"],
                }
            ),
            file=answers,
            flush=True,
        )


if __name__ == "__main__":
    main()
