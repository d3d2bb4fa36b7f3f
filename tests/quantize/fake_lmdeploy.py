"""Stands in for the `lmdeploy` command in tests. FAKE_LMDEPLOY holds JSON that says how it behaves.

version: what --version says            help: what `lite auto_awq --help` says, or an exit code
fail: exit code after the first layer, with a traceback that ends in `error`
silent: seconds without output          long_line: bytes on one line
nan, truncated, no_tokenizer, wrong_shape, inf, zero: break the result so
stubborn: ignore SIGTERM                grandchild: leave a process behind that holds the output open
touch: a file to create when the run has begun
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

BEHAVIOUR = json.loads(os.environ.get("FAKE_LMDEPLOY", "{}"))
OPTIONS = (
    "--revision --download-dir --work-dir --calib-dataset --calib-samples --calib-seqlen --batch-size --search-scale "
    "--dtype --trust-remote-code --device --w-bits --w-sym --w-group-size"
)


def main() -> int:
    words = sys.argv[1:]
    if words == ["--version"]:
        print("a warning first")
        print(BEHAVIOUR.get("version", "0.18.0"))
        return 0
    if words[:2] != ["lite", "auto_awq"]:
        return 2
    if "--help" in words:
        answer = BEHAVIOUR.get("help", "usage: lmdeploy lite auto_awq " + OPTIONS)
        if isinstance(answer, int):
            print("ModuleNotFoundError: No module named 'torch'")
            return answer
        print(answer)
        return 0
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    for option in OPTIONS.split():
        flag = option in ("--search-scale", "--trust-remote-code", "--w-sym")
        parser.add_argument(option, **({"action": "store_true"} if flag else {}))
    return quantize(parser.parse_args(words[2:]))


def quantize(arguments: argparse.Namespace) -> int:
    # Only here: most runs ask for no more than a version or a list of options.
    from planner.model import formats
    from planner.model.arch import read_spec
    from planner.model.inventory import inventory

    if BEHAVIOUR.get("stubborn"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "touch" in BEHAVIOUR:
        Path(BEHAVIOUR["touch"]).write_text(str(os.getpid()))
    result = Path(arguments.work_dir)
    (result / "inputs_stats.pth").write_bytes(b"statistics")
    config = json.loads((arguments.model / "config.json").read_text())
    spec = read_spec({**config, "torch_dtype": "float16"}, "fake")
    print("Loading calibrate dataset ...", flush=True)
    if "long_line" in BEHAVIOUR:
        sys.stdout.write("x" * BEHAVIOUR["long_line"] + "\n")
    if "grandchild" in BEHAVIOUR:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    layers = spec.text.num_layers
    for layer in range(layers):
        print(f"model.layers.{layer}, samples: 1, max gpu memory: {layer}.50 GB", flush=True)
        if "fail" in BEHAVIOUR:
            print("Traceback (most recent call last):\n  File x\n    raise")
            print(BEHAVIOUR.get("error", "RuntimeError: broken"), flush=True)
            if BEHAVIOUR["fail"] < 0:
                os.kill(os.getpid(), -BEHAVIOUR["fail"])
            return int(BEHAVIOUR["fail"])
        time.sleep(BEHAVIOUR.get("silent", 0))
    for layer in range(layers):
        print(f"model.layers.{layer} smooth weight done. max gpu memory: 2.00 GB")
    groups = inventory(spec)
    for group, replaced in formats.divide(groups, formats.W4A16):
        if replaced:
            for tensor in group.expand():
                print(f"{tensor.name.removesuffix('.weight')} weight packed.")
    write_result(arguments, result, config, groups)
    return 0


def write_result(arguments: argparse.Namespace, result: Path, config: dict, groups: tuple) -> None:
    from planner.model import formats
    from planner.model.dtypes import DType
    from planner.model.rewrite import quantized_config
    from quantize.checkpoint import synthetic

    synthetic._POOL_VALUES = 1009  # drawing a million values takes seconds
    quantization = formats.Quantization(formats.QuantMethod.AWQ, 4, int(arguments.w_group_size))
    stored = formats.store(groups, quantization)
    if BEHAVIOUR.get("wrong_shape"):
        stored = stored[:-1]
    assert all(group.dtype in (DType.F16, DType.I32) for group in stored)
    path = synthetic.write_checkpoint(
        result, quantized_config({**config, "torch_dtype": "float16"}, quantization), stored, fill="drawn"
    )
    (result / "LMPLAN_SYNTHETIC").unlink()
    if BEHAVIOUR.get("no_tokenizer"):
        (result / "tokenizer.json").unlink()
    if BEHAVIOUR.get("truncated"):
        os.truncate(path, path.stat().st_size - 1000)
    for name, word in (("nan", b"\x00\x7e"), ("inf", b"\x00\x7c"), ("zero", b"\x00\x00")):
        if BEHAVIOUR.get(name):
            poke_scales(path, word, every=name == "zero")
    if BEHAVIOUR.get("plain_config"):
        shutil.copyfile(arguments.model / "config.json", result / "config.json")


def poke_scales(path: Path, word: bytes, every: bool) -> None:
    """Overwrite the first scale of the file, or all of the first scales."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    name = next(name for name in header if name.endswith(".scales"))
    start, end = (8 + length + offset for offset in header[name]["data_offsets"])
    with path.open("r+b") as file:
        file.seek(start)
        file.write(word * ((end - start) // 2 if every else 1))


if __name__ == "__main__":
    sys.exit(main())
