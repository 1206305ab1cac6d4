"""What a checkpoint of a run holds, and how a run goes on from one, bit for bit."""

import json
import pickle
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.errors import UserError
from trainer.options.toml_file import to_toml
from trainer.training.checkpoints import mark_best, require_complete, save_checkpoint, thin_out
from trainer.training.distributed import joined, on_all, on_main
from trainer.training.ema import copy_into
from trainer.training.guard import forget_best_that_breaks
from trainer.training.run import Run, State
from trainer.vae.lora import merged_state
from trainer.vae.metadata import weights_metadata
from trainer.versions import versions
from vae_core.checkpoint import read_tensors, write_safetensors
from vae_core.files import replace_file, write_json

_WEIGHT, _AVERAGE = "weight.", "average."
_MAY_LACK = {"general_lost"}  # of State: where it is missing, the guard begins to count anew
_DISCRIMINATOR = "discriminator.safetensors"


def averaged_state(run: Run) -> dict[str, Tensor]:
    """Return the whole VAE under plain names: averaged weights, adapters merged, on the CPU."""
    with run.ema.applied(run.trained()), run.whole() as vae:
        return {name: value.detach().cpu().clone() for name, value in merged_state(vae).items()}


def save(run: Run) -> None:
    """Write a checkpoint of this moment; only then let older ones go."""
    random_states = joined(run.accelerator, [_random_state()])
    on_main(run.accelerator, lambda: _save_on_main(run, random_states))


def _save_on_main(run: Run, random_states: list[dict[str, Any]]) -> None:
    _refuse_non_finite(run)
    run.folder.restore(to_toml(run.config, versions()))
    writers = {
        "weights.safetensors": lambda path: write_safetensors(
            path, averaged_state(run), weights_metadata(run.base)
        ),
        "training.safetensors": lambda path: write_safetensors(path, _training(run), {}),
        "optimizer.pt": lambda path: _write_optimizer(run, random_states, path),
        "state.json": lambda path: write_json(path, _state(run)),
    }
    if run.adversary:
        writers[_DISCRIMINATOR] = lambda path: write_safetensors(path, run.adversary.tensors(), {})
    save_checkpoint(run.folder.checkpoints, run.state.step, writers)
    # at every save, as a kill may have come between the best one's writing and its mark
    mark_best(run.folder.checkpoints, run.state.best_step)
    thin_out(run.folder.checkpoints, run.config.keep_checkpoints)


def _refuse_non_finite(run: Run) -> None:
    broken = [name for name, p in run.trained().items() if not torch.isfinite(p).all()]
    if broken:
        raise UserError(
            f"{len(broken)} trained tensors are no longer finite ({broken[0]} first), so nothing "
            "was saved over good work: go on from the last checkpoint by --resume, with a lower "
            "--learning-rate"
        )


def _training(run: Run) -> dict[str, Tensor]:
    weights = {_WEIGHT + name: p.detach().cpu() for name, p in run.trained().items()}
    averages = {_AVERAGE + name: value.cpu() for name, value in run.ema.shadow.items()}
    return weights | averages


def _write_optimizer(run: Run, random_states: list[dict[str, Any]], path: Path) -> None:
    scaler = run.accelerator.scaler
    content = {
        "optimizer": run.optimizer.state_dict(),
        "scaler": scaler.state_dict() if scaler else None,
        "random": random_states,
        "adversary": run.adversary.state() if run.adversary else None,
    }
    replace_file(path, lambda handle: torch.save(content, handle))


def _random_state() -> dict[str, Any]:
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}


def _state(run: Run) -> dict[str, Any]:
    return {
        "run": asdict(run.state),
        "ema_updates": run.ema.updates,
        "base_sha256": run.base.sha256,
        "photos_sha256": run.photos.fingerprint(),
        "seed": run.config.seed,
        "global_batch": run.global_batch(),
    }


def resume(run: Run) -> list[str]:
    """Bring back the newest complete checkpoint, and return what is to be said about it."""
    folder, said = on_main(run.accelerator, lambda: require_complete(run.folder.checkpoints))
    if folder is None:
        return ["there is no checkpoint yet to resume from: the run begins at step 0"]
    batch_before = on_all(run.accelerator, lambda: _take_up(run, folder))
    return [*said, f"resumed from {folder.name}", *_about_batch(run, batch_before)]


