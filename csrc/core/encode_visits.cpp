// The part of SubjectEncoder that knows visits: order, linking, details, moments.
#include <algorithm>
#include <tuple>

#include "core/encode_subject.hpp"

namespace chronoward {
namespace {

std::size_t at(std::int32_t index) { return static_cast<std::size_t>(index); }
std::size_t at(std::int64_t index) { return static_cast<std::size_t>(index); }

}  // namespace

std::int32_t SubjectEncoder::last_event_of(std::int64_t visit_id) {
  std::int32_t last = 0;
  if (visit_id == kNullUs) return last;
  for (const std::int64_t row : item_rows_) {
    if (e_.visit_id[at(row)] == visit_id) {
      last = std::max(last, minute_uncounted(e_.available_us[at(row)]));
    }
  }
  return last;
}

bool SubjectEncoder::is_told(std::int64_t row) const {
  const KeyFacts& key = key_of(row);
  if (key.entry < 0 || static_cast<Role>(e_.role[at(row)]) != Role::kCode) return false;
  return key.sex == 0 || sex_ == 0 || key.sex == sex_;
}

void SubjectEncoder::find_told_visits() {
  told_visits_.clear();
  for (const std::int64_t row : item_rows_) {
    const std::int64_t id = e_.visit_id[at(row)];
    if (id != kNullUs && is_told(row)) told_visits_.push_back(id);
  }
  std::sort(told_visits_.begin(), told_visits_.end());
}

void SubjectEncoder::find_visits() {
  visits_.clear();
  if (t_.preset == Preset::kCehr) find_told_visits();
  for (const std::int64_t row : visit_rows_) {
    Visit visit{};
    visit.id = e_.visit_id[at(row)];
    visit.start = minute(e_.available_us[at(row)]);
    const std::int64_t end = e_.end_us[at(row)];
    visit.end = end == kNullUs ? last_event_of(visit.id) : minute(end);
    visit.event = event_minute(row, visit.start, visit.start);
    visit.entry = key_of(row).entry;
    visit.is_exact = static_cast<KeyMatch>(key_of(row).match) != KeyMatch::kRolledUp;
    visits_.push_back(visit);
  }
  std::stable_sort(visits_.begin(), visits_.end(), [](const Visit& a, const Visit& b) {
    return std::tie(a.start, a.id, a.end, a.entry, a.event) <
           std::tie(b.start, b.id, b.end, b.entry, b.event);
  });
  visit_index_.clear();
  std::size_t kept = 0;
  std::int32_t before = 0;
  for (std::size_t i = 0; i < visits_.size(); ++i) {
    Visit visit = visits_[i];
    // ids nearly always ascend with the starts: look at the last one before searching
    const bool may_repeat =
        visit.id != kNullUs && !visit_index_.empty() && visit.id <= visit_index_.back().first;
    if (may_repeat && std::any_of(visit_index_.begin(), visit_index_.end(),
                                  [&](const auto& v) { return v.first == visit.id; })) {
      count(EncodeRule::kDuplicateVisit);
      continue;
    }
    const bool is_after_death = death_min_ >= 0 && visit.start > death_min_;
    const bool is_empty = t_.preset == Preset::kCehr &&
                          !std::binary_search(told_visits_.begin(), told_visits_.end(), visit.id);
    if (visit.id != kNullUs) {
      const bool is_out = is_after_death || is_empty;
      visit_index_.emplace_back(visit.id, is_out ? -1 : static_cast<std::int32_t>(kept));
      if (may_repeat) std::sort(visit_index_.begin(), visit_index_.end());
    }
    if (is_after_death) {
      count(EncodeRule::kAfterDeath);
      continue;
    }
    if (is_empty) {
      count(EncodeRule::kEmptyVisit);
      continue;
    }
    if (visit.start < before) count(EncodeRule::kVisitOverlap);
    visit.start = std::max(visit.start, before);
    if (death_min_ >= 0) visit.end = std::min(visit.end, death_min_);
    visit.end = std::max(visit.end, visit.start);
    before = visit.end;
    const std::int32_t type = t_.entry_plain[at(visit.entry)];
    visit.is_flat =
        static_cast<TokenClass>(t_.token_class[at(type)]) == TokenClass::flat_visit_type;
    visits_[kept++] = visit;
  }
  visits_.resize(kept);
}

std::int32_t SubjectEncoder::visit_of(std::int64_t visit_id) {
  if (visit_id == cached_id_) return cached_visit_;
  cached_id_ = visit_id;
  cached_visit_ = -1;
  if (visit_id != kNullUs) {
    const auto found =
        std::lower_bound(visit_index_.begin(), visit_index_.end(), visit_id,
                         [](const auto& visit, std::int64_t id) { return visit.first < id; });
    if (found != visit_index_.end() && found->first == visit_id) cached_visit_ = found->second;
  }
  return cached_visit_;
}

void SubjectEncoder::fill_visits() {
  details_.clear();
  discharges_.clear();
  cached_id_ = kNullUs;
  cached_visit_ = -1;
  for (const std::int64_t row : item_rows_) {
    CodeTokens found{};
    if (!code_tokens(row, found)) continue;
    const std::int32_t v = visit_of(e_.visit_id[at(row)]);
    if (v < 0) {
      count(EncodeRule::kWithoutVisit);
      continue;
    }
    const Visit& visit = visits_[at(v)];
    const std::int32_t m = minute(e_.available_us[at(row)]);
    const std::int32_t clock = std::min(std::max(m, visit.start), visit.end);
    if (clock != m) count(EncodeRule::kClampedToVisit);
    const std::int32_t rank = rank_of(found.token);
    const auto role = static_cast<Role>(e_.role[at(row)]);
    if (role == Role::kDischarge) {
      discharges_.emplace_back(v, found.token);
    } else if (role == Role::kDetail) {
      const std::int64_t end_us = e_.end_us[at(row)];
      const std::int32_t end = end_us == kNullUs ? visit.end : minute(end_us);
      details_.push_back({v, clock, std::min(std::max(end, clock), visit.end), rank, found.token});
    } else {
      const std::int32_t event = event_minute(row, clock, m);
      push_item({v, moment_of(clock, visit.is_flat), t_.order_by_time ? event : 0, rank,
                 value_rank_of(found), event, clock, found.token, found.value_token, found.entry});
    }
  }
  std::sort(details_.begin(), details_.end());
  std::stable_sort(discharges_.begin(), discharges_.end(), [this](const auto& a, const auto& b) {
    return std::pair(a.first, rank_of(a.second)) < std::pair(b.first, rank_of(b.second));
  });
}

void SubjectEncoder::collect_moments() {
  for (const std::int64_t row : item_rows_) {
    CodeTokens found{};
    if (!code_tokens(row, found)) continue;
    const std::int32_t m = minute(e_.available_us[at(row)]);
    const std::int32_t clock = death_min_ < 0 ? m : std::min(m, death_min_);
    if (clock != m) count(EncodeRule::kAfterDeath);
    const std::int32_t event = event_minute(row, clock, m);
    push_item({0, clock, t_.order_by_time ? event : 0, rank_of(found.token), value_rank_of(found),
               event, clock, found.token, found.value_token, found.entry});
  }
}

void SubjectEncoder::make_marks(std::size_t visit, std::size_t& detail) {
  marks_.clear();
  const auto is_ours = [&](std::size_t i) {
    return i < details_.size() && at(details_[i].visit) == visit;
  };
  while (is_ours(detail)) {
    const std::int32_t start = details_[detail].start;
    std::size_t end = detail + 1;
    while (is_ours(end) && details_[end].start == start) ++end;
    const Detail last = details_[end - 1];
    const bool takes_time = last.end > start;
    // the last-ending one, however often it occurs, is the one that takes time
    std::vector<std::pair<std::int32_t, std::int32_t>> momentary;  // (rank, token)
    for (std::size_t i = detail; i < end; ++i) {
      if (!(takes_time && details_[i] == last)) {
        momentary.emplace_back(details_[i].rank, details_[i].token);
      }
    }
    std::sort(momentary.begin(), momentary.end());
    momentary.erase(std::unique(momentary.begin(), momentary.end()), momentary.end());
    for (const auto& [rank, token] : momentary) {
      marks_.push_back({start, token});
      marks_.push_back({start, t_.detail_end});
    }
    detail = end;
    if (takes_time) {
      const std::int32_t until = is_ours(end) ? std::min(last.end, details_[end].start) : last.end;
      marks_.push_back({start, last.token});
      marks_.push_back({until, t_.detail_end});
    }
  }
}

void SubjectEncoder::put_visit(std::size_t v, std::size_t& item, std::size_t& detail) {
  Visit& visit = visits_[v];
  if (!visit.is_exact) count(EncodeRule::kRolledUp);
  std::size_t last_item = item;
  while (last_item < items_.size() && at(items_[last_item].visit) == v) ++last_item;
  if (visit.is_flat) {  // no time inside: all of it is known when its last event is
    visit.end = visit.start;
    for (std::size_t i = item; i < last_item; ++i) visit.end = std::max(visit.end, items_[i].clock);
  }
  make_marks(v, detail);
  const std::int32_t end_moment = moment_of(visit.end, visit.is_flat);
  std::int32_t moment = moment_of(visit.start, visit.is_flat);
  std::int32_t now = -1;
  std::size_t mark = 0;
  while (true) {
    std::int32_t clock = now < 0 ? visit.start : now;
    std::size_t next = item, next_mark = mark;
    for (; next < last_item && items_[next].moment == moment; ++next) {
      clock = std::max(clock, items_[next].clock);
    }
    for (; next_mark < marks_.size() && moment_of(marks_[next_mark].clock, false) == moment;
         ++next_mark) {
      clock = std::max(clock, marks_[next_mark].clock);
    }
    if (moment == end_moment) clock = std::max(clock, visit.end);
    if (now < 0) {
      put_wait(clock);
      put(t_.visit_start, clock, visit.event);
      put(t_.entry_plain[at(visit.entry)], clock, visit.event);
      if (t_.use_hours && !visit.is_flat && clock % kDayMin >= kHourMin) {
        put(t_.hour_token[at(clock % kDayMin / kHourMin)], clock, clock);
      }
    } else if (clock > now) {
      put_inner(now, clock);
    }
    for (; mark < next_mark; ++mark) put(marks_[mark].token, clock, clock);
    put_items(item, next, clock);
    item = next;
    now = clock;
    if (moment == end_moment) break;
    moment = end_moment;
    if (item < last_item) moment = std::min(moment, items_[item].moment);
    if (mark < marks_.size()) moment = std::min(moment, moment_of(marks_[mark].clock, false));
  }
  put_discharge(v, now);
  put(t_.visit_end, now, now);
  before_ = now;
}

void SubjectEncoder::put_discharge(std::size_t v, std::int32_t clock) {
  while (next_discharge_ < discharges_.size() && at(discharges_[next_discharge_].first) < v) {
    ++next_discharge_;
  }
  const bool has_one =
      next_discharge_ < discharges_.size() && at(discharges_[next_discharge_].first) == v;
  if (visits_[v].is_flat || !(has_one || t_.preset == Preset::kCehr)) return;
  put(has_one ? discharges_[next_discharge_].second : t_.default_discharge, clock, clock);
}

}  // namespace chronoward
