# SPDX-License-Identifier: Apache-2.0
"""The module gives what the vectors of tests/data say, as the library does in tests/vectors_test.cpp."""

import itertools
import re

import numpy as np
import pytest
from vector_files import VectorFile, names, off_by, off_by_share, save_judge

import foresightkv as fkv
from foresightkv import training


def test_there_are_vectors():
    assert len(names("golden", "hinge", "grpo", "judge", "statistics", "trajectory", "selection", "sampling")) > 30


# --- golden


def check_labels(file, found):
    assert off_by(found.labels, -file["target_score"]) <= file.number("tol_abs")
    np.testing.assert_array_equal(found.evicted, file["evicted"])
    np.testing.assert_array_equal(found.evicted_positions, file["evicted_positions"])
    assert found.steps == file.integer("steps")


@pytest.mark.parametrize("name", names("golden"))
def test_golden(name):
    file = VectorFile(name)
    config = {"budget": file.integer("budget"), "interval": file.integer("interval")}
    check_labels(file, fkv.golden_eviction_of_means(file["block_means"], **config))
    blocks_first = np.ascontiguousarray(file["block_means"].transpose(0, 2, 1)).transpose(0, 2, 1)
    check_labels(file, fkv.golden_eviction_of_means(blocks_first, **config))
    if "q" not in file:
        return
    config["rules"] = "published"
    found = fkv.golden_eviction(file["q"], file["k"], **config)
    check_labels(file, found)
    assert found.first_block == file.integer("first_block")
    means = fkv.block_means(file["q"], file["k"], **config)
    assert off_by(means, file["block_means"]) <= file.number("tol_abs")


def same_but_near_the_boundary(file, found, step, head):
    """Lists agree, or differ where targets are as close as the tolerance allows: the file's index_rule."""
    ours, theirs = (set(lists[step, head].tolist()) for lists in (found.evicted_positions, file["evicted_positions"]))
    if ours == theirs:
        assert off_by(found.labels[step, head], -file["target_score"][step, head]) <= file.number("tol_abs")
        return True
    targets = file["target_score"][step, head].astype(np.float64)
    boundary = np.sort(targets)[-file.integer("interval")]
    for index in set(found.evicted[step, head].tolist()) ^ set(file["evicted"][step, head].tolist()):
        assert abs(targets[index] - boundary) <= 2 * file.number("tol_abs")
    return False  # the candidates of later steps differ


@pytest.mark.parametrize("name", names("large_golden"))
def test_large_golden(name):
    file = VectorFile(name)
    heads, group, tokens, dim = (file.integer(key) for key in ("kv_heads", "group", "tokens", "head_dim"))
    queries, keys = file.made("q", (heads * group, tokens, dim)), file.made("k", (heads, tokens, dim))
    found = fkv.golden_eviction(
        queries, keys, budget=file.integer("budget"), interval=file.integer("interval"), rules="published"
    )
    for head in range(heads):
        all(same_but_near_the_boundary(file, found, step, head) for step in range(found.steps))


# --- scores, selection


@pytest.mark.parametrize("name", names("judge_forward"))
def test_judge_forward(name, tmp_path):
    file = VectorFile(name)
    weights, tokens = file.judge(), file.integer("tokens")
    keys, values = file["k"], file["v"]
    rounded = file.facts["dtype"] == "bfloat16"
    if rounded:  # NumPy has no such type: the module's own files do
        path = tmp_path / "layer.safetensors"
        queries = np.repeat(keys, file.integer("group"), axis=0)
        fkv.io.write_trace(path, {0: (queries, keys, values)}, dtype="bfloat16")
        layer = fkv.io.read_trace(path).layer(0)
        keys, values = layer.keys, layer.values
    rows = training.Rows(keys, values, file["stats"][None])
    scores, hidden = training.judge_forward(weights, rows)
    assert hidden.shape == (1, len(weights), tokens, 16)
    assert off_by(scores[0], -file["drop_score"]) <= file.number("tol_abs_vs_bf16" if rounded else "tol_abs")
    assert off_by(scores[0], -file["drop_score_float64"]) <= file.number("tol_abs_vs_float64" if rounded else "tol_abs")
    double, _ = training.judge_forward(weights.astype(np.float64), rows)
    assert off_by(double[0], -file["drop_score_float64"]) <= file.number("tol_abs_vs_float64" if rounded else "tol_abs")
    if "evicted" in file:
        lists = select(scores, tokens - file["evicted"].shape[1])
        assert [lists.evicted(head) for head in range(len(weights))] == file["evicted"].tolist()


