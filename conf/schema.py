"""Every configuration key, its type, default, bounds and meaning. The YAML files only choose.

This file imports nothing of Crossover, so that any part may use these types. The `model` group is
not listed here: its keys are the fields of the model's own config dataclass (see
`conf/model/*.yaml` and `models/registry.py`), checked against it in `scripts/cli/check.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

FOLDER = Path(__file__).resolve().parent
"""The YAML files of the configuration."""

NOT_FIELDS = ("name", "target", "size", "sizes")
"""Keys of the `model` group that are not fields of the model's own configuration."""
DTYPES = ("auto", "float32", "bfloat16", "float16")
INT8 = "int8"
PRECISIONS = {
    **dict.fromkeys(("bf16", "bfloat16"), "bf16-mixed"),
    **dict.fromkeys(("16", "fp16", "float16", "half"), "16-mixed"),
    **dict.fromkeys(("32", "fp32", "float32", "full"), "32-true"),
}
COMPILERS = ("auto", "none", "inductor", "aot_eager", "eager")
NOT_COMPILERS = {
    **dict.fromkeys(("true", "yes", "on"), "inductor"),
    **dict.fromkeys(("false", "no", "off"), "none"),
}
SHORT = {
    "fp32": "float32",
    "32": "float32",
    "bf16": "bfloat16",
    "fp16": "float16",
    "half": "float16",
}
CURRENCIES = ("EUR", "USD", "GBP", "CHF", "SEK", "NOK", "DKK", "PLN", "CZK", "JPY", "CNY", "KRW",
              "INR", "AUD", "CAD", "BRL", "SGD")  # fmt: skip
# What no key may exceed: beyond any use, and within what 64 bits and one machine can count.
TOKENS = 2**30  # of a context, a batch or a text
SEQUENCES = 2**20
STEPS = 10**9
VOCABULARY = 2**24
LAYERS = 4096
WIDTH = 2**24  # channels
PROCESSES = 1024  # of one machine
DEVICES = 2**20
TIMES = 10**6
AMOUNT = 1e21  # of operations, bytes or tokens
EVERYTHING = "everything"
TAKES = ("weights", "ema", "weights,optimizer", EVERYTHING)
CHATS = ("rwkv", "chatml", "tokenizer")
OPTIMIZERS = ("adamw", "muon")
PROBES = (
    "train", "prefill", "ttft", "decode", "generate", "layer", "operator",
    "max_batch", "max_batch_train",
)  # fmt: skip


def key(
    default: Any,
    doc: str,
    *,
    choices: tuple[str, ...] = (),
    low: float | None = None,
    high: float | None = None,
    verbatim: bool = False,
    commas: bool = False,
    path: bool = False,
    typed: bool = False,
    aliases: dict[str, str] | None = None,
    hint: str = "",
) -> Any:
    """A dataclass field that knows its meaning and its bounds (inclusive).

    The value of a `verbatim` field is taken as typed, free of Hydra's grammar for values; that of a
    `typed` one where the grammar would refuse it. One with `commas` is taken as typed too, unless
    there are quotes in it: then it is the text, or the list of texts, that Hydra reads. A `path` is
    `typed`, and its `~` is the home folder. `aliases` are other people's words for the choices,
    suggested only. `hint` is shown beside an error in the type of a value.
    """
    metadata = {
        "doc": doc,
        "choices": choices,
        "low": low,
        "high": high,
        "verbatim": verbatim,
        "commas": commas,
        "path": path,
        "typed": typed or path,
        "aliases": aliases or {},
        "hint": hint,
    }
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def price_key(
    effect: str, currency: str = "currency=, e.g. price_per_hour=2.50 currency=EUR"
) -> Any:
    """A field for the price of the machine per hour; `effect` is what a price adds, and `currency`
    the key of its unit."""
    return key(
        None,
        f"price of the machine; {effect}",
        low=0,
        high=1e9,
        hint=f"its unit goes into {currency}",
    )


def chat_key() -> Any:
    """A field for the template in which a conversation is written."""
    return key(
        "auto",
        "template of conversations; auto: the tokenizer's, or else that of RWKV World",
        choices=("auto", "rwkv", "chatml", "tokenizer"),
    )


