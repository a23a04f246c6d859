"""Every configuration key, its type, default and meaning. YAML files in this folder only choose.

This file imports nothing of Crossover, so that any part may use these types. The `model` group is
not listed here: its keys are the fields of the contestant's own config dataclass (see
`conf/model/*.yaml` and `models/registry.py`), checked against it in `conf/check.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class DataConf:
    """Corpus, tokenizer and the batches cut from them."""

    corpus: str = MISSING  # stdlib | text
    paths: list[str] = field(default_factory=list)  # text: files or globs
    tokenizer: str = "bpe"  # bpe | bytes | chars | path of a tokenizer.json
    vocab_size: int = 3072  # entries of a bpe trained on the corpus
    length: int = 512  # context length, tokens
    batch_size: int = 4  # sequences per optimizer step and accumulation part, all processes
    val_fraction: float = 0.02  # of the corpus bytes, whole files where there are several
    workers: int = 0  # loader processes; the order of batches does not depend on it
    cache_dir: str = ".cache"  # prepared corpora, safe to delete


@dataclass
class OptimConf:
    """AdamW with linear warm-up and cosine decay."""

    lr: float = 1e-3  # peak learning rate
    final_lr: float = 1e-4  # at max_steps
    warmup_steps: int = 20
    beta1: float = 0.9
    beta2: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.1  # matrices only, chosen by name in the model's param_groups


@dataclass
class TrainerConf:
    """Arguments of Lightning's Trainer, under Lightning's names."""

    max_steps: int = 200  # optimizer steps
    accelerator: str = "auto"  # auto | cpu | gpu
    devices: int = 1
    strategy: str = "auto"  # auto | ddp
    precision: str = "32-true"  # 32-true | bf16-mixed | 16-mixed | bf16-true
    accumulate_grad_batches: int = 1
    gradient_clip_val: float = 1.0


@dataclass
class TrainingConf:
    """The shared loop: what it saves memory on, and how often it looks up."""

    gradient_checkpointing: bool = False  # recompute each block in backward
    log_every: int = 10  # optimizer steps between rows of metrics.jsonl
    val_every: int = 100  # optimizer steps between validations; 0: only at the end
    val_windows: int = 32  # sequences of data.length per validation; the last one reads all
    progress: bool = True  # live progress line


@dataclass
class CheckpointConf:
    """When to save; the last two are kept."""

    every: int = 100  # optimizer steps; the end is always saved


@dataclass
class WandbConf:
    """Weights & Biases. Every number it gets is in metrics.jsonl too."""

    mode: str = "auto"  # auto (offline when there is no login) | online | offline | disabled
    project: str = "crossover"
    entity: str | None = None
    tags: list[str] = field(default_factory=list)


@dataclass
class TrainConf:
    """scripts/train.py"""

    name: str | None = None  # run name: the identity; default MODEL-SIZE-CORPUS-lLENGTH-sSEED
    group: str | None = None  # sweep the run belongs to: runs/GROUP/NAME
    runs_dir: str = "runs"
    seed: int = 0
    resume: str = "auto"  # auto (newest checkpoint of this run) | never | path of a checkpoint
    model: Any = MISSING
    data: DataConf = field(default_factory=DataConf)
    optim: OptimConf = field(default_factory=OptimConf)
    trainer: TrainerConf = field(default_factory=TrainerConf)
    training: TrainingConf = field(default_factory=TrainingConf)
    checkpoint: CheckpointConf = field(default_factory=CheckpointConf)
    wandb: WandbConf = field(default_factory=WandbConf)


@dataclass
class ProbeConf:
    """scripts/probe.py"""

    group: str = "probe"  # rows go to runs/GROUP/probes.jsonl
    runs_dir: str = "runs"
    seed: int = 0
    model: Any = MISSING
    vocab_size: int = 3072
    lengths: list[int] = field(default_factory=lambda: [256, 512, 1024, 2048, 4096, 8192])
    probes: list[str] = field(default_factory=lambda: ["train", "prefill", "decode"])
    sweeps: list[str] = field(default_factory=lambda: ["fixed_tokens", "batch_1"])
    fixed_tokens: int = 8192  # tokens per batch of the fixed_tokens sweep
    repeats: int = 5  # timed repeats of a point
    warmup: int = 1  # untimed repeats before them
    decode_steps: int = 32  # tokens decoded per repeat, starting at the position
    accelerator: str = "auto"  # auto | cpu | gpu
    precision: str = "float32"  # float32 | bfloat16 | float16
    threads: int = 0  # CPU threads; 0: torch's default
    timeout_s: float = 600.0  # of one point
    memory_gib: float = 0.0  # limit of one point; 0: the memory available
    wandb: WandbConf = field(default_factory=WandbConf)


@dataclass
class ReportConf:
    """scripts/report.py"""

    runs: list[str] = MISSING  # run or group folders: probe rows and finished trainings
    out: str | None = None  # default: report/ inside the first of them
    slope_from: int = 1024  # context lengths of the log-log slope, from ...
    slope_to: int = 8192  # ... to, inclusive
    allow_mixed: bool = False  # compare rows of different machines, precisions or versions


@dataclass
class GenerateConf:
    """scripts/generate.py"""

    run: str = MISSING  # run name or folder
    prompt: str = ""
    tokens: int = 200
    temperature: float = 0.8  # 0: always the likeliest token
    top_k: int = 50  # 0: no limit
    seed: int = 0
    runs_dir: str = "runs"
    accelerator: str = "auto"
