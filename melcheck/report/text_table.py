"""A plain table of texts, without colour, for a terminal and for a pipe."""

from __future__ import annotations

import io
from collections.abc import Sequence

from melcheck.files import plain_text


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, width: int) -> list[str]:
    """Return rows as a table at most `width` columns wide, in lines; long text is folded."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for name in header:
        table.add_column(Text(plain_text(name)), overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain_text(cell)) for cell in row))
    output = io.StringIO()
    Console(file=output, width=width, color_system=None).print(table)
    return [line.rstrip() for line in output.getvalue().strip("\n").splitlines()]
