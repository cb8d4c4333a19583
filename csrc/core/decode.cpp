#include "core/decode.hpp"

#include <algorithm>
#include <utility>

#include "core/encode.hpp"
#include "core/parallel.hpp"
#include "core/token_class.hpp"

namespace chronoward {
namespace {

constexpr std::int32_t kNone = -1;
constexpr std::size_t kNoRow = static_cast<std::size_t>(-1);
constexpr std::int64_t kPromptTokens = 4;

/// Decodes one timeline after another; the Python twin is decode.py's `_decode_timeline`.
class Decoder {
 public:
  Decoder(const DecodeTables& tables, const TimelineView& timelines, DecodedRows& out)
      : t_(tables), v_(timelines), out_(out) {}

  void decode(std::size_t subject) {
    const std::int64_t begin = v_.offsets[subject], end = v_.offsets[subject + 1];
    subject_ = static_cast<std::int64_t>(subject);
    if (starts_at_birth(begin, end)) put(Role::kBirth, kNone, begin, 0, 0, kNone, kNone);
    open_visit_ = open_detail_ = kNoRow;
    visit_ = kNone;
    start_ = 0;
    std::int32_t clock = 0;
    for (std::int64_t p = begin; p < end; ++p) {
      clock = v_.time_min[static_cast<std::size_t>(p)];
      token(p, clock, v_.event_min[static_cast<std::size_t>(p)]);
    }
    // a timeline that stops inside a visit has it ended at its last clock
    if (open_visit_ != kNoRow) out_.end_min[open_visit_] = clock;
    if (open_detail_ != kNoRow) out_.end_min[open_detail_] = clock;
  }

 private:
  bool starts_at_birth(std::int64_t begin, std::int64_t end) const {
    if (!t_.has_age) return true;
    const std::int64_t last = std::min(end, begin + kPromptTokens);
    for (std::int64_t p = begin; p < last; ++p) {
      if (v_.token_id[static_cast<std::size_t>(p)] == t_.age_unknown) return false;
    }
    return begin < end;
  }

  void put(Role role, std::int32_t entry, std::int64_t position, std::int32_t time,
           std::int32_t available, std::int32_t end, std::int32_t visit) {
    out_.subject.push_back(subject_);
    out_.role.push_back(static_cast<std::uint8_t>(role));
    out_.entry.push_back(entry);
    out_.value.push_back(kNone);
    out_.position.push_back(position);
    out_.time_min.push_back(time);
    out_.available_min.push_back(available);
    out_.end_min.push_back(end);
    out_.visit.push_back(visit);
  }

  void token(std::int64_t p, std::int32_t clock, std::int32_t event) {
    const std::int32_t id = v_.token_id[static_cast<std::size_t>(p)];
    const auto at = static_cast<std::size_t>(id);
    const std::int32_t entry = t_.token_entry[at];
    const auto kind = static_cast<TokenClass>(t_.token_class[at]);
    switch (kind) {
      case TokenClass::sex:
      case TokenClass::race:
        put(kind == TokenClass::sex ? Role::kSex : Role::kRace, entry, p, kNone, kNone, kNone,
            kNone);
        break;
      case TokenClass::visit_start:
        start_ = event;
        break;
      case TokenClass::visit_type:
      case TokenClass::flat_visit_type:
        ++visit_;
        put(Role::kVisit, entry, p, start_, clock, clock, visit_);
        open_visit_ = out_.role.size() - 1;
        break;
      case TokenClass::detail_start:
        put(Role::kDetail, entry, p, event, clock, clock, visit_);
        open_detail_ = out_.role.size() - 1;
        break;
      case TokenClass::detail_end:
        if (open_detail_ != kNoRow) out_.end_min[open_detail_] = clock;
        open_detail_ = kNoRow;
        break;
      case TokenClass::visit_end:
        if (open_visit_ != kNoRow) out_.end_min[open_visit_] = clock;
        open_visit_ = kNoRow;
        break;
      case TokenClass::code:
      case TokenClass::discharge:
      case TokenClass::death: {
        const Role role = kind == TokenClass::code        ? Role::kCode
                          : kind == TokenClass::discharge ? Role::kDischarge
                                                          : Role::kDeath;
        put(role, entry, p, event, clock, kNone, open_visit_ != kNoRow ? visit_ : kNone);
        if (t_.has_value[at] != 0) out_.value.back() = id;
        break;
      }
      case TokenClass::value:
        if (!out_.value.empty()) {
          out_.value.back() = id;
          out_.position.back() = p;
        }
        break;
      default:
        break;
    }
  }

  const DecodeTables& t_;
  const TimelineView& v_;
  DecodedRows& out_;
  std::int64_t subject_ = 0;
  std::size_t open_visit_ = kNoRow, open_detail_ = kNoRow;
  std::int32_t visit_ = kNone, start_ = 0;
};

template <typename T>
void append(std::vector<T>& to, std::vector<T>& from) {
  if (to.empty()) {
    to = std::move(from);
  } else {
    to.insert(to.end(), from.begin(), from.end());
  }
}

}  // namespace

DecodedRows decode(const DecodeTables& tables, const TimelineView& timelines, int n_threads) {
  std::vector<DecodedRows> parts(static_cast<std::size_t>(std::max(1, n_threads)));
  parallel_for(timelines.offsets.size() - 1, n_threads,
               [&](std::size_t begin, std::size_t end, std::size_t range) {
                 Decoder decoder(tables, timelines, parts[range]);
                 for (std::size_t i = begin; i < end; ++i) decoder.decode(i);
               });
  DecodedRows joined;
  for (DecodedRows& part : parts) {
    append(joined.subject, part.subject);
    append(joined.role, part.role);
    append(joined.entry, part.entry);
    append(joined.value, part.value);
    append(joined.position, part.position);
    append(joined.time_min, part.time_min);
    append(joined.available_min, part.available_min);
    append(joined.end_min, part.end_min);
    append(joined.visit, part.visit);
  }
  return joined;
}

}  // namespace chronoward
