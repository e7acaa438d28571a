"""The page to browse a comparison with: one `index.html` beside its images, from `page/` and the data.

The page works without a network and its content security policy forbids one: everything but the images is inlined.
Prompts, names and options may hold anything. They are embedded as JSON and shown as text; nothing becomes markup.

Two scores of a cell are more than numbers: `copy` is 1 for an image that copies a photo, and `copy_photo` is the index
of the nearest photo.
"""

import base64
import hashlib
import html
import json
import math
from dataclasses import asdict
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

from ldm.data.images import image_size
from ldm.errors import UserError
from ldm.files import write_text
from ldm.report.comparison import ComparisonData, shown_prompt

PAGE_NAME = "index.html"

SOURCES = Path(__file__).parent / "page"

SCRIPTS = (
    "elements.js",
    "comparison.js",
    "view.js",
    "summary.js",
    "filters.js",
    "grid.js",
    "enlarged.js",
    "curves.js",
    "tables.js",
    "page.js",
)
"""Concatenated in this order: later ones use earlier ones."""

UNKNOWN_SIZE = (512, 512)
"""Width and height of the cells if no image can be read."""


def write_page(directory: Path, comparison: ComparisonData) -> Path:
    """Writes `directory/index.html`; the comparison's files are relative to the directory."""
    path = directory / PAGE_NAME
    write_text(path, page_html(comparison, _image_size(directory, comparison)))
    return path


def page_html(comparison: ComparisonData, image_size: tuple[int, int] = UNKNOWN_SIZE) -> str:
    """The whole page for images of (width, height)."""
    style = (SOURCES / "page.css").read_text(encoding="utf-8")
    script = "\n".join((SOURCES / name).read_text(encoding="utf-8") for name in SCRIPTS)
    template = Template((SOURCES / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        policy=_policy(style, script),
        title=html.escape(comparison.title.encode(errors="replace").decode()),
        style=style,
        script=script,
        data=_as_script(page_data(comparison, image_size)),
    )


def page_data(comparison: ComparisonData, image_size: tuple[int, int] = UNKNOWN_SIZE) -> dict[str, Any]:
    """The comparison as the scripts read it: URLs for file names, null for numbers that aren't finite."""
    data = _plain(asdict(comparison))
    for column, given in zip(data["columns"], comparison.columns, strict=True):
        column["heading"], column["label"] = shown_prompt(comparison, given.prompt_index), given.label
        column["init_image"] = _url(given.init_image)
    for row in data["rows"]:
        for cell in filter(None, row["cells"]):
            cell["url"] = _url(cell.pop("file"))
    for group in data["groups"]:
        group["photos"] = [_url(photo) for photo in group["photos"]]
    data["init_image"] = _url(comparison.init_image)
    data["image"] = {"width": image_size[0], "height": image_size[1]}
    return data


def _url(file: str) -> str:
    """A relative URL; the bytes of names that aren't UTF-8 are kept."""
    return quote(file.encode(errors="surrogateescape"), safe="/")


def _plain(value: Any) -> Any:
    """As JSON can hold it; NaN and infinity become null."""
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _as_script(data: dict[str, Any]) -> str:
    """JSON that can't end its script element; ASCII, so that lone surrogates can be written too."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _policy(style: str, script: str) -> str:
    """Allows this style, this script and images beside the page; `data:` is for the empty icon."""
    return (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src 'self' file: data:; "
        f"style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _image_size(directory: Path, comparison: ComparisonData) -> tuple[int, int]:
    """Width and height of the first image that can be read: cells have their size before images load."""
    for row in comparison.rows:
        for cell in filter(None, row.cells):
            try:
                return image_size(directory / cell.file)
            except UserError:
                continue
    return UNKNOWN_SIZE
