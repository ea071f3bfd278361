"""The device classes: peaks, memory, bandwidth, power, price and the share of peak that training reaches.

Peaks are FLOP/s of one device, dense (without structured sparsity) and with fp32 accumulation; GeForce cards reach
twice as much with fp16 accumulation, which training does not use. GPU peaks are the vendor's, CPU peaks are measured
products of 1024 x 1024 matrices, because no vendor states one.
Sources: the vendor's data sheets and architecture whitepapers (Ampere GA102, Ada, RTX Blackwell, A100, H100, HGX B200).
The A100, Hopper and B200 rows agree with the table in stas00/ml-engineering, compute/accelerator; the GeForce rows are
quoted at second hand. Memory is what the vendor names in GiB; a driver keeps a few per cent of it.
Interconnect: what one device sends to the others, one direction: half of what NVLink is advertised with, else PCIe.
Prices are defaults for a plan, not offers: USD for a rented device in 2026, rounded (medians and ranges of
aimultiple.com/gpu-index, mercatus-ai.com, spheron.network), without storage or traffic; a CPU is taken as owned.
MFU, the model-FLOPs utilisation, belongs to a device class: geometric mean of published or measured runs and standard
deviation of its logarithm. Left out: clocks that differ from the data sheet, thermal limits, nodes of several devices.
"""

from dataclasses import dataclass

GIB = 1024**3
PCIE4_X16 = 3.2e10
PCIE5_X16 = 6.4e10


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """One device of a class; a plan uses `devices` of them."""

    name: str
    kind: str
    """"cpu" or "gpu"."""
    peak_flops_fp32: float
    """FLOP/s of a large fp32 matrix product, no precision given up."""
    peak_flops_tf32: float | None = None
    """The same with inputs rounded to 10 bits of mantissa; None without such units."""
    peak_flops_bf16: float | None = None
    """FLOP/s of a large bf16 matrix product; None where bf16 is not faster than fp32."""
    peak_flops_fp16: float | None = None
    """None on CPUs: most of them multiply fp16 hundreds of times slower than fp32."""
    peak_flops_fp8: float | None = None
    memory_bytes: float
    """Memory a training process can use: device memory, or a part of a CPU's main memory."""
    bandwidth_bytes_per_second: float
    """Device or main memory, bytes read plus bytes written."""
    interconnect_bytes_per_second: float | None = None
    """To the other devices of a node, one direction."""
    disk_write_bytes_per_second: float | None = None
    disk_read_bytes_per_second: float | None = None
    """Known for a probed machine only."""
    watts: float
    """Board or package power under load."""
    usd_per_hour: float
    """Default price of one device for one hour; a plan may override it."""
    mfu: float
    """Share of the peak that training reaches, most likely value."""
    mfu_log_sd: float
    source: str
    """Where the numbers come from and how well they are supported."""

    def precision(self) -> str:
        """The compute type training uses on this class: bf16 where there are units for it, else fp32."""
        return "bf16" if self.peak_flops_bf16 else "fp32"

    def peaks(self) -> dict[str, float]:
        """FLOP/s by precision, only those the device has units for."""
        all_of_them = {
            "fp32": self.peak_flops_fp32,
            "tf32": self.peak_flops_tf32,
            "bf16": self.peak_flops_bf16,
            "fp16": self.peak_flops_fp16,
            "fp8": self.peak_flops_fp8,
        }
        return {precision: peak for precision, peak in all_of_them.items() if peak}

    def peak_flops(self, precision: str | None = None) -> float:
        """FLOP/s at a precision (None = the one training uses); ValueError that lists the precisions there are."""
        precision = precision or self.precision()
        peaks = self.peaks()
        if precision not in peaks:
            raise ValueError(f"hardware {self.name} has no {precision} units; allowed: {', '.join(peaks)}")
        return peaks[precision]


PUBLISHED_MFU: dict[str, tuple[tuple[float, str], ...]] = {
    "rtx4090": (
        (0.57, "tylerromero.com"),
        (0.69, "ForgeLM, yandesbiens.com"),
        (0.80, "karpathy/nanochat issue #157"),
        (0.85, "lzwjava.github.io"),
    ),
    "a100": (
        (0.45, "MPT in llm-foundry, least"),
        (0.57, "MPT in llm-foundry, most"),
        (0.52, "TinyLlama"),
        (0.60, "llm.c"),
        (0.74, "karpathy/nanochat pull request #147"),
    ),
    "h100": (
        (0.398, "karpathy/autoresearch"),
        (0.413, "llm.c"),
        (0.496, "llm.c"),
        (0.419, "karpathy/nanochat, d12"),
        (0.46, "karpathy/nanochat"),
        (0.493, "karpathy/nanochat"),
        (0.500, "karpathy/nanochat, d24"),
        (0.519, "lzwjava.github.io, GPT-2 1.5B on an H200"),
    ),
}
"""Published shares of peak of transformer training in bf16, by class: what the priors below rest on."""

