"""What rays hit that miss the object: the ground, and the sky or the wall behind it."""

import torch
from torch import Tensor

from ldm.toyworld.settings import SETTINGS_BY_NAME, Setting
from ldm.toyworld.stage import Stage
from ldm.toyworld.textures import blend
from ldm.toyworld.tracing import Rays, indices, put, take

FARTHEST = 80.0
"""The ground ends here in the open."""
WALL_LIGHT = 0.5
"""The sun's share on a wall."""


def trace_surroundings(stage: Stage, rays: Rays) -> tuple[Tensor, Tensor]:
    """The radiance (3 n) that comes back along the rays, and the distance to the ground (n,), inf where there is none.

    The ground is lit as if there were no object.
    """
    colour, ground = torch.empty_like(rays.direction), torch.empty_like(rays.direction[0])
    for name in dict.fromkeys(stage.settings):
        is_here = torch.tensor([other == name for other in stage.settings], device=ground.device)
        index = indices(take(is_here, rays.scene))
        its_colour, its_ground = _trace(stage, SETTINGS_BY_NAME[name], rays.of(index))
        put(colour, index, its_colour)
        put(ground, index, its_ground)
    return colour, ground


def _trace(stage: Stage, setting: Setting, rays: Rays) -> tuple[Tensor, Tensor]:
    """`trace_surroundings` where all scenes have one setting."""
    x, y, z = rays.direction
    height, depth = rays.origin[1], rays.origin[2]
    to_ground = torch.where(y < -1e-4, height / -y.clamp(max=-1e-4), torch.inf)
    # A room is as deep behind the camera as before it; only reflections show that.
    to_wall = (depth - take(stage.wall, rays.scene)) / z.abs().clamp(min=1e-3) if setting.wall else FARTHEST
    is_ground = to_ground < to_wall

    colour = torch.empty_like(rays.direction)
    behind, below = indices(~is_ground), indices(is_ground)
    if isinstance(to_wall, Tensor):
        put(colour, behind, _wall(stage, setting, rays.of(behind), take(to_wall, behind)))
    elif setting.sky:
        dice = take(stage.dice, take(rays.scene, behind))
        put(colour, behind, setting.sky(take(x / (z.abs() + 0.02), behind), take(y, behind).clamp(min=0), dice))
    put(colour, below, _ground(stage, setting, rays.of(below), take(to_ground, below)))
    return colour, torch.where(is_ground, to_ground, torch.inf)


def _wall(stage: Stage, setting: Setting, rays: Rays, distance: Tensor) -> Tensor:
    assert setting.wall
    x, y, _ = rays.at(distance)
    return setting.wall(x, y, take(stage.dice, rays.scene)) * _wall_light(stage, rays.scene)


def _ground(stage: Stage, setting: Setting, rays: Rays, distance: Tensor) -> Tensor:
    x, _, z = rays.at(distance)
    dice = take(stage.dice, rays.scene)
    lit = setting.ground(x, z, distance, dice) * ground_light(stage, rays.scene)
    if setting.haze_distance == torch.inf:
        return lit
    haze = 1 - torch.exp(-((distance / setting.haze_distance) ** 2))
    if setting.wall:
        return blend(lit, setting.wall(x, torch.zeros_like(x), dice) * _wall_light(stage, rays.scene), haze)
    return blend(lit, setting.haze, haze)


def _wall_light(stage: Stage, scene: Tensor) -> Tensor:
    """The light (3 n) on a wall."""
    return take(stage.ambient + WALL_LIGHT * stage.sun_colour, scene)


def ground_light(stage: Stage, scene: Tensor, sunlit: Tensor | float = 1.0, open_sky: Tensor | float = 1.0) -> Tensor:
    """The light (3 n) on flat ground, where a share `sunlit` of the sun and `open_sky` of the sky reaches it."""
    return take(stage.ambient, scene) * open_sky + take(stage.sun_colour * stage.sun[1], scene) * sunlit
