"""Stands in for LMDeploy's library. FAKE_ENGINE holds JSON that says what it holds and how it ends.

context, load_peak, total, served: bytes of the process at each point      log: lines that it prints while loading
dies: "loading", "warming up" or "serving", with `says` as the last line and `exit` as exit code or (negative) signal
hangs: "loading", "warming up" or "serving"          long_line: bytes without a newline
leaves: exit with 0 at that point      loads_s: seconds of loading
by_session: behaviour by the session length, or by "LENGTH tp N"
mute: every answer ends after its first token
worker: start a process of its own that holds the output open; its id goes into the file `worker`
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import fake_gpu

BEHAVIOUR = json.loads(os.environ.get("FAKE_ENGINE", "{}"))


@dataclass
class TurbomindEngineConfig:
    cache_max_entry_count: float = 0.8
    quant_policy: int = 0
    tp: int = 1
    session_len: int | None = None
    max_batch_size: int | None = None
    max_prefill_token_num: int = 8192
    communicator: str = "nccl"


PytorchEngineConfig = TurbomindEngineConfig


@dataclass
class GenerationConfig:
    max_new_tokens: int
    ignore_eos: bool = False
    do_sample: bool = False
    top_k: int = 50
    top_p: float = 1.0


def _end_if(point: str) -> None:
    if BEHAVIOUR.get("dies") == point:
        print(BEHAVIOUR.get("says", "RuntimeError: broken"), flush=True)
        status = BEHAVIOUR.get("exit", 1)
        if status < 0:
            os.kill(os.getpid(), -status)
        os._exit(status)
    if BEHAVIOUR.get("leaves") == point:
        os._exit(0)
    if BEHAVIOUR.get("hangs") == point:
        time.sleep(600)


class Pipeline:
    def __init__(self) -> None:
        self.requests = 0

    def __call__(self, prompts, gen_config):
        assert gen_config.ignore_eos and prompts
        _end_if("serving")
        time.sleep(0.001 * gen_config.max_new_tokens)
        self.requests += 1
        fake_gpu.hold(BEHAVIOUR.get("served", BEHAVIOUR.get("total", 10**9)))
        made = 1 if BEHAVIOUR.get("mute") else gen_config.max_new_tokens
        return [Response(made) for _ in prompts]


@dataclass
class Response:
    generate_token_len: int


def pipeline(folder, backend_config, log_level, trust_remote_code=False):
    assert (Path(folder) / "config.json").exists()
    (fake_gpu.FOLDER / "seen.json").write_text(
        json.dumps(
            {
                "folder": folder,
                "settings": vars(backend_config),
                "cuda": os.environ["CUDA_VISIBLE_DEVICES"],
                "trust_remote_code": trust_remote_code,
                "sys.path": sys.path,
                "cwd": str(Path.cwd()),
            }
        )
    )
    session = str(backend_config.session_len)
    for key in (session, f"{session} tp {backend_config.tp}"):
        BEHAVIOUR.update(BEHAVIOUR.get("by_session", {}).get(key, {}))
    if BEHAVIOUR.get("worker"):
        worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        (fake_gpu.FOLDER / "worker").write_text(str(worker.pid))
    (fake_gpu.FOLDER / "probe").write_text(str(os.getpid()))
    if "long_line" in BEHAVIOUR:
        sys.stdout.write("x" * BEHAVIOUR["long_line"])
        sys.stdout.flush()
    fake_gpu.hold(BEHAVIOUR.get("load_peak", BEHAVIOUR.get("total", 10**9)))
    time.sleep(BEHAVIOUR.get("loads_s", 0.1))
    _end_if("loading")
    for line in BEHAVIOUR.get("log", []):
        print(line, flush=True)
    _end_if("warming up")
    fake_gpu.hold(BEHAVIOUR.get("total", 10**9))
    (fake_gpu.FOLDER / "serving").write_text("")
    return Pipeline()
