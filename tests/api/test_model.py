"""A model in a notebook: the commands' images, and everything between prompt and pixels."""

import io
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import ldm
from ldm.commands import enough_memory
from ldm.commands.sampling import job
from ldm.data.images import to_tensor
from ldm.diffusion.parallel import WorkerPool
from ldm.files import ROOT
from ldm.progress import Progress
from ldm.runtime import models
from tests.api.test_calls import forget_logging
from tests.commands.fixtures import Sample, Trained


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> ldm.Model:
    """The tiny model. It is shared: its weights stay as they are."""
    return ldm.load(tiny_checkpoint, device="cpu")


def arrays(images: ldm.Samples | list[Image.Image]) -> list[np.ndarray]:
    return [np.asarray(image).astype(int) for image in images]


def same(ours: ldm.Samples | list[Image.Image], theirs: list[np.ndarray]) -> bool:
    return len(ours) == len(theirs) and all(map(np.array_equal, arrays(ours), theirs))


@pytest.fixture
def sketch(tmp_path: Path) -> Path:
    """An image file that isn't square."""
    values = np.random.default_rng(0).integers(0, 256, (40, 52, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "sketch.png")
    return tmp_path / "sketch.png"


def test_samples_are_the_bits_that_txt2img_writes(model: ldm.Model, txt2img: Sample) -> None:
    words = ("--seed", 5, "-v", 2, "-n", "a dog", "--sampler", "ddim", "--ddim-eta", 0.5, "--ddim-steps", 4)
    drawn = txt2img("-p", "a cat", "a red cat", "--scale", 3, "--hw", 32, 48, *words)
    samples = model.sample(
        ["a cat", "a red cat"], seed=5, variations=2, negative_prompt="a dog", sampler="ddim", eta=0.5, steps=4,
        scale=3, hw=(32, 48),
    )  # fmt: skip
    assert same(samples, drawn.images)
    assert samples.prompts == ["a cat", "a cat", "a red cat", "a red cat"]
    assert samples.seeds == [5, 6, 5, 6]


def test_without_arguments_as_without_flags_but_one_image(model: ldm.Model, txt2img: Sample) -> None:
    assert same(model.sample(), txt2img("-v", 1).images)


def test_an_image_to_start_from_gives_the_bits_of_img2img(model: ldm.Model, img2img: Sample, sketch: Path) -> None:
    drawn = img2img("-i", sketch, "-p", "a cat", "-s", 0.7, "-v", 2).images
    with Image.open(sketch) as opened:
        init_images = [sketch, str(sketch), opened.copy(), to_tensor(opened)]
    for init_img in init_images:
        assert same(model.sample("a cat", init_img=init_img, strength=0.7, variations=2), drawn)


def test_a_checkpoint_brings_its_subject(trained: Trained, txt2img: Sample) -> None:
    model = ldm.load(trained.step(7), device="cpu")
    assert model.metadata.class_name == "Tin Can" and model.metadata.step == 7
    assert model.sample().prompts == ["a photo of sks Tin Can"]
    assert model.sample("a {class}").prompts == ["a Tin Can"]
    assert same(model.sample(), txt2img("-c", trained.step(7), "-v", 1).images)


def test_a_class_that_the_model_has_not_is_refused(model: ldm.Model) -> None:
    with pytest.raises(ldm.UserError, match=r"'a \{class\}' asks for a class, and .* none"):
        model.sample("a {class}")


def test_every_steps_predicted_latents_are_kept_on_request(model: ldm.Model) -> None:
    samples = model.sample("a cat", variations=2, steps=3, sampler="ddim", keep_steps=True)
    assert samples.pred_x0 is not None
    assert samples.pred_x0.shape == (3, 2, 4, 4, 4)
    # The last step leaves the noise of one timestep.
    assert (
        (samples.pred_x0[-1] - samples.latents).abs().max() < 0.2 < (samples.pred_x0[0] - samples.latents).abs().max()
    )
    assert len(model.decode(samples.pred_x0[:, 1])) == 3
    assert model.sample("a cat").pred_x0 is None


def test_a_strength_of_nothing_has_no_steps(model: ldm.Model, sketch: Path) -> None:
    samples = model.sample("a cat", init_img=sketch, strength=0, keep_steps=True)
    assert samples.pred_x0 is not None
    assert samples.pred_x0.shape == (0, *samples.latents.shape)


def test_decoding_the_latents_gives_the_samples(model: ldm.Model) -> None:
    samples = model.sample("a cat", variations=3)
    assert same(model.decode(samples.latents), arrays(samples))
    assert same(model.decode(samples.latents[1]), arrays(samples)[1:2])


def test_latents_can_be_trained_on(model: ldm.Model, sketch: Path) -> None:
    for latents in (model.sample().latents, model.encode(sketch), model.encode_prompts("a cat")):
        (latents.requires_grad_() * 2).sum().backward()
        assert latents.grad is not None


def test_encoding_takes_files_images_and_tensors(model: ldm.Model, sketch: Path) -> None:
    with Image.open(sketch) as opened:
        opened.load()
    latents = model.encode(sketch, hw=(32, 48))
    assert latents.shape == (1, 4, 4, 6)
    assert torch.equal(model.encode([opened, str(sketch)], hw=(32, 48)), latents.expand(2, -1, -1, -1))
    cropped = model.encode(sketch)
    assert cropped.shape == (1, 4, 4, 4)
    images = torch.stack([to_tensor(opened.resize((32, 32))), to_tensor(opened.resize((32, 32)).rotate(90))])
    assert torch.equal(model.encode(images[1]), model.encode(images)[1:])


def test_encoding_is_the_posteriors_mean_scaled_or_a_sample_of_it(model: ldm.Model, sketch: Path) -> None:
    with Image.open(sketch) as opened:
        image = to_tensor(opened.resize((32, 32)))[None]
    with torch.no_grad():
        posterior = model.latent_diffusion.encode_posterior(image)
    assert torch.allclose(model.encode(image), model.config.scale_factor * posterior.mean, rtol=1e-4, atol=1e-6)
    sampled = (model.encode(image, seed=3) - model.encode(image)) / (model.config.scale_factor * posterior.std)
    assert torch.allclose(sampled, torch.randn((1, 4, 4, 4), generator=torch.Generator().manual_seed(3)), atol=1e-3)


def test_noise_is_added_as_the_schedule_says(model: ldm.Model) -> None:
    latents = torch.ones(2, 4, 4, 4)
    noise = torch.full_like(latents, 2.0)
    noisy = model.add_noise(latents, [0, 999], noise=noise)
    for one, timestep in zip(noisy, (0, 999), strict=True):
        alpha = model.schedule.alphas_cumprod[timestep]
        assert torch.allclose(one, alpha.sqrt() + 2.0 * (1 - alpha).sqrt())
    assert torch.equal(model.add_noise(latents, 500, seed=1)[1:], model.add_noise(latents[1:], 500, seed=2))
    assert torch.equal(model.add_noise(latents[:1], [1, 500], seed=1)[1:], model.add_noise(latents[:1], 500, seed=1))


def test_what_a_researcher_looks_at(model: ldm.Model, tiny_checkpoint: Path) -> None:
    assert model.path == tiny_checkpoint
    assert model.schedule.alphas_cumprod.shape == (1000,)
    assert model.tokenizer(["a cat"]).shape == (1, 77)
    assert torch.equal(model.encode_prompts(["a cat", "a dog"])[1:], model.encode_prompts("a dog"))
    assert isinstance(model.latent_diffusion, torch.nn.Module)
    assert "32 x 32" in repr(model) and "float32 on cpu" in repr(model)


def test_a_notebook_shows_samples_as_one_image(model: ldm.Model) -> None:
    samples = model.sample(["a cat", "a dog"], variations=2)
    with Image.open(io.BytesIO(samples._repr_png_())) as shown:
        assert shown.format == "PNG" and shown.width > 2 * 32 and shown.height > 2 * 32
    assert [*samples[1:3]] == [samples[1], samples[2]]
    assert repr(samples) == "Samples(4 of 32 x 32 pixels, prompts=['a cat', 'a dog'], seeds=[42, 43])"


IMAGE = Image.new("RGB", (160, 160), "red")


def test_rows_of_images_become_a_grid() -> None:
    grid = ldm.image_grid([[IMAGE, None], [IMAGE, IMAGE]], ["one", "two"], ["left", "right"])
    assert grid.width > 320 and grid.height > 320


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([[IMAGE, IMAGE], [IMAGE]],), r"rows of \[2, 1\] images"),
        (([],), "at least one image"),
        (([[]],), "at least one image"),
        (([[None]],), "at least one image"),
        ((IMAGE,), r"rows of images, \[\[image, image\], \[image, image\]\], not Image"),
        ((None,), r"rows of images, .*, not NoneType"),
        (([IMAGE, IMAGE],), r"row 1 of a grid should be a list of images, not Image; a single row is \[\[image"),
        (([[IMAGE], "ab"],), "row 2 of a grid should be a list of images, not str"),
        (([[IMAGE, torch.zeros(4, 8, 8)]],), r"row 1 .* PIL images or None, not Tensor; Model\.decode makes"),
        (([[IMAGE]], "one"), "row_labels should be a list of texts, not 'one'"),
        (([[IMAGE]], ["one"], [200]), r"column_labels should be a list of texts, not \[200\]"),
    ],
)
def test_what_is_no_grid_is_the_users_error(arguments: tuple[Any, ...], words: str) -> None:
    with pytest.raises(ldm.UserError, match=words):
        ldm.image_grid(*arguments)


