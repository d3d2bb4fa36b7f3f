"""Held-out text through the original and the result, layer by layer: the weights of one are there at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from quantize.quality.inside.formats import is_packed, open_linear
from quantize.quality.inside.tensors import Tensors

_ROWS = 2048
"""Outputs of a linear that are unpacked at once."""
_LOGITS = 2**25
"""Logits that are compared at once: a handful of temporaries of 128 MiB."""


class OtherNamesError(Exception):
    """Transformers do not know the checkpoint's tensors by these names."""


class Weights:
    """The float weights of a checkpoint by transformers' names.

    Args:
        tensors: the checkpoint.
        method: ``quant_method`` of its packed linears.
        prefix: what stands before the language model's names in a model that has more.
        dtype: to compute in.
    """

    def __init__(self, tensors: Tensors, method: str, prefix: str, dtype: torch.dtype) -> None:
        self._tensors = tensors
        self._method = method
        self._prefix = prefix
        self._dtype = dtype

    def __contains__(self, name: str) -> bool:
        name = self._prefix + name
        return name in self._tensors or is_packed(self._tensors, name.removesuffix(".weight"))

    def get(self, name: str) -> torch.Tensor:
        """One parameter, multiplied out where it is packed."""
        module = (self._prefix + name).removesuffix(".weight")
        if not is_packed(self._tensors, module):
            return self._tensors.get(self._prefix + name).to(self._dtype)
        linear = open_linear(self._tensors, module, self._method)
        step = _ROWS
        rows = [
            linear.rows(at, min(at + step, linear.num_outputs)).values.to(self._dtype)
            for at in range(0, linear.num_outputs, step)
        ]
        return torch.cat(rows)


def hidden_states(
    config: Any,
    weights: Weights,
    tokens: torch.Tensor,
    layers: str,
    trust_remote_code: bool,
    tell: Callable[[int], None],
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the language model gives for `tokens` before its head, and the head.

    Args:
        config: of the language model.
        weights: of the language model.
        tokens: [samples, tokens].
        layers: the name of a layer, with ``{layer}`` for its number, such as ``model.layers.{layer}.``
        trust_remote_code: build it from Python code that comes with the model.
        tell: called with the number of each layer as it is done.

    Returns:
        [samples, tokens, hidden] and [vocabulary, hidden].

    Raises:
        OtherNamesError: transformers want a weight that the checkpoint has under another name.
    """
    model = _empty_model(config, trust_remote_code).eval()
    names = {module: f"{name}.weight" for name, module in model.named_modules()}
    embedding, head = names[model.get_input_embeddings()], names[model.get_output_embeddings()]
    wanted = [name for name, _ in model.named_parameters() if name != head]
    missing = [name for name in wanted if name not in weights]
    if missing:
        raise OtherNamesError(f"transformers want {missing[0]}, which the checkpoint does not have")
    inside = {n: model.get_submodule(layers.format(layer=n).rstrip(".")) for n in range(config.num_hidden_layers)}
    of_layers = tuple(layers.format(layer=n) for n in inside)
    for name in wanted:
        if not name.startswith(of_layers):
            _put(model, name, weights.get(name))
    with torch.device(tokens.device):
        buffers = _small_buffers(config, trust_remote_code, len(inside))
    for name, _ in list(model.named_buffers()):
        _put(model, name, buffers[name], buffer=True)

    def load(number: int) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            for name, _parameter in list(inside[number].named_parameters()):
                _put(inside[number], name, weights.get(layers.format(layer=number) + name))

        return hook

    def unload(number: int) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            for name, parameter in list(inside[number].named_parameters()):
                _put(inside[number], name, torch.empty_like(parameter, device="meta"))
            tell(number)

        return hook

    for number, layer in inside.items():
        layer.register_forward_pre_hook(load(number))
        layer.register_forward_hook(unload(number))
    with torch.inference_mode():
        hidden = model.base_model(input_ids=tokens, use_cache=False)[0]
    return hidden, weights.get(head if head in weights else embedding)  # tied, and not stored twice


def compare(
    tokens: torch.Tensor, original: tuple[torch.Tensor, torch.Tensor], result: tuple[torch.Tensor, torch.Tensor]
) -> dict[str, float | int]:
    """Perplexity of both, the divergence of the result's next-token distribution, and how often both agree.

    Args:
        tokens: [samples, tokens].
        original, result: hidden states and head (`hidden_states`).
    """
    losses: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    divergences, agreements = [], []
    for places, following in _chunks(tokens, len(original[1])):
        before, after = (
            torch.log_softmax((hidden.flatten(0, 1)[places] @ head.t()).float(), -1)
            for hidden, head in (original, result)
        )
        for into, logs in zip(losses, (before, after), strict=True):
            into.append(-logs.gather(1, following.unsqueeze(1)).squeeze(1))
        divergences.append((before.exp() * (before - after)).sum(-1))
        agreements.append(before.argmax(-1) == after.argmax(-1))
    divergence = torch.cat(divergences)
    return {
        "num_tokens": len(divergence),
        "perplexity_original": float(torch.cat(losses[0]).mean().exp()),
        "perplexity_result": float(torch.cat(losses[1]).mean().exp()),
        "mean_kl_nats": float(divergence.mean()),
        "p99_kl_nats": float(divergence.quantile(0.99)),
        "top1_agreement_ratio": float(torch.cat(agreements).float().mean()),
    }


def _chunks(tokens: torch.Tensor, vocabulary: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Places in the flattened tokens that have a next one, and that one."""
    numbers = torch.arange(tokens.numel(), device=tokens.device).view_as(tokens)
    places, following = numbers[:, :-1].flatten(), tokens[:, 1:].flatten()
    size = max(1, _LOGITS // vocabulary)
    yield from zip(places.split(size), following.split(size), strict=True)


def _empty_model(config: Any, trust_remote_code: bool) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)


def _small_buffers(config: Any, trust_remote_code: bool, num_layers: int) -> dict[str, torch.Tensor]:
    """Buffers that no checkpoint holds (the frequencies of rotary embeddings), from a model of one small layer."""
    small = copy.deepcopy(config)
    small.num_hidden_layers, small.vocab_size, small.intermediate_size = 1, 8, 8
    small.pad_token_id = small.bos_token_id = small.eos_token_id = None
    if getattr(small, "layer_types", None):
        small.layer_types = small.layer_types[:1]
    model = AutoModelForCausalLM.from_config(small, trust_remote_code=trust_remote_code)
    found = dict(model.named_buffers())
    for name, buffer in list(found.items()):
        if ".0." in name:  # older transformers keep them in each layer
            found |= {name.replace(".0.", f".{number}."): buffer for number in range(num_layers)}
    return found


def _put(model: Any, name: str, tensor: torch.Tensor, buffer: bool = False) -> None:
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    if buffer:
        module._buffers[leaf] = tensor
    else:
        module._parameters[leaf] = torch.nn.Parameter(tensor, requires_grad=False)
