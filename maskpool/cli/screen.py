"""Show a command's progress on standard error, and its tables and notes on standard output."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console, Group
from rich.text import Text


class Screen:
    """Show progress on standard error.

    Args:
        silent: Whether to show nothing.
    """

    def __init__(self, silent: bool) -> None:
        self.silent = silent
        self.console = Console(stderr=True, quiet=silent)

    def say(self, words: str) -> None:
        """Print a line of progress."""
        self.console.print(words, style="dim")

    @contextlib.contextmanager
    def status(self, words: str) -> Iterator[Callable[[str], None]]:
        """Show one line that changes, on a terminal only."""
        if self.silent or not self.console.is_terminal:
            yield lambda _: None
            return
        with self.console.status(Text(words)) as status:  # not markup: names may hold brackets
            yield lambda words: status.update(Text(words))

    @contextlib.contextmanager
    def task(self, description: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a progress bar."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(description, total=total)
            yield lambda steps: progress.advance(task, steps)


def print_wide(content: Group) -> None:
    """Print tables, 110 columns wide where the output has no width: rich would wrap them at 80 in a pipe or a log."""
    console = Console()
    Console(width=console.width if console.is_terminal else 110).print(content, highlight=False)


def notes_on_pooling(model: str, poolings: Sequence[str]) -> list[str]:
    """Return a note on the poolings that differ from the one that a model is saved with, if there are any."""
    from maskpool.encoder import bundled_folder_of
    from maskpool.encoder.saved_pooling import find_saved_pooling

    try:
        saved = find_saved_pooling(bundled_folder_of(model))
    except FileNotFoundError:  # the hub repository cannot be reached
        return []
    if saved is None or saved.unusable:
        return []
    others = [mode for mode in poolings if not saved.is_mode(mode)]
    differ = "pool differently" if len(others) > 1 else "pools differently"
    return [f"{model} is saved with {saved.name} pooling; {', '.join(others)} {differ}"] if others else []
