"""The page of one recording for people: who, the ECG on paper, what the model says of it."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from util.evaluation.figures import INK, MARGIN, new_figure, plot_ecg
from util.predicting.recordings import Entry

WIDTH = 269  # mm at the least, as wide as ten seconds
LINE = 4.4  # mm, of the page's words
BAR = 5.2  # mm, a bar with the room around it
MOST = 10  # bars, unless more classes are output
FEWEST_OTHERS = 3  # bars of classes that are not
LETTERS = 1.75  # mm, an average letter of the page's words
LETTERS_BOLD = 2.0
WIDE_NAME = 45  # letters of a record in large type
LONGEST_NAME, SHORTEST_NAME = 50, 10  # letters of a class beside its bar
NUMBERS = 45  # mm beside the bars
LONGEST = 120  # mm, a bar of probability 1
AXIS = 13  # mm under the bars
NAMED, REST, ALARM, GREY = "#1f4e8c", "#b9c6d8", "#b00020", "#555555"
RESEARCH = "RESEARCH USE ONLY: not a diagnosis"


@dataclass(frozen=True)
class Bar:
    """One class: its name, probability, threshold, whether it is output, and whether that
    contradicts another output.
    """

    name: str
    probability: float
    threshold: float | None
    is_output: bool
    is_odd: bool


@dataclass(frozen=True)
class Words:
    """What the page says besides.

    Attributes:
        diagnoses: the classes that are output.
        contradictions: which of them exclude each other.
        decided: by which thresholds.
        model: and its weights.
        date: of the prediction.
        is_regression: whether the bars are numbers in their own units.
        unsure: outputs whose thresholds rest on too few records.
        certainty: sentences on calibration and label sets.
    """

    diagnoses: list[str]
    contradictions: list[str]
    decided: str
    model: str
    date: str
    is_regression: bool
    unsure: list[str] = field(default_factory=list)
    certainty: list[str] = field(default_factory=list)


def draw_page(entry: Entry, words: Words, bars: Sequence[Bar]) -> Figure:
    """Draw the page of a recording, in true size: 25 mm/s on ECG paper."""
    figure = new_figure(WIDTH, WIDTH)
    shown = entry.shown
    paper = plot_ecg(
        shown.signal,
        shown.fs,
        lead_names=shown.leads,
        axes=figure.add_axes((0, 0, 1, 1)),
    )
    paper_width, paper_height = paper.get_xlim()[1], paper.get_ylim()[1]
    width = max(WIDTH, paper_width)
    head, foot = _head(entry, words, width), _foot(entry, words, width)
    chosen = _chosen(bars)
    above = LINE * (len(head) + 2.2)
    words_below = LINE * (len(foot) + 1)
    below = words_below + AXIS + BAR * len(chosen) + LINE
    height = above + paper_height + below

    def place(
        left: float, bottom: float, wide: float, high: float
    ) -> tuple[float, float, float, float]:
        return left / width, bottom / height, wide / width, high / height

    figure.set_size_inches(width / 25.4, height / 25.4)
    paper.set_position(place(0, below, paper_width, paper_height))
    page = figure.add_axes((0, 0, 1, 1))
    page.set(xlim=(0, width), ylim=(0, height))
    page.set_axis_off()
    page.patch.set_alpha(0)
    _write_head(page, entry, words, head)
    _write_lines(page, foot, MARGIN, words_below - LINE)
    chosen = [replace(bar, name=_shortened(bar.name)) for bar in chosen]
    names = MARGIN + LETTERS_BOLD * max(SHORTEST_NAME, *(len(bar.name) for bar in chosen))
    wide = min(width - names - NUMBERS, LONGEST)
    bars_place = place(names, words_below + AXIS, wide, BAR * len(chosen))
    axes = figure.add_axes(bars_place)
    (_draw_numbers if words.is_regression else _draw_bars)(axes, chosen)
    return figure


def _chosen(bars: Sequence[Bar]) -> list[Bar]:
    """The bars of a page: all that are output, and the likeliest others."""
    falling = sorted(bars, key=lambda bar: -bar.probability)
    others = [bar for bar in falling if not bar.is_output]
    count = max(MOST - (len(bars) - len(others)), FEWEST_OTHERS)
    shown = {id(bar) for bar in others[:count]}
    return [bar for bar in falling if bar.is_output or id(bar) in shown]


# ============ words ============
Line = tuple[str, str]  # text, colour


def _head(entry: Entry, words: Words, width: float) -> list[Line]:
    """Lines under the recording's name."""
    letters = int((width - 2 * MARGIN) / LETTERS)
    lines = [(_about(entry), INK)]
    if not words.is_regression:
        marked = [
            f"{n} (threshold of few records)" * (n in words.unsure) or n for n in words.diagnoses
        ]
        found = ", ".join(marked) or "no class reaches its threshold"
        lines += [(line, NAMED) for line in _wrapped(f"Model says: {found}", letters)]
    if words.contradictions:
        pairs = f"! Contradictory: {'; '.join(words.contradictions)}"
        lines += [(line, ALARM) for line in _wrapped(pairs, letters)]
    return lines