@dataclass
class DataConf:
    """Corpus, tokenizer and the batches cut from them."""

    corpus: str = key(MISSING, "corpus reader, by its name in data/corpora.py")
    paths: list[str] = key(
        [], "files or globs to read; with data.corpus=files folders too", path=True
    )
    field: str = key(
        "text", "field of a JSON line, or column of a table, that holds the text", verbatim=True
    )
    template: str = key(
        "",
        "text of a record, instead of one field: '{title}\\n{body}' joins the fields it names",
        verbatim=True,
    )
    task: Any = key(
        None, "settings of a synthetic task, as data.task.pairs=8 (docs/data.md, conf/data/)"
    )
    split: str = key("train", "split of a Hugging Face data set, with data.corpus=hub")
    ids: str = key(
        "uint16",
        "type of the token ids in a .bin without index",
        choices=("uint16", "uint32", "int32"),
    )
    chat: str = key(
        "",
        "template that writes conversations, of which only what the assistant says is learned",
        choices=("", *CHATS),
    )
    prompt: str = key("", "field that holds a prompt, which is read and not learned", verbatim=True)
    answer: str = key("", "field that holds its answer, which is learned", verbatim=True)
    encoding: str = key("utf-8", "encoding of texts and JSON lines, such as latin-1 or utf-16")
    on_bad: str = key(
        "stop",
        "at a record that is none or lacks its field, stop, or skip it and count",
        choices=("stop", "skip"),
    )
    markup: bool = key(
        False, "train on the markup of JSON, CSV, HTML and XML files, with data.corpus=text"
    )
    tokenizer: str = key(
        "bpe",
        "bpe, bytes, chars, or the path of a tokenizer.json, RWKV World's vocabulary, a model of "
        "SentencePiece, tiktoken's ranks, a vocab.json, or a folder with one of them",
        path=True,
    )
    special_tokens: str = key(
        "text",
        "names of special tokens that occur in a text. text: are encoded as the text they are; "
        "whole: are those tokens, whoever wrote them",
        choices=("text", "whole"),
    )
    end_of_text: str = key(
        "before",
        "where the end-of-text token of a document stands. before: before it; after: after it, as "
        "in RWKV-LM, and the ids of data=tokens are taken as they are",
        choices=("before", "after"),
    )
    vocab_size: int = key(
        3072, "number of tokens of a bpe tokenizer trained on the corpus", low=257, high=65536
    )
    length: int = key(512, "context length, tokens", low=1, high=TOKENS)
    batch_size: int = key(4, "sequences per micro-batch, over all processes", low=1, high=SEQUENCES)
    packing: str = key(
        "stream",
        "stream: sequences run across documents; documents: each is read as if it stood alone",
        choices=("stream", "documents"),
    )
    val_fraction: float = key(
        0.02,
        "fraction of the corpus held out for validation; 0: the first text of data.validation "
        "validates, if there is one",
        low=0,
        high=0.9,
    )
    mix: Any = key(
        None,
        "shares of several corpora in every batch, as in {wiki: 0.7, code: 0.3}, instead of one "
        "corpus (docs/data.md)",
    )
    parts: Any = key(
        None,
        "the corpora of data.mix by name, each with its words, as in {wiki: {corpus: text, "
        "paths: [w.txt]}}; what they leave out is that of data",
    )
    validation: Any = key(
        None,
        "further texts with curves of their own, as in {books: {paths: [b.txt]}}; nothing of them "
        "is trained on",
    )
    order: str = key(
        "random",
        "order of the sequences; magic_prime: that of RWKV-LM, which depends on no seed",
        choices=("random", "magic_prime"),
    )
    magic_prime: int = key(
        0, "prime of order=magic_prime; 0: the largest that fits, as in RWKV-LM", low=0, high=2**50
    )
    batch_warmup: int = key(
        0,
        "first optimizer steps, over which batches grow from an eighth of batch_size; 0: none",
        low=0,
        high=STEPS,
    )
    length_warmup: int = key(
        0,
        "first optimizer steps, over which sequences grow from an eighth of length; 0: none",
        low=0,
        high=STEPS,
    )
    workers: int = key(
        0, "number of loader processes; the order of batches stays the same", low=0, high=PROCESSES
    )
    cache_dir: str = key(
        ".cache", "folder of prepared corpora; it can be deleted safely", path=True
    )
    verify: bool = key(
        False, "check the whole prepared corpus before it is used, instead of samples of it"
    )


@dataclass
class TuneConf:
    """What is trained of a model whose weights from= gives (docs/training.md)."""

    mode: str = key(
        "full",
        "full: all weights; lora: low-rank adapters beside them; state: the state before the "
        "first token",
        choices=("full", "lora", "state"),
    )
    rank: int = key(32, "rank of the adapters of tune=lora", low=1, high=2**20)
    alpha: float = key(32.0, "the adapters' product is scaled by alpha / rank", low=1e-6, high=1e6)
    targets: list[str] = key(
        [],
        "linear layers that get an adapter: att.key, or att or key for all in or of that name; "
        "none named: all of the blocks",
    )


@dataclass
class OptimConf:
    """The optimizer and its schedule: linear warm-up, then one of several decays."""

    name: str = key(
        "adamw",
        "optimizer; muon: Muon for the matrices of the blocks, AdamW for everything else",
        choices=OPTIMIZERS,
    )
    schedule: str = key(
        "cosine",
        "learning rate after the warm-up; wsd: constant, then a decay over the last decay_steps",
        choices=("cosine", "linear", "constant", "wsd"),
        aliases={"warmup_stable_decay": "wsd", "trapezoidal": "wsd", "none": "constant"},
    )
    decay_steps: int = key(
        0, "last optimizer steps of schedule=wsd, over which the rate falls", low=0, high=STEPS
    )
    decay_share: float = key(
        0.0, "decay_steps as a share of trainer.max_steps; 0: as decay_steps says", low=0, high=1
    )
    lr: float = key(1e-3, "peak learning rate", low=0, high=1e6)
    final_lr: float = key(1e-4, "learning rate of the last step", low=0, high=1e6)
    lr_width: int = key(
        0,
        "n_embd for which both rates are given; others use sqrt(lr_width / n_embd) times them",
        low=0,
        high=WIDTH,
    )
    warmup_steps: int = key(20, "optimizer steps of linear warm-up", low=0, high=STEPS)
    beta1: float = key(0.9, "decay of the gradient's mean", low=0, high=0.9999)
    beta2: float = key(0.99, "decay of the gradient's square", low=0, high=0.999999)
    eps: float = key(1e-8, "number added to the root of the gradient's square", low=0, high=1)
    weight_decay: float = key(
        0.1, "weight decay, applied to matrices only (see param_groups)", low=0, high=1e6
    )
    l2wrap: float = key(
        0.0,
        "weight of (largest logit)^2 / 2, minimised but not reported; official RWKV: 1e-4",
        low=0,
        high=1e6,
    )
    ema: float = key(
        0.0,
        "share kept per step of an average of the weights, validated beside them; 0: no average",
        low=0,
        high=0.999999,
    )
    z_loss: float = key(
        0.0,
        "weight of (log Z)^2, Z the softmax's normaliser; minimised, not reported; usual: 1e-4",
        low=0,
        high=1e6,
    )


