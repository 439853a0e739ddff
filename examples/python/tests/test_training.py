# SPDX-License-Identifier: Apache-2.0
"""Golden labels, the steps of training, and files: what is not in the vectors. NumPy alone."""

import gc
import pathlib
import weakref

import numpy as np
import pytest

import foresightkv as fkv
from foresightkv import io, training

HEADS, GROUP, TOKENS, DIM = 2, 3, 300, 16
BUDGET, INTERVAL = 64, 16
INPUTS = 2 * DIM + 8 * GROUP
TRACE = pathlib.Path(__file__).parents[3] / "examples" / "data" / "smollm2_135m_small.safetensors"
JUDGE = TRACE.with_name("smollm2_135m_judge.safetensors")


class Recording:
    """Random queries, keys and values of one layer of one sequence."""

    def __init__(self, seed=0, tokens=TOKENS, dtype=np.float32):
        draw = np.random.default_rng(seed)
        self.queries = (2 * draw.standard_normal((HEADS * GROUP, tokens, DIM))).astype(dtype)
        self.keys = draw.standard_normal((HEADS, tokens, DIM)).astype(dtype)
        self.values = draw.standard_normal((HEADS, tokens, DIM)).astype(dtype)

    def arrays(self):
        return self.queries, self.keys, self.values

    def layer(self, **more):
        return training.Layer(*self.arrays(), **more)

    def replay(self, **more):
        layer = self.layer()
        future = training.future_scores(layer, interval=INTERVAL, threads=1)
        return training.feature_replay(layer, future, budget=BUDGET, interval=INTERVAL, **more)


def new_judge(num_layers=1, **more):
    judge = training.Judge(num_layers=num_layers, num_kv_heads=HEADS, group=GROUP, key_head_dim=DIM, **more)
    judge.initialise(start="random", deviation=0.1, seed=3)
    return judge


def address(array):
    return array.__array_interface__["data"][0]


# --- golden


def naive_means(queries, keys, budget, interval):
    """[kv_head][token][block], in double precision."""
    tokens = keys.shape[1]
    causal = np.tril(np.ones((tokens, tokens), bool))
    first = 1 + budget // interval
    edges = range(first * interval, tokens, interval)
    means = np.zeros((HEADS, tokens, len(edges)))
    for head in range(HEADS):
        own = queries[head * GROUP : (head + 1) * GROUP].astype(np.float64)
        logits = np.where(causal, own @ keys[head].astype(np.float64).T / np.sqrt(DIM), -np.inf)
        attention = np.exp(logits - logits.max(-1, keepdims=True))
        attention /= attention.sum(-1, keepdims=True)
        for block, start in enumerate(edges):
            means[head, :, block] = attention[:, start : start + interval].mean((0, 1))
    return means


def naive_golden(means, budget, interval, fold):
    """(labels, evicted positions), each [step][kv_head][...]; fold makes a score of the block means to come."""
    heads, tokens, _ = means.shape
    steps = (tokens - budget - 1) // interval
    labels, evicted = np.zeros((steps, heads, budget)), np.zeros((steps, heads, interval), int)
    for head in range(heads):
        alive = np.arange(budget)
        for step in range(steps):
            labels[step, head] = fold(means[head][:, step:])[alive]
            gone = np.sort(np.argsort(labels[step, head], kind="stable")[:interval])
            evicted[step, head] = alive[gone]
            alive = np.concatenate([np.delete(alive, gone), budget + step * interval + np.arange(interval)])
    return labels, evicted


FOLDS = {
    "maximum": lambda means: means.max(-1),
    "sum": lambda means: means.sum(-1),
    "mean": lambda means: means.mean(-1),
    "discounted": lambda means: means @ 0.5 ** np.arange(means.shape[-1]),
}


@pytest.mark.parametrize("future", FOLDS)
def test_golden_against_plain_numpy(future):
    recording = Recording()
    means = naive_means(recording.queries, recording.keys, BUDGET, INTERVAL)
    found = fkv.golden_eviction(
        recording.queries,
        recording.keys,
        budget=BUDGET,
        interval=INTERVAL,
        future=future,
        discount=0.5,
        future_scores=True,
    )
    labels, evicted = naive_golden(means, BUDGET, INTERVAL, FOLDS[future])
    np.testing.assert_allclose(found.labels, labels, atol=1e-6)
    np.testing.assert_array_equal(found.evicted_positions, evicted)
    for step in range(found.steps):
        expected = np.stack([FOLDS[future](means[head][:, step:]) for head in range(HEADS)])
        np.testing.assert_allclose(found.future[:, step], expected, atol=1e-6)
    built = fkv.block_means(recording.queries, recording.keys, budget=BUDGET, interval=INTERVAL)
    np.testing.assert_allclose(built, means, atol=1e-7)
    again = fkv.golden_eviction_of_means(built, budget=BUDGET, interval=INTERVAL, future=future, discount=0.5)
    np.testing.assert_array_equal(again.labels, found.labels)
    assert again.future is None and again.first_block == found.first_block == BUDGET // INTERVAL + 1


