"""AWQ's ``gemm`` layout: eight 4-bit values in a word, along the outputs, in an order of its own."""

from __future__ import annotations

import torch

from quantize.quality.inside.formats.base import Rows
from quantize.quality.inside.tensors import Tensors

_PLACES = [0, 4, 1, 5, 2, 6, 3, 7]
"""Output 8 n + i is nibble _PLACES[i] of word n, counted from the lowest: a word's nibbles hold the outputs 0 2 4 6 1 3
5 7 (`lmdeploy/lite/quantization/modules/linear.py`, order_map; AutoAWQ's AWQ_ORDER)."""
_HIGHEST = 15


class Awq:
    """qweight [inputs, outputs / 8] and qzeros [groups, outputs / 8] of words, scales [groups, outputs].

    A weight is (code - zero point) x scale.
    """

    def __init__(self, tensors: Tensors, module: str) -> None:
        self._codes = tensors.get(f"{module}.qweight")
        self._zeros = tensors.get(f"{module}.qzeros")
        self._scales = tensors.get(f"{module}.scales")
        self.num_outputs = self._scales.shape[1]
        self.group_size = self._codes.shape[0] // self._scales.shape[0]

    def rows(self, start: int, stop: int) -> Rows:
        """Unpacked and multiplied out, in float32."""
        codes = _unpacked(self._codes[:, start // 8 : stop // 8])
        zeros = _unpacked(self._zeros[:, start // 8 : stop // 8])
        steps = self._scales[:, start:stop].t().float().contiguous()
        grid = codes.view(len(codes), -1, self.group_size).sub_(zeros.unsqueeze(-1))
        values = grid.mul_(steps.unsqueeze(-1)).view_as(codes)
        return Rows(values, steps, -zeros * steps, (_HIGHEST - zeros) * steps)


def _unpacked(words: torch.Tensor) -> torch.Tensor:
    """[n, outputs / 8] words -> [outputs, n] codes, float32."""
    octets = words.contiguous().view(torch.uint8)  # the lowest first
    nibbles = torch.stack((octets & _HIGHEST, octets >> 4), -1).view(len(words), -1, 8)
    codes = nibbles[..., _PLACES].flatten(1)
    return codes.t().to(torch.float32, memory_format=torch.contiguous_format)
