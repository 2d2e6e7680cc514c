#!/usr/bin/env python3
"""Preprocessor of mdBook: a link that leaves docs/ becomes its text and the path in the repository.

The book holds docs/ only, so such a link would lead nowhere.
"""

import json
import re
import sys

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


def visit(items: list) -> None:
    for item in items:
        if isinstance(item, dict) and "Chapter" in item:
            chapter = item["Chapter"]
            chapter["content"] = rewritten(chapter["content"])
            visit(chapter["sub_items"])


def main() -> None:
    if sys.argv[1:2] == ["supports"]:
        return
    _, book = json.load(sys.stdin)
    visit(book.get("items", book.get("sections", [])))
    json.dump(book, sys.stdout)


if __name__ == "__main__":
    main()
