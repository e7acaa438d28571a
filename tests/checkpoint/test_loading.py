"""From a file to a model: all of it or nothing, in the requested type, ready to sample."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ldm.checkpoint.keys import PARTS, POSITION_IDS, in_official_layout
from ldm.checkpoint.loading import (
    Placement,
    assign_parts,
    checkpoint_info,
    load_model,
    load_part,
    raise_unless_part,
    raise_unless_whole,
)
from ldm.checkpoint.metadata import CheckpointInfo
from ldm.checkpoint.reading import CheckpointFile, read_checkpoint
from ldm.checkpoint.saving import official_state_dict
from ldm.diffusion.latent_diffusion import LatentDiffusion
from ldm.errors import UserError
from tests.oracle import facts
from tests.tiny import TINY_YAML, build_tiny_model, tiny_config

CPU = Placement(torch.device("cpu"))
SOME_WEIGHT = "model.diffusion_model.out.2.weight"
SOME_NORM = "cond_stage_model.transformer.text_model.final_layer_norm.weight"


@cache
def contents(seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """What a file of the tiny model holds. It is shared: don't write to it."""
    return official_state_dict(build_tiny_model(seed), dtype)


def file_of(tensors: dict[str, Tensor]) -> CheckpointFile:
    return CheckpointFile(Path("some") / "model.safetensors", in_official_layout(tensors))


def weights(model: LatentDiffusion) -> dict[str, Tensor]:
    return dict(model.state_dict().items())


def same_weights(model: LatentDiffusion, expected: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, expected[key]) for key, tensor in weights(model).items())


@torch.inference_mode()
def outputs(model: LatentDiffusion) -> list[Tensor]:
    """Of each of the networks."""
    generator = torch.Generator().manual_seed(0)
    dtype = model.unet.dtype
    latents, images = torch.randn(2, 4, 4, 4, generator=generator), torch.rand(1, 3, 32, 32, generator=generator)
    context = model.text_encoder(torch.arange(2 * 77).view(2, 77))
    return [
        context,
        model.predict_eps(latents.to(dtype), torch.tensor([3, 800]), context),
        model.decode_latents(latents.to(dtype)),
        model.sample_posterior(model.encode_posterior(images), latents[:1]),
    ]


def test_a_loaded_model_computes_what_the_saved_one_did(tiny_checkpoint: Path) -> None:
    loaded, saved = load_model(tiny_checkpoint, tiny_config(), CPU), build_tiny_model().eval()
    for actual, expected in zip(outputs(loaded), outputs(saved), strict=True):
        assert torch.equal(actual, expected)
        assert expected.std() > 0


def test_a_path_and_what_was_read_from_it_give_the_same(tiny_checkpoint: Path) -> None:
    by_path = load_model(tiny_checkpoint, tiny_config(), CPU)
    assert same_weights(load_model(read_checkpoint(tiny_checkpoint), tiny_config(), CPU), weights(by_path))


def test_a_loaded_model_is_ready_to_sample(tiny_checkpoint: Path) -> None:
    model = load_model(tiny_checkpoint, tiny_config(), CPU)
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.tokenizer is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_weights_have_the_requested_type_and_all_have_values(dtype: torch.dtype, tiny_checkpoint: Path) -> None:
    model = load_model(tiny_checkpoint, tiny_config(), Placement(torch.device("cpu"), dtype))
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    everything = [*model.parameters(), *model.buffers(), model.schedule.alphas_cumprod, model.schedule.betas]
    assert {tensor.device.type for tensor in everything} == {"cpu"}
    expected = contents()
    assert same_weights(model, {key: tensor.to(dtype) for key, tensor in expected.items()})
    if dtype != torch.float16:  # not every processor computes in it
        assert all(output.isfinite().all() for output in outputs(model))


def test_weights_are_on_the_requested_device(tiny_checkpoint: Path) -> None:
    model = load_model(tiny_checkpoint, tiny_config(), Placement(torch.device("meta"), torch.float16))
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_a_half_precision_file_fits_a_float32_model(stored: torch.dtype) -> None:
    model = load_model(file_of(contents(dtype=stored)), tiny_config(), CPU)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert same_weights(model, {key: tensor.to(stored).float() for key, tensor in contents().items()})


def without_text_model(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.replace(".transformer.text_model.", ".transformer."): tensor for key, tensor in tensors.items()}


