# SPDX-License-Identifier: Apache-2.0
"""Times the published label builder on the CPU, from queries and keys of one layer, fp32, one sequence.

A call of the published build_oracle_targets: repeated keys, T x T logits, mask, softmax, block means, and the
eviction loop. One JSON line per run, then a summary with the peak of resident memory; times are seconds of wall clock.
"""

import argparse
import time

import worker


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    worker.add_arguments(parser)
    parser.add_argument("--tokens", type=int, default=None, help="T (default: 4096)")
    arguments = parser.parse_args()
    worker.limit_threads(arguments.threads)
    import torch

    import inputs
    import reference

    torch.set_num_threads(arguments.threads)
    build = reference.load_labels(arguments.reference)
    tokens = arguments.tokens or inputs.LABEL_TOKENS
    arrays = inputs.labels(arguments.seed, tokens)
    attentions = [(torch.from_numpy(arrays["query"])[None], torch.from_numpy(arrays["key"])[None])]
    seen = {}

    def run():
        seen.clear()
        with torch.no_grad():
            begin = time.perf_counter()
            evicted, target = build(attentions, tokens, inputs.BUDGET, inputs.LABEL_INTERVAL, 1, inputs.KV_HEADS,
                                    inputs.GROUP)
            seconds = time.perf_counter() - begin
        seen.update(evicted=evicted, target=target)
        return seconds

    def save(directory):
        # [steps, KV_HEADS, interval] ascending, and [steps, KV_HEADS, budget] with higher = keep
        evicted = torch.sort(seen["evicted"][0], dim=-1).values.to(torch.int32)
        inputs.write({"evicted": evicted.numpy(), "score": (-seen["target"][0]).contiguous().numpy()}, directory)

    about = {"ready": "published labels", "threads": torch.get_num_threads(), "torch": torch.__version__,
             "tokens": tokens, "files": reference.fingerprint(arguments.reference, reference.LABEL_FILES)}
    worker.work(arguments, about, run, save)


if __name__ == "__main__":
    main()
