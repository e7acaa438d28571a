"""Environment variables that a library reads as numbers when it is imported: a wrong one would be a traceback."""

import os

from ldm.errors import UserError

NUMBERS = {
    "HF_HUB_DOWNLOAD_TIMEOUT": "seconds",
    "HF_HUB_ETAG_TIMEOUT": "seconds",
    "HF_HUB_LOCAL_DIR_AUTO_SYMLINK_THRESHOLD": "bytes",
}
"""Those of `huggingface_hub`, which `transformers` imports, too, and their units; newer versions read the first two."""


def refuse_wrong_numbers() -> None:
    """Raises `UserError` for a variable that is set to something else than a whole number above 0."""
    for name, unit in NUMBERS.items():
        value = os.environ.get(name)
        if value is not None and not (value.strip().isdecimal() and int(value) > 0):
            raise UserError(f"{name} should be a whole number of {unit}, such as {name}=30, not '{value}'")
