"""Put bugs into copies of the project, one at a time, and see whether the test suite notices.  By
hand, not by CI.

    python tests/mutants/run.py                     all of table.py and data_table.py
    python tests/mutants/run.py last_weights lr_late --jobs 2
    python tests/mutants/run.py --list              names, files and reasons
    python tests/mutants/run.py --check             only: is every old text there, exactly once?

For each mutant the test files that know most of it run first (those that it names, then those
that import what it changes), then the rest of the default suite.  It is caught by the first test
that fails; that these tests pass without a mutant is tried at the end.  Exit status 1 where a
mutant survives, such a test fails or an old text is not there.
"""

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data_table import DATA
from table import LEARNING, Mutant

MUTANTS = [*LEARNING, *DATA]
ROOT = Path(__file__).resolve().parents[2]
PASSED, FAILED, NO_TESTS = 0, 1, 5  # pytest's exit statuses
LIMIT = 3600  # seconds for one call of pytest: a mutant may wait for ever


def find_problem(mutant: Mutant) -> str | None:
    """What keeps the mutant from being put in, or None."""
    path = ROOT / mutant.file
    if not path.is_file():
        return f"{mutant.name}: there is no {mutant.file}"
    text = path.read_text("utf-8")
    found = text.count(mutant.old)
    if found != 1 or mutant.old == mutant.new:
        return f"{mutant.name}: {mutant.old!r} is in {mutant.file} {found} times, not once"
    try:
        ast.parse(text.replace(mutant.old, mutant.new))
    except SyntaxError as error:
        return f"{mutant.name}: with it, {mutant.file} is no Python: {error}"
    for target in mutant.tests:
        name, _, test = target.partition("::")
        path = ROOT / "tests" / name
        if not path.is_file() or f"def {test}" not in path.read_text("utf-8"):
            return f"{mutant.name}: there is no tests/{target}"
    return None


def copy_tree(folder: Path) -> Path:
    """A copy of the project in ``folder``: what git tracks or does not ignore, and links to data
    and environment.
    """
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\0")
    tree = folder / "tree"
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
    for link, target in (
        (tree / ".venv", ROOT / ".venv"),
        (folder / "shared", ROOT.parent / "shared"),
    ):
        if target.exists() and not link.is_symlink():
            link.symlink_to(target.resolve())
    return tree


def pytest(tree: Path, targets: list[str], *flags: str) -> tuple[int, list[str]]:
    """Run tests: (exit status, those that failed)."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *flags, *targets]
    try:
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, timeout=LIMIT
        )
    except subprocess.TimeoutExpired:
        return FAILED, [f"no end within {LIMIT} s"]
    if done.returncode not in (PASSED, FAILED, NO_TESTS):
        raise SystemExit(
            f"pytest cannot run {' '.join(targets)}:\n{done.stdout[-3000:]}{done.stderr[-1000:]}"
        )
    failed = re.findall(
        r"^(?:FAILED|ERROR) (\S+?\.py(?:::.+?)?)(?: - .*)?$", done.stdout, re.MULTILINE
    )
    return done.returncode, failed


def order_of_tests(mutant: Mutant) -> tuple[list[str], list[str]]:
    """Test files near the mutant, nearest first, and all others."""
    module = mutant.file.removesuffix(".py").replace("/", ".")
    package, _, name = module.rpartition(".")
    imports = re.compile(
        rf"^\s*(from {re.escape(module)} import|import {re.escape(module)}\b"
        + (rf"|from {re.escape(package)} import .*\b{name}\b)" if package else ")"),
        re.MULTILINE,
    )
    tests = ROOT / "tests"
    every = sorted(path.relative_to(tests).as_posix() for path in tests.rglob("test_*.py"))
    near = [
        *mutant.tests,
        *(
            test
            for test in every
            if test not in mutant.tests
            and imports.search((tests / test).read_text(encoding="utf-8"))
        ),
    ]
    return near, [test for test in every if test not in near]


def try_out(mutant: Mutant, nearest: bool) -> tuple[Mutant, str | None, float]:
    """(mutant, the test that caught it or None, seconds)."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        tree = copy_tree(Path(folder))
        path = tree / mutant.file
        path.write_text(path.read_text("utf-8").replace(mutant.old, mutant.new), "utf-8")
        near, rest = order_of_tests(mutant)
        for tests in [[name] for name in near] + [rest] * (not nearest):
            status, failed = pytest(tree, [f"tests/{name}" for name in tests], "-x")
            if status == FAILED:
                return mutant, failed[0], time.monotonic() - began
    return mutant, None, time.monotonic() - began


def without_mutant(tests: list[str]) -> list[str]:
    """Those of these tests that fail in an unchanged copy: they prove nothing."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        return pytest(copy_tree(Path(folder)), sorted(set(tests)))[1] if tests else []


def main(argv=None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="mutants (default: all)")
    parser.add_argument("--list", action="store_true", help="show the table and end")
    parser.add_argument("--check", action="store_true", help="look for the old texts and end")
    parser.add_argument("--nearest", action="store_true", help="the nearest test files only")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="mutants at a time (default: %(default)s)"
    )
    arguments = parser.parse_args(argv)
    unknown = set(arguments.names) - {mutant.name for mutant in MUTANTS}
    if unknown:
        parser.error(f"no mutant is called {', '.join(sorted(unknown))}; --list shows all")
    chosen = [mutant for mutant in MUTANTS if mutant.name in arguments.names or not arguments.names]
    if arguments.list:
        for mutant in chosen:
            print(f"{mutant.name}  ({mutant.file})\n    {mutant.why}")
        return 0
    problems = list(filter(None, map(find_problem, chosen)))
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems or arguments.check:
        print(f"{len(chosen) - len(problems)} of {len(chosen)} can be put in")
        return 1 if problems else 0
    print("| mutant | file | caught by | seconds |\n|---|---|---|---|", flush=True)
    survivors, witnesses = [], []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for mutant, test, seconds in pool.map(
            lambda each: try_out(each, arguments.nearest), chosen
        ):
            shown = (
                test.removeprefix("tests/").partition("[")[0]
                if test
                else "**nothing: it survives**"
            )
            print(f"| {mutant.name} | {mutant.file} | {shown} | {seconds:.0f} |", flush=True)
            (witnesses if test else survivors).append(test or mutant.name)
    broken = without_mutant([test for test in witnesses if test.startswith("tests/")])
    print(
        f"\n{len(chosen) - len(survivors)} of {len(chosen)} caught"
        + (f"; survived: {', '.join(survivors)}" if survivors else "")
        + (f"; but these tests fail without a mutant, too: {', '.join(broken)}" if broken else "")
    )
    return 1 if survivors or broken else 0


if __name__ == "__main__":
    sys.exit(main())