def decay_steps(max_steps: int, optim: OptimConf) -> int:
    """How many steps the decay of `schedule=wsd` has: as given, or the nearest to a share."""
    return optim.decay_steps or round(optim.decay_share * max_steps)


@dataclass
class TrainerConf:
    """Arguments of Lightning's Trainer under its names, and how processes share the work."""

    max_steps: int = key(200, "number of optimizer steps", low=1, high=STEPS)
    accelerator: str = key("auto", "device to train on", choices=("auto", "cpu", "gpu"))
    devices: int = key(1, "number of processes on this machine", low=1, high=PROCESSES)
    strategy: str = key(
        "auto",
        "strategy by which processes share the work; auto: one process alone, or ddp",
        choices=("auto", "ddp", "fsdp", "deepspeed_1", "deepspeed_2", "deepspeed_3"),
    )
    sequence_parallel: bool = key(
        False, "split every sequence over the processes, instead of the batch"
    )
    offload: bool = key(False, "keep the shards of fsdp or deepspeed in CPU memory")
    precision: str = key(
        "auto",
        "precision of arithmetic and weights; auto: bf16-mixed on GPUs that have it, else 32-true",
        choices=("auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true"),
        aliases=PRECISIONS,
    )
    compile: str = key(
        "auto",
        "back end of torch.compile for the blocks; auto: inductor on a GPU, none elsewhere",
        choices=COMPILERS,
        aliases=NOT_COMPILERS,
    )
    accumulate_grad_batches: int = key(
        1, "number of micro-batches per optimizer step", low=1, high=SEQUENCES
    )
    gradient_clip_val: float = key(1.0, "largest gradient norm; 0: no limit", low=0, high=1e9)
    log_every_n_steps: int = key(
        10, "optimizer steps between rows of metrics.jsonl", low=1, high=STEPS
    )
    val_check_interval: int = key(
        100, "optimizer steps between validations; 0: only at the end", low=0, high=STEPS
    )
    enable_progress_bar: bool = key(True, "show a line of progress")


@dataclass
class TrainingConf:
    """The shared loop: how it saves memory, and how much it validates."""

    gradient_checkpointing: bool = key(False, "recompute each block in the backward pass")
    segment: int = key(
        0,
        "tokens that a recurrent model reads at once, which bounds its memory; 0: all",
        low=0,
        high=TOKENS,
    )
    bptt: str = key(
        "exact",
        "gradients across segments; truncated: they are cut at every boundary, which is cheaper",
        choices=("exact", "truncated"),
    )
    val_windows: int = key(
        32,
        "number of sequences per validation; the validation at the end reads all",
        low=1,
        high=STEPS,
    )
    patience: int = key(
        0,
        "end after this many validations in a row without a lower loss; 0: never",
        low=0,
        high=STEPS,
    )
    target_loss: float = key(
        0.0,
        "end once the validation loss, nats per token, is not above this; 0: never",
        low=0,
        high=1e3,
    )
    prune: str = key(
        "never",
        "median: end where the validation loss is above the median of 3 or more runs of the group",
        choices=("never", "median"),
    )
    also: list[str] = key(
        [],
        "further figures of each row: joules of the device's counter, mfu (share of peak_flops); "
        "on a GPU both are there unasked",
        choices=("joules", "mfu"),
    )
    peak_flops: float = key(
        0.0,
        "highest rate of all devices together, FLOP/s; 0: measured for also=[mfu]",
        low=0,
        high=AMOUNT,
    )
    price_per_hour: float | None = price_key(
        "each row then has the cost of the training steps so far", "training.currency="
    )
    currency: str | None = key(None, "currency of the price", choices=CURRENCIES)
    profile: str = key(
        "",
        "first and last optimizer step to profile, as in 20:25: a trace for Perfetto and a summary",
    )
    sample_every: int = key(
        0, "optimizer steps between texts that the model writes; 0: none", low=0, high=STEPS
    )
    sample_prompt: str = key("", "text that they continue", verbatim=True)
    sample_tokens: int = key(100, "number of tokens of such a text", low=1, high=TOKENS)
    on_nan: str = key(
        "stop",
        "at a NaN or infinite loss or gradient, stop the run or skip the step",
        choices=("stop", "skip"),
    )


@dataclass
class CheckpointConf:
    """When to save, and what to keep; the end is always saved, and the newest is always kept."""

    every_n_train_steps: int = key(
        100, "optimizer steps between saves; 0: never by steps", low=0, high=STEPS
    )
    every_minutes: float = key(0.0, "minutes between saves; 0: never by time", low=0, high=1e6)
    best: bool = key(True, "save at each new lowest validation loss too; false: no best is kept")
    keep: str = key(
        "last:2,best:1",
        "checkpoints that stay: any of last:N, best:N, every:STEPS, with commas between",
        commas=True,
    )
    sharded: bool = key(
        False, "each process writes its share into a folder; needs trainer.strategy=fsdp"
    )


