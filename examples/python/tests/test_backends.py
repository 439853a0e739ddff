# SPDX-License-Identifier: Apache-2.0
"""What foresightkv.cuda is made of, over the GPU's kernels on emulated blocks: against the module of the host.

The emulated device's memory cannot be read by the host: a binding that forgot a copy ends the process.
"""

import subprocess
import sys

import numpy as np
import pytest
from test_arrays import (
    BUDGET,
    CAPACITY,
    DIM,
    GROUP,
    HEADS,
    INTERVAL,
    LAYERS,
    SEQUENCES,
    Problem,
    a_judge,
    check_a_state_that_grows_and_shrinks,
    check_named_sequences_and_dry_runs,
    refused,
)

import foresightkv as fkv

emulated = pytest.importorskip("foresightkv._emulated", reason="built with FORESIGHTKV_PYTHON_EMULATED alone")

SEQUENCES_OVER = np.array([0, 1], np.int32)


class OnDevice(Problem):
    """The same random arrays, copied to the device."""

    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        self.device = {name: emulated.to_device(getattr(self, name)) for name in ("keys", "values", "lengths")}
        self.device["queries"] = emulated.to_device(self.queries)

    def cache(self, **more):
        of = self.device
        return emulated.DenseCache(of["keys"], of["values"], of["lengths"], group=GROUP, **more)

    def window(self):
        return emulated.Window(self.device["queries"], group=GROUP)

    def evictor(self, scorer="window_sum", **more):
        policy = emulated.Policy(scorer, budget=BUDGET, interval=INTERVAL, **more)
        return emulated.Evictor(policy, self.cache(), INTERVAL, stream=0)

    def fetch(self):
        """What the device's arrays hold now."""
        for name in ("keys", "values", "lengths"):
            setattr(self, name, emulated.to_host(self.device[name]))


def both(*arguments, **more):
    return Problem(*arguments, **more), OnDevice(*arguments, **more)


def expect_same_cut(host, device):
    device.fetch()
    np.testing.assert_array_equal(device.lengths, host.lengths)
    for row in host.rows():
        kept = host.lengths[row[1]]
        np.testing.assert_array_equal(device.values[row][:kept], host.values[row][:kept])
        np.testing.assert_array_equal(device.keys[row][:kept], host.keys[row][:kept])


def refused_on_device(message, call):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


@pytest.mark.parametrize("name", emulated.policies())
def test_policies_keep_what_they_keep_on_the_host(name):
    more = {"weights": a_judge()} if name == "foresight" else {}
    host, device = both()
    evicted = host.evictor(name, **more).evict(host.cache(), host.window())
    evictor = device.evictor(name, **more)
    assert evictor.evict(device.cache(), device.window()) == evicted == 24
    expect_same_cut(host, device)


@pytest.mark.parametrize("compaction", ["fill_holes", "ordered"])
def test_positions_and_statistics_are_those_of_the_host(compaction):
    host, device = both()
    evictors = [each.evictor("h2o_per_query", compaction=compaction) for each in (host, device)]
    for each, evictor in zip((host, device), evictors):
        assert evictor.collect_due(each.cache()).tolist() == [0]
        assert evictor.evict(each.cache(), each.window()) == 24
    expected, found = evictors[0], evictors[1]
    at_host, at_device = host.cache(), device.cache()
    np.testing.assert_array_equal(found.positions(at_device), expected.positions(at_host))
    np.testing.assert_array_equal(found.next_positions(at_device), expected.next_positions(at_host))
    np.testing.assert_allclose(
        found.carried(at_device)["accumulated"], expected.carried(at_host)["accumulated"], rtol=1e-5, atol=1e-6
    )


def test_stages_on_the_device():
    host, device = both()
    host.evictor("h2o_per_query").evict(host.cache(), host.window())
    evictor, cache, window = device.evictor("h2o_per_query"), device.cache(), device.window()
    evictor.carry(cache, window, sequences=SEQUENCES_OVER)
    scores = evictor.score(cache, window, sequences=SEQUENCES_OVER)
    assert scores.__dlpack_device__()[0] == 12
    lists = evictor.select(cache, scores, sequences=SEQUENCES_OVER)
    assert lists.evicted_count[:2] == [16, 16] and len(lists.kept(0)) == BUDGET
    assert lists.evicted(0) == lists.evicted_positions(0) == sorted(lists.evicted(0))
    with pytest.raises(IndexError, match="no row -1"):
        lists.kept(-1)
    assert evictor.compact(cache, lists, sequences=SEQUENCES_OVER) == 24
    expect_same_cut(host, device)


