"""Lists of a run of gru4rec, in NumPy.

python topk_gru4rec.py RUN --history KEY,KEY [--user KEY] [--k 10]
"""

import numpy as np
from checkpoint import topk
from layers import linear, query, side, sigmoid


def gru(x, w, name):
    """All states of a layer; the gates are r, z, n (Models, gru4rec)."""
    state, states = np.zeros(x.shape[1], np.float32), []
    for row in x:                               # from the oldest to the newest
        a_r, a_z, a_n = np.split(linear(row, w, name + ".input"), 3)
        c_r, c_z, c_n = np.split(linear(state, w, name + ".hidden"), 3)
        r, z = sigmoid(a_r + c_r), sigmoid(a_z + c_z)
        n = np.tanh(a_n + r * c_n)
        state = (1 - z) * n + z * state
        states.append(state)
    return np.array(states)


def vector(run, known, user):
    w = run.weights
    ids, _ = query(run, known)                  # no positions
    x = side(run, w["item.weight"][ids], ids, user)
    for l in range(run.settings["blocks"]):
        x = gru(x, w, f"block.{l}.gru")
    return x[-1]                                # the last state of the last layer


if __name__ == "__main__":
    topk(__doc__, vector)
