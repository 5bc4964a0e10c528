"""Three small CUDA kernels of a decode step, compiled by torch's own compiler (NVRTC) when a model is loaded.

With one row this work is far too small to fill a GPU: what counts is the number of kernels and the latency of each. On an H200
torch's operators take 21 microseconds per layer for it, in 9 kernels, beside 81 for the matmuls; these take a third of that.
Where they cannot be compiled (`torch.cuda._compile_kernel` is private), torch's operators do the same.

Shapes: S = slots, H, K = query and key/value heads, D = head size, D' = with padding, P = positions of a slot, n = hidden size,
I = intermediate size. All in float16 or bfloat16, computed in float32 and rounded once.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch

from openllama_cli.system.replaced import replaced

_SOURCE = r"""
typedef unsigned short bits16;  // float16 or bfloat16, without headers that a machine may lack

__device__ __forceinline__ float to_float(bits16 x) {
#ifdef BFLOAT16
    return __uint_as_float((unsigned)x << 16);
#else
    float y; asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x)); return y;
#endif
}

__device__ __forceinline__ bits16 to_half(float x) {
    bits16 y;
#ifdef BFLOAT16
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
#else
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
#endif
    return y;
}

// x [S, n], weight [n] -> out [S, n]. One block of 1024 threads per slot.
extern "C" __global__ void rms_norm(const bits16* x, const bits16* weight, const float* eps, bits16* out, int n) {
    x += (size_t)blockIdx.x * n;
    out += (size_t)blockIdx.x * n;
    __shared__ float sums[32];
    float sum = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) { float v = to_float(x[i]); sum += v * v; }
    for (int step = 16; step; step >>= 1) sum += __shfl_xor_sync(0xffffffff, sum, step);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = sums[threadIdx.x % 32];
    for (int step = 16; step; step >>= 1) sum += __shfl_xor_sync(0xffffffff, sum, step);
    float scale = rsqrtf(sum / n + *eps);
    for (int i = threadIdx.x; i < n; i += blockDim.x) out[i] = to_half(to_float(x[i]) * scale * to_float(weight[i]));
}

// Queries, keys and values [S, H + 2 K, D] at positions [S]; cosine, sine [S, D]. Rotated queries are written to query
// [S, H, D'], rotated keys and values to memory [S, P, 2 K, D'] at their positions. One block per head and slot.
extern "C" __global__ void apply_rotary(const bits16* qkv, const bits16* cosine, const bits16* sine, const long long* positions,
                                        bits16* query, bits16* memory, int heads, int kv_heads, int size, int width,
                                        int length) {
    int head = blockIdx.x, slot = blockIdx.y, half = size / 2;
    const bits16* from = qkv + ((size_t)slot * (heads + 2 * kv_heads) + head) * size;
    bits16* to = head < heads
        ? query + ((size_t)slot * heads + head) * width
        : memory + (((size_t)slot * length + positions[slot]) * 2 * kv_heads + head - heads) * width;
    const bits16* c = cosine + (size_t)slot * size;
    const bits16* s = sine + (size_t)slot * size;
    bool rotated = head < heads + kv_heads;
    for (int i = threadIdx.x; i < half; i += blockDim.x) {
        float first = to_float(from[i]), second = to_float(from[i + half]);
        to[i] = rotated ? to_half(first * to_float(c[i]) - second * to_float(s[i])) : from[i];
        to[i + half] = rotated ? to_half(second * to_float(c[i + half]) + first * to_float(s[i + half])) : from[i + half];
    }
    for (int i = size + threadIdx.x; i < width; i += blockDim.x) to[i] = 0;
}

