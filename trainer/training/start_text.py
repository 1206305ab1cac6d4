"""What a run says before its first step: what it trains, on what, how, and what it could not find.

`--dry-run` says the same, and the memory and disk that the run would take.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from trainer.errors import UserError
from trainer.judge.perceptual import Perceptual
from trainer.names import printable
from trainer.options.config import TrainConfig
from trainer.photos.face_counts import training_faces_in_words
from trainer.photos.photo_set import PhotoSet
from trainer.photos.sample_line import sample_line
from trainer.photos.streaming import PhotoStream
from trainer.training import adversary, denoising, face_terms, high_frequency
from trainer.training.cache_plan import in_words, plan_cache
from trainer.training.guard import PATIENCE
from trainer.training.losses import describe_reductions
from trainer.training.memory import planned_model
from trainer.training.run import Photos
from trainer.training.teacher import Teacher
from trainer.training.teacher import in_words as teacher_in_words
from trainer.vae.autoencoder import is_tiny, ratio
from trainer.vae.base import Base

ACTIVATIONS = {
    "fused": ", norms and activations made anew in backward",
    "checkpoint": ", activations computed twice",
}
PRECISION_NAMES = {"no": "fp32", "fp16": "fp16 over fp32 weights", "bf16": "bf16 over fp32 weights"}
_MODE = "latent: the posterior's mode; nothing is drawn"
INDENT = 12  # columns before the text of a line


def own_device() -> torch.device:
    """Return the device that this machine trains on."""
    if torch.accelerator.is_available():
        return torch.accelerator.current_accelerator()
    return torch.device("cpu")


@dataclass(frozen=True)
class Plan:
    """What a run is about to do, and with what."""

    config: TrainConfig
    base: Base
    photos: Photos
    perceptual: Perceptual | None
    world: int  # processes
    device: torch.device = field(default_factory=own_device)
    batch_found: str = ""  # how --batch-size auto came to its number
    kept: str = ""  # how --activation-memory auto chose
    teacher: Teacher | None = None


def start_text(plan: Plan) -> str:
    """Say what a run is about to do, a line per subject.

    Raises UserError where the crops do not fit the base or the perceptual loss.
    """
    config, base, photos, perceptual = plan.config, plan.base, plan.photos, plan.perceptual
    check_crops(config, base, perceptual)
    lines = [
        ("base", f"{printable(base.name)}: {base.found}"),
        ("family", f"{base.family} ({base.family_source})"),
        ("trains", _trained(config, base)),
        ("photos", _photo_counts(photos)),
        ("faces", _faces(config, photos)),
        ("skipped", _skipped(photos)),
        ("crops", _crops(config, plan.world) + _face_crops(config, photos.train)),
        ("cache", _cache(plan)),
        ("batch", plan.batch_found),
        ("keeps", plan.kept),
        ("loss", loss_in_words(config, base, perceptual)),
        ("run", _length(config)),
        ("guard", _guard(config)),
        ("optimizer", _optimizer(config)),
        ("precision", _precision(config, base, plan.device)),
        ("missing", "\n".join(_missing(config, photos, perceptual))),
    ]
    return "\n".join(line(subject, text) for subject, text in lines if text)


def check_crops(config: TrainConfig, base: Base, perceptual: Perceptual | None) -> None:
    """Raise UserError where crops are no whole number of latent cells, or too small for LPIPS."""
    cell = ratio(base.vae)
    if config.resolution % cell:
        raise UserError(
            f"Expected --resolution to be a multiple of {cell}, the pixels per latent cell of this "
            f"base, but got {config.resolution}: take {config.resolution // cell * cell or cell}."
        )
    seen = config.lpips_crop or config.resolution
    if perceptual and config.lpips_weight and seen < perceptual.smallest_side:
        flag = "--lpips-crop" if config.lpips_crop else "--resolution"
        raise UserError(
            f"Expected {flag} to be at least {perceptual.smallest_side}, the least that "
            f"{perceptual.name} can see, but got {seen}: raise it, take another "
            "--lpips-net, or train with --lpips-weight 0."
        )


def line(subject: str, text: str) -> str:
    """Put a subject before its text, whose lines stand below each other."""
    return f"{subject:<{INDENT}}" + text.replace("\n", "\n" + " " * INDENT)


def _trained(config: TrainConfig, base: Base) -> str:
    vae = planned_model(config, base.architecture)
    trained = [weight for weight in vae.parameters() if weight.requires_grad]
    what = "encoder and decoder" if config.trains_encoder else "the decoder; the encoder is frozen"
    if config.lora_rank:
        what = f"adapters of rank {config.lora_rank} in the decoder, merged at export"
    return f"{what}: {len(trained)} tensors, {sum(w.numel() for w in trained):,} parameters"


def _photo_counts(photos: Photos) -> str:
    general = len(photos.general) if photos.general else "no"
    mixed_in = getattr(photos.train, "mixed_in", 0)
    among = f" ({mixed_in:,} of them mixed in)" if mixed_in else ""
    text = (
        f"{len(photos.train):,} to train on{among}, {len(photos.val):,} held out, {general} general"
    )
    return f"{text}\n{_sides(photos.train)}"


def _faces(config: TrainConfig, photos: Photos) -> str:
    looks_later = config.dry_run and config.face_detector_weights is not None
    return training_faces_in_words(photos.train, looks_later)


def _sides(photos: PhotoSet) -> str:
    sides = [min(photo.width, photo.height) for photo in photos.photos]
    return f"short sides from {min(sides):,} to {max(sides):,} pixels" if sides else ""


def _skipped(photos: Photos) -> str:
    reasons = Counter(skip.reason for skip in photos.skipped)
    if not reasons:
        return ""
    listed = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
    return f"{reasons.total():,} photos: {listed} (named in skipped.csv)"


def _crops(config: TrainConfig, world: int) -> str:
    factors = (config.batch_size, config.gradient_accumulation_steps, world)
    total = factors[0] * factors[1] * factors[2]
    return (
        f"{config.resolution} x {config.resolution} pixels, {total:,} a step (batch {factors[0]} x "
        f"accumulation {factors[1]} x {factors[2]} process{'' if world == 1 else 'es'})"
    )


def _face_crops(config: TrainConfig, photos: PhotoSet | PhotoStream) -> str:
    """Say what part of the crops lies around faces, and what the rest is of."""
    if isinstance(photos, PhotoStream):
        return ""
    line = sample_line(photos, config.seed, config.face_share)
    if not line.share:
        return ""
    rest = "photos mixed in by --general-data" if photos.mixed_in else "any photo"
    first = f"{line.share:.0%} of the crops of photos of --data, whose faces are not known"
    if line.around_faces:
        highest = min(config.face_max_height, config.resolution)
        first = (
            f"{line.share:.0%} of the crops around a face, {config.face_min_height} to {highest} "
            f"pixels high, of {len(line.first):,} photos"
        )
    return f"\n{first}; the rest of {rest}"


def _cache(plan: Plan) -> str:
    if not plan.config.cache_latents:
        return ""
    return in_words(plan_cache(plan.config, plan.base, plan.photos.train))


def loss_in_words(config: TrainConfig, base: Base, perceptual: Perceptual | None) -> str:
    """Say how each term of a run's loss is reduced and weighted, a line per term."""
    return describe_reductions(
        config.rec_loss,
        config.rec_weight,
        config.lpips_weight,
        config.kl_weight,
        config.trains_encoder,
        perceptual_name=perceptual.name if perceptual else "lpips",
        has_posterior=not is_tiny(base.vae),
        lpips_crop=config.lpips_crop,
        others=_optional_terms(config, perceptual),
    )


