"""The card of a weights file."""

from experiments import describe
from tests.support import small_store
from tests.support.small_store import run


def test_a_card_says_what_weights_take_give_and_came_from(capsys):
    weights = next(small_store.trained_signal().rglob("fold3_bestROC.pth"))
    capsys.readouterr()
    run(describe.main, weights)
    text = capsys.readouterr().out
    for words in (
        "# fold3_bestROC.pth: xresnet1d50",
        "- leads: I II III aVR aVL aVF V1 V2 V3 V4 V5 V6",
        "- resampled to: 100 Hz",
        "- crops: 250 samples, 2.5 s",
        "IAVB (270492004), AF (164889003)",
        "- test fold: 3",
        "- licence: not stated",
        "- scores on the selection fold: loss ",
    ):
        assert words in text
