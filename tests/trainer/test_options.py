"""The command line: what beats what, how mistakes are told, and the page that documents it."""

from pathlib import Path

import pytest

from trainer.errors import UserError
from trainer.options.__main__ import options_page
from trainer.options.command_line import PRESETS, parse_command_line
from trainer.options.config import options
from trainer.options.toml_file import from_toml, to_toml

ROOT = Path(__file__).parents[2]
PLACES = ["--vae", "org/name", "--data", "photos", "--output", "run"]


def test_defaults_without_a_preset() -> None:
    config = parse_command_line(PLACES)
    assert (config.resolution, config.export_dtype, config.flip) == (256, "fp32", True)
    assert {name for name, known in options().items() if known.required} == {
        "vae",
        "data",
        "output",
    }


def test_every_option_is_a_flag_of_the_right_type() -> None:
    argv = list(PLACES)
    other = {"resolution": "128", "background": "#000000", "preset": "ft-mse", "config": None}
    other["gan_start"] = "8"  # must lie below --max-steps
    # --cache-latents and these do not go together, nor do --trainable all and it
    left_out = ("config", "trainable", "streaming", "noise_factor", "teacher_weight")
    other |= dict.fromkeys(left_out[2:])
    for option in options().values():
        value = other.get(option.name, _another(option))
        if option.required or value is None:
            continue
        argv += [f"--no-{option.flag[2:]}"] if value is False else [option.flag]
        argv += [] if option.kind is bool else [value]
    config = parse_command_line([*argv, "--trainable", "decoder"])
    for option in options().values():
        if option.name not in left_out:
            assert getattr(config, option.name) != option.default, option.name
            assert isinstance(getattr(config, option.name), option.kind)


def _another(option) -> str | bool:
    if option.kind is bool:
        return not option.default
    if option.choices:
        return option.choices[-1] if option.choices[-1] != option.default else option.choices[0]
    return {int: "16", float: "0.25", str: "text"}[option.kind]


# Precedence


