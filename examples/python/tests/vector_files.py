# SPDX-License-Identifier: Apache-2.0
"""The vectors of tests/data: numbers that this library did not make. tests/data/README.md says what they are."""

import os
import pathlib

import numpy as np

import foresightkv as fkv

FOLDER = (
    pathlib.Path(os.environ.get("FORESIGHTKV_TEST_DATA") or pathlib.Path(__file__).parents[3] / "tests" / "data")
    / "vectors"
)


def names(*prefixes):
    """Names of the vector sets that begin so."""
    found = sorted(path.stem for path in FOLDER.glob("*.safetensors"))
    return [name for name in found if name.startswith(prefixes)]


class VectorFile:
    """One set: its tensors as arrays over the mapped file, its parameters as numbers and text."""

    def __init__(self, name):
        self.tensors = fkv.io.read_safetensors(FOLDER / f"{name}.safetensors")
        self.facts = self.tensors.metadata

    def __getitem__(self, name):
        return self.tensors[name]

    def __contains__(self, name):
        return name in self.tensors

    def integer(self, key):
        return int(self.facts[key])

    def integers(self, key):
        return [int(word) for word in self.facts[key].split(",")]

    def number(self, key):
        return float(self.facts[key])

    def made(self, name, shape):
        """A tensor of the large sets, by the rule in their metadata; checked against the first values."""
        count = int(np.prod(shape))
        total = np.zeros(count)
        start = np.uint64(self.integer(f"seed_{name}") << 32)
        for j in range(4):
            x = np.arange(j, 4 * count + j, 4, dtype=np.uint64) + start + np.uint64(0x9E3779B97F4A7C15)
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            total += ((x ^ (x >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        values = (self.number(f"scale_{name}") * (total - 2.0)).astype(np.float32)
        first = self[f"{name}_first"]
        np.testing.assert_array_equal(values[: len(first)], first)
        return values.reshape(shape)

    def judge(self, prefix=""):
        """Judges of one layer as they are trained, [kv_head][inputs + 3][16]; the file holds drop scores."""
        parts = [self[prefix + part] for part in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")]
        return fkv.training.pack_judge(*parts)


def save_judge(path, weights, group, head_dim):
    """One layer's judges as a file that a policy reads."""
    judge = fkv.training.Judge(num_layers=1, num_kv_heads=len(weights), group=group, key_head_dim=head_dim)
    judge.weights[0] = weights
    judge.save(path)
    return str(path)


def off_by(got, expected):
    """The largest difference."""
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    assert got.shape == expected.shape
    return np.abs(got - expected).max() if got.size else 0.0


def off_by_share(got, expected):
    """The largest difference relative to the largest value."""
    return off_by(got, expected) / max(np.abs(expected).max(), 1e-30)
