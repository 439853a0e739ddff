# SPDX-License-Identifier: Apache-2.0
"""torch.gather of the kept tokens' keys and values into new tensors, all layers at once, from sorted random indices."""

import torch

import worker


def main():
    arguments = worker.parse(__doc__)

    def programs(shape):
        rows = arguments.layers * shape["batch"] * worker.KV_HEADS
        tokens = shape["budget"] + shape["interval"]
        count = worker.settings(2 * 2 * rows * tokens * worker.HEAD_DIM)
        caches = [[torch.randn(rows, tokens, worker.HEAD_DIM, dtype=arguments.dtype, device=arguments.device)
                   for _ in ("keys", "values")] for _ in range(count)]
        kept = torch.rand(rows, tokens, device=arguments.device).topk(shape["budget"]).indices.sort().values
        index = kept.unsqueeze(-1).expand(-1, -1, worker.HEAD_DIM)
        calls = [lambda cache=cache: [part.gather(1, index) for part in cache] for cache in caches]
        yield "compact/torch_gather", {"calls": calls, "graph": True}

    worker.work(arguments, programs)


if __name__ == "__main__":
    main()
