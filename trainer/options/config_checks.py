"""What options must have in common, beyond the limits that each has alone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from trainer.errors import UserError
from trainer.options.fields import shown

SMALLEST_JUDGED = 24  # pixels: the least that leaves a PatchGAN one patch

if TYPE_CHECKING:
    from trainer.options.config import TrainConfig


def check_together(config: TrainConfig) -> None:
    """Raise UserError where two options of a run contradict each other."""
    _check_background(config.background)
    _check_lora(config)
    _check_warmup(config)
    _check_loss(config)
    _check_window(config)
    _check_gan(config)
    _check_teacher(config)
    _check_cache(config)
    _check_faces(config)
    _check_guard(config)


def _check_background(colour: str) -> None:
    if not re.fullmatch("#[0-9a-fA-F]{6}", colour):
        raise UserError(
            f"Expected --background to be a colour such as #ffffff, but got {shown(colour)}: "
            "write # and six digits from 0 to f."
        )


def _check_lora(config: TrainConfig) -> None:
    if config.lora_rank and config.trains_encoder:
        raise UserError(
            f"Expected --lora-rank {config.lora_rank} together with --trainable decoder, but got "
            "--trainable all: adapters are made for the decoder alone, so drop one of the two."
        )
    if config.lora_alpha is not None and not config.lora_rank:
        raise UserError(
            f"Expected --lora-rank together with --lora-alpha {config.lora_alpha:g}, but it is 0: "
            "give a rank such as --lora-rank 8, or drop --lora-alpha."
        )


def _check_warmup(config: TrainConfig) -> None:
    if config.warmup_steps > config.max_steps:
        raise UserError(
            f"Expected --warmup-steps to be at most --max-steps, {config.max_steps}, but got "
            f"{config.warmup_steps}: lower it, or train longer."
        )


def _check_loss(config: TrainConfig) -> None:
    terms = (
        config.rec_weight,
        config.uses_perceptual,
        config.hf_weight,
        config.uses_kl,
        config.teacher_weight,
    )
    if not any(terms):
        raise UserError(
            "Expected a loss that trains something, but --rec-weight and --lpips-weight are both "
            "0: give one of them a weight above 0."
        )


def _check_window(config: TrainConfig) -> None:
    if config.lpips_crop > config.resolution:
        raise UserError(
            f"Expected --lpips-crop to be at most --resolution, {config.resolution}, but got "
            f"{config.lpips_crop}: lower it, or 0 for whole crops."
        )


def _check_faces(config: TrainConfig) -> None:
    if config.face_min_height > config.face_max_height:
        raise UserError(
            f"Expected --face-min-height to be at most --face-max-height, {config.face_max_height},"
            f" but got {config.face_min_height}: lower it, or raise the other."
        )
    if config.general_data and config.streaming:
        raise UserError(
            "Expected --general-data without --streaming, but got both: photos can be mixed in "
            "only where all are known beforehand, so drop one of the two."
        )


def _check_gan(config: TrainConfig) -> None:
    if not config.gan_weight:
        return
    if config.gan_start >= config.max_steps:
        raise UserError(
            f"Expected --gan-start to be below --max-steps, {config.max_steps}, but got "
            f"{config.gan_start}: lower it, or train longer."
        )
    if config.resolution < SMALLEST_JUDGED:
        raise UserError(
            f"Expected --resolution to be at least {SMALLEST_JUDGED} for --gan-weight, as its "
            f"discriminator judges patches, but got {config.resolution}: raise it, or drop "
            "--gan-weight."
        )
    if not (config.rec_weight or config.uses_perceptual or config.hf_weight):
        raise UserError(
            "Expected another term beside --gan-weight, whose strength is measured by it, but "
            "--rec-weight, --lpips-weight and --hf-weight are all 0: give one of them a weight."
        )


def _check_teacher(config: TrainConfig) -> None:
    used = config.teacher_weight or config.teacher_share
    if used and config.teacher is None:
        raise UserError(
            "Expected --teacher together with --teacher-weight or --teacher-share, but it is not "
            "given: name a VAE to learn from, or drop the other."
        )
    if config.teacher is not None and not used:
        raise UserError(
            "Expected --teacher-weight or --teacher-share above 0 together with --teacher, but "
            "both are 0: give one of them, or drop --teacher."
        )
    if config.teacher_weight and not config.trains_encoder:
        raise UserError(
            "Expected --trainable all together with --teacher-weight, but got --trainable "
            f"{config.trainable}: the term trains the encoder, so drop one of the two."
        )


def _check_cache(config: TrainConfig) -> None:
    if config.cache_crops is not None and not config.cache_latents:
        raise UserError(
            f"Expected --cache-latents together with --cache-crops {config.cache_crops}, but it is "
            "not given: name a folder by --cache-latents, or drop --cache-crops."
        )
    if config.cache_latents and config.trains_encoder:
        raise UserError(
            "Expected --cache-latents together with --trainable decoder, but got --trainable all: "
            "cached latents do not follow an encoder that trains, so drop one of the two."
        )
    if config.cache_latents and config.noise_factor:
        raise UserError(
            f"Expected --cache-latents without --noise-factor, but it is {config.noise_factor:g}: "
            "cached latents are those of clean photos, so drop one of the two."
        )
    if config.cache_latents and config.streaming:
        raise UserError(
            "Expected --cache-latents without --streaming: a cache needs the list of all photos "
            "beforehand, so drop one of the two."
        )


def _check_guard(config: TrainConfig) -> None:
    if config.no_worse is not None and not config.general_val_data:
        raise UserError(
            f"Expected --general-val-data together with --no-worse {config.no_worse:g}, but it is "
            "not given: name photos of another kind that must not get worse, or drop --no-worse."
        )
