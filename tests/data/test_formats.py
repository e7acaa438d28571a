"""Which decoders a file of unknown origin may reach, and errors about missing ones."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from ldm.data import formats
from ldm.data.formats import FORMATS, unused_reason
from ldm.data.images import read_image
from ldm.errors import UserError
from ldm.files import ROOT
from tests.data.odd_images import GOOD, NO_IMAGES, save_turned


def error_of(path: Path) -> str:
    with pytest.raises(UserError) as error:
        read_image(path)
    return str(error.value)


def test_no_decoder_starts_a_program_or_draws_a_document() -> None:
    assert not {"EPS", "PDF", "WMF", "GBR", "BUFR", "GRIB", "HDF5", "MPEG"} & {*FORMATS}


def test_a_document_in_an_images_name_reaches_no_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.init()
    for name in ("EPS", "WMF"):
        monkeypatch.setitem(Image.OPEN, name, (lambda *arguments: pytest.fail("decoded"), Image.OPEN[name][1]))
    for name in ("logo.eps", "logo.wmf", "scan.pdf"):
        (tmp_path / f"{name}.jpg").write_bytes(NO_IMAGES[name][0])
        assert "is not a readable image (" in error_of(tmp_path / f"{name}.jpg")


def test_a_raw_file_is_not_read_as_its_tiny_preview(tmp_path: Path) -> None:
    Image.new("RGB", (16, 12), "red").save(tmp_path / "a.nef", format="TIFF")
    assert "raw files: export them as JPEG or TIFF" in error_of(tmp_path / "a.nef")
    Image.new("RGB", (16, 12), "red").save(tmp_path / "renamed.nef", format="JPEG")
    assert read_image(tmp_path / "renamed.nef").size == (16, 12)


def test_jpeg_xl_is_named(tmp_path: Path) -> None:
    for name, start in (("a.jxl", b"\xff\x0a"), ("b.jxl", b"\0\0\0\x0cJXL \r\n\x87\n")):
        (tmp_path / name).write_bytes(start + bytes(50))
        assert "JPEG XL, which is not read" in error_of(tmp_path / name)


def test_without_pillow_heif_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_turned(tmp_path / "IMG_1.HEIC", "HEIF", 1, Image.new("RGB", (64, 64), "red"))
    assert unused_reason(tmp_path / "IMG_1.HEIC") is None
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert error_of(tmp_path / "IMG_1.HEIC").endswith("is HEIC, which pillow-heif reads: pip install pillow-heif")


def test_without_avif_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.avif").write_bytes(b"\0\0\0\x1cftypavif" + bytes(50))
    older = {name: one for name, one in formats._registry().items() if name != "AVIF"}
    monkeypatch.setattr(Image, "OPEN", older)
    assert error_of(tmp_path / "a.avif").endswith(
        "is AVIF, which Pillow reads from version 11.3: pip install -U pillow"
    )


def test_a_tga_without_its_footer_is_known_by_its_suffix_only(tmp_path: Path) -> None:
    GOOD["a.tga"](tmp_path / "a.tga")
    (tmp_path / "old.tga").write_bytes((tmp_path / "a.tga").read_bytes()[:-26])
    (tmp_path / "old").write_bytes((tmp_path / "old.tga").read_bytes())
    (tmp_path / "named otherwise").write_bytes((tmp_path / "a.tga").read_bytes())
    for name in ("old.tga", "named otherwise"):
        assert read_image(tmp_path / name).size == (24, 16)
    assert "not a readable image" in error_of(tmp_path / "old")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch(mode=0)
    assert "Permission denied" in error_of(tmp_path / "a.png")
    assert unused_reason(tmp_path / "a.png") == "could not be opened: Permission denied"


def test_libraries_for_few_images_are_imported_on_demand() -> None:
    late = {"pillow_heif", "PIL.ImageCms", "torch"}
    code = f"import sys, ldm.data.formats, ldm.data.colours; print({late} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