@dataclass
class WandbConf:
    """Weights & Biases. Every number it gets is in metrics.jsonl too."""

    mode: str = key(
        "auto",
        "auto records online where there is a login, else offline",
        choices=("auto", "online", "offline", "disabled"),
        aliases=dict.fromkeys(("off", "none", "no", "false", "dryrun", "disable"), "disabled")
        | dict.fromkeys(("on", "yes", "true", "enabled"), "online"),
    )
    project: str = key("crossover", "project in which the runs appear")
    entity: str | None = key(None, "user or team; default: the one of the login")
    tags: list[str] = key([], "labels by which runs can be filtered")
    over: str = key(
        "step",
        "x axis that charts of a training have at first; all are in every row",
        choices=("step", "tokens", "flops", "seconds", "joules", "cost"),
    )
    log_checkpoint: bool = key(
        False, "upload the last checkpoint; false: record only its place and checksum"
    )


@dataclass
class TrainConf:
    """Train a model, or continue where it stopped."""

    name: str | None = key(
        None,
        "name that identifies the run; default: model, size, what differs from the defaults, seed",
        typed=True,
    )
    group: str | None = key(
        None, "sweep that the run belongs to; its folder is then runs/GROUP/NAME", typed=True
    )
    runs_dir: str = key("runs", "folder of the runs' folders", path=True)
    seed: int = key(
        0, "number that decides initialisation and the order of batches", low=0, high=2**32 - 1
    )
    resume: str = key(
        "auto",
        "auto: newest checkpoint; never: start again; or the path of a checkpoint, or a run",
        path=True,
    )
    init_from: str | None = key(
        None,
        "run, RUN@STEP, checkpoint, or file or folder of weights to start from",
        path=True,
    )
    take: str = key(
        "auto",
        "what to take over (ema: the averages of optim.ema as weights); auto: everything of a run "
        "or its checkpoint, the weights of a file",
        choices=("auto", *TAKES),
        commas=True,
    )
    trunk: str | None = key(
        None,
        "run of the same group whose steps up to the decay of schedule=wsd this one shares; it is "
        "trained so far first",
        typed=True,
    )
    resize_vocab: bool = key(
        False, "add or cut rows of embedding and head where from= has another vocabulary"
    )
    searched: str | None = key(
        None, "record in conf/searches/ of the search that chose the settings, by its name"
    )
    callbacks: list[Any] = key(
        [],
        "callbacks by Lightning's names, or path/to/file.py:Class; {name: ..., arguments} for more",
        typed=True,
    )
    loggers: list[Any] = key(
        [], "further loggers, named likewise: TensorBoardLogger, CSVLogger", typed=True
    )
    objective: str = key(
        "val/loss",
        "figure that a sweeper improves: that of the validation at the end. A loss is minimised; "
        "of an accuracy the share that is missed",
        choices=("val/loss", "val/bits_per_byte", "val/accuracy", "val/exact_match"),
    )
    model: Any = MISSING
    data: DataConf = field(default_factory=DataConf)
    tune: TuneConf = field(default_factory=TuneConf)
    optim: OptimConf = field(default_factory=OptimConf)
    trainer: TrainerConf = field(default_factory=TrainerConf)
    training: TrainingConf = field(default_factory=TrainingConf)
    checkpoint: CheckpointConf = field(default_factory=CheckpointConf)
    wandb: WandbConf = field(default_factory=WandbConf)


@dataclass
class ProbeConf:
    """Measure models over context lengths; with -m, several in one interleaved sweep."""

    group: str = key(
        "probe", "name of the sweep; its rows go to runs/GROUP/probes.jsonl", typed=True
    )
    runs_dir: str = key("runs", "folder of the runs' folders", path=True)
    seed: int = key(
        0, "number that decides weights, tokens and the order of points", low=0, high=2**32 - 1
    )
    model: Any = MISSING
    run: str | None = key(
        None, "trained weights to measure instead: run name, folder, or file of weights", path=True
    )
    vocab_size: int = key(
        3072,
        "number of tokens of the measured models' vocabulary; with run=: that of the file",
        low=2,
        high=VOCABULARY,
    )
    lengths: list[int] = key(
        [256, 512, 1024, 2048, 4096, 8192], "context lengths, tokens", low=1, high=TOKENS
    )
    probes: list[str] = key(
        ["train", "prefill", "decode"],
        "kinds of measurement (docs/probes.md)",
        choices=PROBES,
    )
    sweeps: list[str] = key(
        ["fixed_tokens", "batch_1"],
        "batch shapes to sweep: a fixed number of tokens, or one sequence",
        choices=("fixed_tokens", "batch_1"),
    )
    fixed_tokens: int = key(8192, "tokens per batch of the fixed_tokens sweep", low=1, high=TOKENS)
    processes: list[int] = key(
        [1],
        "fresh processes per point, spread over the whole sweep; several numbers: one per length",
        low=1,
        high=TIMES,
    )
    repeats: int = key(5, "least number of timed repeats within a process", low=1, high=TIMES)
    relative_half_width: float = key(
        0.02,
        "repeat until the 95 % interval of the median is so narrow; 0: no further repeats",
        low=0,
        high=1,
    )
    warmup: int = key(1, "number of untimed repeats before them", low=0, high=TIMES)
    decode_steps: int = key(
        32, "number of tokens decoded per repeat, starting at the position", low=1, high=TOKENS
    )
    repeat_seconds: float = key(
        6.0, "stop repeating a point after this many timed seconds", low=0, high=1e6
    )
    remeasure: float = key(
        0.5,
        "time to measure disturbed points again, as a share of the sweep's; 0: keep them",
        low=0,
        high=1e3,
    )
    memory_budget_gib: float = key(
        0.25, "memory that max_batch fills with sequences", low=1e-3, high=1e6
    )
    unmatched: bool = key(
        False, "measure models whose numbers of parameters differ by more than 1 %"
    )
    accelerator: str = key("auto", "device to measure on", choices=("auto", "cpu", "gpu"))
    precision: str = key(
        "auto",
        "precision of weights and arithmetic; auto: bfloat16 on GPUs that have it, else float32",
        choices=("auto", "float32", "bfloat16", "float16"),
        aliases=SHORT,
    )
    compile: str = key(
        "auto",
        "back end of torch.compile for the blocks; auto: inductor on a GPU, none elsewhere",
        choices=COMPILERS,
        aliases=NOT_COMPILERS,
    )
    threads: str = key(
        "auto",
        "number of CPU threads; auto: as many as physical cores are free; 0: PyTorch's default",
    )
    timeout_s: float = key(600.0, "longest time of one point, seconds", low=0.1, high=1e6)
    memory_gib: float = key(0.0, "memory limit of one point; 0: what is available", low=0, high=1e6)
    wandb: WandbConf = field(default_factory=WandbConf)