def select(scores, budget):
    """Lists of rows [sequence][kv_head][token] that are scored so."""
    sequences, heads, tokens = scores.shape
    keys = np.zeros((1, sequences, heads, tokens, 1), np.float32)
    cache = fkv.DenseCache(keys, keys.copy(), np.full(sequences, tokens, np.int32), group=1)
    policy = fkv.Policy("streaming_llm", budget=budget, interval=1, recent=0)
    return fkv.Evictor(policy, cache, 1).select(cache, np.ascontiguousarray(scores[None], np.float32))


def test_selection():
    file = VectorFile("selection")
    scores = -file["drop_score"]
    rows, tokens = scores.shape
    for k in file.integers("k"):
        if k == tokens:
            continue  # a budget of 0 is none
        lists = select(scores[None], tokens - k)
        assert lists.evicted_count == [k] * rows
        for row in range(rows):
            assert lists.evicted(row) == (file[f"evicted_k{k}"][row].tolist() if k > 0 else [])


@pytest.mark.parametrize("name", names("sampling"))
def test_sampling(name):
    file = VectorFile(name)
    tokens, sampled, sequences, rounds = file.integer("tokens"), file.integer("sampled"), 2000, 20
    keys = np.zeros((1, sequences, 1, tokens, 1), np.float32)
    cache = fkv.DenseCache(keys, keys.copy(), np.full(sequences, tokens, np.int32), group=1)
    policy = fkv.Policy("streaming_llm", budget=tokens - sampled, interval=1, recent=0, sampled=True)
    evictor = fkv.Evictor(policy, cache, 1)
    scores = np.tile(-file["drop_score"], (1, sequences, 1, 1))
    drawn = np.zeros((rounds * sequences, tokens))
    for number in range(rounds):
        requests = np.arange(number * sequences, (number + 1) * sequences, dtype=np.int32)
        evictor.reset(request_ids=requests, seeds=[0x5EED] * sequences)
        lists = evictor.select(cache, scores)
        for sequence in range(sequences):
            drawn[number * sequences + sequence, lists.evicted(sequence)] = 1
    assert (drawn.sum(1) == sampled).all()
    outside = np.setdiff1d(np.arange(tokens), file["pool"])
    assert drawn[:, outside].sum() == 0
    for exact, seen in (
        (file["inclusion_exact"], drawn.mean(0)),
        (file["pair_exact"], drawn.T @ drawn / len(drawn)),
    ):
        deviation = np.sqrt(exact * (1.0 - exact) / len(drawn))
        assert (np.abs(seen - exact) <= 5 * deviation).all()


# --- runs of evictions


