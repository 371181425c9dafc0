"""A plan of small trainings, from its file to the table and the report."""

import csv
import gzip
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from training.__main__ import app
from training.differences import differences, rank_key
from training.errors import ConfigError, TrainingError
from training.interactions import find_dataset
from training.plan import Plan, packaged_plans, read_plan
from training.study import run_study
from training.study_job import item_groups

from .ring import ring_settings

RUNS = """
[[run]]
name = "popularity"
kind = "popularity"

[[run]]
name = "sasrec"
kind = "sasrec"

[[run]]
name = "prorec"

[[run]]
name = "without-ikd"
set = ["ikd_weight=0"]
"""


def write_plan(folder: Path, runs: str = RUNS, **settings: object) -> Path:
    changes = [*ring_settings(folder / "text.npy")[:-1], "sasrec.epochs=6"]
    head: dict[str, object] = {
        "preset": "quickstart",
        "set": changes,
        "test": True,
        "diagnosis_users": 40,
        "regret_users": 8,
        "beam_widths": [5, 40],
    }
    text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in (head | settings).items())
    path = folder / "plan.toml"
    path.write_text(text + runs)
    return path


@pytest.fixture(scope="module")
def studied(ring: Path) -> Path:
    arguments = ["study", "--data", str(ring / "data"), "--plan", str(write_plan(ring)), "--out", str(ring / "study")]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "report.html" in result.output
    return ring / "study"


def rows(study: Path, **wanted: str) -> list[dict[str, str]]:
    with (study / "results.csv").open() as stream:
        return [row for row in csv.DictReader(stream) if all(row[name] == value for name, value in wanted.items())]


def test_the_table_has_a_row_for_each_ranking(studied: Path) -> None:
    everything = rows(studied, items="all", split="test")
    assert len(everything) == 2 + 2 + 2 * (4 + 2)  # masked and not; prorec: codes alone, guided, and stage I's ranking
    methods = {(row["run"], row["method"], row["rescored"]) for row in everything}
    assert ("without-ikd", "prorec", "True") in methods
    assert ("sasrec", "sasrec", "") in methods
    best = rows(studied, run="prorec", split="test", items="all", history_masked="True", rescored="True")[0]
    worst = rows(studied, run="popularity", split="test", items="all", history_masked="True")[0]
    assert float(best["recall@10"]) > 0.9 > 0.6 > float(worst["recall@10"])


def test_every_ranking_is_compared_with_its_like_of_the_first_prorec_over_the_same_users(studied: Path) -> None:
    with (studied / "differences.csv").open() as stream:
        compared = list(csv.DictReader(stream))
    rankings = {(row["run"], row["ranking"], row["against"]) for row in compared}
    kinds = ("prorec, codes alone", "prorec, guided", "stage1")
    alike = {("without-ikd", kind, kind) for kind in kinds}
    known = {
        ("prorec", "prorec, codes alone"),
        ("prorec", "stage1"),
        ("popularity", "popularity"),
        ("sasrec", "sasrec"),
    }
    assert rankings == alike | {(*name, "prorec, guided") for name in known}
    assert len(compared) == 2 * 2 * len(rankings)  # validation and test, recall and NDCG
    for metric in ("recall@10", "ndcg@10"):
        worse, than = (
            float(
                rows(studied, run=run, split="test", items="all", history_masked="True", rescored=rescored)[0][metric]
            )
            for run, rescored in (("popularity", ""), ("prorec", "True"))
        )
        found = next(
            row for row in compared if (row["run"], row["split"], row["metric"]) == ("popularity", "test", metric)
        )
        assert float(found["difference"]) == pytest.approx(worse - than)
        assert float(found["low"]) < float(found["difference"]) < float(found["high"]) < 0
        assert float(found["p_value"]) < 0.001
        of_codes = [
            float(rows(studied, run=run, split="test", items="all", history_masked="True", rescored="False")[0][metric])
            for run in ("without-ikd", "prorec")
        ]
        found = next(
            row
            for row in compared
            if (row["run"], row["ranking"], row["split"], row["metric"])
            == ("without-ikd", "prorec, codes alone", "test", metric)
        )
        assert float(found["difference"]) == pytest.approx(of_codes[0] - of_codes[1])


