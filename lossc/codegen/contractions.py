"""Products and convolutions as what measurements are kept for: the same key, the same candidates and times."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lossc.codegen.contraction import Code, Isa
from lossc.codegen.conv import ConvSpec, conv_code
from lossc.codegen.gemm import gemm_code
from lossc.codegen.gemm_plan import FEW, GemmSpec


@dataclass(frozen=True)
class Contraction:
    """A product or convolution, and the largest tile of Winograd's algorithm that is allowed, 0 for none."""

    spec: GemmSpec | ConvSpec
    winograd: int = 0

    @property
    def key(self) -> str:
        """All that the candidates depend on besides instruction set and dtype, as text; names, alpha and epilogue are
        no part of it, since they cost every candidate the same."""
        limit = f" winograd {self.winograd}" if isinstance(self.spec, ConvSpec) else ""
        return self.spec.key + limit

    def named(self, name: str, comment: str) -> Contraction:
        """With these in its spec."""
        return replace(self, spec=replace(self.spec, name=name, comment=comment))

    def code(self, isa: Isa, dtype: str, prefer: str = "") -> Code:
        """The C, by the candidate called ``prefer`` where there is one, else by the cost model's choice. ``dtype``
        "f32" or "f64"."""
        if isinstance(self.spec, GemmSpec):
            return gemm_code(self.spec, isa, dtype, prefer=prefer)
        return conv_code(self.spec, isa, dtype, winograd=self.winograd, prefer=prefer)


def rounded(spec: GemmSpec | ConvSpec) -> GemmSpec | ConvSpec:
    """The spec with operands rounded to bfloat16 where two terms at a time are a gain: not in convolutions of one
    channel a group, nor where few rows meet a matrix that would have to be rounded in each call."""
    if isinstance(spec, ConvSpec):
        gains = spec.direction == "forward" and spec.ci > spec.groups
    else:
        gains = spec.k > 1 and (bool(spec.frozen) or min(spec.m, spec.n) > FEW)
    return replace(spec, bf16=gains)
