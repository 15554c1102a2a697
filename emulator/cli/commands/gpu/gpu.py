"""hyperscaler gpu discover|plan|top|map|release"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from emulator.cli.options import confirmed, lab_argument, load, print_plan
from emulator.cli.output import json_option, print_json
from emulator.cli.render.progress import reporting, run_log
from emulator.core.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from emulator.core.paths import Home
    from emulator.gpu.placement.demand import Assignment, GpuState, Infeasible
    from emulator.plan.model import Plan

optional_file = click.argument("file", type=click.Path(path_type=Path), required=False)


@click.group("gpu")
def command() -> None:
    """Look at the host's GPUs, try layouts, see who uses what, give GPUs back."""


def _home() -> Home:
    from emulator.core.paths import Home

    return Home.default()


# ---------------------------------------------------------------- discover
@command.command("discover")
@optional_file
@click.option("--file", "file_option", type=click.Path(path_type=Path), help="The same as FILE.")
@json_option
def discover(file: Path | None, *, file_option: Path | None, as_json: bool) -> None:
    """Show every GPU of this host: MIG, slices, vGPUs, IOMMU group, who holds it. Changes nothing.

    With FILE the devices of a lab file are compared with them (exit 1 if they differ); if the file says `backend:
    simulated`, the simulated GPUs are shown.
    """
    from emulator.cli.render.gpu import discovery_json, discovery_text
    from emulator.host.gpu_demand import asks_for_whole_gpus
    from emulator.lab.environment import host_gpus
    from emulator.operations.gpu.reports import discover, gpus_of_file
    from emulator.wiring import real_environment

    chosen = file or file_option
    spec = load(chosen).spec if chosen else None
    env = real_environment()
    found = (
        discover(gpus_of_file(env, spec), spec.gpu.devices, whole=asks_for_whole_gpus(spec))
        if spec
        else discover(host_gpus(env))
    )
    if as_json:
        print_json(discovery_json(found))
    else:
        click.echo(discovery_text(found))
    for item in found.differences if not as_json else ():
        click.echo(f"differs: {item}\n  fix: {item.fix}", err=True)
    if found.differences:
        sys.exit(ExitCode.FAILED)


# ---------------------------------------------------------------- plan
@command.command("plan")
@optional_file
@click.option(
    "--gpu", "--board", "gpus", multiple=True, metavar="MODEL[:COUNT]", help="Ask without a file: these GPUs."
)
@click.option("--demand", metavar="PROFILE=COUNT,...", help="And these slices; `whole=1` is a whole GPU.")
@click.option("--svg", type=click.Path(path_type=Path, dir_okay=False), help="Also draw the GPUs into this file.")
@click.option("--ascii", "ascii_only", is_flag=True, help="Draw with plain ASCII characters.")
@json_option
def plan(
    file: Path | None, *, gpus: tuple[str, ...], demand: str | None, svg: Path | None, ascii_only: bool, as_json: bool
) -> None:
    """Draw where the slices of FILE go, or answer what would fit. Needs no hardware; changes nothing.

    \b
    hyperscaler gpu plan config/production.yaml --svg layout.svg
    hyperscaler gpu plan --gpu A100-SXM4-80GB:2 --demand 1g.10gb=4,3g.40gb=1

    Exit code 1 means that it does not fit; the reasons and the smallest changes that help are printed.
    """
    if (file is None) == (not gpus and demand is None):
        raise UsageError("give either a FILE or --gpu and --demand", fix="hyperscaler gpu plan --help")
    notes: tuple[str, ...] = ()
    if file is not None:
        states, answer, placed, notes = _plan_file(file)
    else:
        from emulator.gpu.placement.demand import Infeasible
        from emulator.gpu.placement.what_if import what_if

        if demand is None or not gpus:
            raise UsageError("--gpu and --demand go together", fix="add --demand 1g.10gb=4 or --gpu A100-SXM4-80GB")
        asked = what_if(gpus, demand)
        states = asked.gpus
        answer = asked.answer if isinstance(asked.answer, Infeasible) else None
        placed = answer.placed if answer else asked.answer.assignments  # type: ignore[union-attr]
    _show_layout(states, answer, placed, notes, svg=svg, ascii_only=ascii_only, as_json=as_json)
    if answer is not None:
        sys.exit(ExitCode.FAILED)


