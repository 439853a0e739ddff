# SPDX-License-Identifier: Apache-2.0
"""Trains the judges of SmolLM2-135M by ranking, on traces of the training texts.

    python -m smollm2.train [--work DIR] [--name ranking] [--budgets 128:32,256:64,512:128]

Records what is not recorded yet, and then trains the layers one by one, as they do not depend on each other. Every
layer is a file when it is done: a run that was stopped goes on where it was, and ends with the same bytes.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import functools
import json
import multiprocessing
import os
import pathlib
import sys
from typing import Any, Optional

import numpy as np
from comparison.work import Progress

import foresightkv
from foresightkv import record, training

from . import recipe as shared
from .model import folder
from .paths import WORK


@dataclasses.dataclass(frozen=True)
class Recipe(shared.Recipe):
    """What the weights depend on, beside the traces."""

    budgets: tuple[tuple[int, int], ...] = ((128, 32), (256, 64), (512, 128))
    """(budget, interval) of the caches that are met, in turn: one judge for all of them."""
    prompts: tuple[int, ...] = (0, 1024)
    """Tokens that are there when the first eviction comes, in turn; 0: budget + interval."""
    rounds: int = 4
    """How often the judges meet caches of their own; all rounds so far stay in the pool."""
    steps: int = 400
    batch: int = 32
    learning_rate: float = 1e-2
    margin: float = 0.01
    inputs: str = "all"
    """Or "statistics": keys and values keep the weight 0."""
    seed: int = 0

    def regime(self, number: int) -> dict[str, int]:
        """Budget, interval and prompt of a replay."""
        budget, interval = self.budgets[number % len(self.budgets)]
        prompt = self.prompts[number // len(self.budgets) % len(self.prompts)]
        return {"budget": budget, "interval": interval, "start": 0 if prompt < budget + interval else prompt}


class Pool:
    """Evictions that are learned from."""

    def __init__(self, layer_traces: list[training.Layer], recipe: Recipe) -> None:
        self.traces, self.recipe = layer_traces, recipe
        self.samples: list[training.ReplaySteps] = []
        self.future: dict[tuple[int, int], np.ndarray] = {}  # by trace and interval

    def _future(self, trace: int, interval: int) -> np.ndarray:
        if (trace, interval) not in self.future:
            self.future[trace, interval] = training.future_scores(self.traces[trace], interval=interval, threads=1)
        return self.future[trace, interval]

    def add(self, number: int, weights: Optional[np.ndarray]) -> list[training.ReplaySteps]:
        """The caches of every trace under these judges, or golden's own without. number: of the round."""
        found = []
        for index, trace in enumerate(self.traces):
            regime = self.recipe.regime(index + number)
            future = self._future(index, regime["interval"])
            replay = training.feature_replay(trace, future, **regime, sinks=4, weights=weights, threads=1)
            found += replay.parts
            self.samples += [replay[step] for step in range(len(replay))]
        return found


@functools.cache
def _opened(path: pathlib.Path) -> foresightkv.io.Trace:
    """Once in a process: a trace is read through when it is opened, and every layer wants all of them."""
    return foresightkv.io.read_trace(path)


def train_layer(traces: list[pathlib.Path], first: np.ndarray, number: int, recipe: Recipe) -> dict[str, Any]:
    """{"weights": float32 [kv_head][inputs + 3][16], "losses": [step]} of one layer. first: weights to begin with."""
    layers = [_opened(path).layer(number) for path in traces]
    pool = Pool(layers, recipe)
    tokens = layers[0].key_head_dim + layers[0].value_head_dim if recipe.inputs == "statistics" else 0
    scale = shared.standardisation((steps.rows for steps in pool.add(0, None)), threads=1)
    weights = scale.unfold(first)
    weights[:, :tokens] = 0
    adam = training.Adam(weights, threads=1)
    schedule = training.Schedule(total_steps=recipe.steps, learning_rate=recipe.learning_rate)
    losses = []
    for step in range(recipe.steps):
        if step * recipe.rounds % recipe.steps < recipe.rounds:  # a round begins
            number_of_round = step * recipe.rounds // recipe.steps
            pool.add(number_of_round + 1, scale.fold(weights))
            sampler = training.BatchSampler(len(pool.samples), seed=recipe.seed, stream=number_of_round)
        batch = [pool.samples[place] for place in sampler.draw(step * recipe.batch, recipe.batch)]
        gradient, loss = _gradient(scale.fold(weights), batch, recipe, step)
        scale.standardise_gradient(gradient)
        gradient[:, :tokens] = 0
        training.clip_gradient(gradient[None])
        adam.update(gradient, schedule(step))
        losses.append(loss)
    return {"weights": scale.fold(weights), "losses": np.array(losses, np.float32)}


