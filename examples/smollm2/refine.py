# SPDX-License-Identifier: Apache-2.0
"""Refines trained judges by GRPO on the language model's own loss (arXiv 2602.03203, section 3.3).

    python -m smollm2.refine [--work DIR] [--from ranking] [--name grpo] [--steps N]

Every step takes one training text and a few layers, draws a group of rollouts from the judges of these layers, runs the
model once with the evictions of each, and takes one step of the clipped policy gradient. The other layers evict what
their judges score lowest, as they will once they are trained. After every step a file holds all there is to know: a
run that was stopped goes on where it was, and ends with the same bytes.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import pathlib
import sys
import time
from typing import Any, Optional

import numpy as np
import torch
from comparison.work import Progress

import foresightkv
from foresightkv import training

from . import losses
from . import recipe as shared
from .model import load, read_ids
from .paths import WORK


@dataclasses.dataclass(frozen=True)
class Recipe(shared.Recipe):
    """What the weights depend on, beside the texts and the judges to begin with."""

    budgets: tuple[tuple[int, int], ...] = ((256, 64),)
    """(budget, interval), in turn."""
    steps: int = 40
    rollouts: int = 8
    layers: int = 3
    """That draw in a step, 0 for all, as published. A reward has as many causes as there are draws: the fewer layers
    draw, the more it says about each of them."""
    tokens: int = 2048
    """Of each text."""
    learning_rate: float = 1e-3
    spread: float = 1.0
    """Deviation that the scores of a row are scaled to before the first step. Draws go by softmax(-score), and ranking
    leaves scores as close together as its margin: draws from those would be draws from a hat."""
    threshold: float = 0.0
    """Nats by which a token's loss has to rise to count, published 1.5."""
    credit: str = "later"
    """What a step's draws answer for: "later", the losses behind it, or "all", those of the whole text, as published."""
    seed: int = 0


class Prescribed:
    """A scorer that evicts what it is told to: a function of tokens for foresightkv.Policy."""

    def __init__(self, budget: int, interval: int) -> None:
        self.budget, self.interval = budget, interval
        self.evicted_at: dict[int, np.ndarray] = {}  # by layer: int32 [rollout][kv_head][token], the step

    def set(self, layer: int, rollout: int, rollouts: int, tokens: int, evicted: np.ndarray) -> None:
        """evicted: positions [step][kv_head][interval]."""
        steps, heads, _ = evicted.shape
        if layer not in self.evicted_at:
            self.evicted_at[layer] = np.full((rollouts, heads, tokens), np.iinfo(np.int32).max, np.int32)
        of_rollout = self.evicted_at[layer][rollout]
        for step in range(steps):
            np.put_along_axis(of_rollout, evicted[step], step, axis=1)

    def __call__(self, tokens: foresightkv.Tokens) -> np.ndarray:
        (layer,) = tokens.layers
        step = (int(tokens.next_positions[0, 0, 0]) - self.budget) // self.interval - 1
        at = np.take_along_axis(self.evicted_at[layer], np.maximum(tokens.positions[0], 0), axis=2)
        return (at > step)[None].astype(np.float32)


@dataclasses.dataclass
class Text:
    """A training text: its trace, and what the full cache says of it."""

    ids: torch.Tensor  # [T]
    layers: list[training.Layer]
    loss: np.ndarray  # float32 [T - 1]
    entropy: np.ndarray


@dataclasses.dataclass
class State:
    """Everything that a step changes."""

    weights: np.ndarray  # float32 [layer][kv_head][inputs + 3][16], of standardised inputs
    mean: np.ndarray
    square: np.ndarray
    updates: np.ndarray  # int64 [layer], steps of Adam
    metrics: np.ndarray  # float64 [step][5]: reward, its deviation over the group, loss rise, gradient norm, agreement

    def save(self, path: pathlib.Path) -> None:
        part = path.with_suffix(".part.npz")
        np.savez(part, **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)})
        part.rename(path)

    @classmethod
    def load(cls, path: pathlib.Path) -> State:
        with np.load(path) as found:
            return cls(**{field.name: found[field.name] for field in dataclasses.fields(cls)})


