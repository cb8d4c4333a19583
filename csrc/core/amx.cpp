#include "core/amx.hpp"

#include <cstdint>
#include <stdexcept>

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define CHRONOWARD_CAN_AMX 1
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#define CHRONOWARD_CAN_AMX 0
#endif

namespace chronoward {

#if CHRONOWARD_CAN_AMX

namespace {

constexpr std::size_t kTileRows = 16, kTileBytes = 64, kPanel = 16;
#define CHRONOWARD_AMX __attribute__((target("amx-tile,amx-bf16,amx-int8")))
#define CHRONOWARD_DOT(sum, a, b)          \
  if constexpr (sizeof(T) == sizeof(Bf16)) \
    _tile_dpbf16ps(sum, a, b);             \
  else                                     \
    _tile_dpbssd(sum, a, b)

/// Eight tiles of 16 rows by 64 bytes; the layout is the processor's.
struct TileConfig {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

bool may_use_amx() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned kNeeded = 1U << 22 | 1U << 24 | 1U << 25;  // bf16, tiles, int8
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & kNeeded) != kNeeded) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // arch_prctl's, Linux 5.16 and later
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

/// Two row tiles by two panels (the second of each may be absent).
template <bool TwoRows, bool TwoPanels, typename T, typename Sum>
CHRONOWARD_AMX inline void quad(const TiledProduct<T, Sum>& p, std::size_t row, std::size_t panel) {
  const auto a_bytes = static_cast<long>(p.depth * sizeof(T));
  const auto out_bytes = static_cast<long>(p.out_stride * sizeof(Sum));
  const T* a0 = p.a + row * kTileRows * p.depth;
  const T* a1 = a0 + kTileRows * p.depth;
  const T* b0 = p.b + panel * p.depth * kPanel;
  const T* b1 = b0 + p.depth * kPanel;
  Sum* out = p.out + row * kTileRows * p.out_stride + panel * kPanel;
  Sum* below = out + kTileRows * p.out_stride;
  if (p.adds) {
    _tile_loadd(0, out, out_bytes);
    if constexpr (TwoPanels) _tile_loadd(1, out + kPanel, out_bytes);
    if constexpr (TwoRows) _tile_loadd(2, below, out_bytes);
    if constexpr (TwoRows && TwoPanels) _tile_loadd(3, below + kPanel, out_bytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (std::size_t k = 0; k < p.depth; k += kTileBytes / sizeof(T)) {
    _tile_loadd(6, b0 + k * kPanel, 64);
    _tile_loadd(4, a0 + k, a_bytes);
    CHRONOWARD_DOT(0, 4, 6);
    if constexpr (TwoPanels) {
      _tile_loadd(7, b1 + k * kPanel, 64);
      CHRONOWARD_DOT(1, 4, 7);
    }
    if constexpr (TwoRows) {
      _tile_loadd(5, a1 + k, a_bytes);
      CHRONOWARD_DOT(2, 5, 6);
    }
    if constexpr (TwoRows && TwoPanels) {
      CHRONOWARD_DOT(3, 5, 7);
    }
  }
  _tile_stored(0, out, out_bytes);
  if constexpr (TwoPanels) _tile_stored(1, out + kPanel, out_bytes);
  if constexpr (TwoRows) _tile_stored(2, below, out_bytes);
  if constexpr (TwoRows && TwoPanels) _tile_stored(3, below + kPanel, out_bytes);
}

template <bool TwoPanels, typename T, typename Sum>
CHRONOWARD_AMX inline void all_rows(const TiledProduct<T, Sum>& p, std::size_t panel) {
  const auto n_tiles = (p.n_rows + kTileRows - 1) / kTileRows;
  std::size_t row = 0;
  for (; row + 2 <= n_tiles; row += 2) quad<true, TwoPanels>(p, row, panel);
  if (row < n_tiles) quad<false, TwoPanels>(p, row, panel);
}

template <typename T, typename Sum>
CHRONOWARD_AMX void run(const TiledProduct<T, Sum>& p) {
  TileConfig config;
  // GCC's intrinsic says that it reads eight bytes only: the others must be in memory by then.
  asm volatile("" : : "r"(&config) : "memory");
  _tile_loadconfig(&config);
  std::size_t panel = 0;
  for (; panel + 2 <= p.n_panels; panel += 2) all_rows<true>(p, panel);
  if (panel < p.n_panels) all_rows<false>(p, panel);
  _tile_release();
}

}  // namespace

bool has_amx() {
  static const bool may = may_use_amx();
  return may;
}

void amx_product(const TiledProduct<Bf16, float>& product) { run(product); }
void amx_product(const TiledProduct<std::int8_t, std::int32_t>& product) { run(product); }

#else

bool has_amx() { return false; }

void amx_product(const TiledProduct<Bf16, float>&) { throw std::logic_error("no AMX here"); }
void amx_product(const TiledProduct<std::int8_t, std::int32_t>&) {
  throw std::logic_error("no AMX here");
}

#endif

}  // namespace chronoward
