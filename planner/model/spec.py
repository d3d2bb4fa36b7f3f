"""What a model is made of, in lmplan's own names. Past this module nobody opens a config.json again.

A model is a tuple of layer groups (`planner.model.layers`), what stands before and behind them, and perhaps a vision
tower. Tensors that no engine loads are part of it as well: they take room in the file.

Annotations are not postponed in this module: see `planner.model.layers`.
"""

from typing import NamedTuple

from planner.model.dtypes import DType
from planner.model.layers import LayerGroup
from planner.model.names import TensorNames
from planner.model.quantization import Quantization
from planner.model.tensors import TensorGroup
from planner.model.vision import VisionTower


class ScoreLinear(NamedTuple):
    """A linear of a reward model's head, [num_out, hidden]; the last has one output, the score."""

    name: str
    num_out: int
    bias: bool


class PredictionLayers(NamedTuple):
    """Layers that predict further tokens (MTP, nextn). They lie in the file; engines load them for speculative decoding
    alone.

    Attributes:
        group: the layers themselves, tensors named as the decoder's are but behind `layer`, which holds ``{layer}``.
        beside: what stands before the names of the rest, which may hold ``{layer}`` too.
        linear: makes one hidden state of two, [hidden, 2 x hidden].
        norms: over the hidden state.
        tables: copies of the embedding or the head, [vocab, hidden].
    """

    group: LayerGroup
    layer: str
    beside: str
    linear: str
    norms: tuple[str, ...]
    tables: tuple[str, ...] = ()


class TextModel(NamedTuple):
    """The decoder. `max_position_embeddings` is in tokens; `prefix` stands before every name in a VLM.

    Attributes:
        tie_word_embeddings: whether the head is the embedding, so that the file holds one of them.
        norm_bias: whether norms over the hidden state have a bias (LayerNorm) or none (RMSNorm).
        head_bias: whether the head has one.
        mrope: whether a token's position has three parts (``mrope_section``), as beside pictures.
        score: a reward model's head, which stands in place of the one over the vocabulary; empty for others.
        window_tokens: the window after which LMDeploy's PyTorch engine frees a session's blocks, of the config as a
            whole, whatever single layers look at (`lmdeploy/pytorch/configurations/default.py`, 0.18.0); 0 for none.
        prediction: layers for speculative decoding.
        unloaded: what else the file holds and no engine loads, named in full.
    """

    architecture: str
    hidden_size: int
    vocab_size: int
    layer_groups: tuple[LayerGroup, ...]
    tie_word_embeddings: bool
    max_position_embeddings: int
    names: TensorNames
    prefix: str = ""
    norm_bias: bool = False
    head_bias: bool = False
    mrope: bool = False
    score: tuple[ScoreLinear, ...] = ()
    window_tokens: int = 0
    prediction: PredictionLayers | None = None
    unloaded: tuple[TensorGroup, ...] = ()

    @property
    def num_layers(self) -> int:
        """Decoder layers in all groups."""
        return sum(len(group.layers) for group in self.layer_groups)


class ModelSpec(NamedTuple):
    """Everything that lmplan knows of a model.

    `dtype` is that of the checkpoint's float tensors. Where the config does not say it (`dtype_given` is false) they
    are taken for bfloat16, as the files of models that leave it out have them (gpt-oss, Hy3).
    """

    name: str
    architecture: str
    dtype: DType
    text: TextModel
    vision: VisionTower | None = None
    quantization: Quantization | None = None
    dtype_given: bool = True