def test_seeds_are_averaged_for_each_user_and_their_spread_stands_beside() -> None:
    jobs = Plan.model_validate({"seeds": [0, 1], "run": [{"name": "a"}, {"name": "b"}]}).jobs()
    places = {("a", 0): [0, -1, 9, 10], ("a", 1): [0, -1, -1, 0], ("b", 0): [0, 0, 0, 0], ("b", 1): [0, 0, 0, -1]}
    key = rank_key("test", "prorec", rescored=True)
    found = differences([(job, {key: np.array(places[job.run.name, job.seed])}) for job in jobs], "b")
    recall = next(row for row in found if row["metric"] == "recall@10")
    assert (recall["run"], recall["seeds"], recall["least"], recall["greatest"]) == ("a", 2, -0.5, -0.25)
    assert recall["difference"] == pytest.approx(-0.375)
    assert differences([], "b") == []


def test_ranks_that_an_earlier_version_stored_are_read_under_the_names_of_today() -> None:
    jobs = Plan.model_validate({"run": [{"name": "a"}, {"name": "b"}]}).jobs()
    stored = ("valid: prorec, codes only", "valid: prorec, rescored", "valid: stage1")
    found = differences([(job, {key: np.array([0, -1]) for key in stored}) for job in jobs], "b")
    rankings = {row["ranking"] for row in found if row["run"] == "a"}
    assert rankings == {"prorec, codes alone", "prorec, guided", "stage1"}


def test_only_seeds_that_both_have_are_compared_and_popularity_stands_for_each() -> None:
    runs = [{"name": "p", "kind": "popularity"}, {"name": "a", "seeds": [0]}, {"name": "b", "seeds": [0, 1]}]
    jobs = Plan.model_validate({"run": runs}).jobs()
    places = {("p", 0): [-1, 0], ("a", 0): [0, 0], ("b", 0): [0, 0], ("b", 1): [-1, -1]}
    methods = {"p": "popularity", "a": "prorec", "b": "prorec"}
    found = differences(
        [
            (job, {rank_key("test", method, rescored=None if method == "popularity" else True): np.array(ranks)})
            for job in jobs
            for method, ranks in [(methods[job.run.name], places[job.run.name, job.seed])]
        ],
        "b",
    )
    rows = {row["run"]: row for row in found if row["metric"] == "recall@10"}
    assert (rows["a"]["difference"], rows["a"]["seeds"]) == (0.0, 1)
    assert (rows["p"]["difference"], rows["p"]["seeds"], rows["p"]["least"], rows["p"]["greatest"]) == (
        0.0,
        2,
        -0.5,
        0.5,
    )


def test_results_without_ranks_are_measured_again(ring: Path, tmp_path: Path) -> None:
    plan = read_plan(str(write_plan(ring, POPULARITY, test=False)))
    (tmp_path / "differences.csv").touch()  # of another plan
    run_study(plan, ring / "data", tmp_path)
    ranks = tmp_path / "results" / "popularity-shuffled-0.npz"
    whole = ranks.stat().st_size
    for lose in (ranks.unlink, lambda: ranks.write_bytes(b"")):
        lose()
        run_study(plan, ring / "data", tmp_path)
        assert ranks.stat().st_size == whole
    assert not (tmp_path / "differences.csv").exists()  # a plan without PRORec names nothing to compare with


def test_targets_are_in_one_group_each(studied: Path) -> None:
    found = rows(studied, run="sasrec", split="valid", history_masked="True")
    users = {row["items"]: int(row["users"]) for row in found}
    assert users.pop("all") == sum(users.values()) == 120
    assert set(users) <= {"head", "tail", "cold"}


def test_runs_share_what_they_have_in_common(studied: Path) -> None:
    steps = [path.name.split("-")[0] for path in (studied / "steps").iterdir()]
    # Two recommenders: stage I and SASRec.
    assert {name: steps.count(name) for name in set(steps)} == {
        "text": 1,
        "recommender": 2,
        "embeddings": 1,
        "codes": 1,
        "stage2": 2,
    }


def test_what_is_done_is_not_done_again(studied: Path, ring: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in studied.rglob("*.safetensors")}
    run_study(read_plan(str(write_plan(ring))), ring / "data", studied)
    assert before == {path: path.stat().st_mtime_ns for path in studied.rglob("*.safetensors")}


