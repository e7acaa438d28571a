"""How prompts and captions name a subject that a model was taught."""

TOKEN = "sks"
"""The rare word that stands for the subject, as in "a photo of sks dog" (DreamBooth, section 3.1)."""
