"""Three small CUDA kernels of a decode step, compiled when a model is made ready, by the compiler that comes with torch.

At one row each of these pieces is far too small to fill a GPU: what counts is how many kernels there are and how long each
takes to start and to end. On an H200 torch's own operators take 21 microseconds a layer for them, in 9 kernels, beside 81 for
the matrix products; these take a third of that. Where they cannot be compiled (`torch.cuda._compile_kernel` is torch's, but
private), torch's operators do the same.

Shapes: S = slots, H, K = query and key/value heads, D = head size, D' = with filling, P = positions of a slot, n = hidden size,
I = intermediate size. All in float16 or bfloat16, computed in float32, rounded once.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch

_SOURCE = r"""
typedef unsigned short narrow;  // float16 or bfloat16, without headers that a machine may lack

__device__ __forceinline__ float wide(narrow x) {
#ifdef BFLOAT16
    return __uint_as_float((unsigned)x << 16);
#else
    float y; asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x)); return y;
#endif
}

__device__ __forceinline__ narrow rounded(float x) {
    narrow y;
#ifdef BFLOAT16
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
#else
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
#endif
    return y;
}

// x [S, n], weight [n] -> out [S, n]. A block of 1024 threads for each slot.
extern "C" __global__ void normalize(const narrow* x, const narrow* weight, const float* eps, narrow* out, int n) {
    x += (size_t)blockIdx.x * n;
    out += (size_t)blockIdx.x * n;
    __shared__ float sums[32];
    float sum = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) { float v = wide(x[i]); sum += v * v; }
    for (int step = 16; step; step >>= 1) sum += __shfl_xor_sync(0xffffffff, sum, step);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = sums[threadIdx.x % 32];
    for (int step = 16; step; step >>= 1) sum += __shfl_xor_sync(0xffffffff, sum, step);
    float scale = rsqrtf(sum / n + *eps);
    for (int i = threadIdx.x; i < n; i += blockDim.x) out[i] = rounded(wide(x[i]) * scale * wide(weight[i]));
}

// Queries, keys and values [S, H + 2 K, D] at positions [S]; cosine, sine [S, D]. Queries turn into query [S, H, D'], keys turn
// and values go into memory [S, P, 2 K, D'] at their positions. A block for each head and slot; two numbers a thread.
extern "C" __global__ void turn(const narrow* together, const narrow* cosine, const narrow* sine, const long long* positions,
                                narrow* query, narrow* memory, int heads, int kv_heads, int size, int width, int length) {
    int head = blockIdx.x, slot = blockIdx.y, half = size / 2;
    const narrow* from = together + ((size_t)slot * (heads + 2 * kv_heads) + head) * size;
    narrow* to = head < heads
        ? query + ((size_t)slot * heads + head) * width
        : memory + (((size_t)slot * length + positions[slot]) * 2 * kv_heads + head - heads) * width;
    const narrow* c = cosine + (size_t)slot * size;
    const narrow* s = sine + (size_t)slot * size;
    bool turns = head < heads + kv_heads;
    for (int i = threadIdx.x; i < half; i += blockDim.x) {
        float first = wide(from[i]), second = wide(from[i + half]);
        to[i] = turns ? rounded(first * wide(c[i]) - second * wide(s[i])) : from[i];
        to[i + half] = turns ? rounded(second * wide(c[i + half]) + first * wide(s[i + half])) : from[i + half];
    }
    for (int i = size + threadIdx.x; i < width; i += blockDim.x) to[i] = 0;
}

