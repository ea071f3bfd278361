"""Published numbers that the worked examples of steps 06 to 10 start from; the form is that of `public_cases`."""

from pipeline_math.documents.public_cases import Published

_CHAT_RL = "karpathy/nanochat, scripts/chat_rl.py"
_KIPPLY = "kipp.ly, Transformer inference arithmetic"

RL_PROBLEMS = Published(16, "", f"{_CHAT_RL}, problems per step")
RL_SAMPLES = Published(16, "", f"{_CHAT_RL}, samples per problem")
RL_NEW_TOKENS = Published(256, "tokens", f"{_CHAT_RL}, most new tokens per sample")
GSM8K_TRAIN_PROBLEMS = Published(7473, "", "GSM8K, arXiv 2110.14168, training split")
GPT2_NATS_PER_TOKEN = Published(3.28, "nats/token", "GPT-2 124M on FineWeb, the target of karpathy/modded-nanogpt")
GPT2_BYTES_PER_TOKEN = Published(4.67, "B/token", "GPT-2's tokenizer on FineWeb-Edu, report of karpathy/nanochat")
KERNELS_PER_STEP = Published(200, "", "launches of one decode step of a model of this depth, " + _KIPPLY)
KERNEL_SECONDS = Published(4e-6, "s", "launch of one CUDA kernel, three to five microseconds")
