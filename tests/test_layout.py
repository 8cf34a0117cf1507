"""The folder listing is the architecture: imports go one way."""

import ast
import pathlib

import numpyro_mi

ROOT = pathlib.Path(numpyro_mi.__file__).parent

# Each room with the rooms it may use; what they use in turn is open to it as well.
ROOMS = {
    "targets": [],
    "schedules": ["options"],
    "estimation": [],
    "environment": [],
    "progress": [],
    "timing": [],
    "tasks": [],
    "kernels": ["options", "targets"],
    "annealing": ["kernels"],
    "pairs": ["targets"],
    "keys": ["options"],
    "options": [],
    "labels": [],
    "arrays": ["labels"],
    "networks": ["options"],
    "training": ["options", "pairs"],
    "critics": ["guides", "networks"],
    "bounds": ["critics", "estimation", "training", "evidence", "tuning"],
    "guides": ["identities", "networks", "pairs", "targets", "training", "model.callables"],
    "evidence": ["annealing", "guides", "schedules"],
    "model.slices": [],
    "model.sites": ["model.slices"],
    "model.ranges": [],
    "model.draws": ["model.sites"],
    "model.parameters": ["model.draws", "model.ranges"],
    "model.staging": [],
    "model.edges": [],
    "model.told": [],
    "model.checks": ["model.sites", "model.told"],
    "model.call_checks": ["labels", "model.checks"],
    "model.integral_checks": ["model.checks"],
    "model.logits": ["model.sites"],
    "model.support": ["model.logits"],
    "model.harmless": ["model.sites", "model.staging"],
    "model.contents": [],
    "model.dependence": ["model.contents", "model.staging"],
    "model.given_values": ["model.checks", "model.staging"],
    "model.resemblance": [],
    "model.single_numbers": ["model.dependence"],
    "model.leaks": ["model.call_checks", "model.resemblance", "model.single_numbers"],
    "model.elements": ["model.checks", "model.draws"],
    "identities": [],
    "model.repetition": ["model.checks", "model.staging"],
    "model.joint_model": ["model.checks"],
    "model.provenance": [
        "model.call_checks",
        "model.harmless",
        "model.integral_checks",
        "model.joint_model",
        "model.support",
    ],
    "model.trace": [
        "model.provenance",
        "model.elements",
        "model.given_values",
        "model.leaks",
        "model.parameters",
        "model.repetition",
    ],
    "model.observed": ["model.trace"],
    "decomposition": ["model.trace"],
    "model.sums": [],
    "model.sum_plans": ["model.integral_checks", "model.sums"],
    "model.coordinates": ["model.sites"],
    "model.pieces": ["decomposition", "model.coordinates", "model.sum_plans"],
    "model.exact": ["model.pieces", "model.staging"],
    "model.pathwise": ["model.told", "model.trace"],
    "model.likelihood": ["decomposition", "labels"],
    "model.conditionals": ["identities", "model.support"],
    "model.laws": ["model.conditionals", "model.pieces"],
    "model.densities": ["model.laws", "targets"],
    "model.samples": ["model.densities"],
    "model.callables": ["model.densities", "model.told"],
    "integrals": ["guides", "model.densities"],
    "simulation": ["model.samples", "pairs"],
    "values": ["model.densities"],
    "laws": ["identities", "model.densities", "values"],
    "preflight": ["laws", "model.edges", "simulation"],
    "tuning": ["annealing", "integrals"],
    "starts": ["tuning"],
    "planning": ["evidence", "keys", "preflight", "starts"],
    "driver": ["estimation", "planning", "progress", "timing"],
    "array_prior": ["model.integral_checks", "model.staging", "model.told"],
    "array_split": ["array_prior", "bounds", "keys"],
    "sample_driver": ["driver", "bounds", "array_split"],
    "config": ["bounds"],
    "fitted": ["config"],
    "results": ["estimation", "report", "storage"],
    "diagnostics": ["decomposition_report", "results"],
    "decomposition_report": ["results"],
    "report": ["decomposition_report", "diagnostics", "results"],
    "storage": ["results"],
    "rows": ["driver", "config", "environment", "model.exact", "results"],
    "api": ["rows", "arrays", "sample_driver", "config", "environment", "results"],
    "model_evidence": ["api", "model.observed", "report"],
    "tables": ["report"],
    "information": ["api", "tables"],
    "gains": ["results", "report"],
    "posterior_gain": [
        "config",
        "environment",
        "keys",
        "laws",
        "model.likelihood",
        "progress",
        "results",
        "timing",
    ],
    "designs": ["api", "gains", "labels", "posterior_gain"],
    "design_gradient": ["api", "report", "model.pathwise"],
    "comparison_report": ["report"],
    "comparison": ["results", "comparison_report"],
    "comparing": ["api", "comparison"],
    "plots": ["comparison", "gains", "tables"],
}
# Two pairs may know each other: a result prints and stores itself, imported where it is used.
LAZY = {("results", "report"), ("results", "storage")}


def room(module):
    parts = module.split(".")[1:]
    return ".".join(parts[:2]) if parts[0] == "model" else parts[0]


def imports(path):
    module = ".".join(["numpyro_mi", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("numpyro_mi"):
            names = (
                [node.module] if node.module != "numpyro_mi" else [f"numpyro_mi.{alias.name}" for alias in node.names]
            )
            if node.module == "numpyro_mi.model":
                names = [f"numpyro_mi.model.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith("numpyro_mi.")]
        for name in names:
            yield module, name


def reachable(name, seen=()):
    for other in ROOMS[name]:
        if other not in seen:
            yield other
            yield from reachable(other, (*seen, other))


def test_imports_follow_the_rooms():
    files = [path for path in ROOT.rglob("*.py") if path not in (ROOT / "__init__.py", ROOT / "model" / "__init__.py")]
    for path in files:
        for module, name in imports(path):
            here, there = room(module), room(name)
            if here != there:
                assert there in set(reachable(here)), f"{module} imports {name}: not allowed by the layout"


def test_rooms_are_acyclic():
    graph = {name: [other for other in others if (name, other) not in LAZY] for name, others in ROOMS.items()}

    def visit(name, path):
        assert name not in path, f"cycle: {' -> '.join([*path, name])}"
        for other in graph[name]:
            visit(other, (*path, name))

    for name in graph:
        visit(name, ())


def test_every_module_has_a_room():
    found = {
        room(".".join(["numpyro_mi", *path.relative_to(ROOT).with_suffix("").parts]))
        for path in ROOT.rglob("*.py")
        if path.name != "__init__.py"
    }
    assert found == set(ROOMS)


def test_every_module_has_a_row():
    layout = (ROOT.parent / "docs" / "layout.md").read_text()
    rows = "\n".join(line.split(" | ")[0] for line in layout.splitlines() if line.startswith("| `"))
    for path in ROOT.iterdir():
        if (path / "__init__.py").exists() or (path.suffix == ".py" and path.stem != "__init__"):
            name = path.name if path.suffix else f"{path.name}/"
            assert f"`{name}`" in rows, f"{name} has no row in docs/layout.md"


def test_only_the_model_layer_touches_handlers():
    for path in ROOT.rglob("*.py"):
        if path.parent.name not in ("model", "tasks"):
            assert "numpyro.handlers" not in path.read_text() and "import handlers" not in path.read_text(), path


def test_public_names_are_documented():
    api = (ROOT.parent / "docs" / "api.md").read_text()
    for name in numpyro_mi.__all__:
        assert name in api, f"{name} is public but not in docs/api.md"
        assert getattr(numpyro_mi, name).__doc__
