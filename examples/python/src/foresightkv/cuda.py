# SPDX-License-Identifier: Apache-2.0
"""The library over arrays in a GPU's memory: PyTorch, CuPy, or anything else that speaks DLPack.

    policy = foresightkv.cuda.Policy("window_sum", budget=1024, interval=128, sinks=4)
    cache = foresightkv.cuda.DenseCache(keys, values, lengths, group=4)
    window = foresightkv.cuda.Window(queries, group=4)
    stream = torch.cuda.current_stream().cuda_stream
    evictor = foresightkv.cuda.Evictor(policy, cache, window.max_queries, stream=stream)
    evictor.evict(cache, window)

As foresightkv's own, with a stream in place of threads. Every call waits for its work: see docs/python.md.
"""

from . import _core  # noqa: F401  Policy knows the Judge that is defined there

try:
    from ._cuda import Cache, DenseCache, Evictor, Lists, PagedCache, Policy, Window, Workspace, policies
except ImportError as problem:
    raise ImportError(
        f"foresightkv.cuda is not there ({problem}); on a machine with nvcc it is built by "
        "pip install ./examples/python -C cmake.define.FORESIGHTKV_PYTHON_CUDA=ON"
    ) from problem

__all__ = [
    "Cache",
    "DenseCache",
    "Evictor",
    "Lists",
    "PagedCache",
    "Policy",
    "Window",
    "Workspace",
    "policies",
]
