"""Images by a generator and a discriminator with self-attention: SAGAN (arXiv 1805.08318).

For the feature maps x `[B, C, S, S]` of an image, all positions at once, each reading all:

    f = W_f x   g = W_g x   h = W_h x                 1x1 convolutions to C/8, C/8 and C/2 channels
    o = W_v softmax(f^T g) h                          shares of all T = S^2 positions, not scaled
    y = x + gamma o                                   gamma from 0: at first there is no attention

It stands behind the first of L convolutions in both networks, whose matrices are divided by their
largest singular value (spectral norm, Miyato et al. 2018). They play the hinge game

    discriminator: mean relu(1 - D(x)) + mean relu(1 + D(G(z)))         generator: - mean D(G(z))

in one loss: what the discriminator is taught about an image ends there, and what the generator is
taught passes through a discriminator that stands still. So both are updated at once, by one
optimizer, and a run is resumed like any other. z is drawn in each step.

Networks here know a pixel by its coordinates and have no stride, so one model has images of any
size; z steers the channels of each convolution, everywhere alike. An image is a row of tokens, one
of V colours each: the generator answers with the likeliest colours, and learns through their
softmax as if that were the image (straight through), or all that the discriminator saw were that
colours are mixed.

It is no language model: it makes whole rows (`models.contract.makes_rows`) and reads none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from core.errors import UserError
from models.contract import ParamGroup

REACHES = ("all", "own")
COORDINATES = 6  # of a pixel: both, with the sine and cosine of each
VALIDATING = 0  # seed of the images that are made to validate


@dataclass(frozen=True)
class SAGANConfig:
    """Shape letters in brackets."""

    vocab_size: int  # [V], colours
    n_layer: int  # [L], convolutions of 3x3 in each of the two networks
    n_embd: int  # [C]
    n_noise: int = 16  # numbers that an image is made of
    attention: str = "all"  # all | own: each position reads all of them, or itself
    rate_ratio: float = 3.0  # the discriminator's rate, as a multiple of the generator's

    def __post_init__(self) -> None:
        for name, least in (("n_layer", 1), ("n_embd", 8), ("n_noise", 1)):
            if getattr(self, name) < least:
                raise UserError(f"model.{name}={getattr(self, name)} must be {least} or more")
        if self.attention not in REACHES:
            names = ", ".join(REACHES)
            raise UserError(f"model.attention={self.attention!r} is not one of {names}")
        if not 0 < self.rate_ratio < math.inf:
            raise UserError(f"model.rate_ratio={self.rate_ratio} must be a number above 0")


class ImageAttention(nn.Module):
    """x + gamma o, as above. With reach `own` a position reads itself alone, in the share
    sigmoid(f g): a convolution of as many parameters, for comparison."""

    def __init__(self, width: int, reach: str) -> None:
        super().__init__()
        self.reach, self.width = reach, width
        self.f, self.g, self.h = (
            spectral_norm(nn.Conv2d(width, width // part, 1, bias=False)) for part in (8, 8, 2)
        )
        self.v = spectral_norm(nn.Conv2d(width // 2, width, 1, bias=False))
        self.gamma = nn.Parameter(torch.zeros(()))

    def shares(self, x: Tensor) -> Tensor:
        """How much each of T positions reads of each: `[B, T, T]`."""
        f, g = (layer(x).flatten(2) for layer in (self.f, self.g))
        return (g.transpose(1, 2) @ f).softmax(dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        """x `[B, C, S, S]` to the same shape."""
        h = self.h(x)
        if self.reach == "own":
            read = (self.f(x) * self.g(x)).sum(dim=1, keepdim=True).sigmoid() * h
        else:
            read = (self.shares(x) @ h.flatten(2).transpose(1, 2)).transpose(1, 2).view_as(h)
        return x + self.gamma * self.v(read)

    def flops(self, positions: int) -> int:
        """Operations for one image."""
        size, middle = self.width // 8, self.width // 2
        maps = 4 * positions * self.width * (size + middle)
        return maps + (2 * positions**2 * (size + middle) if self.reach == "all" else 0)


class Network(nn.Module):
    """What both have: L convolutions of 3x3 on the residual, attention behind the first."""

    def __init__(self, config: SAGANConfig) -> None:
        super().__init__()
        width = self.width = config.n_embd
        self.convolutions = nn.ModuleList(
            spectral_norm(nn.Conv2d(width, width, 3, padding=1)) for _ in range(config.n_layer)
        )
        self.attention = ImageAttention(width, config.attention)

    def flops(self, positions: int) -> int:
        """Operations for one image, without what stands before and behind them."""
        convolutions = 2 * 9 * self.width**2 * positions * len(self.convolutions)
        return convolutions + self.attention.flops(positions)


class Generator(Network):
    """Noise z `[B, n_noise]` to scores of V colours for each of S x S pixels."""

    def __init__(self, config: SAGANConfig) -> None:
        super().__init__(config)
        width = config.n_embd
        self.start = nn.Conv2d(config.n_noise + COORDINATES, width, 1)
        self.steer = nn.Linear(config.n_noise, 2 * width * config.n_layer)
        self.colours = nn.Conv2d(width, config.vocab_size, 1)

    def forward(self, z: Tensor, side: int) -> Tensor:
        """`[B, V, S, S]`."""
        places = coordinates(side, z).expand(len(z), -1, -1, -1)
        x = self.start(torch.cat((z[..., None, None].expand(-1, -1, side, side), places), dim=1))
        steered = self.steer(z)[..., None, None].chunk(len(self.convolutions), dim=1)
        for layer, (convolution, change) in enumerate(zip(self.convolutions, steered, strict=True)):
            x = normed(x)
            scale, shift = change.chunk(2, dim=1)
            x = x + convolution((x * (1 + scale) + shift).relu())
            if not layer:
                x = self.attention(x)
        return self.colours(normed(x).relu())

    def flops(self, positions: int) -> int:
        maps = self.start.in_channels + self.colours.out_channels
        steer = 2 * self.steer.in_features * self.steer.out_features
        return super().flops(positions) + 2 * maps * self.start.out_channels * positions + steer


class Discriminator(Network):
    """Images `[B, V, S, S]`, shares of colours, to scores `[B]`: how real they look."""

    def __init__(self, config: SAGANConfig) -> None:
        super().__init__(config)
        self.colours = config.vocab_size
        self.start = spectral_norm(nn.Conv2d(self.colours, config.n_embd, 1))
        self.score = spectral_norm(nn.Linear(config.n_embd, 1))

    def forward(self, images: Tensor) -> Tensor:
        x = self.start(images)
        for layer, convolution in enumerate(self.convolutions):
            x = x + convolution(F.leaky_relu(x, 0.1))
            if not layer:
                x = self.attention(x)
        return self.score(F.leaky_relu(x, 0.1).sum(dim=(2, 3)) / x.shape[-1])[:, 0]

    def flops(self, positions: int) -> int:
        start = 2 * self.colours * self.width * positions
        return super().flops(positions) + start + 2 * self.width


class SAGAN(nn.Module):
    """Generator and discriminator; obeys as much of `models.contract.Model` as it can."""

    Config: ClassVar[type] = SAGANConfig
    title: ClassVar[str] = "the SAGAN"
    recurrent: ClassVar[bool] = False
    makes_rows: ClassVar[bool] = True
    options: ClassVar[tuple[str, ...]] = ("attention",)
    length_field: ClassVar[str] = ""

    def __init__(self, config: SAGANConfig) -> None:
        super().__init__()
        self.config = config
        self.generator = Generator(config)
        self.discriminator = Discriminator(config)

    def objective(
        self,
        tokens: Tensor,
        targets: Tensor,
        state: Any = None,
        l2wrap: float = 0.0,
        starts: Tensor | None = None,
        z_loss: float = 0.0,
        total: float | None = None,
    ) -> tuple[Tensor, Tensor, None]:
        """The hinge losses of both networks together, of the images that `tokens` `[B, T]` are with
        `targets` where something is asked; and the discriminator's cross entropy, nats per image
        that it judges: ln 2 if it cannot tell any, without gradient.

        With `total` an image counts once for each target of it that is asked.
        Raises `UserError` for rows that are no square image.
        """
        side = side_of(tokens.shape[1])
        asked = targets >= 0
        real = as_shares(torch.where(asked, targets, tokens), self.config.vocab_size, side)
        made = self.generator(self._noise(len(tokens), tokens.device), side).softmax(dim=1)
        chosen = F.one_hot(made.argmax(dim=1), made.shape[1]).movedim(-1, 1).to(made.dtype)
        made = chosen + (made - made.detach())
        scores = self.discriminator(torch.cat((real.to(made.dtype), made.detach()))).float()
        of_real, of_made = scores.chunk(2)
        taught = F.relu(1 - of_real) + F.relu(1 + of_made)
        weights = list(self.discriminator.parameters())
        for weight in weights:
            weight.requires_grad_(False)
        wanted = self.discriminator(made).float()
        for weight in weights:
            weight.requires_grad_(True)
        objective = taught - wanted  # [B]
        loss = (F.softplus(-of_real) + F.softplus(of_made)).detach() / 2
        if total is None:
            return objective.mean(), loss.mean(), None
        count = asked.sum(dim=1)
        return (objective * count).sum() / total, (loss * count).sum() / total, None

    def loss(
        self, tokens: Tensor, targets: Tensor, state: Any = None, starts: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """What a training step minimises."""
        return self.objective(tokens, targets)[0], None

    @torch.no_grad()
    def make(self, count: int, length: int, generator: torch.Generator) -> Tensor:
        """Images of `length` pixels, int64 `[count, T]`; `generator`, of the CPU, draws the noise.

        Raises `UserError` if no square has so many pixels.
        """
        side = side_of(length)
        weight = self.generator.colours.weight
        z = torch.randn(count, self.config.n_noise, generator=generator).to(weight)
        return self.generator(z, side).argmax(dim=1).flatten(1)

    def _noise(self, count: int, device: torch.device) -> Tensor:
        """`[count, n_noise]`; the same in each validation."""
        weight, shape = self.generator.colours.weight, (count, self.config.n_noise)
        if self.training:
            return torch.randn(shape, device=device, dtype=weight.dtype)
        generator = torch.Generator().manual_seed(VALIDATING)
        return torch.randn(shape, generator=generator).to(weight)

    def flops(self, batch: int, length: int, past: int = 0, dense: bool = False) -> int:
        """Operations of a training step's forward passes: one of the generator, and three of the
        discriminator, over images of the data, over made ones, and over these again."""
        return batch * (self.generator.flops(length) + 3 * self.discriminator.flops(length))

    def param_groups(self) -> list[ParamGroup]:
        """The generator's and the discriminator's, which learns faster; nothing decays."""
        names = [name for name, _ in self.named_parameters()]
        return [
            ParamGroup(tuple(name for name in names if name.startswith(part)), rate)
            for part, rate in (("generator.", 1.0), ("discriminator.", self.config.rate_ratio))
        ]

    def backends(self) -> dict[str, str]:
        return {"attention": "torch"}


def side_of(length: int) -> int:
    """Pixels of a square image's side. Raises `UserError` if there is none of so many pixels."""
    side = math.isqrt(length)
    if side * side != length:
        raise UserError(f"{length} tokens are no square image: {side**2} or {(side + 1) ** 2} are")
    return side


def as_shares(images: Tensor, colours: int, side: int) -> Tensor:
    """Rows of tokens `[B, T]` as images `[B, V, S, S]` of which each pixel has one colour."""
    return F.one_hot(images, colours).movedim(-1, 1).reshape(len(images), colours, side, side)


def coordinates(side: int, like: Tensor) -> Tensor:
    """Where each pixel stands, from -1 to 1, with sines and cosines: `[1, 6, S, S]`."""
    line = torch.linspace(-1, 1, side).to(like)
    both = torch.stack((line[:, None].expand(side, side), line.expand(side, side)))
    return torch.cat((both, (math.pi * both).cos(), (math.pi * both).sin()))[None]


def normed(x: Tensor) -> Tensor:
    """x `[B, C, S, S]` with a mean square of 1 over the channels of each position."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-6).rsqrt()
