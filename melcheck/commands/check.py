"""X."""
import argparse
from melcheck.commands.terminal import Answer, Terminal
__all__ = ["add_options", "run"]
def add_options(parser: argparse.ArgumentParser) -> None:
    """X."""
def run(options: argparse.Namespace, terminal: Terminal) -> Answer:
    """X."""
    raise NotImplementedError
