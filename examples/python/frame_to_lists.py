#!/usr/bin/env python3
"""From a pandas frame to lists of items: import, train, recommend.

    python frame_to_lists.py LOG.csv FOLDER [SETTING=VALUE ...]

LOG.csv has the columns user, item and timestamp. The lists are written to FOLDER/lists.csv, one row per user and item.
Requires pandas, and `mipgpu` on the PATH (MIPGPU names another program).
"""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

MIPGPU = os.environ.get("MIPGPU", "mipgpu")


def mipgpu(*words: object) -> str:
    """Runs a command and returns its standard output. An error of the command ends the script."""
    done = subprocess.run([MIPGPU, *map(str, words)], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(done.returncode)
    return done.stdout


def lists_of(log: pd.DataFrame, folder: Path, k: int = 10, **settings: object) -> pd.DataFrame:
    """Trains on a log with the columns user, item and timestamp, and returns the columns user, rank, item and score.

    `settings` are flags of `mipgpu train`, with underscores for dashes.
    """
    folder.mkdir(parents=True)
    log[["user", "item", "timestamp"]].to_csv(folder / "log.csv", index=False)
    mipgpu("import", folder / "log.csv", "--out", folder / "data", "-q")
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    mipgpu("train", folder / "data", "--out", folder / "run", "-q", *flags)
    answers = mipgpu("recommend", folder / "run", "--all-users", "--k", k, "--json", "-q")
    rows = [
        (answer["id"], rank, item["item"], item["score"])
        for answer in map(json.loads, io.StringIO(answers))
        for rank, item in enumerate(answer["items"], 1)
    ]
    return pd.DataFrame(rows, columns=["user", "rank", "item", "score"])


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    log, folder, *settings = sys.argv[1:]
    frame = pd.read_csv(log, dtype={"user": str, "item": str})
    lists = lists_of(frame, Path(folder), **dict(setting.split("=", 1) for setting in settings))
    lists.to_csv(Path(folder) / "lists.csv", index=False)
    print(lists.head(10).to_string(index=False))


if __name__ == "__main__":
    main()
