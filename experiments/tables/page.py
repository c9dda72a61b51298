"""A table as Markdown, from its CSV files alone, and its place in RESULTS.md."""

from collections import defaultdict
from pathlib import Path

import pandas as pd
from scipy.stats import t as student

from experiments.tables.definition import Row, Table
from experiments.tables.gates import gates_markdown
from experiments.tables.intervals import ROUNDING
from experiments.tables.results import by_this_definition, path_of, read_results, rows_of
from experiments.tables.trainings import Settings, base_of
from util.config.load import ROOT
from util.errors import ConfigError
from util.files import replacing

FEW = 5  # with fewer folds no spread is given
MARKS = "<!-- table {name}: {edge} -->"
NAMED = "the row named"  # in a difference's cell, as rows are compared with different ones


def markdown(table: Table, settings: Settings | None = None) -> str:
    """Return the table as Markdown: the mean over folds and seeds of what has been run, its
    interval where there is one, and how much higher the weights scored on the folds that chose
    them.

    Runs of an earlier definition of their row, and of several stores, are marked as such.

    Args:
        table: to show.
        settings: their overrides belong to today's definition of the rows.
    """
    settings = settings or Settings("")
    results, intervals = read_results(table), read_intervals(table)
    stale = 0
    stores: dict[int, set[str]] = defaultdict(set)  # by rate, as each has a fingerprint
    lines = [
        table.about.strip(),
        "",
        f"| row | runs | {table.score} | 95 % interval | difference to {reference(table)} | "
        "selection fold minus test fold |",
        "|---" * 6 + "|",
    ]
    for row in table.rows:
        for method in table.methods or [""]:
            runs = rows_of(results, row.name, method)
            if not len(runs):
                continue
            old = int((~by_this_definition(runs, row, settings)).sum())
            stale += old
            stores[base_of(row, settings).dataset.fs] |= set(runs["store"])
            mean = runs[table.score].astype(float).mean()
            interval = intervals.get((row.name, method))
            if interval and abs(float(interval.get("value", mean)) - mean) > ROUNDING:
                interval = None  # of other runs than these
            cells = (
                f"{row.name} {method}".strip() + " (stale)" * (old > 0),
                f"{len(runs)}",
                f"{mean:.3f}",
                *interval_cells(table, row, interval),
                optimism(runs, table.score),
            )
            lines.append(f"| {' | '.join(cells)} |")
    if stale:
        lines += ["", f"Stale: {stale} runs are of an earlier definition of their row."]
    several = max(map(len, stores.values()), default=0)
    if several > 1:
        lines += ["", f"Runs of {several} different stores are in this table."]
    if table.runs == table.name:
        lines += gates_markdown(table)
    return "\n".join(lines)


def reference(table: Table) -> str:
    """Return what the table's differences are to, in words."""
    if table.methods:
        return table.methods[0]
    rows = {row.against for row in table.rows}
    return rows.pop() if len(rows) == 1 else NAMED


def read_intervals(table: Table) -> dict[tuple[str, str], dict]:
    """Read the rows of results/<table>.intervals.csv, by row and method."""
    path = path_of(table.name, "intervals.csv")
    if not path.is_file():
        return {}
    rows = pd.read_csv(path, keep_default_na=False).to_dict("records")
    return {(row["row"], row["method"]): row for row in rows}


def interval_cells(table: Table, row: Row, interval: dict | None) -> tuple[str, str]:
    """Return the cells of a row's interval and difference, empty without any."""
    if interval is None:
        return "", ""
    difference = interval["difference"]
    if difference and reference(table) == NAMED:
        difference = f"{row.against}: {difference}"
    return f"{float(interval['low']):.3f} to {float(interval['high']):.3f}", difference


def optimism(runs: pd.DataFrame, name: str) -> str:
    """Return the mean of selection minus test, with its 95 % interval where there are enough
    folds.

    The interval is Student's t over folds, each the mean of its seeds, which share their records.
    """
    if f"selection_{name}" not in runs or runs[f"selection_{name}"].isna().any():
        return ""
    gap = runs[f"selection_{name}"].astype(float) - runs[name].astype(float)
    gaps = gap.groupby(runs["fold"]).mean().to_numpy()
    if len(gaps) < FEW:
        return f"{gaps.mean():+.3f}"
    reach = student.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / len(gaps) ** 0.5
    return f"{gaps.mean():+.3f} ({gaps.mean() - reach:+.3f} to {gaps.mean() + reach:+.3f})"


def write_markdown(table: Table, page: Path = ROOT / "RESULTS.md") -> None:
    """Put the table between its two marks in RESULTS.md.

    Raises:
        ConfigError: the marks are missing.
    """
    begin, end = (MARKS.format(name=table.name, edge=edge) for edge in ("begin", "end"))
    text = page.read_text(encoding="utf-8")
    if begin not in text or end not in text:
        raise ConfigError(
            f"{page} lacks the lines {begin} and {end}, between which the table goes; write them"
        )
    head, rest = text.split(begin, 1)
    with replacing(page) as file:
        file.write(f"{head}{begin}\n{markdown(table)}\n{end}{rest.split(end, 1)[1]}".encode())
