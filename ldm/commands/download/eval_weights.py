"""The two networks that a comparison of checkpoints is scored with: bash download/eval-weights.sh."""

import logging

from ldm.commands.download.hub import HubFile, Place, ensure, environment_help
from ldm.commands.download.refusals import check_environment
from ldm.commands.options.common import command_parser
from ldm.files import ROOT
from ldm.interruption import set_resume_command

log = logging.getLogger(__name__)

DIRECTORY = ROOT / "weights" / "eval"
VARIABLE = "EVAL_WEIGHTS_DIR"

# The repositories as they were when this was written: a later change there changes nothing here.
DINO = "facebook/dino-vits16", "abe3b354cb6a9b6f146096b14a4a9d7eecbcb4bd"
CLIP = "openai/clip-vit-base-patch32", "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268"
CLIP_SHA256 = "a63082132ba4f97a80bea76823f544493bffa8082296d62d71581a4feff1576f"

# The smaller network first: what is wrong with the connection shows before the long wait.
FILES = [
    *(HubFile(DINO[0], name, DINO[1]) for name in ("config.json", "preprocessor_config.json", "pytorch_model.bin")),
    *(
        HubFile(CLIP[0], name, CLIP[1])
        for name in ("config.json", "preprocessor_config.json", "vocab.json", "merges.txt")
    ),
    HubFile(CLIP[0], "pytorch_model.bin", CLIP[1], hash=CLIP_SHA256),
]

DESCRIPTION = """\
Downloads the networks that the DreamBooth paper measures with, some 690 MB, to weights/eval/, where scores look for
them. The embedded tiny model needs none of this: its judge comes with the project.

  dino-vits16/            DINO ViT-S/16: is it the same thing?        facebook/dino-vits16, Apache 2.0
  clip-vit-base-patch32/  CLIP ViT-B/32: does it show the prompt?     openai/clip-vit-base-patch32, MIT

Run it again at any time: every file is compared with the hash that the Hub names, what is there is left alone, and
what broke off is continued. The weights are pickles; they are read without executing what is in them.
"""

EPILOG = environment_help(
    VARIABLE, "another place than weights/eval/; scores look in weights/eval/, so link to it from there"
)


def main() -> None:
    """Parses the arguments and downloads the files, each into a folder of its repository's name."""
    parser = command_parser(DESCRIPTION, EPILOG)
    parser.prog = "bash download/eval-weights.sh"
    parser.parse_args()
    set_resume_command(parser.prog)
    check_environment()

    place = Place(DIRECTORY, VARIABLE)
    for file in FILES:
        folder = file.repo.split("/")[1]
        log.info("%s/%s", folder, file.path)
        if not ensure(file, place.directory / folder / file.path, place):
            log.info("  already there")
    log.info("Done: DINO ViT-S/16 and CLIP ViT-B/32 are in %s", place.directory)
