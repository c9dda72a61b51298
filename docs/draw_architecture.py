"""Draw the rooms of this project, one row above those that it imports from, as an SVG.

python docs/draw_architecture.py > docs/architecture.svg

Folders, their modules and the words for util's rooms are read from the tree; the rows stand here,
and tests/test_rooms.py holds the imports to them.
"""

import textwrap
from dataclasses import dataclass
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WIDTH, MARGIN, GAP, PADDING = 1000, 20, 10, 10  # pixels
LINE, LETTER = 16, 6.3  # height of a line, width of a letter of the smaller type
STYLE = """
text { font: 12px sans-serif; fill: #222 }
.name { font-size: 14px; font-weight: bold }
.modules { fill: #666 }
.script { fill: #eee; stroke: #999 }
.util { fill: #e3eefb; stroke: #6f9bd1 }
.models { fill: #e5f4e3; stroke: #6dae66 }
.ground { fill: #fbf3dc; stroke: #c9a94a }
"""


@dataclass
class Box:
    """A room: its name, what it is for, what it holds, its colour and its share of the row."""

    name: str
    words: str
    modules: list[str]
    colour: str
    share: float = 1

    def lines(self, width: float) -> list[tuple[str, str]]:
        """Return (class, text) of each line in a box of this width."""
        letters = int((width - 2 * PADDING) / LETTER)
        return [
            ("name", self.name),
            *(("words", line) for line in textwrap.wrap(self.words, letters)),
            *(("modules", line) for line in textwrap.wrap(", ".join(self.modules), letters)),
        ]


def modules(folder: str) -> list[str]:
    """Return the names of a folder's modules."""
    return sorted(path.stem for path in (ROOT / folder).glob("*.py") if path.stem[0] != "_")


def rooms(folder: str) -> list[str]:
    """Return the names of a folder's rooms."""
    return sorted(path.parent.name for path in (ROOT / folder).glob("*/__init__.py"))


def words_of_rooms() -> dict[str, str]:
    """Return what util/__init__.py says of each room, ``(here)`` for the ground."""
    lines = (ROOT / "util" / "__init__.py").read_text("utf-8").splitlines()
    table = (line.split(maxsplit=1) for line in lines if "  " in line.strip())
    return {name: words.strip() for name, words in table}


def rows() -> list[list[Box]]:
    """Return the boxes, from those that see all others down to those that see none."""
    words = words_of_rooms()

    def room(name: str, share: float = 1) -> Box:
        return Box(f"util/{name}", words[name], modules(f"util/{name}"), "util", share)

    return [
        [
            Box("main_pretrain.py", "every self-supervised job", [], "script", 0.8),
            Box("main_finetune.py", "every supervised job", [], "script", 0.8),
            Box("experiments/", "the published scripts; what trained weights do", [], "script"),
            Box(
                "data_preparation/",
                "recordings to shards to store",
                [f"{name}/" for name in rooms("data_preparation")],
                "script",
                1.4,
            ),
        ],
        [room("explain")],
        [room("handover"), room("reports")],
        [room("predicting")],
        [room("evaluation")],
        [room("jobs")],
        [room("training"), room("labels")],
        [
            room("data"),
            room("weights"),
            Box(
                "models/",
                "what is learned; util finds it by the name in a config",
                [" above ".join(f"{name}/" for name in ("methods", "encoder", "layers"))],
                "models",
            ),
        ],
        [room("contract"), room("formats", 2)],
        [room(name) for name in ("config", "signals", "processes", "scoring", "recordings")],
        [Box("util/", words["(here)"], modules("util"), "ground")],
    ]


def draw() -> str:
    """Return the SVG."""
    parts, y = [], MARGIN
    for row in rows():
        space = WIDTH - 2 * MARGIN - GAP * (len(row) - 1)
        widths = [space * box.share / sum(box.share for box in row) for box in row]
        texts = [box.lines(width) for box, width in zip(row, widths)]
        height = max(map(len, texts)) * LINE + 1.5 * PADDING
        x = float(MARGIN)
        for box, width, lines in zip(row, widths, texts):
            parts.append(
                f'<rect class="{box.colour}" x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" '
                f'height="{height:.0f}" rx="6"/>'
            )
            for i, (kind, text) in enumerate(lines, 1):
                place = f'x="{x + PADDING:.0f}" y="{y + i * LINE + 2:.0f}"'
                parts.append(f'<text class="{kind}" {place}>{escape(text)}</text>')
            x += width + GAP
        y += height + GAP
    y += MARGIN - GAP
    frame = f'viewBox="0 0 {WIDTH} {y:.0f}" width="{WIDTH}" height="{y:.0f}"'
    white = '<rect width="100%" height="100%" fill="#fff"/>'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {frame}>',
            "<title>The rooms of the project; each imports from rows below its own</title>",
            f"<style>{STYLE}</style>",
            white,
            *parts,
            "</svg>",
        ]
    )


if __name__ == "__main__":
    print(draw())
