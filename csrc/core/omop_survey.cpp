#include "core/omop_survey.hpp"

#include <algorithm>
#include <cmath>
#include <map>

namespace chronoward {

std::size_t ValueCounts::Hash::operator()(const Key& key) const {
  const auto word = [](std::int32_t x) { return std::uint64_t{static_cast<std::uint32_t>(x)}; };
  std::uint64_t h = (word(key.code) << 32 | word(key.other)) + word(key.table);
  h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9ULL;
  h = (h ^ (h >> 27)) * 0x94d049bb133111ebULL;
  return h ^ (h >> 31);
}

void ValueCounts::add(const std::vector<MendedEvent>& events, const OmopTables& tables) {
  ++ordinal_;
  for (const MendedEvent& event : events) {
    if (!std::isnan(event.number)) {
      const Key key{event.table, event.code, event.unit};
      if (key != last_unit_) units_.insert(key);
      last_unit_ = key;
    }
    const bool is_free =
        event.text != kNone && tables.is_fixed_text[static_cast<std::size_t>(event.text)] == 0;
    if (!is_free) continue;
    Count& count = texts_[{event.table, event.code, event.text}];
    ++count.n_events;
    if (count.last_subject == ordinal_) continue;
    count.last_subject = ordinal_;
    ++count.n_subjects;
  }
}

void ValueCounts::add_drug_types(std::size_t begin, const std::vector<JudgedRecord>& records,
                                 const OmopRows& rows, const OmopTables& tables) {
  std::int32_t last = kNone;
  for (std::size_t i = 0; i < records.size(); ++i) {
    if (rows.table[begin + i] != tables.drug_table) continue;
    const std::int32_t type = OmopRows::number_at(rows.type, begin + i);
    if (type == last || records[i].gone != RecordRemoval::kKept) continue;
    drug_types_.insert(type);
    last = type;
  }
}

TextCounts ValueCounts::texts(const std::deque<ValueCounts>& parts) {
  std::map<Key, Count> sums;
  for (const ValueCounts& part : parts) {
    for (const auto& [key, count] : part.texts_) {
      sums[key].n_events += count.n_events;
      sums[key].n_subjects += count.n_subjects;
    }
  }
  TextCounts out;
  for (const auto& [key, count] : sums) {
    out.table.push_back(key.table);
    out.code.push_back(key.code);
    out.text.push_back(key.other);
    out.n_events.push_back(count.n_events);
    out.n_subjects.push_back(count.n_subjects);
  }
  return out;
}

UnitPairs ValueCounts::units(const std::deque<ValueCounts>& parts) {
  std::vector<Key> all;
  for (const ValueCounts& part : parts)
    all.insert(all.end(), part.units_.begin(), part.units_.end());
  std::sort(all.begin(), all.end());
  all.erase(std::unique(all.begin(), all.end()), all.end());
  UnitPairs out;
  for (const Key& key : all) {
    out.table.push_back(key.table);
    out.code.push_back(key.code);
    out.unit.push_back(key.other);
  }
  return out;
}

std::vector<std::int32_t> ValueCounts::drug_types(const std::deque<ValueCounts>& parts) {
  std::vector<std::int32_t> out;
  for (const ValueCounts& part : parts) {
    out.insert(out.end(), part.drug_types_.begin(), part.drug_types_.end());
  }
  std::sort(out.begin(), out.end());
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

}  // namespace chronoward
