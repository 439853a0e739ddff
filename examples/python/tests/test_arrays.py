# SPDX-License-Identifier: Apache-2.0
"""Caches, windows, policies and verbs over NumPy arrays, against plain NumPy."""

import gc
import itertools
import weakref

import numpy as np
import pytest

import foresightkv as fkv

LAYERS, SEQUENCES, HEADS, GROUP, CAPACITY, DIM = 2, 3, 2, 3, 80, 32
BUDGET, INTERVAL = 64, 16


FEW_QUERIES = {"tova", "snap_kv", "r_kv", "key_diff", "key_norm", "streaming_llm", "random"}


def a_judge():
    judge = fkv.training.Judge(num_layers=LAYERS, num_kv_heads=HEADS, group=GROUP, key_head_dim=DIM)
    judge.initialise(deviation=1.0)
    return judge


class Problem:
    """Random keys, values and queries; values tell which token they belong to."""

    def __init__(self, dtype=np.float32, lengths=(80, 72, 50), seed=0):
        draw = np.random.default_rng(seed)
        rows = (LAYERS, SEQUENCES, HEADS)
        self.keys = draw.standard_normal((*rows, CAPACITY, DIM)).astype(dtype)
        self.values = np.zeros((*rows, CAPACITY, DIM), dtype)
        self.values[..., 0] = np.arange(CAPACITY)
        self.queries = draw.standard_normal((LAYERS, SEQUENCES, HEADS * GROUP, INTERVAL, DIM)).astype(dtype)
        self.lengths = np.array(lengths, np.int32)
        self.before = self.keys.copy(), self.values.copy(), self.lengths.copy()

    def cache(self):
        return fkv.DenseCache(self.keys, self.values, self.lengths, group=GROUP)

    def window(self):
        return fkv.Window(self.queries, group=GROUP)

    def fetch(self):
        """Arrays of the host hold what verbs have written."""

    def evictor(self, scorer="window_sum", **more):
        policy = fkv.Policy(scorer, budget=BUDGET, interval=INTERVAL, **more)
        return fkv.Evictor(policy, self.cache(), INTERVAL)

    def probabilities(self, layer, sequence, head):
        """[group][query][token]"""
        keys, _, lengths = self.before
        n = int(lengths[sequence])
        queries = self.queries[layer, sequence, head * GROUP : (head + 1) * GROUP].astype(np.float64)
        logits = queries @ keys[layer, sequence, head, :n].astype(np.float64).T / np.sqrt(DIM)
        logits[:, np.arange(n) > np.arange(n - INTERVAL, n)[:, None]] = -np.inf
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        return weights / weights.sum(-1, keepdims=True)

    def rows(self):
        return itertools.product(range(LAYERS), range(SEQUENCES), range(HEADS))

    def check_cut(self, scores_of):
        """Each row holds the tokens that plain NumPy would keep, whatever their order."""
        keys, _, lengths = self.before
        assert self.lengths.tolist() == [min(n, BUDGET) for n in lengths]
        for layer, sequence, head in self.rows():
            n = int(lengths[sequence])
            scores = scores_of(layer, sequence, head)[: n - INTERVAL]
            gone = np.argsort(scores, kind="stable")[: n - BUDGET] if n > BUDGET else []
            kept = np.setdiff1d(np.arange(n), gone)
            here = self.values[layer, sequence, head, : self.lengths[sequence], 0].astype(int)
            assert sorted(here) == kept.tolist()
            np.testing.assert_array_equal(
                self.keys[layer, sequence, head, : len(here)], keys[layer, sequence, head, here]
            )


