# SPDX-License-Identifier: Apache-2.0
"""Times one whole eviction step of the published evaluation code on the CPU, one layer, fp32, one sequence.

A call of the published ForesightKV.update_kv: attention of the last 128 cached queries to all n = 1152 keys, its
statistics, the judge, top-k and sampling, gather of keys, values and accumulated sums. It is a later call of a
sequence (accumulated sums exist). One JSON line per run, then a summary; times are seconds of wall clock.
"""

import argparse
import time

import worker


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    worker.add_arguments(parser)
    parser.add_argument("--cached-queries", type=int, default=128,
                        help="length of the query cache handed in; only its last 128 are used (default: %(default)s)")
    arguments = parser.parse_args()
    worker.limit_threads(arguments.threads)
    import torch

    import inputs
    import reference

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    eviction, selection_model = reference.load_step(arguments.reference)
    arrays = {name: torch.from_numpy(array) for name, array in inputs.step(arguments.seed).items()}

    class config:
        num_attention_heads = inputs.KV_HEADS * inputs.GROUP
        num_key_value_heads = inputs.KV_HEADS
        head_dim = inputs.HEAD_DIM

    judge = selection_model(config).eval()
    with torch.no_grad():
        judge.fc1.weight.copy_(arrays["fc1_weight"])
        judge.fc1.bias.copy_(arrays["fc1_bias"])
        judge.fc2.weight.copy_(arrays["fc2_weight"])
        judge.fc2.bias.copy_(arrays["fc2_bias"])

    seen = {}

    def recording_judge(*tensors):
        seen["drop_score"] = judge(*tensors)  # a reference is kept, nothing is copied inside the timed call
        return seen["drop_score"]

    step = eviction(budget=inputs.BUDGET, window_size=arguments.cached_queries, judge_model=recording_judge)
    older = max(0, arguments.cached_queries - inputs.STEP_INTERVAL)
    queries = torch.cat([torch.randn(inputs.KV_HEADS * inputs.GROUP, older, inputs.HEAD_DIM), arrays["query"]], 1)

    def run():
        # Fresh copies: the step adds to its sums in place, and both sides start from inputs written just now.
        key, value, query = (tensor.clone()[None] for tensor in (arrays["key"], arrays["value"], queries))
        step.attn_acc = arrays["accumulated"].clone()[None]
        step.attn_acc_decay = arrays["accumulated"].clone()[None]
        with torch.no_grad():
            begin = time.perf_counter()
            key, value = step.update_kv(key, query, value)
            seconds = time.perf_counter() - begin
        assert key.shape[2] == value.shape[2] == step.attn_acc.shape[2] == inputs.BUDGET
        return seconds

    def save(directory):
        keep = -seen["drop_score"][0, :, :, 0].transpose(0, 1)  # [KV_HEADS, candidates], higher = keep
        inputs.write({"score": keep.contiguous().numpy()}, directory)

    about = {"ready": "published step", "threads": torch.get_num_threads(), "torch": torch.__version__,
             "files": reference.fingerprint(arguments.reference, reference.STEP_FILES)}
    worker.work(arguments, about, run, save)


if __name__ == "__main__":
    main()
