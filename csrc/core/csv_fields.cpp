#include "core/csv_fields.hpp"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "core/errors.hpp"

namespace chronoward {
namespace {

constexpr std::size_t kWindow = 64;
constexpr std::size_t kFields = 8192;  // about as many at a time: their places fit the first cache
constexpr std::uint32_t kBeforeBlock = std::numeric_limits<std::uint32_t>::max();

[[noreturn]] void irregular(const char* what) { throw DataError(what); }

/// Bytes of a window that are a character, a bit each.
std::uint64_t places_of(char c, const char* window) {
  std::uint64_t found = 0;
#ifdef __SSE2__
  for (std::size_t k = 0; k < 4; ++k) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(window) + k);
    const auto equal =
        static_cast<std::uint32_t>(_mm_movemask_epi8(_mm_cmpeq_epi8(bytes, _mm_set1_epi8(c))));
    found |= std::uint64_t{equal} << (16 * k);
  }
#else
  for (std::size_t k = 0; k < kWindow; ++k) found |= std::uint64_t{window[k] == c} << k;
#endif
  return found;
}

/// Of a window: what ends a field, what ends a line, and what is rare and may be at fault.
struct Special {
  std::uint64_t borders = 0;
  std::uint64_t line_ends = 0;
  std::uint64_t rare = 0;  // quotes, CR and NUL
  bool is_ascii = true;
};

Special special_bytes(char delimiter, const char* window) {
  Special found;
#ifdef __SSE2__
  const auto put = [](__m128i bytes, std::size_t k, std::uint64_t& out) {
    out |= std::uint64_t{static_cast<std::uint32_t>(_mm_movemask_epi8(bytes))} << (16 * k);
  };
  __m128i all = _mm_setzero_si128();
  for (std::size_t k = 0; k < 4; ++k) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(window) + k);
    const auto is = [&](char c) { return _mm_cmpeq_epi8(bytes, _mm_set1_epi8(c)); };
    const __m128i line_ends = is('\n');
    all = _mm_or_si128(all, bytes);
    put(_mm_or_si128(line_ends, is(delimiter)), k, found.borders);
    put(line_ends, k, found.line_ends);
    put(_mm_or_si128(is('"'), _mm_or_si128(is('\r'), is('\0'))), k, found.rare);
  }
  found.is_ascii = _mm_movemask_epi8(all) == 0;
#else
  found.line_ends = places_of('\n', window);
  found.borders = found.line_ends | places_of(delimiter, window);
  found.rare = places_of('"', window) | places_of('\r', window) | places_of('\0', window);
  found.is_ascii = std::all_of(window, window + kWindow,
                               [](char c) { return static_cast<unsigned char>(c) < 0x80; });
#endif
  return found;
}

/// Each bit: whether an odd number of bits is set up to it.
std::uint64_t parity_up_to(std::uint64_t bits) {
  for (int shift = 1; shift < 64; shift *= 2) bits ^= bits << shift;
  return bits;
}

/// Whether quotes are around the whole field, and those inside are written twice; or there are
/// none.
bool is_well_quoted(std::string_view field) {
  if (field.empty() || field.front() != '"') return field.find('"') == std::string_view::npos;
  if (field.size() < 2 || field.back() != '"') return false;
  const std::string_view inner = field.substr(1, field.size() - 2);
  for (std::size_t k = inner.find('"'); k != std::string_view::npos; k = inner.find('"', k + 2)) {
    if (k + 1 == inner.size() || inner[k + 1] != '"') return false;
  }
  return true;
}

}  // namespace

CsvFieldFinder::CsvFieldFinder(std::string_view block, const CsvLayout& layout, bool is_last)
    : block_(block),
      n_columns_(layout.kinds.size()),
      max_line_bytes_(layout.max_line_bytes),
      delimiter_(layout.delimiter),
      ends_with_return_(layout.ends_with_return),
      is_last_(is_last),
      borders_(1 + kFields + n_columns_ + 2 * kWindow) {
  if (n_columns_ == 0) throw std::invalid_argument("a file needs a column");
  if (block.size() >= kBeforeBlock) throw std::invalid_argument("a block is less than 4 GiB");
  borders_[0] = kBeforeBlock;
}

bool CsvFieldFinder::next() {
  forget_rows();
  scan();
  n_rows_ = n_found_ / n_columns_;
  check_rows();
  return n_rows_ > 0;
}

/// What was found of the next rows comes first.
void CsvFieldFinder::forget_rows() {
  const std::size_t n_old = n_rows_ * n_columns_;
  n_found_ -= n_old;
  std::copy_n(borders_.begin() + static_cast<std::ptrdiff_t>(n_old), n_found_ + 1,
              borders_.begin());
}

