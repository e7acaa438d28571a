"""Optimizers that update one weight at a time, in float32 and in chunks: the float32 copies stay small.

An update of one weight needs only its own gradient, so it can be made within the backward pass
(`ldm.training.update_in_backward`). Weights in bfloat16 are rounded at random, with 8 more bits or without.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from ldm.diffusion.noise import derived_seed
from ldm.training.config import OptimizationConfig
from ldm.training.optimizers import OptimizerKind
from ldm.training.rounding import BLOCK, decode, encode, join_float32, round_to_bfloat16, split_float32

CHUNK = 1 << 21
"""Numbers that are updated at a time, at most; at least one row."""
SMALL = 4096
"""Weights of fewer numbers have their first moment in float32, as in `ldm.training.adamw_8bit`."""


class RoundedMatrix:
    """A weight as a matrix (r c), read and written in float32 by ranges of rows."""

    def __init__(self, weight: Tensor, low: Tensor | None, generator: torch.Generator) -> None:
        self._weight = weight
        self._low = low
        self._generator = generator

    def read(self, rows: slice) -> Tensor:
        """The rows in float32; of float32 weights a view."""
        if self._low is not None:
            return join_float32(self._weight[rows], self._low[rows])
        return self._weight[rows].float()

    def write(self, rows: slice, values: Tensor) -> None:
        """Writes float32 values, rounded at random where the weight is in bfloat16."""
        if self._weight.dtype == torch.bfloat16:
            uniform = self.uniform(values)
            if self._low is None:
                values = round_to_bfloat16(values, uniform)
            else:
                values, low = split_float32(values, uniform)
                self._low[rows].copy_(low)
        self._weight[rows].copy_(values)

    def uniform(self, values: Tensor) -> Tensor:
        """Random numbers in [0, 1), as many as there are values; other ones at each call."""
        return torch.rand(values.shape, generator=self._generator, device=values.device)

    @property
    def shape(self) -> torch.Size:
        """(r c)"""
        return self._weight.shape

    def chunks(self) -> list[slice]:
        """The matrix's `row_ranges`."""
        return row_ranges(*self._weight.shape)


class FirstMoment:
    """A moment of a matrix (r c), stored in 8 bits, or in float32 if it is small; read and written by ranges of rows.

    Each range that `RoundedMatrix.chunks` returns has whole blocks of its own.
    """

    def __init__(self, state: dict[str, Any]) -> None:
        self._codes: Tensor = state["first"]
        self._scales: Tensor | None = state.get("first_scales")
        self._rows, self._columns = state["first_shape"]

    @staticmethod
    def new_state(matrix: Tensor) -> dict[str, Any]:
        """A moment of zeros."""
        shape = tuple(matrix.shape)
        if matrix.numel() < SMALL:
            return {"first": torch.zeros(matrix.numel(), device=matrix.device), "first_shape": shape}
        blocks = sum(_blocks((rows.stop - rows.start) * shape[1]) for rows in row_ranges(*shape))
        codes = torch.zeros(blocks * BLOCK, dtype=torch.int8, device=matrix.device)
        return {"first": codes, "first_scales": torch.zeros(blocks, 1, device=matrix.device), "first_shape": shape}

    def read(self, rows: slice) -> Tensor:
        """The moment of these rows; where it is stored in float32 a view."""
        count = (rows.stop - rows.start) * self._columns
        if self._scales is None:
            return self._codes[rows.start * self._columns :][:count].view(-1, self._columns)
        blocks = self._blocks_of(rows)
        values = decode(self._codes[blocks.start * BLOCK : blocks.stop * BLOCK], self._scales[blocks])
        return values[:count].view(-1, self._columns)

    def write(self, rows: slice, values: Tensor, uniform: Callable[[Tensor], Tensor]) -> None:
        """Stores the moment of these rows, rounded at random with the numbers that `uniform(values)` returns."""
        if self._scales is None:
            self.read(rows).copy_(values)
            return
        blocks = self._blocks_of(rows)
        padded = F.pad(values.flatten(), (0, (blocks.stop - blocks.start) * BLOCK - values.numel()))
        codes, scales = encode(padded, uniform(padded), signed=True)
        self._codes[blocks.start * BLOCK : blocks.stop * BLOCK].copy_(codes)
        self._scales[blocks].copy_(scales)

    def _blocks_of(self, rows: slice) -> slice:
        """All ranges but the last have the same size, so its blocks follow from where it starts."""
        whole = row_ranges(self._rows, self._columns)[0].stop
        start = rows.start // whole * _blocks(whole * self._columns)
        return slice(start, start + _blocks((rows.stop - rows.start) * self._columns))