def test_a_lost_result_is_measured_again_without_training(studied: Path, ring: Path) -> None:
    path = studied / "results" / "prorec-shuffled-0.json"
    before, trained = json.loads(path.read_text()), (studied / "runs" / "prorec-shuffled-0").stat().st_mtime_ns
    path.unlink()
    run_study(read_plan(str(write_plan(ring))), ring / "data", studied)
    again = json.loads(path.read_text())
    assert again["rows"] == before["rows"]
    assert (studied / "runs" / "prorec-shuffled-0").stat().st_mtime_ns == trained


def test_the_report_is_one_file_that_shows_every_figure(studied: Path) -> None:
    text = (studied / "report.html").read_text()
    assert text.count("<svg") == text.count("</svg>") == 10
    assert not re.findall(r"(?:src|href)=[\"'](?!#)", text)
    for heading in (
        "Beam regret",
        "Which modality explains the codes",
        "How much of each modality the tokens tell",
        "What distillation reads",
        "Learning curves",
        "test, ties shuffled",
        "differences from prorec",
        "test, ties shuffled, history masked: head, tail, cold items",
        "prorec-shuffled-0",
    ):
        assert heading in text


def test_the_diagnosis_of_a_learned_ring_is_what_it_must_be(studied: Path) -> None:
    found = json.loads((studied / "results" / "prorec-shuffled-0.json").read_text())
    # A beam as wide as the catalog is an exhaustive search; anything narrower can only lose.
    narrow, wide = found["beam_recall"]
    assert wide["anywhere"] == 1.0
    assert narrow["anywhere"] <= 1.0
    regret = found["beam_regret"]["codes"]
    assert regret["regret"] >= -1e-5
    assert found["beam_regret"]["rescored"]["regret"] >= -1e-5
    assert regret["exhaustive"] >= 0.5
    assert len(found["level_accuracy"]) == 2
    assert found["level_accuracy"][0] > 0.5
    assert [level["shared"] for level in found["code_use"]][-1] == 0
    assert found["domination"][0]["semantic"] > 2 * found["domination"][0]["chance"]
    told = found["explained_variance"][-1]
    assert min(told["semantic"], told["collaborative"], told["integrated"]) > 1.4 * told["chance"]
    # What is distilled stands after the code, so the code tells more about the target than the user does.
    for shares in found["distillation"].values():
        assert shares["user and code"] > shares["another user"] > shares["another code"]


def test_a_run_without_distillation_has_no_figure_of_it(studied: Path) -> None:
    assert "distillation" not in json.loads((studied / "results" / "without-ikd-shuffled-0.json").read_text())


def test_results_without_a_figure_that_has_come_since_are_measured_anew(ring: Path, tmp_path: Path) -> None:
    plan = read_plan(str(write_plan(ring, POPULARITY, test=False)))
    run_study(plan, ring / "data", tmp_path)
    path = tmp_path / "results" / "popularity-shuffled-0.json"
    now = json.loads(path.read_text())
    earlier = {name: value for name, value in now["measured"].items() if name != "figures"}
    path.write_text(json.dumps(now | {"measured": earlier}))
    run_study(plan, ring / "data", tmp_path)
    assert json.loads(path.read_text()) == now


def test_a_damaged_result_is_named(ring: Path, tmp_path: Path) -> None:
    plan = read_plan(str(write_plan(ring, POPULARITY, test=False)))
    run_study(plan, ring / "data", tmp_path)
    path = tmp_path / "results" / "popularity-shuffled-0.json"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(TrainingError, match=rf"{path} is damaged; remove it"):
        run_study(plan, ring / "data", tmp_path)


def test_a_plan_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_bytes(b'preset = "\xff"')
    with pytest.raises(ConfigError, match=r"plan\.toml: byte 11 is not valid UTF-8"):
        read_plan(str(tmp_path / "plan.toml"))


def test_other_settings_under_the_same_name_are_refused(studied: Path, ring: Path) -> None:
    other = RUNS.replace("ikd_weight=0", "ikd_weight=0.5")
    with pytest.raises(ConfigError, match=r"run without-ikd \(ikd_weight=0\.0, now 0\.5\); rename the run"):
        run_study(read_plan(str(write_plan(ring, other))), ring / "data", studied)


POPULARITY = '[[run]]\nname = "popularity"\nkind = "popularity"\n'


def test_a_plan_that_wants_other_figures_gets_them(ring: Path, tmp_path: Path) -> None:
    for test in (False, True, False):
        run_study(read_plan(str(write_plan(ring, POPULARITY, test=test))), ring / "data", tmp_path)
        assert {row["split"] for row in rows(tmp_path)} == ({"valid", "test"} if test else {"valid"})


