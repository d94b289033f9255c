"""The parts a report is made of. Each renders itself to HTML, those that make sense there to a terminal as well.

The template of a part bears its name (`templates/table.html`) and sees it as `part`. Everything that stands in a part
is plain text: templates escape it, so that a class called `<b>` is shown as one.
"""

from __future__ import annotations

import html
from abc import ABC
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lilliput.report.amounts import MISSING

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup
    from rich.table import Table as RichTable
    from rich.text import Text as RichText

FOLDER = Path(__file__).parent / "templates"
TONES = {"good": "green", "bad": "red", "": ""}


@cache
def templates() -> Environment:
    """The templates of this package; a name that a template does not know is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True)


class Part(ABC):
    """Something a report shows."""

    template: ClassVar[str]

    @property
    def drawn(self) -> bool:
        """Whether a chart is in it."""
        return False

    def html(self) -> Markup:
        """This part as HTML, escaped."""
        from markupsafe import Markup

        return Markup(templates().get_template(f"{self.template}.html").render(part=self))


@dataclass(frozen=True)
class Prose(Part):
    """A paragraph."""

    template: ClassVar[str] = "prose"
    text: str

    def __rich__(self) -> RichText:
        from rich.text import Text

        return Text(self.text)


@dataclass(frozen=True)
class Cell:
    """What stands in a table: a text, what it is sorted by (None comes last), a second line, good or bad news."""

    text: str
    key: float | str | None = None
    note: str = ""
    tone: str = ""

    @staticmethod
    def of(value: str | None) -> Cell:
        """A text that is sorted by itself."""
        return Cell(MISSING if value is None else value, value)


@dataclass(frozen=True)
class Column:
    """The head of a column; numbers stand right and are sorted as numbers."""

    title: str
    numeric: bool = False


@dataclass(frozen=True)
class Table(Part):
    """Rows of cells. A click on a column's head sorts by it, unless the order is the message."""

    template: ClassVar[str] = "table"
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""
    sortable: bool = True
    marked: frozenset[int] = frozenset()

    def __rich__(self) -> RichTable:
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, caption=Text(self.caption), caption_justify="left")
        for column in self.columns:
            table.add_column(Text(column.title), justify="right" if column.numeric else "left")
        for row in self.rows:
            table.add_row(*(Text(f"{cell.text} {cell.note}".rstrip(), style=TONES[cell.tone]) for cell in row))
        return table


@dataclass(frozen=True)
class Choice:
    """One set of data a chart can show: plain JSON values in the form `page.js` knows under the chart's kind."""

    title: str
    data: dict[str, Any]


@dataclass(frozen=True)
class Chart(Part):
    """A chart drawn by Plotly in the reader's colours; buttons choose between several sets of data.

    `legend` pairs a role (a colour of `page.css`) with its meaning; `where` says where its numbers stand in a table.
    """

    template: ClassVar[str] = "chart"
    kind: str
    title: str
    choices: tuple[Choice, ...]
    legend: tuple[tuple[str, str], ...] = ()
    where: str = ""

    @property
    def drawn(self) -> bool:
        return True

    @property
    def data(self) -> list[dict[str, Any]]:
        """What `page.js` draws, one entry a choice."""
        return [choice.data for choice in self.choices]


@dataclass(frozen=True)
class Mark:
    """A path in a panel, 200 wide and 80 high, in the look of a role of `page.css`; `text` is shown at the pointer."""

    role: str
    path: str
    text: str = ""


@dataclass(frozen=True)
class Panel:
    """One small picture: what it shows in words, its marks, and what stands at the ends of its axes."""

    title: str
    note: str
    marks: tuple[Mark, ...]
    across: tuple[str, ...] = ()
    up: tuple[str, ...] = ()


@dataclass(frozen=True)
class Panels(Part):
    """Small pictures of one kind side by side, drawn without a script, so that they print as they stand."""

    template: ClassVar[str] = "panels"
    title: str
    panels: tuple[Panel, ...]
    legend: tuple[tuple[str, str], ...] = ()
    caption: str = ""


@dataclass(frozen=True)
class Band:
    """A bar cut into shares of a whole, each a role's number, its share and its words."""

    title: str
    total: str
    shares: tuple[tuple[int, float, str], ...]


@dataclass(frozen=True)
class Bands(Part):
    """What a whole is made of, before and after: one bar each. `legend` names the roles by number."""

    template: ClassVar[str] = "bands"
    title: str
    bands: tuple[Band, ...]
    legend: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Listing(Part):
    """Lines of plain text; `code` sets them as they are, one below the other."""

    template: ClassVar[str] = "listing"
    lines: tuple[str, ...]
    code: bool = False


@dataclass(frozen=True)
class Code(Part):
    """Text as it stands in a file."""

    template: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True)
class Folded(Part):
    """A part that is shown on request."""

    template: ClassVar[str] = "folded"
    title: str
    part: Part


@dataclass(frozen=True)
class Tile:
    """One figure of the top of the page; `share` is what is left of the original, for a bar."""

    title: str
    value: str
    note: str
    share: float | None = None


@dataclass(frozen=True)
class Tiles(Part):
    """The figures at the top of the page."""

    template: ClassVar[str] = "tiles"
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class Beside(Part):
    """Parts next to each other where there is room."""

    template: ClassVar[str] = "beside"
    parts: tuple[Part, ...]

    @property
    def drawn(self) -> bool:
        return any(part.drawn for part in self.parts)


@dataclass(frozen=True)
class Section(Part):
    """A chapter of the page with a name to link to."""

    template: ClassVar[str] = "section"
    anchor: str
    title: str
    parts: tuple[Part, ...]

    @property
    def drawn(self) -> bool:
        return any(part.drawn for part in self.parts)


def plain(text: str, longest: int = 80) -> str:
    """Text for a chart, where Plotly reads a little HTML: escaped, and shortened in the middle.

    >>> plain("a<b"), plain("layer3.0.conv1.depthwise", longest=15)
    ('a&lt;b', 'layer3.…pthwise')
    """
    if len(text) > longest:
        half = (longest - 1) // 2
        text = f"{text[:half]}…{text[-half:]}"
    return html.escape(text, quote=False)
