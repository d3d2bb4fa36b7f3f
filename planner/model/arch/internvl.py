"""InternVL2, 2.5 and 3: InternVLChatModel and its Hugging Face form."""

from __future__ import annotations

from planner.errors import ConfigError
from planner.model.fields import Fields
from planner.model.spec import TextModel
from planner.model.vision import VisionNames, VisionTower

_CHAT_NAMES = VisionNames(
    embeddings="vision_model.embeddings.",
    class_token="class_embedding",
    position="position_embedding",
    patch="patch_embedding",
    layer="vision_model.encoder.layers.{layer}.",
    qkv=("attn.qkv",),
    output="attn.proj",
    norms=("norm1", "norm2"),
    scales=("ls1", "ls2"),
    projector=("mlp1.0", "mlp1.1", "mlp1.3"),
)
_HF_NAMES = VisionNames(
    embeddings="vision_tower.embeddings.",
    class_token="cls_token",
    position="position_embeddings",
    patch="patch_embeddings.projection",
    layer="vision_tower.encoder.layer.{layer}.",
    qkv=("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    output="attention.projection_layer",
    norms=("layernorm_before", "layernorm_after"),
    scales=("lambda_1", "lambda_2"),
    projector=(
        "multi_modal_projector.layer_norm",
        "multi_modal_projector.linear_1",
        "multi_modal_projector.linear_2",
    ),
    final_norm="vision_tower.layernorm",
)
_INTERNS1_NAMES = _HF_NAMES._replace(
    embeddings=f"model.{_HF_NAMES.embeddings}",
    layer=f"model.{_HF_NAMES.layer}",
    projector=(
        "model.multi_modal_projector.layer_norm",
        "model.multi_modal_projector.linear_1",
        "model.multi_modal_projector.linear_2",
    ),
    final_norm=f"model.{_HF_NAMES.final_norm}",
)


def read_chat_tower(fields: Fields, text: TextModel) -> VisionTower:
    """The tower of an InternVLChatModel config: ``vision_config`` and the tiling keys at the top."""
    vision = fields.section("vision_config")
    return VisionTower(
        names=_CHAT_NAMES,
        **_sizes(vision, _side(vision, "image_size"), _side(vision, "patch_size")),
        rms_norm=vision.choice("norm_type", ("rms_norm", "layer_norm")) == "rms_norm",
        qk_norm=vision.boolean("qk_normalization"),
        qkv_bias=vision.boolean("qkv_bias"),
        final_norm=False,
        mask_token=False,
        pixel_shuffle=_pixel_shuffle(fields, vision),
        text_hidden_size=text.hidden_size,
        max_tiles=_max_tiles(fields),
    )


def read_hf_tower(fields: Fields, text: TextModel) -> VisionTower:
    """The tower of an InternVLForConditionalGeneration config: ``vision_config``."""
    return _hf_tower(fields, text, _HF_NAMES)


def read_interns1_tower(fields: Fields, text: TextModel) -> VisionTower:
    """The tower of an InternS1ForConditionalGeneration config, the same under other names."""
    return _hf_tower(fields, text, _INTERNS1_NAMES)


def _hf_tower(fields: Fields, text: TextModel, names: VisionNames) -> VisionTower:
    vision = fields.section("vision_config")
    # Defaults are those of transformers' InternVLVisionConfig, which published configs rely on.
    return VisionTower(
        names=names,
        **_sizes(vision, _side(vision, "image_size"), _side(vision, "patch_size")),
        rms_norm=vision.has("norm_type") and vision.choice("norm_type", ("rms_norm", "layer_norm")) == "rms_norm",
        qk_norm=vision.boolean("use_qk_norm", False),
        qkv_bias=vision.boolean("attention_bias", False),
        final_norm=not vision.boolean("use_mean_pooling", True),
        mask_token=vision.boolean("use_mask_token", False),
        pixel_shuffle=_pixel_shuffle(fields, vision),
        text_hidden_size=text.hidden_size,
        # The Hugging Face form keeps the tile limit in its processor (GotOcr2ImageProcessor), whose
        # published default is 12.
        max_tiles=12,
    )


def _sizes(vision: Fields, image_size: int, patch_size: int) -> dict[str, int]:
    hidden_size = vision.integer("hidden_size")
    num_heads = vision.count("num_attention_heads")
    if hidden_size % num_heads:
        raise ConfigError(
            f"config.json: {vision.key('num_attention_heads')} is {num_heads}; "
            f"expected a divisor of hidden_size {hidden_size}"
        )
    if image_size % patch_size:
        raise ConfigError(
            f"config.json: {vision.key('patch_size')} is {patch_size}; expected a divisor of image_size {image_size}"
        )
    return {
        "hidden_size": hidden_size,
        "intermediate_size": vision.integer("intermediate_size"),
        "num_layers": vision.count("num_hidden_layers"),
        "num_heads": num_heads,
        "num_channels": vision.optional_integer("num_channels", maximum=16) or 3,
        "image_size": image_size,
        "patch_size": patch_size,
    }


def _side(vision: Fields, name: str) -> int:
    """A square side in pixels, given as a number or as a pair."""
    if type(vision.values.get(name)) is list:
        sides = vision.integers(name, maximum=2**14)
        if len(sides) != 2 or sides[0] != sides[1] or sides[0] < 1:
            raise ConfigError(f"config.json: {vision.key(name)} is {list(sides)}; expected a square")
        return sides[0]
    return vision.integer(name, maximum=2**14)


def _pixel_shuffle(fields: Fields, vision: Fields) -> int:
    """How many patches a side become one token: the inverse of ``downsample_ratio``."""
    ratio = fields.number("downsample_ratio", minimum=0.01, maximum=1.0)
    factor = round(1 / ratio)
    if abs(factor * ratio - 1) > 1e-6:
        raise ConfigError(
            f"config.json: {fields.key('downsample_ratio')} is {ratio:g}; expected one over a whole number"
        )
    side = _side(vision, "image_size") // max(_side(vision, "patch_size"), 1)
    if side % factor:
        raise ConfigError(
            f"config.json: {fields.key('downsample_ratio')} is {ratio:g}, which does not divide the "
            f"{side} patches of a side"
        )
    return factor


def _max_tiles(fields: Fields) -> int:
    if not fields.boolean("dynamic_image_size"):
        return 1
    return fields.integer("max_dynamic_patch", maximum=2**10)
