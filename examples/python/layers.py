"""The layers that several models share, in NumPy (docs/formats.md, Building blocks)."""

import numpy as np


def linear(x, w, name):
    """y = x W^T + b; the weight is (out, in)."""
    return x @ w[name + ".weight"].T + w[name + ".bias"]


def layer_norm(x, w, name, eps):
    mean = x.mean(-1, keepdims=True)
    var = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + eps) * w[name + ".gamma"] + w[name + ".beta"]


def relu(x):
    return np.maximum(x, 0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gelu(x):
    """The tanh form."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def attention(x, w, name, heads, causal):
    n, d = x.shape
    q, k, v = np.split(linear(x, w, name + ".qkv"), 3, axis=1)
    q, k, v = (m.reshape(n, heads, d // heads).transpose(1, 0, 2) for m in (q, k, v))
    s = q @ k.transpose(0, 2, 1) / np.sqrt(d // heads)
    if causal:                                  # row i sees the rows 0 ... i
        s = np.where(np.tri(n, dtype=bool), s, -np.inf)
    p = np.exp(s - s.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    return linear((p @ v).transpose(1, 0, 2).reshape(n, d), w, name + ".out")


def query(run, known):
    """Ids and positions of the rows, for `masked-item` and `next-item` (Query)."""
    length, mask = run.settings["length"], len(run.items)
    ids = known[max(0, len(known) - (length - 1)):]
    if run.settings["task"] == "masked-item":
        ids, last = ids + [mask], length - 1
    else:
        ids, last = ids or [mask], length - 2
    return ids, np.arange(last + 1 - len(ids), last + 1)


def side(run, x, ids, user):
    """Adds side fields and the user to the input rows x of the items `ids` (Input rows)."""
    w, s = run.weights, run.settings
    if "side.weight" not in w:
        return x
    parts, first = [], 0
    for j in range(len(run.field_names)):
        at, values = run.fields[f"field.{j}.offsets"], run.fields[f"field.{j}.values"]
        vectors = np.zeros((len(ids), s["field-width"]), np.float32)
        for row, i in enumerate(ids):
            if i < len(run.items) and at[i] < at[i + 1]:        # not a special id, and has values
                vectors[row] = w["field.weight"][first + values[at[i]:at[i + 1]]].mean(axis=0)
        parts.append(vectors)
        first += len(run.fields[f"field.{j}.vocab.offsets"]) - 1
    if s["model"] != "caser":                   # there, the user joins at the output
        parts.append(np.tile(run.user_vector(user), (len(ids), 1)))
    if s["join"] == "concat":
        return linear(np.hstack([x] + parts), w, "side")
    return x + linear(np.hstack(parts), w, "side")


def patched(run, name, part, y):
    """part(y), with the patch `name` where the run has one (Patched runs)."""
    w, out = run.weights, part(y)
    if f"{name}.patch.up.weight" not in w:
        return out
    source = out if run.settings["patch"] == "serial" else y
    hidden = gelu(linear(source, w, name + ".patch.down"))
    return out + linear(hidden, w, name + ".patch.up")
