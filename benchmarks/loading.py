"""How long does loading a checkpoint take, and how much private memory does the process hold afterwards?

    python benchmarks/loading.py weights/sd-v1/sd-v1-4.ckpt
    python benchmarks/loading.py --size full                    # random weights in files made for it; diffusers too

Compared, in turn and in fresh processes, on the CPU in float32: this project's reader (model on the meta device,
tensors mapped from the file), the common way (build the model, `torch.load` the file, `load_state_dict`), which
executes what the pickle names, and diffusers' readers of single files and of its own directories. Mapped tensors are
read when they are first used, so the time until every weight is read stands beside the time until the model is loaded.
Medians and ranges; the first, cold run of each is left out.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.tools.machine import machine  # noqa: E402
from benchmarks.tools.measuring import Spread  # noqa: E402
from benchmarks.tools.reporting import say, table, write_json  # noqa: E402
from benchmarks.tools.script import run_script, script_parser  # noqa: E402
from benchmarks.tools.sizes import SIZES, Size  # noqa: E402
from ldm.errors import UserError  # noqa: E402

CKPT, SAFETENSORS, PIPELINE = "official.ckpt", "official.safetensors", "pipeline"


def load_ours(path: Path) -> list[Any]:
    """Maps, checks and assigns."""
    import torch

    from ldm.checkpoint.loading import Placement, load_model
    from ldm.checkpoint.reading import read_checkpoint
    from ldm.runtime.models import settings_of

    file = read_checkpoint(path)
    return [load_model(file, settings_of(file, None)[1].model, Placement(torch.device("cpu")))]


def load_commonly(path: Path) -> list[Any]:
    """Builds with initial weights, reads a copy, copies again."""
    import torch

    from ldm.checkpoint.reading import CheckpointFile
    from ldm.diffusion.latent_diffusion import LatentDiffusion
    from ldm.runtime.models import settings_of

    read = torch.load(path, map_location="cpu", weights_only=False)
    model = LatentDiffusion(settings_of(CheckpointFile(path, {}, read.get("metadata", {})), None)[1].model)
    names = model.state_dict().keys()
    model.load_state_dict({key: tensor for key, tensor in read["state_dict"].items() if key in names})
    return [model]


def load_single_file(path: Path) -> list[Any]:
    """diffusers' reader of files in the official layout; the configuration is that of the directory beside it."""
    from diffusers import StableDiffusionPipeline

    config = str(path.with_name(PIPELINE))
    pipeline = StableDiffusionPipeline.from_single_file(str(path), config=config, local_files_only=True)
    return [pipeline.unet, pipeline.vae, pipeline.text_encoder]


def load_pretrained(path: Path) -> list[Any]:
    """diffusers' reader of its own directories."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(path, local_files_only=True)
    return [pipeline.unet, pipeline.vae, pipeline.text_encoder]


LOADERS: dict[str, Callable[[Path], list[Any]]] = {
    "ours": load_ours,
    "torch.load + load_state_dict": load_commonly,
    "diffusers, from_single_file": load_single_file,
    "diffusers, from_pretrained": load_pretrained,
}


def import_for(name: str) -> None:
    """Imports what is needed before the time starts."""
    import torch  # noqa: F401

    import ldm.checkpoint.loading
    import ldm.runtime.models  # noqa: F401

    if name.startswith("diffusers"):
        from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel  # noqa: F401


def measure(name: str, path: Path) -> None:
    """Runs in its own process and prints a line of JSON."""
    import_for(name)
    start = time.perf_counter()
    networks = LOADERS[name](path)
    seconds = time.perf_counter() - start
    own, peak = _gib("RssAnon"), _gib("VmHWM")
    for network in networks:
        for parameter in network.parameters():
            parameter.sum().item()
    read = time.perf_counter() - start
    sys.stdout.write(json.dumps({"seconds": seconds, "read_seconds": read, "own_gib": own, "peak_gib": peak}) + "\n")


def _gib(key: str) -> float:
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024**2 if found else float("nan")


def write_files(directory: Path, size: Size) -> list[tuple[str, Path]]:
    """Writes the same random float32 weights in all three forms; which loader reads which."""
    import torch

    from benchmarks.diffusers_peer.sampling import write_pipeline
    from benchmarks.tools.sizes import build_random
    from ldm.checkpoint.metadata import CheckpointInfo
    from ldm.checkpoint.saving import checkpoint_writer, official_state_dict

    ldm, info = build_random(size), CheckpointInfo(config=size.yaml)
    checkpoint_writer(directory / SAFETENSORS, ldm, info, torch.float32)()
    state = {"state_dict": official_state_dict(ldm, torch.float32), "metadata": info.to_metadata()}
    torch.save(state, directory / CKPT)
    write_pipeline(directory / PIPELINE, ldm, size)
    files = (SAFETENSORS, CKPT, SAFETENSORS, PIPELINE)
    return [(name, directory / file) for name, file in zip(LOADERS, files, strict=True)]


def run(pairs: Sequence[tuple[str, Path]], runs: int) -> Iterator[tuple[str, dict[str, Spread]]]:
    """Each loader's figures, from processes in turns."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name, _ in pairs}
    for number in range(runs + 1):
        for name, path in pairs:
            done = subprocess.run(
                [sys.executable, __file__, str(path), "--measure", name], capture_output=True, text=True
            )
            if done.returncode:
                raise UserError(f"{name} could not read {path}:\n{done.stderr[-800:]}")
            if number:
                found[name].append(json.loads(done.stdout.splitlines()[-1]))
    for name, lines in found.items():
        yield name, {key: Spread(tuple(line[key] for line in lines)) for key in lines[0]}


def main(arguments: Sequence[str] | None = None) -> int:
    """Interleaves the loaders and prints a line for each."""
    parser = script_parser(__doc__, targets=False)
    parser.add_argument("path", type=Path, nargs="?", help="an official .ckpt file; without it files are made")
    parser.add_argument("--size", choices=SIZES, default="full", help="of what is made (default: full, 13 GB)")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--measure", choices=LOADERS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        measure(options.measure, options.path)
        return 0

    say(machine() + "\n")
    with tempfile.TemporaryDirectory() as directory:
        if options.path:
            pairs = [(name, options.path) for name in [*LOADERS][:2]]
        else:
            pairs = write_files(Path(directory), SIZES[options.size])
        results = dict(run(pairs, options.runs))
    rows = [[name, *figures.values()] for name, figures in results.items()]
    say(table(["loader", "seconds", "until all is read", "memory of its own, GiB", "peak, GiB"], rows))
    write_json(options.json, {"machine": machine(), "loaders": results})
    return 0


if __name__ == "__main__":
    run_script(main)
