"""The Python sides of the translation bench, PyTorch and CTranslate2: one JSON request a line in, one JSON line out."""

import json
import resource
import subprocess
import sys
import tempfile
import time

THREADS = int(sys.argv[1])


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class PyTorch:
    def __init__(self, folder):
        import torch
        from transformers import MarianMTModel

        torch.set_num_threads(THREADS)
        self.torch = torch
        self.model = MarianMTModel.from_pretrained(folder).eval()

    def __call__(self, sources, beams, length):
        with self.torch.inference_mode():
            return self.generate(sources, beams, length)

    def generate(self, sources, beams, length):
        torch = self.torch
        pad = self.model.config.pad_token_id
        longest = max(map(len, sources))
        ids = torch.tensor([row + [pad] * (longest - len(row)) for row in sources])
        written = self.model.generate(
            ids, attention_mask=(ids != pad).long(), num_beams=beams, do_sample=False, forced_eos_token_id=None,
            bad_words_ids=None, min_new_tokens=length, max_new_tokens=length,
        )
        return written[:, 1:].tolist()


def convert(folder, quantization, target):
    """In a process of its own, so that the translator's peak memory is its own as well."""
    from ctranslate2.converters.transformers import MarianMTLoader
    from transformers import MarianMTModel

    model = MarianMTModel.from_pretrained(folder)
    loader = MarianMTLoader()
    spec = loader.get_model_spec(model)
    loader.set_vocabulary(spec, [f"t{i}" for i in range(model.config.vocab_size - 1)])
    spec.config.eos_token = spec.config.decoder_start_token = f"t{model.config.eos_token_id}"
    spec.config.unk_token = "t1"
    spec.validate()
    spec.optimize(quantization=quantization)
    spec.save(target)


class CTranslate2:
    def __init__(self, folder, quantization):
        import ctranslate2

        with tempfile.TemporaryDirectory() as converted:
            command = [sys.executable, __file__, str(THREADS), folder, quantization or "", converted]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            self.translator = ctranslate2.Translator(
                converted, device="cpu", inter_threads=1, intra_threads=THREADS, compute_type=quantization or "float32"
            )

    def __call__(self, sources, beams, length):
        results = self.translator.translate_batch(
            [[f"t{i}" for i in row] for row in sources], beam_size=beams, max_batch_size=len(sources),
            min_decoding_length=length, max_decoding_length=length,
        )
        return [[int(token[1:]) for token in result.hypotheses[0]] for result in results]


ENGINES = {
    "PyTorch": PyTorch,
    "CTranslate2 float32": lambda folder: CTranslate2(folder, None),
    "CTranslate2 int8": lambda folder: CTranslate2(folder, "int8"),
}


def main():
    if len(sys.argv) > 2:
        convert(sys.argv[2], sys.argv[3] or None, sys.argv[4])
        return
    print(json.dumps({"version": sys.version}), flush=True)
    engine = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "engine" in request:
                engine = ENGINES[request["engine"]](request["folder"])
                answer = {"seconds": [], "peakMiB": peak()}
            else:
                start = time.perf_counter()
                ids = engine(request["sources"], request["beams"], request["length"])
                answer = {"seconds": [time.perf_counter() - start], "peakMiB": peak(), "ids": ids}
        except ModuleNotFoundError as error:
            answer = {"seconds": [], "peakMiB": 0, "missing": error.name}
        print(json.dumps(answer), flush=True)


main()
