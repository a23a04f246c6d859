"""Load official RWKV weights and predict a token: `python examples/load_official.py FILE.pth`.

Sizes, head sizes and ranks are read from the file; nothing in it is executed.
"""

import sys

import torch

from scripts import api

if __name__ == "__main__":
    model = api.load(sys.argv[1])
    print(model.title, model.config)
    tokens = torch.tensor([[1, 2, 3]])  # [B, T]; a tokenizer gives real ones
    with torch.no_grad():
        logits, state = model.next_logits(tokens, model.init_state(1))  # [B, V]
    print("likeliest next token:", int(logits.argmax()))
