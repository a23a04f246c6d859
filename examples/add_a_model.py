"""A new recurrent model in one file: x + an exponential moving average per channel.

In the repository it would be `models/ema.py`, with a YAML in `conf/model/` and a test (see
CONTRIBUTING.md); here it is built by itself, trained for some steps, and continued token by token.
"""

from dataclasses import dataclass

import torch
from torch import nn

from models.contract import ParamGroup, State
from models.layers.init import init_normal, split_decay
from models.layers.trunk import Block, Stream, Trunk, linear_flops


@dataclass(frozen=True)
class EMAConfig:
    vocab_size: int  # [V]
    n_layer: int  # [L]
    n_embd: int  # [C]


class EMABlock(Block):
    """x + W h, with h_t = d h_{t-1} + (1 - d) norm(x_t) and a decay d for every channel."""

    def __init__(self, config: EMAConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.n_embd)
        self.decay = nn.Parameter(torch.linspace(-2, 4, config.n_embd))
        self.output = nn.Linear(config.n_embd, config.n_embd, bias=False)

    def forward(self, stream: Stream, state: State | None) -> tuple[Stream, State | None]:
        h = self.init_state(len(stream.x), None)["h"] if state is None else state["h"]  # [B, C]
        decay, average = torch.sigmoid(self.decay), []
        for x in self.norm(stream.x).unbind(1):  # [B, C], one token after the other
            h = decay * h + (1 - decay) * x
            average.append(h)
        y = self.output(torch.stack(average, dim=1))  # [B, T, C]
        stream = stream._replace(x=stream.x + y)
        return stream, None if state is None else {"h": h}

    def init_state(self, batch: int, capacity: int | None) -> State:
        return {"h": self.decay.new_zeros(batch, len(self.decay)).detach()}  # [B, C]

    def flops(self, batch: int, length: int, past: int, dense: bool) -> int:
        return linear_flops(self.output, batch * length)


class EMA(Trunk):
    """Embedding, L blocks, LayerNorm, head."""

    Config = EMAConfig
    title = "the moving average"
    recurrent = True

    def initialise(self) -> None:
        init_normal(self, self.config.n_layer, residual=("output.weight",))

    def build_block(self, layer: int) -> EMABlock:
        return EMABlock(self.config)

    def build_norm(self) -> nn.LayerNorm:
        return nn.LayerNorm(self.config.n_embd)

    def param_groups(self) -> list[ParamGroup]:
        return split_decay(self)

    def mixer_backends(self) -> dict[str, str]:
        return {"ema": "torch"}


if __name__ == "__main__":
    torch.manual_seed(0)
    model = EMA(EMAConfig(vocab_size=64, n_layer=2, n_embd=32))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    text = torch.arange(256).remainder(7)[None]  # [B, T + 1]: a text that repeats itself
    for _ in range(20):
        loss, _ = model.loss(text[:, :-1], text[:, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    print(f"loss {loss.item():.3f} nats per token after 20 steps")
