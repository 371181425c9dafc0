"""Command line of the training package: `python -m training --help`."""

import os
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from models.artifact import Artifact
from models.errors import ModelError

from .config import load_config
from .errors import ConfigError, TrainingError
from .importers import fetch_movielens, find_amazon_files, import_amazon, import_movielens, import_recbole
from .log import log_to_stderr

if TYPE_CHECKING:
    from .pipeline import Run

app = typer.Typer(help="Train PRORec: interactions and item text in, a served artifact out.", no_args_is_help=True)
imports = typer.Typer(help="Make a dataset folder from a public format.", no_args_is_help=True)
app.add_typer(imports, name="import")

Data = Annotated[Path, typer.Option("--data", help="Dataset folder: interactions.csv[.gz] and items.jsonl[.gz].")]
Out = Annotated[Path, typer.Option(help="Artifact to write; the folder's name is the model version.")]
Preset = Annotated[str, typer.Option(help="quickstart, small or paper.")]
Change = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Change a setting: --set stage1.epochs=3. 'python -m training settings' lists all, with defaults."
    ),
]
Table = Annotated[bool, typer.Option(help="Print the table of metrics.")]
Test = Annotated[bool, typer.Option(help="Measure the test set; else it is left alone and validation is measured.")]
MinCore = Annotated[int, typer.Option(help="Keep users and items with at least this many events.")]
SkipWrongRows = Annotated[
    int, typer.Option(min=0, help="Leave up to so many lines of wrong rows out of each file, with warnings.")
]
Force = Annotated[bool, typer.Option(help="Replace a dataset that is already there.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(metadata.version("prorec-serve"))
        raise typer.Exit


ShowVersion = Annotated[
    bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and end.")
]


@app.callback()
def options(_version: ShowVersion = False) -> None:
    pass


@app.command()
def prepare(data: Data, out: Out, preset: Preset = "small", change: Change = None) -> None:
    """Check and split the data, embed the items' text."""
    from .pipeline import Run

    run_ = Run(data, out, load_config(preset, change or []))
    semantic = run_.prepare()
    users = len(run_.split.interactions.user_ids)
    typer.echo(f"{users} users, {run_.item_count} items, text embeddings of {semantic.shape[1]} dimensions")


@app.command()
def train(data: Data, out: Out, preset: Preset = "small", change: Change = None) -> None:
    """Stage I, codes and stage II; continues where an earlier run stopped."""
    from .pipeline import Run

    run_ = Run(data, out, load_config(preset, change or []))
    run_.stage2()
    typer.echo(f"trained; write the artifact with: python -m training export --data {data} --out {out}")


@app.command()
def export(data: Data, out: Out, preset: Preset = "small", change: Change = None, test: Test = True) -> None:
    """Export the trained model as ONNX graphs, prove them, measure the test set through them, write the artifact."""
    run(data, out, preset, change, test=test)


@app.command()
def run(
    data: Data, out: Out, preset: Preset = "small", change: Change = None, table: Table = True, test: Test = True
) -> None:
    """All steps; what is already done is not done again."""
    from .pipeline import Run

    _finish(Run(data, out, load_config(preset, change or []), test=test), table=table)


@app.command()
def refit(
    data: Data,
    source: Annotated[Path, typer.Option("--from", help="Artifact of a finished run, its working folder beside it.")],
    out: Out,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="Change where it is trained: --set device=cuda:1.")
    ] = None,
    table: Table = True,
) -> None:
    """Train a finished run's recipe anew on all events, each stage for the epochs that validation chose in the run."""
    from .refit import refit_run

    _finish(refit_run(data, source, out, change or []), table=table)


def _finish(planned: "Run", *, table: bool) -> None:
    """Writes what is not there yet, and prints the figures that it carries."""
    from .evaluate import TEST_SET, print_metrics

    if planned.out.exists():
        artifact = Artifact.open(planned.out)
        planned.refuse_other(artifact.manifest)
        typer.echo(f"{planned.out} is already there and whole: nothing to train")
    else:
        artifact = planned.export()
        if planned.machine.leads:
            typer.echo(f"wrote {planned.out}")
    if table and planned.machine.leads:
        manifest = artifact.manifest
        of = f" of {manifest.refitted_from}, before the refit" if manifest.refitted_from else ""
        measured = manifest.metrics_of or TEST_SET
        print_metrics(manifest.metrics, f"{manifest.dataset}: {measured}, through the exported graph{of}")


@app.command()
def settings(preset: Preset = "small") -> None:
    """List every setting that --set can change, with its value in a preset and what it means."""
    from .settings_list import setting_lines

    for line in setting_lines(load_config(preset, [])):
        typer.echo(line)


