# SPDX-License-Identifier: Apache-2.0
"""What evictions cost SmolLM2-135M: its own loss on held-out texts, under every policy, over the full cache's.

    python -m smollm2.evaluate [--weights ranking=FILE ...] [--budgets 256:64,...] [--policies A,B] [TEXT...]

The model reads each text with evictions in every layer and head. Losses are kept token by token; run it again, and it
goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any, Optional

import numpy as np
import torch
from comparison.work import Progress

import foresightkv
from foresightkv import training

from . import losses, table
from .model import load, read_ids
from .paths import WEIGHTS, WORK
from .recipe import budgets

HEURISTICS = (
    "window_sum",
    "h2o",
    "h2o_per_query",
    "accumulated",
    "snap_kv",
    "tova",
    "r_kv",
    "key_diff",
    "key_norm",
    "streaming_llm",
    "random",
)
JUDGED = {"foresight": "foresight, ", "foresight_once": "foresight asked once, "}  # what their rows are called
KINDS = ("documents", "reasoning")


@dataclasses.dataclass(frozen=True)
class Setting:
    """How far a cache is cut, and how many of its newest tokens no policy may touch."""

    budget: int
    interval: int
    recent: float = 0.0  # share of what is left of the budget beside the interval's own tokens

    @property
    def recent_tokens(self) -> int:
        return self.interval + round(self.recent * (self.budget - self.interval))


@dataclasses.dataclass(frozen=True)
class Contender:
    """A row of the table."""

    name: str
    scorer: str
    weights: Optional[pathlib.Path] = None

    @functools.cached_property
    def identity(self) -> str:
        if self.weights is None:
            return self.scorer
        return f"{self.scorer}-{hashlib.sha256(self.weights.read_bytes()).hexdigest()[:12]}"

    def policy(self, setting: Setting, golden: Callable[[], losses.Golden]) -> foresightkv.Policy:
        scorer: Any = golden() if self.scorer == "golden" else self.scorer
        if self.scorer == "foresight_once":
            scorer = losses.AskedOnce(training.Judge.load(self.weights), setting.recent_tokens)
        weights = {"weights": str(self.weights)} if self.scorer == "foresight" else {}
        return foresightkv.Policy(
            scorer,
            budget=setting.budget,
            interval=setting.interval,
            sinks=4,
            recent=setting.recent_tokens,
            **weights,
        )


@dataclasses.dataclass(frozen=True)
class Group:
    """Texts of one kind, read as one batch."""

    kind: str
    names: list[str]
    ids: torch.Tensor  # [text][T]

    @functools.cached_property
    def identity(self) -> str:
        return f"{self.kind}-{hashlib.sha256(self.ids.numpy().tobytes()).hexdigest()[:12]}"


class Measurements:
    """Losses by text and token in files, each of them measured once."""

    def __init__(self, work: pathlib.Path, model: Any) -> None:
        self.folder, self.model = work / "losses", model
        self.folder.mkdir(parents=True, exist_ok=True)

    def full(self, group: Group) -> tuple[np.ndarray, np.ndarray]:
        """(losses, entropies), float32 [text][T - 1]."""
        self.model.set_attn_implementation("sdpa")
        return tuple(self._kept(f"{group.identity}-full", lambda: np.stack(losses.full(self.model, group.ids))))

    def path(self, group: Group, contender: Contender, setting: Setting) -> pathlib.Path:
        numbers = f"{setting.budget}-{setting.interval}-{setting.recent_tokens}"
        return self.folder / f"{group.identity}-{contender.identity}-{numbers}.npy"

    def of(
        self, group: Group, contender: Contender, setting: Setting, progress: Callable[[float], None] | None = None
    ) -> np.ndarray:
        """Losses float32 [text][T - 1]."""
        golden = functools.partial(self._golden, group, setting.interval)
        return self._kept(
            self.path(group, contender, setting).stem,
            lambda: losses.evicted(self.model, group.ids, contender.policy(setting, golden), progress)[0],
        )

    def _golden(self, group: Group, interval: int) -> losses.Golden:
        golden = losses.Golden(interval)
        for ids in group.ids:
            golden.add(self.model, ids)
        return golden

    def _kept(self, name: str, measure: Callable[[], np.ndarray]) -> np.ndarray:
        path = self.folder / f"{name}.npy"
        if not path.exists():
            made = measure()
            part = self.folder / f".{name}.part.npy"
            np.save(part, made)
            part.rename(path)
        return np.load(path)


def parse(arguments: Optional[list[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m smollm2.evaluate", description=__doc__.partition("\n")[0])
    parser.add_argument("texts", metavar="TEXT", nargs="*", type=pathlib.Path, help="default: those of smollm2.text")
    parser.add_argument(
        "--kinds", type=lambda text: text.split(","), default=KINDS, help="default: documents,reasoning"
    )
    parser.add_argument("--quick", action="store_true", help="two short texts of each kind, few policies: minutes")
    parser.add_argument(
        "--weights",
        metavar="NAME=FILE",
        type=_weights,
        action="append",
        help="judges (default: those that smollm2.train and smollm2.refine left, or the bundled one)",
    )
    parser.add_argument(
        "--policies",
        type=_policies,
        metavar="A,B",
        help="default: all but foresight_once, the judges asked about a token only once",
    )
    parser.add_argument("--budgets", type=budgets, default=None, metavar="B:L,...", help="default: 256:64")
    parser.add_argument(
        "--recent",
        type=lambda text: [float(share) for share in text.split(",")],
        default=[0.0],
        metavar="0,0.5",
        help="shares of the budget, beside the interval, that are kept for the newest tokens (default: 0)",
    )
    parser.add_argument("--tokens", type=int, default=None, help="of each text (default: 4096)")
    parser.add_argument("--count", type=int, default=None, help="texts of each kind (default: all)")
    parser.add_argument("--threads", type=int, default=0, help="default: PyTorch's choice")
    parser.add_argument(
        "--model", type=pathlib.Path, help="a folder for transformers, or a GGUF file (default: SmolLM2-135M)"
    )
    parser.add_argument("--work", type=pathlib.Path, default=WORK, metavar="DIR", help="default: build/smollm2")
    chosen = parser.parse_args(arguments)
    few = ["foresight", "golden", "window_sum", "random"]
    quick = {"budgets": [(256, 64)], "tokens": 1024, "count": 2, "policies": few}
    usual = {"budgets": [(256, 64)], "tokens": 4096, "count": 1000, "policies": ["foresight", "golden", *HEURISTICS]}
    for name, value in (quick if chosen.quick else usual).items():
        if getattr(chosen, name) is None:
            setattr(chosen, name, value)
    return chosen


def _policies(text: str) -> list[str]:
    known = {*JUDGED, "golden", *HEURISTICS}
    for name in text.split(","):
        if name not in known:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(sorted(known))}")
    return text.split(",")


def _weights(text: str) -> tuple[str, pathlib.Path]:
    name, _, file = text.partition("=")
    if not file or not pathlib.Path(file).exists():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FILE of a file that exists")
    return name, pathlib.Path(file)


def contenders(chosen: argparse.Namespace) -> list[Contender]:
    made = []
    for policy in chosen.policies:
        if policy in JUDGED:
            made += [Contender(JUDGED[policy] + name, policy, path.resolve()) for name, path in judges(chosen)]
        else:
            made.append(Contender(policy, policy))
    return made


def judges(chosen: argparse.Namespace) -> list[tuple[str, pathlib.Path]]:
    """(name, file) of each."""
    given = chosen.weights
    if given is None:
        trained = [(path.stem, path) for path in sorted((chosen.work / "judges").glob("*.safetensors"))]
        given = trained or [("bundled", WEIGHTS)]
    return given


def groups(chosen: argparse.Namespace, tokenizer: Any) -> list[Group]:
    if chosen.texts:
        found = {"texts": chosen.texts}
    else:
        found = {kind: sorted((chosen.work / "texts" / kind).glob("*.txt")) for kind in chosen.kinds}
    made = []
    for kind, paths in found.items():
        if not paths:
            raise ValueError(f"{chosen.work}/texts/{kind}: no texts; python -m smollm2.text fetches them")
        paths = paths[: chosen.count]
        ids = [read_ids(path, tokenizer, chosen.tokens) for path in paths]
        made.append(Group(kind, [path.stem for path in paths], torch.stack(ids)))
    return made


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    model, tokenizer = load(chosen.model, chosen.work)
    found = Measurements(chosen.work, model)
    compared = contenders(chosen)
    settings = [Setting(*pair, recent) for pair in chosen.budgets for recent in chosen.recent]
    read = groups(chosen, tokenizer)
    jobs = [
        (group, contender, setting)
        for setting in settings
        for group in read
        for contender in compared
        if setting.recent == 0.0 or contender.scorer not in ("streaming_llm", "golden")  # the same for them
    ]
    pending = [job for job in jobs if not found.path(*job).exists()]
    progress = Progress(sum(job[0].ids.numel() for job in pending) or 1.0)
    full = {group.kind: found.full(group) for group in read}
    measured: list[dict[str, Any]] = []
    for group, contender, setting in jobs:
        weight = group.ids.numel() if (group, contender, setting) in pending else 0
        about = f"{group.kind}, {contender.name}, {setting.budget}:{setting.interval}"
        measured.append(
            table.figures(
                group,
                contender.name,
                setting,
                full[group.kind],
                found.of(group, contender, setting, lambda share: progress.show(share * weight, about)),
            )
        )
        progress.done += weight
    return {
        "settings": [dataclasses.asdict(setting) for setting in settings],
        "texts": {group.kind: group.names for group in read},
        "tokens": chosen.tokens,
        "rows": measured,
    }


def main(arguments: Optional[list[str]] = None) -> int:
    chosen = parse(arguments)
    try:
        report = measure(chosen)
    except (ValueError, OSError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 1
    text = table.markdown(report)
    for name, content in (("evaluate.json", json.dumps(report, indent=1)), ("evaluate.md", text)):
        (chosen.work / name).write_text(content, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
