"""One config, several files: experts packed or not, with layers for speculative decoding or without."""

from __future__ import annotations

import pytest

from planner.model.checkpoint import Checkpoint, HeaderTensor, checkpoint_of
from planner.model.dtypes import DType
from planner.model.file_form import as_stored
from planner.model.formats import FP8, store
from planner.model.inventory import inventory
from planner.model.layers import ExpertStorage, LayerGroup, MoeMlp
from planner.model.quantization import Quantization
from planner.model.reconcile import compare
from planner.model.spec import ModelSpec
from tests.model.configs import text_of


def made(name: str) -> ModelSpec:
    return ModelSpec(name, "", DType.BF16, text_of(name))


def with_storage(spec: ModelSpec, storage: ExpertStorage) -> ModelSpec:
    def changed(group: LayerGroup) -> LayerGroup:
        return group._replace(mlp=group.mlp._replace(storage=storage)) if isinstance(group.mlp, MoeMlp) else group

    text = spec.text
    prediction = text.prediction
    if prediction is not None:
        prediction = prediction._replace(group=changed(prediction.group))
    return spec._replace(text=text._replace(layer_groups=tuple(map(changed, text.layer_groups)), prediction=prediction))


def file_of(spec: ModelSpec, quantization: Quantization | None = None) -> Checkpoint:
    tensors = [tensor for group in store(inventory(spec), quantization) for tensor in group.expand()]
    return checkpoint_of({t.name: HeaderTensor(t.name, t.shape, t.dtype) for t in tensors}, "made")


@pytest.mark.parametrize("storage", ExpertStorage)
@pytest.mark.parametrize("name", ["qwen3.5-35b-a3b", "qwen3-30b-a3b", "qwen3-vl-30b-a3b", "deepseek-v2-lite"])
def test_experts_in_every_form(name: str, storage: ExpertStorage) -> None:
    spec = made(name)
    file = file_of(with_storage(spec, storage))
    found = as_stored(spec, file)
    assert found == with_storage(spec, storage)
    assert compare(inventory(found), file) == []


@pytest.mark.parametrize("storage", [ExpertStorage.SINGLE, ExpertStorage.PACKED])
def test_experts_in_fp8(storage: ExpertStorage) -> None:
    spec = made("qwen3.5-35b-a3b")
    file = file_of(with_storage(spec, storage), FP8)
    assert compare(store(inventory(as_stored(spec, file)), FP8), file) == []


@pytest.mark.parametrize("name", ["deepseek-v3-0324", "qwen3.5-9b", "hy3-preview"])
def test_a_file_without_layers_for_speculative_decoding(name: str) -> None:
    spec = made(name)
    assert as_stored(spec, file_of(spec)) == spec
    without = spec._replace(text=spec.text._replace(prediction=None))
    file = file_of(without)
    assert as_stored(spec, file) == without
    assert compare(inventory(as_stored(spec, file)), file) == []


def test_a_dense_model_and_gpt_oss_stay_as_they_are() -> None:
    for name in ("llama-3.1-8b", "gpt-oss-20b"):
        spec = made(name)
        assert as_stored(spec, file_of(spec)) == spec
