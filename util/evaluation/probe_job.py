"""``mode: probe``: heads fitted on frozen features in place of a training; nothing else is learned.

What a linear probe of an encoder reaches, and of an untrained one the yardstick beside every
pre-trained number.
"""

import torch

from util.config.load import save_config
from util.console import keep_in, note
from util.data.dataset import CropDataset, crops_for_statistics
from util.evaluation.evaluator import Evaluator
from util.evaluation.head_start import fit_heads
from util.evaluation.report import FoldFiles, FoldResult, in_words, report_test, save_weights
from util.files import FolderLock
from util.processes import collectives
from util.training.engine import PATIENCE
from util.training.job import Fold, SupervisedTask, make_classifier
from util.training.setup import describe_run, resolved, training_transforms


def probe_fold(fold: Fold, files: FoldFiles, device: torch.device) -> FoldResult:
    """Fit the heads on the training records' features, and score them on selection and test
    records; leave the files that a training leaves, but for logs and checkpoints.

    Deterministic: the heads minimise the criterion (util/evaluation/head_start.py), and the
    encoder stays in evaluation mode, its running statistics with it.
    """
    job, config = fold.job, fold.job.config
    lock: list[FolderLock] = []  # process 0 holds it until the fold is done
    option = "--output_dir or --exp_name"
    collectives.on_main(lambda: lock.append(FolderLock(files.folder, PATIENCE, option)))
    keep_in(files.folder)
    fold.describe()
    note("mode probe: nothing is trained but the heads; of train, amp and matmul_precision count")
    task = SupervisedTask(make_classifier(job), fold.criterion, "probe").to(device)
    describe_run(config, device, task)
    evaluator, rows = Evaluator(fold, device), fold.parts["train"]
    cropping, pipeline = training_transforms(config)
    crops = crops_for_statistics(
        CropDataset(job.store, job.leads, cropping.length),
        rows,
        cropping.length,
        config.dataloader.batch_size,
        device,
        pipeline.to(device).fixed,
    )
    task.fit_statistics(crops)  # of the input, where no weights have brought them along
    fit_heads(task, evaluator)
    values = evaluator.scores(evaluator.predict(task.classifier, "valid"))
    note(f"selection: {in_words(values)}")
    kept = resolved(config, 0.0, fold.number)

    def write() -> None:
        save_config(kept, files.folder / "config.yaml")
        for name in values:
            save_weights(task, kept, 0, values, job.store, files.best(name))

    collectives.on_main(write)
    result = report_test(evaluator, task.classifier, files, kept)
    for held in lock:
        held.release()
    return result
