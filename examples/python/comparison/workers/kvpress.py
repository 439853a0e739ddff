# SPDX-License-Identifier: Apache-2.0
"""Measures kvpress, in an environment of its own (its transformers is older than ours).

How it is asked for the same as the other programs:
- DecodingPress with target_size = budget compresses every layer while a text goes on. It counts calls of the model,
  not tokens: while a text is fed in chunks of an interval, every call is one interval, so that its compression_interval
  is 1 then, and the interval while tokens come one by one. The first chunk, of budget tokens, is prefill to it, and not
  cut.
- Positions go on counting, as kvpress's own pipeline has them.

What differs and stays so:
- A press is scored from hidden states, from which it computes queries again, and is at the default of its paper
  otherwise (a window of 64 queries for SnapKV, of 1 for TOVA).
- The tokens of the last interval are protected only where a press does so itself.
- While decoding, all queries of the window are turned by the rotary embedding of the newest position, which is all that
  a press is handed then.
- What a press keeps lies in order of score. Presses that take slots for positions are right in the first cut alone:
  StreamingLLMPress loses its first tokens in the second, and SnapKVPress pools over neighbours that are none. With the
  kept slots sorted, StreamingLLMPress has the loss of our streaming_llm.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import platform
from typing import Any, Iterator

import torch

from . import generation, steps
from .protocol import Lines

# The press that comes closest to each of our policies, and how the table calls it.
PRESSES = {
    "snap_kv": "SnapKVPress",
    "tova": "TOVAPress",
    "key_diff": "KeyDiffPress",
    "key_norm": "KnormPress",
    "streaming_llm": "StreamingLLMPress",
    "expected_attention": "ExpectedAttentionPress",
}


def press_of(policy: str, task: dict[str, Any]) -> Any:
    import kvpress

    if policy == "snap_kv":
        # A window must be shorter than the hidden states at hand, which are those of one interval.
        return kvpress.SnapKVPress(window_size=min(64, task["interval"] - 1))
    if policy == "snap_kv_interval":
        return kvpress.SnapKVPress(window_size=task["interval"])
    if policy == "streaming_llm":
        return kvpress.StreamingLLMPress(n_sink=task["sinks"])
    return getattr(kvpress, PRESSES[policy])()


class PressSession:
    """A DynamicCache that hooks of a DecodingPress cut after each layer's attention."""

    def __init__(self, model: Any, press: Any, interval: int) -> None:
        import transformers

        self.model, self.press, self.interval = model, press, interval
        self.cache, self.cuts = transformers.DynamicCache(config=model.config), 0
        compress = press.compress

        def counted(*given: Any) -> Any:
            self.cuts += 1
            return compress(*given)

        press.compress = counted
        press.compression_interval = 1

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        import kvpress

        # A press's hooks come and go with its context, and a DecodingPress would forget its hidden states each time.
        with kvpress.BasePress.__call__(self.press, self.model):
            yield

    def forward(self, ids: torch.Tensor, first: int, keep: int) -> torch.Tensor:
        positions = torch.arange(first, first + ids.shape[1])[None]
        return self.model(ids, past_key_values=self.cache, position_ids=positions, logits_to_keep=keep).logits

    def decodes_now(self) -> None:
        self.press.compression_interval = self.interval

    def cache_bytes(self) -> int:
        return generation.tensor_bytes(self.cache.layers)

    def state_bytes(self) -> int:
        held = [states for layer in self.press.hidden_states_buffer.values() for states in layer]
        return sum(states.numel() * states.element_size() for states in held)

    def evictions(self) -> int:
        return self.cuts // len(self.cache.layers)


class Steps(steps.Stepper):
    """compress() of a press, layer after layer, on the hidden states of the newest interval."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.layers = [layer.self_attn for layer in model.model.layers]
        for layer in self.layers:
            layer.rotary_emb = model.model.rotary_emb  # as BasePress does

    def prepare(self, inputs: dict[str, torch.Tensor], task: dict[str, Any]) -> tuple[steps.Step, steps.Step]:
        press = press_of(task["policy"], task)
        length, kept = inputs["keys"].shape[3], task["budget"]
        press.compression_ratio = 1 - (kept + 0.5) / length  # in the middle of what rounds to the budget
        newest = slice(-(task["interval"] + (task["policy"] == "snap_kv_interval")), None)
        hidden = inputs["hidden"][:, :, newest].contiguous()
        given = {"position_embeddings": (inputs["cos"][:, newest], inputs["sin"][:, newest])}
        now: dict[str, torch.Tensor] = {}

        def renew() -> None:
            now["keys"], now["values"] = inputs["keys"].clone(), inputs["values"].clone()

        def step() -> None:
            now["cut"] = [
                press.compress(layer, hidden[number], now["keys"][number], now["values"][number], None, given)
                for number, layer in enumerate(self.layers)
            ]

        renew()
        step()
        if any(tensor.shape[2] != kept for cut in now["cut"] for tensor in cut):
            raise RuntimeError(f"{now['cut'][0][0].shape[2]} tokens were kept, not {kept}")
        return renew, step


def main() -> None:
    lines = Lines()
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, required=True)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    import importlib.metadata

    import kvpress
    import transformers

    logging.getLogger("kvpress").setLevel(logging.ERROR)
    model = transformers.AutoModelForCausalLM.from_pretrained(chosen.model, dtype=torch.float32).eval()

    def session(task: dict[str, Any]) -> PressSession:
        press = kvpress.DecodingPress(
            base_press=press_of(task["policy"], task),
            target_size=task["budget"],
            compression_interval=task["interval"],
            hidden_states_buffer_size=max(256, task["interval"]),
        )
        return PressSession(model, press, task["interval"])

    lines.serve(
        {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "kvpress": importlib.metadata.version("kvpress"),
            "policies": list(PRESSES),
            "missing": None,
        },
        {**generation.tasks(session), "step": Steps(model).run},
    )


if __name__ == "__main__":
    main()
