"""Full-size files, made once for all tests of this folder; about 9 GB of disk."""

from pathlib import Path

import pytest
from safetensors.torch import save_file

from ldm.files import ROOT
from tests.full_size.make_ckpt import random_state_dict, write_official_ckpt

CLIP_TOKENIZER = ROOT / "ldm" / "assets" / "clip-tokenizer"


@pytest.fixture(scope="session")
def weights_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`sd-v1-4.ckpt` as a pickle, `official.safetensors` with the same tensors, and the tokenizer beside them."""
    directory = tmp_path_factory.mktemp("weights")
    state_dict = random_state_dict(seed=0)
    write_official_ckpt(directory / "sd-v1-4.ckpt", state_dict)
    save_file(state_dict, directory / "official.safetensors")
    (directory / "tokenizer").symlink_to(CLIP_TOKENIZER)
    return directory
