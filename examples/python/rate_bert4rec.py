"""Ratings of a run of bert4rec with the task rating, in NumPy.

python rate_bert4rec.py RUN --history KEY=RATING,KEY=RATING [--item KEY,KEY] [--user KEY] [--k 10]
"""

import numpy as np
from layers import linear
from rates import rate
from topk_bert4rec import encode


def predict(run, known, user):
    """The predicted rating of each item: one query per item (Ratings)."""
    w, s = run.weights, run.settings
    levels, mean = np.array(run.config["ratings"]["levels"]), run.config["ratings"]["mean"]
    # The class is the nearest level; argmin takes the lower of two equally near levels
    classes = [int(np.argmin(abs(levels - rating))) for _, rating in known] + [len(levels)]
    r = w["rating.weight"][classes]             # the last row: a hidden rating
    # The queried item is at position length - 1
    positions = np.arange(s["length"] - len(classes), s["length"])

    def rated(x):
        if s["rating-width"] == 0:
            return x + r
        return linear(np.hstack([x, r]), w, "rating.join")

    ratings = []
    for item in range(len(run.items)):
        ids = [i for i, _ in known] + [item]
        x = w["item.weight"][ids] + w["position.weight"][positions]
        h = encode(run, x, ids, user, rated)[-1]
        ratings.append(linear(h, w, "rating.head")[0] + mean)
    return np.array(ratings)


if __name__ == "__main__":
    rate(__doc__, predict)
