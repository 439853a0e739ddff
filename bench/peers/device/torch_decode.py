# SPDX-License-Identifier: Apache-2.0
"""The attention of `interval` decode steps, what one eviction is paid for: scaled_dot_product_attention, one query per
head, every layer, the cache growing from budget to budget + interval tokens."""

import torch
from torch.nn.functional import scaled_dot_product_attention

import worker


def main():
    arguments = worker.parse(__doc__)

    def programs(shape):
        tokens = shape["budget"] + shape["interval"]

        def normal(heads, length):
            return torch.randn(shape["batch"], heads, length, worker.HEAD_DIM, dtype=arguments.dtype,
                               device=arguments.device)

        layers = [(normal(worker.KV_HEADS * worker.GROUP, 1), normal(worker.KV_HEADS, tokens),
                   normal(worker.KV_HEADS, tokens)) for _ in range(arguments.layers)]

        def decode():
            for length in range(shape["budget"] + 1, tokens + 1):
                for query, key, value in layers:
                    scaled_dot_product_attention(query, key[:, :, :length], value[:, :, :length], enable_gqa=True)

        yield "decode/attention", {"calls": [decode], "graph": True}

    worker.work(arguments, programs)


if __name__ == "__main__":
    main()
