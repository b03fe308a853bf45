"""`damlpips table`: rows of scores in, the table of a paper out."""

from pathlib import Path
from typing import Annotated

import typer

from damlpips.cli.model import bad_input
from damlpips.cli.options import check_installed, check_outputs, write
from damlpips.cli.program import app, fail

EXAMPLES = """[bold]Examples[/bold]

[cyan]damlpips score originals/ --method a=ours/ --method b=theirs/ --metric damlpips --metric psnr -o s.csv[/cyan]
[cyan]damlpips table s.csv[/cyan]

[cyan]damlpips table s.csv --latex --intervals -o table.tex[/cyan]

[cyan]damlpips table damlpips.csv lpips.csv --csv --digits 4[/cyan]"""


@app.command("table", epilog=EXAMPLES)
def table(
    rows: Annotated[
        list[Path],
        typer.Argument(metavar="ROWS...", help="What damlpips score wrote: .csv, .jsonl or .parquet, one or more."),
    ],
    latex: Annotated[bool, typer.Option("--latex", help="LaTeX, with the package booktabs.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Markdown, the default.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="CSV: all digits, no marks, no notes.")] = False,
    digits: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, max=15, help="Decimals. Default: 2 of decibels, 3 of everything else."),
    ] = None,
    intervals: Annotated[
        bool, typer.Option("--intervals", help="Show 95 % intervals, as damlpips report does.")
    ] = False,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Where it goes. Default: '-'.")] = Path("-"),
) -> None:
    """Make the table of a paper: methods by metrics, the best bold, the second underlined, and what was computed."""
    check_installed("table", "report", ("numpy", "scipy", "jinja2", "matplotlib"))
    check_outputs({"--out": out})
    if out.exists() and any(path.exists() and out.samefile(path) for path in rows):
        fail(f"--out {out}: is one of the files of rows")
    chosen = [name for name, given in {"latex": latex, "markdown": markdown, "csv": csv}.items() if given]
    if len(chosen) > 1:
        fail(f"{' and '.join(f'--{name}' for name in chosen)}: expected one of them")
    with bad_input():
        from damlpips.report.table import render_table

        text = render_table(rows, *chosen, digits=digits, intervals=intervals)
    write("--out", out, text)
