"""A table as Markdown."""

import pandas as pd

from experiments.tables.page import optimism


def test_seeds_of_a_fold_are_no_further_folds():
    test, selection = [0.1, 0.2, 0.3, 0.2, 0.1, 0.3], [0.3, 0.2, 0.4, 0.5, 0.1, 0.4]
    once = pd.DataFrame({"fold": range(6), "AUROC": test, "selection_AUROC": selection})
    assert optimism(pd.concat([once, once]), "AUROC") == optimism(once, "AUROC") != ""
