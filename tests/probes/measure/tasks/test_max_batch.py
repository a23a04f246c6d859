"""The largest batch: a state repeated is the state of equal sequences."""

from __future__ import annotations

from dataclasses import replace

import torch

from probes.measure.tasks import timing
from probes.measure.tasks.max_batch import repeated
from tests.probes.measure.child_tasks import TASK, built
from tests.probes.specs import VOCAB, rwkv4, transformer
from tests.registered_models import spec_of


def test_a_repeated_state_is_that_of_equal_sequences() -> None:
    for spec in (rwkv4(), transformer(), spec_of("rwkv7", vocab_size=VOCAB)):
        model = built(spec).eval()
        prompt = timing.tokens(replace(TASK, spec=spec), 12, batch=1)
        with torch.no_grad():
            _, single = model.next_logits(prompt, model.init_state(1, 16))
            _, real = model.next_logits(prompt.repeat(5, 1), model.init_state(5, 16))
            wide = repeated(model, single, 5)
            assert timing.state_bytes(wide) == timing.state_bytes(real)
            token = prompt[:, :1].repeat(5, 1)
            torch.testing.assert_close(
                model(token, wide)[0], model(token, real)[0], rtol=1e-4, atol=1e-5
            )
