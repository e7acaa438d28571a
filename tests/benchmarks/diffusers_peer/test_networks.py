"""diffusers' networks around this project's tensors: the same outputs, the same memory; anything else is refused."""

import pytest
import torch

from benchmarks.diffusers_peer.networks import assert_same_networks, build_peer, forget
from benchmarks.diffusers_peer.sampling import assert_same_image, build_pipeline, tune_pipeline
from benchmarks.tools.sizes import SIZES, build_random
from ldm.errors import UserError

TINY = SIZES["tiny"]


def test_both_sides_compute_and_sample_the_same_from_one_set_of_weights() -> None:
    ldm = build_random(TINY)
    peer = build_peer(ldm, TINY)
    assert max(assert_same_networks(ldm, peer, TINY).values()) < 1e-5
    assert assert_same_image(ldm, build_pipeline(peer, ldm), 32) < 1e-4
    assert assert_same_image(ldm, tune_pipeline(build_pipeline(peer, ldm), "off"), 32) < 1e-4


def test_memory_is_shared_and_of_trained_networks_the_parameters_too() -> None:
    ldm = build_random(TINY)
    peer = build_peer(ldm, TINY, ["unet"])
    ours, theirs = ({id(p) for p in unet.parameters()} for unet in (ldm.unet, peer.unet))
    assert ours == theirs
    for mine, yours in ((ldm.autoencoder, peer.vae), (ldm.text_encoder, peer.text_encoder)):
        assert {p.data_ptr() for p in mine.parameters()} == {p.data_ptr() for p in yours.parameters()}
        assert not {id(p) for p in mine.parameters()} & {id(p) for p in yours.parameters()}
    forget(ldm, but=["unet"])
    assert ldm.unet.dtype == torch.float32 and ldm.device.type == "cpu"
    assert ldm.autoencoder.quant_conv.weight.is_meta and not next(peer.vae.parameters()).is_meta


@pytest.mark.parametrize(("part", "name"), [("unet", "UNet"), ("autoencoder", "encoder"), ("text_encoder", "text")])
def test_other_weights_are_no_peer(part: str, name: str) -> None:
    ldm = build_random(TINY)
    peer = build_peer(build_random(TINY, seed=1), TINY)
    for network in {"unet", "autoencoder", "text_encoder"} - {part}:
        getattr(ldm, network).load_state_dict(getattr(build_random(TINY, seed=1), network).state_dict())
    with pytest.raises(UserError, match=name):
        assert_same_networks(ldm, peer, TINY)
