"""Write weights as another tool reads them: `python scripts/convert.py source=first ...`."""

from __future__ import annotations

from scripts.cli.launch import launch

if __name__ == "__main__":  # before the imports that take long: a wrong word is answered at once
    launch("convert", "scripts.convert:main")

from pathlib import Path

from conf.schema import ConvertConf
from core.errors import UserError
from data import foreign
from data.companions import hugging_face_files, llama_cpp_vocabulary
from data.tokenizer_files import PIECES
from data.tokenizers import check_fits
from models.formats.gguf_file import Vocabulary
from models.formats.load import read
from models.formats.save import PARTS, TOKENIZED, Beside, save
from models.formats.weights import DTYPES, Weights, common_dtype
from models.meta import count_parameters
from models.registry import makes_rows
from training.checkpoints.weights_source import Source, check_alike, check_tokenizer, find_source


def main(conf: ConvertConf) -> None:
    """Read the source, write the target, say what it is."""
    target = Path(conf.target)
    if conf.tokenizer and conf.format not in TOKENIZED:
        raise UserError(
            f"tokenizer={conf.tokenizer}: format={conf.format} holds no tokenizer: leave it out"
        )
    source = find_source("source", conf.source, conf.runs_dir)
    weights = read(source.weights, conf.weights)
    if conf.dtype in DTYPES:
        weights = weights.to(DTYPES[conf.dtype])
    beside = tokenizer_of(conf, source, weights) if conf.format in TOKENIZED else None
    save(weights, target, conf.format, conf.overwrite, beside)
    if beside is not None and PIECES in beside.files and "tokenizer.json" not in beside.files:
        print(
            f"{target / PIECES}: no tokenizer.json gives the ids of this model of SentencePiece, "
            "so transformers has no tokenizer for these weights: read it with the package "
            "sentencepiece, or with tokenizer= here"
        )
    learned = weights.tuned if conf.format in PARTS else None
    written = weights.tensors if learned is None else learned.tensors
    count = sum(tensor.numel() for tensor in written.values())
    if makes_rows(weights.spec.target):  # vectors of spectral norms are written too
        count = count_parameters(weights.spec)
    dtype = str(common_dtype(written)).removeprefix("torch.")
    print(f"{target}: {weights.spec.name}, {count:,} parameters, {dtype}, format {conf.format}")


def tokenizer_of(conf: ConvertConf, source: Source, weights: Weights) -> Beside:
    """What is written of the tokenizer. Raises `UserError` if it is not that of the weights."""
    given = Path(conf.tokenizer) if conf.tokenizer else None
    path = given or source.tokenizer
    if path is None:
        return Beside()
    tokenizer = foreign.load(path, [])
    check_tokenizer(source, tokenizer, given)
    if given is not None:
        check_alike(source, tokenizer, given)
    check_fits(tokenizer, weights.spec.config["vocab_size"], str(source.weights))
    if conf.format == "gguf":
        return Beside(vocabulary=Vocabulary(**llama_cpp_vocabulary(tokenizer)))
    return Beside(hugging_face_files(tokenizer), tokenizer.end_of_text)
