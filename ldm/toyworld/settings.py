"""Settings of scenes: a ground, and a sky or a wall behind it, as functions from a position to a colour.

    ground(x, z, distance, dice)    albedo (3 n) of the ground at (x, 0, z), `distance` from the camera
    sky(azimuth, up, dice)          radiance (3 n) in a direction: tangent of the azimuth, sine of the elevation
    wall(x, y, dice)                albedo (3 n) of the wall at (x, y)

All arguments are (n,) but `dice` (DICE n), the scene's random numbers. Colours are linear.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from ldm.toyworld.textures import blend, cell_random, fractional, linear, noise, where
from ldm.toyworld.words import RGB

GroundFn = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
BackdropFn = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Setting:
    """A place and its light."""

    ground: GroundFn
    sky: BackdropFn | None = None
    wall: BackdropFn | None = None
    wall_distance: tuple[float, float] = (0.0, 0.0)
    """Nearest and farthest behind the object."""
    sun: RGB = (1.55, 1.45, 1.28)
    ambient: RGB = (0.50, 0.56, 0.66)
    haze: RGB = (0.0, 0.0, 0.0)
    """What the ground fades into in the open; in a room, it is the foot of the wall."""
    haze_distance: float = math.inf
    sink: float = 0.0
    """The share of the object that is under the ground's surface."""
    mirror: float = 0.0
    """How much of the object is reflected in the ground."""
    ripple: float = 0.0
    """How much waves bend that reflection."""


@cache
def rgb(hexadecimal: str) -> RGB:
    """The linear colour of `rrggbb`."""
    return linear([int(hexadecimal[i : i + 2], 16) / 255 for i in (0, 2, 4)])


def _fine(x: Tensor, z: Tensor, distance: Tensor, frequency: float) -> Tensor:
    """Noise that fades to its mean where it would be finer than a pixel."""
    strength = (1.6 - distance * frequency * 0.035).clamp_(0, 1)
    return torch.lerp(torch.full_like(x, 0.5), noise(x * frequency, z * frequency), strength)


def _sky(azimuth: Tensor, up: Tensor, dice: Tensor, horizon: RGB, zenith: RGB, clouds: float) -> Tensor:
    """A gradient with clouds."""
    colour = blend(horizon, zenith, (up * 3.0).clamp(0, 1) ** 0.6)
    cloud = noise(azimuth * 3.2 + dice[2] * 9, up * 9.0 + dice[3] * 9)
    return blend(colour, rgb("fafbff"), ((cloud - 0.5) * 3.5).clamp(0, clouds))


def _grass(x: Tensor, z: Tensor, distance: Tensor, dice: Tensor) -> Tensor:
    shade = 0.5 * noise(x * 0.9 + dice[0] * 30, z * 0.9 + dice[1] * 30) + 0.5 * _fine(x, z * 0.6, distance, 5.0)
    return blend(rgb("2f6a14"), rgb("86b83a"), shade)


def _meadow_sky(azimuth: Tensor, up: Tensor, dice: Tensor) -> Tensor:
    sky = _sky(azimuth, up, dice, rgb("d4e8f8"), rgb("4b90e0"), 0.9)
    height = 0.02 + 0.07 * noise(azimuth * 7 + dice[2] * 20, dice[3] * 20)
    bushes = blend(rgb("1d4a1a"), rgb("4e8a3c"), noise(azimuth * 22 + dice[4] * 20, up * 30))
    return where(up < height, bushes, sky)


def _sand(x: Tensor, z: Tensor, distance: Tensor, dice: Tensor) -> Tensor:
    shade = 0.5 * noise(x * 0.8 + dice[0] * 30, z * 1.6 + dice[1] * 30) + 0.5 * _fine(x, z, distance, 5.0)
    sand = blend(rgb("cfae7a"), rgb("f6e3b4"), shade)
    shore = -1.9 - 1.5 * dice[2] + 0.5 * noise(x * 0.7 + dice[3] * 20, dice[4] * 20)
    depth = shore - z
    sea = blend(rgb("1d93b5"), rgb("1a5fa8"), (depth / 9).clamp(0, 1))
    sea = blend(sea, rgb("7fd0dd"), (noise(x * 0.9, z * 2.5) - 0.4).clamp(0, 0.6))
    coast = where(depth > 0, sea, sand)
    return where((depth - 0.12).abs() < 0.16, rgb("fbfdfd"), coast)


def _sea_sky(azimuth: Tensor, up: Tensor, dice: Tensor) -> Tensor:
    return _sky(azimuth, up, dice, rgb("d9eefb"), rgb("3f95ea"), 0.75)


