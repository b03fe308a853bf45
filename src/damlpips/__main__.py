"""`python -m damlpips` and the `damlpips` command."""

import sys
from importlib.util import find_spec
from io import TextIOWrapper

NEEDED = ("typer", "rich", "PIL", "filelock")


def main() -> None:
    """Run the command line if the packages it needs are installed."""
    if any(find_spec(name) is None for name in NEEDED):
        print("damlpips: the command line needs: pip install 'damlpips[cli]'", file=sys.stderr)
        raise SystemExit(2)
    # a file name that the terminal's encoding lacks is shown escaped
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    from damlpips.cli import app

    app(prog_name="damlpips")


if __name__ == "__main__":
    main()
