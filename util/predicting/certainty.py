"""How sure an ensemble is, by its selection folds: a temperature, and conformal label sets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from util.console import note
from util.errors import ConfigError
from util.evaluation.trained import Trained
from util.scoring.calibration import COVERAGES, LabelSets, tempered

DEFAULT = 0.9
NAMED = 6  # open classes that a page names


@dataclass(frozen=True)
class Certainty:
    """What is known of an ensemble's probabilities.

    Attributes:
        temperature: by which logits are divided, the mean of the weights'; None unknown.
        sets: limits of label sets, the widest of the weights'; None unknown.
    """

    temperature: float | None = None
    sets: LabelSets | None = None

    def calibrated(self, probabilities: np.ndarray) -> np.ndarray | None:
        """Return tempered probabilities; None without a temperature."""
        return None if self.temperature is None else tempered(probabilities, self.temperature)

    def facts(self, probabilities: np.ndarray) -> list[dict[str, Any]]:
        """Return what is known of each class, for JSON; probabilities (classes,)."""
        known: list[dict[str, Any]] = [{} for _ in probabilities]
        calibrated = self.calibrated(probabilities)
        for c, about in enumerate(known):
            if calibrated is not None:
                about["calibrated"] = float(calibrated[c])
        if self.sets is not None:
            sides = {
                "present": self.sets.may_be_present(probabilities),
                "absent": self.sets.may_be_absent(probabilities),
            }
            for c, about in enumerate(known):
                about["label_set"] = [side for side, holds in sides.items() if holds[c]]
        return known

    def lines(
        self, probabilities: np.ndarray, outputs: np.ndarray, names: Sequence[str]
    ) -> list[str]:
        """Return sentences for a page.

        Args:
            probabilities: (classes,).
            outputs: bool (classes,), of which the calibrated probability is said.
            names: of the classes.
        """
        lines = []
        calibrated = self.calibrated(probabilities)
        if calibrated is not None and outputs.any():
            named = zip(names, calibrated, outputs)
            said = ", ".join(f"{name} {value:.2f}" for name, value, is_output in named if is_output)
            lines.append(f"Calibrated (temperature {self.temperature:.2f}): {said}")
        if self.sets is not None:
            lines.append(self._sets(self.sets, probabilities, names))
        return lines

    def _sets(self, sets: LabelSets, probabilities: np.ndarray, names: Sequence[str]) -> str:
        decided = sets.decided(probabilities)
        few = sets.present <= 0
        order = np.argsort(-probabilities, kind="stable")
        sure = [names[c] for c in order if decided[c] == 1]
        unclear = [names[c] for c in order if np.isnan(decided[c]) and not few[c]]
        more = f" and {len(unclear) - NAMED} more" * (len(unclear) > NAMED)
        parts = [
            f"present: {', '.join(sure) or 'none'}",
            f"open: {', '.join(unclear[:NAMED]) or 'none'}{more}",
            f"absent: {int((decided == 0).sum())} of {len(names)} classes",
        ]
        unknown = int((np.isnan(decided) & few).sum())
        if unknown:
            parts.append(f"too rare on the selection fold to rule out: {unknown}")
        return f"{sets.coverage:.0%} label sets: {'; '.join(parts)}"


def certainty_of(ensemble: Sequence[Trained], coverage: float | None) -> Certainty:
    """Return what an ensemble's weights keep of their selection folds.

    Args:
        ensemble: the weights.
        coverage: of the label sets, asked for; None: ``DEFAULT``, where they keep any.

    Raises:
        ConfigError: weights keep no label sets, or none of this coverage.
    """
    without = [trained.path.name for trained in ensemble if not trained.sets]
    if without:
        if coverage is not None:
            raise ConfigError(
                f"--coverage: {', '.join(without)} keeps no label sets of its selection fold (an "
                "earlier version, or a regression); train anew, or leave it out"
            )
        return Certainty()
    wanted = DEFAULT if coverage is None else coverage
    kept = [trained.sets.get(wanted) for trained in ensemble]
    found = [sets for sets in kept if sets is not None]
    if len(found) < len(kept):
        raise ConfigError(f"--coverage {wanted:g}: weights keep {', '.join(map(str, COVERAGES))}")
    if len(ensemble) > 1:
        note(f"label sets of {len(ensemble)} weights: the widest limits, which leave most open")
    by = [trained.temperature for trained in ensemble if trained.temperature is not None]
    several = float(np.mean(by)) if len(by) == len(ensemble) else None
    return Certainty(several, LabelSets.widest(found))
