"""The contestants, and nothing of the bench: plain PyTorch, no Lightning, Hydra or wandb."""

from models.loading import load

__all__ = ["load"]