@dataclass
class RepeatabilityConf(ProbeConf):
    """Run a sweep twice, several times over, and compare the crossovers; -m as for probe.py."""

    pairs: int = key(10, "number of times the sweep is run twice", low=1, high=TIMES)


@dataclass
class BusyConf(ProbeConf):
    """Run a sweep beside busy processes and compare verdicts with quiet ones; -m as in probe.py."""

    times: int = key(10, "number of sweeps beside each number of busy processes", low=1, high=TIMES)
    beside: list[int] = key([0, 1, 2], "numbers of busy processes", low=0, high=64)


@dataclass
class MachineConf:
    """A device and its surroundings. `sources` says where each figure comes from."""

    title: str = key(MISSING, "name shown to people")
    device: str = key(MISSING, "device whose kernels are planned with", choices=("cpu", "cuda"))
    measure: bool = key(
        False, "measure the rates of this machine now; the figures below are then not used"
    )
    flops_fp32: float = key(0.0, "peak of matrix products in fp32, FLOP/s", low=0, high=AMOUNT)
    flops_bf16: float = key(0.0, "peak in bf16, without sparsity, FLOP/s", low=0, high=AMOUNT)
    memory_bytes: float = key(0.0, "memory of one device", low=0, high=AMOUNT)
    memory_bytes_s: float = key(0.0, "peak bandwidth of that memory, bytes/s", low=0, high=AMOUNT)
    matmul_efficiency: float = key(
        1.0, "share of the peak that matrix products reach", low=0.01, high=1
    )
    attention_efficiency: float = key(
        1.0, "share of the peak that attention reaches", low=0.01, high=1
    )
    memory_efficiency: float = key(1.0, "share of the bandwidth that is reached", low=0.01, high=1)
    recurrence_flops: float = key(0.0, "rate of the WKV kernels, FLOP/s", low=0, high=AMOUNT)
    launch_seconds: float = key(0.0, "least time of an operation", low=0, high=1)
    devices_per_node: int = key(1, "devices that share a network connection", low=1, high=DEVICES)
    link_bytes_s: float = key(
        1e9, "bandwidth between devices of a node, each way, bytes/s", low=1, high=AMOUNT
    )
    network_bytes_s: float = key(
        1e9, "bandwidth between nodes, per node, each way, bytes/s", low=1, high=AMOUNT
    )
    overlap: float = key(
        0.0, "share of the computing time behind which traffic can hide", low=0, high=1
    )
    storage_bytes_s: float = key(
        1e9, "rate at which the whole job writes checkpoints, bytes/s", low=1, high=AMOUNT
    )
    price_per_hour: float = key(0.0, "price of one device-hour; 0: not stated", low=0, high=1e9)
    currency: str = key("USD", "currency of the price")
    sources: dict[str, str] = key({}, "where the figures come from: published, measured, assumed")


@dataclass
class PlanDataConf:
    """The batches of the training that is planned."""

    length: int = key(4096, "context length, tokens", low=1, high=TOKENS)
    batch_size: int = key(
        0, "sequences per step over all devices; 0: one for each device", low=0, high=TOKENS
    )
    vocab_size: int = key(65536, "number of tokens of the vocabulary", low=2, high=VOCABULARY)


@dataclass
class PlanConf:
    """Predict memory, time and cost of a training step, for every strategy."""

    model: Any = MISSING
    machine: MachineConf = field(default_factory=MachineConf)
    data: PlanDataConf = field(default_factory=PlanDataConf)
    devices: int = key(1, "number of devices that train together", low=1, high=DEVICES)
    precision: str = key(
        "bf16-mixed",
        "precision of arithmetic and weights",
        choices=("32-true", "bf16-mixed", "bf16-true"),
        aliases=PRECISIONS,
    )
    segment: int = key(
        2048, "tokens of a segment, for models whose state can be carried", low=1, high=TOKENS
    )
    tokens: float = key(
        0.0, "number of tokens of the whole training, for its time and cost", low=0, high=AMOUNT
    )
    lengths: list[int] = key([], "context lengths of the curve; needs out=", low=1, high=TOKENS)
    runs: list[str] = key([], "probe groups whose measured rows stand beside the curve", path=True)
    out: str | None = key(None, "folder for plan.json and, with lengths=, index.html", path=True)
    threads: int = key(
        0, "CPU threads of machine=here; 0: PyTorch's default", low=0, high=PROCESSES
    )
    mtbf_hours: float = key(
        50_000.0, "mean time between failures of one device", low=0.001, high=1e9
    )
    checkpoint_bytes: float = key(
        0.0, "size of a checkpoint; 0: weights and optimizer state", low=0, high=AMOUNT
    )
    restart_minutes: float = key(10.0, "time from a failure to the next step", low=0, high=1e6)