def test_golden_of_any_layout_and_threads():
    recording = Recording()
    config = {"budget": BUDGET, "interval": INTERVAL}
    expected = fkv.golden_eviction(recording.queries, recording.keys, **config)
    heads_last = [np.ascontiguousarray(of.transpose(1, 0, 2)).transpose(1, 0, 2) for of in recording.arrays()[:2]]
    logits = recording.queries.astype(np.float64).reshape(HEADS, GROUP, TOKENS, DIM)
    logits = logits @ recording.keys.astype(np.float64)[:, None].transpose(0, 1, 3, 2) / np.sqrt(DIM)
    logits[..., np.triu(np.ones((TOKENS, TOKENS), bool), 1)] = -np.inf
    lse = np.log(np.exp(logits).sum(-1)).reshape(-1, TOKENS).astype(np.float32)
    for found in (
        fkv.golden_eviction(*heads_last, **config, threads=1),
        fkv.golden_eviction(*(of[None] for of in heads_last), **config, threads=2),
        fkv.golden_eviction(recording.queries, recording.keys, **config, softmax_scale=DIM**-0.5),
    ):
        np.testing.assert_array_equal(found.labels, expected.labels)
    given = fkv.golden_eviction(recording.queries, recording.keys, **config, lse=lse)
    np.testing.assert_allclose(given.labels, expected.labels, atol=1e-6)
    wide = np.zeros((HEADS, TOKENS, 40), np.float32)
    wide[..., :DIM] = recording.keys
    found = fkv.golden_eviction(recording.queries, wide[..., :DIM], **config)
    np.testing.assert_array_equal(found.labels, expected.labels)


def test_golden_of_a_short_sequence_has_no_step():
    recording = Recording(tokens=BUDGET + INTERVAL)
    found = fkv.golden_eviction(*recording.arrays()[:2], budget=BUDGET, interval=INTERVAL, future_scores=True)
    assert found.steps == 0 and found.labels.shape == (0, HEADS, BUDGET) and found.future.shape == (HEADS, 0, 80)


def test_future_scores_are_goldens():
    recording = Recording()
    found = fkv.golden_eviction(*recording.arrays()[:2], budget=BUDGET, interval=INTERVAL, future_scores=True)
    future = training.future_scores(recording.layer(), interval=INTERVAL)
    np.testing.assert_array_equal(future[:, found.first_block - 2 :], found.future)
    assert training.future_scores(recording.layer(tokens=100), interval=INTERVAL).shape == (HEADS, 5, 100)


# --- replays


def test_replay_of_golden_meets_goldens_caches():
    recording = Recording()
    golden = fkv.golden_eviction(*recording.arrays()[:2], budget=BUDGET, interval=INTERVAL)
    replay = recording.replay()
    assert len(replay) == golden.steps and len(replay.parts) == 1
    (steps,) = replay.parts
    np.testing.assert_array_equal(steps.labels, golden.labels)
    np.testing.assert_array_equal(steps.evicted, golden.evicted)
    np.testing.assert_array_equal(steps.evicted_positions, golden.evicted_positions)
    assert (np.diff(steps.positions, axis=-1) > 0).all()
    np.testing.assert_array_equal(
        np.take_along_axis(steps.positions, steps.evicted.astype(np.int64), -1), steps.evicted_positions
    )


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("features", ["paper", "reference_checkpoint"])
def test_replay_of_a_judge_is_what_the_policy_does(features, sampled, tmp_path):
    recording, judge = Recording(), new_judge()
    judge.save(tmp_path / "judge.safetensors")
    drawn = {"sampled": sampled, "seed": 7, "rollout": 5} if sampled else {}
    replay = recording.replay(weights=judge.weights[0], features=features, **drawn)
    policy = fkv.Policy(
        "foresight",
        budget=BUDGET,
        interval=INTERVAL,
        weights=str(tmp_path / "judge.safetensors"),
        features=features,
        sampled=sampled,
    )
    keys = np.zeros((HEADS, BUDGET + INTERVAL, DIM), np.float32)
    cache = fkv.DenseCache(keys, keys.copy(), np.zeros(1, np.int32), group=GROUP)
    evictor = fkv.Evictor(policy, cache, BUDGET)
    if sampled:
        evictor.reset(request_ids=np.array([5], np.int32), seeds=[7])

    def append(arrived, until):
        place = slice(cache.lengths[0], cache.lengths[0] + until - arrived)
        cache.keys[:, place] = recording.keys[:, arrived:until]
        cache.values[:, place] = recording.values[:, arrived:until]
        cache.lengths[0] = place.stop
        return fkv.Window(recording.queries[:, arrived:until], group=GROUP)

    evictor.carry(cache, append(0, BUDGET))
    for step in range(len(replay)):
        window = append(BUDGET + step * INTERVAL, BUDGET + (step + 1) * INTERVAL)
        before = evictor.positions(cache)[0, 0]
        evictor.evict(cache, window)
        kept = evictor.positions(cache)[0, 0, :, :BUDGET]
        gone = [sorted(set(row.tolist()) - set(left.tolist())) for row, left in zip(before, kept)]
        np.testing.assert_array_equal(gone, replay[step].evicted_positions[0])


