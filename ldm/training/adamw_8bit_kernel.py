"""The update of 8-bit AdamW as one Triton kernel for each bucket: each number is read once and written once.

`ldm.training.adamw_8bit_buckets` is the reference. The arithmetic is the same, in the same order; random numbers are
Philox's ("Parallel random numbers: as easy as 1, 2, 3", SC 2011), computed in the kernel from a seed and the number's
place in the bucket. Weights in bfloat16 are read and written as their 16 bits.

Importing this module needs Triton.
"""

import contextlib
import logging
import subprocess
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from triton.errors import TritonError

from ldm.training.adamw_8bit_buckets import Bucket, Slice, new_state, update
from ldm.training.rounding import BLOCK, SIGNED, TINY, UNSIGNED, decode, join_float32

log = logging.getLogger(__name__)

FAILURES = (TritonError, RuntimeError, OSError, ImportError, subprocess.SubprocessError)
"""What compiling and launching raise where there is no C compiler, or the driver or the GPU is too old."""

ROWS = 4
"""Blocks of a program: 1024 numbers, by four warps."""
SMALLEST = tl.constexpr(TINY)
AGREEMENT = 1e-3
"""How far the kernel may be from the reference, relative to the reference's norm: a rounding that a last bit turns the
other way changes a block of moments by about 1e-4, wrong memory or arithmetic by about 1."""


@triton.jit
def _load(pointer: tl.tensor, offsets: tl.tensor, mask: tl.tensor, HALF: tl.constexpr):
    """Float32 or bfloat16 numbers, as float32."""
    if HALF:
        values = (tl.load(pointer + offsets, mask=mask, other=0).to(tl.int32) << 16).to(tl.float32, bitcast=True)
    else:
        values = tl.load(pointer + offsets, mask=mask, other=0.0)
    return values


@triton.jit
def _decode(codes: tl.tensor, scales: tl.tensor, STEPS: tl.constexpr):
    """As `ldm.training.rounding.decode`."""
    values = codes.to(tl.float32) / STEPS
    return values * tl.abs(values) * scales


@triton.jit
def _encode(values: tl.tensor, uniform: tl.tensor, STEPS: tl.constexpr, SIGN: tl.constexpr):
    """As `ldm.training.rounding.encode`; codes are int32."""
    sizes = tl.abs(values)
    scales = tl.max(sizes, axis=1)[:, None]
    codes = tl.floor(tl.sqrt(sizes / tl.maximum(scales, SMALLEST)) * STEPS + uniform).to(tl.int32)
    codes = tl.minimum(codes, STEPS)
    if SIGN:
        codes = tl.where(values < 0, -codes, codes)
    else:
        codes = tl.where(values > 0, tl.maximum(codes, 1), codes)
    return codes, scales


