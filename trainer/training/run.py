"""A run and its parts: what is trained, on what, and how far it has come."""

import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import nn

from trainer.judge.identity import Identity
from trainer.judge.perceptual import Perceptual
from trainer.judge.scores import PhotoScore
from trainer.options.config import TrainConfig
from trainer.photos.cached_batches import LatentCache
from trainer.photos.photo_set import PhotoSet
from trainer.photos.skips import Skip
from trainer.photos.streaming import PhotoStream
from trainer.training.adversary import Adversary
from trainer.training.compiling import compile_decoder
from trainer.training.discriminator import PatchDiscriminator
from trainer.training.ema import Ema
from trainer.training.interrupts import Interrupts
from trainer.training.losses import TrainStep
from trainer.training.metrics_log import MetricsLog
from trainer.training.optimizer import make_optimizer
from trainer.training.run_folder import RunFolder
from trainer.training.teacher import Teacher
from trainer.vae.autoencoder import image_channels, latent_channels, ratio, trainable_names
from trainer.vae.base import Base
from trainer.vae.folding import fold_upsampling
from trainer.vae.fused import keep_activations
from trainer.vae.layout import keep_channels_first
from trainer.vae.lora import add_adapters

ENCODER = ("encoder", "quant_conv")  # the parts that a run from cached latents does without


@dataclass(frozen=True)
class Photos:
    """The three sets: to train on, held out, and of another kind ('no worse elsewhere')."""

    train: PhotoSet | PhotoStream
    val: PhotoSet
    general: PhotoSet | None
    left_out: Mapping[str, Sequence[Skip]] = field(default_factory=dict)  # by set

    @property
    def skipped(self) -> list[Skip]:
        """Return what was left out of any set, and why."""
        return [skip for skips in self.left_out.values() for skip in skips]

    def fingerprint(self) -> str:
        """Return a SHA-256 over the content of every photo, so that a resumed run knows them."""
        digest = hashlib.sha256()
        for photos in (self.train, self.val, self.general):
            for photo in photos.photos if photos else ():
                digest.update(photo.id.encode())
            digest.update(b"|")
        return digest.hexdigest()


@dataclass
class State:
    """What a checkpoint brings back, beside weights and optimizer."""

    step: int = 0
    position: int = 0  # samples drawn so far, over all processes
    elapsed: float = 0.0  # seconds since the first step
    skipped: int = 0  # steps left out because the loss was not finite
    evaluated_step: int | None = None
    best_step: int | None = None
    best_score: float | None = None
    general_lost: list[list] = field(default_factory=list)  # step, dB or None, per evaluation
    skipped_photos: list[list[str]] = field(default_factory=list)  # name, reason, detail


