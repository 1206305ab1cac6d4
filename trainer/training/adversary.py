"""Training against a discriminator: what its judgement adds to the loss, and its own steps.

A step decodes once, and the discriminator looks at the result once: the scores of that one forward
pass give both the gradient of its judgement for the decoder's output and, cut off from the decoder,
the gradient of its own loss. Neither side can reach the weights of the other.

How much the judgement counts is set by gradients at the decoder's output, where VQGAN (Esser et
al., 2021, https://arxiv.org/abs/2012.09841) takes them at the weights of its last layer. That layer
is linear, so its gradient is the output's, correlated with one common input; but at the output both
gradients are at hand, that of LPIPS included, and what is left is one backward pass through the
decoder for their sum instead of three, whatever way activations are kept.
"""

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from trainer.judge.at_once import PIXELS_AT_ONCE
from trainer.options.config import TrainConfig
from trainer.training.discriminator import PatchDiscriminator, hinge
from trainer.training.optimizer import set_learning_rate

# It starts from nothing beside a decoder that is trained: four times the rate, as SAGAN has it with
# hinge loss and spectral norms (Zhang et al., 2019, https://arxiv.org/abs/1805.08318).
FASTER = 4.0
BETAS = (0.5, 0.9)
CLIP = 1.0  # norm to which its gradient is clipped
ALONE = 50  # steps at most, and a tenth of those left: a judge that knows nothing is not heard
LARGEST_SCALE = 10.0  # where a fresh discriminator asks for 0.1 to 1
SMOOTHING = 0.9  # decay of the scale's average over steps
EPSILON = 1e-12  # against 0 / 0; LARGEST_SCALE bounds the rest

Terms = dict[str, Tensor]


