"""A progress bar with the stage and the running bounds; silent under CI."""

import os
from types import TracebackType

from tqdm.auto import tqdm


class Progress:
    """Progress over blocks of scored draws, preceded by named stages.

    Parameters
    ----------
    total
        Number of blocks.
    enabled
        False, or the environment variable `CI`, silences it.
    """

    def __init__(self, total: int, enabled: bool):
        self._bar = tqdm(
            total=total,
            disable=not enabled or bool(os.environ.get("CI")),
            leave=False,
            dynamic_ncols=True,
            bar_format="{desc} |{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}",
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.close()

    def stage(self, name: str) -> None:
        """Say what is being done."""
        self._bar.set_description_str(f"mi_bounds: {name}")

    def block(self, lower: float, upper: float) -> None:
        """One more block is scored; show the running bounds in nats."""
        self._bar.set_postfix_str(f" I in [{lower:.3f}, {upper:.3f}] nats", refresh=False)
        self._bar.update()
        if self._bar.n >= self._bar.total:
            self._bar.refresh()
