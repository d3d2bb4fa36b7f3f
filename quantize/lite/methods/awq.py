"""AWQ: `lmdeploy lite auto_awq`, 4-bit weights with a scale and a zero point for each group of inputs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from planner.model.inventory import inventory
from planner.model.quantization import Quantization, QuantMethod
from planner.model.rewrite import has_zero_points
from planner.model.spec import ModelSpec
from planner.model.tensors import LINEAR_ROLES
from planner.units import GIB
from quantize.checkpoint.expected import ExpectedCheckpoint
from quantize.lite import resources
from quantize.lite.events import Event, Phase
from quantize.lite.findings import Finding, error, warning
from quantize.lite.method import Method
from quantize.lite.resources import Needs
from quantize.lite.versions import LiteVersion
from quantize.recipe.model import MethodName, Recipe

_SERVED_GROUP_SIZES: Final = (32, 64, 128)
# Versions before 0.9 end after "done."
_SMOOTHED: Final = re.compile(r"(\S+) smooth weight done\.(?: max gpu memory: (\d{1,9}(?:\.\d+)?) GB)?")
_PACKED: Final = re.compile(r"(\S+) weight (?:packed|skipped)\.")


class Awq(Method):
    """Activation-aware weight quantization as LMDeploy does it: smoothing layer by layer, then packing in words."""

    name = MethodName.AWQ
    title = "AWQ"
    command = "auto_awq"
    checkpoint_method = QuantMethod.AWQ
    scales_suffix = ".scales"

    def recipe_findings(self, recipe: Recipe, spec: ModelSpec) -> Iterator[Finding]:
        """Bits, symmetry and groups that packing does not take."""
        if recipe.bits != 4:
            yield error(
                f"{recipe.bits}-bit weights: LMDeploy packs 4 bits only, and fails after calibration", "Set bits: 4"
            )
        if recipe.symmetric:
            yield error("symmetric: true: LMDeploy fails while packing", "Set symmetric: false")
        yield from _division_findings(recipe.group_size, spec)

    def describe(self, recipe: Recipe) -> str:
        """Such as ``AWQ, 4 bits, groups of 128``."""
        return f"{self.title}, {recipe.bits} bits, groups of {recipe.group_size}"

    def options(self, recipe: Recipe, version: LiteVersion) -> list[str]:
        """--w-bits, --w-group-size, --w-sym and --search-scale."""
        words = ["--w-bits", str(recipe.bits), "--w-group-size", str(recipe.group_size)]
        if recipe.symmetric:
            words.append("--w-sym")
        if recipe.search_scale:
            # Where the option is type=bool, any text but the empty one is true; "off" is only said by leaving it out.
            words += ["--search-scale", "True"] if version.own["search_scale"] == "bool" else ["--search-scale"]
        return words

    def quantization(self, recipe: Recipe, spec: ModelSpec, version: LiteVersion) -> Quantization:
        """Groups of the recipe's size; what LMDeploy leaves unpacked in this language model stays 16-bit."""
        unquantized = version.held_out(spec.text.architecture)
        return Quantization(self.checkpoint_method, recipe.bits, recipe.group_size, unquantized)

    def needs(
        self, recipe: Recipe, spec: ModelSpec, expected: ExpectedCheckpoint, *, batch_size: int, download_bytes: int
    ) -> Needs:
        """As `resources.predict`, which was measured on this method."""
        return resources.predict(recipe, spec, expected, batch_size=batch_size, download_bytes=download_bytes)

    def auto_batch_size(
        self,
        recipe: Recipe,
        spec: ModelSpec,
        expected: ExpectedCheckpoint,
        free_gpu_bytes: int | None,
        free_host_bytes: int,
    ) -> int:
        """As `resources.auto_batch_size`."""
        return resources.auto_batch_size(recipe, spec, expected, free_gpu_bytes, free_host_bytes)

    def steps(self, recipe: Recipe, spec: ModelSpec, expected: ExpectedCheckpoint) -> Mapping[Phase, int]:
        """A line a layer while calibrating and while smoothing, a line a linear while packing."""
        layers = 0 if recipe.calibration.data_free else spec.text.num_layers
        return {
            Phase.LOADING: 1,
            Phase.CALIBRATION: layers,
            Phase.SMOOTHING: layers,
            Phase.PACKING: expected.num_linears,
            Phase.SAVING: 1,
        }

    def event(self, line: str) -> Event | None:
        """Smoothing and packing."""
        if match := _PACKED.fullmatch(line):
            return Event(Phase.PACKING, match[1])
        if match := _SMOOTHED.fullmatch(line):
            return Event(Phase.SMOOTHING, match[1], round(float(match[2]) * GIB) if match[2] else None)
        return None

    def config_problems(self, config: Mapping[str, Any]) -> Iterator[str]:
        """Zero points that are not there."""
        if not has_zero_points(config):
            yield "quantization_config.zero_point is not true; LMDeploy's kernels need zero points"

    def result_problems(self, recipe: Recipe, found: Quantization) -> Iterator[str]:
        """Groups of another size."""
        if found.group_size != recipe.group_size:
            yield f"group_size is {found.group_size}, not {recipe.group_size}"


def _division_findings(size: int, spec: ModelSpec) -> Iterator[Finding]:
    odd_in, odd_out = set(), set()
    for group in inventory(spec):
        if group.role in LINEAR_ROLES and len(group.shape) == 2:
            num_out, num_in = group.shape
            if num_in % size:
                odd_in.add(num_in)
            if num_out % 8:
                odd_out.add(num_out)
    if odd_in:
        fitting = [g for g in reversed(_SERVED_GROUP_SIZES) if not any(n % g for n in odd_in)]
        remedy = f"Set group_size: {fitting[0]}" if fitting and fitting[0] != size else "This model cannot be quantized"
        numbers = ", ".join(map(str, sorted(odd_in)))
        yield error(f"group_size {size} does not divide {numbers} inputs of a linear", remedy)
    elif size not in _SERVED_GROUP_SIZES:
        yield warning(
            f"group_size {size} is not one that LMDeploy's kernels serve (128; TurboMind also 64, 32)",
            "Set group_size: 128",
        )
    if odd_out:
        yield error(
            f"eight 4-bit weights make a word, and {', '.join(map(str, sorted(odd_out)))} outputs are no multiple of 8",
            "This model cannot be quantized",
            4,
        )