@pytest.mark.parametrize("name", fkv.policies())
def test_queries_that_a_policy_does_not_need_change_nothing(name):
    more = {"weights": a_judge()} if name == "foresight" else {}
    problem, other = Problem(), Problem()
    problem.evictor(name, **more).evict(problem.cache(), problem.window())
    evictor = other.evictor(name, **more)
    newest = fkv.Policy(name, budget=BUDGET, interval=INTERVAL, **more).newest_queries
    assert 0 <= newest <= INTERVAL and (newest < INTERVAL) == (name in FEW_QUERIES)
    other.queries[..., : INTERVAL - newest, :] = np.nan
    window = fkv.Window(other.queries[..., INTERVAL - max(newest, 1) :, :], group=GROUP)
    evictor.evict(other.cache(), window)
    np.testing.assert_array_equal(other.lengths, problem.lengths)
    for row in problem.rows():
        kept = problem.lengths[row[1]]
        np.testing.assert_array_equal(other.values[row][:kept], problem.values[row][:kept])


@pytest.mark.parametrize("compaction", ["fill_holes", "ordered"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_evict_keeps_what_the_window_attends_to(dtype, compaction):
    problem = Problem(dtype)
    evictor = problem.evictor(compaction=compaction)
    evicted = evictor.evict(problem.cache(), problem.window())
    assert evicted == 16 + 8
    problem.check_cut(lambda *row: problem.probabilities(*row).sum((0, 1)))
    positions = evictor.positions(problem.cache())
    np.testing.assert_array_equal(positions[..., :50], problem.values[..., :50, 0].astype(int))
    assert (positions[:, 0, :, BUDGET:] == -1).all()
    if compaction == "ordered":
        assert (np.diff(positions[:, 0, :, :BUDGET]) > 0).all()


def test_score_and_observe():
    problem = Problem()
    evictor = problem.evictor()
    scores = evictor.score(problem.cache(), problem.window())
    statistics = evictor.observe(problem.cache(), problem.window())
    assert set(statistics) == {"maximum", "minimum", "sum", "last_8", "last_16", "last_32"}
    for layer, sequence, head in problem.rows():
        right = problem.probabilities(layer, sequence, head)
        n = right.shape[2]
        found = {name: values[layer, sequence, head, :n].T for name, values in statistics.items()}
        np.testing.assert_allclose(found["sum"], right.sum(1), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found["maximum"], right.max(1), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found["minimum"], right.min(1), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found["last_8"], right[:, -8:].sum(1), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(scores[layer, sequence, head, :n], right.sum(1).mean(0), rtol=1e-4, atol=1e-6)


def test_stages_give_what_evict_gives():
    whole, staged = Problem(), Problem()
    whole.evictor("h2o_per_query").evict(whole.cache(), whole.window())
    evictor, cache, window = staged.evictor("h2o_per_query"), staged.cache(), staged.window()
    due = evictor.collect_due(cache)
    assert due.tolist() == [0]
    over = np.array([0, 1], np.int32)
    evictor.carry(cache, window, sequences=over)
    lists = evictor.select(cache, evictor.score(cache, window, sequences=over), sequences=over)
    assert lists.evicted_count[:2] == [16, 16] and len(lists.kept(0)) == BUDGET
    assert lists.evicted(0) == lists.evicted_positions(0) == sorted(lists.evicted(0))
    assert evictor.compact(cache, lists, sequences=over) == 24
    np.testing.assert_array_equal(whole.keys, staged.keys)
    np.testing.assert_array_equal(whole.lengths, staged.lengths)
    np.testing.assert_array_equal(evictor.carried(cache)["accumulated"].shape, (*staged.keys.shape[:4], GROUP))


@pytest.mark.parametrize("layout", ["nhd", "transposed", "layers", "pages", "pages_nhd", "pages_of_heads"])
def test_layouts_hold_the_same(layout):
    """A cache of any layout ends up with the tokens of a contiguous one."""
    right, other = Problem(), Problem()
    right.evictor(compaction="ordered").evict(right.cache(), right.window())

    keys, values = other.keys, other.values
    if layout in ("nhd", "transposed"):
        stored = [np.ascontiguousarray(array.swapaxes(2, 3)) for array in (keys, values)]
        if layout == "nhd":
            cache = fkv.DenseCache(*stored, other.lengths, group=GROUP, layout="nhd")
        else:
            cache = fkv.DenseCache(*(array.swapaxes(2, 3) for array in stored), other.lengths, group=GROUP)
        read = lambda: [array.swapaxes(2, 3) for array in stored]
    elif layout == "layers":
        stored = [[layer.copy() for layer in array] for array in (keys, values)]
        cache = fkv.DenseCache(*stored, other.lengths, group=GROUP)
        read = lambda: [np.stack(layers) for layers in stored]
    else:
        size, pages = 16, SEQUENCES * CAPACITY // 16
        order = np.random.default_rng(1).permutation(pages).astype(np.int32).reshape(SEQUENCES, -1)
        stored = [np.zeros((LAYERS, pages, HEADS, size, DIM), np.float32) for _ in range(2)]
        for pool, array in zip(stored, (keys, values)):
            pool[:, order] = array.reshape(LAYERS, SEQUENCES, HEADS, -1, size, DIM).swapaxes(2, 3)
        tables, arguments = order, dict(layout="hnd")
        if layout == "pages_nhd":
            stored, arguments = [np.ascontiguousarray(pool.swapaxes(2, 3)) for pool in stored], dict(layout="nhd")
        if layout == "pages_of_heads":  # one pool of pages with one head each
            stored = [pool.reshape(-1, size, DIM) for pool in stored]
            layer, head = np.arange(LAYERS), np.arange(HEADS)
            tables = ((layer[:, None, None, None] * pages + order[None, :, None]) * HEADS + head[:, None]).astype(
                np.int32
            )
            arguments = dict(layout="one_head")
        cache = fkv.PagedCache(*stored, tables, other.lengths, group=GROUP, **arguments)

        def read():
            pools = [
                pool.reshape(LAYERS, pages, HEADS, size, DIM) if layout == "pages_of_heads" else pool for pool in stored
            ]
            pools = [pool.swapaxes(2, 3) if layout == "pages_nhd" else pool for pool in pools]
            return [pool[:, order].swapaxes(2, 3).reshape(right.keys.shape) for pool in pools]

    policy = fkv.Policy("window_sum", budget=BUDGET, interval=INTERVAL, compaction="ordered")
    fkv.Evictor(policy, cache, INTERVAL).evict(cache, other.window())
    np.testing.assert_array_equal(other.lengths, right.lengths)
    for found, expected in zip(read(), (right.keys, right.values)):
        for sequence, length in enumerate(right.lengths):
            np.testing.assert_array_equal(found[:, sequence, :, :length], expected[:, sequence, :, :length])


def test_nothing_is_copied():
    problem = Problem()
    cache = problem.cache()
    assert cache.data_pointer == problem.keys.ctypes.data
    assert cache.keys is problem.keys and cache.lengths is problem.lengths
    both = np.zeros((2 * LAYERS, SEQUENCES, HEADS, CAPACITY, DIM), np.float32)
    strided = both[::2]
    numbers = list(range(7, 7 + LAYERS))
    bound = fkv.DenseCache(strided, both[1::2], problem.lengths, group=1, layers=numbers)
    assert bound.data_pointer == strided.ctypes.data and bound.layers == numbers and cache.layers == list(range(LAYERS))


def test_a_function_is_a_scorer():
    problem, seen = Problem(), []

    def by_sum(tokens: fkv.Tokens):
        seen.append(tokens)
        return tokens.statistics["sum"].sum(-1)

    assert problem.evictor(by_sum).evict(problem.cache(), problem.window()) == 24
    problem.check_cut(lambda *row: problem.probabilities(*row).sum((0, 1)))
    (tokens,) = seen
    assert tokens.keys is problem.keys and tokens.layers == list(range(LAYERS))
    assert tokens.lengths.tolist() == [80, 72, 50] and tokens.next_positions[0, :, 0].tolist() == [80, 72, 50]
    np.testing.assert_allclose(tokens.statistics["accumulated"][:, :2], tokens.statistics["sum"][:, :2])


def test_a_function_that_fails_leaves_everything_as_it_was():
    right, problem, calls = Problem(), Problem(), []

    def second_time(tokens):
        calls.append(tokens.statistics["accumulated"].copy())
        if len(calls) == 1:
            raise KeyError("not yet")
        return calls[-1].sum(-1)

    right.evictor(lambda tokens: tokens.statistics["accumulated"].sum(-1)).evict(right.cache(), right.window())
    evictor = problem.evictor(second_time)
    with pytest.raises(KeyError, match="not yet"):
        evictor.evict(problem.cache(), problem.window())
    np.testing.assert_array_equal(problem.keys, problem.before[0])
    assert evictor.evict(problem.cache(), problem.window()) == 24
    np.testing.assert_array_equal(*calls)
    np.testing.assert_array_equal(problem.keys, right.keys)
    problem.lengths[:] = 80, 81, 80
    refused("sequence 1: bad length", lambda: evictor.evict(problem.cache(), problem.window()))
    assert problem.lengths.tolist() == [80, 81, 80]


def test_lists_and_states_of_other_shapes_are_not_read():
    problem = Problem()
    evictor, cache = problem.evictor("accumulated"), problem.cache()
    lists = evictor.select(cache, evictor.score(cache, problem.window()))
    for row in (-1, LAYERS * SEQUENCES * HEADS, 10**6):
        for read in (lists.kept, lists.evicted, lists.evicted_positions):
            with pytest.raises(IndexError, match=f"no row {row}"):
                read(row)
    twice = [np.concatenate([array, array], 1) for array in (problem.keys, problem.values)]
    more = fkv.DenseCache(*twice, np.full(2 * SEQUENCES, 80, np.int32), group=GROUP)
    for read in (evictor.positions, evictor.next_positions, evictor.carried):
        refused("that the Evictor was made for", lambda read=read: read(more))
    refused("must be an int32 array", lambda: evictor.evict(cache, problem.window(), sequences=[0]))


def test_lists_that_were_selected_before_a_change_are_refused():
    problem = Problem()
    evictor, cache, window = problem.evictor(), problem.cache(), problem.window()
    first, second = np.array([0], np.int32), np.array([1], np.int32)
    scores = evictor.score(cache, window)
    lists = evictor.select(cache, scores)
    assert evictor.evict(cache, window, dry_run=True) == 24
    assert evictor.compact(cache, lists, sequences=first) == 16  # which is none of the second's business
    assert evictor.compact(cache, lists, sequences=second) == 8
    before = problem.keys.copy(), problem.lengths.copy()
    for sequences in (first, second, None):
        refused(
            "has changed since its tokens were selected", lambda s=sequences: evictor.compact(cache, lists, sequences=s)
        )
    lists = evictor.select(cache, scores)
    for change in (
        lambda: evictor.reset(first),
        lambda: evictor.restore(0, evictor.save(1)),
        lambda: evictor.fork([1], [0]),
        lambda: evictor.evict(cache, window),
    ):
        lists = evictor.select(cache, scores)
        change()
        refused("sequence 0 has changed", lambda: evictor.compact(cache, lists))
    other = problem.evictor()
    refused("has changed since", lambda: other.compact(cache, evictor.select(cache, scores)))
    np.testing.assert_array_equal(problem.keys, before[0])
    np.testing.assert_array_equal(problem.lengths, before[1])


def test_tokens_that_stand_in_one_place_are_refused():
    keys, values = (np.zeros((SEQUENCES, HEADS, CAPACITY, DIM), np.float32) for _ in range(2))
    lengths = np.zeros(SEQUENCES, np.int32)
    one_place = "stand in one place"
    refused(one_place, lambda: fkv.DenseCache(keys, keys, lengths, group=1))
    refused(one_place, lambda: fkv.DenseCache([keys, keys], [values, values.copy()], lengths, group=1))
    refused(one_place, lambda: fkv.DenseCache([keys, values], [keys.copy(), keys], lengths, group=1))
    expanded = np.lib.stride_tricks.as_strided(values, strides=(0, *values.strides[1:]))
    refused("values: an expanded array", lambda: fkv.DenseCache(keys, expanded, lengths, group=1))
    pool, tables = np.zeros((4, 2, 16, DIM), np.float32), np.zeros((SEQUENCES, 1), np.int32)
    refused(one_place, lambda: fkv.PagedCache(pool, pool, tables, lengths, group=1))
    side_by_side = np.zeros((SEQUENCES, HEADS, CAPACITY, 2, DIM), np.float32)
    fkv.DenseCache(side_by_side[..., 0, :], side_by_side[..., 1, :], lengths, group=1)


def test_what_a_function_does_wrong_is_said():
    problem = Problem()
    with pytest.raises(ValueError, match="must give real scores of shape"):
        problem.evictor(lambda tokens: np.zeros(3)).evict(problem.cache(), problem.window())

    def fails(tokens):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        problem.evictor(fails).evict(problem.cache(), problem.window())


def test_a_judge_in_memory_is_that_of_its_file(tmp_path):
    judge = fkv.training.Judge(num_layers=LAYERS, num_kv_heads=HEADS, group=GROUP, key_head_dim=DIM)
    judge.initialise(seed=3, deviation=0.5)
    judge.save(tmp_path / "judge.safetensors")
    scores = []
    for weights in (judge, tmp_path / "judge.safetensors"):
        problem = Problem()
        evictor = problem.evictor("foresight", weights=weights)
        judge.weights[:] = 0  # what the policy has is a copy
        scores.append(evictor.score(problem.cache(), problem.window()))
    np.testing.assert_array_equal(*scores)
    assert np.ptp(scores[0]) > 0
    del judge
    one = fkv.training.Judge(num_layers=1, num_kv_heads=HEADS, group=GROUP, key_head_dim=DIM)
    one.initialise()
    refused("no weights for layer 1", lambda: Problem().evictor("foresight", weights=one))


@pytest.mark.parametrize("compaction", ["fill_holes", "ordered"])
def test_drafts_are_taken_back_wherever_an_eviction_has_put_them(compaction):
    problem = Problem(lengths=(80, 80, 60))
    evictor = problem.evictor(compaction=compaction)
    assert evictor.evict(problem.cache(), problem.window()) == 32
    counts = np.array([5, 0, 3], np.int32)
    before = [problem.values[at][: problem.lengths[at[1]], 0].astype(int) for at in problem.rows()]
    assert evictor.take_back(problem.cache(), counts) == 8
    assert problem.lengths.tolist() == [59, 64, 57]
    for at, held in zip(problem.rows(), before):
        here = problem.values[at][: problem.lengths[at[1]], 0].astype(int)
        newest = problem.before[2][at[1]] - counts[at[1]]
        assert sorted(here) == sorted(held[held < newest])
    assert evictor.next_positions(problem.cache())[0, :, 0].tolist() == [75, 80, 57]
    refused("length mismatch", lambda: evictor.take_back(problem.cache(), np.array([0, 81, 0], np.int32)))
    refused("counts: must be", lambda: evictor.take_back(problem.cache(), np.array([1], np.int32)))


def check_named_sequences_and_dry_runs(problem, evictor):
    assert evictor.evict(problem.cache(), problem.window(), dry_run=True) == 24
    problem.fetch()
    np.testing.assert_array_equal(problem.keys, problem.before[0])
    assert problem.lengths.tolist() == [80, 72, 50]
    assert evictor.evict(problem.cache(), problem.window(), sequences=np.array([1], np.int32)) == 8
    problem.fetch()
    assert problem.lengths.tolist() == [80, 64, 50]
    np.testing.assert_array_equal(problem.keys[:, [0, 2]], problem.before[0][:, [0, 2]])


def test_sequences_that_are_named_and_dry_runs():
    problem = Problem()
    check_named_sequences_and_dry_runs(problem, problem.evictor())


def test_states_can_be_saved_restored_and_forked():
    problem = Problem()
    evictor, cache = problem.evictor("accumulated"), problem.cache()
    evictor.evict(cache, problem.window())
    positions, carried = evictor.positions(cache), evictor.carried(cache)["accumulated"]
    saved = [evictor.save(sequence) for sequence in range(SEQUENCES)]
    other = problem.evictor("accumulated", compaction="ordered")
    for sequence, state in enumerate(saved):
        other.restore(sequence, state)
    np.testing.assert_array_equal(other.positions(cache), positions)
    np.testing.assert_array_equal(other.carried(cache)["accumulated"], carried)
    evictor.fork([1, 0, 0], [0, 1, 2])
    problem.lengths[:] = 64
    np.testing.assert_array_equal(evictor.positions(cache), positions[:, [1, 0, 0]])
    evictor.reset(np.array([0], np.int32))
    assert (evictor.positions(cache)[0, 0, 0, :64] == np.arange(64)).all()
    with pytest.raises(ValueError, match="fork: no sequence 3"):
        evictor.fork([3], [0])


def check_a_state_that_grows_and_shrinks(module, problem):
    """problem: three rows of 80 tokens, over arrays of the module's memory."""
    policy = module.Policy("accumulated", budget=BUDGET, interval=INTERVAL)
    cache = problem.cache()
    evictor = module.Evictor(policy, cache, INTERVAL, state_capacity=BUDGET)
    evictor.carry(cache, problem.window())  # longer rows than the state had room for
    carried = evictor.carried(cache)["accumulated"]
    assert carried.sum() == pytest.approx(LAYERS * SEQUENCES * HEADS * GROUP * INTERVAL, rel=1e-5)
    with pytest.raises(ValueError, match="does not fit"):
        evictor.resize_state(BUDGET)
    evictor.resize_state(100)
    np.testing.assert_array_equal(evictor.carried(cache)["accumulated"], carried)
    evictor.evict(cache, problem.window())
    kept = evictor.carried(cache)["accumulated"]
    evictor.resize_state(BUDGET)
    np.testing.assert_array_equal(evictor.carried(cache)["accumulated"][..., :BUDGET, :], kept[..., :BUDGET, :])


def test_the_state_can_grow_and_shrink():
    check_a_state_that_grows_and_shrinks(fkv, Problem(lengths=(80, 80, 80)))


def test_windows_of_unequal_counts():
    """Counts, starts and ends are read by each call from the caller's own arrays."""
    right, other = Problem(lengths=(80, 80, 80)), Problem(lengths=(80, 80, 80))
    right.queries = right.queries[:, :, :, 8:]
    expected = right.evictor().score(right.cache(), right.window())
    counts, starts = np.full(SEQUENCES, 16, np.int32), np.zeros(SEQUENCES + 1, np.int32)
    window = fkv.Window(other.queries, group=GROUP, counts=counts, starts=starts)
    counts[:], starts[:] = 8, 8
    np.testing.assert_array_equal(other.evictor().score(other.cache(), window), expected)
    starts[1] = 12
    with pytest.raises(ValueError, match="sequence 1 lead out of the queries"):
        other.evictor().score(other.cache(), window)


def refused(message, call):
    with pytest.raises(ValueError, match=message):
        call()


def test_mistakes_are_value_errors_with_the_librarys_text():
    problem = Problem()
    keys, values, lengths, queries = problem.keys, problem.values, problem.lengths, problem.queries
    refused("one of foresight, window_sum", lambda: fkv.Policy("windowsum"))
    refused("needs the file of a judge, or a Judge", lambda: fkv.Policy("foresight"))
    refused("no_such_file", lambda: fkv.Policy("foresight", weights="no_such_file.safetensors"))
    refused("only 'foresight'", lambda: fkv.Policy("h2o", weights="judge.safetensors"))
    refused("invalid config", lambda: fkv.Policy("h2o", budget=4, interval=8))
    refused("needs tokens in time order", lambda: fkv.Policy("snap_kv", compaction="fill_holes"))
    refused("a name or a function", lambda: fkv.Policy(3))
    refused(
        "float32, float16 or bfloat16",
        lambda: fkv.DenseCache(keys.astype(float), values.astype(float), lengths, group=1),
    )
    refused("one type, and shapes", lambda: fkv.DenseCache(keys, values[:, :2], lengths, group=1))
    refused("int32", lambda: fkv.DenseCache(keys, values, lengths.astype(np.int64), group=1))
    refused("one behind the other", lambda: fkv.DenseCache(keys[..., ::2], values[..., ::2], lengths, group=1))
    refused("layout", lambda: fkv.DenseCache(keys, values, lengths, group=1, layout="dhn"))
    refused("numbers of the model's layers", lambda: fkv.DenseCache(keys, values, lengths, group=1, layers=[0]))
    refused("DenseCache: invalid shape", lambda: fkv.DenseCache(keys, values, lengths, group=0))
    refused("no multiple", lambda: fkv.Window(queries, group=4))
    read_only = keys.copy()
    read_only.flags.writeable = False
    refused("writable", lambda: fkv.DenseCache(read_only, values, lengths, group=1))
    evictor, cache = problem.evictor(), problem.cache()
    refused("element type", lambda: evictor.evict(cache, fkv.Window(queries.astype(np.float16), group=GROUP)))
    refused("must be the cache's", lambda: evictor.evict(cache, fkv.Window(queries[:, :2], group=GROUP)))
    refused("no sequence 3", lambda: evictor.evict(cache, problem.window(), sequences=np.array([3], np.int32)))
    refused("scores: must be a contiguous array float32", lambda: evictor.select(cache, np.zeros((2, 2), np.float32)))


def test_a_sequence_that_breaks_a_rule_is_named_and_the_others_are_cut():
    problem = Problem(lengths=(80, 81, 70))
    refused("evict: sequence 1: bad length", lambda: problem.evictor().evict(problem.cache(), problem.window()))
    assert problem.lengths.tolist() == [64, 81, 64]
    pages = np.zeros((6, HEADS, 16, DIM), np.float32)
    tables = np.array([[0, 1, 1], [2, 3, 4]], np.int32)
    lengths = np.array([40, 40], np.int32)
    cache = fkv.PagedCache(pages, pages.copy(), tables, lengths, group=1)
    evictor = fkv.Evictor(fkv.Policy("streaming_llm", budget=32, interval=8), cache, 8)
    window = fkv.Window(np.zeros((2, HEADS, 8, DIM), np.float32), group=1)
    refused("evict: sequence 0: bad table", lambda: evictor.evict(cache, window))
    assert lengths.tolist() == [40, 32]
    owners = np.ones(6, np.int32)
    owners[4] = 2
    lengths[:] = 40
    tables[0, 2] = 5
    evictor.reset()
    shared = fkv.PagedCache(pages, pages.copy(), tables, lengths, group=1, owners=owners)
    refused("evict: sequence 1: shared page", lambda: evictor.evict(shared, window))
    assert lengths.tolist() == [32, 40]


def test_what_is_given_lives_as_long_as_it_is_used():
    problem = Problem()
    evictor = problem.evictor(lambda tokens: tokens.statistics["sum"].sum(-1))
    cache = fkv.DenseCache(problem.keys.copy(), problem.values.copy(), problem.lengths.copy(), group=GROUP)
    gc.collect()
    assert evictor.evict(cache, fkv.Window(problem.queries.copy(), group=GROUP)) == 24

    class Scorer:
        def __call__(self, tokens):
            return tokens.statistics["sum"].sum(-1)

    scorer = Scorer()
    scorer.policy = fkv.Policy(scorer, budget=BUDGET, interval=INTERVAL)  # a circle
    scorer.evictor = fkv.Evictor(scorer.policy, cache, INTERVAL)
    gone = weakref.ref(scorer)
    del scorer
    gc.collect()
    assert gone() is None


def test_the_number_of_threads_changes_no_bit():
    results = []
    for threads in (1, 2, 5):
        problem = Problem()
        policy = fkv.Policy("h2o", budget=BUDGET, interval=INTERVAL)
        evictor = fkv.Evictor(policy, problem.cache(), INTERVAL, threads=threads, workspace=fkv.Workspace())
        evictor.evict(problem.cache(), problem.window())
        results.append(problem.keys)
    assert all(np.array_equal(results[0], other) for other in results)


def test_the_version_is_the_librarys():
    from importlib.metadata import PackageNotFoundError, version

    try:
        assert version("foresightkv") == fkv.__version__
    except PackageNotFoundError:
        pytest.skip("not installed, only on the path")
