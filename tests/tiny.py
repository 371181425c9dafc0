"""A tiny real artifact: a small random network, exported and proved like a trained one, in a few seconds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.artifact import Artifact
from models.codes import CodeTable
from models.config import ModelConfig
from models.network import build_generator
from models.trie import CodeTrie
from training.collaborative import AdaptationLayer
from training.item_encoder import ItemEncoderNetwork, ItemEncoderPart
from training.package import Package, write_artifact
from training.prefix_values import fit_prefix_output
from training.text import Standardisation, load_encoder
from training.text_export import TextEncoderFiles, export_text_encoder

SEMANTIC_WIDTH = 8


def random_codes(items: int, code_length: int, tokens_per_level: int, seed: int) -> CodeTable:
    """Unique codes drawn evenly."""
    rng = np.random.default_rng(seed)
    flat = rng.choice(tokens_per_level**code_length, size=items, replace=False)
    powers = tokens_per_level ** np.arange(code_length - 1, -1, -1)
    return CodeTable((flat[:, None] // powers % tokens_per_level).astype(np.int32), tokens_per_level)


def tiny_package(
    *,
    items: int = 60,
    seed: int = 0,
    code_length: int = 3,
    tokens_per_level: int = 8,
    width: int = 16,
    beam_widths: Sequence[int] = (4, 8),
    generator: Literal["temporal", "encoder_decoder"] = "temporal",
    rescore_weight: float = 0.5,
    text_encoder: TextEncoderFiles | None = None,
) -> Package:
    """What `write_artifact` is given: items are named item-0 … and have a title and a category."""
    torch.manual_seed(seed)
    config = ModelConfig(
        generator=generator,
        code_length=code_length,
        tokens_per_level=tokens_per_level,
        width=width,
        heads=2,
        feed_forward=2 * width,
        encoder_layers=1,
        decoder_layers=1,
        history_length=6,
        dropout=0.0,
    )
    network = build_generator(config)
    with torch.no_grad():  # larger weights than at the start of training, so that scores lie apart
        for parameter in network.parameters():
            parameter.mul_(3.0)
    rng = np.random.default_rng(seed)
    encoder = tiny_item_encoder(config, seed)
    codes = random_codes(items, code_length, tokens_per_level, seed)
    tables = [rng.normal(size=(items, width)).astype(np.float32) for _ in range(2)]
    states = torch.from_numpy(np.random.default_rng(seed + 1).normal(size=(64, width)))
    return Package(
        generator=network.eval(),
        codes=codes,
        item_ids=[f"item-{number}" for number in range(items)],
        metadata=[
            {"item_id": f"item-{number}", "title": f"Title {number}", "category": "even" if number % 2 == 0 else "odd"}
            for number in range(items)
        ],
        item_input=tables[0],
        item_output=tables[1],
        prefix_output=fit_prefix_output(CodeTrie.build(codes), tables[1], states),
        popularity=rng.permutation(items).astype(np.int32),
        histories=_histories(rng, items),
        beam_widths=tuple(beam_widths),
        default_beam_width=beam_widths[0],
        history_buckets=(3, 6),
        rescore_weight=rescore_weight,
        dataset="tiny",
        training_fingerprint="0" * 64,
        item_encoder=encoder,
        text_encoder=text_encoder,
    )


def tiny_item_encoder(config: ModelConfig, seed: int) -> ItemEncoderPart:
    """Random, of the shapes a trained one has with `integrated="concat"`; embeddings of SEMANTIC_WIDTH numbers."""
    rng, width, temporal = np.random.default_rng(seed), config.width, config.generator == "temporal"
    semantic = rng.normal(1.0, 2.0, size=(32, SEMANTIC_WIDTH)).astype(np.float32)
    network = ItemEncoderNetwork(
        Standardisation.of(semantic),
        AdaptationLayer(SEMANTIC_WIDTH, width),
        nn.Linear(width, width),
        nn.Linear(width, width),
        torch.randn(width),
        2.0,
        nn.Linear(2 * width, width, bias=False) if temporal else None,
        "concat",
    )
    shape = (config.code_length, config.tokens_per_level)
    codebooks = rng.normal(0.0, 0.3, size=(*shape, 2 * width)).astype(np.float32)
    token_input = rng.normal(size=(*shape, width)).astype(np.float32)
    return ItemEncoderPart(network, codebooks, token_input if temporal else None, semantic)


def build_tiny_sentence_encoder(folder: Path, *, width: int = SEMANTIC_WIDTH, longest: int = 12) -> Path:
    """Saves a random BERT with a WordPiece tokenizer of letters and a few words; a sentence-transformers folder."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, Pooling, Transformer
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "green", "polish", "nail", "tent", *letters]
    words += [f"##{letter}" for letter in letters]
    tokenizer = Tokenizer(models.WordPiece({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    bert = folder.with_name(f"{folder.name}.bert")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=longest, **names).save_pretrained(bert)
    torch.manual_seed(0)
    sizes = BertConfig(
        vocab_size=len(words), hidden_size=width, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=2 * width, max_position_embeddings=32, initializer_range=1.0,
    )  # fmt: skip
    BertModel(sizes).save_pretrained(bert)
    transformer = Transformer(str(bert), max_seq_length=longest)
    SentenceTransformer(modules=[transformer, Pooling(width, pooling_mode="mean"), Normalize()]).save(str(folder))
    return folder


def _histories(rng: np.random.Generator, items: int) -> list[NDArray[np.int32]]:
    longest = min(items, 9)
    return [rng.choice(items, size=rng.integers(1, longest + 1), replace=False).astype(np.int32) for _ in range(12)]


def build_tiny_artifact(
    folder: Path,
    *,
    items: int = 60,
    seed: int = 0,
    version: str = "tiny-1",
    code_length: int = 3,
    tokens_per_level: int = 8,
    width: int = 16,
    beam_widths: Sequence[int] = (4, 8),
    generator: Literal["temporal", "encoder_decoder"] = "temporal",
    with_text_encoder: bool = False,
) -> Artifact:
    """Writes `folder`/`version` and returns it; another `seed` gives other codes and other answers.

    It takes new items by embeddings of SEMANTIC_WIDTH numbers and, `with_text_encoder`, by text; that costs a few
    seconds more.
    """
    package = tiny_package(
        items=items,
        seed=seed,
        code_length=code_length,
        tokens_per_level=tokens_per_level,
        width=width,
        beam_widths=beam_widths,
        generator=generator,
        text_encoder=tiny_text_encoder(folder / f"{version}.text") if with_text_encoder else None,
    )
    return write_artifact(folder / version, package)


def tiny_text_encoder(folder: Path) -> TextEncoderFiles:
    """A random sentence encoder, exported the way a real one is."""
    encoder = load_encoder(str(build_tiny_sentence_encoder(folder / "sentence")))
    return export_text_encoder(encoder, "tiny", ["red nail polish", "a green tent"], folder)
