"""The command `varigrad`, also as `python -m varigrad`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line, or say in one line what it needs."""
    try:
        from varigrad.cli import app
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "varigrad":
            raise
        print("varigrad: error: the command line needs the lab extra: pip install 'varigrad[lab]'", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:  # while PyTorch is being imported
        print("varigrad: interrupted", file=sys.stderr)
        sys.exit(130)
    app(prog_name="varigrad")


if __name__ == "__main__":
    main()
