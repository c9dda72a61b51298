"""Plausible bugs in how is learned: one line of the project each, and what a tired person might
have written instead.  Those in data, scores and tables are in data_table.py.
"""

from typing import NamedTuple


class Mutant(NamedTuple):
    """One bug.

    Attributes:
        name: for the command line; file: relative to the project; old: a text that is in it
            exactly once; new: what stands there instead.
        why: how somebody comes to write that.
        tests: of tests/, those that should know first: files, or file.py::test.
    """

    name: str
    file: str
    old: str
    new: str
    why: str
    tests: tuple[str, ...] = ()


LEARNING = [
    # ============ engine, meters, schedules ============
    Mutant(
        "loss_not_divided",
        "util/training/engine.py",
        'loss = out["loss"] / count',
        'loss = out["loss"]',
        "AdamW hides it",
        ("util/training/test_engine.py",),
    ),
    Mutant(
        "rate_by_epoch",
        "util/training/engine.py",
        "self.schedule.apply(state.optimizer, self.position())",
        "self.schedule.apply(state.optimizer, self.epoch)",
        "an epoch is a position, too",
        ("util/training/test_engine.py",),
    ),
    Mutant(
        "teacher_by_epoch",
        "util/training/engine.py",
        "self.model.after_step(self.progress())",
        "model.after_step(self.epoch / self.config.train.epochs)",
        "as above, for momenta",
        ("util/training/test_engine.py",),
    ),
    Mutant(
        "clip_part",
        "util/training/engine.py",
        "clip_grad_norm_(self.model.parameters(),",
        "clip_grad_norm_(self.model.encoder.parameters(),",
        "the encoder is what one thinks of",
        ("util/training/test_engine.py",),
    ),
    Mutant(
        "evaluation_mode_stays",
        "util/training/engine.py",
        "        self.model.train()\n",
        "",
        "the model was made in training mode; the evaluation of the first epoch left it in another",
        ("util/training/test_engine.py",),
    ),
    Mutant(
        "mean_of_last_window",
        "util/training/log/meters.py",
        "[before + more for before, more in zip(self.sums, sums)]",
        "sums",
        "a loop variable instead of a sum",
        ("jobs/test_faults.py::test_tolerated_steps_leave_no_trace",),
    ),
    Mutant(
        "sum_over_processes",
        "util/training/log/meters.py",
        "collectives.total(values) / collectives.world()",
        "collectives.total(values)",
        "all_reduce adds",
        ("util/processes/test_batch_norm.py::test_a_cnn_trains_alike_on_one_and_two_processes",),
    ),
    Mutant(
        "rate_without_processes",
        "util/training/optimizer.py",
        "* world / 256",
        "/ 256",
        "one GPU on the desk",
        ("util/training/test_optimizer.py",),
    ),
    # ============ several processes ============
    Mutant(
        "gradients_stay_at_home",
        "util/training/engine.py",
        "number < count",
        "number <= count",
        "counting from 1",
        ("util/processes/test_batch_norm.py::test_a_cnn_trains_alike_on_one_and_two_processes",),
    ),
    Mutant(
        "dropout_alike",
        "util/jobs/setup.py",
        "seed = seed + 1000 * collectives.rank()",
        "seed = seed + 1000",
        "the rank was moved elsewhere",
        ("jobs/test_resume.py::test_every_process_draws_and_resumes_random_numbers_of_its_own",),
    ),
    Mutant(
        "centre_summed",
        "models/methods/dino.py",
        "mean((0, 1))) / world()",
        "mean((0, 1)))",
        "all_reduce adds",
        ("models/methods/test_dino.py",),
    ),
    Mutant(
        "restart_from_nothing",
        "util/processes/launcher.py",
        '[*arguments, "--resume", "auto"]',
        "[*arguments]",
        "tested by hand with --resume auto given",
        ("util/processes/test_launcher.py::test_failures_are_started_again_and_stops_are_not",),
    ),
    # ============ resuming ============
    Mutant(
        "random_state_of_process_0",
        "util/training/state.py",
        'content["rng"][collectives.rank()]',
        'content["rng"][0]',
        "a list of one on the desk",
        ("jobs/test_resume.py::test_every_process_draws_and_resumes_random_numbers_of_its_own",),
    ),
    Mutant(
        "best_forgotten",
        "util/training/state.py",
        "        self.best = best\n",
        "",
        "the attribute has a default",
        ("jobs/test_resume.py::test_every_process_draws_and_resumes_random_numbers_of_its_own",),
    ),
    Mutant(
        "epoch_from_its_start",
        "util/training/state.py",
        "batches.set_epoch(epoch, step, offset)",
        "batches.set_epoch(epoch)",
        "an epoch is seen as the unit",
        ("jobs/test_faults.py::test_another_batch_size_goes_on_at_the_same_record",),
    ),
    Mutant(
        "oldest_by_name",
        "util/weights/checkpoint.py",
        "key=lambda p: int(p.stem[11:])",
        "key=lambda p: p.stem",
        "sorted() of paths looks right up to epoch 9",
        ("util/weights/test_checkpoint.py",),
    ),
    # ============ mains, supervised, evaluation ============
    Mutant(
        "thawed_late",
        "main_finetune.py",
        "training.epoch < train.freeze_epochs)",
        "training.epoch <= train.freeze_epochs)",
        "off by one",
        (
            "jobs/test_pretraining.py::test_frozen_epochs_freeze_the_backbone_and_train_the_classifier",
        ),
    ),
    Mutant(
        "all_labels",
        "util/jobs/job.py",
        "label_fraction=data.label_fraction,",
        "",
        "the argument has a default",
        ("util/training/test_engine.py",),
    ),
    Mutant(
        "excluded_trained",
        "main_pretrain.py",
        "config, store, rows, lambda: build_configured(config)",
        "config, store, usable, lambda: build_configured(config)",
        "two arrays of rows, one name off",
        ("util/training/test_engine.py",),
    ),
    Mutant(
        "last_weights_tested",
        "util/evaluation/report.py",
        '    classifier.load_state_dict(best["model"])\n',
        "",
        "lost in a merge",
        ("util/training/test_engine.py",),
    ),
    Mutant(
        "highest_loss_kept",
        "util/evaluation/report.py",
        "value < best if lower_is_better(name) else value > best",
        "value > best",
        "all other metrics are better when higher",
        ("util/training/test_engine.py",),
    ),
    Mutant(
        "evaluation_trains",
        "util/evaluation/inference.py",
        "    model.eval()\n",
        "",
        "no_grad seems to say it",
        ("util/training/test_engine.py",),
    ),
    Mutant(
        "last_crop_wins",
        "util/evaluation/inference.py",
        "sums.index_add_(",
        "sums.index_copy_(",
        "with one crop a record it is the same",
        ("util/evaluation/test_evaluator.py",),
    ),
    Mutant(
        "labels_of_the_first",
        "util/evaluation/evaluator.py",
        "labels=fold.labels_of(part),",
        "labels=fold.labels[: len(records)],",
        "labels were already cut elsewhere",
        ("util/evaluation/test_evaluator.py",),
    ),
    Mutant(
        "frozen_norms_move",
        "util/jobs/job.py",
        "            self.classifier.eval()\n",
        "",
        "requires_grad False seems to be enough",
        (
            "experiments/test_published_scripts.py::test_frozen_epochs_freeze_the_branches_and_train_the_rest",
        ),
    ),
    Mutant(
        "statistics_of_all_folds",
        "util/jobs/setup.py",
        "dataset, rows, cropping.length, batches.batch_size, device, pipeline.fixed",
        "dataset, range(len(store)), cropping.length, batches.batch_size, device, pipeline.fixed",
        "as published",
        (
            "experiments/test_published_scripts.py::test_defect_9_standardisation_and_selection_keep_out_of_the_test_fold",
        ),
    ),
    # ============ self-supervised methods ============
    Mutant(
        "groups_share_streams",
        "util/signals/views.py",
        "for _ in range(0, count, together):\n                first = len(views)",
        "for made in range(0, count, together):\n                first = made",
        "a view's number in its group",
        ("util/signals/test_views.py",),
    ),
    Mutant(
        "path_not_scaled",
        "models/layers/blocks.py",
        "x * keep / (1 - self.rate)",
        "x * keep",
        "as the paper's figure",
        ("models/encoder/test_vit_dropout.py",),
    ),
    Mutant(
        "temperature_by_progress",
        "models/methods/dino.py",
        'teacher_temperature_at(batch["epoch"],',
        'teacher_temperature_at(batch["progress"],',
        "the momentum goes by progress",
        ("models/methods/test_dino.py",),
    ),
    Mutant(
        "mask_alike",
        "models/methods/mae.py",
        "random.uniform(*shape)",
        "random.uniform(shape[-1]).view(-1, *[1] * (len(shape) - 1), shape[-1]).expand(-1, *shape)",
        "as MTAE does",
        ("models/encoder/test_leads.py",),
    ),
    # ============ JEPA, CPC, S4 ============
    Mutant(
        "teacher_sees_other_input",
        "models/methods/jepa.py",
        "        self.teacher.load_state_dict(self.encoder.state_dict())\n",
        "",
        "the teacher is a copy from the start",
        ("models/methods/test_jepa.py",),
    ),
    Mutant(
        "standardised_over_places",
        "models/methods/jepa.py",
        "F.layer_norm(target, target.shape[-1:])",
        "F.layer_norm(target, target.shape[-2:])",
        "as of an image's whole patch",
        ("models/methods/test_jepa.py",),
    ),
    Mutant(
        "answer_among_the_others",
        "models/methods/cpc.py",
        '1 + batch["random"].integers(count - 1,',
        'batch["random"].integers(count,',
        "any step of the record will do",
        ("models/methods/test_cpc.py",),
    ),
    Mutant(
        "end_wraps_around",
        "models/encoder/s4.py",
        "padded = 2 * length",
        "padded = length",
        "the FFT of a signal has its length",
        ("models/methods/test_cpc.py",),
    ),
    # ============ weights, resume rules, graph, movement ============
    Mutant(
        "leads_in_inverse_order",
        "util/contract/encoder.py",
        "[list(leads).index(lead) for lead in own]",
        "[own.index(lead) for lead in leads]",
        "right for two leads that change places",
        ("util/weights/test_encoder_file.py",),
    ),
    Mutant(
        "overlap_by_record",
        "util/weights/seen_labels.py",
        "torch.isin(tested, self.trained).any(dim=1)",
        "torch.isin(tested[:, 0], self.trained)",
        "the record's hash comes first",
        ("jobs/test_label_overlap.py",),
    ),
    Mutant(
        "share_may_change",
        "util/config/keys.py",
        '        "1 % of the labels",\n',
        '        "1 % of the labels",\n        resumed="free",\n',
        "copied from a key of the loader",
        ("jobs/test_faults.py::test_a_loop_over_folds_under_one_name_ends_at_the_second",),
    ),
    Mutant(
        "fold_0_is_none",
        "util/training/resolved.py",
        "    if fold is not None:\n",
        "    if fold:\n",
        "0 is false",
        ("util/training/test_resolved.py",),
    ),
    Mutant(
        "rehearsal_counts",
        "util/training/step_graph.py",
        "        finally:\n            torch._foreach_copy_(changing, before)\n",
        "        finally:\n            pass\n",
        "a capture runs nothing, and the rehearsal is forgotten",
        ("util/training/test_step_graph.py",),
    ),
    Mutant(
        "logged_by_the_last_replay",
        "util/training/step_graph.py",
        "            self._update_by(gradients)\n        return values.clone()",
        "            self._update_by(gradients)\n        return values",
        "one copy less, and a mean of one step is right",
        (
            "util/training/test_step_graph.py::test_what_is_logged_of_a_step_outlives_the_next_replay",
        ),
    ),
    Mutant(
        "statistics_may_move",
        "util/jobs/job.py",
        "dict([*model.named_parameters(), *model.named_buffers()])",
        "dict(model.named_parameters())",
        "what is frozen are parameters",
        ("util/training/test_movement.py",),
    ),
]
