"""The floors of the house: who may import whom, held by reading the imports of every file."""

import ast
import graphlib
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
    "erode.correlations",
    "erode.forget_atoms",
    "erode.measures",
    "erode.subjects",
    "erode.operators.command",
    "erode.plan.candidates",
    "erode.plan.command",
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
    """The room, or the part of the core, that a module belongs to; a command may stand above the rest of its part."""
    return name if name in TOP else ".".join(name.split(".")[:2])


GRAPH = {name: {target for target in imports(name) if target in MODULES and target != name} for name in MODULES}
CORE = {name for name in MODULES if floor(name) not in ROOMS | TOP}


def test_every_module_is_known_and_there_are_many():
    assert ROOMS | TOP | {"erode.accounting", "erode.masks", "erode.metrics", "erode.batch"} <= MODULES.keys()
    assert "erode.files" in GRAPH["erode.weights"]  # the reader of imports does read them
    assert "erode.callbacks" in GRAPH["erode.cli.lightning_cli"]


def test_nothing_imports_in_circles():
    try:
        graphlib.TopologicalSorter(GRAPH).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def wrong(allowed):
    """Imports within the package that a rule does not allow, as lines for the error."""
    pairs = [(name, target) for name in sorted(GRAPH) for target in sorted(GRAPH[name])]
    return [f"{name} -> {target}" for name, target in pairs if not allowed(name, target)]


def test_nothing_imports_upward():
    level = {name: 0 if name in CORE else 1 if floor(name) in ROOMS else 2 for name in MODULES}
    assert wrong(lambda name, target: level[target] <= level[name]) == []


def test_rooms_do_not_enter_one_another():
    """A callback works in someone else's project: it needs none of our modules or data."""
    assert wrong(lambda name, target: floor(name) not in ROOMS or target in CORE or floor(target) == floor(name)) == []


LAYERS = ["batches", "guards", "noise", "bases"]
"""Of the callbacks, from below; the operators and monitors themselves stand on all of them."""


def test_callbacks_stand_on_layers():
    def layer(name):
        part = name.removeprefix("erode.callbacks").strip(".").split(".")[0]
        return LAYERS.index(part) if part in LAYERS else len(LAYERS)

    assert {layer(name) for name in MODULES if floor(name) == "erode.callbacks"} == set(range(len(LAYERS) + 1))
    assert wrong(lambda name, target: floor(target) != "erode.callbacks" or layer(target) <= layer(name)) == []


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
