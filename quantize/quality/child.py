"""The child that compares: LMDeploy's Python runs `quantize/quality/inside`, on the GPU or on the CPU."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from planner.errors import ChildFailedError, EnvironmentProblem
from planner.model.quantization import QuantMethod
from planner.model.rewrite import KEYS_OF_STORAGE
from planner.model.spec import ModelSpec
from quantize.quality.links import links
from quantize.quality.report import Quality, read
from quantize.recipe.model import Check, QualityCheck
from quantize.system.child import Child, TimeUpError, exit_words
from quantize.system.interrupts import noted_signals

TEXT_SEQLEN: Final = 256
"""Tokens of a piece of held-out text."""
TEXT_SAMPLES: Final = 12
"""Pieces at most. The text that comes with lmplan makes eight with the tokenizer of SmolLM2."""
DRAWN: Final = "drawn weights know no text"
_PACKAGE: Final = Path(__file__).parents[1]
# LMDeploy's Python need not have lmplan, and lmplan's folder of packages is none of its business: it gets this one
# package, under its name, and nothing else.
_BOOT: Final = """
import importlib.util, pathlib, sys
package, request = map(pathlib.Path, sys.argv[1:])
spec = importlib.util.spec_from_file_location(
    "quantize", package / "__init__.py", submodule_search_locations=[str(package)]
)
sys.modules["quantize"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["quantize"])
from quantize.quality.inside.main import run
run(request)
"""


@dataclass(frozen=True, slots=True)
class Pair:
    """A result and its original.

    Attributes:
        original, result: folders with config.json, weights and tokenizer.
        spec: of the original.
        method: of the result.
        drawn: the weights mean nothing.
        trust_remote_code: run Python files that come with the model.
    """

    original: Path
    result: Path
    spec: ModelSpec
    method: QuantMethod
    drawn: bool = False
    trust_remote_code: bool = False


def look(
    pair: Pair,
    check: Check,
    *,
    text: str,
    python: str,
    device: str,
    environment: Mapping[str, str],
    folder: Path,
    silence_s: float,
    tell: Callable[[str], None],
    keep_fds: Sequence[int] = (),
) -> Quality:
    """Compare a result with its original.

    Args:
        pair: both.
        check: whether text is to be looked at; the limits are not applied here.
        text: held-out text.
        python: an interpreter with torch, transformers and safetensors.
        device: ``cuda`` or ``cpu``.
        environment: of the child.
        folder: an empty one to work in; what the child said stays there.
        silence_s: without a line for so long, the child is stopped.
        tell: is given a line when the child turns to something else.
        keep_fds: file descriptors that it inherits.

    Raises:
        EnvironmentProblem: the interpreter lacks a package.
        ChildFailedError: the child failed or fell silent.
        EndedBySignal: a signal came; the child is gone.
    """
    request, answer = folder / "request.json", folder / "answer.json"
    (folder / "text.txt").write_text(text, encoding="utf-8")
    skipped = "" if check.quality is QualityCheck.FULL else "check.quality is weights"
    asked = _request(pair, DRAWN if pair.drawn and not skipped else skipped)
    asked |= {"device": device, "text": str(folder / "text.txt"), "report": str(answer)}
    request.write_text(json.dumps(asked), encoding="utf-8")
    command = [python, "-c", _BOOT, str(_PACKAGE), str(request)]
    # Nothing is to be fetched: both are on this machine.
    environment = {**environment, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
    begun = time.monotonic()
    code, said = _hear(command, folder, environment, silence_s, tell, keep_fds)
    if code or not answer.is_file():
        if "No module named" in said:
            raise EnvironmentProblem(
                f"the check of the weights cannot run in {python}: {said}",
                "Install it there, or set check.quality: none",
            )
        raise ChildFailedError(
            f"the check of the weights failed ({exit_words(code)}): {said}; its log is {folder / 'check.log'}",
            "Set check.quality: weights, or none, to do with less",
        )
    return read(json.loads(answer.read_text(encoding="utf-8")), device, time.monotonic() - begun)


def _request(pair: Pair, skipped: str) -> dict[str, Any]:
    """What `inside/main.py` reads, but for the device and the files."""
    text = pair.spec.text
    return {
        "original": str(pair.original.absolute()),
        "result": str(pair.result.absolute()),
        "method": pair.method.value,
        "links": [asdict(link) for link in links(pair.spec)],
        "num_layers": text.num_layers,
        "prefix": text.prefix,
        "layer_name": text.names.layer,
        "embedding": f"{text.prefix}{text.names.embedding}.weight",
        "may_differ": sorted(KEYS_OF_STORAGE),
        "text_skipped": skipped,
        "text_seqlen": TEXT_SEQLEN,
        "text_samples": TEXT_SAMPLES,
        "trust_remote_code": pair.trust_remote_code,
    }


def _hear(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    silence_s: float,
    tell: Callable[[str], None],
    keep_fds: Sequence[int],
) -> tuple[int, str]:
    """Run the child to its end; its exit code and its last words."""
    said = part = ""
    with noted_signals() as caught, (folder / "check.log").open("wb") as log:
        child = Child(command, folder, environment, keep_fds=keep_fds)
        try:

            def end() -> float:
                return child.heard_at + silence_s

            for line in child.lines(end, caught, log):
                now, comma, _ = line.rpartition(", layer ")
                if comma and now != part:
                    part = now
                    tell(part)
                said = line.strip()[:300] or said
            return child.wait(end, caught), said
        except TimeUpError:
            raise ChildFailedError(
                f"the check of the weights printed nothing for {silence_s:.0f} s and was stopped",
                "If it was only slow, raise silence_s in the recipe",
            ) from None
        finally:
            child.end()
