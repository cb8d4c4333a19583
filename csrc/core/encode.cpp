#include "core/encode.hpp"

#include <algorithm>
#include <utility>

#include "core/encode_subject.hpp"
#include "core/parallel.hpp"

namespace chronoward {
namespace {

template <typename T>
void append(std::vector<T>& to, const std::vector<T>& from) {
  to.insert(to.end(), from.begin(), from.end());
}

}  // namespace

TokenTimelines encode(const EncodeTables& tables, const EventView& events, int n_threads) {
  const std::size_t n_subjects = events.row_offsets.size() - 1;
  std::vector<TokenTimelines> parts(static_cast<std::size_t>(std::max(1, n_threads)));
  parallel_for(n_subjects, n_threads, [&](std::size_t begin, std::size_t end, std::size_t range) {
    TokenTimelines& out = parts[range];
    const auto n_rows =
        static_cast<std::size_t>(events.row_offsets[end] - events.row_offsets[begin]);
    // about one time token per code at most, and a prompt each
    const std::size_t expected = n_rows + n_rows / 2 + 8 * (end - begin);
    for (auto* column : {&out.token_id, &out.time_min, &out.event_min}) column->reserve(expected);
    out.n_prior.reserve(expected);
    out.offsets.reserve(end - begin + 1);
    out.offsets.push_back(0);
    SubjectEncoder encoder(tables, events, out);
    for (std::size_t i = begin; i < end; ++i) encoder.encode(i);
  });
  TokenTimelines joined = std::move(parts[0]);
  if (joined.offsets.empty()) joined.offsets.push_back(0);
  for (std::size_t p = 1; p < parts.size(); ++p) {
    const TokenTimelines& part = parts[p];
    if (part.offsets.empty()) continue;  // fewer ranges than threads
    const std::int64_t shift = joined.offsets.back();
    for (std::size_t i = 1; i < part.offsets.size(); ++i) {
      joined.offsets.push_back(shift + part.offsets[i]);
    }
    append(joined.origin_us, part.origin_us);
    append(joined.token_id, part.token_id);
    append(joined.time_min, part.time_min);
    append(joined.event_min, part.event_min);
    append(joined.n_prior, part.n_prior);
    append(joined.obs_start_min, part.obs_start_min);
    append(joined.obs_end_min, part.obs_end_min);
    for (std::size_t r = 0; r < joined.counts.size(); ++r) joined.counts[r] += part.counts[r];
  }
  return joined;
}

}  // namespace chronoward
