"""`damlpips score`: image and video files in, a table of distances out."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TimeRemainingColumn
from rich.text import Text

from damlpips.cli.metrics import ALONE, Several, set_scorer, settings_of, takes_metrics
from damlpips.cli.model import DeviceOption, bad_input, in_options
from damlpips.cli.options import (
    READING,
    check_outputs,
    find_device,
    progress_bar,
    takes_reading,
    to_standard_output,
)
from damlpips.cli.program import ABOVE_LIMIT, FAILED_PAIRS, app, complain, fail
from damlpips.cli.summary import RunSummary
from damlpips.files import is_gone, spelled
from damlpips.scoring.reading import Reading
from damlpips.scoring.workers import ON_AGAIN, here

if TYPE_CHECKING:
    from damlpips.scoring.pairs import Pair
    from damlpips.scoring.rows import Scored
    from damlpips.scoring.scorer import Score

T = TypeVar("T")


class Channels(str, Enum):
    """What PSNR, SSIM and MS-SSIM compare."""

    RGB = "rgb"
    Y = "y"


# Fewer pairs than this are scored before anyone has noticed the bar.
PAIRS_WORTH_A_BAR = 16


EXAMPLES = """[bold]Examples[/bold]

[cyan]damlpips score original.png compressed.jpg[/cyan]

[cyan]damlpips score original.png versions/ --csv scores.csv[/cyan]

[cyan]damlpips score originals/ restored/ --metric lpips --json - > scores.json[/cyan]

[cyan]damlpips score originals/ restored/ --metric damlpips --metric lpips-alex --metric psnr -o scores.csv[/cyan]

[cyan]damlpips score originals/ restored/ --pairs pairs.csv --csv scores.csv[/cyan]

[cyan]damlpips score golden/ rendered/ --fail-above 0.05[/cyan]

[cyan]damlpips score original.mp4 encoded.mp4 --frames-csv frames.csv[/cyan]

[cyan]damlpips score original_frames/ restored_frames/ --frames[/cyan]

[cyan]damlpips score originals/ --method ours=ours/ --method theirs=theirs/ -o scores.parquet --workers 4[/cyan]

