"""The official file at full size: nothing is copied until it is used, and txt2img.py samples from it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ldm.checkpoint.loading import Placement, load_model
from ldm.diffusion.latent_diffusion import LatentDiffusionConfig

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("memory")]

ROOT = Path(__file__).parents[2]


def own_megabytes() -> float:
    """Memory of this process that is not mapped from files."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        pytest.skip("this system doesn't tell mapped memory from the rest")
    return int(found.group(1)) / 1024


@pytest.mark.parametrize("name", ["sd-v1-4.ckpt", "official.safetensors"])
def test_a_loaded_model_shares_its_weights_with_the_file(weights_dir: Path, name: str) -> None:
    before = own_megabytes()
    model = load_model(weights_dir / name, LatentDiffusionConfig(), Placement(torch.device("cpu")))
    total = sum(parameter.sum().item() for parameter in model.parameters())
    assert total != 0, "every weight was read"
    assert own_megabytes() - before < 100, "of 4265 MB"


def test_txt2img_samples_from_the_official_ckpt(weights_dir: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "txt2img.py"), "-c", str(weights_dir / "sd-v1-4.ckpt"), "--hw", "64", "128"]
    done = subprocess.run(
        [*command, "--ddim-steps", "2", "-v", "1", "-p", "a photo of sks can"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "outputs" / "txt2img-1").iterdir()} == {
        ".lock",
        "run.log",
        "00-a-photo-of-sks-can_42.png",
        "grid.png",
        "pictures.csv",
        "run.yaml",
    }
