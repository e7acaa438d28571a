"""Photos and class images from an archive, a URL of one, or a folder of one's own class images."""

import http.server
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from ldm.commands.photo_sources import folder_of
from ldm.config import read_yaml
from ldm.errors import UserError
from tests.commands.calls import call, equal, refused
from tests.commands.dreambooth.fine_tuning import FineTune
from tests.data.test_archives import write_archive
from tests.data.test_verdicts import photo


@pytest.fixture
def archive(tmp_path: Path, subject_dir: Path) -> Path:
    """The shared photos in a folder of a zip."""
    photos = {f"can/{path.name}": path.read_bytes() for path in sorted(subject_dir.iterdir())}
    return write_archive(tmp_path / "can.zip", photos)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a web server with the files in `tmp_path`."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", "file:///etc/hostname")
                self.end_headers()
            else:
                super().do_GET()

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.mark.slow
def test_an_archive_a_url_and_a_folder_give_the_same_weights(
    archive: Path, server: str, fine_tune: FineTune, subject_dir: Path
) -> None:
    flags = ("--no-previews", "--class-img-count", 0, "--save-dtype", "fp32")
    runs = [fine_tune("-i", source, *flags) for source in (subject_dir, archive, f"{server}/can.zip")]
    assert all(equal(run.step(2), runs[0].step(2)) for run in runs)
    records = [read_yaml(run.directory / "run.yaml") for run in runs]
    folders = [record["options"]["instance_img_dir"] for record in records]
    assert folders[1] == folders[2] and Path(folders[1]).name == "can"
    assert [record.get("origins", {}).get("instance_img_dir") for record in records] == [
        None,
        str(archive),
        f"{server}/can.zip",
    ]
    assert len([path for path in (fine_tune.root / "photos").iterdir() if path.is_dir()]) == 1


@pytest.mark.slow
def test_a_resumed_run_finds_unpacked_photos_again(archive: Path, fine_tune: FineTune) -> None:
    run = fine_tune("-i", archive, "--no-previews", "--class-img-count", 0).directory
    shutil.rmtree(fine_tune.root / "photos")
    outcome = call("dreambooth", "-r", run, "--iterations", 3)
    assert outcome.status == 0, outcome.said
    assert f"is gone: fetching {archive} again" in outcome.said
    shutil.rmtree(fine_tune.root / "photos")
    archive.unlink()
    refused(call("dreambooth", "-r", run, "--iterations", 4), f"error: there is no archive {archive}")


def test_an_archive_and_its_url_share_one_folder(archive: Path, server: str, subject_dir: Path, tmp_path: Path) -> None:
    folders = {folder_of(source, tmp_path / "cache") for source in (archive, f"{server}/can.zip")}
    (folder,) = folders
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in subject_dir.iterdir()
    }
    name = folder.parent.name
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {name, f"{name}.json"}


def test_unpacked_photos_that_were_changed_are_unpacked_again(
    archive: Path, subject_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = {path.name: path.read_bytes() for path in subject_dir.iterdir()}
    folder = folder_of(archive, tmp_path / "cache")
    first, second, *_ = sorted(folder.iterdir())
    for change in (first.unlink, lambda: second.write_bytes(b"cut"), lambda: (folder / "1.txt").write_text("red")):
        change()
        caplog.clear()
        assert folder_of(archive, tmp_path / "cache") == folder
        assert "was changed after it was unpacked" in caplog.text
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole
    kept = tmp_path / "cache" / f"{folder.parent.name}-changed-3"
    assert (kept / "can" / "1.txt").read_text() == "red"
    caplog.clear()
    folder_of(archive, tmp_path / "cache")
    assert "was changed" not in caplog.text


def test_an_archive_that_cant_be_read_is_no_error_of_the_cache(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^there is no archive .*none\.zip$"):
        folder_of(tmp_path / "none.zip", tmp_path / "cache")
    with pytest.raises(UserError, match=r"is a folder, not a file$"):
        folder_of(tmp_path, tmp_path / "cache")


def test_nothing_is_unpacked_for_a_call_that_lacks_something_else(archive: Path, tmp_path: Path) -> None:
    refused(call("dreambooth", "-i", archive, "-o", tmp_path / "out"), "--class-name is needed")
    (tmp_path / "runs" / "none").mkdir(parents=True)
    refused(call("dreambooth", "-r", tmp_path / "runs" / "none", "-i", archive), "is no run of dreambooth.py")
    assert not (tmp_path / "out").exists() and not (tmp_path / "runs" / "photos").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "words"),
    [("/moved", "could not be downloaded"), ("/none.zip", "404"), ("/page", "is no archive that can be unpacked")],
)
def test_what_a_server_sends_instead_is_refused(path: str, words: str, server: str, tmp_path: Path) -> None:
    (tmp_path / "page").write_text("<!DOCTYPE html>")
    with pytest.raises(UserError, match=words):
        folder_of(f"{server}{path}", tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.slow
def test_ones_own_class_images_are_trained_on_and_known_by_their_content(fine_tune: FineTune, tmp_path: Path) -> None:
    own = tmp_path / "class"
    own.mkdir()
    for seed in range(4):
        photo(seed).save(own / f"{seed}.png")
    (own / "0-cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    packed = write_archive(tmp_path / "class.tar.gz", {path.name: path.read_bytes() for path in own.iterdir()})
    flags = ("--no-previews", "--save-dtype", "fp32")
    runs = [fine_tune("--class-img-dir", source, "--class-img-count", 3, *flags) for source in (own, packed)]
    assert equal(runs[0].step(2), runs[1].step(2))
    assert not (fine_tune.root / "class-images").exists()
    assert "left out: " in runs[0].outcome.said and "3 class images from " in runs[0].outcome.said
    record = read_yaml(runs[0].directory / "run.yaml")
    assert record["options"]["class_img_count"] == len(record["class_photos"]) == 3
    photo(9).save(own / "1.png")
    changed = call("dreambooth", "-r", runs[0].directory, "--iterations", 3)
    refused(changed, f"the class images in {own} are not those", "--class-img-dir")
    resumed = call("dreambooth", "-r", runs[0].directory, "--iterations", 3, "--class-img-dir", packed)
    assert resumed.status == 0, resumed.said


def test_a_file_that_is_no_archive_is_refused(fine_tune: FineTune, tmp_path: Path) -> None:
    photo(0).save(tmp_path / "a.png")
    refused(fine_tune.call("-i", tmp_path / "a.png"), "a.png is no archive that can be unpacked (zip, tar")
