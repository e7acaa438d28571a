"""AdamW whose memory is small: moments of 8 bits, and weights of 16 if wanted.

"Decoupled Weight Decay Regularization" (arXiv 1711.05101), algorithm 2, on moments kept as in "8-bit Optimizers via
Block-wise Quantization" (arXiv 2110.02861), but for the code: see `ldm.training.rounding`. Of the second moment the
square root is kept, which has the range of the gradients. Weights in bfloat16 have 8 more bits here, where no forward
pass needs them.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ldm.diffusion.noise import derived_seed
from ldm.training.rounding import BLOCK, decode, encode, join_float32, split_float32

SMALL = 4096
"""Tensors of fewer numbers (biases, normalisations) keep exact moments: they cost nothing and differ most."""
BUCKET, BUCKETS = 1 << 23, 32
"""So many numbers are updated together, or fewer, if that leaves fewer than 32 buckets: few kernels, while the float32
copies that the arithmetic needs are small beside the weights."""


@dataclass(frozen=True)
class Slice:
    """A part of a weight, in the order in which it lies in memory."""

    parameter: nn.Parameter
    start: int
    length: int

    def of(self, tensor: Tensor) -> Tensor:
        """The part (length,) of the weight or its gradient: a view."""
        if tensor.stride() != self.parameter.stride():
            tensor = torch.empty_like(self.parameter, dtype=tensor.dtype).copy_(tensor)
        return tensor.as_strided((self.length,), (1,), tensor.storage_offset() + self.start)


@dataclass(frozen=True)
class Bucket:
    """Slices of one type, updated as one vector."""

    slices: tuple[Slice, ...]
    exact: bool
    """Whether moments are kept in float32."""

    @property
    def padding(self) -> int:
        """Zeros at the end, so that blocks are whole."""
        return -sum(one.length for one in self.slices) % BLOCK

    def weights(self) -> list[Tensor]:
        """Views of the weights."""
        return [one.of(one.parameter.detach()) for one in self.slices]

    def gradients(self) -> list[Tensor]:
        """Views of the gradients; zeros where there is none."""
        return [
            one.of(one.parameter.grad) if one.parameter.grad is not None else torch.zeros_like(one.of(one.parameter))
            for one in self.slices
        ]

    def gathered(self, parts: list[Tensor]) -> Tensor:
        """The parts as one vector of whole blocks, float32."""
        return torch.cat([*parts, parts[0].new_zeros(self.padding)]).float()

    def scatter(self, vector: Tensor) -> None:
        """Writes the vector into the weights."""
        lengths = [one.length for one in self.slices]
        torch._foreach_copy_(self.weights(), list(vector[: sum(lengths)].split(lengths)))


class AdamW8bit(Optimizer):
    """AdamW with 8-bit moments, for weights in float32 or bfloat16; a gradient that is missing counts as zero.

    Its random numbers are a function of `seed` and the step, so that a continued training needs no state of theirs.
    The update itself is computed in float32.
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
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.seed = seed
        count = sum(weight.numel() for group in self.param_groups for weight in group["params"])
        self._bucket = max(1, (bucket or min(BUCKET, count // BUCKETS)) // BLOCK) * BLOCK

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As any optimizer's."""
        super().add_param_group(param_group)
        self._layout: list[tuple[str, dict[str, Any], Bucket]] = []

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of all weights."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        generators: dict[torch.device, torch.Generator] = {}
        for name, group, bucket in self._buckets():
            device = bucket.slices[0].parameter.device
            state = self._states[name] or self._new_state(name, bucket)
            state["step"] += 1
            if device not in generators:
                seed = derived_seed(self.seed, state["step"])
                generators[device] = torch.Generator(device).manual_seed(seed)
            _update(bucket, state, group, generators[device])
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes what `state_dict` gave, bit for bit, onto the weights' device."""
        super().load_state_dict(state_dict)  # which leaves alone what doesn't belong to one weight
        self._layout = []  # it names groups, and these are others now
        devices = {name: bucket.slices[0].parameter.device for name, _, bucket in self._buckets()}
        if self._states and self._states.keys() != devices.keys():
            raise ValueError(f"this is the state of other weights: it has {[*self._states]}, not {[*devices]}")
        for name, state in self._states.items():
            self._states[name] = {
                key: value.to(devices[name], copy=True) if isinstance(value, Tensor) else value
                for key, value in state.items()
            }

    @property
    def _states(self) -> dict[str, dict[str, Any]]:
        """By the name of a bucket; torch expects one per weight, and keeps others as they are."""
        return cast(dict[str, dict[str, Any]], self.state)

    def _buckets(self) -> list[tuple[str, dict[str, Any], Bucket]]:
        """(name in the state, group, bucket) of all weights; a function of their shapes and order alone."""
        if not self._layout:
            self._layout = [
                (f"{number} {kind} {index}", group, bucket)
                for number, group in enumerate(self.param_groups)
                for kind, some in _kinds(group["params"]).items()
                for index, bucket in enumerate(_packed(some, self._bucket, exact=kind.endswith("small")))
            ]
        return self._layout

    def _new_state(self, name: str, bucket: Bucket) -> dict[str, Any]:
        weight = bucket.slices[0].parameter
        count = sum(one.length for one in bucket.slices) + bucket.padding

        def zeros(size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
            return torch.zeros(size, dtype=dtype, device=weight.device)

        state: dict[str, Any] = {"step": 0}
        if bucket.exact:
            state |= {key: zeros((count,), torch.float32) for key in ("first", "root")}
        else:
            state |= {"first": zeros((count,), torch.int8), "root": zeros((count,), torch.uint8)}
            state |= {key: zeros((count // BLOCK, 1), torch.float32) for key in ("first_scales", "root_scales")}
        if weight.dtype == torch.bfloat16:
            state["low"] = zeros((count,), torch.int8)
        self._states[name] = state
        return state


def _update(bucket: Bucket, state: dict[str, Any], group: dict[str, Any], generator: torch.Generator) -> None:
    """One step of AdamW on a bucket: arXiv 1711.05101, algorithm 2, lines 6 to 12."""
    (beta1, beta2), rate, step = group["betas"], group["lr"], state["step"]
    gradient = bucket.gathered(bucket.gradients())
    uniform = torch.rand(gradient.shape, generator=generator, device=gradient.device)

    first = state["first"] if bucket.exact else decode(state["first"], state["first_scales"])
    first.lerp_(gradient, 1 - beta1)
    root = state["root"] if bucket.exact else decode(state["root"], state["root_scales"])
    root.square_().mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2).sqrt_()
    del gradient
    if not bucket.exact:
        for key, moment in (("first", first), ("root", root)):
            codes, scales = encode(moment, uniform, signed=key == "first")
            state[key].copy_(codes)
            state[f"{key}_scales"].copy_(scales)

    weight = bucket.gathered(bucket.weights())
    if "low" in state:
        weight = join_float32(weight, state["low"])
    weight.mul_(1 - rate * group["weight_decay"])
    denominator = (root / (1 - beta2**step) ** 0.5).add_(group["eps"])
    weight.addcdiv_(first, denominator, value=-rate / (1 - beta1**step))
    if "low" in state:
        weight, low = split_float32(weight, uniform)
        state["low"].copy_(low)
    bucket.scatter(weight)


def _kinds(parameters: list[nn.Parameter]) -> dict[str, list[nn.Parameter]]:
    """Weights by type and size."""
    kinds: dict[str, list[nn.Parameter]] = {}
    for parameter in parameters:
        if parameter.dtype not in (torch.float32, torch.bfloat16):
            raise ValueError(f"weights should be float32 or bfloat16, not {parameter.dtype}")
        size = "small" if parameter.numel() < SMALL else "large"
        kinds.setdefault(f"{str(parameter.dtype).removeprefix('torch.')} {size}", []).append(parameter)
    return kinds


def _packed(parameters: list[nn.Parameter], most: int, exact: bool) -> Iterator[Bucket]:
    """The weights one after the other, cut where a bucket is full."""
    slices: list[Slice] = []
    room = most
    for parameter in parameters:
        start = 0
        while start < parameter.numel():
            length = min(room, parameter.numel() - start)
            slices.append(Slice(parameter, start, length))
            start, room = start + length, room - length
            if not room:
                yield Bucket(tuple(slices), exact)
                slices, room = [], most
    if slices:
        yield Bucket(tuple(slices), exact)
