"""experiments/predict.py: recordings in, Challenge files out."""

import csv
import json
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.signal
import torch

from data_preparation.building.reformat import reformat
from data_preparation.importing.shards import import_recordings
from data_preparation.importing.wfdb_source import wfdb_source
from experiments import predict
from tests.support.hospital_files import made_lead, made_record, stand_in
from tests.support.small_store import recordings, run, store, trained_signal
from tests.support.wfdb_files import SHARED, ecg_counts, needs_broken, write_record
from util.challenge import ABBREVIATIONS, CLASSES, NAMES
from util.data.store import ABSENT
from util.errors import CheckpointError, ConfigError, ECGError
from util.evaluation.trained import load_trained
from util.formats.any_file import find_places
from util.leads import LEADS
from util.predicting import job as predicting
from util.predicting import recordings as reading
from util.predicting.decisions import by_thresholds
from util.predicting.recordings import read_entry
from util.recordings.flags import Given
from util.scoring.calibration import tempered
from util.scoring.decoding import expected_outputs
from util.scoring.operating_points import choose_thresholds
from util.scoring.predictions import Predictions
from util.scoring.thresholds import Thresholds, save_thresholds

ROC, OTHER = "fold3_bestROC.pth", "fold9_bestROC.pth"


def diagnose(given, output, *flags, weights=(ROC,)):
    """Run the script; the summary as a table by record."""
    run(
        predict.main,
        "--weights",
        *(trained_signal() / name for name in weights),
        "--input",
        given,
        "--output",
        output,
        "--gpu",
        "cpu",
        *flags,
    )
    return pd.read_csv(output / "summary.csv", keep_default_na=False).set_index("record")


def scorer_reads(path):
    """What the Challenge's scorer takes from an output file: line 2 labels, line 3 outputs, line
    4 scores.
    """
    lines = path.read_text().splitlines()
    assert len(lines) == 4 and lines[0] == f"#{path.stem}"
    codes, outputs, scores = ([cell.strip() for cell in line.split(",")] for line in lines[1:])
    assert set(outputs) <= {"0", "1"} and len(codes) == len(outputs) == len(scores) == 24
    return codes, [cell == "1" for cell in outputs], [float(cell) for cell in scores]


def test_predictions_equal_those_of_the_evaluation_after_training(tmp_path):
    """The same resampling, rounding, windows, padding and transforms; the recordings of fold 3
    and, short, E079.
    """
    diagnose(recordings(), tmp_path)
    compared = []
    for fold, weights in ((3, ROC), (9, OTHER)):
        table = pd.read_csv(trained_signal() / f"fold{fold}" / "test_predictions.csv").set_index(
            "record"
        )
        diagnose(recordings(), tmp_path, "--decide", "0.5", weights=(weights,))
        for record, row in table.iterrows():
            codes, outputs, scores = scorer_reads(tmp_path / f"{record}.csv")
            assert tuple(codes) == CLASSES
            np.testing.assert_allclose(
                scores,
                row[[f"probability_{name}" for name in ABBREVIATIONS]].astype(float),
                rtol=2e-5,
                atol=1e-6,
            )
            assert outputs == [score >= 0.5 for score in scores]
            compared.append(record)
    assert len(compared) > 10
    assert len(list(tmp_path.glob("E*.csv"))) == 80


def test_a_store_gives_the_predictions_of_its_recordings(tmp_path):
    files, stored = (
        diagnose(recordings(), tmp_path / "files"),
        diagnose(store(), tmp_path / "stored", "--plot"),
    )
    assert sorted(stored.index) == sorted(files.index) and len(stored) == 80
    names = list(ABBREVIATIONS)
    np.testing.assert_array_equal(
        stored[names].astype(float), files.loc[stored.index, names].astype(float)
    )
    assert "shorter than the model's crop" in stored.loc["E079", "remark"]
    assert (
        len(scorer_reads(tmp_path / "stored" / "E079.csv")) == 3
        and (tmp_path / "stored" / "E079.png").exists()
    )


