"""The folder listing is the architecture: imports go down, from floor to floor."""

import ast
import pathlib

import numpyro_mi

ROOT = pathlib.Path(numpyro_mi.__file__).parent

# From the top down: a file imports from its own floor and from those below it.
FLOORS = [
    "verbs",
    "runs",
    "direct",
    "evidence",
    "annealing",
    "guides",
    "draws",
    "plots",
    "training",
    "model/views",
    "model/integrals",
    "model/joint",
    "model/sites",
    "model/staging",
    "results",
    "tasks",
    "targets",
    "labels",
    "options",
]
# Files that look up, and at which floors: they list classes, until each class enters itself in a registry.
UPWARDS = {
    "results/files/methods": {"direct", "evidence", "annealing", "guides", "training"},
    "results/files/fitted": {"direct", "guides"},
}


def name_of(path):
    """A file below the package, without its suffix; the `__init__.py` of a folder is the folder."""
    return path.relative_to(ROOT).with_suffix("").as_posix().removesuffix("/__init__")


FILES = {name_of(path): path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py"}


def floor(name):
    """The floor that a file is on; None for a folder that is no floor itself."""
    return next((floor for floor in FLOORS if name == floor or name.startswith(f"{floor}/")), None)


def imports(name):
    """The files of the package that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "numpyro_mi":
            for alias in node.names:
                member = "/".join([*node.module.split("."), alias.name]).removeprefix("numpyro_mi/")
                yield member if member in FILES else member.rpartition("/")[0]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("numpyro_mi."):
                    yield alias.name.removeprefix("numpyro_mi.").replace(".", "/")


def lazy(name, other):
    """A result prints and stores itself, imported where it is used, until text and files read its parts alone."""
    return name == "results/mutual_information" and other.startswith(("results/text/", "results/files/"))


def test_imports_go_down():
    upwards = {}
    for name in FILES:
        for other in imports(name):
            assert other in FILES, f"{name} imports from the package itself: name the file"
            if floor(other) is None or FLOORS.index(floor(other)) < FLOORS.index(floor(name)):
                upwards.setdefault(name, set()).add(floor(other))
    assert upwards == UPWARDS


def test_no_two_files_import_each_other():
    graph = {name: {other for other in imports(name) if not lazy(name, other)} for name in FILES}
    done = set()

    def visit(name, path):
        assert name not in path, f"circle: {' -> '.join([*path, name])}"
        if name not in done:
            for other in graph[name]:
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_every_file_is_on_a_floor():
    assert {floor(name) for name in FILES if name != "model"} == set(FLOORS)
    # The tests lie in folders of the same names.
    folders = {path.parent.name for path in pathlib.Path(__file__).parent.glob("*/test_*.py")}
    assert folders <= {floor.split("/")[0] for floor in FLOORS}


def test_every_floor_has_a_row_and_every_file_a_line():
    layout = (ROOT.parent / "docs" / "layout.md").read_text()
    rows = [line.split("`")[1] for line in layout.splitlines() if line.startswith("| `")]
    assert [row.removesuffix("/").removesuffix(".py") for row in rows] == FLOORS
    listed, folder = set(), ""
    for line in layout.partition("## Files")[2].partition("\n## ")[0].splitlines():
        word = (line.split() or [""])[0]
        if word.endswith("/"):
            folder = word
        elif word.endswith(".py"):
            listed.add((folder if line.startswith(" ") else "") + word.removesuffix(".py"))
    assert listed == {name for name, path in FILES.items() if path.name != "__init__.py"}


def test_only_the_model_layer_touches_handlers():
    for name, path in FILES.items():
        if name.split("/")[0] not in ("model", "tasks"):
            assert "numpyro.handlers" not in path.read_text() and "import handlers" not in path.read_text(), name


def test_public_names_are_documented():
    api = (ROOT.parent / "docs" / "api.md").read_text()
    for name in numpyro_mi.__all__:
        assert name in api, f"{name} is public but not in docs/api.md"
        assert getattr(numpyro_mi, name).__doc__
