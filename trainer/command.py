"""What the command lines of the smaller entries share."""

import argparse


def parser_of(about: str) -> argparse.ArgumentParser:
    """Begin a command line whose help is an entry's docstring: first line, options, the rest."""
    first, _, rest = about.partition("\n")
    return argparse.ArgumentParser(
        description=first, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