_CPUS = (
    # Two cores of an Intel server with AVX512-BF16 and AMX, torch 2.13: what this project's probe finds there
    # (model/machine_probe.py). MFU: FITTED to a d4 model (T 512, V 4,096) that trains at 13.4 k tokens/s on two quiet
    # cores, optimizer included, in steps of 8,192 tokens. Muon is not in it, it is added per step. Other load costs far
    # more than its share, since every product waits for the slower thread.
    Hardware(
        name="cpu-2core", kind="cpu", peak_flops_fp32=4.0e11, peak_flops_bf16=1.42e12,
        memory_bytes=8 * GIB, bandwidth_bytes_per_second=2.7e10, watts=30, usd_per_hour=0.0,
        mfu=0.345, mfu_log_sd=0.20, source="measured on two server cores; watts assumed",
    ),
    # A laptop without bf16 units. ASSUMPTION, not measured: 65 GFLOP/s a core.
    Hardware(
        name="cpu-2core-avx2", kind="cpu", peak_flops_fp32=1.3e11,
        memory_bytes=8 * GIB, bandwidth_bytes_per_second=2.0e10, watts=25, usd_per_hour=0.0,
        mfu=0.45, mfu_log_sd=0.35, source="assumed",
    ),
    # Desktops with AVX512-BF16 and two memory channels. ASSUMPTION: one Zen 5 core was measured at 0.5 TFLOP/s bf16 and
    # 0.115 fp32; eight cores reach 80 % of eight times that, sixteen 75 % of sixteen times.
    Hardware(
        name="cpu-8core", kind="cpu", peak_flops_fp32=8.0e11, peak_flops_bf16=3.2e12,
        memory_bytes=24 * GIB, bandwidth_bytes_per_second=6.0e10, watts=105, usd_per_hour=0.0,
        mfu=0.28, mfu_log_sd=0.35, source="assumed from one core",
    ),
    Hardware(
        name="cpu-16core", kind="cpu", peak_flops_fp32=1.4e12, peak_flops_bf16=6.0e12,
        memory_bytes=48 * GIB, bandwidth_bytes_per_second=7.0e10, watts=170, usd_per_hour=0.0,
        mfu=0.22, mfu_log_sd=0.40, source="assumed from one core",
    ),
    # The CPU side of an Apple chip. fp32 through Accelerate: 1.4 TFLOP/s on an M1 Max (nod.ai, one measurement);
    # bandwidth of the base chips and 10-20 W: arXiv:2502.05317. ASSUMED: memory, MFU, that torch reaches that peak.
    Hardware(
        name="apple-silicon", kind="cpu", peak_flops_fp32=1.4e12,
        memory_bytes=12 * GIB, bandwidth_bytes_per_second=1.0e11, watts=20, usd_per_hour=0.0,
        mfu=0.25, mfu_log_sd=0.45, source="peak nod.ai, bandwidth arXiv:2502.05317, MFU assumed",
    ),
)  # fmt: skip

_GEFORCE = (
    # ASSUMPTION: no published sample of this kind of model; below Ada, whose memory is fed by a larger cache.
    Hardware(
        name="rtx3090", kind="gpu", peak_flops_fp32=3.56e13, peak_flops_tf32=3.56e13, peak_flops_bf16=7.1e13,
        peak_flops_fp16=7.1e13, memory_bytes=24 * GIB, bandwidth_bytes_per_second=9.36e11,
        interconnect_bytes_per_second=PCIE4_X16, watts=350, usd_per_hour=0.25,
        mfu=0.50, mfu_log_sd=0.20, source="GA102 whitepaper; MFU assumed",
    ),
    # The peak with fp32 accumulation is halved by the vendor, so the share is high. The prior lies below the geometric
    # mean of the published runs: two of the four are single pages that nobody reproduced.
    Hardware(
        name="rtx4090", kind="gpu", peak_flops_fp32=8.26e13, peak_flops_tf32=8.26e13, peak_flops_bf16=1.652e14,
        peak_flops_fp16=1.652e14, peak_flops_fp8=3.303e14, memory_bytes=24 * GIB, bandwidth_bytes_per_second=1.008e12,
        interconnect_bytes_per_second=PCIE4_X16, watts=450, usd_per_hour=0.45,
        mfu=0.68, mfu_log_sd=0.15, source="Ada whitepaper; MFU from four public runs",
    ),
    # ASSUMPTION: a little below Ada; one public d24 run (3.8 days) supports the order of magnitude.
    Hardware(
        name="rtx5090", kind="gpu", peak_flops_fp32=1.048e14, peak_flops_tf32=1.048e14, peak_flops_bf16=2.095e14,
        peak_flops_fp16=2.095e14, peak_flops_fp8=4.19e14, memory_bytes=32 * GIB, bandwidth_bytes_per_second=1.792e12,
        interconnect_bytes_per_second=PCIE5_X16, watts=575, usd_per_hour=0.75,
        mfu=0.60, mfu_log_sd=0.20, source="RTX Blackwell whitepaper; MFU assumed",
    ),
)  # fmt: skip

