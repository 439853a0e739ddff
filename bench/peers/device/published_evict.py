# SPDX-License-Identifier: Apache-2.0
"""One eviction step of the published evaluation code in every layer, as its model calls it: layer after layer, bf16.

A later call of a sequence: accumulated sums exist. They are set again before every round, outside the clock. The step
reads sizes back from the device (masked_select), so that no CUDA graph can hold it.
"""

import torch

import worker


def extra_options(parser):
    parser.add_argument("--reference", required=True, help="checkout of the published code (see README.md)")
    parser.add_argument("--compile", action="store_true", help="through torch.compile")


class config:
    num_attention_heads = worker.KV_HEADS * worker.GROUP
    num_key_value_heads = worker.KV_HEADS
    head_dim = worker.HEAD_DIM


def random_judge(selection_model, arguments):
    judge = selection_model(config).to(device=arguments.device, dtype=arguments.dtype).eval()
    for parameter in judge.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return judge


def main():
    arguments = worker.parse(__doc__, extra_options)
    import reference  # found by worker

    eviction, selection_model = reference.load_step(arguments.reference)
    update = torch.compile(eviction.update_kv, dynamic=False) if arguments.compile else eviction.update_kv
    torch._dynamo.config.recompile_limit = 8 * len(arguments.shapes)
    name = "evict/published_compiled" if arguments.compile else "evict/published"

    def programs(shape):
        batch, budget, interval = (shape[axis] for axis in ("batch", "budget", "interval"))

        def normal(heads, tokens):
            return torch.randn(batch, heads, tokens, worker.HEAD_DIM, dtype=arguments.dtype, device=arguments.device)

        layers = [(normal(worker.KV_HEADS, budget + interval), normal(config.num_attention_heads, interval),
                   normal(worker.KV_HEADS, budget + interval)) for _ in range(arguments.layers)]
        steps = [eviction(budget=budget, window_size=interval, judge_model=random_judge(selection_model, arguments))
                 for _ in layers]
        sums = torch.rand(batch, worker.KV_HEADS, budget, worker.GROUP, dtype=arguments.dtype, device=arguments.device)

        def restore():
            for step in steps:
                step.length = interval  # the published code protects as many tokens as it evicts: 128
                step.attn_acc, step.attn_acc_decay = sums.clone(), sums.clone()

        def evict_layers():
            for step, tensors in zip(steps, layers):
                with torch.no_grad():
                    key, value = update(step, *tensors)
                assert key.shape[2] == value.shape[2] == budget

        def compilations():
            counters = torch._dynamo.utils.counters
            return {"graphs": counters["stats"]["unique_graphs"],
                    "graph_breaks": sum(counters["graph_break"].values())} if arguments.compile else {}

        yield name, {"calls": [evict_layers], "prepare": restore, "also": compilations}

    worker.work(arguments, programs)


if __name__ == "__main__":
    main()
