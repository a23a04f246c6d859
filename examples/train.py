"""Train a small RWKV-7 for three steps and let it continue a text: `python examples/train.py`."""

from scripts import api

if __name__ == "__main__":
    summary = api.train(
        "model=rwkv7",
        "model.size=tiny",
        "data.length=128",
        "trainer.max_steps=3",
        "wandb.mode=disabled",
        "name=example",
    )
    print(f"{summary['parameters']:,} parameters")
    print(f"validation loss {summary['val_loss']:.3f} nats per token")
    print(api.generate("run=example", "prompt=def ", "tokens=20"))
