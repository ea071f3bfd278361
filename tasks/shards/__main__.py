"""`python -m tasks.shards inspect <shards folder or file>`: what lies in packed rows."""

import sys

from tasks.shards.inspect import main as inspect


def main(arguments: list[str]) -> int:
    """Run the command named first; 2 when there is none of that name."""
    if arguments[:1] == ["inspect"]:
        return inspect(arguments[1:])
    found = f"unknown command {arguments[0]!r}" if arguments else "no command"
    print(f"error: {found}; allowed: inspect; next: python -m tasks.shards inspect --help", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
