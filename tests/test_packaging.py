"""What a user installs: one top-level package with all its code and configurations, and nothing else."""

import importlib.util
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
BUILT = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "runs", "tests", "benchmarks")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("building a wheel offline needs setuptools: pip install 'setuptools>=77'")
    folder = tmp_path_factory.mktemp("wheel")
    source = shutil.copytree(REPOSITORY, folder / "source", ignore=BUILT)  # a build leaves folders in the tree
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "."]
    subprocess.run([*command, "--wheel-dir", str(folder)], cwd=source, check=True, capture_output=True, timeout=120)
    [path] = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


def test_it_holds_exactly_the_package(wheel):
    folders = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
    expected = {
        f"{package.replace('.', '/')}/{path.relative_to(REPOSITORY / folder).as_posix()}": path.read_bytes()
        for package, folder in folders.items()
        for path in (REPOSITORY / folder).rglob("*")
        if path.suffix in (".py", ".yaml", ".typed")
    }
    code = {name: content for name, content in wheel.items() if ".dist-info/" not in name}
    assert code.keys() == expected.keys()
    assert code == expected


def test_it_says_what_it_is(wheel):
    [entry_points] = [content.decode() for name, content in wheel.items() if name.endswith("entry_points.txt")]
    assert "erode = erode.cli:console" in entry_points
    [metadata] = [content.decode() for name, content in wheel.items() if name.endswith(".dist-info/METADATA")]
    assert "License-Expression: Apache-2.0" in metadata
    assert any(name.endswith("licenses/LICENSE") for name in wheel)
