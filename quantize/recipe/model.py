"""The recipe: everything that a quantization run is told, as one strict model. Reading it is `recipe_file`'s part."""

from __future__ import annotations

import hashlib
import json
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, field_validator, model_validator

from planner.kinds import EngineName

DRAWN: Final = "drawn"
"""The dataset name for calibration text that lmplan draws at random."""

_STRICT: Final = ConfigDict(extra="forbid", strict=True, frozen=True)

Text = Annotated[str, Field(min_length=1, pattern=r"^[^\x00-\x1f]+$")]
"""A text on one line: names and paths hold no control characters."""

BatchSize = Annotated[
    int | Literal["auto"],
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1, "maximum": 4096}, {"const": "auto"}]}),
]


def expanded(text: str) -> Path:
    """A path with ``~`` replaced; as it is where there is no such home folder."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


class MethodName(str, Enum):
    """The ways of quantizing that `lmplan quantize` runs."""

    AWQ = "awq"


class Calibration(BaseModel):
    """What the activations are measured on. At most one of `dataset`, `text` and `data_free`."""

    model_config = _STRICT

    dataset: Text | None = Field(None, description="A dataset that this LMDeploy names, or `drawn`.")
    text: Text | None = Field(None, description="Your own text: a .txt, .jsonl or .parquet file.")
    text_field: Text = Field("text", description="The field of .jsonl rows or .parquet columns to use.")
    data_free: bool = Field(False, description="Round without calibration (LMDeploy 0.14 and later).")
    samples: int = Field(128, ge=1, le=65536, description="Sequences to run.")
    seqlen: int = Field(2048, ge=1, le=1048576, description="Tokens of each sequence.")
    batch_size: BatchSize = Field("auto", description="Sequences a layer takes at once, or `auto`: as many as fit.")

    @field_validator("batch_size", mode="before")
    @classmethod
    def _batch_size(cls, value: Any) -> Any:
        if value != "auto" and (type(value) is not int or not 1 <= value <= 4096):
            raise ValueError("expected a whole number from 1 to 4096, or auto")
        return value

    @model_validator(mode="after")
    def _one_source(self) -> Calibration:
        given = [name for name in ("dataset", "text") if getattr(self, name) is not None]
        given += ["data_free"] if self.data_free else []
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are set; keep one of them")
        return self


class Target(BaseModel):
    """What the result is for: the estimate at the end is made for it."""

    model_config = _STRICT

    gpu: Text = Field(description="A GPU that `lmplan gpus` lists, or a size, e.g. 24GiB.")
    sm: int | None = Field(None, ge=70, le=130, description="Compute capability, for a size only: 80, 89, ...")
    num_gpus: int = Field(1, ge=1, le=64, description="GPUs that share the model (tensor parallel).")
    engine: Annotated[EngineName, Field(strict=False)] = EngineName.TURBOMIND
    lmdeploy: str | None = Field(
        None, min_length=1, description="LMDeploy version that serves; else the one that runs."
    )
    kv_bits: Literal[16, 8, 4] = Field(16, description="Bits of a KV cache element (quant_policy 0, 8, 4).")
    ratio: float = Field(0.8, gt=0, lt=1, description="cache_max_entry_count.")
    context_tokens: int = Field(8192, ge=1, le=2**28, description="Longest session in tokens.")
    concurrency: int = Field(1, ge=1, le=65536, description="Sessions at once.")


class QualityCheck(str, Enum):
    """How a result is held against its original."""

    FULL = "full"
    WEIGHTS = "weights"
    NONE = "none"


class Check(BaseModel):
    """How far the result may be from what was predicted, and from the original.

    The limits lie well above the worst of ten good runs of SmolLM2-135M, one in groups of 192 (docs/quantize.md has
    them all). Larger models and smaller groups lose less.
    """

    model_config = _STRICT

    bytes_tolerance: float = Field(
        0.0001, ge=0, le=1, description="Share by which the checkpoint's bytes may differ from the predicted ones."
    )
    quality: Annotated[QualityCheck, Field(strict=False)] = Field(
        QualityCheck.FULL, description="Compare the weights with the original's, and held-out text too, or nothing."
    )
    text: Text | None = Field(None, description="Your own held-out text: a .txt, .jsonl or .parquet file.")
    text_field: Text = Field("text", description="The field of .jsonl rows or .parquet columns to use.")
    linear_error: float = Field(0.25, gt=0, description="RMS of a linear's difference over that of its weights.")
    group_error: float = Field(0.6, gt=0, description="The same of the worst group of any linear.")
    weight_steps: float = Field(1.9, gt=0, description="Steps of 4 bits that any weight may be off; rounding is 0.5.")
    perplexity_increase: float = Field(0.6, gt=0, description="Share by which perplexity may rise on held-out text.")
    mean_kl_nats: float = Field(0.6, gt=0, description="Mean divergence of the next token's distribution, in nats.")
    p99_kl_nats: float = Field(4.0, gt=0, description="The divergence that one token in a hundred exceeds, in nats.")
    top1_agreement: float = Field(0.5, ge=0, le=1, description="Share of tokens whose likeliest next one is the same.")


class Recipe(BaseModel):
    """One quantization job."""

    model_config = _STRICT

    model: Text = Field(description="A folder, a Hugging Face id or a catalog name.")
    revision: Text | None = Field(None, description="Commit, tag or branch of a Hugging Face id.")
    draw: bool = Field(False, description="Draw the weights at random instead of loading them (tests, measuring).")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Of what is drawn.")
    output: Text = Field(description="Folder of the result; it must not exist or be empty.")
    method: Annotated[MethodName, Field(strict=False)] = MethodName.AWQ
    bits: int = Field(4, ge=1, le=16, description="Bits of a weight; LMDeploy packs 4.")
    group_size: int = Field(128, ge=1, le=2**14, description="Inputs that share a scale.")
    symmetric: bool = Field(False, description="Without zero points; LMDeploy fails with it.")
    search_scale: bool = Field(False, description="Search each layer's scale ratio: better, and far slower.")
    dtype: Literal["auto", "float16", "bfloat16"] = "auto"
    device: Literal["cuda", "cpu"] = "cuda"
    trust_remote_code: bool = Field(False, description="Run Python files that come with the model.")
    keep_statistics: bool = Field(False, description="Keep inputs_stats.pth and outputs_stats.pth in the result.")
    silence_s: int = Field(3600, ge=1, le=604800, description="Give up after so many seconds without a line.")
    calibration: Calibration = Field(default_factory=lambda: Calibration.model_validate({}))
    deployment: Target | None = None
    check: Check = Field(default_factory=lambda: Check.model_validate({}))

    @property
    def output_folder(self) -> Path:
        """`output` as a path, with ~ spelled out where there is a home folder."""
        return expanded(self.output)

    def sha256(self) -> str:
        """Hash of what makes the checkpoint: defaults are spelled out, and neither comments nor order count.

        What the result is for, how it is checked and how long LMDeploy may be silent change nothing in it.
        """
        values = self.model_dump(mode="json", exclude={"deployment", "check", "silence_s"})
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def json_schema() -> dict[str, Any]:
    """JSON Schema of a recipe file, for editors and reviewers."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}
