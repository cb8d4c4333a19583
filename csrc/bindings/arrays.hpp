#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace chronoward::bindings {

namespace py = pybind11;

// The array types of the border, named once; `_core.pyi` uses the same dtypes. No forcecast: a
// wrong dtype is a TypeError, never a silent copy.
template <typename T>
using Array = py::array_t<T, py::array::c_style>;

using TokenIds = Array<std::int32_t>;        // (n_tokens,)
using TimesMin = Array<std::int32_t>;        // (n_tokens,) minutes since origin
using TimesUs = Array<std::int64_t>;         // (n_events,) microseconds since 1970
using SubjectOffsets = Array<std::int64_t>;  // (n_subjects + 1,)
using Floats = Array<float>;
using Bytes = Array<std::uint8_t>;
using PhiloxWords = Array<std::uint32_t>;  // (n, 4)

template <typename T>
std::span<const T> view(const Array<T>& array, const char* name) {
  if (array.ndim() != 1) {
    throw std::invalid_argument(std::string(name) + " must have one dimension, has " +
                                std::to_string(array.ndim()));
  }
  return {array.data(), static_cast<std::size_t>(array.size())};
}

template <typename T>
std::vector<T> copied(const Array<T>& array, const char* name) {
  const auto values = view(array, name);
  return {values.begin(), values.end()};
}

/// All elements of an array of any shape, to read.
template <typename T>
std::span<const T> flat(const Array<T>& array) {
  return {array.data(), static_cast<std::size_t>(array.size())};
}

/// All elements of an array of any shape, to write.
template <typename T>
std::span<T> target(Array<T>& array) {
  return {array.mutable_data(), static_cast<std::size_t>(array.size())};
}

/// Moves a vector's buffer into a NumPy array that owns it through a capsule.
template <typename T>
py::array_t<T> to_numpy(std::vector<T>&& values) {
  auto owner = std::make_unique<std::vector<T>>(std::move(values));
  T* data = owner->data();
  const auto size = static_cast<py::ssize_t>(owner->size());
  py::capsule capsule(owner.release(), [](void* p) { delete static_cast<std::vector<T>*>(p); });
  return py::array_t<T>(size, data, capsule);
}

}  // namespace chronoward::bindings
