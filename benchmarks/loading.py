"""How long does it take to load a checkpoint, and how much memory of its own does the process hold afterwards?

    python benchmarks/loading.py weights/sd-v1/sd-v1-4.ckpt

Compared, in turn and in fresh processes, on the CPU in float32: this project's reader (model on the meta device,
tensors mapped from the file) and the common way (build the model, `torch.load` the file, `load_state_dict`), which
executes what the pickle names. One line of JSON each: medians and ranges; the first, cold run of each is left out.
"""

import argparse
import json
import platform
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def load_ours(path: Path) -> object:
    """Maps, checks and assigns."""
    import torch

    from ldm.checkpoint.loading import Placement, load_model
    from ldm.diffusion.latent_diffusion import LatentDiffusionConfig

    return load_model(path, LatentDiffusionConfig(), Placement(torch.device("cpu")))


def load_commonly(path: Path) -> object:
    """Builds with initial weights, reads a copy, copies again."""
    import torch

    from ldm.checkpoint.keys import official_key
    from ldm.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig

    model = LatentDiffusion(LatentDiffusionConfig())
    names = {official_key(name): name for name in model.state_dict()}
    state_dict = torch.load(path, map_location="cpu", weights_only=False)["state_dict"]
    model.load_state_dict({names[key]: tensor for key, tensor in state_dict.items() if key in names})
    return model


LOADERS = {"ours": load_ours, "torch.load + load_state_dict": load_commonly}


def measure(name: str, path: Path) -> None:
    """Runs in a process of its own, after its imports."""
    import torch  # noqa: F401

    import ldm.checkpoint.loading  # noqa: F401

    start = time.perf_counter()
    model = LOADERS[name](path)
    seconds = time.perf_counter() - start
    status = Path("/proc/self/status").read_text()
    own, peak = (int(re.search(rf"{key}:\s+(\d+) kB", status)[1]) / 1024**2 for key in ("RssAnon", "VmHWM"))  # type: ignore[index]
    sys.stdout.write(json.dumps({"seconds": seconds, "own_gib": own, "peak_gib": peak}) + "\n")
    del model


def main() -> None:
    """Interleaves the loaders and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--measure", choices=LOADERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        return measure(options.measure, options.path)

    from ldm.commands.record import versions

    results: dict[str, list[dict[str, float]]] = {name: [] for name in LOADERS}
    for run in range(options.runs + 1):
        for name in LOADERS:
            command = [sys.executable, __file__, str(options.path), "--measure", name]
            line = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            if run:
                results[name].append(json.loads(line))
    machine = f"{platform.processor() or platform.machine()}, {platform.system()}"
    for name, runs in results.items():
        medians = {key: round(statistics.median(run[key] for run in runs), 3) for key in runs[0]}
        spread = [round(function(run["seconds"] for run in runs), 3) for function in (min, max)]
        line = {"loader": name, **medians, "seconds_range": spread, "runs": len(runs), "machine": machine} | versions()
        sys.stdout.write(json.dumps(line) + "\n")
    return None


if __name__ == "__main__":
    main()
