#include "core/mend_omop.hpp"

#include <algorithm>
#include <limits>

namespace chronoward {
namespace {

std::size_t at(std::int32_t index) { return static_cast<std::size_t>(index); }

}  // namespace

void OmopMender::judge(std::size_t begin, std::size_t end, const Life& life) {
  begin_ = begin;
  life_ = life;
  judge_.judge(begin, end, life, judged_);
}

/// The concept that names a record's events, kNone where its source value does.
std::int32_t OmopMender::used_concept(std::size_t row, std::uint32_t& changes) const {
  const auto known = [&](std::span<const std::int32_t> column) {
    const std::int32_t id = OmopRows::number_at(column, row);
    return id == kNone || t_.id_value[at(id)] == 0 ? kNone : id;
  };
  const std::int32_t standard = known(rows_.concept_id), source = known(rows_.source_concept);
  std::int32_t used = standard == kNone ? source : standard;
  bool is_unmapped = standard == kNone;
  if (rules_.uses_source_concept) {
    used = source;
    if (source == kNone && OmopRows::number_at(rows_.source_value, row) == kNone) used = standard;
    is_unmapped = source == kNone;
  }
  if (is_unmapped) changes |= bit_of(RecordChange::kUnmapped);
  if (used != kNone && t_.id_value[at(used)] > rules_.local_concept) {
    changes |= bit_of(RecordChange::kLocalConcept);
  }
  return used;
}

/// Whether a diagnosis or DRG is known when its stay is billed.
bool OmopMender::is_billed(std::size_t row) const {
  const auto has = [&](std::span<const std::int32_t> column, IdFlag flag) {
    const std::int32_t id = OmopRows::number_at(column, row);
    return id != kNone && (t_.id_flags[at(id)] & flag) != 0;
  };
  if (rows_.table[row] == t_.condition_table && has(rows_.type, kBillingId) &&
      !has(rows_.status, kAdmissionId)) {
    return true;
  }
  return has(rows_.concept_id, kDrgId) || has(rows_.source_concept, kDrgId);
}

/// When record i could be known (CLINICAL, "Availability"), with what that changes.
std::int64_t OmopMender::available(std::size_t i, const Link& link, const VisitsOfSubject& visits) {
  JudgedRecord& record = judged_[i];
  const std::int64_t time = record.time;
  const std::int64_t latest = record.is_date ? time + kDayEndUs : time;
  std::int64_t known = latest;
  if (link.how < LinkHow::kArtificial) {
    const MendedVisit& visit = visits.visits[at(link.visit)];
    if (is_billed(begin_ + i)) {
      known = std::max(time, visit.finish);
      if (time < visit.finish) record.changes |= bit_of(RecordChange::kStampedDiagnosis);
    } else if (record.is_date && visit.is_timed) {
      known = visit.finish;
      record.changes |= bit_of(RecordChange::kDateOnlyInVisit);
    } else {
      known = record.is_date ? std::max(visit.start, std::min(latest, visit.finish))
                             : std::min(std::max(time, visit.start), visit.finish);
      if (record.is_date) record.changes |= bit_of(RecordChange::kDateOnlyDay);
    }
  } else if (record.is_date) {
    record.changes |= bit_of(RecordChange::kDateOnlyDay);
  }
  return life_.death == kNullUs ? known : std::min(known, life_.death);
}

/// Notes that a concept names events of a table.
void OmopMender::mark(std::uint16_t table, std::int32_t id) {
  const std::size_t n = t_.id_value.size(), place = table * n + at(id);
  if (place >= is_named_.size()) is_named_.resize((table + std::size_t{1}) * n);
  is_named_[place] = 1;
}

/// The events of record i, one an ingredient, with the end of a drug where that is one.
void OmopMender::put_record(std::size_t i, const MendedEvent& base, std::vector<MendedEvent>& out) {
  const std::size_t row = begin_ + i;
  JudgedRecord& record = judged_[i];
  const bool is_drug = base.table == t_.drug_table;
  MendedEvent event = base;
  event.time = record.time;
  event.row = static_cast<std::int32_t>(i);
  if (record.has_number) event.number = record.number;
  event.unit = OmopRows::number_at(rows_.unit, row);
  event.text = record.text;
  if (record.value_concept != kNone) event.text = t_.id_text[at(record.value_concept)];
  const std::int32_t type = OmopRows::number_at(rows_.type, row);
  if (is_drug && !t_.drug_text.empty() && type != kNone && t_.drug_text[at(type)] != kNone) {
    event.text = t_.drug_text[at(type)];
  }
  const auto put = [&](std::int32_t code) {
    event.code = code;
    out.push_back(event);
    if (!is_drug || !rules_.has_drug_stop || record.end_time == kNullUs) return;
    MendedEvent& stop = out.emplace_back(event);
    stop.time = record.end_time;
    stop.available = std::max(event.available, record.end_time);
    stop.number = std::numeric_limits<double>::quiet_NaN();
    stop.unit = kNone;
    stop.text = t_.stop_text;
  };
  const std::int32_t used = used_concept(row, record.changes);
  if (used == kNone) {
    const std::int32_t value = OmopRows::number_at(rows_.source_value, row);
    return put(value == kNone ? t_.no_code : t_.source_code[at(value)]);
  }
  const auto first = static_cast<std::size_t>(t_.part_offsets[at(used)]);
  const auto last = static_cast<std::size_t>(t_.part_offsets[at(used) + 1]);
  if (!is_drug || first == last) {
    mark(base.table, used);
    return put(t_.id_code[at(used)]);
  }
  record.changes |=
      bit_of(last - first > 1 ? RecordChange::kMultiIngredient : RecordChange::kIngredientRollup);
  for (std::size_t k = first; k < last; ++k) {
    mark(base.table, t_.part_id[k]);
    put(t_.id_code[at(t_.part_id[k])]);
  }
}

void OmopMender::put_values(std::vector<MendedEvent>& out) {
  for (std::size_t i = 0; i < judged_.size(); ++i) {
    const JudgedRecord& record = judged_[i];
    const bool has_value =
        record.has_number || record.text != kNone || record.value_concept != kNone;
    if (record.gone != RecordRemoval::kKept || !has_value) continue;
    MendedEvent base;
    base.table = rows_.table[begin_ + i];
    base.available = record.time;
    put_record(i, base, out);
  }
}

void OmopMender::put_linked(const VisitsOfSubject& visits, std::vector<MendedEvent>& out) {
  to_link_.clear();
  records_.clear();
  artificial_.clear();
  for (std::size_t i = 0; i < judged_.size(); ++i) {
    const JudgedRecord& record = judged_[i];
    if (record.gone != RecordRemoval::kKept) continue;
    std::int32_t own = kNoVisit;
    const std::int64_t ref = OmopRows::us_at(rows_.visit_ref, begin_ + i);
    if (ref != kNullUs) {
      const auto found = std::lower_bound(visits.ref.begin(), visits.ref.end(), ref);
      if (found != visits.ref.end() && *found == ref) {
        own = visits.became[static_cast<std::size_t>(found - visits.ref.begin())];
      }
    }
    to_link_.push_back(static_cast<std::int32_t>(i));
    records_.push_back({record.time, own, record.is_date});
  }
  if (has_visits_) {
    linker_.link(visits.visits, records_, life_.death, links_, artificial_);
  } else {
    links_.assign(records_.size(), {});
  }
  visit_number_ = number_visits(visits.visits, artificial_);
  for (std::size_t k = 0; k < to_link_.size(); ++k) {
    const std::size_t i = at(to_link_[k]);
    const Link link = links_[k];
    std::uint32_t& changes = judged_[i].changes;
    if (link.how == LinkHow::kClamped) changes |= bit_of(RecordChange::kClampedToVisit);
    if (link.how == LinkHow::kRelinked) changes |= bit_of(RecordChange::kRelinkedByDate);
    if (link.how == LinkHow::kArtificial) changes |= bit_of(RecordChange::kArtificialVisit);
    MendedEvent base;
    base.table = rows_.table[begin_ + i];
    base.available = available(i, link, visits);
    if (link.visit != kNoVisit) base.visit_id = visit_number_[at(link.visit)];
    put_record(i, base, out);
  }
  for (std::size_t a = 0; a < artificial_.size(); ++a) {
    MendedEvent& event = out.emplace_back();
    event.time = event.available = artificial_[a].start;
    event.end_time = artificial_[a].finish;
    event.visit_id = visit_number_[visits.visits.size() + a];
    event.code = t_.artificial_code;
    event.table = t_.visit_table;
    event.role = Role::kVisit;
  }
}

}  // namespace chronoward
