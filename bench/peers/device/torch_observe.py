# SPDX-License-Identifier: Apache-2.0
"""The window's statistics in PyTorch, layer by layer: matmul, mask, softmax, reductions; also through torch.compile."""

import torch

import worker


def observe(queries, keys, mask):
    """queries [batch, heads, GROUP, L, dim], keys [batch, heads, 1, n, dim] -> six of [batch, heads, GROUP, n]."""
    logits = torch.matmul(queries, keys.transpose(-1, -2)) * worker.HEAD_DIM**-0.5 + mask
    attention = torch.softmax(logits, dim=-1, dtype=torch.float32)
    return (attention.amax(-2), attention.amin(-2), attention.sum(-2),
            *(attention[..., -newest:, :].sum(-2) for newest in (16, 8, 32)))


def main():
    arguments = worker.parse(__doc__)
    compiled = torch.compile(observe, dynamic=False)

    def programs(shape):
        window, tokens = shape["interval"], shape["budget"] + shape["interval"]

        def normal(*extents):
            return torch.randn(shape["batch"], worker.KV_HEADS, *extents, worker.HEAD_DIM, dtype=arguments.dtype,
                               device=arguments.device)

        layers = [(normal(worker.GROUP, window), normal(1, tokens)) for _ in range(arguments.layers)]
        mask = torch.full((window, tokens), float("-inf"), dtype=arguments.dtype, device=arguments.device)
        mask = mask.triu(tokens - window + 1)

        def step(function):
            for queries, keys in layers:
                function(queries, keys, mask)

        yield "observe/torch", {"calls": [lambda: step(observe)], "graph": True}
        yield "observe/torch_compiled", {"calls": [lambda: step(compiled)], "graph": True}

    worker.work(arguments, programs)


if __name__ == "__main__":
    main()
