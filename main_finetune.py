"""Train and test a classifier on labelled ECGs: fine-tune, linear probe or from scratch, over one
or more folds.

    python main_finetune.py --config_path configs/downstream/st_mem.yaml \\
        --encoder_path output/st_mem/encoder.pth
    bash run_downstream.sh --gpus 0,1,2,3 ...  the same on four GPUs (see run_downstream.sh -h)

Leaves in <output_dir>/<exp_name> (with several folds, in fold<k>/ there): config.yaml, log.txt,
tensorboard/, checkpoint-last.pth, best-loss.pth and best-<metric>.pth chosen on the selection
fold, encoder.pth, and of the checkpoint that test.target_metric names: test_metrics.csv,
test_predictions.csv, test_gate.csv where there is a gate. Several folds also leave summary.csv.
"""

import sys
from pathlib import Path

from util.config.command_line import argument_parser, config_from
from util.processes.program import run_main

parser = argument_parser(__doc__, "configs/downstream/st_mem.yaml", "finetune")
if __name__ == "__main__":
    parser.parse_args()  # --help and a wrong flag end here, before anything slow is imported

from util.console import print_once
from util.errors import ConfigError
from util.evaluation.evaluator import Evaluator
from util.evaluation.head_start import fit_heads
from util.evaluation.report import FoldFiles, report_test, save_best, write_summary
from util.processes import collectives
from util.processes.stopping import StopRequest
from util.training.job import LabelledRecords, SupervisedTask
from util.training.setup import build_configured, check_input, set_up_training, training_transforms
from util.training.transfer import check_pretrained, load_pretrained


def finetune(config: dict, published_names=False) -> Path:
    """Run the job that ``config`` describes, fold after fold; returns the folder of its results.

    Args:
        published_names: name weights as the published scripts do.
    """
    check_start(config)
    training_transforms(config)  # a mistake in them is said before the store is read
    records = LabelledRecords(config)
    device = collectives.start(config["device"])
    for note in records.notes:
        print_once(note)
    folder = Path(config["output_dir"]) / config["exp_name"]
    results = []
    for fold in records.folds:
        several = len(records.folds) > 1
        if several:
            print_once(f"==== fold {fold} ====")
        files = FoldFiles(
            folder / f"fold{fold}" if several or published_names else folder, published_names
        )
        results.append({"fold": fold, **run_fold(records, fold, files, device)})
    if len(results) > 1:
        collectives.on_main(lambda: write_summary(results, folder / "summary.csv"))
    return folder


def check_start(config: dict) -> None:
    """What training starts from, checked before any work.

    Raises:
        ConfigError: mode and encoder_path contradict each other; CheckpointError: the encoder
            file is unusable.
    """
    if config["mode"] == "scratch" and config["encoder_path"]:
        raise ConfigError(
            "mode scratch loads no encoder: choose mode finetune or linprobe, or leave out "
            "encoder_path"
        )
    if config["mode"] != "scratch" and not config["encoder_path"]:
        raise ConfigError(
            f"mode {config['mode']} needs --encoder_path, the encoder.pth of a pre-training run"
        )
    if config["encoder_path"] and collectives.is_main():
        check_pretrained(config["encoder_path"])


def run_fold(records: LabelledRecords, fold: int, files: FoldFiles, device) -> dict[str, float]:
    """Train, select and test on one fold; returns the test scores."""
    # ============ data and model ============
    data = {**records.config["dataset"], "fold": fold}
    config = {**records.config, "dataset": data}
    parts = records.parts(fold)
    print_once(
        f"{config['mode']}, {records.splits.title(fold)}: {len(parts['train'])} training, "
        f"{len(parts['valid'])} selection, {len(parts['test'])} test records, "
        + (
            "regression of " + ", ".join(records.classes)
            if records.task == "regression"
            else f"{len(records.classes)} classes"
        )
    )
    for part, name in {"train": "training", "valid": "selection", "test": "test"}.items():
        for note in records.describe(name, parts[part]):
            print_once(note)
    if data["protocol"] == "published":
        print_once(
            "note: protocol 'published' selects and reports on the same fold; its numbers are "
            "optimistic"
        )
    evaluator = Evaluator(records, parts, device)
    for note in evaluator.criterion.notes:
        print_once(note)

    def make_task():
        classifier = build_configured(config, len(records.classes))
        if config["mode"] != "scratch":
            # Process 0 reads; the others need not see the file.
            print_once(
                collectives.on_main(lambda: load_pretrained(classifier, config["encoder_path"]))
            )
            collectives.same_tensors(classifier.state_dict().values())
        check_input(classifier, len(records.leads), records.eval_cropping.length)
        return SupervisedTask(classifier, evaluator.criterion, config["mode"])

    training = set_up_training(
        config, records.store, parts["train"], make_task, device, files.folder, records.labels
    )
    task, train = training.model, training.config["train"]
    if train["head_init"] == "probe" and not training.resumed:
        print_once(fit_heads(task, evaluator, parts["train"]))

    # ============ train ============
    with StopRequest() as stop:
        while training.epoch < train["epochs"]:
            if (
                train["freeze_epochs"]
                and config["mode"] != "linprobe"
                and task.freeze(training.epoch < train["freeze_epochs"])
            ):
                training.build_runner()
            epoch = training.epoch
            line = {"epoch": epoch, **training.train_epoch(stop)}
            values = evaluator.select(training)
            save_best(training, values, files)
            line.update({f"valid_{name}": value for name, value in values.items()})
            training.log.scalars(
                {f"valid/{name}": value for name, value in values.items()}, training.epoch
            )
            training.log.line("log.txt", line)
            shown = [
                f"{name} {value:{'.2e' if name == 'train_lr' else '.4f'}}"
                for name, value in line.items()
            ]
            print_once(f"epoch {epoch + 1}: {', '.join(shown[1:])}")
            training.save_epoch()

    # ============ test ============
    result = report_test(evaluator, training, files)
    training.log.close()
    return result


def main(argv=None):
    """Command line; see the module's docstring."""
    finetune(config_from(parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(run_main(main))
