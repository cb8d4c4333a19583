#pragma once

#include <pybind11/typing.h>

#include <string>
#include <utility>
#include <vector>

#include "bindings/arrays.hpp"
#include "core/split_spans.hpp"

namespace chronoward::bindings {

inline void check_offsets(std::span<const std::int64_t> offsets, std::size_t n_values,
                          const char* name) {
  bool good = !offsets.empty() && offsets.front() == 0 &&
              static_cast<std::size_t>(offsets.back()) == n_values;
  for (std::size_t i = 1; good && i < offsets.size(); ++i) good = offsets[i - 1] <= offsets[i];
  if (!good) {
    throw std::invalid_argument(std::string(name) + " must rise from 0 to " +
                                std::to_string(n_values));
  }
}

/// A shard's arrays, kept alive for as long as batches are made of them.
class ShardArrays {
 public:
  ShardArrays(SubjectOffsets offsets, TokenIds token_id, TimesMin time_min, Bytes n_prior,
              SubjectOffsets obs_offsets, TimesMin obs_start_min, TimesMin obs_end_min)
      : offsets_(std::move(offsets)),
        token_id_(std::move(token_id)),
        time_min_(std::move(time_min)),
        n_prior_(std::move(n_prior)),
        obs_offsets_(std::move(obs_offsets)),
        obs_start_min_(std::move(obs_start_min)),
        obs_end_min_(std::move(obs_end_min)) {
    const ShardSpans s = spans();
    check_offsets(s.offsets, s.token_id.size(), "offsets");
    check_offsets(s.obs_offsets, s.obs_start_min.size(), "obs_offsets");
    if (s.time_min.size() != s.token_id.size() || s.n_prior.size() != s.token_id.size() ||
        s.obs_start_min.size() != s.obs_end_min.size() ||
        s.offsets.size() != s.obs_offsets.size()) {
      throw std::invalid_argument("a shard's arrays must describe the same timelines and tokens");
    }
  }

  ShardSpans spans() const {
    return {view(offsets_, "offsets"),         view(token_id_, "token_id"),
            view(time_min_, "time_min"),       view(n_prior_, "n_prior"),
            view(obs_offsets_, "obs_offsets"), view(obs_start_min_, "obs_start_min"),
            view(obs_end_min_, "obs_end_min")};
  }

 private:
  SubjectOffsets offsets_;
  TokenIds token_id_;
  TimesMin time_min_;
  Bytes n_prior_;
  SubjectOffsets obs_offsets_;
  TimesMin obs_start_min_;
  TimesMin obs_end_min_;
};

/// The shards of a split, in order.
class SplitArrays {
 public:
  explicit SplitArrays(const py::typing::List<ShardArrays>& shards) : first_row_(1, 0) {
    for (const py::handle& shard : shards) {
      shards_.push_back(shard.cast<ShardArrays>());
      const auto n = static_cast<std::int64_t>(shards_.back().spans().offsets.size()) - 1;
      first_row_.push_back(first_row_.back() + n);
    }
  }

  SplitSpans spans() const {
    SplitSpans split{{}, first_row_};
    for (const ShardArrays& shard : shards_) split.shards.push_back(shard.spans());
    return split;
  }

 private:
  std::vector<ShardArrays> shards_;
  std::vector<std::int64_t> first_row_;
};

}  // namespace chronoward::bindings