def test_replay_after_a_prompt_has_two_parts():
    replay = Recording().replay(start=8 * INTERVAL)
    prompt, rest = replay.parts
    assert prompt.positions.shape == (1, HEADS, 7 * INTERVAL) and prompt.evicted.shape == (1, HEADS, 4 * INTERVAL)
    assert rest.positions.shape == (len(replay) - 1, HEADS, BUDGET)
    assert address(replay[1:].labels) == address(rest.labels) == address(replay[1].labels)
    assert address(replay[-1].labels) > address(replay[1].labels)
    assert replay[2:4].rows.steps == 2 and replay[0].rows.candidates == 7 * INTERVAL
    with pytest.raises(ValueError, match="other extents"):
        replay[:]
    with pytest.raises(ValueError, match="in order"):
        replay[3:1:-1]
    assert replay[3:3].rows.steps == 0 and replay[99:].labels.shape == (0, HEADS, BUDGET)
    short = training.feature_replay(
        Recording(tokens=80).layer(), np.zeros((HEADS, 0, 80), np.float32), budget=BUDGET, interval=INTERVAL
    )
    assert len(short) == 0 and short.parts == [] and short[:].labels.shape == (0, HEADS, BUDGET)
    with pytest.raises(IndexError, match="no step 99"):
        replay[99]


def test_rollouts_differ_by_their_number_alone():
    recording, judge = Recording(), new_judge()

    def evicted(**more):
        return recording.replay(weights=judge.weights[0], sampled=True, **more).parts[0].evicted

    np.testing.assert_array_equal(evicted(rollout=1), evicted(rollout=1, threads=2))
    assert (evicted(rollout=1) != evicted(rollout=2)).any()
    assert (evicted(rollout=1) != evicted(rollout=1, seed=9)).any()


def test_replay_keeps_what_it_reads():
    recording = Recording()
    gone = weakref.ref(recording.keys)
    rows = recording.replay()[0].rows
    del recording
    gc.collect()
    assert gone() is not None
    scores, _ = training.judge_forward(new_judge().weights[0], rows)
    assert np.isfinite(scores).all()
    del rows
    gc.collect()
    assert gone() is None


# --- judges and their gradient


def test_gradient_by_finite_differences():
    steps = Recording().replay()[:3]
    weights = new_judge().weights[0].astype(np.float64)

    def loss(weights):
        scores, hidden = training.judge_forward(weights, steps.rows)
        return training.ranking_hinge(scores, steps.labels, margin=1.0), hidden

    found, hidden = loss(weights)
    gradient = np.zeros_like(weights)
    training.judge_backward(weights, steps.rows, hidden, found.gradient, gradient)
    draw = np.random.default_rng(1)
    for _ in range(20):
        direction = draw.standard_normal(weights.shape)
        ends = [loss(weights + sign * 1e-6 * direction)[0].loss for sign in (1, -1)]
        assert (ends[0] - ends[1]) / 2e-6 == pytest.approx((gradient * direction).sum(), rel=2e-3, abs=1e-7)


