"""Lists of a run of mlp, in NumPy. The model reads the user; the history is only excluded.

python topk_mlp.py RUN --user KEY [--history KEY,KEY] [--k 10]
"""

from checkpoint import topk
from layers import linear, relu


def vector(run, known, user):
    """h from the user's vector (Models, mlp)."""
    y = run.user_vector(user)                   # zero for an unknown user
    for l in range(run.settings["blocks"]):
        y = relu(linear(y, run.weights, f"hidden.{l}"))
    return linear(y, run.weights, "output")


if __name__ == "__main__":
    topk(__doc__, vector)