def test_both_names_of_the_text_encoders_weights_are_known() -> None:
    short = without_text_model(contents())
    assert not any("text_model" in key for key in short)
    assert same_weights(load_model(file_of(short), tiny_config(), CPU), contents())


EXTRAS: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "nothing but weights": lambda tensors: weights(build_tiny_model()),
    "the schedule": lambda tensors: tensors,
    "half precision position ids": lambda tensors: {**tensors, POSITION_IDS: tensors[POSITION_IDS].half()},
    "int64 position ids under the short name": without_text_model,
    "half precision position ids under the short name": lambda tensors: without_text_model(
        {**tensors, POSITION_IDS: tensors[POSITION_IDS].half()}
    ),
    "all in half precision": lambda tensors: {key: tensor.half() for key, tensor in tensors.items()},
    "the counters of averaged weights": lambda tensors: {
        **tensors,
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.num_updates": torch.tensor(470000, dtype=torch.int32),
    },
    "averaged weights": lambda tensors: {
        **tensors,
        **{
            "model_ema." + key.removeprefix("model.").replace(".", ""): tensor + 1
            for key, tensor in tensors.items()
            if key.startswith(PARTS["unet"])
        },
    },
}


@pytest.mark.parametrize("change", EXTRAS.values(), ids=list(EXTRAS))
def test_what_official_files_hold_beside_the_weights_changes_nothing(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]],
) -> None:
    tensors = change(contents())
    model = load_model(file_of(tensors), tiny_config(), CPU)
    assert same_weights(model, {key: tensor.float() for key, tensor in in_official_layout(tensors).items()})


def test_a_simulated_official_file_loads(tmp_path: Path) -> None:
    """Every kind of key that the official file has, in a Lightning file's frame."""
    kinds = {key.split(".")[0] for key, _, _ in facts("sd-v1-keys")["keys"]}
    tensors = EXTRAS["averaged weights"](EXTRAS["the counters of averaged weights"](contents()))
    assert {key.split(".")[0] for key in tensors} == kinds | {"model_ema"}
    torch.save({"epoch": 0, "global_step": 470000, "state_dict": tensors}, tmp_path / "model.ckpt")
    assert same_weights(load_model(tmp_path / "model.ckpt", tiny_config(), CPU), contents())


def drop(key: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if name != key}


BAD: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], str]] = {
    "missing in the UNet": (drop(SOME_WEIGHT), f"1 missing: {SOME_WEIGHT}"),
    "missing in the text encoder": (drop(SOME_NORM), f"1 missing: {SOME_NORM}"),
    "missing and unexpected": (
        lambda tensors: {**drop(SOME_WEIGHT)(tensors), "foo.weight": torch.ones(1)},
        "1 unexpected: foo.weight",
    ),
    "of another shape": (
        lambda tensors: {**tensors, SOME_WEIGHT: tensors[SOME_WEIGHT][:, :16]},
        f"1 of another shape: {SOME_WEIGHT} (4, 16, 3, 3) instead of (4, 32, 3, 3)",
    ),
    "a scalar": (lambda tensors: {**tensors, SOME_NORM: torch.tensor(1.0)}, f"{SOME_NORM} () instead of (32,)"),
    "empty": (lambda tensors: {}, "missing: "),
    "only the schedule": (lambda tensors: {key: tensors[key] for key in tensors if "." not in key}, "missing: "),
    "without the autoencoder": (
        lambda tensors: {key: tensors[key] for key in tensors if not key.startswith("first_stage_model.")},
        "missing: first_stage_model.",
    ),
    "of Stable Diffusion XL": (
        lambda tensors: {**drop(SOME_NORM)(tensors), "conditioner.embedders.0.transformer.x": torch.ones(1)},
        "Stable Diffusion XL",
    ),
}


HARMLESS = {
    "denoiser.sigmas": torch.ones(1000),
    "denoiser.log_sigmas": torch.ones(1000),
    "logvar": torch.zeros(1000),
    "scale_factor": torch.tensor(0.18215),
    "cond_stage_model.logit_scale": torch.tensor(4.6),
    "cond_stage_model.transformer.text_projection.weight": torch.ones(2, 2),
    "first_stage_model.loss.logvar": torch.zeros(()),
    "first_stage_model.loss.discriminator.main.0.weight": torch.ones(2),
    "embedding_manager.string_to_param_dict.*": torch.ones(2),
    "lora_te_text_model_encoder_layers_0_mlp_fc1.alpha": torch.ones(()),
    "model.diffusion_model.out.3.weight": torch.ones(1),
}


