# SPDX-License-Identifier: Apache-2.0
"""The programs of examples/smollm2 on a small model with random weights: nothing is downloaded."""

import pathlib
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import safetensors.torch
from smollm2 import evaluate, generate, losses, plots, refine, table, text, train

import foresightkv as fkv
from foresightkv import training
from foresightkv.record import record

BUDGET, INTERVAL, TOKENS = 24, 8, 97
LAYERS, KV_HEADS, GROUP, DIM = 3, 2, 3, 16


@pytest.fixture(scope="module")
def model():
    """Weights drawn wide enough that tokens attend to each other unevenly."""
    config = transformers.LlamaConfig(
        vocab_size=61,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=KV_HEADS * GROUP,
        num_key_value_heads=KV_HEADS,
        head_dim=DIM,
    )
    torch.manual_seed(7)
    made = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, weights in made.named_parameters():
            if "proj" in name or "embed" in name:
                weights.normal_(0.0, 0.25)
    return made


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    made = training.Judge(num_layers=LAYERS, num_kv_heads=KV_HEADS, group=GROUP, key_head_dim=DIM)
    made.initialise()
    path = tmp_path_factory.mktemp("judge") / "start.safetensors"
    made.save(path)
    return path


def ids_of(rows, seed=0, tokens=TOKENS):
    return torch.randint(1, 61, (rows, tokens), generator=torch.Generator().manual_seed(seed))


def policy_of(name, judge, **more):
    weights = {"weights": str(judge)} if name == "foresight" else {}
    scorer = losses.AskedOnce(training.Judge.load(judge), INTERVAL) if name == "foresight_once" else name
    return fkv.Policy(scorer, budget=BUDGET, interval=INTERVAL, sinks=4, **weights, **more)


def write_traces(model, folder, count=3):
    paths = []
    for number in range(count):
        model.set_attn_implementation("sdpa")
        (trace,) = record(model, ids_of(1, seed=number))
        paths.append(folder / f"{number}.safetensors")
        safetensors.torch.save_file(trace, paths[-1])
    return paths


# -- losses ---------------------------------------------------------------------------------------------------------


def test_losses_of_the_full_cache_are_the_models(model):
    ids = ids_of(2)
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        logits = model(ids).logits[:, :-1]
    expected = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    found, entropies = losses.full(model, ids)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(entropies, torch.distributions.Categorical(logits=logits).entropy(), rtol=1e-4)


@pytest.mark.filterwarnings("ignore:EvictingCache. nothing was evicted")
def test_without_evictions_nothing_is_lost(model):
    ids = ids_of(2)
    policy = fkv.Policy("window_sum", budget=TOKENS, interval=INTERVAL)
    np.testing.assert_allclose(losses.evicted(model, ids, policy)[0], losses.full(model, ids)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [*fkv.policies(), "foresight_once"])
def test_a_later_token_changes_nothing_before_it(model, judge, name):
    """Causality, with every policy: losses see what stands behind their own token in no way."""
    ids = ids_of(2)
    changed = ids.clone()
    token = 70  # in the middle of an interval, with evictions on both sides
    changed[:, token] = (changed[:, token] + 7) % 61
    before, after = (losses.evicted(model, each, policy_of(name, judge))[0] for each in (ids, changed))
    np.testing.assert_array_equal(before[:, : token - 1], after[:, : token - 1])
    assert (before[:, token - 1 :] != after[:, token - 1 :]).any(axis=1).all()


def test_golden_evicts_in_the_model_what_it_evicts_of_a_recording(model):
    """Of the first layer, whose keys no eviction changes."""
    ids = ids_of(1)
    golden = losses.Golden(INTERVAL)
    golden.add(model, ids[0])
    policy = fkv.Policy(golden, budget=BUDGET, interval=INTERVAL)
    _, cache = losses.evicted(model, ids, policy)
    model.set_attn_implementation("sdpa")
    (trace,) = record(model, ids, dtype="f32")
    query, key, value = (trace[f"layer.0.{part}"] for part in ("query", "key", "value"))
    labels = fkv.golden_eviction(query, key, budget=BUDGET, interval=INTERVAL)
    kept = np.sort(cache.report().sequences[0].kept[0], axis=1)
    steps = cache.report().sequences[0].evictions
    assert 0 < steps <= labels.steps + 1
    gone = np.sort(labels.evicted_positions.transpose(1, 0, 2)[:, :steps].reshape(KV_HEADS, -1), axis=1)
    for head in range(KV_HEADS):
        assert not set(kept[head]) & set(gone[head])


