"""DreamBooth's batches: a function of seed, step and device; every photo comes up as often as any other."""

from collections import Counter
from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ldm.data.batches import DeviceShare, DreamBoothBatches, NoisyLatents

STEPS = 1000


def numbered(count: int, views: int = 1, start: int = 0) -> Tensor:
    """Moments (count views 2 1 1) that tell which image they are of; a view adds a half."""
    images = torch.arange(start, start + count).float()[:, None]
    return (images + 0.5 * torch.arange(views))[:, :, None, None, None].expand(-1, -1, 2, -1, -1)


def batches_of(
    instances: int = 5,
    classes: int = 7,
    views: int = 1,
    *,
    seed: int = 42,
    batch_size: int = 2,
    num_timesteps: int = STEPS,
    **share: int,
) -> DreamBoothBatches:
    """Instance images are numbered from 0, class images from 100."""
    class_moments = numbered(classes, views, start=100) if classes else None
    return DreamBoothBatches(
        numbered(instances, views), class_moments, num_timesteps, DeviceShare(seed, batch_size, **share)
    )


def images(batch: NoisyLatents) -> list[float]:
    return batch["moments"][:, 0, 0, 0].tolist()


def same(first: NoisyLatents, second: NoisyLatents) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)  # type: ignore[literal-required]


def test_a_batch_holds_instances_first_and_then_as_many_class_images() -> None:
    for batch_size in (1, 2, 5):
        for batch in islice(batches_of(batch_size=batch_size), 10):
            assert len(images(batch)) == 2 * batch_size
            assert all(image < 100 for image in images(batch)[:batch_size])
            assert all(image >= 100 for image in images(batch)[batch_size:])


def test_shapes_and_types() -> None:
    instance, classes = torch.randn(5, 2, 8, 4, 6), torch.randn(3, 2, 8, 4, 6)
    batch = DreamBoothBatches(instance, classes, STEPS, DeviceShare(1, 3)).step(0)
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


def test_batches_depend_on_no_global_random_state() -> None:
    torch.manual_seed(1)
    first = list(islice(batches_of(views=2), 20))
    torch.manual_seed(2)
    torch.randn(5)
    second = list(islice(batches_of(views=2), 20))
    assert all(same(one, other) for one, other in zip(first, second, strict=True))


@settings(max_examples=30)
@given(start=st.integers(0, 50), seed=st.integers(0, 2**32), views=st.integers(1, 2))
def test_starting_at_a_step_is_skipping_all_before_it(start: int, seed: int, views: int) -> None:
    skipped = islice(batches_of(views=views, seed=seed), start, start + 4)
    started = islice(batches_of(views=views, seed=seed, start_step=start), 4)
    assert all(same(one, other) for one, other in zip(skipped, started, strict=True))


@pytest.mark.parametrize(
    "other",
    [
        batches_of(views=2).step(1),
        batches_of(views=2, seed=43).step(0),
        batches_of(views=2, rank=1, world_size=2).step(0),
    ],
    ids=["step", "seed", "rank"],
)
def test_another_step_seed_or_device_gives_other_random_numbers(other: NoisyLatents) -> None:
    batch = batches_of(views=2).step(0)
    for key in ("noise", "posterior_noise", "timesteps"):
        assert not (batch[key] == other[key]).any()  # type: ignore[literal-required]


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
            taken += images(device.step(step))[kind * batch_size : (kind + 1) * batch_size]
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
def test_every_image_comes_up_once_in_each_round(
    num_images: int, batch_size: int, world_size: int, seed: int, kind: int
) -> None:
    taken = sequence(3 * num_images, batch_size, world_size, num_images, seed, kind)
    for epoch in range(3):
        part = taken[epoch * num_images : (epoch + 1) * num_images]
        assert sorted(part) == [100.0 * kind + index for index in range(num_images)]


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


def test_timesteps_are_all_of_the_schedules_and_no_others() -> None:
    few = torch.cat([batch["timesteps"] for batch in islice(batches_of(num_timesteps=4), 100)])
    assert sorted(set(few.tolist())) == [0, 1, 2, 3]
    many = torch.cat([batch["timesteps"] for batch in islice(batches_of(batch_size=50), 100)])
    assert len(many) == 10_000
    assert 0 <= many.min() < 10
    assert STEPS - 10 <= many.max() < STEPS
    assert abs(many.float().mean() - (STEPS - 1) / 2) < 15  # five standard errors


def test_noise_is_standard_normal_and_differs_between_images() -> None:
    batch = DreamBoothBatches(torch.zeros(4, 1, 8, 32, 32), None, STEPS, DeviceShare(seed=0, batch_size=4)).step(3)
    for noise in (batch["noise"], batch["posterior_noise"]):
        assert abs(noise.mean()) < 0.05
        assert abs(noise.std() - 1.0) < 0.05
        assert len(noise.unique()) > 0.99 * noise.numel()  # each image has its own; float32 may coincide
    assert abs((batch["noise"] * batch["posterior_noise"]).mean()) < 0.05
