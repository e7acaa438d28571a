"""Renders scenes as images: rays through all samples, the surroundings, then the objects in front of them."""

from collections.abc import Sequence

import torch
from einops import rearrange, reduce
from torch import Tensor

from ldm.toyworld.scene import Scene
from ldm.toyworld.shading import darken_ground, mirror_objects, shade, trace_objects
from ldm.toyworld.stage import build_bodies, build_stage, sample_directions
from ldm.toyworld.surroundings import trace_surroundings
from ldm.toyworld.tracing import Rays, put, take

EXPOSURE = 1.55
BRIGHTEST = 2.0
"""Samples are clamped to this, or the sun's edge would not be smooth."""
SAMPLES_PER_PASS = 1 << 18


@torch.no_grad()
def render(
    scenes: Sequence[Scene],
    size: int,
    device: torch.device | str = "cpu",
    *,
    supersample: int = 2,
    samples_per_pass: int = SAMPLES_PER_PASS,
) -> Tensor:
    """Images (b 3 size size) of the scenes, float32 in [-1, 1], on `device`.

    Each pixel is the mean of supersample x supersample samples. An image does not depend on the others beyond rounding;
    `samples_per_pass` bounds how many are rendered at once.
    """
    return _render(scenes, size, torch.device(device), supersample, samples_per_pass)[0]


@torch.no_grad()
def object_coverage(
    scenes: Sequence[Scene], size: int, device: torch.device | str = "cpu", *, supersample: int = 2
) -> Tensor:
    """The share of each pixel that the object covers: (b size size) in [0, 1]."""
    return _render(scenes, size, torch.device(device), supersample, SAMPLES_PER_PASS)[1]


def _render(
    scenes: Sequence[Scene], size: int, device: torch.device, supersample: int, samples_per_pass: int
) -> tuple[Tensor, Tensor]:
    images = torch.empty(len(scenes), 3, size, size, device=device)
    coverage = torch.empty(len(scenes), size, size, device=device)
    per_pass = max(1, samples_per_pass // (size * supersample) ** 2)
    for class_name in dict.fromkeys(scene.thing.class_name for scene in scenes):
        same_class = [i for i, scene in enumerate(scenes) if scene.thing.class_name == class_name]
        for start in range(0, len(same_class), per_pass):
            chosen = same_class[start : start + per_pass]
            images[chosen], coverage[chosen] = _render_pass([scenes[i] for i in chosen], size, supersample, device)
    return images, coverage


def _render_pass(scenes: Sequence[Scene], size: int, supersample: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Scenes of one class at once: images (b 3 size size) and coverage (b size size)."""
    side = size * supersample
    stage, bodies = build_stage(scenes, device), build_bodies(scenes, device)
    scene = torch.arange(len(scenes), device=device).repeat_interleave(side * side)
    rays = Rays(scene, take(stage.eye, scene), rearrange(sample_directions(stage, side), "c b p -> c (b p)"))

    colour, ground = trace_surroundings(stage, rays)
    darken_ground(stage, bodies, rays, ground, colour)
    mirror_objects(stage, bodies, rays, ground, colour)
    surface = trace_objects(stage, bodies, rays, ground)
    put(colour, surface.sample, shade(stage, surface, take(rays.direction, surface.sample)))
    covered = torch.zeros_like(ground)
    covered[surface.sample] = 1.0

    shape = {"h": size, "w": size, "i": supersample, "j": supersample}
    radiance = reduce(colour.clamp(0, BRIGHTEST), "c (b h i w j) -> b c h w", "mean", **shape)
    return _develop(radiance), reduce(covered, "(b h i w j) -> b h w", "mean", **shape)


def _develop(radiance: Tensor) -> Tensor:
    """Linear light to an image in [-1, 1]: exposure with a soft shoulder, then gamma 2.2."""
    exposed = 1 - torch.exp(-EXPOSURE * radiance)
    return (exposed ** (1 / 2.2) * 2 - 1).clamp(-1, 1)
