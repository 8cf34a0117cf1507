"""A progress bar with the stage and the running bounds; silent under CI."""

import os
import sys
import threading
import time
from types import TracebackType

from tqdm.auto import tqdm

_BAR = "{desc} |{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]"


class Progress:
    """Progress over blocks of scored draws, preceded by named stages.

    A thread redraws the clock, because a stage may compile for long.

    Parameters
    ----------
    total
        Number of blocks.
    enabled
        False, or the environment variable `CI`, silences it.
    """

    def __init__(self, total: int, enabled: bool):
        self._stage = "starting"
        self._bar = tqdm(
            total=total,
            desc=self._description(),
            disable=not enabled or bool(os.environ.get("CI")),
            leave=False,
            dynamic_ncols=True,
            smoothing=0,  # the time that is left is that of an average block
            bar_format=_BAR,
        )
        self._closed = threading.Event()
        self._clock = threading.Thread(target=self._redraw, daemon=True)

    def _description(self) -> str:
        return f"mi_bounds: {self._stage}"

    def _redraw(self) -> None:
        # Seldom into a file, where nothing is overwritten.
        while not self._closed.wait(1.0 if sys.stderr.isatty() else 10.0):
            self._bar.refresh()

    def __enter__(self) -> "Progress":
        if not self._bar.disable:
            self._clock.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closed.set()
        if self._clock.is_alive():
            self._clock.join()
        self._bar.close()

    def stage(self, name: str) -> None:
        """Say what is being done."""
        if name != self._stage:
            self._stage = name
            self._bar.set_description_str(self._description())

    def block(self, lower: float, upper: float) -> None:
        """One more block is scored; show the running bounds in nats."""
        bounds = f"in [{lower:.3f}, {upper:.3f}]" if upper < float("inf") else f"at least {lower:.3f}"
        self._bar.bar_format = f"{_BAR} I {bounds} nats"
        if not self._bar.n:  # the clock is that of scoring, from the first block on, which has compiled
            self._bar.start_t = self._bar.last_print_t = time.time()
            self._bar.initial = 1
        self._bar.update()
        if self._bar.n in (1, self._bar.total):
            self._bar.refresh()