[cyan]torchrun --nproc-per-node 8 -m damlpips score originals/ restored/ -o scores.parquet[/cyan]"""


@app.command(epilog=EXAMPLES)
@takes_metrics
@takes_reading
def score(
    reference: Annotated[
        Path, typer.Argument(metavar="REF", help="The reference image or video, or a folder of them.")
    ],
    distorted: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIST",
            help="The image or video to judge, or a folder: paired by path and name with REF's, or all against one"
            " REF.",
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=DIR", help="In place of DIST: a method's folder of images. May be repeated."),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Score the pairs of a CSV file, in its order: a header with the columns reference and distorted"
            " (others are ignored), each a path within the folders REF and DIST.",
        ),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Compare only where masks are not black: images with the names of the distorted ones, whatever their"
            " endings, or one FILE for all pairs.",
        ),
    ] = None,
    chosen: Several = ALONE,
    channels: Annotated[
        Channels, typer.Option(help="What psnr, ssim and ms-ssim compare: all colours, or luma (Y of BT.601).")
    ] = Channels.RGB,
    fid_features: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="The network of fid and kid in place of Inception: FILE.py:NAME, or FILE.pt of TorchScript; images"
            " in [0, 1] to features (N, F).",
        ),
    ] = None,
    device: DeviceOption = "auto",
    frames: Annotated[
        bool, typer.Option("--frames", help="A folder of images is a video, and they are its frames, in order.")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="The most pairs, or frames of videos, scored at once.")] = 8,
    workers: Annotated[
        int, typer.Option(metavar="N", min=0, help="Threads that read images and frames while others are scored.")
    ] = 0,
    reading: Reading = READING,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a row a pair as CSV; '-' for standard output.")
    ] = None,
    jsonl: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a row a pair as JSON Lines; '-' for standard output.")
    ] = None,
    parquet: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a row a pair as Parquet, when all are scored.")
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the mean and the scores as one JSON object; '-' for standard output."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="As one of these: .csv, .jsonl, .parquet or .json."),
    ] = None,
    frames_csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write a row a frame of videos, as CSV.")
    ] = None,
    fail_above: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="Exit with 1 if the score of any pair is above X, and name those pairs, the worst first."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Score all anew, whatever the files to write hold.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print no table and no progress bar.")] = False,
) -> None:
    """Score images or videos against a reference: two files, two folders, one file and a folder, or a list of pairs.

    The score of a video is the mean over its frames. A run that was killed goes on where it stopped when the same
    command is given again. A pair that cannot be scored, at all or by one of several metrics, gets a row with its
    error, and the exit code is 3.
    """
    if fail_above is not None and not 0 <= fail_above < float("inf"):
        fail(f"--fail-above {fail_above}: expected a finite number of at least 0")
    files = {"--csv": csv, "--jsonl": jsonl, "--parquet": parquet, "--json": json, "--output": output}
    files["--frames-csv"] = frames_csv  # last: a pair whose frames are written has its own row, too
    check_outputs(files)
    with bad_input():
        from damlpips.scoring import shards
        from damlpips.scoring.destinations import alone, destinations, growing, opened
        from damlpips.scoring.images import ScoringError
        from damlpips.scoring.pairs import PassedOver, with_masks
        from damlpips.scoring.rows import Table
        from damlpips.scoring.scorer import layer_count, score_pairs
        from damlpips.scoring.sets import score_sets
        from damlpips.scoring.several import as_text

        wanted = destinations(files)
        team = here()
        if team is not None and frames_csv is not None:
            fail(f"--frames-csv {frames_csv}: one process writes rows of frames, got {team.world}: leave torchrun out")
        passed_over = PassedOver()
        named = _methods(method or [])
        found = _pairs(reference, distorted, named, pairs, frames=frames, passed_over=passed_over)
        given = [path for path in (reference, distorted, *named.values(), masks) if path is not None]
        if passed_over and not quiet and (team is None or team.rank == 0):
            complain(str(passed_over))
        _check_videos(found, frames_csv)
        if masks is not None:
            found = with_masks(found, masks)
        # with just two images, a bad one is a bad argument
        two_files = distorted is not None and pairs is None and not distorted.is_dir()
        errors = "raise" if two_files and not found[0].video else "keep"
        where = find_device(device)
        model, others, said = chosen.build(where, channels.value)
        if masks is not None and (whole := [other.said.name for other in others if other.model is None]):
            fail(f"--masks {masks}: {', '.join(whole)} would compare whole images: expected metrics of this package")
        of_sets = set_scorer(chosen.of_sets, fid_features, where, batch_size=batch_size, reading=reading)
        if of_sets is not None and (masks is not None or any(pair.video for pair in found)):
            fail(f"--metric {chosen.of_sets[0]}: compares whole images, not {'masks' if masks else 'videos'}")
        settings = settings_of(model, **reading.in_rows(), **_said_of(masks)) | {"metrics": as_text(said)}
        table = Table(settings, layer_count(model), others=tuple(spelled(other.said.name) for other in others))
        progress = _Progress(len(found), shown=not quiet, videos=any(pair.video for pair in found))

        def scored(*, start: int, stop: int | None = None) -> "Iterator[Score]":
            scores = score_pairs(
                model,
                found,
                batch_size=batch_size,
                device=where,
                start=start,
                stop=stop,
                errors=errors,
                workers=workers,
                watch=progress.watch,
                others=others,
                **asdict(reading),
            )
            for score in scores:
                # errors of all pairs that are left would be rows with which no run could go on
                if score.error and (gone := next(filter(is_gone, given), None)) is not None:
                    raise ScoringError(f"{gone}: is gone, or empty, since the run began; {ON_AGAIN}")
                yield replace(score, error=in_options(score.error)) if score.error else score

        job = shards.Job(scored, found, table, batch_size)
        if team is not None and team.rank > 0:
            shards.help_out(team, job)
            return
        summary, echo = RunSummary(table.others, limit=fail_above), partial(typer.echo, nl=False)
        notes: dict[str, Any] = {"passed_over": {spelled(kind): number for kind, number in passed_over.kinds.items()}}
        with (
            alone(wanted),
            shards.beside(growing(wanted), anew=overwrite) as file,
            opened(wanted, table, found, batch_size=batch_size, overwrite=overwrite, echo=echo, notes=notes) as outputs,
        ):

            def count(row: "Scored") -> None:
                summary.add(row)
                if of_sets is not None:
                    of_sets.add(row.pair, row.row)

            for row in outputs.kept_rows():
                count(row)
            kept, plan = summary.pairs, None
            # shards have no rows of frames
            if kept < len(found) and frames_csv is None and (team is not None or shards.shards_of(file)):
                plan = shards.Plan(job, file, start=kept, ranks=team)
            done = kept if plan is None else plan.done
            if done and not quiet:
                typer.echo(f"{done} of {len(found)} pairs were scored before", err=True)
            if kept < len(found):
                rows: Iterable[Scored]
                if plan is None:
                    rows = map(table.scored, progress.along(scored(start=kept), done))
                else:
                    rows = plan.rows(after=progress.along(plan.work(), done))
                for row in rows:
                    outputs.write(row)
                    count(row)
            if of_sets is not None:
                summary.sets = score_sets(of_sets, growing(wanted), anew=overwrite)
                notes["sets"] = [asdict(score) for score in summary.sets]
        if not quiet and not to_standard_output(files):
            summary.print(f"{settings['metric']} ({model.source.name}), lower is closer", said)
        summary.complain()
        if not summary.is_whole:
            raise typer.Exit(FAILED_PAIRS)
        if summary.above:
            raise typer.Exit(ABOVE_LIMIT)


def _methods(named: list[str]) -> dict[str, Path]:
    """Return the folder of each method by its name."""
    methods: dict[str, Path] = {}
    for text in named:
        name, _, folder = text.partition("=")
        if not (name and folder):
            fail(f"--method {text}: expected NAME=DIR")
        if name in methods:
            fail(f"--method {text}: there is a method {name!r} already")
        methods[name] = Path(folder)
    return methods


def _said_of(masks: Path | None) -> dict[str, str]:
    """Return what rows say of masks; those of a folder go by the names of the pairs."""
    if masks is None:
        return {}
    from damlpips.scoring.frames import digest_if_readable

    return {"masks": "named" if masks.is_dir() else digest_if_readable(masks)}


def _check_videos(pairs: "list[Pair]", frames_csv: Path | None) -> None:
    """Fail early if videos cannot be read here, or if rows of frames are wanted and there are no videos."""
    from damlpips.scoring.videos import pyav

    videos = [pair for pair in pairs if pair.video]
    if not videos and frames_csv is not None:
        fail(f"--frames-csv {frames_csv}: there are no videos among the pairs (folders of frames need --frames)")
    if any(not (pair.distorted.is_dir() and pair.reference.is_dir()) for pair in videos):
        pyav()


def _pairs(
    reference: Path,
    distorted: Path | None,
    methods: dict[str, Path],
    manifest: Path | None,
    **options: Any,
) -> "list[Pair]":
    from damlpips.scoring.pairs import find_methods, find_pairs

    if (distorted is None) == (not methods):
        fail("expected DIST, or --method NAME=DIR once or more, and not both (see damlpips score --help)")
    for name, folder in methods.items():
        if not folder.is_dir():
            fail(f"--method {name}={folder}: no such folder")
    if distorted is None:
        return find_methods(reference, methods, manifest, **options)
    return find_pairs(reference, distorted, manifest, **options)


class _Progress(ProgressColumn):
    """A progress bar for terminals; beside it what is being done, such as the frames of a video."""

    def __init__(self, total: int, *, shown: bool, videos: bool = False) -> None:
        super().__init__()
        self._total, self._shown, self._videos = total, shown, videos
        self._text = "scoring"

    def watch(self, pair: "Pair", frames: int) -> None:
        """Note how many frames of a video are scored."""
        self._text = f"{spelled(pair.distorted.name)[-40:]}: {frames} frames"

    def render(self, task: Task) -> Text:
        return Text(self._text)

    def along(self, scores: Iterable[T], done: int = 0) -> Iterator[T]:
        """Yield the scores, and move the bar with each."""
        # a single video may take an hour
        worth_it = self._videos or self._total - done >= PAIRS_WORTH_A_BAR
        columns = self, BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn()
        with progress_bar(*columns, shown=self._shown and worth_it) as progress:
            task = progress.add_task("scoring", total=self._total, completed=done)
            for score in scores:
                yield score
                progress.advance(task)


class _Rate(ProgressColumn):
    """Pairs a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} pairs/s")
