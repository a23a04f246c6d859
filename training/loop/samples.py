"""Texts that a model writes while it trains, to see what it has learned."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch

from conf.schema import TrainConf
from core.errors import UserError
from core.files import appending, write_text
from core.parsing import Missing, read_lines
from data.text import StreamDecoder, TextTokenizer
from models.contract import Model, makes_rows
from models.decoding.generate import check_length, generate
from models.decoding.settings import Sampling
from training.loop.alignment_figure import figure_of

log = logging.getLogger("crossover")

TEMPERATURE, TOP_K = 0.8, 50  # those of scripts/generate.py


class Sampler(lightning.Callback):
    """Every `training.sample_every` optimizer steps, rank 0 continues `training.sample_prompt`.

    Each text is a line of samples.jsonl, and goes to loggers that take texts; where a target reads
    a source, alignment.svg shows how it does in the last one. Its random numbers
    are those of a generator of its own, from the run's seed and the step: training goes on with the
    same bits as without, and a run that resumes writes the same texts.
    """

    def __init__(
        self,
        conf: TrainConf,
        tokenizer: TextTokenizer,
        path: Path,
        pause: Callable[[], object],
        model: Model,
    ) -> None:
        """`pause` stops the clock of the training. Raises `UserError` for a prompt that the
        tokenizer cannot represent, or that the `model` cannot read with what follows it."""
        self._conf, self._seed = conf.training, conf.seed
        self._tokenizer, self._path, self._pause = tokenizer, path, pause
        self._length = conf.data.length
        self._prompt = tokenizer.encode(conf.training.sample_prompt) or [tokenizer.end_of_text or 0]
        if not makes_rows(model):
            check_length(model, len(self._prompt), self._conf.sample_tokens)
        self._last_step = 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Forget texts of later steps: they are written again."""
        self._last_step = trainer.global_step
        if not trainer.is_global_zero:
            return
        try:
            rows = [line.value for line in read_lines(self._path) if line.value]
        except Missing:
            return
        here = range(trainer.global_step + 1)
        kept = [row for row in rows if type(row.get("step")) is int and row["step"] in here]
        write_text(self._path, "".join(json.dumps(row) + "\n" for row in kept))

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *args: Any) -> None:
        step = trainer.global_step
        if step == self._last_step:  # a micro-batch of an unfinished optimizer step
            return
        self._last_step = step
        if step % self._conf.sample_every or not trainer.is_global_zero:
            return
        try:
            text = self._text(pl_module.model, step)
        except UserError as error:  # numbers that are not finite: what follows is the guard's
            log.warning("no sample at step %d: %s", step, error)
            return
        finally:
            self._pause()
        row = {"step": step, "time": round(time.time(), 3), "text": text}
        with appending(self._path) as file:
            line = json.dumps({**row, "prompt": self._conf.sample_prompt}) + "\n"
            file.write(line.encode())
        for logger in trainer.loggers:
            if hasattr(logger, "log_text"):
                whole = self._conf.sample_prompt + text
                logger.log_text("samples", columns=["step", "text"], data=[[step, whole]])

    def _text(self, model: Any, step: int) -> str:
        if makes_rows(model):
            return self._image(model, step)
        device = next(model.parameters()).device
        generator = torch.Generator(device).manual_seed((self._seed << 32) + step)
        decoder = StreamDecoder(self._tokenizer, after=self._prompt)
        prompt = torch.tensor(self._prompt, device=device)
        model.eval()
        try:
            sampling = Sampling(TEMPERATURE, TOP_K)
            tokens = [*generate(model, prompt, self._conf.sample_tokens, sampling, generator)]
            row, title = [*self._prompt, *tokens], f"Alignment at step {step}"
            figure = figure_of(model, self._tokenizer, row, title)
            if figure is not None:
                write_text(self._path.with_name("alignment.svg"), figure)
            return "".join(map(decoder.push, tokens)) + decoder.flush()
        finally:
            model.train()

    def _image(self, model: Any, step: int) -> str:
        """One image of the model's, a line for each row of pixels."""
        generator = torch.Generator().manual_seed((self._seed << 32) + step)
        model.eval()
        try:
            tokens = model.make(1, self._length, generator)[0].tolist()
        finally:
            model.train()
        side = math.isqrt(len(tokens))
        pixels = self._tokenizer.decode(tokens)
        return "\n".join(pixels[first : first + side] for first in range(0, len(pixels), side))
