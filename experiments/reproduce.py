"""Re-run a table of RESULTS.md: every training it needs, one row of results/<table>.csv each, and the table of these.

    python experiments/reproduce.py fusion --set dataset.store=STORE --budget 60
    python experiments/reproduce.py fusion --only gated --fold 0                    one cell
    python experiments/reproduce.py fusion --markdown                               RESULTS.md from the CSV, no training

A table is configs/tables/<table>.yaml: what all its rows share, and its rows; docs/reproduce.md explains the keys.
What is in the CSV is not run again; a training that was stopped goes on where it stood.  Trainings, with their
predictions, are kept in --output_dir/<table>/<row>/seed<s>/fold<k>; while those of all folds are there, the intervals
of the table are a bootstrap over patients (util/intervals.py), written to results/<table>.intervals.csv.
"""
import argparse
import sys
import time
from pathlib import Path

import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments import threshold_search
from main_finetune import finetune
from main_pretrain import pretrain
from util.challenge import ABBREVIATIONS
from util.config import ROOT, find_overlay, load_config, read_yaml
from util.errors import ConfigError
from util.files import replacing
from util.intervals import Predicted, estimate
from util.program import run_main
from util.scores import parse_scores
from util.setup import open_store, revision
from util.splits import known_patients, parse_folds
from util.store import FOLDS, write_frame
from util.subsets import patient_numbers
from util.thresholds import load_thresholds

TABLES, RESULTS = ROOT / "configs" / "tables", ROOT / "results"
KEYS = {"about": "", "config": None, "overlay": [], "set": [], "folds": [0], "seeds": [0], "score": "AUROC",
        "pretrain": None, "methods": [], "rows": []}     # of a table, with their defaults
ROW_KEYS = ("name", "config", "overlay", "set", "model", "pretrain")
MARKS = "<!-- table {name}: {edge} -->"


# ============ tables ============
def read_table(name: str) -> dict:
    """The table of configs/tables/<name>.yaml, its rows complete; a ConfigError names what is wrong in it."""
    path = TABLES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in TABLES.glob("*.yaml")))
        raise ConfigError(f"there is no table {name}; known: {known}")
    table = read_yaml(path.read_text(encoding="utf-8"))
    unknown = [key for key in table if key not in KEYS] + [key for row in table.get("rows", ()) for key in row
                                                           if key not in ROW_KEYS]
    if unknown or not table.get("rows"):
        raise ConfigError(f"{path}: unknown key {unknown[0]!r}" if unknown else f"{path} has no rows")
    table = {"name": name, **KEYS, **table}
    table["rows"] = [{"name": row["name"], "config": row.get("config", table["config"]),
                      "overlay": row.get("overlay", table["overlay"]), "set": table["set"] + row.get("set", []),
                      "model": row.get("model", {}), "pretrain": row.get("pretrain", table["pretrain"])}
                     for row in table["rows"]]
    return table


def resolved(part: dict, program: str, more: dict, overrides=()) -> dict:
    """The config of a row, or of its pre-training."""
    layers = [ROOT / "configs" / f"{part['config']}.yaml", *map(find_overlay, part.get("overlay", ()))]
    model = {"model": part["model"]} if part.get("model") else {}
    return load_config(layers, [*part.get("set", ()), *overrides], {**more, **model}, program=program)


# ============ runs ============
def run(table: dict, row: dict, seed: int, fold: int, arguments) -> dict:
    """Train and test one row on one fold; its row of the CSV."""
    began, folder = time.monotonic(), place(table, row, seed, arguments)
    start = {}
    if row["pretrain"]:
        # Neither the test nor the selection records may have been seen.
        more = {"seed": seed, "output_dir": str(folder), "exp_name": f"pretrain{fold}", "resume": "auto",
                "device": arguments.device, "dataset": {"exclude_folds": [fold, (fold + 1) % FOLDS]}}
        config = resolved(row["pretrain"], "pretrain", more, arguments.overrides)
        encoder = folder / config["exp_name"] / "encoder.pth"
        if not encoder.is_file():
            pretrain(config)
        start = {"encoder_path": str(encoder), "mode": "finetune"}
    more = {"seed": seed, "output_dir": str(folder), "exp_name": f"fold{fold}", "resume": "auto",
            "device": arguments.device, "dataset": {"fold": fold}, **start}
    config = resolved(row, "finetune", more, arguments.overrides)
    finetune(config)
    scores = pd.read_csv(folder / f"fold{fold}" / "test_metrics.csv").iloc[0]
    done = {"row": row["name"], "method": "", "seed": seed, "fold": fold, "epochs": config["train"]["epochs"],
            "records": int(scores["records"]), **{name: scores[name] for name in config_scores(config)}}
    return {**done, "seconds": round(time.monotonic() - began), "revision": revision()}


