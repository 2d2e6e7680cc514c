"""Lists of a run of bert4rec with the task next-basket, in NumPy. The history is one basket.

python topk_baskets.py RUN --history KEY,KEY [--user KEY] [--k 10]
"""

import numpy as np
from checkpoint import topk
from topk_bert4rec import encode


def vector(run, known, user):
    """h: the output of [MASK] (Query; Models, Next basket)."""
    w, length = run.weights, run.settings["length"]
    mask, cls, sep = range(len(run.items), len(run.items) + 3)
    newest = known[max(0, len(known) - (length - 3)):]
    ids = [cls] + newest + [sep, mask]
    segments = np.array([0] * (len(ids) - 1) + [1])             # 0 up to [SEP], 1 for [MASK]
    x = w["item.weight"][ids] + w["segment.weight"][segments]   # in place of positions
    return encode(run, x, ids, user)[-1]


if __name__ == "__main__":
    topk(__doc__, vector)
