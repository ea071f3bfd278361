"""Muon: matrices are moved by orthogonalised momentum, so that every direction of an update counts alike.

One update of a matrix W [M, N] with gradient G (Jordan et al. 2024, kellerjordan.github.io/posts/muon):
    1. momentum   B <- mu B + (1 - mu) G;  U = (1 - mu) G + mu B with Nesterov, else B
    2. rows       U_i <- U_i / ||U_i||, optional (MuonEq)
    3. direction  X = U's nearest orthogonal matrix, by five products (Newton-Schulz or Polar Express, arXiv 2505.16932)
    4. size       X <- X sqrt(min(M, N)) / ||X||_F, optional: as large as an exactly orthogonal one
    5. variance   X <- X / sqrt(running mean of X^2 per row or column), size kept, optional (NorMuon, arXiv 2510.05491)
    6. weights    W <- W - lr sqrt(max(1, M / N)) X - lr decay W, the decay optionally only where X and W agree in sign
Which of the optional ones help is recorded in docs/experiments.md. Matrices of one shape are updated together: K of
them as one stack. Left out: anything that is not a matrix, and sharing the work between ranks (model/optim.py).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from model.precision import compute_dtype

Orthogonalisation = Literal["polar_express", "newton_schulz"]
COEFFICIENTS: dict[str, tuple[tuple[float, float, float], ...]] = {
    "newton_schulz": ((3.4445, -4.7750, 2.0315),) * 5,  # Jordan et al.; one polynomial, steep at zero
    # One best polynomial per iteration (arXiv 2505.16932), rounded to four decimals: see SINGULAR_VALUES.
    "polar_express": (
        (8.1566, -22.4833, 15.8788),
        (4.0429, -2.8089, 0.5000),
        (3.8917, -2.7725, 0.5061),
        (3.2858, -2.3681, 0.4645),
        (2.3465, -1.7098, 0.4232),
    ),
}
"""(a, b, c) of every iteration X <- a X + (b A + c A^2) X with A = X X^T."""
SINGULAR_VALUES = {"newton_schulz": ((0.01, 0.99), (0.68, 1.13)), "polar_express": ((0.0011, 0.99), (0.859, 1.141))}
"""Where singular values from the first interval land, in exact arithmetic. The Frobenius norm of the input is 1."""
_NO_DIVISION_BY_ZERO = 1e-20
"""Far below the norm of a gradient that matters: a matrix of zeros gives an update of zeros."""
_ABOVE_THE_NORM = 1.01
"""Divisor beside the norm for Polar Express, whose polynomials are meant for values below 1 and diverge above."""


@dataclass(frozen=True)
class MuonOptions:
    """What one update does. Everything off, with newton_schulz, is torch.optim.Muon."""

    lr: float
    """Before the factor sqrt(max(1, rows / columns)) of each matrix."""
    weight_decay: float = 0.0
    """Share of the weights taken per unit of learning rate."""
    momentum: float = 0.95
    nesterov: bool = True
    orthogonalisation: Orthogonalisation = "polar_express"
    normalise_rows: bool = False
    """Rows of the momentum are scaled to length 1 before they are made orthogonal (MuonEq)."""
    rescale: bool = True
    """The update gets the Frobenius norm of an orthogonal matrix, whatever the iteration left of it."""
    adaptive: bool = True
    """Rows (columns of wide matrices) with large updates are damped by their second moment, as in NorMuon."""
    beta2: float = 0.9
    """Of the second moment."""
    compute_dtype: str = "auto"
    """Format of the products that make a gradient orthogonal: one of model.precision's names. float32 makes runs on
    different numbers of ranks agree to 1e-5; bfloat16 turns the last bit of a sum into the eighth."""
    cautious: bool = False
    """Decay only weights that the update moves towards zero, too."""

    def __post_init__(self) -> None:
        if self.orthogonalisation not in COEFFICIENTS:
            raise ValueError(f"orthogonalisation={self.orthogonalisation!r}; allowed: {', '.join(COEFFICIENTS)}")
        if not (0 <= self.momentum < 1 and 0 <= self.beta2 < 1 and self.lr >= 0 and self.weight_decay >= 0):
            raise ValueError(f"{self}; allowed: rates of at least 0, momentum and beta2 in [0, 1)")


class Muon(torch.optim.Optimizer):
    """`lr`, `weight_decay` and `momentum` of the parameter groups may be rewritten between steps.

    State of a parameter [M, N]: "momentum_buffer" [M, N] and, if adaptive, "second_moment" [M, 1] for M >= N, else
    [1, N]; both float32, made at its first step. ValueError for a parameter that is no matrix.
    """

    def __init__(self, params: Iterable[Tensor], options: MuonOptions) -> None:
        self.options = options
        defaults = {"lr": options.lr, "weight_decay": options.weight_decay, "momentum": options.momentum}
        super().__init__(params, defaults)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim != 2:
                    raise ValueError(
                        f"Muon updates matrices, found a parameter of shape {tuple(parameter.shape)}; "
                        f"next: give it to another optimizer"
                    )
        self._update: Callable[..., None] = update_stack
        self._is_compiled = False

    def compile_update(self) -> None:
        """Fuse the update of a stack by torch.compile: the next step compiles one graph per shape, later ones reuse it.

        Meant for CUDA, where launching many small kernels takes longer than running them; on a CPU products dominate.
        """
        self._update, self._is_compiled = torch.compile(update_stack, fullgraph=True, dynamic=False), True

    @torch.no_grad()
    def step(self, apply: Tensor | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient.

        `apply`: 0-dim bool or 0/1 tensor on the parameters' device. Where it is 0, weights and buffers stay as they are
        even if gradients are not finite; the host does not learn which it was.
        """
        if apply is not None and _is_on_host(apply):
            if not apply:
                return
            apply = None
        for group in self.param_groups:
            stacks: dict[tuple[Any, ...], list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    key = (parameter.shape, parameter.dtype, parameter.device)
                    stacks.setdefault(key, []).append(parameter)
            for parameters in stacks.values():
                rates: list[Any] = [group["lr"], group["weight_decay"], group["momentum"]]
                if self._is_compiled:  # a number would be part of the graph, which every new rate would compile again
                    rates = [torch.full((), rate, device=parameters[0].device) for rate in rates]
                self._update(
                    parameters,
                    [p.grad for p in parameters if p.grad is not None],
                    [self._buffer(p, "momentum_buffer") for p in parameters],
                    [self._buffer(p, "second_moment") for p in parameters] if self.options.adaptive else [],
                    *rates,
                    self.options,
                    compute_dtype(parameters[0].device, self.options.compute_dtype),
                    apply,
                )

    def _buffer(self, parameter: Tensor, name: str) -> Tensor:
        state = self.state[parameter]
        if name not in state:
            rows, columns = parameter.shape
            shape = (rows, columns) if name == "momentum_buffer" else (rows, 1) if rows >= columns else (1, columns)
            state[name] = torch.zeros(shape, dtype=torch.float32, device=parameter.device)
        buffer: Tensor = state[name]
        return buffer


# K matrices of M rows and N columns
def update_stack(
    parameters: list[Tensor],
    gradients: list[Tensor],
    momenta: list[Tensor],
    second_moments: list[Tensor],
    lr: float | Tensor,
    weight_decay: float | Tensor,
    momentum: float | Tensor,
    options: MuonOptions,
    dtype_of_products: torch.dtype,
    apply: Tensor | None = None,
) -> None:
    """One update of K matrices of one shape, in place; the buffers as in `Muon`, `apply` as in `Muon.step`.

    Tensor operations only, no value is read by the host: torch.compile takes it whole, with rates as 0-dim tensors.
    """
    rows, columns = parameters[0].shape
    gradients = [gradient.float() for gradient in gradients]
    if apply is not None:
        # Towards itself nothing moves: with the momentum in the gradient's place every value below stays finite, too.
        gradients = [torch.where(apply.bool(), g, m) for g, m in zip(gradients, momenta, strict=True)]
    # One by one: on a CPU torch's foreach forms are such loops, and on CUDA the compiled update fuses them.
    for buffer, gradient in zip(momenta, gradients, strict=True):
        buffer.lerp_(gradient, 1 - momentum)
    ahead = [g.lerp(m, momentum) for g, m in zip(gradients, momenta, strict=True)] if options.nesterov else momenta
    stack_KMN = torch.stack(ahead)
    if options.normalise_rows:
        stack_KMN /= stack_KMN.norm(dim=-1, keepdim=True).clamp_min(_NO_DIVISION_BY_ZERO)
    update_KMN = orthogonalise(stack_KMN, options.orthogonalisation, dtype_of_products)
    update_KMN *= _scale(update_KMN, second_moments, options, apply) * (lr * max(1.0, rows / columns) ** 0.5)
    if options.cautious:
        decay_KMN = torch.stack(parameters).mul_(lr * weight_decay)
        update_KMN.addcmul_(decay_KMN, (update_KMN * decay_KMN >= 0).float())
    if apply is not None:
        update_KMN = torch.where(apply.bool(), update_KMN, 0.0)
    if not options.cautious:
        kept = 1 - lr * weight_decay
        torch._foreach_mul_(parameters, kept if apply is None else torch.where(apply.bool(), kept, 1.0))
    torch._foreach_sub_(parameters, list(update_KMN.unbind()))


def orthogonalise(stack_KMN: Tensor, method: Orthogonalisation, dtype_of_products: torch.dtype | None = None) -> Tensor:
    """Each matrix's nearest orthogonal one, up to singular values in SINGULAR_VALUES; -> float32, same shape.

    Products in bfloat16 where the device multiplies it, unless their format is given: rounding entries to 2^-9 moves
    the singular values less than the iteration leaves them away from 1.
    """
    wide = stack_KMN.size(-2) <= stack_KMN.size(-1)
    x_KMN = stack_KMN if wide else stack_KMN.mT
    margin = _ABOVE_THE_NORM if method == "polar_express" else 1.0
    x_KMN = (x_KMN / (_frobenius(x_KMN) * margin)).to(dtype_of_products or compute_dtype(stack_KMN.device))
    for a, b, c in COEFFICIENTS[method]:
        gram_KMM = x_KMN @ x_KMN.mT
        x_KMN = torch.baddbmm(x_KMN, torch.baddbmm(gram_KMM, gram_KMM, gram_KMM, beta=b, alpha=c), x_KMN, beta=a)
    # Contiguous: the passes that follow are slower on a transposed view beside weights that are not transposed.
    return (x_KMN if wide else x_KMN.mT).to(torch.float32, memory_format=torch.contiguous_format)


def _scale(
    update_KMN: Tensor, second_moments: list[Tensor], options: MuonOptions, apply: Tensor | None
) -> Tensor | float:
    """Factor on every row (adaptive: column of wide ones) or on each matrix, which gives its size and evens it out.

    The moment is taken over the shorter side: along the longer one an orthogonal matrix has the same in every place.
    """
    rows, columns = update_KMN.shape[1:]
    if not options.adaptive:
        return min(rows, columns) ** 0.5 / _frobenius(update_KMN) if options.rescale else 1.0
    now = update_KMN.square().mean(dim=-1 if rows >= columns else -2, keepdim=True)  # [K, M, 1] or [K, 1, N]
    targets = list(now.unbind())
    if apply is not None:
        targets = [torch.where(apply.bool(), t, v) for t, v in zip(targets, second_moments, strict=True)]
    torch._foreach_lerp_(second_moments, targets, 1 - options.beta2)
    moment = torch.stack(second_moments).clamp_min(_NO_DIVISION_BY_ZERO)
    # Squared sizes before and after, both over min(rows, columns), from the means: no further pass over the matrices.
    before, after = now.sum((-2, -1), keepdim=True), (now / moment).sum((-2, -1), keepdim=True)
    kept = 1.0 if options.rescale else before.sqrt()
    return kept * moment.rsqrt() * after.clamp_min(1e-10).rsqrt()  # two roots: their product could underflow


def _frobenius(stack_KMN: Tensor) -> Tensor:
    """Frobenius norm of each matrix, never 0."""
    return stack_KMN.norm(dim=(-2, -1), keepdim=True).clamp_min(_NO_DIVISION_BY_ZERO)


def _is_on_host(apply: Tensor) -> bool:
    """Reading it costs no wait for a device."""
    return apply.device.type == "cpu"
