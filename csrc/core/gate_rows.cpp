#include <algorithm>
#include <stdexcept>

#include "core/denormals.hpp"
#include "core/lane_math.hpp"
#include "core/parallel.hpp"
#include "core/training_rows.hpp"

// silu(gate) * up and its gradient, in vectors whose width is chosen by hand: loops over bf16 are
// not vectorized otherwise.
namespace chronoward {
namespace {

using Eight = float __attribute__((vector_size(32)));
using Sixteen = float __attribute__((vector_size(64)));  // only where AVX-512 holds it
constexpr std::size_t kBlock = 64;                       // rows of one task

template <typename Vector>
CHRONOWARD_INLINE Vector widen(const float* from) {
  return load_lanes<Vector>(from);
}

template <typename Vector>
CHRONOWARD_INLINE Vector widen(const BFloat16* from) {
  return lanes_of_halves<Vector>(load_lanes<Halves<Vector>>(from));
}

template <typename Vector>
CHRONOWARD_INLINE void narrow(const Vector& x, float* to) {
  store_lanes(to, x);
}

/// Rounds to nearest, ties to even; NaN stays NaN.
template <typename Vector>
CHRONOWARD_INLINE void narrow(const Vector& x, BFloat16* to) {
  const auto bits = lanes_as_bits(x);
  const LaneBits<Vector> rounded = bits + 0x7FFF + ((bits >> 16) & 1);
  const LaneBits<Vector> kept = x != x ? (bits | 0x00400000) : rounded;
  store_lanes(to, upper_halves<Vector>(kept));
}

/// 1 / (1 + exp(-x)) without overflow.
template <typename Vector>
CHRONOWARD_INLINE Vector sigmoid(const Vector& x) {
  const auto is_negative = x < Vector{};
  const Vector e = lane_exp<Vector>(is_negative ? x : -x);
  return (is_negative ? e : lanes_of<Vector>(1.0F)) / (1.0F + e);
}

/// The rows of one pass; the gradient's pass puts the product of gate and silu over `d_out`.
template <typename T>
struct Rows {
  const T* gate_and_up;  // (n, 2 width)
  std::size_t width;
  T* out;            // (n, width)
  T* d_gate_and_up;  // (n, 2 width)
};

/// One vector of a row.
template <typename Vector, typename T>
CHRONOWARD_INLINE void gate(const T* gate, const T* up, T* out) {
  const auto g = widen<Vector>(gate);
  narrow<Vector>(g * sigmoid(g) * widen<Vector>(up), out);
}

template <typename Vector, typename T>
CHRONOWARD_INLINE void gate_backward(const T* gate, const T* up, T* d_out, T* d_gate, T* d_up) {
  const auto g = widen<Vector>(gate), u = widen<Vector>(up), d = widen<Vector>(d_out);
  const Vector s = sigmoid(g), silu = g * s;
  narrow<Vector>(d * u * (s + silu * (1.0F - s)), d_gate);
  narrow<Vector>(d * silu, d_up);
  narrow<Vector>(silu * u, d_out);
}

template <typename Vector, typename T>
CHRONOWARD_INLINE void forward(const Rows<T>& rows, std::size_t begin, std::size_t end) {
  constexpr std::size_t lanes = sizeof(Vector) / sizeof(float);
  const auto whole = rows.width / lanes * lanes, rest = rows.width - whole;
  for (auto r = begin; r < end; ++r) {
    const T* in = rows.gate_and_up + r * 2 * rows.width;
    const T* up = in + rows.width;
    T* out = rows.out + r * rows.width;
    for (std::size_t i = 0; i < whole; i += lanes) gate<Vector>(in + i, up + i, out + i);
    T last[3][lanes] = {};
    std::copy_n(in + whole, rest, last[0]);
    std::copy_n(up + whole, rest, last[1]);
    if (rest != 0) gate<Vector>(last[0], last[1], last[2]);
    std::copy_n(last[2], rest, out + whole);
  }
}

template <typename Vector, typename T>
CHRONOWARD_INLINE void backward(const Rows<T>& rows, std::size_t begin, std::size_t end) {
  constexpr std::size_t lanes = sizeof(Vector) / sizeof(float);
  const auto whole = rows.width / lanes * lanes, rest = rows.width - whole;
  for (auto r = begin; r < end; ++r) {
    const T* in = rows.gate_and_up + r * 2 * rows.width;
    const T* up = in + rows.width;
    T* out = rows.out + r * rows.width;
    T* d_in = rows.d_gate_and_up + r * 2 * rows.width;
    T* d_up = d_in + rows.width;
    for (std::size_t i = 0; i < whole; i += lanes) {
      gate_backward<Vector>(in + i, up + i, out + i, d_in + i, d_up + i);
    }
    if (rest == 0) continue;
    T last[5][lanes] = {};
    std::copy_n(in + whole, rest, last[0]);
    std::copy_n(up + whole, rest, last[1]);
    std::copy_n(out + whole, rest, last[2]);
    gate_backward<Vector>(last[0], last[1], last[2], last[3], last[4]);
    std::copy_n(last[2], rest, out + whole);
    std::copy_n(last[3], rest, d_in + whole);
    std::copy_n(last[4], rest, d_up + whole);
  }
}

#define CHRONOWARD_GATE(attribute, Vector, T)                                            \
  attribute void run_forward(const Rows<T>& rows, std::size_t begin, std::size_t end) {  \
    forward<Vector>(rows, begin, end);                                                   \
  }                                                                                      \
  attribute void run_backward(const Rows<T>& rows, std::size_t begin, std::size_t end) { \
    backward<Vector>(rows, begin, end);                                                  \
  }
#ifdef CHRONOWARD_HAS_CLONES
#define CHRONOWARD_FOR(arch) __attribute__((target(arch)))
CHRONOWARD_GATE(CHRONOWARD_FOR("arch=x86-64-v4"), Sixteen, float)
CHRONOWARD_GATE(CHRONOWARD_FOR("arch=x86-64-v4"), Sixteen, BFloat16)
CHRONOWARD_GATE(CHRONOWARD_FOR("arch=x86-64-v3"), Eight, float)
CHRONOWARD_GATE(CHRONOWARD_FOR("arch=x86-64-v3"), Eight, BFloat16)
#else
#define CHRONOWARD_FOR(arch)
#endif
CHRONOWARD_GATE(CHRONOWARD_FOR("default"), Eight, float)
CHRONOWARD_GATE(CHRONOWARD_FOR("default"), Eight, BFloat16)
#undef CHRONOWARD_FOR
#undef CHRONOWARD_GATE

template <typename Fn>
void for_blocks(std::size_t n_rows, int n_threads, const Fn& fn) {
  parallel_for((n_rows + kBlock - 1) / kBlock, n_threads,
               [&](std::size_t begin, std::size_t end, std::size_t) {
                 const WithoutDenormals guard;
                 fn(begin * kBlock, std::min(end * kBlock, n_rows));
               });
}

void require(bool fits) {
  if (!fits) throw std::invalid_argument("gate_rows: arrays do not fit each other");
}

}  // namespace

template <typename T>
void gate_rows(std::span<const T> gate_and_up, std::size_t width, std::span<T> out, int n_threads) {
  require(width > 0 && out.size() % width == 0 && gate_and_up.size() == 2 * out.size());
  const Rows<T> rows{gate_and_up.data(), width, out.data(), nullptr};
  for_blocks(out.size() / width, n_threads,
             [&](std::size_t begin, std::size_t end) { run_forward(rows, begin, end); });
}

template <typename T>
void gate_rows_backward(std::span<const T> gate_and_up, std::size_t width, std::span<T> d_out,
                        std::span<T> d_gate_and_up, int n_threads) {
  require(width > 0 && d_out.size() % width == 0 && gate_and_up.size() == 2 * d_out.size() &&
          d_gate_and_up.size() == gate_and_up.size());
  const Rows<T> rows{gate_and_up.data(), width, d_out.data(), d_gate_and_up.data()};
  for_blocks(d_out.size() / width, n_threads,
             [&](std::size_t begin, std::size_t end) { run_backward(rows, begin, end); });
}

#define CHRONOWARD_INSTANTIATE(T)                                                                  \
  template void gate_rows<T>(std::span<const T>, std::size_t, std::span<T>, int);                  \
  template void gate_rows_backward<T>(std::span<const T>, std::size_t, std::span<T>, std::span<T>, \
                                      int);
CHRONOWARD_INSTANTIATE(float)
CHRONOWARD_INSTANTIATE(BFloat16)
#undef CHRONOWARD_INSTANTIATE

}  // namespace chronoward