def _gradient(
    weights: np.ndarray, batch: list[training.ReplaySteps], recipe: Recipe, step: int
) -> tuple[np.ndarray, float]:
    """(of the mean ranking loss by the weights, the loss)."""
    gradient, loss = np.zeros_like(weights), 0.0
    for steps in batch:
        scores, hidden = training.judge_forward(weights, steps.rows, threads=1)
        found = training.ranking_hinge(scores, steps.labels, margin=recipe.margin, threads=1)
        loss += found.loss / len(batch)
        training.judge_backward(weights, steps.rows, hidden, found.gradient / len(batch), gradient, threads=1)
    return gradient, loss


def _work(traces: list[pathlib.Path], first: np.ndarray, number: int, recipe: Recipe, out: pathlib.Path) -> int:
    if not out.exists():
        part = out.with_suffix(".part.npz")
        np.savez(part, **train_layer(traces, first, number, recipe))
        part.rename(out)
    return number


def train(traces: list[pathlib.Path], recipe: Recipe, name: str, work: pathlib.Path, processes: int) -> pathlib.Path:
    """Trains all layers that were recorded and writes work/judges/NAME.safetensors, as float16."""
    shape = foresightkv.io.read_trace(traces[0])
    numbers, some = shape.layers, shape.layer(shape.layers[0])
    judge = training.Judge(
        num_layers=numbers[-1] + 1,
        num_kv_heads=some.num_kv_heads,
        group=some.group,
        key_head_dim=some.key_head_dim,
        value_head_dim=some.value_head_dim,
        layers=numbers,
    )
    judge.initialise(seed=recipe.seed)
    done = work / "training" / f"{name}-{recipe.identity}"
    done.mkdir(parents=True, exist_ok=True)
    progress = Progress(len(numbers))
    # Not forked: threads of this process would be missing in its children.
    with concurrent.futures.ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        waiting = [
            pool.submit(_work, traces, judge.weights[number], number, recipe, done / f"{number}.npz")
            for number in numbers
        ]
        for future in concurrent.futures.as_completed(waiting):
            progress.done += 1
            progress.show(0.0, f"layer {future.result()}")
    for number in numbers:
        with np.load(done / f"{number}.npz") as found:
            judge.weights[number] = found["weights"]
    out = work / "judges" / f"{name}.safetensors"
    out.parent.mkdir(parents=True, exist_ok=True)
    judge.metadata = {
        "model": shape.metadata.get("model", ""),
        "texts": " ".join(path.stem for path in traces),
        "recipe": json.dumps(dataclasses.asdict(recipe)),
        "trained_by": "examples/smollm2",
    }
    judge.save(out, dtype="float16")
    return out


def record_texts(model: pathlib.Path, work: pathlib.Path, tokens: int) -> list[pathlib.Path]:
    """Traces of work/texts/train/*.txt, in work/traces."""
    texts = sorted((work / "texts/train").glob("*.txt"))
    if not texts:
        raise ValueError(f"{work}/texts/train: no texts; python -m smollm2.text fetches them")
    out = work / "traces"
    if record.main([str(model), *map(str, texts), "--out", str(out), "--tokens", str(tokens)]):
        raise ValueError("the texts were not recorded")
    return [out / f"{text.stem}.safetensors" for text in texts]


def main(arguments: Optional[list[str]] = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m smollm2.train", description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=pathlib.Path, default=WORK, metavar="DIR", help="default: build/smollm2")
    parser.add_argument("--name", default="ranking", help="of the judges (default: %(default)s)")
    parser.add_argument(
        "--model", type=pathlib.Path, help="a folder for transformers, or a GGUF file (default: SmolLM2-135M)"
    )
    parser.add_argument("--tokens", type=int, default=4096, help="of each text (default: %(default)s)")
    parser.add_argument(
        "--budgets",
        type=shared.budgets,
        default=Recipe.budgets,
        metavar="B:L,...",
        help="default: 128:32,256:64,512:128",
    )
    parser.add_argument("--inputs", choices=("all", "statistics"), default=Recipe.inputs)
    for number in ("rounds", "steps", "batch", "seed"):
        parser.add_argument(f"--{number}", type=int, default=getattr(Recipe, number), help="default: %(default)s")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="default: one for each core")
    chosen = parser.parse_args(arguments)
    names = {field.name for field in dataclasses.fields(Recipe)}
    recipe = Recipe(**{name: value for name, value in vars(chosen).items() if name in names})
    try:
        traces = record_texts(folder(chosen.model, chosen.work), chosen.work, chosen.tokens)
        print(train(traces, recipe, chosen.name, chosen.work, chosen.processes))
    except (ValueError, OSError) as error:
        print(f"train: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
