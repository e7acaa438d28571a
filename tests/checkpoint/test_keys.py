"""Names of tensors: one name for each weight, what a file may hold beside the weights, and what it can't."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ldm.checkpoint.keys import (
    EMA,
    PARTS,
    POSITION_IDS,
    TOLERATED,
    UNET_INPUT,
    KeyReport,
    averaged,
    compare_keys,
    in_official_layout,
    official_ema_key,
)
from ldm.diffusion.latent_diffusion import LatentDiffusionConfig, shapes_of
from ldm.errors import UserError
from tests.oracle import facts
from tests.tiny import tiny_config

TEXT = "cond_stage_model.transformer."
OFFICIAL = [key for key, _, _ in facts("sd-v1-keys")["keys"]]
SCHEDULE = [key for key in OFFICIAL if not key.startswith(tuple(PARTS.values()))]

keys = st.sampled_from(["", TEXT, f"{TEXT}text_model.", "model.diffusion_model.", "cond_stage_model."]).flatmap(
    lambda prefix: st.text("abc._", max_size=12).map(prefix.__add__)
)


def sizes(*names: str) -> dict[str, torch.Size]:
    return {name: torch.Size([2, 3]) for name in names}


def renamed(names: list[str]) -> list[str]:
    return list(in_official_layout(dict.fromkeys(names, torch.ones(()))))


def test_official_names_stay_as_they_are() -> None:
    assert len(OFFICIAL) == 1143
    assert renamed(OFFICIAL) == OFFICIAL


def test_names_without_text_model_become_the_official_ones() -> None:
    text_keys = [key for key in OFFICIAL if key.startswith(TEXT)]
    assert len(text_keys) == 197
    assert renamed([key.replace("text_model.", "", 1) for key in text_keys]) == text_keys


@given(key=keys)
def test_only_names_of_the_text_transformer_change_and_once(key: str) -> None:
    assert (renamed([key]) == [key]) == (not key.startswith(TEXT) or key.startswith(f"{TEXT}text_model."))
    assert renamed(renamed([key])) == renamed([key])


def test_the_same_names_and_shapes_leave_nothing_to_report() -> None:
    report = compare_keys(sizes("a", "b"), sizes("b", "a"))
    assert report == KeyReport()
    report.raise_if_any(Path("x.ckpt"))


def test_each_difference_is_told_apart() -> None:
    found = {**sizes("b", "d"), "c": torch.Size([3, 2])}
    report = compare_keys(sizes("a", "b", "c"), found)
    assert report == KeyReport(missing=["a"], unexpected=["d"], wrong_shape=["c (3, 2) instead of (2, 3)"])


@given(needed=st.sets(st.sampled_from("abcdef")), found=st.sets(st.sampled_from("abcdef")))
def test_missing_and_unexpected_are_the_two_differences_of_the_sets(needed: set[str], found: set[str]) -> None:
    report = compare_keys(sizes(*needed), sizes(*found))
    assert set(report.missing) == needed - found
    assert set(report.unexpected) == found - needed
    assert not report.wrong_shape


@pytest.mark.parametrize(
    ("report", "kind"),
    [
        (KeyReport(missing=["a.weight"]), "1 missing: a.weight"),
        (KeyReport(missing=["c"], unexpected=["a.weight", "b"]), "2 unexpected: a.weight, b"),
        (KeyReport(wrong_shape=["a (1,) instead of (2,)"]), "1 of another shape: a (1,) instead of (2,)"),
    ],
)
def test_the_error_names_the_file_and_the_keys_of_each_kind(report: KeyReport, kind: str) -> None:
    with pytest.raises(UserError) as error:
        report.raise_if_any(Path("some") / "x.ckpt")
    assert "x.ckpt" in str(error.value)
    assert kind in str(error.value)
    shown = [bool(keys) for keys in (report.missing, report.unexpected, report.wrong_shape)]
    assert [word in str(error.value) for word in (" missing:", " unexpected:", " of another shape:")] == shown


def test_tensors_that_are_not_needed_are_no_error() -> None:
    KeyReport(unexpected=["denoiser.sigmas"]).raise_if_any(Path("x.ckpt"))


def test_of_very_many_keys_the_first_are_named_and_all_are_counted() -> None:
    with pytest.raises(UserError) as error:
        KeyReport(missing=[f"key-{i}" for i in range(1000)]).raise_if_any(Path("x.ckpt"))
    assert "1000 missing: key-0, key-1, key-2, key-3 and 996 more" in str(error.value)
    assert "key-4" not in str(error.value)


@pytest.mark.parametrize(
    "key",
    [
        *SCHEDULE,
        POSITION_IDS,
        "model_ema.decay",
        "model_ema.num_updates",
        "model_ema.diffusion_modeltime_embed0weight",
        "model_ema.diffusion_modelinput_blocks11transformer_blocks0attn1to_qweight",
    ],
)
def test_what_official_files_hold_beside_the_weights_is_passed_over(key: str) -> None:
    assert compare_keys({}, sizes(key)) == KeyReport()


def test_no_weight_is_among_what_is_passed_over() -> None:
    weights = [key for key in OFFICIAL if key.startswith(tuple(PARTS.values())) and key != POSITION_IDS]
    assert len(weights) == 1130
    assert not [key for key in weights if TOLERATED.fullmatch(key)]


@pytest.mark.parametrize(
    "key",
    [
        "foo",
        "",
        "model_ema",
        "model_ema.",
        "model_emaX",
        "betasX",
        "model.betas",
        "log_one_minus_alphas_cumprod_prev",
        "lvlb_weights",
        "logvar",
        f"{TEXT}text_modelXembeddings.position_ids",
        f"{TEXT}text_model.embeddings.position_idsX",
        "model.diffusion_model.position_ids",
    ],
)
def test_anything_else_is_unexpected(key: str) -> None:
    assert compare_keys({}, sizes(key)).unexpected == [key]


def test_what_may_be_passed_over_is_compared_where_it_is_needed() -> None:
    assert compare_keys(sizes("betas"), {}).missing == ["betas"]
    assert compare_keys(sizes("betas"), {"betas": torch.Size([9])}).wrong_shape


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("conditioner.embedders.0.transformer.text_model.embeddings.position_ids", "Stable Diffusion XL"),
        ("model.diffusion_model.label_emb.0.0.weight", "Stable Diffusion XL"),
        ("cond_stage_model.model.transformer.resblocks.0.ln_1.bias", "Stable Diffusion 2"),
        ("double_blocks.0.img_attn.norm.key_norm.scale", "Flux"),
        ("model.diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale", "Flux"),
        ("model.diffusion_model.joint_blocks.0.context_block.attn.proj.bias", "Stable Diffusion 3"),
        ("clip_txt_pooled_mapper.weight", "Stable Cascade"),
        ("control_model.input_blocks.0.0.bias", "ControlNet"),
        ("down_blocks.0.attentions.0.norm.bias", "UNet in diffusers' layout"),
        ("encoder.down_blocks.0.resnets.0.norm1.bias", "VAE\\) in diffusers' layout"),
        ("encoder.down.0.block.0.norm1.bias", "VAE\\) alone"),
        ("text_model.encoder.layers.0.layer_norm1.bias", "CLIP encoder alone"),
        ("emb_params", "textual inversion"),
        ("lora_unet_down_blocks_0_attentions_0_proj_in.alpha", "LoRA"),
        ("lora_te_text_model_encoder_layers_0_mlp_fc1.alpha", "LoRA"),
        ("unet.down_blocks.0.attentions.0.proj_in.lora_A.weight", "LoRA"),
    ],
)
def test_another_kind_of_file_is_recognized(key: str, kind: str) -> None:
    report = compare_keys(sizes("model.diffusion_model.out.2.bias"), sizes(key))
    with pytest.raises(UserError, match=f"it looks like .*{kind}"):
        report.raise_if_any(Path("x.ckpt"))


def test_one_key_of_a_lora_makes_no_lora() -> None:
    report = compare_keys(sizes("a", "b"), sizes("a", "lora_te_text_model_encoder_layers_0_mlp_fc1.alpha"))
    with pytest.raises(UserError) as error:
        report.raise_if_any(Path("x.ckpt"))
    assert "LoRA" not in str(error.value)


@pytest.mark.parametrize(
    ("channels", "kind"), [(9, "an inpainting checkpoint"), (8, "an InstructPix2Pix checkpoint"), (6, "another task")]
)
def test_a_model_for_another_task_is_known_by_what_its_unet_takes(channels: int, kind: str) -> None:
    needed, found = {UNET_INPUT: torch.Size([320, 4, 3, 3])}, {UNET_INPUT: torch.Size([320, channels, 3, 3])}
    with pytest.raises(UserError, match=f"it looks like .*{kind}: its UNet takes {channels} input channels, not 4"):
        compare_keys(needed, found).raise_if_any(Path("x.ckpt"))


@pytest.mark.parametrize("name", ["model-00001-of-00003.safetensors", "pytorch_model-00001-of-00003.bin"])
def test_a_part_of_a_model_in_several_files_is_known_by_its_name(name: str) -> None:
    with pytest.raises(UserError, match="part 1 of 3; save the model as one file"):
        compare_keys(sizes("a", "b"), sizes("a")).raise_if_any(Path(name))


def test_an_unknown_kind_of_file_is_not_guessed_at() -> None:
    with pytest.raises(UserError) as error:
        compare_keys(sizes("a"), sizes("other")).raise_if_any(Path("x.ckpt"))
    assert "looks like" not in str(error.value)


@pytest.mark.parametrize("config", [LatentDiffusionConfig(), tiny_config()], ids=["sd-v1", "tiny"])
def test_every_averaged_weight_is_found_under_the_name_without_dots(config: LatentDiffusionConfig) -> None:
    for key in shapes_of(config):
        if key.startswith(PARTS["unet"]):
            assert official_ema_key(EMA + key.removeprefix("model.").replace(".", "")) == key


@pytest.mark.parametrize("key", ["model_ema.decay", "model_ema.num_updates", "model_ema.diffusion_modelbox0weight"])
def test_other_averaged_names_are_not_guessed(key: str) -> None:
    assert official_ema_key(key) == ""


def test_averaged_weights_alone_are_the_unet_and_beside_others_only_on_request() -> None:
    weight, one, two = UNET_INPUT, torch.ones(1), torch.zeros(1)
    ema = EMA + weight.removeprefix("model.").replace(".", "")
    assert in_official_layout({ema: one}) == {weight: one}
    assert in_official_layout({ema: one, weight: two}) == {ema: one, weight: two}
    assert averaged({ema: one, weight: two}) == {weight: one}
    assert averaged({weight: two}) == {}


def test_a_model_that_edits_is_its_averaged_weights_as_its_authors_use_it() -> None:
    weight, one, two = UNET_INPUT, torch.ones(2, 8, 3, 3), torch.zeros(2, 8, 3, 3)
    ema = EMA + weight.removeprefix("model.").replace(".", "")
    assert torch.equal(in_official_layout({ema: one, weight: two})[weight], one)
    assert torch.equal(in_official_layout({weight: two})[weight], two)
    assert torch.equal(in_official_layout({ema: one[:, :4], weight: two[:, :4]})[weight], two[:, :4])


def test_the_prefix_of_data_parallelism_is_removed_if_all_keys_have_it() -> None:
    assert [*in_official_layout({"module.a": torch.ones(1), "module.b": torch.ones(1)})] == ["a", "b"]
    assert [*in_official_layout({"module.a": torch.ones(1), "b": torch.ones(1)})] == ["module.a", "b"]
