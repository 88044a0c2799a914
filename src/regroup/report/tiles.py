"""Small square pictures of matrices, a pixel a number: outputs downwards, inputs to the right."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Tile:
    """A picture and the words below it.

    Args:
        name: what it is of.
        picture: a PNG, as the address of an image.
    """

    name: str
    picture: str


def tile(name: str, matrix: Sequence[Sequence[float]], colour_map: str) -> Tile:
    """Return the picture of a matrix of numbers between 0 and 1.

    Args:
        name: what it is of.
        matrix: rows of equal length.
        colour_map: of matplotlib.
    """
    import numpy as np
    from matplotlib import colormaps
    from PIL import Image

    values = np.clip(np.asarray(matrix, dtype=float), 0, 1)
    colours = (colormaps[colour_map](values)[..., :3] * 255).round().astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(colours).save(out, "PNG", optimize=True)
    return Tile(name, "data:image/png;base64," + base64.b64encode(out.getvalue()).decode())
