"""Which prompt a photo has in a step: templates, captions and dropout, drawn as a function of seed and step."""

from collections import Counter

import torch

from ldm.choices import PROMPT_TEMPLATES
from ldm.data.batches import DeviceShare, DreamBoothBatches
from ldm.data.drawn_prompts import drawn_prompts, without_caption

TEMPLATES = ["a photo of sks can, {caption}", "sks can"]
CAPTIONS = [("on a desk",), (), ("in snow", "at night")]


def drawn_texts(dropout: float, photo: int) -> Counter[str]:
    prompts, generator = drawn_prompts(TEMPLATES, CAPTIONS, "a can", dropout), torch.Generator().manual_seed(0)
    return Counter(prompts.texts[prompts.draw(photo, generator)] for _ in range(2000))


def test_templates_and_captions_are_drawn_alike_often() -> None:
    found = drawn_texts(0, photo=2)
    shares = {"a photo of sks can, in snow": 1 / 4, "a photo of sks can, at night": 1 / 4, "sks can": 1 / 2}
    assert found.keys() == shares.keys()
    assert all(abs(found[text] / 2000 - share) < 0.05 for text, share in shares.items())


def test_a_photo_without_a_caption_has_the_template_without() -> None:
    assert drawn_texts(0, photo=1).keys() == {"a photo of sks can", "sks can"}


def test_dropout_leaves_captions_out() -> None:
    found = drawn_texts(0.3, photo=0)
    assert found.keys() == {"a photo of sks can, on a desk", "a photo of sks can", "sks can"}
    assert abs(found["a photo of sks can"] / found["a photo of sks can, on a desk"] - 3 / 7) < 0.1
    assert "a photo of sks can, on a desk" not in drawn_texts(1, photo=0)


def test_a_caption_goes_with_its_comma() -> None:
    assert without_caption("a photo of sks {class}, {caption}") == "a photo of sks {class}"
    assert without_caption("{caption}, a photo of sks {class}") == "a photo of sks {class}"
    assert without_caption("sks {class}: {caption}.") == "sks {class}."


def test_a_batch_draws_by_seed_and_step_and_its_other_numbers_stay() -> None:
    """Class images have the class prompt; noise, timesteps and order are those of a run without templates."""
    moments = torch.randn(3, 1, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    prompts = drawn_prompts(TEMPLATES, CAPTIONS, "a can", 0.5)
    share = DeviceShare(seed=3, batch_size=2)
    batches = DreamBoothBatches(moments, moments, 1000, share, prompts)
    steps = [batches.step(step) for step in range(20)]
    again = DreamBoothBatches(moments, moments, 1000, DeviceShare(3, 2, start_step=7), prompts)
    for resumed, batch in zip(again, steps[7:], strict=False):
        assert resumed.keys() == batch.keys()
        assert all(torch.equal(resumed[name], batch[name]) for name in batch)
    plain = DreamBoothBatches(moments, moments, 1000, share).step(0)
    assert plain.keys() == steps[0].keys() - {"prompts"}
    assert all(torch.equal(plain[name], steps[0][name]) for name in plain)
    indices = torch.stack([batch["prompts"] for batch in steps])
    assert indices.shape == (20, 4)
    assert (indices[:, 2:] == 0).all() and prompts.texts[0] == "a can"
    assert len(indices[:, :2].unique()) > 3


def test_the_lists_of_the_papers_name_the_subject() -> None:
    lists = {name: choice.load() for name, choice in PROMPT_TEMPLATES.items()}
    assert {name: len(set(templates)) for name, templates in lists.items()} == {
        "dreambooth": 1,
        "textual-inversion": 27,
    }
    assert all("sks {class}" in template for templates in lists.values() for template in templates)
