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

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from util.config.command_line import argument_parser, config_from
from util.config.keys import FinetuneConfig
from util.processes.program import run_main

parser = argument_parser(__doc__, "configs/downstream/signal.yaml", FinetuneConfig)
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
if __name__ == "__main__":
    parser.parse_args()  # --help and a wrong flag end here, before anything slow is imported

import math
from dataclasses import replace

import pandas as pd

from main_finetune import finetune
from util.console import note, quietly
from util.data.strata import label_strata
from util.errors import ConfigError, ECGError
from util.evaluation.report import rounded
from util.files import write_frame
from util.jobs.job import Fold, LabelledJob, check_start
from util.jobs.setup import open_store, usable_rows
from util.processes import collectives

MATRIX = "hospitals.csv"
RESAMPLES = 1000  # for the intervals, where the config asks for none


def config_without(config: FinetuneConfig, database: str, fold: int) -> FinetuneConfig:
    """Return the config of the run that leaves one database out and selects on a fold of the
    others.
    """
    data = replace(config.dataset, protocol="leave_one_database", test_database=database, fold=fold)
    return replace(
        config,
        dataset=data,
        exp_name=str(Path(config.exp_name) / database),
        test=replace(config.test, bootstrap=config.test.bootstrap or RESAMPLES),
    )


def scored_classes(fold: Fold) -> list[str]:
    """Return the classes that training knows and that the test records have, but not all of
    them.
    """
    job, parts = fold.job, fold.parts
    if job.task == "regression":
        return list(job.classes)
    strata, labels = label_strata(fold.labels, job.task), fold.labels
    absent = labels == 0 if job.task == "multilabel" else ~strata
    known = (
        strata[parts["train"]].any(axis=0)
        & strata[parts["test"]].any(axis=0)
        & absent[parts["test"]].any(axis=0)
    )
    return [name for name, yes in zip(job.classes, known) if yes]


def leave_out(config: FinetuneConfig, min_records: int) -> dict:
    """Run what ``config_without`` made; return its row of the matrix, with a remark in place of
    scores where it cannot be.
    """
    row: dict = {"test_database": config.dataset.test_database, "remark": ""}
    try:
        with quietly():  # the job itself will print its notes
            job = LabelledJob(config)
            fold = job.fold(job.folds[0])
    except ConfigError as error:
        return row | {"remark": f"skipped: {error}"}
    classes, tested = scored_classes(fold), len(fold.parts["test"])
    row |= {
        "records": tested,
        "training_records": len(fold.parts["train"]),
        "classes": len(classes),
        "class_names": " ".join(classes),
    }
    if tested < min_records:
        return row | {"remark": f"skipped: fewer than {min_records} usable records (--min_records)"}
    if not classes:
        return row | {"remark": "skipped: no class that it and the others annotate"}
    (result,) = finetune(config)
    scores, selection = rounded(result.scores), rounded(result.selection)
    for name in job.scores:
        bounds = (f"{name}_low", f"{name}_high")
        row |= {name: scores[name]}
        row |= {key: result.intervals[key] for key in bounds if key in result.intervals}
        row[f"selection_{name}"] = selection[name]
    return row | {"selection_records": len(fold.parts["valid"])}


def main(argv: list[str] | None = None) -> None:
    """Run the command line; see the module's docstring."""
    arguments = parser.parse_args(argv)
    config = config_from(arguments, FinetuneConfig)
    check_start(config)
    store = open_store(config)
    databases = sorted(set(store.records["database"].iloc[usable_rows(store, config)]))
    collectives.start(config.device, captured=config.train.cuda_graph is True)
    place, rows = Path(config.output_dir) / config.exp_name / MATRIX, []
    for database in databases:
        note(f"==== {database} is left out ====")
        rows.append(
            leave_out(config_without(config, database, arguments.fold), arguments.min_records)
        )
        if rows[-1]["remark"]:
            note(f"{database}: {rows[-1]['remark']}")
        collectives.on_main(lambda: write_frame(place, matrix(rows)))
    note(for_people(rows))
    note(
        "in brackets the 95 % interval, after the slash the selection fold of the others; "
        "matrix: "
        f"{place}"
    )
    if all(row["remark"] for row in rows):
        raise ECGError(f"no database of {store.path} could be left out, for the reasons above")


def matrix(rows: list[dict]) -> pd.DataFrame:
    """Return rows of ``leave_out`` as a table, remarks last."""
    table = pd.DataFrame(rows)
    counts = [name for name in table if name == "classes" or name.endswith("records")]
    table[counts] = table[counts].astype("Int64")
    return table[
        [name for name in table if name not in ("class_names", "remark")]
        + [name for name in ("class_names", "remark") if name in table]
    ]


def for_people(rows: list[dict]) -> str:
    """Return the matrix for people, a cell a score: where left out [interval] / on the selection
    fold.
    """
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
