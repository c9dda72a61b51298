"""The command line of every program: a flag that comes twice is an error, not the last one."""

import argparse
from collections.abc import Sequence
from typing import Any, cast


class _Once(argparse.Action):
    """An action of argparse that refuses a second call within one command line."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        given = cast("Parser", parser).given
        if option_string and self in given:
            parser.error(
                f"{option_string} is given twice, and one would be without effect; give it once"
            )
        given.append(self)
        super().__call__(parser, namespace, values, option_string)


class _Store(_Once, argparse._StoreAction):
    pass


class _StoreTrue(_Once, argparse._StoreTrueAction):
    pass


class Parser(argparse.ArgumentParser):
    """An ArgumentParser on which only flags of the action append may come more than once.

    Descriptions keep their lines.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.given: list[_Once] = []  # so far, of the command line that is being parsed
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*arguments, **options)
        for name, action in ((None, _Store), ("store", _Store), ("store_true", _StoreTrue)):
            self.register("action", name, action)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parse a command line, see argparse."""
        self.given.clear()
        return super().parse_known_args(args, namespace)
