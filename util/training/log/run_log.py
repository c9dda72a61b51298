"""The files of a run: progress bar, TensorBoard, JSON lines and PNG figures, all by process 0
alone; and, where the config asks for one, a tracker of experiments.
"""

import contextlib
import gc
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams
from tqdm import tqdm

from util.console import note, progress_bar
from util.errors import ECGError
from util.files import replacing
from util.processes import collectives
from util.training.log.trackers import Tracker, flattened, open_tracker


class RunLog:
    """Files of one run.

    ``log.txt`` has one JSON line an epoch, as published; ``log_steps.txt`` one every
    ``train.log_every`` steps.  But for how fast an epoch was, in log.txt, neither holds times, so
    that a resumed run leaves the same files as an undisturbed one.

    Args:
        folder: of the run; made if missing.
        epoch: where the run resumes; later lines, written after its last checkpoint, are removed.
        step: where it resumes within the epoch.
        position: the same in epochs; later TensorBoard points are removed.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        epoch: int = 0,
        step: int = 0,
        position: float = 0.0,
    ):
        self.folder, self.resumed = Path(folder), (epoch, step) != (0, 0)
        self.writer: SummaryWriter | None = None  # on process 0
        self.tracker: Tracker | None = None  # on process 0, where one is asked for
        collectives.on_main(lambda: self._open(epoch, step, position))

    def _open(self, epoch: int, step: int, position: float) -> None:
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._cut("log.txt", lambda line: line["epoch"] < epoch)
            self._cut("log_steps.txt", lambda line: (line["epoch"], line["step"]) <= (epoch, step))
            tensorboard = self.folder / "tensorboard"
            self.writer = SummaryWriter(tensorboard, purge_step=int(1000 * position) + 1)

    def describe(self, config: dict, curves: list[str], tracker: str | None) -> None:
        """Write the hyper-parameters into TensorBoard, and begin or resume the run at a tracker.

        Args:
            config: of the run, resolved.
            curves: the scalars by which TensorBoard is to compare runs.
            tracker: a key of ``TRACKERS``, or None.

        Raises:
            ConfigError: the tracker's package is missing, or does not begin.
        """

        def begin() -> None:
            flat = flattened(config)
            assert self.writer is not None, "opened on process 0"
            with self._writing():
                for summary in hparams(flat, dict.fromkeys(curves, 0.0)):
                    self.writer._get_file_writer().add_summary(summary)
            if tracker:
                self.tracker = open_tracker(tracker, self.folder, flat, resumed=self.resumed)

        collectives.on_main(begin)

    def _track(self, act: Callable[[Tracker], None]) -> None:
        """Have the tracker do something; one that fails is left, and the run goes on."""
        if self.tracker is None:
            return
        try:
            act(self.tracker)
        except Exception as error:  # whatever a service or its network can raise
            note(f"train.tracker failed and is left ({type(error).__name__}: {error})")
            self.tracker = None

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """A full disk or a read-only folder as one sentence."""
        try:
            yield
        except OSError as error:
            file = f"{Path(error.filename).name}: " if isinstance(error.filename, str) else ""
            raise ECGError(
                f"cannot write to the run's folder {self.folder}: {file}"
                f"{error.strerror or error}. Free some space or make it writable, resume with "
                "--resume auto, or choose another --output_dir"
            ) from None

    def _cut(self, name: str, keep: Callable[[dict], bool]) -> None:
        """Drop the lines of a file that are not to be kept."""
        path = self.folder / name
        if not path.exists():
            return
        with replacing(path, "w") as file:
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError):  # torn by a kill
                    if keep(json.loads(line)):
                        file.write(line + "\n")

    def line(self, name: str, values: dict) -> None:
        """Append a JSON line to log.txt or log_steps.txt; numbers to 8 significant digits."""
        if collectives.is_main():
            rounded = {
                k: float(f"{v:.8g}") if isinstance(v, float) else v for k, v in values.items()
            }
            with self._writing(), open(self.folder / name, "a", encoding="utf-8") as file:
                file.write(json.dumps(rounded) + "\n")

    def scalars(self, values: dict[str, float], epoch: float) -> None:
        """Write TensorBoard scalars at x = 1000 * epoch, so that runs of different batch size line
        up.
        """
        if self.writer:
            with self._writing():
                for name, value in values.items():
                    self.writer.add_scalar(name, value, int(1000 * epoch))
            self._track(lambda tracker: tracker.log(dict(values), int(1000 * epoch)))

    def histogram(self, name: str, values: np.ndarray, epoch: float) -> None:
        """Write a TensorBoard histogram."""
        if self.writer:
            with self._writing():
                self.writer.add_histogram(name, values, int(1000 * epoch))

    def figure(self, name: str, figure: Figure, epoch: float) -> None:
        """Write a figure to TensorBoard and to figures/<name>-<epoch>.png."""
        if self.writer:
            with self._writing():
                path = self.folder / "figures" / f"{name}-{int(epoch):04d}.png"
                path.parent.mkdir(exist_ok=True)
                with replacing(path) as file:
                    figure.savefig(file, format="png", dpi=100)
                self.writer.add_figure(name, figure, int(1000 * epoch))
            # Some 30,000 objects that hold each other: Python would keep 40 MB of them before it
            # looks.
            figure.clear()
            gc.collect()

    def bar(self, total: int, title: str, done: int) -> tqdm:
        """Return a progress bar with ETA, silent on other processes."""
        return progress_bar(
            total=total,
            initial=done,
            desc=title,
            unit="step",
        )

    def flush(self) -> None:
        """Have all TensorBoard points so far on the disk."""
        if self.writer:
            with self._writing():
                self.writer.flush()

    def close(self) -> None:
        """Close the files; the last thing to call."""
        self._track(lambda tracker: tracker.finish())
        if self.writer:
            with self._writing():
                self.writer.close()