@triton.jit(do_not_specialize=["seed"])
def _update_kernel(
    weights: tl.tensor,
    gradients: tl.tensor,
    starts: tl.tensor,
    firsts: tl.tensor,
    first: tl.tensor,
    root: tl.tensor,
    first_scales: tl.tensor,
    root_scales: tl.tensor,
    low: tl.tensor,
    length: tl.tensor,
    blocks: tl.tensor,
    seed: tl.tensor,
    keep: tl.tensor,
    part1: tl.tensor,
    beta2: tl.tensor,
    part2: tl.tensor,
    correction: tl.tensor,
    eps: tl.tensor,
    rate: tl.tensor,
    ADDRESSES: tl.constexpr,
    EXACT: tl.constexpr,
    HALF: tl.constexpr,
    LOW: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    TILE: tl.constexpr,
    STEPS: tl.constexpr,
    ROOT_STEPS: tl.constexpr,
) -> None:
    """A tile (TILE, BLOCK_SIZE) of a bucket, one row a block.

    `weights` and `gradients` are the numbers of one slice or, with `ADDRESSES`, the addresses of several: slice i has
    the numbers from `starts[i]` to `starts[i + 1]`, and tile t those of slices `firsts[t]` to `firsts[t + 1]`, the last
    one included. The address of a missing gradient is 0.
    """
    tile = tl.program_id(0)
    rows = tile * TILE + tl.arange(0, TILE)[:, None]
    offsets = rows * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)[None, :]
    stored = offsets < blocks * BLOCK_SIZE
    if ADDRESSES:
        begin, end = tl.load(firsts + tile), tl.load(firsts + tile + 1) + 1
        weight = tl.zeros([TILE, BLOCK_SIZE], tl.float32)
        gradient = tl.zeros([TILE, BLOCK_SIZE], tl.float32)
        number = tl.pointer_type(tl.int16 if HALF else tl.float32)
        for index in range(begin, end):
            start = tl.load(starts + index)
            inside = (offsets >= start) & (offsets < tl.load(starts + index + 1))
            values = _load(tl.load(weights + index).to(number), offsets - start, inside, HALF)
            weight = tl.where(inside, values, weight)
            values = _load(tl.load(gradients + index).to(number), offsets - start, inside, HALF)
            gradient = tl.where(inside, values, gradient)
    else:
        weight = _load(weights, offsets, offsets < length, HALF)
        gradient = _load(gradients, offsets, offsets < length, HALF)
    uniform = tl.rand(seed, offsets)

    # Moments: arXiv 1711.05101, algorithm 2, lines 7 and 8.
    if EXACT:
        moment = tl.load(first + offsets, mask=stored, other=0.0)
        size = tl.load(root + offsets, mask=stored, other=0.0)
    else:
        whole = rows < blocks
        moment = _decode(
            tl.load(first + offsets, mask=stored, other=0), tl.load(first_scales + rows, mask=whole, other=0.0), STEPS
        )
        size = _decode(
            tl.load(root + offsets, mask=stored, other=0),
            tl.load(root_scales + rows, mask=whole, other=0.0),
            ROOT_STEPS,
        )
    moment = moment + part1 * (gradient - moment)
    size = tl.sqrt(size * size * beta2 + part2 * gradient * gradient)
    if EXACT:
        tl.store(first + offsets, moment, mask=stored)
        tl.store(root + offsets, size, mask=stored)
    else:
        codes, scales = _encode(moment, uniform, STEPS, True)
        tl.store(first + offsets, codes.to(tl.int8), mask=stored)
        tl.store(first_scales + rows, scales, mask=whole)
        codes, scales = _encode(size, uniform, ROOT_STEPS, False)
        tl.store(root + offsets, codes.to(tl.uint8), mask=stored)
        tl.store(root_scales + rows, scales, mask=whole)

    # The weight: lines 9 to 12.
    if LOW:
        more = tl.load(low + offsets, mask=stored, other=0).to(tl.int32) << 8
        weight = (weight.to(tl.int32, bitcast=True) + more).to(tl.float32, bitcast=True)
    weight = weight * keep + rate * moment / (size / correction + eps)
    if LOW:
        bits = weight.to(tl.int32, bitcast=True) + (uniform * 256).to(tl.int32)
        tl.store(low + offsets, (bits >> 8).to(tl.int8), mask=stored)
        result = ((bits + 0x8000) >> 16).to(tl.int16)
    elif HALF:
        result = ((weight.to(tl.int32, bitcast=True) + (uniform * 0x10000).to(tl.int32)) >> 16).to(tl.int16)
    else:
        result = weight
    if ADDRESSES:
        for index in range(begin, end):
            start = tl.load(starts + index)
            inside = (offsets >= start) & (offsets < tl.load(starts + index + 1))
            tl.store(tl.load(weights + index).to(number) + offsets - start, result, mask=inside)
    else:
        tl.store(weights + offsets, result, mask=offsets < length)


@triton.jit(do_not_specialize=["seed"])
def _uniform_kernel(out: tl.tensor, seed: tl.tensor, SIZE: tl.constexpr) -> None:
    """The random numbers of `_update_kernel`."""
    offsets = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    tl.store(out + offsets, tl.rand(seed, offsets))


def uniform_numbers(count: int, seed: int, device: torch.device) -> Tensor:
    """The random numbers (count,) that the kernel uses; count is a multiple of `BLOCK`."""
    out = torch.empty(count, device=device)
    _uniform_kernel[(count // BLOCK,)](out, seed, SIZE=BLOCK)
    return out


@dataclass
class _Places:
    """Where a bucket's slices are: what `_update_kernel` reads."""

    starts: Tensor
    firsts: Tensor
    addresses: Tensor
    known: list[int]
    """What `addresses` holds, on the host."""

    @classmethod
    def of(cls, bucket: Bucket) -> "_Places":
        """Without addresses."""
        ends = torch.tensor([one.length for one in bucket.slices]).cumsum(0)
        tiles = torch.arange(0, bucket.length, ROWS * BLOCK)
        firsts = torch.cat([torch.searchsorted(ends, tiles, right=True), torch.tensor([len(ends) - 1])])
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), ends])
        starts, firsts = (part.to(torch.int32).to(bucket.device) for part in (starts, firsts))
        return cls(starts, firsts, torch.empty(0, dtype=torch.int64), [])

    def point_to(self, addresses: list[int], device: torch.device) -> None:
        """Of weights, then of gradients."""
        if addresses != self.known:
            self.addresses = torch.tensor(addresses, dtype=torch.int64).to(device, non_blocking=True)
            self.known = addresses


