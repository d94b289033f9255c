"""Reading a report back: its tags, the text a reader sees, and the data of its charts."""

from __future__ import annotations

import json
from collections import Counter
from html.parser import HTMLParser
from typing import Any

SILENT = {"script", "style", "title"}


class Page(HTMLParser):
    """Tags counted by name, attributes of every tag, visible text, and the JSON of every chart."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: Counter[str] = Counter()
        self.attributes: list[dict[str, str]] = []
        self.texts: list[str] = []
        self.charts: list[Any] = []
        self.inside: list[str] = []
        self.is_data = False
        self.feed(html)
        self.close()

    @property
    def text(self) -> str:
        """All visible text."""
        return "\n".join(self.texts)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes.append({name: value or "" for name, value in attrs})
        self.is_data = tag == "script" and self.attributes[-1].get("type") == "application/json"
        if tag in SILENT:
            self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.inside and self.inside[-1] == tag:
            self.inside.pop()

    def handle_data(self, data: str) -> None:
        if self.is_data:
            self.charts.append(json.loads(data, parse_constant=refuse))
            self.is_data = False
        elif not self.inside and data.strip():
            self.texts.append(data.strip())


def refuse(name: str) -> None:
    """NaN and Infinity are no JSON, and stop `JSON.parse` in a browser."""
    raise ValueError(f"{name} is not JSON")
