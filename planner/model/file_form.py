"""The forms in which one model is published: what a config.json does not say and the file's names do.

Experts of a layer are one tensor in some files and many in others (`lmdeploy/pytorch/models/qwen3_5_moe.py` loads
both), and re-saved files leave out the layers for speculative decoding, which transformers does not build.
"""

from __future__ import annotations

from planner.model.checkpoint import Checkpoint
from planner.model.layers import ExpertStorage, LayerGroup, MoeMlp
from planner.model.spec import ModelSpec, PredictionLayers, TextModel


def as_stored(spec: ModelSpec, checkpoint: Checkpoint) -> ModelSpec:
    """The model with its experts as the file has them, and without prediction layers of which it has no tensor."""
    text = spec.text
    prediction = text.prediction
    if prediction is not None:
        stored = _group_as_stored(prediction.group, text, prediction.layer, checkpoint)
        prediction = prediction._replace(group=stored) if _has_any(prediction, text, checkpoint) else None
    groups = tuple(_group_as_stored(group, text, text.names.layer, checkpoint) for group in text.layer_groups)
    return spec._replace(text=text._replace(layer_groups=groups, prediction=prediction))


def _has_any(prediction: PredictionLayers, text: TextModel, checkpoint: Checkpoint) -> bool:
    stems = tuple(
        text.prefix + stem.replace("{layer}", str(layer))
        for stem in (prediction.layer, prediction.beside)
        for layer in prediction.group.layers
    )
    return any(name.startswith(stems) for name in checkpoint.tensors)


def _group_as_stored(group: LayerGroup, text: TextModel, layer: str, checkpoint: Checkpoint) -> LayerGroup:
    mlp = group.mlp
    if not isinstance(mlp, MoeMlp) or mlp.num_packs:
        return group
    stem = text.prefix + layer.replace("{layer}", str(group.layers[0]))
    packed = checkpoint.tensors.get(stem + text.names.packed_gate_up)
    if packed is not None:
        rows = packed.shape[-2:]
        outputs_first = rows == (2 * mlp.expert_intermediate_size, text.hidden_size)
        storage = ExpertStorage.PACKED if outputs_first else ExpertStorage.PACKED_TRANSPOSED
        return group._replace(mlp=mlp._replace(storage=storage))
    single = stem + text.names.experts[0].replace("{expert}", "0")
    if any(f"{single}.{suffix}" in checkpoint.tensors for suffix in ("weight", "qweight", "weight_packed")):
        return group._replace(mlp=mlp._replace(storage=ExpertStorage.SINGLE))
    return group
