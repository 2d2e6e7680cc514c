"""Lists of a run of peterrec with the task masked-item or next-item, in NumPy.

python topk_peterrec.py RUN --history KEY,KEY [--user KEY] [--k 10]
"""

import numpy as np
from checkpoint import topk
from layers import layer_norm, patched, query, relu, side

EPS = 1e-8


def conv(x, w, name, dilation, causal):
    """A dilated convolution; the weight is (taps, in, out) (Models, peterrec)."""
    weight, bias = w[name + ".weight"], w[name + ".bias"]
    n, taps = len(x), len(weight)
    span = (taps - 1) * dilation
    lead = span if causal else span // 2        # rows between the oldest tap and the row itself
    padded = np.pad(x, ((lead, span - lead), (0, 0)))           # outside the sequence: zero
    return bias + sum(padded[t * dilation:t * dilation + n] @ weight[t] for t in range(taps))


def vector(run, known, user):
    w, s = run.weights, run.settings
    causal = s["task"] == "next-item"
    dilations = [int(d) for d in s["dilations"].split(",")]

    ids, _ = query(run, known)                  # no positions
    x = side(run, w["item.weight"][ids], ids, user)
    for l in range(s["blocks"]):
        y, dilation = x, dilations[l % len(dilations)]
        # The second convolution has twice the dilation of the first
        for name, d in ((f"block.{l}.conv1", dilation), (f"block.{l}.conv2", 2 * dilation)):
            def part(y):
                return relu(layer_norm(conv(y, w, name, d, causal), w, name + "_norm", EPS))
            y = patched(run, name, part, y)
        x = x + y
    return x[-1]                                # the row of [MASK], or of the newest item


if __name__ == "__main__":
    topk(__doc__, vector)
