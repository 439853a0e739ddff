# SPDX-License-Identifier: Apache-2.0
"""Times one step of the published supervised training on the CPU, one layer, fp32, one sequence, without its model.

The published judge on 16 eviction steps' candidates, the published pairwise hinge loss, backward, clipping and Adam.
One JSON line per run, then a summary with the peak of resident memory; times are seconds of wall clock.
"""

import argparse
import time

import worker


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    worker.add_arguments(parser)
    arguments = parser.parse_args()
    worker.limit_threads(arguments.threads)
    import torch

    import inputs
    import reference

    torch.set_num_threads(arguments.threads)
    selection_model, hinge_loss = reference.load_ranking(arguments.reference)
    arrays = {name: torch.from_numpy(array) for name, array in inputs.ranking(arguments.seed).items()}

    class config:
        num_attention_heads = inputs.KV_HEADS * inputs.GROUP
        num_key_value_heads = inputs.KV_HEADS
        head_dim = inputs.HEAD_DIM

    judge = selection_model(config)
    weights = {"fc1_weight": judge.fc1.weight, "fc1_bias": judge.fc1.bias, "fc2_weight": judge.fc2.weight,
               "fc2_bias": judge.fc2.bias}
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(arrays[name])
    judge.feature_norm.requires_grad_(False)  # constructed, never applied
    optimiser = torch.optim.Adam(weights.values(), lr=0.0)
    criterion = hinge_loss(margin=0.01)

    def gathered(tokens):
        index = arrays["position"].long()[..., None].expand(-1, -1, -1, inputs.HEAD_DIM)
        return [tokens.gather(1, step)[None] for step in index]

    steps = list(zip(gathered(arrays["key"]), gathered(arrays["value"]), arrays["statistics"][:, None]))
    target = (-arrays["label"]).reshape(-1, inputs.BUDGET)
    seen = {}

    def run():
        optimiser.zero_grad(set_to_none=True)
        begin = time.perf_counter()
        scores = torch.stack([judge(key, value, statistics).transpose(1, 2).reshape(inputs.KV_HEADS, inputs.BUDGET)
                              for key, value, statistics in steps])
        loss = criterion(scores.reshape(-1, inputs.BUDGET), target)
        loss.backward(retain_graph=True)
        torch.nn.utils.clip_grad_norm_(weights.values(), max_norm=1.0)
        optimiser.step()
        seconds = time.perf_counter() - begin
        seen.update(loss=loss.detach())
        return seconds

    def save(directory):
        found = {name: weight.grad.contiguous().numpy() for name, weight in weights.items()}
        inputs.write({**found, "loss": seen["loss"].reshape(1).numpy()}, directory)

    about = {"ready": "published ranking", "threads": torch.get_num_threads(), "torch": torch.__version__,
             "files": reference.fingerprint(arguments.reference, reference.RANKING_FILES)}
    worker.work(arguments, about, run, save)


if __name__ == "__main__":
    main()
