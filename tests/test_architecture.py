"""The floors of the house: who may import whom, held by reading the imports of every file."""

import ast
import functools
import graphlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SETTINGS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]
FOLDERS = {package: REPOSITORY / folder for package, folder in SETTINGS["package-dir"].items()}

ROOMS = {"erode.callbacks", "erode.configs", "erode.datamodules", "erode.lightning_modules"}
TOP = {
    "erode.__main__",
    "erode.audit",
    "erode.benchmark",
    "erode.cli",
    "erode.comparison",
    "erode.measures",
    "erode.operators",
    "erode.plan",
    "erode.protocols",
}


def module_name(package, root, path):
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join([package, *(part for part in parts if part != "__init__")])


MODULES = {
    module_name(package, root, path): path for package, root in FOLDERS.items() for path in sorted(root.rglob("*.py"))
}


def imports(name):
    """Absolute names of the modules that a module imports, in functions too."""
    path = MODULES[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                child = f"{source}.{alias.name}"
                yield child if child in MODULES else source


def floor(name):
    """The room, or the part of the core, that a module belongs to."""
    return ".".join(name.split(".")[:2])


GRAPH = {name: {target for target in imports(name) if target in MODULES and target != name} for name in MODULES}
CORE = {name for name in MODULES if floor(name) not in ROOMS | TOP}


def test_every_module_is_known_and_there_are_many():
    assert ROOMS | TOP | {"erode.accounting", "erode.masks", "erode.metrics", "erode.batch"} <= MODULES.keys()
    assert "erode.files" in GRAPH["erode.weights"]  # the reader of imports does read them
    assert "erode.callbacks" in GRAPH["erode.cli.lightning_cli"]


def rooms():
    """Which rooms import which."""
    found = {}
    for name, targets in GRAPH.items():
        found.setdefault(floor(name), set()).update({floor(target) for target in targets} - {floor(name)})
    return found


@pytest.mark.parametrize("graph", [GRAPH, rooms()], ids=["modules", "rooms"])
def test_nothing_imports_in_circles(graph):
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def wrong(allowed):
    """Imports within the package that a rule does not allow, as lines for the error."""
    pairs = [(name, target) for name in sorted(GRAPH) for target in sorted(GRAPH[name])]
    return [f"{name} -> {target}" for name, target in pairs if not allowed(name, target)]


@functools.cache
def storeys():
    """Rooms in the order in which CONTRIBUTING.md says that they stand on one another, from below."""
    folders = re.findall(r"^\| `([\w/.*]+)` \|", (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.M)
    return [folder.removeprefix("src/").replace("/", ".").replace("erode.*.py", "erode") for folder in folders]


def storey(name):
    """The place of the room that a module stands in, by the longest name."""
    known = [room if room.startswith("erode") else f"erode.{room}" for room in storeys()]
    return known.index(max((room for room in known if f"{name}.".startswith(f"{room}.")), key=len))


def test_nothing_imports_upward():
    rooms_there = {name for name, path in MODULES.items() if path.name == "__init__.py" and name.count(".") == 1}
    assert rooms_there <= {f"erode.{room.removeprefix('erode.')}" for room in storeys()}
    assert wrong(lambda name, target: name == "erode.__main__" or storey(target) <= storey(name)) == []


def test_rooms_do_not_enter_one_another():
    """A callback works in someone else's project: it needs none of our modules or data."""
    assert wrong(lambda name, target: floor(name) not in ROOMS or target in CORE or floor(target) == floor(name)) == []


@pytest.mark.parametrize(
    ("part", "needs"),
    [
        ("erode.accounting", set()),
        ("erode.metrics", {"erode.batch"}),
        ("erode.masks", {"erode.batch", "erode.files"}),
        ("erode.batch", set()),
        ("erode.files", set()),
    ],
)
def test_the_ground_floor_stands_alone(part, needs):
    assert wrong(lambda name, target: floor(name) != part or floor(target) in {part, *needs}) == []


def test_the_core_knows_torch_but_not_lightning():
    lightning = {"lightning", "lightning_fabric", "pytorch_lightning"}
    assert {name for name in CORE if lightning & {target.split(".")[0] for target in imports(name)}} == set()


def test_accounting_is_plain_python():
    bad = {
        (name, target)
        for name in MODULES
        if floor(name) == "erode.accounting"
        for target in imports(name)
        if target.split(".")[0] not in {"erode", "numpy", "scipy", *sys.stdlib_module_names}
    }
    assert bad == set()
    code = "import sys, erode.accounting; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_mapped_folders_import_relatively():
    """A type checker sees these folders outside the package; an absolute import would load them twice."""
    for package in ROOMS:
        for path in FOLDERS[package].rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
                assert not [name for name in names if name.split(".")[0] == "erode"], path


def test_every_folder_with_code_is_a_listed_package():
    assert {name for name, path in MODULES.items() if path.name == "__init__.py"} == set(SETTINGS["packages"])
    assert {path.parent / "__init__.py" for path in MODULES.values()} <= set(MODULES.values())


def test_nothing_shadows_the_package():
    """A folder `erode` at the root would be imported in place of the mapped one."""
    assert not (REPOSITORY / "erode").exists()
