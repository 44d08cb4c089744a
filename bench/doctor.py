"""What is installed, which NKI and target are in use, what is missing and how to get it."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

__all__ = ["Line", "as_dict", "examine"]

# distribution, what it is for; the first two are required
_PACKAGES = (
    ("numpy", "required"),
    ("ml_dtypes", "required: bfloat16"),
    ("typer", "command line"),
    ("rich", "command line"),
    ("scipy", "comparison in `nkiconv filter`"),
    ("pillow", "images"),
    ("matplotlib", "sample photograph, pictures"),
    ("jinja2", "HTML report"),
    ("torch", "nkiconv.pytorch, comparison with PyTorch"),
    ("transformers", "`nkiconv model`: ResNet, ConvNeXt"),
    ("monai", "`nkiconv model`: U-Net"),
)
_EXTRAS = {"torch": "torch", "transformers": "models", "monai": "models"}

# The vendor's packages come from the vendor's index only; what the public index has under these
# names are placeholders without code, whose versions end here.
_VENDOR = (
    ("nki", "0.0.1"),
    ("neuronx-cc", "1.0.post1"),
    ("torch-neuronx", "1.0"),
)
_VENDOR_HINT = (
    "only needed on a machine with a NeuronCore; from AWS's own package index, "
    "see the vendor's set-up guide"
)


@dataclass(frozen=True)
class Line:
    """One finding: `status` is ``ok``, ``info`` (optional and absent) or ``missing`` (needed)."""

    topic: str
    status: str
    value: str
    hint: str = ""


def examine() -> tuple[list[Line], bool]:
    """Return all findings, and whether nkiconv is usable here."""
    lines = [
        Line("nkiconv", "ok", _version("nkiconv") or "not installed (run from its source)"),
        _python(),
        *_packages(),
        _blas(),
        *_nki(),
        _target(),
        _devices(),
        *_vendor(),
    ]
    return lines, all(line.status != "missing" for line in lines)


def as_dict(lines: list[Line], usable: bool) -> dict[str, object]:
    """Return the findings as plain values for JSON."""
    return {"usable": usable, "findings": [asdict(line) for line in lines]}


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _python() -> Line:
    value = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info < (3, 10):  # noqa: UP036  an installation that was forced
        return Line("python", "missing", value, "nkiconv needs Python 3.10 or newer")
    return Line("python", "ok", value)


def _packages() -> list[Line]:
    lines = []
    for distribution, purpose in _PACKAGES:
        version = _version(distribution)
        if version is not None:
            lines.append(Line(distribution, "ok", version))
        elif purpose.startswith("required"):
            lines.append(
                Line(distribution, "missing", "not installed", f"pip install {distribution}")
            )
        else:
            extra = _EXTRAS.get(distribution, "cli")
            hint = f"{purpose}: pip install 'nkiconv[{extra}]'"
            lines.append(Line(distribution, "info", "not installed", hint))
    return lines


def _blas() -> Line:
    """Which BLAS NumPy multiplies with: the simulator's speed depends on it."""
    import numpy as np

    try:
        blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        return Line("BLAS of numpy", "ok", f"{blas['name']} {blas['version']}")
    except (KeyError, TypeError):  # a build that does not say
        return Line("BLAS of numpy", "info", "this NumPy does not say", "")


def _nki() -> list[Line]:
    from nkiconv.simulate import embedded

    try:
        now = embedded.install()
    except ValueError as error:  # the environment variable asks for what is not there
        return [Line("NKI in use", "missing", "none", str(error))]
    lines = [Line("NKI in use", "ok", f"{now.which} {now.version}", now.reason)]
    if now.placeholder is not None:
        lines.append(Line("NKI placeholder", "info", str(now.placeholder), "ignored: holds no NKI"))
    return [*lines, *(_coverage(module) for module in ("isa", "language", "collectives"))]


def _coverage(module: str) -> Line:
    """How many of a vendor module's functions the embedded NKI has, and which it lacks."""
    from nkiconv.simulate.coverage import available, names_of
    from nkiconv.simulate.embedded import NKI_VERSION

    full_name = f"nki.{module}"
    have, known = available(full_name), names_of(full_name)["functions"]
    value = f"{len(have)} of {len(known)} functions of {NKI_VERSION}"
    lacking = [name for name in known if name not in have]
    hint = f"not there yet: {', '.join(lacking)}" if lacking else ""
    return Line(f"embedded {full_name}", "ok", value, hint)


def _target() -> Line:
    from nkiconv.simulate.hardware import TARGET_VARIABLE, current_target

    wish = os.environ.get(TARGET_VARIABLE, "")
    origin = f"from {TARGET_VARIABLE}={wish}" if wish else "the default"
    try:
        return Line("target", "ok", current_target(), origin)
    except ValueError as error:
        return Line("target", "missing", wish, str(error))


def _devices() -> Line:
    nodes = sorted(path.name for path in Path("/dev").glob("neuron*"))
    if nodes:
        return Line("Neuron devices", "ok", f"{len(nodes)}: {', '.join(nodes)}")
    return Line(
        "Neuron devices", "info", "none", "kernels run in the simulator; times are modelled"
    )


def _vendor() -> list[Line]:
    lines = []
    for distribution, placeholder in _VENDOR:
        version = _version(distribution)
        if version is None:
            lines.append(Line(f"{distribution} (vendor)", "info", "not installed", _VENDOR_HINT))
        elif version == placeholder:
            value = f"{version}, a placeholder without code"
            lines.append(Line(f"{distribution} (vendor)", "info", value, _VENDOR_HINT))
        else:
            lines.append(Line(f"{distribution} (vendor)", "ok", version))
    return lines
