"""What a vision tower needs besides its weights while it looks at an image, where PyTorch runs it.

TurboMind's own tower (0.16 and newer) takes nothing more after the warm-up (measured with an image of 3339 tokens on an
H200, 0.18.0). Before, and in the PyTorch engine, activations come out of what the KV cache leaves free.
"""

from __future__ import annotations

from planner.memory.terms import Evidence, Term
from planner.model.vision import VisionTower
from planner.units import format_bytes

_HALF_BYTES = 2
_IMAGES_AT_ONCE = 1
"""`VisionConfig.max_batch_size` (`lmdeploy/messages.py`, 0.5.3 to 0.18.0); an image is all of its tiles."""


def vision_activations(tower: VisionTower) -> Term:
    """Activations of the largest image in one layer of the tower.

    The low end is attention without a score matrix (flash attention), the high end keeps the scores of every head and
    their softmax, as PyTorch does without that kernel.
    """
    tiles = _IMAGES_AT_ONCE * tower.max_image_tokens // tower.tokens_per_tile
    patches = tower.num_patches + 1
    tokens = tiles * patches
    hidden = tower.hidden_size
    # The layer's input stays for the residual: with qkv and the attention's output, or with both sides of the MLP.
    attention = tokens * (2 * hidden + 3 * hidden + hidden) * _HALF_BYTES
    mlp = tokens * (2 * hidden + 2 * tower.intermediate_size) * _HALF_BYTES
    scores = 2 * tiles * tower.num_heads * patches**2 * _HALF_BYTES
    low, high = max(attention, mlp), max(attention + scores, mlp)
    return Term(
        "vision_activations",
        high,
        low,
        high,
        Evidence("assumed", "arithmetic of one layer; not measured"),
        f"{tiles} tiles x {patches} patches: qkv and output {format_bytes(attention)} with scores "
        f"{format_bytes(scores)}, MLP {format_bytes(mlp)}",
        "one image in the vision tower, taken from what stays free",
    )
