"""``lossc compile``: a net as C with header, library and manifest, for use without Python."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lossc.cli.options import add, add_build, add_freeze, add_net, add_tuned, given_path
from lossc.cli.request import net_request
from lossc.errors import OutputError

if TYPE_CHECKING:
    from lossc.codegen.program import Program
    from lossc.pipeline import Request


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_net(parser, phase="train")
    parser.add_argument("-o", "--output", required=True, type=given_path, metavar="DIR", help="the folder to write")
    add(parser, "solver", metavar="FILE", help="compile this solver's update too; NET is its net unless given")
    add(parser, "name", default="", metavar="NAME", help="prefix of the C functions (the net's name)")
    add(parser, "keep", default="", metavar="A,B", help='blobs that stay readable besides outputs; "all" for every one')
    add(parser, "source-only", action="store_true", help="write the C alone, such as for another machine's target")
    help = "write check/ too: a C program that compares the net's gradients with differences, in double; `make` runs it"
    add(parser, "checker", action="store_true", help=help)
    add_build(parser, bf16=True)
    add_freeze(parser)
    add_tuned(parser)


def run(args: argparse.Namespace) -> int:
    from lossc.frontend.solver import located
    from lossc.pipeline import compile_net

    request, solver = net_request(args)
    with located(solver):
        program = compile_net(request).program
    folder = Path(args.output)
    written = write_bundle(request, program, folder, source_only=args.source_only, checker=args.checker)
    print(f"wrote {', '.join(written)} to {folder}")
    return 0


def write_bundle(
    request: Request, program: Program, folder: Path, *, source_only: bool = False, checker: bool = False
) -> list[str]:
    """Writes net.c, net.h, runtime/, manifest.json, unless ``source_only`` the library, and with ``checker`` check/;
    returns their names.

    All is made in a folder beside ``folder`` first: where something fails nothing of it is left, and what was there
    stays as it is. Raises CompilerError, OutputError.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
            place = Path(temporary)
            about = _sources(program, place) if source_only else _bundle(request, program, place)
            text = json.dumps({**program.manifest, **about}, indent=1)
            (place / "manifest.json").write_text(f"{text}\n", encoding="utf-8")
            if checker:
                _write_checker(request, place / "check", source_only)
            written = sorted(entry.name for entry in place.iterdir())
            for path in sorted(place.rglob("*")):
                if path.is_file():
                    (folder / path.relative_to(place)).parent.mkdir(parents=True, exist_ok=True)
                    os.replace(path, folder / path.relative_to(place))
            return written
    except OSError as error:
        taken = isinstance(error, (FileExistsError, NotADirectoryError))
        reason = "it, or what should be a folder around it, is a file" if taken else error.strerror or error
        raise OutputError(f"cannot write to {folder}: {reason}", fix="name another folder") from error


def _bundle(request: Request, program: Program, place: Path) -> dict[str, Any]:
    from lossc.build import compile_bundle, find_compiler

    compiler = find_compiler()
    target = request.built_for
    files = {"net.h": program.header}
    made = compile_bundle(program.source, place, target=target, compiler=compiler, extra_files=files)
    return {
        "library": made.library.name,
        "command": made.command,
        "compiler": {"kind": compiler.kind, "version": compiler.version, "openmp": compiler.openmp},
    }


def _write_checker(request: Request, place: Path, source_only: bool) -> None:
    from lossc.build import find_compiler
    from lossc.testing.checker import checker_files

    place.mkdir()
    for name, text in checker_files(request, None if source_only else find_compiler()).items():
        (place / name).write_text(text, encoding="utf-8")


def _sources(program: Program, place: Path) -> dict[str, Any]:
    from lossc.resources import runtime_dir

    (place / "net.c").write_text(program.source, encoding="utf-8")
    (place / "net.h").write_text(program.header, encoding="utf-8")
    (place / "runtime").mkdir()
    for header in runtime_dir().glob("*.h"):
        shutil.copyfile(header, place / "runtime" / header.name)
    return {"library": None, "command": None, "compiler": None}


