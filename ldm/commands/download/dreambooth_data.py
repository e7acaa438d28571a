"""The public DreamBooth dataset: bash download/dreambooth-data.sh."""

import logging
import re
import sys
from collections.abc import Sequence

from huggingface_hub import HfApi, constants
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from ldm.commands.download.hub import HubFile, Place, ensure, environment_help, patiently
from ldm.commands.download.refusals import Attempt, check_environment
from ldm.commands.options.common import command_parser
from ldm.errors import UserError
from ldm.files import ROOT
from ldm.interruption import set_resume_command
from ldm.terminal import quoted

log = logging.getLogger(__name__)

DIRECTORY = ROOT / "data" / "dreambooth"
VARIABLE = "DREAMBOOTH_DATA_DIR"

REPO = "google/dreambooth"
TEXTS = ("prompts_and_classes.txt", "references_and_licenses.txt")

SUBJECTS = {
    "backpack": "backpack",
    "backpack_dog": "backpack",
    "bear_plushie": "stuffed animal",
    "berry_bowl": "bowl",
    "can": "can",
    "candle": "candle",
    "cat": "cat",
    "cat2": "cat",
    "clock": "clock",
    "colorful_sneaker": "sneaker",
    "dog": "dog",
    "dog2": "dog",
    "dog3": "dog",
    "dog5": "dog",
    "dog6": "dog",
    "dog7": "dog",
    "dog8": "dog",
    "duck_toy": "toy",
    "fancy_boot": "boot",
    "grey_sloth_plushie": "stuffed animal",
    "monster_toy": "toy",
    "pink_sunglasses": "glasses",
    "poop_emoji": "toy",
    "rc_car": "toy",
    "red_cartoon": "cartoon",
    "robot_toy": "toy",
    "shiny_sneaker": "sneaker",
    "teapot": "teapot",
    "vase": "vase",
    "wolf_plushie": "stuffed animal",
}
"""And their classes, as in the dataset's prompts_and_classes.txt."""

DESCRIPTION = f"""\
Downloads the DreamBooth dataset ({REPO} on the Hugging Face Hub, some 25 MB) to data/dreambooth/: all 30 subjects, or
those that you name.

  <subject>/00.jpg ...          4-6 photos
  prompts_and_classes.txt       the class of each subject, and the 25 prompts that the paper evaluates with
  references_and_licenses.txt   who took the photos

To train on one of them:

  bash download/dreambooth-data.sh dog
  python dreambooth.py -c dog -i data/dreambooth/dog

Run it again at any time: every file is compared with the hash that the Hub lists for it, and only what is missing or
wrong is downloaded.
"""

EPILOG = environment_help(VARIABLE, "another place than data/dreambooth/")


def main() -> None:
    """Parses the arguments and downloads the photos."""
    parser = command_parser(DESCRIPTION, EPILOG)
    parser.prog = "bash download/dreambooth-data.sh"
    parser.add_argument("--list", action="store_true", help="only write the subjects and their classes")
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help="default: all")
    options = parser.parse_args()
    if options.list:
        sys.stdout.writelines(f"{name:20} {class_name}\n" for name, class_name in SUBJECTS.items())
        return
    for name in options.subjects:
        if name not in SUBJECTS:
            raise UserError(f"there is no subject '{name}'. There are: {', '.join(SUBJECTS)}")
    set_resume_command(" ".join([parser.prog, *map(quoted, options.subjects)]))
    check_environment()
    _bring(options.subjects or list(SUBJECTS), Place(DIRECTORY, VARIABLE))


def _bring(subjects: Sequence[str], place: Place) -> None:
    files = wanted(listing(), subjects)
    new = 0
    with_bars = not are_progress_bars_disabled()
    if with_bars:
        disable_progress_bars()  # a line for each photo is enough
    try:
        for number, file in enumerate(files, start=1):
            name = file.path.removeprefix("dataset/")
            if ensure(file, place.directory / name, place):
                new += 1
                log.info("[%d/%d] %s", number, len(files), name)
    finally:
        if with_bars:
            enable_progress_bars()
    log.info("Done: %d files in %s (%d new, %d already there)", len(files), place.directory, new, len(files) - new)


def listing() -> list[HubFile]:
    """The files of the dataset, with their sizes and hashes."""
    api = HfApi(endpoint=constants.ENDPOINT)
    log.info("asking %s for the list of photos", constants.ENDPOINT)

    def ask() -> list[HubFile]:
        try:
            tree = list(api.list_repo_tree(REPO, "dataset", recursive=True, repo_type="dataset"))
        except (KeyError, TypeError, AttributeError) as error:  # JSON, but no listing
            raise ValueError(f"{type(error).__name__}: {error}") from error
        return [
            HubFile(REPO, entry.path, "main", "dataset", entry.lfs.sha256 if entry.lfs else entry.blob_id, entry.size)
            for entry in tree
            if isinstance(entry, RepoFile)
        ]

    return patiently(Attempt(f"{constants.ENDPOINT}/api/datasets/{REPO}/tree/main/dataset", REPO, "dataset"), ask)


def wanted(files: Sequence[HubFile], subjects: Sequence[str]) -> list[HubFile]:
    """Those of the subjects, and the texts. Their names are matched whole, so that none leads out of the directory."""
    patterns = {f"photos of {name}": rf"dataset/{re.escape(name)}/[0-9A-Za-z_-]+\.jpg" for name in subjects}
    patterns |= {name: rf"dataset/{re.escape(name)}" for name in TEXTS}
    found = []
    for what, pattern in patterns.items():
        matching = [file for file in files if re.fullmatch(pattern, file.path)]
        if not matching:
            raise UserError(
                f"{constants.ENDPOINT} lists no {what} in {REPO}. Has the dataset changed? See "
                f"https://huggingface.co/datasets/{REPO}/tree/main"
            )
        found += matching
    return found