@dataclass
class ReportConf:
    """Turn probe rows and finished trainings into one page, figures and tables."""

    runs: list[str] = key(
        MISSING, "folders of runs or groups, or their names below runs/", path=True
    )
    out: str | None = key(
        None, "folder to write; default: report/ inside the first of them", path=True
    )
    others: list[str] = key(
        [],
        "crossover.json files of others, or their folders: a map of crossovers by machine",
        path=True,
    )
    slope_from: int = key(1024, "shortest context length of the log-log slope", low=1, high=TOKENS)
    slope_to: int = key(8192, "longest context length of the slope, inclusive", low=1, high=TOKENS)
    allow_mixed: bool = key(False, "compare rows of different machines, precisions or versions")
    price_per_hour: float | None = price_key("a million tokens then have a price too")
    currency: str | None = key(None, "currency of the price", choices=CURRENCIES)
    wandb: WandbConf = field(default_factory=WandbConf)


@dataclass
class VerifyConf:
    """Compare reports of several machines, and measure random points of them again."""

    reports: list[str] = key(MISSING, "crossover.json files, or the folders they lie in", path=True)
    points: int = key(
        3,
        "number of points to repeat; 0: put the reports' crossovers side by side",
        low=0,
        high=TIMES,
    )
    seed: int = key(0, "number that decides which points", low=0, high=2**32 - 1)
    processes: int = key(
        0, "fresh processes per point; 0: as many as the report had", low=0, high=TIMES
    )
    accelerator: str = key("auto", "device to measure on", choices=("auto", "cpu", "gpu"))
    out: str = key("runs/verify", "folder to write", path=True)


@dataclass
class RunsConf:
    """List all runs and which began from which; what became of each."""

    view: str = key(
        "tree", "arrangement of the list; the word `tree` alone means it too", choices=("tree",)
    )
    runs_dir: str = key("runs", "folder of the runs' folders", path=True)


@dataclass
class OpeningConf:
    """How weights are opened, with their tokenizer, on a device."""

    run: Any = MISSING
    weights: str = key(
        "raw",
        "weights of a run to use; ema: their average, of a run with optim.ema",
        choices=("raw", "ema"),
    )
    tokenizer: str | None = key(
        None, "path of the tokenizer; default: the one that lies with the run", path=True
    )
    runs_dir: str = key("runs", "folder of the runs' folders", path=True)
    accelerator: str = key("auto", "device to run on", choices=("auto", "cpu", "gpu"))
    dtype: str = key(
        "auto",
        "precision of weights and arithmetic; auto: the file's; int8: matrices in int8 and the "
        "rest in float32, on a CPU",
        choices=(*DTYPES, INT8),
        aliases=SHORT,
    )


@dataclass
class WeightsConf(OpeningConf):
    """Weights that a script opens, with their tokenizer, on a device."""

    run: str = key(
        MISSING, "run name (GROUP/NAME in a sweep), folder, or file of weights", path=True
    )


@dataclass
class SamplingConf(WeightsConf):
    """Weights that a script opens, and how it draws tokens from them."""

    temperature: float = key(
        0.8, "randomness of the sampling; 0: always the likeliest token", low=0, high=1e6
    )
    top_k: int = key(
        50, "number of likeliest tokens to sample among; 0: all", low=0, high=VOCABULARY
    )
    top_p: float = key(
        1.0, "sample among the fewest likeliest tokens that have this probability", low=1e-6, high=1
    )
    seed: int = key(0, "number that decides the sampled tokens", low=0, high=2**32 - 1)


@dataclass
class ChatConf(SamplingConf):
    """Talk to a model in the terminal, turn by turn."""

    chat: str = chat_key()
    system: str = key("", "what the model is told before the first turn", verbatim=True)
    tokens: int = key(500, "most tokens of an answer", low=1, high=TOKENS)


@dataclass
class GenerateConf(SamplingConf):
    """Continue a prompt with a trained run or with others' weights, token by token."""

    prompt: str = key("", "text to continue", verbatim=True)
    prompts: str | None = key(
        None, "file of JSON lines with a prompt each, all to be continued; needs out=", path=True
    )
    out: str | None = key(None, "file to write with prompts=: each line with its answer", path=True)
    tokens: int = key(200, "number of tokens to generate", low=1, high=TOKENS)
    beam: int = key(
        0,
        "instead of sampling, search the likeliest answer with so many beginnings at a time",
        low=0,
        high=1024,
    )