def _blocks(count: int) -> int:
    return -(-count // BLOCK)


def row_ranges(rows: int, columns: int) -> list[slice]:
    """Ranges of rows of about `CHUNK` numbers that together are a matrix."""
    size = max(1, CHUNK // columns)
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


class WeightwiseOptimizer(Optimizer):
    """Base of such optimizers, for weights in float32 or bfloat16. A weight without a gradient stays as it is.

    Random numbers are a function of `seed`, the step and the weight's place among the weights. With `keep_low_bits`
    the state holds 8 more bits of each weight in bfloat16; otherwise the weight alone is rounded.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], defaults: dict[str, Any], seed: int = 0, keep_low_bits: bool = True
    ) -> None:
        super().__init__(parameters, defaults)
        self.seed = seed
        self.keep_low_bits = keep_low_bits

    def as_matrix(self, tensor: Tensor) -> Tensor:
        """A contiguous weight, or its gradient, as a matrix of output channels and all else, without a copy.

        A vector or a number is one row.
        """
        return tensor.view(tensor.shape[0], -1) if tensor.dim() > 1 else tensor.view(1, -1)

    def new_state(self, matrix: Tensor) -> dict[str, Any]:
        """What the optimizer keeps of a weight, seen as a matrix (r c)."""
        raise NotImplementedError

    def update_matrix(
        self, weight: RoundedMatrix, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        """One update; gradient (r c) in the weight's type, `state["step"]` counts from 1."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of all weights that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group, parameter in self._all():
            if parameter.grad is not None:
                self._update(group, parameter)
        return loss

    @torch.no_grad()
    def update(self, parameter: nn.Parameter) -> None:
        """One update of a weight that has a gradient."""
        self._update(self._groups[parameter], parameter)

    def create_state(self) -> None:
        """Creates the state of all weights, as the first update does."""
        for _, parameter in self._all():
            self._state_of(parameter)

    @torch.no_grad()
    def pull(
        self, targets: Mapping[nn.Parameter, Tensor], share_of: Callable[[dict[str, Any]], float], seed: int
    ) -> None:
        """Moves weights by a group's share of their distance to targets, which may be on the host; rounds as updates.

        Random numbers are a function of `seed` and the weight's place.
        """
        for group, parameter in self._all():
            if (target := targets.get(parameter)) is None:
                continue
            generator = torch.Generator(parameter.device).manual_seed(derived_seed(seed, self._numbers[parameter]))
            low = self._state_of(parameter).get("low")
            weight = RoundedMatrix(self.as_matrix(parameter.detach()), low, generator)
            rows = target.reshape(weight.shape)
            for some in weight.chunks():
                aim = rows[some].to(parameter.device, parameter.dtype).float()
                weight.write(some, torch.lerp(weight.read(some), aim, share_of(group)))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds weights with their own options, as in any optimizer."""
        super().add_param_group(param_group)
        self._index()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what `state_dict` returned, bit for bit, onto the weights' device."""
        super().load_state_dict(state_dict)  # leaves keys that are no weight's as they are
        self._index()
        for parameter, number in self._numbers.items():
            if (name := str(number)) in self._states:
                self._states[name] = {
                    key: value.to(parameter.device, copy=True) if isinstance(value, Tensor) else value
                    for key, value in self._states[name].items()
                }

    @property
    def _states(self) -> dict[str, dict[str, Any]]:
        """The states by the weights' numbers, as text. Torch would cast a state kept by weight to the weight's type."""
        return cast(dict[str, dict[str, Any]], self.state)

    def _index(self) -> None:
        """Numbers the weights in their order."""
        self._groups = {parameter: group for group, parameter in self._all()}
        self._numbers = {parameter: number for number, parameter in enumerate(self._groups)}

    def _all(self) -> Iterator[tuple[dict[str, Any], nn.Parameter]]:
        return ((group, parameter) for group in self.param_groups for parameter in group["params"])

    def _state_of(self, parameter: nn.Parameter) -> dict[str, Any]:
        name = str(self._numbers[parameter])
        if name not in self._states:
            if parameter.dtype not in (torch.float32, torch.bfloat16):
                raise ValueError(f"weights should be float32 or bfloat16, not {parameter.dtype}")
            matrix = self.as_matrix(parameter.detach())
            state: dict[str, Any] = {"step": 0, **self.new_state(matrix)}
            if self.keep_low_bits and parameter.dtype == torch.bfloat16:
                state["low"] = torch.zeros_like(matrix, dtype=torch.int8)
            self._states[name] = state
        return self._states[name]

    def _update(self, group: dict[str, Any], parameter: nn.Parameter) -> None:
        state = self._state_of(parameter)
        state["step"] += 1
        seed = derived_seed(self.seed, state["step"], self._numbers[parameter])
        generator = torch.Generator(parameter.device).manual_seed(seed)
        assert parameter.grad is not None
        weight = RoundedMatrix(self.as_matrix(parameter.detach()), state.get("low"), generator)
        self.update_matrix(weight, self.as_matrix(parameter.grad), state, group)


def weightwise_kind(
    label: str, optimizer: Callable[..., Optimizer], state_bytes_per_weight: Mapping[str, int]
) -> OptimizerKind:
    """An entry of `ldm.choices.OPTIMIZERS` for one of these optimizers."""

    def build(weights: list[nn.Parameter], config: OptimizationConfig, seed: int, kernels: dict[str, Any]) -> Optimizer:
        return optimizer(
            weights,
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            seed=seed,
            keep_low_bits=config.keeps_low_bits,
        )

    return OptimizerKind(label, build, state_bytes_per_weight)
