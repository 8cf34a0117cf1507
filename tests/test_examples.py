"""The scripts of `examples/` run, at tiny sizes."""

import argparse
import json
import pathlib
import runpy

import pytest

from numpyro_mi import MIBounds

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"


def run(name, **options):
    runpy.run_path(str(EXAMPLES / name))["main"](argparse.Namespace(**options))


def test_quickstart(tmp_path, capsys):
    pytest.importorskip("sklearn")
    run("quickstart.py", num_latents=2, num_samples=100, output=tmp_path)
    printed = capsys.readouterr().out
    assert "closed form" in printed and "95% interval" in printed
    assert {path.name for path in tmp_path.iterdir()} == {"quickstart.nc", "bounds.png", "log_weights.png"}
    assert MIBounds.from_netcdf(tmp_path / "quickstart.nc").num_samples == 100


def test_throughput(capsys):
    run("benchmarks/throughput.py", chains=8, num_temperatures=5, num_steps=2, repeats=1)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["model"] for line in lines] == ["linear10", "decoder 10-256-784"]
    assert all(line["ratio"] > 0 for line in lines)


@pytest.mark.slow
def test_bounds_table(capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES / "benchmarks"))
    run("benchmarks/bounds_table.py", models=["lotka_volterra"], num_samples=20, steps=100, seed=0, progress=False)
    printed = capsys.readouterr().out
    lines = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    assert [line["method"] for line in lines] == ["GIWAE(100)", "MINEAIS", "InfoNCE(1000)"]
    assert "MINEAIS above InfoNCE(1000)" in printed


@pytest.mark.slow
def test_numpyro_examples(capsys):
    run("benchmarks/numpyro_examples.py", models=["capture_recapture"], num_samples=20, seed=0, progress=False)
    (line,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert line["model"] == "capture_recapture" and line["gap"] > -4 * line["gap_se"]  # ordered in expectation alone
    assert line["non_finite_lower"] == line["non_finite_upper"] == 0 and 0 < line["max_share"] < 1
