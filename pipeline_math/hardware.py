"""Device classes: what one device can do, what it costs, and which share of its peak training reaches.

Peaks are dense and per device. For the GPUs they are the vendor's numbers with fp32 accumulation, for the CPU
classes they are measured matrix products, because no vendor states one. The model-FLOPs utilisation (MFU) is a
property of the device class, not a constant: `mfu` is the geometric mean of published or measured runs,
`mfu_log_sd` the standard deviation of its logarithm. Prices are defaults for a plan, not offers.
"""

from dataclasses import dataclass

GIB = 1024**3


@dataclass(frozen=True)
class Hardware:
    """One device of a class; a plan uses `devices` of them."""

    name: str
    kind: str
    """"cpu" or "gpu"."""
    peak_flops_bf16: float | None
    """FLOP/s of a large bf16 matrix product; None where bf16 is not faster than fp32."""
    peak_flops_fp32: float
    """FLOP/s of a large fp32 matrix product (TF32 where a GPU has it)."""
    peak_flops_fp8: float | None
    """FLOP/s of a large fp8 matrix product, None without such units."""
    memory_bytes: float
    """Memory a training process can use: device memory, or main memory of a CPU."""
    bandwidth_bytes_per_second: float
    """Main memory or HBM bandwidth."""
    watts: float
    """Board or package power under load."""
    usd_per_hour: float
    """Default price of one device for one hour; a plan may override it."""
    mfu: float
    mfu_log_sd: float
    source: str
    """Where the numbers come from and how well they are supported."""

    def precision(self) -> str:
        """The compute type training uses on this class: bf16 where there are units for it, else fp32."""
        return "bf16" if self.peak_flops_bf16 else "fp32"

    def peak_flops(self, precision: str | None = None) -> float:
        """FLOP/s at a precision ("bf16", "fp32", "fp8"; None = the one training uses); ValueError if unsupported."""
        precision = precision or self.precision()
        peaks = {"bf16": self.peak_flops_bf16, "fp32": self.peak_flops_fp32, "fp8": self.peak_flops_fp8}
        peak = peaks.get(precision)
        if peak is None:
            allowed = ", ".join(name for name, value in peaks.items() if value)
            raise ValueError(f"hardware {self.name} has no {precision} units; allowed: {allowed}")
        return peak


_CLASSES = (
    # cpu-2core: 1024^3 products on a two-core virtual machine with AVX512-BF16 and AMX, torch 2.13: bf16 1.42e12 and
    # fp32 0.30-0.34e12 FLOP/s with two threads; copying 200 MB moves 24 GB/s (12 read + 12 written).
    # MFU: FITTED to a d4 model (T 512, V 4,096) that trains at 13.4 k tokens/s on two quiet cores, optimizer included,
    # in steps of 8,192 tokens. Muon is not in the MFU, it is added per step. Other load costs far more than its share,
    # since every product waits for the slower thread.
    Hardware("cpu-2core", "cpu", 1.42e12, 3.2e11, None, 8 * GIB, 2.4e10, 30, 0.0, 0.345, 0.20, "measured, see comment"),
    # cpu-2core-avx2: a laptop without bf16 units. ASSUMPTION, not measured: half the AVX-512 fp32 rate.
    Hardware("cpu-2core-avx2", "cpu", None, 1.3e11, None, 8 * GIB, 2.0e10, 25, 0.0, 0.45, 0.35, "assumed"),
    # cpu-8core: an eight-core AVX512-BF16 desktop. ASSUMPTION: four times two cores, at 80 % scaling.
    Hardware("cpu-8core", "cpu", 3.2e12, 8.0e11, None, 24 * GIB, 6.0e10, 105, 0.0, 0.28, 0.35, "assumed"),
    Hardware("rtx3090", "gpu", 7.1e13, 3.55e13, None, 24 * GIB, 9.36e11, 350, 0.25, 0.50, 0.20, "assumed MFU"),
    # Consumer Ada: 57-85 % published, since the peak with fp32 accumulation is halved by the vendor:
    # 57 tylerromero.com, 69 ForgeLM (yandesbiens.com), 80 karpathy/nanochat issue #157, 85 lzwjava.github.io.
    Hardware("rtx4090", "gpu", 1.652e14, 8.26e13, 3.3e14, 24 * GIB, 1.008e12, 450, 0.45, 0.65, 0.15, "public runs"),
    # ASSUMPTION: the consumer-Ada prior carries over; one public d24 run (3.8 days) supports the order of magnitude.
    Hardware("rtx5090", "gpu", 2.095e14, 1.048e14, 4.19e14, 32 * GIB, 1.792e12, 575, 0.70, 0.60, 0.20, "assumed MFU"),
    # 45-74 % published: 45-57 MPT (llm-foundry), 52 TinyLlama, 60 llm.c, 74 karpathy/nanochat pull request #147.
    Hardware("a100", "gpu", 3.12e14, 1.56e14, None, 80 * GIB, 2.039e12, 400, 1.60, 0.57, 0.17, "public runs"),
    # Eight published runs, 39.8-51.9 %: geometric mean 46.0 %, sd of the logarithm 0.102: 39.8 karpathy/autoresearch,
    # 41.3 and 49.6 llm.c, 41.9, 46, 49.3 and 50.0 karpathy/nanochat, 51.9 lzwjava.github.io (GPT-2 1.5B on an H200).
    Hardware("h100", "gpu", 9.89e14, 4.945e14, 1.979e15, 80 * GIB, 3.35e12, 700, 3.0, 0.46, 0.102, "public runs"),
    Hardware("h200", "gpu", 9.89e14, 4.945e14, 1.979e15, 139 * GIB, 4.8e12, 700, 3.5, 0.46, 0.12, "as h100"),
    # ASSUMPTION: a little below Hopper, because no public run of this kind of model was found.
    Hardware("b200", "gpu", 2.25e15, 1.125e15, 4.5e15, 180 * GIB, 8.0e12, 1000, 5.5, 0.40, 0.25, "assumed MFU"),
)

HARDWARE: dict[str, Hardware] = {hardware.name: hardware for hardware in _CLASSES}
"""Device classes by the name a plan uses for them."""

MATMUL_CEILING_SHARE = 0.803
"""Best measured share of the bf16 peak of a plain matrix product on H100/H200 (stas00/ml-engineering): no MFU above."""


def find_hardware(name: str) -> Hardware:
    """The device class of that name; ValueError that lists the known ones."""
    if name not in HARDWARE:
        raise ValueError(f"hardware {name!r} is unknown; allowed: {', '.join(HARDWARE)}")
    return HARDWARE[name]
