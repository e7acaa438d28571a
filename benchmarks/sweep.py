"""What does a comparison of checkpoints cost against as many separate runs? Whole processes, with their start-up.

    taskset -c 0,1 python benchmarks/sweep.py                              # checkpoints of the embedded tiny model
    python benchmarks/sweep.py --ckpt-path ckpts/water-bottle-1 -v 4       # or any directory of checkpoints

In turn: `txt2img.py --ckpt-path DIR` once, and `txt2img.py --ckpt-path FILE` for each of its checkpoints, with the same
prompt and seeds. Both must give the same images, on the CPU to the bit. Medians and their ratio.
"""

import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402

from benchmarks.tools.commands import timed_run  # noqa: E402
from benchmarks.tools.machine import machine  # noqa: E402
from benchmarks.tools.reporting import say, table, write_json  # noqa: E402
from benchmarks.tools.script import run_script, script_parser  # noqa: E402
from ldm.checkpoint.discovery import find_checkpoints  # noqa: E402
from ldm.checkpoint.loading import Placement, checkpoint_info, load_model  # noqa: E402
from ldm.checkpoint.reading import read_checkpoint  # noqa: E402
from ldm.checkpoint.saving import checkpoint_writer  # noqa: E402
from ldm.data.images import read_image  # noqa: E402
from ldm.errors import UserError  # noqa: E402
from ldm.files import natural_key  # noqa: E402
from ldm.nn.tokenizer import copy_tokenizer  # noqa: E402
from ldm.runtime.models import EMBEDDED, settings_of  # noqa: E402
from ldm.runtime.tokenizers import find_tokenizer  # noqa: E402

SUBJECT = "water bottle"
TIPPED = 2
"""Levels out of 255, generously: a GPU rounds by the batch size, and separate runs have the same one."""


def write_run(directory: Path, base: Path, count: int) -> None:
    """A run like one of dreambooth.py: the base model with its UNet moved a little further in each checkpoint."""
    file = read_checkpoint(base)
    settings = settings_of(file, None)[1]
    info = replace(checkpoint_info(file), class_name=SUBJECT, instance_prompt=f"a photo of sks {SUBJECT}")
    ldm = load_model(file, settings.model, Placement(torch.device("cpu")))
    generator = torch.Generator().manual_seed(0)
    for step in range(1, count + 1):
        for parameter in ldm.unet.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data = parameter + 0.01 * parameter.std(correction=0) * noise
        path = directory / f"step-{100 * step:05d}.safetensors"
        checkpoint_writer(path, ldm, replace(info, step=100 * step), torch.float16)()
    copy_tokenizer(find_tokenizer(base, settings.tokenizer), directory / "tokenizer")


def measure(
    checkpoints: Sequence[Path], root: Path, output: Path, variations: int, runs: int
) -> dict[str, list[float]]:
    """Seconds of the comparison, and of all separate runs together, each time."""
    seconds: dict[str, list[float]] = {"comparison": [], "separate": []}
    for number in range(1, runs + 1):
        words = ("-v", variations)
        compared, alone = output / f"compared-{number}", output / f"alone-{number}"
        seconds["comparison"].append(timed_run("txt2img.py", "--ckpt-path", root, "--no-base", "-o", compared, *words))
        seconds["separate"].append(
            sum(timed_run("txt2img.py", "--ckpt-path", path, "-o", alone, *words) for path in checkpoints)
        )
        raise_unless_same(images(compared), images(alone), len(checkpoints) * variations)
        say(f"- {number} of {runs}: {seconds['comparison'][-1]:.1f} s and {seconds['separate'][-1]:.1f} s")
    return seconds


def images(directory: Path) -> list[np.ndarray]:
    """The single images of all calls below a directory, in the order of their checkpoints and seeds."""
    paths = sorted(directory.glob("txt2img-*/*_*.png"), key=natural_key)
    return [np.asarray(read_image(path)).astype(int) for path in paths]


def raise_unless_same(compared: Sequence[np.ndarray], alone: Sequence[np.ndarray], count: int) -> None:
    """Raises `UserError` if the two ways gave different images: then the times say nothing."""
    if not len(compared) == len(alone) == count:
        raise UserError(
            f"{count} images were expected; the comparison gave {len(compared)}, separate runs {len(alone)}"
        )
    worst = max(int(np.abs(one - other).max()) for one, other in zip(compared, alone, strict=True))
    if worst > TIPPED:
        raise UserError(f"the comparison's images are not those of separate runs: they differ by up to {worst} of 255")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    parser = script_parser(__doc__, targets=False)
    parser.add_argument("--ckpt-path", type=Path, help="a directory of one run (default: made of the tiny model)")
    parser.add_argument("--checkpoints", type=int, default=5, help="how many to make (default: 5)")
    parser.add_argument("-v", "--variations", type=int, default=4, help="images per checkpoint (default: 4)")
    parser.add_argument("--runs", type=int, default=3, help="of each (default: 3)")
    options = parser.parse_args(arguments)

    say(machine() + "\n")
    with tempfile.TemporaryDirectory() as directory:
        root = options.ckpt_path.resolve() if options.ckpt_path else Path(directory) / "run-1"
        if not options.ckpt_path:
            write_run(root, EMBEDDED, options.checkpoints)
        checkpoints = find_checkpoints(root, lambda file: file.path)[0]
        seconds = measure(checkpoints, root, Path(directory), options.variations, options.runs)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ratios = [alone / compared for compared, alone in zip(seconds["comparison"], seconds["separate"], strict=True)]
    names = {
        "comparison": f"one comparison of {len(checkpoints)} checkpoints",
        "separate": f"{len(checkpoints)} separate runs",
    }
    rows = [
        [names[name], f"{medians[name]:.1f}", f"{min(times):.1f} to {max(times):.1f}", len(times)]
        for name, times in seconds.items()
    ]
    say("\n" + table(["", "seconds, median", "range", "times"], rows))
    say(
        f"The comparison is {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f}); "
        f"both gave the same {len(checkpoints) * options.variations} images."
    )
    write_json(options.json, {"machine": machine(), "seconds": seconds, "ratios": ratios})
    return 0


if __name__ == "__main__":
    run_script(main)