def _optional_terms(config: TrainConfig, perceptual: Perceptual | None) -> list[str]:
    distance = perceptual.name if perceptual else "lpips"
    terms = face_terms.in_words(config.face_weight, config.face_lpips_weight, distance)
    terms += [high_frequency.in_words(config.hf_weight)] if config.hf_weight else []
    terms += teacher_in_words(config)
    terms += [denoising.in_words(config.noise_factor)] if config.noise_factor else []
    terms += [_MODE] if config.posterior == "mode" else []
    return terms + ([adversary.in_words(config)] if config.gan_weight else [])


def _length(config: TrainConfig) -> str:
    steps = f"{config.max_steps:,} steps"
    if config.max_train_minutes:
        steps += f" or {config.max_train_minutes:g} minutes, whichever comes first"
    return f"{steps}; seed {config.seed}"


def _guard(config: TrainConfig) -> str:
    if config.no_worse is None:
        return ""
    text = (
        f"general photos may lose {config.no_worse:g} dB: if the end loses more, the best measured "
        f"step that keeps to it is exported, or nothing;\nafter {PATIENCE} evaluations in a "
        "row that lose more training ends early, unless the loss shrinks"
    )
    if config.eval_every and config.eval_every < config.max_steps:
        return text
    return text + (
        f"\njudged only at the end, as --eval-every is {config.eval_every}, with no earlier step "
        f"to fall back on:\ngive --eval-every {max(1, config.max_steps // 20)}, say"
    )


def _optimizer(config: TrainConfig) -> str:
    average = f"averaged with decay {config.ema_decay:g}" if config.ema_decay else "not averaged"
    return (
        f"{config.optimizer}, learning rate {config.learning_rate:g}, {config.lr_schedule} after "
        f"{config.warmup_steps} steps of warm-up; weights {average}"
    )


def _precision(config: TrainConfig, base: Base, device: torch.device) -> str:
    text = f"{PRECISION_NAMES[config.mixed_precision]} on {device.type}"
    if not (is_tiny(base.vae) and config.activation_memory == "fused"):  # it has no norms
        text += ACTIVATIONS.get(config.activation_memory, "")
    return text + (", the decoder compiled" if config.compile else "")


# What is not there


def _missing(config: TrainConfig, photos: Photos, perceptual: Perceptual | None) -> Iterator[str]:
    if perceptual is None:
        yield "LPIPS weights: nothing is measured by LPIPS"
    elif not perceptual.is_lpips:
        yield (
            f"LPIPS weights, as --lpips-weights gives none: {perceptual.source} stands in, and "
            "its figures are not LPIPS"
        )
    known = any(photo.faces is not None for photo in photos.val.photos)
    if not known and config.face_detector_weights is None:
        yield "faces: give --face-detector-weights to have them measured apart"
    if photos.general is None:
        yield "general photos: give --general-val-data to see whether others got worse"