class Refinement:
    """The training between its first and its last step."""

    def __init__(
        self, model: Any, texts: list[tuple[torch.Tensor, pathlib.Path]], judge: training.Judge, recipe: Recipe
    ) -> None:
        """texts: (ids [T], its trace) of each."""
        self.model, self.texts, self.recipe = model, texts, recipe
        self.sampler = training.BatchSampler(len(texts), seed=recipe.seed)
        self.judged = list(judge.layers)  # their numbers; below, a layer is its place among them
        self.layer_sampler = training.BatchSampler(len(self.judged), seed=recipe.seed, stream=1)
        self.read: dict[int, Text] = {}
        self.reference = judge.weights[self.judged]  # of inputs as they are
        self.scales = [self._scale(layer) for layer in range(len(self.reference))]
        self.start = np.stack([scale.unfold(of_layer) for scale, of_layer in zip(self.scales, self.reference)])
        weights, updates = self.start.copy(), np.zeros(len(self.start), np.int64)
        self.state = State(weights, np.zeros_like(weights), np.zeros_like(weights), updates, np.zeros((0, 5)))

    def folded(self) -> np.ndarray:
        """The judges as they are, of inputs as they are."""
        return np.stack([scale.fold(of_layer) for scale, of_layer in zip(self.scales, self.state.weights)])

    def text(self, number: int) -> Text:
        if number not in self.read:
            ids, path = self.texts[number]
            trace = foresightkv.io.read_trace(path)
            layers = [trace.layer(layer, tokens=self.recipe.tokens) for layer in self.judged]
            self.model.set_attn_implementation("sdpa")
            loss, entropy = losses.full(self.model, ids[None])
            self.read[number] = Text(ids, layers, loss[0], entropy[0])
        return self.read[number]

    def _scale(self, layer: int) -> training.Standardisation:
        """Of the inputs that a layer's judges meet; on the way scales their scores, to deviate by recipe.spread."""
        budget, interval = self.recipe.budgets[0]
        weights = self.reference[layer]
        met = [self._replay(self.text(n).layers[layer], weights, budget, interval) for n in range(len(self.texts))[:4]]
        rows = [steps.rows for replay in met for steps in replay.parts]
        deviations = [training.judge_forward(weights, one)[0].std(-1).mean(0) for one in rows]  # [kv_head]
        weights[:, -2:] *= (self.recipe.spread / np.maximum(np.mean(deviations, axis=0), 1e-12))[:, None, None]
        return shared.standardisation(rows)

    def _replay(self, layer: training.Layer, weights: np.ndarray, budget: int, interval: int, **draws: Any):
        unknown = np.zeros((layer.num_kv_heads, layer.tokens // interval - 1, layer.tokens), np.float32)
        return training.feature_replay(
            layer, unknown, budget=budget, interval=interval, sinks=4, weights=weights, **draws
        )

    def step(self, number: int) -> None:
        recipe, state = self.recipe, self.state
        budget, interval = recipe.budgets[number % len(recipe.budgets)]
        text = self.text(self.sampler.at(number))
        weights = self.folded()
        drawing = self._drawing(number)
        scorer = Prescribed(budget, interval)
        rollouts = self._roll_out(scorer, text, weights, drawing, number)
        policy = foresightkv.Policy(scorer, budget=budget, interval=interval, sinks=4)
        found, _ = losses.evicted(self.model, text.ids[None].expand(recipe.rollouts, -1), policy)
        advantages, rewards = self._advantages(text, found, len(rollouts[drawing[0]][0]), budget, interval)
        gradient = np.zeros_like(state.weights)
        for place, drawn in rollouts.items():
            for one, replay in enumerate(drawn):
                self._add_gradient(gradient[place], place, weights[place], replay, advantages[one], number)
            self.scales[place].standardise_gradient(gradient[place])
        agreement = _cosine(-gradient[drawing], state.weights[drawing] - self.start[drawing])  # where all steps led
        clipped = training.clip_gradient(gradient)
        if clipped.not_finite_layers == 0:
            self._update(drawing, gradient)
        first = losses.first_evicted(budget, interval)
        rise = float(found[:, first:].mean() / text.loss[first:].mean())
        line = [float(np.mean(rewards)), float(np.std(rewards)), rise, clipped.norm, agreement]
        state.metrics = np.vstack([state.metrics, line])

    def _roll_out(
        self, scorer: Prescribed, text: Text, weights: np.ndarray, drawing: list[int], number: int
    ) -> dict[int, list[training.Replay]]:
        """Tells the scorer what every layer evicts in each rollout. Returns the replays of the layers that draw."""
        count = self.recipe.rollouts
        draws = [{"sampled": True, "seed": self.recipe.seed + number, "rollout": one} for one in range(count)]
        rollouts = {}
        for place, layer in enumerate(text.layers):
            replays = [
                self._replay(layer, weights[place], scorer.budget, scorer.interval, **how)
                for how in (draws if place in drawing else [{}])
            ]
            for one in range(count):
                (steps,) = replays[one % len(replays)].parts
                scorer.set(layer.number, one, count, len(text.ids), steps.evicted_positions)
            if place in drawing:
                rollouts[place] = replays
        return rollouts

    def _drawing(self, number: int) -> list[int]:
        """The layers that draw in a step; all have had their turn before one has it again."""
        layers = len(self.reference)
        count = min(self.recipe.layers or layers, layers)
        return sorted({int(place) for place in self.layer_sampler.draw(number * count, count)})

    def _update(self, drawing: list[int], gradient: np.ndarray) -> None:
        state = self.state
        for place in drawing:
            weights = state.weights[place]
            adam = training.Adam(weights)
            adam.mean[:], adam.square[:], adam.steps = state.mean[place], state.square[place], int(state.updates[place])
            adam.update(gradient[place], self.recipe.learning_rate)
            state.mean[place], state.square[place], state.updates[place] = adam.mean, adam.square, adam.steps

    def _advantages(
        self, text: Text, found: np.ndarray, steps: int, budget: int, interval: int
    ) -> tuple[np.ndarray, list[float]]:
        """(float64 [rollout][step], reward of each rollout)."""

        def rewards_behind(first: int) -> list[float]:
            return training.rewards(
                text.loss, found, text.entropy, first_token=first, threshold=self.recipe.threshold
            ).rewards

        firsts = [budget + (step + 1) * interval for step in range(steps)]
        of_all = rewards_behind(firsts[0])
        if self.recipe.credit == "all":
            return np.repeat(training.group_advantages(of_all)[:, None], steps, axis=1), of_all
        return np.stack([training.group_advantages(rewards_behind(first)) for first in firsts], axis=1), of_all

    def _add_gradient(
        self,
        gradient: np.ndarray,
        layer: int,
        weights: np.ndarray,
        replay: training.Replay,
        advantages: np.ndarray,
        number: int,
    ) -> None:
        for step, advantage in enumerate(advantages):
            rows, picked = replay[step].rows, replay[step].evicted
            training.rollout_gradient(
                weights,
                rows,
                picked,
                training.rollout_log_probs(weights, rows, picked),
                float(advantage),
                gradient,
                reference_log_probs=training.rollout_log_probs(self.reference[layer], rows, picked),
                kl_weight=training.published_kl_weight(number),
                scale=1.0 / (self.recipe.rollouts * len(advantages)),
            )


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    """Between two directions, 0 where one of them is none."""
    norm = float(np.linalg.norm(one)) * float(np.linalg.norm(other))
    return float(np.vdot(one, other)) / norm if norm > 0.0 else 0.0


def refine(refinement: Refinement, judge: training.Judge, done: pathlib.Path, out: pathlib.Path) -> None:
    """Takes the steps that are not taken yet, and writes the judges."""
    done.mkdir(parents=True, exist_ok=True)
    kept = done / "state.npz"
    if kept.exists():
        refinement.state = State.load(kept)
    first, steps = len(refinement.state.metrics), refinement.recipe.steps
    progress = Progress(max(steps - first, 1))
    for number in range(first, steps):
        begin = time.monotonic()
        refinement.step(number)
        refinement.state.save(kept)
        progress.done += 1
        reward, deviation, rise, norm, agreement = refinement.state.metrics[-1]
        progress.say(
            f"step {number + 1} of {steps}: reward {reward:.4f} +- {deviation:.4f}, loss {rise:.4f} of the full "
            f"cache's, gradient {norm:.2e}, agreement {agreement:+.3f}, {time.monotonic() - begin:.0f} s"
        )
        progress.show(0.0, "")
    judge.weights[refinement.judged] = refinement.folded()
    judge.save(out, dtype="float16")


def main(arguments: Optional[list[str]] = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m smollm2.refine", description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=pathlib.Path, default=WORK, metavar="DIR", help="default: build/smollm2")
    parser.add_argument("--from", dest="start", default="ranking", help="judges to begin with (default: %(default)s)")
    parser.add_argument("--name", default="grpo", help="of the judges (default: %(default)s)")
    parser.add_argument(
        "--model", type=pathlib.Path, help="a folder for transformers, or a GGUF file (default: SmolLM2-135M)"
    )
    parser.add_argument(
        "--budgets", type=shared.budgets, default=Recipe.budgets, metavar="B:L,...", help="default: 256:64"
    )
    parser.add_argument("--credit", choices=("later", "all"), default=Recipe.credit)
    for number in ("steps", "rollouts", "layers", "tokens", "seed"):
        parser.add_argument(f"--{number}", type=int, default=getattr(Recipe, number), help="default: %(default)s")
    for number in ("learning_rate", "spread", "threshold"):
        option = f"--{number.replace('_', '-')}"
        parser.add_argument(option, type=float, default=getattr(Recipe, number), help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=0, help="default: PyTorch's choice")
    chosen = parser.parse_args(arguments)
    recipe = Recipe(**{field.name: getattr(chosen, field.name) for field in dataclasses.fields(Recipe)})
    try:
        if chosen.threads:
            torch.set_num_threads(chosen.threads)
        model, tokenizer = load(chosen.model, chosen.work)
        judges = chosen.work / "judges"
        judge = training.Judge.load(judges / f"{chosen.start}.safetensors")
        paths = sorted((chosen.work / "texts/train").glob("*.txt"))
        texts = [
            (read_ids(path, tokenizer, recipe.tokens), chosen.work / "traces" / f"{path.stem}.safetensors")
            for path in paths
        ]
        begun = hashlib.sha256(judge.weights.tobytes()).hexdigest()[:8]
        done = chosen.work / "training" / f"{chosen.name}-{recipe.identity}-{begun}"
        refine(Refinement(model, texts, judge, recipe), judge, done, judges / f"{chosen.name}.safetensors")
    except (ValueError, OSError) as error:
        print(f"refine: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
