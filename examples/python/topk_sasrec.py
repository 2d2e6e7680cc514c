"""Lists of a run of sasrec, in NumPy.

python topk_sasrec.py RUN --history KEY,KEY [--user KEY] [--k 10]
"""

from checkpoint import topk
from layers import attention, gelu, layer_norm, linear, patched, query, side

EPS = 1e-12


def vector(run, known, user):
    """h: the output of the newest item (Models, sasrec)."""
    w, s = run.weights, run.settings

    def attend(y):
        return attention(y, w, f"{block}.attention", s["heads"], causal=True)

    def ffn(y):
        return linear(gelu(linear(y, w, f"{block}.ffn.up")), w, f"{block}.ffn.down")

    # Query and Input rows: the newest item is at position length - 2
    ids, positions = query(run, known)
    x = side(run, w["item.weight"][ids] + w["position.weight"][positions], ids, user)
    # Blocks with the norm before each part; the settings norm and projection are ignored
    for l in range(s["blocks"]):
        block = f"block.{l}"
        y = layer_norm(x, w, f"{block}.attention_norm", EPS)
        x = x + patched(run, f"{block}.attention", attend, y)
        y = layer_norm(x, w, f"{block}.ffn_norm", EPS)
        x = x + patched(run, f"{block}.ffn", ffn, y)
    return layer_norm(x, w, "last_norm", EPS)[-1]


if __name__ == "__main__":
    topk(__doc__, vector)