# -- training -------------------------------------------------------------------------------------------------------


def test_ranking_learns_and_ends_with_the_same_bytes(model, tmp_path):
    traces = write_traces(model, tmp_path)
    recipe = train.Recipe(budgets=((BUDGET, INTERVAL),), prompts=(0, 48), rounds=2, steps=60, batch=8)
    one = train.train(traces, recipe, "judge", tmp_path / "one", 1).read_bytes()
    two = train.train(traces, recipe, "judge", tmp_path / "two", 2).read_bytes()
    assert one == two
    done = sorted((tmp_path / "one/training").glob("*/*.npz"))
    assert len(done) == LAYERS
    for path in done:
        curve = np.load(path)["losses"]
        assert curve[-10:].mean() < 0.7 * curve[:10].mean()
    done[1].unlink()  # as if it had been stopped
    assert train.train(traces, recipe, "judge", tmp_path / "one", 1).read_bytes() == one


def test_layers_that_were_not_recorded_get_no_judge(model, tmp_path):
    """As of a model most of whose layers have a sliding window."""
    traces = write_traces(model, tmp_path)
    recipe = train.Recipe(budgets=((BUDGET, INTERVAL),), prompts=(0,), rounds=1, steps=5, batch=4)
    whole = training.Judge.load(train.train(traces, recipe, "whole", tmp_path, 1))
    for path in traces:
        trace = safetensors.torch.load_file(path)
        safetensors.torch.save_file({k: v for k, v in trace.items() if not k.startswith("layer.0.")}, path)
    path = train.train(traces, recipe, "some", tmp_path / "some", 1)
    some = training.Judge.load(path)
    assert whole.layers == list(range(LAYERS)) and some.layers == list(range(1, LAYERS))
    np.testing.assert_array_equal(some.weights[1:], whole.weights[1:])

    texts = [(ids_of(1, seed=number)[0], path) for number, path in enumerate(traces)]
    refined = refine.Recipe(budgets=((BUDGET, INTERVAL),), tokens=TOKENS, steps=0)
    run = refine.Refinement(model, texts, some, refined)
    out = tmp_path / "refined.safetensors"
    refine.refine(run, some, tmp_path / "state", out)
    found = training.Judge.load(out)
    assert found.layers == some.layers and found.weights.shape == some.weights.shape
    assert [layer.number for layer in run.text(0).layers] == run.judged == some.layers


def test_statistics_alone_leave_keys_and_values_out(model, tmp_path):
    traces = write_traces(model, tmp_path)
    recipe = train.Recipe(budgets=((BUDGET, INTERVAL),), prompts=(0,), rounds=1, steps=10, batch=4, inputs="statistics")
    weights = training.Judge.load(train.train(traces, recipe, "judge", tmp_path, 1)).weights
    assert not weights[:, :, : 2 * DIM].any() and weights[:, :, 2 * DIM : -3].any()


def test_a_judge_is_asked_about_a_token_once():
    judge = training.Judge(num_layers=LAYERS, num_kv_heads=KV_HEADS, group=GROUP, key_head_dim=DIM)
    judge.initialise(seed=1, deviation=0.5)
    draw = np.random.default_rng(0)

    def tokens_at(positions, following):
        rows = (1, 1, KV_HEADS, len(positions))
        names = training.FEATURES["paper"]
        return fkv.Tokens(
            keys=draw.standard_normal((*rows[1:], DIM)).astype(np.float32),
            values=draw.standard_normal((*rows[1:], DIM)).astype(np.float32),
            lengths=np.array([len(positions)]),
            positions=np.broadcast_to(np.array(positions, np.int32), rows),
            next_positions=np.full(rows[:3], following),
            layers=[1],
            statistics={name: draw.random((*rows, GROUP)).astype(np.float32) for name in names},
        )

    def renewed(tokens):
        return training.judge_forward(
            judge.weights[1],
            training.Rows(
                tokens.keys[0],
                tokens.values[0],
                training.statistics_of({name: values[0, 0] for name, values in tokens.statistics.items()}),
            ),
        )[0]

    scorer = losses.AskedOnce(judge, recent=2)
    first = tokens_at([0, 1, 2, 3, 4, 5], 6)
    at_first = scorer(first)[0, 0]
    np.testing.assert_allclose(at_first, renewed(first), rtol=1e-6)
    later = tokens_at([3, 0, 6, 5, 7, -1], 8)  # 3 and 0 could have gone before, 5 was too new
    at_last = scorer(later)[0, 0]
    np.testing.assert_array_equal(at_last[:, :2], at_first[:, [3, 0]])
    np.testing.assert_allclose(at_last[:, 2:5], renewed(later)[:, 2:5], rtol=1e-6)
    assert np.ptp(at_last) > 0