def test_without_a_path_the_weights_are_those_of_the_commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(models, "DOWNLOADED", tmp_path)
    assert ldm.load(device="cpu").path == ROOT / "ldm" / "assets" / "tiny.safetensors"


@pytest.mark.parametrize(("mode", "kind"), [("I;16", "PNG"), ("RGBA", "PNG"), ("CMYK", "JPEG"), ("RGB", "JPEG")])
def test_an_opened_image_is_read_as_its_file(mode: str, kind: str, model: ldm.Model, tmp_path: Path) -> None:
    """Upright, in sRGB, transparency white: of a photo on its side, too."""
    values = np.random.default_rng(0).integers(0, 256, (32, 48), dtype=np.uint8)
    image = Image.fromarray(values.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(values).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(values[::-1]))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(path := tmp_path / f"image.{kind.lower()}", exif=exif)
    with Image.open(path) as opened:
        assert torch.equal(model.encode(opened), model.encode(path))
        assert same(
            model.sample("a", init_img=opened, strength=0.5), arrays(model.sample("a", init_img=path, strength=0.5))
        )


@pytest.mark.parametrize(
    "image", [5, None, np.zeros((3, 32, 32)), torch.full((3, 32, 32), torch.nan), torch.zeros(3, 32, 32).byte()]
)
def test_what_is_no_image_is_the_users_error(image: Any, model: ldm.Model) -> None:
    with pytest.raises(ldm.UserError, match=r"an? (image|tensor of an image) should"):
        model.encode(image)
    if image is not None:
        with pytest.raises(ldm.UserError, match=r"an? (image|tensor of an image) should"):
            model.sample("a", init_img=image)


