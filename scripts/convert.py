"""Write weights as another tool reads them: `python scripts/convert.py source=first ...`."""

from __future__ import annotations

from scripts.cli.launch import launch

if __name__ == "__main__":  # before the imports that take long: a wrong word is answered at once
    launch("convert", "scripts.convert:main")

from pathlib import Path

from conf.schema import ConvertConf
from data import foreign
from models.formats.load import read
from models.formats.save import save
from models.formats.weights import DTYPES, common_dtype
from training.checkpoints.weights_source import check_tokenizer, find_source


def main(conf: ConvertConf) -> None:
    """Read the source, write the target, say what it is."""
    target = Path(conf.target)
    source = find_source("source", conf.source, conf.runs_dir)
    if conf.format == "hf" and source.tokenizer is not None:  # it is copied there
        check_tokenizer(source, foreign.load(source.tokenizer, []))
    weights = read(source.weights)
    if conf.dtype in DTYPES:
        weights = weights.to(DTYPES[conf.dtype])
    save(weights, target, conf.format, conf.overwrite, source.tokenizer)
    count = sum(tensor.numel() for tensor in weights.tensors.values())
    dtype = str(common_dtype(weights.tensors)).removeprefix("torch.")
    print(f"{target}: {weights.spec.name}, {count:,} parameters, {dtype}, format {conf.format}")