def test_flags_beat_the_file_which_beats_the_preset_which_beats_the_defaults(
    tmp_path: Path,
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('preset = "ft-ema"\nlearning_rate = 0.5\nbatch_size = 7\n', encoding="utf-8")
    config = parse_command_line([*PLACES, "--config", str(file), "--batch-size", "9"])
    assert config.batch_size == 9
    assert config.learning_rate == 0.5
    assert config.rec_loss == "l1" == from_toml(PRESETS / "ft-ema.toml")["rec_loss"]
    assert config.adam_beta2 == 0.999
    assert parse_command_line([*PLACES, "--preset", "ft-ema"]).batch_size != 9


def test_a_preset_flag_beats_the_files_preset(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('preset = "ft-ema"\n', encoding="utf-8")
    config = parse_command_line([*PLACES, "--config", str(file), "--preset", "ft-mse"])
    assert (config.preset, config.rec_loss) == ("ft-mse", "mse")


def test_a_presets_validation_photos_go_with_its_own_photos() -> None:
    demo = ["--preset", "demo", "--output", "run"]
    assert parse_command_line(demo).val_data == "demo:val"
    assert parse_command_line([*demo, "--data", "mine"]).val_data is None
    assert parse_command_line([*demo, "--data", "a", "--val-data", "b"]).val_data == "b"


def test_the_files_validation_photos_stay_when_a_flag_brings_other_photos(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('data = "a"\nval_data = "b"\n', encoding="utf-8")
    config = parse_command_line([*PLACES, "--config", str(file), "--data", "c"])
    assert (config.data, config.val_data) == ("c", "b")


def test_none_unsets_what_a_preset_sets() -> None:
    demo = ["--preset", "demo", "--output", "run", "--max-train-minutes", "none"]
    config = parse_command_line([*demo, "--val-data", "none"])
    assert config.max_train_minutes is None and config.val_data is None


@pytest.mark.parametrize("preset", ["demo", "faces", "ft-mse", "ft-ema"])
def test_a_written_config_gives_the_same_run(tmp_path: Path, preset: str) -> None:
    unset = ["--max-train-minutes", "none"]
    config = parse_command_line([*PLACES, "--preset", preset, *unset])
    file = tmp_path / "config.toml"
    file.write_text(to_toml(config, {"torch": "2"}), encoding="utf-8")
    again = parse_command_line(["--config", str(file)])
    assert to_toml(again, {}) == to_toml(config, {})


def test_a_resumed_run_takes_its_own_options(tmp_path: Path) -> None:
    run = ["--output", str(tmp_path), "--resume"]
    with pytest.raises(UserError, match="--vae and --data"):
        parse_command_line(run)
    begun = parse_command_line([*PLACES, "--seed", "5", "--output", "moved"])
    (tmp_path / "config.toml").write_text(to_toml(begun, {}), encoding="utf-8")
    again = parse_command_line([*run, "--max-steps", "7000"])
    assert (again.seed, again.vae, again.max_steps) == (5, "org/name", 7000)
    assert again.output == str(tmp_path)
    with pytest.raises(UserError):  # another run than the one that lies there
        parse_command_line(run[:-1])
    other = tmp_path / "other.toml"
    other.write_text("seed = 6\n", encoding="utf-8")
    assert parse_command_line([*PLACES, *run, "--config", str(other)]).seed == 6


# Presets


def test_presets_are_the_files_there() -> None:
    assert {path.stem for path in PRESETS.glob("*.toml")} == set(options()["preset"].choices)


def test_the_demo_needs_no_more_than_a_folder() -> None:
    config = parse_command_line(["--preset", "demo", "--output", "run"])
    assert config.vae == "bundled:kl-f8-small" and config.data == "demo:train"
    assert config.max_train_minutes < 4


def test_the_published_recipes() -> None:
    mse = parse_command_line([*PLACES, "--preset", "ft-mse"])
    ema = parse_command_line([*PLACES, "--preset", "ft-ema"])
    assert (mse.rec_loss, mse.rec_weight, mse.lpips_weight) == ("mse", 1.0, 0.1)
    assert (ema.rec_loss, ema.rec_weight, ema.lpips_weight) == ("l1", 1.0, 1.0)
    for config in (mse, ema):
        assert config.trainable == "decoder" and config.ema_decay > 0


@pytest.mark.parametrize("preset", ["demo", "faces", "ft-mse", "ft-ema"])
def test_each_preset_begins_with_its_command(preset: str) -> None:
    head = (PRESETS / f"{preset}.toml").read_text(encoding="utf-8").splitlines()[:4]
    command = next(line for line in head if "accelerate launch" in line)
    _, _, arguments = command.partition("trainer/finetune_decoder.py ")
    assert parse_command_line(arguments.split()).preset == preset


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--bach-size 4", "'--bach-size' is none: did you mean --batch-size?"),
        ("--bach-size=4", "'--bach-size' is none: did you mean --batch-size?"),
        ("--batch_size 4", "did you mean --batch-size?"),
        ("--resol 64", "did you mean --resolution?"),
        ("--lr 1", "did you mean --learning-rate?"),
        ("--train_data_dir x", "did you mean --data?"),
        ("--no-flp", "did you mean --no-flip?"),
        ("photos", "'photos' came without one before it"),
        ("--batch-size", "Expected one value after --batch-size"),
        (
            "--batch-size four",
            "a whole number, at least 1, or auto, but got 'four'",
        ),
        ("--batch-size 4.5", "but got '4.5'"),
        ("--learning-rate -1", "above 0, but got -1.0"),
        ("--learning-rate nan", "but got nan"),
        ("--learning-rate 1e400", "but got inf"),
        ("--flip=yes", "Expected --flip without a value, but 'yes' came"),
        ("--rec-loss mes", "did you mean mse?"),
        ("--preset dem", "did you mean demo?"),
        ("--preset none", "Expected --vae and --data and --output"),
        ("--vae x --output y", "Expected --data, but nothing gives a value: add --data photos"),
        ("--preset demo", "Expected --output, but nothing"),
        ("--config missing.toml", "cannot be read"),
    ],
)
def test_mistakes_are_told_in_one_sentence(arguments: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_command_line(arguments.split())
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_help_shows_every_flag_and_its_default(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_command_line(["--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for option in options().values():
        assert option.flag in text
    assert "and config.toml holds the number (default: 4)" in text
    assert "(required)" in text


def test_the_options_page_is_current() -> None:
    page = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    assert page == options_page(), "run: python -m trainer.options > docs/options.md"
    assert page.isascii()
