"""A VAE from the Hugging Face hub: its config and its safetensors weights, never a pickle."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from trainer.errors import UserError

WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")


class HubVae(NamedTuple):
    """Where the files of a VAE lie in the hub's local cache, and at which revision they are."""

    config: Path
    weights: Path
    revision: str


def fetch(repository: str, subfolder: str | None) -> HubVae:
    """Download (or find in the cache) a VAE; without a subfolder, the root and then `vae`.

    Raises UserError if there is no such repository, no VAE in it, only pickles, or no network.
    """
    folders = [subfolder] if subfolder else ["", "vae"]
    config, folder = _first(
        repository, [(place, "config.json") for place in folders], None, is_vae_config
    )
    if config is None:
        places = " or ".join(f"{place or 'its root'}" for place in folders)
        raise UserError(
            f"the hub's {repository} has no config.json of a VAE in {places}: name the folder of "
            "its VAE as org/name:subfolder"
        )
    revision = _revision(config)
    weights, _ = _first(repository, [(folder, name) for name in WEIGHTS], revision)
    if weights is None:
        raise UserError(
            f"the hub's {repository} has no {WEIGHTS[0]} in {folder or 'its root'}, and pickles "
            "(.bin, .ckpt) are not opened: take a repository with safetensors weights"
        )
    return HubVae(config, weights, revision)


def _first(
    repository: str,
    candidates: list[tuple[str, str]],
    revision: str | None,
    fits: Callable[[Path], bool] = Path.is_file,
) -> tuple[Path | None, str]:
    """Get the first file that exists and fits of (folder, name), and the folder it is in.

    Once the hub does not answer, only the cache is asked for the others.
    """
    unreached: UserError | None = None
    for folder, name in candidates:
        try:
            path = _get(repository, f"{folder}/{name}".lstrip("/"), revision, unreached is not None)
        except _Unreached as error:
            unreached = error
        else:
            if path is not None and fits(path):
                return path, folder
    if unreached:
        raise unreached
    return None, ""


class _Unreached(UserError):
    """The hub did not answer, and the cache does not hold the file."""


def _get(repository: str, name: str, revision: str | None, cached_only: bool) -> Path | None:
    try:
        return Path(
            hf_hub_download(repository, name, revision=revision, local_files_only=cached_only)
        )
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise _Unreached(
            f"{repository} is neither a file or folder here nor in the hub's cache, and the hub "
            "can not be reached: check the spelling or the network, or name a local file or folder"
        ) from error
    except EntryNotFoundError:
        return None
    except GatedRepoError as error:
        raise UserError(
            f"the hub's {repository} asks for consent: accept its terms on its page, then log in "
            "with: hf auth login"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UserError(
            f"{repository} is neither a file or folder here nor a repository of the hub: check "
            "the spelling, or log in if it is private"
        ) from error
    except Exception as error:  # the hub's network library, and so its errors, differ by version
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's fault, not the network's
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(
            f"the hub's {repository} could not be downloaded ({said}): try again later"
        ) from error


def is_vae_config(path: Path) -> bool:
    """Tell whether a file is the config of a VAE that can be trained here."""
    try:
        config = json.loads(path.read_text(encoding="utf-8-sig"))
        return config["_class_name"] in ("AutoencoderKL", "AutoencoderTiny")
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _revision(path: Path) -> str:
    """Read the commit from the cache's own path: snapshots/COMMIT/..."""
    parts = path.parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts else "main"
