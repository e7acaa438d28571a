"""Stable Diffusion v1's checkpoint: bash download/sd-weights.sh."""

import logging

from ldm.commands.download.hub import HubFile, Place, ensure, environment_help
from ldm.commands.download.refusals import check_environment
from ldm.commands.options.common import command_parser
from ldm.files import ROOT
from ldm.interruption import set_resume_command

log = logging.getLogger(__name__)

DIRECTORY = ROOT / "weights" / "sd-v1"
EDITS = ROOT / "weights" / "instruct-pix2pix"
"""Apart from Stable Diffusion itself: commands take what is there where no checkpoint is named."""
VARIABLE = "SD_WEIGHTS_DIR"

CHECKPOINTS = {
    "v1-4": HubFile(
        "CompVis/stable-diffusion-v-1-4-original",
        "sd-v1-4.ckpt",
        hash="fe4efff1e174c627256e44ec2991ba279b3816e364b49f9be2abc0b3ff3f8556",
    ),
    "v1-5": HubFile(  # the mirror that took the place of the repository that its publisher withdrew
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "v1-5-pruned-emaonly.ckpt",
        hash="cc6cb27103417325ff94f52b7a5d2dde45a7515b25c255d8e396c90014281516",
    ),
    "instruct-pix2pix": HubFile(  # edits by instruction, with averaged weights; its hash is the one that the Hub names
        "timbrooks/instruct-pix2pix", "instruct-pix2pix-00-22000.safetensors"
    ),
}

DESCRIPTION = """\
Downloads the Stable Diffusion v1 checkpoint (4.3 GB) to weights/sd-v1/, where every command of this project looks
for it:

  v1-4   sd-v1-4.ckpt                (the default)
  v1-5   v1-5-pruned-emaonly.ckpt

and the checkpoint that edits images by instruction (7.7 GB; docs/edits.md) to weights/instruct-pix2pix/:

  instruct-pix2pix   instruct-pix2pix-00-22000.safetensors

Run it again at any time: what is there is verified and left alone, what broke off is continued, what other programs
have put into the Hub's cache is copied, and a checkpoint gets its name only when its SHA-256 is right. By downloading
you accept the licence of the weights, CreativeML OpenRAIL-M:
https://huggingface.co/spaces/CompVis/stable-diffusion-license
"""

EPILOG = f"""\
{environment_help(VARIABLE, "another place than these directories; give the file to commands with --ckpt-path")}
No network on this machine? Download the file elsewhere, copy it there under this name, and run this to verify it.
"""


def main() -> None:
    """Parses the arguments and downloads the checkpoint."""
    parser = command_parser(DESCRIPTION, EPILOG)
    parser.prog = "bash download/sd-weights.sh"
    parser.add_argument("version", nargs="?", choices=list(CHECKPOINTS), default="v1-4", help="default: v1-4")
    version = parser.parse_args().version
    set_resume_command(f"{parser.prog} {version}")
    check_environment()

    place = Place(EDITS if version == "instruct-pix2pix" else DIRECTORY, VARIABLE)
    file = CHECKPOINTS[version]
    target = place.directory / file.path
    log.info("%s: %s", file.path, "already there" if target.exists() else "downloading")
    ensure(file, target, place)
    name = version if version == "instruct-pix2pix" else f"Stable Diffusion {version}"
    log.info("Done: %s is %s", name, target)
