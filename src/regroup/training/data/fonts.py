"""The characters that glyphs and scenes show, in the fonts that matplotlib ships.

No font is in both tuples, so that accuracy on the test split is accuracy on letters of another make.
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import numpy as np

CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

TRAIN_FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-BoldOblique",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSansMono-BoldOblique",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-BoldItalic",
    "STIXGeneral",
    "STIXGeneralBolIta",
    "STIXGeneralItalic",
    "cmb10",
    "cmti10",
)
TEST_FONTS = ("DejaVuSansMono-Oblique", "DejaVuSerif-Italic", "STIXGeneralBol", "cmr10", "cmss10", "cmtt10")

CAPITAL = 0.44
"""Height of a capital letter, as a part of its cell's; the middle of a capital is the middle of the cell."""


def atlas_level(capital: float) -> int:
    """Return the height of the atlas cells for capitals of `capital` pixels: magnified 1.25 times at most."""
    return min(max(16, 1 << math.ceil(math.log2(0.8 * capital / CAPITAL))), 256)


@lru_cache(maxsize=8)
def atlas(fonts: tuple[str, ...], cell: int) -> np.ndarray:
    """Return all of `CHARACTERS` in one font after the other: uint8 coverage, (count, cell, cell).

    All fonts are scaled to the same height of capitals; a character is centred from left to right.
    """
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    cells = []
    for name in fonts:
        path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{name}.ttf")
        font = ImageFont.truetype(path, 1000)
        em = 1000 * CAPITAL * cell / -font.getbbox("H", anchor="ls")[1]
        font = font.font_variant(size=em)
        for character in CHARACTERS:
            left, _, right, _ = font.getbbox(character, anchor="ls")
            picture = Image.new("L", (cell, cell))
            origin = ((cell - left - right) / 2, cell * (1 + CAPITAL) / 2)
            ImageDraw.Draw(picture).text(origin, character, fill=255, font=font, anchor="ls")
            cells.append(np.asarray(picture))
    return np.stack(cells)
