#include "core/encode.hpp"

#include <algorithm>
#include <vector>

#include "core/encode_subject.hpp"
#include "core/parallel.hpp"

namespace chronoward {
namespace {

template <typename T>
void append(std::vector<T>& to, const std::vector<T>& from) {
  to.insert(to.end(), from.begin(), from.end());
}

/// The parts one after the other, as columns.
TokenTimelines join(const std::vector<EncodedPart>& parts, int n_threads) {
  TokenTimelines out;
  std::vector<std::size_t> first;  // of each part's tokens
  std::size_t n_tokens = 0;
  out.offsets.push_back(0);
  for (const EncodedPart& part : parts) {
    for (std::size_t i = 1; i < part.offsets.size(); ++i) {
      out.offsets.push_back(static_cast<std::int64_t>(n_tokens) + part.offsets[i]);
    }
    first.push_back(n_tokens);
    n_tokens += part.tokens.size();
    append(out.origin_us, part.origin_us);
    append(out.obs_start_min, part.obs_start_min);
    append(out.obs_end_min, part.obs_end_min);
    for (std::size_t r = 0; r < out.counts.size(); ++r) out.counts[r] += part.counts[r];
  }
  out.token_id.resize(n_tokens);
  out.time_min.resize(n_tokens);
  out.event_min.resize(n_tokens);
  out.n_prior.resize(n_tokens);
  parallel_for(parts.size(), n_threads, [&](std::size_t begin, std::size_t end, std::size_t) {
    for (std::size_t p = begin; p < end; ++p) {
      std::size_t to = first[p];
      for (const PlacedToken& token : parts[p].tokens) {
        out.token_id[to] = token.id;
        out.time_min[to] = token.clock;
        out.event_min[to] = token.event;
        out.n_prior[to] = token.n_prior;
        ++to;
      }
    }
  });
  return out;
}

}  // namespace

TokenTimelines encode(const EncodeTables& tables, const EventView& events, int n_threads) {
  const std::size_t n_subjects = events.row_offsets.size() - 1;
  std::vector<EncodedPart> parts(static_cast<std::size_t>(std::max(1, n_threads)));
  parallel_for(n_subjects, n_threads, [&](std::size_t begin, std::size_t end, std::size_t range) {
    EncodedPart& out = parts[range];
    const auto n_rows =
        static_cast<std::size_t>(events.row_offsets[end] - events.row_offsets[begin]);
    // about one time token per code at most, and a prompt each
    out.tokens.reserve(2 * n_rows + 8 * (end - begin));
    out.offsets.reserve(end - begin + 1);
    out.offsets.push_back(0);
    SubjectEncoder encoder(tables, events, out);
    for (std::size_t i = begin; i < end; ++i) encoder.encode(i);
  });
  return join(parts, n_threads);
}

}  // namespace chronoward