def _about(entry: Entry) -> str:
    shown = entry.shown
    age = "age unknown" if math.isnan(shown.age) else f"{shown.age:g} years"
    sex = shown.sex if shown.sex in ("Male", "Female") else "sex unknown"
    beats = "heart rate not clear" if entry.beats is None else f"heart rate {entry.beats:.0f}/min"
    length = f"{entry.seconds:g} s at {shown.fs:g} Hz"
    drawn = len(shown.signal) / shown.fs
    if drawn < entry.seconds:
        length += f", the first {drawn:g} s drawn"
    return "   ·   ".join((age, sex.lower(), beats, length))


def _foot(entry: Entry, words: Words, width: float) -> list[Line]:
    """Lines beside the bars."""
    letters = int((width - 2 * MARGIN) / LETTERS)
    decided = "" if words.is_regression else f"   ·   decided {words.decided}"
    said = f"Model: {words.model}   ·   {words.date}{decided}"
    lines = [(line, INK) for line in _wrapped(said, letters)]
    for sentence in words.certainty:
        lines += [(line, INK) for line in _wrapped(sentence, letters)]
    if words.unsure:
        few = f"Thresholds that very few records chose, which say little: {', '.join(words.unsure)}"
        lines += [(line, ALARM) for line in _wrapped(few, letters)]
    for remark in entry.remarks:
        lines += [(line, GREY) for line in _wrapped(f"Remark: {remark}", letters)]
    return lines


def _wrapped(text: str, letters: int) -> list[str]:
    return textwrap.wrap(text, letters, subsequent_indent="    ", break_long_words=True)


def _write_head(page: Axes, entry: Entry, words: Words, head: list[Line]) -> None:
    width, top = page.get_xlim()[1], page.get_ylim()[1]
    size = 13 * min(1, WIDE_NAME / len(entry.record))
    page.text(
        MARGIN, top - LINE, entry.record, fontsize=size, weight="bold", va="center", color=INK
    )
    page.text(
        width - MARGIN,
        top - LINE,
        RESEARCH,
        fontsize=9,
        weight="bold",
        color=ALARM,
        ha="right",
        va="center",
    )
    _write_lines(page, head, MARGIN, top - 2.4 * LINE)


def _write_lines(page: Axes, lines: Sequence[Line], x: float, top: float) -> None:
    for number, (text, colour) in enumerate(lines):
        page.text(
            x,
            top - number * LINE,
            text,
            fontsize=8.5,
            color=colour,
            va="center",
            parse_math=False,
        )


# ============ bars ============
def _draw_bars(axes: Axes, bars: Sequence[Bar]) -> None:
    """Draw each probability, and its threshold as an upright line."""
    rows = range(len(bars))
    colours = [ALARM if bar.is_odd else NAMED if bar.is_output else REST for bar in bars]
    axes.barh(rows, [bar.probability for bar in bars], height=0.62, color=colours)
    for row, bar in zip(rows, bars):
        _name(axes, row, bar)
        if bar.threshold is not None and bar.threshold <= 1:
            axes.plot([bar.threshold] * 2, [row - 0.42, row + 0.42], color=INK, linewidth=1.6)
        limit = "" if bar.threshold is None else f"  (from {_short(bar.threshold)})"
        axes.text(1.02, row, f"{_short(bar.probability)}{limit}", fontsize=8, va="center")
    axes.set(xlim=(0, 1), ylim=(len(bars) - 0.4, -0.6), yticks=[])
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".5", ".75", "1"], fontsize=7)
    key = "probability"
    if any(bar.threshold is not None for bar in bars):
        key += "; upright line: the class's threshold"
    if any(bar.is_odd for bar in bars):
        key += "; red: contradictory"
    axes.set_xlabel(key, fontsize=7.5)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _short(number: float) -> str:
    return f"{number:.2f}" if number >= 0.1 else f"{number:.2g}"


def _draw_numbers(axes: Axes, bars: Sequence[Bar]) -> None:
    """Write the numbers of a regression."""
    for row, bar in enumerate(bars):
        _name(axes, row, bar)
        axes.text(0.02, row, f"{bar.probability:.4g}", fontsize=9, va="center")
    axes.set(xlim=(0, 1), ylim=(len(bars) - 0.4, -0.6))
    axes.set_axis_off()


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def _name(axes: Axes, row: int, bar: Bar) -> None:
    axes.text(
        -0.015,
        row,
        bar.name,
        fontsize=8.5,
        ha="right",
        va="center",
        weight="bold" if bar.is_output else "normal",
        color=ALARM if bar.is_odd else INK,
        parse_math=False,
    )
