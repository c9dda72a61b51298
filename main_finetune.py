"""Train and test a classifier on labelled ECGs: fine-tune, linear probe or from scratch, over one
or more folds.

    python main_finetune.py --config_path configs/downstream/st_mem.yaml \\
        --encoder_path output/st_mem/encoder.pth
    bash run_downstream.sh --gpus 0,1,2,3 ...  the same on four GPUs (see run_downstream.sh -h)

Leaves in <output_dir>/<exp_name> (with several folds, in fold<k>/ there): config.yaml,
console.txt, log.txt, tensorboard/, checkpoint-last.pth, and best-loss.pth and best-<metric>.pth,
the weights that score best on the selection fold.  Those of them that test.target_metric names are
tested, which leaves test_metrics.csv, test_predictions.csv and .npz (in full precision),
selection_predictions.npz, encoder.pth and, with a gate, test_gate.csv.  Several folds also leave
summary.csv, which console.txt beside it repeats.  report.html shows all of it on one page.
"""

import sys
from pathlib import Path

from util.config.command_line import argument_parser, config_from
from util.config.keys import FinetuneConfig
from util.processes.program import run_main

parser = argument_parser(__doc__, "configs/downstream/st_mem.yaml", FinetuneConfig)
if __name__ == "__main__":
    parser.parse_args()  # --help and a wrong flag end here, before anything slow is imported

import torch

from util.console import begin_job, fold_of_job, note
from util.evaluation.evaluator import Evaluator
from util.evaluation.head_start import fit_heads
from util.evaluation.probe_job import probe_fold
from util.evaluation.report import (
    FoldFiles,
    FoldResult,
    forget_lost,
    report_test,
    save_best,
    summarise,
)
from util.jobs.job import Fold, LabelledJob, SupervisedTask, check_start, make_classifier
from util.jobs.setup import set_up_training, training_transforms
from util.processes import collectives
from util.processes.stopping import StopRequest
from util.reports.run_report import write_report
from util.training.claim import folds_beside


def finetune(config: FinetuneConfig, *, published_names: bool = False) -> list[FoldResult]:
    """Run the job that ``config`` describes, fold after fold; return each fold's test results.

    Args:
        config: of the job.
        published_names: name the weights as the published scripts do (fold0_bestROC.pth).
    """
    begin_job()
    check_start(config)
    training_transforms(config)  # built here only to report a mistake before the store is read
    job = LabelledJob(config)
    device = collectives.start(config.device, captured=config.train.cuda_graph is True)
    folder = Path(config.output_dir) / config.exp_name
    several, results = len(job.folds) > 1, []
    apart = several or published_names  # a folder for each fold
    beside: list[int] = []
    if apart:
        beside = collectives.on_main(lambda: folds_beside(folder, job.config, job.folds, job.tests))
    for number in job.folds:
        place = folder / f"fold{number}" if apart else folder
        with fold_of_job():
            if several:
                note(f"==== fold {number} ====")
            run = probe_fold if config.mode == "probe" else run_fold
            results.append(run(job.fold(number), FoldFiles(place, published_names), device))
            if not several:
                leave_report(config, place, [])
    if several:
        collectives.on_main(lambda: summarise(results, folder, beside))
        leave_report(config, folder, [*job.folds, *beside])
    return results


def leave_report(config: FinetuneConfig, folder: Path, folds: list[int]) -> None:
    """Write report.html of these folds into a run's folder, if test.report asks for it."""
    if config.test.report:
        collectives.on_main(lambda: note(f"report: {write_report(folder, wanted=folds)}"))


def run_fold(fold: Fold, files: FoldFiles, device: torch.device) -> FoldResult:
    """Train, select and test on one fold."""
    # ============ data and model ============
    job, config = fold.job, fold.job.config
    fold.describe()
    evaluator = Evaluator(fold, device)
    evaluator.check_target()

    def make_task() -> SupervisedTask:
        return SupervisedTask(make_classifier(job), fold.criterion, config.mode)

    training = set_up_training(
        config,
        job.store,
        fold.parts["train"],
        make_task,
        device,
        files.folder,
        labels=fold.labels,
        fold=fold.number,
        about=fold.about,
    )
    task, train = training.model, config.train
    assert isinstance(task, SupervisedTask)
    if train.head_init == "probe" and not training.resumed:
        fit_heads(task, evaluator)
    if training.resumed and training.epoch < train.epochs:
        forget_lost(training, files)

    # ============ train ============
    with StopRequest() as stop:
        while training.epoch < train.epochs:
            may_freeze = train.freeze_epochs > 0 and config.mode != "linprobe"
            if may_freeze and task.freeze(frozen=training.epoch < train.freeze_epochs):
                training.build_runner()  # DDP has to know which parameters have gradients now
            epoch = training.epoch
            line = {"epoch": epoch, **training.train_epoch(stop)}
            every = config.test.select_every or 1
            if training.epoch % every == 0 or training.epoch >= train.epochs:
                values = evaluator.select(training)
                save_best(training, values, files, evaluator.selected)
                line.update({f"valid_{name}": value for name, value in values.items()})
                training.log.scalars(
                    {f"valid/{name}": value for name, value in values.items()}, training.epoch
                )
            training.log.line("log.txt", line)
            shown = [
                f"{name} {value:{'.2e' if name == 'train_lr' else '.4f'}}"
                for name, value in line.items()
            ]
            note(f"epoch {epoch + 1}: {', '.join(shown[1:])}")  # all but the epoch
            training.save_epoch()

    # ============ test ============
    result = report_test(evaluator, task.classifier, files, training.resolved)
    training.log.close()
    return result


def main(argv: list[str] | None = None) -> None:
    """Run the command line; see the module's docstring."""
    finetune(config_from(parser.parse_args(argv), FinetuneConfig))


if __name__ == "__main__":
    sys.exit(run_main(main))
