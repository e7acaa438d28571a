"""Does a real step of a memory profile take the memory that is predicted? On a CPU, with random weights.

    python benchmarks/real_step.py --vram 4     # Stable Diffusion v1 at 512 x 512, one photo and one class image

Takes the profile that `dreambooth.py --vram` takes on a card of that many GB, trains one step of it, as `dreambooth.py`
does, and prints the peak of the process's own memory in the step, above what it held before the model was built, beside
the tensors that are predicted for a CPU. There the autoencoder and the text encoder stay in memory. The difference is
what libraries take for their computations. `profiles.py` compares the tensors alone, and measures GPUs.

A processor without products of bfloat16 numbers would take hours: there the products are computed in float32, one layer
at a time, which adds a layer's float32 copies to what is measured.
"""

import contextlib
import gc
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves, tree_map  # noqa: E402

from benchmarks.tools.machine import machine  # noqa: E402
from benchmarks.tools.ours_training import EnoughError, fit_options, training_config, training_of  # noqa: E402
from benchmarks.tools.peaks import CLEAR, GIB, give_back_freed, held  # noqa: E402
from benchmarks.tools.reporting import Target, say, table, verdict, write_json  # noqa: E402
from benchmarks.tools.script import run_script, script_parser  # noqa: E402
from benchmarks.tools.sizes import SIZES, build_random  # noqa: E402
from ldm.commands.options.common import number  # noqa: E402
from ldm.errors import UserError  # noqa: E402
from ldm.training.dreambooth import DreamBooth  # noqa: E402
from ldm.training.memory import CUDA_OVERHEAD, MEMORY_PROFILES, Chooser, Workload, predict  # noqa: E402
from ldm.training.trainer import fit  # noqa: E402

aten = torch.ops.aten
CPU = torch.device("cpu")
USABLE = 0.95
"""Of a card's GiB, as `--vram` counts."""
TARGET = 25.0
"""In percent above the prediction."""


class MeasuredDreamBooth(DreamBooth):
    """Stops after the first step; `peak` is the process's own memory in it."""

    peak = 0.0
    """GiB."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        gc.collect()
        give_back_freed()
        CLEAR.write_text("5")

    def on_train_batch_end(self, *args: Any) -> None:
        self.peak = held(CPU, "VmHWM")
        raise EnoughError


class Float32Products(TorchDispatchMode):
    """Computes products of bfloat16 tensors in float32, and rounds the results."""

    OPERATIONS = (
        aten.convolution.default,
        aten.convolution_backward.default,
        aten.mm.default,
        aten.addmm.default,
        aten.bmm.default,
        aten.baddbmm.default,
        aten._scaled_dot_product_flash_attention_for_cpu.default,
        aten._scaled_dot_product_flash_attention_for_cpu_backward.default,
    )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def is_half(value: Any) -> bool:
            return isinstance(value, Tensor) and value.dtype == torch.bfloat16

        kwargs = kwargs or {}
        if func not in self.OPERATIONS or not any(map(is_half, tree_leaves((args, kwargs)))):
            return func(*args, **kwargs)
        args, kwargs = tree_map(lambda value: value.float() if is_half(value) else value, (args, kwargs))
        found = func(*args, **kwargs)
        if func is self.OPERATIONS[-2]:  # the second result belongs to the backward pass, in float32
            return found[0].bfloat16(), *found[1:]
        return tree_map(lambda value: value.bfloat16() if isinstance(value, Tensor) else value, found)


def products() -> contextlib.AbstractContextManager[object]:
    """The processor's own in bfloat16, if it has them, else in float32."""
    return contextlib.nullcontext() if torch.ops.mkldnn._is_mkldnn_bf16_supported() else Float32Products()


def main(arguments: Sequence[str] | None = None) -> int:
    """Chooses the profile, trains a step, prints."""
    parser = script_parser(__doc__)
    parser.add_argument("--size", choices=SIZES, default="full", help="of the model and its images (default: full)")
    parser.add_argument("--vram", type=number(float, 1), default=4.0, metavar="GB", help="of the card (default: 4)")
    options = parser.parse_args(arguments)
    if not CLEAR.exists():
        raise UserError("peaks of a process's memory are measured on Linux")
    size = SIZES[options.size]
    model = size.settings.model
    card = Workload(model, size.pixels, size.pixels, autocast_dtype=torch.bfloat16)
    found = Chooser(card, training_config(size)).first_that_fits(
        MEMORY_PROFILES, int(USABLE * options.vram * GIB) - CUDA_OVERHEAD
    )
    if found is None:
        raise UserError(f"no profile fits into {options.vram:g} GB")
    profile, on_card = found
    config = profile.applied_to(training_config(size))
    here = Workload(model, size.pixels, size.pixels, like_cuda=False, previews=False)
    predicted = predict(here, config).step / GIB
    say(f"{machine()}\n{profile}\n")

    gc.collect()
    give_back_freed()
    before = held(CPU)
    ldm = build_random(size)

    def fail(module: DreamBooth, step: int) -> None:
        raise AssertionError("nothing should be saved")

    with (
        tempfile.TemporaryDirectory() as directory,
        training_of(MeasuredDreamBooth, ldm, size, config) as module,
        contextlib.suppress(EnoughError),
        products(),
    ):
        fit(module, fit_options(Path(directory), CPU, None), fail)
    measured = module.peak - before
    card_peak = f"{(on_card.peak + CUDA_OVERHEAD) / GIB:.2f}"
    header = [f"GiB, {size.name}", "tensors predicted for a CPU", "the process's own, measured", "predicted for a GPU"]
    say(table(header, [[f"--vram {options.vram:g}", f"{predicted:.2f}", f"{measured:.2f}", card_peak]]))
    write_json(options.json, {"machine": machine(), "profile": str(profile), "predicted": predicted, "peak": measured})
    targets = [Target("above the prediction", 100 * (measured / predicted - 1), TARGET, at_most=True)]
    return verdict(targets if size is SIZES["full"] else [], options.strict)


if __name__ == "__main__":
    run_script(main)