def test_scores_and_statistics_of_a_window():
    host, device = both()
    expected = host.evictor().score(host.cache(), host.window())
    found = emulated.to_host(device.evictor().score(device.cache(), device.window()))
    statistics = host.evictor().observe(host.cache(), host.window())
    of_device = device.evictor().observe(device.cache(), device.window())
    assert list(of_device) == list(statistics)
    for sequence, length in enumerate(host.lengths):
        at = np.s_[:, sequence, :, :length]
        np.testing.assert_allclose(found[at], expected[at], rtol=1e-5, atol=1e-6)
        for name, values in statistics.items():
            np.testing.assert_allclose(emulated.to_host(of_device[name])[at], values[at], rtol=1e-5, atol=1e-6)


def test_drafts_are_taken_back_and_tokens_appended():
    host, device = both(lengths=(80, 80, 60))
    counts = np.array([5, 0, 3], np.int32)
    evictors = [each.evictor() for each in (host, device)]
    for each, evictor in zip((host, device), evictors):
        assert evictor.evict(each.cache(), each.window()) == 32
    assert evictors[0].take_back(host.cache(), counts) == 8
    assert evictors[1].take_back(device.cache(), emulated.to_device(counts)) == 8
    expect_same_cut(host, device)
    joined = np.array([2, 1, 0], np.int32)
    host.lengths += joined
    emulated.write(device.device["lengths"], host.lengths)
    evictors[0].append(host.cache(), joined)
    evictors[1].append(device.cache(), emulated.to_device(joined))
    for read in ("positions", "next_positions"):
        np.testing.assert_array_equal(
            getattr(evictors[1], read)(device.cache()), getattr(evictors[0], read)(host.cache())
        )
    too_many = emulated.to_device(np.array([0, 90, 0], np.int32))
    refused("take_back: sequence 1: length mismatch", lambda: evictors[1].take_back(device.cache(), too_many))


def test_states_are_saved_restored_forked_and_reset():
    problem = OnDevice()
    evictor, cache = problem.evictor("accumulated"), problem.cache()
    evictor.evict(cache, problem.window())
    positions, carried = evictor.positions(cache), evictor.carried(cache)["accumulated"]
    other = problem.evictor("accumulated", compaction="ordered")
    for sequence in range(SEQUENCES):
        other.restore(sequence, evictor.save(sequence))
    np.testing.assert_array_equal(other.positions(cache), positions)
    np.testing.assert_array_equal(other.carried(cache)["accumulated"], carried)
    host = Problem().evictor("accumulated")
    host.restore(0, evictor.save(0))  # one format
    evictor.fork([1, 0, 0], [0, 1, 2])
    emulated.write(problem.device["lengths"], np.full(SEQUENCES, 64, np.int32))
    np.testing.assert_array_equal(evictor.positions(cache), positions[:, [1, 0, 0]])
    evictor.reset(np.array([0], np.int32), request_ids=np.arange(3, dtype=np.int32), seeds=[1, 2, 3])
    assert (evictor.positions(cache)[0, 0, 0, :64] == np.arange(64)).all()


def test_the_state_grows_and_shrinks():
    check_a_state_that_grows_and_shrinks(emulated, OnDevice(lengths=(80, 80, 80)))


def test_dry_runs_named_sequences_and_shared_scratch():
    problem = OnDevice()
    policy, workspace = emulated.Policy("h2o", budget=BUDGET, interval=INTERVAL), emulated.Workspace()
    evictor = emulated.Evictor(policy, problem.cache(), INTERVAL, workspace=workspace)
    assert workspace.nbytes > 0
    check_named_sequences_and_dry_runs(problem, evictor)


@pytest.mark.parametrize("layout", ["nhd", "layers", "pages"])
def test_layouts_on_the_device(layout):
    host, device = both()
    host.evictor(compaction="ordered").evict(host.cache(), host.window())
    numbers = [3, 5]
    if layout == "nhd":
        stored = [
            emulated.to_device(np.ascontiguousarray(each.swapaxes(2, 3))) for each in (device.keys, device.values)
        ]
        cache = emulated.DenseCache(*stored, device.device["lengths"], group=GROUP, layout="nhd")
        read = lambda: [emulated.to_host(each).swapaxes(2, 3) for each in stored]
    elif layout == "layers":
        stored = [[emulated.to_device(layer) for layer in each] for each in (device.keys, device.values)]
        cache = emulated.DenseCache(*stored, device.device["lengths"], group=GROUP, layers=numbers)
        assert cache.layers == numbers and cache.data_pointer > 0
        read = lambda: [np.stack([emulated.to_host(layer) for layer in layers]) for layers in stored]
    else:
        size, pages = 16, SEQUENCES * CAPACITY // 16
        order = np.random.default_rng(1).permutation(pages).astype(np.int32).reshape(SEQUENCES, -1)
        pools = [np.zeros((LAYERS, pages, HEADS, size, DIM), np.float32) for _ in range(2)]
        for pool, each in zip(pools, (device.keys, device.values)):
            pool[:, order] = each.reshape(LAYERS, SEQUENCES, HEADS, -1, size, DIM).swapaxes(2, 3)
        stored = [emulated.to_device(pool) for pool in pools]
        tables = emulated.to_device(order)
        cache = emulated.PagedCache(*stored, tables, device.device["lengths"], group=GROUP, layers=numbers)
        read = lambda: [emulated.to_host(pool)[:, order].swapaxes(2, 3).reshape(device.keys.shape) for pool in stored]
    policy = emulated.Policy("window_sum", budget=BUDGET, interval=INTERVAL, compaction="ordered")
    assert emulated.Evictor(policy, cache, INTERVAL).evict(cache, device.window()) == 24
    device.fetch()
    np.testing.assert_array_equal(device.lengths, host.lengths)
    for found, expected in zip(read(), (host.keys, host.values)):
        for sequence, length in enumerate(host.lengths):
            np.testing.assert_array_equal(found[:, sequence, :, :length], expected[:, sequence, :, :length])