class Run:
    """One layer of one sequence that grows and is cut, stage by stage and, beside it, by evict."""

    def __init__(self, q, k, v, capacity, scorer, **policy):
        self.q, self.k, self.v = q, k, v
        self.heads, self.dim = k.shape[0], k.shape[2]
        self.group = len(q) // self.heads
        self.arrived = 0
        self.sides = []
        for _ in range(2):
            keys = np.zeros((1, 1, self.heads, capacity, self.dim), np.float32)
            cache = fkv.DenseCache(keys, keys.copy(), np.zeros(1, np.int32), group=self.group)
            made = fkv.Policy(scorer, compaction="ordered", **policy)
            self.sides.append((cache, fkv.Evictor(made, cache, len(q[0]), state_capacity=capacity)))
        self.cache, self.evictor = self.sides[0]

    def append(self, until):
        for cache, _ in self.sides:
            first = cache.lengths[0]
            last = first + until - self.arrived
            cache.keys[0, 0, :, first:last] = self.k[:, self.arrived : until]
            cache.values[0, 0, :, first:last] = self.v[:, self.arrived : until]
            cache.lengths[0] = last
        self.arrived = until

    def window(self, count):
        return fkv.Window(self.q[:, self.arrived - count : self.arrived], group=self.group)

    def carry(self, count):
        for cache, evictor in self.sides:
            evictor.carry(cache, self.window(count))

    def look(self, count):
        """Statistics [kv_head][slot][group] by name and scores [kv_head][slot]; carried sums move on."""
        window = self.window(count)
        found = {name: of[0, 0] for name, of in self.evictor.observe(self.cache, window).items()}
        self.evictor.carry(self.cache, window)
        found.update(self.carried())
        return found, self.evictor.score(self.cache, window)

    def carried(self):
        return {name: of[0, 0].copy() for name, of in self.evictor.carried(self.cache).items()}

    def cut(self, scores, sides=1):
        for cache, evictor in self.sides[:sides]:
            lists = evictor.select(cache, scores)
            evictor.compact(cache, lists)
        return lists

    def evict_beside(self, count):
        """The same by evict, on the other side: it ends with the same cache."""
        cache, evictor = self.sides[1]
        evictor.evict(cache, self.window(count))
        np.testing.assert_array_equal(cache.lengths, self.cache.lengths)
        kept = slice(0, int(cache.lengths[0]))
        np.testing.assert_array_equal(cache.keys[..., kept, :], self.cache.keys[..., kept, :])
        np.testing.assert_array_equal(cache.values[..., kept, :], self.cache.values[..., kept, :])
        np.testing.assert_array_equal(evictor.positions(cache), self.evictor.positions(self.cache))

    def positions(self):
        return self.evictor.positions(self.cache)[0, 0, :, : self.cache.lengths[0]]


def check_lists(lists, evicted, positions):
    assert [lists.evicted(head) for head in range(len(evicted))] == evicted.tolist()
    assert [lists.evicted_positions(head) for head in range(len(evicted))] == positions.tolist()


