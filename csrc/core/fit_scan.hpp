#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/bottom_sample.hpp"
#include "core/fit_times.hpp"

namespace chronoward {

/// Events of whole subjects as `fit` reads them; subject i owns rows offsets[i] .. offsets[i + 1].
struct ScannedEvents {
  std::span<const std::int64_t> offsets, subject_id;  // of subjects
  std::span<const std::uint8_t> is_counted;           // of subjects
  std::span<const std::int64_t> since_us;             // of subjects: start of observation
  std::span<const std::int32_t> key, text;            // of rows; text -1 is none
  std::span<const float> value;                       // NaN for none
  EventTimes times;
};

/// Events and distinct subjects, by key.
struct KeyCounts {
  std::vector<std::int64_t> n_events, n_subjects;
};

/// Subjects who have a text with a key.
struct TextCounts {
  std::vector<std::int32_t> key, text;
  std::vector<std::int64_t> n_subjects;
};

/// Counts and samples of the subjects that are counted, over any number of batches.
class FitScan {
 public:
  /// @param folder where sampled values lie (`BottomSample`).
  FitScan(std::size_t sample_size, const std::string& folder)
      : values_(sample_size, folder), times_(sample_size) {}

  /// @param n_keys all keys of the batch are below it; it never falls.
  /// @throws std::invalid_argument columns that do not fit each other, or a key out of range.
  void add(const ScannedEvents& events, std::size_t n_keys);

  const KeyCounts& keys() const { return keys_; }
  TextCounts texts() const;                   // ascending by key and text
  BottomSample& values() { return values_; }  // groups by key
  TimeScan& times() { return times_; }

 private:
  struct OfPair {
    std::int64_t n_subjects = 0, last_subject = 0;
  };
  void add_subject(const ScannedEvents& events, std::size_t subject);

  KeyCounts keys_;
  std::vector<std::int64_t> last_subject_;  // by key: ordinal of the subject that had it last
  std::unordered_map<std::uint64_t, OfPair> texts_;  // by key and text
  BottomSample values_;
  TimeScan times_;
  std::int64_t ordinal_ = 0;  // of the subject that is looked at, from 1
};

}  // namespace chronoward
