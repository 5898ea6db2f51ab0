"""The commands of this room: bring pretrained weights to machines without access, convert pickled checkpoints."""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from trainers.trial import TrialError


def main(arguments: list[str] | None = None) -> None:
    """Run a command; wrong input ends with exit code 2 and a message."""
    given = _parser().parse_args(arguments)
    try:
        given.run(given)
    except (TrialError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainers", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    fetch = commands.add_parser(
        "fetch-weights",
        help="download the pretrained weights of some cells into a folder, for `--weights DIR`",
        description="Run this on a machine with access to the hub, carry DIR over, and give it to "
        "`python -m search run STUDY.yaml --weights DIR`. Cells come from a study, `--cell` or a plan's JSON.",
    )
    fetch.add_argument("study", nargs="?", type=Path, metavar="STUDY.yaml", help="fetch what its cells begin with")
    fetch.add_argument("--cell", action="append", default=[], metavar="INITIALIZATION:BACKBONE")
    fetch.add_argument("--plan", metavar="FILE", help="JSON with initialization and backbone pairs; - reads it here")
    fetch.add_argument("--to", type=Path, required=True, metavar="DIR")
    fetch.set_defaults(run=_fetch)
    convert = commands.add_parser(
        "convert-checkpoint", help="turn a pickled state dict into safetensors, without running code from it"
    )
    convert.add_argument("file", type=Path)
    convert.add_argument("--to", type=Path, required=True, metavar="FILE.safetensors")
    convert.add_argument("--key", help="entry that holds the state dict, e.g. teacher or state_dict")
    convert.add_argument("--strip-prefix", default="", help="beginning of every parameter's name to take away")
    convert.set_defaults(run=_convert)
    join = commands.add_parser("join-trial", help="(internal) another process of a running trial; reads JSON")
    join.set_defaults(run=_join)
    return parser


def _fetch(given: argparse.Namespace) -> None:
    from trainers.weights_folder import cells_in, fetch

    cells = [tuple(cell.split(":", 1)) for cell in given.cell]
    if malformed := [cell for cell in cells if len(cell) != 2]:
        raise ValueError(f"--cell wants INITIALIZATION:BACKBONE, not {malformed[0][0]!r}")
    if given.study:
        cells += cells_in(json.loads(_plan_of(given.study)))
    if given.plan:
        text = sys.stdin.read() if given.plan == "-" else Path(given.plan).read_text()
        cells += cells_in(_json(text, f"--plan {given.plan}"))
    if not cells:
        raise ValueError("nothing to fetch: give STUDY.yaml, --cell INITIALIZATION:BACKBONE or --plan FILE")
    fetch([(cell[0], cell[1]) for cell in dict.fromkeys(cells)], to=given.to, tell=print)


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where}: no JSON ({error})") from None


def _plan_of(study: Path) -> str:
    """Ask the room `search`, which reads study files, in a process of its own: imports go the other way."""
    asked = [sys.executable, "-m", "search", "plan", str(study), "--json"]
    planned = subprocess.run(asked, capture_output=True, text=True, check=False)
    if planned.returncode:
        raise ValueError(planned.stderr.strip().removeprefix("error: "))
    return planned.stdout


def _convert(given: argparse.Namespace) -> None:
    from trainers.weights_folder import convert

    count = convert(given.file, to=given.to, key=given.key, strip_prefix=given.strip_prefix)
    print(f"{count} tensors written to {given.to}")


def _join(_: argparse.Namespace) -> None:
    from trainers import parallel
    from trainers.train import join_trial
    from trainers.trial import Operation, TrialConfig

    message = json.load(sys.stdin)
    operation = Operation.model_validate(message["operation"])
    rank, meeting = message["rank"], message["meeting"]
    with parallel.telling(rank, meeting):
        ranks = parallel.join(parallel.Ranks(rank, operation.processes), operation, meeting)
        try:
            join_trial(TrialConfig.model_validate(message["config"]), operation, message["until_epoch"], ranks=ranks)
        finally:
            parallel.leave()
