"""Trained models on the disk: a lesson takes the one that is there, or trains it first."""

import dataclasses
import json
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from trainer.textbook_vae.digits import DigitSets, open_digits
from trainer.textbook_vae.elbo import Terms
from trainer.textbook_vae.fitting import Figures, fit, measure
from trainer.textbook_vae.network import MlpVae
from trainer.textbook_vae.settings import Settings
from vae_core.checkpoint import CheckpointError, read_header, read_tensors, write_safetensors

SAID = 5  # lines that tell of a training
MINUTES = 3.0


class Shelf:
    """The models, digits and pictures of one output folder."""

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        say: Callable[[str], None] = print,
        minutes: float = MINUTES,
    ) -> None:
        """Open a folder; `minutes` is what each of the VAEs of photos is trained for."""
        self.folder = folder
        self.settings = settings
        self.say = say
        self.minutes = minutes

    @cached_property
    def digits(self) -> DigitSets:
        """The digits, opened when they are first needed."""
        return open_digits(self.settings.data)

    def model(self, settings: Settings | None = None) -> MlpVae:
        """Give the model of some settings (the shelf's own if None), trained now if need be."""
        settings = settings or self.settings
        path = self.folder / "models" / f"{settings.name}-{settings.latent}.safetensors"
        kept = _read(path, settings)
        return kept or self._train(path, settings)

    def figures(self, settings: Settings | None = None) -> Figures:
        """Measure a model on the held-out digits."""
        settings = settings or self.settings
        return measure(self.model(settings), self.digits.held_out.pictures, settings.rec_loss)

    def picture(self, lesson: str) -> Path:
        """Name the file of a lesson's picture."""
        return self.folder / f"{lesson}.png"

    def _train(self, path: Path, settings: Settings) -> MlpVae:
        pictures = self.digits.train.pictures
        self.say(
            f"training {settings.words}, {settings.latent} latent numbers: "
            f"{settings.all_epochs} epochs of {len(pictures):,} digits"
        )
        began = time.monotonic()
        model = fit(settings, pictures, self._tick(settings))
        self.say(f"  {time.monotonic() - began:.0f} s")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_safetensors(path, model.state_dict(), {"settings": _described(settings)})
        return model

    def _tick(self, settings: Settings) -> Callable[[int, Terms], None]:
        every = max(1, settings.all_epochs // SAID)

        def tick(epoch: int, terms: Terms) -> None:
            if epoch % every == 0:
                rec, kl = (float(values.detach().mean()) for values in terms)
                self.say(f"  epoch {epoch}: rec {rec:.1f} + KL {kl:.1f} nats")

        return tick


def _described(settings: Settings) -> str:
    return json.dumps(dataclasses.asdict(settings), sort_keys=True)


def _read(path: Path, settings: Settings) -> MlpVae | None:
    """Read a model of exactly these settings; None where there is none."""
    try:
        if _metadata(path).get("settings") != _described(settings):
            return None
        model = MlpVae(settings.latent)
        model.load_state_dict(read_tensors(path))
    except (OSError, CheckpointError):
        return None
    return model.eval().requires_grad_(False)


def _metadata(path: Path) -> dict[str, Any]:
    return dict(read_header(path).metadata) if path.is_file() else {}