class BucketKernel:
    """Updates buckets by a kernel; each kind of bucket is compared with the reference before its first update."""

    def __init__(self) -> None:
        self._places: dict[str, _Places] = {}
        self._works: dict[tuple[Any, ...], bool] = {}

    def update(self, name: str, bucket: Bucket, state: dict[str, Any], group: dict[str, Any], seed: int) -> bool:
        """One update, as the reference's; False, and nothing is changed, if the kernel can't make it."""
        gradients = [one.parameter.grad for one in bucket.slices]
        if any(one is not None and (one.dtype, one.device) != (bucket.dtype, bucket.device) for one in gradients):
            return False
        kind = (bucket.device, bucket.dtype, bucket.exact, "low" in state, len(bucket.slices) > 1)
        if kind not in self._works:
            self._works[kind] = _works(bucket, "low" in state)
        if self._works[kind]:
            self.launch(name, bucket, state, group, seed)
        return self._works[kind]

    def launch(self, name: str, bucket: Bucket, state: dict[str, Any], group: dict[str, Any], seed: int) -> None:
        """One update; `name` is the bucket's own in this object."""
        (beta1, beta2), rate, step = group["betas"], group["lr"], state["step"]
        weights, gradients = bucket.weights(), bucket.gradients()
        half = bucket.dtype == torch.bfloat16
        bits = torch.int16 if half else torch.float32
        if several := len(bucket.slices) > 1:
            if name not in self._places:
                self._places[name] = _Places.of(bucket)
            places = self._places[name]
            places.point_to([one.data_ptr() for one in (*weights, *gradients)], bucket.device)
            where = (*places.addresses.chunk(2), places.starts, places.firsts)
        else:
            weight, gradient = weights[0].view(bits), gradients[0].view(bits)
            where = (weight, gradient, weight, weight)
        first, blocks = state["first"], (bucket.length + bucket.padding) // BLOCK
        moments = (first, state["root"], state.get("first_scales", first), state.get("root_scales", first))
        factors = (
            1 - rate * group["weight_decay"],
            1 - beta1,
            beta2,
            1 - beta2,
            (1 - beta2**step) ** 0.5,
            group["eps"],
            -rate / (1 - beta1**step),
        )
        with _current(bucket.device):
            _update_kernel[(triton.cdiv(blocks, ROWS),)](
                *where,
                *moments,
                state.get("low", first),
                bucket.length,
                blocks,
                seed,
                *factors,
                ADDRESSES=several,
                EXACT=bucket.exact,
                HALF=half,
                LOW="low" in state,
                BLOCK_SIZE=BLOCK,
                TILE=ROWS,
                STEPS=SIGNED,
                ROOT_STEPS=UNSIGNED,
            )


def _current(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Kernels are launched on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _works(bucket: Bucket, keep_low_bits: bool) -> bool:
    """Whether the kernel makes the reference's update of a small bucket of this kind; a warning says why not."""
    try:
        distance = distance_from_reference(bucket, keep_low_bits)
    except FAILURES as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        log.warning("8-bit AdamW's kernel failed; updates take some 25 kernels each, which is slower: %s", reason)
        return False
    if not distance < AGREEMENT:
        log.warning("8-bit AdamW's kernel gives other numbers (relative difference %g); it is not used", distance)
        return False
    return True


def distance_from_reference(like: Bucket, keep_low_bits: bool, steps: int = 2) -> float:
    """Makes updates of a small bucket of the same kind with both: the largest relative difference of what they keep."""
    generator = torch.Generator().manual_seed(0)
    group = {"betas": (0.9, 0.999), "lr": 0.1, "eps": 1e-8, "weight_decay": 0.1}

    def random(size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(like.device, like.dtype)

    sizes = (700, 1, 30, 1500) if len(like.slices) > 1 else (2300,)
    pairs = [[nn.Parameter(values.clone()) for _ in range(2)] for values in map(random, sizes)]
    buckets = [
        Bucket(tuple(Slice(pair[which], 0, pair[which].numel()) for pair in pairs), like.exact) for which in (0, 1)
    ]
    states = [new_state(bucket, keep_low_bits) for bucket in buckets]
    kernel = BucketKernel()
    with torch.no_grad():
        for step in range(steps):
            for pair in pairs:
                pair[0].grad = pair[1].grad = random(pair[0].numel()) * 10.0 ** (step - 1)
            for state in states:
                state["step"] += 1
            uniform = uniform_numbers(buckets[0].length + buckets[0].padding, step, like.device)
            update(buckets[0], states[0], group, uniform)
            kernel.launch("small", buckets[1], states[1], group, step)
        expected, found = (_kept(bucket, state) for bucket, state in zip(buckets, states, strict=True))
    return max(float((one - other).norm() / one.norm()) for one, other in zip(expected, found, strict=True))


def _kept(bucket: Bucket, state: dict[str, Any]) -> list[Tensor]:
    """The weights with all their bits, and the moments, in float32."""
    weights = bucket.gathered(bucket.weights())
    if "low" in state:
        weights = join_float32(weights, state["low"])
    if bucket.exact:
        return [weights, state["first"], state["root"]]
    return [weights, *(decode(state[key], state[f"{key}_scales"]) for key in ("first", "root"))]