@dataclass
class Run:
    """Everything that the loop works on."""

    config: TrainConfig
    accelerator: Accelerator
    base: Base
    photos: Photos
    perceptual: Perceptual | None
    folder: RunFolder
    interrupts: Interrupts
    reference: nn.Module  # the base as it came, in system memory
    vae: nn.Module  # the model that trains, never wrapped; from cached latents, without its encoder
    step_module: nn.Module  # what computes a step, wrapped for several processes
    optimizer: torch.optim.Optimizer
    ema: Ema
    log: MetricsLog
    adversary: Adversary | None = None
    teacher: Teacher | None = None
    cache: LatentCache | None = None
    identity: Identity | None = None
    state: State = field(default_factory=State)
    base_scores: dict[str, list[PhotoScore]] = field(default_factory=dict)  # by set
    scores: dict[str, list[PhotoScore]] = field(default_factory=dict)  # of the last evaluation

    @property
    def is_main(self) -> bool:
        """Tell whether this process writes files and talks."""
        return self.accelerator.is_main_process

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the parameters that train, by name."""
        return {name: p for name, p in self.vae.named_parameters() if p.requires_grad}

    @contextmanager
    def whole(self) -> Iterator[nn.Module]:
        """Lend the model that trains with its encoder, taken from the base where it has none."""
        lacking = [name for name in ENCODER if getattr(self.vae, name, "absent") is None]
        for name in lacking:
            setattr(self.vae, name, getattr(self.reference, name))
        try:
            yield self.vae
        finally:
            for name in lacking:
                setattr(self.vae, name, None)

    def global_batch(self) -> int:
        """Return how many samples one step takes, over all processes."""
        per_process = self.config.batch_size * self.config.gradient_accumulation_steps
        return per_process * self.accelerator.num_processes

    def latent_shape(self) -> tuple[int, int, int]:
        """Return the shape of one training latent: C, h, w."""
        side = self.config.resolution // ratio(self.vae)
        return latent_channels(self.vae), side, side

    def pixel_noise_shape(self) -> tuple[int, int, int] | None:
        """Return the shape of the noise on one training input, C, R, R; None without any."""
        side = self.config.resolution
        return (image_channels(self.vae), side, side) if self.config.noise_factor else None


def choose_trained(vae: nn.Module, config: TrainConfig) -> None:
    """Freeze all but what `--trainable` and `--lora-rank` name.

    A decoder is `decoder.*` and `post_quant_conv.*`: `quant_conv` belongs to the encoder, and
    training it would move the latent space under every model that was made for it.
    """
    vae.requires_grad_(False)
    if config.lora_rank:
        add_adapters(vae, config.lora_rank, config.lora_alpha, config.seed)
        return
    wanted = set(trainable_names(vae, config.trainable))
    for name, parameter in vae.named_parameters():
        parameter.requires_grad_(name in wanted)


def arrange_blocks(vae: nn.Module, config: TrainConfig, device: torch.device | str) -> None:
    """Let blocks compute in training as the options ask: results are the same but for rounding."""
    on_cpu = torch.device(device).type == "cpu"
    if config.fold_upsampling == "on" or (config.fold_upsampling == "auto" and on_cpu):
        fold_upsampling(vae)
    keep_activations(vae, config.activation_memory)
    keep_channels_first(vae)


def _drop_encoder(vae: nn.Module) -> None:
    """Let go of the encoder, before DDP takes hold of its weights; the base keeps its own."""
    for name in ENCODER:
        if hasattr(vae, name):
            setattr(vae, name, None)


def make_adversary(config: TrainConfig, vae: nn.Module, device: torch.device) -> Adversary | None:
    """Build what --gan-weight asks for, on a device; None at weight 0."""
    if not config.gan_weight:
        return None
    return Adversary(config, PatchDiscriminator(image_channels(vae), config.seed).to(device))


def make_step(
    config: TrainConfig,
    vae: nn.Module,
    perceptual: Perceptual | None,
    adversary: Adversary | None,
    teacher: Teacher | None = None,
) -> TrainStep:
    """Build the module that computes a run's steps."""
    return TrainStep(
        vae,
        perceptual if config.uses_perceptual else None,
        rec_loss=config.rec_loss,
        rec_weight=config.rec_weight,
        lpips_weight=config.lpips_weight,
        kl_weight=config.kl_weight,
        train_encoder=config.trains_encoder,
        lpips_crop=config.lpips_crop,
        face_weight=config.face_weight,
        face_lpips_weight=config.face_lpips_weight,
        hf_weight=config.hf_weight,
        adversary=adversary,
        teacher=teacher,
        teacher_weight=config.teacher_weight,
        teacher_share=config.teacher_share,
        samples=config.posterior == "sample",
        noise_factor=config.noise_factor,
    )


def make_run(
    config: TrainConfig,
    accelerator: Accelerator,
    base: Base,
    photos: Photos,
    perceptual: Perceptual | None,
    folder: RunFolder,
    interrupts: Interrupts,
    teacher: Teacher | None = None,
) -> Run:
    """Put the parts together: freeze, wrap, optimizer over float32 masters, average."""
    reference = copy.deepcopy(base.vae).requires_grad_(False)
    vae = base.vae.to(accelerator.device).train()
    choose_trained(vae, config)
    arrange_blocks(vae, config, accelerator.device)
    if config.cache_latents:
        _drop_encoder(vae)
    if config.compile:
        compile_decoder(vae, accelerator.device)
    adversary = make_adversary(config, vae, accelerator.device)
    module = make_step(config, vae, perceptual, adversary, teacher)
    trained = {name: p for name, p in vae.named_parameters() if p.requires_grad}
    optimizer = make_optimizer(config, trained.values())
    module, optimizer = accelerator.prepare(module, optimizer)
    return Run(
        config=config,
        accelerator=accelerator,
        base=base,
        photos=photos,
        perceptual=perceptual,
        folder=folder,
        interrupts=interrupts,
        reference=reference,
        vae=vae,
        step_module=module,
        optimizer=optimizer,
        ema=Ema(trained, config.ema_decay),
        adversary=adversary,
        teacher=teacher,
        log=MetricsLog(folder.metrics),
    )
