"""The real photograph that `check` and `filter` use: the sample that ships inside matplotlib.

Grace Hopper, 512 x 600, a public-domain portrait by the US Navy.  Nothing is downloaded.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nkiconv.bench.errors import UserError

__all__ = ["SHAPE", "photograph_path", "photograph_rgb"]

SHAPE = (3, 600, 512)

_FILE = Path("sample_data", "grace_hopper.jpg")


def photograph_path() -> Path:
    """Return where matplotlib keeps its sample photograph.

    Raises
    ------
    UserError
        matplotlib is not installed, or was packaged without its sample data.
    """
    spec = find_spec("matplotlib")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            "the sample photograph ships inside matplotlib, which is not installed: "
            "pip install 'nkiconv[cli]', or name an image"
        )
    # Looked up without importing matplotlib: that alone takes about 0.2 s.
    for folder in spec.submodule_search_locations:
        path = Path(folder, "mpl-data") / _FILE
        if path.is_file():
            return path
    from matplotlib import get_data_path  # a distribution may keep the data elsewhere

    path = Path(get_data_path()) / _FILE
    if not path.is_file():
        raise UserError("this matplotlib comes without its sample photograph: name an image")
    return path


def photograph_rgb() -> NDArray[np.uint8]:
    """Return the photograph, `SHAPE` = (3, H, W), values 0 to 255.

    Raises
    ------
    UserError
        matplotlib or Pillow is not installed, or this matplotlib has another photograph.
    """
    try:
        from PIL import Image
    except ImportError:
        raise UserError("images need Pillow: pip install 'nkiconv[cli]'") from None
    with Image.open(photograph_path()) as image:
        pixels = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    if pixels.shape != SHAPE:
        raise UserError(f"the sample photograph has shape {pixels.shape}; expected is {SHAPE}")
    return np.ascontiguousarray(pixels)