@dataclass
class ServeConf(OpeningConf):
    """Answer prompts with models, live in a page and through the OpenAI API."""

    run: list[str] = key(
        MISSING,
        "models: run names (GROUP/NAME in a sweep), folders, or files of weights",
        path=True,
    )
    host: str = key("127.0.0.1", "address to listen on; the default is this machine's own")
    port: int = key(8000, "port to listen on; 0: any that is free", low=0, high=65535)
    key_file: str | None = key(
        None, "file with the key that requests must carry; default: none", path=True
    )
    keys_file: str | None = key(
        None,
        "file of JSON with several keys by name, each with its budget (docs/serving.md)",
        path=True,
    )
    accounts_file: str = key(
        "accounts.json", "file of what each key of keys_file has used", path=True
    )
    price_per_hour: float | None = price_key("answers then have a cost")
    currency: str | None = key(None, "currency of the price", choices=CURRENCIES)
    routes: Any = key(
        None,
        "names for several models, of which the first that can answers, as in {best: [A, B]} "
        "(docs/serving.md)",
    )
    first_token_seconds: float = key(
        30.0, "seconds that a route waits for a model's first token", low=0.01, high=1e6
    )
    next_token_seconds: float = key(
        10.0, "seconds that a route waits for each further token, before it sends any", low=0.01,
        high=1e6,
    )  # fmt: skip
    chat: str = chat_key()
    states_dir: str = key("states", "folder of saved states", path=True)
    most_waiting: int = key(
        256, "requests at a time, above which one is refused", low=1, high=10**6
    )
    most_waiting_each: int = key(
        128,
        "requests of one model at a time, above which a route asks the next, or one is refused",
        low=1,
        high=10**6,
    )
    drain_seconds: float = key(
        2.0, "seconds from SIGTERM, and /ready saying no, to closing the address", low=0, high=3600
    )
    most_body_bytes: int = key(8 << 20, "bytes of a request", low=1 << 10, high=1 << 30)


@dataclass
class EvaluateConf(WeightsConf):
    """Measure the loss of weights on texts, their answers to the harness's tasks, their memory."""

    data: DataConf | None = key(
        None, "corpus whose texts are read, in the words of a training: data=text data.paths=..."
    )
    part: str = key(
        "all",
        "documents of the corpus to read; val: those that a training with these words holds out",
        choices=("all", "train", "val"),
    )
    context: int = key(
        0,
        "most tokens of context; 0: all for a recurrent model, for others those of its training",
        low=0,
        high=TOKENS,
    )
    tasks: list[str] = key([], "tasks of EleutherAI's lm-evaluation-harness, by its names")
    tasks_file: str | None = key(
        None, "file of JSON lines: the examples of the one task, in place of its own", path=True
    )
    include_path: str | None = key(
        None, "folder with further tasks for the harness, which may run code in it", path=True
    )
    fewshot: int | None = key(
        None, "solved examples before each question; default: the task's", low=0, high=1000
    )
    limit: int = key(0, "most examples per task; 0: all", low=0, high=TIMES)
    memory: int = key(
        0,
        "tokens of the windows in which it is asked how far back moves the logits; 0: not asked",
        low=0,
        high=1 << 14,
    )
    out: str | None = key(None, "folder for evaluation.json; default: that of the run", path=True)


@dataclass
class ConvertConf:
    """Write weights in a format that other tools read."""

    source: str = key(MISSING, "run name, folder, or file of weights", verbatim=True, path=True)
    weights: str = key(
        "raw",
        "weights of a run to write; ema: their average, of a run with optim.ema",
        choices=("raw", "ema"),
    )
    target: str = key(MISSING, "file or, for hf, directory to write", verbatim=True, path=True)
    format: str = key(
        MISSING,
        "official: RWKV's .pth; hf: Hugging Face directory; safetensors: one file; gguf: "
        "llama.cpp; adapter, state: what tune=lora or tune=state has trained, alone",
        choices=("official", "hf", "safetensors", "gguf", "adapter", "state"),
    )
    tokenizer: str | None = key(
        None,
        "path of the tokenizer to put into the target; default: the one beside the source",
        path=True,
    )
    dtype: str = key(
        "auto",
        "precision of the written weights; auto: the source's",
        choices=DTYPES,
        aliases=SHORT,
    )
    overwrite: bool = key(False, "replace the target if it exists")
    runs_dir: str = key("runs", "folder of the runs' folders", path=True)


@dataclass
class PrepareConf:
    """Prepare the corpus of a training, once and before it, and write it for other tools."""

    data: DataConf = field(default_factory=DataConf)
    binidx: str | None = key(
        None,
        "path without suffix: RWKV-LM's and Megatron's .bin and .idx are written there",
        verbatim=True,
        path=True,
    )
    part: str = key("train", "documents that go into binidx=", choices=("train", "val", "all"))
    overwrite: bool = key(False, "replace the files if they exist")


@dataclass
class DemoConf:
    """Train two small models, measure them and write the report, within minutes."""

    group: str = key("demo", "name of the group; everything goes to runs/GROUP", typed=True)
    runs_dir: str = key("runs", "folder of the runs' folders", path=True)
    minutes: float = key(
        5.0,
        "minutes within which the demo ends; the sweep is repeated while they last",
        low=0.1,
        high=1e6,
    )
    passes: int = key(3, "most processes in which every point is measured", low=1, high=TIMES)


EVIDENCE = ("recall", "copying", "lookup", "state_tracking", "parity", "language")


