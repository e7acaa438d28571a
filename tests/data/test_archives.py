"""Archives of photos are unpacked; what would leave the directory, follow links or fill the disk is not."""

import io
import logging
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from ldm.data import archives
from ldm.data.archives import is_archive, unpack
from ldm.errors import UserError

CONTENT = {"photos/1.png": b"one", "photos/2.png": b"two" * 1000}


def write_archive(path: Path, content: dict[str, bytes] = CONTENT) -> Path:
    """In the format of the file's name."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
            for name, data in content.items():
                zipped.writestr(name, data)
        return path
    mode = {".tar": "w:", ".gz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz"}[path.suffix]
    with tarfile.open(path, mode) as tar:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def unpacked(archive: Path) -> dict[str, bytes]:
    """The files below a new directory, by their paths in it."""
    (directory := archive.parent / "into").mkdir()
    unpack(archive, directory)
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz"])
def test_every_kind_is_recognised_by_its_content(name: str, tmp_path: Path) -> None:
    archive = write_archive(tmp_path / name).rename(tmp_path / "download")
    assert is_archive(archive)
    assert unpacked(archive) == CONTENT


def test_other_files_are_no_archives(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_text("<!DOCTYPE html>")
    assert not is_archive(tmp_path / "a.zip")
    with pytest.raises(UserError, match="no archive that can be unpacked"):
        unpacked(tmp_path / "a.zip")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_nothing_is_written_outside_and_hidden_files_are_left_out(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = [
        "../out.png",
        "/tmp/out.png",
        "a/../../out.png",
        "C:\\out.png",
        "..\\out.png",
        ".DS_Store",
        "__MACOSX/1.png",
    ]
    archive = write_archive(tmp_path / f"a.{kind}", {**dict.fromkeys(names, b"bad"), **CONTENT})
    with caplog.at_level(logging.INFO):
        assert unpacked(archive) == CONTENT
    assert "5 of its entries not unpacked (outside of the archive's own directory)" in caplog.text
    assert {path.name for path in tmp_path.iterdir()} == {archive.name, "into"}


def test_only_images_and_captions_are_unpacked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    captions = {"photos/1.txt": b"red", "photos/metadata.jsonl": b"", "photos/3.JPG": b"three"}
    others = ["model.safetensors", "model.ckpt", "run.yaml", "unet/model_index.json", "a.py"]
    archive = write_archive(tmp_path / "a.zip", {**dict.fromkeys(others, b"bad"), **captions, **CONTENT})
    with caplog.at_level(logging.INFO):
        assert unpacked(archive) == {**captions, **CONTENT}
    assert "5 of its entries not unpacked (neither images nor captions)" in caplog.text


def test_links_are_not_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            member = tarfile.TarInfo(f"{kind!r}.png")
            member.type, member.linkname = kind, "/etc/hostname"
            tar.addfile(member)
        through = tarfile.TarInfo("way")
        through.type, through.linkname = tarfile.SYMTYPE, str(tmp_path)
        tar.addfile(through)
        member = tarfile.TarInfo("way/1.png")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"one"))
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as zipped:
        info = zipfile.ZipInfo("link.png")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        zipped.writestr(info, "/etc/hostname")
    assert unpacked(tmp_path / "a.tar") == {"way/1.png": b"one"}
    assert not (tmp_path / "1.png").exists()
    (tmp_path / "into").rename(tmp_path / "first")
    assert unpacked(tmp_path / "b.zip") == {}
    assert "5 of its entries not unpacked (links or devices)" in caplog.text


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_an_archive_that_would_fill_the_disk_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = write_archive(tmp_path / name, {"bomb.png": bytes(2**22)})
    assert archive.stat().st_size < 2**14
    monkeypatch.setattr(archives, "free_bytes", lambda path: 2**21)
    with pytest.raises(UserError, match=r"unpacks to more than 1\.89 MB"):
        unpacked(archive)
    assert sum(path.stat().st_size for path in (tmp_path / "into").iterdir()) <= 2**21


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MOST_FILES", 3)
    with pytest.raises(UserError, match="holds more than 3 files"):
        unpacked(write_archive(tmp_path / "a.zip", {f"{number}.png": b"" for number in range(5)}))


def test_a_header_of_any_size_is_not_read_into_memory(tmp_path: Path) -> None:
    member = tarfile.TarInfo("comment")
    member.type, member.size = tarfile.XHDTYPE, 2**33 - 1
    (tmp_path / "a.tar").write_bytes(member.tobuf(tarfile.USTAR_FORMAT) + bytes(1024))
    with pytest.raises(UserError, match="damaged: a header of"):
        unpacked(tmp_path / "a.tar")


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.tar.xz", "a.tar"])
def test_a_damaged_archive_is_refused(name: str, tmp_path: Path) -> None:
    archive = write_archive(tmp_path / name, {"1.png": os.urandom(5000)})
    archive.write_bytes(archive.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"a\.\S+ (is damaged|could not be unpacked|can't be unpacked)"):
        unpacked(archive)