_DATA_CENTRE = (
    Hardware(
        name="a100-40gb", kind="gpu", peak_flops_fp32=1.95e13, peak_flops_tf32=1.56e14, peak_flops_bf16=3.12e14,
        peak_flops_fp16=3.12e14, memory_bytes=40 * GIB, bandwidth_bytes_per_second=1.555e12,
        interconnect_bytes_per_second=3.0e11, watts=400, usd_per_hour=1.20,
        mfu=0.57, mfu_log_sd=0.18, source="A100 data sheet; MFU as a100; price assumed",
    ),
    Hardware(
        name="a100", kind="gpu", peak_flops_fp32=1.95e13, peak_flops_tf32=1.56e14, peak_flops_bf16=3.12e14,
        peak_flops_fp16=3.12e14, memory_bytes=80 * GIB, bandwidth_bytes_per_second=2.039e12,
        interconnect_bytes_per_second=3.0e11, watts=400, usd_per_hour=1.60,
        mfu=0.57, mfu_log_sd=0.18, source="A100 data sheet, 80 GB SXM; MFU from five public runs",
    ),
    Hardware(
        name="h100", kind="gpu", peak_flops_fp32=6.7e13, peak_flops_tf32=4.945e14, peak_flops_bf16=9.89e14,
        peak_flops_fp16=9.89e14, peak_flops_fp8=1.979e15, memory_bytes=80 * GIB, bandwidth_bytes_per_second=3.35e12,
        interconnect_bytes_per_second=4.5e11, watts=700, usd_per_hour=3.0,
        mfu=0.46, mfu_log_sd=0.102, source="H100 data sheet, SXM; MFU from eight public runs",
    ),
    # ASSUMPTION: the SXM prior, wider: the card's clock falls at 350 W.
    Hardware(
        name="h100-pcie", kind="gpu", peak_flops_fp32=5.1e13, peak_flops_tf32=3.78e14, peak_flops_bf16=7.56e14,
        peak_flops_fp16=7.56e14, peak_flops_fp8=1.513e15, memory_bytes=80 * GIB, bandwidth_bytes_per_second=2.0e12,
        interconnect_bytes_per_second=PCIE5_X16, watts=350, usd_per_hour=2.1,
        mfu=0.43, mfu_log_sd=0.20, source="H100 data sheet, PCIe; MFU assumed",
    ),
    Hardware(
        name="h200", kind="gpu", peak_flops_fp32=6.7e13, peak_flops_tf32=4.945e14, peak_flops_bf16=9.89e14,
        peak_flops_fp16=9.89e14, peak_flops_fp8=1.979e15, memory_bytes=139 * GIB, bandwidth_bytes_per_second=4.8e12,
        interconnect_bytes_per_second=4.5e11, watts=700, usd_per_hour=3.5,
        mfu=0.46, mfu_log_sd=0.12, source="H200 data sheet; MFU as h100",
    ),
    # ASSUMPTION: a little below Hopper, because no public run of this kind of model was found.
    Hardware(
        name="b200", kind="gpu", peak_flops_fp32=7.5e13, peak_flops_tf32=1.125e15, peak_flops_bf16=2.25e15,
        peak_flops_fp16=2.25e15, peak_flops_fp8=4.5e15, memory_bytes=180 * GIB, bandwidth_bytes_per_second=8.0e12,
        interconnect_bytes_per_second=9.0e11, watts=1000, usd_per_hour=6.0,
        mfu=0.40, mfu_log_sd=0.25, source="HGX B200 data sheet; MFU assumed",
    ),
)  # fmt: skip

CLASSES = (*_CPUS, *_GEFORCE, *_DATA_CENTRE)
