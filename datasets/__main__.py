"""`python -m datasets verify|prepare|fetch|gc`: look at a data set, decode it once, bring it here, tidy up."""

import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from datasets.dataset_config import DatasetConfig
from datasets.errors import DatasetError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)

Source = Annotated[str, typer.Argument(help="module in datasets/sources, e.g. nih_chest_xray14")]
Root = Annotated[str, typer.Option(help="the data set in its official layout: a folder, or an address such as s3://…")]
Labels = Annotated[str, typer.Option(help="label list: paper or conventional")]
Option = Annotated[
    list[str] | None,
    typer.Option(
        "--option", help="KEY=VALUE of the source, VALUE as text or JSON ('findings=[\"Nodule\"]'); repeatable"
    ),
]
Workers = Annotated[int, typer.Option(min=1, help="decoding processes")]
Cache = Annotated[Path, typer.Option(help="folder of all caches")]


@app.command()
def verify(
    source: Source,
    *,
    root: Root,
    labels: Labels = "conventional",
    option: Option = None,
    workers: Workers = 1,
    images: Annotated[bool, typer.Option(help="decode every file, too")] = True,
    cache: Annotated[Path | None, typer.Option(help="hold the files against these caches' content hashes")] = None,
    files: Annotated[Path | None, typer.Option(help="write unreadable and changed files to this local list")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Print a data card: counts, prevalence, unreadable files, duplicates, and what differs from what was published."""
    from datasets.remote_root import is_address
    from datasets.sources import manifest_of, read
    from datasets.verify import changed_since_prepared, data_card, unreadable

    config = _config(source, labels, option)
    place = _folder(config, root, cache)
    table = read(config, place)
    manifest = manifest_of(table, config, place)
    card = data_card(config, table, manifest, images=images, workers=workers, progress=_progress("read", as_json))
    altered = None if cache is None else changed_since_prepared(manifest, cache)
    if cache is not None:
        card["changed_since_prepared"] = None if altered is None else len(altered)
    if files is not None:
        listed = [f"{path}\t{reason}" for path, reason in unreadable(manifest, workers=workers)]
        files.write_text("".join(f"{line}\n" for line in [*listed, *(f"{path}\tchanged" for path in altered or ())]))
    typer.echo(json.dumps(card, indent=1) if as_json else _readable(card))
    not_compared = cache is not None and altered is None and not is_address(root)  # an address needs --cache anyway
    if card["completeness"] == "differs" or altered or not_compared:
        raise typer.Exit(1)


@app.command()
def prepare(
    source: Source,
    *,
    root: Root,
    cache: Cache,
    resolution: Annotated[list[int], typer.Option(min=16, help="side in pixels, repeatable")],
    preprocessing: Annotated[str, typer.Option(help="a name in datasets/preprocessing.py")] = "standard",
    labels: Labels = "conventional",
    option: Option = None,
    workers: Workers = 1,
) -> None:
    """Decode every image once to each resolution; started again it goes on."""
    from datasets.building import estimate_bytes
    from datasets.cache import prepare_all
    from datasets.sources import load

    config = _config(source, labels, option)
    manifest = load(config, _folder(config, root, cache))
    total = sum(estimate_bytes(len(manifest), side) for side in resolution)
    typer.echo(f"{len(manifest)} images at {', '.join(map(str, resolution))} px: {total / 1e9:.2f} GB")
    prepared = prepare_all(
        manifest,
        resolutions=resolution,
        preprocessing=preprocessing,
        cache=cache,
        workers=workers,
        progress=_progress("prepared", quiet=False),
    )
    for side, done in zip(resolution, prepared, strict=True):
        readable = done.images - len(done.quarantined)
        typer.echo(f"{side} px: {readable} readable, {len(done.quarantined)} quarantined, {done.folder}")
    typer.echo(f"{prepared[0].seconds:.1f} s")


@app.command()
def fetch(
    address: Annotated[str, typer.Argument(help="folder in remote storage, as fsspec understands it, e.g. s3://…")],
    *,
    root: Annotated[Path, typer.Option(help="local folder to mirror it to")],
    workers: Annotated[int, typer.Option(min=1, help="files at once")] = 8,
) -> None:
    """Mirror a data set or a prepared cache from remote storage; started again it goes on.

    Label files are copied anew every time, images and caches only where they are missing or of another size.
    """
    from datasets.remote import mirror

    done = mirror(address, root, workers=workers, progress=_progress("copied", quiet=False))
    typer.echo(f"{done.files} files, {done.bytes / 1e6:.1f} MB, {done.copied} of them copied now")
    if done.unfinished:
        typer.echo(f"{done.unfinished} caches there are still being built and were left out; fetch again when they are")


@app.command()
def gc(
    cache: Cache,
    keep: Annotated[list[str] | None, typer.Option(help="name of a cache to keep, repeatable")] = None,
    idle_days: Annotated[float, typer.Option(min=0, help="keep what was used within so many days, too")] = 0.0,
    remove: Annotated[bool, typer.Option("--remove", help="remove it; otherwise only shown")] = False,
) -> None:
    """Show which studies of the same storage folder use each cache, and remove what none uses.

    Stored features go with the cache that they were computed of.
    """
    from datasets.cleaning import entries, remove_unused, stores, users

    if not cache.is_dir():
        raise DatasetError(f"no folder {cache}", "--cache", "the folder of a storage's caches, storage/cache say")
    _check_names(cache, keep or ())
    used_by = users(cache)
    unused = {e.name for e in remove_unused(cache, used=keep or (), idle_days=idle_days, dry_run=True)}
    found = entries(cache)
    for entry in (*found, *stores(cache)):
        studies = ", ".join(used_by.get(entry.name, ()))
        state = "unused" if entry.name in unused else f"used by {studies}" if studies else "kept"
        if entry not in found:
            state += f", of {entry.made_from or 'an unknown cache: remove it by hand'}"
        whole = "complete" if entry.complete else "unfinished"
        typer.echo(f"{entry.bytes / 1e6:10.1f} MB  {entry.idle_days:6.1f} days idle  {whole:10}  {entry.name}  {state}")
    if remove:
        gone = remove_unused(cache, used=keep or (), idle_days=idle_days, dry_run=False)
        typer.echo(f"removed {len(gone)} caches and feature stores, {sum(e.bytes for e in gone) / 1e6:.1f} MB")


def _check_names(cache: Path, names: Iterable[str]) -> None:
    for name in names:
        if not (cache / name).is_dir():
            raise DatasetError(f"--keep {name}: there is no such cache", str(cache), "a name that `gc` shows")


def main() -> None:
    """Run the command line; what is wrong with the data ends with exit code 2 and one line."""
    try:
        app()
    except DatasetError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except OSError as error:  # without the name of its file, which may be a patient's
        told = error.strerror or type(error).__name__
        typer.echo(f"error: {told}; look at the folders and files that were given, at access and at room", err=True)
        sys.exit(2)


def _config(source: str, labels: str, option: list[str] | None) -> DatasetConfig:
    options: dict[str, Any] = {}
    for pair in option or []:
        key, separator, value = pair.partition("=")
        if not separator:
            raise DatasetError(f"--option {pair!r} has no '='", expected="KEY=VALUE")
        try:
            options[key] = json.loads(value)
        except json.JSONDecodeError:
            if value.startswith(("[", "{")):
                fix = f"put it into single quotes, which keep the shell from taking the others away: '{key}=[\"…\"]'"
                raise DatasetError(f"--option {pair} is no JSON", expected="a list or an object", fix=fix) from None
            options[key] = value
    if labels not in ("paper", "conventional"):
        raise DatasetError(f"unknown label list {labels!r}", "--labels", "paper or conventional")
    return DatasetConfig(name=source, source=source, labels=labels, options=options)


def _folder(config: DatasetConfig, root: str, cache: Path | None) -> Path:
    """Return the data set's folder; one at an address is mirrored beside the cache, where studies look for it, too."""
    from datasets.remote_root import bring, is_address, mirror_of

    if not is_address(root):
        return Path(root)
    if cache is None:
        raise DatasetError("an address is mirrored beside the caches", "--root", fix="say --cache, too")
    folder = mirror_of(root, cache.absolute().parent / "mirrors")
    done = bring(config, root, folder, progress=_progress("copied", quiet=False))
    typer.echo(f"{done.files} files, {done.bytes / 1e6:.1f} MB, {done.copied} of them copied now", err=True)
    return folder


def _progress(what: str, quiet: bool) -> Any:
    if quiet:
        return None
    started = time.monotonic()

    def tell(done: int, whole: int) -> None:
        left = (time.monotonic() - started) / max(done, 1) * (whole - done)
        typer.echo(f"  {what}: {done}/{whole}, {left:.0f} s left", err=True)

    return tell


def _readable(card: dict[str, Any]) -> str:
    lines = [
        f"{card['source']} ({card['labels']} labels): {card['completeness']}",
        f"{card['images']} images, {card['cases']} cases, {card['patients']} patients "
        f"({card['films_per_patient']['mean']} films each, {card['films_per_patient']['most']} at most)",
        *(f"  {name}: {p['images']} images of {p['patients']} patients" for name, p in card["partitions"].items()),
        f"  validation: {card['validation']}",
        f"{'pathology':28}" + "".join(f"{name + ' + / - (missing)':>28}" for name in card["partitions"]),
    ]
    for name, parts in card["pathologies"].items():
        cells = (f"{p['positive']} / {p['negative']} ({p['missing']:.1%})" for p in parts.values())
        lines.append(f"{name:28}" + "".join(f"{cell:>28}" for cell in cells))
    for key in ("views", "sexes", "ages", "files"):
        if key in card:
            lines.append(f"{key}: " + ", ".join(f"{k} {v}" for k, v in card[key].items()))
    if "changed_since_prepared" in card:
        changed = card["changed_since_prepared"]
        nothing = "nothing was compared, the cache holds no prepared cache of these files as they are now"
        lines.append(f"changed since prepared: {nothing if changed is None else changed}")
    if card["completeness"] == "subset":
        lines.append(f"a subset: none of the {len(card['differences'])} counts that differ is above the published one")
    else:
        lines += [f"differs: {d['fact']} {d['found']}, published {d['published']}" for d in card["differences"]]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
