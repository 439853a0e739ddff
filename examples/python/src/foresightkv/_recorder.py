# SPDX-License-Identifier: Apache-2.0
"""One pass of a model whose attention layers write down what they are given."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Optional

DTYPES = ("f16", "bf16", "f32")
_NAME = "foresightkv_record"
_LOSS_CHUNK = 256  # tokens whose logits are held at once: a whole text times a large vocabulary is gigabytes


def describe_left_out(left_out: dict[int, str]) -> str:
    """One line for {layer: reason}."""
    by_reason: dict[str, list[int]] = {}
    for layer, reason in sorted(left_out.items()):
        by_reason.setdefault(reason, []).append(layer)
    return "; ".join(f"{_layer_list(numbers)} ({reason})" for reason, numbers in by_reason.items())


def _layer_list(numbers: list[int]) -> str:
    return ("layer " if len(numbers) == 1 else "layers ") + ", ".join(map(str, numbers))


def traces_of(model, input_ids, attention_mask, layers, dtype, on_layer):
    """What record returns, and {layer that was left out: reason}."""
    import torch

    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, is {dtype!r}")
    input_ids = torch.as_tensor(input_ids, device=model.device)
    if input_ids.dim() != 2 or input_ids.shape[1] < 2:
        raise ValueError(f"input_ids must be [batch, T] with T of at least 2, is {list(input_ids.shape)}")
    text = (
        torch.ones_like(input_ids) if attention_mask is None else torch.as_tensor(attention_mask, device=model.device)
    )
    if text.shape != input_ids.shape:
        raise ValueError(f"attention_mask must be {list(input_ids.shape)} like input_ids, is {list(text.shape)}")
    text = text.bool()
    _expect_one_run(text)
    recorder = _Recorder(text, _wanted(model, layers), getattr(torch, _torch_name(dtype)), on_layer)
    with torch.no_grad(), _attention_through(model, recorder):
        hidden, logits = _forward(model, input_ids, text)
    recorder.check()
    for row, trace in enumerate(recorder.traces):
        real = text[row]
        trace["token_ids"] = input_ids[row, real].to("cpu", torch.int32)
        trace["losses"] = _row_losses(model, input_ids[row, real], real, row, hidden, logits)
    return recorder.traces, recorder.left_out


def _torch_name(dtype: str) -> str:
    return {"f16": "float16", "bf16": "bfloat16", "f32": "float32"}[dtype]


def _expect_one_run(text: Any) -> None:
    """Every row must be one stretch of at least two tokens, with padding before or after it only."""
    starts = text.int().diff(dim=1, prepend=text.new_zeros(text.shape[0], 1).int()).eq(1).sum(1)
    for row, (runs, tokens) in enumerate(zip(starts.tolist(), text.sum(1).tolist())):
        if runs != 1 or tokens < 2:
            raise ValueError(
                f"row {row} of attention_mask must be one run of at least 2 ones, has {tokens} in {runs} runs"
            )


def _wanted(model: Any, layers: Optional[Iterable[int]]) -> Optional[set[int]]:
    if layers is None:
        return None
    wanted, count = set(layers), model.config.get_text_config().num_hidden_layers
    absent = sorted(layer for layer in wanted if not 0 <= layer < count)
    if absent or not wanted:
        raise ValueError(f"layers must be numbers from 0 to {count - 1}, are {absent if absent else 'none'}")
    return wanted


class _Recorder:
    """An attention function that writes down what it is given and passes it on to the model's own."""

    def __init__(
        self, text: Any, wanted: Optional[set[int]], dtype: Any, on_layer: Optional[Callable[[], None]]
    ) -> None:
        self.text, self.wanted, self.dtype, self.on_layer = text, wanted, dtype, on_layer
        self.traces: list[dict[str, Any]] = [{} for _ in range(len(text))]
        self.left_out: dict[int, str] = {}
        self.own = "sdpa"
        self._seen_masks: dict[int, tuple[Any, bool]] = {}  # the mask is kept: its id must not be given away again

    def __call__(self, module, query, key, value, attention_mask, scaling=None, **rest):
        """Rotated query [batch, heads, T, D] and key [batch, kv_heads, T, D]; value [batch, kv_heads, T, value dim]."""
        layer = getattr(module, "layer_idx", None)
        if layer is not None and (self.wanted is None or layer in self.wanted):
            reason = self._why_not(module, query, key, attention_mask, rest)
            if reason:
                self.left_out[layer] = reason
            else:
                scale = getattr(module, "scaling", None) if scaling is None else scaling
                self._keep(layer, query, key, value, scale)
        done = self._own_function(module)(module, query, key, value, attention_mask, scaling=scaling, **rest)
        if self.on_layer is not None:
            self.on_layer()
        return done

    def _own_function(self, module):
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
        return ALL_ATTENTION_FUNCTIONS.get_interface(self.own, eager)

    def _why_not(self, module, query, key, mask, rest) -> str:
        """Why the layer is not plain causal attention over the text; empty if it is."""
        types = getattr(module.config, "layer_types", None)
        kind = types[module.layer_idx] if types else "full_attention"
        if rest.get("sliding_window") is not None or kind == "sliding_attention":
            return "sliding window"
        if kind != "full_attention":
            return kind.replace("_", " ")
        for name, reason in (
            ("softcap", "soft cap on logits"),
            ("s_aux", "learned sink logits"),
            ("position_bias", "bias on logits"),
        ):
            if rest.get(name) is not None:
                return reason
        if not getattr(module, "is_causal", True):
            return "not causal"
        if query.shape[2] != key.shape[2]:
            return "more keys than queries"
        return "" if self._is_causal(mask) else "a mask that is not the causal one"

    def _is_causal(self, mask) -> bool:
        """Whether each row's own part of the mask is the lower triangle; masks of other forms are believed."""
        if mask is None or not hasattr(mask, "dim") or mask.dim() != 4:
            return True
        if id(mask) not in self._seen_masks:
            self._seen_masks[id(mask)] = mask, all(self._is_triangle(mask, row) for row in range(len(self.text)))
        return self._seen_masks[id(mask)][1]

    def _is_triangle(self, mask, row: int) -> bool:
        real = self.text[row]
        own = mask[row % mask.shape[0]][:, real][:, :, real]
        allowed = own if own.dtype == own.new_ones((), dtype=bool).dtype else own == 0
        return bool((allowed == allowed.new_ones(allowed.shape[1:]).tril()).all())

    def _keep(self, layer: int, query, key, value, scale: Optional[float]) -> None:
        to_our_scale = 1.0 if scale is None else scale * query.shape[-1] ** 0.5
        if to_our_scale != 1.0:
            query = query.float() * to_our_scale
        for part, tensor in (("query", query), ("key", key), ("value", value)):
            for row, trace in enumerate(self.traces):
                kept = tensor[row][:, self.text[row]]
                stored = kept.to("cpu", self.dtype, copy=True).contiguous()
                if not stored.isfinite().all():
                    raise ValueError(_not_finite(layer, part, kept, self.dtype))
                trace[f"layer.{layer}.{part}"] = stored

    def check(self) -> None:
        if not self.traces[0]:
            raise ValueError("no layer to record" + (": " + describe_left_out(self.left_out) if self.left_out else ""))


