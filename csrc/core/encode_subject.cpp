#include "core/encode_subject.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <tuple>

#include "core/errors.hpp"

namespace chronoward {
namespace {

constexpr std::int32_t kNone = -1;

std::size_t at(std::int32_t index) { return static_cast<std::size_t>(index); }
std::size_t at(std::int64_t index) { return static_cast<std::size_t>(index); }

}  // namespace

SubjectEncoder::Buckets::Buckets(const std::vector<std::int32_t>& edges) : edges_(edges) {
  for (std::size_t cell = 0; cell < last_.size(); ++cell) {
    const auto least =
        static_cast<std::int64_t>(cell < 8 ? cell : (8 + cell % 8) << (cell / 8 - 1));
    const auto above = std::upper_bound(edges.begin(), edges.end(), least);
    last_[cell] = std::max(static_cast<std::int32_t>(above - edges.begin()) - 1, 0);
  }
}

std::size_t SubjectEncoder::Buckets::of(std::int32_t x) const {
  const auto minutes = static_cast<std::uint32_t>(x);
  const auto bits = static_cast<std::size_t>(std::bit_width(minutes));
  const std::size_t cell = bits < 4 ? minutes : (bits - 3) * 8 + (minutes >> (bits - 4) & 7U);
  auto found = static_cast<std::size_t>(last_[cell]);
  while (found + 1 < edges_.size() && edges_[found + 1] <= x) ++found;
  return found;
}

EncodeFacts::EncodeFacts(const EncodeTables& t, const EventView& events)
    : key(events.key_entry.size()), counted(t.token_class.size()) {
  std::array<std::int32_t, 256> last_rank;  // by class
  last_rank.fill(kNone);
  for (std::size_t i = 0; i < counted.size(); ++i) {
    const bool is_death = t.token_class[i] == static_cast<std::uint8_t>(TokenClass::death);
    counted[i] = is_death ? kNone : t.base_code[i];
    std::int32_t& last = last_rank[t.token_class[i]];
    ids_are_ranks = ids_are_ranks && t.token_rank[i] > last;
    last = t.token_rank[i];
  }
  for (std::size_t i = 0; i < key.size(); ++i) {
    key[i] = {.entry = events.key_entry[i],
              .plain = kNone,
              .bin_token = kNone,
              .n_bins = 0,
              .first_edge = 0,
              .n_edges = 0,
              .match = events.key_exact[i],
              .sex = 0};
    if (key[i].entry < 0) continue;
    const std::size_t entry = at(key[i].entry);
    key[i].plain = t.entry_plain[entry];
    key[i].bin_token = t.entry_bin_token[entry];
    key[i].n_bins = t.entry_n_bins[entry];
    key[i].first_edge = t.entry_edge_offset[entry];
    key[i].n_edges = static_cast<std::int32_t>(t.entry_edge_offset[entry + 1] - key[i].first_edge);
    key[i].sex = t.entry_sex[entry];
  }
}

SubjectEncoder::SubjectEncoder(const EncodeTables& tables, const EventView& events,
                               const EncodeFacts& facts, TokenTimelines& out)
    : t_(tables),
      e_(events),
      facts_(facts),
      out_(out),
      seen_(tables.entry_plain.size()),
      gaps_(tables.gap_lo),
      inner_(tables.inner_lo),
      ages_(tables.age_edge_min) {}

const KeyFacts& SubjectEncoder::key_of(std::int64_t row) const {
  return facts_.key[at(e_.key[at(row)])];
}

std::int32_t SubjectEncoder::rank_of(std::int32_t token) const {
  return facts_.ids_are_ranks ? token : t_.token_rank[at(token)];
}

std::int32_t SubjectEncoder::moment_of(std::int32_t clock, bool is_flat) const {
  if (is_flat) return 0;
  return t_.resolution_min == 1 ? clock : clock / t_.resolution_min;
}

std::int32_t SubjectEncoder::minute_uncounted(std::int64_t us) const {
  const std::int64_t d = us - origin_us_;
  std::int64_t m = ceil_div(d, kUsPerMin);
  if (t_.is_calendar) m = std::min(m, floor_div(d, kUsPerDay) * kDayMin + kDayMin - 1);
  return static_cast<std::int32_t>(
      std::clamp<std::int64_t>(m, 0, static_cast<std::int64_t>(t_.max_clock_min)));
}

std::int32_t SubjectEncoder::minute(std::int64_t us) {
  const std::int64_t d = us - origin_us_;
  std::int64_t m = ceil_div(d, kUsPerMin);
  if (t_.is_calendar) m = std::min(m, floor_div(d, kUsPerDay) * kDayMin + kDayMin - 1);
  if (m < 0) {
    count(EncodeRule::kClampedToOrigin);
    return 0;
  }
  if (m > t_.max_clock_min) {
    count(EncodeRule::kClampedToCap);
    return t_.max_clock_min;
  }
  return static_cast<std::int32_t>(m);
}

std::int32_t SubjectEncoder::event_minute(std::int64_t row, std::int32_t clock,
                                          std::int32_t available) const {
  const std::int64_t us = e_.time_us[at(row)];
  if (us == e_.available_us[at(row)]) return std::min(clock, available);
  return us == kNullUs ? clock : std::min(clock, minute_uncounted(us));
}

void SubjectEncoder::put(std::int32_t token, std::int32_t clock, std::int32_t event) {
  if (token < 0) throw FormatError("the tokenizer lacks a token that its grammar needs");
  if (token == t_.visit_start && t_.preset != Preset::kEvents) last_visit_ = ++visit_;
  const std::int32_t counted = facts_.counted[at(token)];
  if (counted >= 0) return put_code(counted, token, clock, event);
  tokens_.push_back({token, clock, event, 0});
}

void SubjectEncoder::put_code(std::int32_t entry, std::int32_t token, std::int32_t clock,
                              std::int32_t event) {
  std::int32_t visit = visit_;
  if (t_.preset == Preset::kEvents) {
    visit = first_visit_ + clock / kDayMin;
    last_visit_ = std::max(last_visit_, visit);
  }
  Seen& seen = seen_[at(entry)];
  if (seen.last < first_visit_) seen = {kNone, 0};  // of an earlier subject
  const std::int32_t prior = seen.n - static_cast<std::int32_t>(seen.last == visit);
  if (seen.last != visit) {
    seen.last = visit;
    ++seen.n;
  }
  tokens_.push_back({token, clock, event, static_cast<std::uint8_t>(std::min(prior, 255))});
}

void SubjectEncoder::forget_seen() {
  first_visit_ = last_visit_ + 1;
  constexpr std::int32_t kRoom = 1 << 30;  // no subject has as many visits, or days
  if (first_visit_ >= kRoom) {
    std::fill(seen_.begin(), seen_.end(), Seen{});
    first_visit_ = 0;
  }
  visit_ = last_visit_ = first_visit_;
}

void SubjectEncoder::scan(std::int64_t begin, std::int64_t end) {
  visit_rows_.clear();
  item_rows_.clear();
  death_rows_.clear();
  has_birth_ = false;
  sex_token_ = race_token_ = kNone;
  first_us_ = std::numeric_limits<std::int64_t>::max();
  const auto keep_least = [](std::int32_t& kept, std::int32_t token) {
    if (kept < 0 || token < kept) kept = token;
  };
  constexpr std::int64_t kAhead = 16;
  for (std::int64_t row = begin; row < end; ++row) {
    if (row + kAhead < end) __builtin_prefetch(&key_of(row + kAhead));
    const std::int32_t entry = key_of(row).entry;
    if (entry == kNotInPreset) {
      count(EncodeRule::kNotInPreset);
      continue;
    }
    const auto role = static_cast<Role>(e_.role[at(row)]);
    if (role < Role::kVisit) {
      const std::int64_t us = e_.time_us[at(row)];
      if (role == Role::kBirth && us != kNullUs) {
        birth_us_ = has_birth_ ? std::min(birth_us_, us) : us;
        has_birth_ = true;
      } else if (role == Role::kSex && entry >= 0) {
        keep_least(sex_token_, t_.entry_plain[at(entry)]);
      } else if (role == Role::kRace && entry >= 0) {
        keep_least(race_token_, t_.entry_plain[at(entry)]);
      }
      continue;
    }
    const std::int64_t us = e_.available_us[at(row)];
    if (us == kNullUs) {
      count(EncodeRule::kWithoutTime);
      continue;
    }
    first_us_ = std::min(first_us_, us);
    if (role == Role::kDeath) {
      death_rows_.push_back(row);
    } else if (role == Role::kVisit && t_.preset != Preset::kEvents) {
      visit_rows_.push_back(row);
    } else {
      item_rows_.push_back(row);
    }
  }
  if (sex_token_ < 0) sex_token_ = t_.default_sex;
  if (race_token_ < 0) race_token_ = t_.default_race;
}

bool SubjectEncoder::code_tokens(std::int64_t row, CodeTokens& found) {
  const KeyFacts& key = key_of(row);
  const std::int32_t entry = key.entry;
  if (entry < 0) {
    count(EncodeRule::kUnknownCode);
    return false;
  }
  const auto match = static_cast<KeyMatch>(key.match);
  const bool is_exact = match == KeyMatch::kExact;
  if (match == KeyMatch::kRolledUp) count(EncodeRule::kRolledUp);
  if (match == KeyMatch::kPlaced) count(EncodeRule::kPlaced);
  if (key.sex != 0 && sex_ != 0 && key.sex != sex_) {
    count(EncodeRule::kSexConflict);
    return false;
  }
  found = {key.plain, kNone, entry};
  const float value = e_.value[at(row)];
  if (std::isinf(value)) count(EncodeRule::kInfiniteValue);
  const std::int32_t text = e_.text[at(row)];
  if (is_exact && key.n_bins > 0 && std::isfinite(value)) {
    const float* edges = t_.edges.data() + key.first_edge;
    std::int32_t bin = 0;
    for (std::int32_t i = 0; i < key.n_edges; ++i) {
      bin += static_cast<std::int32_t>(value >= edges[i]);
    }
    found.value_token = key.bin_token + bin;
  } else if (is_exact && text >= 0) {
    const std::int32_t number = e_.text_number[at(text)];
    if (number == kNoText) return true;  // values are not part of this vocabulary
    const std::int64_t wanted = (static_cast<std::int64_t>(entry) << 32) | std::max(number, 0);
    const auto place = std::lower_bound(t_.text_key.begin(), t_.text_key.end(), wanted);
    if (number >= 0 && place != t_.text_key.end() && *place == wanted) {
      found.value_token = t_.text_token[static_cast<std::size_t>(place - t_.text_key.begin())];
    } else {
      count(EncodeRule::kUnknownText);
    }
  }
  if (found.value_token >= 0 && !t_.is_split) {
    found.token = found.value_token;
    found.value_token = kNone;
  }
  return true;
}

void SubjectEncoder::push_item(const Item& item) {
  const auto moment = [](const Item& i) { return std::tie(i.visit, i.moment); };
  const auto rest = [](const Item& i) { return std::tie(i.order, i.rank, i.value_rank, i.event); };
  if (is_in_time_ && !items_.empty()) {
    const Item& last = items_.back();
    is_in_time_ = moment(last) <= moment(item);
    if (moment(last) == moment(item) && rest(item) < rest(last)) is_sorted_ = false;
  }
  __builtin_prefetch(&seen_[at(item.entry)], 1);
  items_.push_back(item);
}

void SubjectEncoder::sort_items() {
  if (is_in_time_ && is_sorted_) return;  // what a canonical event table gives, often
  const auto is_before = [](const Item& a, const Item& b) {
    return std::tie(a.visit, a.moment, a.order, a.rank, a.value_rank, a.event, a.clock) <
           std::tie(b.visit, b.moment, b.order, b.rank, b.value_rank, b.event, b.clock);
  };
  if (!is_in_time_) {
    std::sort(items_.begin(), items_.end(), is_before);
    return;
  }
  for (auto begin = items_.begin(), end = begin; begin != items_.end(); begin = end) {
    while (end != items_.end() && end->visit == begin->visit && end->moment == begin->moment) ++end;
    std::sort(begin, end, is_before);
  }
}

void SubjectEncoder::put_items(std::size_t begin, std::size_t end, std::int32_t clock) {
  for (std::size_t i = begin; i < end; ++i) {
    const Item& item = items_[i];
    if (i > begin) {
      const Item& last = items_[i - 1];
      if (std::tie(item.order, item.token, item.value_token) ==
          std::tie(last.order, last.token, last.value_token)) {
        count(EncodeRule::kDuplicateToken);
        continue;
      }
    }
    put_code(item.entry, item.token, clock, item.event);
    if (item.value_token >= 0) put(item.value_token, clock, item.event);
  }
}

void SubjectEncoder::put_gap(std::int32_t before, std::int32_t after) {
  std::int32_t d = after - before;
  if (t_.is_calendar) d = (after / kDayMin - before / kDayMin) * kDayMin;
  if (t_.gap_repeat_token >= 0 && d >= kRepeatMin) {
    const std::int32_t n = (d + kRepeatMin / 2) / kRepeatMin;
    for (std::int32_t i = 1; i < n; ++i) {
      const std::int32_t clock = before + kRepeatMin * i;
      put(t_.gap_repeat_token, clock, clock);
    }
    put(t_.gap_repeat_token, after, after);
    return;
  }
  put(t_.gap_token[gaps_.of(d)], after, after);
}

void SubjectEncoder::put_wait(std::int32_t clock) {
  const std::int32_t waited = clock - watched_from_;
  if (before_ < 0 && watched_from_ >= 0 && waited >= kDayMin &&
      t_.gap_lo[gaps_.of(waited)] >= kDayMin) {
    before_ = prompt_min_ = watched_from_;
  }
  if (before_ >= 0) put_gap(before_, clock);
}

void SubjectEncoder::put_inner(std::int32_t before, std::int32_t after) {
  if (!t_.is_calendar) {
    put(t_.inner_token[inner_.of(after - before)], after, after);
    return;
  }
  const std::int32_t days = after / kDayMin - before / kDayMin;
  if (days > 0) put(t_.inner_token[inner_.of(days * kDayMin)], after, after);
  if (!t_.use_hours) return;
  const std::int32_t from = days > 0 ? 0 : before % kDayMin / kHourMin;
  const std::int32_t hours = after % kDayMin / kHourMin - from;
  if (hours > 0) put(t_.hour_token[at(hours)], after, after);
}

void SubjectEncoder::put_death() {
  const std::int32_t clock = std::max(death_min_, std::max(before_, 0));
  if (t_.preset != Preset::kEvents || clock > before_) put_wait(clock);
  if (t_.preset == Preset::kCehr) put(t_.visit_start, clock, clock);
  put(t_.death, clock, clock);
  if (t_.preset == Preset::kCehr) put(t_.visit_end, clock, clock);
}

void SubjectEncoder::put_moments() {
  for (std::size_t begin = 0; begin < items_.size();) {
    std::size_t end = begin + 1;
    while (end < items_.size() && items_[end].moment == items_[begin].moment) ++end;
    const std::int32_t clock = items_[begin].clock;
    put_wait(clock);
    put_items(begin, end, clock);
    before_ = clock;
    begin = end;
  }
}

void SubjectEncoder::put_prompt() {
  const std::size_t n = t_.prompt_classes.size();
  std::int32_t clock = 0;
  if (prompt_min_ >= 0) {
    clock = prompt_min_;
  } else if (tokens_.size() > n) {
    clock = tokens_[n].clock;
  } else if (has_observation_) {
    clock = out_.obs_start_min[first_observation_];
  }
  for (std::size_t i = 0; i < n; ++i) {
    std::int32_t token = race_token_;
    const auto token_class = static_cast<TokenClass>(t_.prompt_classes[i]);
    if (token_class == TokenClass::year) {
      const std::int64_t us = origin_us_ + clock * kUsPerMin;
      const std::int32_t year = year_of_day(floor_div(us, kUsPerDay));
      const auto last = static_cast<std::int32_t>(t_.year_token.size()) - 1;
      token = t_.year_token[at(std::clamp(year - t_.year_first, 0, last))];
    } else if (token_class == TokenClass::age) {
      token = has_birth_ ? t_.age_token[ages_.of(clock)] : t_.age_unknown;
    } else if (token_class == TokenClass::sex) {
      token = sex_token_;
    }
    tokens_[i] = {token, clock, clock, 0};
  }
  const std::int32_t last = tokens_.size() > n ? tokens_.back().clock : clock;
  put(t_.end_token, last, last);
}

void SubjectEncoder::encode(std::size_t subject) {
  scan(e_.row_offsets[subject], e_.row_offsets[subject + 1]);
  const std::int64_t obs_begin = e_.obs_offsets[subject], obs_end = e_.obs_offsets[subject + 1];
  constexpr std::int64_t kNever = std::numeric_limits<std::int64_t>::max();
  const bool waits = t_.preset != Preset::kCehr;  // timelines begin with observation
  std::int64_t first = has_birth_ ? birth_us_ : first_us_;
  if (!has_birth_ && obs_begin < obs_end && (waits || first_us_ == kNever)) {
    first = std::min(first, e_.obs_start_us[at(obs_begin)]);  // periods ascend
  }
  if (first == kNever) first = 0;
  origin_us_ = floor_div(first, kUsPerDay) * kUsPerDay;
  has_observation_ = obs_begin < obs_end;
  first_observation_ = out_.obs_start_min.size();
  for (std::int64_t i = obs_begin; i < obs_end; ++i) {
    out_.obs_start_min.push_back(minute_uncounted(e_.obs_start_us[at(i)]));
    out_.obs_end_min.push_back(minute_uncounted(e_.obs_end_us[at(i)]));
  }
  death_min_ = kNone;
  for (const std::int64_t row : death_rows_) {
    const std::int32_t m = minute(e_.available_us[at(row)]);
    death_min_ = death_min_ < 0 ? m : std::min(death_min_, m);
  }
  const bool has_sex =
      std::find(t_.prompt_classes.begin(), t_.prompt_classes.end(),
                static_cast<std::uint8_t>(TokenClass::sex)) != t_.prompt_classes.end();
  sex_ = has_sex ? t_.token_sex[at(sex_token_)] : 0;
  forget_seen();
  before_ = prompt_min_ = kNone;
  watched_from_ = has_observation_ && waits ? out_.obs_start_min[first_observation_] : kNone;
  next_discharge_ = 0;
  items_.clear();
  is_in_time_ = is_sorted_ = true;
  // the prompt, filled when its clock is known
  tokens_.resize(t_.prompt_classes.size());
  if (t_.preset == Preset::kEvents) {
    collect_moments();
    sort_items();
    put_moments();
  } else {
    find_visits();
    fill_visits();
    sort_items();
    std::size_t item = 0, detail = 0;
    for (std::size_t v = 0; v < visits_.size(); ++v) put_visit(v, item, detail);
  }
  if (death_min_ >= 0) put_death();
  put_prompt();
  out_.origin_us.push_back(origin_us_);
  keep_tokens();
}

void SubjectEncoder::keep_tokens() {
  const std::size_t first = out_.token_id.size(), n = tokens_.size();
  out_.token_id.resize(first + n);
  out_.time_min.resize(first + n);
  out_.event_min.resize(first + n);
  out_.n_prior.resize(first + n);
  for (std::size_t i = 0; i < n; ++i) {
    out_.token_id[first + i] = tokens_[i].id;
    out_.time_min[first + i] = tokens_[i].clock;
    out_.event_min[first + i] = tokens_[i].event;
    out_.n_prior[first + i] = tokens_[i].n_prior;
  }
  out_.offsets.push_back(static_cast<std::int64_t>(first + n));
}

}  // namespace chronoward
