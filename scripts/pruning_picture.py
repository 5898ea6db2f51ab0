"""`python -m scripts.pruning_picture [FILE]`: renew the README's picture of pruners on recorded curves.

Replays the tables of the benchmark `replay`, as far as they are at hand, and draws cost against regret.
"""

from pathlib import Path
from typing import Annotated

import typer

from scripts.benchmarks import replay as benchmark
from search.replay import picture, run

FILE = Path(__file__).resolve().parents[1] / "docs" / "pruning.png"
ASKED = ("cell_race",)


def main(
    file: Annotated[Path, typer.Argument(help="A .png or .svg.")] = FILE,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer drawn groups and orders.")] = False,
) -> None:
    """Replay every table that is at hand, and draw a panel of each."""
    picture.check(file)
    asked = run.asked(ASKED)
    scores = {
        name: list(run.replay(groups, asked, seeds=1 if quick else 3, judged=judged))
        for name, groups, judged in benchmark.tables(quick=quick)
    }
    picture.write(picture.draw(scores, asked=ASKED), file)


if __name__ == "__main__":
    typer.run(main)