def test_a_store_without_the_weights_rate_or_with_lead_names_has_a_sentence(tmp_path):
    (tmp_path / "fs500").mkdir()
    (tmp_path / "fs500" / "meta.json").write_text("{}")
    for flags, said in (
        ((), "no store at .*fs100; it holds fs500"),
        (("--lead_names", "ECG=I"), "no effect on a store"),
    ):
        with pytest.raises(ECGError, match=said):
            predict.main(
                [
                    "--weights",
                    str(trained_signal() / ROC),
                    "--input",
                    str(tmp_path),
                    "--output",
                    str(tmp_path / "out"),
                    "--gpu",
                    "cpu",
                    *flags,
                ]
            )


def test_a_short_recording_alone_is_padded_with_a_remark(tmp_path):
    """Defect 7: one record, one window; the batch dimension must stay."""
    together = diagnose(recordings(), tmp_path / "all")
    for given in (recordings() / "g1" / "E079.hea", recordings() / "g1" / "E079"):
        alone = diagnose(given, tmp_path / "one")
        assert (
            len(alone) == 1
            and "shorter than the model's crop of 2.5 s: padded" in alone.loc["E079", "remark"]
        )
        np.testing.assert_allclose(
            alone.loc["E079", list(ABBREVIATIONS)].astype(float),
            together.loc["E079", list(ABBREVIATIONS)].astype(float),
            atol=1e-6,
        )


def test_thresholds_decide_and_the_summary_says_it_in_words(tmp_path):
    given = recordings() / "g1" / "E001"
    first = diagnose(given, tmp_path).loc["E001", list(ABBREVIATIONS)].astype(float).to_numpy()
    thresholds = np.full(24, 2.0)
    thresholds[[4, 7]] = first[4] - 1e-4, first[7] + 1e-4
    save_thresholds(tmp_path / "t.json", Thresholds(thresholds, 0.5, 10, "by hand"))
    table = diagnose(given, tmp_path, "--thresholds", tmp_path / "t.json")
    _, outputs, _ = scorer_reads(tmp_path / "E001.csv")
    assert np.flatnonzero(outputs).tolist() == [4]
    assert table.loc["E001", "diagnoses"] == NAMES[4]
    found = by_thresholds(np.array([0.3, 0.71]), "by hand")
    assert found.outputs(np.array([[0.3, 0.7]])).tolist() == [[True, False]]


def test_a_file_without_thresholds_decodes_by_expected_score(tmp_path):
    save_thresholds(tmp_path / "t.json", Thresholds(None, 0.5, 10, "expected score"))
    table = diagnose(recordings(), tmp_path, "--thresholds", tmp_path / "t.json")
    read = [scorer_reads(tmp_path / f"{record}.csv")[1:] for record in table.index]
    outputs, probabilities = (np.array(part) for part in zip(*read))
    np.testing.assert_array_equal(outputs, expected_outputs(probabilities))
    assert outputs.any(axis=1).all() and (outputs != (probabilities >= 0.5)).any()


def test_an_ensemble_is_the_mean_of_probabilities(tmp_path):
    given = recordings() / "g1" / "E004"
    one, two, both = (
        diagnose(given, tmp_path, weights=weights)[list(ABBREVIATIONS)].astype(float).to_numpy()
        for weights in ((ROC,), (OTHER,), (ROC, OTHER))
    )
    np.testing.assert_allclose(both, (one + two) / 2, atol=2e-6)
    assert not np.allclose(one, two, atol=1e-3)


def test_weights_of_other_classes_make_no_ensemble(tmp_path):
    content = torch.load(trained_signal() / ROC, weights_only=True)
    content["config"]["dataset"]["classes"] = {
        f"c{i}": [code] for i, code in enumerate(reversed(CLASSES))
    }
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="other classes"):
        run(
            predict.main,
            "--weights",
            trained_signal() / ROC,
            tmp_path / "other.pth",
            "--input",
            recordings(),
            "--output",
            tmp_path,
            "--gpu",
            "cpu",
        )
    assert load_trained(tmp_path / "other.pth").codes == CLASSES[::-1]


def test_any_sampling_rate_and_length(tmp_path):
    write_record(tmp_path / "in", "slow", ecg_counts(257 * 60), fs="257")
    write_record(tmp_path / "in", "fast", ecg_counts(4000), fs="1000")
    table = diagnose(tmp_path / "in", tmp_path / "out")
    assert (
        table[list(ABBREVIATIONS)]
        .astype(float)
        .apply(lambda column: column.between(0, 1))
        .all(axis=None)
    )


