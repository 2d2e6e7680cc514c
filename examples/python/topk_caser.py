"""Lists of a run of caser, in NumPy.

python topk_caser.py RUN --history KEY,KEY [--user KEY] [--k 10]
"""

import numpy as np
from checkpoint import topk
from layers import linear, query, relu, side


def horizontal(x, w):
    """Per height and filter, the maximum over all places in the window x (Models, caser)."""
    weight, bias = w["conv.horizontal.weight"], w["conv.horizontal.bias"]
    window, filters = len(x), weight.shape[2]
    out = []
    for a in range(1, window + 1):
        taps = weight[a * (a - 1) // 2:a * (a + 1) // 2]        # (a, D, Fh)
        b = bias[(a - 1) * filters:a * filters]
        places = [sum(x[s + k] @ taps[k] for k in range(a)) for s in range(window - a + 1)]
        out.append(relu(np.max(places, axis=0) + b))
    return np.concatenate(out)


def vertical(x, w):
    """Per filter, a weighted sum of the rows; no activation."""
    return (w["conv.vertical.weight"] @ x + w["conv.vertical.bias"][:, None]).reshape(-1)


def vector(run, known, user):
    w, window = run.weights, run.settings["window"]
    ids, _ = query(run, known)                  # no positions
    x = side(run, w["item.weight"][ids], ids, user)
    # The window of the last row; rows before the first one are zero, without side fields
    x = np.concatenate([np.zeros((window, x.shape[1]), np.float32), x])[-window:]
    z = linear(horizontal(x, w), w, "dense.horizontal")
    z += linear(vertical(x, w), w, "dense.vertical")
    return np.concatenate([relu(z), run.user_vector(user)])


if __name__ == "__main__":
    topk(__doc__, vector)
