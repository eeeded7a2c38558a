"""Decoding: every kind of file either right, noted, or refused."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from pictures import build_pixels, save_picture
from PIL import Image

from robustbench_local.data.decode import (
    BadImageError,
    convert_image,
    is_colour,
    read_image,
    translate_decoding_errors,
)
from robustbench_local.errors import DataError, RefusedError


@pytest.mark.parametrize("suffix", ["png", "bmp", "ppm"])
def test_lossless_formats_come_back_exactly(tmp_path, suffix):
    path = save_picture(tmp_path / f"a.{suffix}")
    picture = read_image(path, where="a")
    assert np.array_equal(picture.pixels, build_pixels(10, 12, 3))
    assert picture.notes == ()


@pytest.mark.parametrize("suffix", ["png", "bmp", "pgm", "jpg"])
def test_grey_has_one_channel(tmp_path, suffix):
    path = save_picture(tmp_path / f"a.{suffix}", mode="L")
    assert read_image(path, where="a").pixels.shape == (10, 12, 1)


@pytest.mark.parametrize(
    ("suffix", "cut"),
    [("png", 0.5), ("png", -20), ("png", -10), ("jpg", 0.5), ("bmp", 0.7), ("ppm", 0.7), ("png", 20)],
)
def test_truncated_files_are_bad(tmp_path, suffix, cut):
    path = save_picture(tmp_path / f"a.{suffix}", size=(64, 64))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * cut) if 0 < cut < 1 else cut])
    with pytest.raises(BadImageError):
        read_image(path, where="a")


def test_one_flipped_bit_in_a_png_is_found(tmp_path):
    path = save_picture(tmp_path / "a.png")
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 40] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadImageError, match="cannot be decoded"):
        read_image(path, where="a")


@pytest.mark.parametrize(
    "content", [b"just some text\n", b"GIF89a" + bytes(40), b"\xff\xd8\xff", b"P6\n-3 4\n255\n", b"BM"]
)
def test_other_files_are_bad(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(BadImageError):
        read_image(path, where="a")


def test_real_images_of_other_formats_are_bad(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(build_pixels(4, 4, 3)).save(buffer, format="TIFF")
    path = tmp_path / "a.png"
    path.write_bytes(buffer.getvalue())
    with pytest.raises(BadImageError, match="not a PNG, JPEG, PPM or BMP image"):
        read_image(path, where="a")


def test_empty_files_are_bad(tmp_path):
    path = tmp_path / "a.png"
    path.touch()
    with pytest.raises(BadImageError, match="empty file"):
        read_image(path, where="a")


def test_random_damage_never_escapes_as_another_error(tmp_path):
    """200 damaged files: an image or BadImageError, never a foreign exception or a warning."""
    rng = np.random.default_rng(5)
    sources = [
        save_picture(tmp_path / f"a.{suffix}", seed=3, size=(20, 20)).read_bytes()
        for suffix in ("png", "jpg", "bmp", "ppm")
    ]
    path = tmp_path / "damaged"
    bad = 0
    for turn in range(200):
        content = bytearray(sources[turn % 4])
        for position in rng.integers(0, min(len(content), 80), size=3):
            content[position] = rng.integers(0, 256)
        path.write_bytes(content)
        try:
            read_image(path, where="a", alpha="white")
        except (BadImageError, RefusedError):
            bad += 1
    assert bad > 20


def test_transparency_is_put_on_the_declared_background(tmp_path):
    image = np.zeros((2, 2, 4), np.uint8)
    image[0, 0] = (255, 0, 0, 255)
    image[0, 1] = (255, 0, 0, 0)
    image[1, 0] = (0, 0, 0, 128)
    Image.fromarray(image).save(tmp_path / "a.png")
    picture = read_image(tmp_path / "a.png", where="a", alpha="white")
    assert picture.pixels[0, 0].tolist() == [255, 0, 0]
    assert picture.pixels[0, 1].tolist() == [255, 255, 255]
    assert picture.pixels[1, 0].tolist() == [127, 127, 127]
    assert picture.notes == ("transparent, put on a white background",)
    green = read_image(tmp_path / "a.png", where="a", alpha="#00ff00")
    assert green.pixels[0, 1].tolist() == [0, 255, 0]


def _with_alpha(kind):
    if kind == "palette":
        image = Image.fromarray(build_pixels(4, 4, 3)).quantize(8)
        image.info["transparency"] = 0
        return image
    if kind == "colour key":
        image = Image.fromarray(build_pixels(4, 4, 3))
        image.info["transparency"] = image.getpixel((1, 2))
        return image
    return Image.fromarray(build_pixels(4, 4, {"LA": 2, "RGBA": 4}[kind]))


@pytest.mark.parametrize(("kind", "channels"), [("palette", 3), ("colour key", 3), ("LA", 1), ("RGBA", 3)])
def test_every_kind_of_transparency_needs_a_background(tmp_path, kind, channels):
    image = _with_alpha(kind)
    image.save(tmp_path / "a.png", transparency=image.info.get("transparency"))
    with pytest.raises(DataError, match=r"^here: has an alpha channel.*alpha: white"):
        read_image(tmp_path / "a.png", where="here")
    assert read_image(tmp_path / "a.png", where="here", alpha="black").pixels.shape[2] == channels


@pytest.mark.parametrize("kind", ["RGBA", "LA", "palette", "colour key", "PA"])
def test_an_opaque_alpha_channel_is_left_out_with_a_note(tmp_path, kind):
    if kind in ("RGBA", "LA"):
        content = build_pixels(4, 4, {"LA": 2, "RGBA": 4}[kind])
        content[..., -1] = 255
        image, expected = Image.fromarray(content), content[..., :-1]
    else:
        colours = build_pixels(4, 4, 3)
        colours[colours == 9] = 8
        image = Image.fromarray(colours)
        image = image.quantize(8) if kind in ("palette", "PA") else image
        expected = np.asarray(image.convert("RGB"))
        image = image.convert("PA") if kind == "PA" else image
    unused = {"palette": bytes([255] * 8), "colour key": (9, 9, 9)}.get(kind)
    if kind == "PA":
        picture = convert_image(image, where="here")
    else:
        image.save(tmp_path / "a.png", **({"transparency": unused} if unused else {}))
        picture = read_image(tmp_path / "a.png", where="here")
    assert np.array_equal(picture.pixels, expected.reshape(picture.pixels.shape))
    assert picture.notes == ("opaque alpha channel, left out",)


def test_one_pixel_that_is_not_quite_opaque_is_still_refused(tmp_path):
    content = build_pixels(4, 4, 4)
    content[..., -1] = 255
    content[3, 3, 3] = 254
    Image.fromarray(content).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"transparent pixels.*alpha: white"):
        read_image(tmp_path / "a.png", where="here")


def test_sixteen_bits_are_scaled_not_saturated(tmp_path):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    (tmp_path / "a.pgm").write_bytes(b"P5 8 8 65535\n" + ramp.astype(">u2").tobytes())
    for name in ("a.png", "a.pgm"):
        picture = read_image(tmp_path / name, where="a")
        assert picture.pixels.dtype == np.float32
        assert np.allclose(picture.pixels[..., 0], ramp / 65535, atol=1e-7)
        assert picture.notes == ("16-bit gray, divided by 65535",)


def test_a_maximum_below_65535_is_respected(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 2 1 4095\n" + np.array([0, 4095], ">u2").tobytes())
    assert read_image(tmp_path / "a.pgm", where="a").pixels.flatten().tolist() == [0, 1]


def _png(width, height, depth, colour, rows):
    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_sixteen_bit_colour_is_read_at_eight_bits_with_a_note(tmp_path):
    deep = np.array([[65535, 32768, 256]], ">u2")
    (tmp_path / "a.png").write_bytes(_png(1, 1, 16, 2, b"\0" + deep.tobytes()))
    picture = read_image(tmp_path / "a.png", where="a")
    assert picture.pixels.tolist() == [[[255, 128, 1]]]
    assert picture.notes == ("16-bit color, read at 8 bits",)


def test_sixteen_bit_grey_with_a_transparent_value_is_bad():
    image = Image.fromarray(np.full((2, 2), 5, np.uint16))
    image.info["transparency"] = 4
    assert convert_image(image, where="a").pixels.max() == np.float32(5 / 65535)
    image.info["transparency"] = 5
    with pytest.raises(BadImageError, match="transparent color"):
        convert_image(image, where="a")


def test_floating_point_pixels_are_bad():
    with pytest.raises(BadImageError, match="mode F"):
        convert_image(Image.fromarray(np.zeros((2, 2), np.float32)), where="a")


def test_palette_black_and_white_and_cmyk_are_converted_with_a_note(tmp_path):
    Image.fromarray(build_pixels(6, 6, 3)).quantize(16).save(tmp_path / "palette.png")
    Image.fromarray(build_pixels(6, 6) > 99).save(tmp_path / "binary.png")
    save_picture(tmp_path / "cmyk.jpg", mode="CMYK")
    read = {
        name: read_image(tmp_path / name, where="a") for name in ("palette.png", "binary.png", "cmyk.jpg")
    }
    assert read["palette.png"].notes == ("palette, converted to RGB",)
    assert read["binary.png"].notes == ("black and white, converted to gray",)
    assert read["cmyk.jpg"].notes == ("CMYK, converted to RGB",)
    assert [picture.pixels.shape[2] for picture in read.values()] == [3, 1, 3]
    assert set(np.unique(read["binary.png"].pixels)) == {0, 255}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(tmp_path, orientation):
    upright = build_pixels(6, 9, 3)
    turned = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.transpose(1, 0, 2), 6: np.rot90(upright), 7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(turned)).save(tmp_path / "a.png", exif=exif)
    picture = read_image(tmp_path / "a.png", where="a")
    assert np.array_equal(picture.pixels, upright)
    assert picture.notes == (() if orientation == 1 else ("rotated upright according to its EXIF data",))


@pytest.mark.parametrize("damage", [b"II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0", b"no TIFF at all", b""])
def test_damaged_exif_data_does_not_cost_the_image(tmp_path, damage):
    save_picture(tmp_path / "a.jpg", exif=b"Exif\0\0" + damage)
    assert read_image(tmp_path / "a.jpg", where="a").pixels.shape == (10, 12, 3)


def test_a_picture_is_turned_even_if_the_rest_of_its_exif_data_is_damaged(tmp_path):
    entries = [(0x0112, 3, 1, 6), (0x829A, 5, 9, 0xFFFFFF)]  # the orientation, and a value far outside
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body
    save_picture(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg", where="a").pixels.shape == (12, 10, 3)


def test_of_several_pictures_in_a_file_the_first_is_used(tmp_path):
    frames = [Image.fromarray(build_pixels(4, 4, 3, seed=seed)) for seed in (0, 1)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    picture = read_image(tmp_path / "a.png", where="a")
    assert np.array_equal(picture.pixels, build_pixels(4, 4, 3))
    assert picture.notes == ("several images in one file, the first used",)


@pytest.mark.parametrize("side", [9_500, 20_000])
@pytest.mark.parametrize("limit", [None, 10**12, Image.MAX_IMAGE_PIXELS])
def test_decompression_bombs_are_refused_before_they_unpack(tmp_path, monkeypatch, side, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    path = tmp_path / "a.png"
    path.write_bytes(_png(side, side, 8, 0, b""))
    with pytest.raises(RefusedError, match=r"here: .*decompression bomb"):
        read_image(path, where="here")


def test_the_guard_lets_our_own_errors_through():
    with pytest.raises(DataError, match="ours"), translate_decoding_errors("here"):
        raise DataError("ours")


def test_colours():
    assert is_colour("white")
    assert is_colour("#123456")
    assert not is_colour("whitish")
