"""Speed of generated matrix products as a part of the FMA peak, which is measured in alternation in the same run.

    python tests/bench/bench_gemm.py [--isa avx512] [--threads 1 2] [--only SUBSTRING]
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "codegen"), str(Path(__file__).resolve().parents[2])]

from contraction_bench import arguments, measure, save  # noqa: E402

from lossc.codegen.gemm import gemm_code  # noqa: E402
from lossc.codegen.gemm_plan import GemmSpec  # noqa: E402


def product(name: str, m: int, n: int, k: int, ta: bool = False, tb: bool = False) -> GemmSpec:
    """c[m,n] = op(a) op(b), all matrices dense and row-major."""
    a, b = ((1, m) if ta else (k, 1)), ((1, k) if tb else (n, 1))
    return GemmSpec(name, f"c[{m},{n}], {k} terms", "a", "b", "c", m, n, k, a, b, (n, 1))


SPECS = [
    product("square_1024", 1024, 1024, 1024),
    product("square_1024_tn", 1024, 1024, 1024, ta=True),
    product("square_1024_nt", 1024, 1024, 1024, tb=True),
    product("square_256", 256, 256, 256),
    product("ip1_forward", 64, 500, 800, tb=True),
    product("ip1_dx", 64, 800, 500),
    product("ip1_dw", 500, 800, 64, ta=True),
    product("ip2_forward", 64, 10, 500, tb=True),
    product("ip2_dx", 64, 500, 10),
    product("ip2_dw", 10, 500, 64, ta=True),
    product("fc6_forward", 64, 4096, 9216, tb=True),
    product("fc6_dx", 64, 9216, 4096),
    product("fc6_dw", 4096, 9216, 64, ta=True),
    product("fc_one_image", 1, 1000, 1024, tb=True),
]


def main() -> None:
    options, records = arguments(__doc__), []
    for spec in SPECS:
        if options.only in spec.name:
            flops = 2 * spec.m * spec.n * spec.k
            sizes = (spec.m * spec.k, spec.k * spec.n, spec.m * spec.n)
            code = gemm_code(spec, options.isa, options.dtype)
            records.append(measure(spec.name, code, flops, sizes, options))
    save(records, options)


if __name__ == "__main__":
    main()
