"""Blocks of a saliency matrix: which rows and columns to put together, so that most of it lies in G blocks.

>>> saliency = torch.tensor([[0.0, 3.0], [2.0, 1.0]])
>>> part = sorted_blocks(saliency, groups=2)
>>> part.inputs.flatten().tolist(), part.outputs.flatten().tolist()
([1, 0], [0, 1])

Source: Zhao, Luk, Efficient structured pruning and architecture searching for group convolution, ICCVW 2019
(arXiv:1811.09341), section 3.2, as in its official code: there `GRPS`, followed by a bipartite matching.
"""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from regroup.conversion.partition import Partition

SWEEPS = 10
"""Times that columns and rows are sorted for each group; the paper's N_S."""


def sorted_blocks(saliency: Tensor, groups: int, sweeps: int = SWEEPS) -> Partition:
    """Return groups of columns (inputs) and rows (outputs) of a matrix (M, C).

    For the last group, columns are sorted by their sums over its rows and rows by theirs over its columns, in
    turns; what ends up last is the group, and the rest is sorted likewise. Then the blocks of columns are
    matched with the blocks of rows anew.
    """
    rows, columns = (torch.arange(n) for n in saliency.shape)
    height, width = (n // groups for n in saliency.shape)
    for left in range(groups, 0, -1):
        last_rows = slice((left - 1) * height, left * height)
        last_columns = slice((left - 1) * width, left * width)
        for _ in range(sweeps):
            open_columns, here = columns[: left * width], saliency[rows[last_rows]]
            columns[: left * width] = open_columns[here[:, open_columns].sum(0).argsort(stable=True)]
            open_rows, here = rows[: left * height], saliency[:, columns[last_columns]]
            rows[: left * height] = open_rows[here[open_rows].sum(1).argsort(stable=True)]
    inputs, outputs = columns.view(groups, -1), rows.view(groups, -1)
    blocks = saliency[rows][:, columns].unflatten(0, (groups, -1)).unflatten(2, (groups, -1)).sum((1, 3))
    _, matched = linear_sum_assignment(blocks.numpy(), maximize=True)
    return Partition(inputs[torch.from_numpy(matched)], outputs)
