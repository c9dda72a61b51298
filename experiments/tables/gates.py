"""How the gates of a table's rows weigh the two branches: results/<table>.gates.csv."""

import pandas as pd

from experiments.tables.definition import Table
from experiments.tables.results import path_of
from experiments.tables.trainings import Settings, place
from util.files import write_frame

FEW = 5  # classes with fewer records are left out


def write_gates(table: Table, settings: Settings) -> None:
    """Write the mean weight of the signal branch on the test folds, by row and class."""
    rows = []
    for row in table.rows:
        files = [
            place(table, row, seed, fold, settings) / f"fold{fold}" / "test_gate.csv"
            for seed in table.seeds
            for fold in row.folds
        ]
        gates = [pd.read_csv(file) for file in files if file.is_file()]
        if not gates:
            continue
        every = pd.concat(gates)
        every["weight"] = every["signal"] * every["records"]
        sums = every.groupby("class", sort=False)[["records", "weight"]].sum()
        for name, (records, weight) in sums.iterrows():
            signal = weight / records
            rows.append({"row": row.name, "class": name, "records": int(records), "signal": signal})
    if rows:
        path = path_of(table.runs, "gates.csv")
        write_frame(path, pd.DataFrame(rows), float_format="%.4g")


def gates_markdown(table: Table) -> list[str]:
    """Return the lines of a Markdown table of the gates; none where there is no gate."""
    path = path_of(table.runs, "gates.csv")
    if not path.is_file():
        return []
    lines = [
        "",
        "| gate | mean weight of the signal branch | by class, lowest and highest |",
        "|---|---|---|",
    ]
    for name, gates in pd.read_csv(path).groupby("row", sort=False):
        mean = gates[gates["class"] == "all"]["signal"].item()
        classes = gates[(gates["class"] != "all") & (gates["records"] >= FEW)]
        ends = classes.sort_values("signal").iloc[[0, -1]]
        words = ", ".join(f"{one['class']} {one['signal']:.2f}" for _, one in ends.iterrows())
        lines.append(f"| {name} | {mean:.3f} | {words} |")
    return lines
