"""Log-likelihoods by transformers in float32: reads one JSON request a line, answers with one JSON line."""

import json
import sys

import torch
import transformers


def rounded(_, inputs):
    """Inputs of a product in 8 bits, 32 at a time, as ggml's Q8_0 has them."""
    blocks = inputs[0].unflatten(-1, (-1, 32))
    scale = (blocks.abs().amax(-1, keepdim=True) / 127).clamp(min=1e-30)
    return ((blocks / scale).round() * scale).flatten(-2)


def main():
    torch.set_num_threads(int(sys.argv[1]))
    print(json.dumps({"version": f"transformers {transformers.__version__} on PyTorch {torch.__version__}"}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        model = transformers.AutoModelForCausalLM.from_pretrained(request["model"], dtype=torch.float32).eval()
        if request["rounded"]:
            for module in model.modules():
                if isinstance(module, torch.nn.Linear):
                    module.register_forward_pre_hook(rounded)
        found = []
        with torch.inference_mode():
            for row in request["rows"]:
                sums = []
                for each in row:
                    context, target = each["context"], each["target"]
                    logits = model(torch.tensor([context + target[:-1]])).logits[0, len(context) - 1 :]
                    sums.append(float(logits.log_softmax(-1).gather(1, torch.tensor(target)[:, None]).sum()))
                found.append(sums)
        print(json.dumps({"logLikelihoods": found, "seconds": [0]}), flush=True)


if __name__ == "__main__":
    main()
