"""``mode: probe``: without a training loop, heads are fitted on features of a frozen encoder.

The result is the linear-probe score of a pre-trained encoder or, without an encoder_path, that of
an untrained one, which shows how much of the former comes from pre-training.
"""

import torch

from util.config.load import save_config
from util.console import keep_in, note
from util.evaluation.evaluator import Evaluator
from util.evaluation.head_start import fit_heads
from util.evaluation.report import (
    FoldFiles,
    FoldResult,
    in_words,
    report_test,
    save_weights,
    with_thresholds,
)
from util.files import FolderLock
from util.jobs.job import Fold, SupervisedTask, make_classifier, note_chance
from util.jobs.setup import describe_run
from util.processes import collectives
from util.training.claim import claim_folder
from util.training.optimizer import set_matmul_precision
from util.training.resolved import resolved


def probe_fold(fold: Fold, files: FoldFiles, device: torch.device) -> FoldResult:
    """Fit the heads on the features of the training records, and test them.

    Writes the files that ``run_fold`` of main_finetune.py writes, except logs and checkpoints.
    Deterministic: the heads minimise the criterion (util/evaluation/head_start.py); the encoder
    is in evaluation mode, so its running statistics do not change.
    """
    job, config = fold.job, fold.job.config
    lock: list[FolderLock] = []  # on process 0 the folder's, until the fold is done; else none
    kept = resolved(config, 0.0, fold.number)

    def claim() -> None:
        lock.append(claim_folder(files.folder, config, kept))

    collectives.on_main(claim)
    keep_in(files.folder)
    fold.describe()
    note(
        "mode probe: nothing is trained but the heads; of the section train, only amp and "
        "matmul_precision have an effect"
    )
    set_matmul_precision(config.train.matmul_precision, device)
    task = SupervisedTask(make_classifier(job), fold.criterion, "probe").to(device)
    describe_run(config, device, task)
    note_chance(task.classifier)
    evaluator = Evaluator(fold, device)
    evaluator.check_target()
    task.fit_statistics(
        fold.crops(device)
    )  # of the input, unless they were loaded with the weights
    fit_heads(task, evaluator)
    chosen = evaluator.predict(task.classifier, "valid")
    values, about = evaluator.scores(chosen), fold.about | with_thresholds(chosen)
    note(f"selection: {in_words(values)}")

    def write() -> None:
        save_config(kept, files.folder / "config.yaml")
        for name in values:
            save_weights(task, kept, 0, values, job.store, files.best(name), about)

    collectives.on_main(write)
    result = report_test(evaluator, task.classifier, files, kept)
    for held in lock:
        held.release()
    return result
