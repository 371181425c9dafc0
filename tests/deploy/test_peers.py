"""What the engine is compared with computes the same: same network, same catalog, same items, same scores."""

import shutil

import numpy as np
import onnxruntime as ort
import pytest
import torch

from deploy.bench.catalogs import BenchCatalog
from deploy.bench.eager import EagerSearch
from deploy.bench.engine import EngineSearch
from deploy.bench.generate import GenerateSearch
from deploy.bench.gpu_folder import random_choices
from deploy.bench.networks import Prepared
from deploy.bench.post_filter import CodeIndex, Kept, PostFilterSearch
from deploy.bench.roofline import roofline
from deploy.bench.variants import NetworkOnly, table_name
from deploy.synthetic import untrained_network
from models.artifact import Artifact
from models.codes import CodeTable
from models.network import EncoderDecoderGenerator
from tests.tiny import tiny_package

ITEMS, K, B, T = 60, 8, 3, 4


@pytest.fixture(scope="module", params=["encoder_decoder", "temporal"])
def prepared(
    request: pytest.FixtureRequest, by_generator: dict[str, Artifact], tmp_path_factory: pytest.TempPathFactory
) -> Prepared:
    """Ranked by code alone, and in a folder of its own, as variants of the graph are written beside it."""
    folder = tmp_path_factory.mktemp("work") / request.param
    shutil.copytree(by_generator[request.param].folder, folder)
    manifest = by_generator[request.param].manifest.model_copy(update={"rescore_weight": 0.0})
    return Prepared(request.param, tiny_package(generator=request.param).generator, Artifact(folder, manifest))


@pytest.fixture(scope="module")
def freshly_drawn(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The same graphs, but variants are of weights as benchmarks draw them, with which less is lost to rounding."""
    folder = tmp_path_factory.mktemp("work") / prepared.name
    shutil.copytree(prepared.artifact.folder, folder, ignore=shutil.ignore_patterns("variant_*"))
    network = untrained_network(prepared.config, spread=16.0)
    return Prepared(prepared.name, network, Artifact(folder, prepared.artifact.manifest))


@pytest.fixture(scope="module")
def catalog(prepared: Prepared) -> BenchCatalog:
    return BenchCatalog.build(ITEMS, prepared.config, seed=3)


@pytest.fixture(scope="module")
def engine(prepared: Prepared, catalog: BenchCatalog) -> EngineSearch:
    return EngineSearch(prepared.artifact, catalog, threads=1)


def test_the_eager_loop_finds_what_the_engine_finds(
    prepared: Prepared, catalog: BenchCatalog, engine: EngineSearch
) -> None:
    ours = engine.run(B, K, T)
    theirs = EagerSearch(prepared.network, catalog).run(torch.from_numpy(catalog.history(B, T)), K)
    assert ours.item.tolist() == theirs.item.tolist()
    np.testing.assert_allclose(ours.score, theirs.score, atol=1e-4)


@pytest.mark.parametrize("prepared", ["encoder_decoder"], indirect=True)  # `generate` wants an encoder
def test_generate_finds_what_the_engine_finds(prepared: Prepared, catalog: BenchCatalog, engine: EngineSearch) -> None:
    assert isinstance(prepared.network, EncoderDecoderGenerator)
    ours = engine.run(B, K, T)
    search = GenerateSearch(prepared.network, catalog.codes)
    codes, scores = search.run(torch.from_numpy(catalog.history(B, T)), K)
    assert CodeIndex(catalog.codes).items(codes).item.tolist() == ours.item.tolist()
    np.testing.assert_allclose(ours.score, scores, atol=1e-4)


def test_a_free_search_over_all_codes_finds_what_the_engine_finds(prepared: Prepared, engine: EngineSearch) -> None:
    every = BenchCatalog.build(8**3, prepared.config, seed=3)
    ours = EngineSearch(prepared.artifact, every, threads=1).run(B, K, T)
    kept = PostFilterSearch(prepared, every, engine.session(K)).run(every.history(B, T), K)
    assert kept.item.tolist() == ours.item.tolist()
    assert kept.invalid == 0
    assert kept.missing(K) == 0


def test_codes_of_no_item_are_counted() -> None:
    index = CodeIndex(CodeTable(np.array([[0, 1], [2, 3], [2, 2]], dtype=np.int32), 4))
    kept = index.items(np.array([[[2, 3], [0, 0], [0, 1]], [[3, 3], [1, 1], [3, 0]]]))
    assert kept.item.tolist() == [[1, -1, 0], [-1, -1, -1]]
    assert kept.invalid == pytest.approx(4 / 6)
    assert kept.missing(2) == pytest.approx((0 + 2) / 2 / 2)


def test_missing_counts_only_what_was_wanted() -> None:
    assert Kept(np.array([[5, -1, -1, 7]])).missing(2) == 0
    assert Kept(np.array([[5, -1, -1, 7]])).missing(4) == pytest.approx(0.5)


def test_the_network_alone_computes_the_logits_of_the_network(freshly_drawn: Prepared, catalog: BenchCatalog) -> None:
    variant = NetworkOnly(freshly_drawn.network)
    model = freshly_drawn.variant("network_only", variant.export)
    table = table_name(freshly_drawn.network)
    feed = {"history": catalog.history(B, T), table: catalog.inputs[table]}
    feed |= random_choices(freshly_drawn.config, B, K)
    found = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feed)
    with torch.no_grad():
        wanted = variant(*(torch.from_numpy(feed[name]) for name in variant.input_names))
    assert [logits.shape for logits in found] == [(B, 1, 8), (B, K, 8), (B, K, 8)]
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_the_roofline_knows_every_product_of_the_graph(freshly_drawn: Prepared, catalog: BenchCatalog) -> None:
    found = roofline(freshly_drawn, catalog, K, B, T, threads=1, rounds=1)
    attentions = {"encoder_decoder": 1 + 2 * 3, "temporal": 1 + 3}[freshly_drawn.name]  # encoder, and L decoder steps
    scores_and_mixtures = 2 * attentions
    assert found.products >= scores_and_mixtures + 2 * 3  # and project and logits at every level
    assert 0 < found.products_gflop < 0.1
    assert found.graph_ms > 0
    assert found.products_ms > 0