def _snow(x: Tensor, z: Tensor, distance: Tensor, dice: Tensor) -> Tensor:
    shade = 0.75 * noise(x * 0.6 + dice[0] * 30, z * 0.9 + dice[1] * 30) + 0.25 * _fine(x, z, distance, 6.0)
    return blend(rgb("d3dff0"), rgb("fdfeff"), shade)


def _winter_sky(azimuth: Tensor, up: Tensor, dice: Tensor) -> Tensor:
    colour = blend(rgb("e6edf6"), rgb("9db6d8"), (up * 3.0).clamp(0, 1))
    for layer, (density, tallest) in enumerate(((11.0, 0.15), (6.5, 0.25))):
        place = azimuth * density + dice[2 + layer] * 50
        tree = cell_random(place.floor(), layer)
        level = up / (tallest * (0.45 + 0.55 * tree))
        aside = (fractional(place) - 0.35 - 0.3 * fractional(tree * 7)).abs() * 2.4
        tier = fractional(level * 4)
        fir = blend(rgb("1f4d3c"), rgb("eef4fa"), ((0.45 - tier) * 4).clamp(0, 0.6))
        colour = where((level < 1) & (aside < (1 - level) * (1.05 - 0.35 * tier)), fir, colour)
    return colour


def _planks(x: Tensor, z: Tensor, distance: Tensor, dice: Tensor) -> Tensor:
    angle = (dice[0] - 0.5) * 1.2
    across = (torch.cos(angle) * x + torch.sin(angle) * z) * 2.6 + dice[1]
    along = torch.cos(angle) * z - torch.sin(angle) * x
    plank = across.floor()
    tone = cell_random(plank, 0)
    board = along * 0.45 + tone * 7
    tone = 0.6 * cell_random(plank, board.floor()) + 0.4 * noise(across * 4.0, along * 0.5 + tone * 30)
    wood = blend(rgb("8a5526"), rgb("d9a05c"), tone)
    seam = (fractional(across) < 0.045 + 0.006 * distance) | (fractional(board) < 0.012)
    return where(seam, rgb("4a2c12"), wood)


def _room_wall(x: Tensor, y: Tensor, dice: Tensor) -> Tensor:
    wall = blend(blend(rgb("e8dcc4"), rgb("b9cdd6"), dice[2]), rgb("dfe6cf"), dice[3])
    return where(y < 0.34, where(y < 0.30, rgb("f6f4ef"), rgb("949494")), wall)


def _pavement(x: Tensor, z: Tensor, distance: Tensor, dice: Tensor) -> Tensor:
    slab_x, slab_z = x * 0.8 + dice[0], z * 0.8 + dice[1]
    tone = 0.5 * cell_random(slab_x.floor(), slab_z.floor()) + 0.5 * _fine(x, z, distance, 4.0)
    seam = (fractional(slab_x) < 0.03) | (fractional(slab_z) < 0.04)
    return where(seam, rgb("6e6c69"), blend(rgb("94928e"), rgb("bab7b0"), tone))


def _bricks(x: Tensor, y: Tensor, dice: Tensor) -> Tensor:
    row = y * 3.6 + dice[2]
    place = x * 1.5 + 0.5 * (row.floor() % 2) + dice[3]
    tone = 0.65 * cell_random(place.floor(), row.floor()) + 0.35 * noise(x * 5, y * 5)
    brick = blend(rgb("8f3a26"), rgb("c9694b"), tone)
    return where((fractional(row) < 0.13) | (fractional(place) < 0.055), rgb("d3c8ba"), brick)


def _moonlit(x: Tensor, z: Tensor, distance: Tensor, dice: Tensor) -> Tensor:
    shade = 0.6 * noise(x * 0.8 + dice[0] * 30, z * 0.8 + dice[1] * 30) + 0.4 * _fine(x, z, distance, 4.0)
    return blend(rgb("3d4f78"), rgb("6f83ad"), shade)


