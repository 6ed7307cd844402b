"""MkDocs hooks: notebooks are executed and rendered, the gallery is drawn, and the schema files are copied, at build time.

Nothing that is generated lies in the repository. ``DOCS_EXECUTE=0`` renders the notebooks without running them,
``DOCS_EXECUTE=NAME`` runs that one only.
"""

from __future__ import annotations

import html
import json
import os
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
PLOTLY = "application/vnd.plotly.v1+json"


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    from plotly.offline import get_plotlyjs

    _add(files, config, "assets/plotly.min.js", get_plotlyjs())
    _add(files, config, "gallery.md", gallery())
    for path in sorted((ROOT / "analysis").glob("*.ipynb")):
        wanted = os.environ.get("DOCS_EXECUTE", path.stem)
        _add(files, config, f"notebooks/{path.stem}.md", notebook(path, execute=wanted == path.stem))
    return files


def gallery() -> str:
    """Every figure function once, with the line that drew it."""
    sys.path.insert(0, str(ROOT / "analysis"))
    from gallery import figures

    parts = [
        "# Gallery",
        "Every figure of `scaling.plot`, drawn from simulated runs by `python analysis/gallery.py`. Functions take the nouns "
        "(curves, fits, comparisons) and return plotly figures.",
    ]
    for number, (title, code, figure) in enumerate(figures()):
        parts += [f"## {title}", f"```python\n{code}\n```", _figure(json.loads(figure.to_json()), f"gallery-{number}")]
    return "\n\n".join(parts) + "\n"


def notebook(path: Path, *, execute: bool) -> str:
    """A notebook as Markdown, its figures live."""
    import nbformat
    from nbclient import NotebookClient

    book: Any = nbformat.read(path, as_version=4)
    if execute:
        NotebookClient(book, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
    parts = []
    for number, cell in enumerate(book.cells):
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        shown: list[Any] = []
        for output in cell.get("outputs", []):  # a stream may arrive in pieces
            if shown and output.output_type == "stream" == shown[-1].output_type and output.name == shown[-1].name:
                shown[-1].text += output.text
            else:
                shown.append(output)
        parts += [_output(output, f"{path.stem}-{number}") for output in shown]
    parts.append(f"*This page is the notebook `analysis/{path.name}`, run when the documentation was built.*")
    return "\n\n".join(parts) + "\n"


def _output(output: Any, name: str) -> str:
    if output.output_type == "stream":
        return f"```text\n{output.text.rstrip()}\n```"
    data = output.get("data", {})
    if PLOTLY in data:
        return _figure(data[PLOTLY], name)
    if "text/html" in data:
        return f'<div class="output">\n{data["text/html"]}\n</div>'
    return f"```text\n{data.get('text/plain', '')}\n```"


def _figure(spec: Any, name: str) -> str:
    body = {"data": spec["data"], "layout": {k: v for k, v in spec["layout"].items() if k != "template"}}
    text = json.dumps(body).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    height = spec["layout"].get("height", 420)
    return (
        f'<div class="figure" id="{html.escape(name)}" style="height:{height}px"></div>\n'
        f'<script type="application/json" data-figure="{html.escape(name)}">{text}</script>'
    )


def _add(files: Files, config: Any, uri: str, content: str) -> None:
    files.append(File.generated(config, uri, content=content))
