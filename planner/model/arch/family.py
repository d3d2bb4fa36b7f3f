"""A decoder family as a table line: how its tensors are called, what its layers are made of, what its class assumes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from planner.model.arch.common import read_max_length_tokens
from planner.model.fields import Fields
from planner.model.layers import Attention, LayerGroup, Mlp
from planner.model.names import TensorNames
from planner.model.spec import TextModel

AttentionReader = Callable[[Fields, int], Sequence[Attention]]
"""What each of so many layers has of it."""
MlpReader = Callable[[Fields, int], Sequence[Mlp]]
Finish = Callable[[Fields, TextModel], TextModel]


class Decoder(NamedTuple):
    """What sets a decoder family apart.

    Attributes:
        tied_by_default: ``tie_word_embeddings`` where the config leaves it out, by the family's config class.
        defaults: of the class, for keys that published configs leave out.
        norm_bias: whether norms over the hidden state are LayerNorms.
        finish: adds what few families have, such as layers for speculative decoding.
    """

    names: TensorNames
    attention: AttentionReader
    mlp: MlpReader
    tied_by_default: bool = False
    defaults: Mapping[str, Any] = {}
    norm_bias: bool = False
    finish: Finish | None = None


def read_text(fields: Fields, architecture: str, decoder: Decoder, prefix: str = "") -> TextModel:
    """Read a language model; `prefix` stands before its tensor names in a VLM. Defaults that `fields` has go first.

    Raises:
        ConfigError: a key is missing, of the wrong type or out of bounds.
    """
    fields = fields.with_defaults({**decoder.defaults, **fields.defaults})
    num_layers = fields.count("num_hidden_layers")
    text = TextModel(
        architecture=architecture,
        hidden_size=fields.integer("hidden_size"),
        vocab_size=fields.integer("vocab_size"),
        layer_groups=group(decoder.attention(fields, num_layers), decoder.mlp(fields, num_layers)),
        tie_word_embeddings=fields.boolean("tie_word_embeddings", decoder.tied_by_default),
        max_position_embeddings=read_max_length_tokens(fields),
        names=decoder.names,
        prefix=prefix,
        norm_bias=decoder.norm_bias,
        window_tokens=session_window_tokens(fields),
        mrope=_has_mrope(fields),
    )
    return decoder.finish(fields, text) if decoder.finish else text


def group(attentions: Sequence[Attention], mlps: Sequence[Mlp]) -> tuple[LayerGroup, ...]:
    """Layers of one make together, by the first of each."""
    makes: dict[tuple[Attention, Mlp], list[int]] = {}
    for layer, make in enumerate(zip(attentions, mlps, strict=True)):
        makes.setdefault(make, []).append(layer)
    return tuple(LayerGroup(tuple(layers), attention, mlp) for (attention, mlp), layers in makes.items())


def session_window_tokens(fields: Fields) -> int:
    """The window of the config as a whole: `sliding_window`, unless `use_sliding_window` is false
    (`lmdeploy/pytorch/configurations/default.py`, 0.18.0).
    """
    if not fields.boolean("use_sliding_window", True):
        return 0
    return fields.optional_integer("sliding_window", minimum=0) or 0


def _has_mrope(fields: Fields) -> bool:
    """Whether positions have three parts: ``mrope_section`` in what transformers 4 and 5 call the section."""
    sections = [fields.section(name) for name in ("rope_scaling", "rope_parameters") if fields.has(name)]
    return any(section.has("mrope_section") for section in sections)
