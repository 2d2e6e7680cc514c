#!/usr/bin/env python3
"""Joins the films of MovieLens-1M with a table of their directors and actors, for `mipgpu import --items`.

    scripts/ml-1m-people.py movies.dat people.tsv > items.csv
    mipgpu import ratings.dat --no-header --items items.csv --item-fields genres,directors,actors --out data/ml-1m

movies.dat is from MovieLens-1M (Latin-1, `id::title::genres`). people.tsv has a header and at least the columns
movie_id, directors, actors, with names separated by ", ". Such a table is part of MeLU (Lee et al. 2019), as
movies_extrainfos.dat. The output has the first director and the first three actors, as in Zeng et al. 2021.
"""

import csv
import sys

if len(sys.argv) != 3:
    sys.exit(__doc__)


def names(text, most):
    found = [name.strip() for name in (text or "").split(",")]
    return "|".join([name for name in found if name and name != "N/A"][:most])


with open(sys.argv[2], encoding="utf-8") as file:
    rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    people = {row["movie_id"]: (names(row["directors"], 1), names(row["actors"], 3)) for row in rows}

table = csv.writer(sys.stdout, lineterminator="\n")
table.writerow(["item", "title", "genres", "directors", "actors"])
missing = 0
with open(sys.argv[1], encoding="latin-1") as file:
    for line in file:
        film, title, genres = line.rstrip("\n").split("::")
        missing += film not in people
        table.writerow([film, title, genres, *people.get(film, ("", ""))])
print(f"{missing} films without directors and actors", file=sys.stderr)
