"""What every test begins with, and which tests are quick: all that are neither slow nor listed."""

import os
import tempfile
from pathlib import Path

import pytest
import torch

from tests.support.stand_in import force_matmul_precision
from util import console

force_matmul_precision()
# What jobs measure beside other tests is nothing to keep for the user's own.
os.environ.setdefault("ECG_CACHE", os.path.join(tempfile.gettempdir(), "ecg_tests"))
if "ATEN_CPU_CAPABILITY" in os.environ:
    # As a processor without AMX: torch asks oneDNN, which looks at the real one, whether its
    # attention may pack bf16, and then lacks the kernel.
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")

ROOT = Path(__file__).resolve().parents[1]
# Folders and files of whole jobs, of further processes or of seconds a test.
LONG_FILES = (
    "tests/benchmarks",
    "tests/data_preparation/test_benchmark_labels.py",
    "tests/data_preparation/test_duplicates.py",
    "tests/data_preparation/test_extraction.py",
    "tests/data_preparation/test_folds.py",
    "tests/data_preparation/test_import_arrays.py",
    "tests/data_preparation/test_joining.py",
    "tests/data_preparation/test_known_sets.py",
    "tests/data_preparation/test_looks.py",
    "tests/data_preparation/test_metadata.py",
    "tests/data_preparation/test_patients.py",
    "tests/data_preparation/test_same_signals.py",
    "tests/data_preparation/test_simulator.py",
    "tests/experiments",
    "tests/jobs",
    "tests/models/encoder/test_vit_dropout.py",
    "tests/models/methods/test_dino.py",
    "tests/models/methods/test_golden.py",
    "tests/models/methods/test_ssl_encoders.py",
    "tests/models/methods/test_streams.py",
    "tests/util/config/test_fuzz_config.py",
    "tests/util/evaluation/test_figures.py",
    "tests/util/evaluation/test_head_start.py",
    "tests/util/evaluation/test_probes.py",
    "tests/util/explain",
    "tests/util/handover",
    "tests/util/predicting",
    "tests/util/processes",
    "tests/util/formats/test_any_file.py",
    "tests/util/formats/test_fuzz_records.py",
    "tests/util/reports",
    "tests/util/scoring/test_calibration.py",
    "tests/util/scoring/test_decoding.py",
    "tests/util/scoring/test_intervals.py",
    "tests/util/scoring/test_thresholds.py",
    "tests/util/weights/test_checkpoint.py",
    "tests/util/weights/test_encoder_file.py",
    "tests/util/weights/test_names.py",
    "tests/util/training/test_compile.py",
    "tests/util/training/test_engine.py",
    "tests/util/training/test_gpu_step.py",
    "tests/util/training/test_movement.py",
    "tests/util/training/test_resolved.py",
    "tests/util/training/test_step_graph.py",
)
# Tests of seconds in files of otherwise quick ones.
LONG_TESTS = {
    "test_the_teacher_is_what_is_handed_on",
    "test_30_minutes_of_format_80_equal_wfdb",
    "test_a_12_lead_checkpoint_serves_any_leads_in_any_order",
    "test_a_flat_lead_comes_out_as_exact_zeros",
    "test_a_published_overlay_turns_on_all_published_choices",
    "test_a_wandering_baseline_costs_float32_no_digits",
    "test_an_electrode_offset_of_hundred_millivolts_costs_no_digits",
    "test_dropped_samples_are_distributed_as_published",
    "test_every_command_of_an_example_runs_as_it_stands",
    "test_every_config_builds_its_transforms_and_its_model",
    "test_every_overlay_merges_over_a_config_it_is_made_for",
    "test_every_parameter_learns_and_it_learns_to_tell_steps_apart",
    "test_filters_at_other_rates_and_cutoffs",
    "test_filters_equal_scipys_on_every_kind_of_signal",
    "test_frozen_parts_stay_bit_for_bit_and_the_others_learn",
    "test_it_learns_to_predict_crops_that_repeat",
    "test_partial_noise_is_distributed_as_published",
    "test_preprocessing_equals_the_recorded_arrays",
    "test_target_on_two_processes_is_the_closed_form_and_the_same_on_both",
    "test_the_examples_pass_the_linter",
    "test_the_first_losses_of_pretraining_do_not_depend_on_the_number_of_workers",
    "test_the_next_one_waits_for_the_first_to_end",
    "test_two_processes_of_batch_8_equal_one_of_batch_16",
    "test_whatever_a_file_holds_it_is_read_or_explained",
}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out files without a quick test where these alone are asked for: some import a lot."""
    asked = config.option.markexpr == "quick"
    return True if asked and collection_path.relative_to(ROOT).as_posix() in LONG_FILES else None


@pytest.hookimpl(tryfirst=True)  # before those that are not asked for are taken out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the quick tests."""
    for item in items:
        long = item.nodeid.startswith(LONG_FILES) or item.originalname in LONG_TESTS
        if not long and not item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.quick)


@pytest.fixture(autouse=True)
def plain_products():
    """Full float32 products, whatever a training in this process, of a test before or of a
    fixture, has chosen.
    """
    torch.set_float32_matmul_precision("highest")


@pytest.fixture(autouse=True)
def nothing_said():
    """What one test has made the process say does not reach the next one."""
    for state in (console._said, console._folder, console._jobs, console._quiet):
        state.clear()


@pytest.fixture
def sentences():
    """A function that returns what has been said since it was last called."""

    def since_last():
        said = console.said()
        console.begin_job()
        return said

    console.begin_job()
    yield since_last
    console.begin_job()
