"""The documentation keeps what it promises: commands parse, names exist, links resolve, quoted
messages are said.
"""

import argparse
import ast
import contextlib
import importlib.util
import io
import re
import shlex
import sys
from pathlib import Path

import pytest

import util.processes.launcher
from util.config.fields import keys_of
from util.config.keys import FinetuneConfig, PretrainConfig
from util.config.load import ROOT, find_overlay
from util.errors import ConfigError

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "RESULTS.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
LAUNCHERS = {"run_pretrain.sh": "main_pretrain.py", "run_downstream.sh": "main_finetune.py"}
INSTALLED = ("pytest", "ruff")
CODE_FOLDERS = ("data_preparation", "experiments", "models", "util")
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


# ============ what a page holds ============
def commands(page: Path) -> list[list[str]]:
    """The command lines of a page's code blocks, as words; two may share a line, and what follows
    # is a remark.
    """
    found = []
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    for block in (block for language, block in blocks if language in ("", "bash", "sh")):
        for line in block.replace("\\\n", " ").splitlines():
            for command in re.split(
                r"\s+(?=(?:bash|python) \S+\.(?:sh|py))", line.partition(" #")[0].strip()
            ):
                if re.match(r"(bash|python|\S*/python) ", command):
                    found.append(shlex.split(command))
    return found


def inline_code(page: Path) -> list[str]:
    """What stands between backticks outside of code blocks."""
    prose = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", prose)


# ============ commands ============
class Parsed(BaseException):
    """Carries what a program's own parser made of its arguments past all that would follow."""


@contextlib.contextmanager
def parsing_only(monkeypatch):
    """Within, argument parsers stop their program as soon as they have accepted its flags."""
    parse = argparse.ArgumentParser.parse_known_args

    def stop(self, args=None, namespace=None):
        raise Parsed(*parse(self, args, namespace))

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_known_args", stop)
        yield


def parsed_by(main, flags) -> tuple[argparse.Namespace, list[str]]:
    """What the parser of ``main`` made of the flags, and those it does not know."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            main(flags)
    except Parsed as parsed:
        return parsed.args
    except SystemExit:
        pytest.fail(f"{main.__module__} {shlex.join(flags)}: {complaint.getvalue()}")
    raise AssertionError(f"{main.__module__} parses no flags")


def check_command(words: list[str]) -> None:
    """Fails where a command's program, flags, config files, overlays or keys do not exist."""
    program, flags = words[1], words[2:]
    if program == "-m":
        assert (
            flags[0] in INSTALLED
            or (ROOT / flags[0].replace(".", "/")).with_suffix(".py").is_file()
            or (ROOT / flags[0].replace(".", "/") / "__main__.py").is_file()
        ), flags[0]
        return
    assert (ROOT / program).is_file(), f"there is no {program}"
    if program.startswith("docs/"):  # draws a picture; it takes no flags
        assert flags[:1] in ([], [">"]), flags
        return
    if not program.endswith(".py") and program not in LAUNCHERS:
        named = {flag for flag in flags if flag.startswith("--")}
        assert all(flag in (ROOT / program).read_text("utf-8") for flag in named), (
            f"{program} does not know {named}"
        )
        return
    if program in LAUNCHERS:
        program, own_flags = LAUNCHERS[program], flags
        _, flags = parsed_by(util.processes.launcher.main, [program, *own_flags])
    options, unknown = parsed_by(
        importlib.import_module(program.removesuffix(".py").replace("/", ".")).main, flags
    )
    assert not unknown, f"{program} does not know {shlex.join(unknown)}"
    config = getattr(options, "config_path", None)
    assert config is None or "my_" in str(config) or (ROOT / config).is_file(), (
        f"there is no {config}"
    )
    for overlay in getattr(options, "overlay", []):
        check_overlay(overlay)
    for override in getattr(options, "overrides", []):
        check_key(override)


def check_overlay(name: str) -> None:
    """Fails where there is no such overlay."""
    assert find_overlay(name).is_file(), f"there is no overlay {name}"


def check_key(override: str) -> None:
    """Fails where ``a.b`` or ``a.b=c`` names no key of the configuration; below ``model`` are the
    models' own.
    """
    sections = [PretrainConfig, FinetuneConfig]
    for part in override.partition("=")[0].split("."):
        specs = [keys_of(section)[part] for section in sections if part in keys_of(section)]
        assert specs, f"there is no configuration key {override}"
        sections = [spec for spec in specs if isinstance(spec, type)]
        if not sections:
            return  # what is below a key is its value's


@each_page
def test_every_command_is_accepted_by_its_own_parser(page, monkeypatch):
    with parsing_only(monkeypatch):
        for words in commands(page):
            check_command(words)


def test_a_wrong_flag_key_overlay_or_file_is_noticed(monkeypatch):
    with parsing_only(monkeypatch):
        check_command(
            shlex.split("python experiments/run_signal.py --overlay reduced --set train.epochs=2")
        )
        for wrong in (
            "experiments/run_signals.py",
            "experiments/run_signal.py --epochs 3",
            "run_demo.sh --fast",
            "experiments/run_signal.py --overlay tiny",
            "experiments/run_signal.py --set train.epoch=3",
            "run_pretrain.sh --gpus cpu --overlays demo",
            "run_downstream.sh -f configs/none.yaml",
            "-m util.none",
        ):
            with pytest.raises((AssertionError, pytest.fail.Exception, ConfigError)):
                check_command(["python", *shlex.split(wrong)])