def test_a_recording_above_32_millivolts_keeps_its_millivolts(tmp_path):
    """Its counts are of 2 microvolts and more, unlike its neighbour's: each has a scale of its
    own.  Compared with the classifier's own answer to the float signal.
    """
    given, length = tmp_path / "in", 1250  # 2.5 s at 500 Hz: one crop of 250
    small = ecg_counts(length).clip(-900, 900)
    for name, gain in (("a", "1000/mV"), ("b", "12.5/mV")):  # b: up to 72 mV
        write_record(given, name, small, gain=gain)
    table = diagnose(given, tmp_path / "out")
    trained = load_trained(trained_signal() / ROC)
    for name, millivolts in (("a", 1 / 1000), ("b", 1 / 12.5)):
        signal = scipy.signal.resample(small * millivolts, 250).T[None].astype(np.float32)
        assert (abs(signal).max() > 32.767) == (name == "b")
        with torch.no_grad():
            expected = trained.classifier(trained.pipeline(torch.from_numpy(signal))).sigmoid()[0]
        got = table.loc[name, list(ABBREVIATIONS)].astype(float).to_numpy()
        np.testing.assert_allclose(got, expected, atol=2e-3)
    assert (
        np.abs(
            table.loc["a", list(ABBREVIATIONS)].astype(float)
            - table.loc["b", list(ABBREVIATIONS)].astype(float)
        ).max()
        > 0.02
    )


def test_a_recording_that_lacks_a_lead_is_reported(tmp_path, capsys):
    write_record(tmp_path / "in", "eleven", ecg_counts(2500, leads=11), leads=LEADS[:11])
    write_record(tmp_path / "in", "twelve", ecg_counts(2500))
    table = diagnose(tmp_path / "in", tmp_path / "out")
    assert table.loc["eleven", "remark"] == "not read: lead V6 missing, which the model needs"
    assert "1 recordings predicted, 1 not read" in capsys.readouterr().out


EIGHT = [0, 1, *range(6, 12)]


