"""What a table of configs/tables holds: its rows, and the config that each is trained by."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from util.config.load import ROOT, Job, find_overlay, load_config, read_yaml
from util.data.splits import parse_folds
from util.errors import ConfigError

TABLES = ROOT / "configs" / "tables"
ROW_KEYS = ("name", "config", "overlay", "set", "model", "pretrain", "knn", "folds", "against")
VIEW_KEYS = ("about", "seeds", "score", "methods")  # in which a view of a table may differ from it
KEYS = (*VIEW_KEYS, "config", "overlay", "set", "folds", "pretrain", "rows", "runs")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a config is made of.

    Attributes:
        config: a file of configs/, without its suffix.
        overlay: names in configs/overlay, merged over it.
        overrides: texts KEY=VALUE, merged over these.
        model: keys of the model, merged over all others.
    """

    config: str
    overlay: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    model: dict = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Row(Recipe):
    """A row of a table.

    Attributes:
        name: as the table prints it.
        pretrain: how its encoder is pre-trained; None without one.
        knn: the number of nearest neighbours that score it instead of a training; 0: train.
        groups: test folds; those of a group share an encoder.
        against: the name of the row with which it is compared.
    """

    name: str
    pretrain: Recipe | None
    knn: int
    groups: list[list[int]]
    against: str

    @property
    def folds(self) -> list[int]:
        """The folds by which the row is tested."""
        return sum(self.groups, [])


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of RESULTS.md.

    Attributes:
        name: of its file in configs/tables, without the suffix.
        runs: the table whose trainings it shows: itself, or another of which it is a view.
        about: the paragraph above it.
        score: the name of the score that it prints.
        seeds: by which each row is trained.
        methods: of thresholds, each a line of its own in every row; none: the plain score.
        rows: from top to bottom.
    """

    name: str
    runs: str
    about: str = ""
    score: str = "AUROC"
    seeds: list[int] = field(default_factory=lambda: [0])
    methods: list[str] = field(default_factory=list)
    rows: list[Row]


def read_table(name: str) -> Table:
    """Read configs/tables/<name>.yaml.

    Raises:
        ConfigError: there is no such table, or something is wrong in it.
    """
    path = TABLES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in TABLES.glob("*.yaml")))
        raise ConfigError(f"there is no table {name}; known: {known}")
    table = read_yaml(path.read_text(encoding="utf-8"))
    unknown = [key for key in table if key not in KEYS]
    unknown += [key for row in table.get("rows", ()) for key in row if key not in ROW_KEYS]
    if unknown:
        raise ConfigError(f"{path}: unknown key {unknown[0]!r}")
    if bool(table.get("rows")) == bool(table.get("runs")):
        raise ConfigError(f"{path} needs either rows or runs")
    given = {key: table[key] for key in VIEW_KEYS if key in table}
    if table.get("runs"):
        return replace(read_table(table["runs"]), **{"name": name, "methods": [], **given})
    rows = [_row(row, table) for row in table["rows"]]
    for number, row in enumerate(rows):
        parse_folds(row.folds)
        if row.against not in [earlier.name for earlier in rows[: max(number, 1)]]:
            raise ConfigError(
                f"{path}: {row.name} is compared with {row.against!r}, which is no row above it"
            )
    return Table(name=name, runs=name, rows=rows, **given)


def _row(row: dict, table: dict) -> Row:
    """A row, completed by what it shares with the table's others."""
    shared = {"overlay": [], "folds": [0], "pretrain": None, **table}
    overrides = [*table.get("set", ()), *row.get("set", ())]
    whole = {**shared, **row, "set": overrides}
    pretrain, folds = whole["pretrain"], whole["folds"]
    return Row(
        **_ingredients(whole),
        name=row["name"],
        pretrain=Recipe(**_ingredients(pretrain)) if pretrain else None,
        knn=row.get("knn", 0),
        groups=folds if folds and isinstance(folds[0], list) else [folds],
        against=row.get("against", table["rows"][0]["name"]),
    )


def _ingredients(part: dict) -> dict:
    """The arguments of a Recipe."""
    return {
        "config": part.get("config"),
        "overlay": part.get("overlay", []),
        "overrides": part.get("set", []),
        "model": part.get("model", {}),
    }


def resolved(recipe: Recipe, program: type[Job], more: dict, overrides: Sequence[str] = ()) -> Job:
    """Return the config of a recipe, with ``overrides`` and then ``more`` merged over it."""
    layers = [ROOT / "configs" / f"{recipe.config}.yaml", *map(find_overlay, recipe.overlay)]
    model = {"model": recipe.model} if recipe.model else {}
    return load_config(layers, [*recipe.overrides, *overrides], {**more, **model}, program=program)
