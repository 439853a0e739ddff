# SPDX-License-Identifier: Apache-2.0
"""Times one eviction step of the PyTorch code that ForesightKV's authors published, from a checkout of it.

Nothing of that code is here: bench/peers/README.md says where it is, and what its step does. The judge has random
weights, which cost as much as trained ones.
"""

from __future__ import annotations

import argparse
import pathlib
import platform
import sys
from typing import Any

import torch

from . import steps
from .protocol import Lines

LENGTH = 128  # tokens that the published step protects, and queries that it observes; fixed in its source


class Published(steps.Stepper):
    """update_kv of each layer, as a later call of a sequence: accumulated sums exist."""

    def __init__(self, reference: str) -> None:
        super().__init__()
        sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[4] / "bench/peers"))
        import reference as published

        self.eviction, self.judge = published.load_step(reference)

    def prepare(self, inputs: dict[str, torch.Tensor], task: dict[str, Any]) -> tuple[steps.Step, steps.Step]:
        if task["interval"] != LENGTH:
            raise ValueError(f"the published step has an interval of {LENGTH}")
        layers, _, kv_heads, length, dim = inputs["keys"].shape
        heads, kept = inputs["queries"].shape[2], task["budget"]
        config = type("config", (), {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": dim})
        torch.manual_seed(1)
        each = [
            self.eviction(budget=kept, window_size=LENGTH, judge_model=self.judge(config).eval()) for _ in range(layers)
        ]
        for step in each:
            for weight in step.judge_model.parameters():
                torch.nn.init.normal_(weight, std=0.02)
        older = torch.rand(1, kv_heads, kept, heads // kv_heads)
        now: dict[str, Any] = {}

        def renew() -> None:
            now["keys"], now["values"] = inputs["keys"].clone(), inputs["values"].clone()
            for step in each:
                step.attn_acc, step.attn_acc_decay = older.clone(), older.clone()

        def step_all() -> None:
            now["cut"] = [
                step.update_kv(now["keys"][number], inputs["queries"][number], now["values"][number])
                for number, step in enumerate(each)
            ]

        renew()
        step_all()
        if any(tensor.shape[2] != kept for cut in now["cut"] for tensor in cut):
            raise RuntimeError(f"{now['cut'][0][0].shape[2]} tokens were kept, not {kept}")
        return renew, step_all


def main() -> None:
    lines = Lines()
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True, help="a checkout of the published code")
    parser.add_argument("--threads", type=int, required=True)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    published = Published(chosen.model)
    lines.serve(
        {"python": platform.python_version(), "torch": torch.__version__, "policies": [], "missing": None},
        {"step": published.run},
    )


if __name__ == "__main__":
    main()
