#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "core/errors.hpp"

namespace chronoward::bindings {

inline void check_size(std::size_t size, std::size_t expected, const char* name) {
  if (size != expected) throw DataError(std::string(name) + " has the wrong length");
}

template <typename T>
void check_below(std::span<const T> indices, std::size_t limit, std::int64_t least,
                 const char* name) {
  for (const T index : indices) {
    const auto i = static_cast<std::int64_t>(index);
    if (i < least || i >= static_cast<std::int64_t>(limit)) {
      throw DataError(std::string(name) + " points outside its table");
    }
  }
}

}  // namespace chronoward::bindings