def _about_batch(run: Run, before: int) -> list[str]:
    """Say that steps are of another size now, whatever made them so: options or processes."""
    now = run.global_batch()
    if now == before:
        return []
    return [
        f"a step takes {now} samples now, over all processes, and took {before} until here: the "
        f"photos go on in their order from sample {run.state.position:,}, and --learning-rate and "
        "--max-steps are as they were"
    ]


def _take_up(run: Run, folder: Path) -> int:
    """Bring a checkpoint back; return how many samples a step took in it."""
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    _refuse_incomplete(folder, state)
    _refuse_other_run(run, state)
    run.state = State(**state["run"])
    forget_best_that_breaks(run)
    run.ema.updates = state["ema_updates"]
    _restore_weights(run, read_tensors(folder / "training.safetensors"))
    _restore_optimizer(run, folder / "optimizer.pt")
    return state["global_batch"]


def _refuse_incomplete(folder: Path, state: dict[str, Any]) -> None:
    wanted = {field.name for field in fields(State)} - _MAY_LACK
    entries = {"ema_updates", "base_sha256", "photos_sha256", "seed", "global_batch", "run"}
    missing = sorted(entries - set(state))
    missing += sorted(wanted - set(state.get("run", {})))
    if missing:
        raise UserError(
            f"{folder.name}/state.json lacks {', '.join(missing)}, so the run cannot go on as if "
            "nothing had happened: it is of another version, or was changed by hand"
        )


def _refuse_other_run(run: Run, state: dict[str, Any]) -> None:
    now = _state(run)
    for key, what, cure in (
        ("base_sha256", "the base VAE is", "give the same --vae"),
        ("photos_sha256", "the photos are", "restore them, or begin anew from the export"),
        ("seed", "the seed is", "give the same --seed"),
    ):
        if state[key] != now[key]:
            raise UserError(
                f"{what} not what this run began with ({now[key]} instead of {state[key]}), so "
                f"it cannot go on as if nothing had happened: {cure}"
            )


def _restore_weights(run: Run, tensors: dict[str, Tensor]) -> None:
    trained = run.trained()
    wanted = {prefix + name for prefix in (_WEIGHT, _AVERAGE) for name in trained}
    if wanted != set(tensors):
        raise UserError(
            "the checkpoint trains other weights than these options do: resume with the same "
            "--trainable and --lora-rank"
        )
    copy_into(trained, {name: tensors[_WEIGHT + name] for name in trained})
    copy_into(run.ema.shadow, {name: tensors[_AVERAGE + name] for name in trained})


def _load_without_code(path: Path) -> dict[str, Any]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(
            f"{path.name} of the checkpoint holds more than tensors and numbers, or is damaged, "
            "and is not opened: go on from another checkpoint"
        ) from error


def _restore_optimizer(run: Run, path: Path) -> None:
    content = _load_without_code(path)
    run.optimizer.load_state_dict(content["optimizer"])
    if run.accelerator.scaler and content["scaler"]:
        run.accelerator.scaler.load_state_dict(content["scaler"])
    # On another number of processes there is none to bring back, and none is missed: what a sample
    # draws is a function of (seed, epoch, photo).
    if len(content["random"]) == run.accelerator.num_processes:
        mine = content["random"][run.accelerator.process_index]
        torch.set_rng_state(mine["cpu"])
        if len(mine["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(mine["cuda"])
    if run.adversary:
        _restore_adversary(run, path.parent, content.get("adversary"))


def _restore_adversary(run: Run, folder: Path, state: dict[str, Any] | None) -> None:
    """Take up the discriminator; before its start, one as new is what a checkpoint would hold."""
    if state is not None:
        run.adversary.restore(read_tensors(folder / _DISCRIMINATOR), state)
    elif run.state.step > run.config.gan_start:
        raise UserError(
            f"Expected {folder.name} to hold the discriminator that --gan-start "
            f"{run.config.gan_start} began, but it has none: give --gan-start {run.state.step}, "
            "where a new one can begin, or a later step"
        )