def test_mistakes_are_the_users_errors(model: ldm.Model, tiny_checkpoint: Path, sketch: Path) -> None:
    with pytest.raises(ldm.UserError, match=r"is a directory: name one of its checkpoints; ldm\.compare"):
        ldm.load(tiny_checkpoint.parent)
    with pytest.raises(ldm.UserError, match="precision invalid choice: 'half'"):
        ldm.load(tiny_checkpoint, precision="half")
    with pytest.raises(ldm.UserError, match="steps should be a whole number"):
        model.sample("a cat", steps=0)
    with pytest.raises(ldm.UserError, match="give init_img, too"):
        model.sample("a cat", strength=0.5)
    with pytest.raises(ldm.UserError, match=r"latents should be \(b 4 h w\) or \(4 h w\), not \(3, 32, 32\)"):
        model.decode(torch.zeros(3, 32, 32))
    with pytest.raises(ldm.UserError, match=r"multiples of 8, not \(3, 30, 32\)"):
        model.encode(torch.zeros(3, 30, 32))
    with pytest.raises(ldm.UserError, match="different sizes"):
        model.encode([torch.zeros(3, 32, 32), torch.zeros(3, 32, 64)])
    with pytest.raises(ldm.UserError, match="a prompt should be text"):
        model.sample(b"a")  # type: ignore[arg-type]
    with pytest.raises(ldm.UserError, match=r"seed should be a whole number from 0 on, not 1\.5"):
        model.encode(sketch, seed=1.5)  # type: ignore[arg-type]
    with pytest.raises(ldm.UserError, match="latents should be a tensor, not list"):
        model.decode([])  # type: ignore[arg-type]
    with pytest.raises(ldm.UserError, match="no image to encode"):
        model.encode([])
    with pytest.raises(ldm.UserError, match="path should be a path, not 5"):
        ldm.load(5)  # type: ignore[arg-type]
    for prompts in ([], 5, ["a", 5]):
        with pytest.raises(ldm.UserError, match="prompts should be a text or a list of texts"):
            model.encode_prompts(prompts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"timesteps": 1000}, r"timesteps should be from 0 to 999, not \[1000\]"),
        ({"timesteps": [1, 2, 3]}, "3 timesteps for the latents of 2 images"),
        ({"timesteps": 1.5}, r"timesteps should be a whole number or several, not 1\.5"),
        ({"timesteps": []}, "timesteps should be a whole number or several"),
        ({"timesteps": "5"}, "timesteps should be a whole number or several, not '5'"),
        ({"noise": 5}, r"noise should be a tensor of the shape of the latents, \(2, 4, 4, 4\), not int"),
        ({"noise": torch.zeros(1, 4, 4, 5)}, r"noise should be .* not \(1, 4, 4, 5\)"),
        ({"seed": -1}, "seed should be a whole number from 0 on, not -1"),
        ({"latents": [1]}, r"latents should be a tensor \(b 4 h w\), not list"),
        ({"latents": torch.zeros(4, 4, 4)}, r"latents should be a tensor \(b 4 h w\), not \(4, 4, 4\)"),
    ],
)
def test_what_no_noise_can_be_added_to_is_the_users_error(
    arguments: dict[str, Any], words: str, model: ldm.Model
) -> None:
    with pytest.raises(ldm.UserError, match=words):
        model.add_noise(**{"latents": torch.zeros(2, 4, 4, 4), "timesteps": 5, **arguments})


