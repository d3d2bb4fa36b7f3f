"""Which engine of which version serves what: the table against LMDeploy itself, and what refusals say of it."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from planner.errors import UnsupportedModelError
from planner.hardware.gpu import find_gpu
from planner.lmdeploy import versions
from planner.lmdeploy.settings import Request, decide
from planner.model import catalog
from planner.model.arch.registry import KNOWN_LATER, READERS, read_spec

NEWEST = Version(versions.newest())


@pytest.mark.parametrize(
    ("model", "wishes", "words", "hint"),
    [
        (
            "qwen3-8b",
            {"lmdeploy": "0.5.3"},
            "LMDeploy 0.5.3 does not take Qwen3ForCausalLM",
            "TurboMind takes it from 0.7.3 on",
        ),
        ("gemma-2-9b", {"lmdeploy": "0.10.2"}, "does not take Gemma2ForCausalLM", "the PyTorch engine in 0.18.0"),
        ("internlm-chat-7b", {}, "0.18.0 does not take InternLMForCausalLM", "from 0.4.0 to before 0.14.0"),
        ("gpt-oss-20b", {"engine": "pytorch"}, "the PyTorch engine does not serve MXFP4", "--engine turbomind"),
        ("glm-4-9b", {"engine": "turbomind"}, "does not take ChatGLMForConditionalGeneration", "--engine pytorch"),
    ],
)
def test_who_takes_what_this_one_does_not(model: str, wishes: dict[str, Any], words: str, hint: str) -> None:
    entry = catalog.load(model)
    assert entry is not None
    wishes = dict(wishes)
    lmdeploy = versions.resolve(wishes.pop("lmdeploy", None))
    with pytest.raises(UnsupportedModelError, match=words) as caught:
        decide(read_spec(entry.config, model), find_gpu("h200"), lmdeploy, Request(**wishes))
    assert hint in caught.value.hint


def test_every_architecture_is_read_or_known_by_name() -> None:
    served = set(versions.turbomind_architectures(NEWEST)) | set(versions.pytorch_architectures(NEWEST))
    assert served <= set(READERS) | set(KNOWN_LATER)


def _assigned(path: Path) -> set[str]:
    """Every key of a dict or keyword of a call that a file writes down."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            names |= {key.value for key in node.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}
        elif isinstance(node, ast.Call):
            names |= {word.arg for word in node.keywords if word.arg}
    return names


@pytest.mark.lmdeploy
def test_the_table_is_that_of_the_newest_version() -> None:
    found = importlib.util.find_spec("lmdeploy")
    assert found is not None
    assert found.origin is not None
    root = Path(found.origin).parent
    turbomind = {name for name in _assigned(root / "turbomind/supported_models.py") if name[0].isupper()}
    assert set(versions.turbomind_architectures(NEWEST)) == turbomind
    assert len(turbomind) == 19
    modules = _assigned(root / "pytorch/models/module_map.py")
    dropped = {"InternLMForCausalLM", "QWenLMHeadModel", "BaiChuanForCausalLM", "BaichuanForCausalLM"}
    dropped |= {"Starcoder2ForCausalLM", "InternLM2VEForCausalLM", "MllamaForConditionalGeneration"}
    drafts = {name for name in modules if any(word in name for word in ("Eagle", "MTP", "DFlash"))}
    models = {name for name in modules if name[0].isupper()} - dropped - drafts
    assert set(versions.pytorch_architectures(NEWEST)) == models
    assert len(models) == 60