def thresholds_of(table: dict, row: dict, seed: int, arguments, trained: pd.DataFrame) -> list[dict]:
    """Rows of the CSV for the thresholds of a row's folds, which have all been trained; pooled ones need them all."""
    folder, rows = place(table, row, seed, arguments), []
    for method in table["methods"]:
        began = time.monotonic()
        threshold_search.main(["--weight_folder", str(folder), "--method", method, "--gpu", gpu(arguments.device),
                               "--fold", *map(str, trained["fold"])])
        scores = pd.read_csv(folder / f"thresholds_PRC_{method}" / "scores.csv", dtype={"fold": str})
        scores = scores[scores["part"] == "test"].set_index("fold")
        rows += [{**run, "method": method, table["score"]: scores.loc[str(run["fold"]), table["score"]],
                  "seconds": round((time.monotonic() - began) / len(trained)), "revision": revision()}
                 for run in trained.to_dict("records")]
    return rows


def place(table, row, seed, arguments) -> Path:
    """The folder of a row's trainings."""
    return Path(arguments.output_dir) / table["name"] / row["name"].replace(" ", "_") / f"seed{seed}"


def gpu(device: str) -> str:
    """``--gpu`` of a script for a ``device`` of a config."""
    return "0" if device == "cuda" or device == "auto" and torch.cuda.is_available() else "cpu"


def config_scores(config) -> list[str]:
    """Names under which the config's scores are printed."""
    metric = config["metric"]
    return list(parse_scores(metric["target_metrics"], ABBREVIATIONS, metric["task"] or "multilabel"))


# ============ the CSV ============
def read_results(table: dict) -> pd.DataFrame:
    """What has been run of a table."""
    path = RESULTS / f"{table['name']}.csv"
    empty = pd.DataFrame(columns=["row", "method", "seed", "fold"])
    return pd.read_csv(path, keep_default_na=False, na_values=["nan"]) if path.is_file() else empty


def add_results(table: dict, rows: list[dict]) -> None:
    """Append rows to results/<table>.csv; the file is whole at any time."""
    every = pd.concat([read_results(table), pd.DataFrame(rows)], ignore_index=True)
    write_frame(RESULTS / f"{table['name']}.csv", every, float_format="%.6g", na_rep="nan")


def rows_of(results: pd.DataFrame, name: str, method: str, seed: int | None = None) -> pd.DataFrame:
    """The CSV's rows of one row of the table."""
    mine = results[(results["row"] == name) & (results["method"] == method)]
    return mine if seed is None else mine[mine["seed"] == seed]


# ============ intervals ============
def tested(table, row, method, arguments) -> list[Predicted] | None:
    """Predictions of a row on all its folds and seeds, or None where they are not there any more."""
    found, store = [], None
    for seed in table["seeds"]:
        for fold in table["folds"]:
            folder = place(table, row, seed, arguments)
            path = folder / f"fold{fold}" / "test_predictions.csv"
            if not path.is_file():
                return None
            predictions = pd.read_csv(path, dtype={"record": str})
            labels, outputs = (predictions.filter(regex=f"^{kind}_").to_numpy(float)
                               for kind in ("label", "probability"))
            if method:
                rule = load_thresholds(folder / f"thresholds_PRC_{method}" / f"thresholds_fold{fold}.json")
                outputs = rule.decide(outputs).astype(float)
            store = store or open_store(resolved(row, "finetune", {}, arguments.overrides))
            named = store.records.set_index(["record", "database"])
            own = named.loc[list(zip(predictions["record"], predictions["database"]))].reset_index()
            found.append(Predicted(labels, outputs, patient_numbers(known_patients(own)), fold, seed))
    return found


def write_intervals(table: dict, arguments) -> None:
    """results/<table>.intervals.csv: of every complete row the score, and its difference to the first one's."""
    name, rows, first = table["score"], [], None
    score, results = parse_scores([name], ABBREVIATIONS)[name], read_results(table)
    for row in table["rows"]:
        for method in table["methods"] or [""]:
            complete = len(rows_of(results, row["name"], method)) == len(table["folds"]) * len(table["seeds"])
            mine = tested(table, row, method, arguments) if complete else None
            if mine is None:
                continue
            alone = estimate(name, score, mine, "multilabel")
            first = first or mine
            against = estimate(name, score, mine, "multilabel", first)
            rows.append({"row": row["name"], "method": method, "low": alone.low, "high": alone.high,
                         "difference": "" if mine is first else against.difference_text()})
    if rows:
        path = RESULTS / f"{table['name']}.intervals.csv"
        write_frame(path, pd.DataFrame(rows), float_format="%.6g", na_rep="nan")


