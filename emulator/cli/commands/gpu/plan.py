"""hyperscaler gpu plan [FILE]"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from emulator.cli.options import load
from emulator.cli.output import json_option, print_json
from emulator.core.errors import ExitCode, UsageError
from emulator.core.paths import Home

if TYPE_CHECKING:
    from emulator.operations.gpu.layout import LayoutAnswer


@click.command("plan")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option(
    "--gpu", "--board", "gpus", multiple=True, metavar="MODEL[:COUNT]", help="Without a file: plan for these GPUs."
)
@click.option("--demand", metavar="PROFILE=COUNT,...", help="Without a file: these slices; `whole=1` is a whole GPU.")
@click.option("--svg", type=click.Path(path_type=Path, dir_okay=False), help="Also draw the GPUs into this file.")
@click.option("--ascii", "ascii_only", is_flag=True, help="Draw with plain ASCII characters.")
@json_option
def command(
    file: Path | None, *, gpus: tuple[str, ...], demand: str | None, svg: Path | None, ascii_only: bool, as_json: bool
) -> None:
    """Draw where the slices of FILE go, or answer what would fit. Needs no hardware; changes nothing.

    \b
    hyperscaler gpu plan config/production.yaml --svg layout.svg
    hyperscaler gpu plan --gpu A100-SXM4-80GB:2 --demand 1g.10gb=4,3g.40gb=1

    Exit code 1 means that it does not fit; the reasons and the smallest changes that help are printed.
    """
    from emulator.operations.gpu.layout import layout_of_file, layout_of_question

    if (file is None) == (not gpus and demand is None):
        raise UsageError("give either a FILE or --gpu and --demand", fix="hyperscaler gpu plan --help")
    if file is None:
        answer = layout_of_question(gpus, demand)
    else:
        answer = layout_of_file(Home.default(), load(file).spec, str(file))
    _show(answer, svg=svg, ascii_only=ascii_only, as_json=as_json)
    if answer.infeasible is not None:
        sys.exit(ExitCode.FAILED)


def _show(answer: LayoutAnswer, *, svg: Path | None, ascii_only: bool, as_json: bool) -> None:
    from emulator.cli.render.gpu import layout_json, print_layout, write_svg
    from emulator.gpu.pictures.picture import picture_of

    pictures = picture_of(answer.gpus, answer.placed)
    if svg is not None:
        write_svg(svg, pictures)
    if as_json:
        print_json(layout_json(answer))
    else:
        print_layout(answer, pictures, ascii_only=ascii_only)
