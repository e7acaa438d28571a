"""Lists of prompts for photos of the subject: `--prompt-templates`."""

DREAMBOOTH = ("a sks {class}",)
"""DreamBooth (arXiv 2208.12242), section 3.2: "a [identifier] [class noun]"."""

TEXTUAL_INVERSION = tuple(
    template.replace("{}", "sks {class}")
    for template in (
        *("a photo of a {}", "a rendering of a {}", "a cropped photo of the {}", "the photo of a {}"),
        *("a photo of a clean {}", "a photo of a dirty {}", "a dark photo of the {}", "a photo of my {}"),
        *("a photo of the cool {}", "a close-up photo of a {}", "a bright photo of the {}", "a cropped photo of a {}"),
        *("a photo of the {}", "a good photo of the {}", "a photo of one {}", "a close-up photo of the {}"),
        *("a rendition of the {}", "a photo of the clean {}", "a rendition of a {}", "a photo of a nice {}"),
        *("a good photo of a {}", "a photo of the nice {}", "a photo of the small {}", "a photo of the weird {}"),
        *("a photo of the large {}", "a photo of a cool {}", "a photo of a small {}"),
    )
)
"""Textual inversion (arXiv 2208.01618), section 3.2: a subset of CLIP's templates for ImageNet."""
