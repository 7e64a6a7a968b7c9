"""A self-contained HTML report: headings, text, tables, pictures, videos, 3D views. No script from elsewhere."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from distill.files import write_text

_STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ddd; }
img, video { max-width: 100%; border: 1px solid #ddd; } figure { margin: 1rem 0; }
figcaption { color: #555; font-size: 0.9rem; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 0.9rem; }
td, th { border: 1px solid #ddd; padding: 0.25rem 0.6rem; text-align: right; }
td:first-child, th:first-child { text-align: left; }
canvas { width: 100%; border: 1px solid #ddd; touch-action: none; cursor: grab; }
.controls { display: flex; gap: 1rem; align-items: center; } .controls input[type=range] { flex: 1; }
pre { background: #f6f6f6; padding: 0.75rem; overflow-x: auto; }
"""


class Page:
    """Collects blocks in order; `write` makes the file."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._blocks: list[str] = [f"<h1>{html.escape(title)}</h1>"]

    def heading(self, text: str) -> None:
        """A section heading."""
        self._blocks.append(f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str) -> None:
        """A paragraph of plain text."""
        self._blocks.append(f"<p>{html.escape(text)}</p>")

    def code(self, text: str) -> None:
        """Preformatted text."""
        self._blocks.append(f"<pre>{html.escape(text)}</pre>")

    def picture(self, path: Path, caption: str, *, base: Path) -> None:
        """An image or video file below `base`, linked by its relative path."""
        source = html.escape(path.relative_to(base).as_posix())
        if path.suffix == ".mp4":
            tag = f'<video src="{source}" controls loop muted autoplay playsinline></video>'
        else:
            tag = f'<img src="{source}" alt="{html.escape(caption)}">'
        self._blocks.append(f"<figure>{tag}<figcaption>{html.escape(caption)}</figcaption></figure>")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table; floats are shown with three significant digits."""
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
        body = "".join("<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        self._blocks.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")

    def raw(self, block: str) -> None:
        """HTML made by this package (the 3D view)."""
        self._blocks.append(block)

    def write(self, path: Path) -> None:
        """Write the page atomically."""
        head = f'<meta charset="utf-8"><title>{html.escape(self.title)}</title><style>{_STYLE}</style>'
        body = "".join(self._blocks)
        write_text(path, f"<!doctype html><html lang=en><head>{head}</head><body>{body}</body></html>\n")


def _cell(value: object) -> str:
    if value is None:
        return "&ndash;"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return html.escape(str(value))
