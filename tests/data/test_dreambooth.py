"""A training step's batch: a function of seed, step and device; every photo comes up as often as any other."""

from collections import Counter
from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader

from ldm.data.dreambooth import Batch, BatchPlan, DreamBoothBatches, encode_moments
from ldm.nn.autoencoder import AutoencoderKL
from tests.tiny import build_tiny_model

STEPS = 1000


def numbered(count: int, views: int = 1, start: int = 0) -> Tensor:
    """Moments (count views 2 1 1) that tell which image they are of; a view adds a half."""
    images = torch.arange(start, start + count).float()[:, None]
    return (images + 0.5 * torch.arange(views))[:, :, None, None, None].expand(-1, -1, 2, -1, -1)


def batches_of(
    instances: int = 5, classes: int = 7, views: int = 1, start_step: int = 0, seed: int = 42, **plan: int
) -> DreamBoothBatches:
    """Instance images are numbered from 0, class images from 100."""
    full = BatchPlan(**{"seed": seed, "batch_size": 2, "num_timesteps": STEPS, **plan})
    class_moments = numbered(classes, views, start=100) if classes else None
    return DreamBoothBatches(numbered(instances, views), class_moments, full, start_step)


def images(batch: Batch) -> list[float]:
    return batch["moments"][:, 0, 0, 0].tolist()


def same(first: Batch, second: Batch) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)  # type: ignore[literal-required]


def test_a_batch_holds_instances_first_and_then_as_many_class_images() -> None:
    for batch_size in (1, 2, 5):
        for batch in islice(batches_of(batch_size=batch_size), 10):
            assert len(images(batch)) == 2 * batch_size
            assert all(image < 100 for image in images(batch)[:batch_size])
            assert all(image >= 100 for image in images(batch)[batch_size:])


def test_shapes_and_types() -> None:
    instance, classes = torch.randn(5, 2, 8, 4, 6), torch.randn(3, 2, 8, 4, 6)
    batch = DreamBoothBatches(instance, classes, BatchPlan(1, 3, STEPS)).batch(0)
    assert {key: tuple(value.shape) for key, value in batch.items()} == {  # type: ignore[attr-defined]
        "moments": (6, 8, 4, 6),
        "posterior_noise": (6, 4, 4, 6),
        "noise": (6, 4, 4, 6),
        "timesteps": (6,),
    }
    assert batch["timesteps"].dtype == torch.int64
    assert batch["noise"].dtype == batch["posterior_noise"].dtype == batch["moments"].dtype == torch.float32
    views = instance.flatten(0, 1)
    for moments in batch["moments"][:3]:
        assert any(torch.equal(moments, view) for view in views)


def test_without_class_images_there_are_only_instances() -> None:
    for batch in islice(batches_of(classes=0, batch_size=3), 10):
        assert len(images(batch)) == len(batch["timesteps"]) == len(batch["noise"]) == 3
        assert all(image < 100 for image in images(batch))


def test_two_of_the_same_agree_whatever_else_is_drawn() -> None:
    torch.manual_seed(1)
    first = list(islice(batches_of(views=2), 20))
    torch.manual_seed(2)
    torch.randn(5)
    second = list(islice(batches_of(views=2), 20))
    assert all(same(one, other) for one, other in zip(first, second, strict=True))


def test_drawing_batches_leaves_the_running_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    list(islice(batches_of(), 5))
    assert torch.equal(torch.random.get_rng_state(), before)


@settings(max_examples=30)
@given(start=st.integers(0, 50), seed=st.integers(0, 2**32), views=st.integers(1, 2))
def test_starting_at_a_step_is_skipping_all_before_it(start: int, seed: int, views: int) -> None:
    skipped = islice(batches_of(views=views, seed=seed), start, start + 4)
    started = islice(batches_of(views=views, seed=seed, start_step=start), 4)
    assert all(same(one, other) for one, other in zip(skipped, started, strict=True))


