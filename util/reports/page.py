"""A page of HTML that needs nothing else: text, tables and figures within one file."""

import base64
import io
from html import escape

import pandas as pd
from matplotlib.figure import Figure

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 1rem auto;
       padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .85rem }
th, td { padding: .15rem .6rem; border-bottom: 1px solid #ddd; text-align: right;
         white-space: nowrap }
th:first-child, td:first-child { text-align: left }
.facts td { text-align: left; white-space: normal; overflow-wrap: anywhere }
.facts td:first-child { white-space: nowrap; vertical-align: top }
.wide, figure { overflow-x: auto }
img, svg { max-width: 100%; height: auto }
@media screen and (max-width: 40rem) { svg, img { max-width: none } img { width: 50rem } }
figure { margin: 1rem 0 } figcaption, .note { color: #666; font-size: .85rem }
@media print { body { max-width: none } h2 { break-after: avoid } figure, tr { break-inside: avoid }
               .wide, figure { overflow: visible } table { font-size: .65rem } }
"""


class Page:
    """Sections of a page, from top to bottom.

    Args:
        title: of the page.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._parts = [f"<h1>{escape(title)}</h1>"]

    def section(self, title: str) -> None:
        """Begin a section."""
        self._parts.append(f"<h2>{escape(title)}</h2>")

    def text(self, sentence: str) -> None:
        """Add a paragraph."""
        self._parts.append(f'<p class="note">{escape(sentence)}</p>')

    def facts(self, facts: dict[str, object]) -> None:
        """Add a table of names and values; what is empty is left out."""
        rows = [
            f"<tr><td>{escape(name)}</td><td>{escape(str(value))}</td></tr>"
            for name, value in facts.items()
            if value not in ("", None)
        ]
        self._parts.append(f'<div class="wide"><table class="facts">{"".join(rows)}</table></div>')

    def table(self, table: pd.DataFrame, digits: int = 3) -> None:
        """Add a table, numbers with so many digits."""
        cells = table.to_html(
            index=False, border=0, na_rep="", float_format=lambda value: f"{value:.{digits}f}"
        )
        self._parts.append(f'<div class="wide">{cells}</div>')

    def figure(self, figure: Figure, caption: str = "", *, paper: bool = False) -> None:
        """Add a figure as SVG; ``paper``: as PNG, which is smaller for ECGs."""
        buffer = io.BytesIO()
        if paper:
            figure.savefig(buffer, format="png", dpi=80)
            self.picture(buffer.getvalue(), caption)
            return
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        text = buffer.getvalue().decode()
        self._image(text[text.index("<svg") :], caption)

    def picture(self, png: bytes, caption: str = "") -> None:
        """Add a picture that is PNG already."""
        data = base64.b64encode(png).decode()
        self._image(f'<img alt="{escape(caption)}" src="data:image/png;base64,{data}">', caption)

    def _image(self, image: str, caption: str) -> None:
        words = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        self._parts.append(f"<figure>{image}{words}</figure>")

    def html(self) -> str:
        """Return the page."""
        head = (
            '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f"<title>{escape(self.title)}</title><style>{STYLE}</style>"
        )
        body = "\n".join(self._parts)
        return f"<!doctype html><html lang=en><head>{head}</head><body>{body}</body></html>\n"
