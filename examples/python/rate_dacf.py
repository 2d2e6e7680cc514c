"""Ratings of a run of dacf, in NumPy.

python rate_dacf.py RUN --history KEY=RATING,KEY=RATING [--item KEY,KEY] [--k 10]
"""

from layers import linear, sigmoid
from rates import rate


def predict(run, known, user):
    """The predicted rating of each item; the order of the known items has no meaning (Ratings)."""
    w, mean = run.weights, run.config["ratings"]["mean"]
    y = w["hidden.0.bias"]
    for item, rating in known:                  # a sum, not a mean
        y = y + (rating - mean) * w["item.weight"][item]
    y = sigmoid(y)
    for l in range(1, run.settings["blocks"]):
        y = sigmoid(linear(y, w, f"hidden.{l}"))
    return linear(y, w, "item.output") + mean


if __name__ == "__main__":
    rate(__doc__, predict)