def check_run(file, q, k, v, which, prefix, path):
    budget, interval = file.integer("budget"), file.integer("interval")
    weights = save_judge(path, file.judge(), len(q) // len(k), k.shape[2])
    config = {"budget": budget, "interval": interval, "weights": weights, "features": which}
    run = Run(q, k, v, budget + interval, "foresight", **config)
    tolerance = file.number("tol_stats_abs") if "tol_stats_abs" in file.facts else 2e-4
    run.append(budget)
    run.carry(budget)
    for step in range(file.integer("steps")):
        run.append(budget + (step + 1) * interval)
        found, scores = run.look(interval)
        assert off_by(scores[0, 0, :, :budget], -file[prefix + "drop_score"][step]) <= file.number("tol_score_abs")
        if prefix + "stats" in file:
            assert off_by(training.statistics_of(found, which)[:, :budget], file[prefix + "stats"][step]) <= tolerance
        lists = run.cut(scores)
        check_lists(lists, file[prefix + "evicted"][step], file[prefix + "evicted_positions"][step])
        np.testing.assert_array_equal(run.positions(), file[prefix + "kept_positions"][step])
        run.evict_beside(interval)
    carried = run.carried()
    for name, stored in (("accumulated", "final_acc"), ("decayed", "final_acc_decay")):
        if prefix + stored in file:
            assert off_by(carried[name][:, :budget], file[prefix + stored]) <= tolerance
    for array, stored in ((run.cache.keys, "final_keys"), (run.cache.values, "final_values")):
        if prefix + stored in file:
            np.testing.assert_array_equal(array[0, 0, :, :budget], file[prefix + stored])
    if prefix + "last_stats_head0" in file:
        assert off_by(training.statistics_of(found, which)[0, :budget], file[prefix + "last_stats_head0"]) <= tolerance


@pytest.mark.parametrize("name", names("trajectory", "statistics_paper", "statistics_reference_checkpoint"))
def test_run(name, tmp_path):
    file = VectorFile(name)
    given = file["q"], file["k"], file["v"]
    if "evicted" in file:
        return check_run(file, *given, file.facts.get("policy", "paper"), "", tmp_path / "judge.safetensors")
    for which in ("paper", "reference_checkpoint"):
        check_run(file, *given, which, which + ".", tmp_path / "judge.safetensors")


@pytest.mark.parametrize("which", ["paper", "reference_checkpoint"])
@pytest.mark.parametrize("name", names("large_trajectory"))
def test_large_run(name, which, tmp_path):
    file = VectorFile(name)
    heads, group, tokens, dim = (file.integer(key) for key in ("kv_heads", "group", "tokens", "head_dim"))
    extents = {"q": heads * group, "k": heads, "v": heads}
    given = [file.made(part, (count, tokens, dim)) for part, count in extents.items()]
    check_run(file, *given, which, which + ".", tmp_path / "judge.safetensors")


@pytest.mark.parametrize("name", names("statistics_reference_eval"))
def test_evaluation_run(name, tmp_path):
    """Calls with windows of their own, some of which evict nothing; drawn evictions are repeated as they are stored."""
    file = VectorFile(name)
    budget, interval, recent = (file.integer(key) for key in ("budget", "interval", "protected"))
    cached, queries = file.integers("cached_before"), file.integers("queries_used")
    which = "reference_evaluation"
    path = save_judge(tmp_path / "judge.safetensors", file.judge(), file.integer("group"), file.integer("head_dim"))
    config = {"budget": budget, "interval": interval, "recent": recent, "weights": path, "features": which}
    run = Run(file["q"], file["k"], file["v"], max(cached), "foresight", **config)
    drawn = "sampled" in file.facts["pick"]
    for call in range(file.integer("calls")):
        prefix = f"call{call}."
        run.append(file.integer("prefill") + call * interval)
        length = int(run.cache.lengths[0])
        assert length == cached[call]
        found, scores = run.look(queries[call])
        candidates = length - recent
        statistics = training.statistics_of(found, which)[:, :candidates]
        assert off_by(statistics, file[prefix + "stats"]) <= file.number("tol_stats_abs")
        assert (prefix + "evicted" in file) == (length > budget)
        if length <= budget:
            run.sides[1][1].carry(run.sides[1][0], run.window(queries[call]))
            continue
        assert off_by(scores[0, 0, :, :candidates], -file[prefix + "drop_score"]) <= file.number("tol_score_abs")
        if drawn:
            scores = np.ones_like(scores)
            np.put_along_axis(scores[0, 0], file[prefix + "evicted"].astype(np.int64), 0.0, axis=-1)
        lists = run.cut(scores, sides=1 + drawn)
        check_lists(lists, file[prefix + "evicted"], file[prefix + "evicted_positions"])
        np.testing.assert_array_equal(run.positions(), file[prefix + "kept_positions"])
        if not drawn:
            run.evict_beside(queries[call])
    accumulated = run.carried()["accumulated"][:, : run.cache.lengths[0]]
    assert off_by(accumulated, file["final_acc"]) <= file.number("tol_stats_abs")


# --- other scorers


def of_a_prompt(file, scorer, budget, **policy):
    """(scores [kv_head][slot], kept slots [kv_head][budget]) of one eviction that has seen all queries of the file."""
    keys, values = file["k"].copy(), file["v"].copy()
    tokens, group = keys.shape[1], file.integer("group")
    cache = fkv.DenseCache(keys, values, np.array([tokens], np.int32), group=group)
    window = fkv.Window(file["q"], group=group)
    made = fkv.Policy(scorer, budget=budget, interval=tokens - budget, compaction="ordered", **policy)
    evictor = fkv.Evictor(made, cache, window.max_queries)
    evictor.carry(cache, window)
    scores = evictor.score(cache, window)
    lists = evictor.select(cache, scores)
    return scores[0, 0], [lists.kept(head) for head in range(len(keys))]


@pytest.mark.parametrize("name", names("baselines_reference"))
def test_reference_scorers(name):
    file = VectorFile(name)
    budget, window = file.integer("budget"), file.integer("window")
    assert (window, file.integer("kernel")) == (8, 7)  # what the policies have by these names
    scores, slots = of_a_prompt(file, "snap_kv", budget, recent=window)
    assert off_by(scores[:, :-window], file["snapkv.keep_score"]) <= file.number("tol_snapkv_abs")
    assert slots == file["snapkv.kept_ties_evict_lowest"].tolist()
    scores, _ = of_a_prompt(file, "r_kv", budget, recent=window)
    mixed = 0.1 * file["rkv.importance"] - 0.9 * file["rkv.redundancy"][:, :-window]  # the paper's mixture
    assert off_by(scores[:, :-window], mixed) <= file.number("tol_rkv_abs") + file.number("tol_snapkv_abs")
    _, slots = of_a_prompt(file, "streaming_llm", budget, recent=0, sinks=file.integer("streaming_first_tokens"))
    assert slots == file["streamingllm.kept"].tolist()


@pytest.mark.parametrize("name", names("baselines_kvpress"))
def test_kvpress_scorers(name):
    file = VectorFile(name)
    kept = file.integer("kept")
    for scorer, stored, tolerance in (
        ("key_norm", "knorm", 1e-5),
        ("key_diff", "keydiff", 1e-6),
        ("h2o_per_query", "observed_attention", 1e-6),
    ):
        scores, slots = of_a_prompt(file, scorer, kept, recent=0)
        assert off_by(scores, file[stored + ".keep_score"]) <= tolerance, scorer
        assert slots == file[stored + ".kept"].tolist(), scorer
    _, slots = of_a_prompt(file, "streaming_llm", kept, recent=0, sinks=file.integer("n_sink"))
    assert slots == file["streaming_llm.kept"].tolist()
    scores, _ = of_a_prompt(file, "tova", kept, recent=1)
    # theirs is the mean of ours over the KV heads, and keeps the newest token
    assert off_by(np.tile(scores.mean(0), (len(scores), 1))[:, :-1], file["tova.keep_score"][:, :-1]) <= 1e-6


@pytest.mark.parametrize("name", names("baselines_h2o_fork"))
def test_accumulated_run(name):
    file = VectorFile(name)
    budget, interval, recent, prefill = (file.integer(key) for key in ("budget", "interval", "protected", "prefill"))
    config = {"budget": budget, "interval": interval, "recent": recent}
    run = Run(file["q"], file["k"], file["v"], max(prefill, budget + interval), "accumulated", **config)
    for call in range(file.integer("calls")):
        prefix = f"call{call}."
        run.append(prefill + call * interval)
        count = min(prefill, file.integer("query_cache")) if call == 0 else recent
        before = run.positions()
        _, scores = run.look(count)
        stored = file[prefix + "keep_score"]
        theirs = file[prefix + "cached_positions"][:, : stored.shape[1]]  # their cache is in order of score
        for head in range(run.heads):
            slots = np.searchsorted(before[head], theirs[head])
            assert off_by(scores[0, 0, head, slots], stored[head]) <= file.number("tol_abs")
        run.cut(scores)
        np.testing.assert_array_equal(run.positions(), file[prefix + "kept_positions_sorted"])
        run.evict_beside(count)


# --- the ranking loss


def test_hinge_values():
    file = VectorFile("hinge_values")
    for name, sign in itertools.product(file.facts["cases"].split(","), (1, -1)):
        found = training.ranking_hinge(
            sign * file[name + ".model_score"], sign * file[name + ".target_score"], margin=file.number("margin")
        )
        assert found.loss == pytest.approx(float(file[name + ".loss"][0]), rel=file.number("tol_loss_rel"))
        assert off_by(sign * found.gradient, file[name + ".grad"]) <= file.number("tol_grad_abs")


def follow(schedule, budget, interval):
    """Candidates of every step, [step][kv_head][budget]: survivors in order of time, then what was protected."""
    steps, heads, _ = schedule.shape
    positions = np.zeros((steps, heads, budget), np.int32)
    for head in range(heads):
        now = np.arange(budget)
        for step in range(steps):
            positions[step, head] = now
            fresh = budget + step * interval + np.arange(interval)
            now = np.concatenate([np.delete(now, schedule[step, head]), fresh])
    return positions


@pytest.mark.parametrize("name", [name for name in names("hinge") if "judge" in name])
def test_hinge_judge(name):
    """A training of several layers and samples: losses, the first gradient, norms, weights on the way."""
    file = VectorFile(name)
    layers, samples = file.integer("layers"), file.integer("samples")
    weights = np.stack([file.judge(f"layer{layer}.") for layer in range(layers)])
    rows, labels = {}, {}
    for sample, layer in itertools.product(range(samples), range(layers)):
        prefix = f"sample{sample}.layer{layer}."
        positions = follow(file[prefix + "schedule"], file.integer("budget"), file.integer("interval"))
        rows[sample, layer] = training.Rows(file[prefix + "k"], file[prefix + "v"], file[prefix + "stats"], positions)
        labels[sample, layer] = -file[prefix + "target_score"]
        scores, _ = training.judge_forward(weights[layer], rows[sample, layer])
        assert off_by(scores, -file[prefix + "drop_score"]) <= 2e-5

    def gradient_of(weights):
        gradient, losses = np.zeros_like(weights), np.zeros((samples, layers))
        for sample, layer in rows:
            scores, hidden = training.judge_forward(weights[layer], rows[sample, layer])
            found = training.ranking_hinge(scores, labels[sample, layer], margin=file.number("margin"))
            training.judge_backward(weights[layer], rows[sample, layer], hidden, found.gradient, gradient[layer])
            losses[sample, layer] = found.loss
        return gradient, losses

    gradient, losses = gradient_of(weights)
    np.testing.assert_allclose(losses, file["loss"], rtol=1e-5)
    for layer in range(layers):
        check_published(file, f"layer{layer}.grad.", gradient[layer], file.number("tol_grad_abs"))

    beta1, beta2 = map(float, file.facts["adam_betas"].split(","))
    adam = training.Adam(weights, beta1=beta1, beta2=beta2, epsilon=file.number("adam_eps"))
    schedule = training.Schedule(
        kind="published_supervised",
        learning_rate=file.number("adam_lr"),
        warm_up_steps=file.integer("warmup"),
        total_steps=file.integer("total_steps"),
    )
    for step in range(file.integer("train_steps")):
        rate = schedule(step)
        assert rate == pytest.approx(float(file["train.lr"][step]), abs=1e-9)
        gradient, losses = gradient_of(weights)
        np.testing.assert_allclose(losses, file["train.loss"][step], rtol=1e-4)
        clipped = training.clip_gradient(gradient, max_norm=file.number("clip_norm"), scope="joint")
        assert clipped.norm == pytest.approx(float(file["train.grad_norm"][step]), rel=1e-4)
        adam.update(gradient, rate)
        if f"after{step + 1}.layer0.fc1.weight" in file:
            for layer in range(layers):
                check_published(file, f"after{step + 1}.layer{layer}.", weights[layer], 5e-5 if step < 15 else 5e-4)


def check_published(file, prefix, packed, tolerance):
    """The second layer's bias is left out: its true gradient is 0, and rounding noise is no reference."""
    fc1_weight, fc1_bias, fc2_weight, _ = training.unpack_judge(packed)
    for name, got in (("fc1.weight", fc1_weight), ("fc1.bias", fc1_bias), ("fc2.weight", fc2_weight)):
        assert off_by(got, file[prefix + name]) <= tolerance, prefix + name


# --- the policy gradient


@pytest.mark.parametrize("case", ["first_epoch", "moderate", "clipped", "extreme"])
def test_grpo_values(case):
    file = VectorFile("grpo_values")
    assert case in file.facts["cases"].split(",")
    tolerance = file.number("tol_rel")
    picked = file[case + ".picked"]
    log_probs = {}
    for which in ("new", "old", "init"):
        log_probs[which], entropies = training.pick_log_probs(-file[f"{case}.score_{which}"], picked)
        assert off_by_share(log_probs[which], file[f"{case}.log_prob_{which}"]) <= tolerance
        if which == "new":
            assert off_by_share(entropies, file[case + ".entropy_new"]) <= tolerance
    advantages = file[case + ".advantage"][0].astype(np.float64).tolist()
    scores = -file[case + ".score_new"]
    for weight in file.facts["kl_weights"].split(","):
        found = training.grpo(
            scores,
            picked,
            log_probs["old"],
            advantages,
            reference_log_probs=log_probs["init"],
            clip=file.number("clip"),
            kl_weight=float(weight),
        )
        assert found.not_finite_rows == 0
        assert found.loss == pytest.approx(float(file[f"{case}.kl{weight}.loss"][0]), rel=tolerance)
        assert found.kl == pytest.approx(float(file[case + ".kl"][0]), rel=tolerance)
        assert off_by_share(-found.gradient, file[f"{case}.kl{weight}.grad_score"]) <= tolerance
    found = training.grpo(scores, picked, log_probs["old"], advantages, clip=file.number("clip"), gradient=False)
    assert found.loss == pytest.approx(float(file[case + ".no_reference.loss"][0]), rel=tolerance)
    assert found.kl == 0.0 and found.gradient is None


@pytest.mark.parametrize("case", ["case0", "case1", "case2"])
def test_rewards(case):
    file = VectorFile("grpo_reward")
    window, budget, tokens, terms = map(int, re.findall(r"\d+", file.facts[case]))
    found = training.rewards(
        file[case + ".loss_full"],
        file[case + ".loss_evicted"][None],
        file[case + ".entropy"],
        first_token=window + budget,
        entropy_fraction_dropped=file.number("entropy_fraction_dropped"),
        threshold=file.number("threshold"),
    )
    assert len(file[case + ".loss_full"]) == tokens
    assert found.kept.tolist() == sorted(file[case + ".kept_tokens"].tolist())
    assert found.worse.tolist() == [terms] and found.not_finite.tolist() == [0]
    assert found.rewards[0] == pytest.approx(float(file[case + ".reward"][0]), rel=file.number("tol_rel"))


@pytest.mark.parametrize("group", ["equal", "one_apart", "random"])
def test_group_advantages(group):
    file = VectorFile("grpo_reward")
    found = training.group_advantages(file[group + ".returns"].astype(np.float64), epsilon=file.number("eps"))
    np.testing.assert_allclose(found, file[group + ".advantages"], rtol=file.number("tol_rel"), atol=1e-6)


@pytest.mark.parametrize("name", [name for name in names("grpo") if "judge" in name])
def test_grpo_judge(name):
    """From keys and values to the gradient of the weights; rollout by rollout it is the same."""
    file = VectorFile(name)
    weights = {which: file.judge(which + ".") for which in ("old", "init", "new")}
    rows = training.Rows(file["k"], file["v"], file["stats"], file["candidate_positions"])
    picked, scores, hidden = file["picked"], {}, {}
    for which, own in weights.items():
        scores[which], hidden[which] = training.judge_forward(own, rows)
        assert off_by(scores[which], -file["score_" + which]) <= 2e-5
    before = {which: training.pick_log_probs(-file["score_" + which], picked)[0] for which in ("old", "init")}
    advantages = file["advantage"].astype(np.float64).tolist()
    constants = {
        "clip": file.number("clip"),
        "kl_weight": file.number("kl_weight"),
        "scale": 1.0 / file.number("rollouts_per_step"),
    }
    found = training.grpo(
        scores["new"], picked, before["old"], advantages, reference_log_probs=before["init"], **constants
    )
    tolerance = file.number("tol_loss_rel")
    assert found.loss / constants["scale"] == pytest.approx(float(file["loss"][0]), rel=tolerance)
    assert found.kl == pytest.approx(float(file["kl"][0]), rel=tolerance)
    gradient = np.zeros_like(weights["new"])
    training.judge_backward(weights["new"], rows, hidden["new"], found.gradient, gradient)
    relative = file.number("tol_grad_rel_to_largest")
    for name, got in zip(("fc1.weight", "fc1.bias", "fc2.weight"), training.unpack_judge(gradient)):
        assert off_by_share(got, file["grad." + name]) <= relative

    summed, loss = np.zeros_like(gradient), 0.0
    rollouts = picked.shape[1]
    constants["scale"] /= rollouts  # means are over the picks of a call
    for rollout in range(rollouts):
        of = np.s_[:, rollout]
        own = training.Rows(file["k"], file["v"], file["stats"][of].copy(), file["candidate_positions"][of].copy())
        chosen = picked[of].copy()
        now = training.rollout_log_probs(weights["old"], own, chosen)
        assert off_by(now, before["old"][of]) <= 2e-5
        part = training.rollout_gradient(
            weights["new"],
            own,
            chosen,
            before["old"][of].copy(),
            advantages[rollout],
            summed,
            reference_log_probs=before["init"][of].copy(),
            **constants,
        )
        loss += part.loss
    assert loss == pytest.approx(found.loss, rel=1e-5)
    assert off_by_share(summed, gradient) <= 1e-5