def test_a_resume_state_is_named_and_the_checkpoint_beside_it(trained: Trained, tmp_path: Path) -> None:
    """Wherever a checkpoint is expected, also under another name."""
    state, other = trained.directory / "resume.ckpt", tmp_path / "best.ckpt"
    with pytest.raises(ldm.UserError) as error:
        ldm.load(state)
    assert str(error.value).startswith(f"{state} is the resume state of a training, not a checkpoint: ")
    assert str(error.value).endswith(f"use a checkpoint of the run, such as {trained.step(7)}")
    other.write_bytes(state.read_bytes())
    with pytest.raises(ldm.UserError, match=r"best\.ckpt is the resume state .*; the run has saved no checkpoint yet"):
        ldm.fine_tune(tmp_path, class_name="can", ckpt_path=other, devices="cpu", output_dir=tmp_path / "runs")


def test_a_size_that_is_rounded_is_a_warning_in_the_words_of_the_command(
    model: ldm.Model, sketch: Path, txt2img: Sample, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "warning: size: 32 x 48 instead of 33 x 47: the UNet needs multiples of 16\n"
    assert said in txt2img("--hw", 33, 47, "-v", 1).said
    forget_logging(monkeypatch)
    assert model.sample("a cat", hw=(33, 47))[0].size == (48, 32)
    assert capsys.readouterr().err == said
    model.encode(sketch, hw=(33, 47))
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("hw", [(100_000, 64), (100_000, 100_000)])
def test_a_size_that_can_not_fit_is_refused_before_anything_is_counted_or_read(
    hw: tuple[int, int], model: ldm.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enough_memory, "memory_of", lambda device: 40 * 10**9)
    monkeypatch.setattr(enough_memory, "sampling_bytes", lambda *arguments: pytest.fail("counted, which takes seconds"))
    nowhere = Path("nowhere.png")
    for call in (
        lambda: model.sample("a cat", hw=hw),
        lambda: model.sample("a cat", hw=hw, init_img=nowhere),
        lambda: model.encode(nowhere, hw=hw),
    ):
        with pytest.raises(ldm.UserError, match=r"would take .* and 40 GB are available\. .*hw.* would fit"):
            call()


def test_the_size_of_a_tensor_is_checked_and_not_the_models_default(
    model: ldm.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enough_memory, "memory_of", lambda device: 10**7)
    monkeypatch.setattr(enough_memory, "sampling_bytes", lambda config, sampling, *how: 10**4 * sampling.height)
    model.encode(torch.zeros(3, 64, 64))
    for call in (lambda: model.encode(torch.zeros(3, 2048, 64)), lambda: model.decode(torch.zeros(4, 256, 8))):
        with pytest.raises(ldm.UserError, match=r"an image of 2048 x 64 would take .* and 10 MB are available"):
            call()
    with pytest.raises(ldm.UserError, match="sides of an image should be at most 100,000 pixels, not 8 x 100008"):
        model.encode(torch.zeros(3, 8, 100_008))


def test_the_batch_size_is_chosen_beside_the_loaded_weights_unless_it_is_given(
    model: ldm.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[tuple[Any, ...]] = []
    monkeypatch.setattr(job, "batch_that_fits", lambda *how: chosen.append(how) or 2)
    monkeypatch.setattr("ldm.api.model.images_at_a_time", lambda device, batch_size: batch_size)
    batches: list[int] = []
    watch = model.latent_diffusion.unet.register_forward_pre_hook(lambda unet, inputs: batches.append(len(inputs[0])))
    try:
        model.sample("a cat", variations=3, steps=1, scale=1, sampler="ddim")
        model.sample("a cat", variations=3, steps=1, scale=1, sampler="ddim", batch_size=3)
    finally:
        watch.remove()
    assert batches == [2, 1, 3]
    weights = sum(weight.numel() for weight in model.latent_diffusion.parameters()) * 4
    assert [how[-2:] for how in chosen] == [(3, weights)]


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["while images are sampled", "when one is taken"])
def test_an_interrupt_ends_all_workers_before_their_next_network_call(
    moment: str, model: ldm.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ldm.api.model.worker_pool", lambda *arguments: WorkerPool(2, threads=1))
    steps, calls, main = 100, [0], threading.main_thread().ident
    assert main is not None

    def count(*arguments: object) -> None:
        calls[0] += 1
        if calls[0] == 10 and moment == "while images are sampled":
            signal.pthread_kill(main, signal.SIGINT)

    def interrupted(self: Progress, count: int = 1) -> None:
        raise KeyboardInterrupt

    if moment == "when one is taken":
        monkeypatch.setattr(Progress, "update", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    hook = model.latent_diffusion.unet.register_forward_pre_hook(count)
    try:
        with pytest.raises(KeyboardInterrupt) as error:  # a notebook keeps its traceback, and so all local variables
            model.sample("a cat", variations=6, steps=steps)
        ended = calls[0]
        assert ended < (steps if moment == "while images are sampled" else 3 * steps)
        time.sleep(0.3)
        assert calls[0] == ended
        assert error.traceback
    finally:
        hook.remove()
        signal.signal(signal.SIGINT, before)