@dataclass
class EvidenceConf:
    """Run the experiments of the evidence page, or go on with them, and write the page."""

    experiments: list[str] = key([*EVIDENCE], "experiments to run and to show", choices=EVIDENCE)
    runs_dir: str = key("runs", "folder of the runs' folders", path=True)
    out: str | None = key(None, "folder to write; default: evidence/ in runs_dir", path=True)
    minutes: float = key(
        90.0,
        "minutes after which trainings are stopped and saved; the same command goes on",
        low=0,
        high=1e6,
    )
    train: bool = key(True, "train; false: write the page of what there is")
    costs: bool = key(True, "measure training, decoding and memory of the models too")
    workers: int = key(
        0, "experiments at once, a thread each; 0: one for each core, or one on a GPU", low=0,
        high=PROCESSES,
    )  # fmt: skip
    words: list[str] = key(
        [], 'words that every training gets too, as in words=\'["seed=0","model=lstm"]\''
    )


FAULTS = (
    "kill", "terminate", "corrupt", "disk", "lines", "edges", "corpora", "runs", "reports",
    "places", "weights",
)  # fmt: skip


@dataclass
class TortureConf:
    """Provoke every fault that a run must survive, and count what is lost."""

    runs: int = key(
        100,
        "trainings to kill; half as many for SIGTERM, ten times the command lines",
        low=1,
        high=1e6,
    )
    seed: int = key(
        0, "number that decides instants, damage and command lines", low=0, high=2**32 - 1
    )
    faults: list[str] = key([*FAULTS], "kinds of faults to provoke", choices=FAULTS)


SCRIPTS: dict[str, type] = {
    "train": TrainConf,
    "probe": ProbeConf,
    "repeatability": RepeatabilityConf,
    "busy": BusyConf,
    "plan": PlanConf,
    "report": ReportConf,
    "verify": VerifyConf,
    "runs": RunsConf,
    "generate": GenerateConf,
    "chat": ChatConf,
    "serve": ServeConf,
    "evaluate": EvaluateConf,
    "convert": ConvertConf,
    "prepare": PrepareConf,
    "torture": TortureConf,
    "demo": DemoConf,
    "evidence": EvidenceConf,
}
RENAMED = {
    "training.log_every": "trainer.log_every_n_steps",
    "training.val_every": "trainer.val_check_interval",
    "training.progress": "trainer.enable_progress_bar",
    "checkpoint.every": "checkpoint.every_n_train_steps",
}
"""Keys that older versions called otherwise: their runs resume, and the old words are taken."""
SPELLED = {"from": "init_from"}
"""Words of a command line for keys that Python could not call so."""
VERBS = {"runs": {"tree": "view=tree"}}
"""Words without a value, by script, and what they stand for."""
SPELLING = {key: word for word, key in SPELLED.items()}
ADDED = (
    "optim.name", "optim.schedule", "optim.decay_steps", "init_from", "take", "resize_vocab",
    "data.batch_warmup", "data.length_warmup",
    "data.field", "data.template", "data.encoding", "data.on_bad", "data.split", "data.ids",
    "data.chat", "data.prompt", "data.answer", "data.special_tokens",
    "data.end_of_text",
    "optim.decay_share", "optim.z_loss", "optim.ema", "trunk",
    "training.patience", "training.target_loss", "training.prune",
    "training.also", "training.peak_flops", "training.price_per_hour", "training.currency",
    "wandb.over", "searched", "training.profile", "training.sample_every",
    "training.sample_prompt", "training.sample_tokens", "callbacks", "loggers",
    "checkpoint.sharded",
    "data.mix", "data.parts", "data.validation", "data.order", "data.magic_prime", "data.task",
    "tune.mode", "tune.rank", "tune.alpha", "tune.targets", "trainer.compile",
)  # fmt: skip
"""Keys of a training that runs of older versions have not recorded. The default of such a key is
what was done before it existed."""
READING = (
    "data.paths", "data.markup", "data.field", "data.template", "data.encoding", "data.on_bad",
    "data.split", "data.ids", "data.chat", "data.prompt", "data.answer", "data.end_of_text",
)  # fmt: skip
"""Keys that say which texts a corpus has. Its fingerprint decides what they are."""
COUNTED = (
    "searched",
    "training.also", "training.peak_flops", "training.price_per_hour", "training.currency",
)  # fmt: skip
"""Keys that only decide what the rows and records of a training say."""
HOUSEKEEPING = (
    "name", "group", "runs_dir", "resume", "wandb", "checkpoint", "objective",
    "data.cache_dir", "data.verify", "data.workers", "data.validation",
    "trainer.enable_progress_bar", "trainer.log_every_n_steps", "loggers",
    "training.profile", "training.sample_every", "training.sample_prompt",
    "training.sample_tokens", *COUNTED,
)  # fmt: skip
"""Keys and groups of keys of a training that say where things go, how often they are saved or how
they are shown; they change nothing that is learned."""
PLACES = {"busy": "benchmarks", "repeatability": "benchmarks", "torture": "tests/faults"}
"""Folders of the scripts that are not in `scripts/`."""


def is_in(key: str, groups: Iterable[str]) -> bool:
    """Whether a dotted key is one of these keys and groups of keys, or inside one."""
    return any(key == group or key.startswith(f"{group}.") for group in groups)


def script_path(name: str) -> str:
    """The file of a script, from the root of the repository."""
    return f"{PLACES.get(name, 'scripts')}/{name}.py"


@functools.cache  # Hydra takes tens of milliseconds to read all of them, and keeps them
def register(script: str) -> None:
    """Make the schemas of a script known to Hydra, under the names the YAML files use."""
    store = ConfigStore.instance()
    store.store(name=f"{script}_schema", node=SCRIPTS[script])
    store.store(group="data", name="schema", node=DataConf)
    store.store(group="tune", name="schema", node=TuneConf)
    store.store(group="machine", name="schema", node=MachineConf)
