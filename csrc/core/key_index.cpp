#include "core/key_index.hpp"

#include <stdexcept>

#include "core/parallel.hpp"

namespace chronoward {
namespace {

constexpr int kUnitBits = 20, kCodeBits = 27, kTableBits = 12;  // and 4 of the role: 63
constexpr std::size_t kFirstSize = 1024;
constexpr std::int64_t kEmpty = -1;

inline std::int64_t within(std::int32_t number, int bits) {
  if (number < 0 || number >= std::int32_t{1} << bits) {
    throw std::out_of_range("a key's table, code or unit is out of range");
  }
  return number;
}

std::int64_t part(std::int64_t packed, int shift, int bits) {
  return packed >> shift & ((std::int64_t{1} << bits) - 1);
}

[[gnu::always_inline]] inline std::int64_t packed_key(const KeyColumns& rows, std::size_t i) {
  std::int64_t packed = rows.role[i] & 15;
  packed = packed << kTableBits | within(rows.table[i], kTableBits);
  packed = packed << kCodeBits | within(rows.code[i], kCodeBits);
  return packed << kUnitBits | within(rows.unit[i] + 1, kUnitBits);
}

}  // namespace

KeyIndex::KeyIndex() : slots_(kFirstSize, kEmpty), numbers_(kFirstSize, 0) {}

std::vector<std::int32_t> KeyIndex::number(const KeyColumns& rows, int n_threads) {
  const std::size_t n = rows.role.size();
  if (rows.table.size() != n || rows.code.size() != n || rows.unit.size() != n) {
    throw std::invalid_argument("columns of keys must have one length");
  }
  std::vector<std::int32_t> out(n);
  parallel_for(n, n_threads, [&](std::size_t begin, std::size_t end, std::size_t) {
    for (std::size_t i = begin; i < end; ++i) out[i] = find(packed_key(rows, i));
  });
  for (std::size_t i = 0; i < n; ++i) {  // new keys are numbered in the order of the rows
    if (out[i] < 0) out[i] = number_of(packed_key(rows, i));
  }
  return out;
}

KeyIndex::Key KeyIndex::key(std::size_t i) const {
  const std::int64_t packed = seen_[i];
  return {.role = static_cast<std::int32_t>(packed >> (kUnitBits + kCodeBits + kTableBits)),
          .table = static_cast<std::int32_t>(part(packed, kUnitBits + kCodeBits, kTableBits)),
          .code = static_cast<std::int32_t>(part(packed, kUnitBits, kCodeBits)),
          .unit = static_cast<std::int32_t>(part(packed, 0, kUnitBits)) - 1};
}

std::int32_t KeyIndex::find(std::int64_t packed) const {
  std::size_t slot = slot_of(packed);
  while (slots_[slot] != packed) {
    if (slots_[slot] == kEmpty) return -1;
    slot = (slot + 1) & (slots_.size() - 1);
  }
  return numbers_[slot];
}

std::int32_t KeyIndex::number_of(std::int64_t packed) {
  std::size_t slot = slot_of(packed);
  while (slots_[slot] != packed) {
    if (slots_[slot] == kEmpty) {
      const auto number = static_cast<std::int32_t>(seen_.size());
      slots_[slot] = packed;
      numbers_[slot] = number;
      seen_.push_back(packed);
      if (seen_.size() * 2 > slots_.size()) grow();
      return number;
    }
    slot = (slot + 1) & (slots_.size() - 1);
  }
  return numbers_[slot];
}

std::size_t KeyIndex::slot_of(std::int64_t packed) const {
  // Fibonacci hashing; the high bits are the mixed ones
  const auto mixed = static_cast<std::uint64_t>(packed) * 0x9E3779B97F4A7C15ULL;
  return static_cast<std::size_t>(mixed >> 20) & (slots_.size() - 1);
}

void KeyIndex::grow() {
  slots_.assign(slots_.size() * 2, kEmpty);
  numbers_.assign(slots_.size(), 0);
  for (std::size_t i = 0; i < seen_.size(); ++i) {
    std::size_t slot = slot_of(seen_[i]);
    while (slots_[slot] != kEmpty) slot = (slot + 1) & (slots_.size() - 1);
    slots_[slot] = seen_[i];
    numbers_[slot] = static_cast<std::int32_t>(i);
  }
}

}  // namespace chronoward
