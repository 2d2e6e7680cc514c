"""The command line of the scripts that predict ratings."""

import numpy as np
from checkpoint import Run, arguments, keys


def rate(about, predict):
    """Prints key and rating of the k items that predict(run, known, user) rates highest."""
    parser = arguments(about, "rated items, oldest first: KEY=RATING,KEY=RATING or a JSON list")
    parser.add_argument("--item", type=keys, help="print these items, in this order")
    args = parser.parse_args()
    run = Run(args.run)
    rated = [text.rpartition("=") for text in args.history]
    known = [(run.number[key], float(rating)) for key, _, rating in rated if key in run.number]
    newest = known[max(0, len(known) - (run.settings["length"] - 1)):]
    levels = run.config["ratings"]["levels"]
    rating = np.clip(predict(run, newest, args.user), levels[0], levels[-1])    # as eval does
    if args.item:
        best = run.known(args.item)
    else:
        seen = {item for item, _ in known}
        best = [i for i in np.argsort(-rating, kind="stable") if i not in seen][:args.k]
    for i in best:
        print(f"{run.items[i]}\t{rating[i]:.8g}")
