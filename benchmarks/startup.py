"""How long does each command take to start, and to give its first image?

    python benchmarks/startup.py

Fresh processes, in turns: `--help` of each command; one image of one step with the embedded tiny model, which is
start-up, loading, and hardly any work; and, beside them, importing diffusers' pipeline and what the reference's
training imports. Then the heaviest imports of `txt2img.py`'s first image, by `python -X importtime`.
"""

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.tools.machine import machine  # noqa: E402
from benchmarks.tools.measuring import Spread, take_turns  # noqa: E402
from benchmarks.tools.reporting import say, table, write_json  # noqa: E402
from benchmarks.tools.script import run_script, script_parser  # noqa: E402
from ldm.errors import UserError  # noqa: E402

COMMANDS = ("txt2img.py", "img2img.py", "dreambooth.py", "train.py", "evaluate.py")
FIRST_IMAGE = ["txt2img.py", "-p", "a photo of a red ball", "-v", "1", "--ddim-steps", "1", "--ckpt-path"]
TINY = "ldm/assets/tiny.safetensors"
PEER = ["-c", "from diffusers import StableDiffusionPipeline"]
PEER_TRAINING = ["-c", "import accelerate, torchvision; from diffusers import AutoencoderKL, DDPMScheduler, "
                       "UNet2DConditionModel; from transformers import CLIPTextModel, CLIPTokenizer"]  # fmt: skip


def run(arguments: Sequence[object]) -> str:
    """Runs `python <arguments>` in the repository; returns its standard error."""
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"python {' '.join(map(str, arguments))} ended with status {done.returncode}:\n{done.stderr}")
    return done.stderr


def timed(arguments: Sequence[object]) -> float:
    """Its seconds."""
    began = time.perf_counter()
    run(arguments)
    return time.perf_counter() - began


def heaviest_imports(arguments: Sequence[object], most: int = 8) -> list[tuple[str, float]]:
    """Top-level packages and the seconds of their own modules, without those that they import in turn."""
    own: dict[str, float] = {}
    for line in run(["-X", "importtime", *arguments]).splitlines():
        if found := re.match(r"import time:\s*(\d+) \|\s*\d+ \|\s*(\S+)", line):
            package = found[2].split(".")[0]
            own[package] = own.get(package, 0.0) + int(found[1]) / 1e6
    return sorted(own.items(), key=lambda item: -item[1])[:most]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    parser = script_parser(__doc__, targets=False)
    parser.add_argument("--runs", type=int, default=5, help="of each (default: 5)")
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=COMMANDS, help="commands to measure")
    options = parser.parse_args(arguments)

    say(machine() + "\n")
    with tempfile.TemporaryDirectory() as directory:
        first = [*FIRST_IMAGE, TINY, "-o", directory]
        typed = {f"`{command} --help`": [command, "--help"] for command in options.only}
        typed["`txt2img.py`, one image of one step"] = first
        typed["`from diffusers import StableDiffusionPipeline`"] = PEER
        typed["the imports of the reference's training"] = PEER_TRAINING
        turns = {name: lambda one=one: timed(one) for name, one in typed.items()}
        times: dict[str, Spread] = take_turns(turns, options.runs)
        imports = heaviest_imports(first)
    say(table(["command", "seconds"], list(times.items())))
    say(table(["heaviest packages of the first image", "seconds"], [(f"`{n}`", f"{s:.2f}") for n, s in imports]))
    figures = {"machine": machine(), "seconds": {name: spread.values for name, spread in times.items()}}
    write_json(options.json, {**figures, "imports": dict(imports)})
    return 0


if __name__ == "__main__":
    run_script(main)
