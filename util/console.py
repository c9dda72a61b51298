"""What a run says to people: sentences, once, by process 0."""

import os

from tqdm import tqdm


def is_first() -> bool:
    """True on process 0 of a run, and on a process that runs alone."""
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1
    return not several or int(os.environ["RANK"]) == 0


def print_once(text: str) -> None:
    """Print a line for people once, and not inside a progress bar."""
    if is_first():
        tqdm.write(text)
