"""Reward models: a known decoder whose head gives a score."""

from __future__ import annotations

from typing import Final

from planner.model.arch.family import Decoder
from planner.model.arch.llama_like import LLAMA_LIKE
from planner.model.fields import Fields
from planner.model.spec import ScoreLinear, TextModel


def _value_head(fields: Fields, text: TextModel) -> TextModel:
    return text._replace(score=(ScoreLinear("v_head", 1, bias=False),))


def _score_head(fields: Fields, text: TextModel) -> TextModel:
    # nn.Sequential of a linear, a ReLU and a linear.
    first = ScoreLinear("score.0", text.hidden_size, bias=True)
    return text._replace(score=(first, ScoreLinear("score.2", 1, bias=True)))


REWARD: Final[dict[str, Decoder]] = {
    "InternLM2ForRewardModel": LLAMA_LIKE["InternLM2ForCausalLM"]._replace(finish=_value_head),
    "Qwen2ForRewardModel": LLAMA_LIKE["Qwen2ForCausalLM"]._replace(finish=_score_head),
}
"""Architecture -> what sets it apart (`lmdeploy/pytorch/models/{internlm2,qwen2}_reward.py`, 0.18.0)."""
