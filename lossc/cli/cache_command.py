"""``lossc cache``: what compiled nets take on disk."""

from __future__ import annotations

import argparse

from lossc.errors import count_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("info", "clear"), help="show its folder and size, or remove all of it")


def run(args: argparse.Namespace) -> int:
    from lossc.build.cache import default_cache

    cache = default_cache()
    info = cache.clear() if args.action == "clear" else cache.info()
    size = f"{count_of(info.files, 'file')}, {info.bytes / 2**20:.1f} MiB"
    if args.action == "clear":
        print(f"removed {size} from {info.folder}")
    else:
        print(f"{info.folder}: {size} of at most {info.limit / 2**20:.0f} MiB")
    return 0