def test_tensors_that_are_not_needed_are_named_once_and_change_nothing(caplog: pytest.LogCaptureFixture) -> None:
    file = CheckpointFile(Path("with-extras.ckpt"), {**contents(), **HARMLESS})
    for _ in range(2):
        raise_unless_whole(file, tiny_config())
        assert same_weights(load_model(file, tiny_config(), CPU), contents())
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith(
        "11 tensors of with-extras.ckpt are not used: denoiser.sigmas, denoiser.log_sigmas, logvar"
    )


def test_official_files_trigger_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    load_model(file_of(EXTRAS["averaged weights"](contents())), tiny_config(), CPU)
    assert not caplog.records


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_a_file_of_eight_bit_floats_is_loaded(dtype: torch.dtype, suffix: str, tmp_path: Path) -> None:
    """They are plain numbers that are turned into larger ones."""
    tensors = {key: tensor.to(dtype) if key.startswith("model.") else tensor for key, tensor in contents().items()}
    save = {".ckpt": torch.save, ".safetensors": save_file}[suffix]
    save(tensors, tmp_path / f"a{suffix}")
    expected = {key: tensor.float() for key, tensor in tensors.items()}
    assert same_weights(load_model(tmp_path / f"a{suffix}", tiny_config(), CPU), expected)


@pytest.mark.parametrize(
    "changes",
    [
        {SOME_WEIGHT: contents()[SOME_WEIGHT].to(torch.int8)},
        {"scaled_fp8": torch.zeros(2)},
        {SOME_WEIGHT.replace(".weight", ".scale_weight"): torch.ones(())},
    ],
    ids=["int8", "scaled fp8", "scales"],
)
def test_quantized_weights_are_refused_as_such(changes: dict[str, Tensor]) -> None:
    with pytest.raises(UserError, match="is quantized"):
        load_model(file_of({**contents(), **changes}), tiny_config(), CPU)


@pytest.mark.parametrize(("change", "word"), BAD.values(), ids=list(BAD))
def test_of_a_file_that_does_not_fit_nothing_is_taken(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], word: str
) -> None:
    model, file = build_tiny_model(1), file_of(change(contents(2)))
    before = dict(model.named_parameters())
    for parts in (list(PARTS), ["text_encoder"]):
        with pytest.raises(UserError):
            assign_parts(model, file, parts, CPU)
    assert all(before[name] is parameter for name, parameter in model.named_parameters())
    assert same_weights(model, contents(1))
    with pytest.raises(UserError) as error:
        load_model(file, tiny_config(), CPU)
    assert str(file.path) in str(error.value)
    assert word in str(error.value)


@pytest.mark.parametrize("parts", [["autoencoder"], ["unet", "text_encoder"], [], list(PARTS)])
def test_only_the_named_parts_are_replaced(parts: list[str]) -> None:
    model, first, second = build_tiny_model(1), contents(1), contents(2)
    before = dict(model.named_parameters())
    assign_parts(model, file_of(second), parts, CPU)
    after = dict(model.named_parameters())
    assert list(after) == list(before)
    for key, parameter in after.items():
        if key.startswith(tuple(PARTS[part] for part in parts)):
            assert torch.equal(parameter, second[key])
        else:
            assert parameter is before[key]
            assert torch.equal(parameter, first[key])
    assert sum(parameter is not before[key] for key, parameter in after.items()) == sum(
        key.startswith(tuple(PARTS[part] for part in parts)) for key in after
    )


def test_replaced_weights_train_as_the_old_ones_did() -> None:
    model = build_tiny_model(1).requires_grad_(False)
    model.unet.requires_grad_(True)
    assign_parts(model, file_of(contents(2)), PARTS, CPU)
    assert all(parameter.requires_grad for parameter in model.unet.parameters())
    assert not any(p.requires_grad for part in (model.autoencoder, model.text_encoder) for p in part.parameters())


def test_every_key_of_the_model_belongs_to_a_part() -> None:
    model = build_tiny_model()
    parts = {"unet": model.unet, "autoencoder": model.autoencoder, "text_encoder": model.text_encoder}
    assert parts.keys() == PARTS.keys()
    for part, network in parts.items():
        assert sum(key.startswith(PARTS[part]) for key in model.state_dict()) == len(network.state_dict())
    assert sum(len(network.state_dict()) for network in parts.values()) == len(model.state_dict())