@app.command()
def evaluate(
    artifact: Annotated[Path, typer.Argument(help="Artifact folder.")],
    data: Data,
    tie_seed: Annotated[int | None, typer.Option(min=0, max=2**63 - 1, help="As the run's tie_seed.")] = None,
    skip_wrong_rows: SkipWrongRows = 0,
    users: Annotated[int | None, typer.Option(min=1, help="Measure a fixed sample of so many users.")] = None,
) -> None:
    """Measure an artifact on the test events of a dataset, through its graph."""
    from .evaluate import evaluate_artifact, measured_on, print_metrics
    from .interactions import leave_one_out, read_dataset

    if not artifact.is_dir():
        raise ConfigError(f"{artifact} is not a folder")
    split = leave_one_out(read_dataset(data, tie_seed=tie_seed, skip_wrong_rows=skip_wrong_rows))
    title = f"{artifact.name} on {data.name}: {measured_on(split, users)[1]}"
    print_metrics(evaluate_artifact(Artifact.open(artifact), split, users), title)


@app.command()
def study(
    data: Data,
    plan: Annotated[str, typer.Option(help="A plan's TOML file, or the name of one that comes with the package.")],
    out: Annotated[Path, typer.Option(help="Folder for steps, artifacts, tables and report.html.")],
    device: Annotated[list[str] | None, typer.Option(help="One run at a time on each: cpu, cuda:0, …")] = None,
    run: Annotated[list[str] | None, typer.Option(help="Only this run of the plan; may be repeated.")] = None,
    order: Annotated[Literal["file", "shuffled"] | None, typer.Option(help="Only this order of events.")] = None,
    seed: Annotated[list[int] | None, typer.Option(min=0, help="Instead of the plan's seeds, for all runs.")] = None,
    changes: Annotated[list[str] | None, typer.Option("--set", help="One more setting for all runs.")] = None,
) -> None:
    """Runs a plan of trainings, each shared step once; goes on where it stopped."""
    from .plan import read_plan
    from .study import run_study

    wanted = read_plan(plan).only(run or [], order).changed(changes or [], seed or [])
    report = run_study(wanted, data, out, device or ["auto"], f"{data.resolve().name}: {Path(plan).stem}")
    typer.echo(f"wrote {out / 'results.csv'} and {report}")


@imports.command()
def movielens(
    src: Path, out: Path, min_core: MinCore = 5, skip_wrong_rows: SkipWrongRows = 0, force: Force = False
) -> None:
    """GroupLens ml-100k or ml-1m: a folder or the .zip as downloaded."""
    typer.echo(import_movielens(src, out, min_core, skip_wrong_rows=skip_wrong_rows, force=force))


@imports.command()
def recbole(
    src: Path, out: Path, min_core: MinCore = 5, skip_wrong_rows: SkipWrongRows = 0, force: Force = False
) -> None:
    """A folder with RecBole atomic files NAME.inter and NAME.item."""
    typer.echo(import_recbole(src, out, min_core, skip_wrong_rows=skip_wrong_rows, force=force))


@imports.command()
def amazon(
    src: Path, out: Path, min_core: MinCore = 5, skip_wrong_rows: SkipWrongRows = 0, force: Force = False
) -> None:
    """A folder with raw review and metadata JSON lines of 2014, 2018 or 2023, gzipped or not."""
    reviews, metadata = find_amazon_files(src)
    typer.echo(import_amazon(reviews, metadata, out, min_core, skip_wrong_rows=skip_wrong_rows, force=force))


@app.command()
def fetch(
    out: Path,
    source: Annotated[
        Literal["recbole", "grouplens"], typer.Option(help="Where MovieLens-100k comes from.")
    ] = "recbole",
    force: Force = False,
) -> None:
    """Fetch MovieLens-100k (GroupLens licence: research use, no redistribution) as a dataset folder."""
    typer.echo(fetch_movielens(out, source, force=force))


def main() -> int:
    """Runs the command line; an expected error is one sentence on stderr and exit code 1, or 2 for wrong arguments."""
    # libgomp's threads spin for milliseconds at every barrier by default, and on a machine that is also busy with
    # something else training then takes several times as long. And an item table's gradient is memory that comes from
    # the kernel anew at every step: in large pages, a small part of the faults. Both read when torch is first imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    log_to_stderr()
    try:
        app()
    except (TrainingError, ModelError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        return 2 if isinstance(error, ConfigError) else 1
    except SystemExit as end:
        if end.code == 130:
            typer.echo("interrupted; the same command goes on from the last checkpoint", err=True)
        raise
    finally:
        if "torch" in sys.modules:
            from .machine import leave_team

            leave_team()
    return 0


def _end(code: object) -> NoReturn:
    """A process of a team ends at once: threads of gloo that are still there would abort an orderly end (SIGABRT)."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and (code is None or isinstance(code, int)):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)
    sys.exit(code)  # type: ignore[arg-type]


if __name__ == "__main__":
    try:
        ended: object = main()
    except SystemExit as end:
        ended = end.code
    _end(ended)
