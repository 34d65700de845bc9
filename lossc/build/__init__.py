"""From generated C to functions in this process: the C compiler, the cache of what it made, and loading."""

from lossc.build.cache import Cache, CacheInfo, default_cache
from lossc.build.compiler import Compiler, find_compiler
from lossc.build.library import Bundle, compile_bundle, compile_library
from lossc.build.load import load_library

__all__ = [
    "Bundle",
    "Cache",
    "CacheInfo",
    "Compiler",
    "compile_bundle",
    "compile_library",
    "default_cache",
    "find_compiler",
    "load_library",
]
