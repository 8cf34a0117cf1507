"""Which installations are refused: a jaxlib that hangs is never run on."""

import os
import pathlib
import re
import tomllib

import jax
import pytest
from packaging.requirements import Requirement

from numpyro_mi.runs import environment


@pytest.fixture
def installed(monkeypatch):
    """`(jaxlib, threads, backend)`: pretend that these are what runs."""

    def pretend(jaxlib, threads, backend="cpu"):
        monkeypatch.setattr(environment, "_version", lambda name: jaxlib)
        monkeypatch.setenv("NPROC", str(threads))
        monkeypatch.setattr(jax, "default_backend", lambda: backend)

    return pretend


@pytest.mark.parametrize("jaxlib", ["0.10.0", "0.10.2", "0.11.0"])
@pytest.mark.parametrize("threads", [2, 8])
def test_a_jaxlib_that_hangs_is_refused_with_the_command_that_mends_it(installed, jaxlib, threads):
    installed(jaxlib, threads)
    message = f"jaxlib {jaxlib} can wait for ever on a CPU with {threads} threads"
    with pytest.raises(ImportError, match=re.escape(message)) as refusal:
        environment.refuse_hanging_jaxlib()
    assert "pip install --upgrade 'jax!=0.10.*,!=0.11.0' 'jaxlib!=0.10.*,!=0.11.0'" in str(refusal.value)
    assert "NPROC=16" in str(refusal.value)


@pytest.mark.parametrize(
    "jaxlib, threads, backend",
    [
        ("0.8.3", 2, "cpu"),
        ("0.9.2", 2, "cpu"),
        ("0.11.1", 2, "cpu"),
        ("0.12.0.1", 2, "cpu"),
        ("0.10.2", 1, "cpu"),
        ("0.10.2", 16, "cpu"),
        ("0.10.2", 2, "gpu"),
    ],
)
def test_what_does_not_hang_is_accepted(installed, jaxlib, threads, backend):
    installed(jaxlib, threads, backend)
    assert environment.refuse_hanging_jaxlib() is None


def test_without_a_wish_the_threads_are_the_cores_that_the_process_may_use(monkeypatch):
    monkeypatch.delenv("NPROC", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 3, 5}, raising=False)
    assert environment._threads() == 3


def test_the_declared_dependencies_exclude_what_is_refused():
    project = tomllib.loads((pathlib.Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    declared = {Requirement(text).name: Requirement(text).specifier for text in project["dependencies"]}
    for name in ("jax", "jaxlib"):
        for version in ("0.10.0", "0.10.1", "0.10.2", "0.11.0"):
            assert version not in declared[name], f"{name} {version}"
        for version in ("0.7.1", "0.9.2", "0.11.1", "0.12.0.1"):
            assert version in declared[name], f"{name} {version}"
