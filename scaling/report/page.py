"""The HTML page: sections in, one self-contained file out. Everything that came from a run is escaped here.

No request leaves the machine and nothing from a run can execute: plotly.js is inlined once, figures are JSON, and the
page's own content security policy allows only the scripts written here, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

__all__ = ["Figure", "Note", "Pair", "Section", "Table", "Text", "render"]


@dataclass(frozen=True)
class Figure:
    """A plotly figure with the sentence below it."""

    figure: go.Figure
    caption: str


@dataclass(frozen=True)
class Table:
    """A table of ready text; the first column names the row.

    Attributes:
        frame: what is shown; empty where the numbers are in a figure and the table is a file only.
        caption: below it.
        name: of the files beside the page, without ending; none is written without it.
        raw: the numbers behind it, which the files hold.
    """

    frame: pd.DataFrame
    caption: str = ""
    name: str = ""
    raw: pd.DataFrame | None = None


@dataclass(frozen=True)
class Pair:
    """Figures side by side where there is room."""

    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Note:
    """A paragraph, or a list where it has several lines."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Text:
    """Lines as they are, indentation included."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """A part of the report: it leads with its sentence."""

    anchor: str
    title: str
    lead: str
    parts: tuple[Figure | Pair | Table | Note | Text, ...] = ()


def render(title: str, sections: Sequence[Section], *, footer: str = "") -> str:
    """The whole page as text."""
    from plotly.offline import get_plotlyjs

    library, script = get_plotlyjs(), _resource("page.js")
    figures: list[str] = []
    body = "\n".join(_section(s, figures) for s in sections)
    nav = " ".join(f'<a href="#{_esc(s.anchor)}">{_esc(s.title)}</a>' for s in sections)
    policy = (
        f"default-src 'none'; script-src {_hash(library)} {_hash(script)}; style-src 'unsafe-inline'; "
        "img-src data: blob:; font-src data:; connect-src 'none'; base-uri 'none'; form-action 'none'"
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{_esc(title)}</title>
<link rel="icon" href="data:,">
<style>
{_resource("style.css")}
</style>
</head>
<body>
<header><h1>{_esc(title)}</h1>
<nav>{nav} <button id="theme" type="button" title="light, dark or as the system">theme: auto</button></nav></header>
<main>
{body}
</main>
<footer>{_esc(footer)}</footer>
{"".join(figures)}
<script>{library}</script>
<script>{script}</script>
</body>
</html>
"""


def _section(section: Section, figures: list[str]) -> str:
    parts = "\n".join(_part(p, figures) for p in section.parts)
    return (
        f'<section id="{_esc(section.anchor)}">\n<h2>{_esc(section.title)}</h2>\n'
        f'<p class="lead">{_esc(section.lead)}</p>\n{parts}\n</section>'
    )


def _part(part: Figure | Pair | Table | Note | Text, figures: list[str]) -> str:
    if isinstance(part, Note):
        if len(part.lines) == 1:
            return f"<p>{_esc(part.lines[0])}</p>"
        return "<ul>" + "".join(f"<li>{_esc(line)}</li>" for line in part.lines) + "</ul>"
    if isinstance(part, Text):
        return "<pre>" + _esc("\n".join(part.lines)) + "</pre>"
    if isinstance(part, Table):
        return _table(part)
    if isinstance(part, Pair):
        return '<div class="pair">' + "\n".join(_part(figure, figures) for figure in part.figures) + "</div>"
    number = len(figures)
    figures.append(f'<script type="application/json" id="data-{number}">{_json(part.figure)}</script>\n')
    layout: Any = part.figure.layout
    height = layout.height or 420
    return (
        f'<figure><div class="plot" id="figure-{number}" role="img" aria-label="{_esc(part.caption)}" '
        f'style="height:{int(height)}px"></div>'
        f"<figcaption>{_esc(part.caption)}</figcaption></figure>"
    )


def _table(table: Table) -> str:
    frame = table.frame
    if frame.empty:
        return ""
    numeric = [i > 0 and _all_numbers(frame.iloc[:, i]) for i in range(frame.shape[1])]
    head = "".join(f'<th{_right(numeric[i])} scope="col">{_esc(c)}</th>' for i, c in enumerate(frame.columns))
    rows = "\n".join(
        "<tr>" + "".join(f"<td{_class(numeric[i], v)}>{_esc(v)}</td>" for i, v in enumerate(row)) + "</tr>"
        for row in frame.itertuples(index=False, name=None)
    )
    caption = f"<caption>{_esc(table.caption)}</caption>" if table.caption else ""
    return f'<div class="scroll"><table>{caption}<thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table></div>'


def _right(yes: bool) -> str:
    return ' class="n"' if yes else ""


def _class(is_number: bool, value: Any) -> str:
    return ' class="n"' if is_number else (' class="wide"' if len(str(value)) > 20 else "")


def _all_numbers(column: pd.Series) -> bool:
    return all(str(v)[:1] in "0123456789-−<–" for v in column)


def _json(figure: go.Figure) -> str:
    """The figure as JSON that cannot end its script element."""
    spec = json.loads(str(figure.to_json()))
    spec["layout"].pop("template", None)
    text = json.dumps(spec, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026").replace("\u2028", "\\u2028")


def _esc(value: Any) -> str:
    return html.escape(str(value), quote=True)


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _resource(name: str) -> str:
    return (resources.files("scaling.report") / name).read_text(encoding="utf-8")
