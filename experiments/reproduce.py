"""Re-run a table of RESULTS.md: every training it needs, one row of results/<table>.csv each, and
the table of these.

    python experiments/reproduce.py fusion --set dataset.store=STORE --budget 60
    python experiments/reproduce.py fusion --only gated --fold 0                    one cell
    python experiments/reproduce.py fusion --markdown  RESULTS.md from the CSV, no training

A table is configs/tables/<table>.yaml: what all its rows share, and its rows; docs/reproduce.md
explains the keys. What is in the CSV is not run again; a training that was stopped goes on where
it stood.  Trainings, with their predictions, are kept in
--output_dir/<table>/<row>/seed<s>/fold<k>; while those of all folds are there, the intervals of
the table are a bootstrap over patients (util/scoring/intervals.py), written to
results/<table>.intervals.csv.  Encoders, in --output_dir/pretrained, are trained once for all
rows and tables that ask for the same one.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import sys
import time
import zlib
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import t as student

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from main_finetune import finetune
from main_pretrain import pretrain
from util.challenge import ABBREVIATIONS
from util.config.command_line import add_set_flag
from util.config.fields import to_mapping
from util.config.keys import FinetuneConfig, PretrainConfig
from util.config.load import ROOT, Job, find_overlay, load_config, read_yaml
from util.console import quietly
from util.data.splits import parse_folds
from util.data.store import FOLDS
from util.errors import ConfigError
from util.evaluation.neighbours import score_neighbours
from util.evaluation.report import rounded
from util.evaluation.threshold_search import search_folder
from util.files import replacing, write_frame
from util.processes.devices import one_device
from util.processes.program import run_main
from util.scoring.intervals import Predicted, estimate
from util.scoring.predictions import Predictions
from util.scoring.scores import parse_scores
from util.scoring.thresholds import load_thresholds
from util.training.setup import revision

TABLES, RESULTS = ROOT / "configs" / "tables", ROOT / "results"
KEYS = {
    "about": "",
    "config": None,
    "overlay": [],
    "set": [],
    "folds": [0],
    "seeds": [0],
    "score": "AUROC",
    "pretrain": None,
    "methods": [],
    "rows": [],
    "runs": None,
}  # of a table, with their defaults
ROW_KEYS = ("name", "config", "overlay", "set", "model", "pretrain", "knn", "folds", "against")
# runs below which nothing is said of their spread, records below which nothing of a class
FEW = 5
ROUNDING = 5e-4  # of scores in CSV files, which have 4 digits
MARKS = "<!-- table {name}: {edge} -->"


# ============ tables ============
def read_table(name: str) -> dict:
    """The table of configs/tables/<name>.yaml, its rows complete; a ConfigError names what is
    wrong in it.
    """
    path = TABLES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in TABLES.glob("*.yaml")))
        raise ConfigError(f"there is no table {name}; known: {known}")
    table = read_yaml(path.read_text(encoding="utf-8"))
    unknown = [key for key in table if key not in KEYS] + [
        key for row in table.get("rows", ()) for key in row if key not in ROW_KEYS
    ]
    if unknown or bool(table.get("rows")) == bool(table.get("runs")):
        raise ConfigError(
            f"{path}: unknown key {unknown[0]!r}"
            if unknown
            else f"{path} needs either rows or runs"
        )
    if table.get("runs"):  # another view of the same trainings
        of = read_table(table["runs"])
        return {**of, "name": name, "methods": [], **table}
    table = {"name": name, **KEYS, **table, "runs": name}
    table["rows"] = [
        {
            "name": row["name"],
            "config": row.get("config", table["config"]),
            "overlay": row.get("overlay", table["overlay"]),
            "set": table["set"] + row.get("set", []),
            "model": row.get("model", {}),
            "pretrain": row.get("pretrain", table["pretrain"]),
            "knn": row.get("knn", 0),
            "groups": groups_of(row.get("folds", table["folds"])),
            "against": row.get("against", table["rows"][0]["name"]),
        }
        for row in table["rows"]
    ]
    for number, row in enumerate(table["rows"]):
        parse_folds(folds_of(row))
        if row["against"] not in [earlier["name"] for earlier in table["rows"][: max(number, 1)]]:
            raise ConfigError(
                f"{path}: {row['name']} is compared with {row['against']!r}, which is no row "
                "above "
                "it"
            )
    return table


def groups_of(folds: list) -> list[list[int]]:
    """Folds that share an encoder: those of each list in a list, or all."""
    return folds if folds and isinstance(folds[0], list) else [folds]


def folds_of(row: dict) -> list[int]:
    """The folds by which a row is tested."""
    return sum(row["groups"], [])


def resolved(part: dict, program: type[Job], more: dict, overrides: Iterable[str] = ()) -> Job:
    """The config of a row, or of its pre-training."""
    layers = [
        ROOT / "configs" / f"{part['config']}.yaml",
        *map(find_overlay, part.get("overlay", ())),
    ]
    model = {"model": part["model"]} if part.get("model") else {}
    return load_config(
        layers, [*part.get("set", ()), *overrides], {**more, **model}, program=program
    )


# ============ runs ============
def pretraining(row: dict, seed: int, fold: int, arguments) -> PretrainConfig:
    """The config by which the encoder of a row on one fold is pre-trained, and of all rows and
    folds that share it.  It sees no record by which any fold of the row's group tests or selects.
    """
    group = next(group for group in row["groups"] if fold in group)
    part, unseen = (
        row["pretrain"],
        sorted({(own + step) % FOLDS for own in group for step in (0, 1)}),
    )
    more = {
        "seed": seed,
        "output_dir": str(Path(arguments.output_dir) / "pretrained"),
        "resume": "auto",
        "device": arguments.device,
        "dataset": {"exclude_folds": unseen},
    }
    config = resolved(part, PretrainConfig, more, arguments.overrides)
    mapping = to_mapping(config)
    matters = [
        mapping[key] for key in ("model_name", "model", "dataset", "dataloader", "train", "seed")
    ]
    kind = zlib.crc32(json.dumps(matters, sort_keys=True).encode())
    return replace(config, exp_name=f"{config.model_name}-{kind:08x}")


def encoder_of(config: PretrainConfig) -> Path:
    """encoder.pth of a pre-training that is complete or will be."""
    return Path(config.output_dir) / config.exp_name / "encoder.pth"


def run(table: dict, row: dict, seed: int, fold: int, arguments) -> dict:
    """Train and test one row on one fold, from its encoder, which is there; its row of the CSV."""
    began, start = time.monotonic(), {}
    if row["pretrain"]:
        start = {"encoder_path": str(encoder_of(pretraining(row, seed, fold, arguments)))}
    config = fine_tuning(table, row, seed, fold, arguments, start)
    (result,) = score_neighbours(config, row["knn"]) if row["knn"] else finetune(config)
    scores, selection = rounded(result.scores), rounded(result.selection)
    done = {
        "row": row["name"],
        "method": "",
        "seed": seed,
        "fold": fold,
        "epochs": 0 if row["knn"] else config.train.epochs,
        "records": len(result.predictions),
        **{name: scores[name] for name in config_scores(config)},
    }
    if not row["knn"]:  # of the weights that were chosen by it, on the fold that chose them
        done |= {f"selection_{name}": selection[name] for name in config_scores(config)}
    return {
        **done,
        "seconds": round(time.monotonic() - began),
        "device": device_name(arguments.device),
        "revision": revision(),
    }


def fine_tuning(table, row, seed, fold, arguments, start) -> FinetuneConfig:
    """The config of one row on one fold; ``start``: its encoder_path, where it has one."""
    mode = (
        {"mode": "finetune"}
        if start and not any(each.startswith("mode=") for each in row["set"])
        else {}
    )
    more = {
        "seed": seed,
        "output_dir": str(place(table, row, seed, arguments)),
        "exp_name": f"fold{fold}",
        "resume": "auto",
        "device": arguments.device,
        "dataset": {"fold": fold},
        **mode,
        **start,
    }
    return resolved(row, FinetuneConfig, more, arguments.overrides)


def run_all(table: dict, wanted: list, arguments) -> None:
    """Train what the CSV lacks of (row, seed, fold), --jobs at a time; each is added to it as it
    is done.
    """
    results, found = read_results(table), {}
    missing = [
        (row, seed, fold)
        for row, seed, fold in wanted
        if fold not in set(rows_of(results, row["name"], "", seed)["fold"])
    ]
    for row, seed, fold in missing:
        if row["pretrain"]:
            config = pretraining(row, seed, fold, arguments)
            if not encoder_of(config).is_file():
                found[config.exp_name] = (pretrained, config)
    first = [
        *found.values(),
        *((run, table, *one, arguments) for one in missing if not one[0]["pretrain"]),
    ]
    second = [(run, table, *one, arguments) for one in missing if one[0]["pretrain"]]
    deadline, late = None if arguments.budget is None else time.time() + 60 * arguments.budget, 0
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(worker_pool(arguments.jobs)) if arguments.jobs > 1 else None
        for tasks in (first, second):
            for done in computed(tasks, deadline, pool):
                late += done is None
                if done:
                    add_results(table, [done])
    if late:
        print(
            f"the budget of {arguments.budget:g} minutes is spent: {late} trainings were not "
            "started; the same command goes on"
        )


def pretrained(config: PretrainConfig) -> dict:
    """Pre-train; no row of the CSV."""
    pretrain(config)
    return {}


def computed(tasks: list, deadline, pool):
    """Results of (function, *arguments), as they come; None of one that was not begun before the
    deadline.
    """
    if pool is None:
        yield from (timely(deadline, *task) for task in tasks)
    else:
        futures = [pool.submit(timely, deadline, *task) for task in tasks]
        yield from (future.result() for future in as_completed(futures))


def timely(deadline, function, *arguments):
    """``function(*arguments)``, or None after the deadline (time.time())."""
    return function(*arguments) if deadline is None or time.time() < deadline else None


def worker_pool(jobs: int) -> ProcessPoolExecutor:
    """Processes that share this one's cores; what they do stands in the logs of their runs."""
    return ProcessPoolExecutor(
        jobs,
        multiprocessing.get_context("spawn"),
        initializer=quieten,
        initargs=(max(torch.get_num_threads() // jobs, 1),),
    )


def quieten(threads: int) -> None:
    """Start of a worker process."""
    torch.set_num_threads(threads)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # until the process ends


def device_name(device: str) -> str:
    """What a row was computed on."""
    return torch.cuda.get_device_name() if gpu(device) != "cpu" else "CPU"


def thresholds_of(
    table: dict, row: dict, seed: int, arguments, trained: pd.DataFrame
) -> list[dict]:
    """Rows of the CSV for the thresholds of a row's folds, which have all been trained; pooled
    ones need them all.
    """
    folder, rows, name = place(table, row, seed, arguments), [], table["score"]
    folds = [str(fold) for fold in trained["fold"]]
    for method in table["methods"]:
        began = time.monotonic()
        with quietly():
            scores = search_folder(
                folder, method, one_device(gpu(arguments.device)), folds=list(trained["fold"])
            )
        scores = scores.astype({"weights of fold": str})
        test, selection = (
            scores[scores["part"] == part]
            .set_index("weights of fold")
            .loc[folds, name]
            .astype(float)
            for part in ("test", "search")
        )
        changed = trained.assign(
            method=method,
            seconds=round((time.monotonic() - began) / len(folds)),
            revision=revision(),
            **{name: test.array, f"selection_{name}": selection.array},
        )
        rows += changed.to_dict("records")
    return rows


def place(table, row, seed, arguments) -> Path:
    """The folder of a row's trainings."""
    return (
        Path(arguments.output_dir) / table["runs"] / row["name"].replace(" ", "_") / f"seed{seed}"
    )


def gpu(device: str) -> str:
    """``--gpu`` of a script for a ``device`` of a config."""
    return "0" if device == "cuda" or device == "auto" and torch.cuda.is_available() else "cpu"


def config_scores(config) -> list[str]:
    """Names under which the config's scores are printed."""
    metric = config.metric
    return list(parse_scores(metric.target_metrics, ABBREVIATIONS, metric.task or "multilabel"))


# ============ the CSV ============
def read_results(table: dict) -> pd.DataFrame:
    """What has been run of a table."""
    path = RESULTS / f"{table['runs']}.csv"
    empty = pd.DataFrame(columns=["row", "method", "seed", "fold"])
    how = dict(
        keep_default_na=False, na_values=["nan"], dtype={"revision": str}
    )  # 39e4096 is no number
    return pd.read_csv(path, **how) if path.is_file() else empty


def add_results(table: dict, rows: list[dict]) -> None:
    """Append rows to results/<runs>.csv in place of those it has of the same trainings and
    methods; the file is whole at any time.
    """
    key = ["row", "method", "seed", "fold"]
    every = pd.concat([read_results(table), pd.DataFrame(rows)], ignore_index=True).drop_duplicates(
        key, keep="last"
    )
    write_frame(RESULTS / f"{table['runs']}.csv", every, float_format="%.6g", na_rep="nan")


def rows_of(results: pd.DataFrame, name: str, method: str, seed: int | None = None) -> pd.DataFrame:
    """The CSV's rows of one row of the table."""
    mine = results[(results["row"] == name) & (results["method"] == method)]
    return mine if seed is None else mine[mine["seed"] == seed]


# ============ intervals ============
def tested(table, row, method, arguments) -> list[Predicted] | None:
    """Predictions of a row on all its folds, by all seeds, or None where they are not there any
    more.  Those of a method are of the weights that it was searched for, which are not always
    those that the training tested.
    """
    found = []
    for seed in table["seeds"]:
        for fold in folds_of(row):
            folder = place(table, row, seed, arguments)
            if method:
                path = folder / "predictions" / f"best-AUPRC_fold{fold}.npz"
            else:
                path = folder / f"fold{fold}" / "test_predictions.npz"
            if not path.is_file():
                return None
            prefix = "test" if method else ""
            with np.load(path, allow_pickle=False) as file:
                predictions = Predictions.from_arrays(dict(file), prefix)
            outputs = predictions.outputs
            if method:
                chosen = folder / f"thresholds_PRC_{method}" / f"thresholds_fold{fold}.json"
                outputs = load_thresholds(chosen).decide(outputs).astype(float)
            labels = predictions.labels.astype(float)
            found.append(Predicted(labels, outputs, predictions.patients, fold, seed))
    return found


def write_intervals(table: dict, arguments) -> None:
    """results/<table>.intervals.csv: of every complete row the score, and its difference to
    another row's on the same folds, or to its own by the first method.  A ConfigError where
    predictions are not those of the CSV's scores.
    """
    name, rows, every = table["score"], [], {}
    score, results = parse_scores([name], ABBREVIATIONS)[name], read_results(table)
    for row in table["rows"]:
        for method in table["methods"] or [""]:
            runs = rows_of(results, row["name"], method)
            complete = len(runs) == len(folds_of(row)) * len(table["seeds"])
            mine = tested(table, row, method, arguments) if complete else None
            if mine is None:
                continue
            alone, mean = estimate(name, score, mine, "multilabel"), runs[name].astype(float).mean()
            if abs(alone.value - mean) > ROUNDING:
                folder = place(table, row, table["seeds"][0], arguments)
                raise ConfigError(
                    f"{folder}: its predictions give {name} {alone.value:.4f}, but "
                    f"results/{table['runs']}.csv says {mean:.4f} of {row['name']} {method}; "
                    "take "
                    "the row out of the CSV, or name the --output_dir that it is of"
                )
            other = every.get(row["name"] if table["methods"] else row["against"], ())
            both = set(folds_of(row)) & {one.fold for one in other}
            ours, theirs = ([one for one in tests if one.fold in both] for tests in (mine, other))
            against = both and estimate(name, score, ours, "multilabel", theirs).difference_text()
            every.setdefault(row["name"], mine)
            rows.append(
                {
                    "row": row["name"],
                    "method": method,
                    "low": alone.low,
                    "high": alone.high,
                    "difference": against or "",
                }
            )
    if rows:
        path = RESULTS / f"{table['name']}.intervals.csv"
        write_frame(path, pd.DataFrame(rows), float_format="%.6g", na_rep="nan")


# ============ gates ============
def write_gates(table: dict, arguments) -> None:
    """results/<runs>.gates.csv: mean weight of the signal branch on the test folds, by row and
    class.
    """
    found = []
    for row in table["rows"]:
        files = [
            place(table, row, seed, arguments) / f"fold{fold}" / "test_gate.csv"
            for seed in table["seeds"]
            for fold in folds_of(row)
        ]
        gates = [pd.read_csv(file) for file in files if file.is_file()]
        if gates:
            every = pd.concat(gates)
            every["weight"] = every["signal"] * every["records"]
            sums = every.groupby("class", sort=False)[["records", "weight"]].sum()
            found += [
                {
                    "row": row["name"],
                    "class": name,
                    "records": int(records),
                    "signal": weight / records,
                }
                for name, (records, weight) in sums.iterrows()
            ]
    if found:
        write_frame(
            RESULTS / f"{table['runs']}.gates.csv", pd.DataFrame(found), float_format="%.4g"
        )


def gates_markdown(table: dict) -> list[str]:
    """Lines on how the gates of a table weigh the branches; none where it has no gate."""
    path = RESULTS / f"{table['runs']}.gates.csv"
    if not path.is_file():
        return []
    gates = pd.read_csv(path)
    lines = [
        "",
        "| gate | mean weight of the signal branch | by class, lowest and highest |",
        "|---|---|---|",
    ]
    for name, mine in gates.groupby("row", sort=False):
        classes = mine[(mine["class"] != "all") & (mine["records"] >= FEW)].sort_values("signal")
        ends = ", ".join(
            f"{one['class']} {one['signal']:.2f}" for _, one in classes.iloc[[0, -1]].iterrows()
        )
        lines.append(f"| {name} | {mine[mine['class'] == 'all']['signal'].item():.3f} | {ends} |")
    return lines


# ============ RESULTS.md ============
def markdown(table: dict) -> str:
    """The table as Markdown: mean over folds and seeds of what has been run, with intervals where
    there are any, and how much higher the weights scored on the folds that chose them.
    """
    results, name = read_results(table), table["score"]
    path = RESULTS / f"{table['name']}.intervals.csv"
    intervals = (
        pd.read_csv(path, keep_default_na=False).set_index(["row", "method"])
        if path.is_file()
        else None
    )
    others = {row["against"] for row in table["rows"]}
    to = (table["methods"] or [next(iter(others)) if len(others) == 1 else "the row named"])[0]
    lines = [
        table["about"].strip(),
        "",
        f"| row | runs | {name} | 95 % interval | difference to {to} | selection fold minus test "
        "fold |",
        "|---" * 6 + "|",
    ]
    for row in table["rows"]:
        for method in table["methods"] or [""]:
            mine = rows_of(results, row["name"], method)
            if not len(mine):
                continue
            interval = ("", "")
            if intervals is not None and (row["name"], method) in intervals.index:
                found = intervals.loc[(row["name"], method)]
                interval = (
                    f"{float(found['low']):.3f} to {float(found['high']):.3f}",
                    found["difference"],
                )
                if found["difference"] and len(others) > 1 and not table["methods"]:
                    interval = interval[0], f"{row['against']}: {interval[1]}"
            cells = (
                f"{row['name']} {method}".strip(),
                f"{len(mine)}",
                f"{mine[name].astype(float).mean():.3f}",
                *interval,
                optimism(mine, name),
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines + gates_markdown(table) * (table["runs"] == table["name"]))


def optimism(mine: pd.DataFrame, name: str) -> str:
    """Mean of selection minus test, with its 95 % interval (Student's t over folds, each the mean
    of its seeds, which share their records) where there are enough of them.
    """
    if f"selection_{name}" not in mine or mine[f"selection_{name}"].isna().any():
        return ""
    gap = mine[f"selection_{name}"].astype(float) - mine[name].astype(float)
    gaps = gap.groupby(mine["fold"]).mean().to_numpy()
    if len(gaps) < FEW:
        return f"{gaps.mean():+.3f}"
    reach = student.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / len(gaps) ** 0.5
    return f"{gaps.mean():+.3f} ({gaps.mean() - reach:+.3f} to {gaps.mean() + reach:+.3f})"


def write_markdown(table: dict, page=ROOT / "RESULTS.md") -> None:
    """Put the table between its two marks in RESULTS.md; a ConfigError where the marks are
    missing.
    """
    begin, end = (MARKS.format(name=table["name"], edge=edge) for edge in ("begin", "end"))
    text = page.read_text(encoding="utf-8")
    if begin not in text or end not in text:
        raise ConfigError(
            f"{page} lacks the lines {begin} and {end}, between which the table goes; write them"
        )
    head, rest = text.split(begin, 1)
    with replacing(page) as file:
        file.write(f"{head}{begin}\n{markdown(table)}\n{end}{rest.split(end, 1)[1]}".encode())


# ============ command line ============
def parse_arguments(argv=None):
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", help="a file of configs/tables, without its suffix")
    parser.add_argument(
        "--device", default="auto", choices=("auto", "cuda", "cpu"), help="default: %(default)s"
    )
    parser.add_argument(
        "--budget",
        type=float,
        metavar="MIN",
        help="start no further training after so many minutes",
    )
    parser.add_argument("--only", metavar="ROW", help="this row alone")
    parser.add_argument(
        "--fold", type=int, nargs="+", metavar="K", help="these of the table's folds alone"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="trainings at the same time, in as many processes, without progress bars (default: 1)",
    )
    parser.add_argument(
        "--output_dir",
        default="./output/tables",
        metavar="DIR",
        help="for trainings and predictions",
    )
    add_set_flag(parser, "override one key of every config, e.g. --set dataset.store=DIR")
    parser.add_argument(
        "--markdown", action="store_true", help="write RESULTS.md from the CSV and train nothing"
    )
    return parser.parse_args(argv)


def main(argv=None):
    """Command line; see the module's docstring."""
    arguments = parse_arguments(argv)
    table = read_table(arguments.table)
    if arguments.markdown:
        write_markdown(table)
        return
    rows = [row for row in table["rows"] if arguments.only in (None, row["name"])]
    if not rows:
        known = ", ".join(row["name"] for row in table["rows"])
        raise ConfigError(f"--only {arguments.only}: the table's rows are {known}")
    folds = parse_folds(arguments.fold or "all")
    wanted = [
        (row, seed, fold)
        for seed in table["seeds"]
        for fold in folds
        for row in rows
        if fold in folds_of(row)
    ]
    if not wanted:
        tested_on = sorted({fold for row in rows for fold in folds_of(row)})
        raise ConfigError(f"--fold {folds}: these rows are tested on {tested_on}")
    run_all(table, wanted, arguments)
    for row in rows if table["methods"] else ():
        for seed in table["seeds"]:
            results = read_results(table)
            trained, found = (
                rows_of(results, row["name"], method, seed) for method in ("", table["methods"][0])
            )
            if (
                len(trained) == len(folds_of(row)) != len(found)
            ):  # once for all folds: pooled methods join them
                add_results(table, thresholds_of(table, row, seed, arguments, trained))
    write_intervals(table, arguments)
    write_gates(table, arguments)
    print(markdown(table))


if __name__ == "__main__":
    sys.exit(run_main(main, again="the same command goes on where it stopped"))
