"""The program that runs inside LMDeploy's Python: start the engine, serve a few requests, say where it stands.

It imports nothing of lmplan, so it runs in whichever environment holds LMDeploy: ``python probe.py CASE.json``, as a
copy in an empty folder, so that nothing beside it is imported by mistake.
It writes one line ``@lmplan {...}`` at each phase and waits for a line on standard input, so that whoever measures
reads the GPU while nothing moves. Where standard input closes, whoever measured is gone, and it ends with its workers.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

MARK = "@lmplan "
SHORT_TOKENS = 32
DECODE_TOKENS = 64


class Probe:
    """One case from context to full load. `case` is described in `quantize.measure.run.probe_case`."""

    def __init__(self, case: dict[str, Any], source: Any = None, sink: Any = None) -> None:
        self.case = case
        self.source = source or sys.stdin
        self.sink = sink or sys.stdout
        self.pipe: Any = None

    def say(self, phase: str, **facts: Any) -> None:
        """Report a phase and wait until it has been measured."""
        self.sink.write(f"\n{MARK}{json.dumps({'phase': phase, **facts})}\n")
        self.sink.flush()
        if not self.source.readline():
            os._exit(1)

    def run(self) -> None:
        """Every phase in turn."""
        import torch

        torch.cuda.init()
        free_bytes, total_bytes = torch.cuda.mem_get_info()
        self.say("context", free_bytes=free_bytes, total_bytes=total_bytes, versions=versions(torch))
        began = time.monotonic()
        self.load()
        torch.cuda.synchronize()
        self.say(
            "loaded",
            seconds=time.monotonic() - began,
            torch_reserved_peak_bytes=torch.cuda.max_memory_reserved(),
            torch_reserved_bytes=torch.cuda.memory_reserved(),
        )
        if not self.case["load_only"]:
            self.requests()
        self.say("done")

    def load(self) -> None:
        """Start the engine on the checkpoint."""
        import lmdeploy

        case = self.case
        turbomind = case["engine"] == "turbomind"
        kind: Any = lmdeploy.TurbomindEngineConfig if turbomind else lmdeploy.PytorchEngineConfig
        known = getattr(kind, "__dataclass_fields__", case["settings"])  # dtype, for one, came later than the rest
        config = kind(**{name: value for name, value in case["settings"].items() if name in known})
        options: dict[str, Any] = {"backend_config": config, "log_level": "INFO"}
        try:
            self.pipe = lmdeploy.pipeline(case["folder"], trust_remote_code=case["trust_remote_code"], **options)
        except TypeError:  # versions before 0.13 trust without being asked; whoever measures has looked for code
            self.pipe = lmdeploy.pipeline(case["folder"], **options)

    def generate(self, prompts: list[Any], new_tokens: int, **sampling: Any) -> tuple[float, int]:
        """Serve `prompts` at once; the seconds it took and the tokens that were made."""
        import lmdeploy

        config = lmdeploy.GenerationConfig(max_new_tokens=new_tokens, ignore_eos=True, **sampling)
        began = time.monotonic()
        answers = self.pipe(prompts, gen_config=config)
        seconds = time.monotonic() - began
        # An answer that failed altogether may be nothing at all.
        made = [getattr(answer, "generate_token_len", 0) for answer in answers] if isinstance(answers, list) else []
        return seconds, sum(made)

    def requests(self) -> None:
        """A short request, a long prefill, growing batches, sampling, and an image for a model that sees."""
        case = self.case
        self.generate([text(SHORT_TOKENS)], 4)
        self.say("short_request")
        long_tokens = case["prefill_tokens"]
        if long_tokens:
            self.generate([text(long_tokens)], 1)
            seconds, _ = self.generate([text(long_tokens, "b")], 1)
            self.say("long_prefill", tokens=long_tokens, seconds=seconds)
        for batch in case["decode_batches"]:
            prompts = [text(SHORT_TOKENS, str(i)) for i in range(batch)]
            (short, first), (long, all_of_them) = self.generate(prompts, 1), self.generate(prompts, 1 + DECODE_TOKENS)
            self.say("decode", batch=batch, tokens=all_of_them - first, seconds=long - short)
        if case["full_batch"]:
            prompts = [text(256 + 4 * (i % 100), str(i)) for i in range(case["full_batch"])]
            self.generate(prompts, 16)
            self.say("full_batch", sequences=len(prompts))
            self.generate(prompts, 4, do_sample=True, top_k=0, top_p=0.9)
            self.say("sampled_batch", sequences=len(prompts))
        if case["image_pixels"]:
            from PIL import Image

            side = case["image_pixels"]
            self.generate([("what is this?", Image.new("RGB", (side, side), "white"))], 4)
            self.say("image", pixels=side)


def versions(torch: Any) -> dict[str, str]:
    """What runs here; LMDeploy is not imported yet, because that may take memory of its own."""
    found = {"python": platform.python_version(), "torch": str(torch.__version__)}
    cuda = getattr(getattr(torch, "version", None), "cuda", None)
    if cuda:
        found["cuda"] = str(cuda)
    for name in ("lmdeploy", "transformers"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def guard() -> None:
    """Leave a small process behind that ends the whole group once standard input closes, whatever the engine does then.

    Loading may take minutes in which nobody reads, and the PyTorch engine's workers would outlive this process.
    """
    parent = os.getpid()
    if os.getpgrp() != parent or os.fork():
        return
    for descriptor in (1, 2):  # or the output would never end
        os.close(descriptor)
    waiter = select.poll()
    waiter.register(0, 0)  # a hang-up is told unasked
    while os.getppid() == parent:
        if waiter.poll(1000):
            os.killpg(parent, signal.SIGKILL)
    os._exit(0)


def text(num_tokens: int, first: str = "a") -> str:
    """A prompt of about `num_tokens` tokens: the stand-in tokenizer has a token a byte, real ones pack words."""
    return (first + " a" * num_tokens)[:num_tokens]


if __name__ == "__main__":
    guard()
    Probe(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))).run()
    # Engines leave threads behind that would hold the interpreter.
    os._exit(0)