def test_a_prescribed_eviction_is_carried_out(model, judge):
    ids = ids_of(1)
    (trace,) = record(model, ids)
    scorer = refine.Prescribed(BUDGET, INTERVAL)
    weights = training.Judge.load(judge).weights
    for number in range(LAYERS):
        layer = training.Layer(*(trace[f"layer.{number}.{part}"] for part in ("query", "key", "value")), number=number)
        future = training.future_scores(layer, interval=INTERVAL)
        for rollout in range(2):
            replay = training.feature_replay(
                layer,
                future,
                budget=BUDGET,
                interval=INTERVAL,
                sinks=4,
                weights=weights[number],
                sampled=True,
                rollout=rollout,
            )
            scorer.set(number, rollout, 2, TOKENS, replay.parts[0].evicted_positions)
    policy = fkv.Policy(scorer, budget=BUDGET, interval=INTERVAL, sinks=4)
    _, cache = losses.evicted(model, ids.expand(2, -1), policy)
    for rollout, sequence in enumerate(cache.report().sequences):
        for number in range(LAYERS):
            never = scorer.evicted_at[number][rollout] == np.iinfo(np.int32).max
            for head, kept in enumerate(sequence.kept[number]):
                expected = [position for position in np.flatnonzero(never[head]) if position < TOKENS - 1]
                assert sorted(kept) == expected


def test_refining_goes_on_where_it_was(model, judge, tmp_path):
    traces = write_traces(model, tmp_path, 2)
    texts = [(ids_of(1, seed=number)[0], path) for number, path in enumerate(traces)]
    recipe = refine.Recipe(budgets=((BUDGET, INTERVAL),), steps=3, rollouts=3, tokens=TOKENS)

    def run(folder, *stops):
        for steps in (*stops, recipe.steps):
            judges = training.Judge.load(judge)
            refinement = refine.Refinement(model, texts, judges, refine.dataclasses.replace(recipe, steps=steps))
            refine.refine(refinement, judges, tmp_path / folder, tmp_path / f"{folder}.safetensors")
        return (tmp_path / f"{folder}.safetensors").read_bytes()

    assert run("straight") == run("stopped", 1, 2)
    metrics = refine.State.load(tmp_path / "straight/state.npz").metrics
    assert metrics.shape == (3, 5) and (metrics[:, 1] > 0).all()  # rollouts differ, and so do their rewards
    start, end = (training.Judge.load(path).weights for path in (judge, tmp_path / "straight.safetensors"))
    assert all((start[layer] != end[layer]).any() for layer in range(LAYERS))


def test_layers_draw_in_turn(model, judge, tmp_path):
    """One step moves the judges of the layers that drew, and as many steps as it takes those of all."""
    (path,) = write_traces(model, tmp_path, 1)
    recipe = refine.Recipe(budgets=((BUDGET, INTERVAL),), rollouts=2, layers=1, tokens=TOKENS)
    refinement = refine.Refinement(model, [(ids_of(1)[0], path)], training.Judge.load(judge), recipe)
    moved = []
    for number in range(LAYERS):
        before = refinement.state.weights.copy()
        refinement.step(number)
        moved.append([layer for layer in range(LAYERS) if (before[layer] != refinement.state.weights[layer]).any()])
    assert sorted(moved) == [[layer] for layer in range(LAYERS)]
    assert (refinement.state.updates == 1).all()


def test_rewards_move_judges_to_what_was_rewarded(model, judge, tmp_path):
    """A step towards a rollout makes its draws likelier, and those of the others less so."""
    (path,) = write_traces(model, tmp_path, 1)
    judges = training.Judge.load(judge)
    recipe = refine.Recipe(budgets=((BUDGET, INTERVAL),), rollouts=2, tokens=TOKENS, credit="all")
    refinement = refine.Refinement(model, [(ids_of(1)[0], path)], judges, recipe)
    layer, weights = refinement.text(0).layers[1], refinement.folded()[1]
    drawn = [
        refinement._replay(layer, weights, BUDGET, INTERVAL, sampled=True, seed=0, rollout=one) for one in range(2)
    ]
    gradient = np.zeros_like(weights)
    for replay, advantage in zip(drawn, (1.0, -1.0)):
        refinement._add_gradient(gradient, 1, weights, replay, np.full(len(replay), advantage), 0)

    def likelihood(replay, of):
        (steps,) = replay.parts
        return training.rollout_log_probs(of, steps.rows, steps.evicted).mean()

    moved = weights - 1e-4 * gradient / np.abs(gradient).max()
    assert likelihood(drawn[0], moved) - likelihood(drawn[1], moved) > likelihood(drawn[0], weights) - likelihood(
        drawn[1], weights
    )


