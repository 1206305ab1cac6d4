"""Every option of a training run, in one frozen dataclass.

The command line, the TOML keys, the checks and docs/options.md are all made from these fields.
"""

import dataclasses
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

from trainer.errors import UserError
from trainer.options.config_checks import check_together
from trainer.options.fields import Option, check_value, nearest, option, options_of, shown

BUNDLED = "bundled:"
MODELS = Path(__file__).resolve().parents[2] / "models"
ARCHITECTURES = Path(__file__).resolve().parents[1] / "configs"
DEFAULT_WARMUP = 100
DEFAULT_CROPS = 8

_places = partial(option, "Inputs and output", recipe=False)
_photos = partial(option, "Photos")
_step = partial(option, "Steps and optimizer")
_loss = partial(option, "Loss")
_model = partial(option, "What is trained")
_score = partial(option, "Evaluation", recipe=False)
_keep = partial(option, "Saving and logging", recipe=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The options of one run, checked; see docs/options.md.

    Raises UserError where a value has the wrong type, lies outside its limits, or does not go
    together with another.
    """

    vae: str = _places(
        ...,
        "base VAE: a hub id (org/name or org/name:subfolder), a diffusers folder, a .safetensors "
        "file (a VAE alone or a full checkpoint), a config.json for random weights, "
        "bundled:kl-f8-small, or bundled:digits-vae, an architecture with random weights",
        also=("model", "base", "pretrained_model_name_or_path"),
    )
    data: str = _places(
        ...,
        "photos to train on: a folder (searched through), a hub data set id, Parquet files, "
        "WebDataset shards, demo:train, or sklearn:digits",
        also=("train_data_dir", "dataset_name", "dataset"),
    )
    output: str = _places(..., "folder of the run, made if it is not there", also=("output_dir",))
    val_data: str | None = _places(
        None, "photos to measure on, given like --data; else a share of --data is held out"
    )
    general_val_data: str | None = _places(
        None, "second set to measure on, to see whether other photos got worse"
    )
    config: str | None = _places(
        None, "TOML file of options; flags beat it, it beats --preset", command_line_only=True
    )
    preset: Literal["demo", "digits", "faces", "ft-mse", "ft-ema"] | None = _places(
        None, "options for a purpose; everything else beats them"
    )
    resume: bool = _places(
        False, "go on from the newest complete checkpoint under --output", command_line_only=True
    )
    dry_run: bool = _places(
        False, "do everything but train, and say what would happen", command_line_only=True
    )

    family: str | None = _model(
        None,
        "latent space of the base, where its files do not tell: sd1, sdxl, sd3, flux or "
        "playground25",
    )
    trainable: Literal["decoder", "all"] = _model(
        "decoder",
        "decoder trains decoder and post_quant_conv, so the latent space stays as it is; all "
        "trains the encoder too",
    )
    lora_rank: int = _model(
        0,
        "train low-rank adapters of this rank, merged at export; 0 trains the weights",
        at_least=0,
    )
    lora_alpha: float | None = _model(
        None, "strength of the adapters, divided by the rank; else equal to --lora-rank", above=0
    )
    ema_decay: float = _model(
        0.999, "decay of the averaged weights, which are exported; 0: off", at_least=0, below=1
    )

    rec_loss: Literal["l1", "mse", "charbonnier", "bce"] = _loss(
        "mse",
        "pixel loss. l1, mse and charbonnier are averaged over channels, height, width and "
        "batch; bce is summed over channels, height and width, and averaged over the batch",
        also=("loss", "reconstruction_loss"),
    )
    rec_weight: float = _loss(1.0, "weight of the pixel loss", at_least=0)
    lpips_weight: float = _loss(
        0.1,
        "weight of the perceptual loss (LPIPS), averaged over the batch",
        at_least=0,
        also=("perceptual_weight",),
    )
    lpips_net: Literal["vgg", "alex", "squeeze"] = _loss("vgg", "network of LPIPS")
    lpips_weights: str | None = _loss(
        None, "file of LPIPS weights, as trainer/weights.py writes it", recipe=False
    )
    lpips_crop: int = _loss(
        0,
        "side in pixels of the random window that LPIPS sees of each crop in training; 0: all of "
        "it. 256 of 512 takes three quarters off its work",
        at_least=0,
        at_most=4096,
    )
    face_weight: float = _loss(
        0.0,
        "how much more a pixel of a face counts in the pixel loss than one beside it: 3 makes it "
        "count four times. The weights of a crop have the mean 1, and fall off smoothly",
        at_least=0,
    )
    face_lpips_weight: float = _loss(
        0.0,
        "weight of LPIPS on windows around faces, brought to 128 pixels as they are measured; "
        "averaged over the windows of a crop, at most 12, and over the batch",
        at_least=0,
    )
    hf_weight: float = _loss(
        0.0,
        "weight of the high-frequency term: L1 of what a Gaussian blur of 1.5 pixels takes away, "
        "the detail within a latent cell; averaged over channels, height, width and batch",
        at_least=0,
    )
    gan_weight: float = _loss(
        0.0,
        "weight of a PatchGAN discriminator's judgement: 1 lets it pull as hard on the decoder's "
        "output as the rest of the loss does; 0: there is none",
        at_least=0,
    )
    gan_start: int = _loss(
        0,
        "step from which the discriminator trains; after a tenth of the steps left, at most 50, "
        "its judgement counts",
        at_least=0,
    )
    kl_weight: float = _loss(
        1e-6,
        "weight of the KL term, which is summed over latent channels, height and width, and "
        "averaged over the batch; it trains with --trainable all, else it is only reported",
        at_least=0,
        also=("beta",),
    )
    posterior: Literal["sample", "mode"] = _loss(
        "sample",
        "what the decoder gets in training: a draw from the posterior, or its mode, which with "
        "--trainable all and --kl-weight 0 makes a plain autoencoder. Evaluation takes the mode",
    )
    noise_factor: float = _loss(
        0.0,
        "denoising: deviation of the Gaussian noise that is added to what the encoder sees, in "
        "pixels of [-1, 1], and clipped to that range; the loss compares with the clean crop. A "
        "factor for pixels of [0, 1], as in tutorials, is half of it; 0: none",
        at_least=0,
    )

    teacher: str | None = _loss(
        None,
        "VAE whose latents this one is taught, given like --vae: TAESD, say, for a light VAE of "
        "SD1's latent space; it stays as it is",
        recipe=False,
    )
    teacher_weight: float = _loss(
        0.0,
        "weight of the squared difference between the posterior's mean and the teacher's latent, "
        "at the scale of a diffusion model; averaged over latent channels, height, width and "
        "batch; trains the encoder, so it needs --trainable all",
        at_least=0,
    )
    teacher_share: float = _loss(
        0.0,
        "share of each batch that is decoded from the teacher's latents instead of its own, so "
        "that latents of other encoders decode as well; rounded to whole crops, above 0 to one at "
        "least. The teacher sees these crops alone, which saves time, and all of a batch at 0",
        at_least=0,
        at_most=1,
    )

    resolution: int = _photos(
        256,
        "side of the square crops, in pixels; smaller photos are skipped, never enlarged",
        at_least=8,
        at_most=4096,
        multiple_of=8,
        also=("image_size", "size"),
    )
    general_data: str | None = _photos(
        None,
        "photos of another kind to train on besides --data, given like it, so that nothing is "
        "forgotten: the crops that --face-share leaves come from them",
        recipe=False,
    )
    face_share: float = _photos(
        0.5,
        "share of crops around a face, where faces are known; the rest are crops of any photo, or "
        "of --general-data",
        at_least=0,
        at_most=1,
    )
    face_min_height: int = _photos(
        24,
        "least height in pixels that faces in those crops are reduced to; heights are spread "
        "evenly on a logarithmic scale, and nothing is enlarged",
        at_least=8,
    )
    face_max_height: int = _photos(
        256, "largest height that they are reduced to; at most --resolution is used", at_least=8
    )
    face_index: str | None = _photos(
        None,
        "Parquet file of face boxes, as trainer/faces.py writes it: photos in it are not looked at "
        "again, and with --face-detector-weights the others are put into it; else faces.parquet "
        "in the run's folder. Boxes that come with the photos beat it",
        recipe=False,
    )
    flip: bool = _photos(True, "mirror half of the crops")
    background: str = _photos("#ffffff", "colour behind transparent photos, #rrggbb")
    val_share: float = _photos(
        0.1, "share of --data held out, where --val-data is not given", above=0, below=1
    )
    streaming: bool = _photos(False, "read hub data sets and shards without storing them first")
    data_split: str = _photos("train", "split of a hub data set")
    image_column: str | None = _photos(None, "column of the photos; else the first of images")
    workers: int = _photos(
        2, "processes that read photos; 0: none", at_least=0, at_most=256, recipe=False
    )

    cache_latents: str | None = _photos(
        None,
        "folder that keeps encoded crops, made if it is not there, so that steps need no encoder; "
        "fit for --trainable decoder",
        recipe=False,
        also=("cache_dir", "latent_cache"),
    )
    cache_crops: int | None = _photos(
        None,
        f"crops kept per photo with --cache-latents, an epoch sees one; else {DEFAULT_CROPS}",
        at_least=1,
    )

    max_steps: int = _step(
        10_000, "optimizer steps", at_least=1, also=("max_train_steps", "num_train_steps", "steps")
    )
    max_train_minutes: float | None = _step(
        None,
        "minutes from the first step, evaluation included, after which the run ends; the "
        "learning rate follows whichever of this and --max-steps comes first",
        above=0,
    )
    batch_size: int | Literal["auto"] = _step(
        4,
        "crops per process at a time; auto takes the most that fit into the device's free memory, "
        "and config.toml holds the number",
        at_least=1,
        also=("train_batch_size",),
    )
    gradient_accumulation_steps: int = _step(
        1, "batches per optimizer step", at_least=1, also=("grad_accum", "accumulation")
    )
    learning_rate: float = _step(1e-4, "highest learning rate", above=0, also=("lr",))
    lr_schedule: Literal["constant", "cosine", "linear"] = _step(
        "cosine",
        "the learning rate after warm-up: constant, or falling to zero",
        also=("lr_scheduler",),
    )
    warmup_steps: int | None = _step(
        None,
        f"steps of rising learning rate; else a tenth of --max-steps, at most {DEFAULT_WARMUP}",
        at_least=0,
        also=("lr_warmup_steps",),
    )
    optimizer: Literal["adamw", "adamw8bit", "muon"] = _step(
        "adamw",
        "adamw8bit needs bitsandbytes and saves 6 bytes per trained weight; muon makes the steps "
        "of convolutions orthogonal, which learned more in short runs, and saves 4",
    )
    weight_decay: float = _step(0.0, "weight decay of AdamW", at_least=0)
    adam_beta1: float = _step(0.9, "first beta of AdamW", at_least=0, below=1)
    adam_beta2: float = _step(0.999, "second beta of AdamW", at_least=0, below=1)
    max_grad_norm: float = _step(1.0, "norm to which gradients are clipped; 0: off", at_least=0)
    mixed_precision: Literal["no", "fp16", "bf16", "auto"] = _step(
        "no",
        "precision of the computation; weights and averages stay in fp32. auto takes bf16 where "
        "the hardware computes in it, fp16 on older Nvidia GPUs, else no",
    )
    activation_memory: Literal["eager", "fused", "checkpoint", "auto"] = _step(
        "fused",
        "what is kept between forward and backward. eager keeps all; fused makes norms and "
        "activations anew and keeps a third to a fifth, at about the same speed; checkpoint "
        "computes whole blocks twice, about a quarter slower, and keeps a tenth, but needs a "
        "whole block's at its peak; auto takes the first of these that fits by count",
        also=("gradient_checkpointing",),
    )
    fold_upsampling: Literal["auto", "on", "off"] = _step(
        "auto",
        "compute each upsampling and the convolution after it as one on the small picture, with "
        "fewer than half the products; results differ in rounding, by about 1e-6. auto does so on "
        "a CPU, where it was measured to be faster",
    )
    compile: bool = _step(
        False,
        "put the decoder through torch.compile for the training steps: needs a C++ compiler, on a "
        "GPU Triton; the first step takes the compiling too",
        also=("torch_compile", "use_compile"),
    )
    seed: int = _step(0, "seed of order, crops, flips and samples", at_least=0, at_most=2**63 - 1)

    eval_resolution: int = _score(
        512,
        "photos are reduced to this short side to be measured, never enlarged",
        at_least=8,
        at_most=4096,
    )
    eval_every: int = _score(
        500, "steps between evaluations; 0: only before the first and after the last", at_least=0
    )
    val_photos: int | None = _score(
        200, "most photos measured per set; none: all of them", at_least=1
    )
    sample_photos: int = _score(8, "photos on a sample sheet and in the report", at_least=0)
    face_detector_weights: str | None = _score(
        None,
        "file of the YuNet face detector, or `download` to fetch it once: finds the faces to "
        "train on and to measure apart; without it, those of --face-index count, or those that "
        "come with the photos",
    )

    face_recognizer_weights: str | None = _score(
        None,
        "file of the SFace face-recognition model, to measure whether identity is kept; needs "
        "--face-detector-weights too",
    )
    no_worse: float | None = _score(
        None,
        "decibels that --general-val-data may lose at most to the base, on average: where the end "
        "loses more, the best measured step that keeps to it is exported instead, where none does "
        "nothing is (exit code 3), and the run ends with a verdict; training ends early after 3 "
        "evaluations in a row that lose more, unless the loss shrinks",
        at_least=0,
    )

    checkpoint_every: int = _keep(
        500, "steps between checkpoints; 0: only at the end", at_least=0, also=("save_every",)
    )
    keep_checkpoints: int = _keep(
        2, "newest checkpoints to keep; the best stays besides", at_least=1
    )
    export_dtype: Literal["fp32", "fp16", "bf16"] = _keep(
        "fp32", "number format of the exported files", recipe=True
    )
    log_every: int = _keep(10, "steps between lines of metrics.jsonl", at_least=1)
    log_with: Literal["tensorboard", "wandb", "none"] = _keep(
        "tensorboard", "where curves are sent besides metrics.jsonl", also=("report_to",)
    )

    def __post_init__(self) -> None:
        for known in options().values():
            self._set(known.name, check_value(known, getattr(self, known.name)))
        self._fill_in()
        check_together(self)

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # the class is frozen for everyone else

    def _fill_in(self) -> None:
        """Resolve the defaults that follow other options."""
        if self.warmup_steps is None:
            self._set("warmup_steps", min(DEFAULT_WARMUP, self.max_steps // 10))
        if self.lora_alpha is None and self.lora_rank:
            self._set("lora_alpha", float(self.lora_rank))
        if self.cache_crops is None and self.cache_latents:
            self._set("cache_crops", DEFAULT_CROPS)

    @property
    def background_rgb(self) -> tuple[int, int, int]:
        """The colour behind transparent photos, as 0-255."""
        red, green, blue = bytes.fromhex(self.background[1:])
        return red, green, blue

    @property
    def trains_encoder(self) -> bool:
        return self.trainable == "all"

    @property
    def uses_perceptual(self) -> bool:
        """Whether LPIPS, of whole crops or of faces, is in the loss."""
        return self.lpips_weight > 0 or self.face_lpips_weight > 0

    @property
    def uses_kl(self) -> bool:
        """Whether the KL term sends a gradient; with a frozen encoder it is only reported."""
        return self.trains_encoder and self.kl_weight > 0


@cache
def options() -> dict[str, Option]:
    """Every option of a run by name, in the order of the documentation."""
    return options_of(TrainConfig)


def recipe(config: TrainConfig) -> dict[str, Any]:
    """List the options that shape the exported file: no path, nothing of this machine."""
    return {name: getattr(config, name) for name, known in options().items() if known.recipe}


def resolve_vae(spec: str) -> str:
    """Turn `bundled:NAME` into the file of a model or architecture; anything else is unchanged."""
    if not spec.startswith(BUNDLED):
        return spec
    files = {file.stem: file for file in sorted(ARCHITECTURES.glob("*.json"))}
    files |= {file.parent.name: file for file in sorted(MODELS.glob("*/vae.safetensors"))}
    name = spec.removeprefix(BUNDLED)
    if name in files:
        return str(files[name])
    known = BUNDLED + nearest(name, files) if files else "none, as the folder models/ is missing"
    raise UserError(
        f"Expected --vae to name a bundled model, but got {shown(spec)}: the nearest there is "
        f"{known}."
    )
