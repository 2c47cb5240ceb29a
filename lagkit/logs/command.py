"""`lagkit store`: look after a log store; needs no model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from lagkit.util.cli import application, show
from lagkit.util.errors import ConfigError, EmptyStore, StoreError
from lagkit.util.paths import at
from lagkit.util.terminal import printable, tell

if TYPE_CHECKING:
    from lagkit.logs.store import Store

app = application("Look after a log store; needs no model.")
Place = Annotated[str, Argument(metavar="STORE", help="a folder, FOLDER.lance, or s3://... (docs/stores.md)")]
File = Annotated[Path, Argument(metavar="FILE", parser=at)]


@app.command()
def summary(place: Place) -> None:
    """Show the logs, tokens and bytes of each kind of block."""
    with _open(place) as store:
        describe(store)


@app.command()
def verify(place: Place) -> int:
    """Read every byte and list what is wrong. Exit code 1 if something is."""
    with _open(place) as store:
        problems = store.verify()
        if problems.empty:
            tell(f"All {len(store)} logs of {store.path} and their blocks are sound.")
            return 0
    show(problems, f"{len(problems)} problems; prune removes damaged blocks and orphans")
    return 1


@app.command()
def prune(
    place: Place,
    max_bytes: Annotated[int | None, Option(metavar="N", help="remove the oldest logs too, down to N bytes")] = None,
) -> None:
    """Remove damaged blocks, and files that no log names."""
    with _open(place, write=True) as store:
        gone = store.prune(max_bytes)
        if not gone.empty:
            show(gone, "Removed")
        tell(f"{gone['bytes'].sum():,} bytes removed; {len(store)} logs are left in {store.nbytes:,} bytes.")


@app.command()
def export(place: Place, file: File) -> None:
    """Write the whole store into one file."""
    with _open(place) as store:
        path = store.export(file)
        tell(f"{len(store)} logs are in {path} ({path.stat().st_size:,} bytes).")


@app.command("import")
def import_(place: Place, file: File) -> None:
    """Add the logs of an exported file. Makes the store if there is none."""
    from lagkit.logs.archive import Archive
    from lagkit.logs.base import Store

    with Archive(file) as archive:
        try:
            store = Store.open(place, write=True)
        except StoreError:  # there is none, or `new` says what is wrong with it
            archive.check()  # or a damaged file would leave an empty store
            store = Store.new(place, archive.header, exist_ok=True)
        with store:
            before = len(store)
            found = store.import_archive(archive)
            tell(f"{len(store) - before} of {len(found)} logs were new; {store.path} now has {len(store)}.")


@app.command()
def copy(
    place: Place,
    target: Annotated[str, Argument(metavar="TO", help="another STORE, which is made if there is none")],
) -> None:
    """Copy the whole store, and compare. The same command completes a copy."""
    from lagkit.logs import copying
    from lagkit.logs.base import Store

    with _open(place) as source, Store.new(target, source.header, exist_ok=True) as made:
        done = copying.copy(source, made)
        tell(
            f"{made.path} is a copy of {source.path}: {done.logs} logs; {done.new} blocks were new ({done.bytes:,} "
            f"bytes, {_rate(done.bytes, done.seconds)}), {done.checked:,} bytes of blocks were compared "
            f"({_rate(done.checked, done.checking)})."
        )


def _rate(nbytes: int, seconds: float) -> str:
    return f"{nbytes / 1e6 / max(seconds, 1e-9):.1f} MB/s"


@app.command()
def search(
    place: Place,
    text: Annotated[str, Argument(metavar="TEXT")],
    k: Annotated[int, Option("-k", min=1, metavar="N", help="how many")] = 3,
    exact: Annotated[bool, Option("--exact", help="miss none, in a store of 30,000 logs and more either")] = False,
) -> None:
    """Find the logs nearest to a text. The store's own embedder reads it."""
    from lagkit.logs.retrieve import load_embedder

    if not text.strip():
        raise ConfigError("There are no words to search for: give a text.")
    with _open(place) as store:
        if not len(store):
            raise EmptyStore(f"The log store at {store.path} has no logs yet: there is nothing to search.")
        [hits] = store.search(load_embedder(store.embedder).queries([text]), k, exact=exact)
        for hit in hits:
            trace = store.get(hit.id)
            tell(printable(f"{hit.score:.3f}  {hit.id}  {trace.question}  ->  {trace.answer or 'no answer'}"))


def describe(store: Store) -> None:
    """Print what a store holds, and whose it is."""
    size = f"{len(store)} logs, {store.nbytes:,} bytes, {store.dtype}, codec {store.codec}"
    tell(printable(f"{store.path}: {size}, embedder {store.embedder}"))
    tell(printable(f"model: {', '.join(f'{key} {value}' for key, value in store.model.items())}"))
    blocks = store.summary()
    if blocks.empty:
        tell("No KV blocks.")
    else:
        show(blocks, "KV blocks")


def _open(place: str, *, write: bool = False) -> Store:
    from lagkit.logs.base import Store

    return Store.open(place, write=write)
