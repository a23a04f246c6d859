"""Bad command lines are refused with every problem at once; good ones are not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from conf import schema
from conf.schema import FOLDER
from scripts.cli.arguments import quoted
from scripts.cli.check import problems_of

GOOD = [
    ("train", []),
    ("train", ["model=gpt", "data.length=64", "trainer.max_steps=3", "name=first"]),
    ("train", ["-m", "model=rwkv4,transformer,gpt", "seed=0,1"]),
    ("train", ["model.n_layer=3", "model.size=tiny"]),
    ("train", ["data.paths=[]", "wandb.tags=[a,b]", "optim.lr=1e-4", "optim.final_lr=0"]),
    ("train", ["model=transformer", "model.dropout=0", "model.rope_factor=8"]),
    ("train", ["experiment=demo"]),
    ("train", ["+experiment=null"]),
    ("train", ["checkpoint.keep='last:1,best:2'"]),
    ("train", ["data=jsonl", "data.paths=[a.jsonl]", "data.template={a}", "data.encoding=utf-16"]),
    (
        "train",
        [  # what one of the corpora looks at
            "data.mix={a: 1, b: 1}",
            "data.parts={a: {corpus: jsonl, paths: [a.jsonl]}, b: {corpus: stdlib}}",
            "data.chat=rwkv",
        ],
    ),
    ("train", ["-m", "experiment=scaling_law"]),
    ("train", ["-m", "experiment=scaling_law", "model=gpt", "seed=0,1"]),
    ("train", ["-m", "experiment=scaling_law_trunks"]),
    ("train", ["model=rwkv7", "training.segment=512", "data.packing=documents"]),
    ("train", ["training.segment=100", "training.bptt=truncated"]),
    ("probe", ["-m", "model=rwkv4,transformer", "lengths=[64,128]"]),
    ("report", ["runs=[runs/a,runs/b]", "slope_from=512"]),
    ("report", ["runs=[runs/a]", "price_per_hour=2.50", "currency=EUR"]),
    ("train", ["-m", "hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=60"]),
    ("generate", ["run=first", "prompt=def foo(x, y=None):", "temperature=0"]),
    ("generate", ["run=first", "beam=4"]),
    ("train", ["model=seq2seq", "data=reversal", "model.attention=additive"]),
    (
        "train",
        ["model=encdec", "data=copy", "training.sample_every=9", "training.sample_prompt=ab|"],
    ),
    ("probe", ["model=seq2seq", "lengths=[64]"]),
]

RECORDS = "jsonl, tables, hub and files"
TOKENS = ["data.paths=[a.bin]", "data.tokenizer=bytes"]
BAD = [
    ("train", ["modle=gpt"], ["unknown key 'modle'; did you mean 'model'?"]),
    ("train", ["data.lenght=3"], ["unknown key 'data.lenght'; did you mean 'data.length'?"]),
    ("train", ["max_steps=3"], ["unknown key 'max_steps'; did you mean 'trainer.max_steps'?"]),
    # What a word that is not read leaves open is no reason for a second complaint.
    (
        "train",
        ["data=text", "data.paths=[a.txt]", "~experiment"],
        ["'~experiment': keys cannot be added or removed; write key=value"],
    ),
    (
        "train",
        ["+data=text", "data.paths=[a.txt]", "optim.lr=-1"],
        [
            "'+data=text': keys cannot be added or removed; write key=value",
            "optim.lr=-1.0: must be at least 0",
        ],
    ),
    ("train", ["model=rwkw4"], ["model=rwkw4: no such model; did you mean 'rwkv4'?"]),
    *(
        (
            "train",
            [f"data={name}", *words, f"data.{key}={value}"],
            [f"data.{key}={shown} changes nothing with data={name}: it is for data={readers}"],
        )
        for name, words, key, value, shown, readers in (
            ("text", ["data.paths=[a.txt]"], "chat", "rwkv", "'rwkv'", RECORDS),
            ("text", ["data.paths=[a.txt]"], "template", "{a}", "'{a}'", RECORDS),
            ("text", ["data.paths=[a.txt]"], "ids", "uint32", "'uint32'", "tokens"),
            ("stdlib", [], "template", "{a}", "'{a}'", RECORDS),
            ("stdlib", [], "field", "body", "'body'", RECORDS),
            ("stdlib", [], "encoding", "latin-1", "'latin-1'", "text, jsonl and files"),
            ("stdlib", [], "markup", "true", "True", "text and files"),
            ("stdlib", [], "split", "test", "'test'", "hub"),
            ("tokens", TOKENS, "on_bad", "skip", "'skip'", RECORDS),
            ("tokens", TOKENS, "special_tokens", "whole", "'whole'", "stdlib, text, jsonl"),
            ("tables", ["data.paths=[a.txt]"], "encoding", "utf-16", "'utf-16'", "text, jsonl"),
            ("mqar", [], "vocab_size", "512", "512", "stdlib, text"),
            ("mqar", [], "val_fraction", "0.1", "0.1", "stdlib, text"),
            ("mqar", [], "chat", "rwkv", "'rwkv'", RECORDS),
        )
    ),
    (
        "train",
        ["data=jsonl", "data.paths=[a.jsonl]", "data.field=body", "data.template={a}"],
        ["data.field='body' changes nothing beside data.template, data.chat, data.prompt or "],
    ),
    (
        "train",
        [
            "data.mix={a: 1, b: 1}",
            "data.parts={a: {corpus: jsonl, paths: [a.jsonl], markup: true}, b: {corpus: stdlib}}",
            "data.split=test",
        ],
        ["data.split='test' changes nothing", "data.parts.a: data.markup=True changes nothing"],
    ),
    ("train", ["data=wikipedia"], ["data=wikipedia: no such data; choose one of "]),
    ("train", ["trainer.max_steps=ten"], ["trainer.max_steps=ten: expected an integer"]),
    (
        "report",
        ["runs=[a]", "currency=EUR", "price_per_hour=2.5 EUR"],
        ["price_per_hour=2.5 EUR: expected a number; its unit goes into currency="],
    ),
    (
        "report",
        ["runs=[a]", "price_per_hour=-2", "currency=EUR"],
        ["price_per_hour=-2.0: must be at least 0"],
    ),
    (
        "report",
        ["runs=[a]", "price_per_hour=nan", "currency=EUR"],
        ["price_per_hour=nan: must be a finite number"],
    ),
    (
        "report",
        ["runs=[a]", "price_per_hour=2", "currency=EURO"],
        ["currency='EURO': not one of its values; did you mean 'EUR'?"],
    ),
    (
        "generate",
        ["run=a", "beam=2", "temperature=0.1"],
        ["temperature=0.1 changes nothing about beam=2: leave it out"],
    ),
    (
        "generate",
        ["run=a", "beam=2", "prompts=README.md", "out=b"],
        ["beam=2 is for one prompt=: the prompts of a file are sampled"],
    ),
    (
        "train",
        ["model=seq2seq"],
        ["and data=stdlib has no separator: use data=copy, data=reversal, "],
    ),
    (
        "train",
        ["model=encdec", "data=mqar"],
        ["model=encdec reads a source, a separator and a target, and data=mqar has no separator"],
    ),
    (
        "train",
        ["model=seq2seq", "data=copy", "model.separator=3"],
        ["model.separator=3: that of data=copy is token 27, the default"],
    ),
    (
        "train",
        ["model=pointer", "data=copy"],
        [
            "model=pointer writes places of its source, and what data=copy asks for is none: use "
            "data=sorting or data=convex_hull"
        ],
    ),
    (
        "train",
        ["model=pointer", "data=convex_hull", "model.places=9"],
        [
            "model.places=9: data=convex_hull needs model.places=26",
            "model.item=1: data=convex_hull needs model.item=2",
        ],
    ),
    (
        "train",
        ["model=seq2seq", "data=copy", "training.sample_every=9", "training.sample_prompt=ab"],
        ["training.sample_prompt='ab' has no '|', after which model=seq2seq writes"],
    ),
    (
        "train",
        ["model=sagan"],
        ["model=sagan makes whole images, and of data=stdlib nothing tells which are right: use"],
    ),
    (
        "train",
        ["model=sagan", "data=two_blobs", "optim.z_loss=1e-4", "objective=val/accuracy"],
        ["has val/exact_match", "no logits, blocks or falling loss: without optim.z_loss=0.0001"],
    ),
    ("train", ["model=sagan", "data=two_blobs", "data.length=80"], ["an image is square"]),
    (
        "probe",
        ["model=sagan", "lengths=[64,100,200]"],
        ["model=sagan makes images and reads nothing: probes=[train]", "lengths=200: model=sagan"],
    ),
    ("plan", ["model=sagan"], ["model=sagan makes images: no step of it is planned"]),
    ("report", ["runs=[a]", "price_per_hour=2"], ["price_per_hour=2 has no unit: add currency="]),
    ("probe", ["lengths=[]"], ["lengths=[]: give at least one context length"]),
    (
        "train",
        ["model=transformer", "model.window=1e400"],
        ["model.window=inf: must be a finite number"],
    ),
    (
        "train",
        ["model=transformer", "model.rope_base=nan"],
        ["model.rope_base=nan: must be a finite number"],
    ),
    ("train", ["model=transformer", "model.name={}"], ["model.name={}: expected a name"]),
    (
        "train",
        ["-m", "model=transformer", "model.name=1,2"],
        ["model.name=1: expected a name", "model.name=2: expected a name"],
    ),
    ("train", ["optim.lr=fast"], ["optim.lr=fast: expected a number"]),
    (
        "train",
        ["trainer.enable_progress_bar=maybe"],
        ["trainer.enable_progress_bar=maybe: expected true or false"],
    ),
    ("train", ["trainer.max_steps=0"], ["trainer.max_steps=0: must be at least 1"]),
    ("train", ["data.val_fraction=2"], ["data.val_fraction=2.0: must be at most 0.9"]),
    (
        "train",
        ["trainer.precision=32-ture"],
        ["trainer.precision='32-ture': not one of its values; did you mean '32-true'?"],
    ),
    ("train", ["model.size=6m"], ["model.size='6m' is not a size of rwkv4; did you mean '5m'?"]),
    ("train", ["model.n_layer=two"], ["model.n_layer=two: expected an integer"]),
    (
        "train",
        ["model=transformer", "model.n_head=3"],
        ["model.n_embd=256 must be a multiple of model.n_head=3"],
    ),
    (
        "train",
        ["model=gpt", "data.length=2048"],
        ["model.n_positions=1024 is shorter than data.length=2048"],
    ),
    ("train", ["optim.final_lr=1"], ["optim.final_lr=1.0 is above optim.lr=0.001"]),
    (
        "train",
        ["training.segment=513"],
        ["training.segment=513 is longer than data.length=512: lower it, or use 0"],
    ),
    (
        "train",
        ["model=transformer", "training.segment=64"],
        ["training.segment=64: transformer has no state that carries gradients; use"],
    ),
    (
        "train",
        ["training.bptt=truncated", "trainer.precision=16-mixed", "trainer.accelerator=cpu"],
        ["set training.segment", "cannot scale gradients in time", "needs a GPU"],
    ),
    (
        "train",
        ["trainer.strategy=deepspeed_3", "training.segment=64", "data.packing=documents"],
        ["training.segment=64: deepspeed_3 gathers", "data.packing=documents: deepspeed_3 gathers"],
    ),
    (
        "train",
        ["trainer.strategy=fsdp", "trainer.offload=true", "trainer.accelerator=cpu"],
        ["trainer.offload=true: with fsdp on a CPU"],
    ),
    (
        "train",
        ["checkpoint.sharded=true", "trainer.strategy=deepspeed_2"],
        ["checkpoint.sharded=true needs trainer.strategy=fsdp, not deepspeed_2: leave it out"],
    ),
    ("train", ["checkpoint.sharded=true"], ["checkpoint.sharded=true needs trainer.strategy=fsdp"]),
    ("train", ["trainer.offload=true"], ["trainer.offload=true needs trainer.strategy=fsdp or"]),
    ("train", ["trainer.sequence_parallel=true"], ["needs several processes"]),
    (
        "train",
        [
            "trainer.sequence_parallel=true",
            "trainer.devices=2",
            "trainer.strategy=fsdp",
            "data.packing=documents",
            "data.length=129",
            "data.batch_size=3",
        ],
        ["not with trainer.strategy='fsdp'", "cannot be split", "data.length=129 cannot be shared"],
    ),
    (
        "train",
        [
            "model=rwkv7",
            "trainer.sequence_parallel=true",
            "trainer.devices=2",
            "data.length=128",
            "training.segment=48",
        ],
        ["training.segment=48: with trainer.sequence_parallel=true it must divide data.length=128"],
    ),
    (
        "train",
        ["trainer.strategy=deepspeed_1", "trainer.precision=bf16-true"],
        ["trainer.precision='bf16-true': with deepspeed, 32-true or bf16-mixed"],
    ),
    ("train", ["data.packing=apart"], ["data.packing='apart': not one of its values"]),
    ("train", ["data=text"], ["data=text needs data.paths, e.g. data.paths='[book.txt]'"]),
    ("train", ["name=a/b"], ["name='a/b' is not a folder name"]),
    ("train", ["group=.."], ["group='..' is not a folder name"]),
    ("train", ["resume=nothing.ckpt"], ["resume='nothing.ckpt': not auto or never"]),
    ("train", ["model=rwkv4,gpt"], ["'model=rwkv4,gpt' names several values: add -m"]),
    (
        "train",
        ["-m", "data=text", "data.paths=[range(5)]"],
        ["a range or a choice cannot stand within a list"],
    ),
    ("train", ["-m", "model=rwkv4,gpt", "name=a"], ["name=a would name every run of model"]),
    (
        "train",
        ["-m", "experiment=scaling_law", "name=a"],
        ["name=a would name every run of model, model.size, trainer.max_steps"],
    ),
    (
        "train",
        ["-m", "experiment=scaling_law", "model=rwkv7,mamba"],
        ["model=mamba: no such model"],
    ),
    ("train", ["trunk=a"], ["trunk=a shares the steps before the decay: give optim.schedule=wsd"]),
    (
        "train",
        ["trunk=a", "name=a", "optim.schedule=wsd", "optim.decay_share=0.1", "resume=first.ckpt"],
        ["trunk=a is the name of this run", "resume=first.ckpt: this run begins", "resume='first"],
    ),
    (
        "train",
        ["optim.schedule=wsd", "optim.decay_share=0.1", "optim.decay_steps=5"],
        ["optim.decay_steps=5 and optim.decay_share=0.1: give one of them"],
    ),
    ("train", ["optim.decay_share=0.1"], ["optim.decay_share=0.1 changes nothing with"]),
    ("train", ["training.sample_tokens=9"], ["changes nothing without training.sample_every"]),
    ("train", ["training.sample_prompt=a"], ["changes nothing without training.sample_every"]),
    ("train", ["training.peak_flops=1e12"], ["changes nothing without training.also=[mfu]"]),
    ("train", ["training.currency=EUR"], ["training.currency=EUR is the unit of a price"]),
    ("train", ["trainer.max_steps"], ["'trainer.max_steps' is not of the form key=value"]),
    ("train", ["+new=1"], ["'+new=1': keys cannot be added or removed"]),
    ("train", ["trainer=3"], ["trainer=3: trainer is a group of keys"]),
    ("train", ["model.target=os.system"], ["only classes inside models/ can be built"]),
    ("train", ["model._target_=os.system"], ["unknown key 'model._target_'"]),
    ("train", ["+model._target_=os.system"], ["keys cannot be added or removed"]),
    ("train", ["hydra.launcher._target_=os.system"], ["only its launcher's can be set"]),
    ("train", ["hydra.launcher.a={_target_: os.system}"], ["only its launcher's can be set"]),
    ("train", ["+hydra.callbacks.a._target_=os.system"], ["only its launcher's can be set"]),
    ("train", ["hydra/launcher=../../evil"], ["hydra/launcher=../../evil"]),
    ("train", ["--experimental-rerun=a.pickle"], ["'--experimental-rerun=a.pickle' is not a flag"]),
    ("train", ["--config-path=/tmp", "--cfg=job"], ["'--config-path=/tmp' is not a flag"]),
    ("train", ["model.target=models.meta.json.loads"], ["no such class"]),
    ("train", ["model.target=models.formats.load.Weights"], ["not a model"]),
    ("probe", ["lengths=[]"], ["lengths=[]: give at least one context length"]),
    ("probe", ["processes=[]"], ["processes=[]: give at least one number of processes"]),
    ("probe", ["lengths=[64,128]", "processes=[5,4,3]"], ["processes=[5, 4, 3]: one number, or"]),
    ("probe", ["lengths=[0]"], ["lengths=0: must be at least 1"]),
    ("probe", ["probes=[trian]"], ["probes='trian': not one of its values; did you mean 'train'?"]),
    ("probe", ["data=text"], ["data= has no meaning for probe.py"]),
    ("probe", ["model.wkv=cpo"], ["model.wkv='cpo' is not one of auto, reference, cpu, cuda"]),
    ("probe", ["model=gpt"], ["model.n_positions=1024 is shorter than the longest of lengths"]),
    ("train", ["from="], ["from= names nothing: leave it out, or give a run or a file"]),
    ("report", ["runs=[]"], ["runs=[]: give at least one run or group folder"]),
    ("torture", ["faults=[]"], ["faults=[]: give at least one of kill, terminate"]),
    ("report", [], ["runs has no value: give it on the command line"]),
    ("evaluate", ["run=[first]"], ["run=[first]: Cannot convert 'list' to string: '['first']'"]),
    ("report", ["runs=[a]", "slope_from=9000"], ["slope_from=9000 must be below slope_to=8192"]),
    (
        "train",
        ["data.lenght=3", "trainer.max_steps=ten", "trainer.devices=0"],
        ["unknown key 'data.lenght'", "expected an integer", "trainer.devices=0: must be"],
    ),
]


@pytest.mark.parametrize(("script", "words"), GOOD)
def test_good_lines_pass(script: str, words: list[str]) -> None:
    assert problems_of(script, words) == []


@pytest.mark.parametrize(("script", "words", "expected"), BAD)
def test_bad_lines_are_refused(script: str, words: list[str], expected: list[str]) -> None:
    problems = problems_of(script, words)
    assert len(problems) == len(expected), problems
    for problem, start in zip(problems, expected, strict=True):
        assert start in problem
        assert "\n" not in problem


def test_a_gpu_is_asked_for_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    problems = problems_of("train", ["trainer.accelerator=gpu", "trainer.precision=16-mixed"])
    assert "PyTorch sees no GPU" in problems[0]
    assert "needs a GPU; on a CPU use 'bf16-mixed'" in problems[1]


def test_without_deepspeed_its_strategies_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.cli.training_checks.find_spec", lambda name: None)
    (problem,) = problems_of("train", ["trainer.strategy=deepspeed_2"])
    assert problem.endswith("pip install -e '.[scale]', or choose fsdp")


def test_checking_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    problems_of("train", ["name=first", "model=gpt"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text",
    [
        "def ",
        "  x",
        "a'b",
        'a"b',
        "f(x, y): {z} [w]",
        "a=b,c",
        "back\\slash\\",
        "${a}",
        "\\'",
        "a\nb",
        "é",
    ],
)
def test_verbatim_values_survive(text: str) -> None:
    schema.register("generate")
    words = quoted("generate", ["run=first", f"prompt={text}"])
    with initialize_config_dir(str(FOLDER), version_base="1.3"):
        config = compose("generate", overrides=words)
    assert config.prompt == text
