"""The rooms of util/ and models/ and who may import whom: no arrow upward, no circle."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GROUND = "errors files flags leads challenge keyed_random named_arguments console"
TO_TRAIN = (
    *("config", "recordings", "formats", "signals", "processes", "scoring", "contract"),
    *("data", "labels", "weights", "training", "jobs"),
)
MAY_IMPORT = {  # besides the ground; of processes, models take collectives and data stopping alone
    "ground": (),
    "config": (),
    "recordings": (),
    "formats": ("recordings",),
    "signals": (),
    "processes": (),
    "scoring": (),
    "contract": ("signals",),
    "models": ("signals", "collectives", "contract"),
    "data": ("recordings", "signals", "stopping"),
    "labels": ("recordings", "data"),
    "weights": ("contract",),
    "training": ("config", "signals", "processes", "scoring", "contract", "data", "weights"),
    "jobs": (
        *("config", "signals", "processes", "scoring", "contract", "data", "labels", "weights"),
        "training",
    ),
    "evaluation": TO_TRAIN,
    "predicting": (*TO_TRAIN, "evaluation"),
    "reports": (*TO_TRAIN, "evaluation", "predicting"),
    "handover": (*TO_TRAIN, "evaluation", "predicting"),
    "explain": (*TO_TRAIN, "evaluation", "predicting", "reports", "handover"),
}
INSIDE_DATA_PREPARATION = {  # besides known_sets and places, which stand beside the commands
    "metadata": (),
    "checking": (),
    "simulator": (),
    "importing": ("metadata",),
    "building": ("metadata", "importing", "checking"),
    "benchmarks": ("metadata", "building"),
}
INSIDE_MODELS = {"layers": 0, "encoder": 1, "methods": 2}
SCRIPTS = ("main_pretrain", "main_finetune", "experiments", "data_preparation", "benchmarks")
MOST_MODULES = 12


def modules(folder):
    return sorted((ROOT / folder).rglob("*.py"))


def imports(path):
    """Dotted names of the modules of this project that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                is_module = (ROOT / (inner.replace(".", "/") + ".py")).exists()
                yield inner if is_module else node.module


def room(name: str) -> str | None:
    """The room of a module's dotted name; None for what is not of util and models."""
    parts = name.split(".")
    if parts[0] == "models":
        return "models"
    if parts[0] != "util":
        return None
    return parts[1] if len(parts) > 1 and (ROOT / "util" / parts[1]).is_dir() else "ground"


def dotted(path) -> str:
    return path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")


@pytest.mark.parametrize("path", [*modules("util"), *modules("models")], ids=dotted)
def test_a_room_imports_only_what_it_may(path):
    own = room(dotted(path))
    for name in imports(path):
        other, last = room(name), name.rpartition(".")[2]
        assert name.partition(".")[0] not in SCRIPTS, f"{path} imports a script: {name}"
        if other not in (None, "ground", own):
            assert own != "ground" and {other, last} & set(MAY_IMPORT[own]), f"{path}: {name}"


def test_inside_models_methods_stand_on_encoders_and_these_on_layers():
    for path in modules("models"):
        own = INSIDE_MODELS.get(path.parent.name)
        for name in imports(path):
            other = INSIDE_MODELS.get((name.split(".") + [""])[1])
            if own is not None and name.startswith("models.") and other is not None:
                assert other <= own, f"{path}: {name}"


@pytest.mark.parametrize("own", INSIDE_DATA_PREPARATION)
def test_a_room_of_data_preparation_imports_only_what_it_may(own):
    for path in modules(f"data_preparation/{own}"):
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "data_preparation" and len(parts) > 2:
                assert parts[1] in (own, *INSIDE_DATA_PREPARATION[own]), f"{path}: {name}"


@pytest.mark.parametrize("folder", ["util", "models", "data_preparation", "experiments"])
def test_no_circle_of_modules(folder):
    graph = {dotted(path): set(imports(path)) for path in modules(folder)}
    done, on_the_way = set(), []

    def visit(name):
        if name in done or name not in graph:
            return
        assert name not in on_the_way, f"a circle: {' -> '.join([*on_the_way, name])}"
        on_the_way.append(name)
        for other in sorted(graph[name]):
            visit(other)
        done.add(on_the_way.pop())

    for name in graph:
        visit(name)


def test_the_ground_is_small_and_no_room_is_crowded():
    ground = {path.stem for path in (ROOT / "util").glob("*.py")} - {"__init__"}
    assert ground == set(GROUND.split())
    rooms = [*modules("util"), *modules("models"), *modules("data_preparation")]
    rooms += modules("experiments/tables") + modules("experiments/evaluation")
    for folder in {path.parent for path in rooms}:
        names = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(names) <= MOST_MODULES, f"{folder} holds {len(names)} modules"


def is_script(path) -> bool:
    return "__main__" in path.read_text(encoding="utf-8")


def test_scripts_are_imported_by_none():
    """But for what the two mains offer, which experiments run, too."""
    files = [*modules("data_preparation"), *modules("experiments")]
    mains = {"main_pretrain", "main_finetune"}
    scripts = {dotted(path) for path in files if is_script(path)} | mains
    assert len(scripts) == 9 + 23 + len(mains)
    for path in [*files, *(ROOT / f"{name}.py" for name in mains)]:
        may = mains if path.is_relative_to(ROOT / "experiments") else set()
        others = (set(imports(path)) & scripts) - may
        assert not others, f"{dotted(path)} imports {', '.join(sorted(others))}"