def test_steps_of_training_do_not_copy():
    judge = new_judge(2)
    weights = judge.weights
    assert address(weights) == address(judge.weights) and weights.shape == (2, HEADS, INPUTS + 3, 16)
    assert address(weights[1]) == address(judge.weights) + weights[1].nbytes
    adam = training.Adam(weights)
    assert adam.weights is weights and address(adam.mean) == address(adam.mean) != address(adam.square)
    before = weights.copy()
    adam.update(np.ones_like(weights), 0.5)
    assert (judge.weights != before).all() and adam.steps == 1
    recording = Recording()
    layer = recording.layer()
    assert layer.keys is recording.keys and layer.queries is recording.queries
    rows = training.Rows(recording.keys, recording.values, np.zeros((1, HEADS, TOKENS, 8 * GROUP), np.float32))
    first, _ = training.judge_forward(judge.weights[0], rows)
    recording.keys[:] = 0  # read at each call, where it stands
    second, _ = training.judge_forward(judge.weights[0], rows)
    assert (first != second).any()
    gradient = np.zeros_like(weights)
    steps = Recording(1).replay()[0]
    scores, hidden = training.judge_forward(weights[0], steps.rows)
    slopes = training.ranking_hinge(scores, steps.labels).gradient
    training.judge_backward(weights[0], steps.rows, hidden, slopes, gradient[0])
    once = gradient[0].copy()
    training.judge_backward(weights[0], steps.rows, hidden, slopes, gradient[0])
    np.testing.assert_array_equal(gradient[0], 2 * once)
    assert (gradient[1] == 0).all() and (once != 0).any()
    assert (gradient[0][:, INPUTS + 2] == 0).all()  # the output's bias is frozen


def test_standardised_inputs_fold_into_the_weights():
    recording = Recording()
    steps, judge = recording.replay()[:4], new_judge()
    moments = training.Moments(HEADS, INPUTS)
    moments.add(steps.rows)
    inputs = moments.finish()
    assert moments.count == 4 * BUDGET and inputs.mean.shape == (HEADS, INPUTS)
    keys = np.take_along_axis(recording.keys[None], steps.positions[..., None].astype(np.int64), 2)
    np.testing.assert_allclose(inputs.mean[:, :DIM], keys.mean((0, 2)), atol=1e-6)
    np.testing.assert_allclose(inputs.deviation[:, :DIM], keys.std((0, 2)), rtol=1e-5)
    trained = judge.weights[0].copy()
    folded = inputs.fold(trained)
    np.testing.assert_allclose(inputs.unfold(folded), trained, atol=1e-5)
    assert inputs.fold(trained, out=trained) is trained
    np.testing.assert_array_equal(trained, folded)
    # All layers at once, and the gradient on the way back.
    both = training.Standardisation(np.stack([inputs.mean] * 2), np.stack([inputs.deviation] * 2))
    np.testing.assert_array_equal(both.unfold(np.stack([folded] * 2))[1], inputs.unfold(folded))
    gradient = np.ones((HEADS, INPUTS + 3, 16))
    inputs.standardise_gradient(gradient)
    expected = (1 - inputs.mean.astype(np.float64)) / inputs.deviation
    np.testing.assert_allclose(gradient[:, :INPUTS], np.repeat(expected[..., None], 16, -1), rtol=1e-6)


def test_shares_of_moments_may_be_added():
    replay = Recording().replay()
    whole, shares = training.Moments(HEADS, INPUTS), [training.Moments(HEADS, INPUTS) for _ in range(2)]
    whole.add(replay[:4].rows)
    for share, steps in zip(shares, (replay[:2], replay[2:4])):
        share.add(steps.rows)
    shares[0].sums[:] += shares[1].sums
    shares[0].squares[:] += shares[1].squares
    shares[0].count += shares[1].count
    np.testing.assert_allclose(shares[0].finish().deviation, whole.finish().deviation, rtol=1e-6)


def train(steps, state=None):
    """A short training on the judge's own caches; state: (weights, mean, square, steps) to go on from."""
    recording, judge = Recording(), new_judge()
    adam, schedule = training.Adam(judge.weights), training.Schedule(total_steps=6, warm_up_steps=1)
    if state is not None:
        judge.weights[:], adam.mean[:], adam.square[:], adam.steps = state
    sampler = training.BatchSampler(13, seed=4)
    losses = []
    while adam.steps < steps:
        replay = recording.replay(weights=judge.weights[0], threads=1)
        gradient = np.zeros_like(judge.weights)
        loss = 0.0
        for sample in sampler.draw(4 * adam.steps, 4).tolist():
            rows, labels = replay[sample].rows, replay[sample].labels
            scores, hidden = training.judge_forward(judge.weights[0], rows, threads=1)
            found = training.ranking_hinge(scores, labels, threads=1)
            training.judge_backward(judge.weights[0], rows, hidden, found.gradient, gradient[0], threads=1)
            loss += found.loss
        assert training.clip_gradient(gradient).not_finite_layers == 0
        adam.update(gradient, schedule(adam.steps))
        losses.append(loss)
    return losses, (judge.weights.copy(), adam.mean.copy(), adam.square.copy(), adam.steps)