def test_layers_have_the_judges_of_their_numbers():
    """Numbers of layers and weights are where kernels read them."""
    judge = fkv.training.Judge(num_layers=6, num_kv_heads=HEADS, group=GROUP, key_head_dim=DIM)
    judge.initialise(deviation=1.0)
    host, device = both()
    on_host = fkv.DenseCache(host.keys, host.values, host.lengths, group=GROUP, layers=[4, 1])
    on_device = device.cache(layers=[4, 1])
    scores = []
    for module, cache, problem in ((fkv, on_host, host), (emulated, on_device, device)):
        policy = module.Policy("foresight", weights=judge, budget=BUDGET, interval=INTERVAL)
        evictor = module.Evictor(policy, cache, INTERVAL)
        scores.append(evictor.score(cache, problem.window()))
    found = emulated.to_host(scores[1])
    for sequence, length in enumerate(host.lengths):
        at = np.s_[:, sequence, :, :length]
        np.testing.assert_allclose(found[at], scores[0][at], rtol=1e-4, atol=1e-4)


def test_windows_of_unequal_counts_on_the_device():
    problem = OnDevice(lengths=(80, 80, 80))
    counts, starts = (emulated.to_device(np.full(n, 8, np.int32)) for n in (SEQUENCES, SEQUENCES + 1))
    window = emulated.Window(problem.device["queries"], group=GROUP, counts=counts, starts=starts)
    host = Problem(lengths=(80, 80, 80))
    host.queries = host.queries[:, :, :, 8:]
    expected = host.evictor().score(host.cache(), host.window())
    found = emulated.to_host(problem.evictor().score(problem.cache(), window))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    emulated.write(starts, np.array([8, 12, 8, 8], np.int32))
    refused("sequence 1 lead out of the queries", lambda: problem.evictor().score(problem.cache(), window))


def test_a_sequence_that_breaks_a_rule_is_named():
    problem = OnDevice(lengths=(80, 81, 70))
    evictor = problem.evictor()
    refused("evict: sequence 1: bad length", lambda: evictor.evict(problem.cache(), problem.window()))
    problem.fetch()
    assert problem.lengths.tolist() == [64, 81, 64]
    emulated.write(problem.device["lengths"], np.full(3, 64, np.int32))
    assert evictor.evict(problem.cache(), problem.window()) == 0  # the flags are gone


def test_arrays_of_the_other_memory_are_refused():
    host, device = both()
    of = device.device
    refused_on_device(
        "emulated device's memory", lambda: emulated.DenseCache(host.keys, host.values, host.lengths, group=1)
    )
    refused_on_device("host memory", lambda: fkv.DenseCache(of["keys"], of["values"], of["lengths"], group=1))
    refused_on_device("device='emulated'", lambda: emulated.Window(host.queries, group=GROUP))
    evictor = device.evictor()
    refused_on_device("cache: must be over the emulated", lambda: evictor.evict(host.cache(), device.window()))
    refused_on_device("cache: must be over host memory", lambda: host.evictor().evict(device.cache(), host.window()))
    refused_on_device("incompatible", lambda: evictor.append(device.cache(), np.zeros(SEQUENCES, np.int32)))
    refused("a function as a scorer", lambda: emulated.Policy(lambda tokens: None))
    refused("no sequence 3", lambda: evictor.evict(device.cache(), device.window(), sequences=np.array([3], np.int32)))


def test_the_host_cannot_read_the_devices_memory():
    """What makes the other tests say something of a GPU."""
    read = "import ctypes; ctypes.string_at(cache.data_pointer, 4)"
    program = f"""
import numpy as np
from foresightkv import _emulated as emulated
keys, values = (emulated.to_device(np.zeros((1, 1, 8, 4), np.float32)) for _ in range(2))
cache = emulated.DenseCache(keys, values, emulated.to_device(np.zeros(1, np.int32)), group=1)
{read}
"""
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode < 0
    assert subprocess.run([sys.executable, "-c", program.replace(read, "")], capture_output=True).returncode == 0
