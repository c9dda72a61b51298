"""Leave one hospital out: train on all databases of a store but one and test on that one, for
each in turn.

    python experiments/leave_one_hospital_out.py --config_path configs/downstream/signal.yaml \\
        --exp_name hospitals
    python experiments/leave_one_hospital_out.py --config_path configs/downstream/st_mem.yaml \\
        --overlay scratch --exp_name hospitals --resume auto
    python -m util.processes.launcher experiments/leave_one_hospital_out.py --gpus 0,1 \\
        --config_path configs/downstream/signal.yaml --output_dir output --exp_name hospitals

Any downstream config; dataset.protocol: leave_one_database says what is trained on, selected on
and scored.  Each database has its run in <output_dir>/<exp_name>/<database>.  The matrix,
hospitals.csv beside these, has a row a database that was left out: its records, the classes
scored, each score with its 95 % interval, and the same score on the selection fold of the
databases that were trained on, which selected the weights and so flatters them a little.
"""

import math
import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from main_finetune import check_start, finetune
from util.config.command_line import argument_parser, config_from
from util.console import print_once
from util.data.strata import label_strata
from util.errors import ConfigError, ECGError
from util.evaluation.report import FoldFiles
from util.files import write_frame
from util.processes import collectives
from util.processes.program import run_main
from util.training import checkpoint
from util.training.job import LabelledRecords
from util.training.setup import open_store, usable_rows

MATRIX = "hospitals.csv"
RESAMPLES = 1000  # for the intervals, where the config asks for none


def config_without(config: dict, database: str, fold: int) -> dict:
    """The config of the run that leaves one database out and selects on a fold of the others."""
    data = {
        **config["dataset"],
        "protocol": "leave_one_database",
        "test_database": database,
        "fold": fold,
    }
    return {
        **config,
        "dataset": data,
        "exp_name": str(Path(config["exp_name"]) / database),
        "test": {**config["test"], "bootstrap": config["test"]["bootstrap"] or RESAMPLES},
    }


def scored_classes(records: LabelledRecords, parts: dict) -> list[str]:
    """Classes that training knows and that the test records have, but not all of them."""
    if records.task == "regression":
        return list(records.classes)
    strata, labels = label_strata(records.labels, records.task), records.labels
    absent = labels == 0 if records.task == "multilabel" else ~strata
    known = (
        strata[parts["train"]].any(axis=0)
        & strata[parts["test"]].any(axis=0)
        & absent[parts["test"]].any(axis=0)
    )
    return [name for name, yes in zip(records.classes, known) if yes]


def leave_out(config: dict, min_records: int) -> dict:
    """Run what ``config_without`` made; its row of the matrix, with a remark in place of
    scores where it cannot be.
    """
    database, fold = config["dataset"]["test_database"], config["dataset"]["fold"]
    row = {"test_database": database, "remark": ""}
    try:
        records = LabelledRecords(config)
        parts = records.parts(fold)
    except ConfigError as error:
        return row | {"remark": f"skipped: {error}"}
    classes = scored_classes(records, parts)
    row |= {
        "records": len(parts["test"]),
        "training_records": len(parts["train"]),
        "classes": len(classes),
        "class_names": " ".join(classes),
    }
    if len(parts["test"]) < min_records:
        return row | {"remark": f"skipped: fewer than {min_records} usable records (--min_records)"}
    if not classes:
        return row | {"remark": "skipped: no class that it and the others annotate"}
    folder = finetune(config)
    found = pd.read_csv(folder / "test_metrics.csv").iloc[0]
    chosen = checkpoint.load(FoldFiles(folder).best(config["test"]["target_metric"]))["metrics"]
    for name in records.scores:
        row |= {key: found[key] for key in (name, f"{name}_low", f"{name}_high") if key in found}
        row[f"selection_{name}"] = round(chosen[name], 4)
    return row | {"selection_records": len(parts["valid"])}


def main(argv=None):
    """Command line; see the module's docstring."""
    parser = argument_parser(__doc__, "configs/downstream/signal.yaml", "finetune")
    parser.add_argument(
        "--fold",
        type=int,
        default=0,
        metavar="K",
        help="the fold of the other databases that selects; the other nine train (default 0)",
    )
    parser.add_argument(
        "--min_records",
        type=int,
        default=50,
        metavar="N",
        help="skip a database with fewer usable records (default 50)",
    )
    arguments = parser.parse_args(argv)
    config = config_from(arguments)
    check_start(config)
    store = open_store(config)
    databases = sorted(set(store.records["database"].iloc[usable_rows(store, config)]))
    collectives.start(config["device"])
    place, rows = Path(config["output_dir"]) / config["exp_name"] / MATRIX, []
    for database in databases:
        print_once(f"==== {database} is left out ====")
        rows.append(
            leave_out(config_without(config, database, arguments.fold), arguments.min_records)
        )
        if rows[-1]["remark"]:
            print_once(f"{database}: {rows[-1]['remark']}")
        collectives.on_main(lambda: write_frame(place, matrix(rows)))
    print_once(for_people(rows))
    print_once(
        "in brackets the 95 % interval, after the slash the selection fold of the others; "
        "matrix: "
        f"{place}"
    )
    if all(row["remark"] for row in rows):
        raise ECGError(f"no database of {store.path} could be left out; the reasons stand above")


def matrix(rows: list[dict]) -> pd.DataFrame:
    """Rows of ``leave_out`` as a table, remarks last."""
    table = pd.DataFrame(rows)
    counts = [name for name in table if name == "classes" or name.endswith("records")]
    table[counts] = table[counts].astype("Int64")
    return table[
        [name for name in table if name not in ("class_names", "remark")]
        + [name for name in ("class_names", "remark") if name in table]
    ]


def for_people(rows: list[dict]) -> str:
    """The matrix with a cell a score: where it was left out [interval] / on the selection fold."""
    lines = []
    for row in rows:
        cells = {
            "left out": row["test_database"],
            "records": row.get("records", ""),
            "classes": row.get("classes", ""),
        }
        for name in (key.removesuffix("_low") for key in row if key.endswith("_low")):
            if not math.isnan(row[name]):
                cells[name] = (
                    f"{row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}] / "
                    f"{row[f'selection_{name}']:.3f}"
                )
        lines.append(cells | {"": row["remark"]})
    return pd.DataFrame(lines).to_string(index=False, na_rep="")


if __name__ == "__main__":
    sys.exit(run_main(main))
