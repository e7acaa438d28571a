"""The toy world: rendered scenes with captions that train the embedded tiny model, and subjects to fine-tune it on.

    scenes = [random_scene(seed, index) for index in range(16)]
    images = render(scenes, 64)                                     # (16 3 64 64) in [-1, 1]
    prompts = [caption(scene, generator) for scene in scenes]

From the description to the image: `words`, `scene` (also unusual subjects), `captions`; `shapes` (made of `sdf`),
`settings`, `textures` (also the patterns on objects); `stage` (the scenes as tensors), `tracing`, `surroundings`,
`shading`, `render`. `dataset` writes folders of captioned images, and `judge` scores images of this world.
"""

from ldm.toyworld.captions import canonical_caption, caption
from ldm.toyworld.render import object_coverage, render
from ldm.toyworld.scene import (
    Camera,
    Labels,
    Light,
    Scene,
    Thing,
    is_held_out,
    labels,
    photograph,
    random_scene,
    unusual_subject,
)
from ldm.toyworld.words import CLASSES, COLOURS, MATERIALS, PATTERN_NAMES, SETTINGS

__all__ = [
    "CLASSES",
    "COLOURS",
    "MATERIALS",
    "PATTERN_NAMES",
    "SETTINGS",
    "Camera",
    "Labels",
    "Light",
    "Scene",
    "Thing",
    "canonical_caption",
    "caption",
    "is_held_out",
    "labels",
    "object_coverage",
    "photograph",
    "random_scene",
    "render",
    "unusual_subject",
]
