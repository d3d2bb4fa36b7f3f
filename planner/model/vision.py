"""Vision towers, by kind, and how checkpoints name their tensors.

Annotations are not postponed in this module: see `planner.model.layers`.
"""

from typing import NamedTuple


class VisionNames(NamedTuple):
    """How a checkpoint names the tensors of its tower; `layer` holds ``{layer}``, and `qkv` is one name where they are
    fused. Those of the class token and the positions stand behind `embeddings`.
    """

    embeddings: str
    class_token: str
    position: str
    patch: str
    layer: str
    qkv: tuple[str, ...]
    output: str
    norms: tuple[str, str]
    scales: tuple[str, str]
    projector: tuple[str, str, str]
    final_norm: str = ""


class VisionTower(NamedTuple):
    """An InternViT tower and its projector (pixel shuffle, layer norm, two linears).

    Sizes of the square image and patch in pixels.
    """

    names: VisionNames
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    image_size: int
    patch_size: int
    num_channels: int
    rms_norm: bool
    qk_norm: bool
    qkv_bias: bool
    final_norm: bool
    mask_token: bool
    pixel_shuffle: int
    text_hidden_size: int
    max_tiles: int

    @property
    def num_patches(self) -> int:
        """Patches of one tile."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def tokens_per_tile(self) -> int:
        """Language-model tokens of one tile, after pixel shuffle."""
        return self.num_patches // self.pixel_shuffle**2

    @property
    def max_image_tokens(self) -> int:
        """Tokens of the largest image: every tile and the thumbnail."""
        return self.tokens_per_tile * (self.max_tiles + (1 if self.max_tiles > 1 else 0))
