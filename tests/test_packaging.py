"""The build map names the whole tree, and a wheel holds it."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest needs it too, before 3.11

ROOT = Path(__file__).resolve().parent.parent
SETTINGS: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = SETTINGS["tool"]["setuptools"]
PARTS = sorted({name.split(".")[1] for name in SETUPTOOLS["packages"]})

# Written in pieces, so that this file passes its own test.
REGISTRIES = [
    ".".join(pieces)
    for pieces in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("pytorch", "org/whl"),
        ("repos", "neuron", "amazonaws", "com"),
        ("anaconda", "org"),
        ("npmjs", "org"),
        ("npmjs", "com"),
    )
]


def project_files() -> list[Path]:
    """Every file that git tracks or would add; without git, every file that has a place here."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        names = [name for name in done.stdout.split("\0") if name]
        files = [ROOT / name for name in names]
    except (OSError, subprocess.CalledProcessError):
        made = re.compile(
            r"^(\.git|\.venv.*|build|dist|out|.*\.egg-info|__pycache__|\..*_cache|\.hypothesis)$"
        )
        files = [
            path
            for path in ROOT.rglob("*")
            if not any(made.fullmatch(name) for name in path.relative_to(ROOT).parts)
        ]
    return [path for path in files if path.is_file()]


def modules_of(part: str) -> list[Path]:
    return [path for path in (ROOT / part).rglob("*.py") if "__pycache__" not in path.parts]


def data_files() -> set[str]:
    """Files in the parts that are not Python source, relative to the root."""
    return {
        path.relative_to(ROOT).as_posix()
        for path in project_files()
        if path.relative_to(ROOT).parts[0] in PARTS and path.suffix != ".py"
    }


def test_packages_are_the_folders_with_python_files() -> None:
    roots = {
        path.parent.name
        for path in ROOT.glob("*/__init__.py")
        if path.parent.name != "tests" and not path.parent.name.startswith(".")
    }
    folders = {path.parent for part in roots for path in modules_of(part)}
    tree = {".".join(("nkiconv", *folder.relative_to(ROOT).parts)) for folder in folders}
    assert set(SETUPTOOLS["packages"]) == tree
    assert SETUPTOOLS["packages"] == sorted(SETUPTOOLS["packages"])


def test_package_dir_maps_each_package_to_its_folder() -> None:
    expected = {
        name: name.removeprefix("nkiconv.").replace(".", "/") for name in SETUPTOOLS["packages"]
    }
    assert SETUPTOOLS["package-dir"] == expected
    for folder in expected.values():
        assert (ROOT / folder / "__init__.py").is_file(), folder


def test_every_data_file_belongs_to_a_package() -> None:
    listed = {
        path.relative_to(ROOT).as_posix()
        for package, patterns in SETUPTOOLS["package-data"].items()
        for pattern in patterns
        for path in (ROOT / SETUPTOOLS["package-dir"][package]).glob(pattern)
    }
    assert data_files() == listed


@pytest.mark.parametrize("part", PARTS)
def test_part_is_typed_and_linked(part: str) -> None:
    assert (ROOT / part / "py.typed").is_file()
    link = ROOT / ".src" / "nkiconv" / part
    assert link.is_symlink()
    assert link.resolve() == ROOT / part


def test_links_lead_to_folders() -> None:
    links = [path for path in (ROOT / ".src").rglob("*") if path.is_symlink()]
    assert len(links) == len(PARTS) + 1  # and nki, for type checkers
    assert all(not link.readlink().is_absolute() and link.is_dir() for link in links)


def test_installed_version_is_the_written_one() -> None:
    version = SETTINGS["project"]["version"]
    assert importlib.metadata.version("nkiconv") == version
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert re.findall(r"^## \[(.+?)\]", changelog, re.MULTILINE)[0] == version


def test_extra_neuron_cannot_be_met_by_placeholders() -> None:
    from packaging.requirements import Requirement

    placeholders = {"nki": "0.0.1", "neuronx-cc": "1.0.post1", "torch-neuronx": "1.0"}
    lines = SETTINGS["project"]["optional-dependencies"]["neuron"]
    requirements = {r.name: r for r in map(Requirement, lines)}
    assert requirements.keys() == placeholders.keys()
    for name, version in placeholders.items():
        assert version not in requirements[name].specifier


def test_no_registry_is_named() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {host}"
        for path in project_files()
        if path.suffix not in {".png", ".jpg", ".gif", ".gz"}
        for host in REGISTRIES
        if host in path.read_text(encoding="utf-8", errors="replace").lower()
    ]
    assert not found


@pytest.mark.slow
def test_wheel_holds_every_module_and_data_file(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for path in project_files():
        target = source / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", "wheel", source]
    subprocess.run(command, cwd=tmp_path, check=True)
    (wheel,) = (tmp_path / "wheel").iterdir()
    assert wheel.name == f"nkiconv-{SETTINGS['project']['version']}-py3-none-any.whl"

    names = set(zipfile.ZipFile(wheel).namelist())
    held = {name for name in names if not re.match(r"nkiconv-[^/]+\.dist-info/", name)}
    modules = {path.relative_to(ROOT).as_posix() for part in PARTS for path in modules_of(part)}
    assert held == {f"nkiconv/{name}" for name in modules | data_files()}
    assert any(name.endswith("/LICENSE") for name in names)