def test_training_resumes_bit_for_bit():
    losses, whole = train(6)
    _, half = train(3)
    rest, resumed = train(6, half)
    assert losses[3:] == rest
    for expected, got in zip(whole, resumed):
        np.testing.assert_array_equal(got, expected)
    assert losses[-1] < losses[0]


def test_a_step_of_reinforcement_raises_what_earned():
    """Picks of the better rollout become likelier."""
    recording, judge = Recording(), new_judge()
    rollouts = [recording.replay(weights=judge.weights[0], sampled=True, rollout=i).parts[0] for i in range(4)]
    before = [training.rollout_log_probs(judge.weights[0], each.rows, each.evicted) for each in rollouts]
    draw = np.random.default_rng(2)
    full = draw.random(TOKENS).astype(np.float32)
    worse = np.stack([full + 2.0 * i for i in range(4)])
    found = training.rewards(full, worse, np.zeros(TOKENS, np.float32), first_token=BUDGET + INTERVAL)
    assert found.rewards[0] == 0 and found.worse[3] == len(found.kept) == 176
    advantages = training.group_advantages(found.rewards)
    assert abs(advantages.sum()) < 1e-9 and (np.diff(advantages) < 0).all()
    gradient = np.zeros_like(judge.weights)
    for each, log_probs, advantage in zip(rollouts, before, advantages):
        result = training.rollout_gradient(
            judge.weights[0], each.rows, each.evicted, log_probs, advantage, gradient[0],
            reference_log_probs=log_probs, kl_weight=training.published_kl_weight(0), scale=1 / 4,
        )  # fmt: skip
        assert abs(result.kl) < 1e-9 and result.not_finite_rows == 0
    training.Adam(judge.weights).update(gradient, 1e-3)
    after = [training.rollout_log_probs(judge.weights[0], each.rows, each.evicted) for each in rollouts]
    assert sum(((b - a) * advantage).mean() for a, b, advantage in zip(before, after, advantages)) > 0


def test_clipping_by_layer_and_jointly():
    for scope, clipped in (("layer", 1), ("joint", 2)):
        gradient = np.zeros((2, HEADS, INPUTS + 3, 16), np.float32)
        gradient[0, 0, 0, 0], gradient[1, 0, 0, 0] = 3.0, 0.5
        found = training.clip_gradient(gradient, scope=scope)
        assert found.clipped_layers == clipped and found.layer_norms == [3.0, 0.5]
        assert found.norm == pytest.approx(np.hypot(3.0, 0.5))
        assert gradient[0, 0, 0, 0] == pytest.approx(1.0 if scope == "layer" else 3.0 / found.norm, rel=1e-5)
    gradient[0, 0, 0, 0] = np.nan
    assert training.clip_gradient(gradient).not_finite_layers == 1


def test_draws_meet_every_sample_once():
    sampler = training.BatchSampler(13, seed=1, stream=2)
    draws = sampler.draw(0, 26)
    assert sorted(draws[:13]) == sorted(draws[13:]) == list(range(13)) and draws.tolist() != sorted(draws)
    assert [sampler.at(i) for i in range(26)] == draws.tolist()


def test_sampled_distances_are_the_loss_in_expectation():
    draw = np.random.default_rng(5)
    scores, labels = (draw.standard_normal((4, 40)).astype(np.float32) for _ in range(2))
    whole = training.ranking_hinge(scores, labels, margin=0.5)
    some = [
        training.ranking_hinge(scores, labels, margin=0.5, num_shifts=5, step=i, threads=1).loss for i in range(400)
    ]
    assert np.mean(some) == pytest.approx(whole.loss, rel=0.02) and np.std(some) > 0


# --- files


