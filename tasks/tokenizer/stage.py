"""tokenizer: learn the vocabulary, take over one made elsewhere, or use plain bytes.

Reads    artifacts/corpus/documents/*.parquet (id, text, domain), data/tokenizer where the parameters name files
Writes   artifacts/tokenizer/tokenizer.json, tokenizer_config.json (with the chat template),
         report.json, report.md, report.html
Promise  the vocabulary has exactly params.vocab_size ids, the nine specials among them; a trained file depends on the
         documents only, not on files, their order or threads; `transformers` and the pipeline's fast encoder give
         equal ids and the text back, checked on documents; memory does not grow with the text
Limits   compression is measured on documents kept out of training, unless there are too few of them (then the report
         says so); of a long document only the beginning is learned from and measured
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.chat_format import CHAT_TEMPLATE
from model.foreign_tokenizer import SPLIT_PATTERNS, read_vocabulary
from model.tokenizer import (
    BYTE_TOKENS,
    SMALLEST_VOCAB,
    SPECIAL_TOKENS,
    VOCAB_MULTIPLE,
    Tokenizer,
    byte_tokenizer_json,
    tokenizer_json,
    train_tokenizer_json,
    with_specials,
)
from tasks._context import StageContext
from tasks._errors import StageError
from tasks._files import write_json, write_text
from tasks.tokenizer import documents, measuring
from tasks.tokenizer.documents import Sample
from tasks.tokenizer.params import FOLDER, Params
from tasks.tokenizer.report import write_report

if TYPE_CHECKING:
    import polars as pl

CHECKED_DOCUMENTS = 200

__all__ = ["Params", "run"]


class Corpus:
    """The chosen documents; every reading streams from the files."""

    def __init__(self, folder: Path, params: Params) -> None:
        self.files = documents.find_files(folder)
        self.cap = params.max_characters_per_document
        table = documents.measure_documents(self.files, self.cap)
        self.sample: Sample = documents.choose(table, params.max_characters)

    def training(self) -> Iterator[str]:
        """Texts to learn from."""
        return documents.read_texts(self.files, self.sample.training, self.cap)

    def measured(self) -> tuple[list[str], list[str]]:
        """Texts to measure on, and their domains; bounded by documents.HELD_OUT_BYTES."""
        chosen = documents.in_file_order(self.sample.measured)
        return list(documents.read_texts(self.files, chosen, self.cap)), chosen["domain"].cast(str).to_list()


def run(ctx: StageContext) -> None:
    """Train, take over or build; check, measure, write."""
    params = ctx.params
    assert isinstance(params, Params)
    corpus = Corpus(ctx.input("artifacts/corpus/documents"), params)
    content, notes = make_vocabulary(ctx, params, corpus)
    ctx.check_stop()
    tokenizer = Tokenizer.from_json(content)
    texts, domains = corpus.measured()
    check_equal_ids(content, tokenizer, texts[:CHECKED_DOCUMENTS])
    _check_size(tokenizer, params, corpus, ctx.cores)
    uses = measuring.count_uses(
        lambda batch: tokenizer.encode_batch(batch, ctx.cores), corpus.training(), tokenizer.vocab_size
    )
    if params.strategy == "train" and uses[tokenizer.ordinary_tokens - 1] < measuring.USED_TWICE:
        _refuse_size(params, corpus, measuring.supported_size(tokenizer, corpus.training, ctx.cores))
    ctx.check_stop()
    report = {
        **_origin(tokenizer, params, corpus.sample, notes),
        **_measure(ctx, params, tokenizer, texts, domains),
        **measuring.describe_use(tokenizer, uses),
    }
    write_text(ctx.out / "tokenizer.json", content)
    write_json(ctx.out / "tokenizer_config.json", tokenizer_config())
    write_report(ctx.out, report)
    merges = params.vocab_size - BYTE_TOKENS - len(SPECIAL_TOKENS) if params.strategy == "train" else 0
    ctx.count(train_bytes=report["training_bytes"], merges=merges)
    ctx.measure("bytes_per_token", report["bytes_per_token"])
    ctx.report(
        vocab_size=tokenizer.vocab_size,
        bytes_per_token=report["bytes_per_token"],
        dead_tokens=report["dead_tokens"],
        training_documents=corpus.sample.training.height,
        **{f"bytes_per_token_{name}": other["bytes_per_token"] for name, other in report["compared_with"].items()},
    )


def make_vocabulary(ctx: StageContext, params: Params, corpus: Corpus) -> tuple[str, tuple[str, ...]]:
    """The content of tokenizer.json, and what was left out of a file that was taken over."""
    if params.strategy == "byte":
        return byte_tokenizer_json(), ()
    if params.strategy == "train":
        ctx.note(f"learning {params.vocab_size} tokens from {corpus.sample.training.height:,} documents")
        return train_tokenizer_json(corpus.training(), params.vocab_size, SPLIT_PATTERNS[params.split_pattern]), ()
    path = ctx.input(FOLDER) / str(params.reuse)
    try:
        found = read_vocabulary(path, params.split_pattern)
        added = with_specials(found.added, len(found.ranks))
        return tokenizer_json(found.ranks, found.pattern, added), found.notes
    except ValueError as error:
        raise StageError(f"tokenizer.reuse: {error}") from None


def _check_size(tokenizer: Tokenizer, params: Params, corpus: Corpus, threads: int) -> None:
    if tokenizer.vocab_size == params.vocab_size:
        return
    if params.strategy == "reuse":
        raise StageError(
            f"tokenizer.vocab_size={params.vocab_size}, but {FOLDER}/{params.reuse} comes to {tokenizer.vocab_size} "
            f"ids ({tokenizer.ordinary_tokens} tokens and specials, rounded up to a multiple of {VOCAB_MULTIPLE}); "
            f"next: set tokenizer.vocab_size and budget.vocab_size to {tokenizer.vocab_size}"
        )
    _refuse_size(params, corpus, measuring.supported_size(tokenizer, corpus.training, threads))


def _refuse_size(params: Params, corpus: Corpus, allowed: int) -> None:
    if not allowed:
        raise StageError(
            f"tokenizer.vocab_size={params.vocab_size}: the {corpus.sample.training.height} documents hold too little "
            f"text to learn even the smallest vocabulary, {SMALLEST_VOCAB}; next: add text, raise tokenizer."
            f"max_characters={params.max_characters}, or set tokenizer.strategy: byte with vocab_size: {SMALLEST_VOCAB}"
        )
    raise StageError(
        f"tokenizer.vocab_size={params.vocab_size} is larger than the corpus supports: beyond {allowed} tokens the "
        f"{corpus.sample.training.height} documents hold no pair twice; allowed: at most {allowed}; next: set "
        f"tokenizer.vocab_size to {allowed}, raise tokenizer.max_characters={params.max_characters}, or add text"
    )


def check_equal_ids(content: str, tokenizer: Tokenizer, texts: list[str]) -> None:
    """StageError unless the `tokenizers` library gives the same ids, and the ids give the text back."""
    from tokenizers import Tokenizer as TokenizerFile

    reference = TokenizerFile.from_str(content)
    reserved = [token.content for token in reference.get_added_tokens_decoder().values()]
    for special in reserved:  # `tokenizers` would turn their names into ids; texts are compared without them
        texts = [text.replace(special, "") for text in texts]
    expected = [encoding.ids for encoding in reference.encode_batch(texts, add_special_tokens=False)]
    for text, ids, wanted in zip(texts, tokenizer.encode_batch(texts), expected, strict=True):
        if ids != wanted or tokenizer.decode_bytes(ids) != text.encode():
            raise StageError(
                f"tokenizer: the vocabulary gives other ids in `tokenizers` ({wanted[:20]}) than in the fast encoder "
                f"({ids[:20]}) for {text[:200]!r}; needed: equal ids; next: use another file, or report this text if "
                f"the vocabulary was trained here"
            )


def _origin(tokenizer: Tokenizer, params: Params, sample: Sample, notes: tuple[str, ...]) -> dict[str, Any]:
    return {
        "strategy": params.strategy,
        "reused": params.reuse,
        "left_out": list(notes),
        "vocab_size": tokenizer.vocab_size,
        "sha256": tokenizer.sha256,
        "split_pattern": tokenizer.split_pattern,
        "training_documents": sample.training.height,
        "training_bytes": _total(sample.training),
        "held_out_documents": sample.measured.height,
        "is_held_out": sample.is_held_out,
    }


def _total(chosen: "pl.DataFrame") -> int:
    import polars as pl

    return int(chosen["bytes"].cast(pl.Int64).sum())


def _measure(
    ctx: StageContext, params: Params, tokenizer: Tokenizer, texts: list[str], domains: list[str]
) -> dict[str, Any]:
    def own(batch: list[str]) -> list[list[int]]:
        return tokenizer.encode_batch(batch, ctx.cores)

    others, sizes = {}, {}
    for name, path in sorted(params.compare_with.items()):
        try:
            found = read_vocabulary(ctx.input(FOLDER) / path, name if name in SPLIT_PATTERNS else "zero2chat")
        except ValueError as error:
            raise StageError(f"tokenizer.compare_with.{name}: {error}") from None
        others[name] = measuring.encoder(found.ranks, found.pattern, ctx.cores)
        sizes[name] = len(found.ranks)
    whole = measuring.compression(texts, [""] * len(texts), own, others)[""]
    curve = measuring.by_size(tokenizer, texts, ctx.cores)
    compared = whole.get("others", {})
    return {
        "bytes_per_token": whole["bytes_per_token"],
        "held_out_bytes": whole["bytes"],
        "compared_with": {n: {"tokens": sizes[n], "bytes_per_token": compared[n]} for n in sizes},
        "domains": measuring.compression(texts, domains, own, others),
        "languages": measuring.compression(texts, measuring.languages(texts), own, others),
        "sizes": curve,
        "price": measuring.price(curve),
    }


def tokenizer_config() -> dict[str, Any]:
    """What `transformers` and vLLM need beside tokenizer.json."""
    ends = ("<|bos|>", "<|assistant_end|>")
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": ends[0],
        "eos_token": ends[1],
        "pad_token": "<|output_end|>",
        "additional_special_tokens": [name for name in SPECIAL_TOKENS if name not in ends],
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
    }
