#!/usr/bin/env python3
"""Rewrites pages of docs/ in place: a link that leaves docs/ becomes its text and the path in the repository.

    scripts/book_links.py PAGE.md ...

The book holds docs/ only, so such a link would lead nowhere in it.
"""

import re
import sys
from pathlib import Path

LINK = re.compile(r"\[([^\]]*)\]\(\.\./([^)#]+)(#[^)]*)?\)")
DEFINITION = re.compile(r"^\[([^\]]+)\]: \.\./(\S+)$", re.MULTILINE)


def rewritten(text: str) -> str:
    paths = dict(DEFINITION.findall(text))
    text = DEFINITION.sub("", text)
    for name, path in paths.items():
        text = re.sub(rf"\[([^\]]*)\]\[{re.escape(name)}\]", rf"\1 (`{path}`)", text)
        text = text.replace(f"[{name}]", f"{name} (`{path}`)")

    def plain(link: re.Match) -> str:
        shown, path = link.group(1), link.group(2)
        return f"`{path}`" if shown.strip("`").split("/")[-1] == path.split("/")[-1] else f"{shown} (`{path}`)"

    return LINK.sub(plain, text)


def main() -> None:
    for path in map(Path, sys.argv[1:]):
        path.write_text(rewritten(path.read_text()))


if __name__ == "__main__":
    main()
