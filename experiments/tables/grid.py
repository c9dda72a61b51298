"""A table of words as Markdown and LaTeX."""

Grid = list[list[str]]  # rows of cells, the first the header
ESCAPED = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#"}


def as_markdown(grid: Grid) -> str:
    """Return a table in Markdown."""
    lines = [f"| {' | '.join(row)} |" for row in grid]
    return "\n".join([lines[0], "|---" * len(grid[0]) + "|", *lines[1:]])


def as_latex(grid: Grid) -> str:
    """Return a tabular in LaTeX."""
    rows = [" & ".join(map(_escaped, row)) + r" \\" for row in grid]
    body = [rows[0], r"\hline", *rows[1:]]
    head, end = rf"\begin{{tabular}}{{{'l' * len(grid[0])}}}", r"\end{tabular}"
    return "\n".join([head, *body, end])


def _escaped(text: str) -> str:
    return "".join(ESCAPED.get(letter, letter) for letter in text)