// gate and up, [S, 2 I] -> silu(gate) * up [S, I].
extern "C" __global__ void silu_mul(const bits16* gate_up, bits16* out, int intermediate) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= intermediate) return;
    const bits16* row = gate_up + (size_t)blockIdx.y * 2 * intermediate;
    float gate = to_float(row[i]), up = to_float(row[i + intermediate]);
    out[(size_t)blockIdx.y * intermediate + i] = to_half(gate / (1 + __expf(-gate)) * up);
}
"""


class TorchKernels:
    """What lies between the matmuls, with torch's operators, on any device and in any dtype."""

    def __init__(self, eps: float) -> None:
        self._eps = eps

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """RMS norm: [S, n] and [n] → [S, n]."""
        return torch.nn.functional.rms_norm(x, weight.shape, weight, self._eps)

    def apply_rotary(
        self, qkv: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor, positions: torch.Tensor, memory: torch.Tensor
    ) -> torch.Tensor:
        """Rotary embedding; keys and values are written to their slots.

        qkv: [S, H + 2 K, D]; cosine, sine: [S, D]; positions: int64 [S]; memory: [S or more, P, 2 K, D'], modified.
        Returns queries, [S, H, D'].
        """
        slots, total, size = qkv.shape
        kv_total, width = memory.shape[2:]
        heads = total - kv_total
        rotated = qkv.new_zeros((slots, total, width))
        rotated[..., :size] = qkv
        query_key = slice(0, total - kv_total // 2)
        first, second = qkv[:, query_key].chunk(2, dim=-1)
        swapped = torch.cat((-second, first), dim=-1)
        rotated[:, query_key, :size] = qkv[:, query_key] * cosine[:, None] + swapped * sine[:, None]
        memory[torch.arange(slots, device=positions.device), positions] = rotated[:, heads:]
        return rotated[:, :heads]

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        """[S, 2 I] → silu(gate) · up, [S, I]."""
        gate, up = gate_up.chunk(2, dim=-1)
        return torch.nn.functional.silu(gate) * up


class CudaKernels(TorchKernels):
    """The compiled kernels for one dtype and device. Raises RuntimeError, ImportError or AttributeError without a compiler."""

    def __init__(self, dtype: torch.dtype, eps: float, device: torch.device) -> None:
        source = ("#define BFLOAT16\n" if dtype == torch.bfloat16 else "") + _SOURCE
        # In memory, since torch would pass a number as a double.
        self._eps_in_memory = torch.tensor([eps], device=device)
        self._rms_norm, self._apply_rotary, self._silu_mul = (
            _compile(source, name, device) for name in ("rms_norm", "apply_rotary", "silu_mul")
        )

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(x)
        self._rms_norm((x.shape[0], 1, 1), (1024, 1, 1), [x, weight, self._eps_in_memory, out, x.shape[1]])
        return out

    def apply_rotary(
        self, qkv: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor, positions: torch.Tensor, memory: torch.Tensor
    ) -> torch.Tensor:
        slots, total, size = qkv.shape
        _, length, kv_total, width = memory.shape
        heads = total - kv_total
        query = qkv.new_empty((slots, heads, width))
        numbers = [heads, kv_total // 2, size, width, length]
        self._apply_rotary((total, slots, 1), (64, 1, 1), [qkv, cosine, sine, positions, query, memory, *numbers])
        return query

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        slots, doubled = gate_up.shape
        out = gate_up.new_empty((slots, doubled // 2))
        self._silu_mul((-(-doubled // 2 // 256), slots, 1), (256, 1, 1), [gate_up, out, doubled // 2])
        return out


def step_kernels(dtype: torch.dtype, eps: float, device: torch.device) -> TorchKernels:
    """The compiled kernels if the device has them, else torch's operators."""
    if device.type != "cuda" or torch.version.cuda is None:
        return TorchKernels(eps)
    try:
        return CudaKernels(dtype, eps, device)
    except (RuntimeError, ImportError, AttributeError, OSError):
        return TorchKernels(eps)


def _compile(source: str, name: str, device: torch.device) -> Callable[..., Any]:
    from torch.utils import cpp_extension

    # torch fails without a CUDA toolkit's header folder, although no header is needed here.
    with replaced(cpp_extension, CUDA_HOME=cpp_extension.CUDA_HOME or sys.prefix), torch.cuda.device(device):
        kernel: Callable[..., Any] = torch.cuda._compile_kernel(source, name)
    return kernel