# -- the table ------------------------------------------------------------------------------------------------------


def test_figures_of_losses_that_are_known():
    setting = evaluate.Setting(4, 2)
    base = np.ones((2, 16), np.float32)
    entropy = np.tile(np.arange(16, dtype=np.float32), (2, 1))
    worse = base.copy()
    worse[0, 6:] = 1.5
    worse[:, -2:] = 2.0  # those of highest entropy: a fifth of the ten that count
    worse[:, :6] = 100.0  # before the first eviction
    group = evaluate.Group("documents", ["a", "b"], torch.zeros(2, 17))
    row = table.figures(group, "some", setting, (base, entropy), worse)
    np.testing.assert_allclose(row["ratios"], [1.6, 1.2])
    np.testing.assert_allclose([row["low_entropy"], row["high_entropy"]], [1.25, 2.0])


def test_the_interval_of_a_difference():
    low, high = table.interval_of(np.array([0.3] * 8))
    assert low == high == pytest.approx(0.3)
    draws = np.random.default_rng(1).normal(0.0, 1.0, 400)
    low, high = table.interval_of(draws)
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.15) and low < draws.mean() < high


def test_recent_tokens_are_a_share_of_what_is_left():
    assert evaluate.Setting(256, 64).recent_tokens == 64
    assert evaluate.Setting(256, 64, 0.5).recent_tokens == 160


# -- pictures and generated text ------------------------------------------------------------------------------------


def test_a_chart_draws_every_line_and_names_those_that_are_not_faint():
    lines = [
        plots.Line("a & b", [128, 256], [1.2, 1.1]),
        plots.Line("other", [128, 256], [1.2, 1.1]),
        plots.Line("", [128, 256], [1.0, 1.0], faint=True),
    ]
    drawn = plots.chart("title", "budget", "loss", lines, log_x=True)
    assert drawn.count('fill="none"') == 3 and "a &amp; b" in drawn
    heights = plots._apart([50.0, 50.0, 200.0])
    assert heights[2] == 200.0 and abs(heights[0] - heights[1]) >= 13.0


def test_loss_over_budget_wants_two_budgets():
    def report(*budgets):
        row = {"kind": "documents", "policy": "h2o", "recent": 0.0, "ratios": [1.25, 1.75]}
        return {"texts": {"documents": ["a", "b"]}, "rows": [{**row, "budget": budget} for budget in budgets]}

    assert plots.loss_over_budget(report(256), "documents") is None
    assert ">1.5<" in plots.loss_over_budget(report(128, 256), "documents")


def test_a_mean_of_the_last_steps():
    np.testing.assert_allclose(plots.smoothed(np.array([1.0, 3.0, 5.0, 7.0]), 2), [1.0, 2.0, 4.0, 6.0])


def test_a_continuation_is_greedy_and_told_apart_from_the_full_caches(model, judge):
    prompt = ids_of(1, tokens=40)
    full = generate.continuation(model, prompt, 30, None)
    evicted = generate.continuation(model, prompt, 30, policy_of("streaming_llm", judge))
    assert full.shape == evicted.shape == (30,) and not torch.equal(full, evicted)
    own = generate.figures(model, prompt, full, full)
    other = generate.figures(model, prompt, evicted, full)
    first = int(torch.nonzero(full != evicted)[0])
    assert own["same"] == 30 and other["same"] == first
    assert own["loss"] < other["loss"]  # greedy under the full cache
    assert generate.figures(model, prompt, torch.full((30,), 5), full)["new"] == 1 / 27


# -- texts ----------------------------------------------------------------------------------------------------------


def test_nothing_is_trained_on_and_judged_on():
    trained = {window.package for window in text.TRAINED_ON + text.VALIDATION}
    assert not trained & {window.package for window in text.DOCUMENTS}
    assert text.PROBLEMS.partition("=")[0] != text.PROBLEMS_TRAINED_ON.partition("=")[0]
    windows = text.TRAINED_ON + text.VALIDATION + text.DOCUMENTS
    assert len({window.name for window in windows}) == len(windows)


def test_problems_are_cut_into_texts_in_their_order():
    made = dict(text._problems("some", [f"{number} " for number in range(10)], 2, 1))
    assert made == {"some-1": "3 4 5 ", "some-2": "6 7 8 "}
