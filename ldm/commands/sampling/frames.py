"""img2img over a folder: each of its images, in natural order, is an initial image."""

import argparse
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ldm.checkpoint.saving import hash_file
from ldm.commands.enough_memory import refuse_too_large_images
from ldm.commands.sampling.adapters import LoraFile
from ldm.commands.sampling.job import Frame, Job, job_from, size_like
from ldm.commands.sampling.masks import Margins, init_from
from ldm.commands.sampling.rows import image_digest, mask_digest
from ldm.data.images import read_image
from ldm.data.photos import find_photos, list_folder
from ldm.diffusion.sampling import InitImage, SamplingConfig
from ldm.progress import each
from ldm.runtime.batching import batch_that_fits, images_at_a_time
from ldm.runtime.devices import Compute
from ldm.runtime.models import Settings


def is_folder(options: argparse.Namespace) -> bool:
    """Whether the call is one of img2img over a folder."""
    init_img: Path | None = getattr(options, "init_img", None)
    return init_img is not None and init_img.is_dir()


def with_one_variation(options: argparse.Namespace) -> argparse.Namespace:
    """The options with one image for each of a folder, unless `--variations` is given."""
    if not is_folder(options) or "variations" in options.typed:
        return options
    return argparse.Namespace(**{**vars(options), "variations": 1})


def count_images(folder: Path) -> int:
    """How many images a folder holds."""
    return len(list_folder(folder).images)


def folder_digest(path: Path) -> str:
    """SHA-256 of the names and contents of a folder's images: the same after it has moved."""
    lines = [f"{image.name} {hash_file(image)}" for image in list_folder(path).images]
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


def folder_job_from(
    options: argparse.Namespace, settings: Settings, compute: Compute, loras: tuple[LoraFile, ...] = ()
) -> Job:
    """As `job_from`, for all images of a folder. Raises `UserError` if one can't be read, or its result doesn't fit.

    The job's own `sampling` has the height and the width of the highest and of the widest.
    """
    folder: Path = options.init_img
    paths = find_photos(folder)
    job = job_from(argparse.Namespace(**{**vars(options), "init_img": paths[0]}), settings, compute, loras=loras)
    assert job.init is not None
    options = argparse.Namespace(**{**vars(options), "strength": job.init.strength})
    names = _names(paths)
    frames: list[Frame] = []
    checked: set[tuple[int, int]] = set()
    for index, path in enumerate(each(paths, len(paths), "reading", "img")):
        load = partial(_load, path, options, settings, job.margins)
        init = load()
        height, width = init.image.shape[1:]
        sampling = replace(job.sampling, height=height, width=width)
        if (height, width) not in checked:
            checked.add((height, width))
            together = images_at_a_time(compute.device, options.batch_size or 1)
            refuse_too_large_images(settings.model, sampling, together, compute.dtype, compute.device)
        first = options.seed + index * options.variations if options.seed_per_image else options.seed
        seeds = [first + i for i in range(options.variations)]
        masked = mask_digest(init) if init.mask is not None else ""
        frames.append(Frame(names[index], path, seeds, sampling, image_digest(init), masked, load))
    largest = _largest(job.sampling, frames)
    images = max(1, len(job.prompts)) * options.variations * max(1, len(job.image_scales))
    batch_size = options.batch_size or batch_that_fits(settings, largest, compute.dtype, compute.device, images)
    return replace(job, sampling=largest, batch_size=batch_size, init_path=folder, frames=tuple(frames))


def _load(path: Path, options: argparse.Namespace, settings: Settings, margins: Margins) -> InitImage:
    """An image as `job_from` has it: without `--hw` in its own shape, at about the model's area."""
    defaults, hw = settings.sampling, options.hw
    image = read_image(path, max(hw or (defaults.height, defaults.width)))
    height, width = hw if hw and len(hw) == 2 else hw * 2 if hw else size_like(image, defaults)
    multiple = settings.model.size_multiple  # `snapped_size` would report the size of each image
    size = [max(multiple, round(side / multiple) * multiple) for side in (height, width)]
    return init_from(options, image, (size[0], size[1]), margins)


def _names(paths: Sequence[Path]) -> list[str]:
    """The names of the results without suffix; images that differ in their suffix alone keep it in the name."""
    stems = Counter(path.stem.casefold() for path in paths)
    names = [path.stem if stems[path.stem.casefold()] == 1 else path.name for path in paths]
    is_unique = len({name.casefold() for name in names}) == len(names)
    return names if is_unique else [path.name for path in paths]


def _largest(sampling: SamplingConfig, frames: Sequence[Frame]) -> SamplingConfig:
    height, width = (max(getattr(one.sampling, side) for one in frames) for side in ("height", "width"))
    return replace(sampling, height=height, width=width)