def test_figures_of_other_data_are_refused(ring: Path, tmp_path: Path) -> None:
    plan = read_plan(str(write_plan(ring, POPULARITY, test=False)))
    run_study(plan, ring / "data", tmp_path / "study")
    shutil.copytree(ring / "data", tmp_path / "data")
    run_study(plan, tmp_path / "data", tmp_path / "study")
    events, _ = find_dataset(tmp_path / "data")[::-1]
    events.write_bytes(gzip.compress(b"") + events.read_bytes())
    with pytest.raises(ConfigError, match="is of other data"):
        run_study(plan, tmp_path / "data", tmp_path / "study")


@pytest.mark.parametrize("devices", [["cpu"], ["cpu", "cpu"]])
def test_an_error_nobody_foresaw_is_that_of_its_run_alone(ring: Path, tmp_path: Path, devices: list[str]) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "in-the-way-shuffled-0.work").touch()
    runs = '[[run]]\nname = "in-the-way"\nkind = "sasrec"\n' + POPULARITY
    with pytest.raises(TrainingError, match="1 of 2 runs failed: in-the-way-shuffled-0"):
        run_study(read_plan(str(write_plan(ring, runs))), ring / "data", tmp_path, devices)
    assert {row["run"] for row in rows(tmp_path)} == {"popularity"}


def test_a_result_of_a_version_with_fewer_settings_still_counts(ring: Path, tmp_path: Path) -> None:
    plan = read_plan(str(write_plan(ring, POPULARITY, test=False)))
    run_study(plan, ring / "data", tmp_path)
    path = tmp_path / "results" / "popularity-shuffled-0.json"
    result = json.loads(path.read_text())
    del result["recipe"]["item_text"]
    path.write_text(json.dumps(result))
    before = path.stat().st_mtime_ns
    run_study(plan, ring / "data", tmp_path)
    assert path.stat().st_mtime_ns == before


def test_torchrun_is_refused(ring: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="torchrun"):
        run_study(read_plan(str(write_plan(ring, POPULARITY, test=False))), ring / "data", tmp_path)


def test_a_run_that_fails_does_not_hold_up_the_others(ring: Path, tmp_path: Path) -> None:
    runs = '[[run]]\nname = "bad"\nset = ["stage1.learning_rate=1e30"]\n[[run]]\nname = "fine"\nkind = "sasrec"\n'
    with pytest.raises(TrainingError, match="1 of 2 runs failed: bad-shuffled-0"):
        run_study(read_plan(str(write_plan(ring, runs))), ring / "data", tmp_path)
    assert {row["run"] for row in rows(tmp_path)} == {"fine"}


def test_two_devices_take_a_run_each(ring: Path, tmp_path: Path) -> None:
    runs = '[[run]]\nname = "sasrec"\nkind = "sasrec"\nseeds = [0, 1]\nset = ["sasrec.epochs=1"]\n'
    run_study(read_plan(str(write_plan(ring, runs, test=False))), ring / "data", tmp_path, ["cpu", "cpu"])
    assert {row["seed"] for row in rows(tmp_path)} == {"0", "1"}
    assert {row["split"] for row in rows(tmp_path)} == {"valid"}


@pytest.mark.parametrize("name", packaged_plans())
def test_the_packaged_plans_can_be_used(name: str) -> None:
    jobs = read_plan(name).jobs()
    assert len({job.key for job in jobs}) == len(jobs)


@pytest.mark.parametrize("name", ["final", "beauty-variants"])
def test_what_is_published_is_compared_with_prorec(name: str) -> None:
    assert read_plan(name).compared_with == "prorec"


def test_seeds_and_orders_multiply() -> None:
    plan = Plan.model_validate(
        {"seeds": [0, 1], "orders": ["file", "shuffled"], "run": [{"name": "a"}, {"name": "p", "kind": "popularity"}]}
    )
    jobs = plan.jobs()
    assert [job.key for job in jobs if job.run.name == "p"] == ["p-file-0", "p-shuffled-0"]
    assert {(job.config.seed, job.config.tie_seed) for job in jobs} == {(0, None), (1, None), (0, 0), (1, 0)}


