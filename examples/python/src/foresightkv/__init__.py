# SPDX-License-Identifier: Apache-2.0
"""KV-cache eviction over arrays in place: NumPy, PyTorch, or anything else that speaks DLPack.

    policy = foresightkv.Policy("window_sum", budget=1024, interval=128, sinks=4)
    cache = foresightkv.DenseCache(keys, values, lengths, group=4)
    window = foresightkv.Window(queries, group=4)
    evictor = foresightkv.Evictor(policy, cache, window.max_queries)
    evictor.evict(cache, window)  # lengths are shorter now, keys and values compacted

Generation with transformers under any policy: foresightkv.hf. Traces of a model: python -m foresightkv.record.
Training a judge: foresightkv.training, and its files: foresightkv.io.
"""

from . import io, training
from ._core import (
    Cache,
    DenseCache,
    Evictor,
    Labels,
    Lists,
    PagedCache,
    Policy,
    Window,
    Workspace,
    __version__,
    block_means,
    golden_eviction,
    golden_eviction_of_means,
    policies,
)
from ._scored import Tokens

__all__ = [
    "Cache",
    "DenseCache",
    "Evictor",
    "Labels",
    "Lists",
    "PagedCache",
    "Policy",
    "Tokens",
    "Window",
    "Workspace",
    "__version__",
    "block_means",
    "golden_eviction",
    "golden_eviction_of_means",
    "io",
    "policies",
    "training",
]
