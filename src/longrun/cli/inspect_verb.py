"""The verb ``inspect``: a document coloured by span, the documents of a pack, whole files."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from longrun.cli.show import make_console
from longrun.config.training import LossWeights
from longrun.errors import InputError
from longrun.formats.stages.manifest import MANIFEST_NAME, Manifest


def register(app: typer.Typer) -> None:
    """Add the verb to ``app``."""
    app.command()(inspect)


def inspect(
    folder: Annotated[
        Path,
        typer.Argument(
            help="Output folder of prepare, merge or pack; with --check of any stage, or a run."
        ),
    ],
    document: Annotated[int, typer.Option(help="Document to show, from 0 on.")] = 0,
    pack: Annotated[int | None, typer.Option(help="List the documents of this pack.")] = None,
    epoch: Annotated[int, typer.Option(help="Plan that --pack counts in.")] = 0,
    split: Annotated[str, typer.Option(help="train or validation.")] = "train",
    weights: Annotated[
        str, typer.Option(help="Loss weights, as in tool_output=1,thinking=0.5.")
    ] = "",
    html: Annotated[Path | None, typer.Option(help="Write a page instead of printing.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Compare every file with its checksum.")
    ] = False,
) -> None:
    """Show a document by span with its weights, or a pack, or check that no file is damaged."""
    from longrun.data.documents.inspect import documents_folder

    console = make_console()
    if check:
        _check(console, folder)
        return
    source = documents_folder(folder)
    if pack is not None:
        _show_pack(console, folder, epoch, pack)
    else:
        _show_document(console, (source, split, document), _parse_weights(weights), html)


def _parse_weights(text: str) -> LossWeights:
    pairs = (pair.partition("=") for pair in text.split(",") if pair)
    values = {name.strip(): value.strip() for name, _, value in pairs}
    return LossWeights.parse(values, "weights")


def _check(console: Console, folder: Path) -> None:
    """Read every file of a stage, or of all finished stages of a run.

    Raises:
        InputError: something is not as it was written, or there is no finished stage.
    """
    from longrun.formats.stages.damage import check_beneath, find_damage

    damage: list[str] = []
    stages = [path.parent for path in sorted(folder.glob(f"*/{MANIFEST_NAME}"))]
    if (folder / MANIFEST_NAME).exists() or not stages:
        stages = [folder]
    for stage in stages:
        try:
            manifest = Manifest.read(stage)
            found = list(find_damage(stage))
            check_beneath(stage, manifest)
            beneath = [Path(os.path.normpath(stage.resolve() / name)) for name in manifest.beneath]
            stages += [one for one in beneath if one not in map(Path.resolve, stages)]
        except InputError as error:
            found = [str(error)]
        for line in found or [_whole(stage, manifest)]:
            console.print(line, soft_wrap=True, highlight=False, markup=False)
        damage += found
    if damage:
        raise InputError(
            f"{folder}: {len(damage)} damaged: {damage[0]}; restore it, or delete the output of its"
            " stage and run it again"
        )


def _whole(stage: Path, manifest: Manifest) -> str:
    size = sum(manifest.outputs.values())
    return f"{stage}: {len(manifest.outputs)} files, {size / 1e6:.1f} MB, as they were written"


def _show_document(
    console: Console, place: tuple[Path, str, int], weights: LossWeights, html: Path | None
) -> None:
    from longrun.data.documents.inspect import COLOURS, render_html, show_document
    from longrun.formats.text.spans import SpanKind

    weight_of = {kind: float(getattr(weights, kind.name.lower(), 0.0)) for kind in SpanKind}
    origin, spans = show_document(*place, weight_of | {SpanKind.STOP: 1.0})
    if html is not None:
        html.write_text(render_html(origin, spans), encoding="utf-8")
        console.print(f"written: {html}", soft_wrap=True, highlight=False)
        return
    console.print(f"{origin.path}:{origin.line} ({origin.mode})", soft_wrap=True, highlight=False)
    for span in spans:
        style = COLOURS[span.kind] if span.weight else f"{COLOURS[span.kind]} italic"
        label = f"[{span.kind.name.lower()}, {span.num_tokens} tokens, weight {span.weight:g}]"
        console.print(Text(label, style=f"bold {COLOURS[span.kind]}"))
        console.print(Text(span.text, style=style), soft_wrap=True)


def _show_pack(console: Console, folder: Path, epoch: int, pack: int) -> None:
    from longrun.formats.plans import PackSet

    packs = PackSet.open(folder)
    plan = packs.plan(epoch)
    if not 0 <= pack < len(plan):
        raise InputError(f"pack {pack}: {folder} has {len(plan)} in epoch {epoch}, from 0 on")
    members = plan[pack].tolist()
    tokens = sum(int(packs.training.lengths[member]) for member in members)
    table = Table(title=f"pack {pack}: {tokens} of {packs.pack_size} tokens", title_justify="left")
    for column in ("document", "tokens", "mode", "from"):
        table.add_column(column)
    for member in members:
        origin = packs.training.origin(member)
        length = str(packs.training.lengths[member])
        table.add_row(str(member), length, origin.mode, f"{origin.path}:{origin.line}")
    console.print(table)