def steps_alone(config: TrainConfig) -> int:
    """Return how many steps the discriminator trains before its judgement counts."""
    return min(ALONE, (config.max_steps - config.gan_start) // 10)


def in_words(config: TrainConfig) -> str:
    """Say how the term is reduced and weighted, and when it begins."""
    begins = config.gan_start + steps_alone(config)
    return (
        f"gan: -D(x) of a PatchGAN, mean over patches, float32, mean over the batch, times the "
        f"scale at which it pulls as hard as the rest (at most {LARGEST_SCALE:g}); weight "
        f"{config.gan_weight:g}, from step {begins:,} on; the discriminator trains from step "
        f"{config.gan_start:,} on, by hinge loss"
    )


class Adversary:
    """A discriminator that trains beside a VAE, in float32, and how much its judgement counts.

    No module of torch, so that what holds it neither saves its weights nor hands them to DDP: it
    is built from the same seed on every process, and they exchange its gradients themselves.
    """

    def __init__(self, config: TrainConfig, discriminator: PatchDiscriminator) -> None:
        """Take a new discriminator, on the run's device; it idles until step `--gan-start`."""
        self.discriminator = discriminator
        self.parameters = list(discriminator.parameters())
        device = self.parameters[0].device
        rate = FASTER * config.learning_rate
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=rate, betas=BETAS, weight_decay=0.0, fused=True
        )
        self.scale = torch.zeros((), device=device)  # 0 until it was measured once
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)  # steps, as not finite
        self._measured = 0  # steps that went into the scale
        self._weight = config.gan_weight
        self._learns_from = config.gan_start
        self._judges_from = config.gan_start + steps_alone(config)
        self.prepare(0)

    def prepare(self, step: int) -> None:
        """Begin a step, counted from 0: what an earlier one left unused is dropped."""
        self.learns = step >= self._learns_from
        self.judges = step >= self._judges_from
        self.optimizer.zero_grad()
        self._batches = 0
        self._sums = torch.zeros(3, device=self.scale.device)  # its loss, squared norms: see _weigh

    def judge(self, output: Tensor, pixels: Tensor, rest: Tensor) -> tuple[Tensor, Terms]:
        """Judge the decoder's output for `pixels`, float32 [B, C, H, W] in [-1, 1] each.

        `rest` is the loss of `output` without this. Returns what to add to it, with a gradient for
        `output` alone, and scalars to log: "disc", the discriminator's loss, whose gradient is
        kept for `learn`; once the judgement counts "gan", -D(output).mean(), and "gan_scale".
        """
        with torch.autocast(output.device.type, enabled=False):
            gan, pull, disc = self._examine(output.detach(), pixels)
        self._batches += 1
        if not self.judges:
            self._sums[0] += disc
            return torch.zeros_like(rest), {"disc": disc}
        self._sums += torch.stack([disc, *self._weigh(output, rest, pull)])
        # 0 in value, and with the gradient `pull`
        linear = ((output - output.detach()) * pull).sum()
        scalars = {"disc": disc, "gan": gan, "gan_scale": self.scale.clone()}
        return self._weight * self.scale * (gan + linear), scalars

    def _examine(self, output: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Add to the discriminator's gradient, a few pictures at a time.

        Returns -D(output).mean(), its gradient for the output, and the discriminator's loss.
        """
        count, side = len(output), output.shape[2] * output.shape[3]
        few = max(1, PIXELS_AT_ONCE // side)
        gan, disc, pulls = 0.0, 0.0, []
        for x, y in zip(output.split(few), pixels.split(few), strict=True):
            x = x.detach().requires_grad_(self.judges)
            scores = self.discriminator(x)
            term = -scores.flatten(1).mean(1).sum() / count
            if self.judges:
                pulls += torch.autograd.grad(term, x, retain_graph=True)
            loss = hinge(self.discriminator(y), scores).sum() / count
            loss.backward(inputs=self.parameters)
            gan, disc = gan + term.detach(), disc + loss.detach()
        return gan, torch.cat(pulls) if pulls else None, disc

    @staticmethod
    def _weigh(output: Tensor, rest: Tensor, pull: Tensor) -> tuple[Tensor, Tensor]:
        """Give the squared norms of both gradients at the output: they add up over batches."""
        (other,) = torch.autograd.grad(rest, output, retain_graph=True)
        return other.square().sum(), pull.square().sum()

    def learn(self, accelerator: Accelerator, rate: float) -> None:
        """Take the discriminator's step, on all processes, at the VAE's learning rate times 4.

        Nothing here waits for the device: where loss or gradient is not finite, the optimizer is
        told so there, as a gradient scaler tells it, and leaves weights and moments as they are.
        """
        if not self.learns:
            return
        disc, *squares = self._exchange(accelerator)
        norm = nn.utils.clip_grad_norm_(self.parameters, CLIP)
        broken = ~torch.isfinite(norm + disc)
        set_learning_rate(self.optimizer, FASTER * rate)
        self.optimizer.found_inf = broken.float()
        self.optimizer.step()
        self.discriminator.refresh()
        self.skipped += broken
        if self.judges:
            self._follow(balance(*squares))

    def _exchange(self, accelerator: Accelerator) -> Tensor:
        """Average gradients and sums over batches and processes; return the sums."""
        parts = [parameter.grad.flatten() for parameter in self.parameters]
        flat = torch.cat([*parts, self._sums]) / self._batches
        if accelerator.num_processes > 1:
            flat = accelerator.reduce(flat, "mean")
        *parts, sums = flat.split([*(len(part) for part in parts), len(self._sums)])
        for parameter, part in zip(self.parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)
        return sums

    def _follow(self, scale: Tensor) -> None:
        """Take the scale of a step into the average, which the steps after it use.

        So one number holds for all batches and processes of a step, and none waits for it.
        """
        kept = min(SMOOTHING, self._measured / (self._measured + 1))
        self.scale.lerp_(torch.where(scale.isfinite(), scale, self.scale), 1 - kept)
        self._measured += 1

    def tensors(self) -> dict[str, Tensor]:
        """Return the discriminator's weights and singular vectors, for a checkpoint."""
        return {name: value.cpu() for name, value in self.discriminator.state_dict().items()}

    def state(self) -> dict[str, Any]:
        """Return what else a checkpoint holds of it."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scale": self.scale.cpu(),
            "skipped": self.skipped.cpu(),
            "measured": self._measured,
        }

    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Take up what `tensors` and `state` gave."""
        self.discriminator.load_state_dict(tensors)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scale.copy_(state["scale"])
        self.skipped.copy_(state["skipped"])
        self._measured = state["measured"]


def balance(rest: Tensor, judgement: Tensor) -> Tensor:
    """Give the scale at which a judgement pulls as hard as the rest of the loss, 10 at most.

    Both are squared norms of gradients at the decoder's output, over all batches and processes.
    """
    return (rest.sqrt() / (judgement.sqrt() + EPSILON)).clamp(max=LARGEST_SCALE)