def test_the_metadata_of_a_file(tiny_checkpoint: Path) -> None:
    info = checkpoint_info(read_checkpoint(tiny_checkpoint))
    assert info.config == TINY_YAML
    assert info.parts.keys() == PARTS.keys()


def test_a_file_of_another_program_has_no_metadata_of_ours(tmp_path: Path) -> None:
    save_file(contents(), tmp_path / "a.safetensors", {"format": "pt", "modelspec.title": "x", "ldmx.step": "3"})
    assert checkpoint_info(read_checkpoint(tmp_path / "a.safetensors")) == CheckpointInfo()


# One part alone


def of_part(part: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """What a file of this part alone holds."""
    return {key: tensor for key, tensor in contents(seed, dtype).items() if key.startswith(PARTS[part])}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_loaded_from_a_file_of_it_or_of_the_whole_model(part: str) -> None:
    for tensors in (of_part(part, seed=3), contents(seed=3)):
        model = build_tiny_model(seed=0)
        load_part(getattr(model, part), part, file_of(tensors))
        for key, tensor in weights(model).items():
            assert torch.equal(tensor, contents(3 if key.startswith(PARTS[part]) else 0)[key]), key


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_part_keeps_its_own_type_and_its_gradients(dtype: torch.dtype) -> None:
    autoencoder = build_tiny_model(seed=0).autoencoder
    load_part(autoencoder, "autoencoder", file_of(of_part("autoencoder", 3, dtype)))
    for name, parameter in autoencoder.named_parameters():
        assert parameter.dtype == torch.float32
        assert parameter.requires_grad
        assert torch.equal(parameter, contents(3, dtype)[PARTS["autoencoder"] + name].float())


def test_a_loaded_part_is_no_view_of_the_file() -> None:
    """It is trained, and the file stays what it is."""
    tensors = {key: tensor.clone() for key, tensor in of_part("autoencoder").items()}
    autoencoder = build_tiny_model(seed=1).autoencoder
    load_part(autoencoder, "autoencoder", file_of(tensors))
    with torch.no_grad():
        autoencoder.quant_conv.weight.zero_()
    assert tensors["first_stage_model.quant_conv.weight"].any()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda tensors: tensors.pop("first_stage_model.quant_conv.bias"),
            "1 missing: first_stage_model.quant_conv.bias",
        ),
        (lambda tensors: tensors.clear(), "missing: first_stage_model."),
        (
            lambda tensors: tensors.update({"first_stage_model.quant_conv.bias": torch.zeros(4)}),
            r"1 of another shape: first_stage_model.quant_conv.bias \(4,\) instead of \(8,\)",
        ),
    ],
)
def test_a_part_that_does_not_fit_is_refused_and_nothing_is_loaded(
    change: Callable[[dict[str, Tensor]], object], words: str
) -> None:
    tensors = dict(of_part("autoencoder", seed=3))
    change(tensors)
    autoencoder = build_tiny_model(seed=0).autoencoder
    with pytest.raises(UserError, match=words):
        load_part(autoencoder, "autoencoder", file_of(tensors))
    for name, weight in autoencoder.state_dict().items():
        assert torch.equal(weight, contents()[PARTS["autoencoder"] + name])


def test_whether_a_part_fits_is_told_without_memory() -> None:
    with torch.device("meta"):
        model = LatentDiffusion(tiny_config())
    raise_unless_part(model.autoencoder, "autoencoder", file_of(of_part("autoencoder")))
    with pytest.raises(UserError, match=r"missing: model\.diffusion_model\."):
        raise_unless_part(model.unet, "unet", file_of(of_part("autoencoder")))


@pytest.mark.parametrize(
    ("more", "metadata"), [({"v_pred": torch.zeros(0)}, {}), ({}, {"modelspec.prediction_type": "v"})]
)
def test_a_model_with_v_prediction_is_refused(more: dict[str, Tensor], metadata: dict[str, str]) -> None:
    file = CheckpointFile(Path("v.safetensors"), {**contents(), **more}, metadata)
    with pytest.raises(UserError, match=r"v\.safetensors is a model with v-prediction"):
        raise_unless_whole(file, tiny_config())
