"""Reads a run folder of mipgpu and prints lists. docs/formats.md describes the files.

Requires Python 3.11 or newer and NumPy.
"""

import argparse
import json
import tomllib
from pathlib import Path

import numpy as np

DTYPES = {"F32": "<f4", "I64": "<i8", "U64": "<u8", "U32": "<u4", "U8": "u1"}


def load(path):
    """Tensors and metadata of a safetensors file (Bytes of a data file)."""
    data = Path(path).read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    metadata, tensors = header.pop("__metadata__", {}), {}
    for name, about in header.items():
        first, end = about["data_offsets"]
        numbers = np.frombuffer(data[start + first:start + end], DTYPES[about["dtype"]])
        tensors[name] = numbers.reshape(about["shape"])
    return tensors, metadata


def keys_of(vocabulary, prefix=""):
    """Keys of a vocabulary, in the order of their ids (Tensors of a data set)."""
    at, text = vocabulary[prefix + "offsets"], vocabulary[prefix + "bytes"].tobytes()
    return [text[at[i]:at[i + 1]].decode() for i in range(len(at) - 1)]


class Run:
    """Settings, keys and complete weights of the run in `folder` (Run folder)."""

    def __init__(self, folder, checkpoint="best"):
        folder = Path(folder)
        self.config = tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))
        self.settings = self.config["settings"]
        self.items = keys_of(load(folder / "items.safetensors")[0])
        self.number = {key: i for i, key in enumerate(self.items)}
        self.users, self.fields, self.field_names = [], {}, []
        if (folder / "users.safetensors").exists():
            self.users = keys_of(load(folder / "users.safetensors")[0])
        if (folder / "fields.safetensors").exists():
            self.fields, metadata = load(folder / "fields.safetensors")
            self.field_names = json.loads(metadata["fields"])
        self.weights, metadata = load(folder / f"{checkpoint}.safetensors")
        base = json.loads(metadata["mipgpu"]).get("base")
        if base:
            self.complete(folder, base)

    def complete(self, folder, base):
        """Adds the frozen tensors, which the base run has (Patched runs)."""
        origin = self.config["from"]
        path = folder / origin["run"]        # a relative path starts at the folder of this run
        metadata = load(path / f"{origin['checkpoint']}.safetensors")[1]["mipgpu"]
        if json.loads(metadata)["sha256"] != base:
            raise SystemExit(f"{path} was trained again: it is not the base of this run")
        other = Run(path, origin["checkpoint"])
        for name, tensor in other.weights.items():
            if name in self.weights or name.startswith("optimizer."):
                continue
            table = name.split(".")[0]
            if table in ("item", "user", "field"):
                ours, theirs = self.row_keys(table), other.row_keys(table)
                row = {key: i for i, key in enumerate(theirs)}
                rows = [row[key] for key in ours]
                rows += range(len(theirs), len(tensor))         # the rows of special ids
                tensor = tensor[rows]
            elif name == "side.weight":
                columns = other.side_columns()
                tensor = np.hstack([tensor[:, columns[part]] for part in self.side_columns()])
            self.weights[name] = tensor

    def row_keys(self, table):
        """Keys of the rows of a table; of a field value, its field and its text."""
        if table != "field":
            return self.items if table == "item" else self.users
        values = [keys_of(self.fields, f"field.{j}.vocab.") for j in range(len(self.field_names))]
        return [(name, key) for name, keys in zip(self.field_names, values) for key in keys]

    def side_columns(self):
        """Columns of `side.weight` by what they multiply (Input)."""
        s = self.settings
        user = 0 if s["model"] == "caser" else s["user-width"]
        parts = {name: s["field-width"] for name in self.field_names} | ({"": user} if user else {})
        if s["join"] == "concat":
            parts = {None: s["width"]} | parts
        ends = np.cumsum(list(parts.values()))
        return {part: slice(end - parts[part], end) for part, end in zip(parts, ends)}

    def known(self, history):
        """Ids of the keys that the run knows (Computing a list from a checkpoint, step 1)."""
        return [self.number[key] for key in history if key in self.number]

    def user_vector(self, user):
        """Row of a user; zero without one. It is empty in runs without user vectors."""
        if user in self.users:
            return self.weights["user.weight"][self.users.index(user)]
        return np.zeros(self.settings["user-width"], np.float32)


def keys(text):
    """A list of keys: separated by commas, or as a JSON list."""
    return json.loads(text) if text.startswith("[") else [key for key in text.split(",") if key]


def arguments(about, history="item keys, oldest first: KEY,KEY or a JSON list"):
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("run", help="folder of the trained run")
    parser.add_argument("--history", type=keys, default=[], help=history)
    parser.add_argument("--user", help="key of a user with a vector")
    parser.add_argument("--k", type=int, default=10, help="length of the list")
    return parser


def topk(about, vector):
    """Prints key and score of the k best items for h = vector(run, known, user)."""
    args = arguments(about).parse_args()
    run = Run(args.run)
    known = run.known(args.history)
    h = vector(run, known, args.user)
    # Computing a list from a checkpoint, steps 5 and 6
    table = "item.output" if run.settings["model"] == "caser" else "item"
    bias = run.weights["item.bias" if table == "item" else "item.output.bias"]
    score = run.weights[f"{table}.weight"][:len(bias)] @ h + bias
    baskets = run.settings["task"] == "next-basket" or run.config["split"]["kind"] == "last-basket"
    left_out = set() if baskets or run.settings["keep-seen"] else set(known)
    best = [i for i in np.argsort(-score, kind="stable") if i not in left_out]
    for i in best[:args.k]:
        print(f"{run.items[i]}\t{score[i]:.8g}")
