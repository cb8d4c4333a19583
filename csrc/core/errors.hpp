#pragma once

#include <stdexcept>
#include <string>

namespace chronoward {

/// A fault in the data. Arrives in Python as chronoward.errors.DataError (a ValueError).
class DataError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A file or table that is corrupt or of another version. chronoward.errors.FormatError.
class FormatError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// NaN logits, an empty mask and the like. chronoward.errors.NumericError.
class NumericError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace chronoward
