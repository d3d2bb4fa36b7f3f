"""What a synthetic checkpoint needs besides weights: a tokenizer, and configuration code where a config names its own.

The tokenizer is byte-level BPE without merges, so that each byte is a token. `transformers` rebuilds it the same way
whatever class a config's model type maps to, which it does not do for tokenizers with merges or a normalizer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_SPECIAL: Final = ("<unk>", "<s>", "</s>", "<img>", "</img>", "<IMG_CONTEXT>")
"""The last three mark an image in InternVL's prompts (`lmdeploy/vl/model/internvl.py`)."""
NUM_TOKENS: Final = 256 + len(_SPECIAL)
"""Tokens of the stand-in tokenizer; a model's vocabulary must not be smaller."""

_INTERNLM2: Final = '''"""Stand-in: keeps every key of config.json as an attribute."""

from transformers import PretrainedConfig


class InternLM2Config(PretrainedConfig):
    model_type = "internlm2"

    def __init__(self, **values):
        values.setdefault("bias", False)
        for key, value in values.items():
            setattr(self, key, value)
        super().__init__(**values)
'''
_INTERNVL: Final = '''"""Stand-in: the language and the vision section become configs of their own."""

from transformers import LlamaConfig, PretrainedConfig, Qwen2Config, Qwen3Config

from .configuration_internlm2 import InternLM2Config

_LANGUAGE = {
    "InternLM2ForCausalLM": InternLM2Config,
    "LlamaForCausalLM": LlamaConfig,
    "Qwen2ForCausalLM": Qwen2Config,
    "Qwen3ForCausalLM": Qwen3Config,
}


class InternVisionConfig(PretrainedConfig):
    model_type = "intern_vit_6b"

    def __init__(self, **values):
        for key, value in values.items():
            setattr(self, key, value)
        super().__init__(**values)


class InternVLChatConfig(PretrainedConfig):
    model_type = "internvl_chat"
    is_composition = True

    def __init__(self, vision_config=None, llm_config=None, **values):
        super().__init__(**values)
        for key, value in values.items():
            setattr(self, key, value)
        llm_config = dict(llm_config or {"architectures": ["LlamaForCausalLM"]})
        self.vision_config = InternVisionConfig(**(vision_config or {}))
        self.llm_config = _LANGUAGE[llm_config["architectures"][0]](**llm_config)

    def to_dict(self):
        values = super().to_dict()
        values["vision_config"] = self.vision_config.to_dict()
        values["llm_config"] = self.llm_config.to_dict()
        values["model_type"] = self.model_type
        return values
'''
_CODE: Final[Mapping[str, tuple[str, Mapping[str, str]]]] = {
    "internlm2": ("configuration_internlm2.InternLM2Config", {"configuration_internlm2.py": _INTERNLM2}),
    "internvl_chat": (
        "configuration_internvl_chat.InternVLChatConfig",
        {"configuration_internlm2.py": _INTERNLM2, "configuration_internvl_chat.py": _INTERNVL},
    ),
}
"""model_type -> the class for ``auto_map`` and the files it needs."""


def needs_remote_code(config: Mapping[str, Any]) -> bool:
    """Whether transformers loads this config through Python files beside it."""
    return config.get("model_type") in _CODE


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write config.json and, where its model type has no class in transformers, a small class beside it.

    Only the configuration is stood in for. LMDeploy's engines bring their own models; `lmdeploy lite` does not, and
    needs the modelling code that the model's owner publishes.
    """
    written = dict(config)
    written.pop("auto_map", None)
    code = _CODE.get(config.get("model_type", ""))
    if code is not None:
        entry, files = code
        written["auto_map"] = {"AutoConfig": entry}
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    for section in ("llm_config", "text_config"):
        if isinstance(written.get(section), Mapping):
            written[section] = {key: value for key, value in written[section].items() if key != "auto_map"}
    (folder / "config.json").write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


def write_tokenizer(folder: Path, max_length_tokens: int) -> None:
    """Write tokenizer.json and tokenizer_config.json: 256 bytes and a few special tokens."""
    alphabet = _byte_characters()
    vocabulary = {token: index for index, token in enumerate((*_SPECIAL, *sorted(alphabet)))}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    tokenizer: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": index, "content": token, **flags} for index, token in enumerate(_SPECIAL)],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": [],
        },
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "model_max_length": max_length_tokens,
        "chat_template": "{% for message in messages %}{{ message['content'] }}\n{% endfor %}",
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _byte_characters() -> list[str]:
    """The 256 printable characters by which byte-level BPE writes bytes.

    Printable Latin-1 bytes stand for themselves, the others for the code points from 256 on, in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]