def _night_sky(azimuth: Tensor, up: Tensor, dice: Tensor) -> Tensor:
    colour = blend(rgb("1c2a5c"), rgb("060a26"), (up * 3.5).clamp(0, 1))
    across, above = azimuth * 17 + dice[2] * 50, up * 17 + dice[3] * 50
    chance = cell_random(across.floor(), above.floor())
    aside, aloft = fractional(chance * 37) * 0.6 + 0.2, fractional(chance * 91) * 0.6 + 0.2
    star = (fractional(across) - aside) ** 2 + (fractional(above) - aloft) ** 2 < 0.015 + 0.05 * (chance - 0.45)
    side = torch.where(dice[4] < 0.5, -1.0, 1.0) * (0.16 + 0.12 * dice[5])
    moon = torch.sqrt((azimuth - side) ** 2 + (up - 0.17) ** 2)
    colour = where(star & (chance > 0.45) & (up > 0.03) & (moon > 0.09), rgb("f5f2dc"), colour)
    colour = colour + blend((0.0, 0.0, 0.0), (0.20, 0.22, 0.30), torch.exp(-moon * 14))
    return where(moon < 0.05, rgb("fffbe6"), colour)


def _water(x: Tensor, z: Tensor, distance: Tensor, dice: Tensor) -> Tensor:
    swell = noise(x * 0.7 + dice[0] * 30, z * 1.8 + dice[1] * 30)
    ripple = _fine(x * 0.6, z * 1.7, distance, 2.5)
    crest = (1.5 * swell + 0.8 * ripple - 0.75).clamp(0, 1)
    return blend(rgb("0d4f8a"), rgb("6cc0dc"), crest)


def _dusk_ground(x: Tensor, z: Tensor, distance: Tensor, dice: Tensor) -> Tensor:
    shade = 0.6 * noise(x * 0.8 + dice[0] * 30, z * 0.8 + dice[1] * 30) + 0.4 * _fine(x, z, distance, 4.0)
    return blend(rgb("6b4030"), rgb("a8714a"), shade)


def _sunset_sky(azimuth: Tensor, up: Tensor, dice: Tensor) -> Tensor:
    colour = blend(rgb("ff9a3c"), rgb("6a3f8c"), (up * 3.6).clamp(0, 1) ** 0.8)
    streak = noise(azimuth * 1.2 + dice[4] * 20, up * 22 + dice[5] * 20)
    colour = blend(colour, rgb("ff6f61"), ((streak - 0.5) * 2.5).clamp(0, 0.7))
    sun = torch.sqrt((azimuth - (dice[2] - 0.5) * 0.5) ** 2 + (up - 0.07) ** 2)
    colour = colour + blend((0.0, 0.0, 0.0), (0.75, 0.42, 0.10), torch.exp(-sun * 8))
    colour = where(sun < 0.075, rgb("fff3c4"), colour)
    height = 0.012 + 0.05 * noise(azimuth * 4 + dice[3] * 20, dice[3] * 20)
    return where(up < height, rgb("45233a"), colour)


def _asphalt(x: Tensor, z: Tensor, distance: Tensor, dice: Tensor) -> Tensor:
    road = blend(rgb("4a4b4f"), rgb("6c6d70"), _fine(x, z, distance, 6.0))
    across = x - (dice[0] - 0.5) * 1.8 + (dice[4] - 0.5) * 0.3 * z
    line = (across.abs() < 0.10) & (fractional(z * 0.4 + dice[1]) < 0.62)
    road = where(line, rgb("f2c832"), road)
    road = where((across.abs() - 2.2).abs() < 0.07, rgb("e8e8e4"), road)
    return where(across.abs() > 2.6, blend(rgb("4d7a35"), rgb("7da552"), _fine(x, z, distance, 3.0)), road)


def _city_sky(azimuth: Tensor, up: Tensor, dice: Tensor) -> Tensor:
    colour = _sky(azimuth, up, dice, rgb("dfe7ee"), rgb("7fa9d8"), 0.5)
    place = azimuth * 6.5 + dice[2] * 50
    tone = cell_random(place.floor(), 7)
    height = 0.06 + 0.22 * cell_random(place.floor(), 8)
    window = (fractional(place * 4) > 0.45) & (fractional(up * 34) > 0.5) & (up < height - 0.015)
    house = where(window, rgb("4d6076"), blend(rgb("a38e84"), rgb("c9c2b8"), tone))
    return where(up < height, house, colour)


def _studio(x: Tensor, z: Tensor, distance: Tensor, dice: Tensor) -> Tensor:
    return 0.30 + 0.45 * dice[2:5]


def _studio_wall(x: Tensor, y: Tensor, dice: Tensor) -> Tensor:
    return (0.30 + 0.45 * dice[2:5]) * (1.0 - 0.14 * y).clamp(0.4, 1.0)