def test_judge_round_trip(tmp_path):
    judge = new_judge(3, layers=[0, 2])
    judge.metadata = {"text": "fables"}
    path = tmp_path / "judge.safetensors"
    judge.save(path)
    again = training.Judge.load(path)
    assert (again.num_layers, again.layers, again.group, again.inputs) == (3, [0, 2], GROUP, INPUTS)
    assert again.metadata["text"] == "fables" and again.metadata["group"] == str(GROUP)
    np.testing.assert_array_equal(again.weights[[0, 2]], judge.weights[[0, 2]])
    assert (again.weights[1] == 0).all()
    stored = io.read_safetensors(path)
    published = training.unpack_judge(judge.weights[2])
    for name, part in zip(("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"), published):
        np.testing.assert_array_equal(stored["model.layers.2.self_attn.judge_model." + name], part)
    np.testing.assert_array_equal(training.pack_judge(*published), judge.weights[2])
    np.testing.assert_array_equal(published[2][..., 0], -judge.weights[2][:, INPUTS + 1])
    judge.save(path, dtype="float16")
    assert all(array.dtype == np.float16 for array in dict(io.read_safetensors(path)).values())
    half = training.Judge.load(path, num_layers=3)
    np.testing.assert_array_equal(half.weights[2], judge.weights[2].astype(np.float16).astype(np.float32))
    with pytest.raises(ValueError, match="'group' is 3, expected 4"):
        training.Judge.load(path, group=4)
    with pytest.raises(ValueError, match="dtype: 'float32' or 'float16', is 'int8'"):
        judge.save(path, dtype="int8")


def test_shipped_judge_has_the_published_layout():
    judge = training.Judge.load(JUDGE)
    assert (judge.num_layers, judge.num_kv_heads, judge.group, judge.key_head_dim) == (30, 3, 3, 64)
    trace = io.read_trace(TRACE)
    layer = trace.layer(8, tokens=640)
    future = training.future_scores(layer, interval=64)
    replay = training.feature_replay(layer, future, budget=256, interval=64, weights=judge.weights[8])
    scores, _ = training.judge_forward(judge.weights[8], replay[2].rows)
    lowest = np.sort(np.argsort(scores[0], axis=-1, kind="stable")[:, :64], axis=-1)
    np.testing.assert_array_equal(lowest, replay[2].evicted[0])


def test_trace_arrays_are_the_file():
    trace = io.read_trace(TRACE)
    assert trace.layers == [8, 21] and trace.tokens == 1024
    shape = trace.shape(8)
    assert (shape.heads, shape.kv_heads, shape.group, shape.key_head_dim) == (9, 3, 3, 64)
    query = trace.query(8)
    assert query.dtype == np.float16 and query.shape == (9, 1024, 64) and not query.flags.writeable
    assert address(query) == address(trace.query(8)) == address(trace.layer(8).queries)
    assert trace.token_ids.shape == (1024,) and trace.losses.shape == (1023,)
    assert trace.metadata["hidden_size"] == "576"
    del trace
    gc.collect()
    assert np.isfinite(query.astype(np.float32)).all()  # the array keeps the file
    with pytest.raises(ValueError, match="tensor 'layer.3.query' is missing"):
        io.read_trace(TRACE).query(3)