def test_seeds_and_settings_of_the_command_win_over_the_plans_and_its_runs() -> None:
    own = {"name": "b", "seeds": [2, 3], "set": ["cka_weight=0.2"]}
    plan = Plan.model_validate({"seeds": [0, 1], "run": [{"name": "a"}, own]})
    jobs = plan.changed(["cka_weight=0.3"], [5, 5]).jobs()
    assert [job.key for job in jobs] == ["a-shuffled-5", "b-shuffled-5"]
    assert [job.config.cka_weight for job in jobs] == [0.3, 0.3]
    assert len(plan.changed([], []).jobs()) == 4


def test_the_command_may_name_some_runs_and_one_order() -> None:
    runs = [{"name": "a"}, {"name": "b", "kind": "sasrec"}, {"name": "c", "orders": ["file"]}]
    plan = Plan.model_validate({"orders": ["file", "shuffled"], "reference": "b", "run": runs})
    assert [job.key for job in plan.only(["c", "a"], "shuffled").changed(["sasrec="], []).jobs()] == ["a-shuffled-0"]
    assert [job.key for job in plan.only([], "file").jobs()] == ["a-file-0", "b-file-0", "c-file-0"]
    assert (plan.only(["a", "b"], None).compared_with, plan.only(["a", "c"], None).compared_with) == ("b", "a")
    assert plan.only([], None) == plan
    with pytest.raises(ConfigError, match=r"no run 'd'; it has a, b, c$"):
        plan.only(["a", "d"], None)
    with pytest.raises(ConfigError, match=r"none of these runs .* 'shuffled'"):
        plan.only(["c"], "shuffled")


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ('[[run]]\nname = "a"\n[[run]]\nname = "a"\n', "names a more than once"),
        ('[[run]]\nname = "A b"\n', "run.0.name"),
        ('[[run]]\nname = "a"\nset = ["nothing=1"]\n', "no setting 'nothing'"),
        ('[runs.a]\nname = "a"\n', r"plan\.toml: a plan has \[\[run\]\] tables"),
        ('[run.a]\nname = "a"\n', r"plan\.toml: a plan has \[\[run\]\] tables"),
        ('[[run]]\nname = "a"\nkind = "sasrec"\nset = ["sasrec="]\n', "switched off"),
        ("[[run]\n", "plan.toml"),
        ('reference = "c"\n[[run]]\nname = "a"\n', "no run c"),
    ],
)
def test_a_plan_that_cannot_be_used_is_refused(ring: Path, runs: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_plan(str(write_plan(ring, runs))).jobs()


def test_an_unknown_plan_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match="beauty-variants"):
        read_plan("nothing-of-this-name")


def test_without_matplotlib_a_plan_that_can_be_used_is_refused_and_another_is_named(
    ring: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # what Python itself does for a module that must not be there
    twice = write_plan(ring, '[[run]]\nname = "a"\n' * 2)
    for plan, sentence in (("final", "matplotlib"), ("finall", "no plan 'finall'"), (str(twice), "more than once")):
        words = ["study", "--data", str(ring / "data"), "--plan", plan, "--out", str(tmp_path / "study")]
        with pytest.raises(ConfigError, match=sentence):
            CliRunner().invoke(app, words, catch_exceptions=False)
    assert not (tmp_path / "study").exists()


def test_groups_are_head_tail_and_cold() -> None:
    counts = np.array([9, 0, 3, 1, 8, 2, 0, 1, 1, 1])
    groups = item_groups(counts, counts > 0)
    assert groups["head"].tolist() == [True, False, False, False, True] + [False] * 5
    assert groups["cold"].sum() == 2
    assert (groups["head"].astype(int) + groups["tail"] + groups["cold"] == 1).all()


def test_data_that_are_not_there_are_one_sentence_before_anything_is_written(tmp_path: Path) -> None:
    words = ["study", "--data", str(tmp_path / "nowhere"), "--plan", "final", "--out", str(tmp_path / "study")]
    ended = subprocess.run([sys.executable, "-m", "training", *words], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == f"error: {tmp_path / 'nowhere'} is not a folder.\n"
    assert not (tmp_path / "study").exists()
    (tmp_path / "nowhere").mkdir()
    (tmp_path / "nowhere" / "items.jsonl").touch()
    with pytest.raises(ConfigError, match=r"holds neither interactions\.csv nor"):
        run_study(read_plan("final"), tmp_path / "nowhere", tmp_path / "study")
    assert not (tmp_path / "study").exists()