def test_the_readme_holds_the_published_commands():
    programs = [words[1] for words in commands(ROOT / "README.md")]
    published = """run_pretrain.sh run_downstream.sh data_preparation/data_extraction_without_preprocessing.py
        data_preparation/reformat_memmap.py experiments/run_signal.py experiments/run_spectrogram.py
        experiments/run_ensembled.py experiments/threshold_search.py experiments/SIMCLR_signal.py
        experiments/BYOL_signal.py experiments/DINO_signal.py experiments/DINO_spectrogram.py
        experiments/SIMCLR_signal_finetune.py experiments/BYOL_signal_finetune.py"""
    assert set(published.split()) <= set(programs)


# ============ names, links, messages ============
@each_page
def test_overlays_keys_and_files_named_in_the_text_exist(page):
    for code in inline_code(page):
        for overlay in re.findall(r"--overlay (\w+)", code):
            check_overlay(overlay)
        for key in re.findall(
            r"--set '?([\w.]+)=|^((?:dataset|dataloader|train|metric|test)\.\w+)", code
        ):
            if key[0] != "KEY":
                check_key(key[0] or key[1])
        if re.fullmatch(
            r"(?:configs|data_preparation|experiments|models|util|tests|benchmarks|docs)/[\w./-]*",
            code,
        ):
            assert "my_" in code or (ROOT / code).exists(), (
                f"{page.name} names {code}, which is not there"
            )


@each_page
def test_links_resolve(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text("utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), (
            f"{page.name} links to {target}"
        )


@each_page
def test_no_page_names_a_place_of_one_machine(page):
    assert not re.search(
        r"(?<![\w.$}])/(?:home|root|work|tmp|opt|mnt|Users)/\S", page.read_text("utf-8")
    )


def test_the_readme_stays_short():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150
    assert (ROOT / "docs" / "reconstruction.png").stat().st_size < 150_000


def drawing():
    """Return the module docs/draw_architecture.py, which is no part of a package."""
    path = ROOT / "docs" / "draw_architecture.py"
    spec = importlib.util.spec_from_file_location("draw_architecture", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look
    spec.loader.exec_module(module)
    return module


def test_the_picture_shows_the_rooms_that_exist():
    names = re.findall(r'"name"[^>]*>([^<]+)<', (ROOT / "docs" / "architecture.svg").read_text())
    rooms = {path.parent.name for path in (ROOT / "util").glob("*/__init__.py")}
    assert {name.removeprefix("util/") for name in names if name.startswith("util/")} - {
        ""
    } == rooms
    folders = {name.strip("/") for name in names if "util/" not in name}
    assert all((ROOT / name).exists() for name in folders)
    assert {"models", "data_preparation", "experiments", "main_pretrain.py"} <= folders


def test_the_picture_is_the_drawing_of_this_tree():
    drawn = drawing().draw() + "\n"
    assert (ROOT / "docs" / "architecture.svg").read_text("utf-8") == drawn, (
        "python docs/draw_architecture.py > docs/architecture.svg"
    )


def source_texts() -> str:
    """All texts of the code, those with values filled in ("{}") with ... in their place."""
    files = [
        *ROOT.glob("*.py"),
        *(file for folder in CODE_FOLDERS for file in (ROOT / folder).rglob("*.py")),
    ]
    texts = []
    for node in (node for file in files for node in ast.walk(ast.parse(file.read_text("utf-8")))):
        if isinstance(node, ast.JoinedStr):
            texts.append(
                "...".join(part.value for part in node.values if isinstance(part, ast.Constant))
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.append(node.value)
    return "\n".join(texts)


def test_quoted_messages_are_still_said():
    """Second column of the tables in docs/troubleshooting.md: a message that nobody says any more
    helps nobody.
    """
    said = source_texts()
    rows = re.findall(
        r"^\|[^|]*\|([^|]*)\|[^|]*\|$",
        (ROOT / "docs" / "troubleshooting.md").read_text("utf-8"),
        re.MULTILINE,
    )
    quoted = [
        text
        for cell in rows
        for text in re.findall(r"`([^`]+)`", cell)
        if text not in ("flags", "error: ...")
    ]
    assert len(quoted) > 30
    unsaid = [
        text for text in quoted if not all(part.strip(" .") in said for part in text.split("..."))
    ]
    assert not unsaid, f"docs/troubleshooting.md quotes what the code no longer says: {unsaid}"


@pytest.mark.parametrize("page", ["choosing.md", "expected.md"])
def test_scores_that_pages_repeat_are_those_that_were_measured(page):
    """AUROC and Challenge scores, three or four digits behind the point: a table that is run again
    changes them there, too.
    """
    measured = (ROOT / "RESULTS.md").read_text("utf-8") + (ROOT / "README.md").read_text("utf-8")
    scores = re.findall(r"\b0(\.\d{3,4})\b", (ROOT / "docs" / page).read_text("utf-8"))
    assert len(scores) > 20
    unknown = [score for score in scores if not re.search(rf"{re.escape(score)}\b", measured)]
    assert not unknown, f"docs/{page} has scores that RESULTS.md has not (any more): {unknown}"
