"""Lists of a run of bert4rec with the task masked-item or next-item, in NumPy.

python topk_bert4rec.py RUN --history KEY,KEY [--user KEY] [--k 10]
"""

from checkpoint import topk
from layers import attention, gelu, layer_norm, linear, patched, query, side

EPS = 1e-12


def encode(run, x, ids, user, between=lambda x: x):
    """The rows of the output, for the rows x of items and positions (Models, bert4rec)."""
    w, s = run.weights, run.settings
    causal = s["task"] == "next-item"           # all other tasks see both sides

    def attend(y):
        return attention(y, w, f"{block}.attention", s["heads"], causal)

    def ffn(y):
        return linear(gelu(linear(y, w, f"{block}.ffn.up")), w, f"{block}.ffn.down")

    # Input rows, steps 3 to 5; `between` adds the ratings of rate_bert4rec.py
    x = between(side(run, x, ids, user))
    if s["norm"] == "post":
        x = layer_norm(x, w, "embedding_norm", EPS)
    for l in range(s["blocks"]):
        block = f"block.{l}"
        for name, part in (("attention", attend), ("ffn", ffn)):
            part_norm = f"{block}.{name}_norm"
            if s["norm"] == "post":             # x = LN(x + f(x))
                x = layer_norm(x + patched(run, f"{block}.{name}", part, x), w, part_norm, EPS)
            else:                               # x = x + f(LN(x))
                y = layer_norm(x, w, part_norm, EPS)
                x = x + patched(run, f"{block}.{name}", part, y)
    if s["norm"] == "pre":
        x = layer_norm(x, w, "last_norm", EPS)
    if s["projection"]:
        x = layer_norm(gelu(linear(x, w, "projection.dense")), w, "projection.norm", EPS)
    return x


def vector(run, known, user):
    w = run.weights
    ids, positions = query(run, known)
    x = w["item.weight"][ids] + w["position.weight"][positions]
    return encode(run, x, ids, user)[-1]        # the row of [MASK], or of the newest item


if __name__ == "__main__":
    topk(__doc__, vector)
