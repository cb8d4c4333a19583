#include "core/encode.hpp"

#include <algorithm>
#include <utility>
#include <vector>

#include "core/encode_subject.hpp"
#include "core/parallel.hpp"

namespace chronoward {
namespace {

/// The parts one after the other.
TokenTimelines join(std::vector<TokenTimelines>&& parts, int n_threads) {
  if (parts.size() == 1) return std::move(parts.front());
  TokenTimelines out;
  std::vector<std::size_t> first;  // of each part's tokens
  std::size_t n_tokens = 0;
  const auto append = [](auto& to, const auto& from) {
    to.insert(to.end(), from.begin(), from.end());
  };
  out.offsets.push_back(0);
  for (const TokenTimelines& part : parts) {
    for (std::size_t i = 1; i < part.offsets.size(); ++i) {
      out.offsets.push_back(static_cast<std::int64_t>(n_tokens) + part.offsets[i]);
    }
    first.push_back(n_tokens);
    n_tokens += part.token_id.size();
    append(out.origin_us, part.origin_us);
    append(out.obs_start_min, part.obs_start_min);
    append(out.obs_end_min, part.obs_end_min);
    for (std::size_t r = 0; r < out.counts.size(); ++r) out.counts[r] += part.counts[r];
  }
  out.token_id.resize(n_tokens);
  out.time_min.resize(n_tokens);
  out.event_min.resize(n_tokens);
  out.n_prior.resize(n_tokens);
  const auto put = [](auto& to, const auto& from, std::size_t place) {
    std::copy(from.begin(), from.end(), to.begin() + static_cast<std::ptrdiff_t>(place));
  };
  parallel_for(parts.size(), n_threads, [&](std::size_t begin, std::size_t end, std::size_t) {
    for (std::size_t p = begin; p < end; ++p) {
      put(out.token_id, parts[p].token_id, first[p]);
      put(out.time_min, parts[p].time_min, first[p]);
      put(out.event_min, parts[p].event_min, first[p]);
      put(out.n_prior, parts[p].n_prior, first[p]);
    }
  });
  return out;
}

/// Room for what subjects will need: about one time token a code at most, and a prompt each.
void reserve(TokenTimelines& out, std::size_t n_rows, std::size_t n_subjects) {
  const std::size_t n_tokens = 2 * n_rows + 8 * n_subjects;
  out.token_id.reserve(n_tokens);
  out.time_min.reserve(n_tokens);
  out.event_min.reserve(n_tokens);
  out.n_prior.reserve(n_tokens);
  out.offsets.reserve(n_subjects + 1);
}

}  // namespace

TokenTimelines encode(const EncodeTables& tables, const EventView& events, int n_threads) {
  const std::size_t n_subjects = events.row_offsets.size() - 1;
  const EncodeFacts facts(tables, events);
  std::vector<TokenTimelines> parts(static_cast<std::size_t>(std::max(1, n_threads)));
  for (TokenTimelines& part : parts) part.offsets.push_back(0);
  parallel_for(n_subjects, n_threads, [&](std::size_t begin, std::size_t end, std::size_t range) {
    TokenTimelines& out = parts[range];
    const std::int64_t n_rows = events.row_offsets[end] - events.row_offsets[begin];
    reserve(out, static_cast<std::size_t>(n_rows), end - begin);
    SubjectEncoder encoder(tables, events, facts, out);
    for (std::size_t i = begin; i < end; ++i) encoder.encode(i);
  });
  return join(std::move(parts), n_threads);
}

}  // namespace chronoward