/// Looks for borders until there are enough of them, and a whole row.
void CsvFieldFinder::scan() {
  const std::size_t enough = std::max(kFields, n_columns_);
  while (n_found_ < enough && at_ < block_.size()) {
    const std::size_t n = std::min(kWindow, block_.size() - at_);
    if (n == kWindow) {
      look_at(block_.data() + at_, n);
    } else {
      std::array<char, kWindow> window;
      window.fill(' ');
      std::memcpy(window.data(), block_.data() + at_, n);
      look_at(window.data(), n);
    }
    at_ += n;
    if (at_ == block_.size() && is_last_) {
      if (is_quoted_) irregular("a quoted field does not end");
      if (block_.back() == '\n') return;
      borders_[++n_found_] = static_cast<std::uint32_t>(at_);
      ++n_line_ends_;
    }
  }
}

void CsvFieldFinder::look_at(const char* window, std::size_t n) {
  auto [borders, line_ends, rare, is_ascii] = special_bytes(delimiter_, window);
  is_ascii_ = is_ascii_ && is_ascii;
  if (n < kWindow) {  // blanks are behind the block, and a delimiter may be one
    const std::uint64_t mine = (std::uint64_t{1} << n) - 1;
    borders &= mine;
    line_ends &= mine;
  }
  if (rare != 0 || is_quoted_) borders = settle_rare(window, n, borders, line_ends);
  n_line_ends_ += static_cast<std::size_t>(std::popcount(line_ends));
  const auto n_borders = static_cast<std::size_t>(std::popcount(borders));
  const auto base = static_cast<std::uint32_t>(at_);
  std::uint32_t* out = borders_.data() + n_found_ + 1;
  // by eights, however many there are: what is too much is written over by the next window
  for (std::size_t k = 0; k < n_borders; k += 8) {
    for (std::size_t j = 0; j < 8; ++j) {
      out[k + j] = base + static_cast<std::uint32_t>(std::countr_zero(borders));
      borders &= borders - 1;
    }
  }
  n_found_ += n_borders;
}

/// The borders of a window with quotes, CR or NUL that are not inside quotes; nor are the line
/// ends.
std::uint64_t CsvFieldFinder::settle_rare(const char* window, std::size_t n, std::uint64_t borders,
                                          std::uint64_t& line_ends) {
  if (places_of('\0', window) != 0) irregular("a NUL byte");
  const std::uint64_t quotes = places_of('"', window);
  const std::uint64_t inside = parity_up_to(quotes) ^ (is_quoted_ ? ~std::uint64_t{0} : 0);
  has_quotes_ = has_quotes_ || quotes != 0;
  is_quoted_ = is_quoted_ != (std::popcount(quotes) % 2 != 0);
  line_ends &= ~inside;
  const std::uint64_t returns = places_of('\r', window) & ~inside;
  if (returns != 0) {
    if (!ends_with_return_) irregular("line ends of several kinds");
    const bool is_at_end = at_ + n == block_.size();
    const bool ends_next = !is_at_end && block_[at_ + n] == '\n';
    const bool may_end_next = ends_next || (is_at_end && !is_last_);
    const std::uint64_t followed = (line_ends >> 1) | std::uint64_t{may_end_next} << (n - 1);
    if ((returns & ~followed) != 0) irregular("a CR without LF");
  }
  return borders & ~inside;
}

/// Checks the rows that were found, and how far they go.
void CsvFieldFinder::check_rows() {
  n_rows_all_ += n_rows_;
  // a line end in the wrong place is one too many, or is missing at the end of a row
  bool has_all = n_line_ends_ == n_rows_all_;
  for (std::size_t row = 0; row < n_rows_; ++row) {
    const std::size_t begin = std::uint32_t{borders_[row * n_columns_] + 1};
    const std::size_t end = borders_[(row + 1) * n_columns_];
    if (end < block_.size()) {
      has_all = has_all && block_[end] == '\n';
      if (has_all && ends_with_return_ && (end == begin || block_[end - 1] != '\r')) {
        irregular("line ends of several kinds");
      }
    }
    if (end + 1 - begin > max_line_bytes_ + (end == block_.size() ? 1 : 0)) {
      irregular("a line is too long");
    }
    if (n_columns_ == 1 && field(row, 0).empty()) irregular("an empty line");
    n_bytes_ = std::min(end + 1, block_.size());
  }
  if (!has_all || (is_last_ && at_ == block_.size() && n_found_ % n_columns_ != 0)) {
    irregular("a row has too few or too many fields");
  }
  if (has_quotes_) check_quotes();
}

void CsvFieldFinder::check_quotes() const {
  for (std::size_t row = 0; row < n_rows_; ++row) {
    for (std::size_t column = 0; column < n_columns_; ++column) {
      if (!is_well_quoted(field(row, column))) irregular("a quote inside a field, or text beside");
    }
  }
}

}  // namespace chronoward
