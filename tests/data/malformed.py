"""Image files as they are found in the wild: some odd but readable, some that nothing can read."""

import io
import os
import random
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 24, 32


def picture(mode: str = "RGB", size=(WIDTH, HEIGHT)) -> Image.Image:
    """Return a picture that is dark above and bright below, red on the left and blue on the right."""
    down = np.linspace(0, 200, size[1])[:, None] + np.zeros(size[0])
    across = np.linspace(0, 255, size[0])[None, :] + np.zeros((size[1], 1))
    return Image.fromarray(np.stack([255 - across, down, across], -1).astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def readable() -> dict[str, bytes]:
    """Return contents by file name of images that must be read without complaint."""
    sixteen = Image.fromarray(np.linspace(0, 65535, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint16))
    palette = picture("P")
    palette.info["transparency"] = 0
    frames = [picture(), picture().rotate(180)]
    exif = Image.Exif()
    exif[0x010F] = "maker"
    return {
        "plain.jpg": encoded(picture(), "JPEG", quality=95),
        "progressive.jpg": encoded(picture(), "JPEG", progressive=True),
        "png_named.jpg": encoded(picture(), "PNG"),
        "upper_case.JPG": encoded(picture(), "JPEG"),
        "cmyk.jpg": encoded(picture("CMYK"), "JPEG"),
        "grey.png": encoded(picture("L"), "PNG"),
        "bits.png": encoded(picture("1"), "PNG"),
        "sixteen_bits.png": encoded(sixteen, "PNG"),
        "sixteen_bits.tif": encoded(sixteen, "TIFF"),
        "palette.png": encoded(picture("P"), "PNG"),
        "palette_and_alpha.png": encoded(palette, "PNG"),
        "alpha.png": encoded(picture("RGBA"), "PNG"),
        "grey_and_alpha.png": encoded(picture("LA"), "PNG"),
        "animated.gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "animated.webp": encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "one_pixel.png": encoded(picture(size=(1, 1)), "PNG"),
        "very_wide.png": encoded(picture(size=(30_000, 1)), "PNG"),
        "broken_profile.jpg": encoded(picture(), "JPEG", icc_profile=b"no profile at all"),
        "broken_exif.jpg": encoded(picture(), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff"),
        "half_exif.jpg": encoded(picture(), "JPEG", exif=exif.tobytes()[:-6]),
        "ünïcödé 図.png": encoded(picture(), "PNG"),
        "new\nline.png": encoded(picture(), "PNG"),
        "bitmap.bmp": encoded(picture(), "BMP"),
        "portable.ppm": encoded(picture(), "PPM"),
    }


def unreadable() -> dict[str, bytes]:
    """Return contents by file name of images that must be refused."""
    whole = encoded(picture(size=(96, 96)), "JPEG")
    progressive = encoded(picture(size=(96, 96)), "JPEG", progressive=True)
    png = encoded(picture(), "PNG")
    start = whole.index(b"\xff\xda") + 14  # of the compressed pixels
    cuts = np.linspace(1, len(whole) - 40, 20).astype(int)
    return {
        "empty.jpg": b"",
        "text.jpg": b"hello, I am a text file\n",
        "html.png": b"<!DOCTYPE html><title>404 Not Found</title>",
        "bomb.png": bomb(20_000, 20_000),
        "large_bomb.png": bomb(200_000, 200_000),
        "float.tif": encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"),
        "cut.png": png[: len(png) // 2],
        "cut.gif": encoded(picture(), "GIF")[:40],
        "cut_progressive.jpg": progressive[: start + 40],
        **{f"cut_{n:02}.jpg": whole[:cut] for n, cut in enumerate(cuts)},
    }


def bomb(width: int, height: int) -> bytes:
    """Return a small PNG file that claims to be a large grey picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def special(folder: Path) -> dict[str, str]:
    """Make things with the name of an image that are none; return what the complaint must contain."""
    os.mkfifo(folder / "pipe.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "dangling.png").symlink_to("gone.png")
    return {"pipe.png": "not a file", "loop.png": "symbolic link", "dangling.png": "No such file"}


def formats() -> dict[str, bytes]:
    """Return contents by name of a picture in every format that is read, and in every mode of those."""
    found = dict(readable())
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "PPM", "BMP", "JPEG2000", "AVIF"):
        if kind in Image.SAVE or kind in ("JPEG2000", "AVIF"):
            try:
                found[f"{kind}.png"] = encoded(picture(), kind)
            except (KeyError, OSError):  # Pillow was built without it
                continue
    for compression in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits"):
        found[f"{compression}.tif"] = encoded(picture(), "TIFF", compression=compression)
    return found


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Return a file as disks, networks and people damage it: bits, bytes, numbers, pieces, ends."""
    content = bytearray(content)
    for _ in range(chance.choice([1, 1, 1, 2, 5, 20])):
        at = chance.randrange(len(content) + 1)
        length = chance.choice([1, 2, 4, 8, chance.randrange(1, 200)])
        kind = chance.randrange(8)
        if kind == 0 and at < len(content):
            content[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            content[at : at + length] = chance.randbytes(length)
        elif kind == 2:
            content[at : at + length] = bytes([chance.choice([0, 255])]) * length
        elif kind == 3:  # a number at its limits, either way round, often in the header
            at = chance.randrange(min(len(content), 64) + 1)
            number = chance.choice([0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 12_000])
            content[at : at + 4] = number.to_bytes(4, chance.choice(["little", "big"]))
        elif kind == 4:
            del content[at : at + length]
        elif kind == 5:
            content[at:at] = content[at : at + length]
        elif kind == 6:
            del content[at:]
        else:
            other = chance.randrange(len(content) + 1)
            content[at : at + length] = content[other : other + length]
    return bytes(content)