def _plan_file(
    file: Path,
) -> tuple[tuple[GpuState, ...], Infeasible | None, tuple[Assignment, ...], tuple[str, ...]]:
    from emulator.gpu.placement.demand import Infeasible
    from emulator.operations.gpu.reports import assignments_of, plan_file, recorded_state

    spec = load(file).spec
    if not spec.gpu.devices:
        raise UsageError(f"{file} has no GPUs", fix="add global.gpu_allocation.devices; see docs/user/gpus.md")
    layout = plan_file(spec, recorded_state(_home(), spec.name))
    placed = tuple(assignments_of(layout))
    if isinstance(layout.answer, Infeasible):
        return layout.gpus, layout.answer, placed, ()
    return layout.gpus, None, placed, layout.answer.notes


def _show_layout(
    states: tuple[GpuState, ...],
    infeasible: Infeasible | None,
    placed: tuple[Assignment, ...],
    notes: tuple[str, ...],
    *,
    svg: Path | None,
    ascii_only: bool,
    as_json: bool,
) -> None:
    from emulator.cli.render.gpu import layout_json, layout_text, write_svg
    from emulator.gpu.pictures.picture import picture_of

    pictures = picture_of(states, placed)
    if svg is not None:
        write_svg(svg, pictures)
    if as_json:
        print_json(layout_json(states, placed, infeasible, notes))
        return
    click.echo(layout_text(pictures, colour=sys.stdout.isatty(), ascii_only=ascii_only))
    for note in notes:
        click.echo(f"note: {note}", err=True)
    if infeasible is not None:
        click.echo("error: it does not fit", err=True)
        for reason in infeasible.reasons:
            click.echo(f"  because {reason}", err=True)
        for change in infeasible.changes:
            click.echo(f"  fix: {change}", err=True)


# ---------------------------------------------------------------- top
@command.command("top")
@click.argument("lab", required=False)
@json_option
def top(lab: str | None, *, as_json: bool) -> None:
    """Show memory and utilisation of GPUs and slices, and which node holds each; of LAB, or of the whole host."""
    from emulator.cli.render.gpu import usage_json, usage_text
    from emulator.lab.environment import host_gpus
    from emulator.lab.lab_files import require_lab_name
    from emulator.operations.gpu.reports import gpus_of_lab, recorded_states, usage
    from emulator.wiring import real_environment

    env = real_environment()
    if lab is None:
        host = host_gpus(env)
    else:
        require_lab_name(lab)
        host = gpus_of_lab(env, lab)
    gpus = usage(host, recorded_states(env.home, lab))
    if as_json:
        print_json({"version": 1, "lab": lab, "boards": usage_json(gpus)})
    else:
        click.echo(usage_text(gpus))


# ---------------------------------------------------------------- map
@command.command("map")
@lab_argument
@json_option
def map_(lab: str, *, as_json: bool) -> None:
    """Print which node of LAB holds which slice: GPU, profile, placement, GPU instance, vGPU."""
    from emulator.cli.render.gpu import map_text
    from emulator.lab.lab_files import require_lab_name
    from emulator.lab.mdev_map import lab_mdev_map
    from emulator.operations.gpu.reports import recorded_state

    require_lab_name(lab)
    home = _home()
    if not home.lab(lab).root.is_dir():
        raise UsageError(f"there is no lab {lab}", fix="hyperscaler status lists the labs")
    data = lab_mdev_map(home.lab(lab), recorded_state(home, lab))
    if as_json:
        print_json(data)
    else:
        click.echo(map_text(data))


# ---------------------------------------------------------------- release
@command.command("release")
@lab_argument
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--wait", "wait_seconds", type=float, default=0.0, metavar="SECONDS", help="Wait for the lab's lock.")
@json_option
def release(lab: str, *, yes: bool, wait_seconds: float, as_json: bool) -> None:
    """Give back what LAB has on the host's GPUs; the rest of the lab stays. Refused while its guests run."""
    from emulator.cli.signals import stop_on_signals
    from emulator.lab.lab_files import require_lab_name
    from emulator.operations.gpu.release import release
    from emulator.wiring import real_environment

    require_lab_name(lab)
    env = real_environment()

    def confirm(plan: Plan) -> bool:
        if not yes:
            print_plan(plan, err=True)
        return confirmed(f"Give back the GPUs of lab {lab}?", yes=yes)

    with (
        stop_on_signals() as stop,
        run_log(env.home.lab(lab).logs, "gpu-release"),
        reporting(live=yes) as reporter,
    ):
        result = release(env, lab, reporter, stop, confirm=confirm, wait_seconds=wait_seconds)
    if as_json:
        print_json({**result.plan.to_json(), "released": not result.declined})
    elif result.plan.is_empty:
        click.echo(f"{lab} has nothing on the host's GPUs")
    else:
        gone = f"{lab}: {len(result.plan.changes)} GPU resources given back"
        click.echo("nothing was changed" if result.declined else gone)
