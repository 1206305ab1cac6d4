"""The one list of options: its limits, its contradictions, and its TOML form."""

import dataclasses
from pathlib import Path

import pytest
import tomllib

from trainer.errors import UserError
from trainer.options.config import TrainConfig, options, recipe, resolve_vae
from trainer.options.toml_file import from_toml, to_toml

PLACES = {"vae": "org/name", "data": "photos", "output": "run"}


def make(**values) -> TrainConfig:
    return TrainConfig(**(PLACES | values))


def toml(folder: Path, text: str | bytes) -> Path:
    path = folder / "options.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# Values


@pytest.mark.parametrize(
    ("name", "wrong", "words"),
    [
        ("batch_size", 0, "--batch-size to be a whole number, at least 1, or auto, but got 0"),
        ("batch_size", True, "a whole number, at least 1, or auto, but got true"),
        ("batch_size", 4.0, "but got 4.0"),
        ("resolution", 100, "a multiple of 8, but got 100"),
        ("learning_rate", float("nan"), "--learning-rate to be a number, above 0, but got nan"),
        ("learning_rate", float("inf"), "but got inf"),
        ("learning_rate", 10**400, "--learning-rate to be a number"),
        ("ema_decay", 1.0, "at least 0, below 1, but got 1.0"),
        ("max_train_minutes", 0.0, "above 0, but got 0.0"),
        ("val_share", 1.0, "below 1"),
        ("flip", 1, "--flip to be true or false, but got 1"),
        ("rec_loss", "mes", "one of l1, mse, charbonnier, bce, but got 'mes': did you mean mse?"),
        ("mixed_precision", "float16", "did you mean fp16?"),
        ("background", "white", "--background to be a colour such as #ffffff"),
        ("background", "#fffff", "six digits"),
        ("seed", -1, "at least 0"),
        ("vae", "", "--vae, but an empty text came"),
        ("data", "a\0b", "NUL"),
        ("output", "caf\udce9", "UTF-8"),
        ("lora_alpha", 2.0, "give a rank"),
        ("warmup_steps", 10_001, "--max-steps, 10000, but got 10001"),
    ],
)
def test_a_wrong_value_is_refused_in_a_sentence(name: str, wrong: object, words: str) -> None:
    with pytest.raises(UserError) as caught:
        make(**{name: wrong})
    message = str(caught.value)
    assert words in message
    assert "\n" not in message and len(message) < 260


def test_limits_themselves_are_allowed() -> None:
    make(ema_decay=0.0, max_grad_norm=0.0, resolution=8, warmup_steps=10_000, val_photos=None)


def test_adapters_need_a_frozen_encoder() -> None:
    with pytest.raises(UserError, match="drop one of the two"):
        make(lora_rank=8, trainable="all")


@pytest.mark.parametrize(
    "other", [{"trainable": "all"}, {"streaming": True}, {"noise_factor": 0.5}]
)
def test_cached_latents_need_a_frozen_encoder_clean_crops_and_a_list_of_photos(other: dict) -> None:
    with pytest.raises(UserError, match="drop one of the two"):
        make(cache_latents="cache", **other)


def test_crops_are_cached_only_with_a_cache() -> None:
    assert make(cache_latents="cache").cache_crops == 8 and make().cache_crops is None
    with pytest.raises(UserError, match="name a folder by --cache-latents"):
        make(cache_crops=4)


def test_a_loss_without_any_gradient_is_refused() -> None:
    with pytest.raises(UserError, match="weight above 0"):
        make(rec_weight=0.0, lpips_weight=0.0, kl_weight=1.0)
    assert make(rec_weight=0.0, lpips_weight=0.0, kl_weight=1.0, trainable="all").uses_kl


def test_a_discriminator_needs_time_room_and_company() -> None:
    make(gan_start=20_000)  # without a weight it means nothing
    make(gan_weight=1.0, gan_start=9_999, resolution=24)
    with pytest.raises(UserError, match="below --max-steps, 10000, but got 10000"):
        make(gan_weight=1.0, gan_start=10_000)
    with pytest.raises(UserError, match="--resolution to be at least 24 for --gan-weight"):
        make(gan_weight=1.0, resolution=16)
    with pytest.raises(UserError, match="another term beside --gan-weight"):
        nothing = {"rec_weight": 0.0, "lpips_weight": 0.0, "kl_weight": 1.0, "trainable": "all"}
        make(gan_weight=1.0, **nothing)
    make(gan_weight=1.0, rec_weight=0.0, lpips_weight=0.0, hf_weight=1.0)


def test_kl_weight_without_effect_is_no_error() -> None:
    assert not make(kl_weight=1.0).uses_kl


def test_defaults_that_follow_others() -> None:
    assert make().warmup_steps == 100
    assert make(max_steps=20).warmup_steps == 2
    assert make(max_steps=20, warmup_steps=0).warmup_steps == 0
    assert make(lora_rank=8).lora_alpha == 8.0
    assert make(lora_rank=8, lora_alpha=2.0).lora_alpha == 2.0
    assert make().lora_alpha is None


