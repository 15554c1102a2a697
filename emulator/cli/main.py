"""Entry point. Verbs are imported when they are called, so that `--version` and `--help` cost next to nothing."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import NoReturn

import click

from emulator import __version__
from emulator.core.errors import ExitCode, HyperscalerError

# verb -> (module below `emulator.cli.commands`, what `--help` says of it)
VERBS: dict[str, tuple[str, str]] = {
    "validate": ("labfile.validate", "Check a lab file and report every fault at once."),
    "plan": ("labfile.plan", "Show what provision would do, and change nothing."),
    "provision": ("lab.provision", "Bring this host to what the lab file asks for."),
    "configure": ("lab.configure", "Run the playbooks of a provisioned lab again."),
    "verify": ("lab.verify", "Prove that a lab works, by running jobs on it."),
    "status": ("lab.status", "Show the labs of this host, or the nodes of one lab."),
    "history": ("lab.history", "Show who changed what on this host, and how it ended."),
    "ssh": ("lab.ssh", "Open a shell on a node, or run a command there."),
    "inventory": ("lab.inventory", "Print the Ansible inventory of a lab."),
    "access": ("credentials.access", "Let people into the nodes of a lab, and take it back."),
    "rotate": ("credentials.rotate", "Change a secret of a lab for a new one: ssh, munge or tls."),
    "kubeconfig": ("credentials.kubeconfig", "Print a kubeconfig of a lab's Kubernetes cluster."),
    "destroy": ("lab.destroy", "Take a lab away, without a trace."),
    "host": ("host.host", "Check and prepare this machine, have labs started with it."),
    "gpu": ("gpu.gpu", "Look at GPUs, try layouts, see who uses what, give GPUs back."),
    "bundle": ("images.bundle", "Make, check and show offline bundles of Kubernetes."),
    "image": ("images.image", "Build, list, tag, sign, import and remove golden images."),
}


class LazyGroup(click.Group):
    """Knows its verbs by name and help line; imports one only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        entry = VERBS.get(cmd_name)
        if entry is None:
            return None
        command = import_module(f"emulator.cli.commands.{entry[0]}").command
        assert isinstance(command, click.Command)  # noqa: S101  a verb module without a command is a bug
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(verb, text) for verb, (_, text) in VERBS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in VERBS:
            from difflib import get_close_matches

            close = get_close_matches(args[0], VERBS, n=1)
            hint = f" Did you mean {close[0]}?" if close else " See hyperscaler --help."
            ctx.fail(f"There is no command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hyperscaler")
def cli() -> None:
    """One GPU workstation as a miniature AI hyperscaler: Slurm and Kubernetes on real VMs.

    \b
    A first lab:
      hyperscaler provision config/demo.yaml
      hyperscaler ssh demo hpc-controller -- srun -N2 hostname
      hyperscaler destroy demo

    \b
    Exit codes: 0 done, 1 failed, 2 usage, 3 invalid file, 4 host not fit, 5 locked or in conflict.
    """


def main() -> None:
    """Run the command; every error leaves with the exit code of its class and without a traceback."""
    from emulator.cli.output import print_error, print_usage_error

    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.UsageError as error:
        print_usage_error(error, sys.argv[1:])
        sys.exit(ExitCode.USAGE)
    except click.Abort:
        print_error("aborted")
        sys.exit(ExitCode.FAILED)
    except HyperscalerError as error:
        print_error(error)
        sys.exit(error.exit_code)
    except PermissionError as error:
        print_error(
            HyperscalerError(
                f"not permitted: {error.strerror}",
                where=str(error.filename or ""),
                fix="run as the user that owns this directory (root for the default one), or set HYPERSCALER_HOME",
            )
        )
        sys.exit(ExitCode.FAILED)
    except KeyboardInterrupt:
        print_error("aborted at once, as asked; `hyperscaler status` shows what is there")
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output left (`| head`); that is no failure of ours
        sys.exit(ExitCode.DONE)
    except OSError as error:
        print_error(HyperscalerError(error.strerror or str(error), where=str(error.filename or "")))
        sys.exit(ExitCode.FAILED)
    except ImportError as error:
        from emulator.core.extras import missing_library

        missing = missing_library(error)
        if missing is None:
            _exit_with_our_fault(error)
        print_error(missing)
        sys.exit(missing.exit_code)
    except Exception as error:  # noqa: BLE001  a fault of ours; who reads `--json` gets JSON all the same
        _exit_with_our_fault(error)


def _exit_with_our_fault(error: Exception) -> NoReturn:
    from traceback import print_exception

    from emulator.cli.output import print_error

    print_exception(error)
    print_error(
        HyperscalerError(
            f"this is a fault of hyperscaler itself: {type(error).__name__}: {error}",
            fix="report it with the lines above; what was done so far is on record: `hyperscaler status`",
        )
    )
    sys.exit(ExitCode.FAILED)


if __name__ == "__main__":
    main()