def test_trace_round_trip(tmp_path):
    trace = io.read_trace(TRACE)
    layers = {number: (trace.query(number), trace.key(number), trace.value(number)) for number in trace.layers}
    notes = {"token_ids": trace.token_ids.astype(np.int32), "losses": trace.losses, "metadata": trace.metadata}
    path = tmp_path / "trace.safetensors"
    io.write_trace(path, layers, **notes)
    again = io.read_trace(path)
    for number in trace.layers:
        assert again.fingerprint(number) == trace.fingerprint(number)
        np.testing.assert_array_equal(again.value(number), trace.value(number))
    np.testing.assert_array_equal(again.losses, trace.losses)
    np.testing.assert_array_equal(again.token_ids, trace.token_ids)
    assert again.metadata == trace.metadata
    first = path.read_bytes()
    io.write_trace(path, dict(reversed(layers.items())), **notes)
    assert path.read_bytes() == first  # what is written depends on the content alone


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_traces_of_any_type_and_layout(dtype, tmp_path):
    recording = Recording()
    layout = [np.ascontiguousarray(of.transpose(1, 0, 2)).transpose(1, 0, 2)[None] for of in recording.arrays()]
    path = tmp_path / "trace.safetensors"
    io.write_trace(path, {4: tuple(layout)}, dtype=dtype)
    trace = io.read_trace(path)
    tolerance = {"float32": 0, "float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    for stored, given in zip((trace.query(4), trace.key(4), trace.value(4)), recording.arrays()):
        assert stored.dtype == (np.float16 if dtype == "float16" else np.float32)
        np.testing.assert_allclose(stored, given, rtol=tolerance, atol=1e-6 * bool(tolerance))
    layer = trace.layer(4)
    found = fkv.golden_eviction(layer.queries, layer.keys, budget=BUDGET, interval=INTERVAL)
    widened = fkv.golden_eviction(
        trace.query(4).astype(np.float32), trace.key(4).astype(np.float32), budget=BUDGET, interval=INTERVAL
    )
    np.testing.assert_allclose(found.labels, widened.labels, atol=1e-6)
    assert trace.losses is None and trace.token_ids is None and trace.metadata == {}


def test_label_shard_round_trip(tmp_path):
    trace = io.read_trace(TRACE)
    found = fkv.golden_eviction(trace.query(8), trace.key(8), budget=256, interval=64, future="mean")
    path = tmp_path / io.label_shard_name(TRACE, 8)
    assert path.name == "smollm2_135m_small.layer8.labels.safetensors"
    source = {"trace": TRACE.name, "fingerprint": trace.fingerprint(8), "layer": 8, "tokens": trace.tokens}
    io.write_labels(path, found.labels, found.evicted, **source, future="mean")
    shard = io.read_labels(path)
    np.testing.assert_array_equal(shard.labels, found.labels)
    np.testing.assert_array_equal(shard.evicted, found.evicted)
    gone = np.take_along_axis(shard.positions, shard.evicted.astype(np.int64), -1)
    np.testing.assert_array_equal(gone, found.evicted_positions)
    facts = (shard.trace, shard.fingerprint, shard.layer, shard.tokens, shard.budget, shard.interval, shard.future)
    assert facts == (*source.values(), 256, 64, "mean")
    assert address(shard.labels) == address(shard.labels) and not shard.labels.flags.writeable
    wrong = found.evicted.copy()
    wrong[3, 1, 0] += 1 if wrong[3, 1, 1] > wrong[3, 1, 0] + 1 else -1
    with pytest.raises(ValueError, match="is not what the labels say, at step 3, KV head 1"):
        io.write_labels(path, found.labels, wrong, **source, future="mean")
    assert io.read_labels(path).steps == found.steps  # the file that was there is whole


def test_safetensors_round_trip(tmp_path):
    path = tmp_path / "any.safetensors"
    tensors = {
        "floats": np.arange(6, dtype=np.float32).reshape(2, 3),
        "halves": np.ones(3, np.float16),
        "doubles": np.float64([1, 2]),
        "ids": np.arange(5),
        "short": np.int16([-1, 2]),
        "bytes": np.frombuffer(b"abc", np.uint8),
        "flags": np.array([True, False]),
        "nothing": np.zeros((0, 4), np.int32),
    }
    io.write_safetensors(path, tensors, metadata={"step": "7"})
    stored = io.read_safetensors(path)
    assert list(stored) == stored.keys() == sorted(tensors) and len(stored) == 8 and stored.metadata == {"step": "7"}
    for name, given in tensors.items():
        assert name in stored and stored[name].dtype == given.dtype
        np.testing.assert_array_equal(stored[name], given)
    assert "other" not in stored
    with pytest.raises(ValueError, match="tensor 'other' is missing"):
        stored["other"]


# --- errors are ValueError, with text


PROBLEMS = [
    (lambda r: fkv.golden_eviction(*r.arrays()[:2], budget=BUDGET, interval=0), "0 < interval <= budget"),
    (lambda r: fkv.golden_eviction(*r.arrays()[:2], budget=70, interval=INTERVAL), "multiple of the interval"),
    (lambda r: fkv.golden_eviction(*r.arrays()[:2], budget=64, interval=16, future="x"), "'maximum', 'sum'"),
    (lambda r: fkv.golden_eviction(*r.arrays()[:2], budget=64, interval=16, softmax_scale=-1.0), "invalid shape"),
    (lambda r: fkv.golden_eviction(*r.arrays()[:2], budget=64, interval=16, threads=-1), "threads"),
    (lambda r: fkv.golden_eviction(r.queries[:5], r.keys, budget=64, interval=16), "share the KV heads"),
    (lambda r: fkv.golden_eviction(r.queries[..., ::-1], r.keys, budget=64, interval=16), "one behind the other"),
    (lambda r: fkv.golden_eviction(r.queries[:, ::-1], r.keys, budget=64, interval=16), "must be positive"),
    (lambda r: fkv.golden_eviction(r.queries.astype(int), r.keys.astype(int), budget=64, interval=16), "float32"),
    (lambda r: fkv.golden_eviction_of_means(r.keys[0], budget=64, interval=16), r"float32 \[kv_head\]"),
    (lambda r: r.layer(tokens=301), "between 0 and the 300 recorded"),
    (lambda r: training.Layer(r.queries, r.keys, r.values[:, 1:]), "as many heads and tokens"),
    (lambda r: training.Layer(r.queries, r.keys, [1.0]), "not an array in host memory"),
    (lambda r: r.replay(recent=65), "sinks"),
    (lambda r: r.replay(recent=-1), "recent: must not be negative"),
    (lambda r: training.feature_replay(r, r.keys, budget=64, interval=16), "layer: must be a Layer"),
    (lambda r: training.statistics_of({}, "x"), "'paper', 'reference_checkpoint', 'reference_evaluation'"),
    (lambda r: r.replay(start=100), "multiple of the interval"),
    (lambda r: r.replay(features="x"), "'paper', 'reference_checkpoint'"),
    (lambda r: r.replay(weights=np.zeros((HEADS, 4, 16), np.float32)), r"weights: must be .* float32 \[2, 59, 16\]"),
    (lambda r: r.replay(first_block=9), "feature_replay: invalid shape"),
    (lambda r: training.Rows(r.keys, r.values, r.keys[..., :15].copy()), r"statistics: eight"),
    (
        lambda r: training.judge_forward(
            new_judge().weights[0],
            training.Rows(r.keys, r.values, np.zeros((1, 2, 9, 24), np.float32), np.full((1, 2, 9), 300, np.int32)),
        ),
        "judge_forward: invalid shape",
    ),
    (lambda r: training.ranking_hinge(r.keys, r.keys[:1]), "labels: must be"),
    (lambda r: training.ranking_hinge(r.keys, r.keys, margin=np.nan), "ranking_hinge: invalid config"),
    (lambda r: training.clip_gradient(np.zeros((1, HEADS, 4, 16), np.float32)), "weights of judges"),
    (lambda r: training.clip_gradient(new_judge().weights, max_norm=0), "clip_gradient: invalid config"),
    (lambda r: training.clip_gradient(np.broadcast_to(np.float32(0), (1, 2, 59, 16))), "not a writable array"),
    (lambda r: training.Adam(new_judge().weights, beta1=1.0), "Adam: 0 <= beta1"),
    (lambda r: training.Adam(np.zeros(4, np.float32)).update(np.zeros(5, np.float32), 0.1), "gradient: must be"),
    (lambda r: training.Adam(np.zeros(4, np.float32)).update(np.zeros(4, np.float32), -1.0), "adam_step"),
    (lambda r: training.Schedule(kind="cosine"), "'warm_up_cosine', 'constant'"),
    (lambda r: training.BatchSampler(0), "at least one"),
    (lambda r: training.group_advantages([1.0]), "group_advantages: invalid shape"),
    (lambda r: training.Moments(2, 5).finish(), "weights of judges"),
    (lambda r: training.Moments(HEADS, INPUTS).finish(), "finish_moments: invalid shape"),
    (lambda r: training.Judge(num_layers=0, num_kv_heads=1, group=1, key_head_dim=8), "Judge: extents must"),
    (lambda r: new_judge(2, layers=[2]), "layers: numbers below 2"),
    (lambda r: new_judge().initialise(start="x"), "'random', 'window_sum'"),
    (lambda r: io.read_trace("/no/such/file"), "/no/such/file: cannot open"),
    (lambda r: io.read_trace(JUDGE), "has no tensors layer"),
    (lambda r: io.read_labels(JUDGE), "is no label shard"),
    (lambda r: training.Judge.load(TRACE), "has no tensor"),
    (lambda r: io.write_trace("/no/such/file", {}), "a trace needs a layer"),
    (lambda r: io.write_trace("x", {-1: r.arrays()}), "bad layer number -1"),
    (lambda r: io.write_trace("x", {0: r.arrays()}, losses=np.zeros(3, np.float32)), "losses"),
    (lambda r: io.write_trace("x", {0: r.arrays()}, dtype="int8"), "dtype: one of"),
    (lambda r: io.write_trace("x", {0: (r.queries, r.keys, r.values * np.nan)}), "holds NaN"),
    (lambda r: io.write_safetensors("x", {"a": r.keys[:, ::2]}), "a: must be a contiguous array"),
    (lambda r: io.write_safetensors("x", {"a": np.zeros(2, np.complex64)}), "no type of a safetensors file"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "text"), PROBLEMS, ids=[text for _, text in PROBLEMS])
def test_problems_are_value_errors(call, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=text):
        call(Recording())
    assert not list(tmp_path.iterdir())  # nothing is written before all is well