// gate and up, [S, 2 I] -> silu(gate) * up [S, I].
extern "C" __global__ void activate(const narrow* gate_up, narrow* out, int intermediate) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= intermediate) return;
    const narrow* row = gate_up + (size_t)blockIdx.y * 2 * intermediate;
    float gate = wide(row[i]), up = wide(row[i + intermediate]);
    out[(size_t)blockIdx.y * intermediate + i] = rounded(gate / (1 + __expf(-gate)) * up);
}
"""


class CudaKernels:
    """The compiled kernels, for one type and device. Raises RuntimeError, ImportError or AttributeError without a compiler."""

    def __init__(self, dtype: torch.dtype, eps: float, device: torch.device) -> None:
        source = ("#define BFLOAT16\n" if dtype == torch.bfloat16 else "") + _SOURCE
        # A kernel takes whole numbers and addresses: torch would pass eps as a double.
        self._eps = torch.tensor([eps], device=device)
        self._normalize, self._turn, self._activate = (
            _compile(source, name, device) for name in ("normalize", "turn", "activate")
        )

    def normalize(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """RMS norm: [S, n] and [n] → [S, n]."""
        out = torch.empty_like(x)
        self._normalize((x.shape[0], 1, 1), (1024, 1, 1), [x, weight, self._eps, out, x.shape[1]])
        return out

    def turn(
        self,
        together: torch.Tensor,
        cosine: torch.Tensor,
        sine: torch.Tensor,
        positions: torch.Tensor,
        memory: torch.Tensor,
    ) -> torch.Tensor:
        """Rotary embedding, and keys and values into their slots.

        together: [S, H + 2 K, D]; cosine, sine: [S, D]; positions: int64 [S]; memory: [S or more, P, 2 K, D'], written to.
        Returns queries, [S, H, D'].
        """
        slots, total, size = together.shape
        _, length, kept, width = memory.shape
        heads = total - kept
        query = together.new_empty((slots, heads, width))
        numbers = [heads, kept // 2, size, width, length]
        self._turn((total, slots, 1), (64, 1, 1), [together, cosine, sine, positions, query, memory, *numbers])
        return query

    def activate(self, gate_up: torch.Tensor) -> torch.Tensor:
        """[S, 2 I] → silu(gate) · up, [S, I]."""
        slots, both = gate_up.shape
        out = gate_up.new_empty((slots, both // 2))
        self._activate((-(-both // 2 // 256), slots, 1), (256, 1, 1), [gate_up, out, both // 2])
        return out


class TorchKernels:
    """The same out of torch's operators, on any device and in any type."""

    def __init__(self, eps: float) -> None:
        self._eps = eps

    def normalize(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """See `CudaKernels.normalize`."""
        return torch.nn.functional.rms_norm(x, weight.shape, weight, self._eps)

    def turn(
        self,
        together: torch.Tensor,
        cosine: torch.Tensor,
        sine: torch.Tensor,
        positions: torch.Tensor,
        memory: torch.Tensor,
    ) -> torch.Tensor:
        """See `CudaKernels.turn`."""
        slots, total, size = together.shape
        kept, width = memory.shape[2:]
        heads = total - kept
        turned = together.new_zeros((slots, total, width))
        turned[..., :size] = together
        turning = slice(0, total - kept // 2)
        first, second = together[:, turning].chunk(2, dim=-1)
        swapped = torch.cat((-second, first), dim=-1)
        turned[:, turning, :size] = together[:, turning] * cosine[:, None] + swapped * sine[:, None]
        memory[torch.arange(slots, device=positions.device), positions] = turned[:, heads:]
        return turned[:, :heads]

    def activate(self, gate_up: torch.Tensor) -> torch.Tensor:
        """See `CudaKernels.activate`."""
        gate, up = gate_up.chunk(2, dim=-1)
        return torch.nn.functional.silu(gate) * up


def step_kernels(dtype: torch.dtype, eps: float, device: torch.device) -> CudaKernels | TorchKernels:
    """The compiled kernels where the device has them, else torch's operators."""
    if device.type != "cuda" or torch.version.cuda is None:
        return TorchKernels(eps)
    try:
        return CudaKernels(dtype, eps, device)
    except (RuntimeError, ImportError, AttributeError, OSError):
        return TorchKernels(eps)


def _compile(source: str, name: str, device: torch.device) -> Callable[..., Any]:
    from torch.utils import cpp_extension

    toolkit: Any = cpp_extension
    before = toolkit.CUDA_HOME
    # torch wants to name the folder of a CUDA toolkit's headers, and fails without one; no header is needed here.
    toolkit.CUDA_HOME = before or sys.prefix
    try:
        with torch.cuda.device(device):
            kernel: Callable[..., Any] = torch.cuda._compile_kernel(source, name)  # type: ignore[attr-defined,unused-ignore]
    finally:
        toolkit.CUDA_HOME = before
    return kernel
