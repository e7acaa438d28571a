"""Environment variables that a library reads as numbers when it is imported: a wrong one would be a traceback."""

import os

from ldm.errors import UserError

NUMBERS = ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT")
"""Those of `huggingface_hub`, which `transformers` imports, too: seconds."""


def refuse_wrong_numbers() -> None:
    """Raises `UserError` for a variable that is set to something else than a number of seconds."""
    for name in NUMBERS:
        value = os.environ.get(name)
        if value is not None and not (value.strip().isdecimal() and int(value) > 0):
            raise UserError(f"{name} should be a whole number of seconds, such as {name}=30, not '{value}'")
