"""Wall-clock by stage, with compilation told apart."""

import time

import jax

_COMPILATION = ("/jax/core/compile/backend_compile_duration", "/jax/core/compile/jaxpr_to_mlir_module_duration")
_compiled = 0.0


def _listen(event: str, duration_secs: float, **_: str | int) -> None:
    global _compiled
    if event in _COMPILATION:
        _compiled += duration_secs


jax.monitoring.register_event_duration_secs_listener(_listen)


class Stopwatch:
    """Seconds since the last lap, compilation left out, and seconds spent compiling."""

    def __init__(self) -> None:
        self._start, self._compiled = time.perf_counter(), _compiled
        self.compiling = 0.0

    def lap(self) -> float:
        """Seconds since the last lap without those spent compiling."""
        now = time.perf_counter()
        compiling = _compiled - self._compiled
        elapsed = now - self._start - compiling
        self.compiling += compiling
        self._start, self._compiled = now, _compiled
        return elapsed
