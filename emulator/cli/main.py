"""Entry point: the verbs, and how each run ends."""

from __future__ import annotations

import sys

import click

from emulator import __version__
from emulator.cli.lazy_group import LazyGroup
from emulator.core.errors import ExitCode, HyperscalerError

# verb -> (module below `emulator.cli.commands`, what `--help` says of it)
VERBS: dict[str, tuple[str, str]] = {
    "validate": ("labfile.validate", "Check a lab file and report every fault at once."),
    "plan": ("labfile.plan", "Show what provision would do, and change nothing."),
    "provision": ("lab.provision", "Bring this host to what the lab file asks for."),
    "configure": ("lab.configure", "Run the playbooks of a provisioned lab again."),
    "upgrade": ("lab.upgrade", "Bring the nodes of a lab to the next version of Kubernetes."),
    "nightly": ("lab.nightly", "Build a lab from nothing, and keep the last good one if that fails."),
    "verify": ("lab.verify", "Prove that a lab works, by running jobs on it."),
    "status": ("lab.status", "Show the labs of this host, or the nodes of one lab."),
    "history": ("lab.history", "Show who changed what on this host, and how it ended."),
    "exercise": ("lab.exercise", "Prepare exercises on a lab, and grade them."),
    "ssh": ("lab.ssh", "Open a shell on a node, or run a command there."),
    "inventory": ("lab.inventory", "Print the Ansible inventory of a lab."),
    "access": ("credentials.access", "Give people access to a lab, list it, revoke it."),
    "rotate": ("credentials.rotate", "Replace a secret of a lab: ssh, munge or tls."),
    "kubeconfig": ("credentials.kubeconfig", "Print a kubeconfig of a lab's Kubernetes cluster."),
    "destroy": ("lab.destroy", "Remove a lab without a trace."),
    "host": ("host.host", "Check and prepare this host, start labs at boot."),
    "gpu": ("gpu.gpu", "Show GPUs, try layouts, see who uses what, give them back."),
    "bundle": ("images.bundle", "Make, check and show offline bundles of Kubernetes."),
    "image": ("images.image", "Build, list, tag, sign, import and remove golden images."),
}


# package below `emulator.cli.commands` -> what `--help` writes above its verbs
SECTIONS: dict[str, str] = {
    "labfile": "Look at a lab file, change nothing",
    "lab": "Make, use and remove a lab",
    "credentials": "People and secrets",
    "gpu": "GPUs",
    "images": "Images and bundles",
    "host": "This host",
}


class VerbGroup(LazyGroup):
    """All verbs; the help shows them by what they are about."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        widest = max(map(len, VERBS))
        for package, title in SECTIONS.items():
            rows = [
                (verb.ljust(widest), text) for verb, (module, text) in VERBS.items() if module.startswith(f"{package}.")
            ]
            with formatter.section(title):
                formatter.write_dl(rows)


@click.group(
    cls=VerbGroup,
    verbs={verb: module for verb, (module, _) in VERBS.items()},
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="hyperscaler")
def cli() -> None:
    """One GPU workstation as a miniature AI hyperscaler: Slurm and Kubernetes on real VMs.

    \b
    A first lab:
      hyperscaler provision config/demo.yaml
      hyperscaler ssh demo hpc-controller -- srun -N2 hostname
      hyperscaler destroy demo

    \b
    Exit codes: 0 done, 1 failed, 2 usage, 3 invalid file, 4 host not fit,
      5 locked or in conflict, 130 aborted by a second Ctrl-C, 141 the
      reader of the output left (as `head` does).
    """
    import os

    if os.geteuid() == 0:
        from emulator.cli.output import say
        from emulator.operations.host.program import require_roots_start

        doubt = require_roots_start()
        if doubt:
            say(f"warning: {doubt}", err=True)


def main() -> None:
    """Run the command; every error leaves with the exit code of its class and without a traceback."""
    from emulator.cli.output import (
        READER_LEFT,
        OutputError,
        ReaderLeftError,
        finish_streams,
        prepare_streams,
        print_error,
    )

    prepare_streams()
    code = _run()
    try:
        finish_streams()
    except ReaderLeftError:
        code = code or READER_LEFT
    except OutputError as error:
        if not code:
            print_error(error)
            code = ExitCode.FAILED
    sys.exit(code)


def _run() -> int | str | None:
    """The exit code; an error is printed here."""
    from emulator.cli.output import READER_LEFT, ReaderLeftError, print_error, print_usage_error, reader_left

    streams = sys.stdout, sys.stderr
    try:
        cli.main(standalone_mode=False)
    except SystemExit as error:
        if sys.stdout is streams[0]:
            return error.code
        # click ends in silence at any closed pipe, that of a program that we talk to included.
        sys.stdout, sys.stderr = streams
        if reader_left():
            return READER_LEFT
        print_error("Broken pipe: a program that was talked to has ended or closed the connection")
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.UsageError as error:
        print_usage_error(error, sys.argv[1:])
        return ExitCode.USAGE
    except click.Abort:
        print_error("aborted")
    except ReaderLeftError:
        return READER_LEFT
    except HyperscalerError as error:
        print_error(error)
        return error.exit_code
    except PermissionError as error:
        print_error(
            HyperscalerError(
                f"not permitted: {error.strerror}",
                where=str(error.filename or ""),
                fix="run as the user that owns this directory (root for the default one), or set HYPERSCALER_HOME",
            )
        )
    except KeyboardInterrupt:
        print_error("aborted at once, as asked; `hyperscaler status` shows what is there")
        return 130
    except OSError as error:  # click's own output on a full disk included
        print_error(HyperscalerError(error.strerror or str(error), where=str(error.filename or "")))
        return ExitCode.FAILED
    except ImportError as error:
        from emulator.core.extras import missing_library

        missing = missing_library(error)
        if missing is None:
            return _our_fault(error)
        print_error(missing)
        return missing.exit_code
    except Exception as error:  # noqa: BLE001  a fault of ours; who reads `--json` gets JSON all the same
        return _our_fault(error)
    else:
        return ExitCode.DONE
    return ExitCode.FAILED


def _our_fault(error: Exception) -> ExitCode:
    from traceback import format_exception

    from emulator.cli.output import print_error, say

    say("".join(format_exception(error)), err=True, nl=False, wrap=False)
    print_error(
        HyperscalerError(
            f"this is a fault of hyperscaler itself: {type(error).__name__}: {error}",
            fix="report it with the lines above; what was done so far is on record: `hyperscaler status`",
        )
    )
    return ExitCode.FAILED


if __name__ == "__main__":
    main()