def test_a_step_is_the_same_in_whatever_order_steps_are_asked_for() -> None:
    batches = batches_of(views=2)
    forwards = [batches.batch(step) for step in range(10)]
    backwards = [batches.batch(step) for step in reversed(range(10))]
    assert all(same(one, other) for one, other in zip(forwards, reversed(backwards), strict=True))
    assert all(same(one, other) for one, other in zip(forwards, batches, strict=False))


def test_a_loader_hands_them_on_as_they_are() -> None:
    loader = DataLoader(batches_of(start_step=7), batch_size=None)
    for batch, step in zip(loader, range(7, 10), strict=False):
        assert same(batch, batches_of().batch(step))


@pytest.mark.parametrize(
    "other",
    [
        batches_of(views=2).batch(1),
        batches_of(views=2, seed=43).batch(0),
        batches_of(views=2, rank=1, world_size=2).batch(0),
    ],
    ids=["step", "seed", "rank"],
)
def test_another_step_seed_or_device_draws_everything_anew(other: Batch) -> None:
    batch = batches_of(views=2).batch(0)
    for key in ("noise", "posterior_noise", "timesteps"):
        assert not (batch[key] == other[key]).any()  # type: ignore[literal-required]


def test_no_two_draws_of_a_run_are_the_same() -> None:
    noises = [
        noise
        for rank in range(2)
        for batch in islice(batches_of(rank=rank, world_size=2), 50)
        for name in ("noise", "posterior_noise")
        for noise in batch[name].flatten().tolist()  # type: ignore[literal-required]
    ]
    assert len(noises) == 2 * 50 * 2 * 4
    assert len(set(noises)) > len(noises) - 3  # float32 may coincide


