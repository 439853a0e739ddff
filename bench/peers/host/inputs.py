# SPDX-License-Identifier: Apache-2.0
"""The random inputs of the comparisons, the same bytes for both sides: one layer of the shape of Qwen3-4B.

Run as a program it writes them as raw little-endian files for the C++ programs:
inputs.py {step,labels,ranking} DIR [SEED].
"""

import pathlib
import sys

import numpy

KV_HEADS = 8
GROUP = 4
HEAD_DIM = 128
HIDDEN = 16
BUDGET = 1024
STEP_INTERVAL = 128  # the published evaluation's; it is also how many of the newest tokens that code protects
LABEL_INTERVAL = 256  # the published training's
LABEL_TOKENS = 4096
RANKING_STEPS = 16
STATISTICS = ("maximum", "minimum", "sum", "last_16", "last_8", "last_32", "accumulated", "decayed")


def _log_sum_exp(query, key):
    """Natural log-sum-exp of each window query's scaled, causal logits: what an engine's attention kernel returns."""
    heads, window, head_dim = query.shape
    length = key.shape[1]
    visible = numpy.arange(length)[None, :] <= length - window + numpy.arange(window)[:, None]
    lse = numpy.empty((heads, window), numpy.float32)
    for head in range(heads):
        logits = query[head].astype(numpy.float64) @ key[head // GROUP].astype(numpy.float64).T / numpy.sqrt(head_dim)
        logits = numpy.where(visible, logits, -numpy.inf)
        top = logits.max(axis=1)
        lse[head] = top + numpy.log(numpy.exp(logits - top[:, None]).sum(axis=1))
    return lse


def step(seed):
    """A row of BUDGET + STEP_INTERVAL tokens in each KV head, later in a sequence: accumulated sums already exist."""
    random = numpy.random.default_rng(seed)
    features = 2 * HEAD_DIM + len(STATISTICS) * GROUP

    def normal(*shape, scale=1.0):
        return (scale * random.standard_normal(shape)).astype(numpy.float32)

    length = BUDGET + STEP_INTERVAL
    arrays = {
        "key": normal(KV_HEADS, length, HEAD_DIM),
        "value": normal(KV_HEADS, length, HEAD_DIM),
        "query": normal(KV_HEADS * GROUP, STEP_INTERVAL, HEAD_DIM),
        "accumulated": random.random((KV_HEADS, BUDGET, GROUP), numpy.float32),
        "fc1_weight": normal(KV_HEADS, features, HIDDEN, scale=features**-0.5),
        "fc1_bias": normal(KV_HEADS, HIDDEN, scale=0.1),
        "fc2_weight": normal(KV_HEADS, HIDDEN, 1, scale=HIDDEN**-0.5),
        "fc2_bias": normal(KV_HEADS, 1, scale=0.1),
    }
    # The published evaluation feeds the whole window's sum as last_8, last_16 and last_32, and the accumulated sum as
    # the decayed one. The weights that read those four are zero, so that both sides' scores can be compared; the
    # arithmetic done is the same.
    for name in ("last_16", "last_8", "last_32", "decayed"):
        first = 2 * HEAD_DIM + STATISTICS.index(name) * GROUP
        arrays["fc1_weight"][:, first : first + GROUP] = 0
    arrays["lse"] = _log_sum_exp(arrays["query"], arrays["key"])
    return arrays


def labels(seed, tokens=LABEL_TOKENS):
    random = numpy.random.default_rng(seed)
    return {
        "query": random.standard_normal((KV_HEADS * GROUP, tokens, HEAD_DIM), numpy.float32),
        "key": random.standard_normal((KV_HEADS, tokens, HEAD_DIM), numpy.float32),
    }


def survivors(random, tokens):
    """Candidates of every step when LABEL_INTERVAL random ones are evicted each time: [steps, KV_HEADS, BUDGET]."""
    steps = numpy.empty((RANKING_STEPS, KV_HEADS, BUDGET), numpy.int32)
    for head in range(KV_HEADS):
        now = numpy.arange(BUDGET)
        for step in range(RANKING_STEPS):
            steps[step, head] = now
            gone = random.choice(BUDGET, LABEL_INTERVAL, replace=False)
            first = BUDGET + step * LABEL_INTERVAL
            now = numpy.concatenate([numpy.delete(now, gone), numpy.arange(first, first + LABEL_INTERVAL)])
    assert now.max() < tokens
    return steps


def ranking(seed):
    """One sample of one layer in supervised training: stored statistics and labels of every candidate of every step."""
    random = numpy.random.default_rng(seed)
    features = 2 * HEAD_DIM + len(STATISTICS) * GROUP
    tokens = BUDGET + RANKING_STEPS * LABEL_INTERVAL

    def normal(*shape, scale=1.0):
        return (scale * random.standard_normal(shape)).astype(numpy.float32)

    rows = (RANKING_STEPS, KV_HEADS, BUDGET)
    return {
        "key": normal(KV_HEADS, tokens, HEAD_DIM),
        "value": normal(KV_HEADS, tokens, HEAD_DIM),
        "position": survivors(random, tokens),
        "statistics": random.random((*rows, len(STATISTICS) * GROUP), numpy.float32),
        "label": numpy.exp(normal(*rows, scale=3.0)) / numpy.float32(1000),
        "fc1_weight": normal(KV_HEADS, features, HIDDEN, scale=features**-0.5),
        "fc1_bias": normal(KV_HEADS, HIDDEN, scale=0.1),
        "fc2_weight": normal(KV_HEADS, HIDDEN, 1, scale=HIDDEN**-0.5),
        "fc2_bias": normal(KV_HEADS, 1, scale=0.1),
    }


def write(arrays, directory):
    folder = pathlib.Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        kind = {"f": "f32", "i": "i32"}[array.dtype.kind]
        array.astype("<f4" if kind == "f32" else "<i4").tofile(folder / f"{name}.{kind}")


def read(directory, name, shape):
    """Raw array `name` (its suffix gives the type); -1 in shape is deduced."""
    kind = {"f32": "<f4", "i32": "<i4"}[name.rpartition(".")[2]]
    return numpy.fromfile(pathlib.Path(directory) / name, kind).reshape(shape)


if __name__ == "__main__":
    makers = {"step": step, "labels": labels, "ranking": ranking}
    if len(sys.argv) not in (3, 4) or sys.argv[1] not in makers:
        sys.exit("usage: inputs.py {step,labels,ranking} DIR [SEED]")
    make = makers[sys.argv[1]]
    write(make(int(sys.argv[3]) if len(sys.argv) == 4 else 1), sys.argv[2])
