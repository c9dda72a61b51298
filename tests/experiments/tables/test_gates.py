"""Mean weights of gates."""

import pandas as pd

from experiments.tables.definition import read_table
from experiments.tables.gates import write_gates
from experiments.tables.page import markdown
from experiments.tables.trainings import Settings, place
from tests.support.small_store import store
from tests.support.tiny_tables import write


def test_gates_are_weighed_by_records(tables):
    write(tables)
    table = read_table("tiny")
    settings = Settings(str(tables), overrides=[f"dataset.store={store()}"])
    for fold, (weight, af) in {3: (0.2, 0.4), 9: (0.6, 0.8)}.items():
        folder = place(table, table.rows[1], 0, fold, settings) / f"fold{fold}"
        folder.mkdir(parents=True)
        gates = pd.DataFrame(
            {
                "class": ["all", "AF", "rare"],
                "records": [10 * fold, fold, 1],
                "signal": [weight, af, 0.9],
            }
        )
        gates.to_csv(folder / "test_gate.csv", index=False)
    write_gates(table, settings)
    line = markdown(table).splitlines()[-1]
    assert (
        line == "| published start | 0.500 | AF 0.70, AF 0.70 |"
    )  # (3 * 0.2 + 9 * 0.6) / 12; rare has 2 records
