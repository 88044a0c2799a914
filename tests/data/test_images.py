import random
import tracemalloc
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from regroup.errors import DataError
from regroup.training.data.images import calm_decoders, fit, inspect_image, read_image

from .malformed import HEIGHT, WIDTH, bomb, damaged, encoded, picture, readable, special, unreadable


@pytest.mark.parametrize("name", readable())
@pytest.mark.parametrize("channels", [1, 3])
def test_odd_images_are_read(name, channels, tmp_path):
    (tmp_path / name).write_bytes(readable()[name])
    image = read_image(tmp_path / name, channels)
    assert image.mode == {1: "L", 3: "RGB"}[channels]
    with calm_decoders():
        facts = inspect_image(tmp_path / name)
    assert facts[:3] == ((image.height, image.width), "", True)
    assert fit(image, (16, 16)).shape == (channels, 16, 16)


@pytest.mark.parametrize("name", unreadable())
def test_bad_images_are_refused_by_the_look_and_by_the_reading(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(unreadable()[name])
    with calm_decoders():
        problem = inspect_image(path).problem
    assert problem
    with pytest.raises(DataError) as error:
        read_image(path, 3)
    assert error.value.path == str(path) and str(error.value).startswith(str(path))
    assert error.value.reason == problem


def test_one_wrong_byte_in_a_png_is_found(tmp_path):
    contents = bytearray(encoded(picture(), "PNG"))
    contents[len(contents) // 2] ^= 1
    (tmp_path / "a.png").write_bytes(contents)
    with calm_decoders():
        assert "checksum" in inspect_image(tmp_path / "a.png").problem


def test_things_that_are_no_files_are_refused_without_waiting(tmp_path):
    for name, complaint in special(tmp_path).items():
        with pytest.raises(DataError, match=complaint):
            read_image(tmp_path / name, 3)


def test_what_a_text_file_begins_with_is_shown(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"hello, world")
    with pytest.raises(DataError, match="begins with b'hello, world'"):
        read_image(tmp_path / "a.jpg", 3)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path):
    (tmp_path / "bomb.png").write_bytes(bomb(60_000, 60_000))
    with pytest.raises(DataError, match="more than 89478485 pixels"):
        read_image(tmp_path / "bomb.png", 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_comes_out_upright(orientation, tmp_path):
    turn_back = {  # how a camera held in some way stores an upright picture
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = picture().transpose(turn_back[orientation]) if orientation > 1 else picture()
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "a.png").write_bytes(encoded(stored, "PNG", exif=exif))
    assert np.array_equal(np.asarray(read_image(tmp_path / "a.png", 3)), np.asarray(picture()))
    with calm_decoders():
        assert inspect_image(tmp_path / "a.png").size == (HEIGHT, WIDTH)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    levels = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    (tmp_path / "a.png").write_bytes(encoded(Image.fromarray(levels), "PNG"))
    assert np.asarray(read_image(tmp_path / "a.png", 1)).ravel().tolist() == list(range(256))


def test_transparent_pixels_become_white(tmp_path):
    hidden = Image.new("RGBA", (2, 1), (10, 20, 30, 0))
    hidden.putpixel((0, 0), (10, 20, 30, 255))
    (tmp_path / "a.png").write_bytes(encoded(hidden, "PNG"))
    assert list(read_image(tmp_path / "a.png", 3).get_flattened_data()) == [(10, 20, 30), (255, 255, 255)]


def test_reading_shows_no_warning_and_leaves_the_filters(tmp_path):
    contents = readable()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        filters = list(warnings.filters)
        for name in ("palette_and_alpha.png", "broken_exif.jpg", "half_exif.jpg"):
            (tmp_path / name).write_bytes(contents[name])
            read_image(tmp_path / name, 3)
        assert not seen and warnings.filters == filters


def test_decoders_do_not_print_by_themselves(tmp_path, capfd):
    """What the library of a format prints goes past Python, onto the terminal."""
    chance, refused = random.Random(0), 0
    for compression in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits"):
        whole = encoded(picture(), "TIFF", compression=compression)
        for _ in range(20):
            (tmp_path / "a.tif").write_bytes(damaged(whole, chance))
            try:
                read_image(tmp_path / "a.tif", 3)
            except DataError:
                refused += 1
            with calm_decoders():
                inspect_image(tmp_path / "a.tif")
    assert refused > 20
    samples = b"\x15\x01\x03\x00\x01\x00\x00\x00"  # the tag of how many there are in a pixel
    assert samples + b"\x03\x00" in whole
    (tmp_path / "a.tif").write_bytes(whole.replace(samples + b"\x03\x00", samples + b"\xff\xff"))
    with pytest.raises(DataError, match="cannot be recognised"):
        read_image(tmp_path / "a.tif", 3)
    assert capfd.readouterr() == ("", "")


def test_fitting_an_image_of_the_right_size_changes_nothing():
    image = picture()
    assert np.array_equal(fit(image, (HEIGHT, WIDTH), part=0.875).permute(1, 2, 0), np.asarray(image))


@pytest.mark.parametrize("size", [(40, 30), (30, 40)])
def test_fitting_keeps_the_middle(size):
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[5:-5, 5:-5] = 255
    side = min(size)
    assert fit(Image.fromarray(pixels), (20, 20), part=(side - 10) / side).unique().tolist() == [255]


def test_a_very_wide_image_is_fitted_in_little_memory():
    image = Image.new("RGB", (30_000, 1), "red")
    assert torch.equal(fit(image, (224, 224))[:, 0, 0], torch.tensor([255, 0, 0], dtype=torch.uint8))


def test_no_room_is_made_for_what_a_damaged_length_says(tmp_path):
    content = bytearray(encoded(picture(), "JPEG2000"))
    start = content.index(b"jp2h") - 4
    content[start : start + 4] = (0xFF000000).to_bytes(4, "big")
    (tmp_path / "a.jp2").write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="Expected to read"):
            read_image(tmp_path / "a.jp2", 3)
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()