def _tiles(x: Tensor, z: Tensor, distance: Tensor, dice: Tensor) -> Tensor:
    angle = (dice[0] - 0.5) * 1.5
    across = (torch.cos(angle) * x + torch.sin(angle) * z) * 1.7 + dice[1]
    along = (torch.cos(angle) * z - torch.sin(angle) * x) * 1.7 + dice[2]
    dark = (across.floor() + along.floor()) % 2 > 0.5
    tile = where(dark, rgb("6d93a6"), rgb("f0f2f0"))
    edge = torch.minimum(0.5 - (fractional(across) - 0.5).abs(), 0.5 - (fractional(along) - 0.5).abs())
    return where(edge < 0.022, rgb("b9bab5"), tile)


def _tiled_wall(x: Tensor, y: Tensor, dice: Tensor) -> Tensor:
    across, above = x * 1.8 + dice[3], y * 1.8 + dice[4]
    edge = torch.minimum(0.5 - (fractional(across) - 0.5).abs(), 0.5 - (fractional(above) - 0.5).abs())
    return where(edge < 0.03, rgb("b3c3c4"), rgb("e3efee"))


def _forest_floor(x: Tensor, z: Tensor, distance: Tensor, dice: Tensor) -> Tensor:
    leaves = _fine(x, z, distance, 5.0)
    soil = blend(rgb("4e3a1e"), rgb("a8763a"), leaves)
    return blend(soil, rgb("4d6b26"), ((noise(x * 0.8 + dice[0] * 30, z * 0.8 + dice[1] * 30) - 0.5) * 4).clamp(0, 0.8))


def _trees(azimuth: Tensor, up: Tensor, dice: Tensor) -> Tensor:
    colour = blend(rgb("a9c46a"), rgb("2f5a24"), (up * 3.2 + 0.5 * noise(azimuth * 12, up * 16) - 0.1).clamp(0, 1))
    for layer, (density, width, trunk) in enumerate(((13.0, 0.16, "5f6a3c"), (6.0, 0.17, "3f2a18"))):
        place = azimuth * density + dice[2 + layer] * 50
        chance = cell_random(place.floor(), 10 + layer)
        offset = (fractional(place) - 0.35 - 0.3 * chance).abs()
        bark = blend(rgb(trunk), rgb("7d6342"), 0.7 * noise(place * 7, up * 12))
        colour = where(offset < width * (0.5 + 0.8 * chance), bark, colour)
    return colour


INDOORS: RGB = (0.66, 0.64, 0.60)
LAMP: RGB = (1.15, 1.08, 0.98)

SETTINGS_BY_NAME: dict[str, Setting] = {
    "grass": Setting(_grass, _meadow_sky, haze=rgb("9fbf8a"), haze_distance=40.0),
    "beach": Setting(_sand, _sea_sky, haze=rgb("8fc4e4"), haze_distance=60.0),
    "snow": Setting(
        _snow, _winter_sky, sun=(1.15, 1.12, 1.06), ambient=(0.62, 0.68, 0.78), haze=rgb("e9eef5"), haze_distance=30.0
    ),
    "wooden floor": Setting(_planks, wall=_room_wall, wall_distance=(1.8, 3.6), sun=LAMP, ambient=INDOORS),
    "brick wall": Setting(_pavement, wall=_bricks, wall_distance=(1.0, 1.8)),
    "night": Setting(
        _moonlit, _night_sky, sun=(0.62, 0.68, 0.86), ambient=(0.17, 0.20, 0.34), haze=rgb("1c2a5c"), haze_distance=18.0
    ),
    "water": Setting(_water, _sea_sky, haze=rgb("9fd0ea"), haze_distance=45.0, sink=0.07, mirror=0.45, ripple=0.25),
    "sunset": Setting(
        _dusk_ground,
        _sunset_sky,
        sun=(1.45, 0.98, 0.60),
        ambient=(0.42, 0.33, 0.38),
        haze=rgb("9a5a4a"),
        haze_distance=25.0,
    ),
    "road": Setting(_asphalt, _city_sky, haze=rgb("b9bcc0"), haze_distance=60.0),
    "plain": Setting(
        _studio, wall=_studio_wall, wall_distance=(7.0, 7.0), sun=LAMP, ambient=INDOORS, haze_distance=6.0
    ),
    "tiled floor": Setting(_tiles, wall=_tiled_wall, wall_distance=(1.6, 3.0), sun=LAMP, ambient=INDOORS, mirror=0.12),
    "forest": Setting(
        _forest_floor,
        _trees,
        sun=(1.25, 1.22, 0.92),
        ambient=(0.44, 0.52, 0.40),
        haze=rgb("a9c46a"),
        haze_distance=22.0,
    ),
}
"""The keys are those of `words.SETTINGS`."""
