"""The things, colours, patterns and settings of the world, and their words. Each list has the order of the labels."""

RGB = tuple[float, float, float]

CLASSES: dict[str, tuple[str, ...]] = {
    "bottle": ("bottle", "water bottle"),
    "mug": ("mug", "coffee mug", "cup"),
    "ball": ("ball", "toy ball"),
    "cube": ("cube", "box"),
    "cone": ("cone", "traffic cone"),
    "vase": ("vase", "flower vase"),
    "ring": ("ring", "swim ring", "donut"),
    "lamp": ("lamp", "table lamp"),
    "hat": ("hat", "top hat"),
    "duck": ("duck", "rubber duck", "toy duck"),
    "teddy bear": ("teddy bear", "teddy", "toy bear"),
    "car": ("car", "toy car"),
}
"""The nouns for each class of object; the first is its name."""

COLOURS: dict[str, RGB] = {
    "red": (0.86, 0.07, 0.07),
    "orange": (0.98, 0.47, 0.02),
    "yellow": (0.99, 0.86, 0.08),
    "green": (0.10, 0.60, 0.16),
    "cyan": (0.10, 0.80, 0.86),
    "blue": (0.10, 0.22, 0.86),
    "purple": (0.46, 0.12, 0.68),
    "pink": (0.98, 0.52, 0.70),
    "brown": (0.43, 0.25, 0.12),
    "white": (0.95, 0.95, 0.93),
    "black": (0.09, 0.09, 0.10),
}
"""sRGB, in [0, 1]."""

PATTERNS: dict[str, str] = {
    "plain": "",
    "striped": "stripes",
    "spotted": "spots",
    "checkered": "checks",
}
"""The patterns of ordinary objects: adjective and plural noun."""

SUBJECT_SHADES: dict[str, RGB] = {
    "red": (1.00, 0.42, 0.35),
    "yellow": (0.80, 0.62, 0.12),
    "green": (0.66, 0.90, 0.16),
    "cyan": (0.02, 0.50, 0.50),
    "blue": (0.07, 0.10, 0.42),
    "pink": (0.92, 0.08, 0.56),
    "purple": (0.72, 0.60, 0.95),
    "white": (0.98, 0.93, 0.80),
}
"""Shades of unusual subjects only, by their nearest ordinary colour: coral, mustard, lime, teal, navy, magenta,
lavender and cream."""

SUBJECT_PATTERNS: dict[str, str] = {"spiral": "spirals", "zigzag": "zigzags", "wavy": "waves"}
"""The patterns of unusual subjects only."""

PATTERN_NAMES = (*PATTERNS, *SUBJECT_PATTERNS)

MATERIALS = ("matte", "shiny", "metallic")

SETTINGS: dict[str, tuple[str, ...]] = {
    "grass": ("on the grass", "on the lawn", "in a meadow"),
    "beach": ("on the beach", "on the sand", "at the beach"),
    "snow": ("in the snow", "on the snow", "in a snowy landscape"),
    "wooden floor": ("on a wooden floor", "on top of a wooden floor", "on wooden planks"),
    "brick wall": ("in front of a brick wall", "by a brick wall", "with a brick wall in the background"),
    "night": ("under a starry night sky", "at night", "under the stars"),
    "water": ("floating on water", "on the water", "floating on top of water"),
    "sunset": ("at sunset", "in the sunset", "with a sunset in the background"),
    "road": ("on a road", "on the street", "with a city in the background"),
    "plain": ("on a plain background", "in a studio", "against a plain background"),
    "tiled floor": ("on a tiled floor", "on the tiles", "on top of a tiled floor"),
    "forest": ("in the forest", "in the woods", "with trees in the background"),
}
"""The phrases for the place of an object; the first is the canonical one."""