def eight_and_twelve(seed=0):
    """int16 (2500, 12) whose limb leads follow from I and II, in whole microvolts."""
    counts = 2 * (ecg_counts(2500, seed) // 4)
    one, two = counts[:, 0], counts[:, 1]
    counts[:, 2:6] = np.stack(
        [two - one, -(one + two) // 2, one - two // 2, two - one // 2], axis=1
    )
    return counts


def test_eight_leads_give_the_predictions_of_twelve(tmp_path):
    """In WFDB, in an array and in a store, at the rate of the weights: to the count."""
    counts, names = eight_and_twelve(), [LEADS[k] for k in EIGHT]
    write_record(tmp_path / "in", "twelve", counts, fs="100")
    write_record(tmp_path / "in", "eight", counts[:, EIGHT].copy(), leads=names, fs="100")
    table = diagnose(tmp_path / "in", tmp_path / "out")
    expected = table.loc["twelve", list(ABBREVIATIONS)].astype(float)
    told = "III, aVR, aVL, aVF derived from I and II"
    assert table.loc["eight", "remark"] == told and table.loc["twelve", "remark"] == ""

    np.save(tmp_path / "eight.npy", counts[:, EIGHT].T)
    said = ("--fs", 100, "--units", "uV", "--leads", ",".join(names))
    array = diagnose(tmp_path / "eight.npy", tmp_path / "array", *said)

    source = wfdb_source(tmp_path / "in")
    import_recordings(source, tmp_path / "extracted", [100], 1, derive=False)
    reformat(tmp_path / "extracted", tmp_path / "store")
    stored = diagnose(tmp_path / "store", tmp_path / "stored")
    for found in (table, array, stored):
        got = found.loc["eight", list(ABBREVIATIONS)].astype(float)
        np.testing.assert_allclose(got, expected, rtol=1e-5)
        assert told in found.loc["eight", "remark"]
    for given in (tmp_path / "in", tmp_path / "store"):
        refused = diagnose(given, tmp_path / "refused", "--no_derive")
        assert refused.loc["eight", "remark"].startswith("not read: lead III, aVR, aVL, aVF miss")


def test_a_folder_of_several_formats(tmp_path, monkeypatch):
    counts = eight_and_twelve()
    pydicom = pytest.importorskip("pydicom", reason="DICOM needs pydicom")
    folder = tmp_path / "in"
    write_record(folder, "wfdb", counts)
    np.save(folder / "many.npy", np.stack([counts, counts]) / 1000)
    np.save(folder / "one.npy", counts / 1000)
    lines = [",".join(LEADS), *(",".join(map(str, row)) for row in counts / 1000)]
    (folder / "csv.csv").write_text("\n".join(lines))
    (folder / "labels.csv").write_text("record,AF\nwfdb,1\n")
    shutil.copy(pydicom.examples.get_path("waveform"), folder / "dicom.dcm")
    (folder / "export.xml").write_text("<RestingECG/>")
    leads = [made_lead(LEADS[k], counts[:, k] / 1000) for k in EIGHT]
    stand_in(monkeypatch, lambda path: made_record(leads))
    (folder / "bad.npy").write_text("damaged")
    table = diagnose(folder, tmp_path / "out", "--fs", 500)
    expected = table.loc["wfdb", list(ABBREVIATIONS)].astype(float)
    for name in ("many-0", "many-1", "one", "csv", "export"):
        got = table.loc[name, list(ABBREVIATIONS)].astype(float)
        np.testing.assert_allclose(got, expected, rtol=1e-4)
    assert len(scorer_reads(tmp_path / "out" / "dicom.csv")) == 3
    assert table.loc["bad", "remark"].startswith("not read: no .npy file of numbers")
    assert len(table) == 8

    monkeypatch.setitem(sys.modules, "ecgdatakit", None)
    again = diagnose(folder, tmp_path / "again", "--fs", 500)
    assert "not read: hospital exports" in again.loc["export", "remark"]
    with pytest.raises(ConfigError, match="^--fs is missing: npy files do not say"):
        diagnose(folder / "one.npy", tmp_path / "none")


def test_one_lead_is_enough_for_a_model_of_one_lead(tmp_path):
    path = write_record(tmp_path, "A00001", ecg_counts(3000, leads=1), leads=("ECG",), fs="300")
    (place,) = find_places(path, Given())
    entry = read_entry(place, [300], 2.5, ("I",), Given(lead_names={"ecg": "I"}))
    np.testing.assert_array_equal(entry.counts[300][:, 0], ecg_counts(3000, leads=1)[:, 0])
    assert (entry.counts[300][:, 1:] == ABSENT).all()
    assert (entry.shown.fs, entry.shown.leads, entry.seconds) == (300, ("I",), 10)


def test_memory_is_bounded_and_chunks_change_nothing(tmp_path, monkeypatch):
    whole = diagnose(recordings(), tmp_path / "a")
    sizes = []
    real = predicting.probabilities_of
    monkeypatch.setattr(reading, "CHUNK_SAMPLES", 2000)
    monkeypatch.setattr(
        predicting,
        "probabilities_of",
        lambda entries, *rest: sizes.append(len(entries)) or real(entries, *rest),
    )
    parts = diagnose(recordings(), tmp_path / "b")
    assert max(sizes) <= 5 and sum(sizes) == 80
    np.testing.assert_allclose(
        *(table[list(ABBREVIATIONS)].astype(float) for table in (whole, parts)), atol=1e-6
    )


@needs_broken
def test_broken_recordings_are_reported_and_do_not_stop_the_rest(tmp_path, capsys):
    table = diagnose(SHARED / "broken", tmp_path)
    with open(SHARED / "broken" / "expected.csv", newline="") as file:
        expected = list(csv.DictReader(file))
    for row in expected:
        name = row["record"].split("/")[-1]
        if row["expected"] == "accept" or name in (
            "A9012",
            "A9010",
        ):  # 1 s is padded; of two A9010 the first counts
            scorer_reads(tmp_path / f"{name}.csv")
        else:
            assert (
                not (tmp_path / f"{name}.csv").exists()
                and "not read: " in table.loc[name, "remark"]
            )
    assert "shorter than the model's crop" in table.loc["A9012", "remark"]
    assert (
        "not read" in table.loc["A9010", "remark"].iloc[1]
        and "A9010 is taken" in capsys.readouterr().out
    )


def test_nothing_is_written_outside_the_output_folder(tmp_path):
    good = write_record(tmp_path / "in", "good")
    text = good.read_text()
    for number, name in enumerate(("..", "a;b", "summary", "=1+1", "sp ace", "x\ny")):
        folder = tmp_path / "in" / f"{number}"
        folder.mkdir()
        (folder / f"{name}.hea").write_text(text)
        (folder / "good.mat").write_bytes(good.with_suffix(".mat").read_bytes())
    evil = tmp_path / "in" / "evil.hea"
    evil.write_text(text.replace("good 12", "../../evil 12", 1))
    table = diagnose(tmp_path / "in", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "good.csv",
        "summary.csv",
        "console.txt",
    }
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out"}
    assert len(table) == 8 and (table["remark"].str.contains("not read")).sum() == 7
    assert not any(str(name).startswith("=") for name in table.index)


def test_unforeseen_failures_are_reported_too(tmp_path, monkeypatch):
    def fail_on_five(place, said, real=reading.read_recording):
        if place.name == "E005":
            raise ZeroDivisionError("surprise")
        return real(place, said)

    monkeypatch.setattr(reading, "read_recording", fail_on_five)
    table = diagnose(recordings(), tmp_path)
    assert (
        table.loc["E005", "remark"] == "not read: unexpected ZeroDivisionError: surprise"
        and len(table) == 80
    )


def test_nothing_readable_is_an_error(tmp_path):
    with pytest.raises(ECGError, match="no recording there"):
        diagnose(tmp_path, tmp_path / "out")
    (tmp_path / "x.hea").write_text("nothing")
    with pytest.raises(ECGError, match="none of the 1 recordings"):
        diagnose(tmp_path, tmp_path / "out")


def test_pages_and_json_lie_beside_the_csv(tmp_path):
    given = recordings() / "g1" / "E002"
    diagnose(given, tmp_path / "png", "--plot")
    assert (tmp_path / "png" / "E002.png").read_bytes().startswith(b"\x89PNG")
    table = diagnose(given, tmp_path, "--pdf", "--json").loc["E002"]
    assert (tmp_path / "E002.png").exists()
    assert (tmp_path / "E002.pdf").read_bytes().startswith(b"%PDF")
    (told,) = json.loads((tmp_path / "summary.json").read_text())
    assert told == json.loads((tmp_path / "E002.json").read_text())
    assert (told["age"], told["sex"], told["fs"], told["seconds"]) == (50, "Female", 500, 5)
    assert told["use"] == "research use only" and told["model"] == "xresnet1d50"
    kept = load_trained(trained_signal() / ROC)
    named = [one["name"] for one in told["classes"] if one["output"]]
    assert sorted(named) == sorted(told["diagnoses"]) == sorted(table["diagnoses"].split("; "))
    for one, name in zip(told["classes"], ABBREVIATIONS):
        assert one["probability"] == pytest.approx(float(table[name]), rel=1e-4)
        assert one["output"] == (one["probability"] >= one["threshold"])
        assert one["calibrated"] == pytest.approx(tempered(one["probability"], kept.temperature))
        limits = kept.sets[0.9].present[ABBREVIATIONS.index(name)]
        assert ("present" in one["label_set"]) == (one["probability"] >= limits)


def test_the_weights_own_thresholds_decide_by_the_rule_that_is_asked_for(tmp_path):
    """They are those of the selection fold's predictions, by F1 unless asked otherwise."""
    chosen = Predictions.load(trained_signal() / "fold3" / "selection_predictions.npz")
    given = recordings() / "g1"
    for rule, flags in (("f1", ()), ("youden", ("--decide", "youden"))):
        diagnose(given, tmp_path, *flags)
        thresholds = choose_thresholds(chosen.labels, chosen.outputs, rule)
        rows = [scorer_reads(path)[1:] for path in sorted(tmp_path.glob("E*.csv"))]
        outputs, p = (np.array(part) for part in zip(*rows))
        apart = np.abs(p - thresholds) > 1e-5
        np.testing.assert_array_equal(outputs[apart], (p >= thresholds)[apart])


def test_weights_of_before_say_that_they_keep_no_thresholds(tmp_path, capsys):
    content = torch.load(trained_signal() / ROC, weights_only=True)
    assert {"youden", "f1", "sensitivity=0.90"} <= set(content.pop("thresholds"))
    torch.save(content, tmp_path / "old.pth")
    given = recordings() / "g1" / "E002"
    diagnose(given, tmp_path, weights=(tmp_path / "old.pth",))
    said = capsys.readouterr().out
    assert (
        "old.pth keeps none of its selection fold by f1, so every class is decided at 0.5" in said
    )
    _, outputs, scores = scorer_reads(tmp_path / "E002.csv")
    assert outputs == [score >= 0.5 for score in scores]
    torch.save({**content, "thresholds": {"f1": [0.5, "x"]}}, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match="its thresholds cannot be used"):
        diagnose(given, tmp_path, weights=(tmp_path / "bad.pth",))
    content["calibration"]["sets"]["0.90"]["present"] = [2.0] * 24
    torch.save(content, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match="its calibration cannot be used"):
        diagnose(given, tmp_path, weights=(tmp_path / "bad.pth",))
    del content["calibration"]
    torch.save(content, tmp_path / "old.pth")
    diagnose(given, tmp_path, "--json", weights=(tmp_path / "old.pth",))
    assert "label_set" not in (tmp_path / "E002.json").read_text()
    with pytest.raises(ConfigError, match="--coverage: old.pth keeps no label sets"):
        diagnose(given, tmp_path, "--coverage", 0.9, weights=(tmp_path / "old.pth",))


def test_expected_score_decides_the_challenge_s_csv_and_no_diagnosis(tmp_path):
    save_thresholds(tmp_path / "t.json", Thresholds(None, 0.5, 10, "expected score"))
    given, out = recordings() / "g1" / "E002", tmp_path / "out"
    usual = diagnose(given, out)["diagnoses"]
    decoded = diagnose(given, out, "--thresholds", tmp_path / "t.json")
    _, outputs, scores = scorer_reads(out / "E002.csv")
    expected = expected_outputs(np.array([scores]))[0]
    assert outputs == expected.tolist()
    assert decoded["diagnoses"].tolist() == usual.tolist()
    asked = diagnose(given, out, "--decide", "expected").loc["E002", "diagnoses"]
    assert set(asked.split("; ")) == {NAMES[c] for c in np.flatnonzero(expected)}


def test_contradictory_diagnoses_are_marked(tmp_path, capsys):
    thresholds = np.full(24, 2.0)
    tachycardia, bradycardia = ABBREVIATIONS.index("STach"), ABBREVIATIONS.index("Brady")
    thresholds[[tachycardia, bradycardia]] = 0
    save_thresholds(tmp_path / "t.json", Thresholds(thresholds, 0.5, 10, "by hand"))
    given = recordings() / "g1" / "E002"
    table = diagnose(given, tmp_path / "out", "--thresholds", tmp_path / "t.json", "--plot")
    assert table.loc["E002", "contradictions"] == "bradycardia with sinus tachycardia"
    assert "1 recordings have diagnoses that exclude each other" in capsys.readouterr().out


def test_a_wrong_rule_has_a_sentence_before_anything_is_read(tmp_path):
    with pytest.raises(ConfigError, match="--decide best: there is no such rule; known: youden"):
        diagnose(tmp_path / "nothing", tmp_path, "--decide", "best")
    with pytest.raises(ConfigError, match="--watch .*no such folder; make it first"):
        words = ["--watch", tmp_path / "no", "--output", tmp_path, "--gpu", "cpu"]
        run(predict.main, "--weights", trained_signal() / ROC, *words)


def test_weights_without_their_config_are_refused(tmp_path):
    torch.save({"model": {}}, tmp_path / "bare.pth")
    with pytest.raises(CheckpointError, match="does not carry the config"):
        run(
            predict.main,
            "--weights",
            tmp_path / "bare.pth",
            "--input",
            recordings(),
            "--output",
            tmp_path,
            "--gpu",
            "cpu",
        )
