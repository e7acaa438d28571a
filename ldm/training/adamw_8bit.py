"""AdamW in little memory: moments of 8 bits, and optionally weights of 16 bits.

"Decoupled Weight Decay Regularization" (arXiv 1711.05101), algorithm 2. Moments are stored as in "8-bit Optimizers via
Block-wise Quantization" (arXiv 2110.02861) but with another code: see `encode`. Of the second moment the square root is
stored, which has the range of the gradients. For weights in bfloat16 the optimizer stores 8 more bits, which no forward
pass needs.

All rounding is up or down at random: `ldm.training.rounding`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ldm.diffusion.noise import derived_seed
from ldm.training.config import OptimizationConfig
from ldm.training.optimizers import OptimizerKind
from ldm.training.rounding import BLOCK, decode, encode, join_float32, round_to_bfloat16, split_float32

SMALL = 4096
"""Tensors with fewer numbers (biases, normalisations) keep float32 moments: they take little memory, and their values
differ most."""
BUCKET, BUCKETS = 1 << 23, 32
"""Numbers that are updated as one vector, at most; fewer where there would be less than 32 such buckets. This needs few
kernels, and the float32 copies that the arithmetic needs stay small beside the weights."""

CHUNK = 1 << 21
"""The same where each weight has its own buckets: the backward pass updates them while it needs memory itself."""


@dataclass(frozen=True)
class Slice:
    """A range of a weight's numbers, in memory order."""

    parameter: nn.Parameter
    start: int
    length: int

    def of(self, tensor: Tensor) -> Tensor:
        """The range (length,) of the weight or its gradient, as a view."""
        if tensor.stride() != self.parameter.stride():
            tensor = torch.empty_like(self.parameter, dtype=tensor.dtype).copy_(tensor)
        return tensor.as_strided((self.length,), (1,), tensor.storage_offset() + self.start)


@dataclass(frozen=True)
class Bucket:
    """Slices of one dtype, updated as one vector."""

    slices: tuple[Slice, ...]
    exact: bool
    """Whether moments are stored in float32."""

    @property
    def padding(self) -> int:
        """Zeros appended to complete the last block."""
        return -sum(one.length for one in self.slices) % BLOCK

    def weights(self) -> list[Tensor]:
        """Views of the weights."""
        return [one.of(one.parameter.detach()) for one in self.slices]

    def gradients(self) -> list[Tensor]:
        """Views of the gradients; zeros for missing ones."""
        return [
            one.of(one.parameter.grad) if one.parameter.grad is not None else torch.zeros_like(one.of(one.parameter))
            for one in self.slices
        ]

    def gathered(self, parts: list[Tensor]) -> Tensor:
        """The parts as one float32 vector of whole blocks."""
        return torch.cat([*parts, parts[0].new_zeros(self.padding)]).float()

    def scatter(self, vector: Tensor) -> None:
        """Writes the vector into the weights."""
        lengths = [one.length for one in self.slices]
        torch._foreach_copy_(self.weights(), list(vector[: sum(lengths)].split(lengths)))


class AdamW8bit(Optimizer):
    """AdamW with 8-bit moments, for weights in float32 or bfloat16; a missing gradient counts as zero.

    Random numbers are a function of `seed` and the step, so a resumed training needs no random state. The update itself
    is computed in float32. `keep_low_bits`: store 8 more bits of each weight in bfloat16. `apart`: no two weights share
    a bucket, so that each can be updated alone, by `update` or by a `step` that leaves out weights without a gradient.
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
        for name, group, bucket in self._buckets():
            device = bucket.slices[0].parameter.device
            state = self._state_of(name, bucket)
            state["step"] += 1
            if device not in generators:
                seed = derived_seed(self.seed, state["step"])
                generators[device] = torch.Generator(device).manual_seed(seed)
            _update(bucket, state, group, generators[device])
        return loss

    @torch.no_grad()
    def update(self, parameter: nn.Parameter) -> None:
        """One update of a weight that has a gradient; the weights are `apart`."""
        for number, name, group, bucket in self._buckets_of[parameter]:
            state = self._state_of(name, bucket)
            state["step"] += 1
            seed = derived_seed(self.seed, state["step"], number)
            _update(bucket, state, group, torch.Generator(parameter.device).manual_seed(seed))

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
            device, dtype = bucket.slices[0].parameter.device, bucket.slices[0].parameter.dtype
            aims = [one.of(targets.get(one.parameter, one.parameter.detach())) for one in bucket.slices]
            target = bucket.gathered([one.to(device, dtype) for one in aims])
            generator = torch.Generator(device).manual_seed(derived_seed(seed, number))
            state = self._state_of(name, bucket)
            weight = bucket.gathered(bucket.weights())
            if "low" in state:
                weight = join_float32(weight, state["low"])
            weight = weight.lerp(target, share_of(group))
            uniform = torch.rand(weight.shape, generator=generator, device=device)
            if "low" in state:
                weight, low = split_float32(weight, uniform)
                state["low"].copy_(low)
            elif dtype == torch.bfloat16:
                weight = round_to_bfloat16(weight, uniform)
            bucket.scatter(weight)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what `state_dict` returned, bit for bit, onto the weights' device."""
        super().load_state_dict(state_dict)  # leaves keys that are no weight's as they are
        self._forget_layout()  # it refers to the groups, which were replaced
        devices = {name: bucket.slices[0].parameter.device for name, _, bucket in self._buckets()}
        if self._states and self._states.keys() != devices.keys():
            raise ValueError(f"this is the state of other weights: it has {[*self._states]}, not {[*devices]}")
        for name, state in self._states.items():
            self._states[name] = {
                key: value.to(devices[name], copy=True) if isinstance(value, Tensor) else value
                for key, value in state.items()
            }

    def _forget_layout(self) -> None:
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
                    for bucket in _packed(together, self._bucket, exact=kind.endswith("small"))
                )
            ]
        return self._layout

    def _state_of(self, name: str, bucket: Bucket) -> dict[str, Any]:
        """The bucket's state, which is created at the first call."""
        if state := self._states[name]:
            return state
        weight = bucket.slices[0].parameter
        count = sum(one.length for one in bucket.slices) + bucket.padding

        def zeros(size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
            return torch.zeros(size, dtype=dtype, device=weight.device)

        state = {"step": 0}
        if bucket.exact:
            state |= {key: zeros((count,), torch.float32) for key in ("first", "root")}
        else:
            state |= {"first": zeros((count,), torch.int8), "root": zeros((count,), torch.uint8)}
            state |= {key: zeros((count // BLOCK, 1), torch.float32) for key in ("first_scales", "root_scales")}
        if self.keep_low_bits and weight.dtype == torch.bfloat16:
            state["low"] = zeros((count,), torch.int8)
        self._states[name] = state
        return state


def _update(bucket: Bucket, state: dict[str, Any], group: dict[str, Any], generator: torch.Generator) -> None:
    """One step of AdamW on a bucket (arXiv 1711.05101, algorithm 2, lines 6 to 12)."""
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
    elif bucket.slices[0].parameter.dtype == torch.bfloat16:
        weight = round_to_bfloat16(weight, uniform)
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
    """The weights one after the other in buckets of `most` numbers; a full bucket cuts a weight in two."""
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