def _not_finite(layer: int, part: str, tensor: Any, dtype: Any) -> str:
    if not tensor.isfinite().all():
        return f"layer {layer}: the model's own {part} is not finite"
    largest = f"{float(tensor.abs().max()):.6g}"
    return f"layer {layer}: a {part} of {largest} does not fit {str(dtype).rpartition('.')[2]}: take bf16 (or f32)"


@contextlib.contextmanager
def _attention_through(model: Any, recorder: _Recorder) -> Iterator[None]:
    """The model's attention layers call the recorder. Masks stay those of the implementation that it passes on to:
    a name that is not in the mask interface as well gets no mask at all, and padding would be attended to."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    config = model.config
    before = {"": config._attn_implementation}
    for name in getattr(config, "sub_configs", {}):
        if getattr(config, name, None) is not None:
            before[name] = getattr(config, name)._attn_implementation
    recorder.own = config.get_text_config()._attn_implementation or "sdpa"
    if recorder.own == _NAME:
        raise ValueError("the model is being recorded already")
    AttentionInterface.register(_NAME, recorder)
    AttentionMaskInterface.register(_NAME, ALL_MASK_ATTENTION_FUNCTIONS[recorder.own])
    try:
        model.set_attn_implementation(_NAME)
        if config.get_text_config()._attn_implementation != _NAME:
            raise ValueError(f"{type(model).__name__} does not let its attention be replaced")
        yield
    finally:
        model.set_attn_implementation(before if len(before) > 1 else before[""])
        AttentionInterface.register(_NAME, _nobody_records)  # let go of the tensors


def _nobody_records(*_, **__):
    raise RuntimeError("attention goes through foresightkv.record, but nothing is being recorded")


def _forward(model: Any, input_ids: Any, text: Any):
    """One pass: (hidden states [batch, T, hidden] or None, logits [batch, T, vocabulary] or None).

    Hidden states alone where the model's head is one matrix, since all logits at once may be gigabytes; whether it is
    shows in the logits of the last position. Else (soft caps, scales) all logits.
    """
    given = {"input_ids": input_ids, "use_cache": False}
    if not bool(text.all()):
        # Positions count from the first token of each row, wherever its padding is.
        given["attention_mask"] = text.long()
        given["position_ids"] = (text.long().cumsum(1) - 1).clamp(min=0)
    head = model.get_output_embeddings()
    takes_part = "logits_to_keep" in inspect.signature(model.forward).parameters
    if head is None or not takes_part or model.base_model is model:
        return None, model(**given).logits
    seen: dict[str, Any] = {}
    hook = model.base_model.register_forward_hook(lambda _module, _given, done: seen.update(hidden=done[0]))
    try:
        last = model(**given, logits_to_keep=1).logits
    finally:
        hook.remove()
    hidden = seen.get("hidden")
    if hidden is not None and hidden.shape[:2] == input_ids.shape:
        if head(hidden[:, -1:]).float().allclose(last.float(), rtol=1e-4, atol=1e-4):
            return hidden, None
    with _unrecorded(model):
        return None, model(**given).logits


@contextlib.contextmanager
def _unrecorded(model: Any) -> Iterator[None]:
    """The recorder passes on without writing down."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    recorder = ALL_ATTENTION_FUNCTIONS[_NAME]
    wanted, on_layer = recorder.wanted, recorder.on_layer
    recorder.wanted, recorder.on_layer = set(), None
    try:
        yield
    finally:
        recorder.wanted, recorder.on_layer = wanted, on_layer


def _row_losses(model: Any, ids: Any, real: Any, row: int, hidden: Any, logits: Any):
    """-ln p(token t + 1 given tokens 0 .. t), float32 [t - 1] on the CPU."""
    import torch

    whole = (logits if hidden is None else hidden)[row, real][:-1]
    targets = ids[1:].long()
    losses = torch.empty(len(targets), dtype=torch.float32)
    with torch.no_grad():
        for first in range(0, len(targets), _LOSS_CHUNK):
            part = slice(first, first + _LOSS_CHUNK)
            scores = whole[part] if hidden is None else model.get_output_embeddings()(whole[part])
            losses[part] = torch.nn.functional.cross_entropy(scores.float(), targets[part], reduction="none").cpu()
    return losses