def test_whole_numbers_stand_for_floats() -> None:
    assert isinstance(make(rec_weight=1).rec_weight, float)


def test_background_as_numbers() -> None:
    assert make(background="#00ff80").background_rgb == (0, 255, 128)


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().batch_size = 2


# TOML


def test_toml_brings_every_option_back(tmp_path: Path) -> None:
    config = make(
        data='quote " back\\slash\ttab\nline \x7f \u00e9 \u202e',
        family="none of these",
        learning_rate=1e-7,
        flip=False,
        max_train_minutes=0.1,
        seed=2**63 - 1,
        log_with="none",
    )
    path = toml(tmp_path, to_toml(config, {"torch": "2.13.0", 'odd "name"': "1"}))
    assert TrainConfig(**from_toml(path)) == config


def test_toml_is_ordinary_toml_with_versions_beside() -> None:
    table = tomllib.loads(to_toml(make(), {"torch": "2.13.0+cpu"}))
    assert table.pop("versions") == {"torch": "2.13.0+cpu"}
    assert set(options()) - set(table) == {"config", "resume", "dry_run"}
    assert table["lora_alpha"] == "none" and table["max_train_minutes"] == "none"


def test_a_batch_size_is_a_number_or_auto(tmp_path):
    assert make(batch_size="auto").batch_size == "auto"
    assert from_toml(toml(tmp_path, 'batch_size = "auto"')) == {"batch_size": "auto"}
    with pytest.raises(UserError, match="or auto, but got 'automatic'"):
        make(batch_size="automatic")


@pytest.mark.parametrize("key", ["batch_size", "batch-size"])
def test_toml_keys_take_dashes_and_underscores(tmp_path: Path, key: str) -> None:
    assert from_toml(toml(tmp_path, f"{key} = 2")) == {"batch_size": 2}


def test_toml_with_a_byte_order_mark(tmp_path: Path) -> None:
    assert from_toml(toml(tmp_path, b"\xef\xbb\xbfseed = 3\r\n")) == {"seed": 3}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("batch_sise = 4", "'batch_sise' is none: did you mean batch_size?"),
        ("lr = 1e-4", "did you mean learning_rate?"),
        ("batch-size = 1\nbatch_size = 2", "a dash and with an underscore"),
        ("batch_size = true", "batch_size in options.toml to be a whole number"),
        ("batch_size = 4.0", "but got 4.0"),
        ("batch_size = [4]", "but got a list"),
        ("batch_size = 2024-01-01", "but got the date or time 2024-01-01"),
        ("learning_rate = nan", "but got nan"),
        ("learning_rate = 1e400", "but got inf"),
        ("learning_rate = true", "learning_rate in options.toml to be a number"),
        ("flip = 1", "true or false"),
        ("vae = 3", "to be a text, but got 3"),
        ('data = "a\\u0000b"', "NUL"),
        ('max_train_minutes = "2"', "but got '2'"),
        ("resume = true", "--resume on the command line"),
        ('config = "other.toml"', "--config on the command line"),
        ("versions = 3", "'versions' is none"),
        ("[train]\nseed = 1", "'train' is none: did you mean"),
        ("seed = 1\nseed = 2", "does not read"),
        ("seed = ", "does not read"),
        ("seed = " + "9" * 5000, "does not read"),
        ("seed = " + "[" * 5000, "does not read"),
        ('data = "C:\\photos"', "single quotes"),
        (b"\xff\xfes\x00e\x00e\x00d\x00", "save it as UTF-8"),
        (b"#" * 1_000_001, "larger than 1 MB"),
    ],
)
def test_toml_mistakes_name_the_file_or_the_key(
    tmp_path: Path, text: str | bytes, words: str
) -> None:
    with pytest.raises(UserError) as caught:
        from_toml(toml(tmp_path, text))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing.toml", ".", "nul\0.toml"])
def test_toml_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="check the path"):
        from_toml(tmp_path / name)


# Bases and recipes


def test_a_bundled_model_becomes_its_file() -> None:
    assert resolve_vae("org/name") == "org/name"
    file = Path(resolve_vae("bundled:kl-f8-small"))
    assert file.is_absolute() and file.is_file()
    assert Path(resolve_vae("bundled:digits-vae")).is_file()


@pytest.mark.parametrize("name", ["kl-f8-smal", "", "../models/kl-f8-small", "."])
def test_an_unknown_bundled_model_is_named(name: str) -> None:
    with pytest.raises(UserError, match="bundled:kl-f8-small"):
        resolve_vae(f"bundled:{name}")


def test_the_recipe_tells_no_place() -> None:
    here = make(output="/home/me/run", lpips_weights="/home/me/lpips.safetensors", workers=7)
    assert "/home/me" not in str(recipe(here)) and "photos" not in recipe(here).values()
    assert recipe(here) == recipe(make())
    assert recipe(here) != recipe(make(seed=1))