def sequence(count: int, batch_size: int, world_size: int, num_images: int, seed: int, kind: int = 0) -> list[float]:
    """The images of one kind in the order in which all devices together take them."""
    devices = [
        batches_of(num_images, num_images, seed=seed, batch_size=batch_size, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    taken: list[float] = []
    step = 0
    while len(taken) < count:
        for device in devices:
            taken += images(device.batch(step))[kind * batch_size : (kind + 1) * batch_size]
        step += 1
    return taken[:count]


@settings(max_examples=40)
@given(
    num_images=st.integers(1, 9),
    batch_size=st.integers(1, 5),
    world_size=st.integers(1, 3),
    seed=st.integers(0, 2**40),
    kind=st.integers(0, 1),
)
def test_every_image_comes_up_once_before_any_comes_up_again(
    num_images: int, batch_size: int, world_size: int, seed: int, kind: int
) -> None:
    taken = sequence(3 * num_images, batch_size, world_size, num_images, seed, kind)
    for epoch in range(3):
        part = taken[epoch * num_images : (epoch + 1) * num_images]
        assert sorted(part) == [100.0 * kind + index for index in range(num_images)]


def test_the_order_changes_from_round_to_round_and_seed_to_seed() -> None:
    taken = sequence(60, 1, 1, 10, seed=0)
    rounds = [tuple(taken[i : i + 10]) for i in range(0, 60, 10)]
    assert len(set(rounds)) == 6
    assert len({tuple(sequence(10, 1, 1, 10, seed=seed)) for seed in range(6)}) == 6


def test_instances_and_class_images_go_round_independently() -> None:
    instances = sequence(40, 1, 1, 10, seed=0)
    assert [image + 100 for image in instances] != sequence(40, 1, 1, 10, seed=0, kind=1)
    pairs = Counter(
        (instance, other) for instance, other in (images(b) for b in islice(batches_of(3, 3, batch_size=1), 300))
    )
    assert len(pairs) == 9
    assert min(pairs.values()) > 10


def test_both_views_of_every_image_come_up_about_equally() -> None:
    counts = Counter(image for batch in islice(batches_of(4, 4, views=2), 400) for image in images(batch))
    assert set(counts) == {base + index + view for base in (0, 100) for index in range(4) for view in (0, 0.5)}
    assert min(counts.values()) > 60  # of 100 on average


def test_one_view_is_the_only_one() -> None:
    assert all(image % 1 == 0 for batch in islice(batches_of(views=1), 50) for image in images(batch))


def test_timesteps_are_all_of_the_schedules_and_no_others() -> None:
    few = torch.cat([batch["timesteps"] for batch in islice(batches_of(num_timesteps=4), 100)])
    assert sorted(set(few.tolist())) == [0, 1, 2, 3]
    many = torch.cat([batch["timesteps"] for batch in islice(batches_of(batch_size=50), 100)])
    assert len(many) == 10_000
    assert 0 <= many.min() < 10
    assert STEPS - 10 <= many.max() < STEPS
    assert abs(many.float().mean() - (STEPS - 1) / 2) < 15  # five standard errors


def test_noise_is_standard_normal() -> None:
    plan = BatchPlan(seed=0, batch_size=4, num_timesteps=STEPS)
    batch = DreamBoothBatches(torch.zeros(4, 1, 8, 32, 32), None, plan).batch(3)
    for noise in (batch["noise"], batch["posterior_noise"]):
        assert abs(noise.mean()) < 0.05
        assert abs(noise.std() - 1.0) < 0.05
    assert abs((batch["noise"] * batch["posterior_noise"]).mean()) < 0.05


@pytest.fixture(scope="module")
def autoencoder() -> AutoencoderKL:
    return build_tiny_model().autoencoder.eval()


@pytest.fixture(scope="module")
def photos() -> Tensor:
    return torch.rand(3, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1


@torch.no_grad()
def parameters(autoencoder: AutoencoderKL, image: Tensor) -> Tensor:
    return autoencoder.encode(image[None]).parameters[0]


def test_moments_are_those_of_each_image_and_its_mirror_image(autoencoder: AutoencoderKL, photos: Tensor) -> None:
    moments = encode_moments(autoencoder, photos, flip=True)
    assert moments.shape == (3, 2, 8, 4, 6)
    for views, photo in zip(moments, photos, strict=True):
        assert torch.equal(views[0], parameters(autoencoder, photo))
        assert torch.equal(views[1], parameters(autoencoder, photo.flip(-1)))
        assert not torch.equal(views[0], views[1])


def test_without_flipping_there_is_one_view(autoencoder: AutoencoderKL, photos: Tensor) -> None:
    moments = encode_moments(autoencoder, photos, flip=False)
    assert moments.shape == (3, 1, 8, 4, 6)
    assert torch.equal(moments, encode_moments(autoencoder, photos, flip=True)[:, :1])


def test_an_images_moments_do_not_depend_on_its_neighbours(autoencoder: AutoencoderKL, photos: Tensor) -> None:
    together = encode_moments(autoencoder, photos, flip=True)
    for order in ([0], [2, 0], [1, 1, 2, 0]):
        assert torch.equal(encode_moments(autoencoder, photos[order], flip=True), together[order])


@pytest.mark.parametrize("flip", [True, False])
def test_several_views_at_a_time_give_the_same_but_for_rounding(
    flip: bool, autoencoder: AutoencoderKL, photos: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    singly = encode_moments(autoencoder, photos, flip)
    sizes, encode = [], autoencoder.encode
    monkeypatch.setattr(autoencoder, "encode", lambda images: sizes.append(len(images)) or encode(images))
    together = encode_moments(autoencoder, iter(photos), flip, together=2)
    assert sizes == ([2, 2, 2] if flip else [2, 1])
    torch.testing.assert_close(together, singly, rtol=1e-5, atol=1e-5)


def test_moments_of_a_half_precision_autoencoder_are_float32(photos: Tensor) -> None:
    autoencoder = build_tiny_model().autoencoder.eval().bfloat16()
    moments = encode_moments(autoencoder, photos, flip=False)
    assert moments.dtype == torch.float32
    assert torch.equal(moments[0, 0], parameters(autoencoder, photos[0].bfloat16()).float())


def test_batches_of_encoded_images_can_be_trained_on(autoencoder: AutoencoderKL, photos: Tensor) -> None:
    moments = encode_moments(autoencoder, photos, flip=True)
    batch = DreamBoothBatches(moments, moments, BatchPlan(0, 1, STEPS)).batch(0)
    weight = torch.ones(1, requires_grad=True)
    (batch["moments"] * weight).square().sum().backward()
    assert weight.grad is not None
    assert weight.grad > 0
