"""AdamW in little memory: moments of 8 bits, and optionally weights of 16 bits.

"Decoupled Weight Decay Regularization" (arXiv 1711.05101), algorithm 2. Moments are stored as in "8-bit Optimizers via
Block-wise Quantization" (arXiv 2110.02861) but with another code: see `encode`. Of the second moment the square root is
stored, which has the range of the gradients. For weights in bfloat16 the optimizer stores 8 more bits, which no forward
pass needs.

All rounding is up or down at random: `ldm.training.rounding`. On CUDA, where Triton is installed, an update is one
kernel for each bucket (`ldm.training.adamw_8bit_kernel`).
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ldm.diffusion.noise import derived_seed
from ldm.training.adamw_8bit_buckets import Bucket, new_state, packed, pull, update
from ldm.training.config import OptimizationConfig
from ldm.training.optimizers import OptimizerKind
from ldm.training.rounding import BLOCK

if TYPE_CHECKING:
    from ldm.training.adamw_8bit_kernel import BucketKernel

log = logging.getLogger(__name__)

SMALL = 4096
"""Tensors with fewer numbers (biases, normalisations) keep float32 moments: they take little memory, and their values
differ most."""
BUCKET, BUCKETS = 1 << 23, 32
"""Numbers that are updated as one vector, at most; fewer where there would be less than 32 such buckets. This needs few
kernels, and the float32 copies that the arithmetic needs stay small beside the weights."""

CHUNK = 1 << 21
"""The same where each weight has its own buckets: the backward pass updates them while it needs memory itself."""

TRITONS_OLDEST = (8, 0)
"""Compute capability."""


class AdamW8bit(Optimizer):
    """AdamW with 8-bit moments, for weights in float32 or bfloat16; a missing gradient counts as zero.

    Random numbers are a function of `seed` and the step, so a resumed training needs no random state; the kernel's are
    not those without it. The update itself is computed in float32. `keep_low_bits`: store 8 more bits of each weight in
    bfloat16. `apart`: no two weights share a bucket, so that each can be updated alone, by `update` or by a `step` that
    leaves out weights without a gradient.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        seed: int = 0,
        bucket: int | None = None,
        keep_low_bits: bool = True,
        apart: bool = False,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.seed = seed
        self.keep_low_bits = keep_low_bits
        self.apart = apart
        self.use_kernel = True
        """Where there is one; a benchmark compares both ways."""
        bucket = CHUNK if apart else bucket
        count = sum(weight.numel() for group in self.param_groups for weight in group["params"])
        self._bucket = max(1, (bucket or min(BUCKET, count // BUCKETS)) // BLOCK) * BLOCK

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds weights with their own options, as in any optimizer."""
        super().add_param_group(param_group)
        self._forget_layout()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of all weights."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self.apart:
            for parameter in self._buckets_of:
                if parameter.grad is not None:
                    self.update(parameter)
            return loss
        generators: dict[torch.device, torch.Generator] = {}
        for number, (name, group, bucket) in enumerate(self._buckets()):
            state = self._state_of(name, bucket)
            state["step"] += 1
            if self._updated_by_kernel(number, name, group, bucket):
                continue
            if bucket.device not in generators:
                seed = derived_seed(self.seed, state["step"])
                generators[bucket.device] = torch.Generator(bucket.device).manual_seed(seed)
            update(bucket, state, group, _uniform(bucket, generators[bucket.device]))
        return loss

    @torch.no_grad()
    def update(self, parameter: nn.Parameter) -> None:
        """One update of a weight that has a gradient; the weights are `apart`."""
        for number, name, group, bucket in self._buckets_of[parameter]:
            state = self._state_of(name, bucket)
            state["step"] += 1
            if self._updated_by_kernel(number, name, group, bucket):
                continue
            seed = derived_seed(self.seed, state["step"], number)
            update(bucket, state, group, _uniform(bucket, torch.Generator(bucket.device).manual_seed(seed)))

    def create_state(self) -> None:
        """Creates the state of all weights, as the first update does."""
        for name, _, bucket in self._buckets():
            self._state_of(name, bucket)

    @torch.no_grad()
    def pull(
        self, targets: Mapping[nn.Parameter, Tensor], share_of: Callable[[dict[str, Any]], float], seed: int
    ) -> None:
        """Moves weights by a group's share of their distance to targets, which may be on the host; rounds as updates.

        Random numbers are a function of `seed` and the bucket's place.
        """
        for number, (name, group, bucket) in enumerate(self._buckets()):
            aims = [one.of(targets.get(one.parameter, one.parameter.detach())) for one in bucket.slices]
            generator = torch.Generator(bucket.device).manual_seed(derived_seed(seed, number))
            pull(bucket, self._state_of(name, bucket), aims, share_of(group), _uniform(bucket, generator))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what `state_dict` returned, bit for bit, onto the weights' device."""
        super().load_state_dict(state_dict)  # leaves keys that are no weight's as they are
        self._forget_layout()  # it refers to the groups, which were replaced
        devices = {name: bucket.device for name, _, bucket in self._buckets()}
        if self._states and self._states.keys() != devices.keys():
            raise ValueError(f"this is the state of other weights: it has {[*self._states]}, not {[*devices]}")
        for name, state in self._states.items():
            self._states[name] = {
                key: value.to(devices[name], copy=True) if isinstance(value, Tensor) else value
                for key, value in state.items()
            }

    def _updated_by_kernel(self, number: int, name: str, group: dict[str, Any], bucket: Bucket) -> bool:
        """One update by a kernel; False, and nothing is changed, where there is none."""
        if not self.use_kernel:
            return False
        if bucket.device not in self._kernels:
            self._kernels[bucket.device] = bucket_kernel(bucket.device)
        kernel = self._kernels[bucket.device]
        if kernel is None:
            return False
        state = self._state_of(name, bucket)
        return kernel.update(name, bucket, state, group, derived_seed(self.seed, state["step"], number))

    def _forget_layout(self) -> None:
        self._kernels: dict[torch.device, BucketKernel | None] = {}
        self._layout: list[tuple[str, dict[str, Any], Bucket]] = []
        self._by_weight: dict[nn.Parameter, list[tuple[int, str, dict[str, Any], Bucket]]] = {}

    @property
    def _states(self) -> dict[str, dict[str, Any]]:
        """The states by the names of the buckets. Torch expects one per weight, and keeps other keys as they are."""
        return cast(dict[str, dict[str, Any]], self.state)

    @property
    def _buckets_of(self) -> dict[nn.Parameter, list[tuple[int, str, dict[str, Any], Bucket]]]:
        """The numbers and `_buckets` of each weight, if the weights are `apart`."""
        if not self._by_weight:
            for number, (name, group, bucket) in enumerate(self._buckets()):
                self._by_weight.setdefault(bucket.slices[0].parameter, []).append((number, name, group, bucket))
        return self._by_weight

    def _buckets(self) -> list[tuple[str, dict[str, Any], Bucket]]:
        """(name in the state, group, bucket) of all weights; depends on their shapes and order only."""
        if not self._layout:
            self._layout = [
                (f"{number} {kind} {index}", group, bucket)
                for number, group in enumerate(self.param_groups)
                for kind, some in _kinds(group["params"]).items()
                for index, bucket in enumerate(
                    bucket
                    for together in ([[one] for one in some] if self.apart else [some])
                    for bucket in packed(together, self._bucket, exact=kind.endswith("small"))
                )
            ]
        return self._layout

    def _state_of(self, name: str, bucket: Bucket) -> dict[str, Any]:
        """The bucket's state, which is created at the first call."""
        if state := self._states[name]:
            return state
        state = new_state(bucket, self.keep_low_bits)
        self._states[name] = state
        return state


def _uniform(bucket: Bucket, generator: torch.Generator) -> Tensor:
    """The generator's next random numbers in [0, 1), as many as `update` needs."""
    return torch.rand(bucket.length + bucket.padding, generator=generator, device=bucket.device)


def bucket_kernel(device: torch.device) -> "BucketKernel | None":
    """The kernel, on CUDA devices that Triton compiles for; a warning if it is not installed."""
    if device.type != "cuda" or not (torch.version.hip or torch.cuda.get_device_capability(device) >= TRITONS_OLDEST):
        return None
    try:
        from ldm.training.adamw_8bit_kernel import BucketKernel
    except ImportError:
        log.warning("Triton is not installed: 8-bit AdamW updates its weights in some 25 kernels, which is slower")
        return None
    return BucketKernel()


def _kinds(parameters: list[nn.Parameter]) -> dict[str, list[nn.Parameter]]:
    """Weights by type and size."""
    kinds: dict[str, list[nn.Parameter]] = {}
    for parameter in parameters:
        if parameter.dtype not in (torch.float32, torch.bfloat16):
            raise ValueError(f"weights should be float32 or bfloat16, not {parameter.dtype}")
        size = "small" if parameter.numel() < SMALL else "large"
        kinds.setdefault(f"{str(parameter.dtype).removeprefix('torch.')} {size}", []).append(parameter)
    return kinds


def _build(weights: list[nn.Parameter], config: OptimizationConfig, seed: int, kernels: dict[str, Any]) -> Optimizer:
    return AdamW8bit(
        weights,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        seed=seed,
        keep_low_bits=config.keeps_low_bits,
        apart=config.fused_backward,
    )


ADAMW_8BIT = OptimizerKind("8-bit AdamW", _build, {"fp32": 7, "bf16": 6, "bf16-rounded": 5})
