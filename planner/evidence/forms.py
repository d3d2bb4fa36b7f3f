"""What is read of measurements, estimates and ledgers, as strict models: nothing reads a field that was not looked at.

Only commands that read such a file import this; planning needs no pydantic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from planner.errors import UsageError
from planner.files.escape import shown
from planner.verdict import Outcome, Verdict

OUTCOMES: Final = (*map(str, Outcome), "failed")
"""How a measured start goes: as estimates say, or for reasons that have nothing to do with GPU memory."""

Bytes = Annotated[int, Field(ge=0, le=2**50)]
Count = Annotated[int, Field(ge=0, le=2**40)]
Positive = Annotated[int, Field(ge=1, le=2**40)]
Name = Annotated[str, Field(min_length=1, max_length=1000)]


class _Form(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class _Host(_Form):
    product: Name
    memory_total_bytes: Bytes
    driver: str
    compute_capability: Count
    lmdeploy: Name = ""


class _Model(_Form):
    name: Name
    config: dict[str, Any] | str = ""


class _Checkpoint(_Form):
    format: Literal["16-bit", "awq", "gptq", "fp8"] = "16-bit"
    synthetic: bool = False


class _Settings(_Form):
    """Of an estimate; a measurement may lack any."""

    engine: Literal["turbomind", "pytorch"]
    lmdeploy: Name
    weights: Literal["as-is", "w4a16", "fp8"]
    dtype: Literal["auto", "float16", "bfloat16"]
    quant_policy: Literal[0, 4, 8]
    cache_max_entry_count: float = Field(gt=0, le=2**24)
    tp: Positive
    session_len: Positive
    max_batch_size: Positive
    max_prefill_token_num: Positive


class _RanSettings(_Form):
    engine: Literal["turbomind", "pytorch"] | None = None
    lmdeploy: Name | None = None
    weights: Literal["as-is", "w4a16", "fp8"] | None = None
    dtype: Literal["auto", "float16", "bfloat16"] | None = None
    quant_policy: Literal[0, 4, 8] | None = None
    cache_max_entry_count: float | None = Field(None, gt=0, le=2**24)
    tp: Positive | None = None
    session_len: Positive | None = None
    max_batch_size: Positive | None = None
    max_prefill_token_num: Positive | None = None


class _Phase(_Form):
    name: Name
    used_bytes: list[Bytes] = Field(min_length=1, max_length=1024)
    peak_bytes: list[Bytes] = Field(min_length=1, max_length=1024)
    facts: dict[str, Any] = {}


class _EngineLog(_Form):
    """None of them is null where it is there."""

    free_bytes: Bytes = 0
    kv_budget_bytes: Bytes = 0
    block_bytes: Bytes = 0
    slab_bytes: Bytes = 0
    blocks_per_slab: Count = 0
    blocks: Count = 0


class MeasurementForm(_Form):
    """One start of LMDeploy (``lmplan.measurement/1``)."""

    complete: bool
    outcome: Literal[OUTCOMES]  # type: ignore[valid-type]  # a tuple of texts is what Literal takes
    host: _Host
    model: _Model
    checkpoint: _Checkpoint
    settings: _RanSettings
    free_before_bytes: Bytes
    phases: list[_Phase] = Field(max_length=1000)
    engine_log: _EngineLog
    load_peak_bytes: Bytes
    peak_bytes: Bytes
    speed: list[dict[str, Any]] = []
    error: str = ""
    date: str = ""
    note: str = ""


class _Gpu(_Form):
    free_bytes: Bytes


class _KvCache(_Form):
    block_bytes: Bytes
    blocks: Count


class _Term(_Form):
    name: Name
    bytes: Bytes
    low_bytes: Bytes
    high_bytes: Bytes


class _PerGpu(_Form):
    total_bytes: Bytes
    load_peak_bytes: Bytes
    terms: list[_Term] = Field(max_length=1000)

    @model_validator(mode="after")
    def _with_kv_cache(self) -> _PerGpu:
        if not any(term.name == "kv_cache" for term in self.terms):
            raise ValueError("terms lacks kv_cache")
        return self


class EstimateForm(_Form):
    """What a comparison, or a run of the same plan, reads of an estimate (``lmplan.estimate/1``)."""

    model: _Model
    gpu: _Gpu
    settings: _Settings
    per_gpu: _PerGpu
    kv_cache: _KvCache
    verdict: Annotated[Verdict, Field(strict=False)]


class LedgerForm(_Form):
    """A ledger to which runs are added (``lmplan.ledger/1``); each run is looked at as it is read."""

    configs: dict[str, dict[str, Any]]
    runs: list[dict[str, Any]]


_EXPECTED: Final = {
    "model_type": "an object",
    "dict_type": "an object",
    "list_type": "a list",
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "a text",
    "bool_type": "true or false",
    "string_too_short": "a text that is not empty",
    "string_too_long": "a shorter text",
    "too_short": "more of them",
    "too_long": "fewer of them",
}
"""Kind of error -> what was expected, where pydantic's own words are a programmer's."""


def check_schema(value: Mapping[str, Any], expected: str, otherwise: str, hint: str = "") -> None:
    """Make sure that a file is of the schema that is expected; `otherwise` begins the message where it is not.

    Raises:
        UsageError: it is of another, or of none.
    """
    found = value.get("schema")
    if found != expected:
        raise UsageError(f"{otherwise}: its schema is {shown(repr(found)[:60])}, expected {expected!r}", hint)


def check(form: type[BaseModel], value: Mapping[str, Any], where: str, hint: str = "") -> None:
    """Make sure that everything that is read of a file is there and can be right.

    Args:
        form: what it should hold.
        value: what it holds.
        where: the file, for messages.
        hint: where such files come from.

    Raises:
        UsageError: something is not; names the field.
    """
    try:
        form.model_validate(value)
    except ValidationError as error:
        first, *others = error.errors(include_url=False)
        more = f" (and {len(others)} more)" if others else ""
        raise UsageError(f"{where}: {_explained(first)}{more}", hint) from None


def _explained(error: ErrorDetails) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"]).removeprefix(".")
    if error["type"] == "missing":
        return f"{shown(path)} is missing"
    if error["type"] == "value_error":
        return f"{shown(path)}: {error['ctx']['error']}"
    expected = _EXPECTED.get(error["type"]) or error["msg"].removeprefix("Input should be ")
    return f"{shown(path)} is {shown(repr(error['input'])[:60])}; expected {expected}"
