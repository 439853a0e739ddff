# SPDX-License-Identifier: Apache-2.0
"""torch.topk of every row of scores, then torch.sort of the indices: one of the two ascending lists of `select`.

A row has fewer evicted tokens than kept ones: the list of the evicted is what torch.topk is quicker at.
"""

import torch

import worker


def scores(shape, device):
    cells = (shape["rows"], shape["tokens"])
    if shape["levels"] == 0:
        return torch.randn(cells, device=device)
    return torch.randint(0, shape["levels"], cells, device=device).float()


def ascending_list(row_scores, count, largest):
    return torch.topk(row_scores, count, dim=-1, largest=largest, sorted=False).indices.sort(dim=-1).values


def main():
    arguments = worker.parse(__doc__)

    def programs(shape):
        count = worker.settings(4 * shape["rows"] * shape["tokens"])
        inputs = [scores(shape, arguments.device) for _ in range(count)]
        for name, size, largest in (("evicted", shape["evicted"], False),
                                    ("kept", shape["tokens"] - shape["evicted"], True)):
            calls = [lambda given=given: ascending_list(given, size, largest) for given in inputs]
            yield f"select/torch_topk_sort/{name}/one_by_one", {"calls": calls}
            yield f"select/torch_topk_sort/{name}", {"calls": calls, "graph": True}

    worker.work(arguments, programs)


if __name__ == "__main__":
    main()