# ============ RESULTS.md ============
def markdown(table: dict) -> str:
    """The table as Markdown: mean over folds and seeds of what has been run, with intervals where there are any."""
    results, name = read_results(table), table["score"]
    path = RESULTS / f"{table['name']}.intervals.csv"
    intervals = pd.read_csv(path, keep_default_na=False).set_index(["row", "method"]) if path.is_file() else None
    lines = [table["about"].strip(), "", f"| row | runs | {name} | 95 % interval | difference to the first row |",
             "|---" * 5 + "|"]
    for row in table["rows"]:
        for method in table["methods"] or [""]:
            mine = rows_of(results, row["name"], method)
            if not len(mine):
                continue
            interval = ("", "")
            if intervals is not None and (row["name"], method) in intervals.index:
                found = intervals.loc[(row["name"], method)]
                interval = f"{float(found['low']):.3f} to {float(found['high']):.3f}", found["difference"]
            mean = f"{mine[name].astype(float).mean():.3f}"
            cells = (f"{row['name']} {method}".strip(), f"{len(mine)}", mean, *interval)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def write_markdown(table: dict, page=ROOT / "RESULTS.md") -> None:
    """Put the table between its two marks in RESULTS.md; a ConfigError where the marks are missing."""
    begin, end = (MARKS.format(name=table["name"], edge=edge) for edge in ("begin", "end"))
    text = page.read_text(encoding="utf-8")
    if begin not in text or end not in text:
        raise ConfigError(f"{page} lacks the lines {begin} and {end}, between which the table goes; write them")
    head, rest = text.split(begin, 1)
    with replacing(page) as file:
        file.write(f"{head}{begin}\n{markdown(table)}\n{end}{rest.split(end, 1)[1]}".encode())


# ============ command line ============
def parse_arguments(argv=None):
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", help="a file of configs/tables, without its suffix")
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "cpu"), help="default: %(default)s")
    parser.add_argument("--budget", type=float, metavar="MIN", help="start no further training after so many minutes")
    parser.add_argument("--only", metavar="ROW", help="this row alone")
    parser.add_argument("--fold", type=int, nargs="+", metavar="K", help="these of the table's folds alone")
    parser.add_argument("--output_dir", default="./output/tables", metavar="DIR", help="for trainings and predictions")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
                        help="override one key of every config, e.g. --set dataset.store=DIR")
    parser.add_argument("--markdown", action="store_true", help="write RESULTS.md from the CSV and train nothing")
    return parser.parse_args(argv)


def main(argv=None):
    """Command line; see the module's docstring."""
    arguments = parse_arguments(argv)
    table, began = read_table(arguments.table), time.monotonic()
    if arguments.markdown:
        write_markdown(table)
        return
    rows = [row for row in table["rows"] if arguments.only in (None, row["name"])]
    if not rows:
        known = ", ".join(row["name"] for row in table["rows"])
        raise ConfigError(f"--only {arguments.only}: the table's rows are {known}")
    folds = parse_folds(arguments.fold or table["folds"])
    wanted = [(row, seed, fold) for seed in table["seeds"] for fold in folds for row in rows]
    for number, (row, seed, fold) in enumerate(wanted):
        if len(rows_of(read_results(table), row["name"], "", seed).query("fold == @fold")):
            continue
        if arguments.budget is not None and time.monotonic() - began > 60 * arguments.budget:
            print(f"the budget of {arguments.budget:g} minutes is spent: {len(wanted) - number} trainings were not "
                  "started or looked at; the same command goes on")
            break
        print(f"==== {table['name']}: {row['name']}, seed {seed}, fold {fold} ====")
        add_results(table, [run(table, row, seed, fold, arguments)])
    for row in rows if table["methods"] else ():
        for seed in table["seeds"]:
            results = read_results(table)
            trained, found = (rows_of(results, row["name"], method, seed) for method in ("", table["methods"][0]))
            if len(trained) == len(table["folds"]) and not len(found):
                add_results(table, thresholds_of(table, row, seed, arguments, trained))
    write_intervals(table, arguments)
    print(markdown(table))


if __name__ == "__main__":
    sys.exit(run_main(main))
